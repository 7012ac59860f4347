"""`lepton sign`."""

import argparse
from pathlib import Path

from lepton.sw.commands import Subparsers
from lepton.sw.errors import UserError
from lepton.sw.files import atomic, check_output, read_file


def command(args: argparse.Namespace) -> int:
    """Sign a program file, or make a pair of keys."""
    from lepton.sw import integrity
    from lepton.sw.graph.model import MAX_FILE_BYTES
    from lepton.sw.program_file import MAGIC, parse_program

    if args.new_key:
        public = integrity.new_key(Path(args.new_key))
        print(f"{args.new_key}: private, keep it to yourself; {public}: for `--require-signature`")
        return 0
    if not args.file or not args.key:
        raise UserError("give FILE and --key KEY, or --new-key KEY")
    data = read_file(Path(args.file), MAX_FILE_BYTES, UserError)
    if not data.startswith(MAGIC):
        raise UserError(f"{args.file}: not a program file: `lepton compile` makes one")
    parse_program(data)
    output = args.output or args.file
    check_output(output)
    signed = integrity.sign(data, Path(args.key))
    with atomic(output) as temporary:
        temporary.write_bytes(signed)
    print(f"{output}: signed with {args.key}")
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "sign a program file (Ed25519), so that `--require-signature` lets it run"
    parser = commands.add_parser("sign", help=text, description=text)
    parser.add_argument("file", metavar="FILE", nargs="?", help="from `lepton compile`")
    parser.add_argument("--key", metavar="KEY", help="private key, PEM")
    parser.add_argument("-o", "--output", metavar="FILE", help="file to write (default: FILE itself)")
    parser.add_argument("--new-key", metavar="KEY", help="write a new private key, and KEY.pub")
    parser.set_defaults(handler=command)

"""`lepton profile`."""

import argparse
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config, add_memory, with_memory
from lepton.sw.errors import UserError
from lepton.sw.files import load_target


def command(args: argparse.Namespace) -> int:
    """Write the profile and print the files' names; returns 0."""
    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise UserError(f"{args.output}: is a file; give a folder")
    target, memory = with_memory(load_target(args.config), args)
    from lepton.sw.report.profile import profile

    for written in profile(args.model, args.output, target.config, target.mhz, memory):
        print(written)
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "write a trace, pictures and a page that show where the cycles go"
    parser = commands.add_parser("profile", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite, or a file from `lepton compile`")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write")
    add_config(parser)
    add_memory(parser)
    parser.set_defaults(handler=command)

"""`lepton audit`."""

import argparse
from pathlib import Path

from lepton.sw.commands import Subparsers


def command(args: argparse.Namespace) -> int:
    """Check that no line of a log is missing."""
    from lepton.sw.audit import check

    runs, last = check(Path(args.file))
    print(f"{args.file}: {runs} runs, none missing between them; the last line's SHA-256 is {last}")
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "check a log of `lepton run --audit`: no line missing or changed"
    parser = commands.add_parser("audit", help=text, description=text)
    parser.add_argument("file", metavar="FILE", help="the log")
    parser.set_defaults(handler=command)

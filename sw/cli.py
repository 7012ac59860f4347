"""The `lepton` command. Its commands are entry points of the group `lepton.commands`: this module knows none of them.

An entry point is a function that gets argparse's subparsers, adds its command and sets the default `handler`, a
function that gets the parsed arguments and returns the exit code. What it imports is imported for `--help`, too, so the
modules of commands import the work when it begins. Every user error (`LeptonError`, `OSError`) is one line on stderr,
`lepton: error: …`, and exit code 2.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points, version
from typing import NoReturn

from lepton.sw.errors import LeptonError, UserError

GROUP = "lepton.commands"


class Parser(argparse.ArgumentParser):
    """Reports its errors like all others, in one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def build_parser() -> Parser:
    """The parser of all commands that are installed. Raises UserError when there are none."""
    parser = Parser(
        prog="lepton",
        description="Run, compile and simulate int8 neural networks on the Lepton accelerator.",
        epilog="Configurations: tiny (4x4), small (8x8), large (16x16), flagship (18x16, paired), or a .json file.",
    )
    parser.add_argument("--version", action="version", version=f"lepton {version('lepton-npu')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    if not found:
        raise UserError("no commands are installed: install lepton-npu again (in a checkout: make setup)")
    for point in found:
        point.load()(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 good, 1 wrong result, 2 user error, 130 interrupted."""
    try:
        args = build_parser().parse_args(argv)
        return args.handler(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("lepton: interrupted", file=sys.stderr)
        return 130
    except (LeptonError, OSError) as e:
        print("lepton: error:", " ".join(str(e).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

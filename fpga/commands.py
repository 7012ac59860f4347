"""`lepton fpga`: imported for `lepton --help`, so its handlers import the work."""

import argparse
from pathlib import Path

from lepton.sw.commands import Subparsers
from lepton.sw.errors import need

BUILDS = Path("build/fpga")


def command_build(args: argparse.Namespace) -> int:
    """Build a board's bitstream."""
    need("fpga", "amaranth", "amaranth_boards")
    from lepton.fpga.boards import get_board
    from lepton.fpga.build import build

    board = get_board(args.board)
    result = build(board, BUILDS / board.name, args.synth_only, args.slack)
    if args.synth_only:
        print(f"{board.name}: " + ", ".join(f"{k} {n:,}" for k, n in result["area"].items()))
        return 0
    used = ", ".join(f"{k} {u:,}/{n:,}" for k, (u, n) in result["used"].items())
    print(f"{board.name}: {result['mhz']} MHz (asked {result['asked']:g}), {used}, {result['seconds']} s")
    if result["bitstream"]:
        print(result["bitstream"])
    return 0


def command_program(args: argparse.Namespace) -> int:
    """Carry a board's bitstream to it."""
    need("fpga", "amaranth", "amaranth_boards")
    from lepton.fpga.boards import get_board
    from lepton.fpga.program import ProgramError, program

    board = get_board(args.board)
    if not board.bitstream:
        raise ProgramError(f"{board.name}: this board is for place and route only, it has no bitstream")
    if not board.loader:
        raise ProgramError(f"{board.name}: openFPGALoader does not know this board")
    print(f"{program(board.name, board.loader, BUILDS / board.name, args.flash)}: in {board.title}")
    return 0


def command_report(args: argparse.Namespace) -> int:
    """Write docs/fpga.md."""
    need("fpga", "amaranth", "amaranth_boards")
    from lepton.fpga.report import write_page

    print(write_page())
    return 0


def add_parser(commands: Subparsers) -> None:
    fpga = commands.add_parser("fpga", help="bitstreams for boards")
    actions = fpga.add_subparsers(dest="action", required=True, metavar="ACTION")

    make = actions.add_parser("build", help="build a board's bitstream with the open tools")
    make.add_argument("board", metavar="BOARD", help="one of `fpga/boards`, with dashes")
    make.add_argument("--synth-only", action="store_true", help="stop after synthesis and check the area")
    make.add_argument(
        "--slack", type=float, default=0, metavar="PERCENT", help="take a clock missed by this much (default: 0)"
    )
    make.set_defaults(handler=command_build)

    report = actions.add_parser("report", help="write docs/fpga.md from the results in build/fpga")
    report.set_defaults(handler=command_report)

    carry = actions.add_parser("program", help="carry a board's bitstream to it, over USB")
    carry.add_argument("board", metavar="BOARD")
    carry.add_argument("--flash", action="store_true", help="into the flash memory, to stay there without power")
    carry.set_defaults(handler=command_program)

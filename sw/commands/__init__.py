"""The commands of the command line, a module each, and the arguments they share.

These modules are imported for `lepton --help`: they import the work, and NumPy, in their handlers.
"""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from lepton.sw import BACKENDS, SERIAL
from lepton.sw.files import check_model, check_output, load_config
from lepton.sw.report import SCALES

if TYPE_CHECKING:
    from pathlib import Path

    from lepton.sw.session import Session

Subparsers = argparse._SubParsersAction  # what `ArgumentParser.add_subparsers` returns has no public name


def backend_name(text: str) -> str:
    """A backend of the command line."""
    if text in BACKENDS or text.startswith(SERIAL) and text != SERIAL:
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(BACKENDS)}, {SERIAL}PORT")


def add_config(command: argparse.ArgumentParser) -> None:
    """`--config`, for commands that do not run on a board."""
    command.add_argument(
        "--config", default="small", metavar="NAME", help="preset, board or .json file (default: %(default)s)"
    )


def add_backend(command: argparse.ArgumentParser, default: str) -> None:
    """`--backend`, `--baud` and `--config`; `open_session` reads them."""
    command.add_argument(
        "--backend",
        type=backend_name,
        default=default,
        metavar="NAME",
        help="golden: NumPy, operator by operator; iss: the compiled program in NumPy; rtl: the hardware under "
        "Verilator; serial:PORT: a board (default: %(default)s)",
    )
    command.add_argument("--baud", type=int, metavar="N", help="of the serial port (default: 1,000,000)")
    command.add_argument("--config", metavar="NAME", help="configuration (default: small; a board tells its own)")
    command.add_argument(
        "--waves", metavar="FILE.fst", help="waveforms of the inferences, a cycle 10 ns (rtl only; or FILE.vcd)"
    )


def add_scaling(command: argparse._ActionsContainer, auto: str) -> None:
    """`--scale` and `--resize` of pictures and samples; `auto`: what the former is unless told."""
    command.add_argument(
        "--scale",
        choices=SCALES,
        default="auto",
        help=f"unit: bytes / 255; signed: bytes / 127.5 - 1 (default: {auto})",
    )
    command.add_argument(
        "--resize",
        choices=("bilinear", "nearest", "crop"),
        default="bilinear",
        help="of pictures; crop keeps the proportions (default: %(default)s)",
    )


def progress(words: str = "") -> Callable[[int, int], None] | None:
    """What counts (done, total) on a terminal, behind these words; None where nobody looks on."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done % max(total // 100, 1) == 0 or done == total:
            print(f"\r{words}{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def open_session(model: "str | Path", args: argparse.Namespace) -> "Session":
    """A Session, or UserError when the model's file is not there."""
    check_model(model)
    config = load_config(args.config) if args.config else None
    from lepton.sw.session import Session

    waves = check_output(args.waves) if args.waves else None
    return Session(model, config=config, backend=args.backend, baud=args.baud, waves=waves)

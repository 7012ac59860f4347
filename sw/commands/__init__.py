"""The commands of the command line, a module each, and the arguments they share.

These modules are imported for `lepton --help`: they import the work, and NumPy, in their handlers.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from lepton.sw import BACKENDS, SERIAL
from lepton.sw.errors import UserError
from lepton.sw.files import check_model, check_output, load_config, load_target
from lepton.sw.report import SCALES

if TYPE_CHECKING:
    from pathlib import Path

    from lepton.rtl.spec.timing import Memory
    from lepton.sw.session import Session
    from lepton.sw.targets import Target

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


def add_memory(command: argparse.ArgumentParser) -> None:
    """`--memory`; `with_memory` reads it."""
    command.add_argument(
        "--memory",
        type=memory_options,
        metavar="width=W,latency=L",
        help="behind the memory port: bytes a beat (1, 2, 4, 8, 16), cycles to the first beat, and interval=I from "
        "beat to beat (default: the configuration's width, latency=30, interval=1)",
    )


def memory_options(text: str) -> dict[str, int]:
    """What `--memory` says."""
    out: dict[str, int] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        most = {"width": 16, "latency": 10_000, "interval": 1000}.get(name)
        if most is None:
            raise argparse.ArgumentTypeError(f"{part!r} is none of width=W, latency=L, interval=I")
        if name in out or not (value.isascii() and value.isdigit() and 1 <= int(value) <= most):
            raise argparse.ArgumentTypeError(f"{part!r}: one number from 1 to {most}")
        out[name] = int(value)
    return out


def with_memory(target: "Target", args: argparse.Namespace) -> "tuple[Target, Memory]":
    """The machine with the memory that was asked for. Raises ConfigError, UserError."""
    from lepton.rtl.spec.timing import Memory

    asked = dict(args.memory or {})
    width = asked.pop("width", target.config.memory_width)
    if args.memory and not target.config.memory_width:
        raise UserError(f"--memory: configuration {target.config.name!r} has no memory port")
    if width != target.config.memory_width:
        target = replace(target, config=replace(target.config, memory_width=width))
    return target, Memory(**asked)


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
    add_memory(command)
    command.add_argument(
        "--require-signature", metavar="KEY", help="run only a file from `lepton sign`, by the owner of this public key"
    )
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
    waves = check_output(args.waves) if args.waves else None
    config, options = load_config(args.config) if args.config else None, {}
    if args.memory:
        target, options["memory"] = with_memory(load_target(args.config or "small"), args)
        config = target.config
    from lepton.sw.session import Session

    return Session(
        model,
        config=config,
        backend=args.backend,
        baud=args.baud,
        waves=waves,
        require_signature=args.require_signature,
        **options,
    )

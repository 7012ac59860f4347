"""`lepton verilog`."""

import argparse
import os
import re
import tempfile
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import UserError, need
from lepton.sw.files import check_output, load_target

BESIDE = (".json", ".vlt", ".h", ".rdl", ".xml", ".core", ".veo")


def command(args: argparse.Namespace) -> int:
    """Write the Verilog and its description."""
    path = check_output(args.output)
    if path.suffix in BESIDE:
        raise UserError(f"{args.output}: {', '.join(BESIDE)} are the endings of the files beside it; give another one")
    if not re.fullmatch(r"[A-Za-z_]\w*", args.prefix):
        raise UserError(f"--prefix {args.prefix!r}: must be a Verilog identifier, letters, digits and _")
    target = load_target(args.config)
    need("rtl", "amaranth")
    from lepton.rtl.verilog import write_verilog

    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".lepton-") as folder:
        file = Path(folder) / path.name
        for written in write_verilog(target.config, file, args.prefix, target.link_timeout, args.bus):
            os.replace(written, path.with_name(Path(written).name))
            print(path.with_name(Path(written).name))
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "write the accelerator as plain Verilog and its description as JSON"
    parser = commands.add_parser("verilog", help=text, description=text)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="Verilog to write; beside it .json (ports, registers, memories) and .vlt (for verilator --lint-only)",
    )
    parser.add_argument(
        "--bus",
        choices=("stream", "axi", "wishbone"),
        default="stream",
        help="what the host sees: the framed link's byte streams, or registers and a memory port on that bus, with .h, "
        ".rdl, .xml (IP-XACT), .core (FuseSoC), .veo (an instance) and a testbench beside the Verilog "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--prefix", default="lepton_", metavar="P", help="before the names of all modules (default: %(default)s)"
    )
    add_config(parser)
    parser.set_defaults(handler=command)

"""`lepton verilog`."""

import argparse
import os
import re
import tempfile
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import UserError, need
from lepton.sw.files import check_output, load_target


def command(args: argparse.Namespace) -> int:
    """Write the Verilog and its description."""
    path = check_output(args.output)
    if path.suffix in (".json", ".vlt"):
        raise UserError(
            f"{args.output}: the .json and .vlt names are the description's and the lint waivers'; give another ending"
        )
    if not re.fullmatch(r"[A-Za-z_]\w*", args.prefix):
        raise UserError(f"--prefix {args.prefix!r}: must be a Verilog identifier, letters, digits and _")
    target = load_target(args.config)
    need("rtl", "amaranth")
    from lepton.rtl.verilog import write_verilog

    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".lepton-") as folder:
        for written in write_verilog(target.config, Path(folder) / path.name, args.prefix, target.link_timeout):
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
        "--prefix", default="lepton_", metavar="P", help="before the names of all modules (default: %(default)s)"
    )
    add_config(parser)
    parser.set_defaults(handler=command)

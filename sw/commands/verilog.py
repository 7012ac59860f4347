"""`lepton verilog`."""

import argparse
import os
import tempfile
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import UserError, need
from lepton.sw.files import check_output, load_config


def command(args: argparse.Namespace) -> int:
    """Write the Verilog and its description."""
    path = check_output(args.output)
    if path.suffix == ".json":
        raise UserError(f"{args.output}: the description takes the .json name; give the Verilog another ending")
    config = load_config(args.config)
    need("rtl", "amaranth")
    from lepton.rtl.verilog import write_verilog

    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".lepton-") as folder:
        for written in write_verilog(config, Path(folder) / path.name):
            os.replace(written, path.with_name(Path(written).name))
            print(path.with_name(Path(written).name))
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "write the accelerator as plain Verilog and its description as JSON"
    parser = commands.add_parser("verilog", help=text, description=text)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="Verilog to write; FILE's .json beside it"
    )
    add_config(parser)
    parser.set_defaults(handler=command)

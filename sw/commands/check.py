"""`lepton check`."""

import argparse
import json
import math
import sys

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import UserError
from lepton.sw.files import load_config


def command(args: argparse.Namespace) -> int:
    """Print the report; returns 0, or raises ModelError or CompileError after it when the model does not run."""
    if not args.clock > 0 or not math.isfinite(args.clock):
        raise UserError(f"--clock {args.clock}: must be a positive number of MHz")
    from lepton.sw.compiler import CompileError
    from lepton.sw.graph.model import ModelError
    from lepton.sw.report.check import check_file, show

    report = check_file(args.model, load_config(args.config), args.clock)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    if not report["supported"]:
        sys.stdout.flush()
        raise (CompileError if report["macs"] is not None else ModelError)(report["reason"])
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "say whether a model runs, where each operator runs, and how long it takes"
    parser = commands.add_parser("check", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite")
    add_config(parser)
    parser.add_argument(
        "--clock", type=float, default=50.0, metavar="MHZ", help="clock for the time (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.set_defaults(handler=command)

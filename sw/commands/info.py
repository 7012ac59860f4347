"""`lepton info`."""

import argparse
import json

from lepton.sw.commands import Subparsers


def command(args: argparse.Namespace) -> int:
    """Tell what a model takes and gives."""
    from lepton.sw.report.info import describe, show
    from lepton.sw.session import Session

    session = Session(args.model, backend="golden")
    told = describe(session.model, (session.inputs, session.outputs))
    if session.made:
        told["made"] = session.made
    if args.json:
        print(json.dumps(told, indent=1))
    else:
        show(told)
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "tell a model's inputs, outputs, quantization, operators and state"
    parser = commands.add_parser("info", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help=".tflite, or a file from `lepton compile`")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(handler=command)

"""`lepton check`."""

import argparse
import json
import math
import sys
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config
from lepton.sw.errors import LeptonError, UserError
from lepton.sw.files import atomic, check_model, check_output, load_target


def command(args: argparse.Namespace) -> int:
    """Print the report; returns 0, or raises ModelError or CompileError after it when the model does not run."""
    if args.clock is not None and not (args.clock > 0 and math.isfinite(args.clock)):
        raise UserError(f"--clock {args.clock}: must be a positive number of MHz")
    if args.all and args.node_data:
        raise UserError("--node-data is of one configuration: leave --all out")
    if args.node_data:
        check_output(args.node_data)
    try:
        return _all(args) if args.all else _one(args)
    except (LeptonError, OSError) as error:
        if args.json and not getattr(error, "reported", False):
            from lepton.rtl.spec.config import NpuConfig
            from lepton.sw.report.check import refusal

            reason = " ".join(str(error).split())
            print(json.dumps(refusal(args.model, NpuConfig(args.config), args.clock or 0.0, reason), indent=2))
            sys.stdout.flush()
        raise


def _one(args: argparse.Namespace) -> int:
    check_model(args.model)
    target = load_target(args.config)
    from lepton.sw.compiler import CompileError
    from lepton.sw.graph.model import ModelError
    from lepton.sw.report import check, node_data

    report = check.check_file(args.model, target.config, args.clock or target.mhz)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        check.show(report)
    if args.node_data:
        for path, text in node_data.files(report, Path(args.node_data)).items():
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(path, file=sys.stderr if args.json else sys.stdout)
    if not report["supported"]:
        sys.stdout.flush()
        out = f": {report['way_out']}" if report["way_out"] else ""
        error = (CompileError if report["macs"] is not None else ModelError)(f"{report['reason']}{out}")
        error.reported = True  # type: ignore[union-attr]
        raise error
    return 0


def _all(args: argparse.Namespace) -> int:
    check_model(args.model)
    from lepton.sw.compiler import CompileError
    from lepton.sw.graph.reader import load_model
    from lepton.sw.report import check
    from lepton.sw.targets import all_targets

    targets, model = all_targets(), load_model(args.model)
    reports = check.check_all(model, targets, args.clock)
    if args.json:
        print(json.dumps(reports, indent=2))
    else:
        check.show_all(reports, targets)
    if not any(report["supported"] for report in reports):
        sys.stdout.flush()
        error = CompileError(f"{model.name}: fits none of {', '.join(target.name for target in targets)}")
        error.reported = True  # type: ignore[attr-defined]
        raise error
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "say whether a model runs, where each operator runs, and how long it takes"
    parser = commands.add_parser("check", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite")
    add_config(parser)
    parser.add_argument("--all", action="store_true", help="a table of all presets and boards, each at its own clock")
    parser.add_argument(
        "--clock", type=float, metavar="MHZ", help="clock for the time (default: the board's; 50 for a preset)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table, refusals too")
    parser.add_argument(
        "--node-data",
        metavar="FILE",
        help="write cycles (FILE.json) and place (FILE.place.json) of each operator for ai-edge-model-explorer",
    )
    parser.set_defaults(handler=command)

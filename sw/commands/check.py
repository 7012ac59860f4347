"""`lepton check`."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.sw.commands import Subparsers, add_config, add_memory, progress, with_memory
from lepton.sw.errors import LeptonError, UserError
from lepton.sw.files import atomic, check_model, check_output, load_target

if TYPE_CHECKING:
    from lepton.sw.targets import Target


def command(args: argparse.Namespace) -> int:
    """Print the report; returns 0, or raises ModelError or CompileError behind it when the model does not run."""
    if args.clock is not None and not (args.clock > 0 and math.isfinite(args.clock)):
        raise UserError(f"--clock {args.clock}: must be a positive number of MHz")
    if args.all and args.node_data:
        raise UserError("--node-data is of one configuration: leave --all out")
    if args.node_data:
        check_output(args.node_data)
    try:
        targets, reports = _reports(args)
    except (LeptonError, OSError) as error:
        if args.json:
            from lepton.sw.report.check import refusal

            print(json.dumps(refusal(args.model, args.config, " ".join(str(error).split())), indent=2), flush=True)
        raise
    from lepton.sw.report import check, node_data

    report = reports[0]
    if args.min_memory and report["supported"]:
        report["min_memory"] = _min_memory(args)
    if args.json:
        print(json.dumps(reports if args.all else report, indent=2))
    elif args.all:
        check.show_all(reports, targets)
    else:
        check.show(report)
    if args.node_data:
        for path, text in node_data.files(report, Path(args.node_data)).items():
            with atomic(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            print(path, file=sys.stderr if args.json else sys.stdout)
    if any(r["supported"] for r in reports):
        return 0
    sys.stdout.flush()
    from lepton.sw.compiler import CompileError
    from lepton.sw.graph.model import ModelError

    if args.all:
        raise CompileError(f"{args.model}: fits none of {', '.join(target.name for target in targets)}")
    way_out = f"; {report['way_out']}" if report["way_out"] else ""
    raise (CompileError if report["macs"] is not None else ModelError)(f"{report['reason']}{way_out}")


def _min_memory(args: argparse.Namespace) -> int:
    from lepton.sw.compiler.streaming import min_memory
    from lepton.sw.graph.reader import load_model

    return min_memory(load_model(args.model), load_target(args.config).config, progress("sizes tried: "))


def _reports(args: argparse.Namespace) -> "tuple[list[Target], list[dict]]":
    """The machines that were asked for, and the report on each."""
    check_model(args.model)
    if not args.all:
        target, memory = with_memory(load_target(args.config), args)
        if args.min_memory and not target.config.memory_width:
            raise UserError(f"--min-memory: configuration {target.config.name!r} has no memory port")
        from lepton.sw.report.check import check_file

        return [target], [check_file(args.model, target.config, args.clock or target.mhz, memory)]
    from lepton.sw.graph.reader import load_model
    from lepton.sw.report.check import check_all
    from lepton.sw.targets import all_targets

    if args.memory or args.min_memory:
        raise UserError("--memory and --min-memory are of one configuration: leave --all out")
    targets = all_targets()
    return targets, check_all(load_model(args.model), targets, args.clock)


def add_parser(commands: Subparsers) -> None:
    text = "say whether a model runs, where each operator runs, and how long it takes"
    parser = commands.add_parser("check", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite")
    add_config(parser)
    add_memory(parser)
    parser.add_argument(
        "--min-memory",
        action="store_true",
        help="find the smallest activation memory (bytes) with which it compiles, with all else as it is",
    )
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

"""`lepton bench`."""

import argparse
import json
import sys
from pathlib import Path

from lepton.sw.commands import Subparsers, add_config, add_memory, with_memory
from lepton.sw.errors import UserError
from lepton.sw.files import atomic, check_output, load_target


def command(args: argparse.Namespace) -> int:
    """Bench one model, or with --all the reference models; returns 0."""
    if args.all and args.model is not None:
        raise UserError("--all takes the reference models; leave MODEL out")
    if not args.all and args.model is None:
        raise UserError("give a MODEL, or --all")
    if args.all and args.memory:
        raise UserError("--memory is of one configuration: leave --all out")
    from lepton.rtl.spec.config import PRESETS
    from lepton.sw.report.bench import bench, performance_page, shared_models, show

    if not args.all:
        target, memory = with_memory(load_target(args.config), args)
        report = bench(args.model, target.config, args.backend, memory)
        print(json.dumps(report, indent=2)) if args.json else show(report)
        return 0
    check_output(args.output)
    reports = []
    for config in PRESETS.values():
        for path in shared_models():
            r = bench(path, config, args.backend)
            reports.append(r)
            cycles = f"{r['cycles']:,} cycles, {r['utilization']:.1%}"
            print(f"{r['model']} {r['config']}: {cycles}", file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps(reports, indent=2))
    old = Path(args.output).read_text(encoding="utf-8") if Path(args.output).is_file() else ""
    _, mark, other = old.partition("\n<!--")  # tables of other commands stand behind
    with atomic(args.output) as temporary:
        temporary.write_text(performance_page(reports, "make bench") + mark + other, encoding="utf-8")
    print(args.output, file=sys.stderr)
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "measure a model on the RTL: cycles, utilisation and causes, per layer, beside the prediction"
    parser = commands.add_parser("bench", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="int8 .tflite, or a file from `lepton compile`")
    add_config(parser)
    add_memory(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--backend", choices=("rtl", "iss"), default="rtl", help="iss: cycles of the cycle model (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="the reference models at all presets, into a page")
    parser.add_argument(
        "-o", "--output", default="docs/performance.md", metavar="FILE", help="the page of --all (default: %(default)s)"
    )
    parser.set_defaults(handler=command)

"""`lepton evaluate`."""

import argparse
import json
from contextlib import closing

from lepton.sw.commands import Subparsers, add_backend, add_scaling, open_session, progress
from lepton.sw.errors import UserError, need
from lepton.sw.files import atomic, check_output
from lepton.sw.report import TASKS


def command(args: argparse.Namespace) -> int:
    """Score a model on labelled data."""
    from lepton.sw.report.evaluate import draw, ends, evaluate, load_samples, show

    if args.count is not None and args.count < 1:
        raise UserError(f"--count {args.count}: must be at least 1")
    for name in (args.picture, args.json if args.json != "-" else None):
        if name:
            check_output(name)
    if args.picture:
        need("report", "matplotlib")
    with closing(open_session(args.model, args)) as session:
        given, _ = ends(session.model)
        samples = load_samples(args.data, given.row, args.scale, args.resize, args.count)
        report = evaluate(session, samples, args.task, args.float_model, progress())
    if args.json == "-":
        print(json.dumps(report, indent=2))
    else:
        show(report)
    if args.json and args.json != "-":
        with atomic(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
    if args.picture:
        with atomic(args.picture) as temporary:
            draw(report, temporary)
        if args.json != "-":
            print(f"picture: {args.picture}")
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "accuracy, precision, recall, F1 and confusion matrix of a model on labelled data"
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite, or a file from `lepton compile`")
    parser.add_argument(
        "data", metavar="DATA", help=".npz with x and y, a folder with a folder of pictures a class, .csv or .parquet"
    )
    parser.add_argument("--float-model", metavar="SOURCE", help="the float model beside it: .onnx, .tflite, …")
    parser.add_argument("--task", choices=TASKS, default="auto", help="what the outputs are (default: %(default)s)")
    add_scaling(parser, "auto")
    parser.add_argument("--count", type=int, metavar="N", help="the first N samples (of folders: spread evenly)")
    parser.add_argument("--json", metavar="FILE", help="report to write; - prints it in place of the text")
    parser.add_argument("--picture", metavar="FILE", help="confusion matrix to write as .png")
    add_backend(parser, "golden")
    parser.set_defaults(handler=command)

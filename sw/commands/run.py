"""`lepton run`."""

import argparse
from contextlib import closing

from lepton.sw.commands import Subparsers, add_backend, open_session
from lepton.sw.files import atomic, check_input, check_output, load_inputs


def command(args: argparse.Namespace) -> int:
    """Run the inputs of a file, write the outputs."""
    import numpy as np

    check_output(args.output)
    x, _ = load_inputs(args.input)
    with closing(open_session(args.model, args)) as session:
        check_input(x, session.input_shape[1:], args.input)
        y = session.run(x)
    cycles = (session.report or {}).get("cycles")
    with atomic(args.output) as temporary, open(temporary, "wb") as file:
        np.save(file, y)
    extra = f", {cycles:,} cycles each" if cycles else ""
    print(f"{args.output}: {' x '.join(map(str, y.shape))} int8 from {args.backend}{extra}")
    return 0


def add_parser(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "run",
        help="run a model on inputs from a file",
        description="Run an int8 model; all backends give the same bytes.",
    )
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite, or a file from `lepton compile`")
    parser.add_argument(
        "--input", required=True, metavar="X.npy", help="int8 inputs (N, ...); .npz: the array x or input"
    )
    parser.add_argument("--output", required=True, metavar="Y.npy", help="int8 outputs (N, ...) to write")
    add_backend(parser, "golden")
    parser.set_defaults(handler=command)

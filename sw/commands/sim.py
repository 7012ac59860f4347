"""`lepton sim`."""

import argparse
from contextlib import closing
from pathlib import Path

from lepton.sw import SERIAL
from lepton.sw.commands import Subparsers, add_backend, open_session
from lepton.sw.errors import UserError, need
from lepton.sw.files import DIGITS, atomic, check_input, check_output, find_answers, load_inputs, load_target


def command(args: argparse.Namespace) -> int:
    """Run and report; returns 1 when outputs are not the expected ones."""
    if args.count is not None and args.count < 1:
        raise UserError(f"--count {args.count}: must be at least 1")
    model = Path(args.model or DIGITS)
    default_count = 4 if args.model else 100
    beside = model.with_suffix(".npz")
    source = args.input or (beside if beside.is_file() else None)
    inputs = load_inputs(source) if source else None
    if args.picture == "build/sim.png":
        Path("build").mkdir(exist_ok=True)
    check_output(args.picture)
    need("report", "matplotlib")
    session = open_session(model, args)
    mhz = None if args.backend.startswith(SERIAL) and not args.config else load_target(args.config or "small").mhz
    from lepton.sw.report import sim

    if [end.dtype.name for end in session.inputs] != ["int8"] or len(session.outputs) != 1:
        raise UserError(f"{model}: sim shows models with one int8 input and one output; use `lepton run`")
    shape = session.inputs[0].row
    if inputs is None:
        import numpy as np

        inputs = np.random.default_rng(1).integers(-128, 128, (default_count, *shape), np.int8), {}
    x, arrays = inputs
    check_input(x, shape, source or "random input")
    n = min(args.count or default_count, len(x))
    labels, expected = (a[:n] if a is not None and len(a) == len(x) else None for a in find_answers(arrays))
    with closing(session):
        result = sim.run(session, x[:n], labels, expected, mhz)
    sim.show(result, f"{model.name}, {source or 'random bytes'}")
    with atomic(args.picture) as temporary:
        sim.draw(result, temporary, model.name)
    print(f"picture: {args.picture}")
    return 1 if result.equal is False else 0


def add_parser(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "sim",
        help="classify images on the simulated hardware and explain the cycles",
        description="Run a model on the hardware; report outputs, cycles and where they went. "
        "Without MODEL: handwritten digits.",
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="int8 .tflite or compiled file (default: the shipped digits network)"
    )
    parser.add_argument(
        "--input",
        metavar="FILE",
        help="int8 .npy (N, ...), or .npz with x or input, and maybe y (labels), tflm or output (expected bytes); "
        "default: the .npz beside the model, or else random bytes",
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="inputs to run (default: 100 digits, 4 of another model)"
    )
    parser.add_argument(
        "--picture",
        default="build/sim.png",
        metavar="FILE",
        help="picture to write, .png or .svg (default: %(default)s)",
    )
    add_backend(parser, "rtl")
    parser.set_defaults(handler=command)

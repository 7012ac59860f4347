"""`lepton compare`."""

import argparse
from contextlib import closing

from lepton.sw.commands import Subparsers, add_backend, backend_name, open_session
from lepton.sw.commands.run import choose_inputs
from lepton.sw.errors import UserError


def command(args: argparse.Namespace) -> int:
    """Tell the first difference of two backends; returns 1 when there is one."""
    if args.count < 1:
        raise UserError(f"--count {args.count}: must be at least 1")
    if args.backend == args.against:
        raise UserError(f"--backend and --against are both {args.backend}")
    import numpy as np

    from lepton.sw.arrays import read_arrays
    from lepton.sw.report.compare import compare

    arrays = read_arrays(args.input) if args.input else None
    other = argparse.Namespace(**{**vars(args), "backend": args.against, "waves": None})
    with closing(open_session(args.model, args)) as found, closing(open_session(args.model, other)) as expected:
        if arrays is None:
            rng = np.random.default_rng(args.seed)
            given = [rng.integers(-128, 128, (args.count, *end.row)).astype(end.dtype) for end in found.inputs]
        else:
            given = found.arrange(choose_inputs(arrays, found.inputs, args.input))
        given = [a[: args.count] for a in given]
        operators = {op.index: op for op in found.model.operators}
        for row, result in enumerate(compare(found, expected, given)):
            if not isinstance(result, int):
                ops = "+".join(operators[i].op for i in result.seen.operators)
                first = result.seen.operators[0]
                print("\n".join(result.lines(args.backend, args.against, f"operator {first} ({ops})")))
                return 1
            print(f"input {row}: {args.backend} and {args.against} are equal in all {result} tensors")
    return 0


def add_parser(commands: Subparsers) -> None:
    text = "name the first tensor, value and cycle in which two backends differ"
    parser = commands.add_parser("compare", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite, or a file from `lepton compile`")
    parser.add_argument("--input", metavar="X", help=".npy or .npz as for `lepton run` (default: random bytes)")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="inputs to compare (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of random bytes (default: %(default)s)")
    parser.add_argument(
        "--against",
        type=backend_name,
        default="golden",
        metavar="NAME",
        help="the backend that is right (default: %(default)s)",
    )
    add_backend(parser, "rtl")
    parser.set_defaults(handler=command)

"""`lepton run`."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.sw.commands import Subparsers, add_backend, add_scaling, open_session
from lepton.sw.errors import LeptonError, UserError
from lepton.sw.files import INPUT_KEYS, atomic, check_output, pick, same_file
from lepton.sw.report import takes

if TYPE_CHECKING:
    import numpy as np

    from lepton.sw.session import End, Session


def choose_inputs(arrays: "Mapping[str, np.ndarray]", ends: "Sequence[End]", name: str) -> "dict[str, np.ndarray]":
    """Those of the arrays of file `name` that are a model's inputs. Raises UserError."""
    known = {
        key: a for key, a in arrays.items() if key in {f"input{k}" for k in range(len(ends))} | {e.name for e in ends}
    }
    if len(ends) == 1 and not known:
        x = pick(arrays, INPUT_KEYS)
        if x is not None:
            return {"input0": x}
    if not known and ends:
        names = ", ".join(f"input{k} or {end.name}" for k, end in enumerate(ends))
        names += " or x or input" if len(ends) == 1 else ""
        raise UserError(f"{name}: holds {', '.join(arrays) or 'nothing'}; the model's inputs are {names}")
    return known


def save(name: str, arrays: "Sequence[np.ndarray]", names: Sequence[str], archive: bool) -> None:
    """Write one array as .npy, or all as .npz: as output0, … and by name where no other has it."""
    import io
    import zipfile

    import numpy as np

    with atomic(name) as temporary:
        if not archive:
            with open(temporary, "wb") as plain:
                np.save(plain, arrays[0])
            return
        keys = {f"output{k}": y for k, y in enumerate(arrays)}
        keys |= {n: y for n, y in zip(names, arrays) if n and names.count(n) == 1 and n not in keys}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
            for key, y in keys.items():
                data = io.BytesIO()
                np.save(data, y)
                file.writestr(zipfile.ZipInfo(f"{key}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED)


def log(args: argparse.Namespace, session: "Session", inputs, outputs, status: str) -> None:
    """A line for `--audit`."""
    if not args.audit:
        return
    from lepton.sw import audit, integrity

    entry = {
        "model": session.model.name,
        "image": session.made.get("manifest") or integrity.sha256(Path(args.model).read_bytes()),
        "backend": args.backend,
        "input": audit.digest(inputs),
        "output": None if outputs is None else audit.digest(outputs),
        "cycles": (session.report or {}).get("cycles"),
        "status": status,
    }
    audit.append(Path(args.audit), entry)


def command(args: argparse.Namespace) -> int:
    """Run the inputs of a file, write the outputs."""
    if args.audit:
        if not args.output:
            raise UserError("--audit tells of runs with --output")
        check_output(args.audit)
    if takes(args.input) and not args.output:
        from lepton.sw.report.classify import classify

        return classify(args, lambda: open_session(args.model, args))
    if not args.output:
        raise UserError("--output is missing: a file to write (only pictures and .wav are classified without)")
    from lepton.sw.arrays import read_arrays

    check_output(args.output)
    for name in (args.input, args.model):
        if same_file(name, args.output):
            raise UserError(f"--output {args.output}: would be written over {name}; give another name")
    given = read_arrays(args.input)
    with closing(open_session(args.model, args)) as session:
        ends = session.inputs
        inputs = choose_inputs(given, ends, args.input)
        if args.float:
            inputs = {
                key: end.quantize(inputs[key])
                for k, end in enumerate(ends)
                for key in (f"input{k}", end.name)
                if key in inputs
            }
        try:
            arrays = session.arrange(inputs)
        except ValueError as e:
            raise UserError(f"{args.input}: {e}") from None
        archive = Path(args.output).suffix == ".npz"
        outputs = session.outputs
        if len(outputs) > 1 and not archive:
            raise UserError(
                f"--output {args.output}: the model has {len(outputs)} outputs; give a name that ends in .npz"
            )
        if arrays and not len(arrays[0]):
            raise UserError(f"{args.input}: shape is {arrays[0].shape}; the model takes {ends[0]} with N at least 1")
        try:
            found = session.run(arrays, reset=args.reset)
        except LeptonError as error:
            log(args, session, arrays, None, str(error))
            raise
    made = list(found.values()) if isinstance(found, dict) else [found]
    log(args, session, arrays, made, "ok")
    if args.float:
        made = [end.dequantize(y) for end, y in zip(outputs, made)]
    save(args.output, made, [end.name for end in outputs], archive)
    cycles = (session.report or {}).get("cycles")
    extra = f", {cycles:,} cycles each" if cycles else ""
    shapes = ", ".join(f"{' x '.join(map(str, y.shape))} {y.dtype}" for y in made)
    print(f"{args.output}: {shapes} from {args.backend}{extra}")
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options for pictures and sounds."""
    group = parser.add_argument_group("pictures and sounds (without --output)")
    group.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    group.add_argument("--top", type=int, default=3, metavar="K", help="best classes to print (default: %(default)s)")
    add_scaling(group, "unit")
    group.add_argument("--rate", type=int, metavar="HZ", help="of the model's samples (default: the file's)")


def add_parser(commands: Subparsers) -> None:
    parser = commands.add_parser(
        "run", help="run a model on inputs from a file", description="Run a model; all backends give the same bytes."
    )
    parser.add_argument("model", metavar="MODEL", help=".tflite, or a file from `lepton compile`")
    parser.add_argument(
        "--input",
        required=True,
        metavar="X",
        help="inputs (N, ...) in the model's types: .npy for one input; .npz by the tensors' names or input0, input1, "
        "…; x or input for one; a picture, a .wav or a folder of them to classify",
    )
    parser.add_argument(
        "--output",
        metavar="Y",
        help="outputs to write: .npy of one; .npz as output0, output1, … and by the tensors' names",
    )
    parser.add_argument(
        "--float", action="store_true", help="real numbers in and out: quantize and dequantize at the ends"
    )
    parser.add_argument(
        "--audit", metavar="FILE", help="add a line on this run to a log that shows what is missing (`lepton audit`)"
    )
    parser.add_argument("--reset", action="store_true", help="a model with state starts again before each row")
    add_options(parser)
    add_backend(parser, "golden")
    parser.set_defaults(handler=command)

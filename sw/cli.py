"""The `lepton` command. Each command imports what it needs when it runs, so that `--help` is quick.

Every user error is one line on stderr, `lepton: error: …`, and exit code 2.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

from lepton.fpga import build as fpga_build
from lepton.sw import BACKENDS, SERIAL
from lepton.sw.frontends import command as frontends
from lepton.sw.report import bench, check, classify, evaluate, info, profile

DIGITS = Path(__file__).resolve().parent / "models" / "digits.tflite"
MAX_JSON = 1 << 20
"""Most bytes of a configuration."""
INPUT_KEYS, LABEL_KEYS, EXPECTED_KEYS = ("x", "input"), ("y", "labels"), ("tflm", "output")

# Exceptions that speak to the user, by the module that defines them. They are looked up among the modules already
# imported: one that was never imported has raised nothing.
USER_ERRORS = {
    "lepton.rtl.spec.config": "ConfigError",
    "lepton.sw.graph.model": "ModelError",
    "lepton.sw.arrays": "ArrayError",
    "lepton.sw.compiler": "CompileError",
    "lepton.sw.device.link": "LinkError",
    "lepton.sw.device.verilated": "BackendError",
    "lepton.sw.reference.iss": "IssError",
    "lepton.fpga.board": "BoardError",
    "lepton.fpga.flow": "FlowError",
    "lepton.fpga.pll": "PllError",
    "lepton.fpga.program": "ProgramError",
}


class UserError(Exception):
    """Wrong use of the command line; the message is one line."""


class Parser(argparse.ArgumentParser):
    """Reports its errors like all others, in one line."""

    def error(self, message):
        raise UserError(f"{message} (see {self.prog} --help)")


def user_errors() -> tuple:
    """The exception classes whose message is for the user."""
    found = [getattr(sys.modules[m], n, None) for m, n in USER_ERRORS.items() if m in sys.modules]
    return (UserError, OSError, *(e for e in found if e is not None))


# Files


def check_output(name) -> Path:
    """The path, when a file can be written there. Raises UserError: better before a long run than after."""
    path = Path(name)
    if path.is_dir():
        raise UserError(f"{name}: is a folder; give a file to write")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UserError(f"{name}: the folder {folder} does not exist")
    if not os.access(path if path.exists() and not path.is_file() else folder, os.W_OK):
        raise UserError(f"{name}: no permission to write there")
    return path


@contextmanager
def atomic(name):
    """A path to write to that becomes `name` when the block ends well, and vanishes when it does not."""
    path = Path(name).resolve()
    if path.exists() and not path.is_file():  # a device or pipe cannot be replaced
        yield path
        return
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def pick(arrays: dict, keys):
    return next((arrays[k] for k in keys if k in arrays), None)


def find_answers(arrays: dict) -> tuple:
    """Labels (N,) and expected outputs among the arrays of an input file; None for what is not there."""
    labels = pick(arrays, LABEL_KEYS)
    return (labels if labels is not None and labels.ndim == 1 else None), pick(arrays, EXPECTED_KEYS)


def load_arrays(name) -> dict:
    """The arrays of a file, of which one must be x or input. Raises UserError, ArrayError."""
    from lepton.sw.arrays import read_arrays

    arrays = read_arrays(name)
    if pick(arrays, INPUT_KEYS) is None:
        raise UserError(f"{name}: holds {', '.join(arrays) or 'nothing'}; the inputs must be named x or input")
    return arrays


def choose_inputs(arrays: dict, ends, name) -> dict:
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


def check_input(x, shape, name) -> None:
    """Refuse inputs that are not int8 of (N, *shape). Raises UserError."""
    want = "(" + ", ".join(["N", *map(str, shape)]) + ")"
    if x.dtype.name != "int8":
        raise UserError(f"{name}: type is {x.dtype.name} with shape {x.shape}; the model takes int8 {want}")
    if x.shape[1:] != tuple(shape) or x.ndim != len(shape) + 1:
        hint = "; add the leading N with x[None]" if x.shape == tuple(shape) else ""
        raise UserError(f"{name}: shape is {x.shape}; the model takes {want}{hint}")
    if not len(x):
        raise UserError(f"{name}: shape is {x.shape}: no inputs; the model takes {want} with N at least 1")


def load_config(name):
    """The preset of that name, or the configuration in a .json file. Raises ConfigError, UserError."""
    from lepton.rtl.spec.config import ConfigError, NpuConfig, get_config

    if not name.endswith(".json"):
        return get_config(name)
    try:
        if Path(name).stat().st_size > MAX_JSON:
            raise UserError(f"{name}: not a configuration: larger than {MAX_JSON:,} bytes")
        data = json.loads(Path(name).read_text())
        return NpuConfig.from_dict(data.get("config", data))
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{name}: not a configuration: {e}") from None


# Running


def backend_name(text):
    """A backend of the command line."""
    if text in BACKENDS or text.startswith(SERIAL) and text != SERIAL:
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(BACKENDS)}, {SERIAL}PORT")


def open_session(model, args):
    """A Session, or UserError when the model's file is not there."""
    if not Path(model).is_file():
        raise UserError(f"{model}: no such file")
    config = load_config(args.config) if args.config else None
    from lepton.sw.session import Session

    return Session(model, config=config, backend=args.backend, baud=args.baud)


def same_file(a, b) -> bool:
    """Whether two names are one file."""
    return Path(a).exists() and Path(b).exists() and os.path.samefile(a, b)


def command_run(args) -> int:
    from lepton.sw.arrays import read_arrays

    if classify.takes(args.input) and not args.output:
        return classify.command(args)
    if not args.output:
        raise UserError("--output is missing: a file to write (only pictures and .wav are classified without)")
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
        found = session.run(arrays, reset=args.reset)
    made = list(found.values()) if isinstance(found, dict) else [found]
    if args.float:
        made = [end.dequantize(y) for end, y in zip(outputs, made)]
    save(args.output, made, [end.name for end in outputs], archive)
    cycles = (session.report or {}).get("cycles")
    extra = f", {cycles:,} cycles each" if cycles else ""
    shapes = ", ".join(f"{' x '.join(map(str, y.shape))} {y.dtype}" for y in made)
    print(f"{args.output}: {shapes} from {args.backend}{extra}")
    return 0


def save(name, arrays, names, archive: bool) -> None:
    """Write one array as .npy, or all as .npz: as output0, … and by name where no other has it."""
    import io
    import zipfile

    import numpy as np

    with atomic(name) as temporary:
        if not archive:
            with open(temporary, "wb") as file:
                np.save(file, arrays[0])
            return
        keys = {f"output{k}": y for k, y in enumerate(arrays)}
        keys |= {n: y for n, y in zip(names, arrays) if n and names.count(n) == 1 and n not in keys}
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
            for key, y in keys.items():
                data = io.BytesIO()
                np.save(data, y)
                file.writestr(zipfile.ZipInfo(f"{key}.npy"), data.getvalue(), zipfile.ZIP_DEFLATED)


def command_compile(args) -> int:
    check_output(args.output)
    if not Path(args.model).is_file():
        raise UserError(f"{args.model}: no such file")
    config = load_config(args.config)
    from lepton.sw.compiler import compile_model
    from lepton.sw.graph.reader import load_model
    from lepton.sw.program_file import dump_program

    program = compile_model(load_model(args.model), config)
    data = dump_program(program, Path(args.model).read_bytes())
    with atomic(args.output) as temporary:
        temporary.write_bytes(data)
    print(f"{args.output}: {args.model} for {config.name}")
    return 0


def command_verilog(args) -> int:
    path = check_output(args.output)
    if path.suffix in (".json", ".vlt"):
        raise UserError(
            f"{args.output}: the .json and .vlt names are the description's and the lint waivers'; give another ending"
        )
    if not re.fullmatch(r"[A-Za-z_]\w*", args.prefix):
        raise UserError(f"--prefix {args.prefix!r}: must be a Verilog identifier, letters, digits and _")
    config = load_config(args.config)
    from lepton.rtl.verilog import write_verilog

    with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".lepton-") as folder:
        for written in write_verilog(config, Path(folder) / path.name, args.prefix):
            os.replace(written, path.with_name(Path(written).name))
            print(path.with_name(Path(written).name))
    return 0


def command_sim(args) -> int:
    from lepton.sw.report import sim as sim_report

    if args.count is not None and args.count < 1:
        raise UserError(f"--count {args.count}: must be at least 1")
    model = Path(args.model or DIGITS)
    default_count = 4 if args.model else 100
    beside = model.with_suffix(".npz")
    source = args.input or (beside if beside.is_file() else None)
    arrays = load_arrays(source) if source else None
    if args.picture == "build/sim.png":
        Path("build").mkdir(exist_ok=True)
    check_output(args.picture)
    session = open_session(model, args)
    if [end.dtype.name for end in session.inputs] != ["int8"] or len(session.outputs) != 1:
        raise UserError(f"{model}: sim shows models with one int8 input and one output; use `lepton run`")
    shape = session.inputs[0].row
    if arrays is None:
        import numpy as np

        arrays = {"x": np.random.default_rng(1).integers(-128, 128, (default_count, *shape), np.int8)}
    x = pick(arrays, INPUT_KEYS)
    check_input(x, shape, source or "random input")
    n = min(args.count or default_count, len(x))
    labels, expected = (a[:n] if a is not None and len(a) == len(x) else None for a in find_answers(arrays))
    with closing(session):
        result = sim_report.run(session, x[:n], labels, expected)
    sim_report.show(result, f"{model.name}, {source or 'random bytes'}")
    with atomic(args.picture) as temporary:
        sim_report.draw(result, temporary, model.name)
    print(f"picture: {args.picture}")
    return 1 if result.equal is False else 0


def command_devices(args) -> int:
    from lepton.sw.device.serial_port import ports

    for name, description in ports():
        print(f"{name}  {description}".rstrip())
    if not ports():
        print("no serial ports")
    return 0


# The command line


def build_parser() -> Parser:
    """The parser of all commands; each sets `handler`."""
    parser = Parser(
        prog="lepton",
        description="Run, compile and simulate int8 neural networks on the Lepton accelerator.",
        epilog="Configurations: tiny (4x4), small (8x8), large (16x16), flagship (18x16, paired), or a .json file.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name, handler, text, description=None):
        command = commands.add_parser(name, help=text, description=description or text)
        command.set_defaults(handler=handler)
        return command

    def config(command):
        command.add_argument("--config", default="small", metavar="NAME", help="configuration (default: %(default)s)")

    def backend(command, default):
        command.add_argument(
            "--backend",
            type=backend_name,
            default=default,
            metavar="NAME",
            help="golden: NumPy, operator by operator; iss: the compiled program in NumPy; rtl: the hardware under "
            "Verilator; serial:PORT: a board (default: %(default)s)",
        )
        command.add_argument("--baud", type=int, metavar="N", help="of the serial port (default: 1,000,000)")
        command.add_argument("--config", metavar="NAME", help="configuration (default: small; a board tells its own)")

    run = add("run", command_run, "run a model on inputs from a file", "Run a model; all backends give the same bytes.")
    run.add_argument("model", metavar="MODEL", help=".tflite, or a file from `lepton compile`")
    run.add_argument(
        "--input",
        required=True,
        metavar="X",
        help="inputs (N, ...) in the model's types: .npy for one input; .npz by the tensors' names or input0, input1, "
        "…; x or input for one; a picture, a .wav or a folder of them to classify",
    )
    run.add_argument(
        "--output",
        metavar="Y",
        help="outputs to write: .npy of one; .npz as output0, output1, … and by the tensors' names",
    )
    run.add_argument(
        "--float", action="store_true", help="real numbers in and out: quantize and dequantize at the ends"
    )
    run.add_argument("--reset", action="store_true", help="a model with state starts again before each row")
    classify.add_options(run)
    backend(run, "golden")

    comp = add("compile", command_compile, "compile a model to a file that runs in its place")
    comp.add_argument("model", metavar="MODEL", help="int8 .tflite")
    comp.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    config(comp)

    verilog = add("verilog", command_verilog, "write the accelerator as plain Verilog and its description as JSON")
    verilog.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="Verilog to write; beside it .json (ports, registers, memories) and .vlt (for verilator --lint-only)",
    )
    verilog.add_argument(
        "--prefix", default="lepton_", metavar="P", help="before the names of all modules (default: %(default)s)"
    )
    config(verilog)

    sim = add(
        "sim",
        command_sim,
        "classify images on the simulated hardware and explain the cycles",
        "Run a model on the hardware; report outputs, cycles and where they went. Without MODEL: handwritten digits.",
    )
    sim.add_argument(
        "--model", metavar="MODEL", help="int8 .tflite or compiled file (default: the shipped digits network)"
    )
    sim.add_argument(
        "--input",
        metavar="FILE",
        help="int8 .npy (N, ...), or .npz with x or input, and maybe y (labels), tflm or output (expected bytes); "
        "default: the .npz beside the model, or else random bytes",
    )
    sim.add_argument("--count", type=int, metavar="N", help="inputs to run (default: 100 digits, 4 of another model)")
    sim.add_argument(
        "--picture", default="build/sim.png", metavar="FILE", help="picture to write (default: %(default)s)"
    )
    backend(sim, "rtl")
    add("devices", command_devices, "list the serial ports, for --backend serial:PORT")
    for module in (frontends, evaluate, check, info, bench, profile, fpga_build):
        module.add_parser(commands)
    return parser


def main(argv=None) -> int:
    """Run one command; returns the exit code: 0 good, 1 wrong result, 2 user error, 130 interrupted."""
    try:
        args = build_parser().parse_args(argv)
        return args.handler(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("lepton: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        if not isinstance(e, user_errors()):
            raise
        print("lepton: error:", " ".join(str(e).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

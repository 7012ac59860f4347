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
from lepton.sw.report import bench, check, profile

DIGITS = Path(__file__).resolve().parent / "models" / "digits.tflite"
INPUT_KEYS, LABEL_KEYS, EXPECTED_KEYS = ("x", "input"), ("y", "labels"), ("tflm", "output")

# Exceptions that speak to the user, by the module that defines them. They are looked up among the modules already
# imported: one that was never imported has raised nothing.
USER_ERRORS = {
    "lepton.rtl.spec.config": "ConfigError",
    "lepton.sw.graph.model": "ModelError",
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
    """The arrays of an .npz file, or {"x": array} of an .npy file. Raises UserError."""
    import zipfile

    import numpy as np

    path = Path(name)
    if not path.exists():
        raise UserError(f"{name}: no such file")
    try:
        data = np.load(path, allow_pickle=False)
        arrays = {k: data[k] for k in data} if hasattr(data, "files") else {"x": data}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as e:
        raise UserError(f"{name}: not an .npy or .npz file of plain numbers ({e})") from None
    if pick(arrays, INPUT_KEYS) is None:
        raise UserError(f"{name}: holds {', '.join(arrays) or 'nothing'}; the inputs must be named x or input")
    return arrays


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
        data = json.loads(Path(name).read_text())
        return NpuConfig.from_dict(data.get("config", data))
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError) as e:
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

    waves = check_output(args.waves) if args.waves else None
    return Session(model, config=config, backend=args.backend, baud=args.baud, waves=waves)


def command_run(args) -> int:
    import numpy as np

    check_output(args.output)
    x = pick(load_arrays(args.input), INPUT_KEYS)
    with closing(open_session(args.model, args)) as session:
        check_input(x, session.input_shape[1:], args.input)
        y = session.run(x)
    cycles = (session.report or {}).get("cycles")
    with atomic(args.output) as temporary, open(temporary, "wb") as file:
        np.save(file, y)
    extra = f", {cycles:,} cycles each" if cycles else ""
    print(f"{args.output}: {' x '.join(map(str, y.shape))} int8 from {args.backend}{extra}")
    return 0


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
    shape = session.input_shape[1:]
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
        command.add_argument(
            "--waves", metavar="FILE.fst", help="waveforms of the inferences, a cycle 10 ns (rtl only; or FILE.vcd)"
        )

    run = add(
        "run", command_run, "run a model on inputs from a file", "Run an int8 model; all backends give the same bytes."
    )
    run.add_argument("model", metavar="MODEL", help="int8 .tflite, or a file from `lepton compile`")
    run.add_argument("--input", required=True, metavar="X.npy", help="int8 inputs (N, ...); .npz: the array x or input")
    run.add_argument("--output", required=True, metavar="Y.npy", help="int8 outputs (N, ...) to write")
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
    for module in (check, bench, profile, fpga_build):
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

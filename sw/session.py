"""Run a model: `Session(model, config=..., backend=...).run(x)`."""

from pathlib import Path

import numpy as np

from lepton.rtl import isa
from lepton.rtl.config import NpuConfig, get_config
from lepton.sw.compiler import HostStep, Program, compile_model
from lepton.sw.model import Model, ModelError, load_model
from lepton.sw.program_file import MAGIC, parse_program
from lepton.verif import golden

BACKENDS = ("golden", "iss", "rtl")


def read_source(path: str | Path) -> bytes:
    """Bytes of a model or program file. Raises ModelError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): check the path") from None


class _IssEngine:
    """The instruction-set simulator behind the engine interface: load, write activations, run, read activations."""

    def __init__(self, config: NpuConfig, program: Program):
        from lepton.verif.iss import Iss

        self.iss = Iss(config)
        if not config.external_bytes:
            self.iss.external = program.external
        for region, data in program.images():
            self.iss.write(region, 0, data)

    def write(self, address: int, data: bytes) -> None:
        self.iss.write(isa.Region.ACT, address, data)

    def read(self, address: int, count: int) -> bytes:
        return bytes(self.iss.read(isa.Region.ACT, address, count))

    def start(self, pc: int) -> dict | None:
        self.iss.run(pc)
        return None


class _DeviceEngine:
    """A device behind the host link: the simulated RTL or a board."""

    def __init__(self, device, program: Program):
        self.device = device
        for region, data in program.images():
            device.write(region, 0, data)

    def write(self, address: int, data: bytes) -> None:
        self.device.write(isa.Region.ACT, address, data)

    def read(self, address: int, count: int) -> bytes:
        return self.device.read(isa.Region.ACT, address, count)

    def start(self, pc: int) -> dict:
        self.device.start(pc)
        registers = self.device.wait()
        return {
            "cycles": registers[isa.Reg.CYCLES],
            "causes": {cause.name.lower(): registers[isa.Reg[cause.name]] for cause in isa.Cause},
        }


class Session:
    """A model ready to run on one backend.

    Parameters: `model` path of a .tflite or compiled program, or a `Model`; `config` a preset's name or an `NpuConfig`
    (a compiled program brings its own); `backend` one of `golden`, `iss`, `rtl`.
    Raises ModelError, CompileError, ConfigError, or the backend's error, each with one line.
    """

    def __init__(self, model: str | Path | Model, config: str | NpuConfig = "small", backend: str = "iss"):
        if backend not in BACKENDS:
            raise ModelError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
        self.backend = backend
        self.report: dict | None = None
        self._program: Program | None = None
        if isinstance(model, Model):
            self.model = model
        else:
            source = read_source(model)
            if source.startswith(MAGIC):
                self._program = parse_program(source)
                self.model = self._program.model
                config = self._program.config
            else:
                self.model = load_model(model)
        self.config = get_config(config) if isinstance(config, str) else config
        self._engine: _IssEngine | _DeviceEngine | None = None

    @property
    def program(self) -> Program:
        """The compiled program (compiled at the first use)."""
        if self._program is None:
            self._program = compile_model(self.model, self.config)
        return self._program

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.model.tensors[self.model.inputs[0]].shape)

    def check_input(self, x: np.ndarray) -> np.ndarray:
        """Raises ModelError unless x is int8 of shape (N, ...) with the model's shape behind N."""
        want = self.input_shape[1:]
        if x.dtype != np.int8:
            raise ModelError(
                f"input has type {x.dtype}, the model takes int8: quantize it with the input's scale and zero point"
            )
        if x.ndim < 1 or tuple(x.shape[1:]) != want:
            raise ModelError(f"input has shape {tuple(x.shape)}, the model takes (N, {', '.join(map(str, want))})")
        return x

    def run(self, x: np.ndarray, progress=None) -> np.ndarray:
        """Infer (N, ...) int8 to (N, ...) int8; `progress(done, total)` is called after each."""
        x = self.check_input(np.asarray(x))
        if self.backend == "golden":
            outputs = []
            for i in range(len(x)):
                outputs.append(golden.run(self.model, x[i : i + 1])[0])
                if progress:
                    progress(i + 1, len(x))
            return np.stack(outputs) if outputs else np.zeros((0, *self._output_shape()), np.int8)
        if self._engine is None:
            self._engine = self._open()
        outputs, reports = [], []
        for i in range(len(x)):
            out, report = self._infer(x[i])
            outputs.append(out)
            reports.append(report)
            if progress:
                progress(i + 1, len(x))
        self.report = self._summarise(reports)
        return np.stack(outputs) if outputs else np.zeros((0, *self._output_shape()), np.int8)

    def _output_shape(self):
        return tuple(self.model.tensors[self.model.outputs[0]].shape)[1:]

    def _open(self):
        if self.backend == "iss":
            return _IssEngine(self.config, self.program)
        from lepton.sw.rtl_backend import open_device

        return _DeviceEngine(open_device(self.config, self.program.external), self.program)

    def _infer(self, x):
        """One inference: inputs in, steps in order, output out."""
        program, engine, model = self.program, self._engine, self.model
        values: dict[int, np.ndarray] = {}  # tensors the host holds
        in_memory = set()
        reshaped = {op.outputs[0]: op.inputs[0] for op in model.operators if op.op == "RESHAPE"}

        def fetch(t):
            if t in reshaped:
                return fetch(reshaped[t]).reshape(model.tensors[t].shape)
            if t not in values:
                tensor = model.tensors[t]
                place = program.places[t]
                count = int(np.prod(tensor.shape))
                values[t] = np.frombuffer(engine.read(place.address, count), np.int8).reshape(tensor.shape)
            return values[t]

        values[model.inputs[0]] = x.reshape(self.input_shape)
        report = {"cycles": 0, "causes": {cause.name.lower(): 0 for cause in isa.Cause}}
        host_written = set(model.inputs)
        operators = {op.index: op for op in model.operators}
        for step in program.steps:
            if isinstance(step, HostStep):
                op = operators[step.operator]
                feeds = {t: fetch(t) for t in op.inputs if t >= 0 and model.tensors[t].data is None}
                values[op.outputs[0]] = golden.run_operator(model, op, feeds)
                host_written.add(op.outputs[0])
                continue
            for t in sorted(host_written - in_memory):
                if t in program.places:
                    engine.write(program.places[t].address, program.pack_input(t, values[t]))
                in_memory.add(t)
            result = engine.start(step.pc)
            if result:
                report["cycles"] += result["cycles"]
                for name, cycles in result["causes"].items():
                    report["causes"][name] += cycles
        out = fetch(model.outputs[0])
        return out.reshape(self._output_shape()), report

    def _summarise(self, reports):
        """Cycles of one inference (`same_cycles`: every run took the same), causes and utilization."""
        if not reports or not reports[0]["cycles"]:
            return {"macs": self.program.macs, "cycles": None, "causes": None, "utilization": None}
        first = reports[0]
        return {
            "macs": self.program.macs,
            "cycles": first["cycles"],
            "causes": first["causes"],
            "utilization": self.program.macs / (self.config.macs_per_cycle * first["cycles"]),
            "same_cycles": all(r == first for r in reports),
        }

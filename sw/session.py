"""Run a model: `Session(model, config=..., backend=...).run(x)`."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.sw import BACKENDS, SERIAL
from lepton.sw.compiler import HostStep, Program, compile_model
from lepton.sw.device.link import Device, LinkError
from lepton.sw.graph.model import Model, ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.program_file import MAGIC, parse_program
from lepton.sw.reference import golden


def read_source(path: str | Path) -> bytes:
    """Bytes of a model or program file. Raises ModelError when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}): check the path") from None


class Engine(Protocol):
    """What runs a program: activation memory written and read by byte, and stretches of the program started."""

    def write(self, address: int, data: bytes) -> None: ...

    def read(self, address: int, count: int) -> bytes: ...

    def start(self, pc: int) -> dict[str, Any] | None:
        """Run from program word `pc` to its end; `cycles` and `causes`, if the engine counts them."""


class _IssEngine:
    """The instruction-set simulator behind the engine interface: load, write activations, run, read activations."""

    def __init__(self, config: NpuConfig, program: Program):
        from lepton.sw.reference.iss import Iss

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
        device.load(program.images())

    def write(self, address: int, data: bytes) -> None:
        self.device.write(isa.Region.ACT, address, data)

    def read(self, address: int, count: int) -> bytes:
        data = self.device.read(isa.Region.ACT, address, count)
        self.device.check_run()  # else these may be bytes of a device that was switched off and on
        return data

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
    (a compiled program brings its own, a board tells it; else `small`); `backend` one of `golden`, `iss`, `rtl`,
    `serial:PORT`; `baud` of the serial port; `waves` a .fst or .vcd file for the signals of all inferences (`rtl`
    only), complete after `close`.
    Raises ModelError, CompileError, ConfigError, or the backend's error, each with one line. After a LinkError the next
    `run` connects and loads again.
    """

    def __init__(
        self,
        model: str | Path | Model,
        config: str | NpuConfig | None = None,
        backend: str = "iss",
        baud: int | None = None,
        waves: str | Path | None = None,
    ):
        if backend not in BACKENDS and not backend.startswith(SERIAL):
            raise ModelError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}, {SERIAL}PORT")
        self.backend = backend
        if waves is not None and backend != "rtl":
            raise ModelError(f"{waves}: only the rtl backend has waveforms, not {backend}")
        self._baud, self._waves = baud, waves
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
        self.config = config if isinstance(config, NpuConfig) else get_config(config or "small")
        self._told = config is not None  # a board must have just this configuration
        self._engine: Engine | None = None
        self._device: Device | None = None
        if backend.startswith(SERIAL):
            self._device = self._connect()

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
        outputs, reports = [], []
        try:
            if self._engine is None:
                self._engine = self._open()
            for i in range(len(x)):
                out, report = self._infer(x[i])
                outputs.append(out)
                reports.append(report)
                if progress:
                    progress(i + 1, len(x))
        except LinkError:
            self.close()
            raise
        self.report = self._summarise(reports)
        return np.stack(outputs) if outputs else np.zeros((0, *self._output_shape()), np.int8)

    def close(self) -> None:
        """Let go of the backend; the next `run` opens it again."""
        device = self._engine.device if isinstance(self._engine, _DeviceEngine) else self._device
        if device is not None:
            device.close()
        self._engine = self._device = None

    def _output_shape(self):
        return tuple(self.model.tensors[self.model.outputs[0]].shape)[1:]

    def _connect(self) -> Device:
        """The board. Its configuration becomes the session's; raises ModelError if another one was asked for."""
        from lepton.sw.device.serial_port import BAUD, connect

        port = self.backend.removeprefix(SERIAL)
        device = connect(port, self._baud or BAUD)
        found = device.config()
        if self._told:
            wanted = identity.unpack(identity.pack(self.config)).to_dict()
            differ = [f"{k}={v}" for k, v in found.to_dict().items() if k != "name" and v != wanted[k]]
            if differ:
                device.close()
                raise ModelError(
                    f"{port}: the board has {', '.join(differ)}, not the configuration {self.config.name!r}: "
                    "leave it out and compile for the board"
                )
        self.config, self._told = (self.config if self._told else found), True
        return device

    def _open(self) -> Engine:
        if self.backend == "iss":
            return _IssEngine(self.config, self.program)
        if self.backend.startswith(SERIAL):
            if self.program.external and not self.config.external_bytes:
                raise ModelError(
                    f"{self.model.name}: {len(self.program.external):,} bytes of weights do not fit the board, which "
                    "has no external memory (external_bytes=0)"
                )
            self._device = self._device or self._connect()
            return _DeviceEngine(self._device, self.program)
        from lepton.sw.device.verilated import open_device

        return _DeviceEngine(open_device(self.config, self.program.external, self._waves), self.program)

    def _infer(self, x):
        """One inference: inputs in, steps in order, output out."""
        program, engine, model = self.program, self._engine, self.model
        assert engine is not None
        values: dict[int, np.ndarray] = {}  # tensors the host holds
        in_memory: set[int] = set()
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
        report: dict[str, Any] = {"cycles": 0, "causes": {cause.name.lower(): 0 for cause in isa.Cause}}
        host_written = set(model.inputs)
        operators = {op.index: op for op in model.operators}
        for step in program.steps:
            if isinstance(step, HostStep):
                op = operators[step.operator]
                feeds = {t: fetch(t) for t in op.inputs if t >= 0 and model.tensors[t].data is None}
                values.update(zip(op.outputs, golden.run_operator(model, op, feeds), strict=True))
                host_written.update(op.outputs)
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

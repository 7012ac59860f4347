"""Run a model: `Session(model, config=..., backend=...).run(x)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.spec.timing import Memory
from lepton.sw import BACKENDS, SERIAL
from lepton.sw.compiler import HostStep, Program, compile_model
from lepton.sw.device.link import Device, LinkError
from lepton.sw.files import read_file
from lepton.sw.graph.model import MAX_FILE_BYTES, STORED, Model, ModelError, Operator, Tensor, need
from lepton.sw.graph.reader import load_model
from lepton.sw.integrity import verify
from lepton.sw.program_file import MAGIC, parse_program
from lepton.sw.reference import golden
from lepton.sw.reference.state import State


class Engine(Protocol):
    """What runs a program: activation memory written and read by byte, and stretches of the program started."""

    def write(self, address: int, data: bytes) -> None: ...

    def read(self, address: int, count: int) -> bytes: ...

    def patch(self, word: int, value: int) -> None:
        """Write a word of the program."""

    def start(self, pc: int) -> dict[str, Any] | None:
        """Run from program word `pc` to its end; `cycles` and `causes`, if the engine counts them."""


class Probe(Protocol):
    """What looks on while an engine infers; `fetch` gives the value of a tensor that is known then."""

    def host(self, op: Operator, fetch: Callable[[int], np.ndarray]) -> None:
        """The host has computed an operator."""

    def stretch(self, engine: Engine, pc: int, fetch: Callable[[int], np.ndarray]) -> dict[str, Any] | None:
        """Run in place of `engine.start(pc)`; memory must be afterwards as if that had run."""


def most_vectors(model: Model) -> int:
    """More vectors than the program of a model multiplies: each takes part in a product or carries a byte."""
    most = 1 << 20
    for op in model.operators:
        tensors = [model.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
        most += 4 * sum(t.size for t in tensors)
        weights = [t for t in tensors if t.constant and len(t.shape) > 1]
        if weights and op.outputs:
            channels = weights[0].shape[-1 if op.op == "DEPTHWISE_CONV_2D" else 0]
            most += 4 * model.tensors[op.outputs[0]].size * (weights[0].size // max(channels, 1))
    return min(most, MAX_VECTORS)


class IssEngine:
    """The instruction-set simulator behind the engine interface: load, write activations, run, read activations."""

    def __init__(self, config: NpuConfig, program: Program, hazards: bool = False):
        from lepton.sw.reference.iss import Iss

        self.iss = Iss(config, hazards, limit=most_vectors(program.model))
        self.program = program
        self._arena = program.arena_at if program.arena_bytes else None
        if config.memory_width:
            for base, value in ((isa.Reg.IMAGE, 0), (isa.Reg.ARENA, program.arena_at)):
                self.iss.write(isa.Region.REG, base, value.to_bytes(4, "little"))
        if not config.external_bytes:
            self.iss.external = program.external
        for region, data in program.images():
            self.iss.write(region, 0, data)
        if program.setup is not None:
            self.start(program.setup)

    def write(self, address: int, data: bytes) -> None:
        if self._arena is None:
            self.iss.write(isa.Region.ACT, address, data)
            return
        at = self._arena + address
        self.iss.memory[at : at + len(data)] = np.frombuffer(data, np.uint8)

    def read(self, address: int, count: int) -> bytes:
        if self._arena is None:
            return bytes(self.iss.read(isa.Region.ACT, address, count))
        at = self._arena + address
        return self.iss.memory[at : at + count].tobytes()

    def patch(self, word: int, value: int) -> None:
        data = value.to_bytes(8, "little")
        if not self.program.config.memory_width:
            self.iss.write(isa.Region.PROGRAM, word, data)
            return
        at = 8 * (self.program.first_word + word)
        self.iss.memory[at : at + 8] = np.frombuffer(data, np.uint8)

    def start(self, pc: int) -> dict | None:
        self.iss.run(self.program.first_word + pc)
        return None


class DeviceEngine:
    """A device behind the host link: the simulated RTL or a board."""

    def __init__(self, device, program: Program):
        self.device, self.program = device, program
        self._arena = program.arena_at if program.arena_bytes else None
        device.load(program.images())
        if program.config.memory_width:
            device.set_bases(0, program.arena_at)
        if program.setup is not None:
            self.start(program.setup)

    def write(self, address: int, data: bytes) -> None:
        if self._arena is None:
            self.device.write(isa.Region.ACT, address, data)
        else:
            self.device.write_memory(self._arena + address, data)

    def read(self, address: int, count: int) -> bytes:
        if self._arena is None:
            data = self.device.read(isa.Region.ACT, address, count)
        else:
            data = self.device.read_memory(self._arena + address, count)
        self.device.check_run()  # else these may be bytes of a device that was switched off and on
        return data

    def patch(self, word: int, value: int) -> None:
        data = value.to_bytes(8, "little")
        if self.program.config.memory_width:
            self.device.write_memory(8 * (self.program.first_word + word), data)
        else:
            self.device.write(isa.Region.PROGRAM, word, data)

    def start(self, pc: int) -> dict:
        self.device.start(self.program.first_word + pc)
        registers = self.device.wait()
        return {
            "cycles": registers[isa.Reg.CYCLES],
            "causes": {cause.name.lower(): registers[isa.Reg[cause.name]] for cause in isa.Cause},
        }


@dataclass(frozen=True)
class End:
    """An input or output of a model, as TFLite's interpreter describes it. Without quantization its scale is 0."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float
    zero_point: int
    row: tuple[int, ...]
    """Shape of one value in an array of many, (N, *row): `shape` without a leading 1."""

    def __str__(self) -> str:
        """Type and shape of an array of many."""
        return f"{self.dtype} (N, {', '.join(map(str, self.row))})".replace(", )", ",)")

    @classmethod
    def of(cls, t: Tensor) -> "End":
        scale = float(t.scale) if len(t.scales) == 1 else 0.0
        return cls(t.name, t.shape, np.dtype(STORED[t.dtype]), scale, t.zero_point if scale else 0, t.row)

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Real numbers as this end's integers, rounded half away from zero as TFLite does; what has no scale stays."""
        if not self.scale or self.dtype.kind == "f":
            return np.asarray(x).astype(self.dtype)
        limits = np.iinfo(self.dtype)
        y = np.asarray(x, np.float32) / np.float32(self.scale)
        rounded = np.trunc(y + np.copysign(np.float32(0.5), y)).astype(np.float64) + self.zero_point
        return np.clip(rounded, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """The real numbers, float32; what has no scale stays."""
        if not self.scale or self.dtype.kind == "f":
            return q
        return ((q.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)


MAX_VECTORS = 1 << 30
"""No program runs longer on the instruction set simulator."""
Arrays = np.ndarray | Mapping[str, np.ndarray] | Sequence[np.ndarray]


class Session:
    """A model ready to run on one backend.

    Parameters: `model` path of a .tflite or compiled program, or a `Model`; `config` a preset's name or an `NpuConfig`
    (a compiled program brings its own, a board tells it; else `small`); `backend` one of `golden`, `iss`, `rtl`,
    `serial:PORT`; `baud` of the serial port; `waves` a .fst or .vcd file for the signals of all inferences (`rtl`
    only), complete after `close`; `memory` how fast the memory behind the port of a simulated machine is;
    `require_signature` a public key: the model must be a program file signed by its owner.
    Arrays are (N, ...), a row an inference, with the tensor's shape behind N; its leading 1 is left out where it has
    one. A model with state carries it from row to row and from run to run, until `reset`; a run that fails leaves it
    as it was.
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
        memory: Memory = Memory(),
        require_signature: str | Path | None = None,
    ):
        if backend not in BACKENDS and not backend.startswith(SERIAL):
            raise ModelError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}, {SERIAL}PORT")
        self.backend = backend
        if waves is not None and backend != "rtl":
            raise ModelError(f"{waves}: only the rtl backend has waveforms, not {backend}")
        self._baud, self._waves, self._memory = baud, waves, memory
        self.report: dict | None = None
        self._program: Program | None = None
        if isinstance(model, Model):
            self.model = model
        else:
            source = read_file(Path(model), MAX_FILE_BYTES, ModelError)
            if require_signature is not None and not source.startswith(MAGIC):
                raise ModelError(f"{model}: not a program file, which alone can be signed: `lepton compile`")
            if source.startswith(MAGIC):
                self._program = parse_program(source)
                if require_signature is not None:
                    verify(source, Path(require_signature), str(model))
                self._program.memory = memory
                self.model = self._program.model
                wanted = get_config(config) if isinstance(config, str) else config
                found = self._program.config
                if wanted not in (None, found):
                    raise ModelError(
                        f"{model}: compiled for configuration {found.name!r}, not for {wanted.name!r}: compile the "
                        "model for that, or leave the configuration out"
                    )
                config = found
            else:
                self.model = load_model(source, Path(model).stem)
        self._kept_stale = True
        """Whether the variables that the array keeps are to be written before it starts."""
        self.state = State(self.model)
        """What the model keeps from one inference to the next."""
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
            self._program = compile_model(self.model, self.config, self._memory)
        return self._program

    @property
    def made(self) -> dict[str, str]:
        """What a program file tells of itself: version, model, configuration, SHA-256 of its manifest."""
        return {} if self._program is None else self._program.made

    @property
    def inputs(self) -> list[End]:
        return [End.of(self.model.tensors[i]) for i in self.model.inputs]

    @property
    def outputs(self) -> list[End]:
        return [End.of(self.model.tensors[i]) for i in self.model.outputs]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input's tensor."""
        return self.inputs[0].shape

    def arrange(self, x: Arrays) -> list[np.ndarray]:
        """The arrays for a run, in the order of the inputs, checked: types, shapes, as many rows each.

        x: an array for a model with one input; else a list, or a mapping by names of tensors or `input0`, `input1`, …
        Raises ModelError.
        """
        ends, name = self.inputs, self.model.name
        if isinstance(x, Mapping):
            arrays = by_name(x, ends, name)
        elif isinstance(x, (list, tuple)) and not (len(ends) == 1 and len(x) != 1):
            arrays = [np.asarray(a) for a in x]
        else:
            arrays = [np.asarray(x)]
        given = f"{len(arrays)} array{'s' * (len(arrays) != 1)}"
        takes = "no inputs" if not ends else f"{len(ends)} inputs: " + ", ".join(end.name for end in ends)
        need(len(arrays) == len(ends), name, f"{given} for {takes if len(ends) != 1 else 'one input'}")
        for k, end in enumerate(ends):
            a = arrays[k]
            if a.dtype != end.dtype and a.dtype.newbyteorder("=") == end.dtype:
                a = arrays[k] = a.astype(end.dtype)
            what = "input" if len(ends) == 1 else f"input {end.name!r}"
            if a.dtype != end.dtype or a.shape[1:] != end.row or not a.ndim:
                hint = ""
                if a.dtype != end.dtype and end.scale:
                    hint = f": quantize it with scale {end.scale:g} and zero point {end.zero_point}"
                elif a.shape == end.row:
                    hint = "; add the leading N with x[None]"
                raise ModelError(f"{what} is {a.dtype} {a.shape}, the model takes {end}{hint}")
            need(len(a) == len(arrays[0]), what, f"{len(a)} rows, {len(arrays[0])} of the first input")
        return arrays

    def run(
        self, x: Arrays, progress: Callable[[int, int], None] | None = None, reset: bool = False
    ) -> np.ndarray | Any:  # Any: the dict, which a caller knows to expect from its model
        """Infer row after row; `progress(done, total)` is called after each.

        x: as for `arrange`. Returns (N, ...) of the output, or of several by name (`output0`, … where not unique).
        reset: state starts again before each row. Raises ModelError.
        """
        arrays = self.arrange(x)
        count, reports = len(arrays[0]) if arrays else 1, []
        ends = self.outputs
        out = [np.zeros((count, *end.row), end.dtype) for end in ends]
        shapes = [end.shape for end in self.inputs]
        before = self.state.copy() if self.model.stateful else self.state
        try:
            if self.backend != "golden" and self._engine is None:
                self._engine = self._open()
            for i in range(count):
                if reset:
                    self.reset()
                values, report = self._infer([a[i].reshape(s) for a, s in zip(arrays, shapes)])
                reports.append(report)
                for y, value, end in zip(out, values, ends):
                    y[i] = value.reshape(end.row)
                if progress:
                    progress(i + 1, count)
            self._read_kept()
        except BaseException as error:  # an interrupt, too: a run has happened as a whole, or not at all
            self.state, self._kept_stale = before, True
            if isinstance(error, LinkError):
                self.close()
            raise
        if self.backend != "golden":
            self.report = self._summarise(reports)
        return out[0] if len(out) == 1 else dict(zip(output_names(ends), out))

    def reset(self) -> None:
        """State starts again, as in a new session."""
        self.state.reset()
        self._kept_stale = True

    def close(self) -> None:
        """Let go of the backend; the next `run` opens it again and carries the state on."""
        self._kept_stale = True
        device = self._engine.device if isinstance(self._engine, DeviceEngine) else self._device
        if device is not None:
            device.close()
        self._engine = self._device = None

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

    def _read_kept(self) -> None:
        """Variables that the array keeps, as a run leaves them: the next one starts from these if the device goes."""
        if self._engine is None or self._kept_stale:
            return
        for n, place in self.program.variables.items():
            old = self.state.variables[n]
            data = self._engine.read(place.address, old.nbytes)
            self.state.variables[n] = np.frombuffer(data, old.dtype).reshape(old.shape).copy()

    def _kept_bytes(self) -> list[bytes]:
        """What the host knows of the variables that the array keeps: their values after the last run."""
        return [self.state.variables[n].tobytes() for n in self.program.variables]

    def _open(self) -> Engine:
        if self.backend == "iss":
            return IssEngine(self.config, self.program)
        if self.backend.startswith(SERIAL):
            if self.program.external and not self.config.external_bytes:
                raise ModelError(
                    f"{self.model.name}: {len(self.program.external):,} bytes of weights do not fit the board, which "
                    "has no external memory (external_bytes=0)"
                )
            self._device = self._device or self._connect()
            return DeviceEngine(self._device, self.program)
        from lepton.sw.device.verilated import open_device

        return DeviceEngine(open_device(self.config, self.program.external, self._waves, self._memory), self.program)

    def _infer(self, inputs: list[np.ndarray], probe: Probe | None = None) -> tuple[list[np.ndarray], dict]:
        """One inference: inputs in, steps in order, outputs out, all in the tensors' shapes. `probe` looks on."""
        if self.backend == "golden":
            return golden.run_graph(self.model, inputs, self.state), {}
        program, engine, model = self.program, self._engine, self.model
        assert engine is not None
        values = dict(zip(model.inputs, inputs))  # tensors the host holds
        operators = {op.index: op for op in model.operators}
        computed = {i for layer in program.layers for i in layer.operators}
        computed.update(step.operator for step in program.steps if isinstance(step, HostStep))
        views = {t: op for op in model.operators if op.index not in computed for t in op.outputs}
        views = {t: op for t, op in views.items() if op.op != "READ_VARIABLE"}  # lies where the array keeps it

        def fetch(t: int) -> np.ndarray:
            """Value of a tensor: the host's, a view of another one, or from the device."""
            tensor = model.tensors[t]
            if tensor.data is not None:
                return tensor.data
            if t not in values and t in views:
                compute(views[t])
            if t not in values:
                kind = np.dtype(STORED[tensor.dtype])
                data = engine.read(program.places[t].address, tensor.size * kind.itemsize)
                values[t] = np.frombuffer(data, kind).reshape(tensor.shape)
            return values[t]

        def compute(op: Operator) -> None:
            """An operator on the host."""
            feeds = {t: fetch(t) for t in op.inputs if t >= 0 and not model.tensors[t].variable}
            values.update(zip(op.outputs, golden.run_operator(model, op, feeds, self.state), strict=True))

        report: dict[str, Any] = {"cycles": 0, "causes": {cause.name.lower(): 0 for cause in isa.Cause}}
        host_written = set(model.inputs)
        in_memory: set[int] = set()
        for step in program.steps:
            if isinstance(step, HostStep):
                op = operators[step.operator]
                before = self._kept_bytes()
                compute(op)
                self._kept_stale |= self._kept_bytes() != before  # by a CALL_ONCE
                host_written.update(op.outputs)
                if probe:
                    probe.host(op, fetch)
                continue
            if self._kept_stale:
                for place, data in zip(program.variables.values(), self._kept_bytes()):
                    engine.write(place.address, data)
                self._kept_stale = False
            for t in sorted(host_written - in_memory):
                if t in program.places:
                    engine.write(program.places[t].address, program.pack_input(t, values[t]))
                in_memory.add(t)
            result = probe.stretch(engine, step.pc, fetch) if probe else engine.start(step.pc)
            if result:
                report["cycles"] += result["cycles"]
                for name, cycles in result["causes"].items():
                    report["causes"][name] += cycles
        return [fetch(t) for t in model.outputs], report

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


def by_name(x: Mapping[str, np.ndarray], ends: Sequence[End], name: str) -> list[np.ndarray]:
    """Arrays of a mapping in the order of the ends, by the tensors' names or `input0`, … Raises ModelError."""
    names = [end.name for end in ends]
    arrays, used = [], set()
    for k, end in enumerate(ends):
        keys = [f"input{k}"] + [end.name] * (names.count(end.name) == 1)
        found = [key for key in keys if key in x]
        need(
            found, name, f"no array for its input {end.name!r} (input{k}); given: {', '.join(map(str, x)) or 'nothing'}"
        )
        used.update(found)
        arrays.append(np.asarray(x[found[0]]))
    unknown = [key for key in x if key not in used]
    need(not unknown, name, f"no input {', '.join(map(str, unknown))}; its inputs: {', '.join(names)}")
    return arrays


def output_names(ends: Sequence[End]) -> list[str]:
    """A name for each: its own where no other has it, else `output0`, …"""
    names = [end.name for end in ends]
    return [n if n and names.count(n) == 1 else f"output{k}" for k, n in enumerate(names)]

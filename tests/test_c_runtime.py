"""The driver in C and what `lepton compile --c` writes, compiled for this machine, with a device behind its functions
that runs the image on the instruction-set simulator and sees memory only when the driver cleans and forgets caches.

Expected bytes are those of TensorFlow Lite Micro, recorded beside the models.
"""

import ctypes
import subprocess
from ctypes import CFUNCTYPE, POINTER, Structure, c_char, c_size_t, c_uint32, c_void_p
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from conftest import shared_folder

from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.spec.isa import Reg, Region, Status
from lepton.rtl.spec.registers import REGISTERS
from lepton.sw.cli import main
from lepton.sw.compiler import compile_model
from lepton.sw.csource import c_files, identifier
from lepton.sw.deploy import deploy
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.iss import Iss, IssError

FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-pedantic", "-O1"]
SANITIZE = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
OFFSET = {r.name: r.offset for r in REGISTERS}
NAME = {r.offset: r.name for r in REGISTERS}
IMAGE_AT, ARENA_AT = 0x2340, 0x400000
OK, BUSY, NO_DEVICE, WRONG_VERSION, WRONG_MACHINE, BAD_ARGUMENT, NOT_LOADED, BAD_PROGRAM, BUS_ERROR, STALLED, LOST = (
    range(11)
)
SMALL = replace(get_config("small"), memory_bytes=1 << 23)
NARROW = NpuConfig(
    "narrow", act_bytes=4096, weight_tiles=64, params=512, line_depth=64, memory_width=4, memory_bytes=1 << 23
)
"""Networks pass through the chip."""

READ = CFUNCTYPE(c_uint32, c_void_p, c_uint32)
WRITE = CFUNCTYPE(None, c_void_p, c_uint32, c_uint32)
ADDRESS = CFUNCTYPE(c_uint32, c_void_p, c_void_p)
CACHE = CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)
IDLE = CFUNCTYPE(None, c_void_p)
CALLBACK = CFUNCTYPE(None, c_void_p, ctypes.c_int, c_void_p)


class System(Structure):
    _fields_ = [
        ("read", READ),
        ("write", WRITE),
        ("address", ADDRESS),
        ("clean", CACHE),
        ("invalidate", CACHE),
        ("idle", IDLE),
        ("context", c_void_p),
    ]


class Device:
    """Registers and a machine behind them; a run takes until `idle` was called a few times."""

    def __init__(self, config, ready):
        self.iss = Iss(config, False, limit=1 << 30)
        self.registers = {r.name: 0 for r in REGISTERS}
        self.registers |= {reg.name: value for reg, value in identity.pack(config).items()}
        self.image_bytes = len(ready.image)
        self.arena = ctypes.create_string_buffer(ready.arena_bytes + 16)
        self.arena_at = ctypes.addressof(self.arena) + -ctypes.addressof(self.arena) % 16
        self.places: list[tuple[int, int, int]] = [(self.arena_at, ready.arena_bytes, ARENA_AT)]
        self.starts: list[int] = []
        self.left, self.outcome = 0, Status.DONE
        self.system = System(
            READ(self.read),
            WRITE(self.write),
            ADDRESS(self.address),
            CACHE(self.clean),
            CACHE(self.invalidate),
            IDLE(self.idle),
            None,
        )

    def read(self, _, offset):
        return self.registers[NAME[offset]]

    def write(self, _, offset, value):
        name = NAME[offset]
        if name == "START":
            assert self.registers["STATUS"] != Status.RUNNING, "started during a run"
            self.registers |= {"STATUS": Status.RUNNING, "RUN_ID": value}
            self.starts.append(self.registers["PC"])
            self.left = 3
        elif name == "RESET":
            self.registers |= {"STATUS": Status.IDLE, "RUN_ID": 0}
        elif name == "IRQ_STATUS":
            self.registers[name] &= ~value
        else:
            assert name in ("IMAGE", "ARENA", "PC", "IRQ_ENABLE"), name
            self.registers[name] = value
            if name in ("IMAGE", "ARENA"):
                self.iss.write(Region.REG, Reg[name], value.to_bytes(4, "little"))

    def address(self, _, pointer):
        for start, size, at in self.places:
            if start <= pointer < start + size:
                return at + pointer - start
        self.places.append((pointer, self.image_bytes, IMAGE_AT))
        return IMAGE_AT

    def clean(self, _, start, size):
        at = self.address(None, start)
        self.iss.memory[at : at + size] = np.frombuffer(ctypes.string_at(start, size), np.uint8)

    def invalidate(self, _, start, size):
        at = self.address(None, start)
        ctypes.memmove(start, self.iss.memory[at : at + size].tobytes(), size)

    def idle(self, _):
        assert self.registers["IRQ_ENABLE"] == 3, "who waits for the interrupt waits for ever"
        self.left -= 1
        if self.left == 0 and self.registers["STATUS"] == Status.RUNNING:
            status = self.outcome
            if status is Status.DONE:
                try:
                    self.iss.run(self.registers["PC"])
                except IssError as error:
                    status = error.status
            self.registers |= {"STATUS": status, "IRQ_STATUS": 1 if status is Status.DONE else 2}


class Network:
    """A model in C, compiled to a library, and a device for it."""

    def __init__(self, path, config, folder):
        self.ready = deploy(compile_model(load_model(str(path)), config))
        contents = c_files(self.ready)
        self.name = identifier(Path(path).stem)
        for file, text in contents.items():
            (folder / file).write_text(text)
        sources = [f"{self.name}.c", "lepton.c"]
        command = ["gcc", *FLAGS, *SANITIZE, "-shared", "-fPIC", *sources, "-o", "net.so"]
        subprocess.run(command, cwd=folder, check=True)
        subprocess.run(["gcc", *FLAGS, *sources, "main.c", "-o", "example"], cwd=folder, check=True)
        self.c = ctypes.CDLL(str(folder / "net.so"))
        self.model = ctypes.addressof((c_char * 1).in_dll(self.c, f"{self.name}_model"))
        self.device = Device(config, self.ready)
        self.handle = ctypes.create_string_buffer(256)
        self.c.lepton_text.restype = ctypes.c_char_p

    def open(self):
        return self.c.lepton_open(self.handle, POINTER(System)(self.device.system))

    def load(self, skip=0, less=0):
        arena = c_void_p(self.device.arena_at + skip)
        return self.c.lepton_load(self.handle, c_void_p(self.model), arena, c_size_t(self.ready.arena_bytes - less))

    def run(self, x):
        """The output of the typed function."""
        model = self.ready.program.model
        out = np.zeros(model.tensors[model.outputs[0]].shape, np.int8)
        x = np.ascontiguousarray(x)
        code = self.c[f"{self.name}_run"](self.handle, x.ctypes.data_as(c_void_p), out.ctypes.data_as(c_void_p))
        return code, out


def digits(tmp_path, config=SMALL):
    folder = Path(str(files("lepton.sw") / "models"))
    with np.load(folder / "digits.npz") as data:
        x, known = data["x"][:3], data["tflm"][:3]
    return Network(folder / "digits.tflite", config, tmp_path), x, known


FOLDER = shared_folder()
MODELS = sorted([*(FOLDER / "models").glob("*.tflite"), *(FOLDER / "zoo").glob("*.tflite")])


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_reference_models(path, tmp_path):
    """The recorded bytes, by the typed function."""
    net = Network(path, SMALL, tmp_path)
    assert (net.open(), net.load()) == (OK, OK)
    with np.load(path.with_suffix(".npz")) as data:
        x, known = data["input"], data["output"]
    for k in range(min(2, len(x))):
        code, y = net.run(x[k])
        assert code == OK and np.array_equal(y.reshape(-1), known[k].reshape(-1))


@pytest.mark.parametrize("config", [SMALL, NARROW], ids=lambda c: c.name)
def test_digits(config, tmp_path):
    net, images, known = digits(tmp_path, config)
    assert (net.open(), net.load()) == (OK, OK)
    assert bool(net.ready.program.arena_bytes) == (config is NARROW)
    for x, want in zip(images, known):
        code, y = net.run(x)
        assert code == OK and np.array_equal(y.reshape(-1), want.reshape(-1))


def test_softmax_of_everything(tmp_path):
    """All spreads of two values, and long rows, against the golden model's arithmetic."""
    from lepton.sw.reference import arith

    net, *_ = digits(tmp_path)
    source = '#include "lepton.c"\nvoid row(const int8_t *in, int8_t *out, uint32_t n, const int32_t *t);\n'
    source += "void row(const int8_t *in, int8_t *out, uint32_t n, const int32_t *t) { softmax_row(in, out, n, t); }\n"
    (tmp_path / "row.c").write_text(source)
    subprocess.run(["gcc", *FLAGS, *SANITIZE, "-shared", "-fPIC", "row.c", "-o", "row.so"], cwd=tmp_path, check=True)
    row = ctypes.CDLL(str(tmp_path / "row.so")).row
    rng = np.random.default_rng(1)
    rows = [np.array([127, 127 - k], np.int8) for k in range(256)]
    rows += [rng.integers(-128, 128, n).astype(np.int8) for n in (1, 3, 10, 100, 257, 1000) for _ in range(20)]
    for scale in (0.001, 0.02, 0.1, 0.7, 3.0):
        table = np.array(arith.softmax_exponentials(scale, 1.0), np.int32)
        for x in rows:
            out = np.zeros(len(x), np.int8)
            row(*(a.ctypes.data_as(c_void_p) for a in (x, out)), len(x), table.ctypes.data_as(c_void_p))
            assert np.array_equal(out, arith.softmax(x, scale)), (scale, x)


def test_by_interrupts(tmp_path):
    """Started with a callback, driven by lepton_step alone."""
    net, images, known = digits(tmp_path)
    assert (net.open(), net.load()) == (OK, OK)
    assert net.device.registers["IRQ_ENABLE"] == 3
    ended = []
    callback = CALLBACK(lambda handle, result, argument: ended.append((result, argument)))
    x = np.ascontiguousarray(images[0])
    assert net.c.lepton_set_input(net.handle, 0, x.ctypes.data_as(c_void_p), c_size_t(x.nbytes)) == OK
    assert net.c.lepton_start(net.handle, callback, c_void_p(77)) == OK
    runs = 0
    while not ended:
        assert net.c.lepton_step(net.handle) == BUSY and net.c.lepton_start(net.handle, None, None) == BUSY
        assert net.load() == BUSY
        while not net.device.registers["IRQ_STATUS"]:
            net.device.idle(None)
        runs += 1
        net.c.lepton_step(net.handle)
        assert net.device.registers["IRQ_STATUS"] == 0
    assert ended == [(OK, 77)] and net.c.lepton_step(net.handle) == OK
    y = np.zeros(10, np.int8)
    assert net.c.lepton_get_output(net.handle, 0, y.ctypes.data_as(c_void_p), c_size_t(10)) == OK
    assert np.array_equal(y, known[0].reshape(-1)) and runs == len(net.ready.steps) - 1


def test_what_goes_wrong_is_told(tmp_path):
    net, images, known = digits(tmp_path)
    registers = net.device.registers
    for name, value, code in (("MAGIC", 0xFFFFFFFF, NO_DEVICE), ("VERSION", isa.VERSION + 1, WRONG_VERSION)):
        good, registers[name] = registers[name], value
        assert net.open() == code
        registers[name] = good
    assert net.open() == OK
    assert net.run(images[0])[0] == NOT_LOADED and net.c.lepton_invoke(net.handle) == NOT_LOADED
    for reg in identity.pack(SMALL):
        if reg not in (Reg.MAGIC, Reg.VERSION, Reg.EXTERNAL_BYTES):
            registers[reg.name] += 1
            assert net.load() == WRONG_MACHINE, reg
            registers[reg.name] -= 1
    assert net.load(skip=4) == BAD_ARGUMENT and net.load(less=1) == BAD_ARGUMENT
    net.device.outcome = Status.BUS_ERROR
    assert net.load() == BUS_ERROR and net.run(images[0])[0] == NOT_LOADED
    net.device.outcome = Status.DONE
    assert net.load() == OK
    x = images[0].ctypes.data_as(c_void_p)
    assert net.c.lepton_set_input(net.handle, 1, x, c_size_t(64)) == BAD_ARGUMENT
    assert net.c.lepton_set_input(net.handle, 0, x, c_size_t(63)) == BAD_ARGUMENT
    assert net.c.lepton_get_output(net.handle, 0, x, c_size_t(9)) == BAD_ARGUMENT
    codes = {
        Status.BAD_OPCODE: BAD_PROGRAM,
        Status.BAD_INSTRUCTION: BAD_PROGRAM,
        Status.BAD_ADDRESS: BAD_PROGRAM,
        Status.STALLED: STALLED,
        Status.BUS_ERROR: BUS_ERROR,
        Status.IDLE: LOST,
    }
    assert {*codes, Status.RUNNING, Status.DONE} == {*Status}
    for status, code in codes.items():
        net.device.outcome = status
        assert net.run(images[0])[0] == code, status
    net.device.outcome = Status.DONE
    code, y = net.run(images[0])
    assert code == OK and np.array_equal(y.reshape(-1), known[0].reshape(-1))
    texts = [net.c.lepton_text(k).decode() for k in range(-1, 12)]
    assert texts[0] == texts[-1] == "unknown result" and len(set(texts)) == 12


def test_a_device_that_was_reset_is_lost(tmp_path):
    net, images, _ = digits(tmp_path)
    assert (net.open(), net.load()) == (OK, OK)
    assert net.c.lepton_start(net.handle, None, None) == OK
    net.device.registers["RUN_ID"] = 0
    assert net.c.lepton_step(net.handle) == LOST
    net.c.lepton_reset(net.handle)
    assert net.run(images[0])[0] == NOT_LOADED


def test_the_driver_is_small_and_needs_no_library(tmp_path):
    """Freestanding: nothing from outside but memcpy, no data that is written, less than 8 KB of code."""
    net, *_ = digits(tmp_path)
    subprocess.run(["gcc", *FLAGS, "-Os", "-ffreestanding", "-c", "lepton.c"], cwd=tmp_path, check=True)
    symbols = subprocess.run(["nm", "lepton.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    kinds = [line.split()[-2:] for line in symbols.splitlines()]
    assert {name for kind, name in kinds if kind == "U"} <= {"memcpy", "_GLOBAL_OFFSET_TABLE_"}
    assert not {name for kind, name in kinds if kind in "BbDC"}
    sizes = subprocess.run(["size", "lepton.o"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert int(sizes.splitlines()[1].split()[0]) < 8192


def test_the_analyser_is_silent_and_the_example_for_linux_builds(tmp_path):
    digits(tmp_path)
    analyse = ["gcc", *FLAGS, "-O2", "-fanalyzer", "-c", "lepton.c", "-o", "analysed.o"]
    subprocess.run(analyse, cwd=tmp_path, check=True)
    example = Path(__file__).resolve().parents[1] / "examples" / "lepton_uio.c"
    model = ["-I.", '-DMODEL_HEADER="digits.h"', "-DMODEL=digits_model"]
    build = ["gcc", *FLAGS, *model, str(example), "digits.c", "lepton.c", "-o", "uio"]
    subprocess.run(build, cwd=tmp_path, check=True)
    done = subprocess.run(["./uio", "no", "no", "0", "no", "no"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("no: ")


def test_command_line(tmp_path, capsys):
    model = str(files("lepton.sw") / "models" / "digits.tflite")
    assert main(["compile", model, "--config", "small", "--c", str(tmp_path / "c")]) == 0
    ready = deploy(compile_model(load_model(model), get_config("small")))
    sizes = f"image {len(ready.image):,} bytes, arena {ready.arena_bytes:,}"
    assert sizes in capsys.readouterr().out and ready.arena_bytes >= 64
    names = "digits.h digits.c main.c lepton_regs.h lepton.c lepton.h lepton_model.h".split()
    assert {p.name for p in (tmp_path / "c").iterdir()} == set(names)
    assert main(["compile", model]) == 2
    assert "give --output FILE" in capsys.readouterr().err
    assert main(["compile", model, "--config", "up5k", "--c", str(tmp_path / "no")]) == 2
    assert "has no memory port" in capsys.readouterr().err and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    "name, want", [("a b-c", "a_b_c"), ("3x", "net_3x"), ("lepton", "net_lepton"), ("", "model"), ("Ünï", "n")]
)
def test_names(name, want):
    assert identifier(name) == want

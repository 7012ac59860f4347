"""Files made to hurt: arrays, configurations, programs. One line, exit code 2, quickly, in little memory."""

import io
import json
import os
import resource
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import get_config
from lepton.sw import cli, integrity
from lepton.sw.arrays import ArrayError, holds, read_arrays
from lepton.sw.compiler import CompileError, compile_model
from lepton.sw.files import DIGITS
from lepton.sw.graph.reader import load_model
from lepton.sw.program_file import dump_program, parse_program

SMALL = get_config("small")


def header(text: str, data: bytes = b"", version=1) -> bytes:
    raw = text.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(raw).to_bytes(2 if version == 1 else 4, "little") + raw + data


def archive(*members: tuple[str, bytes], method=zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in members:
            file.writestr(name, data)
    return out.getvalue()


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def shaped(shape: str, descr="|i1", data=b"") -> bytes:
    return header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}", data)


def encrypted() -> bytes:
    """The flag of encryption set in both headers of the only member."""
    data = bytearray(archive(("x.npy", npy(np.zeros((1, 8, 8, 1), np.int8))), method=zipfile.ZIP_STORED))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


ARRAYS = {
    "terabytes": shaped("(10000000000000, 8, 8, 1)", data=bytes(64)),
    "negative": shaped("(-1, 8)", data=bytes(8)),
    "overflow": shaped("(4294967296, 4294967296, 4294967296)"),
    "ends early": shaped("(1, 8, 8, 1)", data=bytes(10)),
    "goes on": shaped("(1, 8, 8, 1)", data=bytes(100)),
    "brackets": header("(" * 9000, version=2),
    "code": header("__imp" + "ort__('os').abort()"),
    "objects": shaped("(1,)", "|O8", bytes(8)),
    "records": header("{'descr': [('a', '|i1')], 'fortran_order': False, 'shape': (1,), }", b"\0"),
    "long header": header(" " * 70000, version=2),
    "encrypted": encrypted(),
    "a lying archive": archive(("x.npy", shaped("(900000000000,)"))),
    "a bomb": archive(("x.npy", shaped("(539000000,)", data=bytes(1 << 20)) + bytes((1 << 29) + (1 << 20)))),
    "bz2": archive(("x.npy", npy(np.zeros((1, 8, 8, 1), np.int8))), method=zipfile.ZIP_BZIP2),
    "lzma": archive(("x.npy", npy(np.zeros((1, 8, 8, 1), np.int8))), method=zipfile.ZIP_LZMA),
    "many": archive(*((f"{k}.npy", b"") for k in range(5000))),
}


COMMANDS = {
    "run": ["run", str(DIGITS), "--input", "x.npz", "--output", "y.npy"],
    "evaluate": ["evaluate", str(DIGITS), "x.npz"],
    "import": ["import", str(DIGITS), "-o", "y.tflite", "--calibrate", "x.npz"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", ARRAYS)
def test_arrays(tmp_path, capsys, monkeypatch, what, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npz").write_bytes(ARRAYS[what])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert cli.main(COMMANDS[command]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "x.npz" in error and len(error) < 400
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("dtype", ["int8", "uint8", "<i2", ">i4", "<i8", "<f4", "<f8", "<f2", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_writes_is_read(tmp_path, dtype, order):
    """All that `np.save` writes of plain numbers, as `np.load` reads it."""
    rng = np.random.default_rng(4)
    for shape in ((), (3,), (2, 3, 4), (0, 5)):
        array = np.array(rng.integers(0, 2, shape), dtype, order=order)
        np.save(tmp_path / "x.npy", array)
        np.savez_compressed(tmp_path / "x.npz", a=array, b=array)
        for found in (read_arrays(tmp_path / "x.npy")["x"], *read_arrays(tmp_path / "x.npz").values()):
            assert found.dtype == array.dtype and found.shape == array.shape and np.array_equal(found, array)


def test_what_is_unpacked_is_there_once(tmp_path):
    """128 MB of zeros of a few kB."""
    x = tmp_path / "x.npz"
    x.write_bytes(archive(("x.npy", shaped("(134217728,)", data=bytes(1 << 27)))))
    tracemalloc.start()
    assert read_arrays(x)["x"].nbytes == 1 << 27
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * (1 << 27)


def test_what_is_not_asked_for_may_be_anything(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.arange(3), names=np.array(["cat", "dog"]), meta=np.array({"a": 1}))
    assert read_arrays(tmp_path / "x.npz", ["x", "y"])["x"].tolist() == [0, 1, 2]
    assert holds(tmp_path / "x.npz") == "x, names, meta"
    with pytest.raises(ArrayError, match="not of an array of numbers"):
        read_arrays(tmp_path / "x.npz")


def test_no_file(tmp_path):
    with pytest.raises(ArrayError, match="no such file"):
        read_arrays(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "text",
    [
        '{"rows":8.0,"cols":8.0}',
        '{"weight_tiles":1e5,"params":4096.5}',
        '{"rows":true}',
        '{"name":5}',
        '{"config":[1]}',
        "[1, 2]",
        "3",
        "[" * 1_000_000,
        '{"rows":' + "9" * 5000 + "}",
        '{"rows":1e999}',
        " " * (2 << 20),
        json.dumps({"name": "n" * 500_000, "rows": 99}),
        json.dumps({"n" * 500_000: 1}),
        json.dumps({"multiplier": "n" * 500_000}),
        json.dumps({"name": "8x8\nendmodule"}),
    ],
    ids="floats counts bool name list text number nesting digits infinity spaces names keys values lines".split(),
)
def test_configurations(tmp_path, capsys, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    assert cli.main(["verilog", "--config", str(path), "-o", str(tmp_path / "npu.v")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 400 and not (tmp_path / "npu.v").exists()


def test_what_is_no_file(tmp_path, capsys):
    """A pipe that nobody writes to, a device without end, links in a circle."""
    pipe, zeros, circle = (tmp_path / f"{n}.json" for n in ("pipe", "zeros", "circle"))
    os.mkfifo(pipe)
    zeros.symlink_to("/dev/zero")
    circle.symlink_to(circle)
    for name in (pipe, zeros, circle):
        commands = [
            ["verilog", "--config", name, "-o", tmp_path / "npu.v"],
            ["check", name],
            ["run", DIGITS, "--input", name, "--output", tmp_path / "y.npy"],
        ]
        for command in commands:
            assert cli.main([str(c) for c in command]) == 2
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and name.name in error
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8, 1), np.int8))
    assert cli.main(["run", str(DIGITS), "--input", str(tmp_path / "x.npy"), "--output", str(circle)]) in (0, 2)


@pytest.fixture(scope="module")
def digits() -> dict[str, bytes]:
    """Members of the program file of the digits."""
    data = dump_program(compile_model(load_model(DIGITS), SMALL), DIGITS.read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def changed(members, **index) -> bytes:
    """The program file with other values in program.json; a function gets the old value."""
    told = json.loads(members["program.json"])
    for key, value in index.items():
        told[key] = value(told[key]) if callable(value) else value
    members = members | {"program.json": json.dumps(told).encode()}
    del members[integrity.MANIFEST]
    return archive(*members.items(), (integrity.MANIFEST, integrity.manifest(members, {})))


def first_place(**values):
    """Change the place of the model's input."""

    def change(places):
        places["0"].update({k: v for k, v in values.items() if k != "stack"})
        if "stack" in values:
            places["0"]["stack"] = (places["0"]["stack"] or {}) | values["stack"]
        return places

    return change


INDEXES = {
    "a step of no operator": dict(steps=lambda s: [{"kind": "HostStep", "operator": 99}, *s]),
    "no steps": dict(steps=[]),
    "a step behind the program": dict(steps=[{"kind": "NpuStep", "pc": 5000}]),
    "a step of another kind": dict(steps=[{"kind": "Stop", "pc": 0}]),
    "a step with more": dict(steps=[{"kind": "NpuStep", "pc": 0, "x": 1}]),
    "a step that is text": dict(steps=[{"kind": "NpuStep", "pc": "0"}]),
    "steps that are none": dict(steps=7),
    "the same step again": dict(steps=lambda s: s * 1000),
    "outputs without a place": dict(places={}),
    "a place outside": dict(places=first_place(address=65530)),
    "a negative place": dict(places=first_place(address=-1)),
    "a place of no tensor": dict(places=lambda p: p | {"999": p["0"]}),
    "a place of text": dict(places=lambda p: p | {"a": p["0"]}),
    "a huge layout": dict(places=first_place(stack=dict(h=10**9, bottom=10**9, out_h=10**9))),
    "a layout of nothing": dict(places=first_place(stack=dict(kernel=0, out_h=0))),
    "a layout with more": dict(places=first_place(stack=dict(more=1))),
    "a layer of no operator": dict(layers=lambda all: [*all[:-1], all[-1] | {"operators": [77]}]),
    "a layer beyond the program": dict(layers=lambda all: [*all[:-1], all[-1] | {"end_word": 10**6}]),
    "another format": dict(format=99),
    "no setup": dict(setup=None),
    "a setup beyond the program": dict(setup=10**6),
    "a setup of text": dict(setup="x"),
    "an arena beyond the memory": dict(arena_bytes=10**9),
    "a configuration of floats": dict(config=lambda c: c | {"rows": 8.0}),
    "a peak of text": dict(peak_bytes="much"),
}


@pytest.mark.parametrize("what", INDEXES)
def test_programs(digits, what):
    with pytest.raises(CompileError) as error:
        parse_program(changed(digits, **INDEXES[what]))
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("member", ["weights.bin", "params.bin", "program.bin", "external.bin", "program.json"])
def test_members_larger_than_their_memory_are_not_unpacked(digits, member):
    size = {"external.bin": 1 << 27, "program.json": 1 << 24}.get(member, 1 << 25) + 1
    data = archive(*(digits | {member: bytes(size)}).items())
    assert len(data) < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CompileError, match=f"{member} has {size:,} bytes"):
        parse_program(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_could_unpack_to_anything(digits, method):
    """Python unpacks these as far as they go, whatever size their header says."""
    with pytest.raises(CompileError, match=f"program.json is packed by method {method}"):
        parse_program(archive(*digits.items(), method=method))


def test_a_program_that_never_ends(digits, tmp_path, capsys):
    """One MUL over 4095 x 4095 vectors and 4095 groups: the ISS stops at more than the model can need."""
    words = isa.encode(isa.LOAD, count=4095)
    words += isa.encode(isa.MUL, init=1, release=1, still=1, groups=4095, width=4095, height=4095, x_limit=8, y_limit=8)
    words += isa.encode(isa.END)
    program = np.array(words, "<u8").tobytes()
    layers = json.loads(digits["program.json"])["layers"]
    layers = [entry | {"first_word": 0, "end_word": 1} for entry in layers]
    path, x = tmp_path / "p.lepton", tmp_path / "x.npy"
    path.write_bytes(changed(digits | {"program.bin": program}, layers=layers, setup=len(words) - 1))
    np.save(x, np.zeros((1, 8, 8, 1), np.int8))
    start = time.monotonic()
    assert cli.main(["run", str(path), "--input", str(x), "--output", str(tmp_path / "y.npy"), "--backend", "iss"]) == 2
    assert "no end after" in capsys.readouterr().err and time.monotonic() - start < 10


def test_a_large_file_is_refused_before_it_is_read(tmp_path, capsys):
    """600 MB of nothing, which the disk does not even hold."""
    path = tmp_path / "m.tflite"
    with open(path, "wb") as file:
        file.truncate(600 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for command in ("info", "check"):
        assert cli.main([command, str(path)]) == 2
        assert "268" in capsys.readouterr().err
    assert cli.main(["compile", str(path), "-o", str(tmp_path / "p")]) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000

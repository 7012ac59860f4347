"""Inputs and outputs of any number, rank and first dimension, in their own types: on golden and ISS, and from files."""

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
import interpreter

from lepton.sw import cli
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model
from lepton.sw.session import Session

BACKENDS = ("golden", "iss")
RNG = np.random.default_rng(5)


def act(name, *shape, scale=0.05, zero=3):
    return TensorSpec(name, shape, "int8", [scale], [zero])


def conv(name, channels_in, channels):
    scale = RNG.uniform(0.004, 0.01, channels).astype(np.float32)
    data = RNG.integers(-127, 128, (channels, 3, 3, channels_in)).astype(np.int8)
    return TensorSpec(name, data.shape, "int8", scale, [0], 0, data)


CONV = dict(Padding=0, StrideH=1, StrideW=1)


def two_in_two_out() -> bytes:
    """(a, b) -> conv(a) + b, and the logistic of that: the first is read by the second."""
    shape = (1, 5, 4, 6)
    tensors = [act("a", 1, 5, 4, 3), act("b", *shape), conv("w", 3, 6), act("c", *shape), act("sum", *shape)]
    tensors.append(act("gate", *shape, scale=1 / 256, zero=-128))
    operators = [
        OperatorSpec("CONV_2D", [0, 2], [3], "Conv2DOptions", CONV),
        OperatorSpec("ADD", [3, 1], [4], "AddOptions"),
        OperatorSpec("LOGISTIC", [4], [5]),
    ]
    return write_model(tensors, operators, [0, 1], [5, 4])


def first_dimension() -> bytes:
    """(6, 4) -> a ReLU of three rows of eight; nothing has a batch."""
    shape = np.array([3, 8], np.int32)
    tensors = [act("x", 6, 4), TensorSpec("shape", (2,), "int32", data=shape), act("r", 3, 8), act("y", 3, 8)]
    operators = [OperatorSpec("RESHAPE", [0, 1], [2], "ReshapeOptions"), OperatorSpec("RELU", [2], [3])]
    return write_model(tensors, operators, [0], [3])


def ends_meet() -> bytes:
    """An input that is an output, an output twice, and a scalar."""
    axes = TensorSpec("axes", (1,), "int32", data=np.array([0], np.int32))
    tensors = [act("x", 7), act("y", 7), axes, act("m")]
    operators = [
        OperatorSpec("RELU", [0], [1]),
        OperatorSpec("MEAN", [0, 2], [3], "ReducerOptions", dict(KeepDims=False)),
    ]
    return write_model(tensors, operators, [0], [1, 0, 3, 1])


def expected(data, *inputs):
    count = len(load_model(data).outputs)
    shapes = [load_model(data).tensors[i].shape for i in load_model(data).inputs]
    return interpreter.outputs(data, *(x.reshape(len(x), *s) for x, s in zip(inputs, shapes)), count=count)


def random(*shape):
    return RNG.integers(-128, 128, shape).astype(np.int8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_inputs_and_outputs(backend):
    data = two_in_two_out()
    a, b = random(3, 5, 4, 3), random(3, 5, 4, 6)
    gate, total = expected(data, a, b)
    session = Session(load_model(data), backend=backend)
    for x in ([a, b], {"a": a, "b": b}, {"input0": a, "input1": b}, {"b": b, "input0": a}):
        found = session.run(x)
        assert list(found) == ["gate", "sum"]
        assert np.array_equal(found["gate"], gate[:, 0]) and np.array_equal(found["sum"], total[:, 0])
        assert all(y.dtype == np.int8 for y in found.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_first_dimension_is_no_batch(backend):
    data = first_dimension()
    x = random(4, 6, 4)
    (want,) = expected(data, x)
    found = Session(load_model(data), backend=backend).run(x)
    assert found.shape == (4, 3, 8) and np.array_equal(found, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ends_that_meet(backend):
    data = ends_meet()
    x = random(5, 7)
    want = expected(data, x)
    found = Session(load_model(data), backend=backend).run(x)
    assert list(found) == ["output0", "x", "m", "output3"]
    for (name, y), w in zip(found.items(), want, strict=True):
        assert np.array_equal(y, w), name
    assert found["m"].shape == (5,) and np.array_equal(found["x"], x)


def test_the_same_tensor_twice_as_input():
    """The interpreter has one tensor behind both: the last array is what it holds."""
    tensors = [act("x", 1, 4), act("y", 1, 4)]
    data = write_model(tensors, [OperatorSpec("ADD", [0, 0], [1], "AddOptions")], [0, 0], [1])
    a, b = random(2, 4), random(2, 4)
    (want,) = expected(data, a, b)
    assert np.array_equal(Session(load_model(data), backend="golden").run([a, b]), want[:, 0])


def test_ends_are_described():
    session = Session(load_model(two_in_two_out()), backend="golden")
    a, b = session.inputs
    assert (a.name, a.shape, a.dtype, a.zero_point) == ("a", (1, 5, 4, 3), np.int8, 3)
    assert a.scale == np.float32(0.05) and b.row == (5, 4, 6) and str(b) == "int8 (N, 5, 4, 6)"
    assert [end.name for end in session.outputs] == ["gate", "sum"] and session.outputs[0].scale == 1 / 256


@pytest.mark.parametrize(
    "x, says",
    [
        (random(1, 5, 4, 3), "1 array for 2 inputs: a, b"),
        ([random(2, 5, 4, 3), random(1, 5, 4, 6)], "1 rows, 2 of the first"),
        (
            [random(2, 5, 4, 3), random(2, 5, 4, 5)],
            r"input 'b' is int8 \(2, 5, 4, 5\), the model takes int8 \(N, 5, 4, 6\)",
        ),
        ({"a": random(1, 5, 4, 3)}, "no array for its input 'b' .input1.; given: a"),
        ({"a": random(1, 5, 4, 3), "b": random(1, 5, 4, 6), "c": random(1)}, "no input c"),
        ([random(1, 5, 4, 3).astype(np.float32), random(1, 5, 4, 6)], "quantize it with scale 0.05 and zero point 3"),
    ],
)
def test_wrong_inputs_are_told(x, says):
    with pytest.raises(ModelError, match=says):
        Session(load_model(two_in_two_out()), backend="golden").run(x)


@pytest.fixture
def files(tmp_path):
    """A model of two inputs and two outputs as a file, and arrays for it."""
    path = tmp_path / "two.tflite"
    path.write_bytes(two_in_two_out())
    return path, random(3, 5, 4, 3), random(3, 5, 4, 6)


def lepton(*args) -> int:
    return cli.main([str(a) for a in args])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("names", [("a", "b"), ("input0", "input1"), ("input0", "b")])
def test_files_of_several_arrays(files, tmp_path, backend, names):
    path, a, b = files
    np.savez(tmp_path / "x.npz", **dict(zip(names, (a, b))), other=np.zeros(3))
    assert lepton("run", path, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz", "--backend", backend) == 0
    gate, total = expected(path.read_bytes(), a, b)
    with np.load(tmp_path / "y.npz") as y:
        assert sorted(y) == ["gate", "output0", "output1", "sum"]
        assert np.array_equal(y["output0"], gate[:, 0]) and np.array_equal(y["sum"], total[:, 0])
        assert np.array_equal(y["gate"], y["output0"]) and np.array_equal(y["sum"], y["output1"])


@pytest.mark.parametrize(
    "output, says",
    [
        ("y.npy", "has 2 outputs; give a name that ends in .npz"),
        ("x.npz", "written over"),
        ("two.tflite", "written over"),
    ],
)
def test_outputs_that_are_refused(files, tmp_path, capsys, output, says):
    """Before anything runs: several outputs in one array, and files that would be lost."""
    path, a, b = files
    np.savez(tmp_path / "x.npz", a=a, b=b)
    before = (tmp_path / "x.npz").read_bytes(), path.read_bytes()
    assert lepton("run", path, "--input", tmp_path / "x.npz", "--output", tmp_path / output) == 2
    assert says in capsys.readouterr().err
    assert before == ((tmp_path / "x.npz").read_bytes(), path.read_bytes()) and not (tmp_path / "y.npy").exists()


def test_real_numbers_at_the_ends(files, tmp_path):
    """--float: as the interpreter's user would quantize, run, and dequantize."""
    path, *_ = files
    a, b = RNG.normal(0, 3, (2, 5, 4, 3)), RNG.normal(0, 3, (2, 5, 4, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", a=a, b=b)
    assert lepton("run", path, "--float", "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npz") == 0

    def quantized(x):
        real = np.asarray(x, np.float32) / np.float32(0.05)
        return np.clip(np.sign(real) * np.floor(np.abs(real) + np.float32(0.5)) + 3, -128, 127).astype(np.int8)

    gate, total = expected(path.read_bytes(), quantized(a), quantized(b))
    with np.load(tmp_path / "y.npz") as y:
        assert y["gate"].dtype == np.float32
        assert np.array_equal(y["gate"], (gate[:, 0].astype(np.float32) + 128) / 256)
        assert np.array_equal(y["sum"], (total[:, 0].astype(np.float32) - 3) * np.float32(0.05))


def test_a_model_is_not_compiled_over_itself(files, capsys):
    path, *_ = files
    before = path.read_bytes()
    assert lepton("compile", path, "-o", path) == 2
    assert "written over" in capsys.readouterr().err and path.read_bytes() == before


def test_numbers_of_the_other_byte_order(files):
    """An int32 input from a machine of the other kind."""
    tensors = [TensorSpec("x", (1, 3), "int32"), TensorSpec("y", (1, 3), "int32")]
    data = write_model(tensors, [OperatorSpec("RESHAPE", [0], [1])], [0], [1])
    x = np.array([[1, -2, 3 << 20]], np.int32)
    assert Session(load_model(data), backend="golden").run(x.astype(">i4")).tolist() == x.tolist()


def test_info_tells_it(files, capsys):
    path, *_ = files
    assert lepton("info", path) == 0
    text = capsys.readouterr().out
    assert "input0    a: int8 1 x 5 x 4 x 3, scale 0.05, zero point 3" in text
    assert "output0   gate: int8 1 x 5 x 4 x 6, scale 0.00390625, zero point -128" in text
    assert "CONV_2D 1" in text and "state     none" in text


def test_a_compiled_file_has_its_own_configuration(files, tmp_path, capsys):
    path, a, b = files
    np.savez(tmp_path / "x.npz", a=a, b=b)
    program, x, y = tmp_path / "two.lepton", tmp_path / "x.npz", tmp_path / "y.npz"
    assert lepton("compile", path, "-o", program, "--config", "small") == 0
    assert lepton("run", program, "--input", x, "--output", y, "--backend", "iss", "--config", "large") == 2
    assert "compiled for configuration 'small', not for 'large'" in capsys.readouterr().err
    assert lepton("run", program, "--input", x, "--output", y, "--backend", "iss", "--config", "small") == 0
    with np.load(y) as found:
        assert np.array_equal(found["output0"], expected(path.read_bytes(), a, b)[0][:, 0])

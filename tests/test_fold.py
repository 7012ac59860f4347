"""What is known when a model is read: constants and operators that vanish."""

import time

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
import interpreter

from lepton.sw.graph.reader import load_model
from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model
from lepton.sw.session import Session

RNG = np.random.default_rng(3)


def act(name, *shape, data=None):
    return TensorSpec(name, shape, "int8", [0.05], [-3], data=data)


def ints(name, *values):
    return TensorSpec(name, (len(values),), "int32", data=np.array(values, np.int32))


def keras_flatten() -> bytes:
    """A free batch as Keras writes it: SHAPE, STRIDED_SLICE, PACK with -1, RESHAPE."""
    tensors = [
        act("x", 1, 2, 3, 4),
        TensorSpec("shape", (4,), "int32"),
        ints("0", 0),
        ints("1", 1),
        TensorSpec("batch", (), "int32"),
        TensorSpec("rest", (), "int32", data=np.array(-1, np.int32)),
        TensorSpec("new", (2,), "int32"),
        act("y", 1, 24),
        act("r", 1, 24),
    ]
    operators = [
        OperatorSpec("SHAPE", [0], [1], "ShapeOptions", dict(OutType=2)),
        OperatorSpec("STRIDED_SLICE", [1, 2, 3, 3], [4], "StridedSliceOptions", dict(ShrinkAxisMask=1)),
        OperatorSpec("PACK", [4, 5], [6], "PackOptions", dict(ValuesCount=2)),
        OperatorSpec("RESHAPE", [0, 6], [7], "ReshapeOptions"),
        OperatorSpec("RELU", [7], [8]),
    ]
    return write_model(tensors, operators, [0], [8])


@pytest.mark.parametrize("backend", ["golden", "iss"])
def test_a_free_batch(backend):
    data = keras_flatten()
    model = load_model(data)
    assert [(op.index, op.op) for op in model.operators] == [(3, "RESHAPE"), (4, "RELU")]  # the file's numbers
    assert model.tensors[6].data.tolist() == [1, -1] and model.tensors[4].data.shape == ()
    x = RNG.integers(-128, 128, (3, 2, 3, 4)).astype(np.int8)
    (want,) = interpreter.outputs(data, x[:, None])
    assert np.array_equal(Session(model, backend=backend).run(x), want[:, 0])


def constant_operand(op, shape, kind=None, options=None) -> bytes:
    """x + op(constant)"""
    data = RNG.integers(-128, 128, shape).astype(np.int8)
    tensors = [act("x", 1, 4, 4, 2), act("c", *shape, data=data), act("d", 1, 4, 4, 2), act("y", 1, 4, 4, 2)]
    extra = [] if op != "RESHAPE" else [4]
    tensors.append(ints("s", 1, 4, 4, 2))
    operators = [
        OperatorSpec(op, [1, *extra], [2], kind, options or {}),
        OperatorSpec("ADD", [0, 2], [3], "AddOptions"),
    ]
    return write_model(tensors, operators, [0], [3])


@pytest.mark.parametrize("backend", ["golden", "iss"])
@pytest.mark.parametrize(
    "data",
    [
        constant_operand("RELU", (1, 4, 4, 2)),
        constant_operand("RESHAPE", (2, 16), "ReshapeOptions"),
        constant_operand(
            "MAX_POOL_2D",
            (1, 5, 5, 2),
            "Pool2DOptions",
            dict(Padding=1, StrideH=1, StrideW=1, FilterHeight=2, FilterWidth=2),
        ),
    ],
    ids=["RELU", "RESHAPE", "MAX_POOL_2D"],
)
def test_operators_on_constants(data, backend):
    model = load_model(data)
    assert [op.op for op in model.operators] == ["ADD"] and model.tensors[2].constant
    x = RNG.integers(-128, 128, (2, 4, 4, 2)).astype(np.int8)
    (want,) = interpreter.outputs(data, x[:, None])
    assert np.array_equal(Session(model, backend=backend).run(x), want[:, 0])


def test_what_nobody_wants_vanishes():
    """A branch that ends nowhere; tensors that nothing uses may have any shape and type."""
    strange = [TensorSpec("empty", (1, 0, -1), "int8"), TensorSpec("half", (3,), "float16")]
    tensors = [act("x", 1, 8), act("lost", 1, 8), act("more", 1, 8), act("y", 1, 8), *strange]
    operators = [OperatorSpec("RELU", [0], [1]), OperatorSpec("RELU", [1], [2]), OperatorSpec("RELU", [0], [3])]
    model = load_model(write_model(tensors, operators, [0], [3]))
    assert [op.index for op in model.operators] == [2]


def test_a_result_that_is_always_the_same():
    """An output that is constant, beside one that is not."""
    data = constant_operand("RELU", (1, 4, 4, 2))
    tensors = [
        act("x", 1, 6),
        act("c", 1, 6, data=RNG.integers(-128, 128, (1, 6)).astype(np.int8)),
        act("d", 1, 6),
        act("y", 1, 6),
    ]
    operators = [OperatorSpec("RELU", [1], [2]), OperatorSpec("RELU", [0], [3])]
    data = write_model(tensors, operators, [0], [2, 3])
    x = RNG.integers(-128, 128, (3, 6)).astype(np.int8)
    want = interpreter.outputs(data, x[:, None], count=2)
    for backend in ("golden", "iss"):
        found = Session(load_model(data), backend=backend).run(x)
        assert np.array_equal(found["d"], want[0][:, 0]) and np.array_equal(found["y"], want[1][:, 0])


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int16", "int32", "int64", "bool", "int4"])
def test_constants_of_every_type(dtype):
    values = np.array([[-3, 2, 7], [0, 1, -8]])
    if dtype == "int4":
        low, high = values.reshape(-1)[::2] & 15, values.reshape(-1)[1::2] & 15
        raw, want = (low | high << 4).astype(np.uint8), values.astype(np.int8)
    else:
        raw = want = values.astype({"bool": bool}.get(dtype, dtype))
    tensors = [act("x", 1, 4), act("y", 1, 4), TensorSpec("c", (2, 3), dtype, data=raw)]
    model = load_model(write_model(tensors, [OperatorSpec("RELU", [0], [1])], [0], [1]))
    t = model.tensors[2]
    assert t.dtype == dtype and t.data.dtype == want.dtype and np.array_equal(t.data, want)
    assert t.nbytes == raw.nbytes and not t.data.flags.writeable


def test_constants_that_are_a_lot_of_work_are_left_to_the_run():
    """Sixty operators of four million values each: the file is read at once, all the same."""
    n = 1 << 22
    tensors = [act("x", 1, 4), act("y", 1, 4), act("c0", 1, n, data=np.zeros((1, n), np.int8))]
    tensors += [act(f"c{i}", 1, n) for i in range(1, 61)]
    operators = [OperatorSpec("RELU", [1 + i], [2 + i]) for i in range(1, 61)] + [OperatorSpec("RELU", [0], [1])]
    start = time.monotonic()
    model = load_model(write_model(tensors, operators, [0], [1, 62]))
    assert time.monotonic() - start < 20 and 20 < len(model.operators) < 61

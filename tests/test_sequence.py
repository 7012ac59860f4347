"""LSTM, SVDF, BATCH_MATMUL and SOFTMAX of the golden model against TensorFlow Lite Micro."""

import numpy as np
import pytest

from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model
from lepton.sw.reference import golden
from lepton.sw.reference.state import State


def act(shape, scale=0.05, zero=3, dtype="int8"):
    return TensorSpec("x", shape, dtype, [scale], [zero])


def const(data, scales=(), axis=0):
    scales = np.atleast_1d(scales)
    return TensorSpec("w", data.shape, data.dtype.name, scales, [0] * len(scales), axis, data)


def state(shape, scale, zero, dtype):
    return TensorSpec("state", shape, dtype, [scale], [zero], variable=True)


def model_of(op, tensors, ins, outs, kind=None, **options) -> bytes:
    given = [i for i in ins if i >= 0 and tensors[i].data is None and not tensors[i].variable]
    return write_model(tensors, [OperatorSpec(op, ins, outs, kind, options)], given, outs)


def values(rng, shape, dtype, spread=1.0):
    if dtype == "float32":
        return rng.normal(0, 4 * spread, shape).astype(np.float32)
    span = np.iinfo(dtype)
    if spread < 1:
        return np.clip(rng.normal(0, spread * span.max, shape), span.min, span.max).astype(dtype)
    return rng.integers(span.min, span.max + 1, shape).astype(dtype)


def compare(data, steps=3, seed=0, spread=1.0):
    """Golden and TensorFlow Lite Micro on random inputs, one step after the other, state carried: equal bytes.

    Returns the outputs, to look at what the inputs reached.
    """
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite_micro is not installed")
    model = load_model(data)
    rng = np.random.default_rng(seed)
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 22)
    kept, seen = State(model), []
    for _ in range(steps):
        xs = [values(rng, model.tensors[i].shape, model.tensors[i].dtype, spread) for i in model.inputs]
        for k, x in enumerate(xs):
            interpreter.set_input(x, k)
        interpreter.invoke()
        want = interpreter.get_output(0)
        (got,) = golden.run_graph(model, xs, kept)
        assert got.dtype == want.dtype and got.shape == want.shape
        assert np.array_equal(got, want), f"{(got != want).sum()} of {want.size} differ"
        seen.append(want)
    return np.array(seen)


def lstm(rng, steps, inputs, units, batch=1, *, dtype="int8", major=False, cell=2.0**-11, clip=0.0, x_scale=0.03):
    """Bytes of a model of one UNIDIRECTIONAL_SEQUENCE_LSTM."""
    x_zero, h_zero = (5, -3) if dtype == "int8" else (0, 0)
    shape = (steps, batch) if major else (batch, steps)
    tensors = [act((*shape, inputs), x_scale if dtype == "int8" else x_scale / 256, x_zero, dtype)]
    h_scale = 1 / 127 if dtype == "int8" else 2.0**-15
    for columns in (inputs, units):
        for _ in range(4):
            tensors.append(const(rng.integers(-127, 128, (units, columns)).astype(np.int8), rng.uniform(0.002, 0.02)))
    for _ in range(4):
        bias = rng.integers(-9000, 9000, units).astype(np.int32 if dtype == "int8" else np.int64)
        tensors.append(const(bias if dtype == "int8" else bias * 99, 0.0001))
    tensors.append(state((batch, units), h_scale, h_zero, dtype))
    tensors.append(state((batch, units), cell, 0, "int16"))
    tensors.append(act((*shape, units), h_scale, h_zero, dtype))
    ins = [0, *range(1, 9), -1, -1, -1, *range(9, 13), -1, -1, 13, 14, -1, -1, -1, -1]
    options = {"FusedActivationFunction": 4, "TimeMajor": major, "CellClip": clip}
    kind = "UnidirectionalSequenceLSTMOptions"
    return model_of("UNIDIRECTIONAL_SEQUENCE_LSTM", tensors, ins, [15], kind, **options)


@pytest.mark.parametrize("major", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("batch", [1, 3])
def test_lstm(dtype, major, batch):
    rng = np.random.default_rng(batch)
    seen = compare(lstm(rng, 9, 7, 12, batch, dtype=dtype, major=major))
    assert len(np.unique(seen)) > 100 and not np.array_equal(seen[0], seen[1])


@pytest.mark.parametrize("cell", [2.0**-15, 2.0**-13, 2.0**-12, 2.0**-9, 2.0**-10.4, 0.25])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_lstm_cell(cell, clip):
    """Scales that shift the cell left, right, not at all, and none that is a power of two; saturation; a clip."""
    compare(lstm(np.random.default_rng(5), 12, 5, 16, cell=cell, clip=clip), 4)


@pytest.mark.parametrize("x_scale", [0.001, 0.4])
def test_lstm_saturates(x_scale):
    compare(lstm(np.random.default_rng(6), 20, 4, 8, x_scale=x_scale, cell=2.0**-12), 4)


def svdf(rng, inputs, units, rank, memory, dtype, *, batch=1, zero=0, scale=0.02):
    filters = units * rank
    span = 120 if dtype == "int8" else 30000
    time = rng.integers(-span, span, (filters, memory)).astype(dtype)
    time_scale = 0.5 / span
    state_scale = scale if dtype == "int8" else scale / 256
    tensors = [
        act((batch, inputs), 0.04, -7),
        const(rng.integers(-127, 128, (filters, inputs)).astype(np.int8), 0.003),
        const(time, time_scale),
        const(rng.integers(-5000, 5000, units).astype(np.int32), np.float32(state_scale) * np.float32(time_scale)),
        state((batch, filters * memory), state_scale, zero, dtype),
        act((batch, units), 0.03, 11),
    ]
    return model_of("SVDF", tensors, [0, 1, 2, 3, 4], [5], "SVDFOptions", Rank=rank, FusedActivationFunction=1)


@pytest.mark.parametrize("dtype, zero", [("int16", 0), ("int8", 0), ("int8", 9)])
@pytest.mark.parametrize("rank, memory, batch", [(1, 8, 1), (2, 5, 3), (1, 1, 1)])
def test_svdf(dtype, zero, rank, memory, batch):
    seen = compare(svdf(np.random.default_rng(1), 20, 9, rank, memory, dtype, batch=batch, zero=zero), 12)
    assert len(np.unique(seen)) > 30


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("x", [False, True])
@pytest.mark.parametrize("y", [False, True])
@pytest.mark.parametrize(
    "left, right",
    [
        ((4, 6), (6, 5)),
        ((2, 4, 6), (2, 6, 5)),
        ((2, 3, 4, 6), (1, 3, 6, 5)),
        ((1, 3, 4, 6), (2, 1, 6, 5)),
        ((2, 3, 4, 6), (6, 5)),
        ((4, 6), (3, 6, 5)),
        ((2, 1, 3, 4, 6), (1, 3, 6, 5)),
    ],
)
def test_batch_matmul(dtype, x, y, left, right):
    out = (*np.broadcast_shapes(left[:-2], right[:-2]), left[-2], right[-1])
    left = (*left[:-2], left[-1], left[-2]) if x else left
    right = (*right[:-2], right[-1], right[-2]) if y else right
    za, zb, zo = (4, -6, 10) if dtype == "int8" else (0, 0, 0)
    small = 1 if dtype == "int8" else 1 / 256
    tensors = [
        act(left, 0.04 * small, za, dtype),
        act(right, 0.013 * small, zb, dtype),
        act(out, 0.05 * small, zo, dtype),
    ]
    seen = compare(model_of("BATCH_MATMUL", tensors, [0, 1], [2], "BatchMatMulOptions", AdjX=x, AdjY=y))
    assert len(np.unique(seen)) > 20


@pytest.mark.parametrize("side", [0, 1])
def test_batch_matmul_with_a_constant(side):
    rng = np.random.default_rng(2)
    tensors = [act((2, 4, 6), 0.04, 4), act((2, 6, 5), 0.013, -6), act((2, 4, 5), 0.05)]
    data = rng.integers(-128, 128, tensors[side].shape).astype(np.int8)
    tensors[side] = TensorSpec("w", data.shape, "int8", [0.021], [2 * side], 0, data)
    compare(model_of("BATCH_MATMUL", tensors, [0, 1], [2], "BatchMatMulOptions"))


SOFTMAX = [
    (n, scale, beta, kinds)
    for n in (1, 2, 37, 255, 1500, 5000)
    for scale in (1e-6, 0.003, 0.07, 1.9)
    for beta in (1.0, 0.37)
    for kinds in (("int8", "int8"), ("int8", "int16"), ("int16", "int16"), ("float32", "float32"))
    if kinds[1] != "int8" or n < 512 or scale > n / 5e4  # TFLM aborts where the exponentials sum to 512
]


@pytest.mark.parametrize("n, scale, beta, kinds", SOFTMAX)
def test_softmax(n, scale, beta, kinds):
    outs = {"int8": (1 / 256, -128), "float32": (1, 0)}
    outs["int16"] = (1 / 65536, -32768) if kinds[0] == "int8" else (1 / 32768, 0)
    if kinds[0] == "int16":
        scale /= 200
    shape = (2, 3, n)
    tensors = [act(shape, scale, 0, kinds[0]), act(shape, *outs[kinds[1]], kinds[1])]
    if kinds[0] == "float32":
        tensors = [TensorSpec("x", shape, "float32"), TensorSpec("y", shape, "float32")]
    compare(model_of("SOFTMAX", tensors, [0], [1], "SoftmaxOptions", Beta=beta), spread=scale if n == 37 else 1.0)


@pytest.mark.parametrize("n", [1, 2, 37, 255, 1500, 4000])
@pytest.mark.parametrize("scale", [1e-6, 0.003, 0.07, 0.5, 1.9])
def test_log_softmax(n, scale):
    tensors = [act((2, 3, n), scale, 7), act((2, 3, n), 1 / 16, 127)]
    compare(model_of("LOG_SOFTMAX", tensors, [0], [1], "LogSoftmaxOptions"))


@pytest.mark.parametrize("n", [1, 10, 1500])
def test_log_softmax_of_float(n):
    tensors = [TensorSpec("x", (2, 3, n), "float32"), TensorSpec("y", (2, 3, n), "float32")]
    compare(model_of("LOG_SOFTMAX", tensors, [0], [1], "LogSoftmaxOptions"))


# TFLM multiplies and divides these scales in double. Where a float32 product would be a short binary fraction, sums
# lie on ties, and the two differ.


def test_ties_of_batch_matmul():
    tensors = [act((40, 2), 0.05), act((2, 40), 0.1, -1), act((40, 40), 0.004)]
    compare(model_of("BATCH_MATMUL", tensors, [0, 1], [2], "BatchMatMulOptions"))


@pytest.mark.parametrize(
    "x, feature, memory, time, y", [(0.05, 0.1, 0.004, 0.1, 0.0004), (1.0, 0.05, 0.05, 0.1, 0.004)]
)
def test_ties_of_svdf(x, feature, memory, time, y):
    rng = np.random.default_rng(0)
    tensors = [
        act((1, 2), x),
        const(rng.integers(-3, 4, (200, 2)).astype(np.int8), feature),
        const(rng.integers(-3, 4, (200, 1)).astype(np.int16), time),
        const(np.zeros(200, np.int32), np.float32(memory) * np.float32(time)),
        state((1, 200), memory, 0, "int16"),
        act((1, 200), y, 0),
    ]
    compare(model_of("SVDF", tensors, [0, 1, 2, 3, 4], [5], "SVDFOptions", Rank=1), 6)


def test_ties_of_lstm():
    """The sums of the gates are seen through an output gate that is nearly shut, so that int8 shows small changes."""
    rng = np.random.default_rng(0)
    tensors = [act((1, 6, 2), 0.05)]
    tensors += [const(rng.integers(-60, 61, (128, 2)).astype(np.int8), 25 / 4096) for _ in range(4)]
    tensors += [const(np.zeros((128, 128), np.int8), 25 / 4096)] * 4
    tensors += [const(np.full(128, -17000 if k == 3 else 0, np.int32), 0.0001) for k in range(4)]
    tensors += [state((1, 128), 2.0**-14, 0, "int8"), state((1, 128), 2.0**-12, 0, "int16")]
    tensors.append(act((1, 6, 128), 2.0**-14, 0))
    ins = [0, *range(1, 9), -1, -1, -1, *range(9, 13), -1, -1, 13, 14, -1, -1, -1, -1]
    kind = "UnidirectionalSequenceLSTMOptions"
    compare(model_of("UNIDIRECTIONAL_SEQUENCE_LSTM", tensors, ins, [15], kind, FusedActivationFunction=4), 6)


def test_refusals():
    rng = np.random.default_rng(0)
    tensors = [act((2, 4, 6), 0.04, 4), act((2, 5, 5), 0.013, -6), act((2, 4, 5), 0.05)]
    with pytest.raises(ModelError, match="6 columns, 5 rows"):
        load_model(model_of("BATCH_MATMUL", tensors, [0, 1], [2], "BatchMatMulOptions"))
    with pytest.raises(ModelError, match="scale 4"):
        load_model(lstm(rng, 3, 4, 5, cell=4.0))
    with pytest.raises(ModelError, match="scale 1/16"):
        load_model(model_of("LOG_SOFTMAX", [act((2, 3)), act((2, 3))], [0], [1], "LogSoftmaxOptions"))

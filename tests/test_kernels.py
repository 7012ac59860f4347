"""Every kernel of the golden model against TensorFlow Lite Micro, on random shapes, scales and zero points."""

import math
import zlib

import numpy as np
import pytest

from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.verif.random.tflite_builder import one_operator

runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite_micro is not installed")
RANGES = {"int8": (-128, 127), "int16": (-32768, 32767), "uint8": (0, 255), "int32": (-(10**6), 10**6)}


def rng_of(*words):
    return np.random.default_rng(zlib.crc32(repr(words).encode()))


def random_values(rng, shape, dtype, low=None, high=None):
    """Values over the whole range of a type (float32: some large, some small), corners among them."""
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype == "float32":
        return (rng.normal(0, 1, shape) * 10.0 ** rng.uniform(-2, 1.3, shape)).astype(np.float32)
    least, most = RANGES[dtype] if low is None else (low, high)
    x = rng.integers(least, most + 1, shape)
    corners = rng.random(shape)
    x = np.where(corners < 0.04, least, np.where(corners > 0.96, most, x))
    return x.astype(dtype)


def tensor(rng, shape, dtype="int8", scale=None, zero=None, data=None):
    """A tensor of the builder: quantized types get a random scale and zero point unless given."""
    if dtype not in ("int8", "int16", "uint8"):
        return (shape, scale, zero or 0, data, 0, dtype)
    if scale is None:
        scale = float(np.exp(rng.uniform(np.log(0.004), np.log(0.5))))
        if rng.random() < 0.3:
            scale = float(2.0 ** np.round(np.log2(scale)))  # ties
    if zero is None:
        least, most = RANGES[dtype]
        zero = 0 if dtype == "int16" else int(rng.choice([0, least, most, rng.integers(least, most + 1)]))
    return (shape, scale, zero, data, 0, dtype)


def ints(values, dtype=np.int32):
    values = np.array(values, dtype)
    return (values.shape, None, 0, values, 0)


def agree(data, xs):
    """All outputs of golden model and TFLM on these inputs are the same bytes."""
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 20)
    for k, x in enumerate(xs):
        interpreter.set_input(x, k)
    interpreter.invoke()
    model = load_model(data)
    got = golden.run_graph(model, list(xs))
    for k, y in enumerate(got):
        want = interpreter.get_output(k)
        assert y.dtype == want.dtype and y.size == want.size, (y.dtype, want.dtype, y.shape, want.shape)
        a, b = np.ascontiguousarray(y).reshape(-1), np.ascontiguousarray(want).reshape(-1)
        same = (a.view(np.uint8) == b.view(np.uint8)).reshape(len(a), -1).all(1) if len(a) else np.ones(0, bool)
        if a.dtype == np.float32:
            same |= np.isnan(a) & np.isnan(b) | (a == b)
        bad = np.nonzero(~same)[0]
        assert not len(bad), f"output {k}: {len(bad)} of {len(a)} differ, at {bad[0]}: {a[bad[0]]}, TFLM {b[bad[0]]}"


def broadcast_pair(rng, rank=None):
    """Two shapes that broadcast, at most 4 dimensions."""
    rank = rank or int(rng.integers(1, 5))
    shape = [int(v) for v in rng.integers(1, 7, rank)]
    kind = rng.random()
    if kind < 0.35:
        return tuple(shape), tuple(shape)
    a = [1 if rng.random() < 0.25 else d for d in shape]
    b = [1 if rng.random() < 0.35 else d for d in shape]
    if kind > 0.8:
        b = b[int(rng.integers(0, rank)) :]
    return tuple(a), tuple(b)


def shape_of(rng, rank=None, high=8):
    return tuple(int(v) for v in rng.integers(1, high, rank or int(rng.integers(1, 5))))


OPTIONS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions", "DIV": "DivOptions"}
ARITHMETIC = [(op, t) for op in ("ADD", "SUB", "MUL") for t in ("int8", "int16", "int32", "float32")]
ARITHMETIC += [("DIV", t) for t in ("int8", "int32", "float32")]


@pytest.mark.parametrize("op, dtype", ARITHMETIC)
def test_arithmetic(op, dtype):
    rng = rng_of(op, dtype)
    for _ in range(25):
        a, b = broadcast_pair(rng)
        ta, tb = tensor(rng, a, dtype), tensor(rng, b, dtype)
        y = np.broadcast_shapes(a, b)
        scale = None
        if dtype in ("int8", "int16"):
            natural = {"MUL": ta[1] * tb[1] * 64, "DIV": ta[1] / tb[1] / 16}.get(op, max(ta[1], tb[1]))
            scale = natural * float(rng.choice([1.0, 2.0, 0.5, rng.uniform(0.7, 3)]))
        activation = int(rng.choice([0, 0, 1, 2, 3]))
        values = [random_values(rng, s, dtype) for s in (a, b)]
        if op == "DIV":  # nothing is divided by zero
            divisor = values[1].astype(np.float64) - (tb[2] if dtype == "int8" else 0)
            values[1] = np.where(divisor == 0, values[1] + (1 if tb[2] < 127 else -1), values[1]).astype(dtype)
        data = one_operator(
            op,
            [ta, tb, tensor(rng, y, dtype, scale)],
            [0, 1],
            [2],
            {"FusedActivationFunction": activation},
            OPTIONS[op],
        )
        agree(data, values)


@pytest.mark.parametrize("op", ["MAXIMUM", "MINIMUM"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_extremes(op, dtype):
    rng = rng_of(op, dtype)
    for _ in range(8):
        a, b = broadcast_pair(rng)
        quant = (0.1, 0)
        tensors = [tensor(rng, s, dtype, *quant) for s in (a, b, np.broadcast_shapes(a, b))]
        agree(
            one_operator(op, tensors, [0, 1], [2], {}, "MaximumMinimumOptions"),
            [random_values(rng, s, dtype) for s in (a, b)],
        )


@pytest.mark.parametrize("op, dtype", [("FLOOR_DIV", "float32"), ("FLOOR_MOD", "float32")])
def test_floor(op, dtype):
    rng = rng_of(op, dtype)
    for _ in range(10):
        a, b = broadcast_pair(rng)
        tensors = [tensor(rng, s, dtype) for s in (a, b, np.broadcast_shapes(a, b))]
        agree(one_operator(op, tensors, [0, 1], [2]), [random_values(rng, s, dtype) for s in (a, b)])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_squared_difference(dtype):
    rng = rng_of("squared", dtype)
    for _ in range(25):
        a, b = broadcast_pair(rng)
        ta, tb = tensor(rng, a, dtype), tensor(rng, b, dtype)
        scale = (
            None if ta[1] is None else max(ta[1], tb[1]) ** 2 * (64 if dtype == "int8" else 9000) * rng.uniform(0.5, 4)
        )
        values = [random_values(rng, s, dtype) for s in (a, b)]
        if dtype == "int16":
            values = [v // 2 for v in values]  # the square of a whole range overflows
        agree(
            one_operator(
                "SQUARED_DIFFERENCE", [ta, tb, tensor(rng, np.broadcast_shapes(a, b), dtype, scale)], [0, 1], [2]
            ),
            values,
        )


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_prelu(dtype):
    rng = rng_of("prelu", dtype)
    for _ in range(15):
        shape = shape_of(rng, 4)
        alpha = tuple(1 if rng.random() < 0.4 else d for d in shape)[-int(rng.integers(1, 4)) :]
        x = tensor(rng, shape, dtype)
        kind = "int8" if dtype == "int16" else dtype
        a = tensor(rng, alpha, kind, data=random_values(rng, alpha, kind))
        y = tensor(rng, shape, dtype, None if x[1] is None else x[1] * rng.choice([1, 2, rng.uniform(0.6, 2)]))
        agree(one_operator("PRELU", [x, a, y], [0, 1], [2]), [random_values(rng, shape, dtype)])


@pytest.mark.parametrize("op", ["EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"])
@pytest.mark.parametrize("dtype", ["int8", "int32", "float32", "bool"])
def test_comparisons(op, dtype):
    if dtype == "bool" and "EQUAL" not in (op, op[4:]):
        pytest.skip("bools are equal or not")
    rng = rng_of(op, dtype)
    for _ in range(6):
        a, b = broadcast_pair(rng)
        tensors = [tensor(rng, a, dtype), tensor(rng, b, dtype), tensor(rng, np.broadcast_shapes(a, b), "bool")]
        values = [
            random_values(rng, s, dtype, -9, 9) if dtype == "int32" else random_values(rng, s, dtype) for s in (a, b)
        ]
        agree(one_operator(op, tensors, [0, 1], [2]), values)


@pytest.mark.parametrize("op", ["LOGICAL_AND", "LOGICAL_OR", "LOGICAL_NOT"])
def test_logical(op):
    rng = rng_of(op)
    a, b = (4, 1, 3), (4, 5, 3)
    if op == "LOGICAL_NOT":
        agree(one_operator(op, [tensor(rng, b, "bool")] * 2, [0], [1]), [random_values(rng, b, "bool")])
    else:
        tensors = [tensor(rng, s, "bool") for s in (a, b, b)]
        agree(one_operator(op, tensors, [0, 1], [2]), [random_values(rng, s, "bool") for s in (a, b)])


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_select(dtype):
    rng = rng_of("select", dtype)
    for _ in range(6):
        shape = shape_of(rng)
        shapes = [tuple(1 if rng.random() < 0.2 else d for d in shape) for _ in range(3)]
        tensors = [
            tensor(rng, shapes[0], "bool"),
            *(tensor(rng, s, dtype, 0.1, 0) for s in (*shapes[1:], np.broadcast_shapes(*shapes))),
        ]
        values = [random_values(rng, s, t) for s, t in zip(shapes, ("bool", dtype, dtype))]
        agree(one_operator("SELECT_V2", tensors, [0, 1, 2], [3]), values)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_add_n(dtype):
    rng = rng_of("add_n", dtype)
    for _ in range(12):
        shape, n = shape_of(rng), int(rng.integers(2, 6))
        x = tensor(rng, shape, dtype)
        y = tensor(rng, shape, dtype, None if x[1] is None else x[1] * float(rng.choice([1, 2, rng.uniform(0.5, 4)])))
        agree(
            one_operator("ADD_N", [*[x] * n, y], [*range(n)], [n]), [random_values(rng, shape, dtype) for _ in range(n)]
        )


UNARY = {
    "int8": "ABS ELU HARD_SWISH LEAKY_RELU LOGISTIC RELU RELU6 RSQRT TANH".split(),
    "int16": "ABS LEAKY_RELU LOGISTIC RELU RELU6 RSQRT TANH".split(),
    "float32": (
        "ABS CEIL COS ELU EXP FLOOR HARD_SWISH LEAKY_RELU LOG LOGISTIC NEG RELU RELU6 ROUND RSQRT SIN SQRT SQUARE TANH"
    ).split(),
}
FIXED = {
    ("LOGISTIC", "int8"): (1 / 256, -128),
    ("TANH", "int8"): (1 / 128, 0),
    ("LOGISTIC", "int16"): (1 / 32768, 0),
    ("TANH", "int16"): (1 / 32768, 0),
}


@pytest.mark.parametrize("dtype, op", [(t, op) for t, ops in UNARY.items() for op in ops])
def test_unary(op, dtype):
    rng = rng_of(op, dtype)
    for k in range(4 if dtype == "float32" else 40):
        shape = (1, 300)
        x = tensor(rng, shape, dtype)
        if dtype == "int16":
            x = tensor(rng, shape, dtype, float(rng.choice([2**-12, 2**-11, 2**-13, rng.uniform(1e-5, 1e-3)])))
        y = tensor(rng, shape, dtype)
        if dtype != "float32":
            ratio = float(rng.choice([1, 0.5, 2, 0.25, 3, rng.uniform(0.3, 3), rng.uniform(0.3, 3)]))
            scale, zero = FIXED.get((op, dtype), (x[1] * ratio, None))
            if op == "RELU6":
                scale, zero = x[1], x[2]
            if op == "RSQRT":
                x = tensor(rng, shape, dtype, zero=-128 if dtype == "int8" else 0)
                scale = 1 / np.sqrt(x[1]) / (128 if dtype == "int8" else 4096) * ratio
            y = tensor(rng, shape, dtype, scale, zero)
        values = random_values(rng, shape, dtype)
        if dtype == "int8":
            values[0, :256] = np.arange(-128, 128)
        if dtype == "int16" and op == "RSQRT":
            values = np.abs(np.maximum(values, -32767)) >> rng.integers(0, 12, shape).astype(np.int16)
        if dtype == "float32" and op in ("SQRT", "RSQRT", "LOG"):
            values = np.abs(values) + np.float32(1e-6)
        options = (
            {"Alpha": float(rng.choice([0.1, 0.25, 0.5, 1.5, -0.3, rng.uniform(0, 1)]))} if op == "LEAKY_RELU" else None
        )
        data = one_operator(op, [x, y], [0], [1], options, "LeakyReluOptions" if options else None)
        agree(data, [values])


QUANTIZE = [("float32", "int8"), ("float32", "int16"), ("int8", "int8"), ("int8", "uint8"), ("int8", "int16")]
QUANTIZE += [("int8", "int32"), ("uint8", "int8"), ("int16", "int8"), ("int16", "int16"), ("int16", "int32")]
QUANTIZE += [("int32", "int8"), ("int32", "int16")]


@pytest.mark.parametrize("source, target", QUANTIZE)
def test_quantize(source, target):
    rng = rng_of("quantize", source, target)
    for k in range(20):
        x = tensor(
            rng, (1, 300), source, *((None, None) if source not in ("int32",) else (float(rng.uniform(1e-5, 1e-3)), 0))
        )
        scale = None if source == "float32" else x[1] * float(rng.choice([1, 2, 0.5, rng.uniform(0.4, 4)]))
        zero = None if target != "int32" else 0
        y = tensor(rng, (1, 300), target, scale or float(rng.choice([0.25, 0.1, 0.01, rng.uniform(0.01, 1)])), zero)
        values = random_values(rng, (1, 300), source)
        if source == "float32" and k % 2:  # ties
            values = (np.round(values / y[1]) + 0.5).astype(np.float32) * np.float32(y[1])
        agree(one_operator("QUANTIZE", [x, y], [0], [1]), [values])


@pytest.mark.parametrize("op", ["LOGISTIC", "TANH"])
def test_sigmoids_of_extreme_scales(op):
    x = np.arange(-128, 128, dtype=np.int8)[None]
    for scale in (1e-6, 1e-3, 3.0, 15.5, 16.0, 33.0, 70.0, 1e9):
        for zero in (-128, 0, 5, 127):
            y = FIXED[op, "int8"]
            agree(one_operator(op, [(x.shape, scale, zero, None, 0), (x.shape, *y, None, 0)], [0], [1]), [x])


def near_ties(rng, count, ratios=(1, 1.5, 3, 5, 0.75, 0.875)):
    """Pairs of scales (float32) whose ratio is simple but for the last bits: products come close to halves."""
    for _ in range(count):
        a = np.float32(np.exp(rng.uniform(np.log(2e-5), np.log(6e-3))))
        ratio = float(rng.choice([*ratios, rng.uniform(0.5, 2)]))
        yield a, np.float32(a * 2.0 ** rng.integers(-2, 3) * ratio)


@pytest.mark.parametrize("op", ["ABS", "LEAKY_RELU", "RELU", "SUB", "ADD"])
def test_multipliers_are_of_double_precision(op):
    """Over all int16 values some product is so close to a tie that a multiplier of float32 scales shows."""
    rng = rng_of("ties", op)
    x = np.arange(-32768, 32768, dtype=np.int16)[None]
    for a, b in near_ties(rng, 40):
        binary = op in ("ADD", "SUB")
        tensors = [(x.shape, a, 0, None, 0, "int16"), (x.shape, b, 0, None, 0, "int16")]
        if binary:
            tensors.append((x.shape, np.float32(max(a, b) * rng.uniform(0.6, 2)), 0, None, 0, "int16"))
        options = {"Alpha": float(rng.choice([0.5, 0.25, 0.1, 0.3]))} if op == "LEAKY_RELU" else {}
        kind = {"LEAKY_RELU": "LeakyReluOptions", "ADD": "AddOptions", "SUB": "SubOptions"}.get(op)
        agree(
            one_operator(op, tensors, [0, 1] if binary else [0], [len(tensors) - 1], options, kind),
            [x, rng.permutation(x[0])[None]][: 1 + binary],
        )


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_multipliers_of_sums_are_of_double_precision(op):
    """Weights of zeros: the biases are requantized as they are."""
    rng = rng_of("sums", op)
    n = 256
    for a, b in near_ties(rng, 60):
        weight = np.float32(rng.uniform(0.001, 0.01))
        out = np.float32(float(a) * float(weight) * rng.choice([2, 4, 64, 100, rng.uniform(10, 200)]))
        bias = rng.integers(-30000, 30000, n).astype(np.int32)
        shape = {"FULLY_CONNECTED": (n, 4), "CONV_2D": (n, 1, 1, 4), "DEPTHWISE_CONV_2D": (1, 1, 1, n)}[op]
        flat = op == "FULLY_CONNECTED"
        x = (1, 4) if flat else (1, 1, 1, 4)
        y = (1, n) if flat else (1, 1, 1, n)
        tensors = [(x, a, 0, None, 0), (shape, weight, 0, np.zeros(shape, np.int8), 0)]
        tensors += [((n,), np.float32(a * weight), 0, bias, 0), (y, out, 0, None, 0)]
        options = {} if flat else dict(StrideH=1, StrideW=1)
        kind = {"FULLY_CONNECTED": "FullyConnectedOptions", "CONV_2D": "Conv2DOptions"}.get(
            op, "DepthwiseConv2DOptions"
        )
        if kind == "DepthwiseConv2DOptions":
            options["DepthMultiplier"] = n // 4
        agree(one_operator(op, tensors, [0, 1, 2], [3], options, kind), [np.zeros(x, np.int8)])


@pytest.mark.parametrize("source", ["int8", "uint8", "int16"])
def test_dequantize(source):
    rng = rng_of("dequantize", source)
    for _ in range(10):
        x = tensor(rng, (1, 300), source)
        agree(
            one_operator("DEQUANTIZE", [x, tensor(rng, (1, 300), "float32")], [0], [1]),
            [random_values(rng, (1, 300), source)],
        )


CASTS = [(a, b) for a in ("int8", "int16", "int32", "float32", "bool") for b in ("int8", "int16", "int32", "float32")]


@pytest.mark.parametrize("source, target", CASTS)
def test_cast(source, target):
    rng = rng_of("cast", source, target)
    x = random_values(rng, (3, 50), source)
    tensors = [((3, 50), None, 0, None, 0, source), ((3, 50), None, 0, None, 0, target)]
    agree(one_operator("CAST", tensors, [0], [1], {}, "CastOptions"), [x])


REDUCTIONS = [(op, t) for op in ("MEAN", "SUM") for t in ("int8", "int16", "float32")]
REDUCTIONS += [(op, t) for op in ("REDUCE_MAX", "REDUCE_MIN") for t in ("int8", "float32")] + [("REDUCE_ALL", "bool")]


@pytest.mark.parametrize("op, dtype", REDUCTIONS)
def test_reductions(op, dtype):
    rng = rng_of(op, dtype)
    for _ in range(25):
        shape = shape_of(rng, high=10)
        rank = len(shape)
        axes = sorted(rng.choice(rank, int(rng.integers(1, rank + 1)), replace=False).tolist())
        keep = bool(rng.random() < 0.5)
        out = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
        if not out:
            keep, out = True, (1,) * rank
        x = tensor(rng, shape, dtype)
        scale, zero = (x[1], x[2]) if "REDUCE" in op else (None, None)
        if scale is None and x[1] is not None:
            count = int(np.prod([shape[a] for a in axes])) if op == "SUM" else 1
            scale = x[1] * np.sqrt(count) * float(rng.choice([1, 2, 0.5, rng.uniform(0.5, 2)]))
        given = [int(a) - rank if rng.random() < 0.3 else int(a) for a in axes]
        data = one_operator(
            op,
            [x, ints(given), tensor(rng, out, dtype, scale, zero)],
            [0, 1],
            [2],
            {"KeepDims": keep},
            "ReducerOptions",
        )
        agree(data, [random_values(rng, shape, dtype)])


@pytest.mark.parametrize("op", ["ARG_MAX", "ARG_MIN"])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_arg_extremes(op, dtype):
    rng = rng_of(op, dtype)
    for _ in range(8):
        shape = shape_of(rng)
        axis = int(rng.integers(len(shape)))
        out = shape[:axis] + shape[axis + 1 :]
        if not out:
            continue
        x = random_values(rng, shape, dtype)
        x = x // 40 if dtype == "int8" else np.round(x)  # equal values
        tensors = [
            tensor(rng, shape, dtype),
            ints([axis - len(shape) if rng.random() < 0.3 else axis]),
            tensor(rng, out, "int32"),
        ]
        agree(
            one_operator(
                op, tensors, [0, 1], [2], {"OutputType": 2}, "ArgMaxOptions" if op == "ARG_MAX" else "ArgMinOptions"
            ),
            [x],
        )


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_cumsum(dtype):
    rng = rng_of("cumsum", dtype)
    for k in range(12):
        shape = shape_of(rng)
        x = tensor(rng, shape, dtype)
        y = tensor(rng, shape, dtype, None if x[1] is None else x[1] * float(rng.choice([1, 2, rng.uniform(0.5, 4)])))
        options = {"Exclusive": bool(k & 1), "Reverse": bool(k & 2)}
        axis = int(rng.integers(len(shape)))
        agree(
            one_operator("CUMSUM", [x, ints([axis]), y], [0, 1], [2], options, "CumsumOptions"),
            [random_values(rng, shape, dtype)],
        )


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_l2_normalization(dtype):
    rng = rng_of("l2", dtype)
    for _ in range(15):
        shape = shape_of(rng, high=20)
        x = tensor(rng, shape, dtype)
        y = tensor(rng, shape, dtype, *((1 / 128, 0) if dtype == "int8" else ()))
        agree(
            one_operator("L2_NORMALIZATION", [x, y], [0], [1], {}, "L2NormOptions"), [random_values(rng, shape, dtype)]
        )


POOLS = [(op, t) for op in ("AVERAGE_POOL_2D", "MAX_POOL_2D") for t in ("int8", "int16", "float32")] + [
    ("L2_POOL_2D", "float32")
]


@pytest.mark.parametrize("op, dtype", POOLS)
def test_pools(op, dtype):
    rng = rng_of(op, dtype)
    for _ in range(15):
        h, w, c = (int(v) for v in rng.integers(3, 11, 3))
        kernel = [int(v) for v in rng.integers(1, 5, 2)]
        stride = [int(v) for v in rng.integers(1, 6, 2)]
        padding = int(rng.integers(2)) if h >= kernel[0] and w >= kernel[1] else 0
        out = [-(-n // s) if padding == 0 else (n - k) // s + 1 for n, k, s in zip((h, w), kernel, stride)]
        x = tensor(rng, (1, h, w, c), dtype)
        y = tensor(rng, (1, *out, c), dtype, x[1], x[2])
        options = dict(
            Padding=padding, StrideH=stride[0], StrideW=stride[1], FilterHeight=kernel[0], FilterWidth=kernel[1]
        )
        options["FusedActivationFunction"] = int(rng.choice([0, 1, 2, 3]))
        agree(one_operator(op, [x, y], [0], [1], options, "Pool2DOptions"), [random_values(rng, (1, h, w, c), dtype)])


def move(op, x, out, extra=(), options=None, kind=None, dtype="int8", order=None):
    """An operator that moves values: input of shape x, output (or outputs) of shape out, further constant inputs."""
    rng = rng_of(op, x, out, dtype)
    quant = (0.1, 3) if dtype == "int8" else (0.1, 0) if dtype == "int16" else (None, 0)
    outs = out if isinstance(out, list) else [out]
    tensors = [tensor(rng, x, dtype, *quant), *extra, *(tensor(rng, o, dtype, *quant) for o in outs)]
    n = 1 + len(extra)
    ins = order or list(range(n))
    agree(one_operator(op, tensors, ins, [*range(n, n + len(outs))], options, kind), [random_values(rng, x, dtype)])


TYPES = ["int8", "int16", "int32", "float32", "bool"]


@pytest.mark.parametrize("dtype", ["int8", "float32", "int16", "int32"])
def test_concatenation_and_packs(dtype):
    rng = rng_of("concat", dtype)
    quant = (0.1, 0) if dtype.startswith("int") and dtype != "int32" else (None, 0)
    for _ in range(6):
        shape, n = shape_of(rng), int(rng.integers(1, 6))
        axis = int(rng.integers(len(shape)))
        shapes = [(*shape[:axis], int(rng.integers(1, 6)), *shape[axis + 1 :]) for _ in range(n)]
        out = (*shape[:axis], sum(s[axis] for s in shapes), *shape[axis + 1 :])
        tensors = [tensor(rng, s, dtype, *quant) for s in (*shapes, out)]
        values = [random_values(rng, s, dtype) for s in shapes]
        agree(
            one_operator(
                "CONCATENATION", tensors, [*range(n)], [n], {"Axis": axis - len(shape)}, "ConcatenationOptions"
            ),
            values,
        )
        shape = shape[:3]
        axis = int(rng.integers(len(shape) + 1))
        out = (*shape[:axis], n, *shape[axis:])
        tensors = [*(tensor(rng, shape, dtype, *quant) for _ in range(n)), tensor(rng, out, dtype, *quant)]
        values = [random_values(rng, shape, dtype) for _ in range(n)]
        agree(one_operator("PACK", tensors, [*range(n)], [n], {"Axis": axis, "ValuesCount": n}, "PackOptions"), values)
        move("UNPACK", out, [shape] * n, (), {"Axis": axis, "Num": n}, "UnpackOptions", dtype)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_splits_and_slices(dtype):
    at = ints(2)
    move("SPLIT", (2, 3, 8), [(2, 3, 2)] * 4, (at,), {"NumSplits": 4}, "SplitOptions", dtype, [1, 0])
    sizes, axis = ints([1, 4, 2]), ints(-2)
    move(
        "SPLIT_V", (2, 7, 3), [(2, 1, 3), (2, 4, 3), (2, 2, 3)], (sizes, axis), {"NumSplits": 3}, "SplitVOptions", dtype
    )
    move("SLICE", (4, 5, 6), (2, 5, 3), (ints([1, 0, 2]), ints([2, -1, 3])), {}, "SliceOptions", dtype)
    move(
        "SLICE",
        (2, 3, 4, 5, 6),
        (1, 2, 3, 4, 5),
        (ints([1, 1, 1, 1, 1]), ints([1, 2, 3, 4, 5])),
        {},
        "SliceOptions",
        dtype,
    )
    scalar = (ints([2]), ints([3]), ints([1]))
    move("STRIDED_SLICE", (6,), (), scalar, {"ShrinkAxisMask": 1}, "StridedSliceOptions", dtype)
    for begin, end, strides, masks, out in (
        ([1, 2], [5, 9], [1, 2], {}, (4, 4)),
        ([-1, 0], [0, 9], [-2, 1], {"EndMask": 1}, (3, 9)),
        ([2, 3], [0, 0], [1, 1], {"ShrinkAxisMask": 1, "EndMask": 2}, (6,)),
        ([100, -100], [-100, 100], [-1, 3], {}, (6, 3)),
    ):
        extra = (ints(begin), ints(end), ints(strides))
        move("STRIDED_SLICE", (6, 9), out, extra, masks, "StridedSliceOptions", dtype)


def test_masks_of_strided_slices_that_tflm_lacks():
    """Ellipsis and new axes: as NumPy has them."""
    x = np.arange(-60, 60, dtype=np.int8).reshape(2, 3, 4, 5)
    for begin, end, masks, want in (
        ([0, 1, 2], [0, 2, 4], {"EllipsisMask": 1}, x[..., 1:2, 2:4]),
        ([1, 0, 2], [2, 0, 4], {"EllipsisMask": 2, "ShrinkAxisMask": 1}, x[1, ..., 2:4]),
        ([0, 0, 1], [0, 0, 2], {"NewAxisMask": 1, "BeginMask": 2, "EndMask": 2}, x[None, :, 1:2]),
    ):
        n = len(begin)
        tensors = [(x.shape, 0.1, 0, None, 0), ints(begin), ints(end), ints([1] * n), (want.shape, 0.1, 0, None, 0)]
        model = load_model(one_operator("STRIDED_SLICE", tensors, [0, 1, 2, 3], [4], masks, "StridedSliceOptions"))
        assert np.array_equal(golden.run_graph(model, [x])[0], want)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_gathers(dtype):
    move("GATHER", (5, 6, 3), (5, 4, 3), (ints([5, 0, 0, 2]),), {"Axis": 1}, "GatherOptions", dtype)
    move("GATHER", (5, 6), (2, 2, 6), (ints([[4, 0], [1, 1]]),), {"Axis": 0}, "GatherOptions", dtype)
    move("GATHER", (2, 6, 3), (2, 2, 3), (ints([[4, 0], [1, 1]]),), {"Axis": 1, "BatchDims": 1}, "GatherOptions", dtype)
    move("GATHER_ND", (5, 6, 3), (2, 3), (ints([[4, 5], [0, 1]]),), {}, "GatherNdOptions", dtype)
    move("GATHER_ND", (5, 6, 3), (1, 2), (ints([[[4, 5, 1], [0, 1, 2]]]),), {}, "GatherNdOptions", dtype)


def test_embedding_lookup():
    rng = rng_of("embedding")
    table = random_values(rng, (7, 5), "int8")
    at = ((4,), None, 0, None, 0, "int32")
    for out in (((4, 5), None, 0, None, 0, "float32"), ((4, 5), 0.1, 0, None, 0, "int8")):
        data = one_operator("EMBEDDING_LOOKUP", [at, ((7, 5), 0.1, 0, table, 0), out], [0, 1], [2])
        agree(data, [np.array([6, 0, 3, 3], np.int32)])


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32"])
def test_dynamic_update_slice(dtype):
    rng = rng_of("update", dtype)
    quant = (0.1, 0) if dtype in ("int8", "int16") else (None, 0)
    tensors = [
        tensor(rng, (4, 5), dtype, *quant),
        tensor(rng, (2, 3), dtype, *quant),
        ((2,), None, 0, None, 0, "int32"),
        tensor(rng, (4, 5), dtype, *quant),
    ]
    for at in ([1, 2], [3, 9], [-5, 0]):
        values = [random_values(rng, (4, 5), dtype), random_values(rng, (2, 3), dtype), np.array(at, np.int32)]
        agree(one_operator("DYNAMIC_UPDATE_SLICE", tensors, [0, 1, 2], [3]), values)


@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_moves(dtype):
    move("PAD", (2, 3), (5, 7), (ints([[1, 2], [0, 4]]),), {}, "PadOptions", dtype)
    move("PAD", (1, 2, 3, 2), (1, 4, 3, 2), (ints([[0, 0], [1, 1], [0, 0], [0, 0]]),), {}, "PadOptions", dtype)
    for mode in (0, 1):
        move("MIRROR_PAD", (3, 4), (6, 7), (ints([[1, 2], [0, 3]]),), {"Mode": mode}, "MirrorPadOptions", dtype)
    move("TRANSPOSE", (2, 3, 4, 5), (5, 2, 4, 3), (ints([3, 0, 2, 1]),), {}, "TransposeOptions", dtype)
    move("TRANSPOSE", (2, 3, 4, 5, 2), (2, 5, 2, 4, 3), (ints([0, 3, 4, 2, 1]),), {}, "TransposeOptions", dtype)
    move("BROADCAST_TO", (3, 1, 4), (2, 3, 5, 4), (ints([2, 3, 5, 4]),), {}, "BroadcastToOptions", dtype)
    move("REVERSE_V2", (2, 3, 4), (2, 3, 4), (ints([1]),), {}, "ReverseV2Options", dtype)
    move("REVERSE_V2", (2, 3, 4), (2, 3, 4), (ints([-1, 1]),), {}, "ReverseV2Options", dtype)
    move("DEPTH_TO_SPACE", (1, 3, 2, 12), (1, 6, 4, 3), (), {"BlockSize": 2}, "DepthToSpaceOptions", dtype)
    move("SPACE_TO_DEPTH", (1, 6, 4, 3), (1, 3, 2, 12), (), {"BlockSize": 2}, "SpaceToDepthOptions", dtype)
    extra = (ints([2, 3]), ints([[0, 1], [2, 0]]))
    # TFLM fills borders with what it finds in memory; without borders it has an answer
    move("SPACE_TO_BATCH_ND", (2, 6, 6, 3), (12, 3, 2, 3), (ints([2, 3]), ints([[0, 0], [0, 0]])), None, None, dtype)
    move("BATCH_TO_SPACE_ND", (6, 3, 2, 3), (1, 5, 4, 3), extra, None, None, dtype)
    move("BATCH_TO_SPACE_ND", (4, 3, 3), (2, 5, 3), (ints([2]), ints([[1, 0]])), None, None, dtype)
    move("EXPAND_DIMS", (3, 4), (3, 1, 4), (ints([1]),), {}, "ExpandDimsOptions", dtype)
    move("SQUEEZE", (1, 3, 1, 4), (3, 4), (), {"SqueezeDims": [0, 2]}, "SqueezeOptions", dtype)
    move("RESHAPE", (2, 6), (3, 4), (ints([3, -1]),), {}, "ReshapeOptions", dtype)
    move("ZEROS_LIKE", (2, 6), (2, 6), (), {}, "ZerosLikeOptions", dtype)
    move("SHAPE", (2, 6), (2,), (), {}, "ShapeOptions", dtype) if dtype == "int32" else None


def test_padv2_fill_and_shapes():
    rng = rng_of("fill")
    x, y = tensor(rng, (2, 3), "int8", 0.1, 5), tensor(rng, (4, 3), "int8", 0.1, 5)
    value = ((1,), 0.1, 5, np.array([-77], np.int8), 0)
    data = one_operator("PADV2", [x, ints([[1, 1], [0, 0]]), value, y], [0, 1, 2], [3], {}, "PadV2Options")
    agree(data, [random_values(rng, (2, 3), "int8")])
    for dtype in ("int8", "int32", "float32"):
        one = ((), None if dtype != "int8" else 0.1, 0, None, 0, dtype)
        out = ((2, 5), None if dtype != "int8" else 0.1, 0, None, 0, dtype)
        agree(one_operator("FILL", [ints([2, 5]), one, out], [0, 1], [2], {}, "FillOptions"), [np.array(7, dtype)])
    out = ((3,), None, 0, None, 0, "int32")
    x = ((2, 5, 4), 0.1, 0, None, 0)
    agree(
        one_operator("SHAPE", [x, out], [0], [1], {"OutType": 2}, "ShapeOptions"),
        [random_values(rng, (2, 5, 4), "int8")],
    )


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("op", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
def test_resizes(op, dtype):
    rng = rng_of(op, dtype)
    kind = "ResizeBilinearOptions" if op == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    for options in ({}, {"AlignCorners": True}, {"HalfPixelCenters": True}):
        for _ in range(8):
            h, w, oh, ow = (int(v) for v in rng.integers(1, 12, 4))
            move(op, (1, h, w, 3), (1, oh, ow, 3), (ints([oh, ow]),), options, kind, dtype)


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"])
def test_float_sums(op):
    """To the last bit: float32 additions in the same order."""
    rng = rng_of("float", op)
    for _ in range(6):
        h, w, c, n = (int(v) for v in rng.integers(2, 7, 4))
        kh, kw = (int(v) for v in rng.integers(1, 4, 2))
        stride = int(rng.integers(1, 3))
        activation = int(rng.choice([0, 1, 3]))
        options = dict(FusedActivationFunction=activation)
        kind = {"FULLY_CONNECTED": "FullyConnectedOptions", "CONV_2D": "Conv2DOptions"}.get(op, "TransposeConvOptions")
        if op == "FULLY_CONNECTED":
            x, weights, y = (h, c), (n, c), (h, n)
        else:
            options |= dict(Padding=0, StrideH=stride, StrideW=stride)
            x, y = (1, h, w, c), (1, -(-h // stride), -(-w // stride), n)
            weights = (n, kh, kw, c)
        if op == "DEPTHWISE_CONV_2D":
            kind, weights, y = "DepthwiseConv2DOptions", (1, kh, kw, 2 * c), (*y[:3], 2 * c)
            options["DepthMultiplier"] = 2
        if op == "TRANSPOSE_CONV":
            y = (1, h * stride, w * stride, n)
        data, bias = (random_values(rng, s, "float32") for s in (weights, y[-1:]))
        tensors = [tensor(rng, x, "float32"), (weights, None, 0, data, 0), (y[-1:], None, 0, bias, 0)]
        tensors += [tensor(rng, y, "float32"), ints(y)]
        ins = [4, 1, 0, 2] if op == "TRANSPOSE_CONV" else [0, 1, 2]
        agree(one_operator(op, tensors, ins, [3], options, kind), [random_values(rng, x, "float32")])


# Operators that TFLM has no kernel for: their definition


def computed(data, *xs):
    (y,) = golden.run_graph(load_model(data), list(xs))
    return y


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu(approximate):
    """Within one step of the real function, which a table of float32 rounds."""
    x = np.arange(-128, 128, dtype=np.int8)[None]
    tensors = [(x.shape, 0.05, 10, None, 0), (x.shape, 0.03, -100, None, 0)]
    got = computed(one_operator("GELU", tensors, [0], [1], {"Approximate": approximate}, "GeluOptions"), x)
    real = (x.astype(float) - 10) * 0.05
    want = real * 0.5 * (1 + np.vectorize(math.erf)(real / math.sqrt(2)))
    want = np.clip(np.round(want / 0.03) - 100, -128, 127)
    assert np.abs(got - want).max() <= 1


@pytest.mark.parametrize(
    "op, function",
    [("SQRT", np.sqrt), ("EXP", np.exp), ("SIGN", np.sign), ("RELU_0_TO_1", None), ("RELU_N1_TO_1", None)],
)
def test_tables_of_litert(op, function):
    x = np.arange(-128, 128, dtype=np.int8)[None]
    tensors = [(x.shape, 0.02, -128, None, 0), (x.shape, 0.7, -128, None, 0)]
    if op.startswith("RELU"):
        low = 0 if op == "RELU_0_TO_1" else -1
        tensors = [(x.shape, 0.02, 3, None, 0), (x.shape, 0.015, -7, None, 0)]
        function = lambda v: np.clip(v, low, 1)  # noqa: E731
    (_, a, za, _, _), (_, b, zb, _, _) = tensors
    want = np.clip(np.round(function((x.astype(float) - za) * a) / b) + zb, -128, 127)
    assert np.abs(computed(one_operator(op, tensors, [0], [1]), x) - want).max() <= 1


def test_moves_of_litert():
    x = np.arange(12, dtype=np.int8).reshape(3, 4)
    flat = (x.shape, 0.1, 0, None, 0)
    data = one_operator("TILE", [flat, ints([2, 1]), ((6, 4), 0.1, 0, None, 0)], [0, 1], [2])
    assert np.array_equal(computed(data, x), np.vstack([x, x]))
    on, off = (((), None, 0, np.array(v, np.float32), 0) for v in (5, -1))
    at = ((3,), None, 0, None, 0, "int32")
    data = one_operator(
        "ONE_HOT",
        [at, ints(4), on, off, ((3, 4), None, 0, None, 0, "float32")],
        [0, 1, 2, 3],
        [4],
        {"Axis": -1},
        "OneHotOptions",
    )
    want = np.full((3, 4), -1, np.float32)
    want[0, 2] = want[1, 0] = 5  # 7 is outside: no place for it
    assert np.array_equal(computed(data, np.array([2, 0, 7], np.int32)), want)
    data = one_operator("RANK", [flat, ((), None, 0, None, 0, "int32")], [0], [1])
    assert computed(data, x) == 2


def test_products_of_litert():
    x = np.array([[2, 3, 4], [-1, 5, 2]], np.int32)
    tensors = [(x.shape, None, 0, None, 0, "int32"), ints([1]), ((2,), None, 0, None, 0, "int32")]
    data = one_operator("REDUCE_PROD", tensors, [0, 1], [2], {}, "ReducerOptions")
    assert computed(data, x).tolist() == [24, -10]
    q = np.array([[10, 20, 30], [-40, 5, 100]], np.int8)
    tensors = [(q.shape, 0.1, 0, None, 0), ints([1]), ((2,), 0.2, 3, None, 0)]
    got = computed(one_operator("REDUCE_PROD", tensors, [0, 1], [2], {}, "ReducerOptions"), q)
    assert np.abs(got - np.clip(np.round(np.prod(q * 0.1, axis=1) / 0.2) + 3, -128, 127)).max() <= 1
    x = np.array([[0, 1], [0, 0]], bool)
    tensors = [(x.shape, None, 0, None, 0, "bool"), ints([1]), ((2,), None, 0, None, 0, "bool")]
    assert computed(one_operator("REDUCE_ANY", tensors, [0, 1], [2], {}, "ReducerOptions"), x).tolist() == [True, False]

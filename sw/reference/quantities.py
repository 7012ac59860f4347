"""The integers an operator works with: multipliers, shifts, zero points, limits and tables, from its real scales.

The golden model's kernels and the compiler both take them from here, so that hardware and golden model scale alike.
"""

import numpy as np

from lepton.sw.graph.model import Model, ModelError, Operator
from lepton.sw.reference import arith


def scaled(op, function, *args):
    """function(*args), with a range error of the arithmetic told as the model's."""
    try:
        return function(*args)
    except arith.ArithmeticRangeError as error:
        raise ModelError(f"{op}: {error}") from None


def tensors_of(model: Model, op: Operator):
    return [model.tensors[i] if i >= 0 else None for i in op.inputs], model.tensors[op.outputs[0]]


def output_range(op, y):
    low, high = arith.activation_range(op.options.get("activation", "NONE"), y.scale, y.zero_point, y.dtype)
    if low > high:
        raise ModelError(
            f"{op}: its fused activation leaves no {y.dtype} value (scale {y.scale}, zero point {y.zero_point})"
        )
    return low, high


def conv_parameters(model: Model, op: Operator):
    """(multipliers int32[cout], shifts int32[cout], bias[cout], in_zp, out_zp, low, high).

    For CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED and TRANSPOSE_CONV. The bias is the model's own (zeros if it
    has none), without the input zero point's share, int32 or for int16 inputs int64: an output is
    clamp(requantize(sum((x - in_zp) * w) + bias) + out_zp, low, high).
    """
    ins, y = tensors_of(model, op)
    x, w, b = (ins[2], ins[1], ins[3:]) if op.op == "TRANSPOSE_CONV" else (ins[0], ins[1], ins[2:])
    channels = w.shape[3] if op.op == "DEPTHWISE_CONV_2D" else w.shape[0]
    real = [float(x.scale) * float(s) / float(y.scale) for s in w.scales]
    pairs = np.array([scaled(op, arith.quantize_multiplier, r) for r in real], np.int32).reshape(-1, 2)
    pairs = np.broadcast_to(pairs, (channels, 2))
    bias = np.zeros(channels, np.int32)
    if b and b[0] is not None:
        bias = b[0].data.reshape(-1).astype(np.int32 if x.dtype == "int8" else np.int64)
    low, high = output_range(op, y)
    return pairs[:, 0].copy(), pairs[:, 1].copy(), bias, x.zero_point, y.zero_point, low, high


def add_parameters(model: Model, op: Operator) -> dict:
    """ADD, SUB: left_shift (20, of int16 15), m1, s1, m2, s2 (inputs), mo, so (output), z1, z2, zo, low, high."""
    (a, b), y = tensors_of(model, op)
    left = 15 if y.dtype == "int16" else 20
    twice = 2 * float(max(a.scale, b.scale))
    real = [float(a.scale) / twice, float(b.scale) / twice, twice / ((1 << left) * float(y.scale))]
    if real[2] >= 1:
        raise ModelError(f"{op}: its output scale {y.scale} is far too small for its inputs")
    (m1, s1), (m2, s2), (mo, so) = (scaled(op, arith.quantize_multiplier, r) for r in real)
    low, high = output_range(op, y)
    out = dict(left_shift=left, m1=m1, s1=s1, m2=m2, s2=s2, mo=mo, so=so)
    return out | dict(z1=a.zero_point, z2=b.zero_point, zo=y.zero_point, low=low, high=high)


def sum_parameters(model: Model, op: Operator) -> dict:
    """ADD_N and CUMSUM: left_shift 20, m1, s1 of all inputs, mo, so of the output, z1, zo."""
    x, y = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    real = 2 * float(x.scale) / ((1 << 20) * float(y.scale))
    if real >= 1:
        raise ModelError(f"{op}: its output scale {y.scale} is far too small for its inputs")
    (m1, s1), (mo, so) = (scaled(op, arith.quantize_multiplier, r) for r in (0.5, real))
    return dict(left_shift=20, m1=m1, s1=s1, mo=mo, so=so, z1=x.zero_point, zo=y.zero_point)


def difference_parameters(model: Model, op: Operator) -> dict:
    """SQUARED_DIFFERENCE: left_shift (7, of int16 0), m1, s1, m2, s2 (inputs), mo, so (output), z1, z2, zo."""
    (a, b), y = tensors_of(model, op)
    left = 0 if y.dtype == "int16" else 7
    twice = 2 * float(max(a.scale, b.scale))
    real = [float(a.scale) / twice, float(b.scale) / twice, twice * twice / ((1 << 2 * left) * float(y.scale))]
    (m1, s1), (m2, s2), (mo, so) = (scaled(op, arith.quantize_multiplier, r) for r in real)
    out = dict(left_shift=left, m1=m1, s1=s1, m2=m2, s2=s2, mo=mo, so=so)
    return out | dict(z1=a.zero_point, z2=b.zero_point, zo=y.zero_point)


def comparison_parameters(model: Model, op: Operator) -> dict:
    """EQUAL and its kin on int8: left_shift (8), m1, s1, m2, s2, z1, z2."""
    (a, b), _ = tensors_of(model, op)
    (m1, s1), (m2, s2) = (scaled(op, arith.quantize_multiplier, float(t.scale)) for t in (a, b))
    return dict(left_shift=8, m1=m1, s1=s1, m2=m2, s2=s2, z1=a.zero_point, z2=b.zero_point)


def div_parameters(model: Model, op: Operator) -> dict:
    """DIV: m, s, z1, z2, zo, low, high."""
    (a, b), y = tensors_of(model, op)
    m, s = scaled(op, arith.quantize_multiplier, float(a.scale) / (float(b.scale) * float(y.scale)))
    low, high = output_range(op, y)
    return dict(m=m, s=s, z1=a.zero_point, z2=b.zero_point, zo=y.zero_point, low=low, high=high)


def prelu_parameters(model: Model, op: Operator) -> dict:
    """PRELU: m1, s1 of inputs of 0 and more, m2, s2 of the product with alpha, z1, z2 (of alpha), zo."""
    (a, b), y = tensors_of(model, op)
    m1, s1 = scaled(op, arith.quantize_multiplier, float(a.scale) / float(y.scale))
    m2, s2 = scaled(op, arith.quantize_multiplier, float(a.scale) * float(b.scale) / float(y.scale))
    return dict(m1=m1, s1=s1, m2=m2, s2=s2, z1=a.zero_point, z2=b.zero_point, zo=y.zero_point)


def mul_parameters(model: Model, op: Operator) -> dict:
    """MUL: m, s, z1, z2, zo, low, high."""
    (a, b), y = tensors_of(model, op)
    m, s = scaled(op, arith.quantize_multiplier, float(a.scale) * float(b.scale) / float(y.scale))
    low, high = output_range(op, y)
    return dict(m=m, s=s, z1=a.zero_point, z2=b.zero_point, zo=y.zero_point, low=low, high=high)


def pool_parameters(model: Model, op: Operator) -> dict:
    """AVERAGE_POOL_2D, MAX_POOL_2D: filter, stride and pad (before) of h and w, zero_point, low, high."""
    (x,), y = tensors_of(model, op)
    low, high = output_range(op, y)
    keys = ("filter_h", "filter_w", "stride_h", "stride_w", "pad_h", "pad_w")
    return {k: op.options[k] for k in keys} | dict(zero_point=x.zero_point, low=low, high=high)


def mean_parameters(model: Model, op: Operator) -> dict:
    """MEAN and SUM: axis, count, m, s, zi, zo, low, high; the output is requantize(sum - count*zi, m, s) + zo."""
    ins, y = tensors_of(model, op)
    x = ins[0]
    count = int(np.prod([x.shape[a] for a in op.options["axis"]]))
    if op.op == "MEAN":
        m, s = scaled(op, arith.mean_multiplier, x.scale, y.scale, count)
    else:
        m, s = scaled(op, arith.quantize_multiplier, float(x.scale) / float(y.scale))
    low, high = arith.LIMITS[y.dtype]
    return dict(axis=op.options["axis"], count=count, m=m, s=s, zi=x.zero_point, zo=y.zero_point, low=low, high=high)


def product_parameters(model: Model, op: Operator, count: int) -> tuple[int, int, int, int]:
    """REDUCE_PROD of `count` values: multiplier, shift, zero points of input and output."""
    x, y = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    real = float(x.scale) / float(y.scale) ** (1.0 / count)
    return *scaled(op, arith.quantize_multiplier, real), x.zero_point, y.zero_point


def quantize_parameters(model: Model, op: Operator) -> dict:
    """QUANTIZE of integers to integers: m, s, zi, zo, low, high."""
    (x,), y = tensors_of(model, op)
    m, s = scaled(op, arith.quantize_multiplier, float(x.scale) / float(y.scale))
    low, high = arith.LIMITS[y.dtype]
    return dict(m=m, s=s, zi=x.zero_point, zo=y.zero_point, low=low, high=high)


UNARY = (
    "ABS",
    "ELU",
    "EXP",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOG",
    "LOGISTIC",
    "QUANTIZE",
    "RELU",
    "RELU6",
    "RELU_0_TO_1",
    "RELU_N1_TO_1",
    "RSQRT",
    "SIGN",
    "SQRT",
    "TANH",
)
"""Operators that are a table of 256 entries when input and output are int8."""


def unary_table(model: Model, op: Operator) -> np.ndarray:
    """int8[256], entry 0 for -128, of an operator in UNARY."""
    ins, y = tensors_of(model, op)
    x = ins[0]
    if x.dtype != "int8" or y.dtype != "int8":
        raise ModelError(f"{op} is not a function of int8 to int8")
    source, target = (x.scale, x.zero_point), (y.scale, y.zero_point)
    if op.op == "LOGISTIC":
        return scaled(op, arith.logistic_table, *source)
    if op.op == "TANH":
        return scaled(op, arith.tanh_table, *source)
    if op.op == "LEAKY_RELU":
        return scaled(op, arith.leaky_relu_table, *source, *target, op.options["alpha"])
    if op.op == "RELU6":
        return scaled(op, arith.relu6_table, *source)
    if op.op == "GELU":
        return scaled(op, arith.gelu_table, *source, *target, op.options["approximate"])
    plain = {
        "ABS": arith.abs_table,
        "ELU": arith.elu_table,
        "EXP": arith.exp_table,
        "HARD_SWISH": arith.hard_swish_table,
        "LOG": arith.log_table,
        "QUANTIZE": arith.requantize_table,
        "RELU": arith.relu_table,
        "RELU_0_TO_1": arith.relu_0_to_1_table,
        "RELU_N1_TO_1": arith.relu_n1_to_1_table,
        "RSQRT": arith.rsqrt_table,
        "SIGN": arith.sign_table,
        "SQRT": arith.sqrt_table,
    }
    if op.op in plain:
        return scaled(op, plain[op.op], *source, *target)
    raise ModelError(f"{op} is not a unary function")


def resize_indices(op: Operator, size: int, out: int) -> np.ndarray:
    """Source index of each of `out` places along an axis of `size`, for RESIZE_NEAREST_NEIGHBOR (float32, as TFLM)."""
    corners, half = op.options["align_corners"], op.options["half_pixel_centers"]
    one = np.float32(1)
    scale = one * (size - 1) / np.float32(out - 1) if corners and out > 1 else one * size / np.float32(out)
    place = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0)) * np.float32(scale)
    index = np.floor(place + np.float32(0.5)) if corners else np.floor(place)
    return np.clip(index.astype(np.int64), 0, size - 1)


def bilinear_places(op: Operator, size: int, out: int):
    """(lower, upper source index, share of the upper in 1024) of each of `out` places along an axis of `size`.

    Of the integer RESIZE_BILINEAR; the share may be negative or above 1024 at borders.
    """
    scale = ((1 << 10) * size + out // 2) // out
    if op.options["align_corners"] and out > 1:
        scale = ((1 << 10) * (size - 1) + (out - 1) // 2) // (out - 1)
    at = np.arange(out, dtype=np.int64) * scale
    if op.options["half_pixel_centers"]:
        at += scale // 2 - (1 << 9)
    low = np.maximum(np.where(at < 0, -(-at >> 10), at >> 10), 0)  # C++ divides toward zero
    high = np.minimum((at + 1023) >> 10, size - 1)
    return low, high, at - 1024 * low

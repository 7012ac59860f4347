"""The golden model: int8 networks in NumPy integers, byte for byte what TensorFlow Lite Micro computes.

`run` executes a whole model, `run_operator` one operator. The `*_parameters` functions give the integers a kernel
works with; the compiler takes them from here, so that hardware and golden model scale alike. Rounding: see
`arith.requantize`. Matrix products are done in float64: every partial sum is an integer below 2**53, so they are
exact in any order.
"""

import numpy as np

from lepton.sw.graph.model import Model, ModelError, Operator
from lepton.sw.reference import arith


def _scaled(op, function, *args):
    """function(*args), with a range error of the arithmetic told as the model's."""
    try:
        return function(*args)
    except arith.ArithmeticRangeError as error:
        raise ModelError(f"{op}: {error}") from None


def _tensors(model: Model, op: Operator):
    return [model.tensors[i] if i >= 0 else None for i in op.inputs], model.tensors[op.outputs[0]]


def _range(op, y):
    low, high = arith.activation_range(op.options.get("activation", "NONE"), y.scale, y.zero_point)
    if low > high:
        raise ModelError(
            f"{op}: its fused activation leaves no int8 value (scale {y.scale}, zero point {y.zero_point})"
        )
    return low, high


def conv_parameters(model: Model, op: Operator):
    """(multipliers int32[cout], shifts int32[cout], bias int32[cout], in_zp, out_zp, low, high).

    For CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED and TRANSPOSE_CONV. The bias is the model's own (zeros if it
    has none), without the input zero point's share: an output is clamp(requantize(sum((x - in_zp) * w) + bias) +
    out_zp, low, high).
    """
    ins, y = _tensors(model, op)
    x, w, b = (ins[2], ins[1], ins[3:]) if op.op == "TRANSPOSE_CONV" else (ins[0], ins[1], ins[2:])
    channels = w.shape[3] if op.op == "DEPTHWISE_CONV_2D" else w.shape[0]
    if op.op == "FULLY_CONNECTED" and len(w.scales) == 1:
        real = [float(x.scale * w.scale) / float(y.scale)]  # one scale: the product is a float in TFLM
    else:
        real = [float(x.scale) * float(s) / float(y.scale) for s in w.scales]
    pairs = np.array([_scaled(op, arith.quantize_multiplier, r) for r in real], np.int32).reshape(-1, 2)
    pairs = np.broadcast_to(pairs, (channels, 2))
    bias = np.zeros(channels, np.int32)
    if b and b[0] is not None:
        bias = b[0].data.reshape(-1).astype(np.int32)
    low, high = _range(op, y)
    return pairs[:, 0].copy(), pairs[:, 1].copy(), bias, x.zero_point, y.zero_point, low, high


def add_parameters(model: Model, op: Operator) -> dict:
    """ADD and SUB: left_shift (20), m1, s1, m2, s2 of the inputs, mo, so of the output, z1, z2, zo, low, high."""
    (a, b), y = _tensors(model, op)
    twice = 2 * float(max(a.scale, b.scale))
    real = [float(a.scale) / twice, float(b.scale) / twice, twice / ((1 << 20) * float(y.scale))]
    if real[2] >= 1:
        raise ModelError(f"{op}: its output scale {y.scale} is far too small for its inputs")
    (m1, s1), (m2, s2), (mo, so) = (_scaled(op, arith.quantize_multiplier, r) for r in real)
    low, high = _range(op, y)
    out = dict(left_shift=20, m1=m1, s1=s1, m2=m2, s2=s2, mo=mo, so=so)
    return out | dict(z1=a.zero_point, z2=b.zero_point, zo=y.zero_point, low=low, high=high)


def mul_parameters(model: Model, op: Operator) -> dict:
    """MUL: m, s, z1, z2, zo, low, high."""
    (a, b), y = _tensors(model, op)
    m, s = _scaled(op, arith.quantize_multiplier, float(a.scale) * float(b.scale) / float(y.scale))
    low, high = _range(op, y)
    return dict(m=m, s=s, z1=a.zero_point, z2=b.zero_point, zo=y.zero_point, low=low, high=high)


def pool_parameters(model: Model, op: Operator) -> dict:
    """AVERAGE_POOL_2D, MAX_POOL_2D: filter, stride and pad (before) of h and w, zero_point, low, high."""
    (x,), y = _tensors(model, op)
    low, high = _range(op, y)
    keys = ("filter_h", "filter_w", "stride_h", "stride_w", "pad_h", "pad_w")
    return {k: op.options[k] for k in keys} | dict(zero_point=x.zero_point, low=low, high=high)


def mean_parameters(model: Model, op: Operator) -> dict:
    """MEAN: axis, count, m, s, zi, zo, low, high; the output is requantize(sum - count*zi, m, s) + zo."""
    ins, y = _tensors(model, op)
    x = ins[0]
    count = int(np.prod([x.shape[a] for a in op.options["axis"]]))
    m, s = _scaled(op, arith.mean_multiplier, x.scale, y.scale, count)
    return dict(axis=op.options["axis"], count=count, m=m, s=s, zi=x.zero_point, zo=y.zero_point, low=-128, high=127)


def quantize_parameters(model: Model, op: Operator) -> dict:
    """QUANTIZE (int8 to int8): m, s, zi, zo, low, high."""
    (x,), y = _tensors(model, op)
    m, s = _scaled(op, arith.quantize_multiplier, float(x.scale) / float(y.scale))
    return dict(m=m, s=s, zi=x.zero_point, zo=y.zero_point, low=-128, high=127)


UNARY = ("LOGISTIC", "TANH", "LEAKY_RELU", "HARD_SWISH", "RELU", "RELU6", "QUANTIZE")
"""Operators that are a table of 256 entries."""


def unary_table(model: Model, op: Operator) -> np.ndarray:
    """int8[256], entry 0 for -128, of an operator in UNARY."""
    ins, y = _tensors(model, op)
    x = ins[0]
    source, target = (x.scale, x.zero_point), (y.scale, y.zero_point)
    if op.op == "LOGISTIC":
        return _scaled(op, arith.logistic_table, *source)
    if op.op == "TANH":
        return _scaled(op, arith.tanh_table, *source)
    if op.op == "LEAKY_RELU":
        return _scaled(op, arith.leaky_relu_table, *source, *target, op.options["alpha"])
    if op.op == "HARD_SWISH":
        return _scaled(op, arith.hard_swish_table, *source, *target)
    if op.op == "RELU":
        return _scaled(op, arith.relu_table, *source, *target)
    if op.op == "RELU6":
        return _scaled(op, arith.relu6_table, *source)
    if op.op == "QUANTIZE":
        return _scaled(op, arith.requantize_table, *source, *target)
    raise ModelError(f"{op} is not a unary function")


def apply_table(table, x) -> np.ndarray:
    """table[x] for int8 x."""
    return np.asarray(table)[np.asarray(x, np.int8).astype(np.int64) + 128]


def _windows(x, op: Operator, out_shape, fill):
    """Windows of NHWC x as (n, oh, ow, kh, kw, c), places outside filled with `fill`. A view where it can be."""
    p = op.options
    (kh, kw), (sh, sw) = (p["filter_h"], p["filter_w"]), (p["stride_h"], p["stride_w"])
    dh, dw = p.get("dilation_h", 1), p.get("dilation_w", 1)
    oh, ow = out_shape[1], out_shape[2]
    need_h, need_w = (oh - 1) * sh + (kh - 1) * dh + 1, (ow - 1) * sw + (kw - 1) * dw + 1
    after_h, after_w = need_h - p["pad_h"] - x.shape[1], need_w - p["pad_w"] - x.shape[2]
    pads = ((0, 0), (p["pad_h"], max(after_h, 0)), (p["pad_w"], max(after_w, 0)), (0, 0))
    x = np.pad(x, pads, constant_values=fill)
    n, h, w, c = x.strides
    shape = (x.shape[0], oh, ow, kh, kw, x.shape[3])
    return np.lib.stride_tricks.as_strided(x, shape, (n, h * sh, w * sw, h * dh, w * dw, c), writeable=False)


def _finish(total, parameters):
    m, s, bias, _, zero, low, high = parameters
    return arith.clamp8(arith.requantize(total + bias, m, s) + zero, low, high)


def _conv(model, op, args):
    ins, y = _tensors(model, op)
    parameters = conv_parameters(model, op)
    w = ins[1].data
    x = args[0].astype(np.float64) - parameters[3]
    view = _windows(x, op, y.shape, 0.0)
    n, oh, ow, kh, kw, c = view.shape
    groups = op.options["groups"]
    cin, cout = c // groups, w.shape[0] // groups
    total = np.empty((n, oh, ow, w.shape[0]), np.int64)
    step = max(1, (1 << 23) // max(1, ow * kh * kw * cin))  # rows at a time bounds the unfolded copy
    for g in range(groups):
        part = w[g * cout : (g + 1) * cout].reshape(cout, -1).T.astype(np.float64)
        for row in range(0, oh, step):
            cut = view[:, row : row + step, :, :, :, g * cin : (g + 1) * cin]
            rows = cut.reshape(-1, kh * kw * cin)
            total[:, row : row + step, :, g * cout : (g + 1) * cout] = (rows @ part).reshape(n, -1, ow, cout)
    return _finish(total, parameters)


def _depthwise(model, op, args):
    ins, y = _tensors(model, op)
    parameters = conv_parameters(model, op)
    w = ins[1].data[0].astype(np.int64)
    x = args[0].astype(np.int64) - parameters[3]
    view = _windows(np.repeat(x, op.options["depth_multiplier"], axis=3), op, y.shape, 0)
    total = np.zeros(y.shape, np.int64)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            total += view[:, :, :, i, j] * w[i, j]
    return _finish(total, parameters)


def _fully_connected(model, op, args):
    ins, y = _tensors(model, op)
    parameters = conv_parameters(model, op)
    w = ins[1].data
    x = args[0].reshape(-1, w.shape[1]).astype(np.float64) - parameters[3]
    total = (x @ w.T.astype(np.float64)).astype(np.int64)
    return _finish(total, parameters).reshape(y.shape)


def _transpose_conv(model, op, args):
    ins, y = _tensors(model, op)
    parameters = conv_parameters(model, op)
    p, w = op.options, ins[1].data.astype(np.float64)
    x = args[2].astype(np.float64) - parameters[3]
    (n, h, width, _), (kh, kw) = x.shape, w.shape[1:3]
    sh, sw, ph, pw = p["stride_h"], p["stride_w"], p["pad_h"], p["pad_w"]
    big = np.zeros(
        (n, max((h - 1) * sh + kh, ph + y.shape[1]), max((width - 1) * sw + kw, pw + y.shape[2]), y.shape[3]), np.int64
    )
    for i in range(kh):
        for j in range(kw):
            big[:, i : i + h * sh : sh, j : j + width * sw : sw][:, :h, :width] += (x @ w[:, i, j].T).astype(np.int64)
    return _finish(big[:, ph : ph + y.shape[1], pw : pw + y.shape[2]], parameters)


def _average_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    p = pool_parameters(model, op)
    total = np.zeros(y.shape, np.int64)
    count = np.zeros((1, *y.shape[1:3], 1), np.int64)
    view = _windows(args[0].astype(np.int64), op, y.shape, 0)
    inside = _windows(np.ones((1, *args[0].shape[1:3], 1), np.int64), op, y.shape, 0)
    for i in range(p["filter_h"]):
        for j in range(p["filter_w"]):
            total += view[:, :, :, i, j]
            count += inside[:, :, :, i, j]
    return arith.clamp8(arith.average(total, count), p["low"], p["high"])


def _max_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    p = pool_parameters(model, op)
    view = _windows(args[0], op, y.shape, -128)
    best = np.full(y.shape, -128, np.int8)
    for i in range(p["filter_h"]):
        for j in range(p["filter_w"]):
            np.maximum(best, view[:, :, :, i, j], out=best)
    return arith.clamp8(best, p["low"], p["high"])


def _add(model, op, args):
    return arith.add(args[0], args[1], add_parameters(model, op), subtract=op.op == "SUB")


def _mul(model, op, args):
    return arith.mul(args[0], args[1], mul_parameters(model, op))


def _mean(model, op, args):
    y = model.tensors[op.outputs[0]]
    p = mean_parameters(model, op)
    total = args[0].astype(np.int64).sum(axis=p["axis"]) - p["count"] * p["zi"]
    return arith.clamp8(arith.requantize(total, p["m"], p["s"]) + p["zo"]).reshape(y.shape)


def _pad(model, op, args):
    return np.pad(args[0], op.options["paddings"], constant_values=op.options["value"])


def _concat(model, op, args):
    return np.concatenate(args, axis=op.options["axis"])


def _reshape(model, op, args):
    return args[0].reshape(model.tensors[op.outputs[0]].shape)


def _softmax(model, op, args):
    return arith.softmax(args[0], model.tensors[op.inputs[0]].scale, op.options["beta"])


def _unary(model, op, args):
    return apply_table(unary_table(model, op), args[0])


def _strided_slice(model, op, args):
    return np.ascontiguousarray(args[0][op.options["slices"]])


def _transpose(model, op, args):
    return np.ascontiguousarray(args[0].transpose(op.options["perm"]))


def resize_indices(op: Operator, size: int, out: int) -> np.ndarray:
    """Source index of each of `out` places along an axis of `size`, for RESIZE_NEAREST_NEIGHBOR (float32, as TFLM)."""
    corners, half = op.options["align_corners"], op.options["half_pixel_centers"]
    one = np.float32(1)
    scale = one * (size - 1) / np.float32(out - 1) if corners and out > 1 else one * size / np.float32(out)
    place = (np.arange(out, dtype=np.float32) + np.float32(0.5 if half else 0)) * np.float32(scale)
    index = np.floor(place + np.float32(0.5)) if corners else np.floor(place)
    return np.clip(index.astype(np.int64), 0, size - 1)


def _resize(model, op, args):
    y = model.tensors[op.outputs[0]]
    x = args[0]
    return x[:, resize_indices(op, x.shape[1], y.shape[1])][:, :, resize_indices(op, x.shape[2], y.shape[2])]


_KERNELS = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
    "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool,
    "ADD": _add,
    "SUB": _add,
    "MUL": _mul,
    "MEAN": _mean,
    "PAD": _pad,
    "PADV2": _pad,
    "CONCATENATION": _concat,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _strided_slice,
    "TRANSPOSE": _transpose,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
} | dict.fromkeys(UNARY, _unary)


def run_operator(model: Model, op: Operator, tensors: dict) -> tuple[np.ndarray, ...]:
    """Outputs of one operator. `tensors` maps tensor index to array; constants are taken from the model when absent.

    A kernel is f(model, op, args) -> array or tuple of arrays. args are in the tensors' own types and shapes, constants
    included, None where an input is absent; a variable tensor is the state's own array, to be changed in place.
    """
    args = [None if i < 0 else tensors[i] if i in tensors else model.tensors[i].data for i in op.inputs]
    made = _KERNELS[op.op](model, op, args)
    return made if isinstance(made, tuple) else (made,)


def run_all(model: Model, *inputs) -> dict:
    """All activations of one inference, tensor index to array; inputs have the model's shapes (batch 1)."""
    tensors = dict(zip(model.inputs, inputs, strict=True))
    for i, x in tensors.items():
        t = model.tensors[i]
        if x.dtype != np.int8 or x.shape != t.shape:
            raise ModelError(f"input {t.name!r} is int8 {t.shape}, got {x.dtype} {x.shape}")
    for op in model.operators:
        tensors.update(zip(op.outputs, run_operator(model, op, tensors), strict=True))
    return tensors


def run(model: Model, *inputs):
    """Outputs for a batch: each input is int8 (N, ...) with the model's shape after the batch; so is the result.

    One array for a model with one output, else a tuple of arrays in the model's order.
    """
    inputs = [np.asarray(x) for x in inputs]
    if len(inputs) != len(model.inputs):
        raise ModelError(f"{model.name} has {len(model.inputs)} inputs, got {len(inputs)}")
    if not inputs[0].ndim or not len(inputs[0]) or any(len(x) != len(inputs[0]) for x in inputs):
        raise ModelError("inputs must be batches of the same size, at least 1")
    rows = []
    for i in range(len(inputs[0])):
        tensors = run_all(model, *(x[i : i + 1] for x in inputs))
        rows.append([tensors[j] for j in model.outputs])
    out = tuple(np.concatenate(column) if column[0].ndim else np.stack(column) for column in zip(*rows))
    return out[0] if len(out) == 1 else out

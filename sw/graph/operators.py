"""The operators: what each takes, its options, and the checks that make a model safe to run."""

import numpy as np
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from lepton.sw.graph.model import (
    MAX_PRODUCTS,
    MAX_TENSOR_ELEMENTS,
    ModelError,
    Operator,
    Tensor,
    need,
    tensor_name,
    window,
)

ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}
PADDINGS = {0: "SAME", 1: "VALID"}


def indexes(values, length, limit, where, optional=False) -> tuple[int, ...]:
    need(length <= 1024, where, "too many tensors")
    out = tuple(int(values(i)) for i in range(length))
    for i in out:
        need((optional and i == -1) or 0 <= i < limit, where, f"tensor index {i} is outside 0..{limit - 1}")
    return out


_OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "MEAN": "ReducerOptions",
    "CONCATENATION": "ConcatenationOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
}
_INPUTS = {
    "CONV_2D": (2, 3),
    "DEPTHWISE_CONV_2D": (2, 3),
    "FULLY_CONNECTED": (2, 3),
    "AVERAGE_POOL_2D": (1, 1),
    "MAX_POOL_2D": (1, 1),
    "ADD": (2, 2),
    "SUB": (2, 2),
    "MUL": (2, 2),
    "MEAN": (2, 2),
    "PAD": (2, 2),
    "PADV2": (3, 3),
    "CONCATENATION": (1, 64),
    "RESHAPE": (1, 2),
    "QUANTIZE": (1, 1),
    "SOFTMAX": (1, 1),
    "LOGISTIC": (1, 1),
    "TANH": (1, 1),
    "LEAKY_RELU": (1, 1),
    "HARD_SWISH": (1, 1),
    "RELU": (1, 1),
    "RELU6": (1, 1),
    "TRANSPOSE_CONV": (3, 4),
    "STRIDED_SLICE": (4, 4),
    "TRANSPOSE": (2, 2),
    "RESIZE_NEAREST_NEIGHBOR": (2, 2),
}
OPERATORS = tuple(_INPUTS)
"""Names of the operators that can be read and run."""


def read_operator(root, o, index, tensors) -> Operator:
    codes = root.OperatorCodesLength()
    need(o.OpcodeIndex() < codes, f"operator {index}", f"operator code {o.OpcodeIndex()} of {codes} does not exist")
    code = root.OperatorCodes(o.OpcodeIndex())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    op = BUILTIN_OPCODE2NAME.get(number, f"code {number}")
    where = f"operator {index} ({op})"
    if op not in _INPUTS:
        raise ModelError(f"{where}: operator not supported; supported: {', '.join(OPERATORS)}")
    inputs = indexes(o.Inputs, o.InputsLength(), len(tensors), where, optional=True)
    outputs = indexes(o.Outputs, o.OutputsLength(), len(tensors), where)
    low, high = _INPUTS[op]
    need(low <= len(inputs) <= high, where, f"{len(inputs)} inputs, {low} to {high} expected")
    need(len(outputs) == 1, where, f"{len(outputs)} outputs, 1 expected")
    need(all(i >= 0 for i in inputs[:low]), where, "a required input is missing")
    options = _read_options(o, op, where)
    operator = Operator(index, op, inputs, outputs, options)
    _CHECKS[op](operator, [tensors[i] if i >= 0 else None for i in inputs], tensors[outputs[0]])
    return operator


def _read_options(o, op, where) -> dict:
    kind = _OPTIONS.get(op)
    if kind is None:
        return {}
    table = o.BuiltinOptions()
    need(
        table is not None and o.BuiltinOptionsType() == getattr(tflite.BuiltinOptions, kind),
        where,
        "its options are missing or of another operator",
    )
    t = getattr(tflite, kind)()
    t.Init(table.Bytes, table.Pos)
    out: dict = {}
    if hasattr(t, "Padding"):
        need(t.Padding() in PADDINGS, where, f"unknown padding {t.Padding()}")
        out.update(padding=PADDINGS[t.Padding()], stride_h=t.StrideH(), stride_w=t.StrideW())
    if hasattr(t, "DilationHFactor"):
        out.update(dilation_h=t.DilationHFactor(), dilation_w=t.DilationWFactor())
    if hasattr(t, "FilterHeight"):
        out.update(filter_h=t.FilterHeight(), filter_w=t.FilterWidth())
    for key, value in out.items():
        need(key == "padding" or 1 <= value <= 65536, where, f"{key}={value} must be 1 to 65536")
    if hasattr(t, "FusedActivationFunction"):
        number = t.FusedActivationFunction()
        need(number in ACTIVATIONS, where, f"fused activation {number} is not supported")
        out["activation"] = ACTIVATIONS[number]
    for key, method in (
        ("depth_multiplier", "DepthMultiplier"),
        ("axis", "Axis"),
        ("beta", "Beta"),
        ("alpha", "Alpha"),
        ("keep_dims", "KeepDims"),
        ("keep_num_dims", "KeepNumDims"),
        ("begin_mask", "BeginMask"),
        ("end_mask", "EndMask"),
        ("ellipsis_mask", "EllipsisMask"),
        ("new_axis_mask", "NewAxisMask"),
        ("shrink_axis_mask", "ShrinkAxisMask"),
        ("offset", "Offset"),
        ("align_corners", "AlignCorners"),
        ("half_pixel_centers", "HalfPixelCenters"),
    ):
        if hasattr(t, method):
            out[key] = getattr(t, method)()
    if kind == "FullyConnectedOptions":
        need(t.WeightsFormat() == 0, where, "shuffled weights are not supported")
    return out


# Checks: (operator, input tensors, output tensor)


def check_activation(t: Tensor, where):
    name = f"{where}: {tensor_name(t)}"
    if t.dtype in ("float32", "float16"):
        raise ModelError(f"{name} is {t.dtype}: the model must be fully quantised to int8 (inputs and outputs too)")
    if t.dtype != "int8":
        raise ModelError(f"{name} is {t.dtype}: only int8 activations are supported")
    need(len(t.scales) == 1, name, "an activation needs one scale and zero point: quantise the model to int8")
    need(1e-18 < t.scale < 1e18, name, f"scale {t.scale} is out of range")


def _integers(o, t: Tensor | None, what, size=None) -> list[int]:
    need(t is not None and t.data is not None, o, f"{what} must be constant")
    need(t.dtype in ("int32", "int64"), o, f"{what} is {t.dtype}, not int32")
    need(t.size <= 64 and (size is None or t.size == size), o, f"{what} has {t.size} values")
    return [int(v) for v in t.data.reshape(-1)]


def _same_shape(o, x, y):
    need(x.shape == y.shape, o, f"output shape {y.shape} differs from input shape {x.shape}")


def _shape(o, y, want):
    want = tuple(want)
    need(y.shape == want, o, f"output shape is {y.shape}, its inputs give {want}")


def _weights(o, w: Tensor, bias, channels, axis):
    need(w.constant, o, f"weights {tensor_name(w)} must be constant")
    need(w.dtype == "int8", o, f"weights {tensor_name(w)} are {w.dtype}, not int8")
    need(len(w.scales) > 0, o, "weights without a scale")
    need(not w.zero_points.any(), o, "weights with a zero point other than 0 are not supported")
    need(
        len(w.scales) == 1 or (w.quant_axis == axis and len(w.scales) == channels),
        o,
        "weights quantised along a wrong axis",
    )
    if bias is not None:
        need(bias.constant and bias.dtype == "int32", o, f"bias must be constant int32, is {bias.dtype}")
        need(bias.size == channels, o, f"bias has {bias.size} values for {channels} channels")


def _check_conv(o, ins, y):
    x, w, bias = ins[0], ins[1], ins[2] if len(ins) > 2 else None
    check_activation(x, o)
    check_activation(y, o)
    need(len(x.shape) == 4 and len(w.shape) == 4, o, "input and weights must have 4 dimensions")
    p = o.options
    depthwise = o.op == "DEPTHWISE_CONV_2D"
    channels = w.shape[3] if depthwise else w.shape[0]
    _weights(o, w, bias, channels, 3 if depthwise else 0)
    if depthwise:
        need(w.shape[0] == 1, o, f"depthwise weights have shape {w.shape}")
        need(
            channels == x.shape[3] * p["depth_multiplier"],
            o,
            f"{channels} output channels, {x.shape[3]} input channels, depth multiplier {p['depth_multiplier']}",
        )
    else:
        need(x.shape[3] % w.shape[3] == 0, o, f"{x.shape[3]} input channels, weights for {w.shape[3]}")
        p["groups"] = x.shape[3] // w.shape[3]
        need(channels % p["groups"] == 0, o, f"{channels} channels do not divide into {p['groups']} groups")
    p["filter_h"], p["filter_w"] = w.shape[1], w.shape[2]
    _windows(o, x, y, channels)


def _windows(o, x, y, channels):
    p = o.options
    sizes = []
    padded = x.shape[0] * max(x.shape[3], channels)
    for axis, s in ((1, "h"), (2, "w")):
        n, before = window(x.shape[axis], p[f"filter_{s}"], p[f"stride_{s}"], p.get(f"dilation_{s}", 1), p["padding"])
        need(n > 0, o, "the window is larger than the input")
        p[f"pad_{s}"] = before
        sizes.append(n)
        effective = (p[f"filter_{s}"] - 1) * p.get(f"dilation_{s}", 1) + 1
        padded *= max(x.shape[axis], (n - 1) * p[f"stride_{s}"] + effective)
    _shape(o, y, (x.shape[0], *sizes, channels))
    need(padded <= MAX_TENSOR_ELEMENTS, o, "the padded input has too many elements")
    depth = x.shape[3] // p["groups"] if "groups" in p else 1
    need(y.size * p["filter_h"] * p["filter_w"] * depth <= MAX_PRODUCTS, o, "too many products")


def _check_fc(o, ins, y):
    x, w, bias = ins[0], ins[1], ins[2] if len(ins) > 2 else None
    check_activation(x, o)
    check_activation(y, o)
    need(len(w.shape) == 2, o, f"weights have shape {w.shape}, 2 dimensions expected")
    _weights(o, w, bias, w.shape[0], 0)
    need(x.size % w.shape[1] == 0, o, f"input of {x.size} values, weights for {w.shape[1]}")
    need(
        y.size == x.size // w.shape[1] * w.shape[0] and y.shape[-1:] == (w.shape[0],),
        o,
        f"output shape {y.shape} does not fit weights {w.shape}",
    )


def _check_pool(o, ins, y):
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    need(len(x.shape) == 4, o, "input must have 4 dimensions")
    need(x.scale == y.scale and x.zero_point == y.zero_point, o, "input and output are quantised differently")
    _windows(o, x, y, x.shape[3])


def _check_binary(o, ins, y):
    for t in (*ins, y):
        check_activation(t, o)
    try:
        want = np.broadcast_shapes(ins[0].shape, ins[1].shape)
    except ValueError:
        raise ModelError(f"{o}: shapes {ins[0].shape} and {ins[1].shape} do not broadcast") from None
    _shape(o, y, want)


def _check_mean(o, ins, y):
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    rank = len(x.shape)
    axes = _integers(o, ins[1], "the list of axes")
    need(axes and all(-rank <= a < rank for a in axes), o, f"axes {axes} are outside the input's {rank} dimensions")
    axes = sorted({a % rank for a in axes})
    o.options["axis"] = tuple(axes)
    if o.options["keep_dims"]:
        _shape(o, y, (1 if i in axes else d for i, d in enumerate(x.shape)))
    else:
        _shape(o, y, (d for i, d in enumerate(x.shape) if i not in axes))


def _check_pad(o, ins, y):
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    values = _integers(o, ins[1], "the paddings", 2 * len(x.shape))
    need(all(0 <= v <= 65536 for v in values), o, f"paddings {values} must be 0 to 65536")
    pads = tuple(zip(values[::2], values[1::2]))
    o.options["paddings"] = pads
    o.options["value"] = y.zero_point
    if len(ins) > 2:
        need(
            ins[2].constant and ins[2].dtype == "int8" and ins[2].size == 1, o, "the pad value must be a constant int8"
        )
        o.options["value"] = int(ins[2].data.reshape(-1)[0])
    _shape(o, y, (d + a + b for d, (a, b) in zip(x.shape, pads)))


def _check_concat(o, ins, y):
    for t in (*ins, y):
        need(t is not None, o, "a required input is missing")
        check_activation(t, o)
    need(o.options["activation"] == "NONE", o, "a fused activation is not supported")
    rank = len(y.shape)
    axis = o.options["axis"]
    need(all(len(t.shape) == rank for t in ins) and -rank <= axis < rank, o, f"axis {axis} or ranks do not fit")
    axis = o.options["axis"] = axis % rank
    for t in ins:
        need(
            t.shape[:axis] + t.shape[axis + 1 :] == y.shape[:axis] + y.shape[axis + 1 :],
            o,
            "shapes do not fit together",
        )
        need(t.scale == y.scale and t.zero_point == y.zero_point, o, "inputs and output are quantised differently")
    need(sum(t.shape[axis] for t in ins) == y.shape[axis], o, "sizes do not add up to the output's")


def _check_reshape(o, ins, y):
    check_activation(ins[0], o)
    check_activation(y, o)
    need(ins[0].size == y.size, o, f"{ins[0].shape} does not fit {y.shape}")


def _check_unary(o, ins, y):
    check_activation(ins[0], o)
    check_activation(y, o)
    _same_shape(o, ins[0], y)
    fixed = {"LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(o.op)
    if fixed:
        need(
            abs(float(y.scale) - fixed[0]) < 1e-3 * fixed[0] and y.zero_point == fixed[1],
            o,
            f"output must have scale {fixed[0]} and zero point {fixed[1]}",
        )
    if o.op == "SOFTMAX":
        beta = o.options["beta"]
        need(len(y.shape) > 0, o, "input without dimensions")
        need(1e-6 <= beta <= 1e6, o, f"beta {beta} is out of range")
        need(
            y.shape[-1] < 4096,
            o,
            f"over {y.shape[-1]} values its 32-bit sum may overflow: at most 4095; argmax needs none",
        )
        need(1 / 4096 <= beta * float(ins[0].scale), o, "beta times input scale is too small")
    if o.op == "LEAKY_RELU":
        need(0 <= o.options["alpha"] <= 1e3, o, f"alpha {o.options['alpha']} must be 0 to 1000")


def _check_transpose_conv(o, ins, y):
    shape, w, x = ins[0], ins[1], ins[2]
    bias = ins[3] if len(ins) > 3 else None
    check_activation(x, o)
    check_activation(y, o)
    need(len(x.shape) == 4 and len(w.shape) == 4, o, "input and weights must have 4 dimensions")
    p = o.options
    need(p["activation"] == "NONE", o, "a fused activation is not supported")
    _weights(o, w, bias, w.shape[0], 0)
    need(w.shape[3] == x.shape[3], o, f"{x.shape[3]} input channels, weights for {w.shape[3]}")
    need(tuple(_integers(o, shape, "the output shape", 4)) == y.shape, o, f"output shape is {y.shape}, not as stated")
    p["filter_h"], p["filter_w"] = w.shape[1], w.shape[2]
    for axis, s in ((1, "h"), (2, "w")):
        n, p[f"pad_{s}"] = window(y.shape[axis], p[f"filter_{s}"], p[f"stride_{s}"], 1, p["padding"])
        need(n == x.shape[axis], o, f"output shape {y.shape} does not fit input shape {x.shape}")
    need(
        (x.shape[1] * p["stride_h"] + w.shape[1]) * (x.shape[2] * p["stride_w"] + w.shape[2]) * w.shape[0]
        <= MAX_TENSOR_ELEMENTS
        and x.size * w.shape[0] * w.shape[1] * w.shape[2] <= MAX_PRODUCTS,
        o,
        "too many products or elements",
    )
    need(y.shape[0] == x.shape[0] and y.shape[3] == w.shape[0], o, f"output shape {y.shape} does not fit")


def _check_strided_slice(o, ins, y):
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    p = o.options
    rank = len(x.shape)
    need(
        not p["ellipsis_mask"] and not p["new_axis_mask"] and not p["offset"],
        o,
        "ellipsis, new axis and offset are not supported",
    )
    begin, end, strides = (_integers(o, t, "begin, end and strides", rank) for t in ins[1:])
    need(all(strides), o, "a stride is 0")
    slices, want = [], []
    for i, size in enumerate(x.shape):
        b = None if p["begin_mask"] >> i & 1 else begin[i]
        e = None if p["end_mask"] >> i & 1 else end[i]
        if p["shrink_axis_mask"] >> i & 1:
            need(-size <= begin[i] < size, o, f"index {begin[i]} is outside the input")
            slices.append(begin[i] % size)
        else:
            cut = slice(b, e, strides[i])
            slices.append(cut)
            want.append(len(range(*cut.indices(size))))
    p["slices"] = tuple(slices)
    _shape(o, y, want)


def _check_transpose(o, ins, y):
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    perm = _integers(o, ins[1], "the permutation", len(x.shape))
    perm = [a % len(x.shape) if -len(x.shape) <= a < 0 else a for a in perm]
    need(sorted(perm) == list(range(len(x.shape))), o, f"{perm} is not a permutation")
    o.options["perm"] = tuple(perm)
    _shape(o, y, (x.shape[a] for a in perm))


def _check_resize(o, ins, y):
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    need(len(x.shape) == 4, o, "input must have 4 dimensions")
    size = _integers(o, ins[1], "the size", 2)
    _shape(o, y, (x.shape[0], *size, x.shape[3]))


_CHECKS = {
    "CONV_2D": _check_conv,
    "DEPTHWISE_CONV_2D": _check_conv,
    "FULLY_CONNECTED": _check_fc,
    "AVERAGE_POOL_2D": _check_pool,
    "MAX_POOL_2D": _check_pool,
    "ADD": _check_binary,
    "SUB": _check_binary,
    "MUL": _check_binary,
    "MEAN": _check_mean,
    "PAD": _check_pad,
    "PADV2": _check_pad,
    "CONCATENATION": _check_concat,
    "RESHAPE": _check_reshape,
    "TRANSPOSE_CONV": _check_transpose_conv,
    "STRIDED_SLICE": _check_strided_slice,
    "TRANSPOSE": _check_transpose,
    "RESIZE_NEAREST_NEIGHBOR": _check_resize,
} | dict.fromkeys(
    ("QUANTIZE", "SOFTMAX", "LOGISTIC", "TANH", "LEAKY_RELU", "HARD_SWISH", "RELU", "RELU6"), _check_unary
)

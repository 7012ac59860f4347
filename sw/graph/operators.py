"""The operators: what each takes, its options, and the checks that make a model safe to run.

`SPECS` has a row for each. A new operator is a row here, with its check, and a kernel of the golden model.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import flatbuffers
import numpy as np
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from lepton.sw.graph.model import (
    MAX_PRODUCTS,
    MAX_TENSOR_ELEMENTS,
    STORED,
    ModelError,
    Operator,
    Tensor,
    need,
    tensor_name,
    window,
)
from lepton.sw.graph.sequence import check_batch_matmul, check_log_softmax, check_lstm, check_softmax, check_svdf

ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH"}
PADDINGS = {0: "SAME", 1: "VALID"}

CUSTOM = 32


@dataclass(frozen=True)
class Spec:
    """What the reader knows of an operator."""

    options: str | None
    """The schema's table of its options; None: it has none, or they say nothing that its tensors don't."""
    inputs: tuple[int, int]
    """Fewest and most inputs. Those beyond the fewest may be absent; of the others none."""
    outputs: tuple[int, int]
    check: Callable[[Operator, list[Tensor | None], list[Tensor]], None]
    """check(operator, its input tensors (None where absent), its output tensors): types, shapes and options, or
    ModelError. It may add to the options what kernels want to know. Constant inputs have `data`, folded ones, too."""


def indexes(values, length, limit, where, optional=False) -> tuple[int, ...]:
    need(length <= 1024, where, "too many tensors")
    out = tuple(int(values(i)) for i in range(length))
    for i in out:
        need((optional and i == -1) or 0 <= i < limit, where, f"tensor index {i} is outside 0..{limit - 1}")
    return out


def operator_name(root, o, index) -> str:
    """Name of an operator in the schema. TFLite's rule for files of both ages: the larger of the two codes."""
    codes = root.OperatorCodesLength()
    need(o.OpcodeIndex() < codes, f"operator {index}", f"operator code {o.OpcodeIndex()} of {codes} does not exist")
    code = root.OperatorCodes(o.OpcodeIndex())
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == CUSTOM:
        name = (code.CustomCode() or b"without a name")[:80].decode("utf-8", "replace")
        raise ModelError(f"operator {index}: custom operator {name} is not supported: only TensorFlow Lite's own are")
    return BUILTIN_OPCODE2NAME.get(number, f"code {number}")


def read_operator(root, o, index: int, tensors: Sequence[Tensor]) -> Operator:
    """One operator of the flatbuffer, checked all but for `Spec.check`. Raises ModelError."""
    op = operator_name(root, o, index)
    where = f"operator {index} ({op})"
    spec = SPECS.get(op)
    if spec is None:
        raise ModelError(f"{where}: operator not supported; supported: {', '.join(SPECS)}")
    inputs = indexes(o.Inputs, o.InputsLength(), len(tensors), where, optional=True)
    outputs = indexes(o.Outputs, o.OutputsLength(), len(tensors), where)
    for what, found, (low, high) in (("inputs", inputs, spec.inputs), ("outputs", outputs, spec.outputs)):
        expected = f"{low} to {high}" if low != high else f"{low}"
        need(low <= len(found) <= high, where, f"{len(found)} {what}, {expected} expected")
    need(all(i >= 0 for i in inputs[: spec.inputs[0]]), where, "a required input is missing")
    need(len(set(outputs)) == len(outputs), where, "the same output twice")
    return Operator(index, op, inputs, outputs, _read_options(o, spec.options, where))


def check_operator(operator: Operator, tensors: Sequence[Tensor]) -> None:
    """Whether its tensors and options fit together. Raises ModelError."""
    ins = [tensors[i] if i >= 0 else None for i in operator.inputs]
    outs = [tensors[i] for i in operator.outputs]
    SPECS[operator.op].check(operator, ins, outs)


_KEYS = {
    "fused_activation_function": "activation",
    "dilation_h_factor": "dilation_h",
    "dilation_w_factor": "dilation_w",
    "filter_height": "filter_h",
    "filter_width": "filter_w",
}
"""Keys of an operator's options that are shorter than the schema's names."""


@cache
def _fields(kind: str) -> dict[str, tuple[str, bool]]:
    """Fields of a table of options: key to (accessor, whether it is a vector)."""
    methods = [name for name, f in vars(getattr(tflite, kind)).items() if callable(f) and name != "Init"]
    out = {}
    for name in methods:
        if not re.search("(AsNumpy|Length|IsNone)$", name):
            key = re.sub("(?<!^)(?=[A-Z])", "_", name).lower()
            out[_KEYS.get(key, key)] = (name, f"{name}Length" in methods)
    return out


@cache
def _defaults(kind: str) -> bytes:
    """A table of options without any."""
    builder = flatbuffers.Builder(16)
    getattr(tflite, f"{kind}Start")(builder)
    builder.Finish(getattr(tflite, f"{kind}End")(builder))
    return bytes(builder.Output())


def _read_options(o, kind: str | None, where) -> dict:
    """All fields of the options, snake_case. TFLM takes defaults where they are absent or of a wrong kind."""
    if kind is None:
        return {}
    table = o.BuiltinOptions()
    if table is not None and o.BuiltinOptionsType() == getattr(tflite.BuiltinOptions, kind):
        t = getattr(tflite, kind)()
        t.Init(table.Bytes, table.Pos)
    else:
        t = getattr(tflite, kind).GetRootAs(_defaults(kind), 0)
    out: dict = {}
    for key, (name, vector) in _fields(kind).items():
        if vector:
            length = getattr(t, f"{name}Length")()
            need(length <= 1024, where, f"{key} has {length} values")
            out[key] = tuple(getattr(t, name)(i) for i in range(length))
        else:
            value = getattr(t, name)()
            out[key] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    for key, names in (("padding", PADDINGS), ("activation", ACTIVATIONS)):
        if key in out:
            need(out[key] in names, where, f"unknown {key} {out[key]}")
            out[key] = names[out[key]]
    return out


# Checks: (operator, its input tensors (None where absent), its output tensors). They raise ModelError, and add to the
# options what the kernels want to know.


def check_activation(t: Tensor, where, *types):
    """An activation of one of the types, int8 unless others are given, with one scale and zero point; int16: with 0."""
    name = f"{where}: {tensor_name(t)}"
    types = types or ("int8",)
    if t.dtype in ("float32", "float16"):
        raise ModelError(f"{name} is {t.dtype}: the model must be fully quantised to int8 (inputs and outputs too)")
    if t.dtype not in types:
        raise ModelError(f"{name} is {t.dtype}: only {' or '.join(types)} activations are supported")
    need(len(t.scales) == 1, name, "an activation needs one scale and zero point: quantise the model to int8")
    need(1e-18 < t.scale < 1e18, name, f"scale {t.scale} is out of range")
    need(t.dtype != "int16" or t.zero_point == 0, name, f"int16 with zero point {t.zero_point}, not 0")


def _integers(o, t: Tensor | None, what, size=None) -> list[int]:
    data = None if t is None else t.data
    need(data is not None, o, f"{what} must be constant")
    assert t is not None and data is not None
    need(t.dtype in ("int32", "int64"), o, f"{what} is {t.dtype}, not int32")
    need(t.size <= 64 and (size is None or t.size == size), o, f"{what} has {t.size} values")
    return [int(v) for v in data.reshape(-1)]


def _same_shape(o, x, y):
    need(x.shape == y.shape, o, f"output shape {y.shape} differs from input shape {x.shape}")


def _shape(o, y, want):
    want = tuple(want)
    need(y.shape == want, o, f"output shape is {y.shape}, its inputs give {want}")


def _weights(o, x: Tensor, w: Tensor, bias, channels, axis):
    """Weights and bias of an operator with input x: int8 or int4 by int8, or int8 by int16."""
    given = "" if w.constant else "given at run time "
    types = ("int8",) if x.dtype == "int16" or o.op == "TRANSPOSE_CONV" or given else ("int8", "int4")
    need(w.constant or o.op == "FULLY_CONNECTED", o, f"weights {tensor_name(w)} must be constant")
    need(w.dtype in types, o, f"weights {tensor_name(w)} are {w.dtype}, not {' or '.join(types)}")
    need(len(w.scales) > 0, o, "weights without a scale")
    need(not w.zero_points.any() or given, o, "weights with a zero point other than 0 are not supported")
    need(
        len(w.scales) == 1 or (not given and w.quant_axis == axis and len(w.scales) == channels),
        o,
        "weights quantised along a wrong axis",
    )
    # TFLM takes the bias of a sum of int16 for int64 unless the kernel looks at its type.
    wide = {"CONV_2D": ("int64", "int32"), "FULLY_CONNECTED": ("int64", "int32"), "TRANSPOSE_CONV": ("int64", "int16")}
    types = ("int32",) if x.dtype == "int8" else wide.get(o.op, ("int64",))
    if bias is not None:
        need(bias.constant and bias.dtype in types, o, f"bias must be constant {types[0]}, is {bias.dtype}")
        need(bias.size == channels, o, f"bias has {bias.size} values for {channels} channels")


def _check_conv(o, ins, outs):
    y = outs[0]
    x, w, bias = ins[0], ins[1], ins[2] if len(ins) > 2 else None
    check_activation(x, o, "int8", "int16")
    check_activation(y, o, x.dtype)
    need(len(x.shape) == 4 and len(w.shape) == 4, o, "input and weights must have 4 dimensions")
    p = o.options
    depthwise = o.op == "DEPTHWISE_CONV_2D"
    channels = w.shape[3] if depthwise else w.shape[0]
    _weights(o, x, w, bias, channels, 3 if depthwise else 0)
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


def _strides(o):
    """Strides, dilations and windows in bounds."""
    for key in ("stride_h", "stride_w", "dilation_h", "dilation_w", "filter_h", "filter_w"):
        value = o.options.get(key, 1)
        need(1 <= value <= 65536, o, f"{key}={value} must be 1 to 65536")


def _windows(o, x, y, channels):
    p = o.options
    _strides(o)
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


def _check_fc(o, ins, outs):
    y = outs[0]
    x, w, bias = ins[0], ins[1], ins[2] if len(ins) > 2 else None
    check_activation(x, o, "int8", "int16")
    check_activation(y, o, x.dtype)
    need(len(w.shape) == 2, o, f"weights have shape {w.shape}, 2 dimensions expected")
    need(o.options["weights_format"] == 0, o, "shuffled weights are not supported")
    need(w.dtype != "int4" or len(w.scales) == 1, o, "int4 weights with a scale a channel: TFLM has one scale for all")
    _weights(o, x, w, bias, w.shape[0], 0)
    need(x.size % w.shape[1] == 0, o, f"input of {x.size} values, weights for {w.shape[1]}")
    need(
        y.size == x.size // w.shape[1] * w.shape[0] and y.shape[-1:] == (w.shape[0],),
        o,
        f"output shape {y.shape} does not fit weights {w.shape}",
    )


def _check_pool(o, ins, outs):
    y = outs[0]
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    need(len(x.shape) == 4, o, "input must have 4 dimensions")
    need(x.scale == y.scale and x.zero_point == y.zero_point, o, "input and output are quantised differently")
    _windows(o, x, y, x.shape[3])


def _check_binary(o, ins, outs):
    y = outs[0]
    for t in (*ins, y):
        check_activation(t, o)
    try:
        want = np.broadcast_shapes(ins[0].shape, ins[1].shape)
    except ValueError:
        raise ModelError(f"{o}: shapes {ins[0].shape} and {ins[1].shape} do not broadcast") from None
    _shape(o, y, want)


def _check_mean(o, ins, outs):
    y = outs[0]
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


def _check_pad(o, ins, outs):
    y = outs[0]
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


def _check_concat(o, ins, outs):
    y = outs[0]
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


def _check_reshape(o, ins, outs):
    y = outs[0]
    check_activation(ins[0], o)
    check_activation(y, o)
    need(ins[0].size == y.size, o, f"{ins[0].shape} does not fit {y.shape}")


def _check_unary(o, ins, outs):
    y = outs[0]
    check_activation(ins[0], o)
    check_activation(y, o)
    _same_shape(o, ins[0], y)
    fixed = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(o.op)
    if fixed:
        need(
            abs(float(y.scale) - fixed[0]) < 1e-3 * fixed[0] and y.zero_point == fixed[1],
            o,
            f"output must have scale {fixed[0]} and zero point {fixed[1]}",
        )
    if o.op == "LEAKY_RELU":
        need(0 <= o.options["alpha"] <= 1e3, o, f"alpha {o.options['alpha']} must be 0 to 1000")


def _check_transpose_conv(o, ins, outs):
    y = outs[0]
    shape, w, x = ins[0], ins[1], ins[2]
    bias = ins[3] if len(ins) > 3 else None
    check_activation(x, o, "int8", "int16")
    check_activation(y, o, x.dtype)
    need(len(x.shape) == 4 and len(w.shape) == 4, o, "input and weights must have 4 dimensions")
    p = o.options
    _weights(o, x, w, bias, w.shape[0], 0)
    need(w.shape[3] == x.shape[3], o, f"{x.shape[3]} input channels, weights for {w.shape[3]}")
    need(tuple(_integers(o, shape, "the output shape", 4)) == y.shape, o, f"output shape is {y.shape}, not as stated")
    p["filter_h"], p["filter_w"] = w.shape[1], w.shape[2]
    _strides(o)
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


def _check_strided_slice(o, ins, outs):
    y = outs[0]
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


def _check_transpose(o, ins, outs):
    y = outs[0]
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    perm = _integers(o, ins[1], "the permutation", len(x.shape))
    perm = [a % len(x.shape) if -len(x.shape) <= a < 0 else a for a in perm]
    need(sorted(perm) == list(range(len(x.shape))), o, f"{perm} is not a permutation")
    o.options["perm"] = tuple(perm)
    _shape(o, y, (x.shape[a] for a in perm))


def _check_resize(o, ins, outs):
    y = outs[0]
    x = ins[0]
    check_activation(x, o)
    check_activation(y, o)
    need(len(x.shape) == 4, o, "input must have 4 dimensions")
    size = _integers(o, ins[1], "the size", 2)
    _shape(o, y, (x.shape[0], *size, x.shape[3]))


def _check_nothing(o, ins, outs):
    """Checked elsewhere: what runs other graphs, with them."""


def _check_handle(o, ins, outs):
    need(outs[0].dtype == "resource" and outs[0].size == 1, o, f"its output is {outs[0].dtype}, not one resource")


def _check_variable(o, ins, outs):
    """READ_VARIABLE, ASSIGN_VARIABLE."""
    handle, value = ins[0], (outs or ins[1:])[0]
    need(handle.dtype == "resource" and handle.constant, o, "its variable does not come from a VAR_HANDLE")
    need(value.dtype in STORED and value.dtype != "resource", o, f"a variable of type {value.dtype} is not supported")


def _check_if(o, ins, outs):
    need(ins[0].dtype == "bool" and ins[0].size == 1, o, "its condition is not one bool")


def _check_shape_of(o, ins, outs):
    need(outs[0].dtype in ("int32", "int64"), o, f"its output is {outs[0].dtype}, not int32")
    _shape(o, outs[0], (len(ins[0].shape),))


SPECS: dict[str, Spec] = {
    "ADD": Spec("AddOptions", (2, 2), (1, 1), _check_binary),
    "ASSIGN_VARIABLE": Spec(None, (2, 2), (0, 0), _check_variable),
    "AVERAGE_POOL_2D": Spec("Pool2DOptions", (1, 1), (1, 1), _check_pool),
    "BATCH_MATMUL": Spec("BatchMatMulOptions", (2, 2), (1, 1), check_batch_matmul),
    "CALL_ONCE": Spec("CallOnceOptions", (0, 0), (0, 0), _check_nothing),
    "CONCATENATION": Spec("ConcatenationOptions", (1, 64), (1, 1), _check_concat),
    "CONV_2D": Spec("Conv2DOptions", (2, 3), (1, 1), _check_conv),
    "DEPTHWISE_CONV_2D": Spec("DepthwiseConv2DOptions", (2, 3), (1, 1), _check_conv),
    "FULLY_CONNECTED": Spec("FullyConnectedOptions", (2, 3), (1, 1), _check_fc),
    "HARD_SWISH": Spec(None, (1, 1), (1, 1), _check_unary),
    "IF": Spec("IfOptions", (1, 256), (0, 255), _check_if),
    "LEAKY_RELU": Spec("LeakyReluOptions", (1, 1), (1, 1), _check_unary),
    "LOGISTIC": Spec(None, (1, 1), (1, 1), _check_unary),
    "LOG_SOFTMAX": Spec("LogSoftmaxOptions", (1, 1), (1, 1), check_log_softmax),
    "MAX_POOL_2D": Spec("Pool2DOptions", (1, 1), (1, 1), _check_pool),
    "MEAN": Spec("ReducerOptions", (2, 2), (1, 1), _check_mean),
    "MUL": Spec("MulOptions", (2, 2), (1, 1), _check_binary),
    "PAD": Spec(None, (2, 2), (1, 1), _check_pad),
    "PADV2": Spec(None, (3, 3), (1, 1), _check_pad),
    "QUANTIZE": Spec(None, (1, 1), (1, 1), _check_unary),
    "READ_VARIABLE": Spec(None, (1, 1), (1, 1), _check_variable),
    "RELU": Spec(None, (1, 1), (1, 1), _check_unary),
    "RELU6": Spec(None, (1, 1), (1, 1), _check_unary),
    "RESHAPE": Spec(None, (1, 2), (1, 1), _check_reshape),
    "RESIZE_NEAREST_NEIGHBOR": Spec("ResizeNearestNeighborOptions", (2, 2), (1, 1), _check_resize),
    "SHAPE": Spec("ShapeOptions", (1, 1), (1, 1), _check_shape_of),
    "SOFTMAX": Spec("SoftmaxOptions", (1, 1), (1, 1), check_softmax),
    "STRIDED_SLICE": Spec("StridedSliceOptions", (4, 4), (1, 1), _check_strided_slice),
    "SUB": Spec("SubOptions", (2, 2), (1, 1), _check_binary),
    "SVDF": Spec("SVDFOptions", (5, 5), (1, 1), check_svdf),
    "TANH": Spec(None, (1, 1), (1, 1), _check_unary),
    "TRANSPOSE": Spec(None, (2, 2), (1, 1), _check_transpose),
    "TRANSPOSE_CONV": Spec("TransposeConvOptions", (3, 4), (1, 1), _check_transpose_conv),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Spec("UnidirectionalSequenceLSTMOptions", (1, 24), (1, 1), check_lstm),
    "VAR_HANDLE": Spec("VarHandleOptions", (0, 0), (1, 1), _check_handle),
    "WHILE": Spec("WhileOptions", (0, 256), (0, 256), _check_nothing),
}
"""The operators that can be read and run, by name."""

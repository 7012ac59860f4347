"""The operators: what each takes, its options, and the checks that make a model safe to run.

`SPECS` has a row for each. A new operator is a row here, with its check, and a kernel of the golden model.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import flatbuffers
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from lepton.sw.graph import checks
from lepton.sw.graph.checks import integers, settle, shape
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


def operator_code(code) -> int:
    """Number of an entry of the file's operator codes. TFLite's rule for files of both ages: the larger of the two.

    The `tflite` package's own accessor of the newer one takes the older instead where that has room for the number.
    """
    table = code._tab
    at = table.Offset(10)
    newer = table.Get(flatbuffers.number_types.Int32Flags, at + table.Pos) if at else 0
    return max(newer, code.DeprecatedBuiltinCode())


def operator_name(root, o, index) -> str:
    """Name of an operator in the schema."""
    codes = root.OperatorCodesLength()
    need(o.OpcodeIndex() < codes, f"operator {index}", f"operator code {o.OpcodeIndex()} of {codes} does not exist")
    code = root.OperatorCodes(o.OpcodeIndex())
    number = operator_code(code)
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
    counts = (("inputs", o.InputsLength(), spec.inputs), ("outputs", o.OutputsLength(), spec.outputs))
    for what, count, (low, high) in counts:
        expected = f"{low} to {high}" if low != high else f"{low}"
        need(low <= count <= high, where, f"{count} {what}, {expected} expected")
    inputs = indexes(o.Inputs, o.InputsLength(), len(tensors), where, optional=True)
    outputs = indexes(o.Outputs, o.OutputsLength(), len(tensors), where)
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


def _weights(o, x: Tensor, w: Tensor, bias, channels, axis):
    """Weights and bias of an operator with input x: int8 or int4 by int8, int8 by int16, or all float32."""
    if x.dtype == "float32":
        need(w.dtype == "float32", o, f"weights {tensor_name(w)} are {w.dtype}, not float32 as the input")
        fits = bias is None or bias.dtype == "float32" and bias.size == channels
        need(fits, o, "bias does not fit the weights")
        return
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
    checks.types(o, (x, y), ("float32", "int8", "int16"))
    need(x.dtype != "int16" or x.zero_point == y.zero_point == 0, o, "int16 with a zero point other than 0")
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
    shape(o, y, (x.shape[0], *sizes, channels))
    need(padded <= MAX_TENSOR_ELEMENTS, o, "the padded input has too many elements")
    depth = x.shape[3] // p["groups"] if "groups" in p else 1
    need(y.size * p["filter_h"] * p["filter_w"] * depth <= MAX_PRODUCTS, o, "too many products")


def _check_fc(o, ins, outs):
    y = outs[0]
    x, w, bias = ins[0], ins[1], ins[2] if len(ins) > 2 else None
    checks.types(o, (x, y), ("float32", "int8", "int16"))
    need(x.dtype != "int16" or x.zero_point == y.zero_point == 0, o, "int16 with a zero point other than 0")
    need(len(w.shape) == 2, o, f"weights have shape {w.shape}, 2 dimensions expected")
    need(o.options["weights_format"] == 0, o, "shuffled weights are not supported")
    need(w.dtype != "int4" or len(w.scales) == 1, o, "int4 weights with a scale a channel: TFLM has one scale for all")
    _weights(o, x, w, bias, w.shape[0], 0)
    need(x.size % w.shape[1] == 0, o, f"input of {x.size} values, weights for {w.shape[1]}")
    rows = x.shape[:-1] if o.options["keep_num_dims"] else (x.size // w.shape[1],)
    settle(y, (*rows, w.shape[0]))
    need(
        y.size == x.size // w.shape[1] * w.shape[0] and y.shape[-1:] == (w.shape[0],),
        o,
        f"output shape {y.shape} does not fit weights {w.shape}",
    )


def _check_pool(o, ins, outs):
    x, y = ins[0], outs[0]
    checks.types(o, (x, y), ("float32",) if o.op == "L2_POOL_2D" else ("float32", "int8", "int16"))
    need(len(x.shape) == 4, o, "input must have 4 dimensions")
    same = x.dtype == "float32" or abs(float(x.scale) - float(y.scale)) <= 1e-6 and x.zero_point == y.zero_point
    need(same, o, "input and output are quantised differently")
    _windows(o, x, y, x.shape[3])


def _check_transpose_conv(o, ins, outs):
    y = outs[0]
    shape, w, x = ins[0], ins[1], ins[2]
    bias = ins[3] if len(ins) > 3 else None
    checks.types(o, (x, y), ("float32", "int8", "int16"))
    need(x.dtype != "int16" or x.zero_point == y.zero_point == 0, o, "int16 with a zero point other than 0")
    need(len(x.shape) == 4 and len(w.shape) == 4, o, "input and weights must have 4 dimensions")
    p = o.options
    _weights(o, x, w, bias, w.shape[0], 0)
    need(w.shape[3] == x.shape[3], o, f"{x.shape[3]} input channels, weights for {w.shape[3]}")
    stated = tuple(integers(o, shape, "the output shape", 4))
    settle(y, stated)
    need(stated == y.shape, o, f"output shape is {y.shape}, not as stated")
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


_ARITHMETIC = ("float32", "int8", "int16", "int32", "int64")

SPECS: dict[str, Spec] = {
    "ABS": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "ADD": Spec("AddOptions", (2, 2), (1, 1), checks.binary(*_ARITHMETIC)),
    "ADD_N": Spec(None, (1, 64), (1, 1), checks.add_n),
    "ARG_MAX": Spec(None, (2, 2), (1, 1), checks.arg_extreme),
    "ARG_MIN": Spec(None, (2, 2), (1, 1), checks.arg_extreme),
    "ASSIGN_VARIABLE": Spec(None, (2, 2), (0, 0), _check_variable),
    "AVERAGE_POOL_2D": Spec("Pool2DOptions", (1, 1), (1, 1), _check_pool),
    "BATCH_MATMUL": Spec("BatchMatMulOptions", (2, 2), (1, 1), check_batch_matmul),
    "BATCH_TO_SPACE_ND": Spec(None, (3, 3), (1, 1), checks.batches),
    "BROADCAST_ARGS": Spec(None, (2, 2), (1, 1), checks.broadcast_args),
    "BROADCAST_TO": Spec(None, (2, 2), (1, 1), checks.broadcast_to),
    "CALL_ONCE": Spec("CallOnceOptions", (0, 0), (0, 0), _check_nothing),
    "CAST": Spec(None, (1, 1), (1, 1), checks.cast),
    "CEIL": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32")),
    "CONCATENATION": Spec("ConcatenationOptions", (1, 64), (1, 1), checks.concatenation),
    "CONV_2D": Spec("Conv2DOptions", (2, 3), (1, 1), _check_conv),
    "COS": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32")),
    "CUMSUM": Spec("CumsumOptions", (2, 2), (1, 1), checks.cumsum),
    "DEPTHWISE_CONV_2D": Spec("DepthwiseConv2DOptions", (2, 3), (1, 1), _check_conv),
    "DEPTH_TO_SPACE": Spec("DepthToSpaceOptions", (1, 1), (1, 1), checks.blocks),
    "DEQUANTIZE": Spec(None, (1, 1), (1, 1), checks.dequantize),
    "DIV": Spec("DivOptions", (2, 2), (1, 1), checks.binary("float32", "int8", "int32", "int64")),
    "DYNAMIC_UPDATE_SLICE": Spec(None, (3, 3), (1, 1), checks.dynamic_update_slice),
    "ELU": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "EMBEDDING_LOOKUP": Spec(None, (2, 2), (1, 1), checks.embedding_lookup),
    "EQUAL": Spec(None, (2, 2), (1, 1), checks.comparison),
    "EXP": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "EXPAND_DIMS": Spec(None, (1, 2), (1, 1), checks.reshape),
    "FILL": Spec(None, (2, 2), (1, 1), checks.fill),
    "FLOOR": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32")),
    "FLOOR_DIV": Spec(None, (2, 2), (1, 1), checks.binary("float32", "int32", "int64")),
    "FLOOR_MOD": Spec(None, (2, 2), (1, 1), checks.binary("float32", "int32", "int64")),
    "FULLY_CONNECTED": Spec("FullyConnectedOptions", (2, 3), (1, 1), _check_fc),
    "GATHER": Spec("GatherOptions", (2, 2), (1, 1), checks.gather),
    "GATHER_ND": Spec(None, (2, 2), (1, 1), checks.gather_nd),
    "GELU": Spec("GeluOptions", (1, 1), (1, 1), checks.unary("float32", "int8")),
    "GREATER": Spec(None, (2, 2), (1, 1), checks.comparison),
    "GREATER_EQUAL": Spec(None, (2, 2), (1, 1), checks.comparison),
    "HARD_SWISH": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "IF": Spec("IfOptions", (1, 256), (0, 255), _check_if),
    "L2_NORMALIZATION": Spec(None, (1, 1), (1, 1), checks.l2_normalization),
    "L2_POOL_2D": Spec("Pool2DOptions", (1, 1), (1, 1), _check_pool),
    "LEAKY_RELU": Spec("LeakyReluOptions", (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "LESS": Spec(None, (2, 2), (1, 1), checks.comparison),
    "LESS_EQUAL": Spec(None, (2, 2), (1, 1), checks.comparison),
    "LOG": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "LOG_SOFTMAX": Spec("LogSoftmaxOptions", (1, 1), (1, 1), check_log_softmax),
    "LOGICAL_AND": Spec(None, (2, 2), (1, 1), checks.logical),
    "LOGICAL_NOT": Spec(None, (1, 1), (1, 1), checks.plain_unary("bool")),
    "LOGICAL_OR": Spec(None, (2, 2), (1, 1), checks.logical),
    "LOGISTIC": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "MAXIMUM": Spec(None, (2, 2), (1, 1), checks.binary(*checks.NUMBERS)),
    "MAX_POOL_2D": Spec("Pool2DOptions", (1, 1), (1, 1), _check_pool),
    "MEAN": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction(*_ARITHMETIC)),
    "MINIMUM": Spec(None, (2, 2), (1, 1), checks.binary(*checks.NUMBERS)),
    "MIRROR_PAD": Spec("MirrorPadOptions", (2, 2), (1, 1), checks.mirror_pad),
    "MUL": Spec("MulOptions", (2, 2), (1, 1), checks.binary(*_ARITHMETIC)),
    "NEG": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32", "int32", "int64")),
    "NOT_EQUAL": Spec(None, (2, 2), (1, 1), checks.comparison),
    "ONE_HOT": Spec("OneHotOptions", (4, 4), (1, 1), checks.one_hot),
    "PACK": Spec("PackOptions", (1, 64), (1, 1), checks.pack),
    "PAD": Spec(None, (2, 2), (1, 1), checks.pad),
    "PADV2": Spec(None, (3, 3), (1, 1), checks.pad),
    "POW": Spec(None, (2, 2), (1, 1), checks.binary("float32", "int32", "int64")),
    "PRELU": Spec(None, (2, 2), (1, 1), checks.prelu),
    "QUANTIZE": Spec(None, (1, 1), (1, 1), checks.quantize),
    "RANK": Spec(None, (1, 1), (1, 1), checks.shape_of),
    "READ_VARIABLE": Spec(None, (1, 1), (1, 1), _check_variable),
    "REDUCE_ALL": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction("bool")),
    "REDUCE_ANY": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction("bool")),
    "REDUCE_MAX": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction(*checks.NUMBERS)),
    "REDUCE_MIN": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction(*checks.NUMBERS)),
    "REDUCE_PROD": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction(*_ARITHMETIC)),
    "RELU": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "RELU6": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "RELU_0_TO_1": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "RELU_N1_TO_1": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "RESHAPE": Spec(None, (1, 2), (1, 1), checks.reshape),
    "RESIZE_BILINEAR": Spec("ResizeBilinearOptions", (2, 2), (1, 1), checks.resize),
    "RESIZE_NEAREST_NEIGHBOR": Spec("ResizeNearestNeighborOptions", (2, 2), (1, 1), checks.resize),
    "REVERSE_V2": Spec(None, (2, 2), (1, 1), checks.reverse),
    "ROUND": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32")),
    "RSQRT": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "SELECT": Spec(None, (3, 3), (1, 1), checks.select),
    "SELECT_V2": Spec(None, (3, 3), (1, 1), checks.select),
    "SHAPE": Spec(None, (1, 1), (1, 1), checks.shape_of),
    "SIGN": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int32")),
    "SIN": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32")),
    "SLICE": Spec(None, (3, 3), (1, 1), checks.slice_),
    "SOFTMAX": Spec("SoftmaxOptions", (1, 1), (1, 1), check_softmax),
    "SPACE_TO_BATCH_ND": Spec(None, (3, 3), (1, 1), checks.batches),
    "SPACE_TO_DEPTH": Spec("SpaceToDepthOptions", (1, 1), (1, 1), checks.blocks),
    "SPLIT": Spec(None, (2, 2), (1, 64), checks.split),
    "SPLIT_V": Spec(None, (3, 3), (1, 64), checks.split),
    "SQRT": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8")),
    "SQUARE": Spec(None, (1, 1), (1, 1), checks.plain_unary("float32", "int32", "int64")),
    "SQUARED_DIFFERENCE": Spec(None, (2, 2), (1, 1), checks.binary("float32", "int8", "int16", "int32")),
    "SQUEEZE": Spec(None, (1, 1), (1, 1), checks.reshape),
    "STRIDED_SLICE": Spec("StridedSliceOptions", (4, 4), (1, 1), checks.strided_slice),
    "SUB": Spec("SubOptions", (2, 2), (1, 1), checks.binary(*_ARITHMETIC)),
    "SUM": Spec("ReducerOptions", (2, 2), (1, 1), checks.reduction(*_ARITHMETIC)),
    "SVDF": Spec("SVDFOptions", (5, 5), (1, 1), check_svdf),
    "TANH": Spec(None, (1, 1), (1, 1), checks.unary("float32", "int8", "int16")),
    "TILE": Spec(None, (2, 2), (1, 1), checks.tile),
    "TRANSPOSE": Spec(None, (2, 2), (1, 1), checks.transpose),
    "TRANSPOSE_CONV": Spec("TransposeConvOptions", (3, 4), (1, 1), _check_transpose_conv),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Spec("UnidirectionalSequenceLSTMOptions", (1, 24), (1, 1), check_lstm),
    "UNPACK": Spec("UnpackOptions", (1, 1), (1, 64), checks.unpack),
    "VAR_HANDLE": Spec("VarHandleOptions", (0, 0), (1, 1), _check_handle),
    "WHILE": Spec("WhileOptions", (0, 256), (0, 256), _check_nothing),
    "ZEROS_LIKE": Spec(None, (1, 1), (1, 1), checks.zeros_like),
}
"""The operators that can be read and run, by name."""

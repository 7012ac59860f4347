"""The float graph between a framework's file and the int8 model.

Its operators are TensorFlow Lite's, in TFLite's layouts (NHWC, weights OHWI), with float32 values: `evaluate` runs them
in NumPy, `quantize` turns them into an int8 file. A value may carry a quantization of its own (a QDQ file's).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from lepton.sw.graph.model import ModelError, window


class ImportModelError(ModelError):
    """A source that cannot be imported; the message names the node, the operator and what would help."""


CUT = {"BeginMask": 0, "EndMask": 0, "EllipsisMask": 0, "NewAxisMask": 0, "ShrinkAxisMask": 0}
"""Options of a STRIDED_SLICE that takes its tables as they are."""


@dataclass(eq=False)
class Quant:
    """Quantization given by the source: `scales` and `zero_points`, one or one an index of `axis` (float32,
    int64); `stored` the integers of a constant."""

    scales: np.ndarray
    zero_points: np.ndarray
    axis: int = 0
    stored: np.ndarray | None = None

    def same(self, other: "Quant") -> bool:
        return np.array_equal(self.scales, other.scales) and np.array_equal(self.zero_points, other.zero_points)


@dataclass(eq=False)
class Value:
    """What flows: an activation (data None) or a constant. Shapes have batch 1."""

    name: str
    shape: tuple[int, ...]
    data: np.ndarray | None = None
    quant: Quant | None = None
    bits: int = 8
    """Of the integers that an activation becomes: 8 or 16."""

    @property
    def constant(self) -> bool:
        return self.data is not None

    @property
    def values(self) -> np.ndarray:
        """The data of what is known to be a constant."""
        assert self.data is not None
        return self.data


@dataclass(eq=False)
class Node:
    """An operator: TFLite's name, the fields of its options table, and `source`, what it was in the source file."""

    op: str
    inputs: list[Value | None]
    outputs: list[Value]
    options: dict = field(default_factory=dict)
    source: str = ""

    @property
    def y(self) -> Value:
        return self.outputs[0]

    def x(self, i: int = 0) -> Value:
        """Input i, which must be there."""
        value = self.inputs[i]
        assert value is not None
        return value


@dataclass(eq=False)
class Graph:
    """A network in the order of execution."""

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    name: str = "model"

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read a value, each once a reading; the graph's outputs have one more, None-like entry less."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for v in node.inputs:
                if v is not None:
                    found.setdefault(v, []).append(node)
        return found


# Float evaluation

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6, TANH = range(5)
ACTIVATION_RANGES = {NONE: (-np.inf, np.inf), RELU: (0, np.inf), RELU_N1_TO_1: (-1, 1), RELU6: (0, 6)}


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.float32])(x)


def gelu(x, approximate: bool):
    """x * Phi(x); `approximate`: by tanh, as GELU's option says."""
    if approximate:
        return x * 0.5 * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
    return x * 0.5 * (1 + _erf(x / np.float32(math.sqrt(2))))


def sigmoid(x):
    return (0.5 * (1 + np.tanh(0.5 * np.asarray(x, np.float64)))).astype(np.float32)


def _sizes(node: Node, kernel: tuple[int, int], size: tuple[int, int]):
    o = node.options
    padding = "SAME" if o["Padding"] == SAME else "VALID"
    out = []
    for n, k, s in zip(size, kernel, "HW"):
        out.append(window(n, k, o[f"Stride{s}"], o.get(f"Dilation{s}Factor", 1), padding))
    return out


def windows(node: Node, x: np.ndarray, kernel: tuple[int, int], fill: float) -> np.ndarray:
    """View (n, oh, ow, kh, kw, c) of NHWC x, with places outside filled."""
    o = node.options
    (oh, ph), (ow, pw) = _sizes(node, kernel, x.shape[1:3])
    sh, sw, dh, dw = o["StrideH"], o["StrideW"], o.get("DilationHFactor", 1), o.get("DilationWFactor", 1)
    need = ((oh - 1) * sh + (kernel[0] - 1) * dh + 1, (ow - 1) * sw + (kernel[1] - 1) * dw + 1)
    after = [max(n - p - size, 0) for n, p, size in zip(need, (ph, pw), x.shape[1:3])]
    x = np.pad(x, ((0, 0), (ph, after[0]), (pw, after[1]), (0, 0)), constant_values=fill)
    n, h, w, c = x.strides
    shape = (x.shape[0], oh, ow, *kernel, x.shape[3])
    return np.lib.stride_tricks.as_strided(x, shape, (n, h * sh, w * sw, h * dh, w * dw, c), writeable=False)


def _conv(node, x, w, b=None):
    view = windows(node, x, w.shape[1:3], 0)
    groups = x.shape[3] // w.shape[3]
    step = w.shape[0] // groups
    parts = []
    for g in range(groups):
        cut = view[..., g * w.shape[3] : (g + 1) * w.shape[3]].reshape(*view.shape[:3], -1)
        parts.append(cut @ w[g * step : (g + 1) * step].reshape(step, -1).T)
    y = np.concatenate(parts, -1)
    return y if b is None else y + b


def _depthwise(node, x, w, b=None):
    x = np.repeat(x, w.shape[3] // x.shape[3], axis=3)
    y = np.einsum("nhwijc,ijc->nhwc", windows(node, x, w.shape[1:3], 0), w[0])
    return y if b is None else y + b


def _transpose_conv(node, shape, w, x, b=None):
    o = node.options
    kernel = w.shape[1:3]
    (_, ph), (_, pw) = _sizes(node, kernel, (int(shape[1]), int(shape[2])))
    sh, sw = o["StrideH"], o["StrideW"]
    high = max((x.shape[1] - 1) * sh + kernel[0], ph + int(shape[1]))
    wide = max((x.shape[2] - 1) * sw + kernel[1], pw + int(shape[2]))
    y = np.zeros((x.shape[0], high, wide, w.shape[0]), np.float32)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            part = x @ w[:, i, j].T
            y[:, i : i + x.shape[1] * sh : sh, j : j + x.shape[2] * sw : sw][:, : x.shape[1], : x.shape[2]] += part
    y = y[:, ph : ph + int(shape[1]), pw : pw + int(shape[2])]
    return y if b is None else y + b


def _fully_connected(node, x, w, b=None):
    y = x.reshape(-1, w.shape[1]) @ w.T
    y = y if b is None else y + b
    return y.reshape(node.y.shape)


def _batch_matmul(node, a, b):
    a = a.swapaxes(-1, -2) if node.options.get("AdjX") else a
    return a @ (b.swapaxes(-1, -2) if node.options.get("AdjY") else b)


def _average_pool(node, x):
    kernel = node.options["FilterHeight"], node.options["FilterWidth"]
    total = windows(node, x, kernel, 0).sum((3, 4))
    return total / windows(node, np.ones_like(x), kernel, 0).sum((3, 4))


def _max_pool(node, x):
    return windows(node, x, (node.options["FilterHeight"], node.options["FilterWidth"]), -np.inf).max((3, 4))


def _reduce(function):
    def run(node, x, axes):
        return function(x, axis=tuple(int(a) for a in axes.reshape(-1)), keepdims=bool(node.options["KeepDims"]))

    return run


def _softmax(node, x):
    e = np.exp(node.options["Beta"] * (x - x.max(-1, keepdims=True)))
    return e / e.sum(-1, keepdims=True)


def slices(node: Node, begin, end, strides, rank: int) -> tuple[slice | int, ...]:
    """The index of a STRIDED_SLICE."""
    o = node.options
    out: list[slice | int] = []
    for i in range(rank):
        if o["ShrinkAxisMask"] >> i & 1:
            out.append(int(begin[i]))
            continue
        b = None if o["BeginMask"] >> i & 1 else int(begin[i])
        e = None if o["EndMask"] >> i & 1 else int(end[i])
        out.append(slice(b, e, int(strides[i])))
    return tuple(out)


def _strided_slice(node, x, begin, end, strides):
    return x[slices(node, begin, end, strides, x.ndim)]


def _nearest(node, x, size):
    y = x
    for axis, n in ((1, int(size[0])), (2, int(size[1]))):
        half = 0.5 if node.options["HalfPixelCenters"] else 0.0
        if node.options["AlignCorners"] and n > 1:
            index = np.floor((np.arange(n) + half) * (x.shape[axis] - 1) / (n - 1) + 0.5)
        else:
            index = np.floor((np.arange(n) + half) * x.shape[axis] / n)
        y = y.take(np.clip(index, 0, x.shape[axis] - 1).astype(int), axis)
    return y


def _bilinear(node, x, size):
    y = x
    for axis, n in ((1, int(size[0])), (2, int(size[1]))):
        old = x.shape[axis]
        if node.options["AlignCorners"] and n > 1:
            place = np.arange(n) * (old - 1) / (n - 1)
        elif node.options["HalfPixelCenters"]:
            place = np.maximum((np.arange(n) + 0.5) * old / n - 0.5, 0)
        else:
            place = np.arange(n) * old / n
        low = np.minimum(np.floor(place).astype(int), old - 1)
        part = (place - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(4)])
        y = y.take(low, axis) * (1 - part) + y.take(np.minimum(low + 1, old - 1), axis) * part
    return y


def lstm_trace(node: Node, x, *rest) -> tuple[np.ndarray, float]:
    """(outputs (B, T, H), the largest magnitude of the cell) of a UNIDIRECTIONAL_SEQUENCE_LSTM from zero state."""
    w, r, b = rest[0:4], rest[4:8], rest[11:15]
    b = tuple(np.zeros(len(r[0]), np.float32) if v is None else v for v in b)
    h = np.zeros((x.shape[0], len(r[0])), np.float32)
    c, peak, out = h, 0.0, []
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ w[k].T + h @ r[k].T + b[k] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        peak = max(peak, float(np.abs(c).max()))
        out.append(h)
    return np.stack(out, 1), peak


def _depth_to_space(node, x):
    n, h, w, c = x.shape
    k = node.options["BlockSize"]
    return x.reshape(n, h, w, k, k, c // k**2).transpose(0, 1, 3, 2, 4, 5).reshape(n, h * k, w * k, -1)


def _space_to_depth(node, x):
    n, h, w, c = x.shape
    k = node.options["BlockSize"]
    return x.reshape(n, h // k, k, w // k, k, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // k, w // k, -1)


def _l2_normalization(node, x):
    return x / np.sqrt(np.maximum((x * x).sum(-1, keepdims=True), 1e-12))


_FLOAT: dict[str, Callable] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool,
    "ADD": lambda n, a, b: a + b,
    "SUB": lambda n, a, b: a - b,
    "MUL": lambda n, a, b: a * b,
    "DIV": lambda n, a, b: a / b,
    "MINIMUM": lambda n, a, b: np.minimum(a, b),
    "MAXIMUM": lambda n, a, b: np.maximum(a, b),
    "SQUARED_DIFFERENCE": lambda n, a, b: (a - b) ** 2,
    "MEAN": _reduce(np.mean),
    "SUM": _reduce(np.sum),
    "REDUCE_MAX": _reduce(np.max),
    "PAD": lambda n, x, p: np.pad(x, p.reshape(-1, 2)),
    "PADV2": lambda n, x, p, v: np.pad(x, p.reshape(-1, 2), constant_values=float(v.reshape(-1)[0])),
    "MIRROR_PAD": lambda n, x, p: np.pad(x, p.reshape(-1, 2), mode=("reflect", "symmetric")[n.options["Mode"]]),
    "CONCATENATION": lambda n, *xs: np.concatenate(xs, n.options["Axis"]),
    "RESHAPE": lambda n, x, *_: x.reshape(n.y.shape),
    "TRANSPOSE": lambda n, x, p: x.transpose([int(a) for a in p]),
    "STRIDED_SLICE": _strided_slice,
    "QUANTIZE": lambda n, x: x,
    "SOFTMAX": _softmax,
    "LOGISTIC": lambda n, x: sigmoid(x),
    "TANH": lambda n, x: np.tanh(x),
    "RELU": lambda n, x: np.maximum(x, 0),
    "RELU6": lambda n, x: np.clip(x, 0, 6),
    "RELU_N1_TO_1": lambda n, x: np.clip(x, -1, 1),
    "LEAKY_RELU": lambda n, x: np.where(x >= 0, x, x * np.float32(n.options["Alpha"])),
    "PRELU": lambda n, x, a: np.where(x >= 0, x, x * a),
    "HARD_SWISH": lambda n, x: x * np.clip(x + 3, 0, 6) / 6,
    "ELU": lambda n, x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "GELU": lambda n, x: gelu(x, bool(n.options["Approximate"])),
    "RSQRT": lambda n, x: 1 / np.sqrt(x),
    "SQRT": lambda n, x: np.sqrt(x),
    "SQUARE": lambda n, x: x * x,
    "EXP": lambda n, x: np.exp(x),
    "LOG": lambda n, x: np.log(x),
    "ABS": lambda n, x: np.abs(x),
    "NEG": lambda n, x: -x,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "RESIZE_BILINEAR": _bilinear,
    "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_DEPTH": _space_to_depth,
    "L2_NORMALIZATION": _l2_normalization,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": lambda n, x, *rest: lstm_trace(n, x, *rest)[0],
}
OPERATORS = tuple(_FLOAT)


def run_node(node: Node, arguments: Iterable[np.ndarray | None]) -> np.ndarray:
    """The node's float32 output."""
    with np.errstate(all="ignore"):
        y = _FLOAT[node.op](node, *arguments)
        low, high = ACTIVATION_RANGES.get(node.options.get("FusedActivationFunction", NONE), (-np.inf, np.inf))
        if np.isfinite(low) or np.isfinite(high):
            y = np.clip(y, low, high)
    return np.asarray(y, np.float32)


def evaluate(graph: Graph, *inputs: np.ndarray) -> dict[Value, np.ndarray]:
    """All activations of one inference (batch 1).

    A value that the source quantizes is limited to what its integers reach (QDQ files leave out a ReLU that their
    zero point implies), but not rounded.
    """
    values = {v: np.asarray(x, np.float32).reshape(v.shape) for v, x in zip(graph.inputs, inputs, strict=True)}
    for node in graph.nodes:
        arguments = [None if v is None else v.data if v.data is not None else values[v] for v in node.inputs]
        y = run_node(node, arguments)
        q = node.y.quant
        values[node.y] = y if q is None else np.clip(y, *((np.array([-128, 127]) - q.zero_points[0]) * q.scales[0]))
    return values

"""Post-training quantization of a float graph to an integer .tflite by TensorFlow Lite's rules.

Activations: asymmetric int8, one scale, from the least and largest value on the calibration data (zero included).
Weights: symmetric int8, one scale a channel (LSTM: one a matrix). Biases: int32 at the product of the scales. Operators
that move bytes keep their input's scale; LOGISTIC, SOFTMAX and TANH have the scale the kernel fixes. What the source
already quantizes (QDQ) is carried over as it is.

Activations of 16 bits (`simplify.widened`): symmetric int16, biases int64.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from lepton.sw.frontends import graph as ir
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Quant, Value
from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model

MOVING = frozenset(
    "RESHAPE TRANSPOSE STRIDED_SLICE MAX_POOL_2D AVERAGE_POOL_2D PAD PADV2 MIRROR_PAD CONCATENATION REDUCE_MAX "
    "RESIZE_NEAREST_NEIGHBOR RESIZE_BILINEAR DEPTH_TO_SPACE SPACE_TO_DEPTH MINIMUM MAXIMUM RELU6 RELU_N1_TO_1".split()
)
"""Operators whose activations all have one scale."""
_UNIT = (1 / 32768, 0)
FIXED = {
    8: {
        "LOGISTIC": (1 / 256, -128),
        "SOFTMAX": (1 / 256, -128),
        "TANH": (1 / 128, 0),
        "L2_NORMALIZATION": (1 / 128, 0),
    },
    16: {"LOGISTIC": _UNIT, "SOFTMAX": _UNIT, "TANH": _UNIT},
}
"""Scale and zero point that a kernel gives its output, by the activations' bits."""
PRODUCTS = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
}
"""Places of weights and bias, and the axis of the weights that is the output channel."""
OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "MINIMUM": "MaximumMinimumOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "MIRROR_PAD": "MirrorPadOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "QUANTIZE": "QuantizeOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "HARD_SWISH": "HardSwishOptions",
    "GELU": "GeluOptions",
    "EXP": "ExpOptions",
    "ABS": "AbsOptions",
    "NEG": "NegOptions",
    "SQUARE": "SquareOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
}


@dataclass(frozen=True)
class Params:
    """Scale (a float32's value) and zero point of an activation of 8 or 16 bits."""

    scale: float
    zero_point: int
    bits: int = 8

    @property
    def dtype(self) -> str:
        return f"int{self.bits}"

    def quantize(self, real: np.ndarray) -> np.ndarray:
        """Integers, rounded half to even as TFLite's converter rounds."""
        x, limits = np.asarray(real, np.float32) / np.float32(self.scale), np.iinfo(self.dtype)
        return np.clip(np.round(x) + self.zero_point, limits.min, limits.max).astype(self.dtype)

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        return (np.asarray(stored, np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass
class Ranges:
    """What calibration saw: (least, largest) of each activation, and the largest magnitude in each LSTM's cell."""

    limits: dict[Value, tuple[float, float]] = field(default_factory=dict)
    cells: dict[Node, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Quantized:
    """The file's bytes, and the tensor each value of the float graph became with its parameters."""

    data: bytes
    tensors: dict[Value, int]
    params: dict[Value, Params]
    sources: list[str]
    """For each operator of the file: what it was in the source."""


def params_of(low: float, high: float, bits: int = 8) -> Params:
    """Parameters that reach from low to high, with zero exactly one of the values: int8 asymmetric, int16 symmetric."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if bits == 16:
        return Params(float(np.float32(max(high, -low, 1e-9) / 32767)), 0, bits)
    if high - low < 1e-9:
        return Params(float(np.float32(1 / 128)), 0 if low < 0 else -128)
    scale = np.float32((high - low) / 255)
    return Params(float(scale), int(np.clip(np.round(-128 - low / scale), -128, 127)))


def calibrate(graph: Graph, samples: Iterable[tuple[np.ndarray, ...]], progress: Callable | None = None) -> Ranges:
    """Ranges of all activations over samples, each a tuple with one array (batch 1) an input."""
    ranges = Ranges()
    for n, sample in enumerate(samples):
        values = ir.evaluate(graph, *sample)
        for v, x in values.items():
            low, high = ranges.limits.get(v, (np.inf, -np.inf))
            ranges.limits[v] = min(low, float(x.min())), max(high, float(x.max()))
        for node in graph.nodes:
            if node.op == "UNIDIRECTIONAL_SEQUENCE_LSTM":
                arguments = [None if v is None else v.data if v.data is not None else values[v] for v in node.inputs]
                peak = ir.lstm_trace(node, *arguments)[1]
                ranges.cells[node] = max(peak, ranges.cells.get(node, 0.0))
        if progress:
            progress(n + 1)
    for node in graph.nodes:
        if not np.isfinite(ranges.limits.get(node.y, (0.0, 0.0))).all():
            raise ImportModelError(
                f"node {node.source}: its values are not finite on the calibration data: check the data's range"
            )
    return ranges


class _Groups:
    """Values that share their parameters, with the parameters that are fixed, if any."""

    def __init__(self) -> None:
        self.parent: dict[Value, Value] = {}
        self.fixed: dict[Value, Params] = {}

    def find(self, v: Value) -> Value:
        while self.parent.get(v, v) is not v:
            v = self.parent[v]
        return v

    def params(self, v: Value) -> Params | None:
        return self.fixed.get(self.find(v))

    def unite(self, a: Value, b: Value) -> None:
        """One group of both, unless both are fixed and differ."""
        x, y = self.find(a), self.find(b)
        p, q = self.fixed.get(x), self.fixed.get(y)
        if x is y or (p is not None and q is not None and p != q):
            return
        self.parent[x] = y
        if p is not None:
            self.fixed[y] = p


def _given(q: Quant) -> Params:
    return Params(float(np.float32(q.scales[0])), int(q.zero_points[0]))


def _fixed(node: Node) -> Params | None:
    """The parameters that the kernel gives its output."""
    found = FIXED[node.y.bits].get(node.op)
    return None if found is None else Params(*found, node.y.bits)


def _activations(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None and v.data is None]


def assign(graph: Graph, ranges: Ranges) -> dict[Value, Params]:
    """Parameters of every activation. Raises ImportModelError where neither the source nor calibration tells them."""
    groups = _Groups()
    for v in (*graph.inputs, *(n.y for n in graph.nodes)):
        if v.quant is not None:
            groups.fixed[v] = _given(v.quant)
    for node in graph.nodes:
        fixed = _fixed(node)
        if fixed is not None and node.y.quant is None:
            groups.fixed[node.y] = fixed
    for node in graph.nodes:
        if node.op not in MOVING:
            continue
        moved = _activations(node)
        free = [v for v in moved if groups.params(v) is None or len(moved) == 1]
        for v in free:
            groups.unite(v, node.y)
        if not free and len({groups.params(v) for v in moved}) == 1:
            groups.unite(moved[0], node.y)
    limits: dict[Value, tuple[float, float]] = {}
    for v, (low, high) in ranges.limits.items():
        root = groups.find(v)
        a, b = limits.get(root, (0.0, 0.0))
        limits[root] = min(a, low), max(b, high)
    out: dict[Value, Params] = {}
    for v in graph.inputs:
        out[v] = _settled(v, groups, limits) or _unknown(f"input {v.name!r}")
    for node in graph.nodes:
        found = _settled(node.y, groups, limits) or _derived(node, out)
        out[node.y] = found or _unknown(f"node {node.source}")
    return out


def _unknown(what) -> Params:
    raise ImportModelError(f"{what}: the range of its values is not known: give --calibrate DATA.npz")


def _settled(v: Value, groups: _Groups, limits: dict) -> Params | None:
    fixed = groups.params(v)
    if fixed is not None:
        return fixed
    root = groups.find(v)
    low, high = limits.get(root, (0.0, 0.0))
    return params_of(low, high, v.bits) if root in limits else None


def _derived(node: Node, known: dict[Value, Params]) -> Params | None:
    """Parameters from those of the inputs, where a QDQ file leaves a value between two of its scales in float."""
    moved = _activations(node)
    if any(v not in known for v in moved):
        return None
    ends = [known[v].dequantize(np.array([-128, 127])) for v in moved]
    if len(moved) == 1 and len([v for v in node.inputs if v is not None]) == 1 and node.op not in ("SOFTMAX",):
        y = ir.run_node(node, [known[moved[0]].dequantize(np.arange(-128, 128))])
        return params_of(y.min(), y.max()) if np.isfinite(y).all() else None
    if node.op == "MEAN":
        return known[moved[0]]
    if node.op in ("ADD", "SUB", "MUL") and len(node.inputs) == 2:
        both: list[np.ndarray] = []
        rest = iter(ends)
        for v in node.inputs:
            assert v is not None
            both.append(next(rest) if v.data is None else np.array([v.data.min(), v.data.max()]))
        y = np.array(
            [ir.run_node(node, [np.array(a, np.float32), np.array(b, np.float32)]) for a in both[0] for b in both[1]]
        )
        return params_of(y.min(), y.max())
    return None


class _Writer:
    def __init__(self, graph: Graph, ranges: Ranges):
        self.graph, self.ranges = graph, ranges
        self.params = assign(graph, ranges)
        self.specs: list[TensorSpec] = []
        self.operators: list[OperatorSpec] = []
        self.sources: list[str] = []
        self.tensors: dict[Value, int] = {}
        self.requantized: dict[tuple[Value, Params], int] = {}
        self.tables: dict[tuple, int] = {}
        self.names: dict[str, int] = {}

    def add(self, name, shape, dtype, scales=(), zero_points=(), axis=0, data=None, variable=False) -> int:
        count = self.names[name] = self.names.get(name, 0) + 1
        name = name if count == 1 else f"{name};{count}"
        self.specs.append(TensorSpec(name, tuple(shape), dtype, scales, zero_points, axis, data, variable))
        return len(self.specs) - 1

    def activation(self, v: Value, params: Params) -> int:
        return self.add(v.name, v.shape, params.dtype, [params.scale], [params.zero_point])

    def write(self) -> Quantized:
        for v in self.graph.inputs:
            self.tensors[v] = self.activation(v, self.params[v])
        for node in self.graph.nodes:
            self.node(node)
        inputs = [self.tensors[v] for v in self.graph.inputs]
        outputs = [self.tensors[v] for v in self.graph.outputs]
        data = write_model(self.specs, self.operators, inputs, outputs, f"lepton import of {self.graph.name}")
        return Quantized(data, self.tensors, self.params, self.sources)

    def operator(self, node: Node, op, inputs, outputs, options=None, middle=()) -> None:
        self.operators.append(OperatorSpec(op, inputs, outputs, OPTIONS.get(op), options or {}, middle))
        self.sources.append(node.source)

    def table(self, data: np.ndarray) -> int:
        key = (data.shape, data.tobytes())
        if key not in self.tables:
            self.tables[key] = self.add("table", data.shape, "int32", data=data.astype(np.int32))
        return self.tables[key]

    def source(self, node: Node, v: Value, params: Params | None) -> int:
        """The tensor of an activation with these parameters (None: its own)."""
        if params is None or params == self.params[v]:
            return self.tensors[v]
        key = (v, params)
        if key not in self.requantized:
            y = self.requantized[key] = self.activation(Value(v.name + "/requantized", v.shape), params)
            self.operator(node, "QUANTIZE", [self.tensors[v]], [y])
        return self.requantized[key]

    def constant(self, v: Value, params: Params | None, bits: int) -> int:
        """A constant operand of an elementwise operator, with one scale."""
        assert v.data is not None
        if v.quant is not None and v.quant.stored is not None and params is None:
            p, stored = _given(v.quant), v.quant.stored.astype(np.int8)
        else:
            p = params or params_of(v.data.min(), v.data.max(), bits)
            stored = p.quantize(v.data)
        return self.add(v.name, v.shape, p.dtype, [p.scale], [p.zero_point], data=stored)

    def node(self, node: Node) -> None:
        y = node.y
        params = self.params[y]
        fixed = _fixed(node)
        if node.op in PRODUCTS:
            inputs = self.product(node)
        elif node.op == "UNIDIRECTIONAL_SEQUENCE_LSTM":
            self.lstm(node)
            return
        else:
            same = params if node.op in MOVING else None
            inputs = []
            for v in node.inputs:
                if v is None:
                    inputs.append(-1)
                elif v.data is None:
                    inputs.append(self.source(node, v, same))
                elif v.data.dtype == np.int32:
                    inputs.append(self.table(v.data))
                else:
                    inputs.append(self.constant(v, same, 8 if node.op == "PRELU" else y.bits))
        self.tensors[y] = self.activation(y, params)
        target = self.tensors[y]
        if fixed is not None and not _close(fixed, params):  # a QDQ file's own scale behind the kernel's
            target = self.activation(Value(y.name + "/fixed", y.shape), fixed)
        if node.op == "RESHAPE":
            self.operator(node, "RESHAPE", [*inputs, self.table(np.array(y.shape, np.int32))], [target], {})
        else:
            self.operator(node, node.op, inputs, [target], node.options)
        if target != self.tensors[y]:
            self.operator(node, "QUANTIZE", [target], [self.tensors[y]])

    def product(self, node: Node) -> list[int]:
        moving = node.x(2 if node.op == "TRANSPOSE_CONV" else 0)
        p = product_integers(node, self.params[moving].scale, moving.bits)
        w, channels = node.x(PRODUCTS[node.op][0]), np.zeros(len(p.scales), np.int64)
        name = w.name if not w.name.startswith("constant") else node.y.name + "/weights"
        weights = self.add(name, w.shape, "int8", p.scales, channels, p.axis if len(p.scales) > 1 else 0, p.weights)
        bias = -1
        if p.bias is not None:
            bias = self.add(node.y.name + "/bias", p.bias.shape, p.bias.dtype.name, p.bias_scales, channels, 0, p.bias)
        if node.op == "TRANSPOSE_CONV":
            shape = node.x(0)
            assert shape.data is not None
            return [self.table(shape.data), weights, self.tensors[moving], *([bias] if bias >= 0 else [])]
        return [self.tensors[moving], weights, bias]

    def lstm(self, node: Node) -> None:
        """int8 or int16 with a 16-bit cell, as TFLM takes it: the state in two variable tensors."""
        x, y = node.x(0), node.y
        given, hidden = self.params[x], self.params[y]
        if node not in self.ranges.cells:
            raise ImportModelError(f"node {node.source}: the range of its cell is not known: give --calibrate DATA.npz")
        n = y.shape[-1]
        inputs = [self.tensors[x]]
        weights, biases = lstm_integers(node, given.scale, x.bits)
        for i, (scale, stored) in enumerate(weights, 1):
            inputs.append(self.add(f"{y.name}/weights{i}", stored.shape, "int8", [scale], [0], 0, stored))
        inputs += [-1, -1, -1]
        for i, (scale, stored) in enumerate(biases):
            inputs.append(self.add(f"{y.name}/bias{i}", (n,), stored.dtype.name, [scale], [0], 0, stored))
        exponent = int(np.ceil(np.log2(max(self.ranges.cells[node], 1e-3)))) - 15
        state = self.add(f"{y.name}/hidden", (1, n), hidden.dtype, [hidden.scale], [hidden.zero_point], variable=True)
        cell = self.add(f"{y.name}/cell", (1, n), "int16", [2.0**exponent], [0], variable=True)
        inputs += [-1, -1, state, cell, -1, -1, -1, -1]
        # The source starts every inference from zero, TFLite's variable tensors go on from the last one
        zero = self.add(f"{y.name}/zero", (1, n), "int16", [2.0**exponent], [0], 0, np.zeros((1, n), np.int16))
        for variable in (state, cell):
            self.operator(node, "QUANTIZE", [zero], [variable])
        middle = [self.add(f"{y.name}/gate{i}", (0,), "float32") for i in range(4)]
        middle.append(self.add(f"{y.name}/product", (0,), hidden.dtype, [hidden.scale], [hidden.zero_point]))
        self.tensors[y] = self.activation(y, hidden)
        self.operator(node, node.op, inputs, [self.tensors[y]], node.options, middle)


def _close(a: Params, b: Params) -> bool:
    return abs(a.scale - b.scale) < 1e-6 * a.scale and a.zero_point == b.zero_point


@dataclass(frozen=True, eq=False)
class ProductIntegers:
    """The integers of a product: int8 weights with a scale for each index of `axis`, and its bias, int32 or behind
    16-bit activations int64 (None: it has none)."""

    axis: int
    scales: np.ndarray
    weights: np.ndarray
    bias: np.ndarray | None
    bias_scales: np.ndarray


def product_integers(node: Node, x_scale: float, bits: int = 8) -> ProductIntegers:
    """Weights and bias of one of PRODUCTS whose input has this scale and bits. Raises ImportModelError."""
    wi, bi, axis = PRODUCTS[node.op]
    w, b = node.x(wi), node.inputs[bi] if len(node.inputs) > bi else None
    if w.data is None:
        raise ImportModelError(f"node {node.source}: its weights must be constant")
    if b is None and node.op == "DEPTHWISE_CONV_2D":  # TFLM dies of one without a bias
        b = Value(node.y.name + "/bias", w.shape[3:], np.zeros(w.shape[3], np.float32))
    scales, stored = _weights(w, axis, x_scale, None if b is None or bits == 16 else b.data)
    bias_scales = scales * np.float32(x_scale)
    if b is None:
        return ProductIntegers(axis, scales, stored, None, bias_scales)
    assert b.data is not None
    q = b.quant
    data = np.round(b.data.astype(np.float64) / bias_scales)
    if q is not None and q.stored is not None and np.allclose(q.scales, bias_scales, rtol=1e-4):
        data = q.stored
    return ProductIntegers(axis, scales, stored, _bias(data, bits), bias_scales)


def _bias(data: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers as the bias of sums over activations of so many bits: int32, or int64 of the 46 bits that TFLM's
    rescaling of such sums leaves it."""
    most = (1 << 31) - 1 if bits == 8 else (1 << 46) - 1
    return np.clip(data, -most - 1, most).astype(np.int32 if bits == 8 else np.int64)


def lstm_integers(node: Node, x_scale: float, bits: int = 8) -> tuple[list[tuple], list[tuple]]:
    """(scale, integers) of an LSTM's eight matrices (int8) and of its four biases."""
    weights, biases = [], []
    for i in range(1, 9):
        w = node.x(i).values
        scale = np.float32(max(float(np.abs(w).max()), 1e-6) / 127)
        weights.append((scale, np.clip(np.round(w / scale), -127, 127).astype(np.int8)))
    for i in range(4):
        b = node.inputs[12 + i]
        data = np.zeros(node.y.shape[-1]) if b is None or b.data is None else b.data.astype(np.float64)
        scale = np.float32(x_scale) * weights[i][0]
        biases.append((scale, _bias(np.round(data / scale), bits)))
    return weights, biases


def _weights(w: Value, axis: int, x_scale: float, bias: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(scales, int8) of a product's weights; a scale is raised where the bias would not fit 32 bits."""
    assert w.data is not None
    q = w.quant
    if q is not None and q.stored is not None:
        return q.scales.astype(np.float32), q.stored.astype(np.int8)
    others = tuple(i for i in range(w.data.ndim) if i != axis)
    peak = np.abs(w.data).max(axis=others).astype(np.float64)
    scales = peak / 127
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias) / (x_scale * (1 << 30)))
    scales = np.where(scales < 1e-12, 1.0 / 127, scales).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(w.data.ndim)]
    return scales, np.clip(np.round(w.data / scales.reshape(shape)), -127, 127).astype(np.int8)


def quantize(graph: Graph, ranges: Ranges) -> Quantized:
    """The int8 file of a float graph. Raises ImportModelError."""
    return _Writer(graph, ranges).write()

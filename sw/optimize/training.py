"""Training on the device's arithmetic: a torch module whose forward pass is the int8 model's, bit for bit.

Values between operators are the device's integers less their zero point ("codes", in float tensors). Each operator has
two results: the exact one, by the golden model's own arithmetic, which is passed on, and a smooth one, whose gradient
is (straight through; none where the exact one is clamped). Activations keep the scales of the calibration; the scales
of weights follow the weights, as the exporter computes them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from lepton.sw.frontends.api import as_arrays
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.frontends.importer import import_model
from lepton.sw.frontends.quantize import PRODUCTS, Ranges, lstm_integers, product_integers, quantize
from lepton.sw.graph.model import Model, Operator
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import arith, golden, quantities
from lepton.sw.reference.kernels.binary import squared_difference
from lepton.sw.reference.kernels.lstm import lstm
from lepton.sw.reference.kernels.matmul import matmul_parameters
from lepton.sw.session import End, Session

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    raise ImportModelError("training needs torch: pip install 'lepton-npu[torch]'") from None

EXACT = 1 << 24
"""Whole numbers below are exact in float32."""
MOVERS = frozenset(
    "RESHAPE TRANSPOSE STRIDED_SLICE SLICE CONCATENATION PACK UNPACK SPLIT GATHER TILE DEPTH_TO_SPACE SPACE_TO_DEPTH "
    "RESIZE_NEAREST_NEIGHBOR MIRROR_PAD EXPAND_DIMS SQUEEZE".split()
)
"""Operators whose results are bytes of their inputs, from places that do not depend on the values."""
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"
TRAINED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **{op: ((w,), (b,)) for op, (w, b, _) in PRODUCTS.items()},
    LSTM: (tuple(range(1, 9)), tuple(range(12, 16))),
}
"""Where operators have weights and biases among their inputs."""


class _Exact(torch.autograd.Function):
    """The exact values forward, the smooth ones' gradient backward, where they are `inside`."""

    @staticmethod
    def forward(ctx, smooth, exact, inside):
        ctx.save_for_backward(inside)
        return exact

    @staticmethod
    def backward(ctx, gradient):
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


def _through(smooth: Any, exact: np.ndarray, low: float = -np.inf, high: float = np.inf, kind=torch.float32) -> Any:
    """`exact` with the gradient of `smooth`, which ends below low and above high; both in codes."""
    values = torch.as_tensor(np.ascontiguousarray(exact), device=smooth.device).to(kind)
    with torch.no_grad():
        inside = (smooth >= low) & (smooth <= high)
    return _Exact.apply(smooth.to(kind), values, inside)


def _integers(codes: Any, zero_point: int = 0) -> np.ndarray:
    return codes.detach().cpu().numpy().astype(np.int64) + zero_point


class QatModule(torch.nn.Module):
    """Made by `qat`. Takes and gives real values in the source's layout, batch first, like the module it was made of.

    Its parameters are the float weights and biases of the int8 model's products. Weights that are zero when it is made,
    or that a Pruner makes zero, stay so. Other operators have none: their constants stay as they are.
    """

    def __init__(self, graph: Graph, ranges: Ranges):
        super().__init__()
        self.graph, self.ranges = graph, ranges
        quantized = quantize(graph, ranges)
        self.params = quantized.params
        self.skeleton = load_model(quantized.data, graph.name)
        self._node = {quantized.tensors[n.y]: n for n in graph.nodes if n.op in TRAINED}
        self._name: dict[Value, str] = {}
        for node in self._node.values():
            weights, biases = TRAINED[node.op]
            for i in (*weights, *biases):
                v = node.inputs[i] if i < len(node.inputs) else None
                if v is None or v in self._name:
                    continue
                kind = "weight" if i in weights else "bias"
                name = self._name[v] = f"{kind}{len(self._name)}"
                values = torch.as_tensor(np.array(v.values, np.float32))
                self.register_parameter(name, torch.nn.Parameter(values))
                self.register_buffer(f"mask_{name}", (values != 0).float() if kind == "weight" else None)
        for op in self.skeleton.operators:
            if op.op not in KERNELS and op.op not in MOVERS:
                known = ", ".join(sorted({*KERNELS, *MOVERS}))
                raise ImportModelError(f"{graph.name}: {op}: no training for this operator; known: {known}")
        self._places: dict[int, Any] = {}

    # --- weights ---------------------------------------------------------------------------------------------------

    def values(self, v: Value) -> Any:
        """The float weights or bias of a value of the graph, masked."""
        parameter, mask = getattr(self, self._name[v]), getattr(self, f"mask_{self._name[v]}")
        return parameter if mask is None else parameter * mask

    def trained(self, node: Node) -> Node:
        """An operator of the graph with the weights as they are now."""
        inputs = [*node.inputs]
        for i in (i for places in TRAINED[node.op] for i in places if i < len(inputs)):
            v = inputs[i]
            if v is not None:
                inputs[i] = Value(v.name, v.shape, self.values(v).detach().cpu().numpy())
        return replace(node, inputs=inputs)

    def export(self) -> bytes:
        """The int8 .tflite with the weights as they are now; it computes what `forward` computes."""
        made = {n: self.trained(n) if n.op in TRAINED else n for n in self.graph.nodes}
        g, cells = self.graph, {made[n]: peak for n, peak in self.ranges.cells.items()}
        return quantize(Graph([*made.values()], g.inputs, g.outputs, g.name), Ranges(self.ranges.limits, cells)).data

    def session(self, config: Any = None, backend: str = "iss") -> Session:
        """A Session of `export`."""
        return Session(load_model(self.export(), self.graph.name), config=config, backend=backend)

    @property
    def prunable(self) -> "_QatSource":
        """For a Pruner."""
        return _QatSource(self)

    # --- forward ---------------------------------------------------------------------------------------------------

    def quantized(self, x: Any, tensor: int) -> Any:
        """Codes of real values, rounded as a Session rounds them."""
        t = self.skeleton.tensors[tensor]
        exact = End.of(t).quantize(x.detach().cpu().numpy()).reshape(len(x), *t.shape).astype(np.int64) - t.zero_point
        smooth = x.reshape(len(x), *t.shape) / float(t.scale)
        return _through(smooth, exact, -128 - t.zero_point, 127 - t.zero_point)

    def forward(self, *inputs: Any) -> Any:
        codes = [self.quantized(torch.as_tensor(x), t) for x, t in zip(inputs, self.skeleton.inputs, strict=True)]
        made = self.codes(*codes)
        outputs = []
        for i in self.skeleton.outputs:
            t = self.skeleton.tensors[i]
            outputs.append((made[i] * float(t.scale)).reshape(len(made[i]), *t.row))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def integers(self, *inputs: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """The int8 outputs of int8 inputs, both (N, shape in the source's layout): the device's bytes."""
        tensors = [self.skeleton.tensors[i] for i in self.skeleton.inputs]
        codes = [
            torch.as_tensor(np.asarray(x, np.float32).reshape(len(x), *t.shape) - t.zero_point)
            for x, t in zip(inputs, tensors, strict=True)
        ]
        with torch.no_grad():
            made = self.codes(*codes)
        out = []
        for i in self.skeleton.outputs:
            t = self.skeleton.tensors[i]
            out.append(_integers(made[i], t.zero_point).astype(np.int8).reshape(-1, *t.row))
        return out[0] if len(out) == 1 else tuple(out)

    def codes(self, *inputs: Any) -> dict[int, Any]:
        """Codes (N, *shape) of all activations, by tensor."""
        made = dict(zip(self.skeleton.inputs, inputs))
        for op in self.skeleton.operators:
            if self.skeleton.tensors[op.outputs[0]].variable:  # an LSTM's state, which begins from zero
                continue
            if op.op in MOVERS:
                made.update(self._moved(op, made))
            else:
                made[op.outputs[0]] = KERNELS[op.op](self, self.skeleton, op, made)
        return made

    def _moved(self, op: Operator, made: dict[int, Any]) -> Iterator[tuple[int, Any]]:
        """Bytes that move: from which place each comes is what the golden model makes of places, byte by byte."""
        model = self.skeleton
        moving = [t for t in dict.fromkeys(op.inputs) if t >= 0 and not model.tensors[t].constant]
        if op.index not in self._places:
            self._places[op.index] = _places(model, op, moving)
        n = len(made[moving[0]])
        flat = torch.cat([made[t].reshape(n, -1) for t in moving], 1)
        for t, places in zip(op.outputs, self._places[op.index]):
            made_of = flat if places is None else flat[:, places.to(flat.device)]
            yield t, made_of.reshape(n, *model.tensors[t].shape)


def _places(model: Model, op: Operator, moving: list[int]) -> list[Any]:
    """Of each output, where its bytes come from in the inputs one after the other; None where they stay as they lie."""
    starts = np.cumsum([0, *(model.tensors[t].size for t in moving)])
    places, power = [np.zeros(model.tensors[t].size, np.int64) for t in op.outputs], 1
    while power <= starts[-1]:
        digits = {
            t: ((np.arange(a, b) // power % 256) - 128).astype(np.int8).reshape(model.tensors[t].shape)
            for t, a, b in zip(moving, starts, starts[1:])
        }
        for p, y in zip(places, golden.run_operator(model, op, digits)):
            p += (y.reshape(-1).astype(np.int64) + 128) * power
        power *= 256
    return [None if np.array_equal(p, np.arange(starts[-1])) else torch.as_tensor(p) for p in places]


# --- Operators: function(module, model, operator, codes by tensor), codes of the output ------------------------------


def _operands(model: Model, op: Operator, made: dict[int, Any]) -> tuple[list, list[float], list[int]]:
    """Codes of both operands, activations or constants, with as many axes behind N as the output has; their scales;
    their zero points."""
    tensors, rank = [model.tensors[t] for t in op.inputs], len(model.tensors[op.outputs[0]].shape)
    device, codes = next(made[t].device for t in op.inputs if t in made), []
    for t, tensor in zip(op.inputs, tensors):
        value: Any = made.get(t)
        if tensor.data is not None:
            value = torch.as_tensor(tensor.data.astype(np.float32) - tensor.zero_point, device=device)[None]
        codes.append(value.reshape(len(value), *(1,) * (rank - value.ndim + 1), *value.shape[1:]))
    return codes, [float(t.scale) for t in tensors], [t.zero_point for t in tensors]


def _rescaled(total: Any, factor: Any, m, s, zero_point: int, low: int = -128, high: int = 127) -> Any:
    """Codes of sums at the output's scale: by the integers m and s, which stand for `factor`, and limited."""
    exact = arith.clamp(arith.requantize(_integers(total), m, s) + zero_point, low, high) - zero_point
    return _through(total * factor, exact, low - zero_point, high - zero_point)


def _pads(op: Operator, size: tuple[int, ...], out: tuple[int, ...]) -> tuple[int, ...]:
    """Left, right, top, bottom."""
    o, pads = op.options, []
    for n, m, side in zip(reversed(size), reversed(out), "wh"):
        dilation = o.get(f"dilation_{side}", 1)
        need = (m - 1) * o[f"stride_{side}"] + (o[f"filter_{side}"] - 1) * dilation + 1
        pads += [o[f"pad_{side}"], max(need - o[f"pad_{side}"] - n, 0)]
    return tuple(pads)


def _maps(x: Any) -> Any:
    """(N, 1, h, w, c) as torch has maps: (N, c, h, w)."""
    return x[:, 0].movedim(-1, 1)


def _product(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV."""
    node = module._node[op.outputs[0]]
    source = op.inputs[2 if op.op == "TRANSPOSE_CONV" else 0]
    x, y = model.tensors[source], model.tensors[op.outputs[0]]
    p = product_integers(module.trained(node), float(x.scale))
    wi, bi, axis = PRODUCTS[node.op]
    device = made[source].device
    scales = torch.as_tensor(p.scales, device=device)
    w = module.values(node.x(wi)) / scales.reshape([-1 if i == axis else 1 for i in range(p.weights.ndim)])
    sums = np.abs(p.weights.astype(np.int64)).sum(tuple(i for i in range(p.weights.ndim) if i != axis))
    bias = np.zeros(1, np.int64) if p.bias is None else p.bias.astype(np.int64)
    kind = torch.float32 if int((sums * 255 + np.abs(bias)).max()) < EXACT else torch.float64
    total = SUMS[op.op](op, made[source].to(kind), _through(w, p.weights, kind=kind), y.shape)
    v = node.inputs[bi] if bi < len(node.inputs) else None
    if v is not None:
        b = module.values(v).double() / torch.as_tensor(p.bias_scales, device=device)
        total = total + _through(b, bias, kind=kind)
    real = [float(x.scale) * float(scale) / float(y.scale) for scale in p.scales]
    m, s = np.array([quantities.scaled(op, arith.quantize_multiplier, r) for r in real], np.int64).T
    factor = scales.to(kind) * (float(x.scale) / float(y.scale))
    return _rescaled(total, factor, m, s, y.zero_point, *quantities.output_range(op, y))


def _conv_sums(op: Operator, x: Any, w: Any, shape: tuple[int, ...]) -> Any:
    """Any grouping: each group of input channels by its output channels; windows as columns, so that sums are exact."""
    if op.op == "DEPTHWISE_CONV_2D":
        w = w[0].movedim(-1, 0)[..., None]
    o, (_, oh, ow, cout), cin = op.options, shape, w.shape[3]
    maps = F.pad(_maps(x), _pads(op, x.shape[2:4], (oh, ow)))
    n, groups = len(x), x.shape[4] // cin
    dilation = o.get("dilation_h", 1), o.get("dilation_w", 1)
    columns = F.unfold(maps, (o["filter_h"], o["filter_w"]), dilation, 0, (o["stride_h"], o["stride_w"]))
    columns = columns.reshape(n, groups, -1, columns.shape[2])
    kernel = w.movedim(3, 1).reshape(1, groups, cout // groups, -1)
    total = (kernel @ columns).reshape(n, cout, -1)
    width = (maps.shape[3] - (o["filter_w"] - 1) * dilation[1] - 1) // o["stride_w"] + 1
    return total.reshape(n, cout, -1, width)[:, :, :oh, :ow].movedim(1, -1)[:, None]


def _dense_sums(op: Operator, x: Any, w: Any, shape: tuple[int, ...]) -> Any:
    return (x.reshape(len(x), -1, w.shape[1]) @ w.T).reshape(len(x), *shape)


def _transposed_sums(op: Operator, x: Any, w: Any, shape: tuple[int, ...]) -> Any:
    o, (_, oh, ow, _) = op.options, shape
    kernel = w.permute(3, 0, 1, 2).double()  # in, out, kh, kw; double: torch has no shortcut for it that rounds
    total = F.conv_transpose2d(_maps(x).double(), kernel, stride=(o["stride_h"], o["stride_w"]))
    after = [max(o[f"pad_{a}"] + m - n, 0) for a, m, n in zip("wh", (ow, oh), (total.shape[3], total.shape[2]))]
    total = F.pad(total, (0, after[0], 0, after[1]))
    return total[:, :, o["pad_h"] :, o["pad_w"] :][:, :, :oh, :ow].movedim(1, -1)[:, None]


SUMS: dict[str, Callable] = {
    "CONV_2D": _conv_sums,
    "DEPTHWISE_CONV_2D": _conv_sums,
    "FULLY_CONNECTED": _dense_sums,
    "TRANSPOSE_CONV": _transposed_sums,
}
"""Sums of products of codes: function(operator, input, weights, shape of the output)."""


def _binary(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """ADD, SUB, MUL."""
    y = model.tensors[op.outputs[0]]
    (a, b), (sa, sb), (za, zb) = _operands(model, op, made)
    q = _integers(a, za), _integers(b, zb)
    if op.op == "MUL":
        p = quantities.mul_parameters(model, op)
        exact, smooth = arith.mul(*q, p), a * b * (sa * sb / float(y.scale))
    else:
        p = quantities.add_parameters(model, op)
        exact = arith.add(*q, p, op.op == "SUB")
        other = b * (sb / float(y.scale))
        smooth = a * (sa / float(y.scale)) + (-other if op.op == "SUB" else other)
    return _through(smooth, exact.astype(np.int64) - y.zero_point, p["low"] - y.zero_point, p["high"] - y.zero_point)


def _difference(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """SQUARED_DIFFERENCE."""
    y = model.tensors[op.outputs[0]]
    (a, b), (sa, sb), (za, zb) = _operands(model, op, made)
    exact = squared_difference(model, op, [_integers(a, za), _integers(b, zb)]).astype(np.int64) - y.zero_point
    return _through((a * sa - b * sb) ** 2 / float(y.scale), exact, -128 - y.zero_point, 127 - y.zero_point)


def _matmul(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """BATCH_MATMUL."""
    p, y = matmul_parameters(model, op), model.tensors[op.outputs[0]]
    codes, (sa, sb), _ = _operands(model, op, made)
    a, b = (c.double() for c in codes)
    total = (a.mT if op.options["adj_x"] else a) @ (b.mT if op.options["adj_y"] else b)
    return _rescaled(total, sa * sb / float(y.scale), p["m"], p["s"], p["zo"]).reshape(len(total), *y.shape)


def _max_pool(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    x, y, o = made[op.inputs[0]], model.tensors[op.outputs[0]], op.options
    p = quantities.pool_parameters(model, op)
    maps = F.pad(_maps(x), _pads(op, x.shape[2:4], y.shape[1:3]), value=-256.0)
    best = F.max_pool2d(maps, (o["filter_h"], o["filter_w"]), (o["stride_h"], o["stride_w"]))
    best = best[:, :, : y.shape[1], : y.shape[2]].movedim(1, -1)[:, None]
    return torch.clamp(best, p["low"] - y.zero_point, p["high"] - y.zero_point)


def _average_pool(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    x, y, o = made[op.inputs[0]], model.tensors[op.outputs[0]], op.options
    p = quantities.pool_parameters(model, op)

    def sums(maps):
        maps = F.pad(maps, _pads(op, x.shape[2:4], y.shape[1:3]))
        window, stride = (o["filter_h"], o["filter_w"]), (o["stride_h"], o["stride_w"])
        total = F.avg_pool2d(maps, window, stride, divisor_override=1)
        return total[:, :, : y.shape[1], : y.shape[2]].movedim(1, -1)[:, None]

    total = sums(_maps(x).double())
    count = sums(torch.ones(1, 1, *x.shape[2:4], dtype=torch.float64, device=x.device))
    whole = np.round(total.detach().cpu().numpy()).astype(np.int64)
    inside = np.round(count.cpu().numpy()).astype(np.int64)
    exact = arith.clamp(arith.average(whole + y.zero_point * inside, inside), p["low"], p["high"]) - y.zero_point
    return _through(total / count, exact, p["low"] - y.zero_point, p["high"] - y.zero_point)


def _mean(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """MEAN and SUM."""
    x, y = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    p = quantities.mean_parameters(model, op)
    total = made[op.inputs[0]].double().sum([a + 1 for a in p["axis"]])
    factor = float(x.scale) / float(y.scale) / (p["count"] if op.op == "MEAN" else 1)
    return _rescaled(total, factor, *(p[k] for k in ("m", "s", "zo", "low", "high"))).reshape(-1, *y.shape)


def _maximum(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """REDUCE_MAX."""
    y = model.tensors[op.outputs[0]]
    return made[op.inputs[0]].amax([a + 1 for a in op.options["axis"]]).reshape(-1, *y.shape)


def _pad(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """PAD and PADV2."""
    pads = [n for pair in reversed(op.options["paddings"]) for n in pair]
    return F.pad(made[op.inputs[0]], pads, value=op.options["value"] - model.tensors[op.inputs[0]].zero_point)


def _scaled(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """QUANTIZE."""
    p, codes = quantities.quantize_parameters(model, op), made[op.inputs[0]]
    x, y = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    return _rescaled(codes, float(x.scale) / float(y.scale), *(p[k] for k in ("m", "s", "zo", "low", "high")))


def _unary(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """A table; the gradient is its slope."""
    codes, x, y = made[op.inputs[0]], model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    table = quantities.unary_table(model, op).astype(np.int64)
    index = _integers(codes, x.zero_point) + 128
    slope = torch.as_tensor(np.gradient(table.astype(np.float32))[index], dtype=torch.float32, device=codes.device)
    return _through(codes * slope, table[index] - y.zero_point)


def _softmax(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    codes, x, y = made[op.inputs[0]], model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    beta, stored = op.options["beta"], _integers(codes, x.zero_point).astype(np.int8)
    exact = quantities.scaled(op, arith.softmax, stored, x.scale, beta, 8)
    smooth = torch.softmax(codes * (float(x.scale) * beta), -1) / float(y.scale)
    return _through(smooth, exact.astype(np.int64) - y.zero_point)


def _lstm(module: QatModule, model: Model, op: Operator, made: dict[int, Any]) -> Any:
    """From zero state, as the importer writes it. The gradient is the float LSTM's, with the weights of the device."""
    node, x, y = module._node[op.outputs[0]], model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    codes = made[op.inputs[0]][:, 0]
    weights, biases = lstm_integers(module.trained(node), float(x.scale))
    integers = dict(zip((*range(1, 9), *range(12, 16)), (*weights, *biases)))
    tensors, real = list(model.tensors), {}
    for i, (scale, stored) in integers.items():
        t, v = op.inputs[i], node.inputs[i]
        tensors[t] = replace(tensors[t], scales=np.array([scale], np.float32), data=stored)
        smooth = module.values(v) / float(scale) if v is not None else torch.zeros(stored.shape)
        real[i] = _through(smooth.to(codes.device), stored) * float(scale)
    state = [tensors[op.inputs[i]] for i in (18, 19)]
    args = [None if t < 0 else tensors[t].data for t in op.inputs]
    args[0] = _integers(codes, x.zero_point).astype(np.int8)
    args[18], args[19] = (np.full((len(codes), t.size), t.zero_point, t.dtype) for t in state)
    exact = lstm(replace(model, tensors=tuple(tensors)), op, args).astype(np.int64) - y.zero_point
    inputs, h = codes * float(x.scale), torch.zeros(len(codes), y.shape[-1], device=codes.device)
    c, steps = h, []
    for t in range(inputs.shape[1]):
        i, f, g, o = (inputs[:, t] @ real[k].T + h @ real[k + 4].T + real[k + 11] for k in range(1, 5))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        steps.append(h)
    return _through(torch.stack(steps, 1) / float(y.scale), exact)[:, None]


KERNELS: dict[str, Callable] = {
    LSTM: _lstm,
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(("ADD", "SUB", "MUL"), _binary),
    **dict.fromkeys(("MEAN", "SUM"), _mean),
    **dict.fromkeys(("PAD", "PADV2"), _pad),
    **dict.fromkeys(set(quantities.UNARY) - {"QUANTIZE"}, _unary),
    "SQUARED_DIFFERENCE": _difference,
    "BATCH_MATMUL": _matmul,
    "MAX_POOL_2D": _max_pool,
    "AVERAGE_POOL_2D": _average_pool,
    "REDUCE_MAX": _maximum,
    "QUANTIZE": _scaled,
    "SOFTMAX": _softmax,
}


class _QatSource:
    """A QatModule's weights, for a Pruner: they are the graph's own, so that each is where it is."""

    def __init__(self, module: QatModule):
        self.module = module
        self.names = {name: v for v, name in module._name.items() if name.startswith("weight")}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: self.module.values(v).detach().cpu().numpy() for name, v in self.names.items()}

    def assign(self, name: str, values: np.ndarray) -> None:
        with torch.no_grad():
            getattr(self.module, name).copy_(torch.as_tensor(values))
            getattr(self.module, f"mask_{name}").copy_(torch.as_tensor(values != 0))

    def graph(self, digits: Callable[[str], np.ndarray]) -> Graph:
        g = self.module.graph
        numbers = {v: Value(v.name, v.shape, digits(name)) for name, v in self.names.items()}
        nodes = [replace(n, inputs=[numbers.get(v, v) if v is not None else None for v in n.inputs]) for n in g.nodes]
        return Graph(nodes, g.inputs, g.outputs, g.name)


def qat(network: Any, example_inputs: Any = None, calibration: Any = None, nhwc: bool = False) -> QatModule:
    """A torch module that computes what the device computes, to be trained in place of `network`.

    network : what `lepton.compile` takes: a torch module, a Keras model, an ONNX model, or a path.
    example_inputs : what a torch module is called with, batch first; also the calibration where there is no other.
    calibration : (N, shape of the input) in the source's layout: an array or tensor, one for each input; a QDQ file
        needs none.

    Dropout is gone and norms are folded, as in inference. Raises ImportModelError, ModelError.
    """
    given = None if example_inputs is None else as_arrays(example_inputs)
    data = given if calibration is None else as_arrays(calibration)
    imported = import_model(network, data, nhwc, example_inputs=given)
    return QatModule(imported.graph, imported.ranges)

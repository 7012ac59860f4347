"""Passes over a float graph: what an int8 operator does by itself is folded into it.

Each pass changes the graph in place and says whether it did. A value that the source quantizes stays as it is: folding
it away would drop a rounding that the source has.
"""

import math

import numpy as np

from lepton.sw.frontends import graph as ir
from lepton.sw.frontends.graph import Graph, Node, Quant, Value
from lepton.sw.graph.model import window

PRODUCTS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D")
FUSED = {"RELU": ir.RELU, "RELU6": ir.RELU6, "RELU_N1_TO_1": ir.RELU_N1_TO_1}
WIDE = frozenset(
    "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED LEAKY_RELU LOGISTIC "
    "MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PAD PADV2 PRELU QUANTIZE RELU RELU6 RESHAPE RESIZE_NEAREST_NEIGHBOR RSQRT "
    "SOFTMAX SQUARED_DIFFERENCE STRIDED_SLICE SUB SUM TANH TRANSPOSE TRANSPOSE_CONV "
    "UNIDIRECTIONAL_SEQUENCE_LSTM".split()
)
"""Operators that TFLM runs with 16-bit activations, as tests/test_sixteen_bits.py tries each."""
MAX_JOINED = 10
"""Most inputs of TFLM's CONCATENATION."""
GELU_SLOPE = math.sqrt(2 / math.pi)
GELU_CUBIC = 2 * GELU_SLOPE * 0.044715
POINTWISE = (
    "ADD",
    "MUL",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "LOGISTIC",
    "TANH",
    "LEAKY_RELU",
    "HARD_SWISH",
    "GELU",
    "ELU",
)


class _Pass:
    """A graph with its uses, for one pass."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.users = graph.users()
        self.makers = {v: n for n in graph.nodes for v in n.outputs}
        self.removed: set[Node] = set()
        self.changed = False

    def single(self, v: Value) -> bool:
        """v is read once and is no output."""
        return len(self.users.get(v, [])) == 1 and v not in self.graph.outputs

    def maker(self, v: Value | None, *ops: str) -> Node | None:
        node = self.makers.get(v) if v is not None else None
        return node if node is not None and node.op in ops and node not in self.removed else None

    def replace(self, old: Value, new: Value) -> None:
        for node in self.graph.nodes:
            node.inputs = [new if v is old else v for v in node.inputs]
        self.graph.outputs = [new if v is old else v for v in self.graph.outputs]
        if old.quant is not None and new.quant is None:
            new.quant = old.quant

    def remove(self, node: Node, by: Value) -> None:
        """Drop a node; `by` stands for its output."""
        self.replace(node.y, by)
        self.removed.add(node)
        self.refresh()

    def refresh(self) -> None:
        self.changed = True
        self.graph.nodes = [n for n in self.graph.nodes if n not in self.removed]
        self.users = self.graph.users()
        self.makers = {v: n for n in self.graph.nodes for v in n.outputs}


def _constant(node: Node) -> tuple[Value, np.ndarray] | None:
    """(activation, constant) of a binary node without a quantized constant or fused activation."""
    if node.options.get("FusedActivationFunction"):
        return None
    a, b = node.x(0), node.x(1)
    if a.data is not None and b.data is None:
        a, b = b, a
    if a.data is not None or b.data is None or b.quant is not None or a.shape != node.y.shape:
        return None
    return a, b.data


def _per_channel(data: np.ndarray, channels: int) -> np.ndarray | None:
    """The constant as one value a channel of the last axis, if it is that."""
    if data.size == 1:
        return np.broadcast_to(data.reshape(-1), (channels,))
    if data.size == channels and data.shape[-1:] == (channels,):
        return data.reshape(-1)
    return None


def _parts(node: Node) -> tuple[int, int, int]:
    """(place of the weights, place of the bias, the weights' output axis)."""
    if node.op == "TRANSPOSE_CONV":
        return 1, 3, 0
    return 1, 2, 3 if node.op == "DEPTHWISE_CONV_2D" else 0


def dead(p: _Pass) -> None:
    wanted = set(p.graph.outputs)
    for node in reversed(p.graph.nodes):
        if any(v in wanted for v in node.outputs):
            wanted |= {v for v in node.inputs if v is not None}
        else:
            p.removed.add(node)
    if p.removed:
        p.refresh()


def _whole(p: _Pass, x: Value, y: Value) -> bool:
    return not (x in p.graph.inputs and y in p.graph.outputs) and (
        x.quant is None or y.quant is None or x.quant.same(y.quant)
    )


def reshapes(p: _Pass) -> None:
    for node in list(p.graph.nodes):
        if node.op == "RESHAPE":
            before = p.maker(node.x(), "RESHAPE")
            if before is not None and _whole(p, before.x(), before.y) and before.y not in p.graph.outputs:
                if before.y.quant is not None and before.x().quant is None:
                    before.x().quant = before.y.quant
                node.inputs = [before.x()]
                p.refresh()
            if node.x().shape == node.y.shape and _whole(p, node.x(), node.y):
                p.remove(node, node.x())
        elif node.op == "TRANSPOSE":
            perm = [int(a) for a in node.x(1).values]
            before = p.maker(node.x(), "TRANSPOSE")
            if before is not None and _whole(p, before.x(), before.y) and before.y not in p.graph.outputs:
                first = [int(a) for a in before.x(1).values]
                perm = [first[a] for a in perm]
                node.inputs = [before.x(), Value("perm", (len(perm),), np.array(perm, np.int32))]
                p.refresh()
            if perm == sorted(perm) and _whole(p, node.x(), node.y):
                p.remove(node, node.x())


def sink_reshapes(p: _Pass) -> None:
    """RESHAPE behind what is computed element by element, so that the latter meets its producer."""
    for node in list(p.graph.nodes):
        if node.op not in POINTWISE:
            continue
        places = [i for i, v in enumerate(node.inputs) if v is not None and v.data is None]
        if len(places) != 1:
            continue
        shape = p.maker(node.inputs[places[0]], "RESHAPE")
        if shape is None or not p.single(shape.y) or p.maker(shape.x(), *FUSING, "TRANSPOSE_CONV") is None:
            continue
        channels = shape.x().shape[-1:]
        others = [v for i, v in enumerate(node.inputs) if i != places[0]]
        if shape.y.shape[-1:] != channels or node.y.shape != shape.y.shape:
            continue
        if any(v is None or v.data is None or _per_channel(v.data, channels[0]) is None for v in others):
            continue
        inner = shape.x()
        if inner.quant is None:
            inner.quant = shape.y.quant
        elif shape.y.quant is not None and not inner.quant.same(shape.y.quant):
            continue
        for i, v in enumerate(node.inputs):
            if i != places[0] and v is not None and v.data is not None:
                flat = v.data.reshape((1,) * (len(inner.shape) - 1) + (-1,))
                node.inputs[i] = Value(v.name, flat.shape, flat, v.quant)
        y = Value(node.y.name + "/flat", inner.shape, quant=node.y.quant)
        node.inputs[places[0]] = inner
        last = Node("RESHAPE", [y], [node.y], {}, node.source)
        node.outputs = [y]
        p.graph.nodes.insert(p.graph.nodes.index(node) + 1, last)
        p.removed.add(shape)
        p.refresh()


def fold_affine(p: _Pass) -> None:
    """ADD and MUL by constants into the product before them."""
    for node in list(p.graph.nodes):
        found = _constant(node) if node.op in ("ADD", "MUL") else None
        if found is None:
            continue
        x, constant = found
        made = p.maker(x, *PRODUCTS)
        if made is None or not p.single(x) or x.quant is not None or made.options.get("FusedActivationFunction"):
            continue
        c = _per_channel(constant, x.shape[-1])
        wi, bi, axis = _parts(made)
        w, b = made.x(wi), made.inputs[bi] if len(made.inputs) > bi else None
        if c is None or w.data is None or (b is not None and b.data is None):
            continue
        bias = np.zeros(x.shape[-1], np.float32) if b is None else b.data
        if node.op == "MUL":
            if w.quant is not None or (b is not None and b.quant is not None):
                continue
            shape = [-1 if i == axis else 1 for i in range(w.data.ndim)]
            made.inputs[wi] = Value(w.name, w.shape, w.data * c.reshape(shape))
            bias = bias * c
        else:
            bias = bias + c
        made.inputs = [*made.inputs[:bi], Value(made.y.name + "/bias", bias.shape, bias.astype(np.float32))]
        if b is None and node.op == "MUL":
            made.inputs[bi] = None
        p.remove(node, x)


def fold_before(p: _Pass) -> None:
    """ADD and MUL by constants into the FULLY_CONNECTED behind them."""
    for node in list(p.graph.nodes):
        found = _constant(node) if node.op in ("ADD", "MUL") else None
        users = p.users.get(node.y, [])
        if found is None or not users or node.y in p.graph.outputs or node.y.quant is not None:
            continue
        c = _per_channel(found[1], node.y.shape[-1])
        if c is None or any(u.op != "FULLY_CONNECTED" or u.x(1) is node.y for u in users):
            continue
        if any(u.x(1).data is None or u.x(1).quant is not None or u.x(1).shape[1] != len(c) for u in users):
            continue
        if any(u.inputs[2:] and u.inputs[2] is not None and u.x(2).data is None for u in users):
            continue
        for u in users:
            w, b = u.x(1), u.inputs[2] if len(u.inputs) > 2 else None
            if node.op == "MUL":
                u.inputs[1] = Value(w.name, w.shape, (w.data * c).astype(np.float32))
            else:
                bias = (w.values.astype(np.float64) @ c + (0 if b is None else b.data)).astype(np.float32)
                u.inputs = [u.inputs[0], w, Value(u.y.name + "/bias", bias.shape, bias)]
        p.remove(node, found[0])


def split_products(p: _Pass) -> None:
    """A FULLY_CONNECTED whose outputs are cut apart becomes one for each part, with scales of its own."""
    for node in list(p.graph.nodes):
        users = p.users.get(node.y, [])
        if node.op != "FULLY_CONNECTED" or len(users) < 2 or node.y in p.graph.outputs or node.y.quant is not None:
            continue
        w = node.x(1)
        if w.data is None or node.options.get("FusedActivationFunction"):
            continue
        cuts = []
        for u in users:
            if u.op != "STRIDED_SLICE" or u.x() is not node.y or u.options["ShrinkAxisMask"]:
                break
            tables = [u.x(i).data for i in (1, 2, 3)]
            parts = ir.slices(u, tables[0], tables[1], tables[2], len(node.y.shape))
            if any(s != slice(0, None, 1) for s in parts[:-1]) or u.y.shape[:-1] != node.y.shape[:-1]:
                break
            rows = np.arange(w.shape[0])[parts[-1]]
            cuts.append(rows)
        if len(cuts) != len(users):
            continue
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        for u, rows in zip(users, cuts):
            made = [
                Value(f"{v.name}/part", (len(rows), *v.shape[1:]), v.values[rows], _rows(v.quant, rows)) for v in (w,)
            ]
            b = None if bias is None else Value(bias.name, rows.shape, bias.values[rows], _rows(bias.quant, rows))
            u.op, u.inputs, u.options = "FULLY_CONNECTED", [node.x(), made[0], b], dict(node.options)
        p.removed.add(node)
        p.refresh()


def _rows(q: Quant | None, rows) -> Quant | None:
    if q is None or q.stored is None:
        return None
    many = len(q.scales) > 1
    return Quant(
        q.scales[rows] if many else q.scales, q.zero_points[rows] if many else q.zero_points, 0, q.stored[rows]
    )


def softmax_scale(p: _Pass) -> None:
    """A positive factor before SOFTMAX is its beta."""
    for node in p.graph.nodes:
        if node.op != "SOFTMAX":
            continue
        before = p.maker(node.x(), "MUL")
        found = _constant(before) if before is not None else None
        if before is None or found is None or not p.single(before.y) or before.y.quant is not None:
            continue
        if found[1].size == 1 and float(found[1].reshape(-1)[0]) > 0:
            node.options["Beta"] *= float(found[1].reshape(-1)[0])
            p.remove(before, found[0])


def activations(p: _Pass) -> None:
    for node in list(p.graph.nodes):
        if node.op not in FUSED:
            continue
        x = node.x()
        if node.op == "RELU" and x.quant is not None and x.quant.zero_points[0] == -128:  # no value below zero
            if node.y.quant is None or node.y.quant.same(x.quant):
                p.remove(node, x)
                continue
        made = p.maker(x, *FUSING)
        if made is None or not p.single(x) or made.options.get("FusedActivationFunction"):
            continue
        if x.quant is not None:
            continue
        made.options = made.options | {"FusedActivationFunction": FUSED[node.op]}
        p.remove(node, x)


def paddings(p: _Pass) -> None:
    """PAD into a convolution whose SAME it is."""
    for node in list(p.graph.nodes):
        if node.op not in ("CONV_2D", "DEPTHWISE_CONV_2D") or node.options["Padding"] != ir.VALID:
            continue
        pad = p.maker(node.x(), "PAD")
        if pad is None or not p.single(pad.y):
            continue
        table, o, same = pad.x(1).values.reshape(-1, 2), node.options, not pad.x(1).values.reshape(-1, 2)[[0, 3]].any()
        for axis, s in ((1, "H"), (2, "W")):
            k, e = node.x(1).shape[axis], o.get(f"Dilation{s}Factor", 1)
            n, before = window(pad.x().shape[axis], k, o[f"Stride{s}"], e, "SAME")
            same &= (n, before) == (node.y.shape[axis], int(table[axis, 0]))
        if same:
            node.options = o | {"Padding": ir.SAME}
            p.remove(pad, pad.x())


def flattened(p: _Pass) -> None:
    """TRANSPOSE and RESHAPE to a vector before FULLY_CONNECTED: its columns are turned instead."""
    for node in list(p.graph.nodes):
        if node.op != "FULLY_CONNECTED" or node.x(1).data is None or len(node.x().shape) != 2:
            continue
        shape = p.maker(node.x(), "RESHAPE")
        turn = p.maker(shape.x(), "TRANSPOSE") if shape is not None else None
        w = node.x(1)
        if shape is None or turn is None or not p.single(shape.y) or not p.single(turn.y):
            continue
        if math.prod(turn.y.shape) != w.shape[1]:
            continue
        perm = [int(a) for a in turn.x(1).values]
        columns = np.arange(w.shape[1]).reshape(turn.y.shape).transpose(np.argsort(perm)).reshape(-1)
        q = w.quant
        if q is not None and q.stored is not None:
            q = Quant(q.scales, q.zero_points, q.axis, q.stored[:, columns])
        node.inputs[1] = Value(w.name, w.shape, w.values[:, columns], q)
        p.remove(turn, turn.x())


def norms(p: _Pass) -> None:
    """x * r + -mean * r, as Keras writes a normalization, is (x - mean) * r: one rounding less of a wide range."""
    for node in list(p.graph.nodes):
        if node.op != "ADD" or node.options.get("FusedActivationFunction"):
            continue
        for one, other in ((0, 1), (1, 0)):
            whole, part = p.maker(node.inputs[one], "MUL"), p.maker(node.inputs[other], "MUL")
            if whole is None or part is None or not p.single(whole.y) or not p.single(part.y):
                continue
            for k in (0, 1):
                negative = p.maker(part.inputs[k], "NEG")
                factor = part.x(1 - k)
                if negative is None or factor not in whole.inputs or factor.data is not None:
                    continue
                x = whole.x(1 - whole.inputs.index(factor))
                y = Value(node.y.name + "/centred", np.broadcast_shapes(x.shape, negative.x().shape))
                centred = Node("SUB", [x, negative.x()], [y], {"FusedActivationFunction": 0}, node.source)
                p.graph.nodes.insert(p.graph.nodes.index(node), centred)
                node.op, node.inputs, node.options = "MUL", [y, factor], {"FusedActivationFunction": 0}
                p.refresh()
                break


def negations(p: _Pass) -> None:
    """NEG, which int8 has not, is a product with -1."""
    for node in p.graph.nodes:
        if node.op == "NEG":
            one = np.full((1,) * len(node.y.shape), -1, np.float32)
            node.op, node.options = "MUL", {"FusedActivationFunction": 0}
            node.inputs = [node.x(), Value("minus one", one.shape, one)]
            p.refresh()


def narrow_transposes(p: _Pass) -> None:
    """TRANSPOSE of more than 4 axes, which TFLM has not, with the axes as one that stay together."""
    for node in list(p.graph.nodes):
        shape = node.x().shape if node.op == "TRANSPOSE" else ()
        if len(shape) <= 4:
            continue
        perm = [int(a) for a in node.x(1).values if shape[int(a)] > 1]
        groups: list[list[int]] = []
        kept = sorted(perm)
        for a in perm:
            if groups and kept.index(a) == kept.index(groups[-1][-1]) + 1:
                groups[-1].append(a)
            else:
                groups.append([a])
        order = sorted(range(len(groups)), key=lambda k: groups[k][0])
        narrow = [math.prod(shape[a] for a in groups[k]) for k in order]
        turn = np.array([order.index(k) for k in range(len(groups))], np.int32)
        if not 0 < len(narrow) <= 4:
            continue
        flat = Value(f"{node.y.name}/flat", tuple(narrow), quant=node.x().quant)
        turned = Value(f"{node.y.name}/turned", tuple(narrow[k] for k in turn), quant=node.y.quant)
        place = p.graph.nodes.index(node)
        p.graph.nodes[place : place + 1] = [
            Node("RESHAPE", [node.x()], [flat], {}, node.source),
            Node("TRANSPOSE", [flat, Value("perm", turn.shape, turn)], [turned], {}, node.source),
            Node("RESHAPE", [turned], [node.y], {}, node.source),
        ]
        p.refresh()


def narrow_concatenations(p: _Pass) -> None:
    """CONCATENATION of more inputs than TFLM takes, a few at a time."""
    for node in list(p.graph.nodes):
        if node.op != "CONCATENATION" or len(node.inputs) <= MAX_JOINED:
            continue
        axis, parts = node.options["Axis"] % len(node.y.shape), []
        for i in range(0, len(node.inputs), MAX_JOINED):
            group = [v for v in node.inputs[i : i + MAX_JOINED] if v is not None]
            shape = list(node.y.shape)
            shape[axis] = sum(v.shape[axis] for v in group)
            parts.append(Value(f"{node.y.name}/part{i}", tuple(shape), quant=node.y.quant))
            place = p.graph.nodes.index(node)
            plain = {"Axis": axis, "FusedActivationFunction": 0}
            p.graph.nodes.insert(place, Node("CONCATENATION", [*group], [parts[-1]], plain, node.source))
        node.inputs = [*parts]
        p.refresh()


def without_gelu(graph: Graph, cubic: float = 0.0) -> Graph:
    """The graph with x * sigmoid(1.702 x) for GELU (at most 0.021 from it), which TFLM has not; with GELU_CUBIC with
    x * sigmoid(1.596 x + 0.0714 x**3) (at most 0.0005 from it), whose powers need 16 bits."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "GELU":
            nodes.append(node)
            continue
        y = node.y

        def made(op: str, name: str, *operands: Value | float) -> Value:
            ins = [
                Value(str(v), (1,) * len(y.shape), np.full((1,) * len(y.shape), v, np.float32))
                if isinstance(v, float)
                else v
                for v in operands
            ]
            out = Value(f"{y.name}/{name}", y.shape) if name else y
            options = {} if op == "LOGISTIC" else {"FusedActivationFunction": 0}
            nodes.append(Node(op, [*ins], [out], options, node.source))
            return out

        x = node.x()
        if cubic:
            factor = made("ADD", "factor", made("MUL", "cubic", made("MUL", "square", x, x), cubic), 2 * GELU_SLOPE)
            inner = made("MUL", "scaled", factor, x)
        else:
            inner = made("MUL", "scaled", x, 1.702)
        made("MUL", "", x, made("LOGISTIC", "gate", inner))
    return Graph(nodes, graph.inputs, graph.outputs, graph.name)


def widened(graph: Graph) -> Graph:
    """The graph with activations of 16 bits: those of operators that TFLM has no 16-bit kernel of keep 8, between two
    QUANTIZE. GELU, which it has not at all, is written out."""
    graph = without_gelu(graph, GELU_CUBIC)
    nodes: list[Node] = []
    for v in (*graph.inputs, *(n.y for n in graph.nodes)):
        v.bits = 16
    for node in graph.nodes:
        if node.op in WIDE:
            nodes.append(node)
            continue
        inputs = [*node.inputs]
        for i, x in enumerate(inputs):
            if x is not None and x.data is None:
                narrow = inputs[i] = Value(f"{x.name}/8 bits for {node.op}", x.shape)
                nodes.append(Node("QUANTIZE", [x], [narrow], {}, node.source))
        y = Value(f"{node.y.name}/8 bits", node.y.shape)
        nodes.append(Node(node.op, inputs, [y], node.options, node.source))
        nodes.append(Node("QUANTIZE", [y], [node.y], {}, node.source))
    return Graph(nodes, graph.inputs, graph.outputs, graph.name)


def narrow_operators(graph: Graph) -> list[str]:
    """Names of the operators that `widened` left at 8 bits."""
    return sorted({n.op for n in graph.nodes if n.op not in WIDE})


PASSES = (
    dead,
    norms,
    negations,
    reshapes,
    flattened,
    sink_reshapes,
    fold_affine,
    split_products,
    fold_before,
    softmax_scale,
    activations,
    paddings,
    narrow_transposes,
    narrow_concatenations,
)


def simplify(graph: Graph) -> Graph:
    """The graph, with all passes run until none changes anything."""
    changed = True
    while changed:
        changed = False
        for run in PASSES:
            p = _Pass(graph)
            run(p)
            changed |= p.changed
    return graph

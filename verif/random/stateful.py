"""Nodes of random graphs that remember, or multiply two activations: variables, LSTM, SVDF, BATCH_MATMUL."""

import numpy as np

from lepton.sw.graph.writer import GraphSpec, OperatorSpec, TensorSpec

LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


class Invalid(ValueError):
    """These nodes do not make a graph (a shape or a scale does not fit)."""


def need(ok, why):
    if not ok:
        raise Invalid(why)


class Stateful:
    """Part of the writer of a graph: methods (node, shape and quantization of its first input)."""

    def __init__(self) -> None:
        self.tensors: list[tuple] = []
        self.operators: list[tuple] = []
        self.values: list[int] = []
        """Tensors of the values."""
        self.first: list[tuple] = []
        """What CALL_ONCE puts into variables: (name, shape, scale, zero point, data)."""

    def add(self, shape, scale=None, zero=0, data=None, axis=0, *kind) -> int:
        """A tensor; `kind`: its type, and whether it is a variable tensor."""
        self.tensors.append((tuple(int(d) for d in shape), scale, zero, data, axis, *kind))
        return len(self.tensors) - 1

    def integers(self, values) -> int:
        values = np.array(values, np.int32)
        return self.add(values.shape, data=values)

    def shape(self, value) -> tuple[int, ...]:
        raise NotImplementedError

    def quant(self, value) -> tuple[float, int]:
        raise NotImplementedError

    def variable(self, node, shape, quant) -> tuple[int, int]:
        """(handle, what is read) of a new variable, which CALL_ONCE fills if the node says so."""
        handle = self.add((1,), None, 0, None, 0, "resource")
        name, y = f"v{handle}", self.add(shape, *quant)
        self.operators.append(("VAR_HANDLE", [], [handle], ("VarHandleOptions", {"SharedName": name, "Container": ""})))
        self.operators.append(("READ_VARIABLE", [handle], [y], None))
        if node.attrs.get("first"):
            data = np.random.default_rng(node.seed).integers(-128, 128, shape).astype(np.int8)
            self.first.append((name, shape, *quant, data))
        return handle, y

    def start(self) -> tuple[list[tuple], list[GraphSpec]]:
        """CALL_ONCE and its graph, if variables have first values."""
        if not self.first:
            return [], []
        tensors, operators = [], []
        for k, (name, shape, scale, zero, data) in enumerate(self.first):
            tensors.append(TensorSpec(f"h{k}", (1,), "resource"))
            tensors.append(TensorSpec(f"c{k}", shape, "int8", [scale], [zero], data=data))
            options = {"SharedName": name, "Container": ""}
            operators.append(OperatorSpec("VAR_HANDLE", [], [2 * k], "VarHandleOptions", options))
            operators.append(OperatorSpec("ASSIGN_VARIABLE", [2 * k, 2 * k + 1], []))
        call: tuple = ("CALL_ONCE", [], [], ("CallOnceOptions", {"InitSubgraphIndex": 1}))
        return [call], [GraphSpec(tensors, operators, [], [])]

    def delay(self, node, x, quant) -> int:
        """The value of the inference before."""
        handle, y = self.variable(node, x, quant)
        self.operators.append(("ASSIGN_VARIABLE", [handle, self.values[node.inputs[0]]], [], None))
        return y

    def stream(self, node, x, quant) -> int:
        """Rows that are kept, with the new ones behind them; the last of all stay: as wake words do."""
        keep = node.attrs["keep"]
        need(3 <= len(x) <= 4 and x[0] == 1, "no rows")
        handle, old = self.variable(node, (1, keep, *x[2:]), quant)
        y = self.add((1, keep + x[1], *x[2:]), *quant)
        pieces = [old, self.values[node.inputs[0]]]
        self.operators.append(("CONCATENATION", pieces, [y], ("ConcatenationOptions", {"Axis": 1})))
        new = self.add((1, keep, *x[2:]), *quant)
        rest = [0] * (len(x) - 2)
        where = [self.integers(v) for v in ([0, x[1], *rest], [1, keep + x[1], *x[2:]], [1] * len(x))]
        masks = {"BeginMask": 1, "EndMask": 1}
        self.operators.append(("STRIDED_SLICE", [y, *where], [new], ("StridedSliceOptions", masks)))
        self.operators.append(("ASSIGN_VARIABLE", [handle, new], [], None))
        return y

    def _batch_matmul(self, node, x, quant):
        rng, a = np.random.default_rng(node.seed), node.attrs
        need(2 <= len(x) <= 5, "rank")
        extra = []
        other, by = x, quant
        if len(node.inputs) == 2:
            other, by = self.shape(node.inputs[1]), self.quant(node.inputs[1])
            need(2 <= len(other) <= 5, "rank")
        else:  # a constant
            inner = x[-2] if a["x"] else x[-1]
            matrix = (a["columns"], inner) if a["y"] else (inner, a["columns"])
            other = (*(x[:-2] if a["deep"] else ()), *matrix)
            by = np.float32(0.01 * rng.uniform(0.3, 3)), int(rng.integers(-20, 20))
            extra = [self.add(other, *by, rng.integers(-128, 128, other).astype(np.int8))]
        left = x[:-2] + ((x[-1], x[-2]) if a["x"] else x[-2:])
        right = other[:-2] + ((other[-1], other[-2]) if a["y"] else other[-2:])
        need(left[-1] == right[-2], "columns and rows")
        try:
            batch = np.broadcast_shapes(left[:-2], right[:-2])
        except ValueError:
            raise Invalid("shapes do not broadcast") from None
        shape = (*batch, left[-2], right[-1])
        need(int(np.prod(shape)) * left[-1] < 1_000_000, "many products")
        natural = float(quant[0]) * float(by[0]) * 73 * 73 * np.sqrt(left[-1]) / 60
        options = {"AdjX": a["x"], "AdjY": a["y"]}
        return shape, extra, ("BatchMatMulOptions", options), (np.float32(natural * node.quant[0]), node.quant[1])

    def _svdf(self, node, x, quant):
        need(len(x) == 2, "not vectors")
        rng, a = np.random.default_rng(node.seed), node.attrs
        units, rank, memory, dtype = a["units"], a["rank"], a["memory"], a["dtype"]
        filters, span = units * rank, np.iinfo(dtype).max
        feature_scale = np.float32(rng.uniform(0.001, 0.01))
        state_scale = np.float32(float(quant[0]) * float(feature_scale) * 73 * 73 * np.sqrt(x[1]) / (0.5 * span))
        time_scale = np.float32(rng.uniform(0.2, 1) / span)
        feature = rng.integers(-127, 128, (filters, x[1])).astype(np.int8)
        time = rng.integers(-span, span + 1, (filters, memory)).astype(dtype)
        spread = span * span / 4 * np.sqrt(memory * rank)
        extra = [
            self.add(feature.shape, feature_scale, 0, feature),
            self.add(time.shape, time_scale, 0, time),
            self.add((units,), state_scale * time_scale, 0, rng.normal(0, spread / 3, units).astype(np.int32)),
            self.add((x[0], filters * memory), state_scale, a["zero"], None, 0, dtype, True),
        ]
        out = np.float32(float(state_scale) * float(time_scale) * spread / 60 * node.quant[0])
        options = {"Rank": rank, "FusedActivationFunction": 1}
        return (x[0], units), extra, ("SVDFOptions", options), (out, node.quant[1])

    def _unidirectional_sequence_lstm(self, node, x, quant):
        need(len(x) == 3, "no sequence")
        rng, a = np.random.default_rng(node.seed), node.attrs
        units, batch = a["units"], x[1 if a["major"] else 0]
        need(x[0] * x[1] <= 64, "a long sequence")
        out = (np.float32(a["scale"]), node.quant[1])
        weights, biases = [], []
        for columns, scale in ((x[2], quant[0]), (units, out[0])):
            for _ in range(4):
                data = rng.integers(-127, 128, (units, columns)).astype(np.int8)
                natural = 2 / (float(scale) * 73 * 73 * np.sqrt(columns))
                weights.append(self.add(data.shape, np.float32(natural * rng.uniform(0.3, 2)), 0, data))
        for k in range(4):
            scale = np.float32(quant[0]) * self.tensors[weights[k]][1]
            data = rng.normal(0, 1 / float(scale), units).clip(-(2**30), 2**30).astype(np.int32)
            biases.append(self.add((units,), scale, 0, data))
        state = [
            self.add((batch, units), *out, None, 0, "int8", True),
            self.add((batch, units), np.float32(a["cell"]), 0, None, 0, "int16", True),
        ]
        extra = [*weights, -1, -1, -1, *biases, -1, -1, *state, -1, -1, -1, -1]
        options = {"FusedActivationFunction": 4, "TimeMajor": a["major"], "CellClip": a["clip"]}
        return (*x[:2], units), extra, ("UnidirectionalSequenceLSTMOptions", options), out


def random_nodes(rng, op: str, make, source: int, new: int, x, reshape) -> list:
    """Nodes that apply one of these operators to `source` of shape `x`; `new`: the value of the next node.

    make(inputs, **attributes) gives the node, reshape(kind) one before it that makes `source` a vector or a sequence.
    """
    first = bool(rng.random() < 0.4)
    if op == "DELAY":
        return [make([source], first=first)]
    if op == "STREAM":
        return [make([source], first=first, keep=int(rng.integers(1, 5)))]
    if op == "BATCH_MATMUL":
        sides = {"x": bool(rng.random() < 0.25), "y": bool(rng.random() < 0.3)}
        if rng.random() < 0.5:
            return [make([source], columns=int(rng.integers(1, 24)), deep=bool(rng.random() < 0.5), **sides)]
        return [make([source, source], **({"x": False, "y": True} if rng.random() < 0.7 else {"x": True, "y": False}))]
    if op == "SVDF":
        before = [] if len(x) == 2 else [reshape("flat")]
        dtype = str(rng.choice(["int16", "int8"]))
        zero = int(rng.integers(-20, 20)) if dtype == "int8" and rng.random() < 0.3 else 0
        sizes = {"units": int(rng.integers(1, 20)), "rank": int(rng.integers(1, 3)), "memory": int(rng.integers(1, 9))}
        return [*before, make([new if before else source], dtype=dtype, zero=zero, **sizes)]
    before = [] if len(x) == 3 else [reshape("rows")]
    attrs: dict = {
        "units": int(rng.integers(1, 20)),
        "major": bool(rng.random() < 0.3),
        "scale": float(rng.choice([1 / 128, 1 / 127, 1 / 256, rng.uniform(0.002, 0.02)])),
        "cell": float(2.0 ** -int(rng.integers(9, 16))),
        "clip": float(rng.choice([0, 0, 0, 0.5, 10])),
    }
    return [*before, make([new if before else source], **attrs)]

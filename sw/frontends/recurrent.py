"""A GRU in operators that TensorFlow Lite has, which has none for it: its steps, one after the other."""

import numpy as np

from lepton.sw.frontends.graph import CUT, Node, Value

MAX_STEPS = 256
_PLAIN = {"FusedActivationFunction": 0}


class _Steps:
    """Writes operators; all values are of one row."""

    def __init__(self, name: str, source: str):
        self.name, self.source, self.nodes = name, source, list[Node]()

    def emit(self, what: str, op: str, inputs: list[Value], shape: tuple[int, ...], options=None) -> Value:
        y = Value(f"{self.name}/{what}", shape)
        self.nodes.append(Node(op, [*inputs], [y], options or {}, self.source))
        return y

    def product(self, what: str, x: Value, weights: np.ndarray, bias: np.ndarray) -> Value:
        operands = [x, *(Value(f"{self.name}/{what}", a.shape, a) for a in (weights, bias))]
        options = _PLAIN | {"WeightsFormat": 0, "KeepNumDims": len(x.shape) != 2}
        return self.emit(what, "FULLY_CONNECTED", operands, (*x.shape[:-1], len(weights)), options)

    def pair(self, what: str, op: str, a: Value, b: Value) -> Value:
        return self.emit(what, op, [a, b], a.shape, _PLAIN)

    def cut(self, what: str, x: Value, begin: list[int], end: list[int]) -> Value:
        tables = [Value("table", (len(begin),), np.array(v, np.int32)) for v in (begin, end, [1] * len(begin))]
        shape = tuple(e - b for b, e in zip(begin, end))
        return self.emit(what, "STRIDED_SLICE", [x, *tables], shape, CUT)

    def row(self, what: str, x: Value, t: int) -> Value:
        """Step t of (1, steps, k) as (1, k)."""
        k = x.shape[2]
        return self.emit(what, "RESHAPE", [self.cut(what, x, [0, t, 0], [1, t + 1, k])], (1, k))


def gru(
    x: Value, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray, reset_after: bool, name: str, source: str
) -> tuple[list[Node], Value]:
    """(operators, hidden states (1, steps, units)) of a GRU over x (1, steps, inputs), from state 0.

    kernel (3 units, inputs), recurrent (3 units, units), bias (2, 3 units), of the input's and of the state's products:
    rows of the gates update, reset, new, as in ONNX and Keras. reset_after: the reset gate limits the product with the
    state (ONNX: linear_before_reset), else the state before it.
    """
    n, write = recurrent.shape[1], _Steps(name, source)
    kernel, recurrent, bias = (np.asarray(a, np.float32) for a in (kernel, recurrent, bias))
    first = bias.sum(0)
    first[2 * n :] -= bias[1, 2 * n :] * reset_after
    gates = write.product("gates", x, kernel[: 2 * n], first[: 2 * n])
    news = write.product("new", x, kernel[2 * n :], first[2 * n :])
    last = bias[1, 2 * n :] * reset_after
    h, out = None, []
    for t in range(x.shape[1]):
        at = f"step{t}"
        gate, new = write.row(f"{at}/gates", gates, t), write.row(f"{at}/new", news, t)
        if h is not None:
            state = write.product(f"{at}/state gates", h, recurrent[: 2 * n], np.zeros(2 * n, np.float32))
            gate = write.pair(f"{at}/gates", "ADD", gate, state)
        gate = write.emit(f"{at}/gate", "LOGISTIC", [gate], gate.shape)
        z, r = (write.cut(f"{at}/{k}", gate, [0, i * n], [1, i * n + n]) for i, k in enumerate(("update", "reset")))
        if h is not None and not reset_after:
            kept = write.pair(f"{at}/kept", "MUL", r, h)
            new = write.pair(f"{at}/new", "ADD", new, write.product(f"{at}/state", kept, recurrent[2 * n :], last))
        elif reset_after:
            inner = Value(f"{name}/{at}/bias", (1, n), last[None])
            inner = inner if h is None else write.product(f"{at}/state", h, recurrent[2 * n :], last)
            new = write.pair(f"{at}/new", "ADD", new, write.pair(f"{at}/kept", "MUL", r, inner))
        new = write.emit(f"{at}/new", "TANH", [new], new.shape)
        if h is None:
            h = write.pair(f"{at}/hidden", "SUB", new, write.pair(f"{at}/part", "MUL", z, new))
        else:
            part = write.pair(f"{at}/part", "MUL", z, write.pair(f"{at}/change", "SUB", h, new))
            h = write.pair(f"{at}/hidden", "ADD", new, part)
        out.append(write.emit(f"{at}/row", "RESHAPE", [h], (1, 1, n)))
    options = {"Axis": 1, **_PLAIN}
    y = out[0] if len(out) == 1 else write.emit("sequence", "CONCATENATION", out, (1, len(out), n), options)
    return write.nodes, y

"""What a model keeps from one inference to the next, and the operators that work on it or run other graphs."""

from collections.abc import Callable

import numpy as np

from lepton.sw.graph.model import STORED, Model, ModelError, Operator

MAX_RUNS = 1 << 16
"""Most runs of other graphs by one operator of the model: what takes more is taken for what never ends."""


class State:
    """Variables, variable tensors, and which CALL_ONCE have run, of one model; all as after TFLM's AllocateTensors.

    Members
    -------
    variables : uint8 arrays, one for each of `model.variables`
    """

    def __init__(self, model: Model):
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Start again."""
        self.variables = [np.full(v.bytes, v.fill & 0xFF, np.uint8) for v in self.model.variables]
        self._tensors: dict[tuple[int, int], np.ndarray] = {}
        self._called: set[tuple[int, int]] = set()
        self._runs = 0

    def copy(self) -> "State":
        """As it is now, apart from what happens to this one."""
        other = State(self.model)
        other.variables = [v.copy() for v in self.variables]
        other._tensors = {key: t.copy() for key, t in self._tensors.items()}
        other._called = set(self._called)
        return other

    def tensor(self, graph: Model, index: int) -> np.ndarray:
        """The array of a variable tensor; an operator changes it in place."""
        key = self._graph(graph), index
        if key not in self._tensors:
            t = graph.tensors[index]
            fill = t.zero_point if t.dtype == "int8" else 0
            self._tensors[key] = np.full(t.shape, fill, STORED[t.dtype])
        return self._tensors[key]

    def once(self, graph: Model, op: Operator) -> bool:
        """Whether a CALL_ONCE is to run now."""
        key = self._graph(graph), op.index
        if key in self._called:
            return False
        self._called.add(key)
        return True

    def count_run(self, graph: Model, op: Operator, first: bool) -> None:
        """Before an operator runs another graph; `first`: for the first time. Raises ModelError."""
        self._runs = 1 if first and not self._graph(graph) else self._runs + 1
        if self._runs > MAX_RUNS:
            raise ModelError(f"{op}: no end after {MAX_RUNS:,} runs of other graphs")

    def _graph(self, graph: Model) -> int:
        """Number of a graph: 0 of the model itself."""
        return next((k for k, g in enumerate(self.model.subgraphs, 1) if g is graph), 0)


Run = Callable[[Model, list[np.ndarray]], list[np.ndarray]]
"""Runs a graph: its inputs to its outputs."""


def _read(graph: Model, op: Operator, args, state: State, run: Run):
    y = graph.tensors[op.outputs[0]]
    return (state.variables[int(args[0].flat[0])].view(STORED[y.dtype]).reshape(y.shape).copy(),)


def _assign(graph: Model, op: Operator, args, state: State, run: Run):
    state.variables[int(args[0].flat[0])] = np.ascontiguousarray(args[1]).reshape(-1).view(np.uint8).copy()
    return ()


def _call_once(graph: Model, op: Operator, args, state: State, run: Run):
    if state.once(graph, op):
        run(state.model.subgraphs[op.options["init_subgraph_index"] - 1], [])
    return ()


def _if(graph: Model, op: Operator, args, state: State, run: Run):
    branch = "then" if args[0].flat[0] else "else"
    return _shaped(graph, op, run(state.model.subgraphs[op.options[f"{branch}_subgraph_index"] - 1], args[1:]))


def _while(graph: Model, op: Operator, args, state: State, run: Run):
    condition, body = (state.model.subgraphs[op.options[f"{k}_subgraph_index"] - 1] for k in ("cond", "body"))
    values = list(args)
    while run(condition, values)[0].flat[0]:
        values = run(body, values)
    return _shaped(graph, op, values)


def _shaped(graph: Model, op: Operator, values) -> tuple[np.ndarray, ...]:
    return tuple(v.reshape(graph.tensors[i].shape) for i, v in zip(op.outputs, values, strict=True))


CONTROL = {
    "READ_VARIABLE": _read,
    "ASSIGN_VARIABLE": _assign,
    "CALL_ONCE": _call_once,
    "IF": _if,
    "WHILE": _while,
}
"""Operators that need the state or other graphs: function(graph, operator, arguments, state, run) -> outputs."""

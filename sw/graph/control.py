"""State and control flow: variables by name, and the graphs that CALL_ONCE, IF and WHILE run."""

import numpy as np

from lepton.sw.graph.model import Model, Operator, Tensor, Variable, need, tensor_name

MAX_VARIABLES = 1024
CALLS = {
    "CALL_ONCE": ("init_subgraph_index",),
    "IF": ("then_subgraph_index", "else_subgraph_index"),
    "WHILE": ("cond_subgraph_index", "body_subgraph_index"),
}
"""Operators that run other graphs, and their options that say which."""
EFFECTS = ("ASSIGN_VARIABLE", *CALLS)
"""Operators that may do more than compute their outputs."""


class Variables:
    """The variables of all graphs of a file, by name; their sizes as they are assigned."""

    def __init__(self):
        self._names: dict[tuple[str, str], int] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def handle(self, operator: Operator) -> int:
        """Number of the variable of a VAR_HANDLE."""
        key = operator.options["container"] or "", operator.options["shared_name"] or ""
        need(len(self._names) < MAX_VARIABLES or key in self._names, operator, f"more than {MAX_VARIABLES} variables")
        return self._names.setdefault(key, len(self._names))

    def assign(self, operator: Operator, number: int, value: Tensor) -> None:
        """Note the size of a variable. Before its first value TFLM fills it with the zero point, as a byte."""
        size, fill = value.nbytes, int(np.array(value.zero_point).astype(np.int8))
        known = self._sizes.setdefault(number, (size, fill))
        need(known[0] == size, operator, f"a variable of {known[0]} bytes is assigned {size}")

    def size(self, operator: Operator, number: int) -> int:
        need(number in self._sizes, operator, "its variable is never assigned")
        return self._sizes[number][0]

    def found(self) -> tuple[Variable, ...]:
        return tuple(
            Variable(name or f"variable {i}", *self._sizes.get(i, (0, 0))) for (_, name), i in self._names.items()
        )


def check_variables(graph: Model, variables: Variables) -> None:
    """Whether what is read has the size of what is assigned. Raises ModelError."""
    for op in graph.operators:
        if op.op == "READ_VARIABLE":
            handle, y = graph.tensors[op.inputs[0]].data, graph.tensors[op.outputs[0]]
            assert handle is not None  # `fold` has made it a constant
            size = variables.size(op, int(handle.flat[0]))
            need(y.nbytes == size, op, f"a variable of {size} bytes is read as {tensor_name(y)}, {y.nbytes} bytes")


def check_calls(graphs: list[Model]) -> None:
    """Whether the graphs that operators run exist, take and give what they should, and never run themselves."""
    calls: list[set[int]] = []
    for graph in graphs:
        calls.append(set())
        for op in graph.operators:
            for key in CALLS.get(op.op, ()):
                k = op.options[key]
                need(0 < k < len(graphs), op, f"subgraph {k} of {len(graphs)} does not exist")
                _check_call(op, key, graph, graphs[k])
                calls[-1].add(k)
    done: set[int] = set()
    while left := [k for k in range(len(graphs)) if k not in done]:
        ready = [k for k in left if calls[k] <= done]
        need(ready, "file", "subgraphs that run themselves")
        done.update(ready)


def _check_call(op: Operator, key: str, graph: Model, callee: Model) -> None:
    """The ends of a graph against those of the operator that runs it."""
    given = [graph.tensors[i] for i in op.inputs[1 if op.op == "IF" else 0 :]]
    wanted = [graph.tensors[i] for i in op.outputs]
    if key == "cond_subgraph_index":
        test = [callee.tensors[i] for i in callee.outputs]
        need(len(test) == 1 and test[0].dtype == "bool" and test[0].size == 1, op, "its condition is not one bool")
        wanted = []
    elif op.op == "CALL_ONCE":
        wanted = []
    pairs = [(given, callee.inputs), (wanted, callee.outputs if wanted or op.op == "IF" else ())]
    for mine, theirs in pairs:
        other = [callee.tensors[i] for i in theirs]
        same = [(t.dtype, t.size) for t in mine] == [(t.dtype, t.size) for t in other]
        need(
            same, op, f"the inputs or outputs of its {key.removesuffix('_index').replace('_', ' ')} differ from its own"
        )

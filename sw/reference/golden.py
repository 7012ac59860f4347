"""The golden model: networks in NumPy, byte for byte what TensorFlow Lite Micro computes.

`run` executes a whole model, `run_operator` one operator. What an operator computes is in `kernels`, the integers
they work with in `quantities`, what outlives an inference in `state`. Rounding: see `arith.requantize`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lepton.sw.graph.model import STORED, Model, ModelError, Operator
from lepton.sw.reference.kernels import KERNELS
from lepton.sw.reference.state import CONTROL, Run, State


def run_operator(
    model: Model, op: Operator, tensors: Mapping[int, np.ndarray], state: State | None = None
) -> tuple[np.ndarray, ...]:
    """Outputs of one operator. `tensors` maps tensor index to array; constants are taken from the model when absent.

    A kernel is f(model, op, args) -> array or tuple of arrays. args are in the tensors' own types and shapes, constants
    included, None where an input is absent; a variable tensor is the state's own array, to be changed in place.
    `model`: the graph with the operator; `state`: of the whole model, a fresh one by default.
    """
    state = state or State(model)
    args = [None if i < 0 else _argument(model, i, tensors, state) for i in op.inputs]
    if op.op in CONTROL:
        return CONTROL[op.op](model, op, args, state, _runner(model, op, state))
    if op.op not in KERNELS:
        raise ModelError(f"{op}: cannot be computed")
    made = KERNELS[op.op](model, op, args)
    outputs = made if isinstance(made, tuple) else (made,)
    return tuple(_kept(model, i, y, state) for i, y in zip(op.outputs, outputs, strict=True))


def _runner(model: Model, op: Operator, state: State) -> Run:
    """Runs other graphs for an operator, and not for ever."""
    first = True

    def run_other(graph: Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal first
        state.count_run(model, op, first)
        first = False
        return run_graph(graph, inputs, state)

    return run_other


def _kept(model: Model, index: int, y: np.ndarray, state: State) -> np.ndarray:
    """y; written to a variable tensor, the state's own array."""
    if not model.tensors[index].variable:
        return y
    kept = state.tensor(model, index)
    kept[...] = y
    return kept


def _argument(model: Model, index: int, tensors: Mapping[int, np.ndarray], state: State) -> np.ndarray:
    t = model.tensors[index]
    if index in tensors:
        return tensors[index]
    if t.variable:
        return state.tensor(model, index)
    assert t.data is not None, f"{t.name} is not computed before"
    return t.data


def run_all(model: Model, *inputs: np.ndarray, state: State | None = None) -> dict[int, np.ndarray]:
    """All activations of one inference, tensor index to array; inputs have the tensors' shapes."""
    state = state or State(model)
    tensors = _inputs(model, inputs)
    for op in model.operators:
        tensors.update(zip(op.outputs, run_operator(model, op, tensors, state), strict=True))
    return tensors


def run_graph(model: Model, inputs: Sequence[np.ndarray], state: State | None = None) -> list[np.ndarray]:
    """Outputs of one inference, all in the tensors' shapes. Keeps no tensor longer than it is needed."""
    state = state or State(model)
    last = {i: op.index for op in model.operators for i in op.inputs}
    tensors = _inputs(model, inputs)
    for op in model.operators:
        tensors.update(zip(op.outputs, run_operator(model, op, tensors, state), strict=True))
        for i in {*op.inputs, *op.outputs} - {*model.outputs}:
            if last.get(i, -1) <= op.index:
                tensors.pop(i, None)
    return [_argument(model, i, tensors, state) for i in model.outputs]


def _inputs(model: Model, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    tensors = dict(zip(model.inputs, inputs, strict=True))
    for i, x in tensors.items():
        t = model.tensors[i]
        if x.dtype != STORED.get(t.dtype) or x.shape != t.shape:
            raise ModelError(f"input {t.name!r} is {t.dtype} {t.shape}, got {x.dtype} {x.shape}")
    return tensors


def run(model: Model, *inputs, state: State | None = None):
    """Outputs for rows that run one after the other; inputs and outputs are (N, *row) with the tensor's `row`.

    One array for a model with one output, else a tuple of arrays in the model's order.
    """
    state = state or State(model)
    arrays = [np.asarray(x) for x in inputs]
    if len(arrays) != len(model.inputs):
        raise ModelError(f"{model.name} has {len(model.inputs)} inputs, got {len(arrays)}")
    if arrays and (not arrays[0].ndim or not len(arrays[0]) or any(len(x) != len(arrays[0]) for x in arrays)):
        raise ModelError("inputs must be batches of the same size, at least 1")
    tensors = [model.tensors[i] for i in model.inputs]
    for t, x in zip(tensors, arrays):
        if x.shape[1:] != t.row:
            raise ModelError(f"input {t.name!r} is {t.dtype} (N, ...) with {t.row} behind N, got {x.shape}")
    rows = []
    for i in range(len(arrays[0]) if arrays else 1):
        values = run_graph(model, [x[i].reshape(t.shape) for x, t in zip(arrays, tensors)], state)
        rows.append([v.reshape(model.tensors[j].row).copy() for v, j in zip(values, model.outputs)])
    out = tuple(np.stack(column) for column in zip(*rows))
    return out[0] if len(out) == 1 else out

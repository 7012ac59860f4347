"""The golden model: quantized networks in NumPy, byte for byte what TensorFlow Lite Micro computes.

`run` executes a whole model, `run_operator` one operator. The kernels are in `kernels`, the integers they work with in
`quantities`. Rounding: see `arith.requantize`.
"""

import numpy as np

from lepton.sw.graph.model import Model, ModelError, Operator
from lepton.sw.reference.kernels import KERNELS


def run_operator(model: Model, op: Operator, tensors: dict) -> tuple[np.ndarray, ...]:
    """Outputs of one operator. `tensors` maps tensor index to array; constants are taken from the model when absent.

    A kernel is f(model, op, args) -> array or tuple of arrays. args are in the tensors' own types and shapes, constants
    included, None where an input is absent; a variable tensor is the state's own array, to be changed in place.
    """
    args = [None if i < 0 else tensors[i] if i in tensors else model.tensors[i].data for i in op.inputs]
    made = KERNELS[op.op](model, op, args)
    return made if isinstance(made, tuple) else (made,)


def run_all(model: Model, *inputs) -> dict:
    """All activations of one inference, tensor index to array; inputs have the model's shapes (batch 1)."""
    tensors = dict(zip(model.inputs, inputs, strict=True))
    for i, x in tensors.items():
        t = model.tensors[i]
        if x.dtype.name != t.dtype or x.shape != t.shape:
            raise ModelError(f"input {t.name!r} is {t.dtype} {t.shape}, got {x.dtype} {x.shape}")
    for op in model.operators:
        tensors.update(zip(op.outputs, run_operator(model, op, tensors), strict=True))
    return tensors


def run(model: Model, *inputs):
    """Outputs for a batch: each input is int8 (N, ...) with the model's shape after the batch; so is the result.

    One array for a model with one output, else a tuple of arrays in the model's order.
    """
    inputs = [np.asarray(x) for x in inputs]
    if len(inputs) != len(model.inputs):
        raise ModelError(f"{model.name} has {len(model.inputs)} inputs, got {len(inputs)}")
    if not inputs[0].ndim or not len(inputs[0]) or any(len(x) != len(inputs[0]) for x in inputs):
        raise ModelError("inputs must be batches of the same size, at least 1")
    rows = []
    for i in range(len(inputs[0])):
        tensors = run_all(model, *(x[i : i + 1] for x in inputs))
        rows.append([tensors[j] for j in model.outputs])
    out = tuple(np.concatenate(column) if column[0].ndim else np.stack(column) for column in zip(*rows))
    return out[0] if len(out) == 1 else out

"""SVDF: a fully connected layer whose outputs are remembered, and a dot product over time of each one's memory."""

import numpy as np

from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.quantities import scaled

STATE = 4
"""Where an operator's inputs have its state."""


def svdf_parameters(model: Model, op: Operator) -> dict:
    """feature, time: (multiplier, shift) of the products with the input and with the memory."""
    x, feature, time, _, state = (model.tensors[i] for i in op.inputs)
    y = model.tensors[op.outputs[0]]

    def pair(a, b, out):
        return scaled(op, arith.quantize_multiplier, float(a.scale) * float(b.scale) / float(out.scale))

    return dict(feature=pair(x, feature, state), time=pair(state, time, y))


@kernel("SVDF")
def svdf(model: Model, op: Operator, args: list) -> np.ndarray:
    """int8 (batch, units). args[STATE] (batch, filters * memory), int8 or int16, is carried: changed in place.

    TFLM leaves the fused activation of the integer kernel out; the output's quantisation does its work.
    """
    p = svdf_parameters(model, op)
    x, feature, time, bias, state = args
    x_zero, state_zero = model.tensors[op.inputs[0]].zero_point, model.tensors[op.inputs[STATE]].zero_point
    y = model.tensors[op.outputs[0]]
    kind = np.iinfo(state.dtype)
    batch, (filters, memory) = x.shape[0], time.shape
    fresh = (x.astype(np.int64) - x_zero) @ feature.T.astype(np.int64)
    fresh = arith.clamp(arith.requantize(fresh, *p["feature"]), kind.min, kind.max) + state_zero
    history = state.reshape(batch, filters, memory)
    history[:, :, :-1] = history[:, :, 1:].copy()
    history[:, :, -1] = fresh.astype(state.dtype)  # a sum beyond the type wraps, as TFLM's does
    total = ((history.astype(np.int64) - state_zero) * time).sum(axis=2)
    total = total.reshape(batch, -1, op.options["rank"]).sum(axis=2) + bias
    return arith.clamp8(arith.requantize(total, *p["time"]) + y.zero_point)

"""UNIDIRECTIONAL_SEQUENCE_LSTM: int8 or int16 activations, int8 weights, a 16-bit cell.

Per step and gate (input, forget, cell, output) TFLM scales the products with the input and with the hidden state to
2**-12 apart from each other, adds them with 16-bit saturation, and applies a sigmoid or tanh. Then cell = forget * cell
+ input * gate and hidden = output * tanh(cell), each product rounded by itself.
"""

import numpy as np

from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith, arith16
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.quantities import scaled

GATE_SCALE = 2.0**-12
"""Of the 16-bit sums before a gate's function."""
UNIT_SCALE = 2.0**-15
"""Of what sigmoid and tanh give."""
WEIGHTS, RECURRENT, BIAS = slice(1, 5), slice(5, 9), slice(12, 16)
"""Where an operator's inputs have the weights of the gates: input, forget, cell, output."""
HIDDEN, CELL = 18, 19
"""Where an operator's inputs have its state."""


def lstm_parameters(model: Model, op: Operator) -> dict:
    """gates: (multiplier, shift) of the input's and of the state's products, one pair a gate; forget, update, hidden:
    (multiplier, shift) of the products; tanh: (multiplier, right shift); clip: largest |cell| or 0.
    """
    tensors = [model.tensors[i] if i >= 0 else None for i in op.inputs]
    x, h, c = tensors[0], tensors[HIDDEN], tensors[CELL]
    assert x is not None and h is not None and c is not None

    def pair(real):
        return scaled(op, arith.quantize_multiplier, real)

    gates = [
        (
            pair(float(x.scale) * float(w.scale) / GATE_SCALE),
            pair(float(h.scale) * float(r.scale) / GATE_SCALE),
        )
        for w, r in zip(tensors[WEIGHTS], tensors[RECURRENT])
        if w is not None and r is not None
    ]
    cell_scale, limit = float(c.scale), np.float32(op.options["cell_clip"])
    power = 12 + arith16.log2(c.scale)[0]
    return dict(
        gates=gates,
        forget=pair(UNIT_SCALE * cell_scale / cell_scale),
        update=pair(UNIT_SCALE * UNIT_SCALE / cell_scale),
        hidden=pair(UNIT_SCALE * UNIT_SCALE / float(h.scale)),
        tanh=(3 << power, 0) if power >= 0 else (3, -power),
        clip=int(min(float(limit) / cell_scale, 32767.0)) if limit > 0 else 0,
    )


@kernel("UNIDIRECTIONAL_SEQUENCE_LSTM")
def lstm(model: Model, op: Operator, args: list) -> np.ndarray:
    """Hidden states of all steps; args[HIDDEN] and args[CELL] are carried: changed in place."""
    p = lstm_parameters(model, op)
    x_tensor, h_tensor = model.tensors[op.inputs[0]], model.tensors[op.inputs[HIDDEN]]
    x = args[0] if op.options["time_major"] else args[0].swapaxes(0, 1)
    steps, batch = x.shape[:2]
    hidden, cell = args[HIDDEN].reshape(batch, -1), args[CELL].reshape(batch, -1)
    units = hidden.shape[1]
    narrow = x.dtype == np.int8
    # The four gates side by side are one matrix. Products are exact in float64: integers below 2**53.
    weights = np.concatenate(args[WEIGHTS]).T.astype(np.float64)
    recurrent = np.concatenate(args[RECURRENT]).T.astype(np.float64)
    bias = np.concatenate(args[BIAS]).astype(np.int64)
    scales = np.array(p["gates"], np.int64).repeat(units, axis=0)  # (4 * units, input or state, multiplier or shift)

    def scale(total, part):
        m, s = scales[:, part, 0], scales[:, part, 1]
        return arith16.clamp16(
            arith.requantize(total, m, s) if narrow else scaled(op, arith16.requantize64, total, m, s)
        )

    inputs = scale((x.astype(np.float64) - x_tensor.zero_point) @ weights + bias, 0)
    out = np.empty((steps, batch, units), x.dtype)
    for step in range(steps):
        products = (hidden.astype(np.float64) - h_tensor.zero_point) @ recurrent
        gates = arith16.clamp16(inputs[step].astype(np.int64) + scale(products, 1)).reshape(batch, 4, units)
        i, f, o = (arith16.logistic(gates[:, g], 3, 0).astype(np.int64) for g in (0, 1, 3))
        g = arith16.tanh(gates[:, 2], 3, 0).astype(np.int64)
        kept = arith16.clamp16(arith.requantize(f * cell, *p["forget"])).astype(np.int64)
        cell[:] = arith16.clamp16(kept + arith16.clamp16(arith.requantize(i * g, *p["update"])))
        if p["clip"]:
            cell[:] = np.clip(cell, -p["clip"], p["clip"])
        shown = arith16.tanh(cell, *p["tanh"]).astype(np.int64)
        value = arith.requantize(shown * o, *p["hidden"]) + h_tensor.zero_point
        hidden[:] = out[step] = arith.clamp8(value) if narrow else arith16.clamp16(value)
    # In place: reshape gave views, for the runner's arrays are contiguous.
    return out if op.options["time_major"] else np.ascontiguousarray(out.swapaxes(0, 1))

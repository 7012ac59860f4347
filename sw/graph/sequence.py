"""Checks of the operators over sequences: LSTM, SVDF, BATCH_MATMUL, SOFTMAX, LOG_SOFTMAX.

As `operators.Spec.check`: (operator, its input tensors, its output tensors); they raise ModelError. What is refused is
what TensorFlow Lite Micro refuses, or what its result would not be defined for.
"""

import math

import numpy as np

from lepton.sw.graph.checks import same_shape, shape
from lepton.sw.graph.model import MAX_PRODUCTS, Operator, Tensor, need, tensor_name

_UNIT = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}


def _present(tensors: list[Tensor | None]) -> list[Tensor]:
    """Those that are there: all that a `Spec` requires."""
    return [t for t in tensors if t is not None]


def _quantised(o: Operator, t: Tensor, *dtypes: str):
    """An activation of one of the types, with one scale (none for float32)."""
    name = f"{tensor_name(t)}"
    need(t.dtype in dtypes, o, f"{name} is {t.dtype}, {' or '.join(dtypes)} is expected")
    if t.dtype == "float32":
        return
    need(len(t.scales) == 1, o, f"{name} needs one scale and zero point: quantise the model to int8")
    need(1e-18 < t.scale < 1e18, o, f"{name} has scale {t.scale}, out of range")
    need(t.dtype != "int16" or t.zero_point in (0, -32768), o, f"{name} is int16 with zero point {t.zero_point}")


def _constant(o: Operator, t: Tensor, what: str, dtype: str, want: tuple[int, ...]):
    need(t.constant and t.dtype == dtype, o, f"{what} must be constant {dtype}, {tensor_name(t)} is {t.dtype}")
    need(t.shape == want, o, f"{what} has shape {t.shape}, not {want}")


def _weights(o: Operator, t: Tensor, what: str, dtype: str, want: tuple[int, ...]):
    _constant(o, t, what, dtype, want)
    need(len(t.scales) == 1 and not t.zero_points.any(), o, f"{what} needs one scale and no zero point")


def _state(o: Operator, t: Tensor, what: str, dtypes: tuple[str, ...], size: int):
    _quantised(o, t, *dtypes)
    need(t.variable, o, f"{what} {tensor_name(t)} is no variable tensor")
    need(t.size == size, o, f"{what} has {t.size} values, not {size}")


def check_lstm(o: Operator, ins: list[Tensor | None], outs: list[Tensor]):
    """Keras's LSTM as converted by default: no peepholes, projection or layer normalisation."""
    need(len(ins) == 24, o, f"{len(ins)} inputs, 24 expected")
    for part, what in ((slice(9, 12), "peepholes"), (slice(16, 18), "a projection"), (slice(20, 24), "normalisation")):
        need(all(t is None for t in ins[part]), o, f"an LSTM with {what} is not supported: use Keras's LSTM")
    x, *weights = _present(ins[:9])
    biases, states, y = _present(ins[12:16]), _present(ins[18:20]), outs[0]
    complete = len(weights) == 8 and len(biases) == 4 and len(states) == 2
    need(complete, o, "a weight, bias or state is missing")
    hidden, cell = states
    need(o.options["activation"] == "TANH", o, f"its activation {o.options['activation']} is not supported, only TANH")
    _quantised(o, x, "int8", "int16")
    _quantised(o, y, x.dtype)
    need(len(x.shape) == 3, o, f"input has shape {x.shape}, 3 dimensions expected")
    major = o.options["time_major"]
    batch, inputs = x.shape[1 if major else 0], x.shape[2]
    units = y.shape[-1] if y.shape else 0
    need(y.shape == (*x.shape[:2], units), o, f"output shape {y.shape} does not fit input shape {x.shape}")
    for t in weights[:4]:
        _weights(o, t, "a weight of the input", "int8", (units, inputs))
    for t in weights[4:]:
        _weights(o, t, "a weight of the state", "int8", (units, units))
    for t in biases:
        _constant(o, t, "a bias", "int32" if x.dtype == "int8" else "int64", (units,))
    _state(o, hidden, "the hidden state", (x.dtype,), batch * units)
    need(len(hidden.shape) == 2 and hidden.shape[1] == units, o, f"the hidden state has shape {hidden.shape}")
    _state(o, cell, "the cell state", ("int16",), batch * units)
    need(cell.zero_point == 0 and 2.0**-20 <= cell.scale <= 1, o, f"the cell state has scale {cell.scale}")
    clip = o.options["cell_clip"]
    need(math.isfinite(clip) and clip >= 0, o, f"cell_clip {clip} must be 0 or more")
    need(x.size * units * 4 + y.size * units * 4 <= MAX_PRODUCTS, o, "too many products")


def check_svdf(o: Operator, ins: list[Tensor | None], outs: list[Tensor]):
    x, feature, time, bias, state = _present(ins)
    y, rank = outs[0], o.options["rank"]
    _quantised(o, x, "int8")
    _quantised(o, y, "int8")
    need(len(x.shape) == 2 and len(feature.shape) == 2 and len(time.shape) == 2, o, "2 dimensions are expected")
    filters, memory = time.shape
    need(rank > 0 and filters % rank == 0, o, f"{filters} filters are not a multiple of rank {rank}")
    _weights(o, feature, "the feature weights", "int8", (filters, x.shape[1]))
    need(time.dtype in ("int8", "int16"), o, f"the time weights are {time.dtype}, int8 or int16 is expected")
    _weights(o, time, "the time weights", time.dtype, (filters, memory))
    _constant(o, bias, "the bias", "int32", (filters // rank,))
    _state(o, state, "the state", (time.dtype,), x.shape[0] * filters * memory)
    shape(o, y, (x.shape[0], filters // rank))
    products = np.float32(state.scale * time.scale)
    close = len(bias.scales) == 1 and abs(float(bias.scale) - float(products)) < 1e-5
    need(close, o, "the bias's scale is not that of the state times that of the time weights")


def check_batch_matmul(o: Operator, ins: list[Tensor | None], outs: list[Tensor]):
    a, b = _present(ins)
    y = outs[0]
    _quantised(o, a, "int8", "int16")
    for t in (b, y):
        _quantised(o, t, a.dtype)
    need(a.dtype == "int8" or not any(t.zero_point for t in (a, b, y)), o, "int16 with a zero point")
    need(all(2 <= len(t.shape) <= 5 for t in (a, b)), o, f"shapes {a.shape} and {b.shape}: 2 to 5 dimensions expected")
    left = a.shape[:-2] + (a.shape[:-3:-1] if o.options["adj_x"] else a.shape[-2:])
    right = b.shape[:-2] + (b.shape[:-3:-1] if o.options["adj_y"] else b.shape[-2:])
    need(left[-1] == right[-2], o, f"{left} times {right}: {left[-1]} columns, {right[-2]} rows")
    try:
        batch = np.broadcast_shapes(left[:-2], right[:-2])
    except ValueError:
        batch = None
    need(batch is not None, o, f"shapes {a.shape} and {b.shape} do not broadcast")
    assert batch is not None
    shape(o, y, (*batch, left[-2], right[-1]))
    need(y.size * left[-1] <= MAX_PRODUCTS, o, "too many products")


def check_softmax(o: Operator, ins: list[Tensor | None], outs: list[Tensor]):
    (x,), y, beta = _present(ins), outs[0], o.options["beta"]
    _quantised(o, x, "int8", "int16", "float32")
    _quantised(o, y, *({"int8": ("int8", "int16")}.get(x.dtype, (x.dtype,))))
    same_shape(o, x, y)
    need(len(y.shape) > 0, o, "input without dimensions")
    need(1e-6 <= beta <= 1e6, o, f"beta {beta} is out of range")
    if x.dtype == "float32":
        return
    scale, zero = (1 / 65536, -32768) if x.dtype != y.dtype else _UNIT[x.dtype]
    near = y.scale == scale if y.dtype == "int8" else abs(float(y.scale) - scale) < 1e-3 * scale
    need(near and y.zero_point == zero, o, f"output must have scale {scale} and zero point {zero}")
    if x.dtype == "int8":
        need(beta * float(x.scale) > 2.0**-26, o, "beta times input scale is too small")
    else:
        need(x.zero_point == 0, o, "int16 with a zero point")


def check_log_softmax(o: Operator, ins: list[Tensor | None], outs: list[Tensor]):
    (x,), y = _present(ins), outs[0]
    _quantised(o, x, "int8", "float32")
    _quantised(o, y, x.dtype)
    same_shape(o, x, y)
    need(len(y.shape) > 0, o, "input without dimensions")
    if x.dtype == "float32":
        return
    need(y.scale == 1 / 16 and y.zero_point == 127, o, "output must have scale 1/16 and zero point 127")
    need(y.shape[-1] < 4096, o, f"over {y.shape[-1]} values its 32-bit sum may overflow: at most 4095")
    need(float(x.scale) > 2.0**-25, o, f"input scale {x.scale} is too small")

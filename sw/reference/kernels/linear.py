"""Convolutions and matrix products.

The products are done in float64: every partial sum is an integer below 2**53, so they are exact in any order.
"""

import numpy as np
import tflite

from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith, arith16, quantities
from lepton.sw.reference.kernels import linear_float
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.kernels.windows import windows


def _finish(model: Model, op: Operator, total, parameters) -> np.ndarray:
    """int8 or int16 outputs from int64 sums, channels last."""
    m, s, bias, _, zero, low, high = parameters
    if model.tensors[op.outputs[0]].dtype == "int8":
        return arith.clamp8(arith.requantize(total + bias, m, s) + zero, low, high)
    if _sums_in_32_bits(model, op):
        return arith16.clamp16(arith.requantize(total + bias, m, s), low, high)
    return arith16.clamp16(quantities.scaled(op, arith16.requantize64, total + bias, m, s), low, high)


def _sums_in_32_bits(model: Model, op: Operator) -> bool:
    """Whether TFLM adds the products with int16 in 32 bits: by the bias's type, or by an option where there is none."""
    if op.op not in ("CONV_2D", "FULLY_CONNECTED"):
        return False
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        return model.tensors[op.inputs[2]].dtype == "int32"
    return op.options["quantized_bias_type"] == tflite.TensorType.INT32


@kernel("CONV_2D")
def conv(model, op, args):
    ins, y = quantities.tensors_of(model, op)
    if y.dtype == "float32":
        return linear_float.conv(op, args, y.shape)
    parameters = quantities.conv_parameters(model, op)
    w = ins[1].data
    x = args[0].astype(np.float64) - parameters[3]
    view = windows(x, op, y.shape, 0.0)
    n, oh, ow, kh, kw, c = view.shape
    groups = op.options["groups"]
    cin, cout = c // groups, w.shape[0] // groups
    total = np.empty((n, oh, ow, w.shape[0]), np.int64)
    step = max(1, (1 << 23) // max(1, ow * kh * kw * cin))  # rows at a time bounds the unfolded copy
    for g in range(groups):
        part = w[g * cout : (g + 1) * cout].reshape(cout, -1).T.astype(np.float64)
        for row in range(0, oh, step):
            cut = view[:, row : row + step, :, :, :, g * cin : (g + 1) * cin]
            rows = cut.reshape(-1, kh * kw * cin)
            total[:, row : row + step, :, g * cout : (g + 1) * cout] = (rows @ part).reshape(n, -1, ow, cout)
    return _finish(model, op, total, parameters)


@kernel("DEPTHWISE_CONV_2D")
def depthwise(model, op, args):
    ins, y = quantities.tensors_of(model, op)
    if y.dtype == "float32":
        return linear_float.depthwise(op, args, y.shape)
    parameters = quantities.conv_parameters(model, op)
    w = ins[1].data[0].astype(np.int64)
    x = args[0].astype(np.int64) - parameters[3]
    view = windows(np.repeat(x, op.options["depth_multiplier"], axis=3), op, y.shape, 0)
    total = np.zeros(y.shape, np.int64)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            total += view[:, :, :, i, j] * w[i, j]
    return _finish(model, op, total, parameters)


@kernel("FULLY_CONNECTED")
def fully_connected(model, op, args):
    """Rows of inputs by weights, which may be an activation too, then with a zero point."""
    ins, y = quantities.tensors_of(model, op)
    if y.dtype == "float32":
        return linear_float.fully_connected(op, args, y.shape)
    parameters = quantities.conv_parameters(model, op)
    w = args[1].astype(np.float64) - (ins[1].zero_point if len(ins[1].scales) == 1 else 0)
    x = args[0].reshape(-1, w.shape[1]).astype(np.float64) - parameters[3]
    total = (x @ w.T).astype(np.int64)
    return _finish(model, op, total, parameters).reshape(y.shape)


@kernel("TRANSPOSE_CONV")
def transpose_conv(model, op, args):
    ins, y = quantities.tensors_of(model, op)
    if y.dtype == "float32":
        return linear_float.transpose_conv(op, args, y.shape)
    parameters = quantities.conv_parameters(model, op)
    p, w = op.options, ins[1].data.astype(np.float64)
    x = args[2].astype(np.float64) - parameters[3]
    (n, h, width, _), (kh, kw) = x.shape, w.shape[1:3]
    sh, sw, ph, pw = p["stride_h"], p["stride_w"], p["pad_h"], p["pad_w"]
    big = np.zeros(
        (n, max((h - 1) * sh + kh, ph + y.shape[1]), max((width - 1) * sw + kw, pw + y.shape[2]), y.shape[3]), np.int64
    )
    for i in range(kh):
        for j in range(kw):
            big[:, i : i + h * sh : sh, j : j + width * sw : sw][:, :h, :width] += (x @ w[:, i, j].T).astype(np.int64)
    return _finish(model, op, big[:, ph : ph + y.shape[1], pw : pw + y.shape[2]], parameters)

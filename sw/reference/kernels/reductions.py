"""Reductions along axes."""

import numpy as np

from lepton.sw.reference import arith, arith16, quantities
from lepton.sw.reference.kernels.registry import dense, kernel


def _in_order(op, x):
    """The values that are reduced, in TFLM's order: (count, values that stay)."""
    axes = op.options["axis"]
    stay = [i for i in range(x.ndim) if i not in axes]
    return x.transpose(*axes, *stay).reshape(-1, int(np.prod([x.shape[i] for i in stay])))


def _float_sum(rows):
    """Sum of the rows, one after the other: float32 additions do not commute."""
    return np.add.accumulate(rows, axis=0, dtype=np.float32)[-1]


@kernel("MEAN", "SUM")
def mean(model, op, args):
    y, x = model.tensors[op.outputs[0]], args[0]
    if y.dtype in ("int8", "int16", "uint8"):
        p = quantities.mean_parameters(model, op)
        total = arith.wrap32(x.astype(np.int64).sum(axis=p["axis"]) - p["count"] * p["zi"])
        return arith.to_type(arith.requantize(total, p["m"], p["s"]) + p["zo"], y.dtype).reshape(y.shape)
    rows = _in_order(op, x)
    if x.dtype == np.float32:
        total = _float_sum(rows)
        return (total / np.float32(len(rows)) if op.op == "MEAN" else total).reshape(y.shape)
    total = rows.astype(np.int64).sum(axis=0)
    if op.op == "MEAN":
        total = np.sign(total) * (np.abs(total) // len(rows))
    return total.astype(y.dtype).reshape(y.shape)


@kernel("REDUCE_MAX", "REDUCE_MIN")
def extreme(model, op, args):
    function = np.max if op.op == "REDUCE_MAX" else np.min
    return np.asarray(function(args[0], axis=op.options["axis"])).reshape(model.tensors[op.outputs[0]].shape)


@kernel("REDUCE_ALL", "REDUCE_ANY")
def truth(model, op, args):
    function = np.all if op.op == "REDUCE_ALL" else np.any
    return np.asarray(function(args[0], axis=op.options["axis"])).reshape(model.tensors[op.outputs[0]].shape)


@kernel("REDUCE_PROD")
def product(model, op, args):
    """LiteRT: of quantized values, scaled after each product with a multiplier of 16 bits."""
    y, rows = model.tensors[op.outputs[0]], _in_order(op, args[0])
    if y.dtype in ("int8", "int16", "uint8"):
        m, s, zi, zo = quantities.product_parameters(model, op, len(rows))
        total = rows[0].astype(np.int64) - zi
        for row in rows[1:]:
            total = arith16.requantize64(total * (row.astype(np.int64) - zi), m, s)
        return arith.to_type(arith16.requantize64(total, m, s) + zo, y.dtype).reshape(y.shape)
    total = rows[0]
    with np.errstate(all="ignore"):
        for row in rows[1:]:
            total = total * row
    return total.reshape(y.shape)


@kernel("ARG_MAX", "ARG_MIN")
def arg_extreme(model, op, args):
    """The first of equal values."""
    function = np.argmax if op.op == "ARG_MAX" else np.argmin
    y = model.tensors[op.outputs[0]]
    return np.asarray(function(args[0], axis=op.options["axis"])).astype(y.dtype).reshape(y.shape)


@kernel("CUMSUM")
def cumsum(model, op, args):
    y, x, axis = model.tensors[op.outputs[0]], args[0], op.options["axis"]
    p = quantities.sum_parameters(model, op) if y.dtype == "int8" else None
    first = 0
    if p:
        scale = (p["m1"], p["s1"], p["left_shift"])
        first = int(arith.requantize(-p["z1"], *scale))  # TFLM begins with a raw 0
        x = arith.requantize(x.astype(np.int64) - p["z1"], *scale)
    x = np.flip(x, axis) if op.options["reverse"] else x
    head = np.full_like(x.take([0], axis), first)
    total = np.add.accumulate(np.concatenate([head, x], axis), axis, dtype=x.dtype)
    places = slice(0, -1) if op.options["exclusive"] else slice(1, None)
    total = total[*(slice(None),) * axis, places]
    total = np.flip(total, axis) if op.options["reverse"] else total
    if p:
        return arith.to_type(arith.requantize(arith.wrap32(total), p["mo"], p["so"]) + p["zo"], "int8")
    return dense(total)


@kernel("L2_NORMALIZATION")
def l2_normalization(model, op, args):
    x = args[0]
    if x.dtype == np.float32:
        rows = np.moveaxis(x * x, -1, 0)
        norm = np.maximum(np.sqrt(_float_sum(rows)), np.float32(1e-6))
        return x / norm[..., None]
    x = x.astype(np.int64) - model.tensors[op.inputs[0]].zero_point
    multiplier, shift = arith.inverse_sqrt(arith.wrap32((x * x).sum(axis=-1)))
    return arith.clamp8(arith.requantize(x, multiplier[..., None], shift[..., None] + 7))

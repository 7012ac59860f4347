"""Pools."""

import numpy as np

from lepton.sw.reference import arith, quantities
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.kernels.windows import windows


def _sums(op, x, shape, dtype):
    """(sum of each window in TFLM's order, values of it that lie inside)."""
    total = np.zeros(shape, dtype)
    count = np.zeros((1, *shape[1:3], 1), np.int64)
    view = windows(x, op, shape, 0)
    inside = windows(np.ones((1, *x.shape[1:3], 1), np.int64), op, shape, 0)
    for i in range(op.options["filter_h"]):
        for j in range(op.options["filter_w"]):
            total += view[:, :, :, i, j]
            count += inside[:, :, :, i, j]
    return total, count


@kernel("AVERAGE_POOL_2D")
def average_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    if y.dtype == "float32":
        total, count = _sums(op, args[0], y.shape, np.float32)
        return arith.activate(total / count.astype(np.float32), op.options["activation"])
    p = quantities.pool_parameters(model, op)
    average = arith.average(*_sums(op, args[0].astype(np.int64), y.shape, np.int64))
    return arith.to_type(average, y.dtype, p["low"], p["high"])


@kernel("MAX_POOL_2D")
def max_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    least = np.finfo(np.float32).min if y.dtype == "float32" else np.iinfo(y.dtype).min
    view = windows(args[0], op, y.shape, least)
    best = np.full(y.shape, least, y.dtype)
    for i in range(op.options["filter_h"]):
        for j in range(op.options["filter_w"]):
            np.maximum(best, view[:, :, :, i, j], out=best)
    if y.dtype == "float32":
        return arith.activate(best, op.options["activation"])
    p = quantities.pool_parameters(model, op)
    return arith.to_type(best, y.dtype, p["low"], p["high"])


@kernel("L2_POOL_2D")
def l2_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    total, count = _sums(op, args[0] * args[0], y.shape, np.float32)
    return arith.activate(np.sqrt(total / count.astype(np.float32)), op.options["activation"])

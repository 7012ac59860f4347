"""Pools."""

import numpy as np

from lepton.sw.reference import arith, quantities
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.kernels.windows import windows


@kernel("AVERAGE_POOL_2D")
def average_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    p = quantities.pool_parameters(model, op)
    total = np.zeros(y.shape, np.int64)
    count = np.zeros((1, *y.shape[1:3], 1), np.int64)
    view = windows(args[0].astype(np.int64), op, y.shape, 0)
    inside = windows(np.ones((1, *args[0].shape[1:3], 1), np.int64), op, y.shape, 0)
    for i in range(p["filter_h"]):
        for j in range(p["filter_w"]):
            total += view[:, :, :, i, j]
            count += inside[:, :, :, i, j]
    return arith.clamp8(arith.average(total, count), p["low"], p["high"])


@kernel("MAX_POOL_2D")
def max_pool(model, op, args):
    y = model.tensors[op.outputs[0]]
    p = quantities.pool_parameters(model, op)
    view = windows(args[0], op, y.shape, -128)
    best = np.full(y.shape, -128, np.int8)
    for i in range(p["filter_h"]):
        for j in range(p["filter_w"]):
            np.maximum(best, view[:, :, :, i, j], out=best)
    return arith.clamp8(best, p["low"], p["high"])

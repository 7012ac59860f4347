"""Reductions along axes."""

import numpy as np

from lepton.sw.reference import arith, quantities
from lepton.sw.reference.kernels.registry import kernel


@kernel("MEAN")
def mean(model, op, args):
    y = model.tensors[op.outputs[0]]
    p = quantities.mean_parameters(model, op)
    total = args[0].astype(np.int64).sum(axis=p["axis"]) - p["count"] * p["zi"]
    return arith.clamp8(arith.requantize(total, p["m"], p["s"]) + p["zo"]).reshape(y.shape)

"""BATCH_MATMUL: products of two activations, or of one with a constant."""

import numpy as np

from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith, arith16
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.quantities import scaled


def matmul_parameters(model: Model, op: Operator) -> dict:
    """m, s, z1, z2, zo: the output is requantize(sum (a - z1)(b - z2), m, s) + zo."""
    a, b = (model.tensors[i] for i in op.inputs)
    y = model.tensors[op.outputs[0]]
    m, s = scaled(op, arith.quantize_multiplier, float(a.scale) * float(b.scale) / float(y.scale))
    return dict(m=m, s=s, z1=a.zero_point, z2=b.zero_point, zo=y.zero_point)


@kernel("BATCH_MATMUL")
def batch_matmul(model: Model, op: Operator, args: list) -> np.ndarray:
    """(..., n, k) by (..., k, m) to (..., n, m), int8 or int16; adj_x, adj_y: the last two axes swapped before."""
    p = matmul_parameters(model, op)
    a, b = (x.astype(np.float64) - z for x, z in zip(args, (p["z1"], p["z2"])))  # exact: integers below 2**53
    a = a.swapaxes(-1, -2) if op.options["adj_x"] else a
    b = b.swapaxes(-1, -2) if op.options["adj_y"] else b
    total = (a @ b).astype(np.int64).reshape(model.tensors[op.outputs[0]].shape)
    if args[0].dtype == np.int16:
        return arith16.clamp16(scaled(op, arith16.requantize64, total, p["m"], p["s"]) + p["zo"])
    return arith.clamp8(arith.requantize(total, p["m"], p["s"]) + p["zo"])

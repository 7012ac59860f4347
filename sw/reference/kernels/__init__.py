"""The kernels of the golden model, one module a family. `KERNELS`: operator name to function (see `registry`)."""

from lepton.sw.reference.kernels import (
    binary,
    layout,
    linear,
    lstm,
    matmul,
    pooling,
    reductions,
    softmax,
    svdf,
    unary,
)
from lepton.sw.reference.kernels.registry import KERNELS, kernel

__all__ = [
    "KERNELS",
    "binary",
    "kernel",
    "layout",
    "linear",
    "lstm",
    "matmul",
    "pooling",
    "reductions",
    "softmax",
    "svdf",
    "unary",
]

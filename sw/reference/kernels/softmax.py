"""SOFTMAX and LOG_SOFTMAX over the last axis."""

import numpy as np

from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith, arith16
from lepton.sw.reference.kernels.registry import kernel
from lepton.sw.reference.libm import expf
from lepton.sw.reference.quantities import scaled


@kernel("SOFTMAX")
def softmax(model: Model, op: Operator, args: list) -> np.ndarray:
    """int8 to int8 or int16, int16 to int16, float32 to float32."""
    x, scales, beta = args[0], model.tensors[op.inputs[0]].scales, op.options["beta"]
    if x.dtype == np.float32:
        return softmax_float(x, beta)
    if x.dtype == np.int16:
        return scaled(op, softmax16, x, scales[0], beta)
    bits = 16 if model.tensors[op.outputs[0]].dtype == "int16" else 8
    return scaled(op, arith.softmax, x, scales[0], beta, bits)


@kernel("LOG_SOFTMAX")
def log_softmax(model: Model, op: Operator, args: list) -> np.ndarray:
    """int8 or float32."""
    if args[0].dtype == np.float32:
        return log_softmax_float(args[0])
    return scaled(op, arith.log_softmax, args[0], model.tensors[op.inputs[0]].scale)


def softmax_float(x, beta: float) -> np.ndarray:
    """In float32 as TFLM: exponentials summed one after the other, then a division each."""
    exps = expf((x - x.max(axis=-1, keepdims=True)) * np.float32(beta))
    total = np.add.accumulate(exps, axis=-1, dtype=np.float32)[..., -1:]
    return exps / total


def log_softmax_float(x) -> np.ndarray:
    """In float32 as TFLM: exponentials summed one after the other."""
    x = x - x.max(axis=-1, keepdims=True)
    total = np.add.accumulate(expf(x), axis=-1, dtype=np.float32)[..., -1:]
    return x - arith.libm("logf", total)


def softmax16(x, scale, beta: float) -> np.ndarray:
    """int16 of any scale to int16 of scale 2**-15.

    e**x comes from a table over -10 to 0, the reciprocal of the sum from one of 1 / (1 + x) over 0 to 1.
    """
    span = np.float32(65535)
    exp_table = arith16.function_table(expf, np.float32(10) / span, 32767, np.float32(2) / span, 0)

    def one_over_one_plus(v):
        return np.float32(1) / (np.float32(1) + v)

    table = arith16.function_table(one_over_one_plus, np.float32(1) / span, -32768, np.float32(2) / span, 0)
    m, s = arith.quantize_multiplier(float(np.float32(scale)) * float(np.float32(beta)) / (10.0 / 65535.0))
    x = np.asarray(x, np.int64)
    steps = arith.requantize(x - x.max(axis=-1, keepdims=True), m, s) + 32767
    exps = arith16.interpolate(arith16.clamp16(steps), exp_table).astype(np.int64)
    total = exps.sum(axis=-1, keepdims=True)
    clear = 32 - np.vectorize(int.bit_length, otypes=[np.int64])(total)
    place = ((total << (clear - 1)) + (1 << 13) >> 14) - (1 << 15) - (1 << 16)
    reciprocal = arith16.interpolate(arith16.clamp16(place), table).astype(np.int64)
    shift = 31 - clear
    return arith16.clamp16((exps * reciprocal + (np.int64(1) << (shift - 1))) >> shift, 0)

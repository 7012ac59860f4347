"""Functions of two tensors (or more), element by element, with broadcasting."""

import numpy as np

from lepton.sw.reference import arith, quantities
from lepton.sw.reference.kernels.registry import kernel

QUANTIZED = ("int8", "int16")


def _plain(op, function, a, b):
    """A function of float32 or plain integers, then the fused activation. C++ integers wrap, NumPy's do, too."""
    with np.errstate(all="ignore"):
        return arith.activate(function(a, b), op.options.get("activation", "NONE"))


@kernel("ADD", "SUB")
def add(model, op, args):
    a, b = args
    y = model.tensors[op.outputs[0]]
    if y.dtype in QUANTIZED:
        return arith.add(a, b, quantities.add_parameters(model, op), op.op == "SUB", y.dtype)
    if op.op == "ADD" and y.dtype == "int32":
        return np.add(*args)  # TFLM leaves out the activation
    return _plain(op, np.add if op.op == "ADD" else np.subtract, *args)


@kernel("MUL")
def mul(model, op, args):
    a, b = args
    y = model.tensors[op.outputs[0]]
    if y.dtype in QUANTIZED:
        return arith.mul(a, b, quantities.mul_parameters(model, op), y.dtype)
    return _plain(op, np.multiply, *args)


def _divide(a, b):
    """C++ division: of integers toward zero; over 0 (undefined) 0."""
    if a.dtype == np.float32:
        return a / b
    safe = np.where(b == 0, 1, b).astype(np.int64)
    quotient = np.abs(a.astype(np.int64)) // np.abs(safe) * np.sign(a) * np.sign(safe)
    return np.where(b == 0, 0, quotient).astype(a.dtype)


@kernel("DIV")
def div(model, op, args):
    a, b = args
    y = model.tensors[op.outputs[0]]
    if y.dtype in QUANTIZED:
        return arith.div(a, b, quantities.div_parameters(model, op), y.dtype)
    return _plain(op, _divide, *args)


@kernel("FLOOR_DIV")
def floor_div(model, op, args):
    a, b = args
    with np.errstate(all="ignore"):
        if a.dtype == np.float32:
            return np.floor(a.astype(np.float64) / b.astype(np.float64)).astype(np.float32)
        return np.where(b == 0, 0, a // np.where(b == 0, 1, b)).astype(a.dtype)


@kernel("FLOOR_MOD")
def floor_mod(model, op, args):
    a, b = args
    with np.errstate(all="ignore"):
        if a.dtype == np.float32:
            rest = np.fmod(a, b)
            return np.where((rest != 0) & ((b < 0) != (rest < 0)), rest + b, rest)
        return np.where(b == 0, 0, a % np.where(b == 0, 1, b)).astype(a.dtype)


@kernel("MAXIMUM", "MINIMUM")
def extreme(model, op, args):
    """Of the raw values, whatever the scales."""
    a, b = args
    return np.where(a > b if op.op == "MAXIMUM" else a < b, a, b)


@kernel("SQUARED_DIFFERENCE")
def squared_difference(model, op, args):
    y = model.tensors[op.outputs[0]]
    if y.dtype not in QUANTIZED:
        difference = np.subtract(*args)
        return difference * difference
    p = quantities.difference_parameters(model, op)
    scaled = [
        arith.requantize(args[k].astype(np.int64) - p[f"z{k + 1}"], p[f"m{k + 1}"], p[f"s{k + 1}"], p["left_shift"])
        for k in (0, 1)
    ]
    square = arith.wrap32((scaled[0] - scaled[1]) ** 2)
    return arith.to_type(arith.requantize(square, p["mo"], p["so"]) + p["zo"], y.dtype)


@kernel("POW")
def power(model, op, args):
    """LiteRT: the C library's pow in double for float32, whole powers of integers (negative ones: 0 as of int(pow))."""
    a, b = (v.astype(np.float64) for v in args)
    with np.errstate(all="ignore"):
        return np.power(a, b).astype(args[0].dtype)


@kernel("PRELU")
def prelu(model, op, args):
    x, alpha = args
    y = model.tensors[op.outputs[0]]
    if y.dtype not in QUANTIZED:
        return np.where(x >= 0, x, x * alpha)
    p = quantities.prelu_parameters(model, op)
    x = x.astype(np.int64) - p["z1"]
    negative = arith.requantize(x * (alpha.astype(np.int64) - p["z2"]), p["m2"], p["s2"])
    return arith.to_type(np.where(x >= 0, arith.requantize(x, p["m1"], p["s1"]), negative) + p["zo"], y.dtype)


_COMPARE = {
    "EQUAL": np.equal,
    "NOT_EQUAL": np.not_equal,
    "GREATER": np.greater,
    "GREATER_EQUAL": np.greater_equal,
    "LESS": np.less,
    "LESS_EQUAL": np.less_equal,
}


@kernel(*_COMPARE)
def compare(model, op, args):
    a, b = args
    if a.dtype == np.int8:
        p = quantities.comparison_parameters(model, op)
        a = arith.requantize(a.astype(np.int64) - p["z1"], p["m1"], p["s1"], p["left_shift"])
        b = arith.requantize(b.astype(np.int64) - p["z2"], p["m2"], p["s2"], p["left_shift"])
    return _COMPARE[op.op](a, b)


@kernel("LOGICAL_AND", "LOGICAL_OR")
def logical(model, op, args):
    return (np.logical_and if op.op == "LOGICAL_AND" else np.logical_or)(*args)


@kernel("SELECT", "SELECT_V2")
def select(model, op, args):
    condition, x, y = args
    if op.op == "SELECT" and condition.ndim == 1 and x.ndim > 1:
        condition = condition.reshape(-1, *(1,) * (x.ndim - 1))
    return np.where(condition, x, y)


@kernel("ADD_N")
def add_n(model, op, args):
    y = model.tensors[op.outputs[0]]
    if y.dtype not in QUANTIZED:
        total = np.zeros_like(args[0])
        for x in args:
            total = total + x
        return total
    p = quantities.sum_parameters(model, op)
    total = arith.requantize(-p["z1"], p["m1"], p["s1"], p["left_shift"])  # TFLM begins with a raw 0
    for x in args:
        total = total + arith.requantize(x.astype(np.int64) - p["z1"], p["m1"], p["s1"], p["left_shift"])
    return arith.to_type(arith.requantize(total, p["mo"], p["so"]) + p["zo"], y.dtype)

"""Functions of one value, QUANTIZE and DEQUANTIZE among them."""

from collections.abc import Callable

import numpy as np

from lepton.sw.reference import arith, arith16, quantities
from lepton.sw.reference.kernels.registry import kernel


def apply_table(table, x) -> np.ndarray:
    """table[x] for int8 x."""
    return np.asarray(table)[np.asarray(x, np.int8).astype(np.int64) + 128]


def _relu(x):
    return np.where(x < 0, np.float32(0), x)


def _sign(x):
    return np.sign(x).astype(x.dtype)


_FLOAT: dict[str, Callable[..., np.ndarray]] = {
    "ABS": np.abs,
    "CEIL": np.ceil,
    "COS": lambda x: arith.libm("cosf", x),
    "ELU": lambda x: np.where(x < 0, arith.libm("expm1f", x), x),
    "EXP": lambda x: arith.libm("expf", x),
    "FLOOR": np.floor,
    "HARD_SWISH": lambda x: x * np.minimum(np.float32(6), np.maximum(np.float32(0), x + np.float32(3))) / np.float32(6),
    "LOG": lambda x: arith.libm("logf", x),
    "LOGISTIC": arith.logistic_float,
    "RELU": _relu,
    "RELU6": lambda x: np.where(x > 6, np.float32(6), _relu(x)),
    "RELU_0_TO_1": lambda x: np.where(x > 1, np.float32(1), _relu(x)),
    "RELU_N1_TO_1": lambda x: np.clip(x, np.float32(-1), np.float32(1)),
    "ROUND": np.round,
    "RSQRT": lambda x: np.float32(1) / np.sqrt(x),
    "SIGN": _sign,
    "SIN": lambda x: arith.libm("sinf", x),
    "SQRT": np.sqrt,
    "TANH": lambda x: arith.libm("tanhf", x),
}


@kernel("NEG", "SQUARE")
def arithmetic(model, op, args):
    (x,) = args
    return -x if op.op == "NEG" else x * x


@kernel("LOGICAL_NOT")
def logical_not(model, op, args):
    return ~args[0]


@kernel("QUANTIZE")
def quantize(model, op, args):
    x, y = args[0], model.tensors[op.outputs[0]]
    if x.dtype == np.float32:
        return arith.affine_quantize(x, y.scale, y.zero_point, y.dtype)
    p = quantities.quantize_parameters(model, op)
    return arith.to_type(arith.requantize(x.astype(np.int64) - p["zi"], p["m"], p["s"]) + p["zo"], y.dtype)


@kernel("DEQUANTIZE")
def dequantize(model, op, args):
    t = model.tensors[op.inputs[0]]
    if args[0].dtype.kind == "f":  # float16 weights
        return args[0].astype(np.float32)
    return (float(t.scale) * (args[0].astype(np.int64) - t.zero_point)).astype(np.float32)


_INT16: dict[str, Callable[..., np.ndarray]] = {
    "ABS": lambda x, i, o, _: arith.absolute(x, i[0], i[1], o[0], o[1], "int16"),
    "LEAKY_RELU": lambda x, i, o, p: arith.leaky_relu(x, i[0], i[1], o[0], o[1], p["alpha"], "int16"),
    "LOGISTIC": lambda x, i, o, _: arith16.logistic(x, *arith16.function_scale(i[0])),
    "RELU": lambda x, i, o, _: arith.relu(x, i[0], i[1], o[0], o[1], "int16"),
    "RELU6": lambda x, i, o, _: arith.relu6(x, i[0], i[1], "int16"),
    "RSQRT": lambda x, i, o, _: arith.rsqrt(x, i[0], i[1], o[0], o[1], "int16"),
    "TANH": lambda x, i, o, _: arith16.tanh(x, *arith16.function_scale(i[0])),
}


@kernel(*sorted((set(quantities.UNARY) | set(_FLOAT)) - {"QUANTIZE"}))
def unary(model, op, args):
    """By its table (int8), in float32, or on int16."""
    (x,), (source, target) = args, (model.tensors[i] for i in (op.inputs[0], op.outputs[0]))
    if x.dtype == np.float32:
        with np.errstate(all="ignore"):
            if op.op == "LEAKY_RELU":
                return np.where(x > 0, x, x * np.float32(op.options["alpha"]))
            if op.op == "GELU":
                return arith.gelu_float(x, op.options["approximate"])
            return _FLOAT[op.op](x)
    if x.dtype == np.int16:
        quant = ((t.scale, t.zero_point) for t in (source, target))
        return quantities.scaled(op, _INT16[op.op], x, *quant, op.options)
    if x.dtype == np.int8 and op.op in quantities.UNARY:
        return apply_table(quantities.unary_table(model, op), x)
    return _FLOAT[op.op](x)  # ABS and SIGN of plain integers

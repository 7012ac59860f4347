"""Arithmetic of TensorFlow Lite Micro's 16-bit activations, in NumPy: what `arith` is for int8.

int16 values are symmetric (zero point 0). Sums of their products are 64-bit and scaled by a 15-bit multiplier in one
rounding; functions are tables with linear interpolation.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from lepton.sw.reference import arith
from lepton.sw.reference.arith import ArithmeticRangeError

INT16_MIN, INT16_MAX = -32768, 32767
TABLE_STEPS = 512
"""Pieces of a table over all int16 values: 9 bits select one, 7 interpolate in it."""


def clamp16(x, low=INT16_MIN, high=INT16_MAX) -> np.ndarray:
    """x limited to low..high as an int16 array."""
    return arith.clamp(x, low, high).astype(np.int16)


def requantize64(x, multiplier, shift) -> np.ndarray:
    """TFLM's MultiplyByQuantizedMultiplier for 64-bit sums: one rounding, half up; int64 array of int32 values.

    x is an int64 sum below 2**47; multiplier (0 to 2**31-1, of which 15 bits count) and shift (-31 to 7) broadcast
    against it. Raises ArithmeticRangeError for a larger shift.
    """
    multiplier, shift = np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    if (shift > 7).any():
        raise ArithmeticRangeError("the scale of 64-bit sums is 128 or more")
    reduced = np.where(multiplier < 0x7FFF0000, (multiplier + (1 << 15)) >> 16, 0x7FFF)
    return arith.wrap32((np.asarray(x, np.int64) * reduced + (np.int64(1) << (14 - shift))) >> (15 - shift))


@cache
def _sigmoid_table() -> np.ndarray:
    """int64[256]: sigmoid(i / 24) * 65536.

    Moved by half the error of the chord at its middle, so that a straight line between two of them errs as much to one
    side as to the other.
    """

    def f(i):
        return 65536 / (1 + math.exp(-i / 24))

    values = [math.floor(f(i) + (f(i + 0.5) - (f(i) + f(i + 1)) / 2) / 2 + 0.5) for i in range(255)]
    return np.array([*values, 65535], np.int64)


def function_scale(scale) -> tuple[int, int]:
    """(multiplier, right shift) that bring int16 of `scale` to steps of 1 / (3 * 4096), for `logistic` and `tanh`.

    Scales of nearly 2**-12 and 2**-11, those that converters choose, are taken for these.
    """
    power, exact = log2(scale)
    if exact and power in (-12, -11):
        return 3 << (12 + power), 0
    real, right = float(np.float32(scale)) * 4096.0 * 3.0, 0
    while real <= 32767.0 / 2.0 and right <= 30:
        right += 1
        real *= 2.0
    if real > 32767:
        raise ArithmeticRangeError(f"scale {scale} is too large for a 16-bit function")
    return int(real), right


def log2(x) -> tuple[int, bool]:
    """(log2 of x rounded half away from zero, whether x is nearly that power of two), in float32 as TFLM."""
    value = np.log(np.float32(x)) * (np.float32(1) / np.log(np.float32(2)))
    rounded = math.floor(abs(float(value)) + 0.5) * (1 if value >= 0 else -1)
    return rounded, bool(abs(value - np.float32(rounded)) < np.float32(1e-3))


def _interpolated(magnitude, bits: int):
    """(piece of the sigmoid's table, the table there with `bits` more bits, interpolated); magnitude >= 0."""
    table = _sigmoid_table()
    piece = magnitude >> bits
    at = np.minimum(piece, 254)
    base = table[at]
    return piece, (base << bits) + (magnitude & ((1 << bits) - 1)) * (table[at + 1] - base)


def _steps(x, multiplier: int, right: int):
    return arith.wrap32(np.asarray(x, np.int64) * multiplier + (1 << right >> 1)) >> right


def logistic(x, multiplier: int, right: int) -> np.ndarray:
    """Sigmoid of int16 x as int16 of scale 2**-15; multiplier and right shift as of `function_scale`."""
    x = _steps(x, multiplier, right)
    piece, value = _interpolated(np.abs(x), 9)
    value = np.where(piece >= 255, 0x7FFF << 10, value)
    return (np.where(x >= 0, value + (1 << 9), (1 << 25) - value + (1 << 9) - 1) >> 10).astype(np.int16)


def tanh(x, multiplier: int, right: int) -> np.ndarray:
    """Tanh of int16 x as int16 of scale 2**-15; multiplier and right shift as of `function_scale`."""
    x = _steps(x, multiplier, right)
    piece, value = _interpolated(np.abs(x), 8)
    value = np.where(piece >= 255, 0xFFFF << 8, value)
    value = np.where(x >= 0, value - (1 << 23) + (1 << 7), -value + (1 << 23) + (1 << 7) - 1)
    return (value >> 8).astype(np.int16)


def _round_away(x):
    """float32 array rounded to integers, halves away from zero."""
    x = np.asarray(x, np.float64)
    return (np.sign(x) * np.floor(np.abs(x) + 0.5)).astype(np.float32)


def function_table(function: Callable, in_scale, in_zero_point: int, out_scale, out_zero_point: int) -> np.ndarray:
    """int64[513] for `interpolate`: a function of real values over all int16 inputs, TFLM's LUTPopulate in float32.

    `function` maps float32 arrays to float32 arrays.
    """
    f32 = np.float32
    in_scale, out_scale = f32(in_scale), f32(out_scale)
    in_min = in_scale * f32(INT16_MIN - in_zero_point)
    in_max = in_scale * f32(INT16_MAX - in_zero_point)
    out_min = out_scale * f32(INT16_MIN - out_zero_point)
    out_max = out_scale * f32(INT16_MAX - out_zero_point)
    step = (in_max - in_min) / f32(TABLE_STEPS)
    inverse = f32(65536) / (out_max - out_min)
    start = in_min + np.arange(TABLE_STEPS, dtype=np.float32) * step
    following = in_min + np.arange(1, TABLE_STEPS + 1, dtype=np.float32) * step
    sample = _round_away(function(start) * inverse)
    chord = _round_away((function(following) * inverse + sample) / f32(2))
    bias = _round_away((chord - _round_away(function(start + step / f32(2)) * inverse)) / f32(2))
    last = _round_away(function(np.array([in_max], np.float32)) * inverse)
    table = np.concatenate([sample - bias, last])
    return np.clip(table, f32(INT16_MIN), f32(INT16_MAX)).astype(np.int64)


def interpolate(x, table) -> np.ndarray:
    """int16 from a `function_table` for int16 x, linear between its values."""
    x = np.asarray(x, np.int64)
    at = 256 + (x >> 7)
    base = table[at]
    slope = (table[at + 1] - base).astype(np.int16).astype(np.int64)
    return (base + ((slope * (x & 127) + 64) >> 7)).astype(np.int16)

"""Integer arithmetic of TensorFlow Lite Micro's int8 kernels, in NumPy.

One module for the golden model, the instruction set simulator and the compiler. Values are held in int64 arrays and
wrapped or saturated to 32 bits where the C++ does so; nothing depends on floating point except the conversion of real
scales to multipliers, which must be the same to the bit. Some of TFLM's expressions for them are of float32, but the
interpreter that "exact" refers to computes all of them in double; `tests/test_kernels.py` tells if another does not.

Rounding: `requantize` is the two-rounding form (gemmlowp): saturating rounding doubling high multiply, which rounds
half up, then rounding divide by a power of two, half away from zero.
"""

import ctypes
import ctypes.util
import functools
import math

import numpy as np

from lepton.rtl.spec.errors import LeptonError

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
INT8_MIN, INT8_MAX = -128, 127
INT8_VALUES = np.arange(INT8_MIN, INT8_MAX + 1, dtype=np.int64)
"""All int8 values in table order: index -128 first."""


LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "int32": (INT32_MIN, INT32_MAX)}
"""Smallest and largest value of a quantized type."""


class ArithmeticRangeError(LeptonError, ValueError):
    """A real scale that the fixed-point form cannot hold."""


def wrap32(x):
    """x modulo 2**32 as a signed value, int64 array."""
    return ((np.asarray(x, np.int64) + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def clamp(x, low, high):
    """x limited to low..high, int64 array."""
    return np.minimum(np.maximum(np.asarray(x, np.int64), low), high)


def clamp8(x, low=INT8_MIN, high=INT8_MAX):
    """x limited to low..high as an int8 array."""
    return clamp(x, low, high).astype(np.int8)


def to_type(x, dtype, low=None, high=None):
    """x limited to low..high (default: to the type's range) as an array of `dtype`."""
    least, most = LIMITS[dtype]
    return clamp(x, least if low is None else low, most if high is None else high).astype(dtype)


def saturate32(x):
    return clamp(x, INT32_MIN, INT32_MAX)


def doubling_high_multiply(a, b):
    """gemmlowp SaturatingRoundingDoublingHighMul of int32 values: (a*b + 2**30) >> 31, -2**31 squared saturates.

    The C++ adds a nudge of the product's sign and truncates; that is the same as adding 2**30 and flooring.
    """
    product = np.asarray(a, np.int64) * np.asarray(b, np.int64)
    return np.minimum((product + (1 << 30)) >> 31, INT32_MAX)


def rounding_divide(x, exponent):
    """gemmlowp RoundingDivideByPOT: x / 2**exponent, half away from zero."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def requantize(x, multiplier, shift, pre_shift=0):
    """TFLM's MultiplyByQuantizedMultiplier with two roundings; int64 array of int32 values.

    x is taken modulo 2**32; multiplier (0 to 2**31-1) and shift (-31 to 31) are scalars or arrays that broadcast
    against x. The left shift is by pre_shift + max(shift, 0), modulo 2**32; the right shift by max(-shift, 0).
    """
    shift = np.asarray(shift, np.int64)
    v = wrap32(np.asarray(x, np.int64) << (pre_shift + np.maximum(shift, 0)))
    return rounding_divide(doubling_high_multiply(v, multiplier), np.maximum(-shift, 0))


def _round_away(x: float) -> int:
    return int(math.floor(abs(x) + 0.5)) * (1 if x >= 0 else -1)


def quantize_multiplier(real) -> tuple[int, int]:
    """TFLM's QuantizeMultiplier: (multiplier, shift) with real ~ multiplier * 2**(shift - 31)."""
    real = float(real)
    if real == 0:
        return 0, 0
    if not (math.isfinite(real) and real > 0):
        raise ArithmeticRangeError(f"scale ratio {real} is not a positive number")
    fraction, shift = math.frexp(real)
    fixed = _round_away(fraction * (1 << 31))
    if fixed == 1 << 31:
        fixed //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 31:
        raise ArithmeticRangeError(f"scale ratio {real} is 2**31 or more")
    return fixed, shift


def quantize_value(real: float, scale, zero_point: int) -> int:
    """zero_point + round(real / scale), in float32 with halves away from zero, as activation limits are computed."""
    return int(zero_point) + _round_away(float(np.float32(real) / np.float32(scale)))


def affine_quantize(x, scale, zero_point: int, dtype) -> np.ndarray:
    """float32 QUANTIZE: round(x / scale) in float32, halves away from zero, plus the zero point, limited to the type.

    What int32 can't hold becomes its smallest value before the zero point is added, as x86 converts (a NaN, too).
    """
    with np.errstate(all="ignore"):
        whole = round_away(np.asarray(x, np.float32) / np.float32(scale)).astype(np.float64)
    inside = np.abs(whole) < 1 << 31
    whole = np.where(inside, whole, INT32_MIN).astype(np.int64)
    return to_type(wrap32(whole + zero_point), dtype)


def activation_range(activation: str, scale, zero_point: int, dtype="int8") -> tuple[int, int]:
    """Limits (low, high) of a fused activation in a quantized type."""
    low, high = LIMITS[dtype]
    if activation in ("RELU", "RELU6"):
        low = max(low, quantize_value(0.0, scale, zero_point))
    if activation == "RELU6":
        high = min(high, quantize_value(6.0, scale, zero_point))
    if activation == "RELU_N1_TO_1":
        low = max(low, quantize_value(-1.0, scale, zero_point))
        high = min(high, quantize_value(1.0, scale, zero_point))
    return low, high


FLOAT_RANGES = {"NONE": (-np.inf, np.inf), "RELU": (0, np.inf), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}
"""Limits of the fused activations."""


def activate(x, activation: str):
    """A fused activation on float32 or int32 values, as std::min and std::max do it (a NaN stays)."""
    low, high = FLOAT_RANGES[activation]
    x = x if low == -np.inf else np.where(x < low, x.dtype.type(low), x)
    return x if high == np.inf else np.where(x > high, x.dtype.type(high), x)


# gemmlowp fixed point: raw int32 values with a stated number of integer bits.


def _rescale(raw, left: int):
    """Saturating multiply by 2**left (left > 0) or rounding divide (left < 0)."""
    return saturate32(np.asarray(raw, np.int64) << left) if left >= 0 else rounding_divide(raw, -left)


def _exp_quarter(a):
    """exp(a) for -1/4 <= a < 0, both with 0 integer bits."""
    mul = doubling_high_multiply
    x = a + (1 << 28)
    x2 = mul(x, x)
    x3 = mul(x2, x)
    x4 = mul(x2, x2)
    tail = rounding_divide(mul(rounding_divide(x4, 2) + x3, 715827883) + x2, 1)
    return wrap32(1895147668 + mul(1895147668, x + tail))


_EXP_STEPS = ((-2, 1672461947), (-1, 1302514674), (0, 790015084), (1, 290630308), (2, 39332535), (3, 720401), (4, 242))


def exp_on_negative_values(raw, integer_bits: int):
    """gemmlowp exp_on_negative_values: raw <= 0 with integer_bits (at most 5), result with 0 integer bits."""
    raw = np.asarray(raw, np.int64)
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    low = (raw & (quarter - 1)) - quarter
    result = _exp_quarter(_rescale(low, integer_bits))
    remainder = low - raw
    for exponent, factor in _EXP_STEPS:
        if integer_bits > exponent:
            bit = 1 << (fraction_bits + exponent)
            result = np.where(remainder & bit, doubling_high_multiply(result, factor), result)
    return np.where(raw == 0, INT32_MAX, result)


def _newton(raw):
    """1 / ((1 + a) / 2) with 2 integer bits, for a in [0, 1] with 0 integer bits."""
    total = raw + INT32_MAX
    half = (total + np.where(total >= 0, 1, -1)) >> 1  # totals are positive here, so the shift truncates as C++ does
    x = 1515870810 + doubling_high_multiply(half, -1010580540)
    for _ in range(3):
        error = (1 << 29) - doubling_high_multiply(half, x)
        x = wrap32(x + _rescale(doubling_high_multiply(x, error), 2))
    return x


def one_over_one_plus(raw):
    """1 / (1 + a), a in [0, 1], 0 integer bits both."""
    return _rescale(_newton(np.asarray(raw, np.int64)), 1)


def _one_minus_over_one_plus(raw):
    return _rescale(_newton(np.asarray(raw, np.int64)) - (1 << 29), 2)


def _logistic_raw(raw):
    """gemmlowp logistic: input 4 integer bits, output 0."""
    positive = one_over_one_plus(exp_on_negative_values(-np.abs(raw), 4))
    return np.where(raw == 0, 1 << 30, np.where(raw > 0, positive, INT32_MAX - positive))


def _tanh_raw(raw):
    """gemmlowp tanh: input 4 integer bits, output 0."""
    t = _one_minus_over_one_plus(exp_on_negative_values(-np.abs(raw), 5))
    return np.where(raw == 0, 0, np.where(raw < 0, -t, t))


def input_radius(integer_bits: int, left_shift: int) -> int:
    """TFLM's CalculateInputRadius with 31 bits."""
    return math.floor(((1 << integer_bits) - 1) * 2.0 ** (31 - integer_bits) / 2.0**left_shift)


# Tables of the unary operators: int8[256], entry 0 is for -128.


def _sigmoid_table(in_scale, in_zero_point, function, output_bits, out_zero_point):
    # From 2**31 on the radius is 0: no value is inside.
    multiplier, left = quantize_multiplier(min(float(np.float32(in_scale)) * (1 << 27), 2.0**31 - 1))
    radius = input_radius(4, left)
    x = INT8_VALUES - in_zero_point
    inside = np.abs(x) < radius
    raw = requantize(np.where(inside, x, 0), multiplier, left)
    y = clamp8(rounding_divide(function(raw), 31 - output_bits) + out_zero_point)
    return np.where(inside, y, np.where(x > 0, INT8_MAX, INT8_MIN)).astype(np.int8)


def logistic_table(in_scale, in_zero_point: int):
    """LOGISTIC; the output scale is 1/256 and its zero point -128 by definition."""
    return _sigmoid_table(in_scale, in_zero_point, _logistic_raw, 8, -128)


def tanh_table(in_scale, in_zero_point: int):
    """TANH; the output scale is 1/128 and its zero point 0 by definition."""
    return _sigmoid_table(in_scale, in_zero_point, _tanh_raw, 7, 0)


def requantize_table(in_scale, in_zero_point, out_scale, out_zero_point):
    """int8 to int8 QUANTIZE."""
    multiplier, shift = quantize_multiplier(float(np.float32(in_scale)) / float(np.float32(out_scale)))
    return clamp8(requantize(INT8_VALUES - in_zero_point, multiplier, shift) + out_zero_point)


def relu(x, in_scale, in_zero_point, out_scale, out_zero_point, dtype="int8"):
    """Quantized RELU."""
    multiplier, shift = quantize_multiplier(float(np.float32(in_scale)) / float(np.float32(out_scale)))
    low = max(LIMITS[dtype][0], out_zero_point)
    return to_type(requantize(np.asarray(x, np.int64) - in_zero_point, multiplier, shift) + out_zero_point, dtype, low)


def relu_table(in_scale, in_zero_point, out_scale, out_zero_point):
    return relu(INT8_VALUES, in_scale, in_zero_point, out_scale, out_zero_point)


def relu6(x, in_scale, in_zero_point, dtype="int8"):
    """Quantized RELU6: it keeps the quantisation of its input."""
    high = min(LIMITS[dtype][1], quantize_value(6.0, in_scale, in_zero_point))
    return to_type(np.minimum(np.maximum(x, in_zero_point), high), dtype)


def relu6_table(in_scale, in_zero_point):
    return relu6(INT8_VALUES, in_scale, in_zero_point)


def _relux_table(low, high):
    """LiteRT's RELU_0_TO_1 and RELU_N1_TO_1: QUANTIZE with the limits of the output's scale."""

    def table(in_scale, in_zero_point, out_scale, out_zero_point):
        least = max(INT8_MIN, quantize_value(low, out_scale, out_zero_point))
        most = min(INT8_MAX, quantize_value(high, out_scale, out_zero_point))
        multiplier, shift = quantize_multiplier(float(np.float32(in_scale)) / float(np.float32(out_scale)))
        return clamp8(requantize(INT8_VALUES - in_zero_point, multiplier, shift) + out_zero_point, least, most)

    return table


relu_0_to_1_table = _relux_table(0.0, 1.0)
relu_n1_to_1_table = _relux_table(-1.0, 1.0)


def leaky_relu(x, in_scale, in_zero_point, out_scale, out_zero_point, alpha, dtype="int8"):
    """Quantized LEAKY_RELU."""
    s, o, a = float(np.float32(in_scale)), float(np.float32(out_scale)), float(np.float32(alpha))
    x = np.asarray(x, np.int64) - in_zero_point
    positive = requantize(x, *quantize_multiplier(s / o))
    negative = requantize(x, *quantize_multiplier(s * abs(a) / o)) * (1 if a >= 0 else -1)
    return to_type(np.where(x >= 0, positive, negative) + out_zero_point, dtype)


def leaky_relu_table(in_scale, in_zero_point, out_scale, out_zero_point, alpha):
    return leaky_relu(INT8_VALUES, in_scale, in_zero_point, out_scale, out_zero_point, alpha)


def absolute(x, in_scale, in_zero_point, out_scale, out_zero_point, dtype="int8"):
    """Quantized ABS."""
    value = np.abs(np.asarray(x, np.int64) - in_zero_point)
    if np.float32(in_scale) != np.float32(out_scale):
        value = requantize(value, *quantize_multiplier(float(np.float32(in_scale)) / float(np.float32(out_scale))))
    return to_type(value + out_zero_point, dtype)


def abs_table(in_scale, in_zero_point, out_scale, out_zero_point):
    return absolute(INT8_VALUES, in_scale, in_zero_point, out_scale, out_zero_point)


def rsqrt(x, in_scale, in_zero_point, out_scale, out_zero_point, dtype: str):
    """RSQRT. Below the zero point TFLM has no answer; the largest value stands there."""
    multiplier, shift = quantize_multiplier(1 / (math.sqrt(np.float32(in_scale)) * float(np.float32(out_scale))))
    value = np.asarray(x, np.int64) - in_zero_point
    inverse, inverse_shift = inverse_sqrt(np.maximum(value, 1))
    data = requantize(1, inverse, inverse_shift + 20)
    y = requantize(data, multiplier, shift - 20) + out_zero_point
    return to_type(np.where(value <= 0, LIMITS[dtype][1], y), dtype)


def rsqrt_table(in_scale, in_zero_point, out_scale, out_zero_point):
    return rsqrt(INT8_VALUES, in_scale, in_zero_point, out_scale, out_zero_point, "int8")


def float_table(function):
    """Table of a float32 function, as LiteRT fills its look-up tables: dequantize, call, quantize, all in float32."""

    def table(in_scale, in_zero_point, out_scale, out_zero_point, *options):
        scale, inverse = np.float32(in_scale), np.float32(1) / np.float32(out_scale)
        x = scale * (INT8_VALUES - in_zero_point).astype(np.float32)
        with np.errstate(all="ignore"):
            y = function(x, *options) * inverse
        y = np.nan_to_num(round_away(y) + np.float32(out_zero_point), nan=INT8_MIN, posinf=1e9, neginf=-1e9)
        return clamp8(y)

    return table


def round_away(x):
    """float32 x rounded to an integer, halves away from zero (std::round)."""
    x = np.asarray(x, np.float32)
    return np.copysign(np.floor(np.abs(x).astype(np.float64) + 0.5), x).astype(np.float32)


def elu_float(x):
    """float32 ELU as its table has it."""
    return np.where(x < 0, libm("expf", x) - np.float32(1), x)


def gelu_float(x, approximate=False):
    """float32 GELU (LiteRT)."""
    half, one = np.float32(0.5), np.float32(1)
    if approximate:
        inner = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
        return half * x * (one + libm("tanhf", inner))
    return half * x * libm("erfcf", x * np.float32(-0.7071067811865476))


elu_table = float_table(elu_float)
gelu_table = float_table(gelu_float)
exp_table = float_table(lambda x: libm("expf", x))
log_table = float_table(lambda x: libm("logf", x))
sign_table = float_table(np.sign)
sqrt_table = float_table(np.sqrt)


def _high16(a, b):
    """gemmlowp SaturatingRoundingDoublingHighMul for int16."""
    return np.minimum((np.asarray(a, np.int64) * b + (1 << 14)) >> 15, 32767)


def _multiplier16(real) -> tuple[int, int]:
    multiplier, exponent = quantize_multiplier(real)
    if multiplier >= INT32_MAX - (1 << 15):
        return 32767, exponent
    return (multiplier + (1 << 15)) >> 16, exponent


def hard_swish_table(in_scale, in_zero_point, out_scale, out_zero_point):
    """HARD_SWISH in 16-bit fixed point."""
    hires = float(np.float32(in_scale)) / 128
    out_multiplier, out_exponent = _multiplier16(hires / float(np.float32(out_scale)))
    relu_multiplier, relu_exponent = _multiplier16(hires / (3 / 32768))
    if out_exponent > 0:
        raise ArithmeticRangeError("HARD_SWISH whose output scale is 1/128 of the input scale or less")
    x = ((INT8_VALUES - in_zero_point) << 7).astype(np.int16).astype(np.int64)
    scaled = _high16(x, out_multiplier)
    relu = x
    if relu_exponent > 0:
        relu = clamp(relu << (relu_exponent - 1), -32768, 32767)
    relu = _high16(relu, relu_multiplier)
    if relu_exponent > 0:
        relu = clamp(relu << 1, -32768, 32767)
    if relu_exponent < 0:
        relu = rounding_divide(relu, -relu_exponent)
    relu = (relu + (1 << 15)) >> 1
    product = relu * scaled
    product = np.where(product < 0, -(-product >> 15), product >> 15)
    return clamp8(rounding_divide(product, -out_exponent) + out_zero_point)


# Operators on arrays


SOFTMAX_SUM = 512
"""Where the exponentials (1 for the largest) sum to this, TFLM asserts for int8 results: it has no answer."""


def _softmax_exps(x, scale, beta):
    """exp of each value less its row's largest, 0 integer bits, and whether it counts: int8 x, over the last axis."""
    real = min(float(np.float32(beta)) * float(np.float32(scale)) * (1 << 26), (1 << 31) - 1.0)
    multiplier, left = quantize_multiplier(real)
    diff_min = -input_radius(5, left)
    x = np.asarray(x, np.int64)
    diff = x - x.max(axis=-1, keepdims=True)
    inside = diff >= diff_min
    return exp_on_negative_values(requantize(np.where(inside, diff, 0), multiplier, left), 5), inside


def softmax_exponentials(scale, beta) -> list[int]:
    """What SOFTMAX sums and scales, of int8 values 0, 1, ... 255 below the largest; 0 where it leaves one out."""
    exps, inside = _softmax_exps(-np.arange(256), scale, beta)
    return [int(e) for e in np.where(inside, exps, 0)]


def softmax(x, scale, beta=1.0, bits=8):
    """SOFTMAX of int8 over the last axis, output scale 2**-bits and zero point the smallest value of `bits` (8 or 16).

    Where TFLM has no answer (see SOFTMAX_SUM), its formula is carried on. From 4096 on, with 16 bits, the sum of the
    exponentials is TFLM's, unsigned: right below 8192, then modulo that.
    """
    exps, inside = _softmax_exps(x, scale, beta)
    total = np.where(inside, rounding_divide(exps, 12), 0).sum(axis=-1, keepdims=True) & 0xFFFFFFFF
    headroom = 32 - np.vectorize(int.bit_length, otypes=[np.int64])(total)
    reciprocal = one_over_one_plus(((total << headroom) & 0xFFFFFFFF) - (1 << 31))
    y = rounding_divide(doubling_high_multiply(reciprocal, exps), 12 - headroom + 31 - bits)
    low = -(1 << (bits - 1))
    return clamp(np.where(inside, y, 0) + low, low, -low - 1).astype(np.int8 if bits == 8 else np.int16)


def _shift_saturating(x, exponent):
    """SaturatingRoundingMultiplyByPOT with exponent >= 0: x * 2**exponent, saturated."""
    return saturate32(np.asarray(x, np.int64) << np.asarray(exponent, np.int64))


def _leading_zeros(x):
    return 32 - np.vectorize(int.bit_length, otypes=[np.int64])(x)


def log_of_sum(x):
    """ln(x) with 5 integer bits, for x >= 1 with 12: TFLM's log_x_for_x_greater_than_or_equal_to_1.

    A rational approximation around 2**(1/4) on whichever of x and x * 2**(1/2) lies nearer to it.
    """
    mul = doubling_high_multiply
    x = np.asarray(x, np.int64)
    quarter = 1 << 23  # with 6 integer bits
    clear = _leading_zeros(x)
    a = _shift_saturating(mul(_shift_saturating(x, clear - 1), 1518500250), 1)
    a_power = saturate32(((12 - clear) << 25) + quarter)
    clear_b = _leading_zeros(mul(x, 1518500250)) - 1
    b = _shift_saturating(x, clear_b)
    b_power = saturate32(((12 - clear_b) << 25) - quarter)
    r, power = np.minimum(a, b), np.maximum(a_power, b_power)
    total = r + 1805811301
    p = (total + np.where(total >= 0, 1, -1)) >> 1
    q = wrap32(2 * (r - 1805811301))
    square = mul(q, q)
    numerator = wrap32(mul(q, r) + mul(mul(q, square), 117049297))
    inner = wrap32(1057819769 + q + mul(127690142, square))
    denominator = wrap32(mul(p, inner) + mul(638450708, q))
    fraction = mul(rounding_divide(numerator, 6), one_over_one_plus(denominator))
    return _shift_saturating(wrap32(mul(power, 1488522236) + fraction), 1)


def log_softmax(x, scale):
    """int8 LOG_SOFTMAX over the last axis (below 4096 values), output scale 1/16 and zero point 127."""
    real = min(float(np.float32(scale)) * (1 << 26), (1 << 31) - 1.0)
    multiplier, left = quantize_multiplier(real)
    divisor, shift = quantize_multiplier((1 << (31 - left)) / multiplier)
    exps, inside = _softmax_exps(x, scale, 1.0)
    total = saturate32(np.where(inside, rounding_divide(exps, 12), 0).sum(axis=-1, keepdims=True))
    log = log_of_sum(total)
    lowest = np.maximum(-input_radius(5, left) - 1, requantize(log + INT32_MIN, divisor, shift))
    x = np.asarray(x, np.int64)
    diff = x - x.max(axis=-1, keepdims=True)
    counts = diff > lowest
    y = rounding_divide(wrap32(requantize(np.where(counts, diff, 0), multiplier, left) - log), 22) + INT8_MAX
    return np.where(counts, clamp8(y), INT8_MIN).astype(np.int8)


def average(total, count):
    """AVERAGE_POOL_2D's division: sum over count, half away from zero."""
    total, count = np.asarray(total, np.int64), np.asarray(count, np.int64)
    magnitude = (np.abs(total) + count // 2) // count
    return np.where(total > 0, magnitude, -magnitude)


def mean_multiplier(in_scale, out_scale, count: int) -> tuple[int, int]:
    """(multiplier, shift) by which MEAN scales the sum of count values (zero point removed)."""
    multiplier, shift = quantize_multiplier(float(np.float32(in_scale)) / float(np.float32(out_scale)))
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << extra) // count, shift - extra


def mean(total, count: int, in_scale, in_zero_point, out_scale, out_zero_point):
    """int8 MEAN from the sum of the raw values."""
    multiplier, shift = mean_multiplier(in_scale, out_scale, count)
    return clamp8(requantize(np.asarray(total, np.int64) - in_zero_point * count, multiplier, shift) + out_zero_point)


def add(a, b, p: dict, subtract=False, dtype="int8"):
    """Quantized ADD (or SUB) with the parameters of `quantities.add_parameters`; a and b broadcast."""
    x = requantize(np.asarray(a, np.int64) - p["z1"], p["m1"], p["s1"], p["left_shift"])
    y = requantize(np.asarray(b, np.int64) - p["z2"], p["m2"], p["s2"], p["left_shift"])
    return to_type(requantize(x - y if subtract else x + y, p["mo"], p["so"]) + p["zo"], dtype, p["low"], p["high"])


def mul(a, b, p: dict, dtype="int8"):
    """Quantized MUL with the parameters of `quantities.mul_parameters`; a and b broadcast."""
    product = (np.asarray(a, np.int64) - p["z1"]) * (np.asarray(b, np.int64) - p["z2"])
    return to_type(requantize(product, p["m"], p["s"]) + p["zo"], dtype, p["low"], p["high"])


def reciprocal(x):
    """TFLM's GetReciprocal with 31 integer bits: (raw reciprocal with 0 integer bits, its shift) of x > 0."""
    x = np.asarray(x, np.int64)
    headroom = 32 - bit_length(x)
    return one_over_one_plus(((x << headroom) & 0xFFFFFFFF) - (1 << 31)), 31 - headroom


def bit_length(x):
    """Bits of non-negative integers below 2**53."""
    return np.frexp(np.asarray(x, np.float64))[1].astype(np.int64)


def div(a, b, p: dict, dtype="int8"):
    """Quantized DIV with the parameters of `quantities.div_parameters`; a and b broadcast. Over 0: undefined."""
    x, y = np.asarray(a, np.int64) - p["z1"], np.asarray(b, np.int64) - p["z2"]
    x, y = np.where(y < 0, -x, x), np.maximum(np.abs(y), 1)
    inverse, shift = reciprocal(y)
    headroom = 31 - bit_length(np.where(x < 0, -x - 1, x))
    quotient = doubling_high_multiply(wrap32(x << headroom), inverse)
    right = np.maximum(shift + headroom - p["s"], 0)
    product = doubling_high_multiply(quotient, p["m"])
    # a small quotient is shifted by 32 and more, which C++ leaves open and x86 takes modulo 32
    wrapped = (product >> (right & 31)) + (product >= 0)
    scaled = np.where(right < 32, rounding_divide(product, np.minimum(right, 31)), wrapped)
    return to_type(scaled + p["zo"], dtype, p["low"], p["high"])


def _inverse_sqrt(value: int) -> tuple[int, int]:
    """TFLM's GetInvSqrtQuantizedMultiplierExp, reverse shift: (multiplier, shift) of 1 / sqrt(value)."""
    if value <= 1:
        return INT32_MAX, 0
    shift = 11
    while value >= 1 << 29:
        value //= 4
        shift += 1
    pairs = (32 - value.bit_length() - 1) // 2 - 1
    shift -= pairs
    value <<= 2 * pairs
    three = value >> 1
    half = int(rounding_divide(three, 1))
    x = 1 << 28
    for _ in range(5):
        cube = int(_rescale(doubling_high_multiply(doubling_high_multiply(x, x), x), 6))
        x = int(_rescale(doubling_high_multiply((1 << 28) + (1 << 27), x) - doubling_high_multiply(half, cube), 3))
    x = int(doubling_high_multiply(x, 1518500250))
    if shift < 0:
        x, shift = x << -shift, 0
    return x, -shift


def inverse_sqrt(x):
    """(multipliers, shifts) by which a value is scaled by 1 / sqrt(x), for non-negative int32 x."""
    pairs = {v: _inverse_sqrt(v) for v in np.unique(x).tolist()}
    both = np.array([pairs[v] for v in np.asarray(x).reshape(-1).tolist()], np.int64).reshape(*np.shape(x), 2)
    return both[..., 0], both[..., 1]


# Functions of the C library in float32


@functools.cache
def _library():
    path = ctypes.util.find_library("m")
    return ctypes.CDLL(path) if path else None


def libm(name: str, x):
    """A float32 function of the C library (`expf`, `logf`, ...) of each value: TFLM's own, to the last bit.

    NumPy's are other approximations. Where there is no such library, the double result is rounded.
    """
    x = np.asarray(x, np.float32)
    library = _library()
    if library is None:
        with np.errstate(all="ignore"):
            return getattr(np, name[:-1])(x.astype(np.float64)).astype(np.float32)
    function = getattr(library, name)
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return np.array([function(v) for v in x.reshape(-1).tolist()], np.float32).reshape(x.shape)


def logistic_float(x):
    """float32 LOGISTIC with the cut-offs of the C++."""
    x = np.asarray(x, np.float32)
    one = np.float32(1)
    middle = one / (one + libm("expf", -x))
    return np.where(x > np.float32(16.619047), one, np.where(x < -9, libm("expf", x), middle))

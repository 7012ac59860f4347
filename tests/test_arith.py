"""Integer arithmetic against slow Python integers and real functions."""

import math

import numpy as np
import pytest

from lepton.sw.reference import arith

EDGES = [
    0,
    1,
    -1,
    2,
    -2,
    3,
    -3,
    127,
    -128,
    (1 << 30) - 1,
    1 << 30,
    -(1 << 30),
    (1 << 31) - 1,
    -(1 << 31),
    -(1 << 31) + 1,
]


def slow_requantize(x, multiplier, shift, pre_shift=0):
    """MultiplyByQuantizedMultiplier step by step as the C++ does it: nudge by sign, truncate."""
    left, right = pre_shift + max(shift, 0), max(-shift, 0)
    v = (x << left) & 0xFFFFFFFF
    v -= (v >> 31) << 32
    if v == multiplier == -(1 << 31):
        high = (1 << 31) - 1
    else:
        product = v * multiplier
        nudged = product + ((1 << 30) if product >= 0 else 1 - (1 << 30))
        high = abs(nudged) >> 31
        high = high if nudged >= 0 else -high
    mask = (1 << right) - 1
    return (high >> right) + ((high & mask) > (mask >> 1) + (high < 0))


@pytest.mark.parametrize("pre_shift", [0, 7, 20])
def test_requantize_corners(pre_shift):
    multipliers = [0, 1, 1 << 30, (1 << 30) + 1, (1 << 31) - 1, -(1 << 31)]
    for shift in (-31, -30, -9, -1, 0, 1, 5, 31):
        for m in multipliers:
            got = arith.requantize(np.array(EDGES), m, shift, pre_shift)
            assert got.tolist() == [slow_requantize(x, m, shift, pre_shift) for x in EDGES]


def test_requantize_random_vectors():
    rng = np.random.default_rng(1)
    x = rng.integers(-(1 << 31), 1 << 31, (300, 7)) >> rng.integers(0, 31, (300, 7))
    m = rng.integers(1 << 30, 1 << 31, 7)
    s = rng.integers(-31, 10, 7)
    got = arith.requantize(x, m, s)
    want = [[slow_requantize(int(v), int(a), int(b)) for v, a, b in zip(row, m, s)] for row in x]
    assert got.tolist() == want


def test_requantize_halves_round_away_at_the_right_shift():
    assert arith.requantize(np.array([6, -6, 2, -2]), 1 << 30, -1).tolist() == [2, -2, 1, -1]


def test_wrap_and_clamp():
    assert arith.wrap32([1 << 31, -(1 << 31) - 1, 5 << 32]).tolist() == [-(1 << 31), (1 << 31) - 1, 0]
    assert arith.clamp8([-300, 300, 5]).tolist() == [-128, 127, 5]
    assert arith.clamp8([-300, 300], 3, 9).tolist() == [3, 9]


def test_quantize_multiplier():
    assert arith.quantize_multiplier(0.0) == (0, 0)
    assert arith.quantize_multiplier(1.0) == (1 << 30, 1)
    assert arith.quantize_multiplier(0.5) == (1 << 30, 0)
    assert arith.quantize_multiplier(1 - 2.0**-40) == (1 << 30, 1)
    assert arith.quantize_multiplier(2.0**-32) == (1 << 30, -31)
    assert arith.quantize_multiplier(2.0**-33) == (0, 0)
    for real in (0.0003, 0.7, 1.3, 1234.5):
        m, s = arith.quantize_multiplier(real)
        assert 1 << 30 <= m < 1 << 31 and math.isclose(m * 2.0 ** (s - 31), real, rel_tol=2**-30)


@pytest.mark.parametrize("real", [-1.0, math.inf, math.nan, 2.0**40])
def test_quantize_multiplier_refuses(real):
    with pytest.raises(arith.ArithmeticRangeError):
        arith.quantize_multiplier(real)


def test_activation_range():
    assert arith.activation_range("NONE", 0.1, 4) == (-128, 127)
    assert arith.activation_range("RELU", 0.1, 4) == (4, 127)
    assert arith.activation_range("RELU6", 0.1, 4) == (4, 64)
    assert arith.activation_range("RELU_N1_TO_1", 0.1, 4) == (-6, 14)


def test_average_rounds_half_away():
    assert arith.average([5, -5, 4, -4, 0, 9], [2, 2, 4, 4, 9, 4]).tolist() == [3, -3, 1, -1, 0, 2]


@pytest.mark.parametrize("scale, zero", [(0.05, 0), (0.002, -100), (0.3, 17)])
def test_tables_follow_the_functions(scale, zero):
    x = (np.arange(-128, 128) - zero) * np.float32(scale)
    logistic = arith.logistic_table(scale, zero).astype(int)
    tanh = arith.tanh_table(scale, zero).astype(int)
    assert np.abs(logistic - np.clip(256 / (1 + np.exp(-x)) - 128, -128, 127)).max() <= 1
    assert np.abs(tanh - np.clip(128 * np.tanh(x), -128, 127)).max() <= 1
    assert (np.diff(logistic) >= 0).all() and (np.diff(tanh) >= 0).all()


def test_softmax_follows_the_function():
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 128, (20, 10))
    e = np.exp((x - x.max(1, keepdims=True)) * 0.07)
    want = np.clip(256 * e / e.sum(1, keepdims=True) - 128, -128, 127)
    assert np.abs(arith.softmax(x, 0.07) - want).max() <= 1

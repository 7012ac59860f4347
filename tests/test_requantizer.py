"""Requantizer against TFLM's integer algorithm, written out in NumPy."""

import numpy as np
from amaranth.sim import Simulator

from lepton.rtl.requantizer import Requantizer
from lepton.rtl.spec.config import get_config

LOW, HIGH = -(2**31), 2**31 - 1


def multiply_by_quantized_multiplier(value, multiplier, shift, pre_shift):
    """TFLM, two roundings; gemmlowp's primitives to the letter (its truncating division, its threshold)."""
    value, multiplier, shift, pre_shift = (np.asarray(v, np.int64) for v in (value, multiplier, shift, pre_shift))
    left = pre_shift + np.maximum(shift, 0)
    right = np.maximum(-shift, 0)
    a = np.where(left > 31, 0, value << np.minimum(left, 31)).astype(np.uint32).astype(np.int32).astype(np.int64)
    ab = a * multiplier
    z = ab + np.where(ab >= 0, 1 << 30, 1 - (1 << 30))
    x = np.where(z < 0, -(-z >> 31), z >> 31)
    x = np.where((a == LOW) & (multiplier == LOW), HIGH, x)
    mask = (np.int64(1) << right) - 1
    return (x >> right) + ((x & mask) > (mask >> 1) + (x < 0))


def vectors(count, seed):
    rng = np.random.default_rng(seed)
    values = [LOW, LOW + 1, -(2**30) - 1, -(2**30), -3, -2, -1, 0, 1, 2, 3, 2**30 - 1, 2**30, HIGH - 1, HIGH]
    multipliers = [0, 1, 2**30 - 1, 2**30, 2**30 + 1, HIGH - 1, HIGH, LOW, LOW + 1, -1]
    shifts = [-31, -30, -16, -2, -1, 0, 1, 8, 30]
    corner = [(v, m, s, p) for v in values for m in multipliers for s in shifts for p in (0, 1, 20, 31)]
    n = count - len(corner)
    value = rng.integers(LOW, HIGH + 1, n) >> rng.integers(0, 32, n)
    multiplier = np.where(rng.random(n) < 0.8, rng.integers(2**30, 2**31, n), rng.integers(LOW, HIGH + 1, n))
    pre_shift = np.where(rng.random(n) < 0.6, 0, rng.integers(0, 32, n))
    ties = rng.random(n) < 0.2  # a multiplier of exactly one half, small shifts: results at and beside one half
    multiplier = np.where(ties, 2**30, multiplier)
    shift = np.where(ties, rng.integers(-6, 1, n), rng.integers(-31, 31, n))
    return np.concatenate([np.array(corner, np.int64), np.stack([value, multiplier, shift, pre_shift], 1)])


def check(inputs, want, product=0):
    """One input a cycle; the first wrong result ends it."""
    dut = Requantizer(get_config("tiny"))
    good = 0

    async def bench(ctx):
        nonlocal good
        ctx.set(dut.product, product)
        for i in range(len(inputs) + dut.LATENCY):
            if i < len(inputs):
                value, multiplier, shift, pre_shift = inputs[i]
                ctx.set(dut.value, value)
                ctx.set(dut.multiplier, multiplier)
                ctx.set(dut.shift, shift)
                ctx.set(dut.pre_shift, pre_shift)
            if (n := i - dut.LATENCY) >= 0:
                assert ctx.get(dut.result) == want[n], inputs[n]
                good += 1
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert good == len(inputs) == len(want)


def test_reference_known_values():
    got = multiply_by_quantized_multiplier([3, -3, 1, -1, LOW], [2**30] * 4 + [LOW], [-1, -1, 0, 0, 0], 0)
    # the first rounding (half up) comes before the second (half away from zero)
    assert got.tolist() == [1, -1, 1, 0, HIGH]


def test_exact_and_one_a_cycle():
    inputs = vectors(20_000, seed=1)
    check(inputs.tolist(), multiply_by_quantized_multiplier(*inputs.T).tolist())


def test_product():
    inputs = vectors(6_500, seed=2)
    inputs[:, 2:] = 0
    want = inputs[:, 0].astype(np.int32) * inputs[:, 1].astype(np.int32)
    check(inputs.tolist(), want.tolist(), product=1)

"""SerialAccumulators against NumPy, with memories read in the cycle (simulation) and at the falling edge (platform)."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Fragment, Module
from amaranth.sim import Simulator

from lepton.rtl.compact.serial_accumulators import SerialAccumulators
from lepton.rtl.spec.config import UP5K


def wrap(x):
    return (x + 2**31) % 2**32 - 2**31


@pytest.mark.parametrize("platform", [None, object()], ids=["simulation", "platform"])
@pytest.mark.parametrize("depth", [16, 256])
def test_both_sides(platform, depth):
    """The array adds to few entries of a bank in every cycle while the tail reads columns of the other, and they change
    sides from one cycle to the next; every sum is read in the cycle after it at least once."""
    config = replace(UP5K, acc_depth=depth)
    cols, limit = config.cols, 1 << (config.psum_width - 1)
    dut = SerialAccumulators(config)
    rng = np.random.default_rng(depth)
    acc = np.zeros((2, depth, cols), np.int64)
    known = np.zeros((2, depth), bool)
    m = Module()
    m.submodules.dut = Fragment.get(dut, platform)
    checked, fresh = [], []

    async def bench(ctx):
        expected, bank, last = None, 0, None
        for t in range(1200):
            if expected is not None:
                assert ctx.get(dut.tail.r_data) == expected, t
                checked.append(t)
            change = rng.integers(8) == 0
            bank ^= int(change)
            entry = int(rng.integers(0, 3) + (depth - 3) * rng.integers(2))
            a_en = int(rng.integers(6) > 0)
            init = int(not known[bank, entry] or rng.integers(10) == 0)
            psum = rng.integers(-limit, limit, cols)
            if rng.integers(3) == 0:
                psum[:] = rng.choice([-limit, limit - 1])
            ctx.set(dut.sums.en, a_en)
            ctx.set(dut.sums.bank, bank)
            ctx.set(dut.sums.entry, entry)
            ctx.set(dut.sums.init, init)
            ctx.set(dut.psum, psum.tolist())

            other = 1 - bank
            r_entry, column = int(rng.integers(0, 3) + (depth - 3) * rng.integers(2)), int(rng.integers(cols))
            if change and last:  # what was written in the cycle before
                r_entry = last[1]
                fresh.append(t)
            read = int(rng.integers(5) > 0)
            ctx.set(dut.tail.bank, other)
            ctx.set(dut.tail.r_en, read)
            ctx.set(dut.tail.r_entry, r_entry)
            ctx.set(dut.tail.r_column, column)
            expected = int(acc[other, r_entry, column]) if read and known[other, r_entry] else None
            last = (bank, entry) if a_en else None
            if a_en:
                acc[bank, entry] = wrap((0 if init else acc[bank, entry]) + psum)
                known[bank, entry] = True
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert len(checked) > 700 and len(fresh) > 80


@pytest.mark.parametrize("platform", [None, object()], ids=["simulation", "platform"])
def test_sums_wrap(platform):
    """A full positive sum again and again passes 2**31 - 1; the bits of a column do not reach its neighbour."""
    config = replace(UP5K, acc_depth=16)
    dut = SerialAccumulators(config)
    limit = 1 << (config.psum_width - 1)
    m = Module()
    m.submodules.dut = Fragment.get(dut, platform)
    steps = 2**31 // (limit - 1) + 2
    assert steps < 10_000
    psum = [limit - 1, -limit, limit - 1, 0]
    seen = []

    async def bench(ctx):
        ctx.set(dut.sums.en, 1)
        ctx.set(dut.sums.entry, 9)
        ctx.set(dut.sums.init, 1)
        ctx.set(dut.psum, psum)
        await ctx.tick()
        ctx.set(dut.sums.init, 0)
        await ctx.tick().repeat(steps - 1)
        ctx.set(dut.sums.en, 0)
        ctx.set(dut.tail.r_en, 1)
        ctx.set(dut.tail.r_entry, 9)
        for column in range(config.cols):
            ctx.set(dut.tail.r_column, column)
            await ctx.tick()
            seen.append(ctx.get(dut.tail.r_data))

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert seen == [wrap(steps * p) for p in psum] and seen[0] < 0 < seen[1]


def test_latencies():
    assert (SerialAccumulators.A_LATENCY, SerialAccumulators.T_LATENCY) == (1, 1)

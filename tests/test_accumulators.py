"""Accumulators against two arrays of int32."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.spec.config import NpuConfig


@pytest.mark.parametrize("lutram", ["", "acc"])
@pytest.mark.parametrize("cols,lanes,depth", [(4, 4, 16), (6, 2, 20), (5, 1, 16), (16, 16, 64)])
def test_both_sides(cols, lanes, depth, lutram):
    """Array side accumulates on few entries every cycle, tail reads and writes the other bank; sides change often."""
    cfg = NpuConfig(rows=4, cols=cols, lanes=lanes, acc_depth=depth, lutram=lutram)
    dut = Accumulators(cfg)
    rng = np.random.default_rng(cols * 100 + lanes)
    acc = np.zeros((2, depth, cols), np.int64)
    limit = 1 << (cfg.psum_width - 1)
    known = np.zeros((2, depth), bool)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    expected = {}
    checked = []

    def wrap(x):
        return (x + 2**31) % 2**32 - 2**31

    async def bench(ctx):
        t, written = 0, None
        for phase in range(12):
            bank = phase & 1
            quiet = dut.A_LATENCY  # the bank is handed over when its last sum is visible
            busy = int(rng.integers(20, 60))
            for k in range(busy + quiet - 1):
                if t in expected:
                    assert list(ctx.get(dut.tail.r_data)) == expected.pop(t)
                    checked.append(t)
                entry = int(rng.integers(0, 3) + (depth - 3) * (phase % 3 == 2))
                a_en = int(k < busy and rng.integers(8) > 0)
                init = int(not known[bank, entry] or rng.integers(6) == 0)
                psum = rng.integers(-limit, limit, cols)
                if rng.integers(4) == 0:
                    psum[:] = rng.choice([-limit, limit - 1])
                ctx.set(dut.sums.en, a_en)
                ctx.set(dut.sums.bank, bank)
                ctx.set(dut.sums.entry, entry)
                ctx.set(dut.sums.init, init)
                ctx.set(dut.psum, psum.tolist())
                if a_en:
                    acc[bank, entry] = wrap((0 if init else acc[bank, entry]) + psum)
                    known[bank, entry] = True

                other = 1 - bank
                r_entry, w_entry = (int(rng.integers(0, 3) + (depth - 3) * rng.integers(2)) for _ in range(2))
                sub, values = int(rng.integers(cols // lanes)), rng.integers(-(2**31), 2**31, lanes)
                # A write is seen two cycles later: by no read before, and not in the last cycle of a phase.
                late = busy + quiet - dut.W_LATENCY
                t_w = int(known[other, w_entry] and rng.integers(3) == 0 and k < late)
                t_r = int(r_entry not in (written, w_entry if t_w else None) and rng.integers(4) > 0)
                written = w_entry if t_w else None
                ctx.set(dut.tail.bank, other if t_r or t_w else int(rng.integers(2)))
                ctx.set(dut.tail.r_en, t_r)
                ctx.set(dut.tail.r_entry, r_entry)
                ctx.set(dut.tail.w_en, t_w)
                ctx.set(dut.tail.w_entry, w_entry)
                ctx.set(dut.tail.w_sub, sub)
                ctx.set(dut.tail.w_data, values.tolist())
                if t_r:
                    expected[t + dut.T_LATENCY] = acc[other, r_entry].tolist()
                if t_w:
                    acc[other, w_entry, sub * lanes : (sub + 1) * lanes] = values
                await ctx.tick()
                t += 1

    sim.add_testbench(bench)
    sim.run_until(1e-5)
    assert len(checked) > 100 and len(expected) <= dut.T_LATENCY


@pytest.mark.parametrize("lutram", ["", "acc"])
def test_array_changes_bank_without_a_gap(lutram):
    """A few entries of both banks in turn, the bank changing from one cycle to the next; then the tail reads all."""
    cfg = NpuConfig(rows=4, cols=4, lanes=4, acc_depth=16, lutram=lutram)
    dut = Accumulators(cfg)
    rng = np.random.default_rng(7)
    acc = np.zeros((2, 2, 4), np.int64)
    places = [(b, e) for b in range(2) for e in range(2)]
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    seen = []

    async def bench(ctx):
        ctx.set(dut.sums.en, 1)
        for t in range(300):
            bank, entry = places[t] if t < 4 else places[int(rng.integers(4))]
            psum = rng.integers(-1000, 1000, 4)
            init = int(t < 4 or t in (60, 61, 63, 66))  # few: one hides all that went wrong before
            ctx.set(dut.sums.bank, bank)
            ctx.set(dut.sums.entry, entry)
            ctx.set(dut.sums.init, init)
            ctx.set(dut.psum, psum.tolist())
            acc[bank, entry] = (0 if init else acc[bank, entry]) + psum
            await ctx.tick()
        ctx.set(dut.sums.en, 0)
        await ctx.tick().repeat(dut.A_LATENCY - 1)
        ctx.set(dut.tail.r_en, 1)
        for bank, entry in places:
            ctx.set(dut.tail.bank, bank)
            ctx.set(dut.tail.r_entry, entry)
            await ctx.tick().repeat(dut.T_LATENCY)
            seen.append(list(ctx.get(dut.tail.r_data)))

    sim.add_testbench(bench)
    sim.run_until(1e-5)
    assert seen == [acc[place].tolist() for place in places]


def test_sums_wrap():
    """2**31 - 1 plus 1 is -2**31, back to back."""
    cfg = NpuConfig(rows=2, cols=2, lanes=2, acc_depth=16)
    dut = Accumulators(cfg)
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    seen = []

    async def bench(ctx):
        ctx.set(dut.tail.w_en, 1)
        ctx.set(dut.tail.w_entry, 7)
        ctx.set(dut.tail.w_data, [2**31 - 1, -(2**31)])
        await ctx.tick()
        ctx.set(dut.tail.w_en, 0)
        await ctx.tick().repeat(dut.W_LATENCY - 1)
        ctx.set(dut.sums.en, 1)
        ctx.set(dut.sums.entry, 7)
        for psum in ([1, -1], [5, 7]):
            ctx.set(dut.psum, psum)
            await ctx.tick()
        ctx.set(dut.sums.en, 0)
        await ctx.tick().repeat(dut.A_LATENCY - 1)
        ctx.set(dut.tail.r_en, 1)
        ctx.set(dut.tail.r_entry, 7)
        await ctx.tick()
        ctx.set(dut.tail.r_en, 0)
        await ctx.tick().repeat(dut.T_LATENCY - 1)
        seen.append(list(ctx.get(dut.tail.r_data)))

    sim.add_testbench(bench)
    sim.run_until(1e-6)
    assert seen == [[-(2**31) + 5, -(2**31) + 6]]


def test_latencies():
    assert (Accumulators.A_LATENCY, Accumulators.T_LATENCY, Accumulators.W_LATENCY) == (4, 2, 2)

"""RowMultiplier in all styles: products and latency."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.multiplier import RowMultiplier
from lepton.rtl.spec.config import MULTIPLIERS, NpuConfig

LATENCY = {
    ("generic", "single"): 1,
    ("generic", "paired"): 2,
    ("gowin", "single"): 2,
    ("gowin", "paired"): 2,
    ("ice40", "single"): 1,
}


STYLES = [(s, pe) for s in MULTIPLIERS for pe in ("single", "paired") if (s, pe) != ("ice40", "paired")]


@pytest.mark.parametrize("style,pe", STYLES)
def test_products(style, pe):
    count = 5
    dut = RowMultiplier(NpuConfig(multiplier=style, pe=pe), count)
    assert dut.LATENCY == LATENCY.get((style, pe), 3)
    width = 9 if pe == "paired" else 8
    assert [len(p) for p in (dut.i_left[0], dut.i_right[0], dut.o_product[0])] == [width, width, 2 * width]
    low, high = (-256, 254) if pe == "paired" else (-128, 127)
    rng = np.random.default_rng(7)
    corners = [low, low + 1, -1, 0, 1, high - 1, high]
    pairs = [(a, b) for a in corners for b in corners]
    pairs += [tuple(int(v) for v in p) for p in rng.integers(low, high + 1, (count * 400 - len(pairs), 2))]
    rows = [pairs[k : k + count] for k in range(0, len(pairs), count)]
    seen = []

    early = 1 if style == "ice40" else 0  # it registers the right operand

    async def bench(ctx):
        ctx.set(dut.i_swap, 1)
        if early:
            ctx.set(dut.i_right, [b for _, b in rows[0]])
            await ctx.tick()
        for t in range(len(rows) + dut.LATENCY):
            row = rows[min(t, len(rows) - 1)]
            ctx.set(dut.i_left, [a for a, _ in row])
            ctx.set(dut.i_right, [b for _, b in rows[min(t + early, len(rows) - 1)]])
            if t >= dut.LATENCY:
                seen.append(list(ctx.get(dut.o_product)))
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert seen == [[a * b for a, b in row] for row in rows]

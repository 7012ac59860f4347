"""ActMemory against an array of bytes."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.act_memory import ActMemory
from lepton.rtl.spec.config import NpuConfig

SHAPES = [(3, 5, 5), (3, 5, 1), (9, 8, 4), (4, 4, 2), (2, 2, 1), (16, 16, 16), (2, 17, 17)]


@pytest.mark.parametrize("rows,cols,lanes", SHAPES)
def test_reads_and_writes_any_address(rows, cols, lanes):
    """Random and wrapping addresses, all counts; a read sees the writes of two cycles before and earlier."""
    cfg = NpuConfig(rows=rows, cols=cols, lanes=lanes, act_bytes=256)
    dut = ActMemory(cfg)
    rng = np.random.default_rng(rows * 100 + cols)
    width = max(rows, cols)
    memory = np.zeros(cfg.act_bytes, np.int8)
    cycles = 400
    expected = {}
    written = set()  # in the cycle before
    sim = Simulator(dut)
    sim.add_clock(1e-8)

    async def bench(ctx):
        nonlocal written
        for t in range(cycles):
            ctx.set(dut.read.en, 0)
            if t in expected:
                assert list(ctx.get(dut.read.data)) == expected.pop(t)
            near = int(rng.integers(0, 40)) - 20 + (t // 50) * 64
            address = near % 2**20
            index = (address + np.arange(width)) % cfg.act_bytes
            write = int(rng.integers(2))
            w_address = (near + int(rng.integers(-20, 20))) % 2**20
            count = int(rng.integers(0, lanes + 1))
            values = rng.integers(-128, 128, lanes)
            w_index = (w_address + np.arange(count)) % cfg.act_bytes
            writing = set(w_index.tolist()) if write else set()
            if not set(index.tolist()) & (writing | written):
                ctx.set(dut.read.en, 1)
                ctx.set(dut.read.addr, address)
                expected[t + dut.LATENCY] = memory[index].tolist()
            ctx.set(dut.write.en, write)
            ctx.set(dut.write.addr, w_address)
            ctx.set(dut.write.count, count)
            ctx.set(dut.write.data, values.tolist())
            written = writing
            if write:
                memory[w_index] = values[:count]
            await ctx.tick()

    sim.add_testbench(bench)
    sim.run_until(cycles * 1e-8 + 1e-6)
    assert memory.any()
    assert all(t >= cycles for t in expected)


def test_latencies():
    assert (ActMemory.LATENCY, ActMemory.W_LATENCY) == (4, 2)

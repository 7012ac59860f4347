"""WeightStore against a table of words."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import DESCRIPTOR
from lepton.rtl.weight_store import WeightStore


@pytest.mark.parametrize(
    "rows,cols,pe,tiles", [(3, 5, "single", 16), (4, 4, "single", 20), (4, 4, "paired", 16), (6, 4, "paired", 17)]
)
def test_tiles_and_descriptors(rows, cols, pe, tiles):
    """Bytes written in random order; tiles back to back leave skewed; descriptors hold until the next."""
    cfg = NpuConfig(rows=rows, cols=cols, lanes=1, pe=pe, weight_tiles=tiles)
    dut = WeightStore(cfg)
    rng = np.random.default_rng(rows * 100 + cols)
    words = rng.integers(0, 256, (tiles, 6 + rows * cols))
    skew = [r // 2 if pe == "paired" else r for r in range(rows)]
    sim = Simulator(dut)
    sim.add_clock(1e-8)
    done = []
    assert len(dut.descriptor.data) == sum(f.bits for f in DESCRIPTOR)

    async def bench(ctx):
        bytes_ = [(t, b) for t in range(tiles) for b in range(6 + rows * cols)]
        bytes_ += [(t, 6 + rows * cols) for t in range(tiles)]
        ctx.set(dut.write.en, 1)
        for i in rng.permutation(len(bytes_)):
            tile, byte = bytes_[i]
            ctx.set(dut.write.tile, tile)
            ctx.set(dut.write.byte, byte)
            ctx.set(dut.write.data, int(words[tile, byte]) if byte < words.shape[1] else 0xA5)
            await ctx.tick()
        ctx.set(dut.write.en, 0)
        ctx.set(dut.write.tile, 0)
        ctx.set(dut.write.data, 0x5A)
        for _ in range(dut.W_LATENCY - 1):
            await ctx.tick()

        weights = words[:, 6:].astype(np.uint8).astype(np.int8).reshape(tiles, rows, cols)
        loads, descriptor = [], None
        for t in range(200):
            load, tile = int(t < 40 or rng.integers(2)), int(rng.integers(tiles))
            d_en, d_tile = int(rng.integers(2)), int(rng.integers(tiles))
            ctx.set(dut.load.en, load)
            ctx.set(dut.load.tile, tile)
            ctx.set(dut.descriptor.en, d_en)
            ctx.set(dut.descriptor.addr, d_tile)
            loads.append((load, tile))
            for r in range(rows):
                u = t - dut.LATENCY - skew[r]
                want = loads[u] if u >= 0 else (0, 0)
                assert ctx.get(dut.o.load[r]) == want[0]
                if want[0]:
                    assert list(ctx.get(dut.o.weights[r])) == weights[want[1], r].tolist()
            if descriptor is not None:
                raw = int.from_bytes(bytes(words[descriptor, :6].tolist()), "little")
                assert ctx.get(dut.descriptor.data) == raw & (2 ** len(dut.descriptor.data) - 1)
            if d_en:
                descriptor = d_tile
            await ctx.tick()
        done.append(True)

    sim.add_testbench(bench)
    sim.run_until(1e-8 * (2000 + tiles * (rows * cols + 7)))
    assert done


def test_latencies():
    assert (WeightStore.LATENCY, WeightStore.D_LATENCY, WeightStore.W_LATENCY) == (2, 1, 2)

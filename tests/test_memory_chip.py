"""Memories of the chip that MOVE shares with host and engines: bytes against tables, and who waits for whom."""

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.act_memory import WideActMemory
from lepton.rtl.memory_activations import MemoryActivations
from lepton.rtl.memory_params import MemoryParameters
from lepton.rtl.memory_tiles import MemoryTiles
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Region

SHAPES = [  # rows, cols, lanes, memory_width, pe
    (4, 4, 1, 16, "single"),
    (8, 8, 8, 16, "single"),
    (18, 16, 16, 16, "paired"),
    (8, 8, 2, 4, "single"),
    (3, 2, 2, 8, "single"),
    (6, 4, 1, 1, "paired"),
    (4, 4, 2, 2, "single"),
]


def config_of(rows, cols, lanes, width, pe):
    return NpuConfig(
        rows=rows, cols=cols, lanes=lanes, pe=pe, act_bytes=256, weight_tiles=16, params=20,
        memory_width=width, memory_bytes=4096,
    )  # fmt: skip


def simulate(dut, bench):
    done = []

    async def whole(ctx):
        await bench(ctx)
        done.append(True)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(whole)
    sim.run()
    assert done


@pytest.mark.parametrize("shape", SHAPES)
def test_masked_writes_of_activations(shape):
    """Any address, any low end and count: only the bytes between them are written."""
    dut, rng = WideActMemory(config_of(*shape)), np.random.default_rng(shape[:4])
    memory = np.zeros(256, np.int64)
    size, width = len(dut.write.data), max(shape[:2])

    async def bench(ctx):
        for _ in range(120):
            address, low, count = (int(v) for v in (rng.integers(1 << 20), *rng.integers(0, size + 1, 2)))
            values = rng.integers(-128, 128, size)
            ctx.set(dut.write.en, 1)
            ctx.set(dut.write.addr, address)
            ctx.set(dut.write.low, low)
            ctx.set(dut.write.count, count)
            ctx.set(dut.write.data, values.tolist())
            for k in range(low, count):
                memory[(address + k) % 256] = values[k]
            await ctx.tick()
        ctx.set(dut.write.en, 0)
        await ctx.tick().repeat(2)
        for address in range(0, 256, width):
            ctx.set(dut.read.en, 1)
            ctx.set(dut.read.addr, address)
            await ctx.tick()
            ctx.set(dut.read.en, 0)
            await ctx.tick().repeat(dut.LATENCY - 1)
            assert list(ctx.get(dut.read.data)) == [memory[(address + k) % 256] for k in range(width)]

    simulate(dut, bench)
    assert memory.any()


def in_memory(config, word):
    """A tile's word as it lies in memory: descriptor and rows, each filled up to whole beats."""
    width = config.memory_width
    out = b""
    for part in (word[:6], word[6:]):
        out += part + bytes(-len(part) % width)
    assert len(out) == isa.memory_tile_bytes(config)
    return [out[at : at + width] for at in range(0, len(out), width)]


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles(shape):
    """Some written by the host, byte by byte, some by MOVE, a beat at a time; the other one's port is not looked at."""
    config, rng = config_of(*shape), np.random.default_rng(shape[:4])
    dut, rows, cols = MemoryTiles(config), *shape[:2]
    size = 6 + rows * cols
    words = [rng.integers(0, 256, size, np.uint8).tobytes() for _ in range(16)]

    async def bench(ctx):
        for tile, word in enumerate(words):
            by_host = tile % 3 == 0
            ctx.set(dut.running, not by_host)
            ctx.set(dut.move.en, 1)
            ctx.set(dut.host.en, 1)
            ctx.set(dut.host.region, Region.WEIGHT)
            parts = list(word) + [0xA5] if by_host else in_memory(config, word)
            for k, part in enumerate(parts):
                mine, other = (dut.host, dut.move) if by_host else (dut.move, dut.host)
                ctx.set(mine.index, tile)
                ctx.set(other.index, (tile + 1) % 16)
                ctx.set(dut.host.byte, k)
                ctx.set(dut.move.beat, k)
                ctx.set(mine.data, part if by_host else int.from_bytes(part, "little"))
                await ctx.tick()
        ctx.set(dut.move.en, 0)
        ctx.set(dut.host.en, 0)
        await ctx.tick()
        skew = [r // 2 if config.pe == "paired" else r for r in range(rows)]
        for tile, word in enumerate(words):
            ctx.set(dut.tiles.load.en, 1)
            ctx.set(dut.tiles.load.tile, tile)
            ctx.set(dut.tiles.descriptor.en, 1)
            ctx.set(dut.tiles.descriptor.addr, tile)
            await ctx.tick()
            ctx.set(dut.tiles.load.en, 0)
            raw = int.from_bytes(word[:6], "little")
            assert ctx.get(dut.tiles.descriptor.data) == raw % 2 ** len(dut.tiles.descriptor.data)
            for cycle in range(1, timing.WEIGHT_LOAD + max(skew) + 1):
                for r in range(rows):
                    if cycle == timing.WEIGHT_LOAD + skew[r]:
                        assert ctx.get(dut.rows.load[r])
                        got = bytes(v % 256 for v in ctx.get(dut.rows.weights[r]))
                        assert got == word[6 + r * cols : 6 + (r + 1) * cols]
                await ctx.tick()

    simulate(dut, bench)


@pytest.mark.parametrize("shape", SHAPES)
def test_parameters(shape):
    config, rng = config_of(*shape), np.random.default_rng(shape[:4])
    dut, width = MemoryParameters(config), config.memory_width
    words = [rng.integers(0, 256, 9, np.uint8).tobytes() for _ in range(20)]

    async def bench(ctx):
        for entry, word in enumerate(words):
            by_host = entry % 3 == 0
            ctx.set(dut.running, not by_host)
            ctx.set(dut.move.en, 1)
            ctx.set(dut.host.en, 1)
            ctx.set(dut.host.region, Region.PARAM)
            padded = word + rng.integers(0, 256, -9 % width, np.uint8).tobytes()
            parts = list(word) if by_host else [padded[at : at + width] for at in range(0, len(padded), width)]
            for k, part in enumerate(parts):
                mine, other = (dut.host, dut.move) if by_host else (dut.move, dut.host)
                ctx.set(mine.index, entry)
                ctx.set(other.index, (entry + 1) % 20)
                ctx.set(dut.host.byte, k)
                ctx.set(dut.move.beat, k)
                ctx.set(mine.data, part if by_host else int.from_bytes(part, "little"))
                await ctx.tick()
        ctx.set(dut.host.region, Region.WEIGHT)
        ctx.set(dut.move.en, 0)
        await ctx.tick()
        for entry, word in enumerate(words):
            ctx.set(dut.read.en, 1)
            ctx.set(dut.read.addr, entry)
            await ctx.tick()
            assert ctx.get(dut.read.data) == int.from_bytes(word, "little")

    simulate(dut, bench)


def shared(bench, **changes):
    dut = MemoryActivations(replace(config_of(8, 8, 4, 4, "single"), **changes))

    async def running(ctx):
        ctx.set(dut.running, 1)
        ctx.set(dut.busy, 1)
        await ctx.tick().repeat(4)
        await bench(ctx, dut)

    simulate(dut, running)


def test_ports_are_shared():
    """Engines first, MOVE in the cycles that they leave; each has its own data."""
    rng = random.Random(5)

    async def bench(ctx, dut):
        memory = {a: 0 for a in range(256)}
        reads, writes = {}, []
        served = {"move": 0, "engine": 0}
        for cycle in range(1500):
            quiet = cycle > 1490
            r_en, w_en, m_r, m_w = (not quiet and rng.random() < chance for chance in (0.5, 0.5, 0.8, 0.8))
            at = [rng.randrange(32) + 64 * (cycle // 25 % 4) for _ in range(4)]
            size = 4
            low, count = sorted(rng.sample(range(size + 1), 2))
            values = [[rng.randrange(-128, 128) for _ in range(size)] for _ in range(2)]
            for port, en, address in zip(
                (dut.read, dut.write, dut.move_read, dut.move_write), (r_en, w_en, m_r, m_w), at
            ):
                ctx.set(port.en, en)
                ctx.set(port.addr, address)
            ctx.set(dut.write.count, count)
            ctx.set(dut.write.data, values[0])
            ctx.set(dut.move_write.low, low)
            ctx.set(dut.move_write.count, count)
            ctx.set(dut.move_write.data, [v % 256 for v in values[1]])
            await ctx.delay(0)
            assert ctx.get(dut.move_read.ready) == (not r_en) and ctx.get(dut.move_write.ready) == (not w_en)
            if cycle in reads:
                kind, want = reads[cycle]
                got = dut.read.data if kind == "engine" else dut.move_read.data
                for k, (byte, value) in enumerate(zip(got, want)):
                    if value is not None:
                        assert ctx.get(byte) % 256 == value % 256, (cycle, kind, k)
                        served[kind] += 1
            writes = [w for w in writes if w[0] > cycle - 2]
            recent = {a for _, a in writes}
            if w_en or m_w:
                address, first, data = (at[1], 0, values[0]) if w_en else (at[3], low, values[1])
                for k in range(first, count):
                    memory[(address + k) % 256] = data[k]
                    writes.append((cycle, (address + k) % 256))
            now = {a for t, a in writes if t == cycle} | recent
            if r_en or m_r:
                kind, address, n = ("engine", at[0], 8) if r_en else ("move", at[2], 4)
                want = [None if (address + k) % 256 in now else memory[(address + k) % 256] for k in range(n)]
                reads[cycle + timing.ACT_READ] = kind, want
            await ctx.tick()
        assert all(n > 500 for n in served.values())

    shared(bench)


def test_a_pass_is_held():
    """After 8 cycles without a read MOVE holds the next pass until it has had 16, or asks for none."""

    async def bench(ctx, dut):
        ctx.set(dut.move_read.en, 1)
        ctx.set(dut.read.en, 1)
        for _ in range(timing.MOVE_WAIT):
            assert not ctx.get(dut.hold_pass)
            await ctx.tick()
        for _ in range(5):  # the pass goes on
            assert ctx.get(dut.hold_pass) and not ctx.get(dut.move_read.ready)
            await ctx.tick()
        ctx.set(dut.read.en, 0)
        for _ in range(timing.MOVE_TURN):
            assert ctx.get(dut.hold_pass) and ctx.get(dut.move_read.ready)
            await ctx.tick()
        assert not ctx.get(dut.hold_pass)
        # One read in eight cycles is enough.
        for _ in range(4):
            ctx.set(dut.read.en, 1)
            for _ in range(timing.MOVE_WAIT - 1):
                await ctx.tick()
                assert not ctx.get(dut.hold_pass)
            ctx.set(dut.read.en, 0)
            await ctx.tick()
        ctx.set(dut.read.en, 1)
        await ctx.tick().repeat(timing.MOVE_WAIT)
        assert ctx.get(dut.hold_pass)
        ctx.set(dut.move_read.en, 0)
        await ctx.tick()
        assert not ctx.get(dut.hold_pass)

    shared(bench)


def test_the_tail_is_held():
    """Every 8 cycles in which MOVE waits for the write port the tail is held, until it reads nothing for a cycle."""

    async def bench(ctx, dut):
        ctx.set(dut.move_write.en, 1)
        ctx.set(dut.write.en, 1)
        ctx.set(dut.tail_reads, 1)
        for _ in range(3):
            for _ in range(timing.MOVE_WAIT):
                assert not ctx.get(dut.hold_tail)
                await ctx.tick()
            for _ in range(3):
                assert ctx.get(dut.hold_tail)
                await ctx.tick()
            ctx.set(dut.tail_reads, 0)
            assert ctx.get(dut.hold_tail)
            await ctx.tick()
            ctx.set(dut.tail_reads, 1)
        ctx.set(dut.write.en, 0)
        await ctx.tick().repeat(50)
        assert not ctx.get(dut.hold_tail) and ctx.get(dut.move_write.ready)

    shared(bench)

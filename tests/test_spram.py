"""Memories of single-port RAM against lists of words and bytes; as in simulation, and as on a platform with the cell
modelled by its data sheet: it reads or writes in a cycle, and what it gives while it writes is anything."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Cat, Fragment, Module, Signal
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from lepton.rtl.compact import spram
from lepton.rtl.compact.spram import Spram, SpramActMemory
from lepton.rtl.spec.config import UP5K


def cell(m, name, domain, address, w_on, w_data):
    """Twin of SB_SPRAM256KA with the signature of `spram._cell`."""
    depth = spram.WORDS
    m.submodules[name] = memory = Memory(shape=16, depth=depth, init=[])
    read, write = memory.read_port(domain="comb"), memory.write_port(domain=domain, granularity=8)
    output = Signal(16)
    m.d.comb += [read.addr.eq(address), write.addr.eq(address), write.en.eq(Cat(w_on)), write.data.eq(w_data)]
    with m.If(Cat(w_on).any()):
        m.d[domain] += output.eq(~output ^ w_data)
    with m.Else():
        m.d[domain] += output.eq(read.data)
    return output


@pytest.fixture(params=["simulation", "platform"])
def simulate(request, monkeypatch):
    """Runs a bench on a memory, as a platform has it or not."""
    monkeypatch.setattr(spram, "_cell", cell)

    def run(dut, bench):
        m = Module()
        m.submodules.dut = Fragment.get(dut, None if request.param == "simulation" else object())
        sim = Simulator(m)
        sim.add_clock(2e-8, phase=1e-8)
        if isinstance(dut, SpramActMemory) and request.param == "platform":
            sim.add_clock(1e-8, phase=1e-8, domain="fast")
        sim.add_testbench(bench)
        sim.run()

    return run


def test_words(simulate):
    dut = Spram()
    rng = np.random.default_rng(1)
    words = {}
    places = [0, 1, spram.WORDS - 1, spram.WORDS // 2, 0x1555, 0x2AAA]
    read = []

    async def bench(ctx):
        expected = None
        for t in range(600):
            if expected is not None:
                assert ctx.get(dut.r_data) == expected, t
                read.append(t)
            at = places[int(rng.integers(len(places)))]
            on = 3 if t < 50 and at not in words else int(rng.choice([0, 0, 0, 1, 2, 3]))
            data = int(rng.integers(1 << 16))
            ctx.set(dut.addr, at)
            ctx.set(dut.w_on, on)
            ctx.set(dut.w_data, data)
            mask = (on & 1) * 0xFF | (on >> 1) * 0xFF00
            expected = words.get(at, 0) if not on else None
            words[at] = words.get(at, 0) & ~mask | data & mask
            await ctx.tick()

    simulate(dut, bench)
    assert len(read) > 200 and len(words) == len(places)


@pytest.mark.parametrize("act_bytes", [256, 65536])
def test_reads_even_addresses_and_writes_any(simulate, act_bytes):
    """As test_act_memory: near and wrapping addresses, a read and a write in each cycle. A read sees all writes before;
    the lowest bit of its address does not count."""
    config = replace(UP5K, act_bytes=act_bytes)
    dut = SpramActMemory(config)
    rng = np.random.default_rng(act_bytes)
    memory = np.zeros(act_bytes, np.int8)
    cycles = 500
    checked = []

    async def bench(ctx):
        expected = None
        for t in range(cycles):
            if expected is not None:
                assert list(ctx.get(dut.read.data)) == expected, t
                checked.append(t)
            near = int(rng.integers(0, 24)) - 12 + (t // 100) * (act_bytes // 4)
            address = near % act_bytes
            index = ((address & ~1) + np.arange(4)) % act_bytes
            w_address = (near + int(rng.integers(-6, 7))) % act_bytes
            write, count = int(rng.integers(4) > 0), int(rng.integers(8) > 0)
            value = int(rng.integers(-128, 128))
            written = bool(write and count)
            expected = None if written and w_address in index else memory[index].tolist()
            ctx.set(dut.read.en, 1)
            ctx.set(dut.read.addr, address)
            ctx.set(dut.write.en, write)
            ctx.set(dut.write.count, count)
            ctx.set(dut.write.addr, w_address)
            ctx.set(dut.write.data, [value])
            if written:
                memory[w_address] = value
            await ctx.tick()

    simulate(dut, bench)
    assert len(checked) > cycles // 2 and memory.any()


def test_latency_is_one():
    assert SpramActMemory.LATENCY == 1

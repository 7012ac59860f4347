"""SerialLoader against a memory of words: descriptors, rows and the cycles of its timing contract."""

import random

import pytest
from amaranth.sim import Simulator

from lepton.rtl.compact.serial_loader import SerialLoader
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import UP5K

ROWS, COLS, WORDS = UP5K.rows, UP5K.cols, SerialLoader.WORDS


def run(loads, rng, gap, wait):
    """Offer LOADs, each after `gap()` cycles, take tiles after `wait()`; check all that the contract says."""
    memory = {}
    dut = SerialLoader(UP5K)
    words = [word for tile, count in loads for word in isa.encode(isa.LOAD, tile=tile, count=count)]
    tiles = [tile + k for tile, count in loads for k in range(count)]
    reads, rows, offered, taken, accepted, busy = [], [], [], [], [], []

    def word(address):
        return memory.setdefault(address, rng.getrandbits(16))

    async def bench(ctx):
        at = clock = 0
        until, ready_at = gap(), 0
        data, seen = rng.getrandbits(16), False
        while len(taken) < len(tiles):
            assert clock < 8_000, "the engine hangs"
            ctx.set(dut.read.data, data)
            ctx.set(dut.i.valid, at < len(words) and until <= 0)
            ctx.set(dut.i.payload.word, words[at] if at < len(words) else 0)
            ctx.set(dut.i.payload.index, at % 2)
            valid = ctx.get(dut.o.valid)
            if valid and not seen:
                offered.append((clock, ctx.get(dut.o.payload.as_value())))
                ready_at = clock + wait()
            take = clock >= ready_at if valid else rng.randrange(2)
            ctx.set(dut.o.ready, take)
            seen = valid and not take
            if valid and take:
                assert ctx.get(dut.o.payload.as_value()) == offered[-1][1], "it stays"
                taken.append(clock)
            reads.append(ctx.get(dut.read.addr))
            for r in range(ROWS):
                if ctx.get(dut.rows.load) >> r & 1:
                    rows.append((clock, r, list(ctx.get(dut.rows.weights[r]))))
            busy.append(ctx.get(dut.busy))
            data = word(ctx.get(dut.read.addr))
            until -= 1
            if ctx.get(dut.i.valid) and ctx.get(dut.i.ready):
                if at % 2 == 0:
                    accepted.append(clock)
                at += 1
                until = gap()
            await ctx.tick()
            clock += 1
        busy.append(ctx.get(dut.busy))

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()

    owners = [n for n, (_, count) in enumerate(loads) for _ in range(count)]
    expected_rows, begins = [], []
    for k, tile in enumerate(tiles):
        begin = max([accepted[owners[k]], *taken[k - 1 : k]]) + 1
        begins.append(begin)
        base = WORDS * tile % (1 << 14)
        assert reads[begin : begin + WORDS] == [(base + n) % (1 << 14) for n in range(WORDS)], k
        raw = [word((base + n) % (1 << 14)) for n in range(WORDS)]
        assert offered[k] == (begin + WORDS, raw[0] | raw[1] << 16 | raw[2] << 32), k
        for r in range(ROWS):
            pair = raw[3 + 2 * r] | raw[4 + 2 * r] << 16
            row = [(pair >> 8 * c & 255 ^ 128) - 128 for c in range(COLS)]
            expected_rows.append((begin + 5 + 2 * r, r, row))
    assert rows == expected_rows
    # A LOAD waits for the last read of the one before, no longer; a tile that waits does not keep it out.
    ends = [begins[k] + WORDS for k in range(len(tiles)) if k + 1 == len(tiles) or owners[k] != owners[k + 1]]
    assert all(a >= end for a, end in zip(accepted[1:], ends))
    working = set()
    for k, tile in enumerate(tiles):
        start = accepted[owners[k]] + 1 if owners[k - 1 : k] != owners[k : k + 1] else taken[k - 1] + 1
        working |= set(range(start, taken[k] + 1))
    assert [clock for clock, on in enumerate(busy) if on] == sorted(working)
    return accepted, ends


@pytest.mark.parametrize("seed", range(3))
def test_random_loads(seed):
    rng = random.Random(seed)
    loads = [(rng.choice([0, 1, rng.randrange(1489), 1488]), rng.choice([1, 1, 2, 5])) for _ in range(14)]
    slow = [lambda: 0, lambda: rng.choice([0, 0, 3, 40]), lambda: rng.choice([0, 1, 2, 13])][seed]
    wait = [lambda: 0, lambda: rng.choice([0, 0, 1, 30]), lambda: rng.choice([0, 9, 10, 11, 12])][seed]
    run([(min(tile, 1489 - count), count) for tile, count in loads], rng, slow, wait)


def test_back_to_back():
    """Nothing waits: a tile every 12 cycles, and a LOAD is taken while the last tile of the one before waits."""
    rng = random.Random(9)
    accepted, ends = run([(3, 2), (1487, 2), (0, 1)], rng, lambda: 0, lambda: 0)
    assert accepted[1:] == ends[:-1]
    accepted, ends = run([(3, 2), (1487, 2), (0, 1)], rng, lambda: 0, lambda: 25)
    assert accepted[1:] == ends[:-1]

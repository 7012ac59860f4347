"""Multiply engine and tail of the machine with a memory port: MOVE's tokens and holds, rows that are turned back."""

import random
from dataclasses import replace

import numpy as np
import pytest
import test_multiply
import test_tail
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from test_multiply import BLANK, LATENCIES, expected, raw

from lepton.rtl.memory_multiply import MemoryMultiply
from lepton.rtl.memory_tail import MemoryTail
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.isa import Cause
from lepton.rtl.tokens import TokenCounter, TokenGate


def with_memory(config):
    return replace(config, ring_tiles=0, memory_width=2, memory_bytes=4096)


CONFIG, DEPTHWISE = with_memory(test_multiply.CONFIG), with_memory(test_multiply.DEPTHWISE)


class Bench(test_multiply.Bench):
    """`moves`, `hold`: the cycles in which MOVE gives a token, or holds the next pass."""

    engine = MemoryMultiply

    def __init__(self, *arguments, moves=(), hold=lambda cycle: False):
        super().__init__(*arguments)
        self.moves, self.hold, self.there = set(moves), hold, 0
        self.takes, self.posts, self.held, self.lost, self.loaded = [], [], [], [], []

    def besides(self, ctx, cycle):
        dut = self.dut
        ctx.set(dut.move.there, self.there > 0)
        ctx.set(dut.hold, self.hold(cycle))
        if self.hold(cycle):
            self.held.append(cycle)
        if ctx.get(dut.move.take):
            assert self.there
            self.takes.append(cycle)
        self.there += (cycle in self.moves) - ctx.get(dut.move.take)
        if ctx.get(dut.post_move):
            self.posts.append(cycle)
        if ctx.get(dut.lost):
            self.lost.append(cycle)
        if ctx.get(dut.tiles.load.en):
            self.loaded.append(cycle)


@pytest.mark.parametrize("seed", range(4))
def test_random_program(seed):
    """Tokens of both kinds, banks and holds at random, addresses turned back: vectors and sums as the page says."""
    rng = random.Random(seed)
    store, muls, count = test_multiply.random_program(rng, lambda r: r.random() < 0.5, 14)
    for i in muls:
        i["wait"], i["wait_move"], i["post_move"] = (int(rng.random() < 0.5) for _ in range(3))
        if rng.random() < 0.7:
            i |= dict(wrap_y=rng.choice([0, 1, 2, 3, 4095]), wrap_size=rng.choice([1, 10, 64, 4000, 2**20 - 1]))
    act = test_multiply.memory(DEPTHWISE, seed)
    vectors, _, released = expected(DEPTHWISE, muls, range(count), store, act)
    tokens, freed = sum(i["wait"] for i in muls), 0
    cycles = len(vectors) + 90 * len(muls) + 50 * len(released)
    moves = rng.sample(range(cycles // 2), sum(i["wait_move"] for i in muls))
    holds = {k for at in rng.sample(range(cycles), cycles // 20) for k in range(at, at + 6)}

    def give(cycle, bench):
        nonlocal tokens, freed
        token, free = tokens > 0 and rng.random() < 0.05, freed < len(bench.ready) and rng.random() < 0.1
        tokens, freed = tokens - token, freed + free
        return int(token), int(free)

    loads = [raw(isa.LOAD, count=1, tile=k) for k in range(count)]
    words = [raw(isa.MUL, **i) for i in muls]
    bench = Bench(DEPTHWISE, LATENCIES[0], store, act, loads, words, give, moves=moves, hold=holds.__contains__)
    bench.run(cycles).check(muls, range(count))
    for k, (a, b) in enumerate(zip(bench.issued, bench.issued[1:])):
        assert b - a == 1 or vectors[k + 1][2], "a bubble inside a pass"
    starts = [at - 1 for at, (_, _, first, _) in zip(bench.issued, vectors) if first]
    assert bench.held and not set(starts) & set(bench.held)
    first_of = [next(k for k, v in enumerate(vectors) if v[3] == n) for n in range(len(muls))]
    assert bench.takes == [bench.issued[first_of[n]] - 1 for n, i in enumerate(muls) if i["wait_move"]]
    # A token is given with the last vector, when its activations are read and all its tiles are on their way.
    last_of = [max(k for k, v in enumerate(vectors) if v[3] == n) for n in range(len(muls))]
    give_after = bench.dut.timing.load_delay
    assert bench.posts == [bench.issued[last_of[n]] + give_after for n, i in enumerate(muls) if i["post_move"]]
    assert give_after > bench.dut.timing.read_delay
    passes = [sum(v[2] for v in vectors[: k + 1]) for k in last_of]
    ends = [bench.loaded[p - 1] for p, i in zip(passes, muls) if i["post_move"]]
    assert all(load < post + 2 for load, post in zip(ends, bench.posts))
    assert not bench.lost


def test_causes():
    """A missing token, a held pass, and a LOAD that waits are MEMORY; the cycle after the token begins the pass."""
    store = {k: dict(offset=0, x=0, y=0, skip=0, last=1) for k in range(2)}
    muls = [BLANK | dict(width=2, wait_move=k == 0) for k in range(2)]
    bench = Bench(
        CONFIG, LATENCIES[0], store, test_multiply.memory(CONFIG, 5), [raw(isa.LOAD, count=2)],
        [raw(isa.MUL, **i) for i in muls], moves=[10], hold=lambda cycle: 13 <= cycle < 20,
    )  # fmt: skip
    bench.run(40).check(muls, range(2))
    c = Cause
    want = [c.FETCH] * 2 + [c.MEMORY] * 10 + [c.MULTIPLY] * 2 + [c.MEMORY] * 7 + [c.MULTIPLY] * 2
    assert bench.causes == want + [c.FETCH] * (40 - len(want))
    assert bench.issued == [12, 13, 21, 22]


def test_too_many_data_tokens():
    bench = Bench(
        CONFIG, LATENCIES[0], {}, test_multiply.memory(CONFIG, 5), [], [], lambda cycle, _: (2 <= cycle < 258, 0)
    )
    assert bench.run(270).lost == [2 + timing.TOKENS]


@pytest.mark.parametrize("name", test_tail.CONFIGS)
def test_tail_with_holds(name):
    """Results are those without holds; after a hold of as long as asked for there is a cycle without a read."""
    config, latency = test_tail.CONFIGS[name]
    config = replace(config, memory_width=1, memory_bytes=4096)
    rng = np.random.default_rng(list(name.encode()))
    instructions = test_tail.program(rng, config, 24)
    for op, f in instructions:
        if op is isa.TAIL:
            f["post_move"] = int(rng.integers(2))
    reference = test_tail.Reference(config, rng)
    events = {"held": 0, "posts": 0, "reads": 0, "waited": 0}
    hold = False

    def besides(ctx, dut, clock):
        nonlocal hold
        if not hold and rng.random() < 0.3:
            hold, events["waited"] = True, 0
        ctx.set(dut.hold, hold)
        reads = ctx.get(dut.acc.r_en)
        events["reads"] += reads
        events["posts"] += ctx.get(dut.post_move)
        if hold:
            events["waited"] += 1
            assert events["waited"] <= 3, "a hold takes hold in three cycles"
        if hold and not reads:
            hold = False
            events["held"] += 1

    acc, act, seen = test_tail.simulate(
        config, latency, reference, instructions, [0] * len(instructions), lambda: 0, rng, MemoryTail, besides
    )
    for op, f in instructions:
        reference.run(op, f)
    assert act == reference.act and acc == reference.acc
    assert len(seen["posts"]) == reference.tokens and len(seen["frees"]) == reference.freed
    assert events["posts"] == sum(f.get("post_move", 0) for _, f in instructions)
    assert events["held"] > 50


def simulate(dut, bench):
    top = Module()
    top.submodules.dut = dut
    top.d.sync += Signal().eq(0)  # a clock for a unit without one
    sim = Simulator(top)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_token_counter():
    """Against a number: none is lost up to the limit, one more is told."""
    dut, rng = TokenCounter(), random.Random(1)

    async def bench(ctx):
        count = 0
        for cycle in range(3000):
            give, take = rng.random() < (0.9 if cycle < 1000 else 0.4), count > 0 and rng.random() < 0.45
            ctx.set(dut.give, give)
            ctx.set(dut.token.take, take)
            over = give and not take and count == timing.TOKENS
            assert ctx.get(dut.token.there) == (count > 0) and ctx.get(dut.lost) == over
            if over:
                return
            count += give - take
            await ctx.tick()
        raise AssertionError("the limit was not reached")

    simulate(dut, bench)


def test_token_gate():
    """Bit 0 of an instruction asks: it passes with its token, the others at once, none overtakes."""
    dut, rng = TokenGate(8, lambda payload: payload[0]), random.Random(2)
    words = [rng.getrandbits(8) for _ in range(60)]

    async def bench(ctx):
        left, got, tokens = list(words), [], 0
        for _ in range(1000):
            tokens += rng.random() < 0.1
            ctx.set(dut.i.valid, bool(left))
            ctx.set(dut.i.payload, left[0] if left else 0)
            ctx.set(dut.o.ready, rng.random() < 0.5)
            ctx.set(dut.token.there, tokens > 0)
            assert ctx.get(dut.waits) == bool(left and left[0] & 1 and not tokens)
            moved = ctx.get(dut.o.valid) and ctx.get(dut.o.ready)
            assert moved == (ctx.get(dut.i.valid) and ctx.get(dut.i.ready))
            assert ctx.get(dut.token.take) == (moved and left[0] & 1)
            if moved:
                got.append(ctx.get(dut.o.payload))
                tokens -= left.pop(0) & 1
            await ctx.tick()
        assert got == words

    simulate(dut, bench)

"""The multiply and weight engines against a direct reading of docs/architecture.md.

The units around them are stand-ins in the testbench: memories with a latency, one row of shadow and active weights,
the array's sum (from the vectors it was shown), accumulators. Times are asserted exactly.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import Fragment, Module
from amaranth.lib import wiring
from amaranth.sim import Simulator

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.act_memory import ActMemory
from lepton.rtl.array import Array
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.spec.isa import Cause
from lepton.rtl.weight_store import WeightStore

CONFIG = NpuConfig(rows=6, cols=4, lanes=4, act_bytes=1024, weight_tiles=64, ring_tiles=8, acc_depth=64)
DEPTHWISE = NpuConfig(rows=9, cols=4, lanes=4, act_bytes=1024, weight_tiles=64, acc_depth=64)
AROUND = ("act_read", "weight_load", "array", "acc_sum")
"""What of `Timing` is as long as the units around the engine take; the bench stands in for them."""
LATENCIES = [(3, 2, 5, 3), (1, 1, 4, 1), (2, 5, 6, 2), (1, 4, 3, 3)]


def raw(op, **values):
    return sum(w << 64 * i for i, w in enumerate(isa.encode(op, **values)))


def pack(descriptor):
    out = at = 0
    for f in isa.DESCRIPTOR:
        out |= (descriptor.get(f.name, 0) & ((1 << f.bits) - 1)) << at
        at += f.bits
    return out


def expected(config, muls, tiles, store, act, outside=None):
    """Vectors in order: (tile, lanes, swap, instruction), and sums in order: (vector index, bank, entry, init).

    Vectors that read beyond the activation memory are appended to `outside`.
    """
    width = max(config.rows, config.cols)
    tiles = iter(tiles)
    vectors, sums, released = [], [], []
    bank = 0
    for n, i in enumerate(muls):
        entry_base = i["acc_base"]
        for g in range(i["groups"]):
            first = True
            while True:
                tile = next(tiles)
                d = store[tile]
                dw = i["depthwise"]
                outputs = {}
                if dw:
                    for p in range(i["height"]):
                        for q in range(i["out_width"]):
                            at = d["skip"] * i["width"] + config.taps - 1
                            at += p * i["width"] * i["subsample"] + q * i["subsample"]
                            outputs[at] = p * i["out_width"] + q
                count = max(outputs) + 1 if dw else i["width"] * i["height"]
                for v in range(count):
                    oy, ox = divmod(v, i["width"])
                    step = g * i["group_step"]
                    a = i["address"] + step + d["offset"] + oy * i["row_step"] + ox * i["x_step"]
                    x = i["x"] + step + d["x"] + ox * i["x_step"]
                    y = i["y"] + d["y"] + oy * i["y_step"]
                    a -= i["wrap_size"] if y >= i["wrap_y"] else 0
                    lanes = [
                        int(act[(a + j) % config.act_bytes])
                        if 0 <= x + j < i["x_limit"] and 0 <= y < i["y_limit"]
                        else i["zero_point"]
                        for j in range(width)
                    ]
                    if outside is not None and any(
                        (a + j) % 2**20 >= config.act_bytes
                        for j in range(width)
                        if 0 <= x + j < i["x_limit"] and 0 <= y < i["y_limit"]
                    ):
                        outside.append(len(vectors))
                    e = outputs.get(v) if dw else (0 if i["still"] else v)
                    if e is not None:
                        init = i["init"] and first and not (i["still"] and v)
                        sums.append((len(vectors), bank, (entry_base + e) % 1024, int(init)))
                    vectors.append((tile, lanes, int(v == 0), n))
                first = False
                if d["last"]:
                    break
            if i["stack"]:
                size = i["height"] * i["out_width"] if dw else 1 if i["still"] else i["width"] * i["height"]
                entry_base += size
            if i["release"] and (not i["stack"] or g == i["groups"] - 1):
                released.append(len(vectors) - 1)
                bank ^= 1
    return vectors, sums, released


class Bench:
    """Runs the engine; collects what it did, cycle by cycle."""

    engine = MultiplyEngine

    def __init__(self, config, latencies, store, act, loads, muls, give=lambda cycle, bench: (0, 0), ring=None):
        self.config, self.store, self.act = config, store, act
        self.dut = self.engine(config, replace(timing.of(config), **dict(zip(AROUND, latencies))))
        self.latencies = latencies
        self.queues = {"i_load": list(loads), "i_mul": list(muls)}
        self.give = give
        self.ring_at = ring
        self.issued, self.swaps, self.vectors, self.sums, self.ready, self.causes = [], [], [], [], [], []
        self.bad_tiles, self.bad_addresses, self.bad_outputs = [], [], []
        self.bad, self.bad_outputs = [], []
        self.freed = self.arrived = 0
        self.idle_at = None

    def run(self, cycles):
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        sim.add_testbench(self._bench)
        self.cycles = cycles
        sim.run()
        return self

    async def _bench(self, ctx):
        dut, (act_l, weight_l, array_l, acc_l) = self.dut, self.latencies
        width = max(self.config.rows, self.config.cols)
        reads, loads, vector_of = {}, {}, {}
        descriptor = 0
        shadow = active = None
        for cycle in range(self.cycles):
            for name, queue in self.queues.items():
                port = dut.i if name == "i_mul" else dut.tiles.i
                ctx.set(port.valid, bool(queue))
                ctx.set(port.payload, queue[0] if queue else 0)
            self.besides(ctx, cycle)
            token, free = self.give(cycle, self)
            ctx.set(dut.banks.token, token)
            ctx.set(dut.banks.free, free)
            ctx.set(dut.tiles.descriptor.data, descriptor)
            ctx.set(dut.tiles.ring.count, self.arrived - self.freed)
            lanes = reads.pop(cycle, [85] * width)
            for j in range(width):
                ctx.set(dut.read.data[j], lanes[j])

            if ctx.get(dut.read.en):
                a = ctx.get(dut.read.addr)
                reads[cycle + act_l] = [int(self.act[(a + j) % len(self.act)]) for j in range(width)]
                self.issued.append(cycle - dut.timing.first_read + 1)
                vector_of[cycle - dut.timing.first_read + 1 + dut.timing.operands] = len(self.issued) - 1
            if ctx.get(dut.tiles.load.en):
                loads[cycle + weight_l] = ctx.get(dut.tiles.load.tile)
                self.freed += ctx.get(dut.tiles.ring.free)
            # Row 0: a swap takes the shadow as it was, a load in the same cycle then replaces it.
            if ctx.get(dut.vectors.swap):
                assert cycle in vector_of
                assert shadow is not None, "swapped in nothing"
                active, shadow = shadow, None
            if cycle in loads:
                assert shadow is None, "a shadow was overwritten"
                shadow = loads[cycle]
            if cycle in vector_of:
                act = [ctx.get(dut.vectors.act[j]) for j in range(width)]
                self.vectors.append((active, act, ctx.get(dut.vectors.swap), ctx.get(dut.vectors.depthwise)))
                self.line_delay = ctx.get(dut.vectors.line_delay)
            if ctx.get(dut.sums.en):
                vector = vector_of[cycle - array_l]
                self.sums.append((vector, ctx.get(dut.sums.bank), ctx.get(dut.sums.entry), ctx.get(dut.sums.init)))
            if ctx.get(dut.banks.ready):
                self.ready.append(vector_of[cycle - array_l - acc_l])
            if ctx.get(dut.bad_address):
                self.bad.append(cycle)
            if ctx.get(dut.bad_outputs):
                self.bad_outputs.append(cycle)
            self.causes.append(Cause(ctx.get(dut.cause)))
            if ctx.get(dut.idle):
                self.idle_at = self.idle_at or (cycle if self.issued else None)
            else:
                self.idle_at = None
            if ctx.get(dut.bad_address):
                self.bad_addresses.append(cycle)
            if ctx.get(dut.bad_outputs):
                self.bad_outputs.append(cycle)
            if ctx.get(dut.tiles.descriptor.en):
                if ctx.get(dut.tiles.descriptor.addr) >= self.config.weight_tiles:
                    self.bad_tiles.append(cycle + 1)
                descriptor = pack(self.store[ctx.get(dut.tiles.descriptor.addr)])
            for name, queue in self.queues.items():
                if queue and ctx.get((dut.i if name == "i_mul" else dut.tiles.i).ready):
                    queue.pop(0)
            if self.ring_at is not None and cycle in self.ring_at:
                self.arrived += 1
            await ctx.tick()

    def besides(self, ctx, cycle):
        """What else is to be set and seen in a cycle."""

    def check(self, muls, tiles):
        outside = []
        vectors, sums, released = expected(self.config, muls, tiles, self.store, self.act, outside)
        assert [c for c, cause in enumerate(self.causes) if cause == Cause.MULTIPLY] == self.issued
        got = [(tile, act, swap, dw) for tile, act, swap, dw in self.vectors]
        assert len(got) == len(vectors)
        for k, (a, (tile, lanes, swap, n)) in enumerate(zip(got, vectors)):
            assert a == (tile, lanes, swap, muls[n]["depthwise"]), f"vector {k}"
        assert self.sums == sums
        assert self.ready == released
        # An entry is checked as its vector is issued, a read with the mask.
        path = self.dut.timing.operands
        late = 1 + min(path - 1, 2 if path >= 3 else 1)
        bad = {self.issued[v] + late for v in outside} | set(self.bad_tiles)
        bad |= {self.issued[v] + 1 for v, _, entry, _ in sums if entry >= self.config.acc_depth}
        assert self.bad_addresses == sorted(bad)
        assert self.bad_outputs == []


BLANK = {f.name: 0 for f in isa.MUL.fields if f.name != "opcode"}
BLANK |= dict(groups=1, width=1, height=1, subsample=1, out_width=1, x_limit=65535, y_limit=4095, release=1, init=1)


def near_the_edge(rng):
    """Addresses at both ends of 1024 bytes, and anywhere."""
    return rng.choice(
        [rng.randrange(1024), rng.randrange(-12, 4) % 2**20, 1024 + rng.randrange(-40, 4), rng.getrandbits(20)]
    )


def random_mul(rng, tile, store, depthwise=False):
    """One instruction and the tiles it uses, stored from `tile` on. Returns (fields, next tile)."""
    i = dict(BLANK)
    w, h = rng.choice([1, 1, 2, 3, 5]), rng.choice([1, 1, 2, 3])
    i |= dict(
        stack=rng.random() < 0.5,
        init=rng.random() < 0.7,
        release=rng.random() < 0.7,
        acc_base=rng.choice([rng.randrange(10), rng.randrange(10), 60, 600]),
        groups=rng.choice([1, 1, 2, 3]),
        width=w,
        height=h,
        address=near_the_edge(rng),
        x=rng.randrange(-12, 12),
        x_limit=rng.randrange(1, 40),
        x_step=rng.randrange(9),
        y=rng.randrange(-3, 3),
        y_limit=rng.randrange(1, 6),
        y_step=rng.randrange(4),
        row_step=rng.randrange(60),
        group_step=rng.randrange(10),
        zero_point=rng.randrange(-128, 128),
        line_delay=rng.getrandbits(10),
    )
    if depthwise:
        i |= dict(depthwise=1, width=rng.choice([2, 3, 5, 7]), subsample=rng.choice([1, 1, 2, 3]))
        i["out_width"] = rng.randrange(1, (i["width"] - 1) // i["subsample"] + 2)
    else:
        i["still"] = rng.random() < 0.3
    for _ in range(i["groups"]):
        count = rng.choice([1, 1, 2, 3])
        for k in range(count):
            store[tile] = dict(
                offset=rng.choice([0, 0, rng.randrange(-20, 20) % 2**20, rng.getrandbits(20)]),
                x=rng.randrange(-20, 20),
                y=rng.randrange(-4, 4),
                skip=rng.randrange(3),
                last=int(k == count - 1),
            )
            tile += 1
    return {k: int(v) for k, v in i.items()}, tile


def random_program(rng, depthwise=lambda rng: False, most=40):
    store, muls, tile = {}, [], 0
    while True:
        i, after = random_mul(rng, tile, store, depthwise(rng))
        if after > most:
            break
        muls.append(i)
        tile = after
    muls[-1]["release"] = 1
    return store, muls, tile


def memory(config, seed):
    return np.random.default_rng(seed).integers(-128, 128, config.act_bytes)


@pytest.mark.parametrize("latencies", LATENCIES)
@pytest.mark.parametrize("kind", ["conv", "depthwise", "mixed"])
def test_random_program_without_waits(latencies, kind):
    """All there from the beginning, banks given back at once: no bubble from the first vector to the last."""
    config = CONFIG if kind == "conv" else DEPTHWISE
    rng = random.Random(f"{latencies} {kind}")
    pick = {"conv": lambda r: False, "depthwise": lambda r: True, "mixed": lambda r: r.random() < 0.5}[kind]
    store, muls, count = random_program(rng, pick, 20 if kind == "conv" else 12)
    act = memory(config, 3)
    vectors, _, released = expected(config, muls, range(count), store, act)
    starts_taken = 0

    def give(cycle, bench):
        nonlocal starts_taken  # give a bank back whenever a released pass has begun to issue
        done = sum(1 for r in released if r < bench.causes.count(Cause.MULTIPLY))
        if starts_taken < done:
            starts_taken += 1
            return 0, 1
        return 0, 0

    cut = rng.randrange(1, count)
    loads = [raw(isa.LOAD, count=cut, tile=0), raw(isa.LOAD, count=count - cut, tile=cut), raw(isa.LOAD, count=0)]
    bench = Bench(config, latencies, store, act, loads, [raw(isa.MUL, **i) for i in muls], give)
    bench.run(len(vectors) + 60).check(muls, range(count))
    # LOAD accepted in cycle 0, its first tile is queued in 3, starts then; issued from 4.
    gaps = [b - a for a, b in zip(bench.issued, bench.issued[1:])]
    assert bench.issued[0] == 4
    if all(r2 - r1 > 1 for r1, r2 in zip(released, released[1:])):
        assert set(gaps) <= {1}
    last = bench.issued[-1]
    assert bench.idle_at == last + bench.dut.timing.sums + latencies[3] + 1


@pytest.mark.parametrize("stack", [0, 1])
def test_one_vector_a_tile(stack):
    """Fully connected: a tile, and with `stack` a group, every cycle, on into the next instruction."""
    store = {k: dict(offset=k * 3, x=0, y=0, skip=0, last=int(stack or k % 6 == 5)) for k in range(24)}
    muls = [BLANK | dict(groups=6 if stack else 1, stack=stack, x_limit=1000) for _ in range(4)]
    act = memory(CONFIG, 4)
    frees = {12, 18, 24}
    bench = Bench(
        CONFIG, LATENCIES[0], store, act, [raw(isa.LOAD, count=24)], [raw(isa.MUL, **i) for i in muls],
        lambda cycle, b: (0, cycle in frees),
    )  # fmt: skip
    bench.run(60).check(muls, range(24))
    assert bench.issued == list(range(4, 28))


@pytest.mark.parametrize("seed", range(4))
def test_random_program_with_waits(seed):
    """Tokens and banks come late and at random: the same vectors and sums, every pass without gaps."""
    rng = random.Random(seed)
    store, muls, count = random_program(rng, lambda r: r.random() < 0.5, 14)
    for i in muls:
        i["wait"] = int(rng.random() < 0.6)
    act = memory(DEPTHWISE, seed)
    vectors, _, released = expected(DEPTHWISE, muls, range(count), store, act)
    tokens, freed = sum(i["wait"] for i in muls), 0

    def give(cycle, bench):
        nonlocal tokens, freed
        token, free = tokens > 0 and rng.random() < 0.05, freed < len(bench.ready) and rng.random() < 0.1
        tokens, freed = tokens - token, freed + free
        return int(token), int(free)

    loads = [raw(isa.LOAD, count=1, tile=k) for k in range(count)]
    bench = Bench(DEPTHWISE, LATENCIES[seed], store, act, loads, [raw(isa.MUL, **i) for i in muls], give)
    bench.run(len(vectors) + 60 * len(muls) + 50 * len(released)).check(muls, range(count))
    for k, (a, b) in enumerate(zip(bench.issued, bench.issued[1:])):
        assert b - a == 1 or vectors[k + 1][2], "a bubble inside a pass"


def test_waits_and_causes():
    store = {k: dict(offset=0, x=0, y=0, skip=0, last=1) for k in range(4)}
    muls = [BLANK | dict(width=2, wait=k == 1) for k in range(4)]
    act = memory(CONFIG, 5)
    bench = Bench(
        CONFIG, LATENCIES[0], store, act, [raw(isa.LOAD, count=4)], [raw(isa.MUL, **i) for i in muls],
        lambda cycle, b: (cycle == 10, cycle in (20, 30)),
    )  # fmt: skip
    bench.run(60).check(muls, range(4))
    # A token given in cycle 10 lets a pass start in 11, its first vector is issued in 12; banks alike.
    assert bench.issued == [4, 5, 12, 13, 22, 23, 32, 33]
    c = Cause
    want = [c.FETCH] * 2 + [c.WEIGHTS] * 2 + [c.MULTIPLY] * 2 + [c.ACTIVATIONS] * 6 + [c.MULTIPLY] * 2
    want += [c.TAIL] * 8 + [c.MULTIPLY] * 2 + [c.TAIL] * 8 + [c.MULTIPLY] * 2
    assert bench.causes == want + [c.FETCH] * (60 - len(want))


def test_tokens_come_while_others_are_taken():
    """A token a cycle, a pass every two: none is lost in the cycles in which one comes and one goes."""
    store = {k: dict(offset=k, x=0, y=0, skip=0, last=1) for k in range(8)}
    muls = [BLANK | dict(width=2, wait=1, init=k == 0, release=k == 7) for k in range(8)]
    bench = Bench(
        CONFIG, LATENCIES[0], store, memory(CONFIG, 7), [raw(isa.LOAD, count=8)], [raw(isa.MUL, **i) for i in muls],
        lambda cycle, b: (10 <= cycle < 18, 0),
    )  # fmt: skip
    bench.run(60).check(muls, range(8))
    assert bench.issued == list(range(12, 28))


def test_a_bank_kept_over_instructions():
    store = {k: dict(offset=k, x=0, y=0, skip=0, last=1) for k in range(6)}
    muls = [BLANK | dict(release=k % 3 == 2, init=k % 3 == 0, width=2) for k in range(6)]
    bench = Bench(
        CONFIG, LATENCIES[0], store, memory(CONFIG, 6), [raw(isa.LOAD, count=6)], [raw(isa.MUL, **i) for i in muls]
    )
    bench.run(50).check(muls, range(6))
    assert bench.issued == list(range(4, 16)) and bench.ready == [5, 11]


def test_external_tiles_wait_for_the_ring():
    """Twenty tiles through a ring of eight, starting at its first tile and wrapping; two LOADs run on."""
    base, ring = CONFIG.resident_tiles, CONFIG.ring_tiles
    store = {base + k: dict(offset=k, x=0, y=0, skip=0, last=1) for k in range(ring)}
    muls = [BLANK | dict(groups=20, stack=1, x_limit=100)]
    arrivals = {5 + 4 * k for k in range(20)}
    loads = [raw(isa.LOAD, external=1, count=13, address=77), raw(isa.LOAD, external=1, count=7)]
    bench = Bench(
        CONFIG, LATENCIES[0], store, memory(CONFIG, 7), loads, [raw(isa.MUL, **i) for i in muls], ring=arrivals
    )
    bench.run(130).check(muls, [base + k % ring for k in range(20)])
    # Complete in cycle c (counted from c + 1): descriptor read in c + 1, start in c + 3, issue in c + 4.
    assert bench.issued == [c + 4 for c in sorted(arrivals)]
    assert bench.freed == 20 and Cause.WEIGHTS in bench.causes


def test_tiles_beyond_the_store():
    """Each descriptor read there is an address outside its memory; a LOAD may begin below and end above."""
    store = {60 + k: dict(offset=k, x=0, y=0, skip=0, last=1) for k in range(8)}
    muls = [BLANK | dict(groups=8, stack=1)]
    bench = Bench(
        CONFIG, LATENCIES[0], store, memory(CONFIG, 9), [raw(isa.LOAD, tile=60, count=8)], [raw(isa.MUL, **muls[0])]
    )
    bench.run(50).check(muls, range(60, 68))
    assert len(bench.bad_tiles) == 4


@pytest.mark.parametrize(
    "width, subsample, out_width, bad",
    [(5, 1, 5, 0), (5, 1, 6, 1), (5, 2, 3, 0), (5, 2, 4, 1), (5, 3, 2, 0), (5, 3, 3, 1), (1, 1, 1, 0), (1, 2, 2, 1)],
)
@pytest.mark.parametrize("skip", [0, 2])
def test_a_row_too_short_for_its_outputs(width, subsample, out_width, bad, skip):
    store = {0: dict(offset=0, x=0, y=0, skip=skip, last=1)}
    mul = BLANK | dict(depthwise=1, width=width, height=2, subsample=subsample, out_width=out_width)
    bench = Bench(
        DEPTHWISE, LATENCIES[0], store, memory(DEPTHWISE, 10), [raw(isa.LOAD, count=1)], [raw(isa.MUL, **mul)]
    )
    bench.run(80)
    end = skip * width + DEPTHWISE.taps - 1 + width - 1  # of the first output row
    assert bench.bad_outputs[:1] == [bench.issued[end] + 1] * bad


class Path(wiring.Component):
    """The engine with the real memories, array and accumulators around it."""

    def __init__(self, config):
        self.config = config
        super().__init__({})
        self.engine, self.act, self.store = MultiplyEngine(config), ActMemory(config), WeightStore(config)
        self.array, self.acc = Array(config), Accumulators(config)

    def elaborate(self, platform):
        m = Module()
        e, act, store, array, acc = self.engine, self.act, self.store, self.array, self.acc
        m.submodules += [e, act, store, array, acc]
        wiring.connect(m, e.tiles.load, store.load)
        wiring.connect(m, e.tiles.descriptor, store.descriptor)
        wiring.connect(m, store.o, array.tile)
        wiring.connect(m, e.read, act.read)
        wiring.connect(m, e.vectors, array.vectors)
        wiring.connect(m, e.sums, acc.sums)
        m.d.comb += acc.psum.eq(array.psum)
        return m


def test_reads_and_sums_outside_are_reported():
    """A pulse three cycles after a vector with an unmasked lane outside the memory, one after an entry outside."""
    config, rng = DEPTHWISE, random.Random(5)
    store, muls, bad = {}, [], []
    for k in range(60):
        near = rng.choice([0, config.act_bytes, 1 << 19])
        i = BLANK | dict(
            address=(near + rng.randrange(-14, 4)) % 2**20, x=rng.randrange(-12, 4), x_limit=rng.randrange(1, 20),
            x_step=rng.randrange(4), y=rng.randrange(-1, 2), y_limit=rng.randrange(1, 3), width=3,
        )  # fmt: skip
        if k % 20 == 19:
            i["acc_base"] = config.acc_depth - rng.randrange(3)
        for v in range(3):
            a, x = i["address"] + v * i["x_step"], i["x"] + v * i["x_step"]
            real = [j for j in range(9) if 0 <= x + j < i["x_limit"] and 0 <= i["y"] < i["y_limit"]]
            lanes = any((a + j) % 2**20 >= config.act_bytes for j in real)
            bad.append((lanes, i["acc_base"] + v >= config.acc_depth))
        store[k] = dict(offset=0, x=0, y=0, skip=0, last=1)
        muls.append(i)
    loads = [raw(isa.LOAD, count=60)]
    bench = Bench(
        config, LATENCIES[0], store, memory(config, 3), loads, [raw(isa.MUL, **i) for i in muls],
        lambda cycle, b: (0, cycle % 3 == 0 and cycle > 12 and cycle < 190),
    )  # fmt: skip
    bench.run(260)
    assert len(bench.issued) == 180
    expect = {c + 3 for c, (lanes, _) in zip(bench.issued, bad) if lanes}
    expect |= {c + 1 for c, (_, entry) in zip(bench.issued, bad) if entry}
    assert 20 < sum(lanes for lanes, _ in bad) < 160 and sum(entry for _, entry in bad) > 2
    assert set(bench.bad) == expect


@pytest.mark.parametrize("external", [0, 1])
def test_a_tile_beyond_the_store_is_reported(external):
    """Descriptors are read in cycles 1 and 2; of external tiles the field says nothing."""
    last = CONFIG.weight_tiles - 1
    loads = [raw(isa.LOAD, tile=last, count=2, external=external)]
    bench = Bench(CONFIG, LATENCIES[0], {k: {} for k in range(last + 2)}, memory(CONFIG, 3), loads, [], ring={0, 1})
    assert bench.run(12).bad == ([] if external else [3])


@pytest.mark.parametrize("width", [3, 4, 5, 6])
def test_a_row_without_room_for_its_outputs_is_reported(width):
    """Three outputs, two apart, need five positions; the pulse comes after the row's last one."""
    store = {0: dict(offset=0, x=0, y=0, skip=1, last=1)}
    i = BLANK | dict(depthwise=1, width=width, out_width=3, subsample=2, line_delay=width + 3)
    bench = Bench(DEPTHWISE, LATENCIES[0], store, memory(DEPTHWISE, 3), [raw(isa.LOAD, count=1)], [raw(isa.MUL, **i)])
    bench.run(40)
    end = bench.issued[0] + DEPTHWISE.taps - 1 + 2 * width
    assert bench.bad_outputs[:1] == ([] if width >= 5 else [end])


def test_ports_fit():
    config = get_config("small")
    engine, store = MultiplyEngine(config), WeightStore(config)
    assert len(engine.tiles.descriptor.data) == len(store.descriptor.data) == sum(f.bits for f in isa.DESCRIPTOR)
    # Load and activations meet: the load arrives one cycle before the swap.
    arrives = engine.timing.load_delay + WeightStore.LATENCY
    assert arrives == 1 + engine.timing.operands - 1
    Fragment.get(engine, None), Fragment.get(store, None)


@pytest.mark.parametrize("pe", ["single", "paired"])
@pytest.mark.parametrize("depthwise", [0, 1])
def test_sums_with_the_real_units(pe, depthwise):
    rows = 18 if pe == "paired" else 9
    config = NpuConfig(rows=rows, cols=4, lanes=4, pe=pe, act_bytes=256, weight_tiles=16, acc_depth=32, line_depth=16)
    rng = random.Random(f"{pe} {depthwise}")
    weights, store, tile, muls = {}, {}, 0, []
    for k in range(4):
        i = BLANK | dict(acc_base=k * 2, init=k % 2 == 0, release=k % 2, x_limit=50, x_step=4, row_step=20)
        i |= dict(width=5, height=2, zero_point=-7, address=rng.getrandbits(20), depthwise=depthwise)
        if depthwise:
            i |= dict(out_width=3, line_delay=5 + config.taps)
        elif k == 1:
            i |= dict(width=1, height=1)
        for n in range(3):
            store[tile] = dict(offset=rng.getrandbits(20), x=n, y=0, skip=2 * depthwise, last=n == 2)
            w = np.random.default_rng(tile).integers(-128, 128, (rows, config.cols))
            if pe == "paired" and depthwise:
                w[1::2] = 0
            weights[tile] = w
            tile += 1
        muls.append({k: int(v) for k, v in i.items()})
    act = memory(config, 8)
    vectors, sums, _ = expected(config, muls, range(tile), store, act)
    want = np.zeros((2, config.acc_depth, config.cols), np.int64)
    used = set()
    for v, bank, entry, init in sums:
        t, lanes, _, n = vectors[v]
        w = weights[t]
        total = np.zeros(config.cols, np.int64)
        if depthwise:
            for s in range(config.segments):
                for j in range(config.taps):
                    row = (config.taps * s + j) * (2 if pe == "paired" else 1)
                    total += w[row] * np.array(vectors[v - j - s * muls[n]["width"]][1][: config.cols])
        else:
            total += np.array(lanes[:rows]) @ w
        if pe == "paired":  # the bias gives this back
            total += (w[0::2] * w[1::2]).sum(axis=0)
        want[bank, entry] = total + (0 if init else want[bank, entry])
        used.add((bank, entry))

    dut = Path(config)
    got = {}

    async def bench(ctx):
        for a, value in enumerate(act):
            ctx.set(dut.act.write.en, 1)
            ctx.set(dut.act.write.addr, a)
            ctx.set(dut.act.write.count, 1)
            ctx.set(dut.act.write.data[0], int(value))
            await ctx.tick()
        ctx.set(dut.act.write.en, 0)
        for t, w in weights.items():
            word = pack(store[t]).to_bytes(isa.DESCRIPTOR_BYTES, "little") + w.astype(np.int8).tobytes()
            for k, value in enumerate(word):
                ctx.set(dut.store.write.en, 1)
                ctx.set(dut.store.write.tile, t)
                ctx.set(dut.store.write.byte, k)
                ctx.set(dut.store.write.data, value)
                await ctx.tick()
        ctx.set(dut.store.write.en, 0)
        await ctx.tick().repeat(3)
        queue = [raw(isa.MUL, **i) for i in muls]
        load = [raw(isa.LOAD, count=tile)]
        for cycle in range(len(vectors) + 80):
            for port, items in ((dut.engine.i, queue), (dut.engine.tiles.i, load)):
                ctx.set(port.valid, bool(items))
                ctx.set(port.payload, items[0] if items else 0)
                if items and ctx.get(port.ready):
                    items.pop(0)
            await ctx.tick()
        assert ctx.get(dut.engine.idle)
        for bank, entry in sorted(used):
            ctx.set(dut.acc.tail.bank, bank)
            ctx.set(dut.acc.tail.r_en, 1)
            ctx.set(dut.acc.tail.r_entry, entry)
            await ctx.tick()
            ctx.set(dut.acc.tail.r_en, 0)
            await ctx.tick().repeat(Accumulators.T_LATENCY - 1)
            got[bank, entry] = [ctx.get(dut.acc.tail.r_data[c]) for c in range(config.cols)]

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert got == {k: list(want[k]) for k in used}

"""Prefetch against lists: instructions passed on, bursts in order, tiles in the ring, never more than it holds."""

import random

import pytest
from amaranth.sim import Simulator

from lepton.rtl.prefetch import Prefetch
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig

CONFIGS = [
    NpuConfig(rows=2, cols=2, lanes=1, weight_tiles=16, ring_tiles=4),
    NpuConfig(rows=2, cols=3, lanes=1, weight_tiles=21, ring_tiles=5),
]


def raw(**values):
    return sum(w << 64 * i for i, w in enumerate(isa.encode(isa.LOAD, **values)))


def random_loads(rng, count):
    loads = []
    for _ in range(count):
        if rng.random() < 0.3:
            loads.append(dict(external=0, count=rng.randrange(9), tile=rng.getrandbits(10)))
        else:
            address = rng.choice([rng.getrandbits(32), 2**32 - 13, 255, 0])
            loads.append(dict(external=1, count=rng.choice([0, 1, 1, 2, 3, 6, 9]), address=address))
    return loads


class Bench:
    """Drives a Prefetch and compares every member in every cycle.

    `programs`: lists of LOADs, a clear between one and the next in the cycles `clears`; `chance`: of the other sides
    doing what they may in a cycle, by name.
    """

    def __init__(self, config, rng, programs, chance={}, clears=(), latency=3):
        self.config, self.rng, self.chance, self.clears, self.latency = config, rng, chance, set(clears), latency
        self.programs = [list(p) for p in programs]
        self.size = isa.word_bytes(isa.Region.WEIGHT, config)
        self.passed, self.requests, self.tiles, self.most = [], [], 0, 0

    def run(self, cycles):
        self.cycles, self.dut = cycles, Prefetch(self.config)
        sim = Simulator(self.dut)
        sim.add_clock(1e-8)
        sim.add_testbench(self._bench)
        sim.run()
        return self

    def _may(self, what):
        return self.rng.random() < self.chance.get(what, 1)

    async def _bench(self, ctx):
        dut, cfg, size, rng = self.dut, self.config, self.size, self.rng
        loads, offered, noted = self.programs.pop(0), False, False
        wanted = []  # addresses of the tiles of noted LOADs that were not requested yet
        due = []  # bytes to come: [first cycle, value, tile (None: stale), which byte]
        completed, freed = [], 0  # since the last clear: cycles of last bytes, tiles freed
        issued = 0  # requests since the last clear
        stale_offer, quiet = False, 0
        for cycle in range(self.cycles):
            clear = cycle in self.clears
            offered = offered or bool(loads) and self._may("load")
            byte = due[0] if due and due[0][0] <= cycle and self._may("byte") else None
            ring = sum(at <= cycle - 2 for at in completed) - freed
            free = ring > 0 and not clear and self._may("free")
            ctx.set(dut.clear, clear)
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.i.payload, raw(**loads[0]) if offered else rng.getrandbits(128))
            ctx.set(dut.o.ready, self._may("pass"))
            ctx.set(dut.x_req.ready, self._may("request"))
            ctx.set(dut.x_data.valid, byte is not None)
            ctx.set(dut.x_data.payload, byte[1] if byte else rng.getrandbits(8))
            ctx.set(dut.ring.free, free)

            assert ctx.get(dut.ring.count) == ring, f"cycle {cycle}"
            assert ctx.get(dut.x_data.ready) == 1
            held = bool(wanted or due or (ctx.get(dut.x_req.valid)))
            assert not (ctx.get(dut.idle) and held), f"cycle {cycle}"
            quiet = 0 if held or offered or ctx.get(dut.idle) else quiet + 1
            assert quiet < 8, "never idle again"

            # The instruction: passed on in the same cycle, an external one when it is noted.
            valid, ready = ctx.get(dut.o.valid), ctx.get(dut.i.ready)
            if not offered:
                assert not valid
            else:
                load = loads[0]
                assert ready == (valid and ctx.get(dut.o.ready))
                assert not valid or ctx.get(dut.o.payload) == raw(**load)
                assert valid or (load["external"] and not noted)
                if valid and load["external"] and not noted:
                    noted = True
                    wanted += [(load["address"] + k * size) % 2**32 for k in range(load["count"])]

            # A byte is written in the cycle in which it comes.
            assert ctx.get(dut.write.en) == (byte is not None and byte[2] is not None)
            if byte:
                _, value, tile, k = due.pop(0)
                if tile is not None:
                    slot = cfg.resident_tiles + tile % cfg.ring_tiles
                    assert (ctx.get(dut.write.tile), ctx.get(dut.write.byte), ctx.get(dut.write.data)) == (
                        slot,
                        k,
                        value,
                    )
                    if k == size - 1:
                        completed.append(cycle)
                        self.tiles += 1

            if ctx.get(dut.x_req.valid) and ctx.get(dut.x_req.ready):
                request = ctx.get(dut.x_req.payload.address), ctx.get(dut.x_req.payload.length)
                if not stale_offer:
                    assert request == (wanted.pop(0), size), f"cycle {cycle}"
                    self.requests.append(cycle)
                    issued += 1
                    self.most = max(self.most, issued - freed)
                    assert issued - freed <= cfg.ring_tiles
                first = max(cycle + self.latency, due[-1][0] + 1 if due else 0)
                tile = None if stale_offer else issued - 1
                due += [[first + k, rng.getrandbits(8), tile, k] for k in range(size)]
                stale_offer = False
            elif clear:
                stale_offer = ctx.get(dut.x_req.valid)  # an offer is not withdrawn, its bytes are discarded
            freed += free
            if offered and ready:
                self.passed.append(loads.pop(0))
                offered = noted = False
            if clear:
                loads, offered, noted = self.programs.pop(0), False, False
                wanted, completed, freed, issued = [], [], 0, 0
                for item in due:
                    item[2] = None
            await ctx.tick()
        self.left = loads, wanted, due


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"ring{c.ring_tiles}")
@pytest.mark.parametrize("seed", range(3))
def test_random_loads(config, seed):
    """All sides stall at random: in the three seeds the memory, the ring and the engine are the slow one."""
    rng = random.Random(seed)
    loads = random_loads(rng, 16)
    slow = {name: 0.1 if n == seed else 0.7 for n, name in enumerate(("byte", "free", "pass"))}
    bench = Bench(config, rng, [loads], {"load": 0.8, "request": 0.4} | slow, latency=rng.choice([1, 3, 20]))
    bench.run(1000 if seed else 4000)
    assert bench.passed == loads and bench.left == ([], [], [])
    assert bench.tiles == sum(load["count"] for load in loads if load["external"]) > 12
    assert bench.most == config.ring_tiles


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"ring{c.ring_tiles}")
def test_requests_run_ahead_until_the_ring_is_full(config):
    loads = [dict(external=1, count=3, address=100), dict(external=1, count=9, address=77)]
    bench = Bench(config, random.Random(1), [loads], {"free": 0}, latency=50).run(300)
    more = config.ring_tiles - 3
    assert bench.requests == [3, 4, 5, *range(7, 7 + more)] and bench.tiles == config.ring_tiles


def test_two_runs_are_noted_before_their_turn():
    """The queue takes two more runs while one is under way; the fourth waits at the input."""
    loads = [dict(external=1, count=9, address=k) for k in range(4)]
    bench = Bench(CONFIGS[0], random.Random(2), [loads], {"free": 0}).run(100)
    assert len(bench.passed) == 3


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"ring{c.ring_tiles}")
@pytest.mark.parametrize("seed", range(3))
def test_clear_at_any_time(config, seed):
    """Bytes of bursts requested before a clear are discarded, whatever was held or on its way."""
    rng = random.Random(10 + seed)
    clears, at = [], 0
    while at < 1600:
        at += rng.choice([1, 4, 7, 20, 60, 120])
        clears.append(at)
    programs = [random_loads(rng, 8) for _ in clears] + [random_loads(rng, 6)]
    last = len(programs[-1])
    bench = Bench(
        config, rng, programs, {"request": 0.5, "byte": 0.8, "free": 0.3}, clears, latency=rng.choice([1, 15])
    )
    bench.run(2600)
    assert bench.left == ([], [], []) and len(bench.passed) >= last and bench.tiles > 20

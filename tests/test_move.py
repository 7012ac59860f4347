"""MoveEngine against copies of bytes: random instructions, a memory of any latency, ports that are taken at times."""

import random

import pytest
from amaranth.sim import Simulator

from lepton.rtl.move import MoveEngine
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Base, Space

SHAPES = {  # rows, cols, memory_width
    "4x4, 16": (4, 4, 16),
    "8x8, 16": (8, 8, 16),
    "16x16, 16": (16, 16, 16),
    "18x16, 16": (18, 16, 16),
    "8x8, 2": (8, 8, 2),
    "8x8, 4": (8, 8, 4),
    "3x2, 8": (3, 2, 8),
    "4x4, 1": (4, 4, 1),
}
MEMORY, ACT, TILES, PARAMS = 16384, 1024, 24, 40


def config_of(name, **changes):
    rows, cols, width = SHAPES[name]
    sizes = dict(act_bytes=ACT, weight_tiles=TILES, params=PARAMS, memory_bytes=MEMORY)
    return NpuConfig(name, rows=rows, cols=cols, lanes=1, memory_width=width, **(sizes | changes))


def beats_of(size, config):
    return -(-size // config.memory_width)


class Machine:
    """The memories, and what the specification says of MOVE."""

    def __init__(self, config, rng):
        self.config = config
        self.memory = bytearray(rng.randbytes(MEMORY))
        self.act = bytearray(rng.randbytes(ACT))
        self.bases = {Base.IMAGE: 16 * rng.randrange(16), Base.ARENA: 4096 + 16 * rng.randrange(64)}
        self.tiles = {}  # (tile, beat): bytes
        self.params = {}

    def move(self, f):
        start = self.bases[Base(f["base"])] + f["external"]
        flip = f["flip"] << 7
        if f["space"] != Space.ACT:
            into = self.tiles if f["space"] == Space.WEIGHT else self.params
            size = 6 + self.config.rows * self.config.cols  # a tile: two parts, each of whole beats
            each = beats_of(6, self.config) + beats_of(size - 6, self.config)
            each = each if f["space"] == Space.WEIGHT else beats_of(9, self.config)
            width = self.config.memory_width
            for n in range(f["length"]):
                for b in range(each):
                    at = start + (n * each + b) * width
                    into[f["chip"] + n, b] = bytes(self.memory[at : at + width])
            return
        for p in range(f["planes"]):
            for r in range(f["rows"]):
                for i in range(f["length"]):
                    e = (start + p * f["external_plane"] + r * f["external_step"] + i) % 2**32
                    c = (f["chip"] + p * f["chip_plane"] + r * f["chip_step"] + i) % 2**20
                    if f["store"]:
                        self.memory[e] = self.act[c] ^ flip
                    else:
                        self.act[c] = (f["value"] % 256 if f["fill"] else self.memory[e]) ^ flip


def random_move(rng, machine, big=False):
    """One whose accesses lie inside the memories; no two bytes of a store go to one."""
    config = machine.config
    f = {x.name: 0 for x in isa.MOVE.fields if not x.name.startswith(("pad", "opcode"))}
    f |= dict(rows=1, planes=1, base=rng.randrange(2))
    base = machine.bases[Base(f["base"])]
    kind = rng.choice(["load", "load", "load", "store", "store", "fill", "tiles", "params"])
    if kind in ("tiles", "params"):
        f["space"] = Space.WEIGHT if kind == "tiles" else Space.PARAM
        each = isa.memory_tile_bytes(config) if kind == "tiles" else isa.memory_param_bytes(config)
        f["length"] = rng.randrange(1, 6)
        f["chip"] = rng.randrange((TILES if kind == "tiles" else PARAMS) - f["length"] + 1)
        last = (MEMORY - base - f["length"] * each) // config.memory_width
        f["external"] = rng.randrange(last) * config.memory_width
        f |= dict(rows=rng.randrange(1, 4096), planes=rng.randrange(1, 4096), flip=0)  # ignored
        return f
    f["length"] = rng.choice([1, 2, 3, rng.randrange(1, 40), rng.randrange(1, 300 if big else 80)])
    f["rows"], f["planes"] = rng.choice([(1, 1), (rng.randrange(1, 6), 1), (rng.randrange(1, 4), rng.randrange(1, 4))])
    chip_step = rng.randrange(f["length"], f["length"] + 20)
    chip_plane = chip_step * f["rows"] + rng.randrange(10)
    span = chip_plane * f["planes"] + f["length"]
    if span > ACT - 1:
        f["rows"] = f["planes"] = 1
        span = f["length"]
    f["chip"] = rng.randrange(ACT - span + 1)
    f |= dict(chip_step=chip_step, chip_plane=chip_plane)
    if rng.random() < 0.2 and f["chip"] >= chip_step * f["rows"]:  # downwards
        f["chip"] = rng.randrange(span - f["length"], ACT - f["length"] + 1)
        f |= dict(chip_step=-chip_step % 2**20, chip_plane=-chip_plane % 2**20)
    step = rng.randrange(f["length"], f["length"] + 50)
    plane = step * f["rows"] + rng.randrange(60)
    space = plane * f["planes"] + f["length"]
    f["external"] = rng.randrange(MEMORY - base - space)
    f |= dict(external_step=step, external_plane=plane, flip=rng.randrange(2))
    if rng.random() < 0.2:
        f["external"] += space - f["length"]
        f |= dict(external_step=-step, external_plane=-plane)
    if kind == "store":
        f["store"] = 1
    if kind == "fill":
        f |= dict(fill=1, value=rng.randrange(-128, 128), external=rng.getrandbits(32))
    return f


class Harness:
    """The engine between stand-ins; `run` gives it instructions and returns when each token was posted."""

    def __init__(self, config, rng, latency=30, stall=0.0, busy=0.0, queue_stall=0.0):
        self.config, self.rng = config, rng
        self.machine = Machine(config, rng)
        self.memory, self.act = bytearray(self.machine.memory), bytearray(self.machine.act)
        self.tiles, self.params = {}, {}
        self.latency, self.stall, self.busy, self.queue_stall = latency, stall, busy, queue_stall
        self.dut = MoveEngine(config)
        self.posts = []
        self.errors = []
        self.beats = []  # cycles in which a beat came from memory
        self.requests = []
        self.tokens = {"mul": 0, "tail": 0}
        self.trace = []
        self.queue = []  # bursts under way
        self.given = []  # beats of writes that no burst was asked for yet, or behind others
        self.act_reads = {}  # by cycle
        self.visible = []  # (cycle, byte, value) of writes

    def run(self, moves, cycles=20000, give=None):
        words = [sum(w << 64 * i for i, w in enumerate(isa.encode(isa.MOVE, **f))) for f in moves]
        sim = Simulator(self.dut)
        sim.add_clock(1e-6)
        ended = []

        async def bench(ctx):
            ctx.set(self.dut.image, self.machine.bases[Base.IMAGE])
            ctx.set(self.dut.arena, self.machine.bases[Base.ARENA])
            for cycle in range(cycles):
                self._cycle(ctx, cycle, words, give or {})
                if not (words or self.queue or ctx.get(self.dut.i.valid)) and ctx.get(self.dut.idle):
                    ended.append(cycle)
                    await ctx.tick()
                    self.posts += [(cycle + 1, n) for n in ("load", "mul", "tail") if ctx.get(self._post(n))]
                    return
                await ctx.tick()

        sim.add_testbench(bench)
        sim.run_until(cycles * 1e-6 + 1e-5)
        return ended[0] if ended else None

    def _post(self, name):
        return getattr(self.dut, f"post_{name}")

    def _cycle(self, ctx, cycle, words, give):
        dut, rng, config = self.dut, self.rng, self.config
        width = config.memory_width
        # Instructions and tokens.
        offered = bool(words) and rng.random() >= self.queue_stall
        ctx.set(dut.i.valid, offered)
        ctx.set(dut.i.payload, words[0] if offered else rng.getrandbits(256))
        for name in ("mul", "tail"):
            self.tokens[name] += give.get((cycle, name), 0)
            ctx.set(getattr(dut, name).there, self.tokens[name] > 0)
        # Memory: bursts in order; a read's beats come `latency` after it and the writes before it.
        ctx.set(dut.memory.a.ready, len(self.queue) < 8 and rng.random() >= self.stall)
        ctx.set(dut.memory.w.ready, rng.random() >= self.stall)
        head = self.queue[0] if self.queue else None
        beat = None
        if head and not head["write"] and cycle >= head["due"] and rng.random() >= self.stall:
            beat = bytes(self.memory[head["at"] : head["at"] + width])
        ctx.set(dut.memory.r.valid, beat is not None)
        ctx.set(dut.memory.r.payload, int.from_bytes(beat or rng.randbytes(width), "little"))
        # The activation memory's ports.
        ctx.set(dut.read.ready, rng.random() >= self.busy)
        ctx.set(dut.write.ready, rng.random() >= self.busy)
        for byte, value in self.act_reads.pop(cycle, {}).items():
            ctx.set(dut.read.data[byte], value)
        self.visible, now = [x for x in self.visible if x[0] > cycle], [x for x in self.visible if x[0] <= cycle]
        for _, at, value in now:
            self.act[at] = value

        if ctx.get(dut.i.valid) and ctx.get(dut.i.ready):
            words.pop(0)
        for name in ("mul", "tail"):
            if ctx.get(getattr(dut, name).take):
                assert self.tokens[name]
                self.tokens[name] -= 1
                self.trace.append((cycle, f"take {name}"))
        if ctx.get(dut.memory.a.valid) and ctx.get(dut.memory.a.ready):
            a = dut.memory.a.payload
            address, beats, write = ctx.get(a.address), ctx.get(a.beats) + 1, ctx.get(a.write)
            assert address % width == 0 and address // 4096 == (address + beats * width - 1) // 4096
            assert beats * width <= max(timing.MEMORY_BURST, width)
            self.queue.append({"write": write, "at": address, "left": beats, "due": cycle + self.latency})
            self.requests.append((cycle, write, address, beats))
        if ctx.get(dut.memory.w.valid) and ctx.get(dut.memory.w.ready):
            self.trace.append((cycle, "given"))
            self.given.append((ctx.get(dut.memory.w.payload.data), ctx.get(dut.memory.w.payload.mask)))
        if beat is not None:
            assert ctx.get(dut.memory.r.ready)
            self.beats.append(cycle)
            self._next_beat()
        elif self.queue and self.queue[0]["write"] and self.given:
            data, mask = self.given.pop(0)
            at = self.queue[0]["at"]
            for k in range(width):
                if mask >> k & 1:
                    self.memory[at + k] = data >> 8 * k & 255
            self._next_beat()
        if ctx.get(dut.read.en) and ctx.get(dut.read.ready):
            at = ctx.get(dut.read.addr)
            size = len(dut.read.data)
            self.act_reads[cycle + timing.ACT_READ] = {k: self.act[(at + k) % ACT] for k in range(size)}
        if ctx.get(dut.write.en) and ctx.get(dut.write.ready):
            at, low, count = (ctx.get(getattr(dut.write, n)) for n in ("addr", "low", "count"))
            assert low < count
            self.trace.append((cycle, "write"))
            for k in range(low, count):
                self.visible.append((cycle + timing.ACT_WRITE, (at + k) % ACT, ctx.get(dut.write.data[k])))
        for port, into in ((dut.tiles, self.tiles), (dut.params, self.params)):
            if ctx.get(port.en):
                into[ctx.get(port.index), ctx.get(port.beat)] = ctx.get(port.data).to_bytes(width, "little")
        self.posts += [(cycle, n) for n in ("load", "mul", "tail") if ctx.get(self._post(n))]
        if ctx.get(dut.bad_address):
            self.errors.append(cycle)

    def _next_beat(self):
        self.queue[0]["at"] += self.config.memory_width
        self.queue[0]["left"] -= 1
        if not self.queue[0]["left"]:
            self.queue.pop(0)

    def check(self, moves):
        for f in moves:
            self.machine.move(f)
        for at, value in ((at, value) for _, at, value in self.visible):
            self.act[at] = value
        assert self.memory == self.machine.memory
        assert self.act == self.machine.act
        assert self.tiles == self.machine.tiles
        assert self.params == self.machine.params
        assert not self.errors


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(
    "latency, stall, busy, queue_stall",
    [
        (30, 0.0, 0.0, 0.0),
        pytest.param(3, 0.3, 0.4, 0.2, marks=pytest.mark.slow),
        (1, 0.7, 0.8, 0.9),
    ],
)
def test_random_moves(name, latency, stall, busy, queue_stall):
    rng = random.Random(f"{name} {latency}")
    config = config_of(name)
    harness = Harness(config, rng, latency, stall, busy, queue_stall)
    moves = [random_move(rng, harness.machine) for _ in range(16)]
    for f in moves:
        f |= {n: rng.randrange(2) for n in ("post_load", "post_mul", "post_tail")}
    assert harness.run(list(moves), cycles=60000)
    harness.check(moves)
    for n in ("load", "mul", "tail"):
        assert sum(x == n for _, x in harness.posts) == sum(f[f"post_{n}"] for f in moves)


def plain(**fields):
    f = {x.name: 0 for x in isa.MOVE.fields if not x.name.startswith(("pad", "opcode"))}
    return f | {"rows": 1, "planes": 1} | fields


def harness_of(name, **options):
    return Harness(config_of(name), random.Random(name), **options)


@pytest.mark.parametrize("name", ["16x16, 16", "8x8, 2", "4x4, 1"])
def test_a_beat_a_cycle(name):
    """A long run at a latency of 30 cycles: no cycle without a beat once they come; tiles of many bursts likewise."""
    harness = harness_of(name)
    width = harness.config.memory_width
    run = plain(length=60 * width, external=128)
    tiles = plain(space=Space.WEIGHT, length=6, external=1024)
    assert harness.run([run, tiles])
    harness.check([run, tiles])
    beats = 60, 6 * isa.memory_tile_bytes(harness.config) // width
    first, second = harness.beats[: beats[0]], harness.beats[beats[0] :]
    assert first == list(range(first[0], first[0] + beats[0]))
    assert second == list(range(second[0], second[0] + beats[1]))
    assert second[0] - first[-1] <= 3  # read ahead


def test_short_runs_follow_each_other():
    """A run of a beat or less costs a cycle on both sides, over planes and on into the next instruction."""
    harness = harness_of("8x8, 4", latency=1)
    moves = [
        plain(length=3, rows=5, planes=3, external_step=16, external_plane=100, chip_step=4, chip_plane=24, external=k)
        for k in (0, 1024)
    ]
    assert harness.run(list(moves))
    harness.check(moves)
    asked = [cycle for cycle, *_ in harness.requests]
    assert [b - a for a, b in zip(asked, asked[1:])].count(1) == 28
    writes = [cycle for cycle, what in harness.trace if what == "write"]
    assert len(writes) == 30 and writes[14] - writes[0] == 14


@pytest.mark.parametrize("what", ["load", "fill", "store", "tiles"])
def test_tokens_are_awaited(what):
    """Before the token nothing is asked for, read or written; then at once, and each is taken once."""
    harness = harness_of("8x8, 4")
    kind = {"load": {}, "fill": {"fill": 1}, "store": {"store": 1}, "tiles": {"space": Space.WEIGHT}}[what]
    moves = [plain(length=2, external=64, wait_mul=1, wait_tail=1, **kind) for _ in range(2)]
    give = {(50, "mul"): 1, (90, "tail"): 1, (300, "tail"): 1, (340, "mul"): 1}
    assert harness.run(list(moves), give=give)
    harness.check(moves)
    takes = [(cycle, event) for cycle, event in harness.trace if event.startswith("take")]
    assert [e for _, e in sorted(takes)] == ["take mul", "take tail"] * 2
    assert [c for c, _ in takes] == [90, 90, 340, 340]
    begun = (
        [c for c, event in harness.trace if event == "write"] if what == "fill" else [r[0] for r in harness.requests]
    )
    assert 90 < min(begun) < 110 and not any(200 < c <= 340 for c in begun) and max(begun) > 340
    assert not harness.tokens["mul"] and not harness.tokens["tail"]


def test_loads_read_ahead_and_stores_do_not():
    harness = harness_of("8x8, 4", busy=0.5, stall=0.5)
    loads = [plain(length=40, external=64 + 80 * k, chip=100 * k) for k in range(2)]
    store = plain(length=40, external=400, chip=100, store=1)
    after = plain(length=40, external=400, chip=300)
    moves = [*loads, store, after]
    for f in moves:
        f["post_mul"] = 1
    assert harness.run(list(moves))
    harness.check(moves)
    posts = [cycle for cycle, _ in harness.posts]
    assert len(posts) == 4
    reads, writes = ([c for c, write, _, _ in harness.requests if write == kind] for kind in (0, 1))
    assert sum(c < harness.beats[0] for c in reads) >= 2  # the second's burst before the first's beats
    assert min(writes) > posts[1]  # a store begins when all before it is on the chip
    assert posts[2] > max(c for c, what in harness.trace if what == "given")  # and ends with its last byte
    assert max(reads) > posts[2] and sum(c > posts[2] for c in reads) == sum(c > min(writes) for c in reads)


@pytest.mark.parametrize("name", ["8x8, 2", "16x16, 16"])
@pytest.mark.parametrize(
    "fields, bad",
    [
        (dict(chip=ACT - 5, length=5), False),
        (dict(chip=ACT - 5, length=6), True),
        (dict(chip=2**20 - 1, length=2), True),
        (dict(chip=ACT - 5, length=6, store=1), True),
        (dict(chip=ACT - 5, length=6, fill=1), True),
        (dict(chip=0, length=2, rows=3, chip_step=2**20 - 2), True),
        (dict(chip=10, length=2, rows=6, chip_step=2**20 - 2, external_step=4), False),
        (dict(space=Space.WEIGHT, chip=TILES - 2, length=2), False),
        (dict(space=Space.WEIGHT, chip=TILES - 2, length=3), True),
        (dict(space=Space.PARAM, chip=PARAMS - 2, length=2), False),
        (dict(space=Space.PARAM, chip=PARAMS - 2, length=3), True),
        (dict(external=MEMORY - 7, length=7), False),
        (dict(external=MEMORY - 7, length=8), True),
        (dict(external=MEMORY - 7, length=8, store=1), True),
        (dict(external=MEMORY - 7, length=8, fill=1), False),
        (dict(external=2**32 - 16, length=20), True),
        (dict(external=64, length=20, rows=3, external_step=-32), False),
        (dict(external=64, length=20, rows=4, external_step=-32), True),
        (dict(external=64, length=20, rows=2, planes=2, external_step=-32, external_plane=32, chip_plane=64), False),
    ],
)
def test_what_lies_outside(name, fields, bad):
    """The bad access is reported and not made; one at the very end of a memory is good."""
    harness = harness_of(name, latency=4)
    harness.machine.bases = dict.fromkeys(Base, 0)
    move = plain(**fields)
    ended = harness.run([move], cycles=400)
    assert bool(harness.errors) == bad and (ended is None or not bad)
    if not bad:
        harness.check([move])
    assert all(at + beats * harness.config.memory_width <= MEMORY for _, _, at, beats in harness.requests)
    assert all(0 <= at < ACT for at in range(len(harness.act)))
    assert all(tile < TILES for tile, _ in harness.tiles) and all(entry < PARAMS for entry, _ in harness.params)

"""Controller (Fetch and MultiplyEngine): random and directed programs, with late tokens, banks and a slow tail.

The units around it are stand-ins: memories with the real latencies, one row of shadow and active weights.
"""

import cocotb
import numpy as np

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.act_memory import ActMemory
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.isa import Cause
from lepton.rtl.weight_store import WeightStore
from lepton.verif.benches.common import (
    Bench,
    Checker,
    Part,
    Queues,
    Stall,
    StreamMonitor,
    bench_config,
    corner8,
    pack,
)
from lepton.verif.benches.differ import fields, unpack
from lepton.verif.coverage import functional as cover
from lepton.verif.random.programs import keep_rules

TILES = 400
ENTRIES = 1 << 10
"""Accumulator entries as an instruction numbers them."""
OPS = {"mul": isa.MUL, "load": isa.LOAD, "tail": isa.TAIL, "table": isa.TABLE}


def pack_descriptor(fields) -> int:
    out = at = 0
    for f in isa.DESCRIPTOR:
        out |= (fields[f.name] & (1 << f.bits) - 1) << at
        at += f.bits
    return out


def random_mul(rng, store):
    """Fields of a MUL; its tiles' descriptors are appended to `store`."""

    def r(low, high):
        return int(rng.integers(low, high))

    depthwise = r(0, 3) == 0
    i = {f.name: 0 for f in isa.MUL.fields if f.name != "opcode"}
    i |= dict(
        wait=r(0, 2), stack=r(0, 2), init=int(rng.random() < 0.7), release=int(rng.random() < 0.7), acc_base=r(0, 10),
        groups=int(rng.choice([1, 1, 2, 3])), width=int(rng.choice([1, 1, 2, 3, 5])),
        height=int(rng.choice([1, 1, 2, 3])), address=r(0, 1 << 20), x=r(-12, 12), x_limit=r(1, 40), x_step=r(0, 9),
        y=r(-3, 3), y_limit=r(1, 6), y_step=r(0, 4), row_step=r(0, 60), group_step=r(0, 10),
        zero_point=int(rng.choice([-128, 127, r(-128, 128)])), line_delay=r(0, 1 << 10), subsample=1, out_width=1,
    )  # fmt: skip
    if depthwise:
        i |= dict(depthwise=1, width=int(rng.choice([2, 3, 5, 7])), subsample=int(rng.choice([1, 1, 2, 3])))
        i["out_width"] = r(1, (i["width"] - 1) // i["subsample"] + 2)
    else:
        i["still"] = int(rng.random() < 0.3)
    for _ in range(i["groups"]):
        count = int(rng.choice([1, 1, 2, 3]))
        for k in range(count):
            store.append(dict(offset=r(0, 1 << 20), x=r(-20, 20), y=r(-4, 4), skip=r(0, 3), last=int(k == count - 1)))
    return i


def small_mul(store, descriptor=None, **fields):
    """Fields of a MUL of 2 x 2 vectors and one tile a group, but for these; its descriptors go to `store`."""
    i = {f.name: 0 for f in isa.MUL.fields if f.name != "opcode"}
    i |= dict(
        init=1, release=1, acc_base=3, groups=1, width=2, height=2, address=100, x_limit=40, x_step=3, y_limit=6,
        y_step=1, row_step=20, group_step=5, zero_point=3, out_width=1, subsample=1, line_delay=8,
    )  # fmt: skip
    i |= fields
    store += [dict(offset=0, x=0, y=0, skip=0, last=1) | (descriptor or {}) for _ in range(i["groups"])]
    return i


def directed_muls(store):
    """Every corner of every field and of descriptors, flags with each other, every kind of padding."""
    out = [small_mul(store), small_mul(store)]
    for field in isa.MUL.fields:
        for v in cover.field_corners(field):
            f = {field.name: v}
            if field.name == "opcode" or f"{field.name}={v}" in cover.POINTS["mul.fields"].unreachable:
                continue
            if field.name == "groups" and v > 1:
                f |= dict(width=1, height=1, release=0)
            elif field.name in ("width", "height") and v > 1:
                f |= {"width": 1, "height": 1, "still": 1} | f
            elif field.name == "acc_base" and v > 1:
                f |= dict(still=1)
            elif field.name == "out_width" and v > 1:
                f |= dict(depthwise=1, width=v, height=1)
            elif field.name == "subsample" and v > 1:
                f |= dict(depthwise=1, width=v + 1, out_width=2)
            elif field.name == "group_step":
                f |= dict(groups=2)
            out.append(small_mul(store, **f))
    for field in isa.DESCRIPTOR:
        for v in cover.field_corners(field):
            out.append(small_mul(store, {field.name: v}, depthwise=int(field.name == "skip")))
            if field.name == "last" and not v:  # three tiles
                store += [dict(store[-1]), dict(store[-1], last=1)]
    for flags in range(32):
        depthwise, stack, init, release, still = (flags >> k & 1 for k in range(5))
        if not (depthwise and still):
            f = dict(depthwise=depthwise, stack=stack, init=init, release=release, still=still)
            out.append(small_mul(store, groups=2, width=3, out_width=2, **f))
    out += [small_mul(store, x=-1, x_limit=1, x_step=0, zero_point=v) for v in cover.CORNERS]
    return [*out, small_mul(store)]


class Program:
    """Instructions whose LOADs run ahead of their MULs, at a random place in the program memory.

    `muls`: fields of the MULs, whose tiles' descriptors are in `store`. With a ring some LOADs are external.
    """

    def __init__(self, rng, config, muls, store):
        self.store, self.muls, self.tails = store, muls, []
        self.muls[-1]["release"] = 1
        self.base = config.weight_tiles if config.ring_tiles else int(rng.choice([0, (1 << 20) - len(store)]))
        """First tile's place in the store: at the start, or with the last at the end; not where the ring is."""
        self.external: list[int] = []
        """Tiles that come through the ring, in order."""
        edges = (1, 2, len(store) - 1, len(store))  # LOADs end here, so that one begins at the first and last place

        out: list[tuple[str, dict]] = []
        handed = needed = 0

        def load(count):
            nonlocal handed
            count = min(count, next(e for e in edges if e > handed) - handed)
            external = int(config.ring_tiles > 0 and rng.random() < 0.5)
            if external:
                self.external += range(handed, handed + count)
            at = int(rng.integers(0, 1 << 20)) if external else self.base + handed
            out.append(("load", dict(count=count, tile=at, external=external)))
            handed += count

        # All LOADs of a MUL's tiles stand before it, two at most: more would fill the queue and hold up the MUL itself.
        for i, size in zip(self.muls, self._sizes()):
            needed += size
            if 2 < handed < needed - 1 and needed < len(store) and rng.random() < 0.5:
                load(int(rng.integers(1, needed - handed)))
            if handed < needed:
                load(needed - handed + int(rng.integers(0, 9)))
            assert handed >= needed
            out.append(("mul", i))
            while rng.random() < 0.5:
                name = str(rng.choice(["tail", "table"]))
                fields = {
                    f.name: int(rng.integers(0, 1 << f.bits))
                    for f in OPS[name].fields
                    if f.name != "opcode" and not f.signed
                }
                fields = keep_rules(OPS[name], config, fields, rng)
                out.append((name, fields))
                raw = pack(isa.encode(OPS[name], **fields), 64)
                self.tails.append((name, raw))
        self.pc = int(rng.integers(0, 200))
        words = [w for name, fields in out for w in isa.encode(OPS[name], **fields)]
        self.words = [int(w) for w in rng.integers(0, 1 << 63, self.pc)] + words + isa.encode(isa.END)
        self.length = len(words)
        self.loads = [fields for name, fields in out if name == "load"]

    def _sizes(self):
        lasts = [n for n, d in enumerate(self.store) if d["last"]]
        out, group, before = [], 0, 0
        for i in self.muls:
            group += i["groups"]
            out.append(lasts[group - 1] + 1 - before)
            before = lasts[group - 1] + 1
        return out


class Model:
    """Vectors (tile, lanes, swap, depthwise), sums (vector, bank, entry, init), last vectors of released banks."""

    def __init__(self, config, program, act):
        self.vectors: list[tuple] = []
        self.sums: list[tuple] = []
        self.released: list[int] = []
        self._config, self._act, self._store = config, act, program.store
        tiles, bank = iter(range(len(program.store))), 0
        for i in program.muls:
            base = i["acc_base"]
            for g in range(i["groups"]):
                first = True
                while True:
                    tile = next(tiles)
                    self._pass(i, g, tile, first, bank, base)
                    first = False
                    if self._store[tile]["last"]:
                        break
                if i["stack"]:
                    columns = i["out_width"] if i["depthwise"] else i["width"]
                    base += 1 if i["still"] else columns * i["height"]
                if i["release"] and (not i["stack"] or g == i["groups"] - 1):
                    self.released.append(len(self.vectors) - 1)
                    bank ^= 1

    def _pass(self, i, g, tile, first, bank, base):
        config, d = self._config, self._store[tile]
        w, sub = i["width"], i["subsample"]
        lanes = np.arange(max(config.rows, config.cols))
        if i["depthwise"]:
            start = d["skip"] * w + config.taps - 1
            outputs = {
                start + p * w * sub + q * sub: p * i["out_width"] + q
                for p in range(i["height"])
                for q in range(i["out_width"])
            }
            count = max(outputs) + 1
        else:
            count = w * i["height"]
            outputs = {v: 0 if i["still"] else v for v in range(count)}
        for v in range(count):
            oy, ox = divmod(v, w)
            moved = g * i["group_step"] + ox * i["x_step"]
            a = i["address"] + d["offset"] + oy * i["row_step"] + moved
            x, y = i["x"] + d["x"] + moved + lanes, i["y"] + d["y"] + oy * i["y_step"]
            inside = (x >= 0) & (x < i["x_limit"]) & (0 <= y < i["y_limit"])
            self._note_padding(i, x, y)
            act = np.where(inside, self._act[(a + lanes) % config.act_bytes], i["zero_point"])
            if v in outputs:
                init = i["init"] and first and not (i["still"] and v)
                self.sums.append((len(self.vectors), bank, (base + outputs[v]) % ENTRIES, int(init)))
            self.vectors.append((tile, act.tolist(), int(v == 0), i["depthwise"]))

    @staticmethod
    def _note_padding(i, x, y):
        left, right = x < 0, x >= i["x_limit"]
        masked = left | right
        found = {
            "above": y < 0, "below": y >= i["y_limit"], "left": left.all(), "right": right.all(),
            "both sides": left.any() and right.any(), "inside": 0 <= y < i["y_limit"] and not masked.any(),
            "partly left": left.any() and not masked.all(), "partly right": right.any() and not masked.all(),
        }  # fmt: skip
        cover.hit("mul.padding", *(name for name, yes in found.items() if yes))
        if masked.any():
            cover.hit("mul.zero_point", i["zero_point"] if i["zero_point"] in cover.CORNERS else None)


def note(program):
    """Coverage of a program whose vectors and sums were right."""
    for i in program.muls:
        corners = {f.name: cover.field_corners(f) for f in isa.MUL.fields if f.name != "opcode"}
        cover.hit("mul.fields", *(f"{name}={i[name]}" for name, some in corners.items() if i[name] in some))
        flags: tuple[str, ...] = ("depthwise" if i["depthwise"] else "conv", "stack" if i["stack"] else "bank a group")
        flags += ("init" if i["init"] else "add", "release" if i["release"] else "keep")
        cover.hit("mul.modes", " ".join([*flags, "still" if i["still"] else "moving"]))
    for before, d in zip([{"last": 1}, *program.store], program.store):
        cover.hit("descriptor.fields", *(f"{f.name}={d[f.name]}" for f in isa.DESCRIPTOR
                                         if d[f.name] in cover.field_corners(f)))  # fmt: skip
        place = {(1, 1): "only", (1, 0): "first", (0, 0): "middle", (0, 1): "last"}[before["last"], d["last"]]
        cover.hit("mul.groups", f"{place} tile")
    for i in program.loads:
        cover.hit("load.fields", f"external={i['external']}", "count=1" if i["count"] == 1 else None)
        if not i["external"] and i["tile"] in (0, 1, (1 << 20) - 1):
            cover.hit("load.fields", f"tile={i['tile']}")


class Ring(Part):
    """The ring of external tiles: filled in order, late, each place again when its tile was taken."""

    def __init__(self, bench, config, external):
        self._pins, self._config, self._external = bench.pins, config, external
        self._stall = Stall(bench.rng, (0.0, 0.9, 0.98))
        self._filled = self._freed = 0
        self._content: dict[int, int] = {}

    def tile(self, place):
        """The number of the tile in this place of the store, or None if the place is not in the ring."""
        return self._content.get(place)

    def drive(self, cycle):
        config = self._config
        if not config.ring_tiles:
            return
        room = self._filled - self._freed < config.ring_tiles
        if not room:
            cover.hit("stall.external", "ring full")
        if room and self._filled < len(self._external) and not self._stall():
            place = config.resident_tiles + self._filled % config.ring_tiles
            self._content[place] = self._external[self._filled]
            self._filled += 1
        self._pins.set("ring__count", self._filled - self._freed)

    def sample(self, cycle):
        if self._pins.get("ring__free"):
            self._freed += 1
            assert self._freed <= self._filled, "a tile was taken that was not there"


class FetchWaits(Part):
    """Which queue the fetch waits for: a word is at hand for two cycles and not taken while one queue alone is full."""

    def __init__(self, bench):
        self._pins = bench.pins
        self._full = {q: bench.inner(f"fetch.queue_{q}.i__ready") for q in ("load", "mul", "tail")}
        self._at_hand = bench.inner("fetch.have")
        self._waited = False

    def sample(self, cycle):
        over = any(self._pins.get(pin) for pin in ("done_fetching", "error", "bad"))
        waits = bool(int(self._at_hand.value)) and not self._pins.get("moved") and not over
        full = [q for q, ready in self._full.items() if not int(ready.value)]
        if waits and self._waited and len(full) == 1:
            cover.hit("stall.fetch", *full)
        self._waited = waits


class Surroundings(Part):
    """Program, activation and weight memory, with noise where nothing was read; hands on what the controller did."""

    def __init__(self, bench, config, program, act, vectors, sums, ring):
        self._pins, self._rng, self._program, self._act, self._config = bench.pins, bench.rng, program, act, config
        self._vectors, self._sums, self._ring = vectors, sums, ring
        self._width = max(config.rows, config.cols)
        self.array_latency = timing.array(config)
        self._word = None
        self._descriptor = 0
        self._reads, self._loads, self._vector_of = {}, {}, {}
        self._issued = 0
        self._shadow = self._active = None
        self.causes = [0] * len(Cause)

    def drive(self, cycle):
        word = int.from_bytes(self._rng.bytes(8), "little") if self._word is None else self._word
        self._pins.set("start", cycle == 0)
        self._pins.set("pc", self._program.pc if cycle == 0 else int(self._rng.integers(1 << 16)))
        self._pins.set("program__data", word)
        self._pins.set("descriptor__data", self._descriptor)
        lanes = self._reads.pop(cycle, None)
        self._pins.set("read__data", pack(self._rng.integers(-128, 128, self._width) if lanes is None else lanes, 8))

    def _tile(self, place):
        tile = self._ring.tile(place)
        return place - self._program.base if tile is None else tile

    def sample(self, cycle):
        get = self._pins.get
        if get("program__en"):
            at = get("program__addr")
            self._word = self._program.words[at] if at < len(self._program.words) else 0
        else:
            self._word = None
        if get("read__en"):
            at = get("read__addr") + np.arange(self._width)
            self._reads[cycle + ActMemory.LATENCY] = self._act[at % self._config.act_bytes]
            self._vector_of[cycle + ActMemory.LATENCY + 1] = self._issued
            self._issued += 1
        if get("load__en"):
            self._loads[cycle + WeightStore.LATENCY] = self._tile(get("load__tile"))
        # A swap takes the shadow as it was; a load in the same cycle then replaces it.
        swap = get("vectors__swap")
        if swap:
            assert self._shadow is not None, f"cycle {cycle}: no tile to swap in"
            self._active, self._shadow = self._shadow, None
        if cycle in self._loads:
            assert self._shadow is None, f"cycle {cycle}: a tile that was never used is overwritten"
            self._shadow = self._loads.pop(cycle)
        if cycle in self._vector_of:
            self._vectors.put(
                (self._active, unpack(get("vectors__act"), 8, self._width), swap, get("vectors__depthwise"))
            )
        else:
            assert not swap, f"cycle {cycle}: swap without a vector"
        if get("sums__en"):
            vector = self._vector_of[cycle - self.array_latency]
            self._sums.put((vector, get("sums__bank"), get("sums__entry"), get("sums__init")))
        if get("descriptor__en"):
            self._descriptor = pack_descriptor(self._program.store[self._tile(get("descriptor__addr"))])
        self.causes[get("cause")] += 1

    def vector_at(self, cycle):
        """Number of the vector that was at the array in this cycle."""
        return self._vector_of.get(cycle)


class Handover(Part):
    """Gives tokens and banks late; checks when banks are handed over and that no other is written."""

    def __init__(self, bench, config, tokens, released, surroundings, sums):
        self._pins, self._tokens = bench.pins, tokens
        self._stall, self._token_stall = Stall(bench.rng, (0.2, 0.9, 0.98)), Stall(bench.rng, (0.9, 0.99, 0.998))
        self._released, self._surroundings, self._sums = released, surroundings, sums
        self._delay = surroundings.array_latency + Accumulators.A_LATENCY
        self._ready = self._freed = 0

    def drive(self, cycle):
        give = self._tokens > 0 and not self._token_stall()
        self._tokens -= give
        self._pins.set("banks__token", give)
        free = self._freed < self._ready and not self._stall()
        self._freed += free
        self._pins.set("banks__free", free)

    def sample(self, cycle):
        if self._pins.get("banks__ready"):
            assert self._ready < len(self._released), "a bank too many was handed over"
            assert self._surroundings.vector_at(cycle - self._delay) == self._released[self._ready]
            self._ready += 1
        # Of the two banks one may be filled before a bank came back: this vector's filling is the n-th.
        if self._pins.get("sums__en"):
            vector = self._surroundings.vector_at(cycle - self._surroundings.array_latency)
            filling = sum(1 for last in self._released if last < vector)
            assert filling <= self._freed + 1, f"cycle {cycle}: a bank that the tail still holds is written"

    @property
    def done(self):
        return self._ready == self._freed == len(self._released)


async def check(dut, name, muls_of):
    config = bench_config()
    bench = Bench(dut, "controller", name)
    store: list[dict] = []
    program = Program(bench.rng, config, muls_of(bench.rng, store), store)
    act = corner8(bench.rng, config.act_bytes)
    model = Model(config, program, act)
    vectors, sums = Checker("vector", model.vectors), Checker("sum", model.sums)
    tails = Checker("tail instruction", [raw for _, raw in program.tails], fields)
    bits = iter(64 * OPS[kind].words for kind, _ in program.tails)
    ring = Ring(bench, config, program.external)
    surroundings = Surroundings(bench, config, program, act, vectors, sums, ring)
    tokens = sum(i["wait"] for i in program.muls)
    handover = Handover(bench, config, tokens, model.released, surroundings, sums)
    tail = StreamMonitor(bench, "o_tail", lambda raw: tails.put(raw & (1 << next(bits)) - 1))

    def finished():
        pins = bench.pins
        return handover.done and tails.done and pins.get("done_fetching") and pins.get("idle")

    fetch = {q: f"fetch.queue_{q}" for q in ("load", "mul", "tail")}
    monitors = Queues(bench, fetch | {"tiles": "multiply.loader.queue"}), FetchWaits(bench)
    await bench.run(ring, surroundings, handover, tail, *monitors, until=finished, timeout=200_000, drain=30)
    for checker in (vectors, sums, tails):
        checker.finish()
    assert not bench.pins.get("error")
    assert surroundings.causes[Cause.MULTIPLY] == vectors.count
    cover.hit("stall.multiply", *(c.name for c in Cause if surroundings.causes[c]))
    note(program)
    cover.save()
    dut._log.info("%d vectors, %d sums, %d cycles", vectors.count, sums.count, bench.cycle)


def random_muls(rng, store):
    """One tile alone in front and at the end."""
    out = [small_mul(store), small_mul(store)]
    while len(store) < TILES:
        out.append(random_mul(rng, store))
    return [*out, small_mul(store)]


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_program(dut):
    await check(dut, "random_program", random_muls)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def another_random_program(dut):
    """Again after a reset in the same simulation."""
    await check(dut, "another_random_program", random_muls)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def directed_program(dut):
    await check(dut, "directed_program", lambda rng, store: directed_muls(store))

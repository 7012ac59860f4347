"""The cycle model: when everything happens, without computing anything.

`predict` replays a program with the timing rules that the units' docstrings state (`rtl/fetch.py`, `loader.py`,
`multiply.py`, `tail.py`): four processes that exchange only times. With on-chip weights the result equals the RTL's
counters, cycle for cycle.
External weights are taken to arrive at a given rate, which gives a bound.
"""

from dataclasses import dataclass, field

import numpy as np

from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Opcode
from lepton.rtl.spec.timing import FETCH_QUEUE, PARAM_CYCLES, TILE_QUEUE, TILE_WORDS, value_cycles

RUN_START = 16
"""Cycles an external LOAD may take besides its bytes: before the first burst and after the last byte."""


@dataclass
class Timing:
    """Cycles of one run, the cause of each, and when each instruction began and ended (cycles after start)."""

    cycles: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    """First word of a MUL or TAIL: (cycle its work began, cycle its last result was written)."""
    issues: list[tuple[int, int, int]] = field(default_factory=list)
    """Tile passes: (word of the MUL, first cycle, vectors)."""


class _Run:
    def __init__(self, config, words, descriptors, pc, external_descriptors, tile_cycles, shifts):
        self.config = config
        self.program = self._decode(words, pc)
        self.descriptors, self.external = descriptors, external_descriptors
        self.tile_cycles = tile_cycles
        self.shifts = shifts
        self.engine_free = {q: [0] for q in ("load", "mul", "tail")}  # compact: instruction i is taken from this cycle
        self.lat = timing.of(config)
        self.valid: dict[str, list[int]] = {
            q: [] for q in ("load", "mul", "tail")
        }  # instruction at the queue's head from this cycle on
        self.accept: dict[str, list[int]] = {q: [] for q in ("load", "mul", "tail")}
        self.tiles: list[tuple[int, int, int]] = []  # (usable from, skip, last)
        self.popped: list[int] = []
        self.ready: list[int] = []
        self.free: list[int] = []
        self.posts: list[int] = []
        self.timing = Timing()
        self.gaps = dict.fromkeys(Cause, 0)
        self.done_fetching = self.multiply_idle = self.tail_idle = 0

    @staticmethod
    def _decode(words, pc):
        program = []
        while True:
            op, values = isa.decode(words, pc)
            program.append((pc, op, values))
            if op is isa.END:
                return program
            pc += op.words

    def of(self, *opcodes):
        return [(pc, v) for pc, op, v in self.program if op.opcode in opcodes]

    def fetch(self):
        taken = self.lat.fetch - 1  # word k is taken in cycle start + latency + k
        target = {Opcode.LOAD: "load", Opcode.MUL: "mul", Opcode.TAIL: "tail", Opcode.TABLE: "tail"}
        for _, op, _ in self.program:
            taken += op.words
            if op is isa.END:
                break
            q = target[op.opcode]
            if self.config.compact:
                while len(self.engine_free[q]) <= len(self.valid[q]):
                    yield
                first = max(taken - op.words + 1, self.engine_free[q][len(self.valid[q])])
                taken = first + op.words - 1
                self.valid[q].append(first if op is isa.LOAD else taken)
                continue
            k = len(self.valid[q]) - FETCH_QUEUE
            if k >= 0:
                while len(self.accept[q]) <= k:
                    yield
                taken = max(taken, self.accept[q][k] + 1)
            self.valid[q].append(taken + 1)
        self.done_fetching = taken + 1

    def serial_loader(self):
        begin = 0
        for i, (_, v) in enumerate(self.of(Opcode.LOAD)):
            while len(self.valid["load"]) <= i:
                yield
            self.accept["load"].append(self.valid["load"][i])
            for tile in range(v["tile"], v["tile"] + v["count"]):
                while len(self.popped) < len(self.tiles):
                    yield
                begin = max([self.valid["load"][i], *self.popped[-1:]]) + 1
                skip, last = int(self.descriptors["skip"][tile]), int(self.descriptors["last"][tile])
                self.tiles.append((begin + TILE_WORDS, skip, last))
            self.engine_free["load"].append(begin + TILE_WORDS)

    def loader(self):
        if self.config.compact:
            yield from self.serial_loader()
            return
        d_en = -1
        ring = 0  # when the external stream delivers its next tile
        for i, (_, v) in enumerate(self.of(Opcode.LOAD)):
            while len(self.valid["load"]) <= i:
                yield
            accept = max(self.valid["load"][i], d_en)
            self.accept["load"].append(accept)
            d_en = max(d_en, accept)
            size = isa.word_bytes(isa.Region.WEIGHT, self.config)
            if v["external"]:
                table, first = self.external, v["address"] // size
                ring = max(ring, self.valid["load"][i]) + RUN_START
            else:
                table, first = self.descriptors, v["tile"]
            skips = table["skip"][first : first + v["count"]].tolist()
            lasts = table["last"][first : first + v["count"]].tolist()
            for skip, last in zip(skips, lasts):
                d_en += 1
                k = len(self.tiles) - TILE_QUEUE
                if k >= 0:
                    while len(self.popped) <= k:
                        yield
                    d_en = max(d_en, self.popped[k] + 1)
                if v["external"]:
                    ring += self.tile_cycles
                    d_en = max(d_en, ring)
                self.tiles.append((d_en + 2, skip, last))

    def multiply(self):
        end = 0  # last issue of the pass before
        start = 0
        banks = tokens = tile = 0
        taps = self.config.taps
        held = False
        gaps = self.gaps
        for i, (pc, v) in enumerate(self.of(Opcode.MUL)):
            while len(self.valid["mul"]) <= i:
                yield
            accept = max(self.valid["mul"][i], start)
            self.accept["mul"].append(accept)
            first_issue = None
            for group in range(v["groups"]):
                more = True
                while more:
                    t_instr = accept + 1
                    t_token = 0
                    if v["wait"] and first_issue is None:
                        while len(self.posts) <= tokens:
                            yield
                        t_token = self.posts[tokens] + 1
                        tokens += 1
                    t_bank = 0
                    if not held:
                        if banks >= 2:
                            while len(self.free) <= banks - 2:
                                yield
                            t_bank = self.free[banks - 2] + 1
                        banks += 1
                        held = True
                    while len(self.tiles) <= tile:
                        yield
                    t_tile, skip, last = self.tiles[tile]
                    at = end
                    for cause, t in (
                        (Cause.FETCH, t_instr),
                        (Cause.ACTIVATIONS, t_token),
                        (Cause.TAIL, t_bank),
                        (Cause.WEIGHTS, t_tile),
                    ):
                        if t > at:
                            gaps[cause] += t - at
                            at = t
                    start = at
                    self.popped.append(start)
                    tile += 1
                    if v["depthwise"]:
                        n = (
                            skip * v["width"]
                            + taps
                            + (v["height"] - 1) * v["width"] * v["subsample"]
                            + (v["out_width"] - 1) * v["subsample"]
                        )
                    else:
                        n = v["width"] * v["height"]
                    self.timing.issues.append((pc, start + 1, n))
                    if first_issue is None:
                        first_issue = start + 1
                    end = start + n
                    gaps[Cause.MULTIPLY] += n
                    more = not last
                if v["release"] and (not v["stack"] or group == v["groups"] - 1):
                    held = False
                    self.ready.append(end + self.lat.bank_ready)
            assert first_issue is not None  # a MUL has a group at least
            self.timing.spans[pc] = (first_issue, end + self.lat.sums)
            self.engine_free["mul"].append(end + self.lat.sums + 1)
        self.multiply_end = end
        self.multiply_idle = (self.ready[-1] if self.ready else end) + 1

    def serial_tail(self):
        cfg = self.config
        taken = 0
        for i, (pc, v) in enumerate(self.of(Opcode.TAIL)):
            while len(self.valid["tail"]) <= i:
                yield
            accept = self.valid["tail"][i]
            self.accept["tail"].append(accept)
            reads = v["width"] * v["height"] * v["window_x"] * v["window_y"]
            at = accept + 2 + PARAM_CYCLES
            first = None
            for c in range(v["channels"]):
                if c:
                    at += 0 if v["shared"] else PARAM_CYCLES
                if v["take"] and c % cfg.cols == 0 and (c == 0 or not v["stack"]):
                    while len(self.ready) <= taken:
                        yield
                    at = max(at + (1 if c and v["shared"] else 0), self.ready[taken] + 1)
                    taken += 1
                if first is None:
                    first = at
                each = value_cycles(v["pre_shift"], self.shifts[v["param"] + (0 if v["shared"] else c)])
                last = c == v["channels"] - 1
                if v["release"] and (last or (not v["stack"] and c % cfg.cols == cfg.cols - 1)):
                    self.free.append(at + (reads - 1) * each + 1)
                at += reads * each
            if v["post"]:
                self.posts.append(at - 1)
            assert first is not None  # a TAIL has a channel at least
            self.timing.spans[pc] = (first, at - 1)
            self.engine_free["tail"].append(at)
            self.tail_idle = at

    def tail(self):
        if self.config.compact:
            yield from self.serial_tail()
            return
        cfg, drain = self.config, self.lat.drain
        done = -1  # last write of the TAIL before
        next_accept = 0
        taken = 0
        for i, (pc, v) in enumerate(self.of(Opcode.TAIL, Opcode.TABLE)):
            while len(self.valid["tail"]) <= i:
                yield
            accept = max(self.valid["tail"][i], next_accept)
            self.accept["tail"].append(accept)
            if v["opcode"] == Opcode.TABLE:
                begin = max(accept + 1, done + 1)
                next_accept = begin + 32
                done = begin + 31
                self.tail_idle = done + 3
                continue
            reads = v["width"] * v["height"] * v["window_x"] * v["window_y"] * (2 if v["dual"] else 1)
            groups = -(-v["channels"] // cfg.cols)
            at, first = None, None
            for group in range(groups):
                n = min(cfg.cols, v["channels"] - group * cfg.cols)
                bank = -1
                if v["take"] and (not v["stack"] or group == 0):
                    while len(self.ready) <= taken:
                        yield
                    bank = self.ready[taken]
                    taken += 1
                for sub in range(-(-n // cfg.lanes)):
                    lanes = 0 if v["shared"] else min(cfg.lanes, n - sub * cfg.lanes)
                    if at is None:
                        at = max(accept + 1 + (1 if v["shared"] else lanes), done + 1, bank + 1)
                        first = at
                    else:
                        at = max(at + max(reads, lanes), (bank + 1) if sub == 0 else 0)
                last_group = group == groups - 1
                if v["release"] and (not v["stack"] or last_group):
                    if v["to_acc"]:
                        self.free.append(at + reads + drain)
                        if not last_group:
                            at = at + reads - 1 + drain + 1 - reads
                    else:
                        self.free.append(at + reads)
            done = at + reads - 1 + drain
            next_accept = at + reads
            if v["post"]:
                self.posts.append(done)
            assert first is not None  # a TAIL has a channel at least
            self.timing.spans[pc] = (first, done)
            self.tail_idle = done + 1

    def run(self) -> Timing:
        processes = {name: getattr(self, name)() for name in ("fetch", "loader", "multiply", "tail")}
        state = None
        while processes:
            for name, process in list(processes.items()):
                try:
                    next(process)
                except StopIteration:
                    del processes[name]
            seen = (len(self.tiles), *(len(x) for x in (*self.valid.values(), *self.accept.values())))
            seen += tuple(len(x) for x in self.engine_free.values())
            seen += (len(self.popped), len(self.ready), len(self.free), len(self.posts), len(processes))
            if seen == state:
                raise ValueError(f"program waits for ever: {', '.join(processes)} cannot go on")
            state = seen
        return self.timing


def predict(
    config: NpuConfig,
    words: list[int],
    tiles: bytes,
    pc: int = 0,
    external: bytes = b"",
    latency: int = 8,
    interval: int = 1,
    params: bytes = b"",
) -> Timing:
    """Cycles of the program from word `pc` on.

    `tiles` and `external` are the images of the weight store and the external memory; only the descriptors
    are looked at.
    `params` is the image of the parameter memory; only compact configurations look at it, for the shifts.
    External memory answers a burst after `latency` cycles with a byte each `interval`; the result is then a bound.
    """
    size = isa.word_bytes(isa.Region.WEIGHT, config)

    def table(raw):
        return isa.DESCRIPTOR.unpack_array(np.frombuffer(raw, np.uint8).reshape(-1, size)[:, : isa.DESCRIPTOR_BYTES])

    shifts = np.frombuffer(params, np.int8)[isa.PARAM_BYTES - 1 :: isa.PARAM_BYTES].tolist()
    run = _Run(config, words, table(tiles), pc, table(external), latency + 2 + size * interval, shifts)
    timing = run.run()
    end = max(run.done_fetching, run.multiply_idle, run.tail_idle) + 1  # the counter runs in cycle 0 too
    timing.cycles = end
    causes = run.gaps
    # Until END is read, the array may be waiting for another MUL.
    causes[Cause.FETCH] += 1 + max(0, run.done_fetching - run.multiply_end)
    causes[Cause.DRAIN] = 0
    busy = sum(causes.values())
    causes[Cause.DRAIN] = end - busy
    timing.causes = {cause.name.lower(): causes[cause] for cause in Cause}
    return timing

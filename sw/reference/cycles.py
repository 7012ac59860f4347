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
from lepton.rtl.spec.timing import FETCH_QUEUE, MOVE_QUEUE, PARAM_CYCLES, TILE_QUEUE, TILE_WORDS, Memory, value_cycles

RUN_START = 16
"""Cycles an external LOAD may take besides its bytes: before the first burst and after the last byte."""


@dataclass
class Timing:
    """Cycles of one run, the cause of each, and when each instruction began and ended (cycles after start)."""

    cycles: int = 0
    causes: dict[str, int] = field(default_factory=dict)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    """First word of a MUL or TAIL: (cycle its work began, cycle its last result was written)."""
    cuts: dict[int, dict[str, int]] = field(default_factory=dict)
    """By the word of each instruction: causes, without drain, of the program cut by an END there."""
    issues: list[tuple[int, int, int]] = field(default_factory=list)
    """Tile passes: (word of the MUL, first cycle, vectors)."""
    traffic: int = 0
    """Bytes that MOVEs and the program take through the memory port."""


PORT = 6
"""Cycles through arbiter and registers on the way to the memory and back."""
CHANNELS = {
    ("move", "load"): ("post_load", "wait_move"),
    ("move", "mul"): ("post_mul", "wait_move"),
    ("move", "tail"): ("post_tail", "wait_move"),
    ("mul", "move"): ("post_move", "wait_mul"),
    ("tail", "move"): ("post_move", "wait_tail"),
}
"""Flags of who gives a token, and of who takes it."""


class _Run:
    def __init__(self, config, words, descriptors, pc, external_descriptors, tile_cycles, shifts, memory):
        self.config, self.memory = config, memory
        self.program = self._decode(words, pc)
        self.descriptors, self.external = descriptors, external_descriptors
        self.given: dict[tuple[str, str], list[int]] = {channel: [] for channel in CHANNELS}
        """Cycles in which an engine gives another its tokens."""
        self.moved: list[int] = []
        if config.memory_width:
            self._follow_tiles()
        self.tile_cycles = tile_cycles
        self.shifts = shifts
        self.engine_free = {q: [0] for q in ("load", "mul", "tail")}  # compact: instruction i is taken from this cycle
        self.lat = timing.of(config)
        self.valid: dict[str, list[int]] = {
            q: [] for q in ("load", "mul", "tail", "move")
        }  # instruction at the queue's head from this cycle on
        self.accept: dict[str, list[int]] = {q: [] for q in ("load", "mul", "tail", "move")}
        self.tiles: list[tuple[int, int, int]] = []  # (usable from, skip, last)
        self.popped: list[int] = []
        self.ready: list[int] = []
        self.free: list[int] = []
        self.posts: list[int] = []
        self.timing = Timing()
        self.gaps = dict.fromkeys(Cause, 0)
        self.done_fetching = self.multiply_idle = self.tail_idle = 0
        self.taken: dict[int, int] = {}  # cycle in which the last word before an instruction is taken
        self.taken_tokens: dict[tuple[str, str], int] = {}
        self.passed: list[tuple[int, int, dict[Cause, int]]] = []  # of each MUL: word, last issue, causes until then

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

    def _follow_tiles(self):
        """Which tile of the image is in which slot when a LOAD reads it: program order is enough for that."""
        slots = np.arange(self.config.weight_tiles)
        size = isa.memory_tile_bytes(self.config)
        for _, op, v in self.program:
            if op is isa.MOVE and v["space"] == isa.Space.WEIGHT:
                first = v["external"] // size
                slots[v["chip"] : v["chip"] + v["length"]] = np.arange(first, first + v["length"])
            elif op is isa.LOAD:
                v["tiles"] = slots[v["tile"] : v["tile"] + v["count"]].copy()

    def fetch(self):
        taken = self.lat.fetch - 1  # word k is taken in cycle start + latency + k
        target = {
            Opcode.LOAD: "load",
            Opcode.MUL: "mul",
            Opcode.TAIL: "tail",
            Opcode.TABLE: "tail",
            Opcode.MOVE: "move",
        }
        width, words = self.config.memory_width, 0
        first = taken + (self.memory.latency + PORT if width else 0)
        for pc, op, _ in self.program:
            self.taken[pc] = taken
            taken += op.words
            if width:
                words += op.words
                taken = max(taken, first + words * max(1, 8 * self.memory.interval // width))
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
            k = len(self.valid[q]) - (MOVE_QUEUE if q == "move" else FETCH_QUEUE)
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
            accept = max(accept, (yield from self._token("move", "load", v)))
            d_en = max(d_en, accept)
            size = isa.word_bytes(isa.Region.WEIGHT, self.config)
            if v["external"]:
                table, first = self.external, v["address"] // size
                ring = max(ring, self.valid["load"][i]) + RUN_START
            else:
                table, first = self.descriptors, v["tile"]
            at = v.get("tiles", slice(first, first + v["count"]))
            skips, lasts = table["skip"][at].tolist(), table["last"][at].tolist()
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
                    t_move = 0
                    if first_issue is None:
                        t_move = yield from self._token("move", "mul", v)
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
                        (Cause.MEMORY, t_move),
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
            self._give("mul", "move", v, end + self.lat.act_read + 2)
            self.timing.spans[pc] = (first_issue, end + self.lat.sums)
            self.engine_free["mul"].append(end + self.lat.sums + 1)
            self.passed.append((pc, end, dict(gaps)))
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
            accept = max(accept, (yield from self._token("move", "tail", v)))
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
            self._give("tail", "move", v, done + 2)
            assert first is not None  # a TAIL has a channel at least
            self.timing.spans[pc] = (first, done)
            self.tail_idle = done + 1

    # --- Memory ------------------------------------------------------------------------------------------------------

    def _give(self, who, whom, v, cycle):
        if v.get(CHANNELS[who, whom][0]):
            self.given[who, whom].append(cycle)

    def _token(self, who, whom, v):
        """Generator: the cycle from which the token is there that an instruction waits for; 0 if it waits for none."""
        if not v.get(CHANNELS[who, whom][1]):
            return 0
        taken = self.taken_tokens.setdefault((who, whom), 0)
        while len(self.given[who, whom]) <= taken:
            yield
        self.taken_tokens[who, whom] += 1
        return self.given[who, whom][taken] + 1

    def move(self):
        """MOVEs one after the other; the requests of one may begin while the data of the one before still come."""
        c = self.config
        width, interval = c.memory_width, self.memory.interval
        end, asked, stored = 0, 0, False
        for i, (pc, v) in enumerate(self.of(Opcode.MOVE)):
            while len(self.valid["move"]) <= i:
                yield
            start = max(self.valid["move"][i], asked)
            start = max(start, (yield from self._token("mul", "move", v)), (yield from self._token("tail", "move", v)))
            if stored or v["store"]:
                start = max(start, end)
            self.accept["move"].append(start)
            beats = self._beats(v)
            self.timing.traffic += beats * width
            cycles = max(beats * interval, beats * -(-width // min(width, c.banks)))
            asked = start + beats
            end = max(end, start + PORT + (0 if v["fill"] else self.memory.latency)) + cycles
            stored = bool(v["store"])
            self.timing.spans[pc] = start, end
            for whom in ("load", "mul", "tail"):
                self._give("move", whom, v, end + 2)
            self.moved.append(end)

    def _beats(self, v) -> int:
        """Beats of a copy: each run touches all that hold a byte of it."""
        c, width = self.config, self.config.memory_width
        if v["space"] == isa.Space.WEIGHT:
            return v["length"] * isa.memory_tile_bytes(c) // width
        if v["space"] == isa.Space.PARAM:
            return v["length"] * isa.memory_param_bytes(c) // width
        starts = v["external"] + np.arange(v["rows"]) * v["external_step"]
        starts = (starts + np.arange(v["planes"])[:, None] * v["external_plane"]).ravel()
        return int(((starts + v["length"] - 1) // width - starts // width + 1).sum())

    def cuts(self) -> dict[int, dict[str, int]]:
        """What comes later in a program changes nothing before: the cuts are read off the whole run."""
        out, n = {}, 0
        passed = [(-1, 0, dict.fromkeys(Cause, 0)), *self.passed]
        for pc, taken in self.taken.items():
            while n + 1 < len(passed) and passed[n + 1][0] < pc:
                n += 1
            _, end, causes = passed[n]
            counts = {cause.name.lower(): count for cause, count in causes.items()}
            counts["fetch"] += 1 + max(0, taken + 2 - end)
            out[pc] = counts | {"drain": 0}
        return out

    def run(self) -> Timing:
        processes = {name: getattr(self, name)() for name in ("fetch", "loader", "multiply", "tail", "move")}
        state = None
        while processes:
            for name, process in list(processes.items()):
                try:
                    next(process)
                except StopIteration:
                    del processes[name]
            seen = (len(self.tiles), *(len(x) for x in (*self.valid.values(), *self.accept.values())))
            seen += tuple(len(x) for x in self.engine_free.values())
            seen += (len(self.moved), *(len(x) for x in self.given.values()), *self.taken_tokens.values())
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
    memory: Memory = Memory(),
) -> Timing:
    """Cycles of the program from word `pc` on.

    `tiles` and `external` are the images of the weight store and the external memory; only the descriptors
    are looked at.
    `params` is the image of the parameter memory; only compact configurations look at it, for the shifts.
    `memory`: what is behind the memory port; the result is a bound then.
    External memory answers a burst after `latency` cycles with a byte each `interval`; the result is then a bound.
    """
    size = isa.word_bytes(isa.Region.WEIGHT, config)

    def table(raw):
        return isa.DESCRIPTOR.unpack_array(np.frombuffer(raw, np.uint8).reshape(-1, size)[:, : isa.DESCRIPTOR_BYTES])

    shifts = np.frombuffer(params, np.int8)[isa.PARAM_BYTES - 1 :: isa.PARAM_BYTES].tolist()
    run = _Run(config, words, table(tiles), pc, table(external), latency + 2 + size * interval, shifts, memory)
    timing = run.run()
    if config.memory_width:
        timing.traffic += 8 * sum(op.words for _, op, _ in run.program)
    end = (
        max(run.done_fetching, run.multiply_idle, run.tail_idle, *run.moved[-1:]) + 1
    )  # the counter runs in cycle 0 too
    timing.cycles = end
    causes = run.gaps
    # Until END is read, the array may be waiting for another MUL.
    causes[Cause.FETCH] += 1 + max(0, run.done_fetching - run.multiply_end)
    causes[Cause.DRAIN] = 0
    busy = sum(causes.values())
    causes[Cause.DRAIN] = end - busy
    timing.causes = {cause.name.lower(): causes[cause] for cause in Cause}
    timing.cuts = run.cuts()
    return timing

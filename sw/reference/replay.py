"""Replays a program with the timing rules that the units' docstrings state (`rtl/fetch.py`, `loader.py`, `multiply.py`,
`tail.py`): four processes that exchange only times. `lepton.sw.reference.cycles` is what others use."""

from collections.abc import Sized
from dataclasses import dataclass, field

from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.isa import Cause, Opcode
from lepton.rtl.spec.timing import FETCH_QUEUE, MOVE_QUEUE, PARAM_CYCLES, TILE_QUEUE, TILE_WORDS, value_cycles

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


class Run:
    """Processes that exchange times. A process that yields knows no more, until others go on."""

    processes: tuple[str, ...] = ("fetch", "loader", "multiply", "tail")

    def __init__(self, config, words, descriptors, pc, external_descriptors, tile_cycles, shifts):
        self.config = config
        self.program = self._decode(words, pc)
        self.descriptors, self.external = descriptors, external_descriptors
        self.tile_cycles = tile_cycles
        self.shifts = shifts
        self.engine_free = {q: [0] for q in ("load", "mul", "tail")}  # compact: instruction i is taken from this cycle
        self.lat = timing.of(config)
        self.valid: dict[str, list[int]] = {
            q: [] for q in ("load", "mul", "tail", "move")
        }  # instruction at the queue's head from this cycle on
        self.accept: dict[str, list[int]] = {q: [] for q in ("load", "mul", "tail", "move")}
        self.tiles: list[tuple[int, int, int, int]] = []  # (usable from, skip, last, its LOAD's token is there)
        self.popped: list[int] = []
        self.ready: list[int] = []
        self.free: list[int] = []
        self.posts: list[int] = []
        self.timing = Timing()
        self.gaps = dict.fromkeys(Cause, 0)
        self.done_fetching = self.multiply_idle = self.tail_idle = 0
        self.taken: dict[int, int] = {}  # cycle in which the last word before an instruction is taken
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

    def fetch(self):
        taken = self.lat.fetch - 1  # word k is taken in cycle start + latency + k
        target = {
            Opcode.LOAD: "load",
            Opcode.MUL: "mul",
            Opcode.TAIL: "tail",
            Opcode.TABLE: "tail",
            Opcode.MOVE: "move",
        }
        for pc, op, _ in self.program:
            self.taken[pc] = taken
            for n in range(op.words):
                taken = yield from self.word(taken)
                if n < op.words - 1:
                    self.take(taken)
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
            self.take(taken)
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
                self.tiles.append((begin + TILE_WORDS, skip, last, 0))
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
            given = yield from self.token("move", "load", v)
            accept = max(self.valid["load"][i], d_en, given)
            self.accept["load"].append(accept)
            d_en = max(d_en, accept)
            if v["external"]:
                first = v["address"] // isa.word_bytes(isa.Region.WEIGHT, self.config)
                table, at = self.external, slice(first, first + v["count"])
                ring = max(ring, self.valid["load"][i]) + RUN_START
            else:
                table, at = self.descriptors, self.tiles_of(v)
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
                self.tiles.append((d_en + 2, skip, last, given))

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
                        t_move = yield from self.token("move", "mul", v)
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
                    t_tile, skip, last, t_given = self.tiles[tile]
                    at = end
                    for cause, t in (
                        (Cause.FETCH, t_instr),
                        (Cause.ACTIVATIONS, t_token),
                        (Cause.MEMORY, t_move),
                        (Cause.TAIL, t_bank),
                        (Cause.MEMORY, t_given),
                        (Cause.WEIGHTS, t_tile),
                    ):
                        if t > at:
                            gaps[cause] += t - at
                            at = t
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
                    start = yield from self.may_pass(at, n)
                    gaps[Cause.MEMORY] += start - at
                    self.popped.append(start)
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
            self.give("mul", v, end + self.lat.load_delay)
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
            given = yield from self.token("move", "tail", v)
            accept = max(self.valid["tail"][i], next_accept, given)
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
                    else:
                        at = max(at + max(reads, lanes), (bank + 1) if sub == 0 else 0)
                    at = yield from self.may_read(at, reads, v)
                    first = at if first is None else first
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
            self.give("tail", v, done)
            assert first is not None  # a TAIL has a channel at least
            self.timing.spans[pc] = (first, done)
            self.tail_idle = done + 1

    # --- What a memory port adds (`memory_cycles`) --------------------------------------------------------------------
    # Generators: `yield` where what is asked for is not known yet.

    def word(self, taken):
        """The cycle in which the next program word may be taken, the one before was in cycle `taken`."""
        yield from ()
        return taken + 1

    def take(self, taken):
        """It was taken in that cycle; END is not."""

    def token(self, who, whom, fields):
        """The cycle from which the token is there that an instruction waits for; 0 if it waits for none."""
        yield from ()
        return 0

    def give(self, who, fields, cycle):
        """Tokens of an instruction, which are there from the next cycle on."""

    def tiles_of(self, fields):
        """Of a LOAD: descriptors' indexes."""
        first = fields["tile"]
        return slice(first, first + fields["count"])

    def may_pass(self, start, reads):
        """The cycle in which a pass starts that could in cycle `start`."""
        yield from ()
        return start

    def may_read(self, at, reads, fields):
        """The cycle in which the tail begins with so many reads that it could begin in cycle `at`."""
        yield from ()
        return at

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

    def progress(self) -> tuple[int, ...]:
        """Changes when a process has gone on."""
        lists: list[Sized] = [self.tiles, self.popped, self.ready, self.free, self.posts]
        lists += [*self.valid.values(), *self.accept.values(), *self.engine_free.values()]
        return tuple(map(len, lists))

    def run(self) -> Timing:
        """Let the processes go on until all have ended. One that yields a cycle waits for its turn: it goes on when no
        other can, and none that waits does so for an earlier cycle."""
        processes = {name: getattr(self, name)() for name in self.processes}
        turns: dict[str, int] = {}
        state: tuple = ()
        while processes:
            for name in [name for name in processes if name not in turns]:
                self._go_on(name, processes, turns)
            before, state = state, (len(processes), len(turns), *self.progress())
            if state != before:
                continue
            if not turns:
                raise ValueError(f"program waits for ever: {', '.join(processes)} cannot go on")
            name = min(turns, key=turns.__getitem__)
            del turns[name]
            self._go_on(name, processes, turns)
        return self.timing

    @staticmethod
    def _go_on(name, processes, turns):
        try:
            turn = next(processes[name])
        except StopIteration:
            del processes[name]
        else:
            if turn is not None:
                turns[name] = turn

    @property
    def finished(self) -> int:
        """The cycle in which everything is done."""
        return max(self.done_fetching, self.multiply_idle, self.tail_idle)

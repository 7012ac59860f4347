"""The cycle model of a machine with a memory port: how long program and MOVEs wait for memory, and others for them.

What several share is given out in the order of time: bursts at the memory port, the ports of the activation memory.
The processes that use it take turns (`Run.run`); those that wait for data know no more until a burst is answered.
"""

from collections import deque
from collections.abc import Sized
from dataclasses import dataclass, field

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.isa import Space
from lepton.rtl.spec.timing import FETCH_AHEAD, MEMORY_BURST, MOVE_TURN, MOVE_WAIT, PROGRAM_QUEUE, Memory
from lepton.sw.reference.iss import CHANNELS
from lepton.sw.reference.replay import Run

READS, WRITES = 8, 4
"""Bursts of a kind that are under way at the arbiter at most."""
WORD = 4
"""From a program word's last beat to its taking."""
BURST = 2
"""From a MOVE's acceptance to its first burst's turn at the arbiter."""
BEAT = 2
"""From a beat that is read to its first access on the chip."""
STORED = 6
"""From an access to the turn of a burst that writes it."""
TAIL_HELD = MOVE_WAIT + 2
"""From one cycle in which the tail is held to the next."""
MARGIN = 16
"""To so many cycles of a MOVE, or of a burst of the program, one is added: whose burst is first may be a matter of a
cycle, and then it is one of 128 bytes."""
AHEAD = 4
"""MOVEs that are accepted at most before the first of them is done."""


@dataclass
class Port:
    """The memory port. Calls come in the order of their cycles."""

    memory: Memory
    turn: int = 0
    free: int = 0
    reads: deque[int] = field(default_factory=deque)
    writes: deque[int] = field(default_factory=deque)

    def burst(self, at: int, beats: int, write: bool = False) -> tuple[int, int]:
        """Cycles of the first and the last beat of a burst whose turn could be in cycle `at`."""
        under_way, most = (self.writes, WRITES) if write else (self.reads, READS)
        at = max(at, self.turn)
        if len(under_way) == most:
            at = max(at, under_way.popleft() + 1)
        self.turn = at + 1
        first = max(at + 2 if write else at + 1 + self.memory.latency, self.free)
        last = first + (beats - 1) * self.memory.interval
        self.free = last + self.memory.interval
        under_way.append(last)
        return first, last


@dataclass
class Part:
    """A burst of a MOVE: its beats and the accesses that they are on the chip."""

    beats: int
    accesses: int


class MemoryRun(Run):
    """`Run` with the program's words, MOVEs and tokens."""

    processes = ("fetch", "stream", "loader", "multiply", "tail", "move", "walk")

    def __init__(self, memory: Memory, *arguments):
        super().__init__(*arguments)
        self.port = Port(memory)
        width = self.config.memory_width
        self.access_bytes = min(width, 1 << (max(self.config.rows, self.config.cols).bit_length() - 1))
        self.depth = max(64, 2 * MEMORY_BURST // width)
        self.given: dict[tuple[str, str], list[int]] = {channel: [] for channel in CHANNELS}
        self.used = dict.fromkeys(CHANNELS, 0)
        self.there: list[int] = []  # of each program word: the cycle from which it may be taken
        self.gone: list[int] = []
        self.jobs: list[tuple[int, dict, list[Part]]] = []  # for the chip's side: (accepted, fields, bursts)
        self.came: list[tuple[int, int]] = []  # of each burst read: cycles of first and last beat
        self.left: list[int] = []  # of each burst read: its last beat is on the chip
        self.at_hand: list[int] = []  # of each burst written: its last beat has been read on the chip
        self.done: list[int] = []  # of each MOVE: its last access on the chip, or beat in memory
        self.stored: list[int] = []
        self.wrote: list[int] = []  # of each burst written: its first beat
        self.reading_until = 0  # MUL reads activations
        self.pass_from = 0
        self.writing: deque[tuple[int, int, int]] = deque()  # TAILs write activations: from, to, every so many cycles
        self.tail_late = 0
        self._tiles = self._follow_tiles()

    def progress(self):
        lists: list[Sized] = [
            self.there,
            self.gone,
            self.jobs,
            self.came,
            self.left,
            self.at_hand,
            self.done,
            self.stored,
            self.wrote,
        ]
        return (*super().progress(), *map(len, lists), *map(len, self.given.values()), *self.used.values())

    @property
    def finished(self) -> int:
        return max([super().finished, *(end + 3 for end in self.done[-1:])])

    # --- tokens and tiles --------------------------------------------------------------------------------------------

    def token(self, who, whom, fields):
        channel = who, whom
        if not fields.get(CHANNELS[channel][1]):
            return 0
        n = self.used[channel]
        while len(self.given[channel]) <= n:
            yield
        self.used[channel] = n + 1
        return self.given[channel][n] + 1

    def give(self, who, fields, cycle):
        for (giver, whom), (post, _) in CHANNELS.items():
            if giver == who and fields.get(post):
                self.given[giver, whom].append(cycle)

    def _follow_tiles(self) -> dict[int, np.ndarray]:
        """Of each LOAD, the tiles of the image that are in its slots then; the program's order says so."""
        slots = np.arange(self.config.weight_tiles)
        size, out = isa.memory_tile_bytes(self.config), {}
        for _, op, v in self.program:
            if op is isa.MOVE and v["space"] == Space.WEIGHT:
                first = v["external"] // size
                slots[v["chip"] : v["chip"] + v["length"]] = np.arange(first, first + v["length"])
            elif op is isa.LOAD:
                out[id(v)] = slots[v["tile"] : v["tile"] + v["count"]].copy()
        return out

    def tiles_of(self, fields):
        return self._tiles[id(fields)]

    # --- program -----------------------------------------------------------------------------------------------------

    def word(self, taken):
        n = len(self.gone)
        while len(self.there) <= n:
            yield
        return max(taken + 1, self.there[n])

    def take(self, taken):
        self.gone.append(taken)

    def stream(self):
        """Bursts of program words, as room in the queue allows."""
        block = MEMORY_BURST // 8
        width, interval = self.config.memory_width, self.port.memory.interval
        first, end = self.program[0][0], self.program[-1][0]
        at, word = -1, first
        while True:
            at += 1
            read = word // block * block + block - PROGRAM_QUEUE - FETCH_AHEAD - first  # when this word has been taken
            if read > end - first:  # END is not taken, so no more is
                return
            if read > 0:
                while len(self.gone) < read:
                    yield
                read_ahead = self.there[min(read + FETCH_AHEAD, len(self.there)) - 1]  # of the words behind it
                at = max(at, self.gone[read - 1] + 2, read_ahead - 1)
            stop = word // block * block + block
            yield at
            at = max(at, self.port.turn)
            start, last = self.port.burst(at, -(-8 * (stop - word) // width))
            start += (last - at) // MARGIN if read > 0 else 0
            for n in range(word, min(stop, end + 1)):
                beat = (8 * word % width + 8 * (n - word) + 7) // width
                self.there.append(start + beat * interval + WORD)
            word = stop

    # --- MOVE: its requests ------------------------------------------------------------------------------------------

    def _parts(self, v) -> list[Part]:
        """The bursts of a MOVE."""
        c, width = self.config, self.config.memory_width
        if v["space"] == Space.ACT:
            starts = v["external"] + np.arange(v["rows"]) * v["external_step"]
            starts = (starts + np.arange(v["planes"])[:, None] * v["external_plane"]).ravel() & 2**32 - 1
            length, size = v["length"], self.access_bytes
        else:
            entry = isa.memory_tile_bytes(c) if v["space"] == Space.WEIGHT else isa.memory_param_bytes(c)
            starts, length, size = np.array([v["external"]]), entry * v["length"], width
        out = []
        for start in starts.tolist():
            at, end = start, start + length
            while at < end:
                stop = min(end, at // MEMORY_BURST * MEMORY_BURST + MEMORY_BURST)
                beats = -(-stop // width) - at // width
                out.append(Part(beats, -(-stop // size) - at // size))
                at = stop
        return out

    def move(self):
        """Takes MOVEs, and asks memory for their bursts."""
        asked = claimed = 0
        oldest = 0  # burst that still takes room
        storing = False
        read = written = 0
        beats: list[int] = []
        for i, (pc, v) in enumerate(self.of(isa.Opcode.MOVE)):
            while len(self.valid["move"]) <= i:
                yield
            at = max(self.valid["move"][i], asked)
            at = max(at, (yield from self.token("mul", "move", v)), (yield from self.token("tail", "move", v)))
            behind = i - 1 if storing or v["store"] else i - AHEAD
            if behind >= 0:
                while len(self.done) <= behind:
                    yield
                at = max(at, self.done[behind] + 2)
            storing = bool(v["store"])
            self.accept["move"].append(at)
            parts = self._parts(v)
            self.jobs.append((at, v, parts))
            if v["fill"]:
                asked = at + 1
                continue
            turn = at + BURST
            for part in parts:
                self.timing.traffic += part.beats * self.config.memory_width
                if storing:
                    while len(self.at_hand) <= written:
                        yield
                    turn = max(turn, self.at_hand[written])
                    yield turn
                    first, last = self.port.burst(turn, part.beats, write=True)
                    self.wrote.append(first)
                    written += 1
                else:
                    while claimed + MEMORY_BURST // self.config.memory_width > self.depth:
                        while len(self.left) <= oldest:
                            yield
                        turn = max(turn, self.left[oldest] + 2)
                        claimed -= beats[oldest]
                        oldest += 1
                    yield turn
                    self.came.append(self.port.burst(turn, part.beats))
                    claimed += part.beats
                    beats.append(part.beats)
                    read += 1
                turn = max(turn + 1, self.port.turn)
            asked = turn - 1
            if storing:
                self.stored.append(last)

    # --- MOVE: its accesses on the chip ------------------------------------------------------------------------------

    def walk(self):
        """Makes the accesses of MOVEs, one after the other."""
        free = read = stores = 0
        for i, (pc, v) in enumerate(self.of(isa.Opcode.MOVE)):
            while len(self.jobs) <= i:
                yield
            at, _, parts = self.jobs[i]
            written = len(self.at_hand)
            free = max(free, at + 2)
            act = v["space"] == Space.ACT
            for part in parts:
                if v["store"]:
                    free = yield from self._read(free, part.accesses)
                    free = max(free, (yield from self._room(parts, len(self.at_hand) - written)))
                    self.at_hand.append(free + STORED)
                    continue
                last = free
                if not v["fill"]:
                    while len(self.came) <= read:
                        yield
                    first, last = self.came[read]
                    free, last = max(free, first + BEAT), last + BEAT
                if act:
                    free = yield from self._write(free, part.accesses)
                else:
                    free += part.accesses
                free = max(free, last + -(-part.accesses // part.beats))
                if not v["fill"]:
                    self.left.append(free)
                    read += 1
            end = free
            if v["store"]:
                while len(self.stored) <= stores:
                    yield
                end = self.stored[stores]
                stores += 1
            end += (end - max([at, *self.done[-1:]])) // MARGIN
            free = max(free, end)
            self.timing.spans[pc] = at, end
            self.give("move", v, end + 1)
            self.done.append(end)

    def _room(self, parts, n):
        """Generator: the cycle from which there is room for burst `n` of a store, where beats wait for memory."""
        over = sum(part.beats for part in parts[: n + 1]) - self.depth
        k = 0
        while over > parts[k].beats:
            over -= parts[k].beats
            k += 1
        if over <= 0:
            return 0
        number = len(self.at_hand) - n + k
        while len(self.wrote) <= number:
            yield
        return self.wrote[number] + over * self.port.memory.interval

    def _read(self, at, count):
        """Generator: accesses that read activations, when MUL does not; the cycle behind the last."""
        while count:
            yield at
            some = min(count, MOVE_TURN)
            if self.reading_until > at:
                yield at + MOVE_WAIT + 1
                at = max(at, self.reading_until)
            at += some
            self.pass_from = max(self.pass_from, at + 1)
            count -= some
        return at

    def may_pass(self, start, reads):
        yield start
        start = max(start, self.pass_from)
        self.reading_until = start + self.lat.first_read + reads
        return start

    def _write(self, at, count):
        """Generator: accesses that write activations, when the tail does not; the cycle behind the last."""
        drain = self.lat.drain
        while count:
            yield at
            while self.writing and self.writing[0][1] <= at:
                self.writing.popleft()
            start, end, every = self.writing[0] if self.writing else (at + MOVE_TURN, at + MOVE_TURN, 2)
            if at < start:
                some = min(count, start - at, MOVE_TURN)
                at += some
            elif every > 1:
                some = min(count, MOVE_TURN, max(1, (end - at) * (every - 1) // every))
                at += -(-some * every // (every - 1))
            else:  # the tail is held every so many cycles, and stands still a cycle
                holds = max(0, min(count + drain // TAIL_HELD, -(-(end - drain - at - MOVE_WAIT) // TAIL_HELD)))
                self.tail_late += holds
                some = min(count, holds)
                at = at + MOVE_WAIT + 2 + drain + TAIL_HELD * (some - 1) + 1 if some == count else end + holds
            count -= some
        return at

    def may_read(self, at, reads, fields):
        yield at
        at += self.tail_late
        self.tail_late = 0
        if not fields["to_acc"]:
            every = fields["window_x"] * fields["window_y"] * (2 if fields["dual"] else 1)
            start, end = at + self.lat.drain, at + self.lat.drain + reads
            if self.writing and self.writing[-1][1] == start and self.writing[-1][2] == every:
                start = self.writing.pop()[0]
            self.writing.append((start, end, every))
        return at

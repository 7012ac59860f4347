"""Instruction set simulator: executes a compiled program on NumPy memories, byte for byte as the RTL does.

Four engines (weights, multiply, tail, move) work through their queues as `docs/architecture.md` says. Time is not
modelled: each engine runs as far as tokens, tiles and accumulator banks let it, and the queues hold as much as the
hardware's, so that the same programs stall. What ends with an error in hardware, or is undefined there, raises
`IssError`.
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.isa import Status
from lepton.rtl.spec.timing import FETCH_QUEUE, MOVE_QUEUE, TILE_QUEUE, TOKENS
from lepton.sw.reference.arith import requantize

DESCRIPTOR_DTYPE = isa.DESCRIPTOR.dtype
PARAM_DTYPE = isa.PARAM.dtype  # a view of the bytes in memory
_EXACT_K = 1024  # this many int8 products sum exactly in float32
ADDRESSES = 1 << 20
"""Byte addresses wrap here."""
ENTRIES = 1 << 10
"""Accumulator entries wrap here."""
_POSITIONS = 1 << 18  # byte and row positions wrap here, as signed numbers
_CHUNK = 1 << 22  # lanes gathered at a time


class IssError(LeptonError, ValueError):
    """A program the machine cannot execute; the message names the word, the instruction and the reason.

    `status`: the error with which the machine ends the run; DONE: it ends well, but leaves something behind that no
    program should; None: it is no error in hardware, but the result is undefined.
    """

    def __init__(self, message: str, status: Status | None = None):
        super().__init__(message)
        self.status = status


class _Step:
    """One instruction in an engine's queue."""

    waits: str | None = None
    """Why it waits, if it does."""

    number: int
    """Of the instruction in its run."""
    known: dict[str, int]
    """What its engine knew of the others at its end."""

    vectors: tuple[np.ndarray, np.ndarray, np.ndarray]
    """MUL: addresses, byte positions and rows of the vectors of a tile at the origin."""

    def __init__(self, word: int, op: isa.Op, fields: dict[str, int]):
        self.word, self.op, self.fields = word, op, fields
        self.__dict__.update(fields)

    if TYPE_CHECKING:  # the fields

        def __getattr__(self, name: str) -> int: ...

    def fail(self, reason, status=None):
        raise IssError(f"word {self.word}: {self.op.opcode.name}: {reason}", status)


class _Tiles:
    """Tiles that one LOAD handed over."""

    known: dict[str, int]
    """What its engine knew of the others."""

    def __init__(self, weights, descriptors, first: int):
        self.weights, self.descriptors, self.at = weights, descriptors, 0
        self.first = first
        self.last = descriptors["last"].astype(bool)


CHANNELS = {
    ("move", "load"): ("post_load", "wait_move"),
    ("move", "mul"): ("post_mul", "wait_move"),
    ("move", "tail"): ("post_tail", "wait_move"),
    ("mul", "move"): ("post_move", "wait_mul"),
    ("tail", "move"): ("post_move", "wait_tail"),
}
"""Tokens that engines give each other: the flags of who gives one and of who takes it."""
PORT_FIELDS = {"wait_move", "post_move", "wrap_y", "wrap_size"}
"""Fields that only a machine with a memory port has."""
ENGINES = {"LOAD": "load", "MUL": "mul", "TAIL": "tail", "TABLE": "tail", "MOVE": "move"}
"""The engine of each instruction."""


class Iss:
    """The memories of one accelerator and the engines that work on them.

    Members
    -------
    act : int8[act_bytes]
    tiles : int8[weight_tiles, rows, cols]
    descriptors : DESCRIPTOR_DTYPE[weight_tiles]
    params : PARAM_DTYPE[params]
    program : uint64[program_words]
    acc : int32[2, acc_depth, cols]
    writes : with `log`, of the last run: (addresses, bytes) of each write to `act`, in the machine's order
    doubtful : addresses that the TAIL in error may have written before its error; empty without one
    undefined : bool[2, acc_depth, cols], with `hazards`: accumulators of the lanes without a channel of a TAIL to_acc
    memory : uint8[memory_bytes] behind the memory port
    bases : what addresses in memory count from, by `isa.Base`
    external : bytes that LOAD reads with `external` set; behind the configuration's `external_bytes` they are zero

    Parameters
    ----------
    config : NpuConfig
    hazards : also raise IssError where the result would depend on timing: a MUL reading a byte that a TAIL wrote
        without a token between them, a TAIL writing a byte that a MUL ahead of its bank may still have to read, or
        reading an accumulator that it wrote itself or that is undefined; a MOVE reading or writing a byte, tile, entry
        without knowing that others are done with it, or they without knowing that it is there
    ahead, first : the schedule: fetch runs ahead of the engines as far as the queues let it; the engine (`mul`, `tail`,
        `move`) that goes first. Of a program without errors the result is the same; of one with more than one error,
        which is found first
    log : note the writes
    limit : vectors that a run multiplies at most (each takes a cycle); None: as many as the program says
    """

    def __init__(
        self,
        config,
        hazards: bool = False,
        ahead: bool = False,
        first: str = "tail",
        log: bool = False,
        limit: int | None = None,
    ):
        self.config = c = config
        self.hazards = hazards
        self._log = log
        self._limit = limit
        self._ahead = ahead
        self._order = sorted(("tail", "mul", "load", "move"), key=lambda engine: engine != first)
        self._mem = np.zeros(c.act_bytes + 32, np.int8)  # the first bytes again behind the end, so that reads wrap
        self.act = self._mem[: c.act_bytes]
        self._lanes = {n: np.lib.stride_tricks.sliding_window_view(self._mem, n) for n in {c.rows, c.cols}}
        self.tiles = np.zeros((c.weight_tiles, c.rows, c.cols), np.int8)
        self.descriptors = np.zeros(c.weight_tiles, DESCRIPTOR_DTYPE)
        self.params = np.zeros(c.params, PARAM_DTYPE)
        self.program = np.zeros(c.program_words, np.uint64)
        self.acc = np.zeros((2, c.acc_depth, c.cols), np.int32)
        self.undefined = np.zeros(self.acc.shape, bool)
        self.table = np.zeros(256, np.int8)
        self.external = bytes(config.external_bytes)
        self.memory = np.zeros(config.memory_bytes, np.uint8)
        self.bases = [0 for _ in isa.Base]
        self._reset()

    # --- Memories as the host sees them ------------------------------------------------------------------------------

    def _words(self, region, first, last) -> np.ndarray:
        """uint8[last - first, word_bytes]: a copy of words of a region."""
        if region == isa.Region.WEIGHT:
            body = self.tiles[first:last].reshape(last - first, -1).view(np.uint8)
            return np.concatenate([isa.DESCRIPTOR.pack_array(self.descriptors[first:last]), body], axis=1)
        if region == isa.Region.REG:
            return np.array(self._registers()[first:last], "<u4").view(np.uint8).reshape(-1, 4)
        if region == isa.Region.EXTERNAL:
            return np.frombuffer(self.external, np.uint8)[first:last].reshape(-1, 1).copy()
        if region == isa.Region.MEMORY:
            size = isa.word_bytes(region, self.config)
            return self.memory[first * size : last * size].copy().reshape(last - first, size)
        memory = {isa.Region.ACT: self.act, isa.Region.PARAM: self.params, isa.Region.PROGRAM: self.program}[region]
        return memory[first:last].copy().view(np.uint8).reshape(last - first, -1)

    def _registers(self):
        known = identity.pack(self.config) | {isa.Reg.STATUS: int(self.status)}
        known |= {isa.Reg[base.name]: self.bases[base] for base in isa.Base}
        return [known.get(r, 0) for r in isa.registers(self.config)]

    def _check(self, region, first, last, what):
        if first < 0 or last > isa.depth(region, self.config):
            limit = isa.depth(region, self.config)
            raise IssError(f"{what} {region.name} words {first}..{last - 1}: the region has {limit}")

    def write(self, region, index: int, data: bytes, byte: int = 0):
        """Write bytes as the host link does, from byte `byte` of word `index` on over the following words."""
        region = isa.Region(region)
        size = isa.word_bytes(region, self.config)
        if region == isa.Region.REG:
            base = next((b for b in isa.Base if isa.Reg[b.name] == index and self.config.memory_width), None)
            if base is None or byte or len(data) != size:
                raise IssError("write REG: registers can only be read (with a memory port, IMAGE and ARENA written)")
            self.bases[base] = int.from_bytes(data, "little")
            return
        if region == isa.Region.MEMORY:
            at = index * size + byte
            self._check(region, index, -(-(at + len(data)) // size), "write")
            self.memory[at : at + len(data)] = np.frombuffer(bytes(data), np.uint8)
            return
        first, at = index + byte // size, byte % size
        last = first + -(-(at + len(data)) // size)
        self._check(region, first, last, "write")
        if not len(data):
            return
        raw = self._words(region, first, last)
        raw.reshape(-1)[at : at + len(data)] = np.frombuffer(bytes(data), np.uint8)
        if region == isa.Region.EXTERNAL:
            self.external = self.external[:first] + raw.tobytes() + self.external[last:]
            return
        if region == isa.Region.WEIGHT:
            self.descriptors[first:last] = isa.DESCRIPTOR.unpack_array(raw[:, : isa.DESCRIPTOR_BYTES])
            body = np.ascontiguousarray(raw[:, isa.DESCRIPTOR_BYTES :]).view(np.int8)
            self.tiles[first:last] = body.reshape(-1, self.config.rows, self.config.cols)
            return
        memory = {isa.Region.ACT: self.act, isa.Region.PARAM: self.params, isa.Region.PROGRAM: self.program}[region]
        memory[first:last] = raw.reshape(-1).view(memory.dtype)

    def read(self, region, index: int, words: int) -> bytes:
        """Bytes of `words` words from word `index` (any region; cycle counters read 0)."""
        region = isa.Region(region)
        self._check(region, index, index + words, "read")
        return self._words(region, index, index + words).tobytes()

    # --- Execution ---------------------------------------------------------------------------------------------------

    def _reset(self):
        self.status = isa.Status.IDLE
        self._loaded: deque[_Tiles] = deque()  # _Tiles, of which not all are multiplied
        self._ends = [0]  # tiles handed over by the first 0, 1, ... LOADs
        self._consumed = 0  # tiles multiplied
        self._vectors = 0
        self._outside: tuple[int, _Step, int] | None = None
        """Number of the first tile beyond the store, its LOAD, its index."""
        self._steps: dict[str, deque[_Step]] = {
            name: deque() for name in ("load", "mul", "tail", "move")
        }  # not finished
        self._active: dict[str, Iterator[str] | None] = dict.fromkeys(self._steps)
        """Generator of the first of the queue."""
        self._tokens: deque[_Step] = deque()  # the TAILs that gave them
        self._given: dict[tuple[str, str], deque[_Step]] = {channel: deque() for channel in CHANNELS}
        self._banks = ["free", "free"]  # free, multiply, full, tail
        self._filled = [0, 0]  # number of the filling in each bank
        self._fills = 0
        self._next = {"mul": 0, "tail": 0}
        self._held: dict[str, int | None] = {"mul": None, "tail": None}
        self.writes: list[tuple[np.ndarray, np.ndarray]] = []
        self.doubtful = np.zeros(0, int)
        self._count = 0  # of instructions
        if self.hazards:
            # What each engine knows of each: the number of the last instruction that has ended.
            self._known = {e: dict.fromkeys(self._steps, -1) for e in self._steps}
            self._filler: list[dict[str, int]] = [{}, {}]  # what the MUL knew that filled a bank
            self._leaving = np.full(self.config.act_bytes, -1, np.int32)  # number of the MOVE that read
            self._mover = np.full(self.config.act_bytes, -1, np.int32)  # number of the MOVE that wrote
            self._writer_number = np.full(self.config.act_bytes, -1, np.int32)  # of the TAIL that wrote
            self._reader_number = np.full(self.config.act_bytes, -1, np.int32)  # of the MUL that read last
            self._rewritten = np.zeros(len(self.memory) // 8, bool)  # words of memory
            self._tile_mover = np.full(self.config.weight_tiles, -1, np.int32)  # number of the MOVE that wrote
            self._tile_user = np.full(self.config.weight_tiles, -1, np.int32)  # number of the MUL that used it
            self._tile_loads = np.zeros(self.config.weight_tiles, np.int32)  # times it is loaded and not yet used
            self._entry_mover = np.full(self.config.params, -1, np.int32)
            self._entry_user = np.full(self.config.params, -1, np.int32)  # number of the TAIL, or TABLE
            self._writer = np.full(self.config.act_bytes, -1, np.int32)  # word of the TAIL
            self._reader = np.zeros(self.config.act_bytes, np.int32)  # number of the filling

    def run(self, pc: int = 0, trace=None):
        """Execute from program word `pc` to END. `trace(word, op, fields)` is called when a MUL, TAIL or MOVE is done.

        Tokens, queues and banks start empty; memories stay. Raises IssError; `status` is then the machine's.
        """
        self._reset()
        self._trace = trace
        self.status = Status.RUNNING
        try:
            self._execute(pc)
        except IssError as error:
            self.status = Status.DONE if error.status is None else error.status
            raise
        self.status = Status.DONE

    def _execute(self, pc):
        first = pc
        while True:
            self._unchanged(first, pc + 1)
            step = self._fetch(pc)
            self._unchanged(first, pc + step.op.words)
            pc += step.op.words
            if step.op is isa.END:
                break
            if self._full(step):
                self._work()
                if self._full(step):
                    self._stall(step, "its queue is full")
            self._steps[ENGINES[step.op.opcode.name]].append(step)
            self._advance("load")
            if not self._ahead:
                self._work()
        self._work()
        self._unchanged(first, pc)
        self._finish(step)

    def _unchanged(self, first, end):
        """Raises IssError if MOVEs of this run wrote some of these words of the program: they may have been read."""
        at = self.bases[isa.Base.IMAGE] // 8
        if self.hazards and self._rewritten[at + first : at + end].any():
            raise IssError(f"word {end}: a MOVE has written words of the program")

    def _full(self, step):
        """Whether the instruction finds no room in its queue: `FETCH_QUEUE` wait behind the one at work."""
        waiting = self._steps[ENGINES[step.op.opcode.name]]
        if step.op is isa.LOAD:  # at work until its last descriptor is read
            at_work = [end for end in self._ends[-FETCH_QUEUE - 2 :] if end > self._consumed + TILE_QUEUE]
            return len(waiting) + len(at_work) > FETCH_QUEUE
        return len(waiting) > (MOVE_QUEUE if step.op is isa.MOVE else FETCH_QUEUE)

    def _work(self):
        """Let the engines work until all must wait."""
        while any([self._advance(engine) for engine in self._order]):
            pass

    # --- Tokens ------------------------------------------------------------------------------------------------------

    def _give(self, step):
        """The tokens that an instruction gives at its end."""
        giver = ENGINES[step.op.opcode.name]
        for (who, whom), (post, _) in CHANNELS.items():
            if who == giver and step.fields.get(post):
                if len(self._given[who, whom]) == TOKENS:
                    step.fail(f"gives a token more than {TOKENS} that {whom} has not taken", Status.BAD_INSTRUCTION)
                self._given[who, whom].append(step)

    def _learn(self, engine, known):
        mine = self._known[engine]
        for who, number in known.items():
            mine[who] = max(mine[who], number)

    def _await(self, step):
        """Generator: takes the tokens that an instruction waits for, yields the reason while they are not there."""
        taker = ENGINES[step.op.opcode.name]
        for (who, whom), (_, wait) in CHANNELS.items():
            if whom == taker and step.fields.get(wait):
                while not self._given[who, whom]:
                    yield f"no {who.upper()} gives its token"
                giver = self._given[who, whom].popleft()
                if self.hazards:
                    self._learn(whom, giver.known)

    def _stall(self, step, why):
        """Nothing moves any more, and `step` (if any) does not get into its queue."""
        for engine in ("tail", "mul", "load", "move"):
            if self._steps[engine] and self._steps[engine][0].waits:
                first = self._steps[engine][0]
                first.fail(f"waits for ever: {first.waits}", Status.STALLED)
        step.fail(f"waits for ever: {why}", Status.STALLED)

    def _fetch(self, pc):
        words, limit = self._program(pc)
        if not 0 <= pc < limit:
            raise IssError(
                f"word {pc}: the program runs past the end of its memory ({limit} words): END is missing",
                Status.BAD_OPCODE,
            )
        cut_off = False
        try:
            op, fields = isa.decode(words, pc)
            if op not in isa.operations(self.config):
                raise ValueError(f"word {pc}: this configuration has no {op.opcode.name}")
        except ValueError as e:
            raise IssError(str(e), Status.BAD_OPCODE) from None
        except IndexError:
            cut_off = True
            op, fields = isa.decode([int(w) for w in words[pc:]] + [0] * 4)
        if not self.config.memory_width:  # bits of no field there
            fields |= dict.fromkeys(PORT_FIELDS & fields.keys(), 0)
        step = _Step(pc, op, fields)
        step.number = self._count
        self._count += 1
        rule = isa.broken(op, self.config, fields)
        if rule and not (cut_off and isa.last_word(op, rule) >= limit - pc):
            step.fail(f"{rule.field} is {fields[rule.field]}, {rule}", Status.BAD_INSTRUCTION)
        if cut_off:
            raise IssError(f"word {pc}: instruction cut off by the end of the program memory", Status.BAD_OPCODE)
        return step

    def _program(self, pc: int) -> tuple[np.ndarray, int]:
        """The program's words, and how many there can be."""
        if not self.config.memory_width:
            return self.program, len(self.program)
        base = self.bases[isa.Base.IMAGE]
        limit = max(0, len(self.memory) - base) // 8
        return self.memory[base : base + 8 * limit].view("<u8") if base % 8 == 0 else self.program[:0], limit

    def _advance(self, engine) -> bool:
        """Let an engine work until it must wait. Returns whether it did anything."""
        queue, moved = self._steps[engine], False
        while queue:
            active = self._active[engine]
            if active is None:
                active = self._active[engine] = self._engine(queue[0])
            waits = next(active, None)
            queue[0].waits = waits
            if waits:
                return moved
            if waits is None:
                self._active[engine] = None
                done = queue.popleft()
                if self.hazards:
                    self._known[engine][engine] = done.number
                    done.known = dict(self._known[engine])
                self._give(done)
                if self._trace and engine != "load":
                    self._trace(done.word, done.op, done.fields)
            moved = True
        return moved

    def _engine(self, step):
        """Generator: an instruction at work, behind its tokens."""
        yield from self._await(step)
        run = {"load": self._load, "mul": self._mul, "tail": self._tail, "move": self._move}
        yield from run[ENGINES[step.op.opcode.name]](step)

    def _finish(self, end):
        if any(self._steps.values()):
            self._stall(end, "")
        left = self._ends[-1] - self._consumed
        if left:
            end.fail(
                f"{left} tiles were handed over by LOAD and never multiplied",
                Status.STALLED if left > TILE_QUEUE else Status.DONE,
            )
        for bank, state in enumerate(self._banks):
            if state != "free":
                why = {"multiply": "not handed to the tail", "full": "not taken by a TAIL", "tail": "not given back"}
                end.fail(f"accumulator bank {bank} was filled and {why[state]}", Status.DONE)
        if self._tokens:
            end.fail(
                f"{len(self._tokens)} data tokens left, the first from word {self._tokens[0].word}: no MUL waits",
                Status.DONE,
            )
        for (who, whom), given in self._given.items():
            if given:
                end.fail(
                    f"{len(given)} tokens of {who.upper()} left, the first from word {given[0].word}: no "
                    f"{whom.upper()} waits",
                    Status.DONE,
                )

    def _load(self, step):
        """Generator without a wait: the tiles are handed over."""
        yield from ()
        c, n = self.config, step.count
        if not step.external:
            if step.tile + n > c.weight_tiles and self._outside is None:
                first = max(step.tile, c.weight_tiles)
                self._outside = self._ends[-1] + first - step.tile, step, first
            there = max(0, min(n, c.weight_tiles - step.tile))
            weights = self.tiles[step.tile : step.tile + there]
            descriptors = self.descriptors[step.tile : step.tile + there]
        else:
            size = isa.word_bytes(isa.Region.WEIGHT, c)
            if step.address + n * size > len(self.external) and not c.external_bytes:
                step.fail(f"bytes {step.address}..{step.address + n * size - 1} of {len(self.external)} external bytes")
            data = self.external[step.address : step.address + n * size].ljust(n * size, b"\0")
            raw = np.frombuffer(data, np.uint8).reshape(n, size)
            body = np.ascontiguousarray(raw[:, isa.DESCRIPTOR_BYTES :]).view(np.int8)
            weights = body.reshape(n, c.rows, c.cols)
            descriptors = isa.DESCRIPTOR.unpack_array(raw[:, : isa.DESCRIPTOR_BYTES])
        if len(weights):
            self._loaded.append(_Tiles(weights, descriptors, step.tile))
            if self.hazards:
                self._loaded[-1].known = dict(self._known["load"])
                if not step.external:
                    at = slice(step.tile, step.tile + len(weights))
                    late = self._tile_mover[at] > self._known["load"]["move"]
                    if late.any():
                        tile = step.tile + int(late.argmax())
                        step.fail(f"reads tile {tile}, written by a MOVE, without waiting for its token")
                    self._tile_loads[at] += 1
        self._ends.append(self._ends[-1] + n)
        self._read_ahead()

    def _read_ahead(self):
        """The loader reads descriptors up to `TILE_QUEUE` tiles ahead: has it left the weight store?"""
        if self._outside is not None:
            number, step, tile = self._outside
            if number < self._consumed + TILE_QUEUE:
                step.fail(f"tile {tile} of {self.config.weight_tiles} in the weight store", Status.BAD_ADDRESS)

    def _group(self, step):
        """Generator: takes the tiles of one group from the queue; returns their weights and descriptors."""
        parts, done, have = [], False, 0
        while not done:
            while not self._loaded:
                yield f"no LOAD hands over the group's tile {have}"
            t = self._loaded[0]
            if self.hazards:
                self._learn("mul", t.known)
            rest = t.last[t.at :]
            k = int(rest.argmax())
            done = bool(rest[k])
            end = t.at + k + 1 if done else len(t.last)
            parts.append((t.weights[t.at : end], t.descriptors[t.at : end]))
            if self.hazards and t.weights.base is self.tiles:
                used = slice(t.first + t.at, t.first + end)
                self._tile_user[used] = step.number
                self._tile_loads[used] -= 1
            have += end - t.at
            self._consumed += end - t.at
            t.at = end
            if end == len(t.last):
                self._loaded.popleft()
            self._read_ahead()
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([w for w, _ in parts]), np.concatenate([d for _, d in parts])

    # --- Multiply engine ---------------------------------------------------------------------------------------------

    def _mul(self, step):
        """Generator: yields the reason while it waits, ends when the instruction is finished."""
        c = self.config
        if step.wait:
            while not self._tokens:
                yield "no TAIL posts its data token"
            giver = self._tokens.popleft()
            if self.hazards:
                self._learn("mul", giver.known)
        vectors = step.height * (step.out_width if step.depthwise else step.width)
        self._vectors += vectors * step.groups
        if self._limit is not None and self._vectors > self._limit:
            step.fail(f"no end after {self._limit:,} cycles: the program does more than its model", Status.STALLED)
        entries = 1 if step.still else vectors
        if not step.depthwise:
            oy, ox = np.divmod(np.arange(vectors), step.width)
            step.vectors = oy * step.row_step + ox * step.x_step, ox * step.x_step, oy * step.y_step
        for g in range(step.groups):
            bank = self._held["mul"]
            if bank is None:
                bank = self._next["mul"]
                while self._banks[bank] != "free":
                    yield f"accumulator bank {bank} is not given back by a TAIL"
                self._banks[bank], self._held["mul"], self._next["mul"] = "multiply", bank, bank ^ 1
                self._fills += 1
                self._filled[bank] = self._fills
            weights, descriptors = yield from self._group(step)
            if step.depthwise and (step.out_width - 1) * step.subsample >= step.width:
                step.fail(
                    f"{step.out_width} outputs, {step.subsample} apart, do not fit a stream row of {step.width}",
                    Status.BAD_INSTRUCTION,
                )
            first = step.acc_base + (g * entries if step.stack else 0)
            if c.acc_depth < ENTRIES and first + entries > c.acc_depth:
                step.fail(f"accumulator entry {max(first, c.acc_depth)} of {c.acc_depth}", Status.BAD_ADDRESS)
            self._mem[c.act_bytes :] = self._mem[:32]
            multiply = self._depthwise if step.depthwise else self._convolve
            total = multiply(step, g, weights, descriptors).astype(np.int32)
            at = np.arange(first, first + entries) & ENTRIES - 1
            if step.init:
                self.acc[bank, at] = total
                self.undefined[bank, at] = False
            else:
                np.add.at(self.acc[bank], at, total)
            if step.release and (not step.stack or g == step.groups - 1):
                self._banks[bank], self._held["mul"] = "full", None
                if self.hazards:
                    last = step.number if g == step.groups - 1 else step.number - 1  # other groups still read
                    self._filler[bank] = self._known["mul"] | {"mul": last}
                yield ""

    def _check_lanes(self, step, a, x, y):
        """Raises IssError if a lane that is not masked lies outside the memory; a: addresses modulo 2**20."""
        size, lanes = self.config.act_bytes, max(self.config.rows, self.config.cols)
        if size == ADDRESSES or a.max() + lanes <= size:
            return
        x, y = x[0] + x[1], y[0] + y[1]
        low, high = np.maximum(0, -x), np.minimum(lanes, step.x_limit - x) - 1
        low, high = (a + low) % ADDRESSES, (a + np.maximum(low, high)) % ADDRESSES
        bad = ((x + lanes > 0) & (x < step.x_limit) & (y >= 0) & (y < step.y_limit)) & ((low >= size) | (high >= size))
        if bad.any():
            first = low if (low[bad] >= size).any() else high
            step.fail(f"reads byte {first[bad & (first >= size)][0]} of {size} activations", Status.BAD_ADDRESS)

    def _gather(self, step, n, a, x, y, used):
        """Masked lanes int8[..., n] of the vectors at addresses a (used: the lanes that matter, for the hazards).

        x and y, byte positions and rows, are pairs of arrays that broadcast to the sum.
        """
        x, y = (_position(*p) for p in (x, y))
        if step.wrap_size:
            a = a - step.wrap_size * (y[0] + y[1] >= step.wrap_y)
        a &= ADDRESSES - 1
        self._check_lanes(step, a, x, y)
        a &= self.config.act_bytes - 1
        lanes = self._lanes[n][a]
        inside = None
        (x0, x1), (y0, y1) = (((p[0].min() + p[1].min()), (p[0].max() + p[1].max())) for p in (x, y))
        if y0 < 0 or y1 >= step.y_limit or x0 < 0 or x1 + n > step.x_limit:
            x, y = (x[0] + x[1])[..., None] + np.arange(n), y[0] + y[1]
            inside = (x >= 0) & (x < step.x_limit) & ((y >= 0) & (y < step.y_limit))[..., None]
            lanes = np.where(inside, lanes, np.int8(step.zero_point))
        if self.hazards:
            used = np.broadcast_to(used, lanes.shape)
            at = (a[..., None] + np.arange(n))[used if inside is None else used & inside] & self.config.act_bytes - 1
            late = self._writer_number[at] > self._known["mul"]["tail"]
            if late.any():
                word = self._writer[at][late][0]
                step.fail(
                    f"reads byte {at[late][0]}, written by the TAIL at word {word}, without waiting for its token"
                )
            unseen = self._mover[at] > self._known["mul"]["move"]
            if unseen.any():
                step.fail(f"reads byte {at[unseen][0]}, written by a MOVE, without waiting for its token")
            self._reader[at] = self._fills
            self._reader_number[at] = step.number
        return lanes

    def _convolve(self, step, g, weights, descriptors):
        rows, cols = weights.shape[1:]
        va, vx, vy = step.vectors
        vectors = len(va)
        base = step.address + g * step.group_step + descriptors["offset"].astype(np.int64)
        bx = step.x + g * step.group_step + descriptors["x"].astype(np.int64)
        by = step.y + descriptors["y"].astype(np.int64)
        total = np.zeros((vectors, cols), np.int64)
        batch = max(1, min(_EXACT_K // rows, _CHUNK // (vectors * rows)))
        for i in range(0, len(weights), batch):
            t = slice(i, i + batch)
            w = weights[t]
            used = (w != 0).any(axis=2) if self.hazards else None
            lanes = self._gather(step, rows, va[:, None] + base[t], (vx[:, None], bx[t]), (vy[:, None], by[t]), used)
            product = lanes.reshape(vectors, -1).astype(np.float32) @ w.reshape(-1, cols).astype(np.float32)
            total += product.astype(np.int64)
        if self.config.pe == "paired":  # (a0 + w1)(a1 + w0) - a0 a1 = a0 w0 + a1 w1 + w0 w1
            w = weights.astype(np.int64)
            total += (w[:, 0::2] * w[:, 1::2]).sum(axis=(0, 1))
        if step.still:
            total = total.sum(axis=0, keepdims=True)
        return total

    def _depthwise(self, step, g, weights, descriptors):
        c = self.config
        taps, cols = c.taps, c.cols
        p, q = np.divmod(np.arange(step.height * step.out_width), step.out_width)
        outputs = taps - 1 + (p * step.width + q) * step.subsample
        total = np.zeros((len(outputs), cols), np.int64)
        for w, d in zip(weights.astype(np.int32), descriptors):
            extra = 0
            if c.pe == "paired":
                extra = (w[0::2] * w[1::2]).sum(axis=0)
                w = w[0::2]
            if w[taps * c.segments :].any():
                step.fail(f"weights outside the {c.segments} x {taps} depthwise rows of the array")
            n = outputs + int(d["skip"]) * step.width
            oy, ox = np.divmod(np.arange(n[-1] + 1), step.width)
            x = ox * step.x_step
            shift = g * step.group_step
            lanes = self._gather(
                step,
                cols,
                step.address + shift + int(d["offset"]) + oy * step.row_step + x,
                (x, step.x + shift + d["x"]),
                (oy * step.y_step, step.y + d["y"]),
                w.any(axis=0) if self.hazards else None,
            ).astype(np.int32)
            total += extra
            for r in np.flatnonzero(w.any(axis=1)):
                s, j = divmod(int(r), taps)
                if s and not step.line_delay == step.width + taps <= c.line_depth:
                    step.fail(
                        f"line_delay={step.line_delay} must be width + taps = {step.width + taps}, "
                        f"at most line_depth={c.line_depth}"
                    )
                at = n - j - s * step.width
                if at[0] < 0:
                    step.fail(f"tap row {r} needs stream position {at[0]}, before the first vector (skip={d['skip']})")
                total += lanes[at] * w[r]
        return total

    # --- Move engine -------------------------------------------------------------------------------------------------

    def _move(self, step):
        """Generator without a wait: the copy."""
        yield from ()
        base = self.bases[step.base] + step.external
        if step.space != isa.Space.ACT:
            self._fill(step, base)
            return
        r, p = np.arange(step.rows), np.arange(step.planes)[:, None]
        runs = (base + p * step.external_plane + r * step.external_step).reshape(-1, 1) + np.arange(step.length)
        chip = (step.chip + p * step.chip_plane + r * step.chip_step).reshape(-1, 1) + np.arange(step.length)
        chip, runs = chip.ravel() & ADDRESSES - 1, runs.ravel() & 2**32 - 1
        if chip.max() >= self.config.act_bytes:
            outside = chip[chip >= self.config.act_bytes][0]
            step.fail(f"works on byte {outside} of {self.config.act_bytes} activations", Status.BAD_ADDRESS)
        if not step.fill and runs.max() >= len(self.memory):
            outside = runs[runs >= len(self.memory)][0]
            step.fail(f"works on byte {outside} of {len(self.memory)} in memory", Status.BAD_ADDRESS)
        flip = 128 if step.flip else 0
        if self.hazards:
            self._move_hazards(step, chip, runs)
        if step.store:
            self.memory[runs] = self.act[chip].view(np.uint8) ^ flip
            return
        data = np.uint8(step.value & 255) if step.fill else self.memory[runs]
        self.act[chip] = np.asarray(data ^ np.uint8(flip), np.uint8).view(np.int8)

    def _fill(self, step, base):
        """Tiles or entries from memory."""
        c, weight = self.config, step.space == isa.Space.WEIGHT
        size = isa.memory_tile_bytes(c) if weight else isa.memory_param_bytes(c)
        have, what = (c.weight_tiles, "tiles") if weight else (c.params, "parameter entries")
        if step.chip + step.length > have:
            step.fail(f"writes {what[:-1]} {max(step.chip, have)} of {have}", Status.BAD_ADDRESS)
        base &= 2**32 - c.memory_width
        if base + step.length * size > len(self.memory):
            step.fail(f"works on byte {len(self.memory)} of {len(self.memory)} in memory", Status.BAD_ADDRESS)
        raw = self.memory[base : base + step.length * size].reshape(step.length, size)
        first, last = step.chip, step.chip + step.length
        if self.hazards:
            self._fill_hazards(step, slice(first, last), weight)
        if not weight:
            self.params[first:last] = np.ascontiguousarray(raw[:, : isa.PARAM_BYTES]).reshape(-1).view(PARAM_DTYPE)
            return
        self.descriptors[first:last] = isa.DESCRIPTOR.unpack_array(raw[:, : isa.DESCRIPTOR_BYTES])
        at = size - -(-c.tile_bytes // c.memory_width) * c.memory_width
        body = np.ascontiguousarray(raw[:, at : at + c.tile_bytes]).view(np.int8)
        self.tiles[first:last] = body.reshape(-1, c.rows, c.cols)

    def _fill_hazards(self, step, at: slice, weight: bool):
        """Raises IssError where tiles or entries are overwritten that may still have to be read."""
        known = self._known["move"]
        if weight:
            late = (self._tile_user[at] > known["mul"]) | (self._tile_loads[at] > 0)
            self._tile_mover[at] = step.number
        else:
            late = self._entry_user[at] > known["tail"]
            self._entry_mover[at] = step.number
        if late.any():
            what, who = ("tile", "MUL") if weight else ("parameter entry", "TAIL")
            step.fail(f"writes {what} {step.chip + int(late.argmax())}, which a {who} may still have to read")

    def _move_hazards(self, step, chip, runs):
        """Raises IssError where what a MOVE reads or overwrites depends on timing."""
        if step.store:
            self._rewritten[runs // 8] = True
            late = self._writer_number[chip] > self._known["move"]["tail"]
            if late.any():
                step.fail(f"reads byte {chip[late][0]}, written by a TAIL, without waiting for its token")
            self._leaving[chip] = step.number
            return
        late = self._reader_number[chip] > self._known["move"]["mul"]
        if late.any():
            step.fail(f"writes byte {chip[late][0]}, which a MUL may still have to read")
        late = self._writer_number[chip] > self._known["move"]["tail"]
        if late.any():
            step.fail(f"writes byte {chip[late][0]}, which a TAIL may still have to write")
        self._mover[chip] = step.number

    # --- Tail engine -------------------------------------------------------------------------------------------------

    def _take(self, step):
        bank = self._next["tail"]
        while self._banks[bank] != "full":
            yield f"no MUL hands over accumulator bank {bank}"
        self._banks[bank], self._held["tail"], self._next["tail"] = "tail", bank, bank ^ 1
        if self.hazards:
            self._learn("tail", self._filler[bank])

    def _entries(self, param, n, step):
        if param + n > len(self.params):
            step.fail(f"parameter entry {max(param, len(self.params))} of {len(self.params)}", Status.BAD_ADDRESS)
        if self.hazards:
            late = self._entry_mover[param : param + n] > self._known["tail"]["move"]
            if late.any():
                entry = param + int(late.argmax())
                step.fail(f"reads parameter entry {entry}, written by a MOVE, without waiting for its token")
            self._entry_user[param : param + n] = step.number
        return self.params[param : param + n]

    def _tail(self, step):
        """Generator: yields the reason while it waits, ends when the instruction is finished."""
        c = self.config
        if step.op is isa.TABLE:
            entries = self._entries(step.param, isa.TABLE_ENTRIES, step)
            self.table = entries.copy().view(np.int8).reshape(32, -1)[:, :8].reshape(256)
            return
        windows = step.window_x * step.window_y
        groups = -(-step.channels // c.cols)
        outputs = step.width * step.height
        oy, ox = np.divmod(np.arange(outputs), step.width)
        e0 = step.acc_base + oy * step.acc_y + ox * step.acc_x
        a0 = step.address + oy * step.out_y + ox * step.out_x
        written = np.zeros(0, int)
        for g in range(groups):
            take = step.take and not (step.stack and g)
            if take and self._held["tail"] is not None:
                step.fail(f"takes a bank while it still holds bank {self._held['tail']}", Status.BAD_INSTRUCTION)
            if not take and self._held["tail"] is None:
                step.fail("works without a bank: none taken, or already given back", Status.BAD_INSTRUCTION)
            if take:
                yield from self._take(step)
            bank = self._held["tail"]
            assert bank is not None
            n = min(c.cols, step.channels - g * c.cols)
            if not step.to_acc:
                at = (a0[:, None] + g * step.group_step + np.arange(n)).ravel() & ADDRESSES - 1
                self.doubtful = at[at < c.act_bytes]
            e = e0 + (g * outputs if step.stack else 0)
            v = self._scale(step, g, bank, e, n)
            for k in range(1, windows):
                wy, wx = divmod(k, step.window_x)
                v = np.maximum(v, self._scale(step, g, bank, e + wy * step.window_row + wx, n))
            if step.to_acc:
                e &= ENTRIES - 1
                if self.hazards:
                    other = e + (step.acc_other if step.dual else 0) & ENTRIES - 1
                    if take:
                        written = np.zeros(0, int)
                    earlier = np.tril((e[:, None] == e) | (other[:, None] == e), -1)  # [reader, writer]
                    if earlier.any() or np.isin(np.append(e, other), written).any():
                        step.fail("reads an accumulator entry that it has written itself")
                    written = np.append(written, e)
                self.acc[bank, e, :n] = v.astype(np.int32)
                self.undefined[bank, e, : -(-n // c.lanes) * c.lanes] = True
                self.undefined[bank, e, :n] = False
            else:
                v = v.astype(np.int8)
                self._store(
                    step, bank, a0 + g * step.group_step, self.table[v.astype(np.int16) + 128] if step.table else v
                )
                self.doubtful = np.zeros(0, int)
            if step.release and not (step.stack and g < groups - 1):
                self._banks[bank], self._held["tail"] = "free", None
                yield ""
        if step.post:
            if c.memory_width and len(self._tokens) == TOKENS:
                step.fail(f"gives a token more than {TOKENS} that mul has not taken", Status.BAD_INSTRUCTION)
            self._tokens.append(step)

    def _scale(self, step, g, bank, e, n):
        """int64[len(e), n]: one operand of the window, scaled and clamped."""
        if step.shared:
            p = self._entries(step.param, 1, step)
        else:
            p = self._entries(step.param + g * self.config.cols, n, step)
        e = e & ENTRIES - 1
        other = e + step.acc_other & ENTRIES - 1
        top = max(e.max(), other.max() if step.dual else 0)
        if top >= self.config.acc_depth:
            step.fail(f"accumulator entry {top} of {self.config.acc_depth}", Status.BAD_ADDRESS)
        unknown = self.undefined[bank, e, :n] | (self.undefined[bank, other, :n] if step.dual else False)
        if self.hazards and unknown.any():
            step.fail("reads an accumulator of a lane in which a TAIL had no channel")
        bias, multiplier = p["bias"].astype(np.int64), p["multiplier"].astype(np.int64)
        x = self.acc[bank, e, :n].astype(np.int64) + bias
        if step.dual:
            y = self.acc[bank, other, :n].astype(np.int64)
        if step.dual == 2:
            v = _wrap(_wrap(x) * _wrap(y + multiplier))
        else:
            if not -31 <= p["shift"].min() <= p["shift"].max() <= 30:
                step.fail(f"parameter shift outside -31..30 among entries from {step.param + g * self.config.cols}")
            v = requantize(
                _wrap(x + y if step.dual == 1 else x - y if step.dual == 3 else x),
                multiplier,
                p["shift"],
                step.pre_shift,
            )
            v = np.asarray(v).astype(np.int64)
        if step.clamp:
            v = v + step.zero_point
            v = np.where(v > step.high, step.high, np.maximum(v, step.low))
        return v

    def _store(self, step, bank, address, v):
        """Write int8[outputs, n] to activation memory, lanes channels at a time over all outputs."""
        n, lanes = v.shape[1], self.config.lanes
        apart = step.width == 1 or step.out_x >= n
        apart &= step.height == 1 or step.out_y >= (step.width - 1) * step.out_x + n
        for s in range(0, n, n if apart else lanes):
            end = n if apart else min(n, s + lanes)
            at = (address[:, None] + np.arange(s, end)) & ADDRESSES - 1
            if at.max() >= self.config.act_bytes:
                outside = at[at >= self.config.act_bytes][0]
                step.fail(f"writes byte {outside} of {self.config.act_bytes} activations", Status.BAD_ADDRESS)
            if self.hazards:
                late = self._reader[at] > self._filled[bank]  # unless it knows of it by way of a MOVE
                late &= self._reader_number[at] > self._known["tail"]["mul"]
                if late.any():
                    step.fail(f"writes byte {at[late][0]}, which a MUL ahead of this bank may still have to read")
                if (self._leaving[at] > self._known["tail"]["move"]).any():
                    step.fail(f"writes byte {at.flat[0]} and on, which a MOVE may still have to read")
                if (self._mover[at] > self._known["tail"]["move"]).any():
                    step.fail(f"writes byte {at.flat[0]} and on, which a MOVE may still have to write")
                self._writer[at] = step.word
                self._writer_number[at] = step.number
                self._mover[at] = -1
            self.act[at] = v[:, s:end]
            for k in range(s, end, lanes) if self._log else ():
                part = slice(k - s, min(k + lanes, end) - s)
                self.writes += zip(at[:, part], v[:, s:end][:, part])


def _position(a, b):
    """Positions a + b as a pair that broadcasts to them, wrapped to signed 18 bits."""
    a, b = np.asarray(a), np.asarray(b)
    half = _POSITIONS // 2
    if a.min() + b.min() < -half or a.max() + b.max() >= half:
        return (a + b + half) % _POSITIONS - half, np.zeros(1, np.int64)
    return a, b


def _wrap(v):
    """int64 modulo 2**32, as a signed number."""
    return v.astype(np.int32).astype(np.int64)

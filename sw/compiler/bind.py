"""From units in their order to a program: addresses on the chip, copies from and to memory, tokens between engines.

Tiles and parameters that do not all fit on the chip pass through the weight store and the parameter memory as through a
cache, given out round and round. A copy stands in the program where what it overwrites is no longer wanted, and not
much earlier than it must: copies are made one after the other.
Who waits for whom follows from what the instructions read and write, kept for every `GRAIN` bytes: each engine runs in
order, so all it must know of another is the number of the last instruction that has ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler.plan import LATENCY, Buffer, Copy, Group
from lepton.sw.compiler.program import CompileError, LayerError
from lepton.sw.compiler.units import Instruction, Unit, virtual
from lepton.sw.reference.iss import CHANNELS, ENGINES

GRAIN = 16
SLACK = 1500
"""Cycles that a copy is ahead of its use, where there is room."""
LAG = 2
"""Units that stand between a copy and the last one that it waits for, where there is room: fetch would wait with it."""
STORE_LAG = 2
"""Units behind which a result is copied to memory: until then it is written."""
POSTS = CHANNELS | {("tail", "mul"): ("post", "wait")}
"""By giver and taker: the flag of who gives a token and of who takes it."""


class RigidError(CompileError):
    """A layer does not use the rows of a tensor round and round: `tensor`, `layer`."""

    def __init__(self, tensor: int, layer: int):
        super().__init__(f"layer {layer} does not use tensor {tensor} row by row")
        self.tensor, self.layer = tensor, layer


class LargeUnit(LayerError):
    """A unit of `layer` needs more tiles or parameters than the chip holds."""

    def __init__(self, message: str, layer: int):
        super().__init__(message)
        self.layer = layer


@dataclass
class Move:
    """A copy, before its place in the program is known."""

    fields: dict[str, int]
    bytes: int
    need: int
    """The unit that uses it (a store: that made it)."""
    after: int
    """The unit that it stands behind, at the earliest; once placed, just that one."""
    chip: list[tuple[int, int]] = field(default_factory=list)
    """Bytes of activations."""


class Cache:
    """Slots of the weight store or the parameter memory, given out round and round."""

    def __init__(self, depth: int):
        self.depth, self.next = depth, 0
        self.used = np.full(depth, -1)  # last unit that used a slot
        self.owner = np.full(depth, -1)
        self.spans: dict[tuple[int, int], tuple[int, int]] = {}
        """Where a span lies, and its number."""
        self._count = 0

    def gather(self, spans: set[tuple[int, int]]):
        """These spans are wanted together: what is found of them and what is copied must not meet."""
        need = sum(count for _, count in spans)
        if self.next + need > self.depth:
            self.next = 0
        for span in spans & self.spans.keys():
            at, _ = self.spans[span]
            if at < self.next + need and self.next < at + span[1]:
                del self.spans[span]

    def find(self, first: int, count: int, unit: int) -> tuple[int, int | None]:
        """The slot of a span; and, if it must be copied there, the last unit that used what it overwrites."""
        key = first, count
        if key in self.spans:
            at, number = self.spans[key]
            if (self.owner[at : at + count] == number).all():
                self.used[at : at + count] = unit
                return at, None
        if self.next + count > self.depth:
            self.next = 0
        at = self.next
        self.next += count
        self._count += 1
        self.spans[key] = at, self._count
        last = int(self.used[at : at + count].max())
        self.used[at : at + count] = unit
        self.owner[at : at + count] = self._count
        return at, last


class Binder:
    """Binds stretches of one network.

    `tiles`, `params`: bytes in the image where they begin; `resident`: all of them are on the chip, each at its number.
    `place(tensor)`: its first byte in the arena.
    """

    def __init__(
        self, config: NpuConfig, tiles: int, params: int, resident: tuple[bool, bool], place: Callable[[int], int]
    ):
        self.config, self.resident, self.place = config, resident, place
        self.base = {isa.Space.WEIGHT: tiles, isa.Space.PARAM: params}
        self.size = {isa.Space.WEIGHT: isa.memory_tile_bytes(config), isa.Space.PARAM: isa.memory_param_bytes(config)}
        self.ends: list[int] = []
        """Of each group: instructions of the stretch up to its last unit's end."""

    def bind(self, groups: Sequence[Group]) -> list[Instruction]:
        """The instructions of a stretch, END included. Raises RigidError, LargeUnit."""
        self.moves: list[Move] = []
        self.units: list[tuple[Unit, Group]] = []
        self._stored: dict[int, list[Move]] = {}
        self._caches = {
            isa.Space.WEIGHT: Cache(self.config.weight_tiles),
            isa.Space.PARAM: Cache(self.config.params),
        }
        self._user = np.full(-(-self.config.act_bytes // GRAIN), -1)
        self._leaving: list[Move] = []
        for group in groups:
            waiting: list[Copy] = []
            for step in group.order:
                if isinstance(step, Unit):
                    for copy in waiting:
                        self._fetch(copy, group)
                    waiting = []
                    self._unit(step, group)
                elif step.store:
                    self._store(step, group)
                else:
                    waiting.append(step)
        self._place_moves()
        return self._tokens(self._in_order(groups))

    # --- first walk: units and what they need ------------------------------------------------------------------------

    def _grains(self, ranges):
        return [slice(low // GRAIN, -(-high // GRAIN)) for low, high in ranges]

    def _unit(self, unit: Unit, group: Group):
        number = len(self.units)
        self._gather(unit)
        bound = []
        for i in unit.instructions:
            made = Instruction(
                i.op, dict(i.fields), i.span, i.params, i.table, i.tensor, i.low, i.high, i.row, i.cycles
            )
            if i.tensor is not None:
                self._address(made, group.buffers[i.tensor], unit.layer)
                for grains in self._grains(made.ranges):
                    self._user[grains] = number
                if i.op is isa.TAIL:
                    self._clear_way(made.ranges, number)
            if i.span is not None:
                made.fields["tile"] = self._slot(isa.Space.WEIGHT, i.span.first, i.span.count, number)
            if i.table is not None:
                made.fields["table_at"] = self._slot(isa.Space.PARAM, i.table, isa.TABLE_ENTRIES, number)
            if i.params is not None:
                made.fields["param"] = self._slot(isa.Space.PARAM, *i.params, number)
            bound.append(made)
        self.units.append((Unit(unit.layer, bound, unit.holds), group))

    def _address(self, i: Instruction, b: Buffer, layer: int):
        """The instruction's address on the chip, and the bytes that it reads or writes."""
        lap = b.rows * b.pitch
        first, last = i.low // b.pitch // b.rows, (i.high - 1) // b.pitch // b.rows
        i.fields["address"] = i.fields["address"] - virtual(b.tensor) + b.address - first * lap
        low, high = b.address + i.low - first * lap, b.address + i.high - first * lap
        i.ranges = [(low, high)]
        if first == last:
            return
        wrap = (first + 1) * b.rows - (i.row or 0)
        if i.op is not isa.MUL or i.row is None or last > first + 1 or not 0 <= wrap < 4096:
            raise RigidError(b.tensor, layer)
        i.fields |= {"wrap_y": wrap, "wrap_size": lap}
        end = b.address + lap
        i.ranges = [(low, end), (b.address, high - lap)]

    def _gather(self, unit: Unit):
        tiles = {(i.span.first, i.span.count) for i in unit.instructions if i.span is not None}
        entries = {i.params for i in unit.instructions if i.params is not None}
        entries |= {(i.table, isa.TABLE_ENTRIES) for i in unit.instructions if i.table is not None}
        for space, name, spans in ((isa.Space.WEIGHT, "weight_tiles", tiles), (isa.Space.PARAM, "params", entries)):
            cache, need = self._caches[space], sum(count for _, count in spans)
            if self.resident[space == isa.Space.PARAM]:
                continue
            if need > cache.depth:
                raise LargeUnit(f"{name}={cache.depth} do not hold the {need} it needs at once", unit.layer)
            cache.gather(spans)

    def _slot(self, space: isa.Space, first: int, count: int, unit: int) -> int:
        if self.resident[space == isa.Space.PARAM]:
            return first
        at, last = self._caches[space].find(first, count, unit)
        if last is not None:
            size = self.size[space]
            fields = {"space": int(space), "external": self.base[space] + first * size, "chip": at, "length": count}
            self.moves.append(Move(fields, count * size, unit, last))
        return at

    def _parts(self, copy: Copy, b: Buffer):
        """Rows of a copy that lie together on the chip."""
        first = copy.first
        while first < copy.end:
            end = min(copy.end, (first // b.rows + 1) * b.rows)
            at = b.address + first % b.rows * b.pitch
            yield first, at, (end - first) * b.pitch
            first = end

    def _fetch(self, copy: Copy, group: Group):
        b, number = group.buffers[copy.tensor], len(self.units)
        for first, at, length in self._parts(copy, b):
            fields = {
                "base": int(isa.Base.ARENA), "external": self.place(copy.tensor) + first * b.pitch,
                "chip": at, "length": length,
            }  # fmt: skip
            ranges = [(at, at + length)]
            last = max(int(self._user[g].max()) for g in self._grains(ranges))
            wanted = [(fields["external"], fields["external"] + length)]
            for move in self._stored.get(copy.tensor, []):
                start = move.fields["external"]
                if self._meet([(start, start + move.bytes)], wanted):
                    move.after = min(move.after, number - 1)
                    last = max(last, move.after)
            self._clear_way(ranges, number)
            last = max([last, *(m.after for m in self._leaving if self._meet(m.chip, ranges))])
            self.moves.append(Move(fields, length, number, last, ranges))
            for grains in self._grains(ranges):  # a later copy comes behind this one, whether its bytes are read or not
                self._user[grains] = np.maximum(self._user[grains], number - 1)

    def _store(self, copy: Copy, group: Group):
        b, number = group.buffers[copy.tensor], len(self.units) - 1
        for first, at, length in self._parts(copy, b):
            fields = {
                "base": int(isa.Base.ARENA), "external": self.place(copy.tensor) + first * b.pitch,
                "chip": at, "length": length, "store": 1,
            }  # fmt: skip
            move = Move(fields, length, number, number + STORE_LAG, [(at, at + length)])
            self.moves.append(move)
            self._leaving.append(move)
            self._stored.setdefault(copy.tensor, []).append(move)

    @staticmethod
    def _meet(a, b) -> bool:
        return any(low < other_high and other_low < high for low, high in a for other_low, other_high in b)

    def _clear_way(self, ranges, unit: int):
        """What unit `unit` (or a copy for it) overwrites goes to memory before."""
        kept = []
        for move in self._leaving:
            if self._meet(move.chip, ranges):
                move.after = min(move.after, unit - 1)
            if move.after >= unit - 2 * STORE_LAG:
                kept.append(move)
        self._leaving = kept

    # --- where copies stand ------------------------------------------------------------------------------------------

    def _place_moves(self):
        starts = np.cumsum([0, *(unit.cycles for unit, _ in self.units)])
        following = float("inf")
        for move in reversed(self.moves):
            if move.fields.get("store"):
                continue
            end = min(following, starts[move.need])
            following = end - LATENCY - move.bytes / self.config.memory_width
            at = int(np.searchsorted(starts, following - SLACK, side="right")) - 2
            free = -1 if move.after < 0 else move.after + LAG  # there it waits for hardly anything any more
            move.after = max(move.after, min(max(at, free), move.need - 1))
            assert move.after < move.need

    def _in_order(self, groups: Sequence[Group]) -> list[Instruction]:
        last = len(self.units) - 1
        behind: dict[int, list[Instruction]] = {}
        wanted: dict[int, int] = {}  # behind each unit: the first that needs one of the copies there
        for move in self.moves:
            fields = {f.name: 0 for f in isa.MOVE.fields} | {"opcode": int(isa.MOVE.opcode), "rows": 1, "planes": 1}
            made = Instruction(isa.MOVE, fields | move.fields)
            made.ranges = move.chip
            behind.setdefault(min(move.after, last), []).append(made)
            if not move.fields.get("store"):
                wanted[move.after] = min(move.need, wanted.get(move.after, move.need))
        self.ends = []
        ends: dict[int, int] = {}
        out: list[Instruction] = list(behind.get(-1, []))
        table: tuple[int, int] | None = None
        ready: list[tuple[Unit, int]] = []  # units whose tails are to come
        for number, (unit, group) in enumerate(self.units):
            out += [i for i in unit.instructions if i.op is not isa.TAIL]
            ready.append((unit, number))
            following = self.units[number + 1][0] if number < last else None
            waits = following and wanted.get(number, last + 2) > number + 1 and self._may_wait(unit, following)
            for done, at in ready[:-1] if waits else ready:
                table = self._tails(out, done, table)
                out += behind.get(at, [])
            ready = ready[-1:] if waits else []
            ends[id(group)] = len(out)
        for group in groups:  # one without units ends with the one before
            self.ends.append(ends.get(id(group), self.ends[-1] if self.ends else 0))
        return out

    @staticmethod
    def _may_wait(unit: Unit, following: Unit) -> bool:
        """Whether a unit's tails may stand behind the next one's multiplications, which fetch then never holds up."""
        if unit.layer != following.layer or sum(i.op is isa.TAIL for i in unit.instructions) < 2:
            return False
        for u in (unit, following):
            if (
                u.holds
                or sum(i.fields["groups"] for i in u.instructions if i.op is isa.MUL and i.fields["release"]) != 1
            ):
                return False
        written = [r for i in unit.instructions if i.op is isa.TAIL for r in i.ranges]
        return not Binder._meet(written, [r for i in following.instructions if i.op is isa.MUL for r in i.ranges])

    @staticmethod
    def _tails(out: list[Instruction], unit: Unit, table):
        """Append the tails of a unit, and what loads another table before them."""
        for i in (i for i in unit.instructions if i.op is isa.TAIL):
            if i.table is not None and (i.table, i.fields["table_at"]) != table:
                table = i.table, i.fields["table_at"]
                out.append(Instruction(isa.TABLE, {"opcode": int(isa.TABLE.opcode), "param": table[1], "wait_move": 0}))
            i.fields.pop("table_at", None)
            out.append(i)
        return table

    # --- second walk: who waits for whom -----------------------------------------------------------------------------

    def _tokens(self, program: list[Instruction]) -> list[Instruction]:
        grains = -(-self.config.act_bytes // GRAIN)
        act = {name: np.full(grains, -1) for name in ("tail wrote", "move wrote", "mul read", "move read")}
        slots = {n: np.full(d, -1) for n, d in (("weight", self.config.weight_tiles), ("param", self.config.params))}
        users = {name: np.full_like(array, -1) for name, array in slots.items()}
        known = {e: dict.fromkeys(("load", "mul", "tail", "move"), -1) for e in ("load", "mul", "tail", "move")}
        ended: list[dict[str, int]] = []
        pending: list[int] = []  # LOADs whose tiles are not multiplied yet
        banks: list[int] = []  # MULs that filled banks not yet taken
        for number, i in enumerate(program):
            engine = ENGINES[i.op.opcode.name]
            mine = known[engine]
            needs = dict.fromkeys(mine, -1)

            def need(who, array, where, needs=needs):
                if len(array[where]):
                    needs[who] = max(needs[who], int(array[where].max()))

            ranges = self._grains(i.ranges)
            if i.op is isa.LOAD:
                where = slice(i.fields["tile"], i.fields["tile"] + i.fields["count"])
                need("move", slots["weight"], where)
                pending.append(number)
            elif i.op is isa.MUL:
                for load in pending:
                    self._learn(mine, ended[load])
                for grain in ranges:
                    need("tail", act["tail wrote"], grain)
                    need("move", act["move wrote"], grain)
            elif i.op in (isa.TAIL, isa.TABLE):
                if i.op is isa.TAIL and i.fields["take"]:
                    taken = 1 if i.fields["stack"] else -(-i.fields["channels"] // self.config.cols)
                    self._learn(mine, ended[banks[taken - 1]])
                    del banks[:taken]
                count = isa.TABLE_ENTRIES if i.op is isa.TABLE else 1 if i.fields["shared"] else i.fields["channels"]
                where = slice(i.fields["param"], i.fields["param"] + count)
                need("move", slots["param"], where)
                for grain in ranges:
                    need("move", act["move wrote"], grain)
                    need("move", act["move read"], grain)
                    late = int(act["mul read"][grain].max())
                    assert late <= mine["mul"], "a TAIL overwrites what is still to be multiplied"
                users["param"][where] = number + (i.op is isa.TABLE)  # a TAIL follows, which tells of both
            else:
                self._move_needs(i, ranges, act, users, need)
            for who, at in needs.items():
                if who != engine and at > mine[who]:
                    post, wait = POSTS[who, engine]
                    assert not program[at].fields.get(post) and at < number
                    program[at].fields[post] = i.fields[wait] = 1
                    self._learn(mine, ended[at])
            mine[engine] = number
            ended.append(dict(mine))
            if i.op is isa.MUL:
                for load in pending:
                    f = program[load].fields
                    users["weight"][f["tile"] : f["tile"] + f["count"]] = number
                pending = []
                f = i.fields
                if f["release"]:
                    banks += [number] * (1 if f["stack"] else f["groups"])
            self._note(number, i, ranges, act, slots)
        program.append(Instruction(isa.END, {"opcode": int(isa.END.opcode)}))
        return program

    @staticmethod
    def _learn(mine, other):
        for who, at in other.items():
            mine[who] = max(mine[who], at)

    @staticmethod
    def _move_needs(i: Instruction, ranges, act, users, need):
        f = i.fields
        where = slice(f["chip"], f["chip"] + f["length"])
        if f["space"] == isa.Space.WEIGHT:
            need("mul", users["weight"], where)
        elif f["space"] == isa.Space.PARAM:
            need("tail", users["param"], where)
        for grain in ranges:
            need("tail", act["tail wrote"], grain)
            if not f["store"]:
                need("mul", act["mul read"], grain)

    @staticmethod
    def _note(number: int, i: Instruction, ranges, act, slots):
        """What an instruction has read and written."""
        for grain in ranges:
            if i.op is isa.MUL:
                act["mul read"][grain] = number
            elif i.op is isa.TAIL:
                act["tail wrote"][grain] = number
                act["move wrote"][grain] = -1
            elif i.fields["store"]:
                act["move read"][grain] = number
            else:
                act["move wrote"][grain] = number
        if i.op is isa.MOVE and i.fields["space"] != isa.Space.ACT:
            name = "weight" if i.fields["space"] == isa.Space.WEIGHT else "param"
            slots[name][i.fields["chip"] : i.fields["chip"] + i.fields["length"]] = number

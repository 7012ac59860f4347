"""Where tensors lie when not all of them fit on the chip, and in which order the units of layers run.

Layers are cut into groups. In a group, layers run depth first: a unit of the last layer makes those before it run as
far as it needs. Of a tensor that only the group uses, the chip holds the rows that are still wanted (a buffer of rows,
used round and round); tensors that others use too lie in memory, and their rows pass through such a buffer, or stay on
the chip as a whole from one group to another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler.placement import place_tensors
from lepton.sw.compiler.units import Unit


@dataclass(frozen=True)
class Limits:
    """What a plan may use: bytes of activation memory, and layers in a group."""

    room: int
    layers: int = 12


LATENCY = 60
"""Cycles from a copy's start to its first byte, about."""


@dataclass
class Buffer:
    """Rows of a tensor on the chip: row r lies in slot r mod `rows`."""

    tensor: int
    rows: int
    pitch: int
    address: int = -1

    @property
    def size(self) -> int:
        return self.rows * self.pitch


@dataclass(frozen=True)
class Copy:
    """Rows of a tensor that pass between memory and its buffer."""

    tensor: int
    first: int
    end: int
    store: bool


@dataclass
class Group:
    """Layers that run depth first."""

    layers: range
    order: list[Unit | Copy] = field(default_factory=list)
    buffers: dict[int, Buffer] = field(default_factory=dict)
    cycles: int = 0
    traffic: int = 0
    stored: int = 0
    """Bytes that leave the chip: read when the array does not, of which each access takes a cycle of it."""
    edges: int = 0
    """Bytes that come before the first unit or go behind the last."""

    @property
    def size(self) -> int:
        return sum(-(-b.size // 16) * 16 for b in self.buffers.values())

    def cost(self, config: NpuConfig) -> float:
        width = config.memory_width
        held = self.stored / min(width, config.banks)
        return max(self.cycles + held, self.traffic / (0.9 * width)) + self.edges / width + LATENCY


@dataclass
class Work:
    """A layer in steps, units that write the same rows, and what each reads and writes of each tensor."""

    units: list[Unit]
    steps: list[list[Unit]]
    reads: list[list[tuple[int, int, int]]]
    """Of each step: (tensor, first row, row behind the last)."""
    writes: list[list[tuple[int, int, int]]]
    tiles: set[int]
    cycles: int
    open: list[dict[int, int]]
    """Before each step, and behind the last: of the tensors still to be written, the first row that is not whole."""

    @classmethod
    def of(cls, units: list[Unit], geometry) -> "Work":
        def rows(units, op):
            found: dict[int, tuple[int, int]] = {}
            for i in (i for unit in units for i in unit.accesses(op)):
                _, pitch = geometry(i.tensor)
                low, high = i.low // pitch, -(-i.high // pitch)
                if i.tensor in found:
                    low, high = min(low, found[i.tensor][0]), max(high, found[i.tensor][1])
                found[i.tensor] = low, high
            return [(t, *r) for t, r in found.items()]

        steps: list[list[Unit]] = []
        for unit in units:
            if steps and not steps[-1][-1].holds and rows(steps[-1][:1], isa.TAIL) == rows([unit], isa.TAIL):
                steps[-1].append(unit)
            else:
                steps.append([unit])
        tiles = {
            n for u in units for i in u.instructions if i.span for n in range(i.span.first, i.span.first + i.span.count)
        }
        writes = [rows(step, isa.TAIL) for step in steps]
        open_rows: list[dict[int, int]] = [{}]
        for written in reversed(writes):
            open_rows.append(dict(open_rows[-1]))
            for t, low, _ in written:
                open_rows[-1][t] = min(low, open_rows[-1].get(t, low))
        reads = [rows(step, isa.MUL) for step in steps]
        return cls(units, steps, reads, writes, tiles, sum(u.cycles for u in units), open_rows[::-1])

    @property
    def alone(self) -> bool:
        """Whether a bank is held from one unit to the next, so that no other layer may run between them."""
        return any(unit.holds for unit in self.units)

    @property
    def sources(self) -> set[int]:
        return {t for r in self.reads for t, _, _ in r}

    @property
    def results(self) -> set[int]:
        return {t for w in self.writes for t, _, _ in w}


class Planner:
    """Plans one stretch of layers that run without the host between them.

    `geometry(tensor)`: rows and bytes of a row; `outer`: tensors that others than these layers make or read; `rigid`:
    of a tensor and a layer that does not use its rows round and round, 1 if it may do where
    the buffer is a multiple of what it uses at a time, else 2; `shared`: tensors that other stretches make a part of;
    `tried`: what is known of groups of the same works.
    """

    def __init__(
        self,
        config: NpuConfig,
        limits: Limits,
        variants: Sequence[Sequence[Work]],
        geometry,
        outer: set[int],
        rigid: dict[tuple[int, int], int],
        shared: set[int],
        tried: dict,
    ):
        self.config, self.limits, self.variants, self.geometry = config, limits, variants, geometry
        self.works = works = variants[0]
        self.outer, self.rigid, self.shared = outer, rigid, shared
        self.tile_bytes = isa.memory_tile_bytes(config)
        self.whole: set[int] = set()
        """Tensors that stay on the chip from one group to another."""
        self._made = [w.results for w in works]
        self._read = [w.sources for w in works]
        self._tried: dict[tuple, Group | None] = tried

    def plan(self) -> list[Group] | None:
        """The groups with their buffers placed; None when a layer alone does not fit."""
        n = len(self.works)
        inner = set().union(*self._made, *self._read)
        # Everything at once on the chip, each tensor as long as it is wanted.
        self.whole = {t for t in inner if t not in self.outer}
        groups = self._groups([(range(i, i + 1), 0) for i in range(n)])
        if groups and self._placed(groups):
            return groups
        self.whole = set()
        cuts = self._cuts()
        if cuts is None:
            return None
        parts = [(range(a, b), v) for (a, _), (b, v) in pairwise(cuts)]
        self._keep(parts)
        while True:
            groups = self._groups(parts)
            if groups and self._placed(groups):
                return groups
            if not self.whole:
                return None
            self.whole.discard(min(self.whole, key=lambda t: self._benefit(t)))

    def _benefit(self, t):
        rows, pitch = self.geometry(t)
        return -rows * pitch

    def _groups(self, parts) -> list[Group] | None:
        groups = []
        for part in parts:
            group = self.group(*part)
            if group is None:
                return None
            groups.append(group)
        return groups

    def _cuts(self) -> list[tuple[int, int]] | None:
        """The cheapest way through the layers: where groups begin and end, and with which variant."""
        n = len(self.works)
        best: list[tuple[float, int, int]] = [(0.0, -1, 0)] + [(float("inf"), -1, 0)] * n
        for i in range(n):
            if best[i][0] == float("inf"):
                continue
            for v in range(len(self.variants)):
                misses = 0
                for j in range(i + 1, min(n, i + self.limits.layers) + 1):
                    if v and self.variants[v][j - 1] is self.variants[0][j - 1] and j == i + 1:
                        continue
                    group = self.group(range(i, j), v)
                    if group is None:
                        misses += 1
                        if misses == 2:
                            break
                        continue
                    cost = best[i][0] + group.cost(self.config) + group.traffic * 1e-4
                    if cost < best[j][0]:
                        best[j] = cost, i, v
        if best[n][0] == float("inf"):
            return None
        cuts = [(n, best[n][2])]
        while cuts[-1][0]:
            at = best[cuts[-1][0]][1]
            cuts.append((at, best[at][2]))
        return cuts[::-1]

    def _keep(self, parts: list[tuple[range, int]]):
        """Tensors between groups that may stay on the chip: the smallest first, as long as all groups still fit."""
        home = {i: g for g, (part, _) in enumerate(parts) for i in part}
        spans = {}
        for t in set().union(*self._made):
            at = {home[i] for i in range(len(self.works)) if t in self._made[i] or t in self._read[i]}
            if len(at) > 1 and t not in self.outer:
                spans[t] = at
        free = [self.limits.room - group.size for group in self._groups(parts) or []]
        for t in sorted(spans, key=lambda t: self.geometry(t)[0] * self.geometry(t)[1]):
            rows, pitch = self.geometry(t)
            if all(free[g] >= rows * pitch + 16 for g in range(min(spans[t]), max(spans[t]) + 1)):
                self.whole.add(t)
                for g in range(min(spans[t]), max(spans[t]) + 1):
                    free[g] -= rows * pitch + 16

    # --- one group ---------------------------------------------------------------------------------------------------

    def group(self, layers: range, variant: int = 0) -> Group | None:
        """Its order and buffers; None when they do not fit."""
        self.works = self.variants[variant]
        inside = set().union(*(self._made[i] | self._read[i] for i in layers))
        works = tuple(id(self.works[i]) for i in layers)
        key = works, frozenset(inside & self.whole), frozenset(r for r in self.rigid.items() if r[0][1] in layers)
        if key not in self._tried:
            self._tried[key] = self._group(layers)
        return self._tried[key]

    def _group(self, layers: range) -> Group | None:
        if len(layers) > 1 and any(self.works[i].alone for i in layers):
            return None
        group = Group(layers)
        rigid = {t for (t, i), level in self.rigid.items() if i in layers and level == 2}
        even = {t for t, i in self.rigid if i in layers} - rigid
        made = {t for i in layers for t in self._made[i]}
        elsewhere = {t for i in range(len(self.works)) if i not in layers for t in self._read[i]}
        stored = {t for t in made if t not in self.whole and (t in self.outer or t in elsewhere)}
        loaded = {t for i in layers for t in self._read[i]} - made - self.whole
        others = {t for i in range(len(self.works)) if i not in layers for t in self._made[i]}
        parts = {t for t in made if t in self.shared or (t in others and t not in self.whole)}
        order: list[tuple[int, int] | Copy] = [Copy(t, 0, self.geometry(t)[0], False) for t in sorted(parts)]
        order += _Order(self, layers, made, stored, loaded).run()
        for step in order:
            group.order += [step] if isinstance(step, Copy) else self.works[step[0]].steps[step[1]]
        tiles = set().union(*(self.works[i].tiles for i in layers))
        again = 1
        if len(tiles) > self.config.weight_tiles:
            again = max(len(self.works[i].steps) for i in layers)
        group.cycles = sum(self.works[i].cycles for i in layers)
        group.traffic = len(tiles) * self.tile_bytes * again
        group.traffic += sum((s.end - s.first) * self.geometry(s.tensor)[1] for s in order if isinstance(s, Copy))
        units = [n for n, s in enumerate(group.order) if not isinstance(s, Copy)]
        for n, placed in enumerate(group.order):
            if isinstance(placed, Copy) and placed.store:
                group.stored += (placed.end - placed.first) * self.geometry(placed.tensor)[1]
            if isinstance(placed, Copy) and not units[0] < n < units[-1]:
                group.edges += (placed.end - placed.first) * self.geometry(placed.tensor)[1]
        group.traffic += 80 * sum(not isinstance(s, Copy) for s in group.order)
        for t, rows in self._windows(order, made | {t for i in layers for t in self._read[i]}, even).items():
            all_rows, pitch = self.geometry(t)
            if t in self.whole or t in rigid or t in parts:
                rows = all_rows
            group.buffers[t] = Buffer(t, min(rows, all_rows), pitch)
        if group.size > self.limits.room:
            return None
        return group

    def _windows(self, order: list, tensors: set[int], even: set[int]) -> dict[int, int]:
        """Rows of each tensor that must be there at one time: from the lowest that is still read to what is written."""
        events: dict[int, list[tuple[int, int, int, bool]]] = {t: [] for t in tensors}
        for at, step in enumerate(order):
            if isinstance(step, Copy):
                events[step.tensor].append((at, step.first, step.end, not step.store))
                continue
            i, k = step
            for t, low, high in self.works[i].reads[k]:
                if t in events:
                    events[t].append((at, low, high, False))
            for t, low, high in self.works[i].writes[k]:
                if t in events:
                    events[t].append((at, low, high, True))
        out = {}
        for t, found in events.items():
            if not found:
                continue
            lowest, need, chunk = 1 << 30, 1, 1
            for at, low, high, write in reversed(found):
                if not write:
                    lowest = min(lowest, low)
                    need = max(need, high - low)
                else:
                    chunk = max(chunk, high - low)
                    need = max(need, high - min(lowest, low))
            if any(not write for *_, write in found) and any(isinstance(s, Copy) and s.tensor == t for s in order):
                need += chunk  # the next rows come, or the last ones go, while these are at work
            if t in even:
                chunk = math.lcm(chunk, *{high - low for _, low, high, write in found[:-1] if not write})
            out[t] = -(-need // chunk) * chunk
        return out

    # --- places ------------------------------------------------------------------------------------------------------

    def _placed(self, groups: list[Group]) -> bool:
        """Addresses for all buffers; False when there is no room."""
        lives: dict[tuple, tuple[int, int]] = {}
        sizes: dict[tuple, int] = {}
        for g, group in enumerate(groups):
            for t, buffer in group.buffers.items():
                key = (t, -1) if t in self.whole else (t, g)
                first, _ = lives.get(key, (g, g))
                lives[key] = first, g
                sizes[key] = max(sizes.get(key, 0), -(-buffer.size // 16) * 16)
        numbers = {key: i for i, key in enumerate(sizes)}
        found = place_tensors(
            {i: sizes[k] for k, i in numbers.items()}, {i: lives[k] for k, i in numbers.items()}, self.limits.room
        )
        if max((a + sizes[k] for k, i in numbers.items() for a in [found[i]]), default=0) > self.limits.room:
            return False
        for g, group in enumerate(groups):
            for t, buffer in group.buffers.items():
                buffer.address = found[numbers[(t, -1) if t in self.whole else (t, g)]]
        return True


class _Order:
    """The order of a group's units, and the copies between them."""

    def __init__(self, planner: Planner, layers: range, made: set[int], stored: set[int], loaded: set[int]):
        self.p, self.layers, self.made, self.stored, self.loaded = planner, layers, made, stored, loaded
        self.at = dict.fromkeys(layers, 0)
        self.out: list[tuple[int, int] | Copy] = []
        reads = [r for i in layers for unit in planner.works[i].reads for r in unit]
        self.there = {t: min(low for u, low, _ in reads if u == t) for t in loaded}  # up to which row they are loaded
        self.last = {t: max(high for u, _, high in reads if u == t) for t in loaded}
        self.gone = dict.fromkeys(stored, 0)  # rows stored
        self.makers: dict[int, list[int]] = {}
        self.open = {i: planner.works[i].open for i in layers}
        for i in layers:
            for t in planner._made[i]:
                self.makers.setdefault(t, []).append(i)
        self.front = {t: self._whole(t) for t in self.makers}
        """Rows of each tensor that are made."""

    def _whole(self, t: int) -> int:
        return min(self.open[i][self.at[i]].get(t, self.p.geometry(t)[0]) for i in self.makers[t])

    def run(self) -> list[tuple[int, int] | Copy]:
        read = {t for i in self.layers for t in self.p._read[i]}
        sinks = [i for i in self.layers if not self.p._made[i] & read]
        for i in sinks[::-1]:
            while self.at[i] < len(self.p.works[i].steps):
                self.step(i)
                for other in sinks:
                    while other != i and self.ready(other):
                        self.step(other)
        for i in self.layers:
            while self.at[i] < len(self.p.works[i].steps):
                self.step(i)
        return self.out

    def ready(self, i: int) -> bool:
        k = self.at[i]
        if k == len(self.p.works[i].steps):
            return False
        return all(
            (self.front[t] if t in self.made else self.there.get(t, 1 << 30)) >= high
            for t, _, high in self.p.works[i].reads[k]
        )

    def step(self, i: int):
        """The next unit of a layer, behind what it needs."""
        work, k = self.p.works[i], self.at[i]
        for t, low, high in work.reads[k]:
            if t in self.loaded:
                self.load(t, high)
            while t in self.made and self.front[t] < high and i not in self.makers[t]:
                maker = min(self.makers[t], key=lambda m: self.open[m][self.at[m]].get(t, 1 << 30))
                self.step(maker)
        self.out.append((i, k))
        self.at[i] = k + 1
        for t in self.p._made[i]:
            self.front[t] = self._whole(t)
            if t in self.stored:
                self.store(t)

    def load(self, t: int, high: int):
        rows, pitch = self.p.geometry(t)
        if self.there[t] >= high:
            return
        chunk = max(1, min(rows, -(-1024 // pitch)))
        while self.there[t] < high:
            first = self.there[t]
            end = min(self.last[t], first - first % chunk + chunk)
            self.out.append(Copy(t, first, end, False))
            self.there[t] = end

    def store(self, t: int):
        """The rows that are whole and not in memory yet."""
        if self.front[t] > self.gone[t]:
            self.out.append(Copy(t, self.gone[t], self.front[t], True))
            self.gone[t] = self.front[t]

"""Compile for a machine with a memory port: an image and an arena, from which the machine fetches for itself.

The image holds tiles, parameters and the program; the arena the tensors that the host writes and reads and those that
do not stay on the chip.
"""

from collections.abc import Callable

from lepton.rtl.spec import isa
from lepton.rtl.spec.codec import CodecError
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler.bind import GRAIN, Binder, LargeUnit, RigidError
from lepton.sw.compiler.emitter import ADDRESS_MASK, ADDRESSES
from lepton.sw.compiler.plan import Copy, Group, Limits, Planner, Work
from lepton.sw.compiler.program import (
    CompileError,
    HostStep,
    Layer,
    LayerError,
    NpuStep,
    Place,
    Program,
    aligned,
    until_settled,
)
from lepton.sw.compiler.units import Instruction, Recorder
from lepton.sw.graph.model import Model

LESS_ROWS = (7, 3)
"""Rows of a unit that are tried besides as many as the accumulators hold."""


def compile_streaming(model: Model, config: NpuConfig, host: dict[int, str], limits: Limits | None = None) -> Program:
    """Compile; `host` gathers what the array does not compute, and why. Raises CompileError.

    `limits`: of what the plan uses, if it is not to use all of the activation memory.
    """
    return until_settled(host, lambda: _attempt(model, config, host, limits or Limits(config.act_bytes)))


def _attempt(model: Model, config: NpuConfig, host: dict[int, str], limits: Limits) -> Program:
    apart: frozenset[int] = frozenset()
    while True:
        try:
            return _Attempt(model, config, host, apart, limits).program()
        except _Apart as error:
            assert not error.joins <= apart
            apart |= error.joins


def min_memory(model: Model, config: NpuConfig, progress: Callable[[int, int], None] | None = None) -> int:
    """Fewest bytes of activation memory with which the array computes what it computes with all that the configuration
    has, each layer for itself. `progress(tried, about)` is called after each size that is tried.

    Raises CompileError when the model does not fit that.
    """

    host: dict[int, str] = {}
    fits = compile_streaming(model, config, host, Limits(config.act_bytes, 1)).span_bytes
    fails, tried = 0, 1
    while fits - fails > max(GRAIN, fits // 64):
        # Most networks need a small part of what one layer of theirs uses when it can have all.
        room = max((fails + fits) // 2 if fails else fits // 4, GRAIN) // GRAIN * GRAIN
        try:
            fits = min(room, _attempt(model, config, host, Limits(room, 1)).span_bytes)
        except CompileError:
            fails = room
        tried += 1
        if progress:
            progress(tried, max(tried + 1, 12))
    if progress:
        progress(tried, tried)
    return fits


def setup_words(program: Program, resident: tuple[bool, bool]) -> list[int]:
    """A program that brings tiles and parameters to the chip, if they are to stay there."""
    c, words = program.config, list[int]()
    for space, here, external, count in (
        (isa.Space.WEIGHT, resident[0], 0, len(program.tiles) // isa.word_bytes(isa.Region.WEIGHT, c)),
        (isa.Space.PARAM, resident[1], program.image_parts[0], len(program.params) // isa.PARAM_BYTES),
    ):
        if here and count:
            words += isa.encode(isa.MOVE, space=int(space), external=external, length=count, rows=1, planes=1)
    return [*words, *isa.encode(isa.END)]


class _Apart(Exception):
    """Operators whose inputs do not fit on the chip where these would join them."""

    def __init__(self, joins: set[int]):
        super().__init__(joins)
        self.joins = joins


class _Attempt:
    def __init__(self, model: Model, config: NpuConfig, host: dict[int, str], apart: frozenset[int], limits: Limits):
        self.recorder = Recorder(model, config, host=host, apart=apart)
        self.model, self.config, self.limits = model, config, limits
        self.layers = self.recorder.fuse()
        self.made = self.recorder.program
        self.made.why_host = {i: why for i, why in self.recorder.why_host.items() if why is not None}
        self.shrunk: dict[int, int] = {}
        self._kept: list[Work] = []

    def program(self) -> Program:
        stretches = self._stretches()
        works = {i: self._work(i) for i, (kind, _) in enumerate(self.layers) if kind == "npu"}
        outer = self._outer(works, stretches)
        makers = [{t for i in s for t in works[i].results} for s in stretches]
        self.shared = {t for made in makers for t in made if sum(t in other for other in makers) > 1}
        plans = [self._plan(self._variants(works, s), s, outer) for s in stretches]
        self._lay_out(outer, [group for groups, _ in plans for group in groups])
        r, made = self.recorder, self.made
        r.fill_memories()
        resident = len(r.tile_words) <= self.config.weight_tiles, len(r.param_words) <= self.config.params
        params = made.image_parts[0]
        binder = Binder(self.config, 0, params, resident, lambda t: made.places[t].address)
        made.setup = 0
        made.words += setup_words(made, resident)
        at = iter(zip(stretches, plans))
        running = False
        for kind, ops in self.layers:
            if kind == "host":
                self.made.steps.append(HostStep(ops[0].index))
                running = False
            elif kind == "npu" and not running:
                running = True
                stretch, (groups, _) = next(at)
                self._emit(binder, groups, stretch)
        self.made.peak_bytes = max((g.size for groups, _ in plans for g in groups), default=0)
        self.made.span_bytes = max(
            (b.address + b.size for groups, _ in plans for g in groups for b in g.buffers.values()), default=0
        )
        return self.made

    # --- layers ------------------------------------------------------------------------------------------------------

    def _stretches(self) -> list[list[int]]:
        """Layers of the array that run without the host between them."""
        out: list[list[int]] = []
        running = False
        for i, (kind, _) in enumerate(self.layers):
            if kind == "npu":
                if not running:
                    out.append([])
                out[-1].append(i)
            running = kind == "npu" or (kind == "alias" and running)
        return out

    def _work(self, i: int, most_rows: int = 4095) -> Work:
        ops = self.layers[i][1]
        try:
            return Work.of(self.recorder.units(i, ops, most_rows), self.recorder.geometry)
        except LayerError as error:
            error.operator = ops[0].index
            raise

    def _outer(self, works: dict[int, Work], stretches: list[list[int]]) -> set[int]:
        """Tensors that the host or another stretch writes or reads."""
        r = self.recorder
        out = {r.root(t)[0] for t in (*self.model.inputs, *self.model.outputs)}
        for kind, ops in self.layers:
            if kind == "host":
                out |= {r.root(t)[0] for op in ops for t in (*op.inputs, *op.outputs) if t >= 0}
        seen: dict[int, int] = {}
        for n, stretch in enumerate(stretches):
            for t in {t for i in stretch for t in works[i].sources | works[i].results}:
                if seen.setdefault(t, n) != n:
                    out.add(t)
        return out

    def _variants(self, works: dict[int, Work], stretch: list[int]) -> list[list[Work]]:
        """The layers in units of as many rows as the accumulators hold, and of fewer."""
        out = [[works[i] for i in stretch]]
        for rows in LESS_ROWS:
            tall = [max((high - low for w in work.writes for _, low, high in w), default=0) for work in out[0]]
            out.append([self._work(i, rows) if h > rows else w for i, h, w in zip(stretch, tall, out[0])])
        return out

    def _plan(self, works: list[list[Work]], stretch: list[int], outer: set[int]) -> tuple[list[Group], Planner]:
        rigid: dict[tuple[int, int], int] = {}
        tried: dict = {}
        while True:
            planner = Planner(self.config, self.limits, works, self.recorder.geometry, outer, rigid, self.shared, tried)
            groups = planner.plan()
            if groups is None:
                self._shrink(planner, works, stretch)
                continue
            try:
                Binder(self.config, 0, 0, (False, False), lambda t: 0).bind(groups)
            except LargeUnit as error:
                error.operator = self.layers[error.layer][1][0].index
                raise
            except RigidError as error:
                pair = error.tensor, stretch.index(error.layer)
                rigid[pair] = rigid.get(pair, 0) + 1
                assert rigid[pair] <= 2
                continue
            return groups, planner

    def _shrink(self, planner: Planner, works: list[list[Work]], stretch: list[int]):
        """Layers that do not fit alone in smaller units; what does not fit then is for the host."""
        r = self.recorder
        stuck = [
            k for k in range(len(stretch)) if all(planner.group(range(k, k + 1), v) is None for v in range(len(works)))
        ]
        joins = {
            r.in_place[t] for k in stuck for op in self.layers[stretch[k]][1] for t in op.outputs if t in r.in_place
        }
        if joins:
            raise _Apart(joins)
        if not stuck:
            error = LayerError(f"act_bytes={self.limits.room:,} are too few for its place among the others")
            error.operator = self.layers[stretch[-1]][1][0].index
            raise error
        for k in stuck:
            i = stretch[k]
            rows = self.shrunk.get(i, 1)
            if rows == 0:
                error = LayerError(f"act_bytes={self.limits.room:,} do not hold the rows it needs at once")
                error.operator = self.layers[i][1][0].index
                raise error
            if len(works) == 1 + len(LESS_ROWS):
                works.append([*works[-1]])
            self._kept.append(works[-1][k])  # `tried` knows it by its identity
            works[-1][k] = self._work(i, rows)
            self.shrunk[i] = rows // 4

    # --- memory ------------------------------------------------------------------------------------------------------

    def _lay_out(self, outer: set[int], groups: list[Group]):
        """The arena: every tensor that lies in memory has its own place."""
        r, at = self.recorder, 0
        there = {step.tensor for group in groups for step in group.order if isinstance(step, Copy)}
        for t in sorted(there | {t for t in outer if t >= 0 and self.model.tensors[t].dtype == "int8"}):
            if self.model.tensors[t].data is not None:
                continue
            size = self.model.tensors[t].size
            self.made.places[t] = Place(at, size)
            at += aligned(size)
        for t in r.views:
            source, offset = r.root(t)
            if source in self.made.places:
                self.made.places[t] = Place(self.made.places[source].address + offset, self.model.tensors[t].size)
        self.made.arena_bytes = max(at, 1)

    # --- program -----------------------------------------------------------------------------------------------------

    def _emit(self, binder: Binder, groups: list[Group], stretch: list[int]):
        """Append a stretch; a group of layers, whose rows run through each other, is one layer of the report."""
        made = self.made
        made.steps.append(NpuStep(len(made.words)))
        instructions = binder.bind(groups)
        ends = [*binder.ends[:-1], len(instructions) - 1]  # what leaves last belongs to the last
        first = 0
        for group, end in zip(groups, ends, strict=True):
            start = len(made.words)
            for instruction in instructions[first:end]:
                made.words += self._encode(instruction)
            first = end
            ops = [op for i in group.layers for op in self.recorder.with_absorbed(self.layers[stretch[i]][1])]
            macs = sum(self.recorder.macs(op) for op in ops)
            name = "+".join(op.op for op in ops)
            made.layers.append(Layer(tuple(op.index for op in ops), name, macs, start, len(made.words), group.size))
        for instruction in instructions[first:]:
            made.words += self._encode(instruction)

    def _encode(self, i: Instruction) -> list[int]:
        fields = {name: i.fields.get(name, 0) for name in (f.name for f in i.op.fields)}
        for name in ADDRESSES & fields.keys() if i.op in (isa.MUL, isa.TAIL) else ():
            fields[name] &= ADDRESS_MASK
        try:
            return isa.encode(i.op, **fields)
        except CodecError as error:
            raise CompileError(f"{self.model.name}: it exceeds the instruction set ({error})") from None

"""Compile for a machine with a memory port: an image and an arena, from which the machine fetches for itself.

The image holds tiles, parameters and the program; the arena the tensors that the host writes and reads and those that
do not stay on the chip.
"""

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.codec import CodecError
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler.bind import Binder, RigidError
from lepton.sw.compiler.emitter import ADDRESS_MASK, ADDRESSES
from lepton.sw.compiler.plan import Group, Planner, Work
from lepton.sw.compiler.program import CompileError, HostStep, Layer, LayerError, NpuStep, Place, Program
from lepton.sw.compiler.units import Instruction, Recorder
from lepton.sw.graph.model import Model

LESS_ROWS = (7, 3)
"""Rows of a unit that are tried besides as many as the accumulators hold."""
ALIGN = 64
"""Bytes to whose multiples parts of the image and tensors in the arena are aligned."""


def aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def compile_streaming(model: Model, config: NpuConfig, host: dict[int, str]) -> Program:
    """Compile; `host` gathers what the array does not compute, and why. Raises CompileError."""
    apart: frozenset[int] = frozenset()
    while True:
        try:
            return _Attempt(model, config, host, apart).program()
        except _Apart as error:
            assert not error.joins <= apart
            apart |= error.joins
        except LayerError as error:
            assert error.operator not in host
            host[error.operator] = str(error)


class _Apart(Exception):
    """Operators whose inputs do not fit on the chip where these would join them."""

    def __init__(self, joins: set[int]):
        super().__init__(joins)
        self.joins = joins


class _Attempt:
    def __init__(self, model: Model, config: NpuConfig, host: dict[int, str], apart: frozenset[int]):
        self.recorder = Recorder(model, config, host=host, apart=apart)
        self.model, self.config = model, config
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
        self._lay_out(outer, works)
        r = self.recorder
        resident = len(r.tile_words) <= self.config.weight_tiles, len(r.param_words) <= self.config.params
        tiles, params = self._image_parts()
        self.made.tiles, self.made.params = tiles, params
        binder = Binder(self.config, 0, aligned(len(tiles)), resident, lambda t: self.made.places[t].address)
        self._setup(resident, aligned(len(tiles)))
        at = iter(zip(stretches, plans))
        running = False
        for kind, ops in self.layers:
            if kind == "host":
                self.made.steps.append(HostStep(ops[0].index))
                running = False
            elif kind == "npu" and not running:
                running = True
                stretch, (groups, planner) = next(at)
                self._emit(binder, groups, planner, stretch)
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
            planner = Planner(self.config, works, self.recorder.geometry, outer, rigid, self.shared, tried)
            groups = planner.plan()
            if groups is None:
                self._shrink(planner, works, stretch)
                continue
            try:
                Binder(self.config, 0, 0, (False, False), lambda t: 0).bind(groups)
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
            error = LayerError(f"act_bytes={self.config.act_bytes:,} are too few for its place among the others")
            error.operator = self.layers[stretch[-1]][1][0].index
            raise error
        for k in stuck:
            i = stretch[k]
            rows = self.shrunk.get(i, 1)
            if rows == 0:
                error = LayerError(f"act_bytes={self.config.act_bytes:,} do not hold the rows it needs at once")
                error.operator = self.layers[i][1][0].index
                raise error
            for variant in works:
                self._kept.append(variant[k])  # `tried` knows it by its identity
                variant[k] = self._work(i, rows)
            self.shrunk[i] = rows // 4

    # --- memory ------------------------------------------------------------------------------------------------------

    def _lay_out(self, outer: set[int], works: dict[int, Work]):
        """The arena: every tensor that may lie in memory has its own place."""
        r, at = self.recorder, 0
        there = {t for w in works.values() for t in w.sources | w.results}
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
        self.made.arena_bytes = at

    def _image_parts(self) -> tuple[bytes, bytes]:
        """Tiles and parameters as they lie in memory."""
        r, c = self.recorder, self.config
        front = isa.memory_tile_bytes(c) - -(-c.tile_bytes // c.memory_width) * c.memory_width
        size, d = isa.memory_tile_bytes(c), isa.DESCRIPTOR_BYTES
        tiles = np.zeros((len(r.tile_words), size), np.uint8)
        if r.tile_words:
            raw = np.frombuffer(b"".join(r.tile_words), np.uint8).reshape(len(r.tile_words), -1)
            tiles[:, :d], tiles[:, front : front + c.tile_bytes] = raw[:, :d], raw[:, d:]
        params = np.zeros((len(r.param_words), isa.memory_param_bytes(c)), np.uint8)
        if r.param_words:
            params[:, : isa.PARAM_BYTES] = np.frombuffer(b"".join(r.param_words), np.uint8).reshape(-1, isa.PARAM_BYTES)
        return tiles.tobytes(), params.tobytes()

    def _setup(self, resident: tuple[bool, bool], params: int):
        """A program that brings what is resident to the chip, once."""
        r = self.recorder
        for space, here, external, count in (
            (isa.Space.WEIGHT, resident[0], 0, len(r.tile_words)),
            (isa.Space.PARAM, resident[1], params, len(r.param_words)),
        ):
            if here and count:
                self.made.words += isa.encode(
                    isa.MOVE, space=int(space), external=external, length=count, rows=1, planes=1
                )
        self.made.words += isa.encode(isa.END)

    # --- program -----------------------------------------------------------------------------------------------------

    def _emit(self, binder: Binder, groups: list[Group], planner: Planner, stretch: list[int]):
        start = len(self.made.words)
        self.made.steps.append(NpuStep(start))
        for instruction in binder.bind(groups):
            self.made.words += self._encode(instruction)
        for layer in stretch:
            ops = self.recorder.with_absorbed(self.layers[layer][1])
            self.made.layers.append(
                Layer(
                    tuple(op.index for op in ops),
                    "+".join(op.op for op in ops),
                    sum(self.recorder.macs(op) for op in ops),
                    start,
                    len(self.made.words),
                )
            )

    def _encode(self, i: Instruction) -> list[int]:
        fields = {name: i.fields.get(name, 0) for name in (f.name for f in i.op.fields)}
        for name in ADDRESSES & fields.keys() if i.op in (isa.MUL, isa.TAIL) else ():
            fields[name] &= ADDRESS_MASK
        try:
            return isa.encode(i.op, **fields)
        except CodecError as error:
            raise CompileError(f"{self.model.name}: it exceeds the instruction set ({error})") from None

"""Maps with any strides, cut into boxes that one instruction reads or writes.

A `View` says where the elements of a box of up to six dimensions lie. `boxes` cuts a target and the sources that are to
meet in it: dimensions that lie the same way everywhere are joined, the innermost bytes become vectors of up to `cols`
bytes, two dimensions become the rows and columns of an instruction, the others and what exceeds the accumulators are
many instructions. Bytes of a vector that lie apart are gathered, a tile for each stretch of `rows` bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from lepton.sw.compiler.emitter import Emitter, Span, Tile
from lepton.sw.compiler.movement import dense
from lepton.sw.compiler.program import LayerError

MOST_POSITION = 2**15 - 1
MOST_SIDE = 4095
MOST_STEP = 2**16 - 1
WORDS = 10  # of the instructions of a copy


@dataclass(frozen=True)
class View:
    """Bytes in activation memory (`address`), or constants (`values`: int8, as a flat run): a stride for each size."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    values: np.ndarray | None = None

    @classmethod
    def dense(cls, address: int, shape: Sequence[int]) -> "View":
        return cls(address, tuple(shape), dense(shape))

    @classmethod
    def constant(cls, values: np.ndarray) -> "View":
        flat = np.ascontiguousarray(values, np.int8)
        return cls(0, flat.shape, dense(flat.shape), flat.reshape(-1))

    def broadcast(self, shape: Sequence[int]) -> "View":
        """As NumPy broadcasts."""
        more = len(shape) - len(self.shape)
        strides = (0,) * more + tuple(s if n > 1 else 0 for n, s in zip(self.shape, self.strides))
        return replace(self, shape=tuple(shape), strides=strides)


@dataclass(frozen=True)
class Dim:
    """Indexes of a box and how far each operand moves with one; the last operand is the target."""

    size: int
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """`height` x `width` vectors of `n` bytes: for each operand its first byte, steps, and places of the n bytes."""

    height: int
    width: int
    n: int
    starts: tuple[int, ...]
    row_steps: tuple[int, ...]
    column_steps: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    def onto(self) -> dict:
        """TAIL fields that write the box, dense in the accumulators."""
        return {
            "width": self.width,
            "height": self.height,
            "acc_y": self.width,
            "address": self.starts[-1],
            "out_x": self.column_steps[-1],
            "out_y": self.row_steps[-1],
            "channels": self.n,
        }


def join(dims: Sequence[Dim]) -> list[Dim]:
    """Without dimensions of one index; neighbours that are one run for every operand are one."""
    out: list[Dim] = []
    for d in dims:
        if d.size == 1:
            continue
        if out and out[-1].steps == tuple(s * d.size for s in d.steps):
            out[-1] = Dim(out[-1].size * d.size, d.steps)
        else:
            out.append(d)
    return out


def cover(places: Sequence[int], rows: int, align: int = 1) -> list[int]:
    """Firsts of the fewest stretches of `rows` bytes (at multiples of `align`) that hold all places."""
    out: list[int] = []
    for at in sorted(set(places)):
        if not out or at >= out[-1] + rows:
            out.append(at - at % align)
    return out


def _offsets(dims: Sequence[Dim], operand: int) -> np.ndarray:
    total = np.zeros(1, np.int64)
    for d in dims:
        total = (total[:, None] + np.arange(d.size) * d.steps[operand]).reshape(-1)
    return total


def _vectors(dims: list[Dim], sources: Sequence[View], rows: int, cols: int):
    """How the innermost bytes become vectors: list of (dims outside, first byte and places of the vector's bytes)."""
    none = (0,) * (len(sources) + 1)

    def cost(outside, places):
        tiles = 0
        for k, view in enumerate(sources):
            tiles += 1 if view.values is not None else len(cover(places[k], rows))
        return tiles * int(np.prod([d.size for d in outside], dtype=np.int64))

    plans = []
    last = dims[-1] if dims and dims[-1].steps[-1] == 1 else None
    outer = dims[:-1] if last else dims
    # One dimension in the vectors, cut every `cols` bytes.
    plan = []
    size = last.size if last else 1
    steps = last.steps if last else none
    full, rest = size - size % cols, size % cols
    for first, count, n in ((0, full // cols, cols), (full, 1, rest)):
        if count and n:
            outside = [*outer, Dim(count, tuple(s * cols for s in steps))] if count > 1 else outer
            start = tuple(first * s for s in steps)
            plan.append((outside, start, tuple(tuple(j * s for j in range(n)) for s in steps)))
    plans.append(plan)
    # Several dimensions that lie on end in the target: a pattern of bytes.
    if last and size % cols:
        for k in range(len(dims) - 2, -1, -1):
            inner = dims[k:]
            if dims[k].steps[-1] != inner[1].steps[-1] * inner[1].size or dims[k].size * inner[1].size > 8 * cols:
                break
            offsets = [_offsets(inner, operand) for operand in range(len(none))]
            plan = []
            for first in range(0, len(offsets[0]), cols):
                part = [o[first : first + cols] for o in offsets]
                start = tuple(int(o[0]) for o in part)
                plan.append((dims[:k], start, tuple(tuple((o - o[0]).tolist()) for o in part)))
            plans.append(plan)
    return min(plans, key=lambda plan: sum(cost(outside, places) for outside, _, places in plan) + 4 * len(plan))


def _loops(
    outside: list[Dim], sources: Sequence[View], limit: int, rows: int, uniform: bool
) -> tuple[Dim, Dim, list[Dim], int]:
    """The dimensions that become rows and columns of an instruction, the others, and the widest row."""
    one = Dim(1, (0,) * (len(sources) + 1))
    best = None
    for wide, high in product([*outside, one], repeat=2):
        if high is wide and high is not one:
            continue
        if uniform and any(v.values is not None and (high.steps[k] or wide.steps[k]) for k, v in enumerate(sources)):
            continue
        widest = min(wide.size, MOST_SIDE, limit)
        if not 0 <= wide.steps[-1] <= MOST_STEP and wide.size > 1:
            continue
        for k, view in enumerate(sources):
            step = wide.steps[k]
            if view.values is None and wide.size > 1:
                widest = 0 if not 0 <= step <= MOST_STEP else min(widest, (MOST_POSITION - rows) // max(step, 1) + 1)
        if widest < 1:
            continue
        others = [d for d in outside if d is not high and d is not wide]
        columns = -(-wide.size // widest)
        tallest = max(1, min(high.size, MOST_SIDE, limit // -(-wide.size // columns)))
        count = columns * -(-high.size // tallest) * int(np.prod([d.size for d in others], dtype=np.int64))
        # Constants that change with one loop only are repeated in the tiles.
        mixed = [
            view.values is not None and high.size > 1 and wide.size > 1 and bool(high.steps[k]) != bool(wide.steps[k])
            for k, view in enumerate(sources)
        ]
        price = count * WORDS + any(mixed) * high.size * wide.size * WORDS
        if best is None or price < best[0]:
            best = price, high, wide, others, widest
    assert best is not None
    return best[1:]


def boxes(e: Emitter, target: View, sources: Sequence[View], limit: int, uniform: bool = False) -> Iterator[Box]:
    """Boxes of at most `limit` vectors that together fill the target; the sources have its shape.

    `uniform`: constants are the same in all vectors of a box.
    """
    operands = [*sources, target]
    dims = join([Dim(n, tuple(v.strides[i] for v in operands)) for i, n in enumerate(target.shape)])
    rows, cols = e.config.rows, e.config.cols
    for outside, first, places in _vectors(dims, sources, rows, cols):
        high, wide, others, widest = _loops(outside, sources, limit, rows, uniform)
        for index in product(*(range(d.size) for d in others)):
            base = [
                v.address + first[k] + sum(i * d.steps[k] for i, d in zip(index, others))
                for k, v in enumerate(operands)
            ]
            for oy, ox, bh, bw in e.blocks(high.size, wide.size, limit, width_limit=widest, height_limit=MOST_SIDE):
                yield Box(
                    bh,
                    bw,
                    len(places[-1]),
                    tuple(b + oy * high.steps[k] + ox * wide.steps[k] for k, b in enumerate(base)),
                    tuple(s * (bh > 1) for s in high.steps),
                    tuple(s * (bw > 1) for s in wide.steps),
                    places,
                )


def constants_of(view: View, k: int, box: Box) -> np.ndarray:
    """int64: the constants of the first vector of a box."""
    assert view.values is not None
    return view.values[box.starts[k] + np.array(box.places[k])].astype(np.int64)


@dataclass(frozen=True)
class Gather:
    """Tiles that bring bytes to the columns: of bytes at places from `low` on, with `used` lanes of a tile at most."""

    span: Span
    low: int
    used: int
    extra: tuple[int, ...]
    """What pairs of weights add in each column, to be taken from a bias."""


def gather(e: Emitter, places: Sequence[int], taps: Sequence[int], factors, shift: int = 0) -> Gather:
    """Column j sums bytes places[j] + taps[i], times factors[i, j]; the first byte is `shift` bytes in a read."""
    rows, cols = e.config.rows, e.config.cols
    at = np.add.outer(np.array(taps), np.array(places))
    factors = np.broadcast_to(np.asarray(factors, np.int64), at.shape)
    low = int(at.min())
    at = at - low + shift
    key = at.shape, at.tobytes(), factors.tobytes(), shift
    if key not in e.gathers:
        firsts = cover(at.reshape(-1).tolist(), rows, e.config.act_align)
        if len(firsts) > e.most_constants():
            raise LayerError("more bytes are summed up than the weight store should hold tiles for")
        owner = np.searchsorted(firsts, at, side="right") - 1
        column = np.broadcast_to(np.arange(at.shape[1]), at.shape)
        tiles = []
        used = [int(at[owner == i].max()) - first + 1 for i, first in enumerate(firsts)]
        for i, first in enumerate(firsts):
            left = np.zeros((rows, cols), np.int64)
            mine = owner == i
            np.add.at(left, (at[mine] - first, column[mine]), factors[mine])
            while True:  # a factor beyond a weight's range is the sum of several
                part = np.clip(left, -128, 127)
                left = left - part
                # Lanes behind the last that is used are outside the row in its last vector.
                tiles.append(Tile(part.astype(np.int8), first, max(used) - used[i], 0))
                if not left.any():
                    break
        (span,) = e.add_tiles([tiles])
        extra = paired_sum(e, tiles)[: len(places)]
        e.gathers[key] = Gather(span, 0, max(used), tuple(int(v) for v in extra))
    return replace(e.gathers[key], low=low)


def paired_sum(e: Emitter, tiles: list[Tile]) -> np.ndarray:
    """What a column of paired PEs adds besides the products, to be taken from the bias."""
    if e.config.pe != "paired":
        return np.zeros(e.config.cols, np.int64)
    return sum((t.weights[0::2].astype(np.int64) * t.weights[1::2]).sum(axis=0) for t in tiles)


Factors = int | np.ndarray


def bring(
    e: Emitter, view: View, k: int, box: Box, factors: Factors = 1, taps: Sequence[int] = (0,), **values: int
) -> Gather:
    """LOAD and MUL that bring operand `k` of a box into the accumulators; `values`: MUL fields.

    `factors`: what the bytes are multiplied by, (taps, n) or what broadcasts to it (of constants: 1 or -1).
    `taps`: the bytes of a place that are summed up, counted from it.
    """
    if view.values is not None:
        return _bring_constants(e, view.values, k, box, factors, **values)
    places = box.places[k]
    shift = (box.starts[k] + min(places) + min(taps)) % e.config.act_align
    found = gather(e, places, taps, factors, shift)
    e.load(found.span)
    step = box.column_steps[k]
    e.emit_mul(
        **{
            "width": box.width,
            "height": box.height,
            "address": box.starts[k] + found.low - shift,
            "x_limit": (box.width - 1) * step + found.used,
            "x_step": step,
            "y_limit": 1,
            "row_step": box.row_steps[k],
            **values,
        }
    )
    return found


def _bring_constants(e: Emitter, flat: np.ndarray, k: int, box: Box, sign: Factors, **values: int) -> Gather:
    """Constants are weights of a vector that lies outside its map, all of whose bytes read `sign`."""
    oy, ox = np.divmod(np.arange(box.height * box.width), box.width)
    starts = box.starts[k] + oy * box.row_steps[k] + ox * box.column_steps[k]
    vectors = flat[starts[:, None] + np.array(box.places[k])]
    same = not (box.row_steps[k] or box.column_steps[k])
    vectors = vectors[:1] if same else vectors
    key = vectors.shape[1], vectors.tobytes()
    if key not in e.constants:
        if len(vectors) > e.most_constants():
            raise LayerError("more constants than the weight store should hold")
        tiles = []
        for v in vectors:
            weights = np.zeros((e.config.rows, e.config.cols), np.int8)
            weights[0, : len(v)] = v
            tiles.append([Tile(weights, 0, 0, 0)])
        spans = e.add_tiles(tiles)
        e.constants[key] = Span(spans[0].first, len(spans))
    span = e.constants[key]
    e.load(span)
    area = {"width": box.width, "height": box.height} if same else {"groups": span.count, "stack": 1}
    e.emit_mul(**{"width": 1, "height": 1, "y": -1, "zero_point": int(sign), **area, **values})
    return Gather(span, 0, 0, (0,) * box.n)


def move(e: Emitter, target: View, source: View, param: int, **tail):
    """Copy a box, with one scale or through the table; `tail`: TAIL fields."""
    for box in boxes(e, target, [source], e.config.acc_depth):
        bring(e, source, 0, box, release=1)
        e.tail(**{"take": 1, "release": 1, "shared": 1, "clamp": 1, "param": param, **box.onto(), **tail})

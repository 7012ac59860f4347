"""Operators that only move bytes: where each byte of an output comes from, as pieces with strides.

The golden model's own kernel is run on the numbers of the bytes instead of on bytes; what comes out says for every
place which byte (or which constant) it is to hold. So the copies on the array do what the golden model does, whatever
the operator's options.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import golden

MOVERS = frozenset(
    "BATCH_TO_SPACE_ND BROADCAST_TO CONCATENATION DEPTH_TO_SPACE EXPAND_DIMS FILL GATHER GATHER_ND MIRROR_PAD PACK PAD "
    "PADV2 RESHAPE RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SLICE SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQUEEZE "
    "STRIDED_SLICE TILE TRANSPOSE UNPACK".split()
)
"""Operators that move bytes and change none."""
SAME_BYTES = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")
MOST_PIECES = 256


class NotStrided(ValueError):
    """An operator's bytes do not move in a few strided pieces."""


@dataclass(frozen=True)
class Piece:
    """A box of an output and where its bytes come from.

    `source`: a tensor, whose byte `start` + sum of index * stride goes to byte `target_start` + sum of index *
    target_stride of the output; None: the constants in `values`, int8 of `shape`.
    """

    shape: tuple[int, ...]
    target: int
    target_start: int
    target_strides: tuple[int, ...]
    source: int | None
    start: int
    strides: tuple[int, ...]
    values: np.ndarray | None = None

    @property
    def contiguous(self) -> bool:
        """Whether source and target are one run of bytes each."""
        at = 1
        for size, a, b in zip(self.shape[::-1], self.strides[::-1], self.target_strides[::-1]):
            if size > 1 and not a == b == at:
                return False
            at *= size
        return self.source is not None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


def pieces(model: Model, op: Operator) -> list[Piece]:
    """All outputs of one of MOVERS, in pieces. Raises NotStrided."""
    sources = list(dict.fromkeys(t for t in op.inputs if t >= 0 and not model.tensors[t].constant))
    if op.op in SAME_BYTES and sources:
        size = model.tensors[op.outputs[0]].size
        return [Piece((size,), op.outputs[0], 0, (1,), op.inputs[0], 0, (1,))]
    if not all(model.tensors[t].dtype == "int8" for t in (*sources, *op.outputs)):
        raise NotStrided("moves other types than int8")
    # Bytes are numbered from 256 on: a number below is a constant.
    feeds, first = {}, [256]
    for t in sources:
        shape = model.tensors[t].shape
        feeds[t] = np.arange(first[-1], first[-1] + model.tensors[t].size, dtype=np.int64).reshape(shape)
        first.append(first[-1] + model.tensors[t].size)
    made = golden.run_operator(model, op, feeds)
    out: list[Piece] = []
    for t, numbers in zip(op.outputs, made, strict=True):
        numbers = np.asarray(numbers)
        if numbers.dtype == np.int8 and sources:
            raise NotStrided("its kernel is for bytes only")
        numbers = numbers.astype(np.int64).reshape(model.tensors[t].shape or (1,))
        strides = dense(numbers.shape)
        owner = np.searchsorted(np.array(first), numbers, side="right") - 1
        _cut(numbers, owner, t, 0, strides, sources, first, out)
    return out


def dense(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of an array whose last index runs fastest."""
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def _cut(numbers, owner, target, at, strides, sources, first, out):
    """Cut a box until each part comes from one tensor, or is constant; `at`, `strides`: where it goes."""
    if owner.min() != owner.max():
        for axis in range(numbers.ndim):
            front = np.moveaxis(owner, axis, 0)
            if len(front) == 1:
                continue
            change = (front[1:] != front[:-1]).reshape(len(front) - 1, -1).any(axis=1)
            if change.any():
                edges = [0, *(np.flatnonzero(change) + 1).tolist(), len(front)]
                for low, high in zip(edges, edges[1:]):
                    part = (slice(None),) * axis + (slice(low, high),)
                    where = at + low * strides[axis]
                    _cut(numbers[part], owner[part], target, where, strides, sources, first, out)
                return
    who = int(owner.flat[0])
    if who < 0:
        values = numbers.astype(np.int8)
        out.append(Piece(numbers.shape, target, at, strides, None, 0, (), values))
        if len(out) > MOST_PIECES:
            raise NotStrided("more than a few strided pieces")
        return
    _affine(numbers - first[who], target, at, strides, sources[who], out)


def _affine(numbers, target, at, strides, source, out):
    """Cut a box that comes from one tensor until each part has a stride for every axis."""
    steps: list[int | None] = []
    for axis in range(numbers.ndim):
        size = numbers.shape[axis]
        if size == 1:
            steps.append(0)
            continue
        difference = np.diff(numbers, axis=axis)
        step = int(difference.flat[0])
        if (difference == step).all():
            steps.append(step)
            continue
        line = np.moveaxis(difference, axis, 0).reshape(size - 1, -1)
        if not (line == line[:, :1]).all():
            steps.append(None)
            continue
        line = line[:, 0]
        # A pattern that repeats (resizes, blocks of pixels) is two axes; else runs of one step.
        for period in range(2, size):
            if size % period == 0 and (line.size <= period or (line[period:] == line[:-period]).all()):
                inner = line[: period - 1]
                if (inner == inner[0]).all():
                    shape = (*numbers.shape[:axis], size // period, period, *numbers.shape[axis + 1 :])
                    apart = (*strides[:axis], strides[axis] * period, *strides[axis:])
                    _affine(numbers.reshape(shape), target, at, apart, source, out)
                    return
        run = int(np.argmax(np.append(line != line[0], True)))  # equal steps; one alone is a jump behind the first
        _halves(numbers, axis, run + 1 if run > 1 else 1, target, at, strides, source, out)
        return
    strided = [step for step in steps if step is not None]
    if len(strided) < len(steps):
        axis = steps.index(None)
        _halves(numbers, axis, 1, target, at, strides, source, out)
        return
    out.append(Piece(numbers.shape, target, at, strides, source, int(numbers.flat[0]), tuple(strided)))
    if len(out) > MOST_PIECES:
        raise NotStrided("more than a few strided pieces")


def _halves(numbers, axis, end, target, at, strides, source, out):
    front = (slice(None),) * axis
    _affine(numbers[(*front, slice(0, end))], target, at, strides, source, out)
    _affine(numbers[(*front, slice(end, None))], target, at + end * strides[axis], strides, source, out)

"""Layers as units of work at virtual addresses: what each reads and writes, before anybody knows where tensors lie.

A unit is what fills accumulator banks and empties them: LOADs, MULs and TAILs that stand together. Units of one layer
may be executed in any order. An address is `virtual(tensor)` and the byte in it; which tensor a MUL reads and which of
its bytes follow from the instruction's fields and its tiles.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from lepton.rtl.spec import isa
from lepton.sw.compiler import elementwise
from lepton.sw.compiler.emitter import ADDRESS_MASK, VALUE_BY_VALUE, Span
from lepton.sw.compiler.network import Compiler
from lepton.sw.compiler.program import LayerError, Place
from lepton.sw.compiler.strided import View, move
from lepton.sw.graph.model import Operator

SPACE_BITS = 32
HALF = ADDRESS_MASK // 2 + 1
_FIRST = 1 << 16  # variables have negative numbers
_MIDDLE = 1 << (SPACE_BITS - 1)


def virtual(tensor: int) -> int:
    """The address of a tensor's first byte."""
    return ((tensor + _FIRST) << SPACE_BITS) + _MIDDLE


def tensor_at(address: int) -> tuple[int, int]:
    """The tensor at an address (in it or near it), and the byte in it."""
    return (address >> SPACE_BITS) - _FIRST, (address & (1 << SPACE_BITS) - 1) - _MIDDLE


@dataclass
class Instruction:
    """An instruction whose addresses are virtual and whose tiles and parameters are numbers in the image."""

    op: isa.Op
    fields: dict[str, int]
    span: Span | None = None
    """LOAD: its tiles."""
    params: tuple[int, int] | None = None
    """TAIL: first entry and entries."""
    table: int | None = None
    """TAIL: first entry of the table it uses."""
    tensor: int | None = None
    """What a MUL reads or a TAIL writes; None: nothing in memory."""
    low: int = 0
    high: int = 0
    """First byte in it, and the one behind the last."""
    row: int | None = None
    """MUL: the tensor's row that is row 0 of the instruction; None: its rows are not the tensor's."""
    cycles: int = 0
    """MUL: vectors; TAIL: reads."""
    ranges: list[tuple[int, int]] = field(default_factory=list)
    """Bytes on the chip that it reads or writes, once it is known where."""


@dataclass
class Unit:
    """Instructions that stand together: what one layer does for some rows of its output."""

    layer: int
    instructions: list[Instruction] = field(default_factory=list)
    holds: bool = False
    """The bank that it fills goes on to be filled by the layer's next unit."""

    def accesses(self, op: isa.Op) -> list[Instruction]:
        return [i for i in self.instructions if i.op is op and i.tensor is not None]

    @property
    def cycles(self) -> int:
        """About what it takes: of multiplication, or of the tail."""
        return max(sum(i.cycles for i in self.instructions if i.op is op) for op in (isa.MUL, isa.TAIL))


class Recorder(Compiler):
    """A `Compiler` whose layers become units."""

    def __init__(self, *args, **options):
        self._sliced: dict[int, tuple[int, int]] = {}  # rows that are looked at
        self._known_tiles = np.zeros((0, 4), np.int64)
        self._geometry: dict[int, tuple[int, int]] = {}
        super().__init__(*args, **options)
        self.ahead = False
        self.most_tiles = max(16, self.config.weight_tiles // 4)
        self.made: list[Unit] = []
        self._layer = -1
        self._table: int | None = None
        self._tables_made: dict[bytes, int] = {}
        self._ahead: list[Span] = []  # loaded, and not yet multiplied

    def find_variables(self) -> dict[int, int]:
        return {}  # the host keeps them

    # --- geometry ----------------------------------------------------------------------------------------------------

    def geometry(self, t: int) -> tuple[int, int]:
        """Rows of a tensor that others lie in, and bytes of a row."""
        if t not in self._geometry:
            self._geometry[t] = self._rows_of(t)
        return self._geometry[t]

    def _rows_of(self, t: int) -> tuple[int, int]:
        shape = self.model.tensors[t].shape
        size = max(1, self.model.tensors[t].size)
        if len(shape) == 4 and shape[0] == 1:
            rows = shape[1]
        elif len(shape) >= 2 and shape[0] == 1:
            rows = shape[1] if len(shape) == 3 else 1
        else:
            rows = shape[0] if len(shape) >= 2 else 1
        return max(1, rows), size // max(1, rows)

    def tensor(self, i):
        t = super().tensor(i)
        if i in self._sliced:
            low, high = self._sliced[i]
            t = replace(t, shape=(1, high - low, *t.shape[2:]))
        return t

    def place(self, i) -> Place:
        root, at = self.root(i)
        if i in self._sliced:
            _, w, c = self.hwc(i)
            at += self._sliced[i][0] * w * c
        return Place(virtual(root) + at, self.tensor(i).size)

    # --- recording ---------------------------------------------------------------------------------------------------

    def units(self, number: int, ops: list[Operator], most_rows: int = 4095) -> list[Unit]:
        """The units of a layer, by the first row that they write. Raises LayerError."""
        self.made, self._layer, self._ahead, self._table = [], number, [], None
        self.most_rows = most_rows
        self.layer(ops)
        if any(unit.holds for unit in self.made):
            return self.made
        return sorted(self.made, key=lambda u: min((i.low for i in u.accesses(isa.TAIL)), default=0))

    def hold(self):
        self.made[-1].holds = True

    def layer(self, ops: list[Operator]):
        op = ops[0]
        rows = self._rows_of_values(ops)
        if rows is None:
            super().layer(ops)
            return
        tensors, height, step = rows
        for low in range(0, height, step):
            self._sliced = dict.fromkeys(tensors, (low, min(height, low + step)))
            try:
                super().layer([op])
            finally:
                self._sliced = {}

    def _rows_of_values(self, ops: list[Operator]) -> tuple[list[int], int, int] | None:
        """Of an operator value by value on maps: tensors to be cut into rows, their rows, and how many at a time."""
        op = ops[-1] if len(ops) == 1 else None
        if op is None or (op.op not in VALUE_BY_VALUE and op.index not in self.expressions):
            return None
        out = self.results(op)[0]
        shape = self.model.tensors[out].shape
        if len(shape) != 4 or shape[0] != 1 or shape[1] < 2:
            return None
        tensors, others = [out], [self.model.tensors[t] for t in op.inputs if t >= 0 and self.model.tensors[t].constant]
        for t in self.activations(op):
            if self.model.tensors[t].shape == shape:
                tensors.append(t)
            else:
                others.append(self.model.tensors[t])
        if any(t.shape[-3:-2] > (1,) or (not t.constant and t.size >= shape[1] * shape[2]) for t in others):
            return None  # one that is broadcast, but not along the rows
        row = shape[2] * shape[3]
        vectors = -(-row // self.config.cols)
        step = max(1, min(shape[1], self.config.acc_depth // 2 // vectors, self.most_rows))
        return tensors, shape[1], step

    def emit(self, op, **values):
        fields = {f.name: 0 for f in op.fields} | {"opcode": int(op.opcode)} | values
        made = Instruction(op, fields)
        if op is isa.MUL:
            self._mul(made)
        elif op is isa.TAIL:
            self._tail(made)
        self._add(made)

    def _add(self, made: Instruction):
        last = self.made[-1].instructions[-1] if self.made else None
        if last is None or (last.op is isa.TAIL and made.op is not isa.TAIL) or self.made[-1].holds:
            self.made.append(Unit(self._layer))
        self.made[-1].instructions.append(made)

    def load(self, span: Span):
        self._ahead.append(span)
        self._add(Instruction(isa.LOAD, {"opcode": int(isa.LOAD.opcode), "count": span.count}, span=span))

    def table(self, values: np.ndarray):
        raw = np.asarray(values, np.int8).tobytes()
        if raw not in self._tables_made:
            self._tables_made[raw] = self.add_table(values)
        self._table = self._tables_made[raw]

    def _descriptors(self) -> np.ndarray:
        """int64[tiles, 4]: offset, x, y and skip of the tiles there are."""
        have = len(self._known_tiles)
        if have < len(self.tile_words):
            raw = b"".join(word[: isa.DESCRIPTOR_BYTES] for word in self.tile_words[have:])
            found = isa.DESCRIPTOR.unpack_array(np.frombuffer(raw, np.uint8).reshape(-1, isa.DESCRIPTOR_BYTES))
            new = np.stack([found[name].astype(np.int64) for name in ("offset", "x", "y", "skip")], axis=1)
            new[:, 0] = (new[:, 0] + HALF & ADDRESS_MASK) - HALF  # they wrap
            self._known_tiles = np.concatenate([self._known_tiles, new])
        return self._known_tiles

    def _mul(self, made: Instruction):
        """What it reads: of each tile the rows and bytes that padding does not mask."""
        f, c = made.fields, self.config
        numbers = [n for span in self._ahead for n in range(span.first, span.first + span.count)]
        self._ahead = []
        offset, dx, dy, skip = self._descriptors()[numbers].T
        groups = np.arange(f["groups"]) * f["group_step"]
        tall = f["height"] - 1 + np.zeros(len(offset), np.int64)
        width, lanes = f["width"], c.rows
        made.cycles = f["height"] * width * len(offset)
        if f["depthwise"]:
            lanes = c.cols
            tall = (
                skip
                + (f["height"] - 1) * f["subsample"]
                + (c.taps - 1 + (f["out_width"] - 1) * f["subsample"]) // width
            )
            taps = c.taps + (f["out_width"] - 1) * f["subsample"]
            made.cycles = int((skip * width + (f["height"] - 1) * width * f["subsample"] + taps).sum())
        step = f["y_step"]
        first, last = np.zeros(len(offset), np.int64), tall
        y = f["y"] + dy
        if step:
            first = np.maximum(0, -(y // step))
            last = np.minimum(tall, (f["y_limit"] - 1 - y) // step)
        used = (first <= last) & (y + last * step >= 0) & (y + first * step < f["y_limit"])
        x = f["x"] + dx
        left = np.maximum(0, (x[:, None] + groups).min(axis=1))
        right = np.minimum(f["x_limit"], (x[:, None] + groups).max(axis=1) + (width - 1) * f["x_step"] + lanes)
        used &= left < right
        if not used.any():
            return
        base = f["address"] - f["x"] + offset - dx
        starts = np.stack([base + first * f["row_step"], base + last * f["row_step"]])[:, used]
        low, high = int((starts + left[used]).min()), int((starts + right[used]).max())
        made.tensor, made.low = tensor_at(low)
        made.high = made.low + high - low
        rows, pitch = self.geometry(made.tensor)
        made.low, made.high = max(0, made.low), min(rows * pitch, made.high)
        # Are its rows those of the tensor?
        start = f["address"] - f["x"] - virtual(made.tensor)
        if step:
            zero = start - f["y"] * pitch
            same = (dy * pitch == offset - dx).all() and f["row_step"] == step * pitch
            if same and zero >= 0 and zero % pitch + f["x_limit"] <= pitch:
                made.row = zero // pitch
        elif f["height"] > 1 and f["row_step"] > 0 and f["row_step"] % pitch == 0 and not f["depthwise"]:
            # A box: its rows are the tensor's if none of them runs over into the next.
            inside = start % pitch
            if f["row_step"] // pitch < 16 and inside + int((offset - dx).max()) + f["x_limit"] <= pitch:
                f["y"], f["y_step"], f["y_limit"] = start // pitch, f["row_step"] // pitch, rows
                made.row = 0

    def _tail(self, made: Instruction):
        f = made.fields
        made.params = f["param"], 1 if f["shared"] else f["channels"]
        if f["table"]:
            made.table = self._table
        reads = f["window_x"] * f["window_y"] * (2 if f["dual"] else 1)
        subs = -(-f["channels"] // self.config.lanes)
        made.cycles = f["width"] * f["height"] * reads * subs
        if f["to_acc"]:
            return
        groups = -(-f["channels"] // self.config.cols)
        width = min(f["channels"], self.config.cols)
        far = (f["width"] - 1) * f["out_x"], (f["height"] - 1) * f["out_y"], (groups - 1) * f["group_step"]
        low = f["address"] + sum(min(0, d) for d in far)
        made.tensor, made.low = tensor_at(low)
        last = min(width, f["channels"] - (groups - 1) * self.config.cols) if groups > 1 else width
        made.high = made.low + sum(abs(d) for d in far) + (max(last, width) if far[2] == 0 else last)
        made.high = max(made.high, made.low + abs(far[0]) + abs(far[1]) + width)

    # --- layers that are cut for this --------------------------------------------------------------------------------

    def move_piece(self, target: View, source: View):
        """A copy, row after row of the target where its outermost indexes are rows."""
        t, at = tensor_at(target.address)
        _, pitch = self.geometry(t)
        axis = next((i for i, (n, s) in enumerate(zip(target.shape, target.strides)) if n > 1), None)
        if axis is None or target.strides[axis] % pitch:
            move(self, target, source, self.identity_entry())
            return
        count, apart, step = target.shape[axis], target.strides[axis], source.strides[axis]
        shape = list(target.shape)
        rows = max(1, min(count, self.most_rows, self.config.acc_depth * self.config.cols // max(1, pitch)))
        for low in range(0, count, rows):
            shape[axis] = min(rows, count - low)
            move(
                self,
                View(target.address + low * apart, tuple(shape), target.strides),
                View(source.address + low * step, tuple(shape), source.strides, source.values),
                self.identity_entry(),
            )


__all__ = ["Instruction", "LayerError", "Recorder", "Unit", "elementwise", "tensor_at", "virtual"]

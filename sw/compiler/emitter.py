"""What all operators' compilation shares: tiles, parameters, instructions, blocks, and copies through the array."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.codec import CodecError, Record
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler.movement import Piece, pieces
from lepton.sw.compiler.program import LayerError, Place, Program
from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith, golden

VALUE_BY_VALUE = frozenset(
    "ABS ADD CEIL COS ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC MAXIMUM MINIMUM MUL NEG PRELU QUANTIZE "
    "RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 ROUND RSQRT SIGN SIN SQRT SQUARE SQUARED_DIFFERENCE SUB TANH".split()
)
"""Operators that compute a value of the output from the same values of the inputs, broadcast."""
ADDRESS_MASK = 2**20 - 1
ADDRESSES = {"address", "row_step", "out_y"}
"""Fields that wrap."""
IDENTITY = (1 << 30, 1)  # multiplier and shift that scale by exactly one

Block = tuple[int, int, int, int]
"""A piece of a map: first row, first column, height, width."""


@dataclass(frozen=True)
class Window:
    """A window that slides over an (h, w, c) map: outputs, kernel, strides, dilations, padding before."""

    h: int
    w: int
    c: int
    oh: int
    ow: int
    kh: int
    kw: int
    sy: int
    sx: int
    dy: int
    dx: int
    top: int
    left: int

    @classmethod
    def of(cls, model: Model, op: Operator) -> "Window":
        """Of a convolution or a pooling."""
        x, y, o = model.tensors[op.inputs[0]].shape, model.tensors[op.outputs[0]].shape, op.options
        kernel, stride = (o["filter_h"], o["filter_w"]), (o["stride_h"], o["stride_w"])
        dilation = o.get("dilation_h", 1), o.get("dilation_w", 1)
        return cls(x[1], x[2], x[3], y[1], y[2], *kernel, *stride, *dilation, o["pad_h"], o["pad_w"])

    @property
    def bottom(self) -> int:
        """Rows of padding below."""
        return max(0, (self.oh - 1) * self.sy + (self.kh - 1) * self.dy + 1 - self.h - self.top)

    @property
    def right(self) -> int:
        return max(0, (self.ow - 1) * self.sx + (self.kw - 1) * self.dx + 1 - self.w - self.left)

    @property
    def padded(self) -> bool:
        return bool(self.top or self.left or self.bottom or self.right)


@dataclass(frozen=True)
class Feed:
    """How windows are read: an (h, w, c) map at `address`, strides, padding and what padding reads."""

    address: int
    h: int
    w: int
    c: int
    stride_y: int = 1
    stride_x: int = 1
    top: int = 0
    left: int = 0
    zero_point: int = 0


@dataclass(frozen=True)
class Span:
    """Consecutive tiles, in the weight store or in external memory."""

    first: int
    count: int
    external: bool = False


@dataclass
class Tile:
    weights: np.ndarray  # (rows, cols) int8
    offset: int
    x: int
    y: int
    skip: int = 0


def onto(block: Block, address: int, width: int, channels: int) -> dict:
    """TAIL fields that write a block, dense in the accumulators, onto a map `width` wide at `address`."""
    oy, ox, bh, bw = block
    return {
        "width": bw,
        "height": bh,
        "acc_y": bw,
        "address": address + (oy * width + ox) * channels,
        "out_x": channels,
        "out_y": width * channels,
    }


class Words(list[bytes]):
    """Words of a memory. What is put there in one run is stored once: the same run again gets the same place."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[bytes, int] = {}
        self.shared = 0
        """Words that were there already."""

    def put(self, run: list[bytes]) -> int:
        """Where a run of words is: the first one's index."""
        first = self.places.setdefault(b"".join(run), len(self))
        if first < len(self):
            self.shared += len(run)
        else:
            self += run
        return first


_known: WeakKeyDictionary = WeakKeyDictionary()
"""What the compilations of one model share: of its operators, what they move and the tables of expressions."""


@dataclass(frozen=True)
class Expression:
    """Operators that together are a function of one tensor, value by value; only the last one's result is used."""

    root: int
    ops: tuple[Operator, ...]
    table: np.ndarray
    """int8[256], index -128 first."""


def value_by_value(model: Model, op: Operator) -> bool:
    """Whether every value of the int8 output comes from the same value of each activation, and from scalars."""
    if op.op not in VALUE_BY_VALUE or len(op.outputs) != 1:
        return False
    y = model.tensors[op.outputs[0]]
    ins = [model.tensors[t] for t in op.inputs if t >= 0]
    return all(t.size == (1 if t.constant else y.size) and t.dtype == y.dtype == "int8" for t in ins)


def table_of(model: Model, root: int, ops: Sequence[Operator]) -> np.ndarray | None:
    """int8[256] of operators that are a function of one tensor; None where the golden model cannot say."""
    values = {root: np.arange(-128, 128).astype(np.int8)}
    for op in ops:
        (made,) = golden.run_operator(model, op, values)
        values[op.outputs[0]] = np.asarray(made)
        if made.size != 256:
            return None
    return values[ops[-1].outputs[0]].reshape(256)


class Emitter:
    """The program under construction; the operators' modules add to it.

    `external`: the operators whose weights lie in external memory.
    """

    def __init__(self, model: Model, config: NpuConfig, external: frozenset[int] = frozenset()):
        self.model, self.config = model, config
        self.external = external
        self.program = Program(config, model)
        self.tile_words, self.external_words, self.param_words = Words(), Words(), Words()
        self.layer_tiles: dict[int, int] = {}
        """Tiles of each operator with weights."""
        self.in_place: dict[int, int] = {}
        """Tensors that are made where the operator that joins them (the value) would copy them."""
        self.mapped = False
        """Whether the bytes that a layer's TAILs write go through the table."""
        self._identities: dict[int, Span] = {}
        self._identity: int | None = None
        known = _known.setdefault(model, ({}, {}))
        self._moves: dict[int, list[Piece]] = known[0]
        self._tables: dict[tuple[int, ...], np.ndarray | None] = known[1]
        self.expressions: dict[int, Expression] = {}
        """By the last operator of each."""
        self.paddings: dict[int, Operator] = {}
        """Convolutions whose windows reach over the border instead of reading what a PAD before them makes."""
        self.gathers: dict = {}
        """Tiles that bring bytes of given places to the columns (`strided.gather`)."""
        self.most_rows = 4095
        """Of a block."""
        self.most_tiles = 2**20
        """Of a MUL, where all need not be there at once."""
        self.ahead = True
        """Whether multiplications may stand before tails that belong to earlier ones."""
        self.constants: dict[tuple, Span] = {}
        """Tiles that bring constants to the columns."""

    # --- the model -------------------------------------------------------------------------------------------------

    def tensor(self, i):
        return self.model.tensors[i]

    def hwc(self, i) -> tuple[int, int, int]:
        """Shape of an activation as (h, w, c); vectors are one pixel."""
        shape = tuple(self.tensor(i).shape)
        if len(shape) == 4:
            return shape[1:]
        if len(shape) == 3:
            return (shape[1], 1, shape[2]) if shape[0] == 1 else (shape[0], shape[1], shape[2])
        return 1, 1, self.tensor(i).size

    def place(self, i) -> Place:
        return self.program.places[i]

    def activations(self, op: Operator) -> list[int]:
        """What an operator reads besides constants, each once: of an expression and behind a padding, their input."""
        if op.index in self.expressions:
            return [self.expressions[op.index].root]
        inputs = self.paddings.get(op.index, op).inputs
        return list(dict.fromkeys(t for t in inputs if t >= 0 and not self.tensor(t).constant))

    def window(self, op: Operator) -> Window:
        """The window of a convolution or pooling over what it reads."""
        k = Window.of(self.model, op)
        if op.index in self.paddings:
            pad = self.paddings[op.index]
            (top, _), (left, _) = pad.options["paddings"][1:3]
            _, h, w, _ = self.tensor(pad.inputs[0]).shape
            k = replace(k, h=h, w=w, top=k.top + top, left=k.left + left)
        return k

    def moves(self, op: Operator) -> list[Piece]:
        """What an operator moves. Raises NotStrided."""
        if op.index not in self._moves:
            self._moves[op.index] = pieces(self.model, op)
        return self._moves[op.index]

    def expression(self, root: int, ops: Sequence[Operator]) -> Expression | None:
        """Operators as a function of one tensor, if they are. Raises ModelError where a scale is out of range."""
        key = (root, *(op.index for op in ops))
        if key not in self._tables:
            self._tables[key] = table_of(self.model, root, ops)
        table = self._tables[key]
        return None if table is None else Expression(root, tuple(ops), table)

    # --- memories --------------------------------------------------------------------------------------------------

    def _pack(self, record: Record, values: np.ndarray) -> np.ndarray:
        try:
            return record.pack_array(values)
        except CodecError as error:
            raise self._exceeds(error) from None

    @staticmethod
    def _exceeds(error: CodecError) -> LayerError:
        return LayerError(f"it exceeds the instruction set ({error})")

    def add_param(self, entries) -> int:
        """Store (bias, multiplier, shift) entries; their first index."""
        values = np.array(list(entries), np.int64).reshape(-1, 3)
        records = np.zeros(len(values), [(f.name, np.int64) for f in isa.PARAM])
        records["bias"] = arith.wrap32(values[:, 0])  # accumulators wrap, so it counts modulo 2**32
        records["multiplier"], records["shift"] = values[:, 1], values[:, 2]
        return self.param_words.put([raw.tobytes() for raw in self._pack(isa.PARAM, records)])

    def most_constants(self) -> int:
        """Tiles of constants that a layer may take of the weight store."""
        return max(64, self.config.resident_tiles // 8)

    def identity_entry(self) -> int:
        """The parameter entry that changes nothing."""
        if self._identity is None:
            self._identity = self.add_param([(0, *IDENTITY)])
        return self._identity

    def move_piece(self, target: Any, source: Any) -> None:
        """A copy of one piece of what an operator moves; both are a `strided.View`."""
        raise NotImplementedError

    def add_tiles(self, groups: list[list[Tile]], external: bool = False) -> list[Span]:
        """Store the tiles of all groups in a row, in the weight store or external memory; the span of each group."""
        words = self.external_words if external else self.tile_words
        ends = np.cumsum([len(tiles) for tiles in groups])
        flat = [t for tiles in groups for t in tiles]
        records = np.zeros(len(flat), [(f.name, np.int64) for f in isa.DESCRIPTOR])
        records["offset"] = [t.offset & ADDRESS_MASK for t in flat]  # addresses wrap
        for name in ("x", "y", "skip"):
            records[name] = [getattr(t, name) for t in flat]
        records["last"][ends - 1] = 1
        raw = zip(self._pack(isa.DESCRIPTOR, records), flat)
        first = words.put([where.tobytes() + np.ascontiguousarray(t.weights, np.int8).tobytes() for where, t in raw])
        return [Span(first + int(end) - len(tiles), len(tiles), external) for end, tiles in zip(ends, groups)]

    def add_weights(self, op: Operator, groups: list[list[Tile]]) -> list[Span]:
        """Store the tiles of an operator's weights."""
        spans = self.add_tiles(groups, external=op.index in self.external)
        self.layer_tiles[op.index] = self.layer_tiles.get(op.index, 0) + sum(span.count for span in spans)
        return spans

    def chunk_tiles(self, run: np.ndarray, offset: int, x: int, y: int) -> list[Tile]:
        """Tiles of one contiguous run: (bytes, cols) weights cut every `rows` bytes; all-zero tiles are left out."""
        rows, cols = self.config.rows, self.config.cols
        tiles = []
        for k in range(0, run.shape[0], rows):
            part = run[k : k + rows]
            if not part.any():
                continue
            w = np.zeros((rows, cols), np.int8)
            w[: part.shape[0], : part.shape[1]] = part
            tiles.append(Tile(w, offset + k, x + k, y))
        return tiles

    def identity(self, channels: int) -> Span:
        """Tiles of a group that copies `channels` bytes to the columns."""
        if channels not in self._identities:
            eye = np.eye(self.config.cols, dtype=np.int8)[:channels]
            (self._identities[channels],) = self.add_tiles([self.chunk_tiles(eye, 0, 0, 0)])
        return self._identities[channels]

    # --- instructions ----------------------------------------------------------------------------------------------

    def emit(self, op, **values):
        for name in ADDRESSES & values.keys() if op is not isa.LOAD else ():
            values[name] &= ADDRESS_MASK  # they wrap
        try:
            self.program.words += isa.encode(op, **values)
        except CodecError as error:
            raise self._exceeds(error) from None

    def load(self, span: Span):
        if span.external:
            address = span.first * isa.word_bytes(isa.Region.WEIGHT, self.config)
            self.emit(isa.LOAD, external=1, address=address, count=span.count)
        else:
            self.emit(isa.LOAD, tile=span.first, count=span.count)

    def hold(self):
        """What comes next fills the same bank."""

    def emit_mul(self, **values):
        """One MUL, field by field."""
        self.emit(isa.MUL, **{"init": 1, "groups": 1, **values})

    def mul(self, feed: Feed, block: Block, channel: int = 0, **values):
        """One MUL over a block of windows, from byte `channel` of their pixels on."""
        oy, ox, height, width = block
        y, x = oy * feed.stride_y - feed.top, ox * feed.stride_x - feed.left
        self.emit_mul(
            **{
                "width": width,
                "height": height,
                "address": feed.address + (y * feed.w + x) * feed.c + channel,
                "x": x * feed.c + channel,
                "x_limit": feed.w * feed.c,
                "x_step": feed.stride_x * feed.c,
                "y": y,
                "y_limit": feed.h,
                "y_step": feed.stride_y,
                "row_step": feed.stride_y * feed.w * feed.c,
                "zero_point": feed.zero_point,
                **values,
            },
        )

    def tail(self, **values):
        table = int(self.mapped and not values.get("to_acc"))
        defaults = {"window_x": 1, "window_y": 1, "acc_x": 1, "low": -128, "high": 127, "table": table}
        self.emit(isa.TAIL, **{**defaults, **values})

    def add_table(self, values: np.ndarray) -> int:
        """Append the entries of a table of 256 values (index -128 first); their first index."""
        raw = np.asarray(values, np.int8).tobytes()
        return self.param_words.put([raw[i : i + 8] + b"\0" for i in range(0, 256, 8)])

    def table(self, values: np.ndarray):
        """Load a table of 256 values (index -128 first)."""
        self.emit(isa.TABLE, param=self.add_table(values))

    # --- pieces ----------------------------------------------------------------------------------------------------

    def blocks(self, height, width, limit, width_limit=None, height_limit=None) -> Iterator[Block]:
        """Cut a map into blocks of at most `limit` entries: whole rows if they fit, else parts of a row."""
        n_x = -(-width // min(width, limit, width_limit or width))
        step_x = -(-width // n_x)
        step_y = max(1, min(height, limit // step_x, height_limit or height, self.most_rows))
        n_y = -(-height // step_y)
        step_y = -(-height // n_y)
        for oy in range(0, height, step_y):
            for ox in range(0, width, step_x):
                yield oy, ox, min(step_y, height - oy), min(step_x, width - ox)

    def channel_groups(self, channels) -> Iterator[tuple[int, int]]:
        """(first channel, channels) of each group."""
        for c in range(0, channels, self.config.cols):
            yield c, min(self.config.cols, channels - c)

    def runs(self, count, limit) -> Iterator[tuple[int, int, int]]:
        """Cut `count` contiguous bytes into (first byte, vectors, bytes of a vector): full vectors, then the rest."""
        cols = self.config.cols
        for first, vectors, n in ((0, count // cols, cols), (count - count % cols, 1, count % cols)):
            if vectors and n:
                for _, ox, _, bw in self.blocks(1, vectors, limit, width_limit=4095):
                    yield first + ox * n, bw, n

    # --- copies ----------------------------------------------------------------------------------------------------

    def copy_in(self, feed: Feed, block: Block, channel: int, n: int, **values):
        """Bring `n` channels of a block into the accumulators, unchanged."""
        self.load(self.identity(n))
        self.mul(feed, block, channel, **values)

    def copy(self, feed: Feed, oh, ow, out_address, out_c, param, **tail):
        """Bring a map through the array unchanged and write it with one scale: copies, tables, requantize, padding."""
        for block in self.blocks(oh, ow, self.config.acc_depth, width_limit=4095):
            for channel, n in self.channel_groups(feed.c):
                self.copy_in(feed, block, channel, n, release=1)
                target = onto(block, out_address + channel, ow, out_c)
                self.tail(
                    **{"take": 1, "release": 1, "shared": 1, "clamp": 1, "param": param, "channels": n},
                    **target,
                    **tail,
                )

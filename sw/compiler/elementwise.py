"""Operators of value by value (ADD, MUL, MAXIMUM, functions of one value, QUANTIZE), and those that move bytes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lepton.sw.compiler.emitter import IDENTITY, Emitter, Feed
from lepton.sw.compiler.program import LayerError
from lepton.sw.compiler.strided import Box, View, boxes, bring, constants_of, move
from lepton.sw.graph.model import Model, Operator
from lepton.sw.reference import arith, quantities


def add_entries(e: Emitter, p: dict, reverse=False) -> int:
    """Parameter entries of an ADD or SUB: of its first operand (reverse: second), of the other, of the sum."""
    scale = [(-p["z1"], p["m1"], p["s1"]), (-p["z2"], p["m2"], p["s2"])]
    return e.add_param([*(scale[::-1] if reverse else scale), (0, p["mo"], p["so"])])


def add_tails(e: Emitter, op: Operator, p: dict, entry: int, target: dict, other: int, take: int):
    """Scale both operands in place, then add (or subtract), scale and write. `other`: entries between the operands."""
    area = area_of(target)
    e.tail(**area, shared=1, take=take, to_acc=1, pre_shift=20, param=entry)
    e.tail(**area, shared=1, to_acc=1, pre_shift=20, param=entry + 1, acc_base=other)
    e.tail(
        **target,
        shared=1,
        release=1,
        dual=3 if op.op == "SUB" else 1,
        acc_other=other,
        param=entry + 2,
        clamp=1,
        zero_point=p["zo"],
        low=p["low"],
        high=p["high"],
    )


def operand(e: Emitter, t: int, shape) -> View:
    """An activation or a constant, as broadcast to a shape."""
    tensor = e.tensor(t)
    view = View.constant(tensor.data) if tensor.constant else View.dense(e.place(t).address, tensor.shape)
    return view.broadcast(shape)


def meeting(e: Emitter, op: Operator, out: int, sign: int = 1) -> Iterator[Box]:
    """Boxes of an output; of each, both operands (times `sign`) are in one bank, half a bank apart."""
    half = e.config.acc_depth // 2
    shape = e.tensor(out).shape or (1,)
    sources = [operand(e, t, shape) for t in op.inputs[:2]]
    for box in boxes(e, View.dense(e.place(out).address, shape), sources, half):
        bring(e, sources[0], 0, box, sign)
        bring(e, sources[1], 1, box, sign, acc_base=half, release=1)
        yield box


def binary(e: Emitter, op: Operator, out: int):
    """ADD, SUB and MUL of two activations, or of an activation and constants; either may be broadcast."""
    if few_constants(e, op):
        if op.op == "MUL":
            scale_by_constants(e, op, out)
            return
        if op.op == "ADD" or e.tensor(op.inputs[1]).constant:
            add_constants(e, op, out)
            return
    half, product = e.config.acc_depth // 2, op.op == "MUL"
    p = quantities.mul_parameters(e.model, op) if product else quantities.add_parameters(e.model, op)
    entry = e.add_param([(-p["z1"], -p["z2"], 0), (0, p["m"], p["s"])]) if product else add_entries(e, p)
    for box in meeting(e, op, out):
        target = box.onto()
        if not product:
            add_tails(e, op, p, entry, target, half, take=1)
            continue
        e.tail(**area_of(target), shared=1, take=1, to_acc=1, dual=2, acc_other=half, param=entry)
        scale = {"param": entry + 1, "zero_point": p["zo"], "low": p["low"], "high": p["high"]}
        e.tail(**target, **scale, shared=1, release=1, clamp=1)


def area_of(target: dict) -> dict:
    """The fields of a TAIL that stay in the accumulators."""
    return {name: target[name] for name in ("width", "height", "acc_y", "channels")}


def with_constants(e: Emitter, op: Operator, out: int) -> Iterator[tuple[View, View, Box]]:
    """Boxes of an operator of an activation and constants: the activation, the constants, a box with one vector's."""
    shape = e.tensor(out).shape
    x, c = sorted((operand(e, t, shape) for t in op.inputs[:2]), key=lambda view: view.values is not None)
    depth = e.config.acc_depth // (2 if op.op == "PRELU" else 1)
    for box in boxes(e, View.dense(e.place(out).address, shape), [x, c], depth, uniform=True):
        yield x, c, box


def few_constants(e: Emitter, op: Operator) -> bool:
    """Whether one operand is constant, and of so few values that each vector of them may have its own instructions."""
    constants = [e.tensor(t) for t in op.inputs[:2] if e.tensor(t).constant]
    return len(constants) == 1 and constants[0].size <= 64 * e.config.cols


def scale_by_constants(e: Emitter, op: Operator, out: int):
    """MUL with constants: they are the weights."""
    p = quantities.mul_parameters(e.model, op)
    x_first = not e.tensor(op.inputs[0]).constant
    zx, zc = (p["z1"], p["z2"]) if x_first else (p["z2"], p["z1"])
    params = Entries(e)
    for x, c, box in with_constants(e, op, out):
        factors = constants_of(c, 1, box) - zc
        found = bring(e, x, 0, box, factors, release=1)
        param = params((-zx * factors - found.extra).tolist(), p["m"], p["s"])
        scale = {"param": param, "zero_point": p["zo"], "low": p["low"], "high": p["high"]}
        e.tail(**box.onto(), **scale, take=1, release=1, clamp=1)


def add_constants(e: Emitter, op: Operator, out: int):
    """ADD with constants, or SUB of constants: scaled, they are the bias of the sum."""
    p = quantities.add_parameters(e.model, op)
    x, c = ("12", "21")[e.tensor(op.inputs[0]).constant]
    entry = e.add_param([(-p["z" + x], p["m" + x], p["s" + x])])
    params = Entries(e)
    for view, constants, box in with_constants(e, op, out):
        scaled = arith.requantize(constants_of(constants, 1, box) - p["z" + c], p["m" + c], p["s" + c], 20)
        param = params((-scaled if op.op == "SUB" else scaled).tolist(), p["mo"], p["so"])
        bring(e, view, 0, box, release=1)
        target = box.onto()
        e.tail(**area_of(target), shared=1, take=1, to_acc=1, pre_shift=20, param=entry)
        scale = {"param": param, "zero_point": p["zo"], "low": p["low"], "high": p["high"]}
        e.tail(**target, **scale, release=1, clamp=1)


def is_maximum(e: Emitter, op: Operator) -> bool:
    """Whether a PRELU with constant slopes is the larger of the value and the value times the slope, rounded or not."""
    p = quantities.prelu_parameters(e.model, op)
    slopes = np.unique(e.tensor(op.inputs[1]).data).astype(np.int64)[:, None] - p["z2"]
    value = np.arange(-128, 128) - p["z1"]
    above = arith.clamp8(arith.requantize(value, p["m1"], p["s1"]) + p["zo"])
    below = arith.clamp8(arith.requantize(value * slopes, p["m2"], p["s2"]) + p["zo"])
    return np.array_equal(np.maximum(above, below), np.where(value >= 0, above, below))


def prelu(e: Emitter, op: Operator, out: int):
    """PRELU with constant slopes of at most 1: both products meet, and the tail's window takes the larger."""
    p, half = quantities.prelu_parameters(e.model, op), e.config.acc_depth // 2
    entry = e.add_param([(-p["z1"], p["m1"], p["s1"])])
    params = Entries(e)
    for x, c, box in with_constants(e, op, out):
        factors = constants_of(c, 1, box) - p["z2"]
        bring(e, x, 0, box)
        found = bring(e, x, 0, box, factors, acc_base=half, release=1)
        param = params((-p["z1"] * factors - found.extra).tolist(), p["m2"], p["s2"])
        target = box.onto()
        e.tail(**area_of(target), shared=1, take=1, to_acc=1, param=entry)
        e.tail(**area_of(target), to_acc=1, param=param, acc_base=half)
        scale = {"shared": 1, "param": e.identity_entry(), "zero_point": p["zo"], "clamp": 1}
        e.tail(**target, **scale, release=1, window_y=2, window_row=half)


class Entries:
    """Parameter entries of columns, each list once."""

    def __init__(self, e: Emitter):
        self.e = e
        self.known: dict[tuple, int] = {}

    def __call__(self, biases: list[int], multiplier: int, shift: int) -> int:
        key = tuple(biases), multiplier, shift
        if key not in self.known:
            self.known[key] = self.e.add_param([(bias, multiplier, shift) for bias in biases])
        return self.known[key]


def bilinear(e: Emitter, op: Operator, out: int):
    """RESIZE_BILINEAR: outputs that weigh their neighbours alike are a convolution, if there are few kinds of them."""
    _, h, w, c = e.tensor(op.inputs[0]).shape
    _, oh, ow, _ = e.tensor(out).shape
    rows, columns = bilinear_stretches(e.model, op, 1), bilinear_stretches(e.model, op, 2)
    if len(rows) * len(columns) > MOST_STRETCHES:
        raise LayerError("not a resize by a whole factor")
    parts = [1024 // math.gcd(1024, *(s.fraction for s in stretches)) for stretches in (rows, columns)]
    bits = (parts[0] * parts[1]).bit_length() - 1
    if parts[0] * parts[1] > 1024:
        raise LayerError("not a resize by a whole factor")
    scale = {"shared": 1, "clamp": 1, "param": e.add_param([(0, 1 << 30, -bits)]), "pre_shift": 1}
    address, target = e.place(op.inputs[0]).address, e.place(out).address
    for y in rows:
        for x in columns:
            weights = [
                (dy * w * c + dx * c, wy * wx) for dy, wy in y.taps(parts[0]) for dx, wx in x.taps(parts[1]) if wy * wx
            ]
            shape = y.count, x.count, c
            source = View(address + (y.low * w + x.low) * c, shape, (y.step * w * c, x.step * c, 1))
            onto = View(target + (y.first * ow + x.first) * c, shape, (y.apart * ow * c, x.apart * c, 1))
            taps, factors = zip(*weights)
            for box in boxes(e, onto, [source], e.config.acc_depth):
                bring(e, source, 0, box, np.array(factors)[:, None], taps, release=1)
                e.tail(**box.onto(), **scale, take=1, release=1)


MOST_STRETCHES = 100


@dataclass(frozen=True)
class Stretch:
    """Outputs of an axis, `apart` of each other, that weigh inputs `low` (on by `step`) and `low + gap` alike."""

    first: int
    count: int
    apart: int
    low: int
    step: int
    gap: int
    fraction: int
    """Of 1024: the weight of the upper neighbour."""

    def taps(self, parts: int) -> list[tuple[int, int]]:
        """(distance, weight in parts)."""
        upper = self.fraction * parts // 1024
        return [(0, parts)] if self.gap == 0 else [(0, parts - upper), (self.gap, upper)]


def bilinear_stretches(model: Model, op: Operator, axis: int) -> list[Stretch]:
    """All outputs of an axis, in the fewest stretches that are found."""
    size, out = model.tensors[op.inputs[0]].shape[axis], model.tensors[op.outputs[0]].shape[axis]
    low, high, fraction = (np.asarray(v).reshape(-1) for v in quantities.bilinear_places(op, size, out))
    gap = high - low
    best: list[Stretch] = []
    for apart in {1, out // math.gcd(out, size), max(1, (out - 1) // math.gcd(out - 1, size - 1) if out > 1 else 1)}:
        found: list[Stretch] = []
        for first in range(min(apart, out)):
            i = first
            while i < out:
                j, step = i + apart, 0
                if j < out:
                    step = int(low[j] - low[i])
                while j < out and (low[j] - low[j - apart], gap[j], fraction[j]) == (step, gap[i], fraction[i]):
                    j += apart
                count = (j - i) // apart
                found.append(Stretch(i, count, apart, int(low[i]), step, int(gap[i]), int(fraction[i])))
                i = j
        if not best or len(found) < len(best):
            best = found
    return best


def maximum(e: Emitter, op: Operator, out: int):
    """MAXIMUM: the tail's window over both operands. MINIMUM: the same of ~x, and the table takes it back."""
    minimum = op.op == "MINIMUM"
    param = e.add_param([(-1, *IDENTITY)]) if minimum else e.identity_entry()
    if minimum:
        e.table(~np.arange(-128, 128))
    window = {"window_y": 2, "window_row": e.config.acc_depth // 2}
    for box in meeting(e, op, out, -1 if minimum else 1):
        scale = {"shared": 1, "clamp": 1, "param": param}
        e.tail(**box.onto(), **scale, **window, take=1, release=1, **({"table": 1} if minimum else {}))


def unary(e: Emitter, op: Operator, out: int):
    """A function of one value, through the table."""
    e.table(e.expressions[op.index].table)
    copy(e, op, out, e.identity_entry(), table=1)


def copy(e: Emitter, op: Operator, out: int, param: int, **tail):
    """All bytes of the operator's activation, one after the other."""
    (t,) = e.activations(op)
    shape = (e.tensor(out).size,)
    move(e, View.dense(e.place(out).address, shape), View.dense(e.place(t).address, shape), param, **tail)


def copy_bytes(e: Emitter, source: int, out: int, size: int):
    """All of one tensor or variable to another."""
    from_, to = (View.dense(e.place(t).address, (size,)) for t in (source, out))
    move(e, to, from_, e.identity_entry())


def quantize(e: Emitter, op: Operator, out: int):
    p = quantities.quantize_parameters(e.model, op)
    copy(e, op, out, e.add_param([(-p["zi"], p["m"], p["s"])]), zero_point=p["zo"])


def movement(e: Emitter, op: Operator, out: int):
    """What only moves bytes, piece by piece; pieces that are in place already cost nothing."""
    for piece in e.moves(op):
        if piece.source is not None and e.in_place.get(piece.source) == op.index:
            continue
        address = e.place(out if piece.target == op.outputs[0] else piece.target).address + piece.target_start
        target = View(address, piece.shape, piece.target_strides)
        if piece.values is not None or piece.source is None:
            assert piece.values is not None
            source = View.constant(piece.values)
            if (piece.values == piece.values.flat[0]).all():
                source = View.constant(piece.values.reshape(-1)[:1]).broadcast(piece.shape)
        else:
            source = View(e.place(piece.source).address + piece.start, piece.shape, piece.strides)
        e.move_piece(target, source)


def pad(e: Emitter, op: Operator, out: int):
    """PAD and PADV2 in height and width: a copy whose windows reach over the border."""
    (top, _), (left, _) = op.options["paddings"][1:3]
    h, w, c = e.hwc(op.inputs[0])
    oh, ow, _ = e.hwc(out)
    feed = Feed(e.place(op.inputs[0]).address, h, w, c, top=top, left=left, zero_point=op.options["value"])
    e.copy(feed, oh, ow, e.place(out).address, c, e.identity_entry())

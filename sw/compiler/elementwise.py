"""Operators of value by value (ADD, MUL, MAXIMUM, functions of one value, QUANTIZE), and those that move bytes."""

from collections.abc import Iterator

import numpy as np

from lepton.sw.compiler.emitter import IDENTITY, Emitter, Feed
from lepton.sw.compiler.strided import Box, View, boxes, bring, move
from lepton.sw.graph.model import Operator
from lepton.sw.reference import quantities


def add_entries(e: Emitter, p: dict, reverse=False) -> int:
    """Parameter entries of an ADD or SUB: of its first operand (reverse: second), of the other, of the sum."""
    scale = [(-p["z1"], p["m1"], p["s1"]), (-p["z2"], p["m2"], p["s2"])]
    return e.add_param([*(scale[::-1] if reverse else scale), (0, p["mo"], p["so"])])


def add_tails(e: Emitter, op: Operator, p: dict, entry: int, target: dict, other: int, take: int):
    """Scale both operands in place, then add (or subtract), scale and write. `other`: entries between the operands."""
    area = {name: target[name] for name in ("width", "height", "acc_y", "channels")}
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
    half, product = e.config.acc_depth // 2, op.op == "MUL"
    p = quantities.mul_parameters(e.model, op) if product else quantities.add_parameters(e.model, op)
    entry = e.add_param([(-p["z1"], -p["z2"], 0), (0, p["m"], p["s"])]) if product else add_entries(e, p)
    for box in meeting(e, op, out):
        target = box.onto()
        if not product:
            add_tails(e, op, p, entry, target, half, take=1)
            continue
        area = {name: target[name] for name in ("width", "height", "acc_y", "channels")}
        e.tail(**area, shared=1, take=1, to_acc=1, dual=2, acc_other=half, param=entry)
        scale = {"param": entry + 1, "zero_point": p["zo"], "low": p["low"], "high": p["high"]}
        e.tail(**target, **scale, shared=1, release=1, clamp=1)


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
    table = e.function(op)
    assert table is not None
    e.table(table)
    copy(e, op, out, e.identity_entry(), table=1)


def copy(e: Emitter, op: Operator, out: int, param: int, **tail):
    """All bytes of the operator's activation, one after the other."""
    (t,) = (t for t in op.inputs if t >= 0 and not e.tensor(t).constant)
    shape = (e.tensor(out).size,)
    move(e, View.dense(e.place(out).address, shape), View.dense(e.place(t).address, shape), param, **tail)


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
        if piece.source is None:
            assert piece.values is not None
            source = View.constant(piece.values)
            if (piece.values == piece.values.flat[0]).all():
                source = View.constant(piece.values.reshape(-1)[:1]).broadcast(piece.shape)
        else:
            source = View(e.place(piece.source).address + piece.start, piece.shape, piece.strides)
        move(e, target, source, e.identity_entry())


def pad(e: Emitter, op: Operator, out: int):
    """PAD and PADV2 in height and width: a copy whose windows reach over the border."""
    (top, _), (left, _) = op.options["paddings"][1:3]
    h, w, c = e.hwc(op.inputs[0])
    oh, ow, _ = e.hwc(out)
    feed = Feed(e.place(op.inputs[0]).address, h, w, c, top=top, left=left, zero_point=op.options["value"])
    e.copy(feed, oh, ow, e.place(out).address, c, e.identity_entry())

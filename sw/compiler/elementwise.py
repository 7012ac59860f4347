"""ADD, SUB and MUL of two activations, unary functions, QUANTIZE, PAD and CONCATENATION."""

import numpy as np

from lepton.sw.compiler.emitter import Emitter, Feed, onto
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


def binary(e: Emitter, op: Operator, out: int):
    """ADD, SUB and MUL of two activations of one shape."""
    half = e.config.acc_depth // 2
    a, b = (e.place(t).address for t in op.inputs[:2])
    product = op.op == "MUL"
    p = quantities.mul_parameters(e.model, op) if product else quantities.add_parameters(e.model, op)
    entry = e.add_param([(-p["z1"], -p["z2"], 0), (0, p["m"], p["s"])]) if product else add_entries(e, p)
    for at, bw, n in e.runs(e.tensor(out).size, half):
        block = (0, 0, 1, bw)
        e.copy_in(Feed(a + at, 1, bw, n), block, 0, n)
        e.copy_in(Feed(b + at, 1, bw, n), block, 0, n, acc_base=half, release=1)
        target = onto(block, e.place(out).address + at, bw, n) | {"channels": n}
        if not product:
            add_tails(e, op, p, entry, target, half, take=1)
            continue
        area = {name: target[name] for name in ("width", "height", "acc_y", "channels")}
        e.tail(**area, shared=1, take=1, to_acc=1, dual=2, acc_other=half, param=entry)
        scale = {"param": entry + 1, "zero_point": p["zo"], "low": p["low"], "high": p["high"]}
        e.tail(**target, **scale, shared=1, release=1, clamp=1)


def unary(e: Emitter, op: Operator, out: int):
    """A function of one value, through the table."""
    e.table(quantities.unary_table(e.model, op))
    e.copy_flat(e.place(op.inputs[0]).address, e.tensor(out).size, e.place(out).address, e.identity_entry(), table=1)


def quantize(e: Emitter, op: Operator, out: int):
    p = quantities.quantize_parameters(e.model, op)
    param = e.add_param([(-p["zi"], p["m"], p["s"])])
    source, target = e.place(op.inputs[0]).address, e.place(out).address
    e.copy_flat(source, e.tensor(out).size, target, param, zero_point=p["zo"])


def pad(e: Emitter, op: Operator, out: int):
    """PAD and PADV2 in height and width: a copy whose windows reach over the border."""
    (top, _), (left, _) = op.options["paddings"][1:3]
    h, w, c = e.hwc(op.inputs[0])
    oh, ow, _ = e.hwc(out)
    feed = Feed(e.place(op.inputs[0]).address, h, w, c, top=top, left=left, zero_point=op.options["value"])
    e.copy(feed, oh, ow, e.place(out).address, c, e.identity_entry())


def concatenation(e: Emitter, op: Operator, out: int):
    """Copies of the inputs: a few long runs, or a map of short ones."""
    axis = op.options["axis"]
    inner = int(np.prod(e.tensor(out).shape[axis:]))
    outer = int(np.prod(e.tensor(out).shape[:axis]))
    at, param = e.place(out).address, e.identity_entry()
    for t in op.inputs:
        source, c = e.place(t).address, int(np.prod(e.tensor(t).shape[axis:]))
        if outer <= -(-c // e.config.cols):
            for i in range(outer):
                e.copy_flat(source + i * c, c, at + i * inner, param)
        else:
            for _, i, _, n in e.blocks(1, outer, e.config.acc_depth):
                e.copy(Feed(source + i * c, 1, n, c), 1, n, at + i * inner, inner, param)
        at += c

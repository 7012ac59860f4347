"""Checks of operators: f(operator, its input tensors (None where absent), its output tensors).

They raise ModelError where types, shapes or options do not fit, and add to the options what the kernels want to know.
"""

import math

import numpy as np

from lepton.sw.graph.model import MAX_TENSOR_ELEMENTS, FreeShape, ModelError, Tensor, need, tensor_name

QUANTIZED = ("int8", "int16", "uint8")
"""Types whose values mean nothing without a scale."""
NUMBERS = ("float32", "int8", "int16", "uint8", "int32", "int64")
ALL = (*NUMBERS, "bool", "uint32", "float16")


def check_scale(t: Tensor, where):
    """One scale and zero point, in range."""
    need(len(t.scales) == 1, where, "an activation needs one scale and zero point: quantise the model to int8")
    need(1e-18 < t.scale < 1e18, where, f"scale {t.scale} is out of range")


def types(o, tensors, allowed, same=True):
    """Types of tensors: each of `allowed`, all `same`, the quantised ones with a scale."""
    for t in tensors:
        need(t is not None, o, "a required input is missing")
        where = f"{o}: {tensor_name(t)}"
        if t.dtype == "float32" and "float32" not in allowed:
            raise ModelError(f"{where} is float32: the model must be fully quantised to int8")
        need(t.dtype in allowed, where, f"is {t.dtype}; this operator is known for {', '.join(allowed)}")
        if t.dtype in QUANTIZED:
            check_scale(t, where)
        need(not same or t.dtype == tensors[0].dtype, where, f"is {t.dtype}, another operand is {tensors[0].dtype}")


def moved(o, x, y, allowed=ALL):
    """Types of operators that move values: any, the same on both sides; scales say nothing."""
    for t in (x, y):
        need(t.dtype in allowed, o, f"{tensor_name(t)} is {t.dtype}; this operator is known for {', '.join(allowed)}")
    need(x.dtype == y.dtype, o, f"input is {x.dtype}, output {y.dtype}")


def integers(o, t: Tensor | None, what, size=None) -> list[int]:
    """Values of a small constant tensor."""
    data = None if t is None else t.data
    need(data is not None, o, f"{what} must be constant")
    assert t is not None and data is not None
    need(t.dtype in ("int32", "int64"), o, f"{what} is {t.dtype}, not int32")
    need(t.size <= 64 and (size is None or t.size == size), o, f"{what} has {t.size} values")
    return [int(v) for v in data.reshape(-1)]


def same_shape(o, x, y):
    settle(y, x.shape)
    need(x.shape == y.shape, o, f"output shape {y.shape} differs from input shape {x.shape}")


def shape(o, y, want):
    want = tuple(want)
    settle(y, want)
    need(y.shape == want, o, f"output shape is {y.shape}, its inputs give {want}")


def settle(y: Tensor, want: tuple[int, ...]):
    """Where the file left the shape of an output open and it is not that, tell the reader."""
    if y.free and y.shape != want:
        raise FreeShape(y, want)


def broadcast(o, tensors, y):
    try:
        want = np.broadcast_shapes(*(t.shape for t in tensors))
    except ValueError:
        shapes = " and ".join(str(t.shape) for t in tensors)
        raise ModelError(f"{o}: shapes {shapes} do not broadcast") from None
    shape(o, y, want)


def axis_of(o, value, rank) -> int:
    need(-rank <= value < rank, o, f"axis {value} is outside {rank} dimensions")
    return value % rank


def one_axis(o, t, rank) -> int:
    return axis_of(o, integers(o, t, "the axis", 1)[0], rank)


# Element by element


def binary(*allowed):
    """Arithmetic of two tensors of these types."""

    def check(o, ins, outs):
        types(o, (*ins, outs[0]), allowed)
        broadcast(o, ins, outs[0])

    return check


def prelu(o, ins, outs):
    types(o, (ins[0], outs[0]), ("float32", "int8", "int16"))
    types(o, ins[1:], ("float32",) if ins[0].dtype == "float32" else ("int8",))
    same_shape(o, ins[0], outs[0])
    broadcast(o, ins, outs[0])


def comparison(o, ins, outs):
    allowed = ("float32", "int8", "int32", "int64") + (("bool",) if o.op in ("EQUAL", "NOT_EQUAL") else ())
    types(o, ins, allowed)
    if ins[0].dtype == "int8":
        need(all(t.scale < 1 for t in ins), o, "a scale of 1 or more: TFLM compares only values of smaller scales")
    moved(o, outs[0], outs[0], ("bool",))
    broadcast(o, ins, outs[0])


def logical(o, ins, outs):
    types(o, (*ins, outs[0]), ("bool",))
    broadcast(o, ins, outs[0])


def select(o, ins, outs):
    moved(o, ins[0], ins[0], ("bool",))
    for t in ins[1:]:
        moved(o, t, outs[0])
    if o.op == "SELECT" and len(ins[0].shape) == 1 and len(ins[1].shape) > 1:
        need(ins[0].shape[0] == ins[1].shape[0], o, "the condition has another length than the operands")
        same_shape(o, ins[1], outs[0])
        same_shape(o, ins[2], outs[0])
    else:
        broadcast(o, ins, outs[0])


def add_n(o, ins, outs):
    types(o, (*ins, outs[0]), ("float32", "int8", "int32"))
    for t in ins:
        same_shape(o, t, outs[0])
        if t.dtype == "int8":
            need(t.scale == ins[0].scale and t.zero_point == ins[0].zero_point, o, "inputs are quantised differently")


def unary(*allowed):
    """Functions of one value, input and output of one of these types."""

    def check(o, ins, outs):
        types(o, (ins[0], outs[0]), allowed)
        same_shape(o, ins[0], outs[0])
        x, y = ins[0], outs[0]
        fixed = {
            ("LOGISTIC", "int8"): (1 / 256, -128),
            ("TANH", "int8"): (1 / 128, 0),
            ("LOGISTIC", "int16"): (1 / 32768, 0),
            ("TANH", "int16"): (1 / 32768, 0),
        }.get((o.op, y.dtype))
        if fixed:
            near = abs(float(y.scale) - fixed[0]) < 1e-3 * fixed[0] and y.zero_point == fixed[1]
            need(near, o, f"output must have scale {fixed[0]} and zero point {fixed[1]}")
            need(y.dtype == "int8" or x.zero_point == 0, o, "its int16 input must have zero point 0")
        if o.op == "LEAKY_RELU":
            need(abs(o.options["alpha"]) <= 1e3, o, f"alpha {o.options['alpha']} must be -1000 to 1000")

    return check


def plain_unary(*allowed):
    """Functions of one plain value: scales say nothing."""

    def check(o, ins, outs):
        moved(o, ins[0], outs[0], allowed)
        same_shape(o, ins[0], outs[0])

    return check


_QUANTIZE = {
    "float32": ("int8", "int16", "uint8"),
    "int8": ("int8", "uint8", "int16", "int32"),
    "uint8": ("int8", "uint8"),
    "int16": ("int8", "int16", "int32"),
    "int32": ("int8", "int16"),
}


def quantize(o, ins, outs):
    x, y = ins[0], outs[0]
    need(y.dtype in _QUANTIZE.get(x.dtype, ()), o, f"{x.dtype} to {y.dtype} is not supported")
    same_shape(o, x, y)
    for t in (x, y):
        if t.dtype != "float32":
            check_scale(t, f"{o}: {tensor_name(t)}")


def dequantize(o, ins, outs):
    x, y = ins[0], outs[0]
    moved(o, y, y, ("float32",))
    same_shape(o, x, y)
    if x.dtype != "float16":
        types(o, (x,), ("int8", "int16", "uint8", "int32"))


def cast(o, ins, outs):
    for t in (ins[0], outs[0]):
        moved(o, t, t, (*NUMBERS, "bool", "uint32"))
    same_shape(o, ins[0], outs[0])


# Reductions


def reduction(*allowed):
    def check(o, ins, outs):
        x, y = ins[0], outs[0]
        if o.op in ("MEAN", "SUM", "REDUCE_PROD"):
            types(o, (x, y), allowed)
        else:
            moved(o, x, y, allowed)
        rank = len(x.shape)
        axes = integers(o, ins[1], "the list of axes")
        need(all(-rank <= a < rank for a in axes), o, f"axes {axes} are outside the input's {rank} dimensions")
        axes = sorted({a % rank for a in axes})
        o.options["axis"] = tuple(axes)
        if o.options["keep_dims"]:
            shape(o, y, (1 if i in axes else d for i, d in enumerate(x.shape)))
        else:
            shape(o, y, (d for i, d in enumerate(x.shape) if i not in axes))
        if x.dtype == "int8" and o.op in ("REDUCE_MAX", "REDUCE_MIN") and len(x.scales) and len(y.scales):
            need(x.scale == y.scale and x.zero_point == y.zero_point, o, "input and output are quantised differently")

    return check


def arg_extreme(o, ins, outs):
    x, y = ins[0], outs[0]
    moved(o, x, x, NUMBERS)
    moved(o, y, y, ("int32", "int64"))
    axis = o.options["axis"] = one_axis(o, ins[1], len(x.shape))
    shape(o, y, x.shape[:axis] + x.shape[axis + 1 :])


def cumsum(o, ins, outs):
    types(o, (ins[0], outs[0]), ("float32", "int8", "int32", "int64"))
    same_shape(o, ins[0], outs[0])
    o.options["axis"] = one_axis(o, ins[1], len(ins[0].shape))


def l2_normalization(o, ins, outs):
    types(o, (ins[0], outs[0]), ("float32", "int8"))
    same_shape(o, ins[0], outs[0])
    need(len(ins[0].shape) > 0, o, "input without dimensions")
    y = outs[0]
    if y.dtype == "int8":
        need(abs(float(y.scale) - 1 / 128) < 1e-6 and y.zero_point == 0, o, "output must have scale 1/128")


# Operators that move values


def concatenation(o, ins, outs):
    y = outs[0]
    for t in ins:
        need(t is not None, o, "a required input is missing")
        moved(o, t, y)
    need(o.options["activation"] == "NONE", o, "a fused activation is not supported")
    rank = len(y.shape)
    need(all(len(t.shape) == rank for t in ins), o, "ranks do not fit")
    axis = o.options["axis"] = axis_of(o, o.options["axis"], rank)
    first = ins[0].shape
    settle(y, (*first[:axis], sum(t.shape[axis] for t in ins), *first[axis + 1 :]))
    for t in ins:
        rest = t.shape[:axis] + t.shape[axis + 1 :]
        need(rest == y.shape[:axis] + y.shape[axis + 1 :], o, "shapes do not fit together")
        if y.dtype == "int8":
            same = len(t.scales) == len(y.scales) == 1 and t.scale == y.scale and t.zero_point == y.zero_point
            need(same, o, "inputs and output are quantised differently")
    need(sum(t.shape[axis] for t in ins) == y.shape[axis], o, "sizes do not add up to the output's")


def pad(o, ins, outs):
    x, y = ins[0], outs[0]
    moved(o, x, y)
    values = integers(o, ins[1], "the paddings", 2 * len(x.shape))
    need(all(0 <= v <= 65536 for v in values), o, f"paddings {values} must be 0 to 65536")
    pads = o.options["paddings"] = tuple(zip(values[::2], values[1::2]))
    # a PAD of quantised values is of the zero point; of int16 TFLM takes 0, which the zero point must be
    o.options["value"] = y.zero_point if y.dtype in QUANTIZED else 0
    if len(ins) > 2 and ins[2] is not None:
        value = ins[2]
        need(value.constant and value.dtype == y.dtype and value.size == 1, o, f"the pad value must be a {y.dtype}")
        o.options["value"] = value.data.reshape(-1)[0].item()
    shape(o, y, (d + a + b for d, (a, b) in zip(x.shape, pads)))


def mirror_pad(o, ins, outs):
    x, y = ins[0], outs[0]
    moved(o, x, y)
    values = integers(o, ins[1], "the paddings", 2 * len(x.shape))
    pads = o.options["paddings"] = tuple(zip(values[::2], values[1::2]))
    edge = 1 if o.options["mode"] == 0 else 0
    need(all(0 <= v <= d - edge for d, p in zip(x.shape, pads) for v in p), o, f"paddings {values} reach too far")
    shape(o, y, (d + a + b for d, (a, b) in zip(x.shape, pads)))


def reshape(o, ins, outs):
    """RESHAPE, SQUEEZE and EXPAND_DIMS: the output's shape is the answer; if the file left it open, a constant's."""
    moved(o, ins[0], outs[0])
    if outs[0].free and o.op == "RESHAPE" and len(ins) > 1 and ins[1] is not None and ins[1].constant:
        want = integers(o, ins[1], "the shape")
        rest = math.prod(d for d in want if d != -1)
        if want.count(-1) == 1 and rest > 0:
            want[want.index(-1)] = ins[0].size // rest
        shape(o, outs[0], want)
    need(ins[0].size == outs[0].size, o, f"{ins[0].shape} does not fit {outs[0].shape}")


def transpose(o, ins, outs):
    x = ins[0]
    moved(o, x, outs[0])
    perm = integers(o, ins[1], "the permutation", len(x.shape))
    perm = [a % len(x.shape) if -len(x.shape) <= a < 0 else a for a in perm]
    need(sorted(perm) == list(range(len(x.shape))), o, f"{perm} is not a permutation")
    o.options["perm"] = tuple(perm)
    shape(o, outs[0], (x.shape[a] for a in perm))


def strided_slice(o, ins, outs):
    """All masks, as TensorFlow's: an ellipsis stands for whole dimensions, a new axis is one of size 1."""
    x, y = ins[0], outs[0]
    moved(o, x, y)
    p = o.options
    begin, end, strides = (integers(o, t, "begin, end and strides") for t in ins[1:])
    count = len(begin)
    need(len(end) == count == len(strides), o, "begin, end and strides differ in length")
    need(all(strides), o, "a stride is 0")
    bits = {k: [i for i in range(count) if p[f"{k}_mask"] >> i & 1] for k in ("ellipsis", "new_axis")}
    need(len(bits["ellipsis"]) <= 1, o, "more than one ellipsis")
    new = set(bits["new_axis"]) - set(bits["ellipsis"])
    named = count - len(new) - len(bits["ellipsis"])
    need(named <= len(x.shape), o, f"{named} slices of {len(x.shape)} dimensions")
    slices: list = []
    for i in range(count):
        at = sum(1 for s in slices if s is not None)
        if i in bits["ellipsis"]:
            slices += [slice(None)] * (len(x.shape) - named)
        elif i in new:
            slices.append(None)
        elif p["shrink_axis_mask"] >> i & 1:
            size = x.shape[at]
            index = 0 if p["begin_mask"] >> i & 1 else begin[i]
            need(-size <= index < size, o, f"index {index} is outside the input")
            slices.append(index % size)
        else:
            stop = begin[i] + end[i] if p["offset"] else end[i]
            first = None if p["begin_mask"] >> i & 1 else begin[i]
            slices.append(slice(first, None if p["end_mask"] >> i & 1 else stop, strides[i]))
    p["slices"] = tuple(slices)
    sizes = [d for d in np.broadcast_to(np.int8(0), x.shape)[p["slices"]].shape]
    need(all(sizes), o, f"the slice is empty: {tuple(sizes)}")
    shape(o, y, sizes)


def slice_(o, ins, outs):
    x, y = ins[0], outs[0]
    moved(o, x, y)
    begin, size = (integers(o, t, "begin and size", len(x.shape)) for t in ins[1:])
    size = [d - b if s == -1 else s for b, s, d in zip(begin, size, x.shape)]
    need(all(0 <= b and 0 < s and b + s <= d for b, s, d in zip(begin, size, x.shape)), o, "it is outside the input")
    o.options["slices"] = tuple(slice(b, b + s) for b, s in zip(begin, size))
    shape(o, y, size)


def split(o, ins, outs):
    """SPLIT (axis, value) and SPLIT_V (value, sizes, axis)."""
    x, axis = (ins[1], ins[0]) if o.op == "SPLIT" else (ins[0], ins[2])
    at = o.options["axis"] = one_axis(o, axis, len(x.shape))
    if o.op == "SPLIT":
        need(x.shape[at] % len(outs) == 0, o, f"{x.shape[at]} do not divide into {len(outs)} parts")
        sizes = [x.shape[at] // len(outs)] * len(outs)
    else:
        sizes = integers(o, ins[1], "the sizes", len(outs))
        if sizes.count(-1) == 1:
            sizes[sizes.index(-1)] = x.shape[at] - sum(sizes) - 1
        need(sum(sizes) == x.shape[at] and min(sizes) > 0, o, f"parts {sizes} of {x.shape[at]}")
    for y, n in zip(outs, sizes):
        moved(o, x, y)
        shape(o, y, (*x.shape[:at], n, *x.shape[at + 1 :]))
    o.options["sizes"] = tuple(sizes)


def pack(o, ins, outs):
    y = outs[0]
    axis = o.options["axis"] = axis_of(o, o.options["axis"], len(y.shape))
    for x in ins:
        need(x is not None, o, "a required input is missing")
        moved(o, x, y)
        shape(o, y, (*x.shape[:axis], len(ins), *x.shape[axis:]))


def unpack(o, ins, outs):
    x = ins[0]
    axis = o.options["axis"] = axis_of(o, o.options["axis"], len(x.shape))
    need(x.shape[axis] == len(outs), o, f"{len(outs)} outputs for {x.shape[axis]} parts")
    for y in outs:
        moved(o, x, y)
        shape(o, y, x.shape[:axis] + x.shape[axis + 1 :])


def gather(o, ins, outs):
    x, at, y = ins[0], ins[1], outs[0]
    moved(o, x, y)
    moved(o, at, at, ("int32", "int64"))
    p = o.options
    axis = p["axis"] = axis_of(o, p["axis"], len(x.shape))
    batch = p["batch_dims"] = p["batch_dims"] + len(at.shape) if p["batch_dims"] < 0 else p["batch_dims"]
    need(batch <= min(axis, len(at.shape)) and x.shape[:batch] == at.shape[:batch], o, "batches do not fit")
    shape(o, y, (*x.shape[:axis], *at.shape[batch:], *x.shape[axis + 1 :]))


def gather_nd(o, ins, outs):
    x, at, y = ins[0], ins[1], outs[0]
    moved(o, x, y)
    moved(o, at, at, ("int32", "int64"))
    need(len(at.shape) > 0 and at.shape[-1] <= len(x.shape), o, "indices do not fit")
    shape(o, y, at.shape[:-1] + x.shape[at.shape[-1] :])


def embedding_lookup(o, ins, outs):
    at, table, y = ins[0], ins[1], outs[0]
    moved(o, at, at, ("int32",))
    if (table.dtype, y.dtype) == ("int8", "float32"):
        check_scale(table, o)
    else:
        moved(o, table, y, ("float32", "int8"))
    shape(o, y, at.shape + table.shape[1:])


def dynamic_update_slice(o, ins, outs):
    x, part, at = ins
    moved(o, x, outs[0])
    moved(o, part, outs[0])
    moved(o, at, at, ("int32", "int64"))
    same_shape(o, x, outs[0])
    fits = len(part.shape) == len(x.shape) and all(a <= b for a, b in zip(part.shape, x.shape))
    need(fits and at.size == len(x.shape), o, f"update {part.shape} does not fit {x.shape}")


def broadcast_to(o, ins, outs):
    moved(o, ins[0], outs[0])
    shape(o, outs[0], integers(o, ins[1], "the shape"))
    broadcast(o, (ins[0], outs[0]), outs[0])


def broadcast_args(o, ins, outs):
    for t in (*ins, outs[0]):
        moved(o, t, t, ("int32", "int64"))
        need(len(t.shape) == 1, o, "a shape is a list of one dimension")
    shape(o, outs[0], (max(t.shape[0] for t in ins),))


def tile(o, ins, outs):
    moved(o, ins[0], outs[0])
    times = o.options["times"] = tuple(integers(o, ins[1], "the multiples", len(ins[0].shape)))
    shape(o, outs[0], (d * n for d, n in zip(ins[0].shape, times)))


def fill(o, ins, outs):
    moved(o, ins[1], outs[0])
    need(ins[1].size == 1, o, f"a value of {ins[1].size} elements")
    shape(o, outs[0], integers(o, ins[0], "the shape"))


def zeros_like(o, ins, outs):
    moved(o, ins[0], outs[0], NUMBERS)
    same_shape(o, ins[0], outs[0])


def shape_of(o, ins, outs):
    moved(o, outs[0], outs[0], ("int32", "int64"))
    shape(o, outs[0], () if o.op == "RANK" else (len(ins[0].shape),))


def reverse(o, ins, outs):
    moved(o, ins[0], outs[0])
    same_shape(o, ins[0], outs[0])
    rank = len(ins[0].shape)
    o.options["axis"] = tuple(axis_of(o, a, rank) for a in integers(o, ins[1], "the list of axes"))


def blocks(o, ins, outs):
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH."""
    x, y = ins[0], outs[0]
    moved(o, x, y)
    n = o.options["block_size"]
    need(len(x.shape) == 4 and 1 <= n <= 65536, o, f"blocks of {n} in {len(x.shape)} dimensions")
    b, h, w, c = x.shape
    if o.op == "DEPTH_TO_SPACE":
        need(c % (n * n) == 0, o, f"{c} channels do not divide into blocks of {n}")
        shape(o, y, (b, h * n, w * n, c // (n * n)))
    else:
        need(h % n == 0 and w % n == 0, o, f"{h}x{w} do not divide into blocks of {n}")
        shape(o, y, (b, h // n, w // n, c * n * n))


def batches(o, ins, outs):
    """BATCH_TO_SPACE_ND and SPACE_TO_BATCH_ND."""
    x, y = ins[0], outs[0]
    moved(o, x, y)
    rank = len(x.shape)
    need(rank in (3, 4), o, f"input of {rank} dimensions, 3 or 4 are supported")
    block = integers(o, ins[1], "the block", rank - 2)
    flat = integers(o, ins[2], "the crops or paddings", 2 * (rank - 2))
    need(min(block) >= 1 and min(flat) >= 0 and max(flat) <= 65536, o, f"block {block}, borders {flat}")
    pairs = list(zip(flat[::2], flat[1::2]))
    n = int(np.prod(block))
    if o.op == "BATCH_TO_SPACE_ND":
        need(x.shape[0] % n == 0, o, f"{x.shape[0]} batches do not divide into blocks of {n}")
        sizes = [d * b - p - q for d, b, (p, q) in zip(x.shape[1:-1], block, pairs)]
        shape(o, y, (x.shape[0] // n, *sizes, x.shape[-1]))
    else:
        sizes = [d + p + q for d, (p, q) in zip(x.shape[1:-1], pairs)]
        need(all(d % b == 0 for d, b in zip(sizes, block)), o, f"{sizes} do not divide into blocks of {block}")
        shape(o, y, (x.shape[0] * n, *(d // b for d, b in zip(sizes, block)), x.shape[-1]))
    o.options.update(block=tuple(block), borders=tuple(pairs))


def resize(o, ins, outs):
    x, y = ins[0], outs[0]
    if o.op == "RESIZE_BILINEAR":
        types(o, (x, y), ("float32", "int8", "int16"))
        both = o.options["align_corners"] and o.options["half_pixel_centers"]
        need(not both, o, "align_corners with half_pixel_centers")
    else:
        moved(o, x, y)
    need(len(x.shape) == 4, o, "input must have 4 dimensions")
    size = integers(o, ins[1], "the size", 2)
    shape(o, y, (x.shape[0], *size, x.shape[3]))


def one_hot(o, ins, outs):
    at, depth, on, off = ins
    moved(o, at, at, ("int32", "int64"))
    moved(o, on, outs[0])
    moved(o, off, outs[0])
    n = integers(o, depth, "the depth", 1)[0]
    need(0 < n <= MAX_TENSOR_ELEMENTS, o, f"depth {n}")
    rank = len(at.shape)
    axis = o.options["axis"] = rank if o.options["axis"] == -1 else axis_of(o, o.options["axis"], rank + 1)
    o.options["depth"] = n
    shape(o, outs[0], (*at.shape[:axis], n, *at.shape[axis:]))

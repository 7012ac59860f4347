"""MAX_POOL_2D, AVERAGE_POOL_2D, and reductions along any axes."""

from dataclasses import replace
from functools import cache

import numpy as np

from lepton.sw.compiler.emitter import IDENTITY, Block, Emitter, Feed, Span, Window, onto
from lepton.sw.compiler.movement import dense
from lepton.sw.compiler.program import LayerError
from lepton.sw.compiler.strided import MOST_POSITION, MOST_SIDE, Dim, View, boxes, bring, join
from lepton.sw.graph.model import Operator
from lepton.sw.reference import arith, quantities

MOST_TAPS = 128
"""Values of a sum that have a tile each; more are brought one vector after the other."""


def onto_pooled(block: Block, k: Window, row: int, address: int, channels: int) -> dict:
    """TAIL fields that pool accumulators, `row` to a row of the unpooled block, and write a block of the pooled map."""
    return onto(block, address, k.ow, channels) | {
        "acc_x": k.sx,
        "acc_y": k.sy * row if block[2] > 1 else 0,
        "window_x": k.kw,
        "window_y": k.kh,
        "window_row": row,
    }


def max_pool(e: Emitter, op: Operator, out: int):
    """Blocks of the unpooled map are copied in; the tail's window takes the maximum."""
    k, p, depth = e.window(op), quantities.pool_parameters(e.model, op), e.config.acc_depth
    feed = Feed(e.place(op.inputs[0]).address, k.h, k.w, k.c, 1, 1, k.top, k.left, -128)
    scale = {"shared": 1, "clamp": 1, "param": e.identity_entry(), "low": p["low"], "high": p["high"]}
    # The unpooled block of n outputs a side is (n - 1) * stride + window a side.
    bw = k.ow
    while bw > 1 and ((bw - 1) * k.sx + k.kw) * k.kh > depth:
        bw = -(-bw // 2)
    bh = max(1, min(k.oh, e.most_rows, (depth // ((bw - 1) * k.sx + k.kw) - k.kh) // k.sy + 1))
    for py in range(0, k.oh, bh):
        for px in range(0, k.ow, bw):
            nh, nw = min(bh, k.oh - py), min(bw, k.ow - px)
            ih, iw = (nh - 1) * k.sy + k.kh, (nw - 1) * k.sx + k.kw
            for channel, n in e.channel_groups(k.c):
                e.copy_in(feed, (py * k.sy, px * k.sx, ih, iw), channel, n, release=1)
                target = onto_pooled((py, px, nh, nw), k, iw, e.place(out).address + channel, k.c)
                e.tail(**scale, **target, take=1, release=1, channels=n)


@cache
def average_scale(count: int) -> tuple[int, int, int] | None:
    """(multiplier, shift, pre_shift) that equal TFLM's rounded division by `count` for every sum, or None."""
    if count == 1:
        return *IDENTITY, 0
    sums = np.arange(-128 * count, 127 * count + 1, dtype=np.int64)
    want = arith.average(sums, count)
    multiplier, shift = arith.quantize_multiplier(1.0 / count)
    for pre in range(max(0, 30 - sums.size.bit_length()), -1, -1):
        if shift - pre >= -31 and np.array_equal(arith.requantize(sums, multiplier, shift - pre, pre), want):
            return multiplier, shift - pre, pre
    return None


def _stretches(outputs: int, stride: int, before: int, kernel: int, size: int) -> list[tuple[int, int, int]]:
    """(first output, outputs, places inside) of stretches whose windows have as many places inside 0..size."""
    out: list[tuple[int, int, int]] = []
    for i in range(outputs):
        first = i * stride - before
        inside = min(first + kernel, size) - max(first, 0)
        if out and out[-1][2] == inside:
            out[-1] = (out[-1][0], out[-1][1] + 1, inside)
        else:
            out.append((i, 1, inside))
    return out


def average_regions(k: Window) -> list[tuple[Block, int]]:
    """Parts of the pooled map with the pixels that each of their windows averages: near a padded border, fewer."""
    return [
        ((oy, ox, height, width), rows * columns)
        for oy, height, rows in _stretches(k.oh, k.sy, k.top, k.kh, k.h)
        for ox, width, columns in _stretches(k.ow, k.sx, k.left, k.kw, k.w)
    ]


def average_pool(e: Emitter, op: Operator, out: int):
    """Identity tiles for every tap sum up the window, padding adds 0; a global one sums all pixels into one entry."""
    k, p = e.window(op), quantities.pool_parameters(e.model, op)
    address, target = e.place(op.inputs[0]).address, e.place(out).address
    regions = average_regions(k)
    scales = {}
    for count in dict.fromkeys(count for _, count in regions):
        scale = average_scale(count)
        assert scale is not None  # `supports` has asked
        multiplier, shift, pre = scale
        param = e.add_param([(0, multiplier, shift)])
        scales[count] = {"shared": 1, "clamp": 1, "param": param, "pre_shift": pre, "low": p["low"], "high": p["high"]}
    if k.oh == k.ow == 1:
        (_, count), *_ = regions
        rows = min(k.kh - k.top, k.h)
        sum_up(e, Feed(address, k.h, k.w, k.c), rows, count // rows, target, scales[count])
        return
    feed = Feed(address, k.h, k.w, k.c, k.sy, k.sx, k.top, k.left)
    taps = {}
    for _, n in e.channel_groups(k.c):
        if n not in taps:
            tiles, eye = [], np.eye(e.config.cols, dtype=np.int8)[:n]
            for ky in range(k.kh):
                for kx in range(k.kw):
                    tiles += e.chunk_tiles(eye, (ky * k.w + kx) * k.c, kx * k.c, ky)
            (taps[n],) = e.add_tiles([tiles])
    for (top, left, height, width), count in regions:
        for oy, ox, bh, bw in e.blocks(height, width, e.config.acc_depth):
            block = (top + oy, left + ox, bh, bw)
            for channel, n in e.channel_groups(k.c):
                e.load(taps[n])
                e.mul(feed, block, channel, release=1)
                e.tail(**scales[count], **onto(block, target + channel, k.ow, k.c), take=1, release=1, channels=n)


def sum_up(e: Emitter, feed: Feed, rows: int, columns: int, target: int, scale: dict):
    """The pixels of the map's first rows and columns into one entry, written with one scale."""
    groups = list(e.channel_groups(feed.c))
    if not e.ahead and len(groups) <= e.config.acc_depth and 4 * rows * feed.w * feed.c > e.config.act_bytes:
        # All channels of some rows after the other, so that no row is wanted twice.
        step = max(1, min(e.most_rows, e.config.act_bytes // 8 // (feed.w * feed.c)))
        spans = e.add_tiles([e.chunk_tiles(np.eye(e.config.cols, dtype=np.int8)[:n], 0, 0, 0) for _, n in groups])
        tiles = Span(spans[0].first, sum(span.count for span in spans))
        for y in range(0, rows, step):
            e.load(tiles)
            block = (y, 0, min(step, rows - y), columns)
            last = y + step >= rows
            held = {"still": 1, "stack": 1, "init": int(y == 0), "release": int(last)}
            e.mul(feed, block, 0, groups=len(groups), group_step=e.config.cols, **held)
            if not last:
                e.hold()
        cells = onto((0, 0, 1, 1), target, 1, feed.c) | {"group_step": e.config.cols, "channels": feed.c}
        e.tail(**scale, **cells, take=1, release=1, stack=1)
        return
    for channel, n in groups:
        e.copy_in(feed, (0, 0, rows, columns), channel, n, still=1, release=1)
        e.tail(**scale, **onto((0, 0, 1, 1), target + channel, 1, feed.c), take=1, release=1, channels=n)


def mean(e: Emitter, op: Operator, out: int):
    """MEAN and SUM: the values that are summed up meet in one entry, which is scaled once."""
    p = quantities.mean_parameters(e.model, op)
    bias = -p["count"] * p["zi"]
    scale = {"clamp": 1, "zero_point": p["zo"], "low": p["low"], "high": p["high"]}
    h, w, c = e.hwc(op.inputs[0])
    shape, address = e.tensor(op.inputs[0]).shape, e.place(op.inputs[0]).address
    spatial = len(shape) == 4 and shape[0] == 1 and sorted(p["axis"]) == [1, 2]
    if spatial and h < 2**11 and w < 2**12 and w * c < 2**15:
        param = e.add_param([(bias, p["m"], p["s"])])
        sum_up(e, Feed(address, h, w, c), h, w, e.place(out).address, {"shared": 1, "param": param, **scale})
        return
    source, target, summed = reduction(e, op, out)
    taps = np.zeros(1, np.int64)
    for d in summed:
        taps = np.add.outer(taps, np.arange(d.size) * d.steps[0]).reshape(-1)
    params: dict[tuple, int] = {}

    def param_of(extra):
        if extra not in params:
            params[extra] = e.add_param([(bias - v, p["m"], p["s"]) for v in extra])
        return params[extra]

    if len(taps) <= MOST_TAPS or len(summed) > 2:
        for box in boxes(e, target, [source], e.config.acc_depth):
            found = bring(e, source, 0, box, taps=taps.tolist(), release=1)
            e.tail(**box.onto(), **scale, param=param_of(found.extra), take=1, release=1)
        return
    # Too many tiles: the vectors of one output after the other, all into its entry.
    high, wide = [*summed, Dim(1, (0,)), Dim(1, (0,))][:2]
    widest = min(MOST_SIDE, (MOST_POSITION - e.config.rows) // max(wide.steps[0], 1) + 1)
    for box in boxes(e, target, [source], 1):
        blocks = list(e.blocks(high.size, wide.size, MOST_SIDE**2, width_limit=widest, height_limit=MOST_SIDE))
        for i, (oy, ox, bh, bw) in enumerate(blocks):
            start = box.starts[0] + oy * high.steps[0] + ox * wide.steps[0]
            part = replace(
                box,
                height=bh,
                width=bw,
                starts=(start, box.starts[1]),
                row_steps=(high.steps[0], 0),
                column_steps=(wide.steps[0], 0),
            )
            found = bring(e, source, 0, part, still=1, init=int(i == 0), release=int(i == len(blocks) - 1))
        e.tail(**box.onto(), **scale, param=param_of(found.extra), take=1, release=1)


def reduction(e: Emitter, op: Operator, out: int) -> tuple[View, View, list[Dim]]:
    """Views of input and output over the dimensions that stay, and the dimensions that are reduced."""
    shape, axes = e.tensor(op.inputs[0]).shape, op.options["axis"]
    strides = dense(shape)
    stay = [i for i in range(len(shape)) if i not in axes]
    kept = tuple(shape[i] for i in stay) or (1,)
    source = View(e.place(op.inputs[0]).address, kept, tuple(strides[i] for i in stay) or (0,))
    return source, View.dense(e.place(out).address, kept), join([Dim(shape[i], (strides[i],)) for i in sorted(axes)])


def extreme(e: Emitter, op: Operator, out: int):
    """REDUCE_MAX: the tail's window over an output's values. REDUCE_MIN: the same of ~x; the table takes it back."""
    source, target, reduced = reduction(e, op, out)
    if len(reduced) > 1:
        raise LayerError("a maximum over axes that do not lie together")
    count, step = (reduced[0].size, reduced[0].steps[0]) if reduced else (1, 0)
    minimum = op.op == "REDUCE_MIN"
    param = e.add_param([(-1, *IDENTITY)]) if minimum else e.identity_entry()
    if minimum:
        e.table(~np.arange(-128, 128))
    windows = [  # rows of a window may overlap
        (high, wide, (count - wide) // max(high - 1, 1))
        for high in range(1, 16)
        for wide in range(1, 16)
        if (count == wide if high == 1 else (count - wide) % (high - 1) == 0 <= count - wide <= (high - 1) * wide)
    ]
    if not windows or count > e.config.acc_depth or (count - 1) * step > MOST_POSITION - e.config.rows:
        raise LayerError(f"an extreme of {count} values, {step} bytes apart")
    high, wide, window_row = windows[0]
    for box in boxes(e, target, [source], e.config.acc_depth // count):
        for oy in range(box.height):
            tall = replace(
                box,
                height=box.width,
                width=count,
                starts=(box.starts[0] + oy * box.row_steps[0], 0),
                row_steps=(box.column_steps[0], 0),
                column_steps=(step, 0),
            )
            sign, last = -1 if minimum else 1, oy == box.height - 1
            bring(e, source, 0, tall, sign, acc_base=oy * box.width * count, release=int(last))
        e.tail(
            **box.onto()
            | {"acc_x": count, "acc_y": count * box.width}
            | {"window_x": wide, "window_y": high, "window_row": window_row},
            shared=1,
            clamp=1,
            param=param,
            take=1,
            release=1,
            **({"table": 1} if minimum else {}),
        )

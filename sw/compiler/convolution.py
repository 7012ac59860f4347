"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, alone or fused with a residual ADD or SUB or a max pooling."""

from dataclasses import replace

import numpy as np

from lepton.sw.compiler.elementwise import add_entries, add_tails
from lepton.sw.compiler.emitter import Block, Emitter, Feed, Span, Tile, Window, onto
from lepton.sw.compiler.pooling import onto_pooled
from lepton.sw.compiler.program import LayerError
from lepton.sw.compiler.strided import paired_sum
from lepton.sw.graph.model import Operator
from lepton.sw.reference import quantities

OPERATORS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
MIN_TILE_PASS = 64  # cycles of multiplication below which groups share a bank, to hide the tail's latency


def dense_weights(e: Emitter, op: Operator):
    """Weights as (cout, kh, kw, cin) for a dense convolution, or None when its channels are grouped."""
    data = np.asarray(e.tensor(op.inputs[1]).data, np.int8)
    if op.op == "FULLY_CONNECTED":
        return data.reshape(data.shape[0], 1, 1, -1)
    c = e.hwc(op.inputs[0])[2]
    if op.op == "CONV_2D":
        return data if data.shape[3] == c else None
    return data.transpose(3, 1, 2, 0) if c == 1 else None


def stacking(e: Emitter, op: Operator) -> dict | None:
    """Input layout with the kernel's rows side by side, if it saves tiles; the host must be free to lay the input out.

    `size`: its bytes.
    """
    if op.op == "FULLY_CONNECTED" or dense_weights(e, op) is None or op.options["dilation_w"] != 1:
        return None
    k = e.window(op)
    rows = e.config.rows
    if k.kh * -(-k.kw * k.c // rows) <= -(-k.kh * k.kw * k.c // rows):
        return None
    row = (k.w + k.left + k.right) * k.kh * k.c
    size = k.oh * row
    if row >= 2**15 or size + k.oh * k.ow * e.hwc(op.outputs[0])[2] > e.config.act_bytes:
        return None
    return {
        "h": k.h,
        "w": k.w,
        "c": k.c,
        "top": k.top,
        "bottom": k.bottom,
        "left": k.left,
        "right": k.right,
        "kernel": k.kh,
        "stride": k.sy,
        "dilation": k.dy,
        "out_h": k.oh,
        "zero_point": e.tensor(op.inputs[0]).zero_point,
        "size": size,
    }


def streams(op: Operator, k: Window) -> bool:
    """Whether the depthwise mode applies: a tile a pass, activations shifting down the columns."""
    return (
        op.op == "DEPTHWISE_CONV_2D"
        and k.c > 1
        and op.options["depth_multiplier"] == k.dy == k.dx == 1
        and k.sy == k.sx <= 15
    )


def _grouped_runs(data, op: Operator, k: Window, g: int, n: int, ky: int, kx: int):
    """One tap of a group of `n` output channels from `g` on: (first input channel, weights (inputs, n))."""
    if op.op == "DEPTHWISE_CONV_2D":
        per, depth = data.shape[3] // k.c, 1
        values = data[0, ky, kx, g : g + n].reshape(n, 1)
    else:
        depth = data.shape[3]
        per = data.shape[0] // (k.c // depth)
        values = data[g : g + n, ky, kx, :]
    first = (np.arange(g, g + n) // per) * depth  # channel k reads input channels first(k)..first(k)+depth-1
    low = int(first[0])
    run = np.zeros((first[-1] + depth - low, n), np.int8)
    for j in range(n):
        run[first[j] - low : first[j] - low + depth, j] = values[j]
    return low, run


def convolution_tiles(e: Emitter, op: Operator, k: Window) -> list[list[Tile]]:
    """Groups of tiles for the convolution mode: kernel rows, or taps, cut into chunks of rows."""
    cols = e.config.cols
    data = np.asarray(e.tensor(op.inputs[1]).data, np.int8)
    cout = e.hwc(op.outputs[0])[2]
    weights = dense_weights(e, op)
    if weights is None and op.op == "DEPTHWISE_CONV_2D" and k.dx == 1 and -(-k.kw * k.c // e.config.rows) <= k.kw:
        # Few input channels: whole kernel rows as one run take fewer tiles than a tile a tap.
        weights = np.zeros((cout, k.kh, k.kw, k.c), np.int8)
        for j in range(cout):
            weights[j, :, :, j // (cout // k.c)] = data[0, :, :, j]
    if weights is not None and k.dx == 1:
        return dense_tiles(e, weights, k)
    groups = []
    for g in range(0, cout, cols):
        tiles, n = [], min(cols, cout - g)
        for ky in range(k.kh):
            y, offset = ky * k.dy, ky * k.dy * k.w * k.c
            for kx in range(k.kw):
                low, run = 0, None
                if weights is not None:
                    run = weights[g : g + n, ky, kx].T
                else:
                    low, run = _grouped_runs(data, op, k, g, n, ky, kx)
                x = kx * k.dx * k.c + low
                tiles += e.chunk_tiles(run, offset + x, x, y)
        groups.append(tiles)
    return groups


def dense_tiles(e: Emitter, weights: np.ndarray, k: Window) -> list[list[Tile]]:
    """Groups of tiles of (cout, kh, kw, cin) weights without gaps in a row: kernel rows cut into chunks."""
    cols, groups = e.config.cols, []
    for g in range(0, len(weights), cols):
        tiles, part = [], weights[g : g + cols]
        for ky in range(k.kh):
            run = part[:, ky].reshape(len(part), -1).T
            tiles += e.chunk_tiles(run, ky * k.dy * k.w * k.c, 0, ky * k.dy)
        groups.append(tiles)
    return groups


def flat_tiles(e: Emitter, flat: np.ndarray) -> list[list[Tile]]:
    """Groups of tiles of a window that is one run: (bytes, output channels)."""
    cols = e.config.cols
    return [e.chunk_tiles(flat[:, g : g + cols], 0, 0, 0) for g in range(0, flat.shape[1], cols)]


def streamed_tiles(e: Emitter, op: Operator, k: Window) -> list[list[Tile]]:
    """Groups of tiles for the depthwise mode: one tile for each block of taps x segments of the kernel."""
    cfg = e.config
    data = np.asarray(e.tensor(op.inputs[1]).data, np.int8)[0]
    step = 2 if cfg.pe == "paired" else 1
    groups = []
    for g, n in e.channel_groups(k.c):
        tiles = []
        for ky0 in range(0, k.kh, cfg.segments):
            used = min(cfg.segments, k.kh - ky0)
            for kx0 in range(0, k.kw, cfg.taps):
                weights = np.zeros((cfg.rows, cfg.cols), np.int8)
                for s in range(used):
                    for j in range(cfg.taps):
                        kx = kx0 + cfg.taps - 1 - j
                        if kx < k.kw:
                            weights[step * (cfg.taps * s + j), :n] = data[ky0 + used - 1 - s, kx, g : g + n]
                if weights.any():
                    tiles.append(Tile(weights, (ky0 * k.w + kx0) * k.c, kx0 * k.c, ky0, used - 1))
        groups.append(tiles)
    return groups


class Products:
    """Sums of products with their scale: tiles and parameters are added at once, then `write` emits instructions.

    `oh` x `ow` outputs of `cout` channels, read as `feed` says. They go to every `step`th row and column of a map
    `width` wide, from `first` on.
    """

    def __init__(self, e: Emitter, op: Operator, feed: Feed, oh: int, ow: int, cout: int):
        self.e, self.op, self.feed, self.oh, self.ow, self.cout = e, op, feed, oh, ow, cout
        self.first, self.step, self.width = (0, 0), (1, 1), ow
        self.streamed = False
        self.window: Window | None = None

    def add(self, groups: list[list[Tile]], sums: np.ndarray):
        """Tiles of each group of channels, and parameters. `sums`: of each channel's weights."""
        e, op = self.e, self.op
        # A group without any weight still needs one tile, to write zeros.
        empty = Tile(np.zeros((e.config.rows, e.config.cols), np.int8), 0, 0, 0)
        groups = [tiles or [empty] for tiles in groups]
        self.spans = e.add_weights(op, groups)
        multipliers, shifts, bias, in_zp, out_zp, low, high = quantities.conv_parameters(e.model, op)
        # The input's zero point and what pairs of weights add are taken from the bias.
        extra = np.concatenate([paired_sum(e, tiles) for tiles in groups])[: self.cout]
        folded = bias.astype(np.int64) - in_zp * sums - extra
        self.param = e.add_param(zip(folded.tolist(), multipliers.tolist(), shifts.tolist()))
        self.scale = {"zero_point": int(out_zp), "low": int(low), "high": int(high), "clamp": 1}

    def _width_limit(self) -> int | None:
        """Outputs in a row of a block, where that is limited."""
        return None

    def multiply(self, block: Block, group: int, count: int, **values):
        """LOAD and MUL of `count` groups of channels for a block of outputs."""
        e = self.e
        spans = self.spans[group : group + count]
        e.load(Span(spans[0].first, sum(s.count for s in spans), spans[0].external))
        e.mul(self.feed, block, groups=count, **values)

    def onto(self, block: Block, address: int) -> dict:
        """TAIL fields that write a block to the map at `address`."""
        oy, ox, _, _ = block
        (y, x), (sy, sx), pixel = self.first, self.step, self.cout
        return onto(block, 0, self.ow, self.cout) | {
            "address": address + ((y + oy * sy) * self.width + x + ox * sx) * pixel,
            "out_x": sx * pixel,
            "out_y": sy * self.width * pixel,
        }

    def write(self, out: int):
        """Blocks of outputs, each with all groups of channels; small ones with several groups in a bank."""
        e, cols, limit, cout = self.e, self.e.config.cols, self.e.config.acc_depth, self.cout
        n_groups = len(self.spans)
        for block in e.blocks(self.oh, self.ow, limit, width_limit=self._width_limit()):
            pixels = block[2] * block[3]
            work = pixels * self.spans[0].count
            share = 1 if work >= MIN_TILE_PASS else max(1, min(-(-MIN_TILE_PASS // work), limit // pixels))
            stack = int(share > 1)
            step = share if stack else n_groups
            step = min(step, max(1, e.most_tiles // max(s.count for s in self.spans)))
            for g in range(0, n_groups, step):
                n = min(step, n_groups - g)
                self.multiply(block, g, n, release=1, stack=stack)
                e.tail(
                    **self.scale,
                    **self.onto(block, e.place(out).address + g * cols),
                    param=self.param + g * cols,
                    take=1,
                    release=1,
                    stack=stack,
                    group_step=cols,
                    channels=min(cout - g * cols, n * cols),
                )


def write_transposed(e: Emitter, op: Operator, out: int):
    """TRANSPOSE_CONV: each phase of the outputs, `stride` apart, is a convolution with the weights that meet it.

    With stride s and padding p, output y gets input i through kernel row y + p - i * s: of q = (y + p) div s the rows
    r + s * j, r = (y + p) mod s, with inputs q - j.
    """
    _, h, w, c = e.tensor(op.inputs[2]).shape
    _, oh, ow, cout = e.tensor(out).shape
    o, data = op.options, np.asarray(e.tensor(op.inputs[1]).data, np.int8)
    zero_point = e.tensor(op.inputs[2]).zero_point
    sides = []
    for size, s, kernel, pad in (
        (oh, o["stride_h"], o["filter_h"], o["pad_h"]),
        (ow, o["stride_w"], o["filter_w"], o["pad_w"]),
    ):
        phases = []
        for r in range(s):
            first, taps = (r - pad) % s, len(range(r, kernel, s))
            if first < size:
                phases.append((r, first, len(range(first, size, s)), taps, taps - 1 - (first + pad) // s))
        sides.append(phases)
    sy, sx = o["stride_h"], o["stride_w"]
    for ry, y, ny, kh, top in sides[0]:
        for rx, x, nx, kw, left in sides[1]:
            weights = data[:, ry::sy, rx::sx][:, ::-1, ::-1]
            feed = Feed(e.place(op.inputs[2]).address, h, w, c, 1, 1, top, left, zero_point)
            phase = Products(e, op, feed, ny, nx, cout)
            phase.first, phase.step, phase.width = (y, x), (sy, sx), ow
            window = Window(h, w, c, ny, nx, kh, kw, 1, 1, 1, 1, top, left)
            phase.add(dense_tiles(e, weights, window), weights.astype(np.int64).sum(axis=(1, 2, 3)))
            phase.write(out)


class Convolution(Products):
    """One operator with weights, alone (`write`) or fused (`write_*`)."""

    def __init__(self, e: Emitter, op: Operator):
        data = np.asarray(e.tensor(op.inputs[1]).data, np.int8)
        zero_point = e.tensor(op.inputs[0]).zero_point
        place = e.place(e.activations(op)[0])
        address, stack = place.address, place.stack
        if op.op == "FULLY_CONNECTED":
            inputs = data.shape[1]
            rows = e.tensor(op.inputs[0]).size // inputs
            super().__init__(e, op, Feed(address, rows, 1, inputs, zero_point=zero_point), rows, 1, data.shape[0])
            groups = flat_tiles(e, data.T)
        else:
            k = e.window(op)
            feed = Feed(address, k.h, k.w, k.c, k.sy, k.sx, k.top, k.left, zero_point)
            super().__init__(e, op, feed, k.oh, k.ow, e.tensor(op.outputs[0]).shape[3])
            self.window = k
            self.streamed = streams(op, k)
            if self.streamed:
                groups = streamed_tiles(e, op, k)
            elif stack is not None:
                width, depth = k.w + k.left + k.right, k.kh * k.c
                self.feed = Feed(address, k.oh, width, depth, 1, k.sx, zero_point=zero_point)
                flat = dense_weights(e, op).transpose(2, 1, 3, 0)  # kx, ky, c
                groups = flat_tiles(e, flat.reshape(-1, self.cout))
            else:
                groups = convolution_tiles(e, op, k)
        axes = (0, 1, 2) if op.op == "DEPTHWISE_CONV_2D" else tuple(range(1, data.ndim))
        self.add(groups, data.astype(np.int64).sum(axis=axes))

    def _stream_width(self, ox: int, width: int) -> int:
        """Length of a stream row: it covers every needed pixel; what runs over its end is padding on both sides."""
        k, taps = self.window, self.e.config.taps
        assert k is not None  # depthwise
        best = (width - 1) * k.sx + 1
        for kx0 in range(0, k.kw, taps):
            first = ox * k.sx - k.left + kx0
            last = first + (width - 1) * k.sx + min(taps, k.kw - kx0) - 1
            best = max(best, min(last - first + 1, max(k.w - first, last + 1)))
        return best

    def _width_limit(self) -> int | None:
        """Outputs in a row of a block, when line buffers are too short for the whole row."""
        cfg = self.e.config
        if self.streamed and not self.e.ahead:
            return self._best_width()
        if not self.streamed or self._stream_width(0, self.ow) + cfg.taps <= cfg.line_depth:
            return None
        assert self.window is not None
        return max(1, (cfg.line_depth - 2 * cfg.taps) // self.window.sx)

    def _best_width(self) -> int:
        """Outputs in a row of a block with which the stream takes the fewest cycles: each block begins with rows and
        columns of the kernel that complete no output."""
        k, e = self.window, self.e
        assert k is not None  # depthwise
        best = None
        for columns in range(1, self.ow + 1):
            width = -(-self.ow // columns)
            if self._stream_width(0, width) + e.config.taps > e.config.line_depth and width > 1:
                continue
            height = max(1, min(self.oh, e.config.acc_depth // width, e.most_rows))
            stream = (min(k.kh, e.config.segments) + (height - 1) * k.sy) * self._stream_width(0, width)
            cycles = columns * -(-self.oh // height) * stream
            if best is None or cycles < best[0]:
                best = cycles, width
            if width <= 8:
                break
        return 1 if best is None else best[1]

    def multiply(self, block: Block, group: int, count: int, **values):
        if not self.streamed:
            super().multiply(block, group, count, **values)
            return
        e, cfg = self.e, self.e.config
        spans = self.spans[group : group + count]
        e.load(Span(spans[0].first, sum(s.count for s in spans), spans[0].external))
        oy, ox, bh, bw = block
        assert self.window is not None
        stride, width = self.window.sx, self._stream_width(ox, bw)
        e.mul(
            replace(self.feed, stride_y=1, stride_x=1),
            (oy * stride, ox * stride, bh, width),
            group * cfg.cols,
            groups=count,
            depthwise=1,
            group_step=cfg.cols,
            out_width=bw,
            subsample=stride,
            line_delay=width + cfg.taps,
            **values,
        )

    def write_pooled(self, pool: Operator, out: int):
        """With the max pooling behind it: only the pooled map is written."""
        e, cfg, p = self.e, self.e.config, self.e.window(pool)
        limit = self._width_limit()
        if limit is not None and limit < p.sx:
            raise LayerError(f"a pool of {p.sx} columns is wider than what the line buffers hold")
        for block in e.blocks(p.oh, p.ow, cfg.acc_depth // (p.kh * p.kw), width_limit=limit and limit // p.sx):
            py, px, bh, bw = block
            self.multiply((py * p.sy, px * p.sx, bh * p.sy, bw * p.sx), 0, len(self.spans), release=1)
            e.tail(
                **self.scale,
                **onto_pooled(block, p, bw * p.sx, e.place(out).address, self.cout),
                param=self.param,
                take=1,
                release=1,
                group_step=cfg.cols,
                channels=self.cout,
            )

    def write_sum(self, add: Operator, out: int):
        """With the residual ADD or SUB behind it: both operands meet in one accumulator bank."""
        e, limit, cout = self.e, self.e.config.acc_depth // 2, self.cout
        p = quantities.add_parameters(e.model, add)
        first = add.inputs[0] == self.op.outputs[0]
        other = add.inputs[1] if first else add.inputs[0]
        # A sum takes its operands in any order; the minuend must be the first half of the bank.
        mine_at, other_at = (limit, 0) if add.op == "SUB" and not first else (0, limit)
        entry = add_entries(e, p, reverse=add.op == "ADD" and not first)
        feed = Feed(e.place(other).address, self.oh, self.ow, cout)
        address = e.place(out).address
        blocks = e.blocks(self.oh, self.ow, limit, width_limit=self._width_limit())
        parts = [(block, *group) for block in blocks for group in e.channel_groups(cout)]

        def front(block, channel, n):
            self.multiply(block, channel // e.config.cols, 1, release=0, acc_base=mine_at)
            e.copy_in(feed, block, channel, n, acc_base=other_at, release=1)

        def back(block, channel, n):
            target = onto(block, address + channel, self.ow, cout) | {"channels": n}
            area = {name: target[name] for name in ("width", "height", "acc_y", "channels")}
            e.tail(**self.scale, **area, param=self.param + channel, take=1, to_acc=1, acc_base=mine_at)
            add_tails(e, add, p, entry, target, limit, take=0)

        if not e.ahead:
            for part in parts:
                front(*part)
                back(*part)
            return
        # The multiplications of a part stand before the tails of the part before, so that fetch never holds them up.
        front(*parts[0])
        for part, following in zip(parts, [*parts[1:], None]):
            if following:
                front(*following)
            back(*part)

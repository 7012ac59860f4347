"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED, alone or fused with a residual ADD or SUB or a max pooling."""

from dataclasses import replace

import numpy as np

from lepton.sw.compiler.elementwise import add_entries, add_tails
from lepton.sw.compiler.emitter import Block, Emitter, Feed, Span, Tile, Window, onto
from lepton.sw.compiler.pooling import onto_pooled
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
    k = Window.of(e.model, op)
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
    groups = []
    for g in range(0, cout, cols):
        tiles, n = [], min(cols, cout - g)
        for ky in range(k.kh):
            y, offset = ky * k.dy, ky * k.dy * k.w * k.c
            if weights is not None and k.dx == 1:
                run = weights[g : g + n, ky].reshape(n, k.kw * k.c).T
                tiles += e.chunk_tiles(run, offset, 0, y)
                continue
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


def paired_sum(e: Emitter, tiles: list[Tile]) -> np.ndarray:
    """What a column of paired PEs adds besides the products, to be taken from the bias."""
    if e.config.pe != "paired":
        return np.zeros(e.config.cols, np.int64)
    return sum((t.weights[0::2].astype(np.int64) * t.weights[1::2]).sum(axis=0) for t in tiles)


class Convolution:
    """One operator with weights: its tiles and parameters are added at once, then `write*` emits its instructions."""

    def __init__(self, e: Emitter, op: Operator):
        self.e, self.op = e, op
        zero_point = e.tensor(op.inputs[0]).zero_point
        address, stack = e.place(op.inputs[0]).address, e.place(op.inputs[0]).stack
        self.window = None if op.op == "FULLY_CONNECTED" else Window.of(e.model, op)
        self.streamed = False
        self.cout = e.tensor(op.outputs[0]).shape[-1]
        k = self.window
        if k is None:
            weights = dense_weights(e, op).reshape(self.cout, -1)
            inputs = weights.shape[1]
            self.oh, self.ow = e.tensor(op.inputs[0]).size // inputs, 1
            self.feed = Feed(address, self.oh, 1, inputs, zero_point=zero_point)
            groups = flat_tiles(e, weights.T)
        else:
            self.oh, self.ow = k.oh, k.ow
            self.feed = Feed(address, k.h, k.w, k.c, k.sy, k.sx, k.top, k.left, zero_point)
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
        # A group without any weight still needs one tile, to write zeros.
        empty = Tile(np.zeros((e.config.rows, e.config.cols), np.int8), 0, 0, 0)
        groups = [tiles or [empty] for tiles in groups]
        entries, zero, low, high = self._entries(groups)
        self.spans = e.add_tiles(groups, external=op.index in e.external)
        e.layer_tiles[op.index] = sum(span.count for span in self.spans)
        self.param = e.add_param(entries)
        self.scale = {"zero_point": zero, "low": low, "high": high, "clamp": 1}

    def _entries(self, groups):
        """Parameter entries (bias with input zero point and pairing folded in), output zero point and clamp."""
        multipliers, shifts, bias, in_zp, out_zp, low, high = quantities.conv_parameters(self.e.model, self.op)
        data = np.asarray(self.e.tensor(self.op.inputs[1]).data, np.int64)
        depthwise = self.op.op == "DEPTHWISE_CONV_2D"
        sums = data.sum(axis=(0, 1, 2)) if depthwise else data.reshape(data.shape[0], -1).sum(axis=1)
        extra = np.concatenate([paired_sum(self.e, tiles) for tiles in groups])
        folded = bias.astype(np.int64) - in_zp * sums - extra[: len(sums)]
        return list(zip(folded.tolist(), multipliers.tolist(), shifts.tolist())), int(out_zp), int(low), int(high)

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
        if not self.streamed or self._stream_width(0, self.ow) + cfg.taps <= cfg.line_depth:
            return None
        assert self.window is not None
        return max(1, (cfg.line_depth - 2 * cfg.taps) // self.window.sx)

    def multiply(self, block: Block, group: int, count: int, **values):
        """LOAD and MUL of `count` groups of channels for a block of outputs."""
        e = self.e
        spans = self.spans[group : group + count]
        e.load(Span(spans[0].first, sum(s.count for s in spans), spans[0].external))
        if not self.streamed:
            e.mul(self.feed, block, groups=count, **values)
            return
        oy, ox, bh, bw = block
        assert self.window is not None
        stride, width, cfg = self.window.sx, self._stream_width(ox, bw), e.config
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
            for g in range(0, n_groups, step):
                n = min(step, n_groups - g)
                self.multiply(block, g, n, release=1, stack=stack)
                e.tail(
                    **self.scale,
                    **onto(block, e.place(out).address + g * cols, self.ow, cout),
                    param=self.param + g * cols,
                    take=1,
                    release=1,
                    stack=stack,
                    group_step=cols,
                    channels=min(cout - g * cols, n * cols),
                )

    def write_pooled(self, pool: Operator, out: int):
        """With the max pooling behind it: only the pooled map is written."""
        e, cfg, p = self.e, self.e.config, Window.of(self.e.model, pool)
        for block in e.blocks(p.oh, p.ow, cfg.acc_depth // (p.kh * p.kw)):
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
        parts = [(block, *group) for block in e.blocks(self.oh, self.ow, limit) for group in e.channel_groups(cout)]

        def front(block, channel, n):
            self.multiply(block, channel // e.config.cols, 1, release=0, acc_base=mine_at)
            e.copy_in(feed, block, channel, n, acc_base=other_at, release=1)

        def back(block, channel, n):
            target = onto(block, address + channel, self.ow, cout) | {"channels": n}
            area = {name: target[name] for name in ("width", "height", "acc_y", "channels")}
            e.tail(**self.scale, **area, param=self.param + channel, take=1, to_acc=1, acc_base=mine_at)
            add_tails(e, add, p, entry, target, limit, take=0)

        # The multiplications of a part stand before the tails of the part before, so that fetch never holds them up.
        front(*parts[0])
        for part, following in zip(parts, [*parts[1:], None]):
            if following:
                front(*following)
            back(*part)

"""Compile an int8 model into a program for one configuration.

A network becomes a list of steps: `NpuStep` (a stretch of the program) and `HostStep` (an operator computed on the host
by the golden model). How each operator is mapped is told in `docs/architecture.md`, "How a network becomes a program".
"""

import random
from dataclasses import dataclass, field

import numpy as np

from lepton.rtl import isa
from lepton.rtl.config import NpuConfig
from lepton.sw.model import Model, Operator
from lepton.verif import golden

ADDRESS_MASK = 2**20 - 1
IDENTITY = (1 << 30, 1)  # multiplier and shift that scale by exactly one
MIN_TILE_PASS = 64  # cycles of multiplication below which groups share a bank, to hide the tail's latency


class CompileError(ValueError):
    """The model does not fit or is not supported; one line says what, why and what would help."""


@dataclass(frozen=True)
class Place:
    """A tensor in activation memory: first byte, and how the host lays it out (None: as it is)."""

    address: int
    size: int
    stack: dict | None = None


@dataclass(frozen=True)
class HostStep:
    operator: int


@dataclass(frozen=True)
class NpuStep:
    pc: int


@dataclass(frozen=True)
class Layer:
    """What the report needs of one group of fused operators."""

    operators: tuple[int, ...]
    name: str
    macs: int
    first_word: int
    end_word: int


@dataclass
class Program:
    """A compiled network: memory images, steps, and where the tensors lie."""

    config: NpuConfig
    model: Model
    tiles: bytes = b""
    external: bytes = b""
    params: bytes = b""
    words: list[int] = field(default_factory=list)
    steps: list[HostStep | NpuStep] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def program_bytes(self) -> bytes:
        return np.array(self.words, np.uint64).astype("<u8").tobytes()

    def images(self) -> list[tuple[isa.Region, bytes]]:
        """What to write before the first run, as (region, bytes from index 0)."""
        external = [(isa.Region.EXTERNAL, self.external)] if self.config.external_bytes else []
        return [
            *external,
            (isa.Region.WEIGHT, self.tiles),
            (isa.Region.PARAM, self.params),
            (isa.Region.PROGRAM, self.program_bytes),
        ]

    def pack_input(self, tensor: int, value: np.ndarray) -> bytes:
        """Bytes of one input (without the batch axis' other entries) in the layout the program reads."""
        stack = self.places[tensor].stack
        if stack is None:
            return np.ascontiguousarray(value, np.int8).tobytes()
        image = value.reshape(stack["h"], stack["w"], stack["c"])
        image = np.pad(
            image,
            ((stack["top"], stack["bottom"]), (stack["left"], stack["right"]), (0, 0)),
            constant_values=stack["zero_point"],
        )
        rows = np.arange(stack["out_h"])[:, None] * stack["stride"] + np.arange(stack["kernel"]) * stack["dilation"]
        return np.ascontiguousarray(image[rows].transpose(0, 2, 1, 3)).astype(np.int8).tobytes()  # oy, x, ky, c


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


def _same_padding(size, kernel, stride, dilation):
    """(output size, padding before, padding after) as TensorFlow's SAME."""
    out = -(-size // stride)
    total = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return out, total // 2, total - total // 2


def place_tensors(sizes: dict[int, int], lives: dict[int, tuple[int, int]], limit: int) -> dict[int, int]:
    """Address of each tensor so that no two alive at one time overlap; lives are (first, last) layer, both inclusive.

    First fit in several orders (largest first, by birth, then seeded random ones), each tensor at the lowest or, in
    turn, the highest free address below the limit; the first order that fits wins, else the one with the lowest peak.
    """

    def first_fit(order, ends):
        out = {}
        for t in order:
            first, last = lives[t]
            busy = sorted((a, a + sizes[u]) for u, a in out.items() if not (last < lives[u][0] or lives[u][1] < first))
            gaps, at = [], 0
            for a, e in busy:
                if a - at >= sizes[t]:
                    gaps.append((at, a))
                at = max(at, e)
            if limit - at >= sizes[t]:
                gaps.append((at, limit))
            if not gaps:
                gaps = [(at, at + sizes[t])]
            out[t] = gaps[-1][1] - sizes[t] if ends[t] else gaps[0][0]
        return out

    rng = random.Random(1)
    tensors = sorted(sizes)
    low = dict.fromkeys(tensors, False)
    turns = {t: i % 2 == 1 for i, t in enumerate(sorted(tensors, key=lambda t: lives[t]))}
    orders = [(sorted(tensors, key=lambda t: -sizes[t]), low), (sorted(tensors, key=lambda t: lives[t]), turns)]
    best, best_peak = {}, None
    for attempt in range(200):
        if attempt < len(orders):
            order, ends = orders[attempt]
        else:
            order = sorted(tensors, key=lambda t: -sizes[t] * rng.uniform(0.3, 1.0))
            ends = {t: rng.random() < 0.5 for t in tensors}
        out = first_fit(order, ends)
        peak = max((a + sizes[t] for t, a in out.items()), default=0)
        if best_peak is None or peak < best_peak:
            best, best_peak = out, peak
        if best_peak <= limit:
            break
    return best


def _wrap32(x):
    return int((int(x) + 2**31) % 2**32 - 2**31)


class _Compiler:
    def __init__(self, model: Model, config: NpuConfig, external: frozenset[int] = frozenset()):
        self.model, self.config = model, config
        self.external = external  # operators whose weights lie in external memory
        self.external_words: list[bytes] = []
        self.layer_tiles: dict[int, int] = {}
        self.program = Program(config, model)
        self.tile_words: list[bytes] = []
        self.param_words: list[bytes] = []
        self.identity_at: dict[int, Span] = {}
        self.consumers: dict[int, list[int]] = {}
        for op in model.operators:
            for t in op.inputs:
                if t >= 0:
                    self.consumers.setdefault(t, []).append(op.index)
        for t in model.outputs:
            self.consumers.setdefault(t, []).append(-1)

    # --- small helpers ---------------------------------------------------------------------------------------------

    def tensor(self, i):
        return self.model.tensors[i]

    def hwc(self, i) -> tuple[int, int, int]:
        """Shape of an activation as (h, w, c); vectors are one pixel."""
        shape = tuple(self.tensor(i).shape)
        if len(shape) == 4:
            return shape[1:]
        if len(shape) == 3:
            return (shape[1], 1, shape[2]) if shape[0] == 1 else (shape[0], shape[1], shape[2])
        return 1, 1, int(np.prod(shape))

    def zero_point(self, i) -> int:
        return int(np.asarray(self.tensor(i).zero_point).reshape(-1)[0])

    def single_use(self, t) -> bool:
        return len(self.consumers.get(t, [])) == 1 and self.consumers[t][0] >= 0

    def emit(self, op, **values):
        try:
            self.program.words += isa.encode(op, **values)
        except ValueError as error:
            raise CompileError(f"{self.model.name}: a layer exceeds the instruction set ({error})") from None

    def add_param(self, entries) -> int:
        """Append (bias, multiplier, shift) entries; their first index."""
        first = len(self.param_words)
        for bias, multiplier, shift in entries:
            self.param_words.append(
                int(_wrap32(bias) & 0xFFFFFFFF).to_bytes(4, "little")
                + int(multiplier & 0xFFFFFFFF).to_bytes(4, "little")
                + int(shift & 0xFF).to_bytes(1, "little")
            )
        return first

    def add_tiles(self, groups: list[list[Tile]], external: bool = False) -> list[Span]:
        """Append the tiles of each group to the weight store or the external memory; the span of each group."""
        spans = []
        words = self.external_words if external else self.tile_words
        for tiles in groups:
            spans.append(Span(len(words), len(tiles), external))
            for i, t in enumerate(tiles):
                raw = (
                    (t.offset & ADDRESS_MASK)
                    | (t.x & 0xFFFF) << 20
                    | (t.y & 0xFF) << 36
                    | t.skip << 44
                    | (i == len(tiles) - 1) << 47
                )
                words.append(raw.to_bytes(6, "little") + np.ascontiguousarray(t.weights, np.int8).tobytes())
        return spans

    def paired_sum(self, tiles: list[Tile]) -> np.ndarray:
        """What a column of paired PEs adds besides the products, to be taken from the bias."""
        if self.config.pe != "paired":
            return np.zeros(self.config.cols, np.int64)
        return sum((t.weights[0::2].astype(np.int64) * t.weights[1::2]).sum(axis=0) for t in tiles)

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
        if channels not in self.identity_at:
            eye = np.eye(self.config.cols, dtype=np.int8)[:channels]
            (span,) = self.add_tiles([self.chunk_tiles(eye, 0, 0, 0)])
            self.identity_at[channels] = span
        return self.identity_at[channels]

    # --- instructions ----------------------------------------------------------------------------------------------

    def load(self, span: Span):
        if span.external:
            address = span.first * isa.word_bytes(isa.Region.WEIGHT, self.config)
            self.emit(isa.LOAD, external=1, address=address, count=span.count)
        else:
            self.emit(isa.LOAD, tile=span.first, count=span.count)

    def mul(self, feed: Feed, oy, ox, height, width, **values):
        """One MUL over a block of windows whose first is output (oy, ox)."""
        y, x = oy * feed.stride_y - feed.top, ox * feed.stride_x - feed.left
        self.emit(
            isa.MUL,
            **{
                "init": 1,
                "groups": 1,
                "width": width,
                "height": height,
                "address": (feed.address + (y * feed.w + x) * feed.c) & ADDRESS_MASK,
                "x": x * feed.c,
                "x_limit": feed.w * feed.c,
                "x_step": feed.stride_x * feed.c,
                "y": y,
                "y_limit": feed.h,
                "y_step": feed.stride_y,
                "row_step": (feed.stride_y * feed.w * feed.c) & ADDRESS_MASK,
                "zero_point": feed.zero_point,
                **values,
            },
        )

    def tail(self, **values):
        self.emit(isa.TAIL, **{"window_x": 1, "window_y": 1, "acc_x": 1, "low": -128, "high": 127, **values})

    def blocks(self, height, width, limit, row_multiple=1, width_limit=None):
        """Cut a map into blocks of at most `limit` entries: whole rows if they fit, else parts of a row."""
        widest = min(width, limit // row_multiple, width_limit or width)
        if widest < 1:
            raise CompileError(f"{self.model.name}: a pooling window needs more accumulators than acc_depth={limit}")
        n_x = -(-width // widest)
        step_x = -(-width // n_x)
        step_y = max(1, min(height, limit // (step_x * row_multiple)))
        n_y = -(-height // step_y)
        step_y = -(-height // n_y)
        for oy in range(0, height, step_y):
            for ox in range(0, width, step_x):
                yield oy, ox, min(step_y, height - oy), min(step_x, width - ox)

    # --- convolution-like operators --------------------------------------------------------------------------------

    def geometry(self, op: Operator):
        o = op.options
        h, w, c = self.hwc(op.inputs[0])
        kernel = self.tensor(op.inputs[1])
        kh, kw = kernel.shape[1:3]
        if o["padding"] == "SAME":
            oh, top, bottom = _same_padding(h, kh, o["stride_h"], o["dilation_h"])
            ow, left, right = _same_padding(w, kw, o["stride_w"], o["dilation_w"])
        else:
            oh, ow = self.hwc(op.outputs[0])[:2]
            top = bottom = left = right = 0
        return h, w, c, kh, kw, oh, ow, top, bottom, left, right

    def conv_weights(self, op: Operator):
        """Weights as (cout, kh, kw, cin) for a dense convolution, or None when the operator is a real depthwise one."""
        data = np.asarray(self.tensor(op.inputs[1]).data, np.int8)
        if op.op == "FULLY_CONNECTED":
            return data.reshape(data.shape[0], 1, 1, -1)
        if op.op == "CONV_2D":
            return data if data.shape[3] == self.hwc(op.inputs[0])[2] else None
        return data.transpose(3, 1, 2, 0) if self.hwc(op.inputs[0])[2] == 1 else None

    def stacking(self, op: Operator):
        """Input layout with the kernel's rows side by side, if the host may lay the tensor out and it saves tiles."""
        t = op.inputs[0]
        if t not in self.model.inputs or not self.single_use(t) or op.op == "FULLY_CONNECTED":
            return None
        weights = self.conv_weights(op)
        if weights is None or op.options["dilation_w"] != 1:
            return None
        h, w, c, kh, kw, oh, ow, top, bottom, left, right = self.geometry(op)
        rows = self.config.rows
        if kh * -(-kw * c // rows) <= -(-kh * kw * c // rows):
            return None
        size = oh * (w + left + right) * kh * c
        if size + oh * ow * self.hwc(op.outputs[0])[2] > self.config.act_bytes:
            return None
        bottom = max(0, (oh - 1) * op.options["stride_h"] + (kh - 1) * op.options["dilation_h"] + 1 - h - top)
        return {
            "h": h,
            "w": w,
            "c": c,
            "top": top,
            "bottom": bottom,
            "left": left,
            "right": right,
            "kernel": kh,
            "stride": op.options["stride_h"],
            "dilation": op.options["dilation_h"],
            "out_h": oh,
            "zero_point": self.zero_point(t),
            "size": size,
        }

    def lower(self, op: Operator):
        """(feed without address, groups of tiles, output h, output w, channels) of a convolution-like operator."""
        cols = self.config.cols
        h, w, c = self.hwc(op.inputs[0])
        cout = self.hwc(op.outputs[0])[2]
        zero_point = self.zero_point(op.inputs[0])
        weights = self.conv_weights(op)
        if op.op == "FULLY_CONNECTED":
            k = weights.shape[3]
            flat = weights.reshape(cout, k).T
            groups = [self.chunk_tiles(flat[:, g : g + cols], 0, 0, 0) for g in range(0, cout, cols)]
            return Feed(0, 1, 1, k, zero_point=zero_point), groups, 1, 1, cout
        o = op.options
        h, w, c, kh, kw, oh, ow, top, bottom, left, right = self.geometry(op)
        dy, dx = o["dilation_h"], o["dilation_w"]
        feed = Feed(0, h, w, c, o["stride_h"], o["stride_w"], top, left, zero_point)
        stack = self.stacking(op)
        if stack is not None:
            flat = weights.transpose(2, 1, 3, 0).reshape(kh * kw * c, cout)  # kx, ky, c
            feed = Feed(0, oh, w + left + right, kh * c, 1, o["stride_w"], 0, 0, zero_point)
            groups = [self.chunk_tiles(flat[:, g : g + cols], 0, 0, 0) for g in range(0, cout, cols)]
            return feed, groups, oh, ow, cout
        groups = []
        depthwise = np.asarray(self.tensor(op.inputs[1]).data, np.int8)
        if weights is None and op.op == "DEPTHWISE_CONV_2D" and dx == 1 and -(-kw * c // self.config.rows) <= kw:
            # Few input channels: whole kernel rows as one run take fewer tiles than a tile a tap.
            weights = np.zeros((cout, kh, kw, c), np.int8)
            for k in range(cout):
                weights[k, :, :, k // (cout // c)] = depthwise[0, :, :, k]
        for g in range(0, cout, cols):
            tiles, n = [], min(cols, cout - g)
            for ky in range(kh):
                offset = ky * dy * w * c
                if weights is not None and dx == 1:
                    run = weights[g : g + n, ky].reshape(n, kw * c).T
                    tiles += self.chunk_tiles(run, offset, 0, ky * dy)
                    continue
                for kx in range(kw):
                    at = kx * dx * c
                    if weights is not None:
                        tiles += self.chunk_tiles(weights[g : g + n, ky, kx].T, offset + at, at, ky * dy)
                        continue
                    # Channel groups: output channel k reads input channels first(k)..first(k)+depth-1.
                    if op.op == "DEPTHWISE_CONV_2D":
                        per, depth = cout // c, 1
                        values = depthwise[0, ky, kx, g : g + n].reshape(n, 1)
                    else:
                        depth = depthwise.shape[3]
                        per = cout // (c // depth)
                        values = depthwise[g : g + n, ky, kx, :]
                    first = (np.arange(g, g + n) // per) * depth
                    low = first[0]
                    run = np.zeros((first[-1] + depth - low, n), np.int8)
                    for k in range(n):
                        run[first[k] - low : first[k] - low + depth, k] = values[k]
                    tiles += self.chunk_tiles(run, offset + at + int(low), at + int(low), ky * dy)
            groups.append(tiles)
        return feed, groups, oh, ow, cout

    def depthwise_plan(self, op: Operator):
        """(kernel column starts, kernel row starts) of the passes; None if the depthwise mode does not apply."""
        if op.op != "DEPTHWISE_CONV_2D":
            return None
        h, w, c, kh, kw, oh, ow, *_ = self.geometry(op)
        o = op.options
        if c == 1 or o["depth_multiplier"] != 1 or o["dilation_h"] != 1 or o["dilation_w"] != 1:
            return None
        if o["stride_h"] != o["stride_w"] or o["stride_h"] > 15:
            return None
        return list(range(0, kw, self.config.taps)), list(range(0, kh, self.config.segments))

    def depthwise_tiles(self, op: Operator):
        """Groups of tiles for the depthwise mode: one tile a pass."""
        cfg = self.config
        h, w, c, kh, kw, *_ = self.geometry(op)
        data = np.asarray(self.tensor(op.inputs[1]).data, np.int8)[0]
        columns, rows = self.depthwise_plan(op)
        step = 2 if cfg.pe == "paired" else 1
        groups = []
        for g in range(0, c, cfg.cols):
            tiles, n = [], min(cfg.cols, c - g)
            for ky0 in rows:
                used = min(cfg.segments, kh - ky0)
                for kx0 in columns:
                    weights = np.zeros((cfg.rows, cfg.cols), np.int8)
                    for s in range(used):
                        for j in range(cfg.taps):
                            kx = kx0 + cfg.taps - 1 - j
                            if kx < kw:
                                weights[step * (cfg.taps * s + j), :n] = data[ky0 + used - 1 - s, kx, g : g + n]
                    if weights.any():
                        tiles.append(Tile(weights, (ky0 * w + kx0) * c, kx0 * c, ky0, used - 1))
            groups.append(tiles)
        return groups

    def depthwise_width(self, op: Operator, ox: int, width: int) -> int:
        """Length of a stream row: it covers every needed pixel; what runs over its end is padding on both sides."""
        h, w, c, kh, kw, oh, ow, top, bottom, left, right = self.geometry(op)
        stride = op.options["stride_w"]
        best = (width - 1) * stride + 1
        for kx0 in self.depthwise_plan(op)[0]:
            first = ox * stride - left + kx0
            last = first + (width - 1) * stride + min(self.config.taps, kw - kx0) - 1
            best = max(best, min(last - first + 1, max(w - first, last + 1)))
        return best

    # --- layers ----------------------------------------------------------------------------------------------------

    def scale_entries(self, op: Operator, groups: list[list[Tile]]):
        """Parameter entries (bias with input zero point and pairing folded in), and output zero point and clamp."""
        multipliers, shifts, bias, in_zp, out_zp, low, high = golden.conv_parameters(self.model, op)
        data = np.asarray(self.tensor(op.inputs[1]).data, np.int64)
        if op.op == "DEPTHWISE_CONV_2D":
            sums = data.sum(axis=(0, 1, 2))
        else:
            sums = data.reshape(data.shape[0], -1).sum(axis=1)
        extra = np.concatenate([self.paired_sum(t) for t in groups]) if groups else np.zeros(0)
        cout = sums.shape[0]
        entries = [
            (int(bias[i]) - int(in_zp) * int(sums[i]) - int(extra[i]), int(multipliers[i]), int(shifts[i]))
            for i in range(cout)
        ]
        return entries, int(out_zp), int(low), int(high)

    def ensure_tile(self, groups):
        """A group without any weight still needs one tile, to write zeros."""
        empty = Tile(np.zeros((self.config.rows, self.config.cols), np.int8), 0, 0, 0)
        return [tiles or [empty] for tiles in groups]

    def conv(self, op: Operator, add: Operator | None = None, pool: Operator | None = None, table: int | None = None):
        """Convolution, depthwise or fully connected layer, fused with a residual add or a max pooling."""
        cfg = self.config
        plan = self.depthwise_plan(op)
        h, w, c = self.hwc(op.inputs[0])
        if plan is not None:
            groups = self.ensure_tile(self.depthwise_tiles(op))
            _, _, _, _, _, oh, ow, top, _, left, _ = self.geometry(op)
            feed = Feed(0, h, w, c, 1, 1, top, left, self.zero_point(op.inputs[0]))
            stride = op.options["stride_h"]
        else:
            feed, groups, oh, ow, _ = self.lower(op)
            groups = self.ensure_tile(groups)
            stride = 1
        cout = self.hwc(op.outputs[0])[2]
        feed = Feed(self.program.places[op.inputs[0]].address, *list(feed.__dict__.values())[1:])
        entries, out_zp, low, high = self.scale_entries(op, groups)
        spans = self.add_tiles(groups, external=op.index in self.external)
        self.layer_tiles[op.index] = sum(span.count for span in spans)
        param = self.add_param(entries)
        result = (add or pool or op).outputs[0]
        out = self.program.places[result].address
        common = {"param": param, "zero_point": out_zp, "low": low, "high": high, "clamp": 1}
        limit = cfg.acc_depth // 2 if add else cfg.acc_depth

        def multiply(oy, ox, bh, bw, g0, n, **values):
            self.load(Span(spans[g0].first, sum(s.count for s in spans[g0 : g0 + n]), spans[g0].external))
            if plan is None:
                self.mul(feed, oy, ox, bh, bw, groups=n, **values)
                return
            width = self.depthwise_width(op, ox, bw)
            y, x = oy * stride - feed.top, ox * stride - feed.left
            self.mul(
                feed,
                0,
                0,
                bh,
                width,
                groups=n,
                depthwise=1,
                **{
                    "address": (feed.address + (y * w + x) * c + g0 * cfg.cols) & ADDRESS_MASK,
                    "x": x * c + g0 * cfg.cols,
                    "y": y,
                    "group_step": cfg.cols,
                    "out_width": bw,
                    "subsample": stride,
                    "line_delay": width + cfg.taps,
                    **values,
                },
            )

        n_groups = len(groups)
        if add is not None:
            self.conv_add(op, add, multiply, oh, ow, n_groups, cout, limit, common, out)
            return
        if pool is not None:
            o = pool.options
            ph, pw = self.hwc(result)[:2]
            win_y, win_x, sy, sx = o["filter_h"], o["filter_w"], o["stride_h"], o["stride_w"]
            for py, px, bh, bw in self.blocks(ph, pw, limit // (win_y * win_x)):
                ch, cw = bh * sy, bw * sx
                multiply(py * sy, px * sx, ch, cw, 0, n_groups, release=1)
                self.tail(
                    **common,
                    take=1,
                    release=1,
                    acc_x=sx,
                    acc_y=sy * cw,
                    width=bw,
                    height=bh,
                    window_x=win_x,
                    window_y=win_y,
                    window_row=cw,
                    address=out + (py * pw + px) * cout,
                    out_x=cout,
                    out_y=pw * cout,
                    group_step=cfg.cols,
                    channels=cout,
                )
            return
        line_limit = None
        if plan is not None:
            line_limit = max(1, (cfg.line_depth - 2 * cfg.taps) // stride)
            if self.depthwise_width(op, 0, ow) + cfg.taps <= cfg.line_depth:
                line_limit = None
        for oy, ox, bh, bw in self.blocks(oh, ow, limit, width_limit=line_limit):
            pixels = bh * bw
            share = 1
            if pixels * len(groups[0]) < MIN_TILE_PASS:
                share = max(1, min(-(-MIN_TILE_PASS // (pixels * len(groups[0]))), limit // pixels))
            stack = int(share > 1)
            step = share if stack else n_groups
            for g in range(0, n_groups, step):
                n = min(step, n_groups - g)
                multiply(oy, ox, bh, bw, g, n, release=1, stack=stack)
                self.tail(
                    **{**common, "param": param + g * cfg.cols},
                    take=1,
                    release=1,
                    stack=stack,
                    table=int(table is not None),
                    width=bw,
                    height=bh,
                    acc_y=bw,
                    address=out + (oy * ow + ox) * cout + g * cfg.cols,
                    out_x=cout,
                    out_y=ow * cout,
                    group_step=cfg.cols,
                    channels=min(cout - g * cfg.cols, n * cfg.cols),
                )

    def conv_add(self, op, add, multiply, oh, ow, n_groups, cout, limit, common, out):
        """Convolution and residual ADD or SUB: both operands meet in one accumulator bank."""
        cfg = self.config
        p = golden.add_parameters(self.model, add)
        first = add.inputs[0] == op.outputs[0]
        other = add.inputs[1] if first else add.inputs[0]
        scale = [(p["z1"], p["m1"], p["s1"]), (p["z2"], p["m2"], p["s2"])]
        # A sum takes its operands in any order; the minuend must be the first half of the bank.
        swap = add.op == "SUB" and not first
        mine_at, other_at = (limit, 0) if swap else (0, limit)
        if add.op == "ADD" and not first:
            scale.reverse()
        entry = self.add_param(
            [*((-zero, multiplier, shift) for zero, multiplier, shift in scale), (0, p["mo"], p["so"])]
        )
        feed = Feed(self.program.places[other].address, oh, ow, cout)
        parts = [
            (block, g, min(cfg.cols, cout - g * cfg.cols))
            for block in self.blocks(oh, ow, limit)
            for g in range(n_groups)
        ]

        def front(block, g, n):
            multiply(*block, g, 1, release=0, acc_base=mine_at)
            self.copy_in(feed, *block, g * cfg.cols, n, acc_base=other_at, release=1)

        def back(block, g, n):
            oy, ox, bh, bw = block
            area = {"width": bw, "height": bh, "acc_y": bw, "channels": n}
            self.tail(**{**common, "param": common["param"] + g * cfg.cols}, take=1, to_acc=1, acc_base=mine_at, **area)
            address = out + (oy * ow + ox) * cout + g * cfg.cols
            self.add_tails(add, p, entry, area, limit, address, cout, ow * cout, take=0)

        # The multiplications of a part stand before the tails of the part before, so that fetch never holds them up.
        front(*parts[0])
        for part, following in zip(parts, [*parts[1:], None]):
            if following:
                front(*following)
            back(*part)

    def add_tails(self, op, p, entry, area, other, address, out_x, out_y, take):
        """Scale both operands in place, then add (or subtract), scale and write."""
        shared = {"shared": 1, **area}
        self.tail(**shared, take=take, to_acc=1, pre_shift=20, param=entry)
        self.tail(**shared, to_acc=1, pre_shift=20, param=entry + 1, acc_base=other)
        self.tail(
            **shared,
            dual=3 if op.op == "SUB" else 1,
            acc_other=other,
            param=entry + 2,
            clamp=1,
            zero_point=p["zo"],
            low=p["low"],
            high=p["high"],
            release=1,
            address=address,
            out_x=out_x,
            out_y=out_y,
        )

    def copy_in(self, feed: Feed, oy, ox, bh, bw, channel, n, **values):
        """Bring `n` channels of a block into the accumulators, unchanged."""
        self.load(self.identity(n))
        shifted = Feed(feed.address + channel, *list(feed.__dict__.values())[1:])
        # x counts bytes from the row's start, so a channel offset shows in both address and x
        y, x = oy * feed.stride_y - feed.top, ox * feed.stride_x - feed.left
        self.mul(shifted, oy, ox, bh, bw, **{"x": x * feed.c + channel, "y": y, **values})

    def channel_groups(self, channels):
        for c in range(0, channels, self.config.cols):
            yield c, min(self.config.cols, channels - c)

    def runs(self, count, limit):
        """Cut `count` contiguous bytes into (first byte, vectors, bytes of a vector): full vectors, then the rest."""
        cols = self.config.cols
        for first, vectors, n in ((0, count // cols, cols), (count - count % cols, 1, count % cols)):
            if vectors and n:
                for _, ox, _, bw in self.blocks(1, vectors, limit, width_limit=4095):
                    yield first + ox * n, bw, n

    def identity_entry(self, bias=0):
        return self.add_param([(bias, *IDENTITY)])

    def elementwise(self, op: Operator):
        """ADD, SUB and MUL of two activations of one shape."""
        cfg = self.config
        out = op.outputs[0]
        count = int(np.prod(self.tensor(out).shape))
        half = cfg.acc_depth // 2
        address = self.program.places[out].address
        a, b = (self.program.places[t].address for t in op.inputs[:2])
        p = golden.mul_parameters(self.model, op) if op.op == "MUL" else golden.add_parameters(self.model, op)
        if op.op != "MUL":
            entry = self.add_param([(-p["z1"], p["m1"], p["s1"]), (-p["z2"], p["m2"], p["s2"]), (0, p["mo"], p["so"])])
        else:
            entry = self.add_param([(-p["z1"], -p["z2"], 0), (0, p["m"], p["s"])])
        for at, bw, n in self.runs(count, half):
            self.copy_in(Feed(a + at, 1, bw, n), 0, 0, 1, bw, 0, n)
            self.copy_in(Feed(b + at, 1, bw, n), 0, 0, 1, bw, 0, n, acc_base=half, release=1)
            area = {"width": bw, "height": 1, "acc_y": bw, "channels": n}
            if op.op != "MUL":
                self.add_tails(op, p, entry, area, half, address + at, n, bw * n, take=1)
                continue
            self.tail(**area, shared=1, take=1, to_acc=1, dual=2, acc_other=half, param=entry)
            self.tail(
                **area,
                shared=1,
                release=1,
                clamp=1,
                param=entry + 1,
                zero_point=p["zo"],
                low=p["low"],
                high=p["high"],
                address=address + at,
                out_x=n,
                out_y=bw * n,
            )

    def copy_flat(self, source, count, target, param, **tail):
        """Bring `count` contiguous bytes through the array and write them with one scale or through the table."""
        for at, bw, n in self.runs(count, self.config.acc_depth):
            self.copy(Feed(source + at, 1, bw, n), 1, bw, target + at, n, param, **tail)

    def copy(self, feed: Feed, oh, ow, out_address, out_c, param, **tail):
        """Bring a map through the array unchanged and write it with one scale: copies, tables, requantize, padding."""
        for oy, ox, bh, bw in self.blocks(oh, ow, self.config.acc_depth, width_limit=4095):
            for channel, n in self.channel_groups(feed.c):
                self.copy_in(feed, oy, ox, bh, bw, channel, n, release=1)
                self.tail(
                    **{
                        "take": 1,
                        "release": 1,
                        "shared": 1,
                        "clamp": 1,
                        "param": param,
                        "width": bw,
                        "height": bh,
                        "acc_y": bw,
                        "channels": n,
                        "address": out_address + (oy * ow + ox) * out_c + channel,
                        "out_x": out_c,
                        "out_y": ow * out_c,
                        **tail,
                    }
                )

    def max_pool(self, op: Operator):
        cfg, o = self.config, op.options
        h, w, c, oh, ow, top, left = self.pool_geometry(op)
        place = self.program.places
        feed = Feed(place[op.inputs[0]].address, h, w, c, 1, 1, top, left, -128)
        p = golden.pool_parameters(self.model, op)
        wy, wx, sy, sx = o["filter_h"], o["filter_w"], o["stride_h"], o["stride_w"]
        param = self.identity_entry()
        # The input block of n outputs a side is (n-1)*stride + window entries a side.
        bw = ow
        while bw > 1 and ((bw - 1) * sx + wx) * wy > cfg.acc_depth:
            bw = -(-bw // 2)
        cw = (bw - 1) * sx + wx
        if cw * wy > cfg.acc_depth:
            raise CompileError(
                f"{self.model.name}: operator {op.index} MAX_POOL_2D: a window of {wy}x{wx} needs {cw * wy} "
                f"accumulators, acc_depth is {cfg.acc_depth}: use a configuration with more"
            )
        bh = max(1, min(oh, (cfg.acc_depth // cw - wy) // sy + 1))
        for py in range(0, oh, bh):
            for px in range(0, ow, bw):
                nh, nw = min(bh, oh - py), min(bw, ow - px)
                ih, iw = (nh - 1) * sy + wy, (nw - 1) * sx + wx
                for channel, n in self.channel_groups(c):
                    y, x = py * sy - top, px * sx - left
                    self.load(self.identity(n))
                    self.mul(
                        feed,
                        0,
                        0,
                        ih,
                        iw,
                        address=(feed.address + (y * w + x) * c + channel) & ADDRESS_MASK,
                        x=x * c + channel,
                        y=y,
                        release=1,
                    )
                    self.tail(
                        take=1,
                        release=1,
                        shared=1,
                        clamp=1,
                        param=param,
                        low=p["low"],
                        high=p["high"],
                        acc_x=sx,
                        acc_y=sy * iw,
                        width=nw,
                        height=nh,
                        window_x=wx,
                        window_y=wy,
                        window_row=iw,
                        address=place[op.outputs[0]].address + (py * ow + px) * c + channel,
                        out_x=c,
                        out_y=ow * c,
                        channels=n,
                    )

    def pool_geometry(self, op: Operator):
        o = op.options
        h, w, c = self.hwc(op.inputs[0])
        oh, ow = self.hwc(op.outputs[0])[:2]
        top = left = 0
        if o["padding"] == "SAME":
            top = _same_padding(h, o["filter_h"], o["stride_h"], 1)[1]
            left = _same_padding(w, o["filter_w"], o["stride_w"], 1)[1]
        return h, w, c, oh, ow, top, left

    def average_scale(self, count: int):
        """(multiplier, shift, pre_shift) that equal TFLM's rounded division by `count` for every sum, or None."""
        from lepton.verif import arith

        sums = np.arange(-128 * count, 127 * count + 1, dtype=np.int64)
        want = np.where(sums > 0, (sums + count // 2) // count, -((-sums + count // 2) // count))
        multiplier, exponent = arith.quantize_multiplier(1.0 / count)
        for pre in range(max(0, 30 - int(sums.size).bit_length()), -1, -1):
            shift = int(exponent)  # 1/count <= 1, so the exponent is not positive but for count 1
            right = shift - pre
            if shift > 0:
                multiplier, right = IDENTITY[0], IDENTITY[1] - 0
                pre = 0
            if right < -31:
                continue
            got = arith.requantize(sums.astype(np.int32), int(multiplier), int(right), pre)
            if np.array_equal(got, want):
                return int(multiplier), right, pre
        return None

    def average_pool(self, op: Operator):
        o = op.options
        h, w, c, oh, ow, top, left = self.pool_geometry(op)
        place = self.program.places
        wy, wx = o["filter_h"], o["filter_w"]
        p = golden.pool_parameters(self.model, op)
        multiplier, shift, pre = self.average_scale(wy * wx)
        param = self.add_param([(0, multiplier, shift)])
        feed = Feed(place[op.inputs[0]].address, h, w, c, o["stride_h"], o["stride_w"])
        area = {"shared": 1, "clamp": 1, "param": param, "pre_shift": pre, "low": p["low"], "high": p["high"]}
        area |= {"take": 1, "release": 1, "out_x": c, "out_y": ow * c}
        out = place[op.outputs[0]].address
        if oh == ow == 1:  # global: every pixel into one entry
            flat = Feed(feed.address, h, w, c)
            for channel, n in self.channel_groups(c):
                self.copy_in(flat, 0, 0, wy, wx, channel, n, still=1, release=1)
                self.tail(**area, width=1, height=1, acc_y=1, channels=n, address=out + channel)
            return
        cols = self.config.cols
        taps = {}
        for channel, n in self.channel_groups(c):
            if n not in taps:
                tiles = []
                for ky in range(wy):
                    for kx in range(wx):
                        at = (ky * w + kx) * c
                        tiles += self.chunk_tiles(np.eye(cols, dtype=np.int8)[:n], at, kx * c, ky)
                (taps[n],) = self.add_tiles([tiles])
        for oy, ox, bh, bw in self.blocks(oh, ow, self.config.acc_depth):
            for channel, n in self.channel_groups(c):
                self.load(taps[n])
                shifted = Feed(feed.address + channel, *list(feed.__dict__.values())[1:])
                self.mul(shifted, oy, ox, bh, bw, x=ox * feed.stride_x * c + channel, release=1)
                self.tail(
                    **area,
                    width=bw,
                    height=bh,
                    acc_y=bw,
                    channels=n,
                    address=out + (oy * ow + ox) * c + channel,
                )

    def mean(self, op: Operator):
        """MEAN over height and width: every pixel into one entry, then one scale."""
        p = golden.mean_parameters(self.model, op)
        h, w, c = self.hwc(op.inputs[0])
        param = self.add_param([(-p["count"] * p["zi"], p["m"], p["s"])])
        feed = Feed(self.program.places[op.inputs[0]].address, h, w, c)
        for channel, n in self.channel_groups(c):
            self.copy_in(feed, 0, 0, h, w, channel, n, still=1, release=1)
            self.tail(
                take=1,
                release=1,
                shared=1,
                clamp=1,
                param=param,
                zero_point=p["zo"],
                width=1,
                height=1,
                channels=n,
                address=self.program.places[op.outputs[0]].address + channel,
            )

    def table(self, values: np.ndarray):
        """Load a 256-entry table (index -128 first)."""
        raw = np.asarray(values, np.int8).tobytes()
        first = len(self.param_words)
        self.param_words += [raw[i : i + 8] + b"\0" for i in range(0, 256, 8)]
        self.emit(isa.TABLE, param=first)

    # --- where an operator runs ------------------------------------------------------------------------------------

    def supports(self, op: Operator) -> str | None:
        """None if the array runs the operator, else why not (it then runs on the host)."""
        o = op.options
        if op.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            if self.tensor(op.inputs[1]).data is None:
                return "weights are not constant"
            if op.op == "FULLY_CONNECTED":
                if int(np.prod(self.tensor(op.inputs[0]).shape)) != self.tensor(op.inputs[1]).shape[1]:
                    return "more than one input vector"
                return None if self.tensor(op.inputs[1]).shape[1] < 2**15 else "more than 32767 inputs"
            h, w, c = self.hwc(op.inputs[0])
            if max(o["stride_h"], o["stride_w"]) > 15:
                return "stride above 15"
            return None if w * c < 2**15 else "a row of more than 32767 bytes"
        if op.op in ("ADD", "SUB", "MUL"):
            same = len(op.inputs) == 2 and all(
                self.tensor(t).data is None and tuple(self.tensor(t).shape) == tuple(self.tensor(op.outputs[0]).shape)
                for t in op.inputs
            )
            return None if same else "operands of different shapes or constants"
        if op.op == "MAX_POOL_2D":
            return None if max(o["filter_h"], o["filter_w"]) < 16 else "a window above 15"
        if op.op == "AVERAGE_POOL_2D":
            h, w, c, oh, ow, top, left = self.pool_geometry(op)
            fits = (oh - 1) * o["stride_h"] + o["filter_h"] <= h and (ow - 1) * o["stride_w"] + o["filter_w"] <= w
            if not fits:
                return "padded windows have fewer pixels"
            return None if self.average_scale(o["filter_h"] * o["filter_w"]) else "no exact scale for this window"
        if op.op in ("LOGISTIC", "TANH", "LEAKY_RELU", "HARD_SWISH", "RELU", "RELU6"):
            return None
        if op.op == "QUANTIZE":
            return None
        if op.op == "PAD":
            pads = np.asarray(self.tensor(op.inputs[1]).data)
            four = len(self.tensor(op.inputs[0]).shape) == 4
            return None if four and not pads[0].any() and not pads[3].any() else "only height and width are padded"
        if op.op == "CONCATENATION":
            same = all(
                self.tensor(t).data is None
                and self.zero_point(t) == self.zero_point(op.outputs[0])
                and np.array_equal(np.asarray(self.tensor(t).scale), np.asarray(self.tensor(op.outputs[0]).scale))
                for t in op.inputs
            )
            return None if same else "inputs with different scales"
        if op.op == "MEAN":
            spatial = len(self.tensor(op.inputs[0]).shape) == 4 and sorted(op.options["axis"]) == [1, 2]
            return None if spatial else "only means over height and width"
        if op.op == "RESHAPE":
            return None
        return "computed on the host"

    # --- the whole network -----------------------------------------------------------------------------------------

    def fuse(self):
        """Groups of operators that one layer computes: list of (kind, operators)."""
        ops = {op.index: op for op in self.model.operators}
        place = {op.index: self.supports(op) for op in self.model.operators}
        done, layers = set(), []
        conv_like = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
        for op in self.model.operators:
            if op.index in done:
                continue
            done.add(op.index)
            if place[op.index] is not None:
                layers.append(("host", [op]))
                continue
            if op.op in ("CONV_2D", "DEPTHWISE_CONV_2D") and self.single_use(op.outputs[0]):
                nxt = ops[self.consumers[op.outputs[0]][0]]
                if place[nxt.index] is None and nxt.index not in done:
                    if nxt.op in ("ADD", "SUB"):
                        other = [t for t in nxt.inputs if t != op.outputs[0]]
                        before = self.make_ready(other[0], op, done, place) if other else None
                        if before is not None:
                            done.update(o.index for o in [*before, nxt])
                            layers += [("conv", [o]) for o in before]
                            layers.append(("conv", [op, nxt]))
                            continue
                    if nxt.op == "MAX_POOL_2D" and self.pool_fuses(nxt):
                        done.add(nxt.index)
                        layers.append(("conv", [op, nxt]))
                        continue
            kind = "conv" if op.op in conv_like else op.op
            layers.append((kind, [op]))
        return layers

    def make_ready(self, tensor: int, op: Operator, done: set[int], place) -> list[Operator] | None:
        """Operators to run before `op` so that the other operand of its residual ADD is there; None if none help.

        The other branch may end in a smaller convolution that comes later in the file: run first, it leaves the ADD to
        the larger one, behind whose multiplications the tail's work hides.
        """
        made = {t for o in self.model.operators if o.index in done and o is not op for t in o.outputs}
        made.update(self.model.inputs)
        if tensor in made:
            return []
        (producer,) = (o for o in self.model.operators if tensor in o.outputs)
        activations = [t for t in producer.inputs if t >= 0 and self.tensor(t).data is None]
        small = producer.op == "CONV_2D" and self.macs(producer) <= self.macs(op)
        if small and place[producer.index] is None and producer.index not in done and made.issuperset(activations):
            return [producer]
        return None

    def pool_fuses(self, pool: Operator) -> bool:
        """Windows tile the map without overlap or padding and fit a bank; the clamp commutes with the maximum."""
        o = pool.options
        wy, wx = o["filter_h"], o["filter_w"]
        if (wy, wx) != (o["stride_h"], o["stride_w"]) or o["padding"] != "VALID" and self.pool_padded(pool):
            return False
        return o["activation"] == "NONE" and wy * wx <= self.config.acc_depth

    def pool_padded(self, pool):
        h, w, c, oh, ow, top, left = self.pool_geometry(pool)
        o = pool.options
        return (oh - 1) * o["stride_h"] + o["filter_h"] > h or (ow - 1) * o["stride_w"] + o["filter_w"] > w

    def plan_memory(self, layers):
        """Place every tensor that lies in activation memory, by lifetime, largest first."""
        alias = {}
        born, dies, sizes, stacks = {}, {}, {}, {}

        def root(t):
            while t in alias:
                t = alias[t]
            return t

        end = len(layers)
        for t in self.model.inputs:
            born[t] = -1
            sizes[t] = int(np.prod(self.tensor(t).shape))
        for i, (kind, ops) in enumerate(layers):
            if kind == "RESHAPE":
                alias[ops[0].outputs[0]] = ops[0].inputs[0]
            for op in ops:
                for t in op.inputs:
                    if t >= 0 and self.tensor(t).data is None and root(t) in born:
                        dies[root(t)] = i
            if kind == "RESHAPE":
                continue
            out = ops[-1].outputs[0]
            born[out] = i
            sizes[out] = int(np.prod(self.tensor(out).shape))
            if kind == "conv":
                stack = self.stacking(ops[0])
                if stack is not None:
                    stacks[ops[0].inputs[0]] = stack
                    sizes[ops[0].inputs[0]] = stack["size"]
        for t in self.model.outputs:
            dies[root(t)] = end
        lives = {t: (born[t], dies.get(t, born[t])) for t in born}
        addresses = place_tensors(sizes, lives, self.config.act_bytes)
        for t, address in addresses.items():
            self.program.places[t] = Place(address, sizes[t], stacks.get(t))
        for t in alias:
            self.program.places[t] = self.program.places[root(t)]
        needed = max((a + sizes[t] for t, a in addresses.items()), default=0)
        self.program.peak_bytes = max(
            sum(sizes[t] for t, (first, last) in lives.items() if first <= i <= last) for i in range(-1, end + 1)
        )
        if needed > self.config.act_bytes:
            raise CompileError(
                f"{self.model.name}: activations need {needed:,} bytes, configuration {self.config.name!r} has "
                f"{self.config.act_bytes:,}: raise act_bytes or use a smaller input"
            )

    def macs(self, op: Operator) -> int:
        if op.op not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            return 0
        weights = self.tensor(op.inputs[1]).shape
        oh, ow, cout = self.hwc(op.outputs[0])
        if op.op == "FULLY_CONNECTED":
            return int(np.prod(weights))
        per = weights[1] * weights[2] * (weights[3] if op.op == "CONV_2D" else 1)
        return oh * ow * cout * per

    def layer(self, kind, ops):
        op = ops[0]
        place = self.program.places
        out = ops[-1].outputs[0]
        if kind == "conv":
            extra = ops[1] if len(ops) > 1 else None
            self.conv(
                op,
                add=extra if extra is not None and extra.op in ("ADD", "SUB") else None,
                pool=extra if extra is not None and extra.op == "MAX_POOL_2D" else None,
            )
        elif kind in ("ADD", "SUB", "MUL"):
            self.elementwise(op)
        elif kind == "MAX_POOL_2D":
            self.max_pool(op)
        elif kind == "AVERAGE_POOL_2D":
            self.average_pool(op)
        elif kind == "MEAN":
            self.mean(op)
        elif kind == "QUANTIZE":
            p = golden.quantize_parameters(self.model, op)
            param = self.add_param([(-p["zi"], p["m"], p["s"])])
            count = int(np.prod(self.tensor(out).shape))
            self.copy_flat(place[op.inputs[0]].address, count, place[out].address, param, zero_point=p["zo"])
        elif kind == "PAD":
            pads = np.asarray(self.tensor(op.inputs[1]).data)
            h, w, c = self.hwc(op.inputs[0])
            oh, ow = self.hwc(out)[:2]
            feed = Feed(
                place[op.inputs[0]].address, h, w, c, 1, 1, int(pads[1][0]), int(pads[2][0]), self.zero_point(out)
            )
            self.copy(feed, oh, ow, place[out].address, c, self.identity_entry())
        elif kind == "CONCATENATION":
            axis = op.options["axis"] % len(self.tensor(out).shape)
            inner = int(np.prod(self.tensor(out).shape[axis:]))
            outer = int(np.prod(self.tensor(out).shape[:axis]))
            at, param = place[out].address, self.identity_entry()
            for t in op.inputs:
                c = int(np.prod(self.tensor(t).shape[axis:]))
                if outer <= -(-c // self.config.cols):  # few long runs
                    for i in range(outer):
                        self.copy_flat(place[t].address + i * c, c, at + i * inner, param)
                else:
                    self.copy(Feed(place[t].address, 1, outer, c), 1, outer, at, inner, param)
                at += c
        else:
            self.table(golden.unary_table(self.model, op))
            count = int(np.prod(self.tensor(out).shape))
            self.copy_flat(place[op.inputs[0]].address, count, place[out].address, self.identity_entry(), table=1)

    def compile(self) -> Program:
        program = self.program
        layers = self.fuse()
        self.plan_memory(layers)
        producer: dict[int, int] = {}
        spans: list[tuple[int, int] | None] = []  # words of each layer
        synced, segment_start, running = -1, 0, False
        for i, (kind, ops) in enumerate(layers):
            if kind == "RESHAPE":
                producer[ops[0].outputs[0]] = producer.get(ops[0].inputs[0], -1)
                spans.append(None)
                continue
            if kind == "host":
                if running:
                    self.emit(isa.END)
                    running = False
                program.steps.append(HostStep(ops[0].index))
                segment_start = i + 1
                spans.append(None)
                continue
            if not running:
                program.steps.append(NpuStep(len(program.words)))
                running, synced = True, i - 1
            start = len(program.words)
            self.layer(kind, ops)
            needs = max((producer.get(t, -1) for op in ops for t in op.inputs if t >= 0), default=-1)
            if needs > synced and needs >= segment_start:
                self.set_flag(spans[needs], isa.TAIL, "post", last=True)
                self.set_flag((start, len(program.words)), isa.MUL, "wait", last=False)
                synced = needs
            spans.append((start, len(program.words)))
            for op in ops:
                producer[op.outputs[0]] = i
            program.layers.append(
                Layer(
                    tuple(op.index for op in ops),
                    "+".join(op.op for op in ops),
                    sum(self.macs(op) for op in ops),
                    start,
                    len(program.words),
                )
            )
        if running:
            self.emit(isa.END)
        program.tiles = b"".join(self.tile_words)
        program.external = b"".join(self.external_words)
        program.params = b"".join(self.param_words)
        return program

    def set_flag(self, span, op, name, last):
        """Set a one-bit flag in the first or last instruction of a kind within a layer's words."""
        at, found = span[0], None
        while at < span[1]:
            kind, _ = isa.decode(self.program.words, at)
            if kind is op:
                found = at
                if not last:
                    break
            at += kind.words
        bit, _ = op.offset(name)
        self.program.words[found + bit // 64] |= 1 << bit % 64

    def check_fit(self):
        cfg = self.config
        external = len(self.program.external)
        if cfg.external_bytes and external > cfg.external_bytes:
            raise CompileError(
                f"{self.model.name}: weights need external_bytes={external:,} besides "
                f"weight_tiles={cfg.resident_tiles:,}, configuration {cfg.name!r} "
                f"has {cfg.external_bytes:,}: use a larger configuration"
            )
        for what, have, limit, name in (
            ("weights", len(self.tile_words), cfg.resident_tiles, "weight_tiles"),
            ("parameters", len(self.param_words), cfg.params, "params"),
            ("instructions", len(self.program.words), cfg.program_words, "program_words"),
        ):
            if have > limit:
                raise CompileError(
                    f"{self.model.name}: {what} need {name}={have:,}, configuration {cfg.name!r} has {limit:,}: "
                    f"use a larger configuration"
                )


def compile_model(model: Model, config: NpuConfig) -> Program:
    """Compile for a configuration; weights beyond the weight store go to external memory, those used least often first.

    Raises CompileError when the model does not fit.
    """
    compiler = _Compiler(model, config)
    program = compiler.compile()
    if len(compiler.tile_words) > config.resident_tiles and config.ring_tiles:
        uses = {op.index: int(np.prod(compiler.hwc(op.outputs[0])[:2])) for op in model.operators}
        chosen, excess = set(), len(compiler.tile_words) - config.resident_tiles
        for index in sorted(compiler.layer_tiles, key=lambda i: (uses[i] > config.acc_depth, -compiler.layer_tiles[i])):
            if excess <= 0:
                break
            chosen.add(index)
            excess -= compiler.layer_tiles[index]
        compiler = _Compiler(model, config, frozenset(chosen))
        program = compiler.compile()
    compiler.check_fit()
    return program

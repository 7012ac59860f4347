"""ISS: hand-written programs against plain NumPy, and every way a program can be wrong."""

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Status
from lepton.sw.reference.arith import requantize
from lepton.sw.reference.iss import Iss, IssError

SINGLE = NpuConfig("single", rows=4, cols=4, lanes=2, act_bytes=4096, weight_tiles=64, ring_tiles=8, acc_depth=64)
WIDE = NpuConfig("wide", rows=9, cols=8, lanes=4, act_bytes=4096, weight_tiles=64)
PAIRED = NpuConfig("paired", rows=18, cols=4, lanes=4, pe="paired", act_bytes=4096, weight_tiles=64)
EVERY = pytest.mark.parametrize("config", [SINGLE, WIDE, PAIRED], ids=lambda c: c.name)


class Machine(Iss):
    """An ISS with an assembler: words, tiles and parameters are appended."""

    def __init__(self, config, seed=1):
        super().__init__(config, hazards=True)
        self.rng = np.random.default_rng(seed)
        self.pc = self.tile_count = self.param_count = 0

    def tile(self, weights, last=0, **fields):
        """Append a tile; `weights` may be smaller than rows x cols."""
        w = np.asarray(weights)
        self.tiles[self.tile_count, : w.shape[0], : w.shape[1]] = w
        for name, value in {"last": last, **fields}.items():
            self.descriptors[name][self.tile_count] = value
        self.tile_count += 1

    def entries(self, bias, multiplier, shift):
        """Append parameter entries, return the first one's index."""
        first, n = self.param_count, len(bias)
        for name, v in (("bias", bias), ("multiplier", multiplier), ("shift", shift)):
            self.params[name][first : first + n] = v
        self.param_count += n
        return first

    def random_entries(self, n):
        r = self.rng
        return self.entries(
            r.integers(-5000, 5000, n), r.integers(1 << 30, (1 << 31) - 1, n, endpoint=True), r.integers(-9, -4, n)
        )

    def emit(self, op, **fields):
        for w in isa.encode(op, **fields):
            self.program[self.pc] = w
            self.pc += 1

    def load(self, **fields):
        self.emit(isa.LOAD, **{"count": self.tile_count, **fields})

    def mul(self, **fields):
        self.emit(
            isa.MUL, **{**dict(init=1, release=1, groups=1, width=1, height=1, x_limit=65535, y_limit=1), **fields}
        )

    def tail(self, **fields):
        default = dict(take=1, release=1, clamp=1, low=-128, high=127, window_x=1, window_y=1, width=1, height=1)
        self.emit(isa.TAIL, **{**default, **fields})

    def go(self, **kwargs):
        self.emit(isa.END)
        self.run(**kwargs)

    def scaled(self, sums, first, zero_point=0, low=-128, high=127):
        """What a plain TAIL makes of int sums [..., channels]."""
        p = self.params[first : first + sums.shape[-1]]
        v = requantize((sums + p["bias"]).astype(np.int32), p["multiplier"].astype(np.int64), p["shift"])
        return np.clip(np.asarray(v).astype(np.int64) + zero_point, low, high).astype(np.int8)

    def pair_bias(self, first, tiles, cols):
        """With paired PEs: take the weight products of the tiles out of the biases, as a compiler does."""
        if self.config.pe == "paired":
            w = self.tiles[tiles].astype(np.int64)
            self.params["bias"][first : first + cols] -= (
                (w[:, 0::2] * w[:, 1::2]).sum(axis=(0, 1))[:cols].astype(np.int32)
            )


def conv(x, w, pad, zero_point):
    """Plain convolution, stride 1: x [H, W, C], w [kh, kw, C, N] to int64 [H, W, N] for 'same' pads."""
    kh, kw = w.shape[:2]
    h, wd = x.shape[:2]
    x = np.pad(x.astype(np.int64), ((pad, kh), (pad, kw), (0, 0)), constant_values=zero_point)
    return sum(x[i : i + h, j : j + wd] @ w[i, j].astype(np.int64) for i in range(kh) for j in range(kw))


@EVERY
def test_convolution_with_padding(config):
    m = Machine(config)
    h, wd, c, n, zp = 5, 6, 3, config.cols - 1, -7
    x = m.rng.integers(-128, 128, (h, wd, c), np.int8)
    w = m.rng.integers(-128, 128, (3, 3, c, n), np.int8)
    m.write(isa.Region.ACT, 100, x.tobytes())
    run = 3 * c
    for i in range(3):
        for k in range(0, run, config.rows):
            chunk = w[i].reshape(run, n)[k : k + config.rows]
            at = ((i - 1) * wd - 1) * c + k
            m.tile(chunk, last=i == 2 and k + config.rows >= run, offset=at % (1 << 20), x=k - c, y=i - 1)
    first = m.random_entries(n)
    expected = m.scaled(conv(x, w, 1, zp), first, 5)
    m.pair_bias(first, slice(0, m.tile_count), n)
    m.load()
    step = dict(width=wd, height=h, address=100, x_limit=wd * c, x_step=c, y_limit=h, y_step=1, row_step=wd * c)
    m.mul(zero_point=zp, **step)
    m.tail(
        width=wd,
        height=h,
        acc_x=1,
        acc_y=wd,
        address=1000,
        out_x=n,
        out_y=n * wd,
        channels=n,
        param=first,
        zero_point=5,
    )
    m.go()
    assert np.array_equal(m.act[1000 : 1000 + h * wd * n].reshape(h, wd, n), expected)


@EVERY
def test_fully_connected_layers_stacked_and_ordered_by_a_token(config):
    m = Machine(config)
    k1, n1, n2 = 2 * config.rows, 3 * config.cols - 1, config.cols
    x = m.rng.integers(-128, 128, k1, np.int8)
    w1 = m.rng.integers(-128, 128, (k1, n1), np.int8)
    w2 = m.rng.integers(-128, 128, (n1, n2), np.int8)
    m.write(isa.Region.ACT, 0, x.tobytes())

    def tiles(w):
        for g in range(0, w.shape[1], config.cols):
            for k in range(0, len(w), config.rows):
                m.tile(w[k : k + config.rows, g : g + config.cols], last=k + config.rows >= len(w), offset=k, x=k)

    tiles(w1)
    t1 = m.tile_count
    tiles(w2)
    p1, p2 = m.random_entries(n1), m.random_entries(n2)
    hidden = m.scaled(x.astype(np.int64) @ w1, p1, low=0)
    expected = m.scaled(hidden.astype(np.int64) @ w2, p2, 3)
    per = t1 // 3
    for g in range(3):
        n = min(config.cols, n1 - g * config.cols)
        m.pair_bias(p1 + g * config.cols, slice(g * per, g * per + per), n)
    m.pair_bias(p2, slice(t1, m.tile_count), n2)
    m.load(count=t1 - 1)
    m.load(tile=t1 - 1, count=m.tile_count - t1 + 1)
    m.mul(stack=1, groups=3, x_limit=k1)
    m.tail(stack=1, channels=n1, param=p1, address=4000, group_step=config.cols, low=0, post=1)
    m.mul(wait=1, address=4000, x_limit=n1)
    m.tail(channels=n2, param=p2, address=500, zero_point=3)
    seen = []
    m.go(trace=lambda word, op, fields: seen.append(op.opcode.name))
    assert seen == ["MUL", "TAIL", "MUL", "TAIL"]
    assert np.array_equal(m.act[4000 : 4000 + n1], hidden)
    assert np.array_equal(m.act[500 : 500 + n2], expected)


def test_groups_alternate_banks_while_the_tail_follows():
    m = Machine(SINGLE)
    x = m.rng.integers(-128, 128, (10, 4), np.int8)
    w = m.rng.integers(-128, 128, (4, 20), np.int8)
    m.write(isa.Region.ACT, 0, x.tobytes())
    for g in range(5):
        m.tile(w[:, 4 * g : 4 * g + 4], last=1)
    first = m.random_entries(20)
    m.load()
    m.mul(groups=5, width=10, x_step=4, x_limit=40)
    m.tail(width=10, acc_x=1, out_x=20, group_step=4, channels=20, param=first, address=1000)
    m.go()
    assert np.array_equal(m.act[1000:1200].reshape(10, 20), m.scaled(x.astype(np.int64) @ w, first))


@pytest.mark.parametrize("subsample", [1, 2])
@EVERY
def test_depthwise_3x3_with_shared_padding_column(config, subsample):
    m = Machine(config)
    h, wd, c, zp = 5, 6, config.cols * 2, 9
    pitch = wd + 1
    x = m.rng.integers(-128, 128, (h, wd, c), np.int8)
    w = m.rng.integers(-128, 128, (3, 3, c), np.int8)
    m.write(isa.Region.ACT, 200, x.tobytes())
    taps, segments = config.taps, config.segments
    for g in range(0, c, config.cols):
        for i in range(0, 3, segments):  # segment 0 sees the newest row
            rows = np.zeros((config.rows, config.cols), np.int8)
            here = min(segments, 3 - i)
            spread = 2 if config.pe == "paired" else 1
            for s in range(here):
                for j in range(taps):
                    rows[(taps * s + j) * spread] = w[i + here - 1 - s, 2 - j, g : g + config.cols]
            m.tile(
                rows, last=i + segments >= 3, offset=((i - 1) * wd - 1) * c % (1 << 20), x=-c, y=i - 1, skip=here - 1
            )
    first = m.random_entries(c)
    oh, ow = -(-h // subsample), -(-wd // subsample)
    padded = np.pad(x.astype(np.int64), ((1, 1), (1, 1), (0, 0)), constant_values=zp)
    full = sum(padded[i : i + h, j : j + wd] * w[i, j] for i in range(3) for j in range(3))
    expected = m.scaled(full[::subsample, ::subsample], first)
    m.load()
    m.mul(
        depthwise=1, groups=2, width=pitch, height=oh, address=200, x_limit=wd * c, x_step=c, y_limit=h, y_step=1,
        row_step=wd * c, group_step=config.cols, zero_point=zp, out_width=ow, subsample=subsample,
        line_delay=pitch + taps,
    )  # fmt: skip
    m.tail(
        width=ow, height=oh, acc_x=1, acc_y=ow, out_x=c, out_y=ow * c, group_step=config.cols, channels=c, param=first,
        address=1500,
    )  # fmt: skip
    m.go()
    assert np.array_equal(m.act[1500 : 1500 + oh * ow * c].reshape(oh, ow, c), expected)


def test_max_window_after_table():
    m = Machine(SINGLE)
    x = m.rng.integers(-128, 128, (6, 8, 4), np.int8)
    m.write(isa.Region.ACT, 0, x.tobytes())
    m.tile(np.eye(4), last=1)
    first = m.entries([0] * 4, [1 << 30] * 4, [1] * 4)
    table = m.rng.integers(-128, 128, 256, np.int8)
    raw = np.zeros((32, 9), np.int8)
    raw[:, :8] = table.reshape(32, 8)
    m.write(isa.Region.PARAM, 40, raw.tobytes())
    m.load()
    m.emit(isa.TABLE, param=40)
    m.mul(width=8, height=6, x_step=4, row_step=32, y_step=1, y_limit=6, x_limit=32)
    m.tail(
        width=4, height=3, acc_x=2, acc_y=16, window_x=2, window_y=2, window_row=8, table=1, out_x=4, out_y=16,
        channels=4, param=first, address=1000,
    )  # fmt: skip
    m.go()
    best = x.reshape(3, 2, 4, 2, 4).max(axis=(1, 3))
    assert np.array_equal(m.act[1000:1048].reshape(3, 4, 4), table[best.astype(int) + 128])


@EVERY
def test_residual_add_through_the_accumulators(config):
    m = Machine(config)
    n, v = config.cols, 8
    a, b = m.rng.integers(-128, 128, (2, v, n), np.int8)
    m.write(isa.Region.ACT, 0, a.tobytes() + b.tobytes())
    m.tile(np.eye(config.rows, n), last=1)
    first = m.random_entries(n)
    scale = m.entries([11, -3, 0], [1 << 30, 1518500250, 1200000000], [0, -1, -17])
    m.load()
    m.load()
    step = dict(width=v, x_step=n, x_limit=v * n)
    m.mul(**step, release=0)
    m.mul(**step, address=v * n, acc_base=v)
    same = dict(width=v, channels=n, acc_x=1)
    m.tail(**same, release=0, to_acc=1, param=first, zero_point=4)
    m.tail(**same, take=0, release=0, to_acc=1, clamp=0, shared=1, param=scale, pre_shift=20)
    m.tail(**same, take=0, release=0, to_acc=1, clamp=0, shared=1, param=scale + 1, pre_shift=20, acc_base=v)
    m.tail(**same, take=0, dual=1, acc_other=v, shared=1, param=scale + 2, zero_point=-9, address=1000, out_x=n)
    m.pair_bias(first, slice(0, 1), n)
    m.go()
    x = m.scaled(a.astype(np.int64), first, 4).astype(np.int32)
    parts = [
        requantize(t.astype(np.int32) + np.int32(bias), np.int64(mult), np.int64(shift), 20)
        for t, bias, mult, shift in ((x, 11, 1 << 30, 0), (b, -3, 1518500250, -1))
    ]
    s = requantize(np.asarray(parts[0]) + np.asarray(parts[1]), np.int64(1200000000), np.int64(-17))
    expected = np.clip(np.asarray(s).astype(np.int64) - 9, -128, 127).astype(np.int8)
    assert np.array_equal(m.act[1000 : 1000 + v * n].reshape(v, n), expected)


def test_product_of_two_operands_keeps_32_bits():
    m = Machine(SINGLE)
    a, b = m.rng.integers(-128, 128, (2, 4), np.int8)
    m.write(isa.Region.ACT, 0, a.tobytes() + b.tobytes())
    m.tile(np.eye(4), last=1)
    first = m.entries([3, 1 << 30, -(1 << 31), 0], [-4, 5, (1 << 31) - 1, 0], [0] * 4)
    m.load()
    m.load()
    m.mul(release=0)
    m.mul(address=4, acc_base=1)
    m.tail(dual=2, clamp=0, to_acc=1, acc_other=1, channels=4, param=first)
    m.go()
    p = m.params[first : first + 4]
    exact = [(int(x) + int(u)) * (int(y) + int(w)) for x, y, u, w in zip(a, b, p["bias"], p["multiplier"])]
    assert m.acc[0, 0].tolist() == [(v + 2**31) % 2**32 - 2**31 for v in exact]


@EVERY
def test_still_vectors_add_up_in_one_entry(config):
    m = Machine(config)
    n = config.cols
    x = m.rng.integers(-128, 128, (3, 4, n), np.int8)
    m.write(isa.Region.ACT, 0, x.tobytes())
    m.tile(np.eye(config.rows, n), last=1)
    m.load()
    m.load()
    step = dict(still=1, width=4, height=3, x_step=n, x_limit=4 * n, y_step=1, y_limit=3, row_step=4 * n, acc_base=5)
    m.mul(**step, release=0)
    m.mul(**step, init=0)
    m.tail(channels=n, clamp=0, acc_base=5, shared=1, param=m.entries([0], [1 << 30], [1]), to_acc=1)
    m.go()
    assert np.array_equal(m.acc[0, 5], 2 * x.astype(int).sum(axis=(0, 1)))


def test_accumulators_wrap_modulo_2_to_32():
    m = Machine(SINGLE)
    m.tile([[127]], last=1)
    m.act[0] = 127
    m.acc[0, 0, 0] = 2**31 - 1
    m.load()
    m.mul(init=0)
    m.tail(channels=1)
    m.go()
    assert m.acc[0, 0, 0] == -(2**31) + 127 * 127 - 1


def test_external_tiles_equal_resident_ones():
    m = Machine(SINGLE)
    x = m.rng.integers(-128, 128, 8, np.int8)
    m.write(isa.Region.ACT, 0, x.tobytes())
    for g in range(2):
        for k in (0, 4):
            m.tile(m.rng.integers(-128, 128, (4, 4), np.int8), last=k == 4, offset=k, x=k)
    m.external = b"\0" * 7 + m.read(isa.Region.WEIGHT, 0, 4)
    m.load(count=2)
    m.load(count=2, external=1, address=7 + 2 * isa.word_bytes(isa.Region.WEIGHT, SINGLE))
    w = m.tiles[:4].reshape(2, 8, 4).astype(np.int64)
    m.tiles[2:4] = 0
    m.mul(groups=2, stack=1, x_limit=8)
    first = m.random_entries(8)
    m.tail(stack=1, channels=8, group_step=4, param=first, address=100)
    m.go()
    assert np.array_equal(m.act[100:108], m.scaled(np.concatenate(x @ w), first))


def test_memories_have_the_layout_of_the_host_link():
    m = Iss(SINGLE)
    word = bytes(np.random.default_rng(3).integers(0, 256, isa.word_bytes(isa.Region.WEIGHT, SINGLE), np.uint8))
    m.write(isa.Region.WEIGHT, 5, word[:3])
    m.write(isa.Region.WEIGHT, 5, word[3:] + word[:10], byte=3)
    assert m.read(isa.Region.WEIGHT, 5, 2) == word + word[:10] + bytes(len(word) - 10)
    value = int.from_bytes(word[:6], "little")
    for f in isa.DESCRIPTOR:
        v = value & (1 << f.bits) - 1
        assert m.descriptors[f.name][5] == (v - (1 << f.bits) if f.signed and v >> f.bits - 1 else v)
        value >>= f.bits
    assert m.tiles[5].tobytes() == word[6:]
    raw = np.random.default_rng(4).integers(0, 256, (50, isa.DESCRIPTOR_BYTES), np.uint8)
    assert np.array_equal(isa.DESCRIPTOR.pack_array(isa.DESCRIPTOR.unpack_array(raw)), raw)
    m.write(isa.Region.PARAM, 1, (-5).to_bytes(4, "little", signed=True) + (1 << 30).to_bytes(4, "little") + b"\xfd")
    assert m.params[1].tolist() == (-5, 1 << 30, -3)
    m.write(isa.Region.PROGRAM, 2, (0x0123456789ABCDEF).to_bytes(8, "little"))
    assert int(m.program[2]) == 0x0123456789ABCDEF
    assert m.read(isa.Region.REG, isa.Reg.MAGIC, 1) == b"LPTN"
    with pytest.raises(IssError, match="write ACT words 4095..4096: the region has 4096"):
        m.write(isa.Region.ACT, 4095, b"ab")
    with pytest.raises(IssError, match="registers can only be read"):
        m.write(isa.Region.REG, 0, b"\0")


def no_token(m):
    m.load()
    m.mul(wait=1)


def token_from_behind(m):
    m.load()
    m.mul(wait=1)
    m.tail(channels=4, post=1)


def token_left(m):
    m.load()
    m.mul()
    m.tail(channels=4, post=1)


def no_tiles(m):
    m.mul()


def group_cut_off(m):
    m.descriptors["last"][0] = 0
    m.load()
    m.mul()


def tiles_left(m):
    m.load()


def no_bank(m):
    m.tail(channels=4)


def bank_taken_twice(m):
    m.load()
    m.mul()
    m.tail(channels=4, release=0)
    m.tail(channels=4)


def works_without_bank(m):
    m.load()
    m.mul()
    m.tail(channels=4, take=0)


def bank_kept(m):
    m.load()
    m.mul()
    m.tail(channels=4, release=0)


def bank_not_handed_over(m):
    m.load()
    m.mul(release=0)


def third_bank(m):
    for _ in range(3):
        m.load()
        m.mul()


def acc_depth_mul(m):
    m.load()
    m.mul(width=8, height=8, acc_base=1)


def acc_depth_tail(m):
    m.load()
    m.mul()
    m.tail(channels=4, width=2, acc_x=64)


def window_and_stack(m):
    m.load()
    m.mul()
    m.tail(channels=4, window_x=2, stack=1)


def before_first_vector(m):
    m.tiles[0] = 1
    m.descriptors["skip"][0] = 0
    m.descriptors["offset"][0] = 0
    m.config = NpuConfig("nine", rows=9, cols=4, lanes=2, act_bytes=4096, acc_depth=64)
    m.tiles = np.ones((1, 9, 4), np.int8)
    m.load()
    m.mul(depthwise=1, out_width=1, subsample=1, width=5, line_delay=8)


def line_delay(m):
    before_first_vector(m)
    m.pc = 2
    m.mul(depthwise=1, out_width=1, subsample=1, width=5, line_delay=7)


def rows_outside(m):
    m.tiles[0] = 1
    m.load()
    m.mul(depthwise=1, out_width=1, subsample=1, width=5, line_delay=8)


def read_without_token(m):
    m.tiles[0, 0, 0] = 1
    m.load()
    m.load()
    m.mul()
    m.tail(channels=4)
    m.mul()
    m.tail(channels=4)


def write_before_read(m):
    m.tiles[0, 0, 0] = 1
    m.load()
    m.load()
    m.mul()
    m.mul()
    m.tail(channels=4)
    m.tail(channels=4)


def weight_store(m):
    m.load(tile=63, count=2)


def external_bytes(m):
    m.external = bytes(21)
    m.load(external=1)


def param_depth(m):
    m.load()
    m.mul()
    m.tail(channels=4, param=4093)


def bad_shift(m):
    m.params["shift"][2] = 31
    m.load()
    m.mul()
    m.tail(channels=4)


def read_outside(m):
    m.load()
    m.mul(address=4093)


def write_outside(m):
    m.load()
    m.mul()
    m.tail(channels=4, address=4093)


def outputs_beyond_the_row(m):
    m.load()
    m.mul(depthwise=1, width=4, out_width=3, subsample=2, line_delay=7)


def too_many_loads(m):
    for _ in range(7):  # three tiles queued, one LOAD in the engine, two in its queue
        m.load()
    m.mul(groups=7, stack=1)
    m.tail(channels=28, stack=1)


def own_entry(m):
    m.load()
    m.mul(width=2)
    m.tail(channels=4, width=2, acc_base=1, acc_x=1, to_acc=1, dual=1, acc_other=1023)


def lane_without_channel(m):
    m.load()
    m.mul()
    m.tail(channels=3, release=0, to_acc=1)
    m.tail(take=0, channels=4)


def no_ring(m):
    m.config = NpuConfig("no ring")
    m.load(external=1)


def zero_width(m):
    m.load()
    m.mul(width=0)


def unknown_opcode(m):
    m.program[0] = 9
    m.pc = 1


MUL, TAIL = isa.MUL.words, isa.TAIL.words


@pytest.mark.parametrize(
    "program, status, message",
    [
        (no_token, Status.STALLED, "word 2: MUL: waits for ever: no TAIL posts its data token"),
        (token_from_behind, Status.STALLED, "word 6: TAIL: waits for ever: no MUL hands over accumulator bank 0"),
        (token_left, Status.DONE, "word 10: END: 1 data tokens left, the first from word 6: no MUL waits"),
        (no_tiles, Status.STALLED, "word 0: MUL: waits for ever: no LOAD hands over the group's tile 0"),
        (group_cut_off, Status.STALLED, "word 2: MUL: waits for ever: no LOAD hands over the group's tile 1"),
        (tiles_left, Status.DONE, "word 2: END: 1 tiles were handed over by LOAD and never multiplied"),
        (no_bank, Status.STALLED, "word 0: TAIL: waits for ever: no MUL hands over accumulator bank 0"),
        (bank_taken_twice, Status.BAD_INSTRUCTION, "word 10: TAIL: takes a bank while it still holds bank 0"),
        (
            works_without_bank,
            Status.BAD_INSTRUCTION,
            "word 6: TAIL: works without a bank: none taken, or already given back",
        ),
        (bank_kept, Status.DONE, "word 10: END: accumulator bank 0 was filled and not given back"),
        (bank_not_handed_over, Status.DONE, "word 6: END: accumulator bank 0 was filled and not handed to the tail"),
        (third_bank, Status.STALLED, "word 14: MUL: waits for ever: accumulator bank 0 is not given back by a TAIL"),
        (acc_depth_mul, Status.BAD_ADDRESS, "word 2: MUL: accumulator entry 64 of 64"),
        (acc_depth_tail, Status.BAD_ADDRESS, "word 6: TAIL: accumulator entry 64 of 64"),
        (window_and_stack, Status.BAD_INSTRUCTION, "word 6: TAIL: window_x is 2, must be at most 1 when stack is 1"),
        (
            before_first_vector,
            None,
            "word 2: MUL: tap row 3 needs stream position -3, before the first vector (skip=0)",
        ),
        (line_delay, None, "word 2: MUL: line_delay=7 must be width + taps = 8, at most line_depth=128"),
        (rows_outside, None, "word 2: MUL: weights outside the 1 x 3 depthwise rows of the array"),
        (
            read_without_token,
            None,
            "word 12: MUL: reads byte 0, written by the TAIL at word 8, without waiting for its token",
        ),
        (
            write_before_read,
            None,
            "word 12: TAIL: writes byte 0, which a MUL ahead of this bank may still have to read",
        ),
        (weight_store, Status.BAD_ADDRESS, "word 0: LOAD: tile 64 of 64 in the weight store"),
        (external_bytes, None, "word 0: LOAD: bytes 0..21 of 21 external bytes"),
        (param_depth, Status.BAD_ADDRESS, "word 6: TAIL: parameter entry 4096 of 4096"),
        (bad_shift, None, "word 6: TAIL: parameter shift outside -31..30 among entries from 0"),
        (zero_width, Status.BAD_INSTRUCTION, "word 2: MUL: width is 0, must be at least 1"),
        (read_outside, Status.BAD_ADDRESS, "word 2: MUL: reads byte 4096 of 4096 activations"),
        (write_outside, Status.BAD_ADDRESS, "word 6: TAIL: writes byte 4096 of 4096 activations"),
        (
            outputs_beyond_the_row,
            Status.BAD_INSTRUCTION,
            "word 2: MUL: 3 outputs, 2 apart, do not fit a stream row of 4",
        ),
        (too_many_loads, Status.STALLED, "word 12: LOAD: waits for ever: its queue is full"),
        (own_entry, None, "word 6: TAIL: reads an accumulator entry that it has written itself"),
        (lane_without_channel, None, "word 10: TAIL: reads an accumulator of a lane in which a TAIL had no channel"),
        (no_ring, Status.BAD_INSTRUCTION, "word 0: LOAD: external is 1, must be at most 0"),
        (unknown_opcode, Status.BAD_OPCODE, "word 0: unknown opcode 9"),
    ],
    ids=lambda v: v.__name__ if callable(v) else "",
)
def test_a_wrong_program_says_where_and_why(program, status, message):
    m = Machine(SINGLE)
    m.tile([[0]], last=1)
    program(m)
    with pytest.raises(IssError) as error:
        m.go()
    assert str(error.value) == message
    assert error.value.status == status and m.status == (Status.DONE if status is None else status)


def test_a_program_without_end_is_refused():
    m = Machine(SINGLE)
    m.tile([[0]], last=1)
    m.load()
    m.mul()
    m.tail(channels=4)
    with pytest.raises(IssError, match="word 10: unknown opcode 0"):
        m.run()
    m.program[-1] = m.program[0]
    with pytest.raises(IssError, match="word 4095: instruction cut off by the end of the program memory"):
        m.run(pc=4095)
    with pytest.raises(IssError, match="word 4096: the program runs past the end"):
        m.run(pc=4096)


def test_without_a_memory_port_its_flags_are_bits_of_no_field():
    """MUL and TAIL neither wait for MOVE nor give it tokens, and no row is turned back."""
    for width, status in ((0, Status.DONE), (4, Status.STALLED)):
        config = NpuConfig(rows=4, cols=4, lanes=2, act_bytes=256, memory_width=width, memory_bytes=4096 * bool(width))
        iss = Iss(config)
        iss.act[:] = np.arange(256) - 128
        iss.tiles[0] = np.eye(4)
        iss.descriptors["last"] = 1
        words = isa.encode(isa.LOAD, count=1)
        words += isa.encode(isa.MUL, groups=1, width=2, height=1, init=1, release=1, x_step=4, x_limit=99, y_limit=1,
                            wait_move=1, post_move=1, wrap_y=0, wrap_size=100, address=100)  # fmt: skip
        words += isa.encode(isa.TAIL, take=1, release=1, width=2, height=1, window_x=1, window_y=1, channels=4, acc_x=1,
                            out_x=4, address=200, wait_move=0, post_move=1, clamp=1, low=-128, high=127)  # fmt: skip
        words = np.array([*words, *isa.encode(isa.END)], "<u8")
        if width:
            iss.memory[: 8 * len(words)] = words.view(np.uint8)
            with pytest.raises(IssError, match="waits for ever"):
                iss.run()
        else:
            iss.program[: len(words)] = words
            iss.params["multiplier"], iss.params["shift"] = 1 << 30, 1
            iss.run()
            assert iss.act[200:208].tolist() == list(range(100 - 128, 108 - 128))
        assert iss.status == status

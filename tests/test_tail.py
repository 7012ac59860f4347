"""TailEngine against the loops of docs/architecture.md in NumPy, and against its own timing contract."""

import re
from dataclasses import replace

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.tail import TailEngine

SIZES = dict(act_bytes=4096, acc_depth=130, params=200)  # smaller than the memories here: the checks must say so
CONFIGS = {
    "4x1": (NpuConfig("4x1", cols=4, lanes=1, **SIZES), 1),
    "8x8": (NpuConfig("8x8", cols=8, lanes=8, **SIZES), 2),
    "6x2": (NpuConfig("6x2", cols=6, lanes=2, **SIZES), 2),
    "6x3": (NpuConfig("6x3", cols=6, lanes=3, **SIZES | {"act_bytes": 1 << 20}), 3),
}
DEPTH, ACT, PARAMS = 256, 4096, 256


def int32(v):
    return (v + 2**31) % 2**32 - 2**31


def requantize(v, multiplier, shift, pre_shift):
    left, right = pre_shift + max(shift, 0), max(-shift, 0)
    v = int32(v << left)
    x = 2**31 - 1 if v == multiplier == -(2**31) else (v * multiplier + 2**30) >> 31
    if right:
        x = (abs(x) + (1 << right - 1) >> right) * (1 if x >= 0 else -1)
    return x


class Reference:
    """Memories, and the instructions one after the other."""

    def __init__(self, config, rng):
        self.config = config
        self.acc = rng.integers(-(2**17), 2**17, (2, DEPTH, config.cols)).tolist()
        for _ in range(200):
            at = rng.integers(2), rng.integers(DEPTH), rng.integers(config.cols)
            self.acc[at[0]][at[1]][at[2]] = int(rng.choice([-(2**31), 2**31 - 1, 2**31 - 2**10, 0]))
        self.act = {}
        self.params = [
            (int(rng.integers(-(2**16), 2**16)), int(rng.integers(2**30, 2**31)), int(rng.integers(-16, -6)))
            for _ in range(PARAMS)
        ]
        for _ in range(20):
            self.params[rng.integers(PARAMS)] = (
                int(rng.choice([-(2**31), 2**31 - 1, 0])),
                int(rng.choice([0, 2**30, 2**31 - 1])),
                int(rng.choice([-31, 0, 1, 30])),
            )
        self.bank = 0
        self.tokens = 0
        self.taken = 0
        self.freed = 0
        self.table = None

    def param_word(self, n):
        return sum((v & mask) << at for v, mask, at in zip(self.params[n], (2**32 - 1, 2**32 - 1, 255), (0, 32, 64)))

    def run(self, op, f):
        if op is isa.TABLE:
            raw = b"".join((self.param_word(f["param"] + n) % 2**64).to_bytes(8, "little") for n in range(32))
            self.table = np.frombuffer(raw, np.int8).tolist()
            return
        cols, lanes = self.config.cols, self.config.lanes
        groups = -(-f["channels"] // cols)
        for g in range(groups):
            n = min(cols, f["channels"] - g * cols)
            self.taken += f["take"] and (g == 0 or not f["stack"])
            acc = self.acc[self.bank]
            for s in range(-(-n // lanes)):
                for oy in range(f["height"]):
                    for ox in range(f["width"]):
                        self.output(f, acc, g, s, oy, ox, n)
            if f["release"] and (g == groups - 1 or not f["stack"]):
                self.bank ^= 1
                self.freed += 1
        self.tokens += f["post"]

    def output(self, f, acc, g, s, oy, ox, n):
        lanes = self.config.lanes
        base = f["acc_base"] + oy * f["acc_y"] + ox * f["acc_x"] + (g * f["width"] * f["height"] if f["stack"] else 0)
        for lane in range(lanes):
            c = s * lanes + lane
            if c >= n:
                continue
            bias, multiplier, shift = self.params[f["param"] + (0 if f["shared"] else g * self.config.cols + c)]
            best = None
            for wy in range(f["window_y"]):
                for wx in range(f["window_x"]):
                    e = base + wy * f["window_row"] + wx
                    x = acc[e][c]
                    y = acc[e + f["acc_other"]][c] if f["dual"] else 0
                    if f["dual"] == 2:
                        v = int32((x + bias) * (y + multiplier))
                    else:
                        v = requantize(
                            int32(x + (-y if f["dual"] == 3 else y) + bias), multiplier, shift, f["pre_shift"]
                        )
                    if f["clamp"]:
                        v = min(max(v + f["zero_point"], f["low"]), f["high"])
                    best = v if best is None else max(best, v)
            if f["to_acc"]:
                acc[e][c] = best
            else:
                a = f["address"] + g * f["group_step"] + c + oy * f["out_y"] + ox * f["out_x"]
                byte = (best + 128) % 256 - 128
                self.act[a % 2**20] = self.table[byte + 128] if f["table"] else byte


class Timing:
    """The docstring's formula. Cycles: of each read, of posts, of bad addresses; banks are the cycles of the bank_ready
    pulses."""

    def __init__(self, config, read_latency):
        self.config, self.lanes, self.cols = config, config.lanes, config.cols
        self.drain = read_latency + 14
        self.done = self.free = -1
        self.reads, self.posts, self.frees, self.bad = [], [], [], set()

    def run(self, op, f, offered, banks):
        accept = max(offered, self.free)
        if op is isa.TABLE:
            self.free = max(accept + 1, self.done + 1) + 32
            return
        subs, per_group = -(-f["channels"] // self.lanes), self.cols // self.lanes
        window = f["width"] * f["height"] * f["window_x"] * f["window_y"]
        reads = window * (2 if f["dual"] else 1)
        closed = None  # cycle in which a written bank is given back
        for k in range(subs):
            valid = min(self.lanes, f["channels"] - k * self.lanes)
            if k == 0:
                at = max(accept + 1 + (1 if f["shared"] else valid), self.done + 1)
            else:
                at += max(reads, 0 if f["shared"] else valid)
                if closed is not None:
                    at = max(at, closed + 1)
            if f["take"] and (k == 0 or (k % per_group == 0 and not f["stack"])):
                at = max(at, banks.pop(0) + 1)
            self.reads += range(at, at + reads)
            self.check(f, k, valid, at)
            end = at + reads - 1
            closed = None
            if f["release"] and (k == subs - 1 or ((k + 1) % per_group == 0 and not f["stack"])):
                closed = end + self.drain if f["to_acc"] else None
                self.frees.append((end if closed is None else closed) + 1)
        self.free, self.done = end + 1, end + self.drain
        if f["post"]:
            self.posts.append(self.done)

    def check(self, f, k, valid, at):
        """The addresses of sub-group k, read from `at` on: a pulse in the cycle after each outside its memory."""
        config, per_group = self.config, self.cols // self.lanes
        g, s = divmod(k, per_group)
        channel = g * self.cols + s * self.lanes
        if f["param"] + (0 if f["shared"] else channel + valid - 1) >= config.params:
            self.bad.add(at)
        stacked = g * f["width"] * f["height"] if f["stack"] else 0
        for oy in range(f["height"]):
            for ox in range(f["width"]):
                base = f["acc_base"] + oy * f["acc_y"] + ox * f["acc_x"] + stacked
                for n in range(f["window_x"] * f["window_y"]):
                    wy, wx = divmod(n, f["window_x"])
                    for other in (0, f["acc_other"]) if f["dual"] else (0,):
                        if base + wy * f["window_row"] + wx + other >= config.acc_depth:
                            self.bad.add(at + 1)
                        at += 1
                a = f["address"] + g * f["group_step"] + s * self.lanes + oy * f["out_y"] + ox * f["out_x"]
                if not f["to_acc"] and a + valid > config.act_bytes:
                    self.bad.add(at)


def random_tail(rng, config, banks_held):
    """A TAIL within the contract. banks_held: whether the engine still holds a bank."""

    def r(low, high):
        return int(rng.integers(low, high))

    width, height = r(1, 5), r(1, 4)
    to_acc, stack = int(rng.random() < 0.25), int(rng.random() < 0.3)
    wx, wy = (1, 1) if to_acc or stack or rng.random() < 0.5 else (r(1, 4), r(1, 4))
    if rng.random() < 0.3:
        width = height = wx = wy = 1
    f = {
        "take": int(not banks_held),
        "release": r(0, 2),
        "post": r(0, 2),
        "stack": stack,
        "to_acc": to_acc,
        "clamp": int(wx * wy > 1 or not to_acc or rng.random() < 0.5),
        "table": int(rng.random() < 0.4),
        "dual": r(0, 4),
        "shared": r(0, 2),
        "pre_shift": int(rng.choice([0, 0, 0, 3, 20])),
        "acc_base": r(0, 10),
        "acc_other": 120,
        "acc_x": r(1, 4),
        "width": width,
        "height": height,
        "window_x": wx,
        "window_y": wy,
        "address": r(0, 2**19) if rng.random() < 0.3 else 4096 - r(0, 60) if rng.random() < 0.4 else r(0, 4000),
        "channels": r(1, 2 * config.cols + 2) if rng.random() < 0.7 else config.cols * r(1, 4),
        "param": r(0, PARAMS - 64),
        "zero_point": r(-128, 128),
        "low": r(-128, 0),
        "high": r(0, 128),
    }
    f["acc_y"] = f["acc_x"] * width + r(0, 3)
    if to_acc and stack:  # no entry is read after it was written
        f["acc_x"], f["acc_y"] = 1, width
    f["window_row"] = r(3, 7)
    f["out_x"] = f["channels"] + r(0, 3)
    f["out_y"] = f["out_x"] * width + r(0, 3)
    f["group_step"] = config.cols
    # a bank taken per group must also be given back per group
    if not f["stack"] and f["channels"] > config.cols:
        f["release"] = f["take"] = 1
        if banks_held:
            f["channels"] = config.cols
            f["release"] = r(0, 2)
            f["take"] = 0
    return f


def program(rng, config, count):
    out, held = [(isa.TABLE, {"param": 7})], False
    for n in range(count):
        f = random_tail(rng, config, held)
        held = not f["release"]
        out.append((isa.TAIL, f))
        if n % 7 == 3:
            out.append((isa.TABLE, {"param": int(rng.integers(0, PARAMS - 32))}))
    return out


def simulate(config, latency, reference, instructions, gaps, bank_gap, rng, engine=TailEngine, besides=lambda *_: 0):
    """Run; return the accumulators, activations and the event cycles, with when each instruction was offered."""
    dut = engine(config, replace(timing.of(config), acc_read=latency))
    acc = [[list(v) for v in bank] for bank in reference.acc]
    act, events = {}, {k: [] for k in ("reads", "posts", "frees", "banks", "offered", "idle", "bad", "bad_bank")}
    params = [reference.param_word(n) for n in range(PARAMS)]
    words = [sum(w << 64 * i for i, w in enumerate(isa.encode(op, **f))) for op, f in instructions]
    need = sum(
        1 if f["stack"] else -(-f["channels"] // config.cols) for op, f in instructions if op is isa.TAIL and f["take"]
    )
    cols, lanes = config.cols, config.lanes

    async def bench(ctx):
        pipe, p_next, queue, gap = [0] * latency, 0, list(words), list(gaps)
        wait, handed, freed, quiet, clock = gap.pop(0), 0, 0, 0, 0
        bank_at = bank_gap()
        offered = False
        while quiet < 40:
            assert clock < 8_000, "the engine hangs"
            # inputs of this cycle
            for c in range(cols):
                ctx.set(dut.acc.r_data[c], pipe[-1][c] if pipe[-1] else int(rng.integers(-(2**31), 2**31)))
            ctx.set(dut.params.data, p_next)
            if queue and wait <= 0 and not offered:
                ctx.set(dut.i.payload, queue[0])
                ctx.set(dut.i.valid, 1)
                events["offered"].append(clock)
                offered = True
            wait -= 1
            ready = handed < need and handed - freed < 2 and clock >= bank_at
            ctx.set(dut.banks.ready, ready)
            if ready:
                handed += 1
                events["banks"].append(clock)
                bank_at = clock + 1 + bank_gap()
            besides(ctx, dut, clock)
            # outputs of this cycle
            entry = None
            bank = ctx.get(dut.acc.bank)
            if ctx.get(dut.acc.r_en):
                entry = list(acc[bank][ctx.get(dut.acc.r_entry)])
                events["reads"].append(clock)
            pipe = [entry] + pipe[:-1]
            p_next = params[ctx.get(dut.params.addr)] if ctx.get(dut.params.en) else int(rng.integers(0, 2**62))
            if ctx.get(dut.acc.w_en):
                first = ctx.get(dut.acc.w_sub) * lanes
                for lane in range(ctx.get(dut.acc.w_count)):
                    acc[bank][ctx.get(dut.acc.w_entry)][first + lane] = ctx.get(dut.acc.w_data[lane])
            if ctx.get(dut.write.en):
                for lane in range(ctx.get(dut.write.count)):
                    act[(ctx.get(dut.write.addr) + lane) % 2**20] = ctx.get(dut.write.data[lane])
            if ctx.get(dut.banks.free):
                freed += 1
                events["frees"].append(clock)
            if ctx.get(dut.bad_address):
                events["bad"].append(clock)
            if ctx.get(dut.bad_bank):
                events["bad_bank"].append(clock)
            if ctx.get(dut.banks.token):
                events["posts"].append(clock)
            idle = ctx.get(dut.idle)
            events["idle"].append(idle)
            quiet = quiet + 1 if idle and not queue else 0
            taken = offered and ctx.get(dut.i.ready)
            await ctx.tick()
            clock += 1
            if taken:
                queue.pop(0)
                ctx.set(dut.i.valid, 0)
                offered = False
                wait = gap.pop(0) if gap else 0

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return acc, act, events


def check(config, latency, instructions, rng, gaps=None, bank_gap=lambda: 0, banks_wrong=False):
    reference = Reference(config, rng)
    gaps = gaps or [0] * len(instructions)
    acc, act, events = simulate(config, latency, reference, instructions, gaps, bank_gap, rng)
    timing, banks = Timing(config, latency), list(events["banks"])
    for n, (op, f) in enumerate(instructions):
        timing.run(op, f, events["offered"][n], banks)
        reference.run(op, f)
    assert act == reference.act
    assert acc == reference.acc
    assert events["reads"] == timing.reads
    assert events["posts"] == timing.posts
    assert events["frees"] == timing.frees
    assert events["bad"] == sorted(timing.bad)
    assert bool(events["bad_bank"]) == banks_wrong
    assert len(events["frees"]) == reference.freed
    last = max(timing.done, timing.free) + 1
    assert all(events["idle"][last:]) and not events["idle"][last - 2]
    return reference, events


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_instructions(name, seed):
    config, latency = CONFIGS[name]
    rng = np.random.default_rng([seed, *name.encode()])
    instructions = program(rng, config, 24)
    gaps = [int(g) for g in rng.choice([0, 0, 1, 5, 40], len(instructions))]
    slow = seed == 2
    check(config, latency, instructions, rng, gaps, lambda: int(rng.integers(0, 60)) if slow else 0)


def plain(**fields):
    f = {name.name: 0 for name in isa.TAIL.fields if name.name != "opcode"}
    f |= {"width": 1, "height": 1, "window_x": 1, "window_y": 1, "acc_x": 1, "clamp": 1, "low": -128, "high": 127}
    return (isa.TAIL, f | {"take": 1, "release": 1, "post": 1} | fields)


def test_residual_add():
    """Two operands scaled to the accumulator one after the other, then summed: the bank stays."""
    config, latency = CONFIGS["8x8"]
    size = {"width": 5, "height": 4, "acc_y": 5, "channels": 8}
    raw = {"clamp": 0, "to_acc": 1, "release": 0, "post": 0, "pre_shift": 20, "shared": 1}
    instructions = [
        plain(**size, **raw, param=3),
        plain(**size, **raw | {"take": 0, "acc_base": 20}, param=4),
        plain(**size, take=0, dual=1, acc_other=20, address=100, out_x=8, out_y=40, param=5, shared=1),
    ]
    check(config, latency, instructions, np.random.default_rng(5))


@pytest.mark.parametrize("name", CONFIGS)
def test_one_output_a_group_streams(name):
    """Fully connected: a sub-group costs its parameters, or a cycle when they are shared."""
    config, latency = CONFIGS[name]
    rng = np.random.default_rng(6)
    for shared in (0, 1):
        instructions = [plain(stack=1, channels=5 * config.cols, group_step=config.cols, shared=shared)]
        _, events = check(config, latency, instructions, rng)
        reads = events["reads"]
        cost = 1 if shared else config.lanes
        assert reads == [reads[0] + n * cost for n in range(5 * config.cols // config.lanes)]


def test_product_wraps():
    config, latency = CONFIGS["4x1"]
    instructions = [
        plain(channels=4, width=9, dual=2, acc_other=50, clamp=0, to_acc=1, release=0),
        plain(channels=4, width=9, dual=2, acc_other=50, out_x=4, take=0),
    ]
    check(config, latency, instructions, np.random.default_rng(7))


def test_written_bank_closes_before_the_next():
    config, latency = CONFIGS["6x2"]
    instructions = [plain(channels=12, width=2, to_acc=1, clamp=0), plain(channels=12, width=2, out_x=12, group_step=6)]
    check(config, latency, instructions, np.random.default_rng(8))


def test_most_channels():
    """More than 2**15 channels, one output each: no counter is short of a bit."""
    config, latency = CONFIGS["8x8"]
    dut = TailEngine(config, replace(timing.of(config), acc_read=latency))
    op, fields = plain(channels=(1 << 15) + 5, shared=1, take=0, release=0)
    ended = []

    async def bench(ctx):
        ctx.set(dut.i.payload, sum(w << 64 * i for i, w in enumerate(isa.encode(op, **fields))))
        ctx.set(dut.i.valid, 1)
        for clock in range(5000):
            if ctx.get(dut.banks.token):
                ended.append((clock, ctx.get(dut.write.count)))
                break
            await ctx.tick()
            ctx.set(dut.i.valid, 0)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    assert ended == [(2 + 4096 + dut.timing.drain, 5)]


@pytest.mark.parametrize(
    "first, second, at",
    [
        ({"take": 0}, {}, 0),  # works without a bank
        ({"release": 0}, {}, 1),  # takes one while it holds one
        ({"release": 0}, {"take": 0}, None),
        ({"release": 0, "channels": 12}, {"take": 0}, "second group"),
        ({"release": 0, "channels": 12, "stack": 1}, {"take": 0}, None),
        ({"channels": 12, "to_acc": 1, "clamp": 0}, {}, None),
        ({"take": 0, "release": 0, "channels": 12, "shared": 1}, {}, 0),
    ],
)
def test_bank_not_held(first, second, at):
    """The pulse comes in the first cycle in which the sub-group could read if it had the bank, before it is read."""
    config, latency = CONFIGS["6x2"]
    channels = {"channels": 6, "group_step": 6}
    instructions = [plain(**channels | first), plain(**channels | second)]
    _, events = check(config, latency, instructions, np.random.default_rng(9), banks_wrong=at is not None)
    if at is not None:
        subs = first.get("channels", 6) // 2
        read = {0: 0, 1: subs, "second group": 3}[at]
        assert events["bad_bank"][0] <= events["reads"][read]
        assert read == 0 or events["bad_bank"][0] > events["reads"][read - 1]


def test_ports():
    text = rtlil.convert(TailEngine(CONFIGS["6x2"][0]), name="tail")
    top = text[text.index("module \\tail\n") :].split("\nend\n")[0]
    ports = re.findall(r"wire (?:width (\d+) )?(?:signed )?(input|output) \d+ (?:signed)? *\\(\S+)", top)
    assert sorted((name, way, int(width or 1)) for width, way, name in ports) == [
        *(("acc__bank", "output", 1), ("acc__r_data", "input", 192)),
        *(("acc__r_en", "output", 1), ("acc__r_entry", "output", 10)),
        *(("acc__w_count", "output", 2), ("acc__w_data", "output", 64), ("acc__w_en", "output", 1)),
        *(("acc__w_entry", "output", 10), ("acc__w_sub", "output", 2)),
        *(("bad_address", "output", 1), ("bad_bank", "output", 1)),
        *(("banks__free", "output", 1), ("banks__ready", "input", 1), ("banks__token", "output", 1)),
        *(("clk", "input", 1), ("i__payload", "input", 256), ("i__ready", "output", 1), ("i__valid", "input", 1)),
        *(("idle", "output", 1), ("params__addr", "output", 16), ("params__data", "input", 72)),
        *(("params__en", "output", 1), ("rst", "input", 1), ("write__addr", "output", 20)),
        *(("write__count", "output", 2), ("write__data", "output", 16), ("write__en", "output", 1)),
    ]


def alarms(config, instructions, banks=8, cycles=160):
    """(cycles of bad_address, cycles of bad_bank, cycles of reads) with instructions offered one after the other."""
    dut = TailEngine(config)
    words = [sum(w << 64 * i for i, w in enumerate(isa.encode(op, **f))) for op, f in instructions]
    out = [], [], []

    async def bench(ctx):
        queue, given = list(words), 0
        for cycle in range(cycles):
            ctx.set(dut.i.valid, bool(queue))
            ctx.set(dut.i.payload, queue[0] if queue else 0)
            ctx.set(dut.banks.ready, given < banks and cycle % 40 == 0)
            given += cycle % 40 == 0
            for port, seen in zip((dut.bad_address, dut.bad_bank, dut.acc.r_en), out):
                if ctx.get(port):
                    seen.append(cycle)
            taken = ctx.get(dut.i.ready)
            await ctx.tick()
            if taken and queue:
                queue.pop(0)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return out


ALARM = NpuConfig("alarm", cols=6, lanes=3, act_bytes=1024, params=50, acc_depth=20)


@pytest.mark.parametrize(
    "fields, where",
    [
        (dict(width=2, acc_base=18, channels=3), []),
        (dict(width=2, acc_base=19, channels=3), [1]),
        (dict(width=2, dual=1, acc_base=3, acc_other=15, channels=3), []),
        (dict(width=2, dual=3, acc_base=3, acc_other=16, channels=3), [3]),
        (dict(channels=3, address=1021), []),
        (dict(channels=3, address=1022), [0]),
        (dict(channels=2, address=1022), []),
        (dict(channels=2, address=1023), [0]),
        (dict(channels=1, address=1024), [0]),
        (dict(channels=1, address=1 << 19), [0]),
        (dict(channels=3, address=1022, to_acc=1), []),
        (dict(channels=3, address=1021, width=2, out_x=1), [1]),
        (dict(channels=5, param=45), []),
        (dict(channels=5, param=46), "start of the second"),
        (dict(channels=5, param=50), "start of both"),
        (dict(channels=5, param=49, shared=1), []),
        (dict(channels=5, param=50, shared=1), "start of both"),
    ],
)
def test_accesses_outside_are_reported(fields, where):
    """One cycle after the read in question (its entry, or the output's address); parameters: with the first read."""
    bad, bank, reads = alarms(ALARM, [plain(**fields)])
    assert not bank
    if isinstance(where, str):  # two sub-groups of one read
        assert bad == (reads if "both" in where else reads[1:])
    else:
        assert bad == [reads[k] + 1 for k in where]


def test_banks_held_and_not_held_are_reported():
    channels, subs = 6, 2
    assert not alarms(ALARM, [plain(channels=channels), plain(channels=channels)])[1]
    assert not alarms(ALARM, [plain(release=0, channels=channels), plain(take=0, channels=channels)])[1]
    assert len(alarms(ALARM, [plain(take=0, channels=channels)])[1]) == subs
    assert len(alarms(ALARM, [plain(channels=channels), plain(take=0, channels=3)])[1]) == 1
    assert alarms(ALARM, [plain(release=0, channels=3), plain(channels=3)])[1]
    assert alarms(ALARM, [plain(release=0, channels=12)])[1], "the second group takes a second bank"
    assert not alarms(ALARM, [plain(stack=1, channels=12)])[1]

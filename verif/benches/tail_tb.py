"""TailEngine with its requantizers: random TAIL and TABLE instructions against the loops of docs/architecture.md."""

import cocotb
import numpy as np

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.spec import isa
from lepton.sw.reference.arith import requantize, wrap32
from lepton.verif.benches.common import INT32, Bench, Part, Stall, StreamDriver, bench_config, pack
from lepton.verif.benches.differ import same, unpack
from lepton.verif.coverage import functional as cover

INSTRUCTIONS = 300
DEPTH, PARAMS = 1024, 256
LOW, HIGH = INT32
PARAM_CORNERS = [(k, v) for k, f in enumerate(isa.PARAM) for v in cover.param_corners(f)]
CORNER_PARAMS = 200


INNER = "tail_walk.have tail_params.full tail_banks.needs busy tail_walk.begun tail_banks.closing".split()
"""What the monitor of waits looks at."""


class Model:
    """The memories, and the instructions one after the other."""

    def __init__(self, config, rng):
        self.config = config
        self.acc = rng.integers(-(1 << 17), 1 << 17, (2, DEPTH, config.cols))
        spots = rng.random(self.acc.shape) < 0.05
        self.acc[spots] = rng.choice([LOW, HIGH, HIGH - 1023, 0], int(spots.sum()))
        self.params = np.stack(
            [
                rng.integers(-(1 << 16), 1 << 16, PARAMS),
                rng.integers(1 << 30, 1 << 31, PARAMS),
                rng.integers(-16, -6, PARAMS),
            ],
            axis=1,
        )
        some = rng.random(PARAMS) < 0.1
        corners = [rng.choice(c, int(some.sum())) for c in ([LOW, HIGH, 0], [0, 1 << 30, HIGH], range(-31, 31))]
        self.params[some] = np.stack(corners, axis=1)
        # Every corner of a field of an entry, one entry after the other from CORNER_PARAMS on.
        for n, (k, v) in enumerate(PARAM_CORNERS):
            self.params[CORNER_PARAMS + n, k] = v
        self.act: dict[int, int] = {}
        self.table: list[int] = []
        self.bank = self.tokens = self.freed = self.banks = 0

    def param_word(self, n):
        bias, multiplier, shift = self.params[n]
        return pack([bias, multiplier], 32) | pack([shift], 8) << 64

    def run(self, op, f):
        if op is isa.TABLE:
            self.table = unpack(
                pack([self.param_word((f["param"] + n) % PARAMS) % 2**64 for n in range(32)], 64), 8, 256
            )
            return
        cols = self.config.cols
        groups = -(-f["channels"] // cols)
        for g in range(groups):
            self.banks += f["take"] and (g == 0 or not f["stack"])
            for oy in range(f["height"]):
                for ox in range(f["width"]):
                    self.output(f, g, oy, ox, min(cols, f["channels"] - g * cols))
            if f["release"] and (g == groups - 1 or not f["stack"]):
                self.bank ^= 1
                self.freed += 1
        self.tokens += f["post"]

    def output(self, f, g, oy, ox, n):
        acc = self.acc[self.bank]
        base = f["acc_base"] + oy * f["acc_y"] + ox * f["acc_x"] + g * f["stack"] * f["width"] * f["height"]
        at = f["param"] + (0 if f["shared"] else g * self.config.cols + np.arange(n))
        bias, multiplier, shift = self.params[at % PARAMS].T
        best = None
        for wy in range(f["window_y"]):
            for wx in range(f["window_x"]):
                e = (base + wy * f["window_row"] + wx) % DEPTH
                x = acc[e, :n]
                y = acc[(e + f["acc_other"]) % DEPTH, :n] if f["dual"] else 0
                if f["dual"] == 2:
                    v = wrap32(wrap32(x + bias) * wrap32(y + multiplier))
                else:
                    v = requantize(wrap32(x + (-y if f["dual"] == 3 else y) + bias), multiplier, shift, f["pre_shift"])
                if f["clamp"]:
                    self.note_clamp(f, v + f["zero_point"])
                    v = np.minimum(np.maximum(v + f["zero_point"], f["low"]), f["high"])
                best = v if best is None else np.maximum(best, v)
        assert best is not None
        if f["to_acc"]:
            acc[e, :n] = best
            return
        a = f["address"] + g * f["group_step"] + oy * f["out_y"] + ox * f["out_x"]
        for c, byte in enumerate(((best + 128) % 256).tolist()):
            self.act[(a + c) % 2**20] = self.table[byte] if f["table"] else byte - 128

    def note_clamp(self, f, v):
        low, high = f["low"], f["high"]
        found = {
            "at low": (v <= low).any(),
            "at high": (v >= high).any(),
            "between": ((v > low) & (v < high)).any(),
            "low = high": low == high,
            "table": f["table"] and not f["to_acc"],
        }
        cover.hit("tail.clamp", *(name for name, yes in found.items() if yes))


def small_tail(config, **fields):
    """A TAIL of 2 x 2 outputs that takes a bank and gives it back, but for these fields."""
    f = {name.name: 0 for name in isa.TAIL.fields if name.name != "opcode"}
    f |= dict(
        take=1, release=1, clamp=1, acc_base=3, acc_other=120, acc_x=1, acc_y=2, width=2, height=2, window_x=1,
        window_y=1, window_row=2, address=100, out_x=40, out_y=90, group_step=config.cols, channels=config.cols,
        param=5, low=-128, high=127,
    )  # fmt: skip
    return f | fields


def directed_tails(config):
    """Every corner of every field, all flags with each other, all numbers of channels, corners of parameters."""
    out = []
    for field in isa.TAIL.fields:
        for v in cover.field_corners(field):
            name = f"{field.name}={v}"
            if field.name == "opcode" or name in cover.POINTS["tail.fields"].unreachable or field.name == "take":
                continue
            f = small_tail(config, **{field.name: v})
            if field.name in ("width", "height", "channels") and v > 1:
                f |= {name: 1 for name in ("width", "height") if name != field.name}
            if field.name == "channels" and v > config.cols:
                f |= dict(shared=1, stack=1)
            if field.name == "group_step":
                f["channels"] = config.cols + 1
            if field.name in ("out_x", "out_y"):  # outputs on top of each other: one channel, or the order is open
                f["channels"] = 1
            if field.name == "high":
                f["low"] = -128
            if field.name == "to_acc" and v or field.name == "release" and not v:
                continue  # among the random ones
            out.append(f)
    for dual in range(4):
        for flags in range(16):
            to_acc, clamp, stack, shared = (flags >> k & 1 for k in range(4))
            out.append(small_tail(config, dual=dual, to_acc=to_acc, clamp=clamp, stack=stack, shared=shared))
    cols, lanes = config.cols, config.lanes
    for channels in sorted({1, lanes, cols - 1, cols, cols + 1, 2 * cols, 3 * cols + 1}):
        out.append(small_tail(config, channels=channels))
    out += [small_tail(config, shared=1, param=CORNER_PARAMS + n) for n in range(len(PARAM_CORNERS))]
    out += [small_tail(config, low=v, high=v) for v in (-128, 0, 127)]
    return out


def note(config, program):
    """Coverage of a program that left the memories as it should."""
    cols = config.cols
    for op, f in program:
        name = op.opcode.name.lower()
        cover.hit(f"{name}.fields", *(f"{k.name}={f.get(k.name, 0)}" for k in op.fields if k.name != "opcode"
                                      and f.get(k.name, 0) in cover.field_corners(k)))  # fmt: skip
        if op is isa.TABLE:
            continue
        flags: tuple[str, ...] = "to accumulator" if f["to_acc"] else "to memory", "clamp" if f["clamp"] else "raw"
        flags += "stack" if f["stack"] else "bank a group", "shared" if f["shared"] else "entry a channel"
        cover.hit("tail.modes", " ".join([("one", "sum", "product", "difference")[f["dual"]], *flags]))
        channels = {"1": 1, "lanes": config.lanes, "cols - 1": cols - 1, "cols": cols, "cols + 1": cols + 1}
        cover.hit("tail.channels", *(k for k, n in channels.items() if n == f["channels"]))
        groups = -(-f["channels"] // cols)
        cover.hit("tail.channels", {1: None, 2: "two groups"}.get(groups, "more groups"))
        if f["shared"] and f["param"] in range(CORNER_PARAMS, CORNER_PARAMS + len(PARAM_CORNERS)):
            k, v = PARAM_CORNERS[f["param"] - CORNER_PARAMS]
            cover.hit("param.fields", f"{isa.PARAM.fields[k].name}={v}")


class Waits(Part):
    """Why the engine does not read, from its own state."""

    def __init__(self, bench):
        self._pins = bench.pins
        self._inner = {path.split(".")[-1]: bench.inner(path) for path in INNER}

    def sample(self, cycle):
        if self._pins.get("acc__r_en"):
            return
        s = {name: int(handle.value) for name, handle in self._inner.items()}
        if s["have"]:
            found: dict[str, int] = {"parameters": not s["full"], "bank": s["full"] and s["needs"] and not s["closing"]}
            found |= {"tail before": s["full"] and s["busy"] and not s["begun"], "closing bank": s["closing"]}
            cover.hit("stall.tail", *(name for name, yes in found.items() if yes))


def random_tail(rng, config, held):
    """A TAIL within the contract; `held`: the engine still holds a bank."""

    def r(low, high):
        return int(rng.integers(low, high))

    width, height = r(1, 5), r(1, 4)
    to_acc, stack = int(rng.random() < 0.25), int(rng.random() < 0.3)
    wx, wy = (1, 1) if to_acc or stack or rng.random() < 0.5 else (r(1, 4), r(1, 4))
    if rng.random() < 0.3:
        width = height = wx = wy = 1
    f = dict(
        take=int(not held), release=r(0, 2), post=r(0, 2), stack=stack, to_acc=to_acc,
        clamp=int(wx * wy > 1 or not to_acc or rng.random() < 0.5), table=int(rng.random() < 0.4), dual=r(0, 4),
        shared=r(0, 2), pre_shift=int(rng.choice([0, 0, 0, 3, 20, 31])), acc_base=r(0, 10), acc_other=120,
        acc_x=r(1, 4), width=width, height=height, window_x=wx, window_y=wy, window_row=r(3, 7),
        address=r(0, 1 << 20), channels=r(1, 4 * config.cols + 1), param=r(0, PARAMS - 64),
        zero_point=int(rng.choice([-128, 127, r(-128, 128)])), low=int(rng.choice([-128, r(-128, 0)])),
        high=int(rng.choice([127, r(0, 128)])), group_step=config.cols,
    )  # fmt: skip
    f["acc_y"] = f["acc_x"] * width + r(0, 3)
    if to_acc and stack:  # no entry is read after it was written
        f["acc_x"], f["acc_y"] = 1, width
    if not stack and f["channels"] > config.cols:  # a bank taken for each group is given back for each group
        f["release"] = f["take"] = 1
        if held:
            f["channels"], f["take"] = config.cols, 0
    f["out_x"] = f["channels"] + r(0, 3)
    f["out_y"] = f["out_x"] * width + r(0, 3)
    return f


def random_program(rng, config):
    out, held = [(isa.TABLE, {"param": 7})], False
    directed = directed_tails(config)
    rng.shuffle(directed)
    for _ in range(INSTRUCTIONS):
        f = random_tail(rng, config, held)
        held = not f["release"]
        out.append((isa.TAIL, f))
        if not held and directed and rng.random() < 0.6:
            out.append((isa.TAIL, directed.pop()))
        if rng.random() < 0.15:
            out.append((isa.TABLE, {"param": int(rng.integers(0, PARAMS - 32))}))
    if held:
        out.append((isa.TAIL, small_tail(config, take=0)))
    out += [(isa.TAIL, f) for f in directed]
    out += [(isa.TABLE, {"param": p}) for p in (0, 1, (1 << 16) - 1)]
    return out


class Memories(Part):
    """Accumulators and parameters as the engine sees them, with their latencies; noise where nothing was read."""

    def __init__(self, bench, config, model):
        self._pins, self._rng, self._config = bench.pins, bench.rng, config
        self.acc = model.acc.copy()
        self._params = [model.param_word(n) for n in range(PARAMS)]
        self._reads: list[int | None] = [None] * Accumulators.T_LATENCY
        self._param = None
        self.act: dict[int, int] = {}

    def drive(self, cycle):
        noise = int.from_bytes(self._rng.bytes(4 * self._config.cols), "little")
        self._pins.set("acc__r_data", noise if self._reads[-1] is None else self._reads[-1])
        self._pins.set("params__data", noise >> 8 & (1 << 72) - 1 if self._param is None else self._param)

    def sample(self, cycle):
        get, lanes = self._pins.get, self._config.lanes
        acc = self.acc[get("acc__bank")]
        entry = pack(acc[get("acc__r_entry")], 32) if get("acc__r_en") else None
        self._reads = [entry, *self._reads[:-1]]
        self._param = self._params[get("params__addr") % PARAMS] if get("params__en") else None
        if get("acc__w_en"):
            count, first = get("acc__w_count"), get("acc__w_sub") * lanes if lanes < self._config.cols else 0
            acc[get("acc__w_entry"), first : first + count] = unpack(get("acc__w_data"), 32, lanes)[:count]
        if get("write__en"):
            for lane, byte in enumerate(unpack(get("write__data"), 8, lanes)[: get("write__count")]):
                self.act[(get("write__addr") + lane) % 2**20] = byte


class Banks(Part):
    """Hands banks over at random, at most two at a time, and counts what comes back and the tokens."""

    def __init__(self, bench, need):
        self._pins, self._stall = bench.pins, Stall(bench.rng, (0.0, 0.5, 0.95))
        self._need, self._handed, self.freed, self.tokens = need, 0, 0, 0

    def drive(self, cycle):
        give = self._handed < self._need and self._handed - self.freed < 2 and not self._stall()
        self._handed += give
        self._pins.set("banks__ready", give)

    def sample(self, cycle):
        self.freed += self._pins.get("banks__free")
        self.tokens += self._pins.get("banks__token")


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_instructions(dut):
    config = bench_config()
    bench = Bench(dut, "tail", "random_instructions")
    model = Model(config, bench.rng)
    program = random_program(bench.rng, config)
    memories = Memories(bench, config, model)
    for op, f in program:
        model.run(op, f)
    banks = Banks(bench, model.banks)
    words = [pack(isa.encode(op, **f), 64) for op, f in program]
    driver = StreamDriver(bench, "i", words, 256)
    await bench.run(
        driver,
        memories,
        banks,
        Waits(bench),
        until=lambda: bool(driver.done and bench.pins.get("idle")),
        timeout=300_000,
        drain=20,
    )
    same(memories.act, model.act, "bytes written, by address")
    if (memories.acc != model.acc).any():
        same(memories.acc.tolist(), model.acc.tolist(), "accumulators", "bank")
    assert (banks.freed, banks.tokens) == (model.freed, model.tokens)
    note(config, program)
    cover.save()
    dut._log.info("%d instructions, %d bytes, %d cycles", len(program), len(model.act), bench.cycle)

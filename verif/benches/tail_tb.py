"""TailEngine with its requantizers: random TAIL and TABLE instructions against the loops of docs/architecture.md."""

import cocotb
import numpy as np

from lepton.rtl import isa
from lepton.rtl.accumulators import Accumulators
from lepton.verif.arith import requantize, wrap32
from lepton.verif.benches.common import INT32, Bench, Part, Stall, StreamDriver, bench_config, pack, unpack

INSTRUCTIONS = 300
DEPTH, PARAMS = 256, 256
LOW, HIGH = INT32


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
        self.act: dict[int, int] = {}
        self.table: list[int] = []
        self.bank = self.tokens = self.freed = self.banks = 0

    def param_word(self, n):
        bias, multiplier, shift = self.params[n]
        return pack([bias, multiplier], 32) | pack([shift], 8) << 64

    def run(self, op, f):
        if op is isa.TABLE:
            self.table = unpack(pack([self.param_word(f["param"] + n) % 2**64 for n in range(32)], 64), 8, 256)
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
        at = f["param"] if f["shared"] else f["param"] + g * self.config.cols
        bias, multiplier, shift = (self.params[at] if f["shared"] else self.params[at : at + n]).T
        best = None
        for wy in range(f["window_y"]):
            for wx in range(f["window_x"]):
                e = base + wy * f["window_row"] + wx
                x = acc[e, :n]
                y = acc[e + f["acc_other"], :n] if f["dual"] else 0
                if f["dual"] == 2:
                    v = wrap32(wrap32(x + bias) * wrap32(y + multiplier))
                else:
                    v = requantize(wrap32(x + (-y if f["dual"] == 3 else y) + bias), multiplier, shift, f["pre_shift"])
                if f["clamp"]:
                    v = np.minimum(np.maximum(v + f["zero_point"], f["low"]), f["high"])
                best = v if best is None else np.maximum(best, v)
        if f["to_acc"]:
            acc[e, :n] = best
            return
        a = f["address"] + g * f["group_step"] + oy * f["out_y"] + ox * f["out_x"]
        for c, byte in enumerate(((best + 128) % 256).tolist()):
            self.act[(a + c) % 2**20] = self.table[byte] if f["table"] else byte - 128


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
    for _ in range(INSTRUCTIONS):
        f = random_tail(rng, config, held)
        held = not f["release"]
        out.append((isa.TAIL, f))
        if rng.random() < 0.15:
            out.append((isa.TABLE, {"param": int(rng.integers(0, PARAMS - 32))}))
    return out


class Memories(Part):
    """Accumulators and parameters as the engine sees them, with their latencies; noise where nothing was read."""

    def __init__(self, bench, config, model):
        self._pins, self._rng, self._config = bench.pins, bench.rng, config
        self.acc = model.acc.copy()
        self._params = [model.param_word(n) for n in range(PARAMS)]
        self._reads = [None] * Accumulators.T_LATENCY
        self._param = None
        self.act: dict[int, int] = {}

    def drive(self, cycle):
        noise = int.from_bytes(self._rng.bytes(4 * self._config.cols), "little")
        self._pins.set("t_r_data", noise if self._reads[-1] is None else self._reads[-1])
        self._pins.set("p_data", noise >> 8 & (1 << 72) - 1 if self._param is None else self._param)

    def sample(self, cycle):
        get, lanes = self._pins.get, self._config.lanes
        acc = self.acc[get("t_bank")]
        entry = pack(acc[get("t_r_entry")], 32) if get("t_r_en") else None
        self._reads = [entry, *self._reads[:-1]]
        self._param = self._params[get("p_addr")] if get("p_en") else None
        if get("t_w_en"):
            count, first = get("t_w_count"), get("t_w_sub") * lanes if lanes < self._config.cols else 0
            acc[get("t_w_entry"), first : first + count] = unpack(get("t_w_data"), 32, lanes)[:count]
        if get("w_en"):
            for lane, byte in enumerate(unpack(get("w_data"), 8, lanes)[: get("w_count")]):
                self.act[(get("w_addr") + lane) % 2**20] = byte


class Banks(Part):
    """Hands banks over at random, at most two at a time, and counts what comes back and the tokens."""

    def __init__(self, bench, need):
        self._pins, self._stall = bench.pins, Stall(bench.rng, (0.0, 0.5, 0.95))
        self._need, self._handed, self.freed, self.tokens = need, 0, 0, 0

    def drive(self, cycle):
        give = self._handed < self._need and self._handed - self.freed < 2 and not self._stall()
        self._handed += give
        self._pins.set("bank_ready", give)

    def sample(self, cycle):
        self.freed += self._pins.get("bank_free")
        self.tokens += self._pins.get("post")


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
        driver, memories, banks, until=lambda: driver.done and bench.pins.get("idle"), timeout=300_000, drain=20
    )
    assert memories.act == model.act
    assert (memories.acc == model.acc).all(), "accumulators"
    assert (banks.freed, banks.tokens) == (model.freed, model.tokens)
    dut._log.info("%d instructions, %d bytes, %d cycles", len(program), len(model.act), bench.cycle)

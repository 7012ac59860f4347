"""Random programs on the RTL against the instruction-set simulator.

    python -m lepton.verif.random.programs --count 1200 --seed 1 [--config NAME]

Half of the programs are legal: layers of random shapes with random tokens, banks, windows, second operands, depthwise
passes and external weights, their instructions interleaved as far as the queues allow. The others have something wrong:
a field, an address, a flipped bit, a missing instruction or token, random words. Each runs on the Verilator model
behind the host link with random stalls on all streams and a random memory latency, some after a run that was reset
half-way.
Compared are the status; after a good end all activations, both accumulator banks (copied out by a second program) and,
with on-chip weights, the cycle counters against the cycle model; after an error the activations, which must be what a
beginning of the simulator's writes leaves. (How far the engines came before an error is not defined, so neither is
what the accumulators hold then.)

With a memory port the program lies in memory, and MOVEs are among its instructions (`moves`): memory is compared, too,
with random latency, intervals, refresh and stalls.

A failing program is made smaller by leaving instructions out and written to build/programs with its disassembly.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Region, Status
from lepton.sw.device.verilated import SimDevice, SimTransport
from lepton.sw.reference.cycles import predict
from lepton.sw.reference.iss import DESCRIPTOR_DTYPE, PARAM_DTYPE, Iss, IssError
from lepton.verif.random.moves import Behind, Weaver, image_at

BUILD = Path("build/programs")

CONFIGS = {
    c.name: c
    for c in (
        NpuConfig(
            "ring5x3", rows=5, cols=3, lanes=1, act_bytes=1024, weight_tiles=50, ring_tiles=4, params=72,
            program_words=256, acc_depth=24, line_depth=16,
        ),
        NpuConfig(
            "lines9x6", rows=9, cols=6, lanes=3, act_bytes=2048, weight_tiles=64, ring_tiles=7, params=96,
            program_words=256, acc_depth=40, line_depth=20,
        ),
        NpuConfig(
            "pairs18x4", rows=18, cols=4, lanes=4, pe="paired", act_bytes=1024, weight_tiles=48, params=80,
            program_words=300, acc_depth=32, line_depth=16,
        ),
        NpuConfig(
            "moves6x4", rows=6, cols=4, lanes=2, act_bytes=1024, weight_tiles=50, params=72,
            program_words=400, acc_depth=24, line_depth=16, memory_width=8, memory_bytes=1 << 16,
        ),
    )
}  # fmt: skip

START = 72
"""First word of the random program. Below it are the service programs."""
MOST_VECTORS = 30_000
"""Programs that would issue or read more vectors are not run: they end, but take long."""
TIMEOUT = 400_000
"""Cycles after which a run counts as one that never ends."""

ONE_FAULT = 0.5
"""Share of the programs with something wrong."""


# --- A program ------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A program, its memories, and how it is run."""

    config: NpuConfig
    kind: str
    chunks: list[list[int]]
    """Words, an instruction each (or what is left of one)."""
    tiles: np.ndarray
    descriptors: np.ndarray
    params: np.ndarray
    act: np.ndarray
    external: bytes
    stalls: tuple[int, ...] = (0, 0, 0, 0)
    """Chances in 256, see `Model.set_stalls`."""
    memory: tuple[int, int] = (8, 1)
    """Latency and interval of the external memory."""
    refresh: tuple[int, int] = (0, 0)
    """Of the memory behind the port, see `Model.set_pace`."""
    behind: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    """What is there, but for the program."""
    bases: tuple[int, ...] = (0, 0)
    reset_after: int = 0
    """Cycles after which a first run is reset (0: there is none)."""
    hard: bool = False
    """By the reset input, not by the link."""
    seed: int = 1

    @property
    def words(self) -> list[int]:
        return [w for chunk in self.chunks for w in chunk]

    def program(self) -> np.ndarray:
        """The whole program memory; behind the program it is filled with its last word, so that a missing END shows."""
        out = np.zeros(self.config.program_words, np.uint64)
        service = [w for part in service_programs(self.config) for w in part]
        out[: len(service)] = service
        words = np.array(self.words[: self.config.program_words - START], np.uint64)
        out[START : START + len(words)] = words
        return out

    def all_memory(self) -> np.ndarray:
        """What is behind the memory port, with the program."""
        memory = self.behind.copy()
        if len(memory):
            memory[image_at(self.config) :] = self.program().astype("<u8").view(np.uint8)
        return memory

    def iss(self, **options) -> Iss:
        """A simulator with these memories; accumulators 0, the table loaded from the first parameters."""
        iss = Iss(self.config, **options)
        iss.act[:] = self.act
        iss.tiles[:] = self.tiles
        iss.descriptors[:] = self.descriptors
        iss.params[:] = self.params
        iss.program[:] = self.program()
        iss.memory[:], iss.bases = self.all_memory(), list(self.bases)
        iss.external = self.external
        iss.table = self.params[:32].copy().view(np.int8).reshape(32, -1)[:, :8].reshape(256)
        return iss

    def images(self):
        body = np.ascontiguousarray(self.tiles.reshape(len(self.tiles), -1)).view(np.uint8)
        program = [] if self.config.memory_width else [(Region.PROGRAM, self.program().tobytes())]
        return [
            (Region.ACT, self.act.tobytes()),
            (Region.WEIGHT, np.concatenate([isa.DESCRIPTOR.pack_array(self.descriptors), body], axis=1).tobytes()),
            (Region.PARAM, self.params.tobytes()),
            *program,
        ]


def service_programs(config) -> tuple[list[int], list[int], list[int]]:
    """Words of three programs, one behind the other: the first clears the accumulators and loads the table, the second
    copies the accumulators out, the third asks for external tiles and then waits for ever.

    They use the last resident tile, which is zero, and the last parameter entry, which scales by 2**-24.
    """
    zero, scale, depth, cols = config.resident_tiles - 1, config.params - 1, config.acc_depth, config.cols
    clear, copy = isa.encode(isa.TABLE, param=0), []
    for bank in range(2):
        load = isa.encode(isa.LOAD, count=1, tile=zero)
        vector = dict(groups=1, height=1, release=1)
        clear += load + isa.encode(isa.MUL, init=1, width=depth, **vector)
        copy += load + isa.encode(isa.MUL, width=1, **vector)
        for k in range(4):  # byte k: shifted to the top, then back, rounded; the four together tell the word
            copy += isa.encode(
                isa.TAIL, take=k == 0, release=k == 3, shared=1, param=scale, pre_shift=24 - 8 * k, acc_x=1,
                width=depth, height=1, window_x=1, window_y=1, channels=cols, out_x=cols,
                address=(4 * bank + k) * depth * cols,
            )  # fmt: skip
    ask = isa.encode(isa.LOAD, external=1, count=3) + isa.encode(isa.MUL, wait=1, groups=1, width=1, height=1)
    end = isa.encode(isa.END)
    return clear + end, copy + end, ask + end


def disassemble(words, at: int = START) -> list[str]:
    """One line for each instruction; words that are none are shown as numbers."""
    lines, k = [], 0
    while k < len(words):
        try:
            op, fields = isa.decode(words, k)
        except (ValueError, IndexError):
            lines.append(f"{at + k:5}  0x{int(words[k]):016x}")
            k += 1
            continue
        shown = " ".join(f"{n}={v}" for n, v in fields.items() if v and n not in ("opcode", "pad"))
        lines.append(f"{at + k:5}  {op.opcode.name:5}{shown}")
        k += op.words
    return lines


# --- Legal programs -------------------------------------------------------------------------------------------------


class Maker:
    """Makes legal programs, a layer at a time; the simulator says whether what was added is legal."""

    def __init__(self, config: NpuConfig, rng: np.random.Generator):
        self.config, self.rng = config, rng
        r, n = self.r, config.params
        self.params = np.zeros(n, PARAM_DTYPE)
        self.params["bias"] = rng.integers(-4000, 4000, n)
        self.params["multiplier"] = rng.integers(1 << 30, 1 << 31, n)
        self.params["shift"] = rng.integers(-11, -3, n)
        for name, low, high in (("bias", -(1 << 31), 1 << 31), ("multiplier", -(1 << 31), 1 << 31), ("shift", -31, 31)):
            some = rng.random(n) < 0.08
            values = np.where(rng.random(n) < 0.3, rng.choice([low, high - 1, 0], n), rng.integers(low, high, n))
            self.params[name][some] = values[some]
        self.params[-1] = (0, 1 << 30, -23)
        self.act = rng.integers(-128, 128, config.act_bytes).astype(np.int8)
        self.act[rng.random(config.act_bytes) < 0.1] = rng.choice([-128, 127])
        self.tiles = np.zeros((config.weight_tiles, config.rows, config.cols), np.int8)
        self.descriptors = np.zeros(config.weight_tiles, DESCRIPTOR_DTYPE)
        self.descriptors["last"][config.resident_tiles - 1] = 1
        self.used = r(0, 3)
        self.external = bytes(r(0, 30))
        self.uses_external = False
        self.layers: list[list[tuple]] = []
        self.posted = 0  # tokens that no MUL takes yet
        self.behind = Behind(config, rng) if config.memory_width else None

    def r(self, low, high) -> int:
        return int(self.rng.integers(low, high))

    def flag(self, chance=0.5) -> int:
        return int(self.rng.random() < chance)

    def pick(self, *values) -> int:
        return int(self.rng.choice(values))

    def case(self, kind, layers, rest=()) -> Case:
        chunks = [isa.encode(op, **fields) for layer in layers for op, fields in layer]
        made = Case(
            self.config, kind, [*chunks, *rest, isa.encode(isa.END)], self.tiles.copy(), self.descriptors.copy(),
            self.params, self.act, self.external,
        )  # fmt: skip
        if self.behind:
            made.behind, made.bases = self.behind.memory, tuple(self.behind.bases)
        return made

    def legal(self) -> Case:
        """A program that ends well on the simulator."""
        if self.flag(0.4):
            layer = self.relay()
            if self.accepts([layer]):
                self.layers.append(layer)
        for _ in range(self.r(0 if self.layers else 1, 6)):
            saved = self.used, self.posted, self.external, self.uses_external
            new = self.layer()
            if new and self.accepts([*self.layers, new]):
                self.layers.append(new)
            else:
                self.used, self.posted, self.external, self.uses_external = saved
        order = [i for layer in self.layers for i in layer]
        if self.behind:
            order = self.weave(order)
        for _ in range(self.r(0, 12) if len(order) > 1 else 0):  # instructions of different engines change places
            k = self.r(0, len(order) - 1)
            a, b = order[k], order[k + 1]
            if engine(a[0]) == engine(b[0]):
                continue
            order[k : k + 2] = b, a
            if not self.accepts([order]):
                order[k : k + 2] = a, b
        return self.case("legal", [order])

    def weave(self, order):
        """With MOVEs among the instructions."""
        assert self.behind is not None
        weaver = Weaver(self, self.behind)
        for _ in range(self.r(3, 16)):
            new = weaver.change(order)
            if new and self.accepts([new]):
                order = new
        return order

    def accepts(self, layers) -> bool:
        case = self.case("try", layers)
        if len(case.words) > self.config.program_words - START:
            return False
        try:
            case.iss(hazards=True).run(START)
        except IssError as error:
            return error.status == Status.DONE
        return True

    def layer(self) -> list[tuple] | None:
        """LOADs, MULs and TAILs that fill one bank after another and empty them again; None if tiles run out."""
        r, config = self.r, self.config
        if self.flag(0.05):
            return [(isa.TABLE, {"param": r(0, config.params - isa.TABLE_ENTRIES + 1)})]
        external = bool(config.ring_tiles) and bool(self.flag(0.25))
        depthwise = self.flag(0.3)
        many = self.flag(0.35)  # groups, else several MULs into one bank
        stack = self.flag()
        groups = r(2, 4) if many else 1
        muls, tiles = [], []
        entries = 0
        for _ in range(1 if many else r(1, 4)):
            mul, count = self.mul(depthwise, stack, groups, entries)
            new = [self.tile(depthwise, mul) for g in range(groups)]
            tiles += [t for group in new for t in group]
            entries = min(config.acc_depth, mul["acc_base"] + count * (groups if stack else 1))
            muls.append(mul)
        for k, mul in enumerate(muls):
            mul["release"] = int(k == len(muls) - 1)
        if self.posted and self.flag(0.9):
            for mul in muls[: self.posted]:
                mul["wait"] = 1
                self.posted -= 1
        loads = self.loads(tiles, external)
        if loads is None:
            return None
        tails = self.tails(muls[-1], groups, stack, many, entries)
        return [(isa.LOAD, f) for f in loads] + [(isa.MUL, f) for f in muls] + [(isa.TAIL, f) for f in tails]

    def relay(self) -> list[tuple]:
        """Short layers of one tile that give and take tokens, some given ahead; all are taken in the end.

        Sums take as long as a TAIL, or longer, so that a token is given in any cycle of another layer: also in that in
        which another token is taken.
        """
        r, config = self.r, self.config
        count, half = r(4, 16), config.act_bytes // 2
        ahead = r(1, min(4, count))
        cols, most = r(1, config.cols + 1), r(2, 60)
        out = []
        for k in range(count):
            out += [
                (isa.LOAD, dict(count=1, tile=config.resident_tiles - 1)),
                (isa.MUL, dict(groups=1, width=r(1, most), height=1, init=1, release=1, wait=int(k >= ahead), still=1,
                               address=r(0, half - 100), x_step=1, x_limit=60000, y_limit=1)),
                (isa.TAIL, dict(take=1, release=1, post=int(k < count - ahead), clamp=1, low=-128, high=127, width=1,
                                height=1, window_x=1, window_y=1, channels=cols, param=r(0, config.params - cols),
                                address=half + r(0, half - cols))),
            ]  # fmt: skip
        return out

    def mul(self, depthwise, stack, groups, entries):
        """Fields of a MUL, and the entries that a group fills."""
        r, config = self.r, self.config
        width, height = self.pick(1, 2, 3, 5, 7), self.pick(1, 1, 2, 3)
        subsample = self.pick(1, 1, 2, 3) if depthwise else r(0, 16)
        out_width = r(1, (width - 1) // subsample + 2) if depthwise else r(0, 4000)
        still = 0 if depthwise else self.flag(0.15)
        count = height * out_width if depthwise else 1 if still else width * height
        base = self.pick(0, 0, entries, r(0, 5))
        if base + count * (groups if stack else 1) > config.acc_depth:
            base, height = 0, 1
            count = out_width if depthwise else 1 if still else width
        delay = width + config.taps
        return dict(
            depthwise=depthwise, stack=stack, groups=groups, still=still, init=self.flag(0.8), acc_base=base,
            width=width, height=height, address=self.pick(r(0, 60), r(200, config.act_bytes - 300)), x=r(-6, 6),
            x_limit=self.pick(r(1, 50), 60000), x_step=r(0, 7), y=r(-1, 2), y_limit=r(1, 6), y_step=r(0, 3),
            row_step=self.pick(r(0, 40), (1 << 20) - r(1, 30)), group_step=r(0, 12),
            zero_point=self.pick(-128, 127, 0, r(-128, 128)), out_width=out_width, subsample=subsample,
            line_delay=max(isa.MIN_LINE_DELAY, delay) if depthwise else r(0, 1024), **self.wrap(),
        ), count  # fmt: skip

    def wrap(self):
        """Fields of a MUL whose rows go round in a buffer."""
        if not self.behind or self.flag(0.7):
            return {}
        return dict(wrap_y=self.r(0, 5), wrap_size=self.pick(0, self.r(1, 200), (1 << 20) - self.r(1, 100)))

    def tile(self, depthwise, mul):
        """Tiles of one group: (weights, descriptor)."""
        r, rng, config = self.r, self.rng, self.config
        out, count = [], self.pick(1, 1, 2, 3, 5)
        skip = r(0, 3) if depthwise else r(0, 8)
        for k in range(count):
            weights = rng.integers(-128, 128, (config.rows, config.cols))
            weights[rng.random((config.rows, config.cols)) < 0.1] = self.pick(-128, 127, 0)
            if self.flag(0.2):
                weights[r(0, config.rows) :] = 0
            if depthwise:
                step = 2 if config.pe == "paired" else 1
                segments = min(config.segments, skip + 1)
                if config.taps + mul["width"] < isa.MIN_LINE_DELAY or config.taps + mul["width"] > config.line_depth:
                    segments = 1
                keep = np.zeros((config.rows, 1), bool)
                keep[0 : step * config.taps * segments : step] = True
                weights = weights * keep
            offset = self.pick(r(0, 200), (1 << 20) - r(1, 60))
            out.append((weights, (offset, r(-10, 10), r(-1, 2), skip, int(k == count - 1))))
        return out

    def loads(self, tiles, external):
        """LOADs of these tiles, put into the store or into external memory; None if the store is full."""
        config, n = self.config, len(tiles)
        if external:
            first = len(self.external)
            descriptors = isa.DESCRIPTOR.pack_array(np.array([d for _, d in tiles], DESCRIPTOR_DTYPE))
            for (weights, _), descriptor in zip(tiles, descriptors):
                self.external += descriptor.tobytes() + weights.astype(np.int8).tobytes()
            self.uses_external = True
        else:
            first = self.used
            if first + n > config.resident_tiles - 1:
                return None
            for k, (weights, descriptor) in enumerate(tiles):
                self.tiles[first + k] = weights
                self.descriptors[first + k] = descriptor
            self.used += n
        cuts = sorted({0, n, *(self.r(0, n + 1) for _ in range(self.pick(0, 0, 1, 2)))})
        size = isa.word_bytes(Region.WEIGHT, config)
        return [
            dict(external=1, count=b - a, address=first + a * size, tile=self.r(0, 1 << 20))
            if external
            else dict(count=b - a, tile=first + a, address=self.r(0, 1 << 32))
            for a, b in zip(cuts, cuts[1:])
        ]

    def tails(self, mul, groups, stack, many, entries):
        """TAILs that take what the MULs hand over."""
        r, config = self.r, self.config
        if many and not stack and self.flag(0.3):  # a TAIL a group
            plan = [(1, 1, 0, r(1, config.cols + 1)) for _ in range(groups)]
        elif many and not stack:
            plan = [(1, 1, 0, (groups - 1) * config.cols + r(1, config.cols + 1))]
        else:
            n = self.pick(1, 1, 2, 3, 4)
            plan = []
            for k in range(n):
                s = self.flag(0.5 if stack else 0.1)
                channels = (r(0, groups) if s else 0) * config.cols + r(1, config.cols + 1)
                plan.append((int(k == 0), int(k == n - 1), s, channels))
        out = []
        for k, (take, release, s, channels) in enumerate(plan):
            columns = max(1, mul["out_width"] if mul["depthwise"] else 1 if mul["still"] else mul["width"])
            rows = 1 if mul["still"] else mul["height"]
            to_acc = self.flag(0.3)
            window = not s and not to_acc and self.flag(0.4)
            wx, wy = (r(1, columns + 1), r(1, rows + 1)) if window else (1, 1)
            width, height = columns - wx + 1, rows - wy + 1
            last = k == len(plan) - 1
            all_groups = -(-channels // config.cols)
            out_x = r(0, channels + 4)
            out_y = self.pick(out_x * width, r(0, 60))
            reach = (height - 1) * out_y + (width - 1) * out_x + channels
            clamp = int(window or self.flag(0.85))
            dual = self.pick(0, 0, 1, 2, 3)
            base = mul["acc_base"] if self.flag(0.8) else r(0, 4)
            out.append(
                dict(
                    take=take, release=release, stack=s, to_acc=to_acc, clamp=clamp, table=self.flag(0.3), dual=dual,
                    shared=self.flag(0.3), pre_shift=self.pick(0, 0, 0, 2, 20, 31), acc_base=base,
                    acc_other=self.pick(r(0, max(1, entries)), 1024 - r(0, base + 1)) % 1024, acc_x=1, acc_y=columns,
                    width=width, height=height, window_x=wx, window_y=wy, window_row=columns if wy > 1 else r(0, 1024),
                    address=r(0, max(1, config.act_bytes - reach + 1)), out_x=out_x, out_y=out_y,
                    group_step=config.cols if all_groups > 1 else r(0, 1 << 16), channels=channels,
                    param=r(0, max(1, config.params - channels)), zero_point=r(-128, 128),
                    low=self.pick(-128, r(-128, 10)), high=self.pick(127, r(-10, 128)),
                )
            )  # fmt: skip
            if last and self.flag(0.9) or self.flag(0.4):
                out[-1]["post"] = 1
                self.posted += 1
        return out


def keep_rules(op, config: NpuConfig, fields: dict, rng: np.random.Generator) -> dict:
    """Random fields of an instruction, changed where they break `isa.rules`."""
    while rule := isa.broken(op, config, fields):
        top = (1 << op.offset(rule.field)[1].bits) - 1
        fields[rule.field] = int(rng.integers(rule.low, top if rule.high is None else rule.high, endpoint=True))
        if rule.when:
            fields[rule.when] = int(rng.integers(2))
    return fields


def engine(op) -> str:
    return {isa.LOAD: "load", isa.MUL: "mul", isa.MOVE: "move"}.get(op, "tail")


# --- Programs with something wrong ----------------------------------------------------------------------------------


def spoil(case: Case, rng: np.random.Generator) -> Case:
    """The program with one thing wrong (it may turn out to be harmless)."""
    if rng.random() < 0.35:
        return edge(case, rng)
    kinds = [break_rule, break_field, flip, drop, double, opcode, no_end, noise]
    kind = kinds[int(rng.choice(len(kinds), p=[0.2, 0.25, 0.15, 0.15, 0.05, 0.05, 0.05, 0.1]))]
    return replace(case, kind=kind.__name__, chunks=kind([list(c) for c in case.chunks], case.config, rng))


def edge(case: Case, rng: np.random.Generator) -> Case:
    """A field has the last value that is still right, or the first that is not, found by bisection."""
    config = case.config
    far = {
        "acc_base": [config.acc_depth], "acc_other": [config.acc_depth], "address": [config.act_bytes, -300],
        "param": [config.params], "tile": [config.weight_tiles], "count": [300], "width": [70], "height": [70],
        "channels": [200], "x_step": [500], "out_x": [500], "out_y": [500], "row_step": [500], "group_step": [500],
        "acc_x": [30], "acc_y": [60], "window_row": [60], "out_width": [60], "subsample": [15],
        "chip": [config.act_bytes], "length": [2000], "rows": [90], "planes": [30], "external": [config.memory_bytes],
        "chip_step": [500], "chip_plane": [800],
    }  # fmt: skip
    for _ in range(8):
        k, op, fields = _some(rng, _instructions(case.chunks))
        names = [n for n in fields if n in far and not (op is isa.LOAD and n in ("address", "external"))]
        if not names:
            continue
        name = _some(rng, names + 4 * [n for n in names if n in ("address", "acc_base", "param", "tile", "chip")])
        bits = op.offset(name)[1].bits

        def changed(value, k=k, op=op, fields=fields, name=name, bits=bits):
            chunk = isa.encode(op, **{**fields, name: int(value) & (1 << bits) - 1})
            return replace(case, kind="edge", chunks=[*case.chunks[:k], chunk, *case.chunks[k + 1 :]])

        def right(value, changed=changed):
            other = changed(value)
            if vectors(other) > MOST_VECTORS:
                return False
            try:
                other.iss().run(START)
            except IssError as error:
                return error.status in (None, Status.DONE)
            return True

        good, bad = fields[name], min(_some(rng, far[name]), (1 << bits) - 1)
        if right(bad):
            continue
        while abs(good - bad) > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if right(middle) else (good, middle)
        return changed(good if rng.random() < 0.4 else bad)
    return replace(case, kind="edge")


def _instructions(chunks):
    """(place, instruction, fields) of all but END."""
    decoded = [(k, *isa.decode(c)) for k, c in enumerate(chunks[:-1])]
    return decoded or [(0, isa.END, {"opcode": 1})]


def executed(words):
    """(instruction, fields) of the words in their order, to END or to what is none, wherever chunks begin."""
    k = 0
    while k < len(words):
        try:
            op, fields = isa.decode(words, k)
        except (ValueError, IndexError):
            return
        if op is isa.END:
            return
        yield op, fields
        k += op.words


def _some(rng, items):
    return items[int(rng.integers(len(items)))]


def break_rule(chunks, config, rng):
    """An instruction breaks one of `isa.rules`."""
    k, op, fields = _some(rng, _instructions(chunks))
    rules = isa.rules(op, config)
    if rules:
        rule = _some(rng, rules)
        fields[rule.field] = rule.low - 1 if rule.low and (rule.high is None or rng.random() < 0.5) else rule.high + 1
        if rule.when:
            fields[rule.when] = rule.equals
        chunks[k] = isa.encode(op, **fields)
    return chunks


def break_field(chunks, config, rng):
    """An address, a number of entries or a flag of an instruction is another one."""
    k, op, fields = _some(rng, _instructions(chunks))
    bounds = {
        "acc_base": config.acc_depth, "acc_other": config.acc_depth, "address": config.act_bytes,
        "param": config.params, "tile": config.weight_tiles, "chip": config.act_bytes,
    }  # fmt: skip
    near = [name for name in bounds if name in fields]
    flags = [f.name for f in op.fields if f.bits == 1]
    small = "count groups width height channels x_step out_x skip length rows planes chip_step".split()
    small = [n for n in small if n in fields]
    name = _some(rng, near * 2 + flags + small or ["opcode"])
    f = op.offset(name)[1]
    if name in bounds:
        value = bounds[name] + int(rng.integers(-20, 4)) if rng.random() < 0.7 else int(rng.integers(1 << f.bits))
    else:
        value = 1 - fields[name] if f.bits == 1 else fields[name] + int(rng.integers(-2, 3))
    chunks[k] = isa.encode(op, **{**fields, name: value & (1 << f.bits) - 1}) if not f.signed else chunks[k]
    return chunks


def flip(chunks, config, rng):
    """One bit, anywhere."""
    k = int(rng.integers(len(chunks)))
    n = int(rng.integers(len(chunks[k])))
    chunks[k][n] ^= 1 << int(rng.integers(64))
    return chunks


def drop(chunks, config, rng):
    """An instruction is missing."""
    del chunks[int(rng.integers(max(1, len(chunks) - 1)))]
    return chunks


def double(chunks, config, rng):
    """An instruction comes twice."""
    k = int(rng.integers(len(chunks)))
    return [*chunks[: k + 1], *chunks[k:]]


def opcode(chunks, config, rng):
    """An instruction has another opcode."""
    k = int(rng.integers(len(chunks)))
    chunks[k][0] = chunks[k][0] & ~15 | int(rng.integers(16))
    return chunks


def no_end(chunks, config, rng):
    """END is missing, and what follows are TABLEs to the end of the memory, or the middle of an instruction."""
    room = config.program_words - START - sum(len(c) for c in chunks[:-1])
    if rng.random() < 0.5:
        return chunks[:-1] + [isa.encode(isa.TABLE, param=int(rng.integers(0, config.params - 31)))] * room
    last = isa.encode(isa.MUL, groups=1, width=1, height=1) if rng.random() < 0.5 else isa.encode(isa.LOAD, count=1)
    return chunks[:-1] + [isa.encode(isa.TABLE)] * (room - 1) + [last[:1]]


def noise(chunks, config, rng):
    """Random words: all of the program, or those of one instruction behind its first byte."""
    if rng.random() < 0.5:
        words = rng.integers(0, 1 << 64, 40, dtype=np.uint64)
        known = rng.random(40) < 0.7
        most = len(isa.operations(config))
        words[known] = words[known] & ~np.uint64(15) | rng.integers(1, most + 1, 40, dtype=np.uint64)[known]
        return [[int(w)] for w in words]
    k = int(rng.integers(len(chunks)))
    chunks[k] = [int(w) for w in rng.integers(0, 1 << 64, len(chunks[k]), dtype=np.uint64)]
    return chunks


def vectors(case: Case) -> int:
    """Upper bound of the vectors a program issues or reads, from its fields."""
    words, k, total = case.words, 0, 0
    words = words + [0] * 4
    while k < len(case.words):
        try:
            op, f = isa.decode(words, k)
        except ValueError:
            break
        if op is isa.MUL:
            per_tile = f["width"] * f["height"]
            if f["depthwise"]:
                per_tile = f["width"] * (f["height"] * max(1, f["subsample"]) + 8)
            total += per_tile * max(8, min(64, f["groups"] * 5)) if f["width"] and f["height"] else 0
        elif op is isa.TAIL:
            total += (
                f["width"]
                * f["height"]
                * f["window_x"]
                * f["window_y"]
                * (2 if f["dual"] else 1)
                * max(1, f["channels"] // case.config.lanes)
            )
        elif op is isa.MOVE and case.config.memory_width:
            total += f["length"] * (16 if f["space"] else max(1, f["rows"]) * max(1, f["planes"]))
        elif op is isa.LOAD and f["external"]:
            total += f["count"] * isa.word_bytes(Region.WEIGHT, case.config)
        k += op.words
    return total


def make(config: NpuConfig, seed: int) -> Case:
    """The program of this seed, with the way it is run."""
    rng = np.random.default_rng([seed, *config.name.encode()])
    case = Maker(config, rng).legal()
    if rng.random() < ONE_FAULT:
        for _ in range(20):
            spoiled = spoil(case, rng)
            if vectors(spoiled) <= MOST_VECTORS:
                case = spoiled
                break
    stalls = tuple(int(v) for v in rng.choice([0, 0, 0, 30, 128, 200], 4))
    memory = int(rng.choice([0, 1, 8, 40, 300])), int(rng.choice([1, 1, 2, 5, 17]))
    reset = int(rng.integers(1, 1500)) if rng.random() < 0.25 else 0
    case = replace(case, stalls=stalls, memory=memory, reset_after=reset, hard=bool(rng.random() < 0.5), seed=seed)
    if config.memory_width:
        written, every = int(rng.choice([0, 0, 0, 30, 128, 200])), int(rng.choice([0, 50, 900]))
        case = replace(case, stalls=(*stalls, written), refresh=(every, every and int(rng.integers(1, 45))))
    return case


# --- What must come out ---------------------------------------------------------------------------------------------


def expected(case: Case) -> tuple[set[Status] | None, Iss, bool]:
    """Status the run may end with (None: any, the result is undefined), the simulator after the run, and whether the
    program left nothing behind.

    Of several errors the hardware reports the one that it finds first: any that a schedule of the simulator finds.
    """
    iss = case.iss(hazards=True)
    try:
        iss.run(START)
        return {Status.DONE}, iss, True
    except IssError as error:
        if error.status == Status.DONE:
            return {Status.DONE}, iss, False
        if "words of the program" in str(error):
            return None, iss, False
    found: set[Status] = set()
    good = False
    for ahead in (False, True):
        for first in ("tail", "mul", *(["move"] if case.config.memory_width else [])):
            other = case.iss(ahead=ahead, first=first, log=True)
            try:
                other.run(START)
                good = True  # but for a hazard
            except IssError as error:
                if error.status in (None, Status.DONE):
                    good = True
                else:
                    found.add(error.status)
            if len(other.writes) >= len(iss.writes):
                iss = other
    return None if good else found, iss, False


def a_beginning(act: np.ndarray, iss: Iss, got: np.ndarray) -> bool:
    """Whether `got` is what `act` becomes by some of the simulator's writes, the first ones, in their order.

    Behind the last of them the TAIL in error may have written some of its bytes, in `iss.doubtful`.
    """
    now = act.copy()
    wrong = int(np.count_nonzero(now != got))
    for at, value in iss.writes:
        if not wrong:
            return True
        wrong -= int(np.count_nonzero(now[at] != got[at]))
        now[at] = value
        wrong += int(np.count_nonzero(now[at] != got[at]))
    now[iss.doubtful] = got[iss.doubtful]
    return np.array_equal(now, got)


def stored(case: Case) -> set[int]:
    """Bytes of memory that MOVEs of the program write, if they come to it."""
    out: set[int] = set()
    for op, f in executed(case.words):
        if op is isa.MOVE and f["store"] and not isa.broken(op, case.config, f):
            first = case.bases[f["base"]] + f["external"]
            for p in range(f["planes"]):
                for r in range(f["rows"]):
                    at = first + p * f["external_plane"] + r * f["external_step"]
                    out.update(e & 2**32 - 1 for e in range(at, at + f["length"]))
    return {e for e in out if e < case.config.memory_bytes}


class Mismatch(AssertionError):
    """RTL and simulator differ; one line."""


class Bench:
    """The RTL of one configuration."""

    def __init__(self, config: NpuConfig, library: Path | None = None):
        self.config = config
        self.transport = SimTransport(config, library)
        self.device = SimDevice(self.transport, timeout=4.0)

    def run(self, case: Case) -> Status:
        """Run a program and compare; returns how it ended. Raises Mismatch."""
        device, model = self.device, self.transport.model
        wanted, iss, clean = expected(case)
        model.set_stalls(case.seed, *case.stalls)
        self.transport.set_memory(case.external, *case.memory)
        if self.config.memory_width:
            model.set_pace(*case.memory, case.refresh)
        if case.reset_after:
            self._load(case)
            device.start(START)
            self.transport.run(case.reset_after)
            if case.hard:
                model.reset()
                self.transport.flush()
            else:
                device.reset()
            if device.registers()[Reg.STATUS] != Status.IDLE:
                raise Mismatch("status after a reset is not IDLE")
        self._load(case)
        self._finish(0)
        clear, copy, _ = (len(part) for part in service_programs(self.config))
        late_bursts = bool(case.reset_after and not case.hard and self.config.ring_tiles)
        if late_bursts:  # what an earlier run asked for comes in this one, which ends after it
            host, reply, request, *_ = case.stalls
            model.set_stalls(case.seed, host, reply, request, 256)
            device.start(clear + copy)
            self.transport.run(100)
            device.reset()
            model.set_stalls(case.seed, *case.stalls)
        registers = self._finish(START)
        status = Status(registers[Reg.STATUS])
        if wanted is not None and status not in wanted:
            names = " or ".join(sorted(s.name for s in wanted))
            raise Mismatch(f"status {status.name}, the simulator says {names}")
        total = sum(registers[Reg[c.name]] for c in Cause)
        if registers[Reg.CYCLES] != total:
            raise Mismatch(f"{registers[Reg.CYCLES]} cycles, but {total} by cause")
        if self.config.memory_width:
            return self._memory_run(case, iss, status, wanted)
        if wanted is not None and Status.DONE not in wanted and not a_beginning(case.act, iss, self._read()):
            raise Mismatch("activations after the error are none that the program's writes leave")
        if wanted != {Status.DONE}:
            return status
        self._compare(iss, "after the program")
        external = any(op is isa.LOAD and f["external"] for op, f in executed(case.words))
        if clean and not external and not late_bursts:
            self._cycles(case, registers)
        self._copied_out(iss)
        return status

    def _copied_out(self, iss):
        """Compare the accumulators, by a program that copies them to the activations."""
        clear = len(service_programs(self.config)[0])
        self._finish(clear)
        iss.hazards = False
        iss.run(clear)
        unknown = np.repeat(iss.undefined.reshape(2, 1, -1), 4, axis=1).ravel()
        self._compare(
            iss, "of accumulators copied out", np.append(unknown, np.zeros(self.config.act_bytes - len(unknown), bool))
        )

    def _memory_run(self, case, iss, status, wanted):
        """After a run with a memory port: what it left on the chip and in memory."""
        if wanted is not None:
            strange = self.transport.memory != case.all_memory()
            strange[list(stored(case))] = False
            if strange.any():
                raise Mismatch(f"byte {strange.argmax()} of memory was written, which no MOVE of the program writes")
        if wanted != {Status.DONE}:
            return status
        self._compare(iss, "after the program")
        wrong = np.flatnonzero(self.transport.memory != iss.memory)
        if len(wrong):
            at = wrong[0]
            got, want = self.transport.memory[at], iss.memory[at]
            raise Mismatch(f"{len(wrong)} bytes of memory differ, byte {at} is {got}, expected {want}")
        iss.tiles[-1], iss.params[-1] = 0, (0, 1 << 30, -23)  # what the copying needs
        iss.descriptors[-1] = case.descriptors[-1]
        for region, last in ((Region.WEIGHT, self.config.weight_tiles - 1), (Region.PARAM, self.config.params - 1)):
            self.device.write(region, last, iss.read(region, last, 1))
        iss.memory[image_at(self.config) :] = case.all_memory()[image_at(self.config) :]
        self.transport.memory[:] = iss.memory
        self._copied_out(iss)
        return status

    def _load(self, case):
        for region, data in case.images():
            self.device.write(region, 0, data)
        if self.config.memory_width:
            self.transport.memory[:] = case.all_memory()
            self.device.set_bases(*case.bases)

    def _finish(self, pc):
        """Run from that word to the end; returns the registers."""
        self.device.start(pc)
        begin = self.transport.cycles
        while (registers := self.device.registers())[Reg.STATUS] == Status.RUNNING:
            if self.transport.cycles - begin > TIMEOUT:
                self.device.reset()
                raise Mismatch(f"the run from word {pc} did not end in {TIMEOUT} cycles")
            self.transport.run(500)
        return registers

    def _read(self):
        return np.frombuffer(self.device.read(Region.ACT, 0, self.config.act_bytes), np.int8)

    def _compare(self, iss, what, unknown=False):
        got = self._read()
        wrong = np.flatnonzero((got != iss.act) & ~np.asarray(unknown))
        if len(wrong):
            at = wrong[0]
            raise Mismatch(f"{len(wrong)} bytes {what} differ, byte {at} is {got[at]}, expected {iss.act[at]}")

    def _cycles(self, case, registers):
        tiles = dict(case.images())[Region.WEIGHT]
        timing = predict(self.config, [int(w) for w in case.program()], tiles, START)
        got = {c.name.lower(): registers[Reg[c.name]] for c in Cause}
        if timing.cycles != registers[Reg.CYCLES] or timing.causes != got:
            raise Mismatch(f"{registers[Reg.CYCLES]} cycles {got}, predicted {timing.cycles} {timing.causes}")


# --- Failures -------------------------------------------------------------------------------------------------------


def shrink(bench: Bench, case: Case, reason: str, tries: int = 80) -> tuple[Case, str]:
    """Leave out what can be left out with the program still failing: the reset, the stalls, instructions."""

    def fails(smaller):
        try:
            bench.run(smaller)
        except Mismatch as error:
            return str(error)
        return ""

    for change in (dict(reset_after=0), dict(stalls=(0, 0, 0, 0)), dict(memory=(8, 1)), dict(refresh=(0, 0))):
        if why := fails(replace(case, **change)):
            case, reason = replace(case, **change), why
    k = len(case.chunks) - 2
    while k >= 0 and tries:
        smaller = replace(case, chunks=case.chunks[:k] + case.chunks[k + 1 :])
        if why := fails(smaller):
            case, reason = smaller, why
        k, tries = k - 1, tries - 1
    return case, reason


def report(case: Case, reason: str, seed: int) -> Path:
    """Write what is needed to understand a failure; returns the file."""
    wanted, _, _ = expected(case)
    lines = [
        f"{case.config}", f"seed {seed}, kind {case.kind}: {reason}",
        f"again: python -m lepton.verif.random.programs --config {case.config.name} --seed {seed} --count 1",
        f"expected status: {'any' if wanted is None else ', '.join(sorted(s.name for s in wanted))}",
        f"memory {case.memory} {case.refresh}, bases {case.bases}",
        f"stalls {case.stalls}, reset after {case.reset_after}{' by the input' * case.hard}",
        "", *disassemble(case.words), "", "tiles that LOADs name:",
    ]  # fmt: skip
    for op, f in executed(case.words):
        if op is isa.LOAD and not f["external"]:
            for t in range(f["tile"], min(f["tile"] + f["count"], case.config.weight_tiles, f["tile"] + 16)):
                lines.append(f"{t}: {case.descriptors[t]} {case.tiles[t].tolist()}")
    BUILD.mkdir(parents=True, exist_ok=True)
    path = BUILD / f"{case.config.name}-{seed}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def campaign(configs: list[NpuConfig], count: int, seed: int, show=print, library: Path | None = None) -> bool:
    """Run `count` programs, spread over the configurations; the k-th has seed + k. Returns whether all were right."""
    begin, good = time.monotonic(), True
    for n, config in enumerate(configs):
        bench = Bench(config, library)
        kinds: Counter = Counter()
        ends: Counter = Counter()
        resets = 0
        for k in range(seed + n, seed + count, len(configs)):
            case = make(config, k)
            kinds[case.kind] += 1
            resets += bool(case.reset_after)
            try:
                ends[bench.run(case).name] += 1
            except Mismatch as error:
                good = False
                smaller, reason = shrink(bench, case, str(error))
                show(f"FAILED {config.name} seed {k} ({case.kind}): {reason}; see {report(smaller, reason, k)}")
                if sum(ends.values()) + 5 < sum(kinds.values()):
                    break
        show(
            f"{config.name}: {sum(kinds.values())} programs ({', '.join(f'{v} {k}' for k, v in kinds.most_common())}), "
            f"{resets} after a reset; ended {', '.join(f'{v} {k}' for k, v in ends.most_common())}"
        )
    show(f"{count} programs from seed {seed}: {'all right' if good else 'FAILED'} ({time.monotonic() - begin:.0f} s)")
    return good


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description="Random programs on the RTL against the simulator.")
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--config", choices=CONFIGS, help="only this configuration (default: all in turn)")
    options = parser.parse_args(arguments)
    configs = [CONFIGS[options.config]] if options.config else list(CONFIGS.values())
    return 0 if campaign(configs, options.count, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())

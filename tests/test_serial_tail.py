"""SerialTail against the loops of test_tail's reference, and against its own timing contract."""

from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from test_tail import PARAMS, Reference, plain, random_tail

from lepton.rtl.compact.serial_tail import SerialTail
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import UP5K
from lepton.rtl.spec.timing import PARAM_CYCLES, PARAM_WORDS, value_cycles

CONFIG = replace(UP5K, acc_depth=256, act_bytes=8192)
DIGITS = (2, 4)


def expected_timing(reference, instructions, accepted, banks):
    """The docstring's formula: cycles of the reads, of posts and of banks given back, and the last busy cycle."""
    reads, posts, frees, done = [], [], [], -1
    banks = list(banks)
    for (_, f), accept in zip(instructions, accepted):
        assert accept > done
        count = f["width"] * f["height"] * f["window_x"] * f["window_y"]
        at, each = accept + PARAM_CYCLES + 2, 0
        for k in range(f["channels"]):
            first, last = k % CONFIG.cols == 0, k == f["channels"] - 1
            takes = f["take"] and (k == 0 or first and not f["stack"])
            if k:
                at += count * each + (PARAM_CYCLES if not f["shared"] else int(bool(takes)))
            if takes:
                at = max(at, banks.pop(0) + 1)
            each = value_cycles(f["pre_shift"], reference.params[f["param"] + (0 if f["shared"] else k)][2])
            reads += range(at, at + count * each, each)
            if f["release"] and (last or (k + 1) % CONFIG.cols == 0 and not f["stack"]):
                frees.append(reads[-1] + 1)
        done = at + count * each - 1
        if f["post"]:
            posts.append(done)
    return reads, posts, frees, done


def check(instructions, rng, reference=None, gap=lambda: 0, bank_gap=lambda: 0):
    """Run the instructions on both; everything that can be seen must be as the contract says."""
    reference = reference or Reference(CONFIG, rng)
    acc = [[list(v) for v in bank] for bank in reference.acc]
    dut = SerialTail(CONFIG)
    words = [word for op, f in instructions for word in isa.encode(op, **f)]
    need = sum(1 if f["stack"] else -(-f["channels"] // CONFIG.cols) for _, f in instructions if f["take"])
    act, accepted, banks = {}, [], []
    reads, posts, frees, idle = [], [], [], []

    async def bench(ctx):
        at = handed = freed = clock = 0
        wait, bank_at = gap(), bank_gap()
        while at < len(words) or clock == accepted[-1] + 1 or not idle[-1]:
            assert clock < 60_000, "the engine hangs"
            ctx.set(dut.i.valid, at < len(words) and wait <= 0)
            ctx.set(dut.i.payload.word, words[at] if at < len(words) else 0)
            ctx.set(dut.i.payload.index, at % 4)
            ready = handed < need and handed - freed < 2 and clock >= bank_at
            ctx.set(dut.banks.ready, ready)
            if ready:
                handed += 1
                banks.append(clock)
                bank_at = clock + 1 + bank_gap()
            read = int(rng.integers(-(2**31), 2**31))
            if ctx.get(dut.acc.r_en):
                reads.append(clock)
                read = acc[ctx.get(dut.acc.bank)][ctx.get(dut.acc.r_entry)][ctx.get(dut.acc.r_column)]
            entry, word = divmod(ctx.get(dut.params.addr), 8)
            param = int(rng.integers(2**16))
            if word < PARAM_WORDS and entry < PARAMS:
                mask = 255 if word == PARAM_WORDS - 1 else 2**16 - 1  # the bits above the shift are anything
                param = param & ~mask | reference.param_word(entry) >> 16 * word & mask
            if ctx.get(dut.write.en):
                assert ctx.get(dut.write.count) == 1
                act[ctx.get(dut.write.addr)] = ctx.get(dut.write.data[0])
            if ctx.get(dut.banks.free):
                freed += 1
                frees.append(clock)
            if ctx.get(dut.banks.token):
                posts.append(clock)
            idle.append(ctx.get(dut.idle))
            wait -= 1
            if ctx.get(dut.i.valid) and ctx.get(dut.i.ready):
                at += 1
                wait = gap()
                if at % 4 == 0:
                    accepted.append(clock)
            await ctx.tick()
            clock += 1
            ctx.set(dut.acc.r_data, read)
            ctx.set(dut.params.data, param)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    for op, f in instructions:
        reference.run(op, f)
    assert act == {address % CONFIG.act_bytes: byte for address, byte in reference.act.items()}
    expected = expected_timing(reference, instructions, accepted, banks)
    assert (reads, posts, frees) == expected[:3]
    assert len(idle) == expected[3] + 2 and idle[-1] and not idle[-2]


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("seed", [1, 2])
def test_random_instructions(monkeypatch, digit, seed):
    monkeypatch.setattr(timing, "DIGIT", digit)
    rng = np.random.default_rng([seed, digit])
    instructions, held = [], False
    while len(instructions) < 12:
        op, f = isa.TAIL, random_tail(rng, CONFIG, held)
        f |= {"to_acc": 0, "table": 0, "dual": 0, "address": f["address"] % CONFIG.act_bytes}
        if f["channels"] * f["width"] * f["height"] * f["window_x"] * f["window_y"] > 40:
            continue
        instructions.append((op, f))
        held = not f["release"]
    slow = seed == 2
    check(
        instructions,
        rng,
        gap=lambda: int(rng.choice([0, 0, 1, 30])) if slow else 0,
        bank_gap=lambda: int(rng.integers(0, 600)) if slow else 0,
    )


CORNERS = (0, 1, -1, 2**31 - 1, -(2**31), -(2**31) + 1, 2**30, -(2**30), 2**16 - 1)


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("clamp", [0, 1])
def test_corners(monkeypatch, digit, clamp):
    """Largest and smallest sums, multipliers and shifts; ties of both roundings; without clamp the low byte is seen."""
    monkeypatch.setattr(timing, "DIGIT", digit)
    rng = np.random.default_rng([digit, clamp])
    reference = Reference(CONFIG, rng)
    n = 60
    for k in range(n):
        multiplier = int(rng.choice([0, 1, 2**30, 2**30 + 1, 2**31 - 1]))
        shift = int(rng.choice([-31, -30, -9, -2, -1, 0, 1, 7, 30]))
        reference.params[k] = int(rng.choice([0, 0, 0, 1, -1, 2**31 - 1])), multiplier, shift
        value = int(rng.choice(CORNERS))
        if k % 2:  # with multiplier 1/2: a tie of the division by 2**-shift, or near one
            reference.params[k] = 0, 2**30, min(shift, 0)
            value = int(rng.choice([-1, 1])) * (2 * int(rng.integers(100)) + 1 << max(-shift, 0)) + int(
                rng.integers(-2, 3)
            )
        reference.acc[0][k // CONFIG.cols][k % CONFIG.cols] = (value + 2**31) % 2**32 - 2**31
    fields = {"zero_point": 0} if not clamp else {"zero_point": 100, "low": -100, "high": 90}
    check([plain(channels=n, stack=1, group_step=CONFIG.cols, clamp=clamp, **fields)], rng, reference)


def test_bytes_meet_the_bounds():
    """Every result near the clamp's ends and far beyond them."""
    rng = np.random.default_rng(3)
    reference = Reference(CONFIG, rng)
    values = [*range(-260, 261, 13), *range(-131, -124), *range(120, 130), 511, 512, -512, -513, 2**28, -(2**28)]
    for k, value in enumerate(values):
        reference.acc[0][k // CONFIG.cols][k % CONFIG.cols] = value
    reference.params[5] = 0, 2**30, 1
    for zero_point, low, high in ((0, -128, 127), (-128, -128, 127), (127, -3, 2)):
        fields = dict(shared=1, param=5, stack=1, group_step=CONFIG.cols, take=0, release=0, channels=len(values))
        check([plain(zero_point=zero_point, low=low, high=high, **fields)], rng, reference)

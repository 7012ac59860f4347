"""Fetch and its queues against lists of instructions."""

import random
import re

import numpy as np
import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from lepton.rtl.fetch import Fetch
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.verif.random.programs import keep_rules

CONFIG = NpuConfig(program_words=64)
FIRST = 4  # cycle in which the first word, an instruction, is valid at its queue, or an error is up
TARGET = {isa.LOAD: "load", isa.MUL: "mul", isa.TAIL: "tail", isa.TABLE: "tail"}


def simulate(dut, *benches):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for bench, background in benches:
        (sim.add_process if background else sim.add_testbench)(bench)
    sim.run()


def run_fetch(words, pc=0, cycles=200, stall=0.0, seed=1, config=CONFIG, starts=(0,)):
    """Run a program; returns ({target: [(cycle, value)]}, (cycle, done, error, bad) or None). Cycle 0 has `start`."""
    dut = Fetch(config)
    rng = random.Random(seed)
    got = {"load": [], "mul": [], "tail": []}
    ended = []

    async def bench(ctx):
        read = None
        for cycle in range(cycles):
            ctx.set(dut.start, cycle in starts)
            ctx.set(dut.pc, pc if cycle in starts else 0x5A5A)
            # A word is there for one cycle only after its read.
            ctx.set(dut.program.data, rng.getrandbits(64) if read is None else words[read] if read < len(words) else 0)
            for name in got:
                ctx.set(getattr(dut, f"o_{name}").ready, rng.random() >= stall)
            for name, seen in got.items():
                o = getattr(dut, f"o_{name}")
                if ctx.get(o.valid) and ctx.get(o.ready):
                    seen.append((cycle, ctx.get(o.payload)))
            end = ctx.get(dut.done_fetching), ctx.get(dut.error), ctx.get(dut.bad)
            if cycle and any(end) and not ended:
                ended.append((cycle, *end))
            read = ctx.get(dut.program.addr) if ctx.get(dut.program.en) else None
            await ctx.tick()

    simulate(dut, (bench, False))
    return got, ended[0] if ended else None


def random_program(rng, n):
    words, expected, last = [], {"load": [], "mul": [], "tail": []}, []
    for _ in range(n):
        op = rng.choice(list(TARGET))
        values = {f.name: rng.getrandbits(f.bits) for f in op.fields if f.name != "opcode" and not f.signed}
        values = keep_rules(op, CONFIG, values, np.random.default_rng(rng.getrandbits(32)))
        new = isa.encode(op, **values)
        words += new
        raw = sum(w << 64 * i for i, w in enumerate(new))
        expected[TARGET[op]].append(raw)
        last.append((TARGET[op], len(words) - 1))
    return words + isa.encode(isa.END), expected, last


@pytest.mark.parametrize("stall", [0.0, 0.5, 0.9])
def test_program_order(stall):
    rng = random.Random(7)
    words, expected, last = random_program(rng, 16)
    got, ended = run_fetch(words, cycles=100 if stall < 0.9 else 600, stall=stall)
    assert {k: [v for _, v in s] for k, s in got.items()} == expected
    assert ended[1:] == (1, 0, 0)
    if not stall:
        assert ended[0] == len(words) - 1 + FIRST
        for name in got:
            assert [c for c, _ in got[name]] == [k + FIRST for n, k in last if n == name]


def test_start_word():
    words = [0] * 5 + isa.encode(isa.TABLE, param=9) + isa.encode(isa.END)
    got, ended = run_fetch(words, pc=5)
    assert [v for _, v in got["tail"]] == [words[5]] and ended == (FIRST + 1, 1, 0, 0)


@pytest.mark.parametrize("again", range(1, 12))
def test_start_in_mid_run(again):
    """Words that were read ahead do not get into the run that a second start begins; nor do they after its end."""
    words = isa.encode(isa.TABLE, param=1) + isa.encode(isa.TABLE, param=2) + isa.encode(isa.END) + [0] * 8
    got, _ = run_fetch(words, starts=(0, again), cycles=30)
    assert [v for c, v in got["tail"] if c > again + 1] == words[:2]
    assert [v for c, v in got["tail"] if c <= again + 1] == words[: max(0, min(2, again - 2))]


def test_a_full_queue_stops_the_fetch():
    words = isa.encode(isa.TABLE, param=1) * 5 + isa.encode(isa.END)
    got, ended = run_fetch(words, stall=1.0)
    assert ended is None and not got["tail"]


@pytest.mark.parametrize("code", [0, 6, 15])
def test_unknown_opcode(code):
    got, ended = run_fetch(isa.encode(isa.TABLE) + [code] + isa.encode(isa.END))
    assert len(got["tail"]) == 1 and ended == (FIRST + 1, 0, 1, 0)


RULES = [
    pytest.param(config, op, rule, id=f"{config.name}-{op.opcode.name}-{rule.field}-{rule.when}")
    for config in (NpuConfig("plain", program_words=64, params=16), NpuConfig("ring", rows=9, cols=8, ring_tiles=8))
    for op in isa.operations(config)
    for rule in isa.rules(op, config)
]
LEGAL = dict.fromkeys(["count", "groups", "width", "height", "out_width", "subsample", "window_x", "window_y"], 1)
LEGAL |= {"line_delay": 9, "channels": 1, "clamp": 1}


@pytest.mark.parametrize("config, op, rule", RULES)
def test_a_broken_rule_stops_the_program(config, op, rule):
    """Every rule: its limits are legal, one beyond them is not, and without the flag it does not matter."""
    top = (1 << op.offset(rule.field)[1].bits) - 1
    high = top if rule.high is None else rule.high
    found = set()
    for value in {rule.low - 1, rule.low, high, high + 1, top} & set(range(top + 1)):
        for flag in (0, 1) if rule.when else (None,):
            fields = {f.name: LEGAL.get(f.name, 0) for f in op.fields} | {"opcode": op.opcode, rule.field: value}
            fields |= {rule.when: flag} if rule.when else {}
            broken = isa.broken(op, config, fields)
            if flag in (None, rule.equals) and not rule.low <= value <= high:
                assert broken
            elif broken:
                continue  # a different rule for the same field
            words = isa.encode(isa.LOAD, count=1) + isa.encode(op, **fields)
            ended = run_fetch(words + isa.encode(isa.END), cycles=12, config=config)[1]
            if broken:
                assert ended == (len(words) - op.words + isa.last_word(op, broken) + FIRST, 0, 0, 1)
            else:
                assert ended == (len(words) + FIRST, 1, 0, 0)
            found.add(bool(broken))
    assert found == {True} if high < 0 else {True, False}


def test_the_first_word_with_an_error_decides():
    words = isa.encode(isa.TABLE) + isa.encode(isa.LOAD, count=0) + [15]
    assert run_fetch(words)[1] == (FIRST + 1, 0, 0, 1)
    bad = isa.encode(isa.TABLE) * 63 + isa.encode(isa.MUL, width=0)  # its other words are beyond the memory
    assert run_fetch(bad)[1] == (63 + FIRST, 0, 0, 1)


def test_no_end():
    _, ended = run_fetch(isa.encode(isa.TABLE) * 80)
    assert ended == (64 + FIRST, 0, 1, 0)


def test_no_end_of_the_largest_memory():
    """Word 65536 is not word 0 again."""
    largest = NpuConfig(program_words=65536)
    words = isa.encode(isa.TABLE) + [0] * 65532 + isa.encode(isa.TABLE) * 3
    got, ended = run_fetch(words, pc=65533, config=largest)
    assert ended == (3 + FIRST, 0, 1, 0) and len(got["tail"]) == 3


def test_ports():
    text = rtlil.convert(Fetch(CONFIG), name="fetch").split("module \\fetch\n")[1].split("\nmodule ")[0]
    names = set(re.findall(r"wire width \d+ (?:signed )?(?:input|output) \d+ +(?:signed )?\\(\w+)", text))
    streams = {f"o_{n}__{p}" for n in ("load", "mul", "tail") for p in ("valid", "ready", "payload")}
    own = {"start", "pc", "program__en", "program__addr", "program__data", "done_fetching", "error", "bad", "moved"}
    assert names == {"clk", "rst"} | own | streams


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_queue(depth):
    dut = SkidQueue(8, depth)
    rng = random.Random(depth)
    sent, got = [], []

    async def bench(ctx):
        for _ in range(300):
            value, push, pop = rng.getrandbits(8), rng.random() < 0.6, rng.random() < 0.6
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, push)
            ctx.set(dut.o.ready, pop)
            assert ctx.get(dut.i.ready) == (len(sent) - len(got) < depth)
            assert ctx.get(dut.o.valid) == (len(sent) > len(got))
            if push and ctx.get(dut.i.ready):
                sent.append(value)
            if pop and ctx.get(dut.o.valid):
                got.append(ctx.get(dut.o.payload))
            await ctx.tick()

    simulate(dut, (bench, False))
    assert got == sent[: len(got)] and len(got) > 50

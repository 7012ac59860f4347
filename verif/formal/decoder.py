"""Every pattern of bits in the program memory is an instruction handed on whole, the end, or an error.

A decoder written from the instruction set's tables alone (`isa.OPS`, `isa.rules`) watches the words that fetch takes.
Inductive: programs of any length and content, queues that drain in any rhythm. Of the words, the solver chooses a place
in the memory and watches it, from the read to the decoder. It shows too that fetch stops: in every
cycle it takes a word, stops, or waits for a full queue, and it does not go on beyond the memory's last word.
"""

from functools import partial, reduce
from operator import or_

from amaranth.hdl import Cat, Const, Mux, Signal, Value
from amaranth.lib import data

from lepton.rtl.fetch import Fetch
from lepton.rtl.layouts import layout_of
from lepton.rtl.memory_fetch import MemoryFetch
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Opcode
from lepton.verif.formal.core import Bench, Bug, Check, sentence

TARGET = {Opcode.LOAD: "load", Opcode.MUL: "mul", Opcode.TAIL: "tail", Opcode.TABLE: "tail", Opcode.MOVE: "move"}


def any_of(conditions):
    return reduce(or_, conditions, Const(0))


def breaks(op, rule, instruction):
    """The instruction breaks the rule: its field is outside the rule's limits, and the rule applies."""
    layout = layout_of(op.fields)
    view = data.View(layout, instruction[: layout.size])
    value = Value.cast(view[rule.field])
    wrong = value < rule.low
    if rule.high is not None:
        wrong |= value > rule.high
    return wrong & (Value.cast(view[rule.when]) == rule.equals) if rule.when else wrong


def from_memory(bench, dut, inside, config: NpuConfig):
    """Words of the program memory: (one is there, it, it is the memory's, a number that falls till the last)."""
    m, running = bench.m, inside("running")

    # Words read ahead: those in the queue follow the one at `at`, then comes the one that is being read.
    ahead, asked, reading = inside("ahead"), inside("asked"), inside("reading")
    at = Signal(17)  # of the word at hand, or the next one
    m.d.sync += at.eq(Mux(dut.start, dut.pc, at + dut.moved))
    waiting = inside("count", "words")
    bench.check(ahead == waiting + asked, "every word asked for is on its way or waits")
    bench.check(ahead <= Fetch.AHEAD, "no word is read without a place for it")
    bench.check(~running | (reading == (at + ahead)[:17]), "no word is left out or read twice")
    place, content = bench.constant(17, "place"), bench.constant(64, "content")
    bench.assume(~(asked & ((reading - 1)[:17] == place)) | (dut.program.data == content))
    for k in range(Fetch.AHEAD):
        here = running & (waiting > k) & ((at + k)[:17] == place)
        item = inside(f"item{k}", "words")
        bench.check(~here | (item[:64] == content), f"word {k} of the queue is the memory's")
        there = running & (waiting > k)
        bench.check(~there | (item[64] == ((at + k)[:17] >= config.program_words)), f"word {k}: beyond the memory")
    bench.check(~(running & asked) | (inside("beyond") == ((reading - 1)[:17] >= config.program_words)), "beyond")
    word = inside("item0", "words")[:64]
    left = Signal(20)
    wait = Mux(waiting != 0, 0, Mux(asked, 1, 2))  # cycles until a word is at hand
    m.d.comb += left.eq((Mux(at > config.program_words, 0, config.program_words - at) << 2) + wait)
    return inside("have"), word, at < config.program_words, left


def from_stream(bench, dut, inside, config: NpuConfig):
    """Words that come as a stream, which `memory_port` looks after: whether they end is the stream's matter."""
    words = dut.program.words
    cleared = bench.past(dut.start, "anew", init=1)
    bench.assume(bench.stream_rule(words, "word") | cleared)
    bench.check(words.ready == dut.moved, "a word is taken from the stream once")
    return words.valid, words.payload[:64], ~words.payload[64], None


def decoder(config: NpuConfig) -> Bench:
    bench = Bench()
    m = bench.m
    dut = MemoryFetch(config) if config.memory_width else Fetch(config)
    ops = isa.operations(config)
    target = {op.opcode: TARGET[op.opcode] for op in ops if op.opcode in TARGET}
    inside = bench.unit(dut, "dut")
    running = inside("running")
    places = {name: timing.MOVE_QUEUE if name == "move" else Fetch.DEPTH for name in dut.PAYLOADS}
    room = {name: inside("count", f"queue_{name}") != places[name] for name in places}
    for name in room:
        bench.check(inside("count", f"queue_{name}") <= places[name], f"{name}: no overflow")
    source = from_stream if config.memory_width else from_memory
    have, word, inside_memory, far = source(bench, dut, inside, config)
    # Words of the instruction so far, as the memory gave them.
    words = [Signal(64, name=f"word_{k}") for k in range(3)]
    index = Signal(2)
    opcode = Signal(4)
    m.d.comb += opcode.eq(Mux(index == 0, word, words[0])[:4])
    now = have & running
    known = any_of(opcode == op.opcode for op in ops)
    last = any_of((opcode == op.opcode) & (index == op.words - 1) for op in ops)
    end = now & inside_memory & (opcode == Opcode.END)
    error = now & (~inside_memory | ~known)
    waits = any_of((opcode == code) & ~room[queue] for code, queue in target.items()) & last
    take = now & ~error & ~end & ~waits
    whole = Signal(256)
    with m.Switch(index):
        for k in range(4):
            with m.Case(k):
                m.d.comb += whole.eq(Cat(*words[:k], word))
    broken = Signal()
    broken_before = Signal()
    for op in ops:
        for rule in isa.rules(op, config):
            at_word = isa.last_word(op, rule)
            wrong = breaks(op, rule, whole)
            with m.If((opcode == op.opcode) & (index >= at_word) & wrong):
                m.d.comb += broken.eq(1)
            with m.If((opcode == op.opcode) & (index > at_word) & wrong):
                m.d.comb += broken_before.eq(1)
    with m.If(take):
        m.d.sync += index.eq(Mux(last, 0, index + 1))
        with m.Switch(index):
            for k in range(3):
                with m.Case(k):
                    m.d.sync += words[k].eq(word)
    with m.If(dut.start):
        m.d.sync += index.eq(0)

    # Agreement of the two decoders.
    bench.check(~(running & (index != 0)) | (inside("held") == words[0][:4]), "opcode")
    bench.check(~running | (inside("index") == index), "words so far")
    for k in range(3):
        bench.check(~(running & (index > k)) | (inside(f"part{k}") == words[k]), f"word {k}")
    shorter = any_of((words[0][:4] == op.opcode) & (index < op.words) for op in ops)
    bench.check(~(running & (index != 0)) | shorter, "an instruction is not longer than its words")
    bench.check(~(running & (index != 0)) | ~broken_before, "a broken rule stopped it before")

    # What becomes of every word.
    bench.check(dut.moved == take, "a word is taken unless it ends, errs or waits")
    for name in room:
        mine = any_of(opcode == code for code, at in target.items() if at == name)
        queue = f"queue_{name}"
        count = inside("count", queue)
        handed = bench.past(take & last & mine, f"{name}_handed")
        bench.check(
            count == bench.past(count - inside("pop", queue), f"{name}_left") + handed,
            f"{name}: handed on by its last word",
        )
        if name == "move":
            newest = inside.read(bench, (inside("end", queue) - 1)[:2], queue, "items")
        else:
            newest = Mux(count == 1, inside("item0", queue), inside("item1", queue))
        before = bench.past(whole[: len(newest)], f"{name}_whole")
        bench.check(~handed | (newest == before), f"{name}: all of it, unchanged")
    quiet = ~bench.past(dut.start, "was_start")
    stopped = bench.past(~running & ~dut.start, "was_stopped")
    bench.check(~quiet | ~bench.past(end, "was_end") | dut.done_fetching, "END ends")
    bench.check(
        ~quiet | ~bench.past(error, "was_error") | dut.error, "what is unknown, and what lies outside, is an error"
    )
    bench.check(~quiet | ~bench.past(take & broken, "was_broken") | dut.bad, "what breaks a rule is an error")
    was_good = bench.past(take & ~broken, "was_good")
    bench.check(~quiet | ~was_good | (running & ~dut.bad & ~dut.error), "what breaks no rule goes on")
    over = dut.done_fetching | dut.error | dut.bad
    bench.check(~(running & over), "stopped is stopped")
    bench.check(~stopped | ~running, "it does not start by itself")

    # It stops: `far` falls in every cycle but those that wait.
    if far is None:
        return bench
    before = bench.past(far, "left_before")
    ran = bench.past(running & ~dut.start, "ran")
    waited = bench.past(now & waits & ~error & ~end, "waited")
    bench.check(~(ran & running & quiet) | waited | (far < before), "nearer to the end in every cycle")
    return bench


CONFIG = NpuConfig(rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, params=40, program_words=64, acc_depth=16)
RING = NpuConfig(
    rows=18, cols=2, lanes=2, pe="paired", act_bytes=256, weight_tiles=16, ring_tiles=4, params=40, acc_depth=16
)
PORT = NpuConfig(
    rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, params=40, acc_depth=16, memory_width=2, memory_bytes=4096
)
CHECKS = [
    Check(
        f"decoder.{name}",
        f"{sentence(__name__)} ({what})",
        partial(decoder, config),
        "prove",
        2,
        Bug(Fetch, bug, fix, 7),
    )
    for name, what, config, bug, fix in (
        (
            "small",
            "without external weights",
            CONFIG,
            "out = value == 0 if rule.low == 1 else",
            "out = value == 2 if rule.low == 1 else",
        ),
        ("full", "with external weights and line buffers", RING, "with m.If(outside | ~known):", "with m.If(outside):"),
        ("port", "of a machine with a memory port", PORT, "with m.If(outside | ~known):", "with m.If(~known):"),
    )
]

"""Data tokens and accumulator banks are never lost or doubled, and array and tail never use the same bank.

Two halves that meet at the signals between the engines, each inductive, for programs of any length: the multiply engine
with any tail that gives back only banks it was handed, and the tail engine with any multiply engine that hands over no
more than two. What each half assumes of the other, the other half proves.
"""

from functools import reduce
from operator import add

from amaranth.hdl import Cat, Const, Mux, ResetSignal, Signal, Value
from amaranth.lib import data

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.layouts import mul_layout, tail_layout
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.tail import TailEngine
from lepton.rtl.tail_banks import TailBanks
from lepton.rtl.tile_stage import TileStage
from lepton.verif.formal.core import Bench, Bug, Check

CONFIG = NpuConfig(
    rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, ring_tiles=4, params=40, program_words=64, acc_depth=16
)


def total(bits):
    return reduce(add, bits, Const(0))


def array_side() -> Bench:
    bench = Bench()
    m = bench.m
    dut = MultiplyEngine(CONFIG)
    inside = bench.unit(dut, "dut")
    mul = data.View(mul_layout(CONFIG), dut.i.payload[: mul_layout(CONFIG).size])
    vectors, handing = dut.timing.sums, dut.timing.bank_ready
    enable = [inside(f"a_en_{k}") for k in range(1, vectors + 1)]
    bank_of = [inside(f"where_{k}")[0] for k in range(1, vectors + 1)]
    ready = [inside(f"ready_{k}") for k in range(1, handing + 1)]
    for k in range(Accumulators.A_LATENCY - 1):  # the accumulators work on a sum that long
        enable.append(bench.past(enable[-1], f"working_{k}"))
        bank_of.append(bench.past(bank_of[-1], f"working_bank_{k}"))

    # The tail, as far as it matters: banks handed over and not given back, in turn.
    tail = Signal(2)
    first = Signal()  # the bank it gives back next
    m.d.sync += [tail.eq(tail + dut.banks.ready - dut.banks.free), first.eq(first ^ dut.banks.free)]
    bench.assume(~dut.banks.free | (tail != 0))

    pending = inside("running", "vector_walk") & inside("v_release")
    on_the_way = total(ready) + pending
    bench.check(
        inside("banks_free") + inside("have_bank") + on_the_way + tail == 2,
        "banks free, filled, on the way and at the tail are two",
    )
    bench.check(inside("bank", "tile_stage") == (first ^ (tail + on_the_way)[0]), "banks are filled in turn")
    older = tail + total(ready)
    current = inside("running", "vector_walk")
    bench.check(~current | ((older <= 1) & (inside("v_bank") == (first ^ older[0]))), "a running pass fills its own")
    for k in range(len(enable)):
        older = tail + total(ready[k + 1 :])
        mine = (older <= 1) & (bank_of[k] == (first ^ older[0]))
        bench.check(~enable[k] | mine, f"the bank of the sum issued {k + 1} cycles ago is not the tail's")
    bench.check(tail <= 2, "two banks")

    # Tokens: given less taken are kept; a MUL that waits takes one, with its first tile.
    most = CONFIG.program_words // isa.TAIL.words
    given, taken, asked = Signal(16), Signal(16), Signal(16)
    take = inside("take_token")
    m.d.sync += [given.eq(given + dut.banks.token), taken.eq(taken + take)]
    m.d.sync += asked.eq(asked + (dut.i.valid & dut.i.ready & mul.wait))
    kept = Signal(16)
    m.d.comb += kept.eq(given - taken)
    bench.assume(kept + dut.banks.token <= most)
    bench.check(inside("tokens") == kept, "tokens given are taken or kept")
    bench.check(~take | (inside("tokens") != 0), "a token is taken only when there is one")
    waiting = inside("need_token") & inside("held")
    bench.check(asked == (taken + waiting)[:16], "a MUL takes the token it asks for, once")
    return bench


def tail_side() -> Bench:
    bench = Bench()
    m = bench.m
    dut = TailEngine(CONFIG)
    inside = bench.unit(dut, "dut")
    drain, to_acc = dut.timing.drain, dut.timing.to_acc
    bench.assume(~dut.bad_bank | ResetSignal())  # the accelerator clears the engines then

    def check(condition, name):
        bench.check(dut.bad_bank | condition, name)

    # The other side: no more than two banks are at the tail.
    there = Signal(2)
    first = Signal()  # the bank given back next
    m.d.sync += [there.eq(there + dut.banks.ready - dut.banks.free), first.eq(first ^ dut.banks.free)]
    bench.assume(~dut.banks.ready | (there != 2))
    check(there <= 2, "two banks")
    check(~dut.banks.free | (there != 0), "gives back only what it was handed")

    valid = [inside(f"valid_{k}") for k in range(1, drain + 1)]
    ended = [inside(f"ended_{k}") for k in range(1, drain + 1)]
    closes = [inside(f"closes_{k}") for k in range(1, drain + 1)]
    have, run, begun, busy = (inside(name) for name in ("have", "run", "begun", "busy"))
    holding, closing, credit = inside("holding"), inside("closing"), inside("credit")
    layout = tail_layout(CONFIG)
    ins, back = data.View(layout, inside("ins")), data.View(layout, inside("back"))
    reading = have & begun

    check(~run | reading, "reads belong to an instruction")
    same = Value.cast(ins) == Value.cast(back)
    starts_now = inside("starts_now")  # its first read: it gets into the pipeline at the end of this cycle
    check(~starts_now | (reading & ~Cat(*valid, *ended).any()), "nothing is in the pipeline before the first read")
    check(~reading | starts_now | same, "the pipeline's instruction is the one that reads")
    check(busy == (total(ended) + reading)[0], "busy from the first read to the last write")
    check(total(ended) + reading <= 1, "one instruction at a time")
    check(closing == total(closes)[0], "a closing bank waits for its last word")
    check(~(closing & (run | holding)), "nothing is read, or held, while a bank closes")
    check(total(closes) <= 1, "one bank closes at a time")
    check(there == credit + holding + closing + dut.banks.free, "banks handed over wait, are held, close, or go back")

    # Tokens: one for every TAIL that posts, at its end.
    accepted = dut.i.valid & dut.i.ready
    new = data.View(layout, dut.i.payload[: layout.size])
    asked, given = Signal(16), Signal(16)
    m.d.sync += [
        asked.eq(asked + (accepted & new.post & (new.opcode != isa.Opcode.TABLE))),
        given.eq(given + dut.banks.token),
    ]
    open_posts = (have & ~begun & ins.post) + (busy & Mux(starts_now, ins.post, back.post))
    check(asked == (given + open_posts)[:16], "a TAIL gives the token it promises, once")

    # The bank it uses is its own: reads now, words on their way to the accumulator.
    check(dut.acc.bank == (first ^ dut.banks.free), "it works on the bank it gives back next")
    safe = there - dut.banks.free != 0
    check(~run | holding, "it reads a bank it holds")
    check(~dut.acc.r_en | safe, "it reads only a bank that is at the tail")
    for k in range(1, drain + 1):
        check(~valid[k - 1] | reading | Cat(ended[:k]).any(), f"read {k} cycles ago: its instruction has not ended")
    for k in range(1, to_acc + 1):
        younger_close = total(closes[:k])
        check(
            ~(valid[k - 1] & back.to_acc) | (busy & (holding | younger_close[0])),
            f"a word written {to_acc - k} cycles on",
        )
    check(~dut.acc.w_en | safe, "it writes only a bank that is at the tail")
    wrote, bank_then = bench.past(dut.acc.w_en, "wrote"), bench.past(dut.acc.bank, "bank_then")
    check(~wrote | (safe & (dut.acc.bank == bank_then)), "and that stays there while the word is written")
    return bench


CHECKS = [
    Check(
        "tokens.array",
        "Multiply engine: tokens given are taken or kept, banks free, filled, on the way and at the tail are two, and "
        "no sum reaches a bank of the tail",
        array_side,
        "prove",
        2,
        Bug(
            TileStage,
            "m.d.sync += [have_bank.eq(0), bank.eq(~bank)]",
            "m.d.sync += [have_bank.eq(acquire), bank.eq(~bank)]",
            30,
        ),
    ),
    Check(
        "tokens.tail",
        "Tail engine: every TAIL gives its token once, every bank is given back once, and it uses only banks it holds",
        tail_side,
        "prove",
        2,
        Bug(
            TailBanks,
            "free.eq((release & ~ins.to_acc) | self.closed)",
            "free.eq(release | self.closed)",
            40,
        ),
    ),
]

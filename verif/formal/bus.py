"""The buses' rules are kept, with whatever is on their other sides, as long as that keeps them, too.

AXI: what was offered stays; WLAST is with a burst's last beat; no burst crosses 4 KB; no read is asked for before the
writes before it are answered; every request has one answer. Wishbone: STB only with CYC, a beat stays until it is
answered, a burst has its beats, in order, the last of them marked. Registers: every access ends, and none during a run
changes it. Inductive, of runs of any length.
"""

from functools import partial

from amaranth.hdl import Mux, Signal, Value

from lepton.rtl.bus.axi import AxiControl, AxiMemory
from lepton.rtl.bus.control import ControlRegisters
from lepton.rtl.bus.wishbone import WishboneControl, WishboneMemory
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Reg
from lepton.rtl.spec.registers import REGISTERS
from lepton.verif.formal.core import Bench, Bug, Check
from lepton.verif.formal.memory_port import in_page

WIDTH = 2
WRITES = 2
"""Write bursts under way in the proof; what the adapter does does not depend on it."""
BEATS = 4
CONFIG = NpuConfig(memory_width=4, memory_bytes=1 << 24)


def channel(bench: Bench, bus, name: str, *signals: str):
    """Condition: what was offered at this channel and not taken is still there, unchanged."""
    valid, ready = getattr(bus, name + "valid"), getattr(bus, name + "ready")
    held = bench.past(valid & ~ready, f"{name}_held")
    rule = valid
    for signal in signals:
        value = Value.cast(getattr(bus, name + signal))
        rule &= value == bench.past(value, f"{name}{signal}_before")
    return ~held | rule


def port(bench: Bench, memory) -> None:
    """The machine at its memory port."""
    bench.assume(bench.stream_rule(memory.a, "a"))
    bench.assume(bench.stream_rule(memory.w, "w"))
    bench.assume(~memory.a.valid | in_page(memory.a.payload, WIDTH))
    bench.assume(memory.a.payload.address[: WIDTH.bit_length() - 1] == 0)
    bench.assume(memory.a.payload.beats < BEATS)


def axi_memory() -> Bench:
    bench = Bench()
    m = bench.m
    dut = AxiMemory(WIDTH, writes=WRITES)
    inside = bench.unit(dut, "dut")
    axi, memory = dut.axi, dut.memory
    port(bench, memory)
    address = "id addr len size burst lock cache prot qos".split()
    for name in ("aw", "ar"):
        bench.check(channel(bench, axi, name, *address), f"{name}: an offer stands")
        valid, length = getattr(axi, name + "valid"), getattr(axi, name + "len")
        first = getattr(axi, name + "addr")
        size = (length + 1) << getattr(axi, name + "size")
        bench.check(~valid | (first[:12] + size <= 4096), f"{name}: no burst crosses 4 KB")
        bench.check(~valid | (getattr(axi, name + "burst") == 1), f"{name}: INCR")
        bench.check(~valid | (1 << getattr(axi, name + "size") == WIDTH), f"{name}: whole beats")
    bench.check(channel(bench, axi, "w", "data", "strb", "last"), "w: an offer stands")

    # Write bursts, numbered: asked for, their data sent, answered.
    bits = 4
    asked, sent, answered = (Signal(bits, name=name) for name in ("asked", "sent", "answered"))
    goes, ends, comes = axi.awvalid & axi.awready, axi.wvalid & axi.wready & axi.wlast, axi.bvalid & axi.bready
    m.d.sync += [asked.eq(asked + goes), sent.eq(sent + ends), answered.eq(answered + comes)]
    bench.assume(~axi.bvalid | (answered != sent))  # an answer comes behind the burst's last beat
    open_writes = (asked - answered)[:bits]
    unsent = (asked - sent)[:bits]
    queued = inside("count", "lengths")
    bench.check(inside("open_writes") == open_writes, "write bursts are counted")
    bench.check((open_writes <= WRITES) & (unsent <= open_writes), "so many at most")
    bench.check(queued == unsent, "the lengths of those that are not sent")
    bench.check(~axi.arvalid | (open_writes == 0), "no read before the writes before it are answered")
    bench.check(axi.bready, "answers are taken")
    bench.check(~memory.idle | ((open_writes == 0) & ~bench.past(goes, "went")), "idle: no write is under way")
    bench.check(~axi.wvalid | (unsent != 0), "no data without its burst")

    # Its beats: the watched burst's are as many as were asked for, the last one marked.
    beats = inside("beats")
    lengths = [inside(f"item{k}", "lengths") for k in range(WRITES)]
    choose = bench.free(1, "choose")
    tracked, ahead, length, number = Signal(), Signal(range(WRITES + 1)), Signal(8), Signal(8)
    take = choose & goes & ~tracked
    mine = tracked & (ahead == 0)
    beat = axi.wvalid & axi.wready
    with m.If(take):
        m.d.sync += [tracked.eq(1), ahead.eq(unsent - ends), length.eq(memory.a.payload.beats), number.eq(0)]
    with m.Elif(tracked):
        m.d.sync += [
            ahead.eq(ahead - (ends & (ahead != 0))),
            tracked.eq(~(mine & ends)),
            number.eq(number + (mine & beat)),
        ]
    here = lengths[0]
    for k in range(1, WRITES):
        here = Mux(ahead == k, lengths[k], here)
    bench.check(~tracked | ((ahead < unsent) & (here == length)), "the burst waits as it was asked for")
    bench.check(Mux(queued == 0, beats == 0, beats <= lengths[0]), "no burst is longer than asked for")
    bench.check(~tracked | (number == Mux(ahead == 0, beats, 0)), "its beats are counted")
    bench.check(~(mine & axi.wvalid) | (axi.wlast == (number == length)), "WLAST is with its last beat")
    bench.check(beat == (memory.w.valid & memory.w.ready), "one beat of the machine's for one of the bus's")
    moved = memory.a.valid & memory.a.ready
    bench.check(moved == (goes | (axi.arvalid & axi.arready)), "one burst for one")
    bench.check((memory.r.valid & memory.r.ready) == (axi.rvalid & axi.rready), "and one beat read")
    bad = (comes & axi.bresp[1]) | (axi.rvalid & axi.rready & axi.rresp[1])
    bench.check(memory.error == bench.past(bad, "bad"), "what failed is told")
    free = (open_writes != WRITES) & (queued != WRITES)
    bench.check(
        ~(memory.a.valid & memory.a.payload.write & free) | axi.awvalid,
        "a write is offered when there is a place for it",
    )
    bench.check(
        ~(memory.a.valid & ~memory.a.payload.write & (open_writes == 0)) | axi.arvalid, "a read when no write is open"
    )
    return bench


def answers(bench: Bench, control) -> None:
    """The registers at an adapter's ``control``: done while something is asked, not in the cycle it is asked first."""
    asked = bench.past(control.en & ~control.done, "asked")
    bench.assume(~control.done | (asked & control.en))


def axi_control() -> Bench:
    bench = Bench()
    m = bench.m
    dut = AxiControl()
    inside = bench.unit(dut, "dut")
    axi, control = dut.axi, dut.control
    answers(bench, control)
    bench.assume(channel(bench, axi, "aw", "addr", "prot"))
    bench.assume(channel(bench, axi, "ar", "addr", "prot"))
    bench.assume(channel(bench, axi, "w", "data", "strb"))
    bench.check(channel(bench, axi, "b", "resp"), "b: an answer stands")
    bench.check(channel(bench, axi, "r", "resp", "data"), "r: an answer stands")
    writes, reads = Signal(), Signal()  # taken, and not answered
    write, read = axi.awvalid & axi.awready, axi.arvalid & axi.arready
    bench.check(write == (axi.wvalid & axi.wready), "a write's address and data are taken together")
    m.d.sync += [
        writes.eq((writes | write) & ~(axi.bvalid & axi.bready)),
        reads.eq((reads | read) & ~(axi.rvalid & axi.rready)),
    ]
    bench.check(~(writes & (write | read)) & ~(reads & (write | read)) & ~(write & read), "one access at a time")
    bench.check(~axi.bvalid | writes, "an answer to a write, and one")
    bench.check(~axi.rvalid | reads, "an answer to a read, and one")
    idle, take, access, answer = (inside.state(name) for name in ("IDLE", "TAKE", "ACCESS", "ANSWER"))
    bench.check(~take | (write | read), "what was seen is still there")
    bench.check((access | answer) == (writes | reads), "the answer is under way")
    bench.check(axi.bvalid == (answer & control.write), "and offered to the writer")
    bench.check(axi.rvalid == (answer & ~control.write), "or the reader")
    bench.check(~(writes & reads), "of one access")
    bench.check(~(access | take) | ~(axi.bvalid | axi.rvalid), "not before it is known")
    bench.check(~(access | answer) | (control.write == writes), "the access that was asked for")
    waits = bench.past(control.en & ~control.done, "waits")
    for name in ("write", "word", "data", "whole"):
        value = getattr(control, name)
        bench.check(~waits | (value == bench.past(value, f"{name}_before")), f"{name} stays until it is done")
    bench.check(~waits | control.en, "it is asked for until it is done")
    ended = bench.past(control.done, "ended")
    error, got = bench.past(control.error, "error"), bench.past(control.read, "got")
    bench.check(~ended | (Mux(axi.bvalid, axi.bresp, axi.rresp) == error << 1), "an error is SLVERR")
    bench.check(~(ended & axi.rvalid) | (axi.rdata == got), "the value read is the register's")
    # Who waits is passed by one access of the other kind.
    passed_write, passed_read = Signal(), Signal()
    asks = axi.awvalid & axi.wvalid
    m.d.sync += [
        passed_write.eq(asks & ~write & (passed_write | read)),
        passed_read.eq(axi.arvalid & ~read & (passed_read | write)),
    ]
    last = inside("read_last")
    bench.check(~passed_write | last | write, "a write that was passed is next")
    bench.check(~passed_read | ~last | read, "a read that was passed is next")
    bench.check(~(passed_write & read) & ~(passed_read & write), "nobody is passed twice")
    bench.check(~(take & read) | last, "the turn is the read's")
    bench.check(~(take & write) | ~last, "the turn is the write's")
    bench.check(idle | take | access | answer, "states")
    return bench


def wishbone_memory() -> Bench:
    bench = Bench()
    m = bench.m
    dut = WishboneMemory(WIDTH)
    inside = bench.unit(dut, "dut")
    wb, memory = dut.wb, dut.memory
    port(bench, memory)
    term = wb.stb & (wb.ack | wb.err)
    bench.check(~wb.stb | wb.cyc, "STB only with CYC")
    held = bench.past(wb.stb & ~term, "held")
    for name in "stb cyc we adr sel cti bte".split():
        value = getattr(wb, name)
        bench.check(
            ~held | (value == bench.past(value, f"{name}_before")), f"{name}: a beat stays until it is answered"
        )
    bench.check(~(held & wb.we) | (wb.dat_w == bench.past(wb.dat_w, "dat_before")), "so do its bytes")
    left, queued = inside("left"), inside("count", "queue")
    bench.check(queued <= 2, "no overflow")
    bench.check(~(term & ~wb.we) | (queued != 2), "a beat read has its place")

    # The burst under way.
    goes = memory.a.valid & memory.a.ready
    on, start, length, write, done = Signal(), Signal(32), Signal(8), Signal(), Signal(8)
    with m.If(goes):
        payload = memory.a.payload
        m.d.sync += [on.eq(1), start.eq(payload.address), length.eq(payload.beats), write.eq(payload.write), done.eq(0)]
    with m.Elif(term):
        m.d.sync += [done.eq(done + 1), on.eq(done != length)]
    bench.check(wb.cyc == on, "CYC from a burst's beginning to its last beat")
    bench.check(~goes | ~wb.cyc, "one burst at a time")
    bench.check(~on | (wb.we == write), "of its kind")
    bench.check(~on | ((done <= length) & (left == length - done)), "its beats are counted")
    bench.check(~on | (length < BEATS), "it is short")
    bench.check(~on | (start[:12] + (length + 1) * WIDTH <= 4096), "in its page")
    bench.check(~on | (wb.adr == (start + done * WIDTH)[:32]), "addresses are consecutive")
    bench.check(~on | ((wb.bte == 0) & (wb.cti == Mux(done == length, 7, 2))), "the last beat is marked, and it alone")
    bench.check(~(wb.stb & wb.we) | (memory.w.valid & (wb.dat_w == memory.w.payload.data)), "the machine's bytes")
    bench.check(~(wb.stb & wb.we) | (wb.sel == memory.w.payload.mask), "those that are written")
    bench.check((memory.w.valid & memory.w.ready) == (term & wb.we), "one beat for one")
    bench.check(~memory.idle | ~(on & write), "idle: no write is under way")
    bench.check(memory.error == bench.past(term & wb.err, "bad"), "what failed is told")
    bench.check(bench.stream_rule(memory.r, "r"), "beats read stay offered")
    return bench


def wishbone_control() -> Bench:
    bench = Bench()
    dut = WishboneControl()
    bench.unit(dut, "dut")
    wb, control = dut.wb, dut.control
    answers(bench, control)
    bench.check(~(wb.ack | wb.err) | (wb.cyc & wb.stb), "an answer only to what is asked")
    bench.check(~(wb.ack & wb.err), "one answer")
    bench.check(~control.done | (wb.ack | wb.err), "every access is answered")
    bench.check(control.en == (wb.cyc & wb.stb), "every cycle is an access")
    return bench


def registers() -> Bench:
    bench = Bench()
    m = bench.m
    dut = ControlRegisters(CONFIG)
    inside = bench.unit(dut, "dut")
    control, run = dut.control, dut.run
    waits = bench.past(control.en & ~control.done, "waits")
    bench.assume(~waits | control.en)
    for name in ("write", "word", "data", "whole"):
        value = getattr(control, name)
        bench.assume(~waits | (value == bench.past(value, f"{name}_before")))
    # A run begins with `start` only.
    busy = bench.past(run.busy, "was_busy")
    bench.assume(~run.busy | busy | run.start)
    bench.assume(~run.start | run.busy)

    since = Signal(3)  # cycles that an access has waited
    m.d.sync += since.eq(Mux(control.en & ~control.done, since + 1, 0))
    walking = inside.state("BYTES")
    byte = dut.write.byte
    bench.check(~walking | (byte <= 3), "four bytes")
    bench.check(walking | (byte == 0), "from the first on")
    bench.check(~walking | (waits & control.write & control.whole & (since == byte + 1)), "of the access under way")
    in_bases = (control.word == Reg.IMAGE) | (control.word == Reg.ARENA)
    bench.check(~walking | in_bases, "to a base")
    bench.check(since <= 5, "every access ends")
    bench.check(~control.done | waits, "and was asked for")
    bench.check((since == 0) | walking | control.done, "it is under way")
    bench.check(~dut.write.en | ~run.busy, "no base changes during a run")
    kept = inside("kept")
    bench.check(~dut.write.en | ~kept, "no base changes under LOCK")
    bench.check(~bench.past(kept, "kept_before") | kept, "which stays")
    bench.check(~dut.write.en | in_bases, "nothing else is written")
    bench.check(~run.start | ~busy, "no run begins during another")
    known = Value.cast(0)
    for register in REGISTERS:
        known |= control.word == register.number
    asked = bench.past(control.en & ~control.done & ~known, "unknown")
    bench.check(~asked | (control.done & control.error), "no register, an error")
    pending, enable = inside("pending"), inside("enable")
    bench.check(control.irq == bench.past((pending & enable).any(), "raised"), "the interrupt is a level")
    return bench


def check(name: str, proves: str, build, bug: Bug) -> Check:
    return Check(f"bus.{name}", proves, partial(build), "prove", 2, bug, quick=True)


CHECKS = [
    check(
        "axi_memory",
        "AXI4 manager: offers stand, WLAST, 4 KB, reads behind the writes before them, one answer each, errors told",
        axi_memory,
        Bug(AxiMemory, "may_read.eq(open_writes == 0)", "may_read.eq(~lengths.o.valid)"),
    ),
    check(
        "axi_control",
        "AXI4-Lite subordinate: one answer to each access, which stands; reads and writes take turns",
        axi_control,
        Bug(AxiControl, "axi.bvalid.eq(control.write)", "axi.bvalid.eq(1)"),
    ),
    check(
        "wishbone_memory",
        "Wishbone master: a beat stays until it is answered, bursts have their beats in order, the last one marked",
        wishbone_memory,
        Bug(WishboneMemory, "wb.cti.eq(Mux(last, END, INCREMENTING))", "wb.cti.eq(Mux(left == 1, END, INCREMENTING))"),
    ),
    check(
        "wishbone_control",
        "Wishbone slave: every access has one answer, and none comes unasked",
        wishbone_control,
        Bug(WishboneControl, "wb.ack.eq(control.done & ~control.error)", "wb.ack.eq(control.done)"),
    ),
    check(
        "registers",
        "Registers: every access ends within 6 cycles; the bases rest during a run and under LOCK, no second run",
        registers,
        Bug(ControlRegisters, "locked.eq(run.busy | kept)", "locked.eq(run.start | kept)"),
    ),
]

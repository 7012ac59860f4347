"""Users of the memory port get their turns and their beats, and the program's words arrive as they lie in memory.

The arbiter with any clients and any memory that answers in order, in any rhythm: a burst's offer is passed by at most
one of each other client; the solver chooses a burst and watches its beats. The program stream with any memory that
answers what was asked: it asks for no burst that crosses 128 bytes or the end of the memory, nothing without a place in
the ring, and the word that the solver watches leaves unchanged, in its turn. Inductive, of runs of any length.
"""

from functools import partial, reduce
from operator import add

from amaranth.hdl import Cat, Const, Mux, Signal, Value
from amaranth.lib import data

from lepton.rtl.memory_arbiter import MemoryArbiter
from lepton.rtl.program_stream import ProgramStream
from lepton.rtl.spec.config import NpuConfig
from lepton.verif.formal.core import Bench, Bug, Check

WIDTH = 2
READS, WRITES = 3, 2
"""Bursts under way in the proof of their order, fewer than there may be: what a queue does does not depend on it."""
BEATS = 4
"""And beats of a burst, at most."""


def arbiter(**sizes):
    bench = Bench()
    dut = MemoryArbiter(WIDTH, **sizes)
    return bench, dut, bench.unit(dut, "dut"), [getattr(dut, name) for name in MemoryArbiter.CLIENTS]


def in_page(burst, width: int):
    return burst.address[:12] + (burst.beats + 1) * width <= 4096


def fair() -> Bench:
    bench, dut, inside, clients = arbiter()
    m, count = bench.m, len(clients)
    grants = [client.a.valid & client.a.ready for client in clients]
    cleared = bench.past(dut.clear, "cleared")
    for k, client in enumerate(clients):
        rule = bench.stream_rule(client.a, f"a{k}")
        bench.assume(rule | cleared if k < MemoryArbiter.CLEARED else rule)
        bench.assume(~client.a.valid | in_page(client.a.payload, WIDTH))
    turn = inside("turn")
    bench.check(turn < count, "somebody had the last turn")
    free = ~dut.memory.a.valid | dut.memory.a.ready
    room = (inside("count", "reads") != 8) & (inside("count", "writes") != 4)
    anybody = Cat(client.a.valid for client in clients).any()
    bench.check(Cat(grants).any() == (anybody & free & room), "when there is room, one that asks has its turn")
    bench.check(sum(grants, Const(0, 2)) <= 1, "and one only")
    for k, client in enumerate(clients):
        waits = client.a.valid & ~client.a.ready
        for j in range(count):
            if j == k:
                continue
            passed = Signal(name=f"passed_{k}_{j}")  # j had a turn while k waited
            clear = dut.clear if k < MemoryArbiter.CLEARED else Const(0)
            m.d.sync += passed.eq(waits & ~clear & (passed | grants[j]))
            distance = (turn + count - j) % count
            bench.check(~passed | (distance < (k - j) % count), f"{k} is before {j} now")
            bench.check(~(passed & waits & grants[j]), f"{j} does not pass {k} twice")
        bench.check(
            ~bench.past(grants[k], f"granted_{k}")
            | (
                dut.memory.a.valid
                & (Value.cast(dut.memory.a.payload) == bench.past(Value.cast(client.a.payload), f"asked_{k}"))
            ),
            f"{k}: its burst is at the port, unchanged",
        )
    bench.check(bench.stream_rule(dut.memory.a, "a"), "bursts stay offered")
    bench.check(bench.stream_rule(dut.memory.w, "w"), "beats stay offered")
    bench.check(~dut.memory.a.valid | in_page(dut.memory.a.payload, WIDTH), "no burst crosses 4 KB")
    return bench


def order(write: bool) -> Bench:
    """Beats of one kind."""
    bench, dut, inside, clients = arbiter(reads=READS, writes=WRITES)
    m, memory = bench.m, dut.memory
    name, kind = ("writes", "write") if write else ("reads", "read")
    depth = WRITES if write else READS
    queue = [data.View(data.StructLayout({"client": 2, "beats": 8}), inside(f"item{i}", name)) for i in range(depth)]
    count, done = inside("count", name), inside(f"{kind}_done")
    held, old = inside(f"{kind}_held"), inside(f"{kind}_old")
    grants = [client.a.valid & client.a.ready for client in clients]
    chosen = inside("chosen")
    granted, beats = Signal(), Signal(8)
    for k, client in enumerate(clients):
        with m.If(grants[k] & (client.a.payload.write == write)):
            m.d.comb += [granted.eq(1), beats.eq(client.a.payload.beats)]

    # Beats are numbered: those asked for, and those that have passed.
    bits = 5
    for client in clients:
        bench.assume(client.a.payload.beats < BEATS)
    total, passed = Signal(bits), Signal(bits)
    beat = inside(f"{kind}_beat")
    m.d.sync += [total.eq(total + Mux(granted, beats + 1, 0)), passed.eq(passed + beat)]
    sums = [Const(0, bits)]
    for item in queue:
        sums.append((sums[-1] + item.beats + 1)[:bits])
    in_queue = sums[-1]
    for k in range(depth - 1, -1, -1):
        in_queue = Mux(count == k, sums[k], in_queue)
    bench.check(count <= depth, "no overflow")
    bench.check((count == held) & (old <= held), "bursts are counted")
    bench.check(
        (total - passed)[:bits] == (in_queue - done)[:bits], "beats to come are those of the bursts in the queue"
    )
    bench.check(Mux(count == 0, done == 0, done <= queue[0].beats), "a burst is not longer than it was asked for")
    for k in range(depth):
        known = (queue[k].client < 3) & (queue[k].beats < BEATS)
        bench.check((count <= k) | known, f"burst {k} is a client's")
    bench.check(~memory.a.valid | (memory.a.payload.beats < BEATS), "so is the one at the port")

    if not write:  # the memory answers what it was asked, and no more
        at_port = Signal(bits)  # read beats asked for that the memory knows of
        taken = memory.a.valid & memory.a.ready & ~memory.a.payload.write
        m.d.sync += at_port.eq(at_port + Mux(taken, memory.a.payload.beats + 1, 0))
        waiting = Mux(memory.a.valid & ~memory.a.payload.write, memory.a.payload.beats + 1, 0)
        bench.check((total - at_port)[:bits] == waiting, "what is not at the memory waits at the port")
        bench.assume(~memory.r.valid | (at_port != passed))
        due = (total - passed)[:bits]
        bench.check(waiting <= due, "and has not been answered")
        bench.check(~memory.r.valid | (count != 0), "a beat belongs to a burst")
        bench.check(beat == (memory.r.valid & memory.r.ready), "a beat is counted when it is taken")

    # The watched burst.
    choose = bench.free(1, "choose")
    tracked, whose, length, first = Signal(), Signal(2), Signal(8), Signal(bits)
    ahead, stale = Signal(range(depth + 1)), Signal()
    pop = beat & (done == queue[0].beats)
    over = tracked & (ahead == 0) & pop
    take = choose & granted & ~tracked
    engines = Mux(take, chosen, whose) < MemoryArbiter.CLEARED
    with m.If(take):
        m.d.sync += [tracked.eq(1), whose.eq(chosen), length.eq(beats), first.eq(total)]
        m.d.sync += [ahead.eq(count - pop), stale.eq(dut.clear & engines)]
    with m.Elif(tracked):
        m.d.sync += [ahead.eq(ahead - (pop & (ahead != 0))), tracked.eq(~over), stale.eq(stale | (dut.clear & engines))]
    here, before = queue[0], sums[0]
    for k in range(1, depth):
        here_k, before_k = queue[k], sums[k]
        here = Mux(ahead == k, Value.cast(here_k), Value.cast(here))
        before = Mux(ahead == k, before_k, before)
    bench.check(~tracked | (ahead < count), "it is in the queue")
    bench.check(~tracked | (Value.cast(here) == Cat(whose, length)), "as it was asked for")
    bench.check(
        ~tracked | ((first - passed)[:bits] == (before - done)[:bits]), "its first beat is behind those before it"
    )
    bench.check(~tracked | (stale == ((ahead < old) & (whose < MemoryArbiter.CLEARED))), "forgotten, or not")
    number = (passed - first)[:bits]
    mine = tracked & (number <= length)
    bench.check(~tracked | (length < BEATS), "it is short")
    bench.check(~tracked | (mine == (ahead == 0)), "its beats are the ones with its numbers")

    ends = [client.w if write else client.r for client in clients]
    for k, (client, end) in enumerate(zip(clients, ends)):
        moves = end.valid & end.ready
        bench.check(~(mine & moves) | ((whose == k) & ~stale), f"{k}: no beat of another's, nor of a forgotten one")
        if write:
            goes = bench.past(mine & beat & ~stale & (whose == k), f"goes_{k}")
            payload = bench.past(Value.cast(client.w.payload), f"payload_{k}")
            bench.check(~goes | (memory.w.valid & (Value.cast(memory.w.payload) == payload)), f"{k}: as it was given")
        else:
            served = mine & memory.r.valid & (whose == k)
            bench.check(~served | (end.valid == ~stale), f"{k}: its beat is shown to it")
            bench.check(~served | (memory.r.ready == (stale | end.ready)), f"{k}: taken when it takes it")
            bench.check(~(end.valid) | (end.payload == memory.r.payload), f"{k}: unchanged")
    if write:
        free = ~memory.w.valid | memory.w.ready
        ready = Const(0)
        for k, client in enumerate(clients):
            ready |= (whose == k) & client.w.valid
        bench.check(~mine | (beat == (free & (ready | stale))), "its beat goes on when the port has room")
        moved = reduce(add, [client.w.valid & client.w.ready for client in clients], Const(0, 2))
        bench.check(~mine | (moved == (beat & ~stale)), "one beat a cycle")
        dropped = bench.past(mine & beat & stale, "dropped")
        bench.check(~dropped | (memory.w.valid & (memory.w.payload.mask == 0)), "a forgotten burst writes nothing")
        quiet = (total == passed) & ~memory.w.valid & ~(memory.a.valid & memory.a.payload.write) & memory.idle
        bench.check(~dut.idle | quiet, "idle: all is written")
    return bench


def words(width: int) -> Bench:
    bench = Bench()
    m = bench.m
    config = NpuConfig(memory_width=width, memory_bytes=8192)
    dut = ProgramStream(config)
    inside = bench.unit(dut, "dut")
    read, memory = dut.read, dut.memory
    last, ring = config.memory_bytes // 8, ProgramStream.WORDS
    asking, ask, part = inside("asking"), inside("ask"), inside("part")
    ahead, reading, was_over = inside("ahead"), inside("reading"), inside("was_over")
    queued = inside("count", "words")
    bench.assume(~(read.start & dut.clear))
    bench.assume(~read.start | ~asking)  # between runs there is a clear
    begins = read.start

    # Word numbers in full: the next to leave the ring, the next to come, and beats that are due.
    # Programs that begin in the first 16 KB, of which the memory has half, are like those that begin elsewhere.
    bits = 12
    bench.assume((dut.image < 8192) & (read.pc < 1024) & (dut.image[:4] == 0))
    here, come, due = Signal(bits), Signal(bits), Signal(10)
    burst = memory.a.valid & memory.a.ready
    enter = asking & (here != come) & (ahead != 3)
    beat = memory.r.valid
    first = ((dut.image >> 3) + read.pc)[:bits]
    parts, wide = max(1, 8 // width), max(1, width // 8)
    pair = wide - 1  # bits of a word's number in a beat of two
    whole = beat & (part == parts - 1)
    with m.If(begins):
        m.d.sync += [here.eq(first), come.eq(first)]
    with m.Else():
        m.d.sync += here.eq(here + enter)
        with m.If(whole & asking):
            m.d.sync += come.eq(Cat(Const(0, pair), come[pair:] + 1))
    with m.If(dut.clear | begins):
        m.d.sync += due.eq(0)
    with m.Else():
        m.d.sync += due.eq(due + Mux(burst, memory.a.payload.beats + 1, 0) - beat)
    bench.assume(~beat | (asking & (due != 0)))

    address, beats = memory.a.payload.address, memory.a.payload.beats
    size = (beats + 1) * width
    bench.check(~memory.a.valid | ~memory.a.payload.write, "it only reads")
    bench.check(~memory.a.valid | (address[:7] + size <= 128), "no burst crosses 128 bytes")
    bench.check(~memory.a.valid | (address + size <= config.memory_bytes), "nor the end of the memory")
    bench.check(~memory.a.valid | (address & (width - 1) == 0), "it begins with a beat")
    bench.check(memory.r.ready, "beats are taken")

    on = asking
    bench.check(~on | (inside("taken") == here[:7]), "taken")
    bench.check(~on | (inside("got") == come[:7]), "got")
    bench.check(~on | (here <= come), "what is taken has come")
    bench.check(~on | (come <= ask), "what has come was asked for")
    bench.check(~on | (((ask >> 4) - (here >> 4)) <= 4), "and has its place in the ring")
    bench.check(~on | ((ask - (here & ~15)).as_unsigned()[:bits] <= ring), "no word is overwritten")
    bench.check(~on | (ask <= last) | (ask == come), "beyond the memory nothing is asked for")
    bench.check(~on | (part < parts), "part")
    bench.check(~on | (ask[bits:] == 0), "no word is far away")
    owed = (ask[:7] - Cat(Const(0, pair), come[pair:7]))[:7]
    owed = owed << (3 - (width.bit_length() - 1)) if width < 16 else owed >> 1
    bench.check(~on | (due + part == owed), "beats to come are those of the words asked for")
    bench.check(on | ((ahead == 0) & ~reading & ~was_over & (queued == 0)), "nothing is left of what was cleared")
    bench.check(ahead == queued + reading + was_over, "words are counted")
    bench.check((ahead <= 3) & ~(reading & was_over), "the queue has room for them")

    # The watched word: its beats are as the solver says; here is what leaves next of the stream.
    place, content = bench.constant(bits, "place"), bench.constant(64, "content")
    if width < 8:
        now = come == place
        shown = content.word_select(part, 8 * width)
        bench.assume(~(beat & now) | (memory.r.payload == shown))
    elif width == 8:
        bench.assume(~(beat & (come == place)) | (memory.r.payload == content))
    else:
        now = (come >> 1) == (place >> 1)
        bench.assume(~(beat & now) | (memory.r.payload.word_select(place[0], 64) == content))
    entry = inside.read(bench, place[:6] >> (wide - 1), "ring")
    lies = Value.cast(entry).word_select(place[0], 64) if wide == 2 else Value.cast(entry)
    bench.check(~(on & (here <= place) & (place < come)) | (lies == content), "it lies in the ring")
    if width < 8:
        for k in range(parts - 1):
            half = lies.word_select(k, 8 * width) == content.word_select(k, 8 * width)
            bench.check(~(on & (place == come) & (part > k)) | half, f"its part {k} lies in the ring")
    shown = inside.output("ring").word_select(inside("half"), 64) if wide == 2 else inside.output("ring")
    bench.check(~(on & reading & (here - 1 == place)) | (shown == content), "it comes out of the ring")
    items = [inside(f"item{k}", "words") for k in range(3)]
    for k in range(3):
        there = on & (queued > k) & ~items[k][64]
        bench.check(
            ~(there & (_at(here, items, queued, reading, k) == place)) | (items[k][:64] == content), f"word {k}"
        )
        if k:
            bench.check(~(on & (queued > k) & items[k - 1][64]) | items[k][64], "nothing comes behind the end")
        bench.check(~(on & (queued > k) & items[k][64]) | ((here == ask) & (here == come) & (here >= last)), "the end")
    bench.check(~(on & was_over) | ((here == ask) & (here >= last)), "the end comes when all is taken")
    bench.check(~(on & reading & (queued != 0)) | ~items[0][64], "and nothing is taken behind it")
    rule = bench.stream_rule(read.words, "words") | bench.past(dut.clear, "was_clear")
    bench.check(rule, "words stay offered")
    return bench


def _at(here, items, queued, reading, k: int):
    """Number of word k in the queue: those behind it, and the one that is read, come before `here`."""
    behind = reduce(add, [(queued > j) & ~items[j][64] for j in range(k, 3)], Const(0, 3))
    return (here - behind - reading)[: len(here)]


CHECKS = [
    Check(
        "memory_port.fair",
        "A client's burst is passed by at most one of each other client while it waits, and reaches the port unchanged",
        fair,
        "prove",
        2,
        Bug(MemoryArbiter, "range(last, last - len(clients), -1)", "range(len(clients), 0, -1)"),
    ),
    Check(
        "memory_port.reads",
        "Beats read go to the client that asked for them, in order, and those of before a clear to nobody",
        partial(order, False),
        "prove",
        2,
        Bug(MemoryArbiter, "m.d.sync += old.eq(after)", "m.d.sync += old.eq(held)", 12),
    ),
    Check(
        "memory_port.writes",
        "Beats written are those of the bursts in their order, and those of before a clear write nothing",
        partial(order, True),
        "prove",
        2,
        Bug(MemoryArbiter, "mask.eq(Mux(stale, 0, word.mask))", "mask.eq(word.mask)"),
    ),
] + [
    Check(
        f"memory_port.words{width}",
        f"The program's words come in order and unchanged, and bursts stay in their place ({width} bytes a beat)",
        partial(words, width),
        "prove",
        2,
        Bug(ProgramStream, *bug),
    )
    for width, bug in (
        (4, ("taken.eq(taken + read.en)", "taken.eq(taken + room)", 8)),
        (16, ("memory.a.payload.beats.eq(~ask[1:block])", "memory.a.payload.beats.eq(7)", 8)),
    )
]

"""MOVE takes and gives each token once, asks for no more than it has room for, and ends when memory answers.

Three parts, each inductive, for MOVEs of any shape:

- `engine`: the tokens of every MOVE, beats never without a place, stores alone, and an idle engine touches nothing
  (which after a clear it is).
- `bursts`: what is asked of memory for a run are exactly the beats from its first byte to its last.
- `accesses`: exactly as many beats the accesses of such a run take, and each access leaves fewer to come.

So no beat is awaited that was not asked for, and none is left over.
"""

from functools import reduce
from operator import add

from amaranth.hdl import Cat, Const, Mux, Signal
from amaranth.lib import data

from lepton.rtl import layouts
from lepton.rtl.layouts import MOVE_LAYOUT
from lepton.rtl.move import MoveEngine, queue_beats
from lepton.rtl.move_requests import MoveRequests, burst_beats
from lepton.rtl.move_walk import KEPT, MoveWalk
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Space
from lepton.verif.formal.core import Bench, Bug, Check, cut
from lepton.verif.formal.decoder import breaks

CONFIG = NpuConfig(
    rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, params=16, memory_width=4, memory_bytes=65536
)  # fmt: skip
POSTS = "post_load", "post_mul", "post_tail"


def total(bits):
    return reduce(add, bits, Const(0))


def legal(bench, stream):
    """What fetch lets through."""
    for rule in isa.rules(isa.MOVE, CONFIG):
        bench.assume(~stream.valid | ~breaks(isa.MOVE, rule, stream.payload))


def engine() -> Bench:
    bench = Bench()
    m = bench.m
    dut = MoveEngine(CONFIG)
    inside = bench.unit(dut, "dut")
    legal(bench, dut.i)
    bench.assume(~dut.bad_address)  # the accelerator clears the engine then
    bench.assume(inside("beats", "requests") <= burst_beats(CONFIG))  # `bursts`
    new = data.View(MOVE_LAYOUT, dut.i.payload[: MOVE_LAYOUT.size])
    accept = dut.i.valid & dut.i.ready
    depth = queue_beats(CONFIG)

    # Where a MOVE is: in the queue of jobs, at the walk (runs are left), its last run, and a store's way out.
    held = inside("count", "jobs")
    items = [data.View(layouts.move_job(CONFIG), inside(f"item{k}", "jobs")) for k in range(MoveEngine.JOBS)]
    waiting = [(held > k, item) for k, item in enumerate(items)]
    have, active, last_run = (inside(name, "walk") for name in ("have", "active", "last_run"))
    job = data.View(layouts.move_job(CONFIG), inside("job", "walk"))
    kept = data.View(data.StructLayout({name: job[name].shape() for name in KEPT}), inside("kept", "walk"))
    ending, storing = inside("ending"), inside("storing", "requests")
    places = [*waiting, (have, job), (active, kept)]
    bench.check(held <= MoveEngine.JOBS, "no job too many")
    bench.check(~active | last_run | have, "a MOVE whose runs are not all begun is held")
    for k, (there, of) in enumerate(places):
        bench.check(~there | (of.store == storing), f"loads, or a store alone (place {k})")
    bench.check(~ending | storing, "a store ends as one")
    stores = total(there for there, _ in waiting) + (have | active | ending)
    bench.check(~storing | (stores <= 1), "no two stores")
    bench.check(~(storing & have & active & last_run), "nor one behind another at the walk")
    bench.check(~(ending & (have | active)), "which ends when its walk has")

    # Tokens.
    for name, take, there, wait in (
        ("mul", dut.mul.take, dut.mul.there, new.wait_mul),
        ("tail", dut.tail.take, dut.tail.there, new.wait_tail),
    ):
        bench.check(take == (accept & wait), f"{name}: a MOVE begins with the token it asks for, and takes it once")
        bench.check(~take | there, f"{name}: a token is taken only when there is one")
    for name in POSTS:
        asked, given = Signal(16, name=f"asked_{name}"), Signal(16, name=f"given_{name}")
        post = getattr(dut, name)
        m.d.sync += [asked.eq(asked + (accept & new[name])), given.eq(given + post)]
        open_posts = total(there & item[name] for there, item in waiting)
        open_posts += (have & job[name]) + (active & last_run & kept[name])
        open_posts += (ending & inside(f"kept_{name}")) + post
        bench.check(asked == (given + open_posts)[:16], f"{name}: the token a MOVE promises is given, once")

    # Beats: asked for, or read on the chip, each has its place in the queue.
    arrives, pops = ([inside(f"{n}_{k}", "reads") for k in range(1, timing.ACT_READ + 1)] for n in ("arrives", "pops"))
    outstanding = Signal(range(2 * depth))
    m.d.sync += outstanding.eq(outstanding + inside("asked", "requests") - dut.memory.r.valid)
    bench.assume(~dut.memory.r.valid | (outstanding != 0))  # memory answers what it is asked
    queued = inside("count", "beats") + inside("o__valid", "beats")
    coming = total(a & p for a, p in zip(arrives, pops, strict=True))
    claimed = inside("claimed")
    bench.check(claimed == queued + coming + outstanding, "claimed are the beats in the queue and on their way there")
    bench.check(claimed <= depth, "no more are claimed than have a place")
    bench.check(~storing | (outstanding == 0), "a store asks for none")
    bench.check(storing | (coming == 0), "and only it reads the chip")

    # What is promised to memory it gets: beats that are at hand when a burst asks for them.
    at_hand, owed = inside("at_hand"), inside("owed")
    bench.check(Mux(storing, queued, 0) == at_hand + owed, "a store's beats are at hand, or a burst's")
    bench.check(inside("promised", "requests") <= at_hand, "no burst is asked for before its beats are there")
    bench.check(~dut.memory.w.valid | (owed != 0), "and gets no beat but its own")

    busy = Cat(dut.read.en, dut.write.en, dut.tiles.en, dut.params.en, dut.memory.a.valid, dut.memory.w.valid)
    bench.check(~dut.idle | ~busy.any(), "an idle engine touches nothing")
    bench.check(~dut.idle | ((outstanding == 0) & (owed == 0)), "awaits nothing, and owes nothing")
    for name, stream in (("a", dut.memory.a), ("w", dut.memory.w)):
        kept_back = bench.past(stream.valid & ~stream.ready, f"{name}_kept_back")
        bench.check(~kept_back | stream.valid, f"{name}: what was offered is still")
    return bench


def bursts() -> Bench:
    """The requests alone, with any chip behind them."""
    bench = Bench()
    m = bench.m
    dut = MoveRequests(CONFIG, queue_beats(CONFIG))
    inside = bench.unit(dut, "dut")
    legal(bench, dut.i)
    walking, bursting, new_run = (inside(name) for name in ("walking", "bursting", "new_run"))
    left, at, issue = inside("left"), inside("at"), inside("issue")
    run, length = inside("run"), inside("length")
    width, largest = CONFIG.memory_width, burst_beats(CONFIG)
    bench.assume(~walking | (length < 1 << 31))  # a run is no longer than memory
    bench.assume(~(walking & ~bench.past(walking, "walked")) | (length != 0))
    bench.check(~walking | ~bench.past(walking, "walked_on") | (length == bench.past(length, "length_then")), "length")

    # The run under way, as it was taken: its first byte, and what was asked for since.
    first, size, asked = Signal(32, name="first"), Signal(32, name="size"), Signal(32, name="asked_beats")
    beats = Mux(issue, inside("asked") + inside("promised"), 0)
    with m.If(new_run):
        m.d.sync += [first.eq(run), size.eq(length), asked.eq(0)]
    with m.Elif(issue):
        m.d.sync += asked.eq(asked + beats)
    low = width.bit_length() - 1
    whole = ((first[:low] + size + (width - 1)) >> low)[: len(left)]
    bench.check(~bursting | ((left + asked)[: len(left)] == whole), "left and asked for are the beats of the run")
    bench.check(~bursting | (at == ((first >> low) + asked)[: len(at)]), "the next is behind those asked for")
    bench.check(~(issue & inside("last")) | (left == beats), "the last goes to its end")
    bench.check(~issue | (beats <= left), "and not beyond it")
    bench.check(~issue | (beats <= largest), "in bursts of the largest size at most")
    part = (largest - 1).bit_length()
    bench.check(~issue | (at[:part] + beats <= largest), "none of which crosses a multiple of it")
    bench.check(bench.stream_rule(dut.a, "a"), "stream rule")
    before, asks = bench.past(left, "before"), bench.past(issue & ~inside("last"), "asks")
    bench.check(~asks | (left < before), "fewer are left after each")
    return bench


def accesses() -> Bench:
    """The walk alone."""
    bench = Bench()
    m = bench.m
    dut = MoveWalk(CONFIG)
    inside = bench.unit(dut, "dut")
    for field in ("length", "rows", "planes"):
        bench.assume(~dut.i.valid | (dut.i.payload[field] != 0))
    bench.assume(~dut.bad_address)
    o, width, size = dut.o.payload, CONFIG.memory_width, layouts.move_bytes(CONFIG)
    active, new_run, left = inside("active"), inside("new_run"), inside("left")
    job = data.View(layouts.move_job(CONFIG), inside("job"))
    have, rows_left, planes_left = inside("have"), inside("rows_left"), inside("planes_left")
    low, taken = inside("low"), inside("taken")
    act = o.space == Space.ACT
    fields = (job.length != 0) & (job.rows != 0) & (job.planes != 0) & (rows_left != 0) & (planes_left != 0)
    bench.check(~have | fields, "a run is left of what is held")
    bench.check(~(active & act) | (left != 0), "bytes are left of a run")

    # A run's beats are those from its first byte to its last, as `bursts` asks for them.
    bits = width.bit_length() - 1
    asked, popped = Signal(32), Signal(32)
    with m.If(new_run):
        m.d.sync += [asked.eq((low + job.length + (width - 1)) >> bits), popped.eq(0)]
    with m.Elif(taken & o.pops):
        m.d.sync += popped.eq(popped + 1)
    to_come = (left + o.piece * size + (width - 1)) >> bits
    bench.check(~(active & act) | (asked == popped + to_come), "beats taken and to come are those asked for")
    bench.check(~(active & act & inside("run_end")) | ((to_come == 1) & o.pops), "the last access takes the last beat")
    last_beat = inside("last_beat")
    beats = [s // width - 1 for s in (isa.memory_tile_bytes(CONFIG), isa.memory_param_bytes(CONFIG))]
    bench.check(~active | act | (last_beat == Mux(o.space == Space.WEIGHT, *beats)), "a tile's beats, an entry's")
    bench.check(~active | act | ((popped == o.beat) & (o.beat <= last_beat) & o.pops), "are taken one by one")
    bench.check(~(dut.o.valid & act) | ((o.low < o.count) & (o.count <= size)), "an access has bytes")

    # What is left falls with every access.
    rank = Cat(
        Mux(act, left, (last_beat - o.beat)[: len(last_beat)]), active, Mux(have, Cat(rows_left, planes_left), 0)
    )
    was = bench.past(have | active, "was")
    before, took = bench.past(rank, "rank"), bench.past(taken & ~(dut.i.valid & dut.i.ready) & ~new_run, "took")
    bench.check(~took | ~was | (rank < before), "fewer accesses are left after each")
    return bench


SHAPES = cut(
    *(f"dut.requests.{name}" for name in ("beats", "last", "outside")),
    *(f"dut.walk.{name}" for name in ("run_end", "last")),
)
"""How long runs are, and how many: anything, from cycle to cycle."""
CHECKS = [
    Check(
        "move.engine",
        "MOVE takes and gives each token once, has a place for every beat, and touches nothing when it is idle",
        engine,
        "prove",
        2,
        Bug(
            MoveRequests,
            "apart = ~(new.store | self.storing) | (self.drained & self.idle)",
            "apart = ~new.store | (self.drained & self.idle)",
            20,
        ),
        options=SHAPES,
    ),
    Check(
        "move.bursts",
        "A run's bursts are the beats from its first byte to its last, none too long or across a border",
        bursts,
        "prove",
        2,
        Bug(MoveRequests, "behind.eq(largest - at[:part])", "behind.eq(largest)", 8),
    ),
    Check(
        "move.accesses",
        "A run's accesses take as many beats as are asked for, and fewer are left after each",
        accesses,
        "prove",
        2,
        Bug(MoveWalk, "(piece == config.memory_width // size - 1)", "(piece == 0)", 12),
    ),
]

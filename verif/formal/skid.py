"""The queue (SkidQueue) hands on every item once, in order and unchanged, keeps an offered item, and never over- or
underflows.

A tracked item: the solver chooses one item that enters; it leaves as often as it entered, after exactly the items that
were in front of it, with the payload it came with. Proven for every width and depth in use.
"""

from functools import partial

from amaranth.hdl import Mux, Signal

from lepton.rtl.fetch import Fetch
from lepton.rtl.layouts import RUN, TILE_LAYOUT
from lepton.rtl.loader import Loader
from lepton.rtl.prefetch import Prefetch
from lepton.rtl.skid import SkidQueue
from lepton.verif.formal.core import Bench, Bug, Check, sentence


def queue(width: int, depth: int) -> Bench:
    bench = Bench()
    m = bench.m
    dut = SkidQueue(width, depth)
    inside = bench.unit(dut, "dut")
    count = inside("count")
    push, pop = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready

    bench.check(bench.stream_rule(dut.o, "o"), "stream rule")

    held = Signal(range(depth + 2))
    m.d.sync += held.eq(held + push - pop)
    bench.check(held == count, "items held are items in less items out")
    bench.check(count <= depth, "no overflow")
    bench.check(~pop | (held != 0), "no underflow")
    bench.check(dut.i.ready == (held != depth), "takes an item whenever there is room")
    bench.check(dut.o.valid == (held != 0), "offers an item whenever there is one")

    # The tracked item: taken at a moment the solver chooses, then `ahead` items in front of it.
    choose = bench.free(1, "choose")
    tracked, ahead, payload = Signal(), Signal(range(depth + 1)), Signal(width)
    take = choose & push & ~tracked
    with m.If(take):
        m.d.sync += [tracked.eq(1), ahead.eq(held - pop), payload.eq(dut.i.payload)]
    with m.Elif(tracked & pop):
        m.d.sync += [ahead.eq(ahead - 1), tracked.eq(ahead != 0)]
    bench.check(~tracked | (ahead < held), "the tracked item is in the queue")
    bench.check(~(tracked & (ahead == 0)) | (dut.o.valid & (dut.o.payload == payload)), "it leaves in its turn")
    items = [inside(f"item{k}") for k in range(depth)]
    at = items[0]
    for k in range(1, depth):
        at = Mux(ahead == k, items[k], at)
    bench.check(~tracked | (at == payload), "it is unchanged on its way")
    return bench


BUG = Bug(SkidQueue, "Mux(count > k + 1, items[k + 1], self.i.payload)", "Mux(count > k, items[k + 1], self.i.payload)")
CHECKS = [
    Check(
        f"skid.{name}",
        f"{sentence(__name__)} ({width} bits, depth {depth})",
        partial(queue, width, depth),
        "prove",
        2,
        BUG,
        True,
    )
    for name, width, depth in (
        ("load", 128, Fetch.DEPTH),
        ("instruction", 256, Fetch.DEPTH),
        ("tile", TILE_LAYOUT.size, Loader.DEPTH),
        ("run", RUN.size, Prefetch.DEPTH),
    )
]

"""At every stream that a unit drives, an item that was offered stays offered, unchanged, until it is taken.

The queues' own rules are in `skid`. The loader's and the link's are shown together with what they rest on: a queue that
is pushed without asking always has room. A reset, or prefetch's ``clear``, may withdraw an item.
"""

from amaranth.hdl import Value

from lepton.rtl.fetch import Fetch
from lepton.rtl.link import Link
from lepton.rtl.loader import Loader
from lepton.rtl.prefetch import Prefetch
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec.config import NpuConfig
from lepton.verif.formal.core import Bench, Bug, Check, sentence

CONFIG = NpuConfig(
    rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, ring_tiles=4, params=16, program_words=64, acc_depth=16
)


def fetch() -> Bench:
    bench = Bench()
    dut = Fetch(CONFIG)
    inside = bench.unit(dut, "fetch")
    for name in ("load", "mul", "tail"):
        bench.check(inside("count", f"queue_{name}") <= Fetch.DEPTH, f"{name}: no overflow")
        bench.check(bench.stream_rule(getattr(dut, f"o_{name}"), name), f"{name}: stream rule")
    return bench


def loader() -> Bench:
    bench = Bench()
    dut = Loader(CONFIG)
    inside = bench.unit(dut, "loader")
    queue, reading = inside("count", "queue"), inside("reading")
    bench.check(inside("claimed") == queue + reading, "every claimed place is being read for or filled")
    bench.check(inside("claimed") <= Loader.DEPTH, "no more places are claimed than there are")
    bench.check(~reading | (queue != Loader.DEPTH), "a tile read has its place")
    bench.check(bench.stream_rule(dut.o, "o"), "stream rule")
    return bench


def prefetch() -> Bench:
    bench = Bench()
    dut = Prefetch(CONFIG)
    inside = bench.unit(dut, "prefetch")
    cleared = bench.past(dut.clear, "cleared")
    bench.assume(cleared | bench.stream_rule(dut.i, "i"))
    bench.check(inside("count", "queue") <= Prefetch.DEPTH, "no overflow")
    bench.check(cleared | bench.stream_rule(dut.o, "o"), "o: stream rule")
    bench.check(bench.stream_rule(dut.x_req, "x_req"), "x_req: stream rule")
    return bench


def link() -> Bench:
    bench = Bench()
    dut = Link(CONFIG, act_latency=3, timeout=4)
    inside = bench.unit(dut, "link")
    replying = Value.cast(0)
    for state in ("HEADER_OUT", "DATA_OUT", "CRC_OUT"):
        replying |= inside.state(state)
    bench.check(dut.o.valid == replying, "a reply byte is offered in the reply's states")
    bench.check(bench.stream_rule(dut.o, "o"), "stream rule")
    return bench


STEP = "with m.If({}):\n                m.d.sync += f.count.eq(f.count + 1)\n                with m.If(f.count == 4)"


def check(build, bug, depth=2) -> Check:
    name = build.__name__
    quick = build is not link  # which takes a minute
    return Check(f"streams.{name}", f"{sentence(__name__)} ({name})", build, "prove", depth, bug, quick)


CHECKS = [
    check(fetch, Bug(SkidQueue, "count.eq(count + push - pop)", "count.eq(count + push - self.o.ready)")),
    check(loader, Bug(Loader, "(claimed != self.DEPTH)", "(claimed <= self.DEPTH)")),
    check(prefetch, Bug(Prefetch, "with m.If(self.x_req.valid & self.x_req.ready):", "with m.If(self.x_req.valid):")),
    check(link, Bug(Link, STEP.format("f.replied"), STEP.format("1"), 20)),
]

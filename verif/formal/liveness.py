"""Every program ends, with done or an error, within a bound that its own fields give.

The argument has two parts, each proven inductively for any content of the memories:

- `watchdog`, on the whole accelerator, its link and engines cut loose (whatever they report): a run in which nothing
  progresses for ``watchdog`` cycles is over in the next. A run is otherwise left only with a verdict or by the host.
- Progress is finite. Fetch takes each word of the memory at most once (`decoder`). A LOAD hands on `count` tiles
  (`tiles`), a tile makes one pass of the multiply engine, and the vectors still to come of a pass are a number that
  falls with each (`pass`); so do the reads still to come of a TAIL (`tail`). External memory sends no byte that was not
  asked for (assumed), and a LOAD asks for `count` tiles' bytes.

So a run of a program of n words lasts at most (n + vectors + reads + external bytes + 1) * (watchdog + 2) cycles.
"""

from amaranth.hdl import Cat, Mux, ResetSignal, Signal, Value
from amaranth.lib import data

from lepton.rtl.layouts import layout_of
from lepton.rtl.loader import Loader
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.npu import Npu
from lepton.rtl.run_control import RunControl
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Status
from lepton.rtl.tail import TailEngine
from lepton.rtl.tail_walk import TailWalk
from lepton.rtl.vector_walk import STEPS, VectorWalk
from lepton.verif.formal.core import Bench, Bug, Check, cut
from lepton.verif.formal.decoder import breaks

CONFIG = NpuConfig(
    rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, ring_tiles=4, params=40, program_words=64, acc_depth=16
)
DEPTHWISE = NpuConfig(rows=9, cols=2, lanes=1, act_bytes=256, weight_tiles=16, params=40, acc_depth=16)


def view(layout, signal):
    return data.View(layout, Value.cast(signal)[: layout.size])


def keeps_rules(bench, config, op, stream):
    """What fetch lets through: an instruction that keeps the rules."""
    code = stream.payload[:4]
    for rule in isa.rules(op, config):
        bench.assume(~(stream.valid & (code == op.opcode)) | ~breaks(op, rule, stream.payload))


def watchdog() -> Bench:
    bench = Bench()
    limit = 64
    dut = Npu(CONFIG, watchdog=limit)
    inside = bench.unit(dut, "dut")
    running = dut.status == Status.RUNNING
    progress, quiet = inside("progress"), inside("quiet")
    bench.assume(~(running & inside("run__start", "link")))  # `link.crc`: it starts only what is not busy
    # Cycles of the run without progress, counted by the bench.
    idle = Signal(range(limit + 3))
    with bench.m.If(running & ~progress):
        bench.m.d.sync += idle.eq(idle + 1)
    with bench.m.Else():
        bench.m.d.sync += idle.eq(0)
    stalled = inside("stalled", "run_control")
    bench.check(~running | stalled | (quiet == idle), "the watchdog counts the cycles without progress")
    bench.check(~running | ~stalled | (idle >= limit), "and does not bark before")
    bench.check(~running | (idle < limit) | stalled, "and barks then")
    bench.check(~running | (idle <= limit), "a run without progress is over")
    left = bench.past(running, "ran") & ~running & ~bench.past(ResetSignal(), "was_reset")
    verdicts = [s for s in Status if s != Status.RUNNING]
    bench.check(~left | Cat(dut.status == s for s in verdicts).any(), "a run ends with a verdict")
    return bench


def tiles() -> Bench:
    bench = Bench()
    dut = Loader(CONFIG)
    inside = bench.unit(dut, "dut")
    keeps_rules(bench, CONFIG, isa.LOAD, dut.i)
    bench.assume(~dut.i.valid | (dut.i.payload[:4] == isa.Opcode.LOAD))
    left = inside("left")
    accepted = bench.past(dut.i.valid & dut.i.ready, "accepted")
    before, read = bench.past(left, "before"), bench.past(dut.descriptor.en, "read")
    count = bench.past(view(layout_of(isa.LOAD.fields), dut.i.payload).count, "count")
    bench.check(~accepted | (left == count), "a LOAD has its tiles before it")
    bench.check(accepted | (left == (before - read)[:20]), "each tile read is one less")
    bench.check(~dut.descriptor.en | (left != 0), "no tile is read but of a LOAD")
    bench.check(inside("final") == (left == 1), "the last tile is known")
    return bench


def tail() -> Bench:
    bench = Bench()
    dut = TailEngine(CONFIG)
    inside = bench.unit(dut, "dut")
    keeps_rules(bench, CONFIG, isa.TAIL, dut.i)
    bench.assume(~dut.i.valid | (dut.i.payload[:4] == isa.Opcode.TAIL) | (dut.i.payload[:4] == isa.Opcode.TABLE))
    ins = view(layout_of(isa.TAIL.fields), inside("ins"))
    have, run, half, left = (inside(name, "tail_walk") for name in ("have", "run", "half", "left"))
    wx, wy, ox, oy = (inside(name) for name in ("wx", "wy", "ox", "oy"))
    counters = [(wx, ins.window_x), (wy, ins.window_y), (ox, ins.width), (oy, ins.height)]
    for name, (counter, limit) in zip(("wx", "wy", "ox", "oy"), counters, strict=True):
        bench.check(Mux(have, counter < limit, counter == 0), "counters stay below their limits")
        bench.check(~have | (inside(f"{name}_last") == (counter + 1 == limit)), "the last value is known")
        bench.check(~have | (inside(f"{name}_single") == (limit == 1)), "and whether it is the only one")
    bench.check(~have | (left != 0), "channels are left")
    bench.check(~run | have, "reads belong to an instruction")
    bench.check(~half | (run & (ins.dual != 0)), "the second operand is read last")
    rank = Cat(~half, *((limit - counter)[: len(limit)] for counter, limit in counters), left)
    before, read = bench.past(rank, "before"), bench.past(run, "read")
    bench.check(~(read & have) | bench.past(~have, "was_free") | (rank < before), "fewer reads are left after each")
    bench.check(~have | read | bench.past(~have, "was_free_2") | (rank == before), "and no more without one")
    return bench


def one_pass() -> Bench:
    bench = Bench()
    config = DEPTHWISE
    dut = MultiplyEngine(config)
    inside = bench.unit(dut, "dut")
    keeps_rules(bench, config, isa.MUL, dut.i)
    bench.assume(~dut.i.valid | (dut.i.payload[:4] == isa.Opcode.MUL))
    bench.assume(~dut.bad_outputs | ResetSignal())  # the accelerator clears the engines then
    t = view(layout_of(isa.MUL.fields), inside("t"))
    held, running, final = inside("held"), inside("running", "vector_walk"), inside("final", "vector_walk")
    v = inside("steps", "vector_walk")
    v = {n: view(STEPS, v)[n] for n in ("depthwise", "width", "subsample", "out_width")}
    names = "x_left x_end y_left y_end lag skip lag_x_left lag_x_end row_phase q_open".split()
    x_left, x_end, y_left, y_end, lag, skip, lag_x_left, lag_x_end, row_phase, q_open = (inside(n) for n in names)
    bench.check(~held | ((t.width != 0) & (t.height != 0)), "the instruction has vectors")
    bench.check(~held | ~t.depthwise | (t.subsample != 0), "and outputs")
    bench.check(~held | (inside("narrow", "tile_stage") == (t.width == 1)), "narrow")
    bench.check(~held | (inside("flat") == (t.height == 1)), "flat")
    inv = (v["width"] != 0) & (x_left != 0) & (y_left != 0) & (x_end == (x_left == 1)) & (y_end == (y_left == 1))
    inv &= (lag_x_left != 0) & (lag_x_end == (lag_x_left == 1)) & (inside("narrow", "vector_walk") == (v["width"] == 1))
    bench.check(~running | inv, "counters count down to 1")
    column_phase, q_end = (bench.past(inside(f"{n}_next"), n) for n in ("column_phase", "q_end"))
    phases = Cat(lag, skip, row_phase, column_phase) == 0
    ends = Mux(v["depthwise"], inside("output") & q_end, x_end)
    bench.check(~running | (inside("output") == (~v["depthwise"] | (phases & q_open))), "an output is foreseen")
    bench.check(~running | (final == (ends & y_end)), "the last vector is foreseen")
    inv = (v["subsample"] != 0) & (row_phase < v["subsample"]) & (q_open | ((row_phase == 0) & (skip == 0)))
    inv &= (skip == 0) | (row_phase == 0)
    bench.check(~(running & v["depthwise"]) | dut.bad_outputs | inv, "depthwise: rows up to the next output")
    plain = Cat(x_left, y_left)
    rows = Mux(q_open, row_phase, v["subsample"])
    deep = Cat(lag_x_left, lag, rows[:4], skip, y_left)
    rank = Mux(v["depthwise"], deep, plain)
    before = bench.past(rank, "before")
    goes_on = bench.past(running & ~final, "goes_on")
    bench.check(~goes_on | running, "a pass has no gaps")
    bench.check(~goes_on | dut.bad_outputs | (rank < before), "fewer vectors are left after each")
    return bench


ENGINES = cut(
    *(
        f"dut.{name}"
        for name in (
            "link.run__start",
            "link.run__reset",
            "run_control.progress",
            "run_control.finished",
            "fetch.error",
            "fetch.bad",
        )
    ),
    *(f"dut.{name}" for name in ("multiply.bad_outputs", "multiply.bad_address", "tail.bad_bank", "tail.bad_address")),
)
CHECKS = [
    Check(
        "liveness.watchdog",
        "A run of the accelerator in which nothing progresses for `watchdog` cycles ends with STALLED",
        watchdog,
        "prove",
        2,
        Bug(
            RunControl,
            "quiet.eq(Mux(self.running & ~self.progress, quiet + 1, 0))",
            "quiet.eq(Mux(self.running & ~self.progress, quiet + 2, 0))",
            12,
        ),
        options=ENGINES,
    ),
    Check(
        "liveness.tiles",
        "A LOAD hands on as many tiles as it says, and ends",
        tiles,
        "prove",
        2,
        Bug(Loader, "left.eq(left - 1)", "left.eq(left)", 8),
        True,
    ),
    Check(
        "liveness.tail",
        "The reads still to come of a TAIL fall with every read, so it ends",
        tail,
        "prove",
        2,
        Bug(TailWalk, "left.eq(left - lanes)", "left.eq(left)", 16),
    ),
    Check(
        "liveness.pass",
        "The vectors still to come of a tile's pass, depthwise or not, fall with each, so it ends or is refused",
        one_pass,
        "prove",
        2,
        Bug(
            VectorWalk,
            "m.d.sync += y_left.eq(y_left - 1)",
            "m.d.sync += y_left.eq(y_left)",
            16,
        ),
    ),
]

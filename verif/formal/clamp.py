"""The tail adds the zero point and clamps as TFLM does: min(max(value + zero_point, low), high), for every value.

One step of the pipeline behind the requantizer, whose result is cut loose: any 32-bit number. Without ``clamp`` the
number goes on as it is.
"""

from amaranth.hdl import Mux, Signal, Value, signed
from amaranth.lib import data

from lepton.rtl.layouts import STEERING
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.tail import TailEngine
from lepton.rtl.tail_lane import TailLane
from lepton.verif.formal.core import Bench, Bug, Check, cut, sentence


def clamp() -> Bench:
    bench = Bench()
    dut = TailEngine(NpuConfig(rows=2, cols=2, lanes=1))
    inside = bench.unit(dut, "dut")
    result = inside("result", "tail_lane_0", "requantizer")
    mine = data.View(STEERING, inside("mine_0"))
    # The instruction does not change while its values are in the pipeline (`tokens.tail`).
    second = bench.past(bench.past(1, "second_1"), "second_2")
    bench.assume(~second | (Value.cast(mine) == bench.past(Value.cast(mine), "mine_1")))
    bench.check(mine.clamp | (mine.zero_point == 0), "without clamping nothing is added")
    bench.assume(mine.low <= mine.high)
    word = Value.cast(dut.acc.w_data[0]).as_signed()
    sum_1, sum_2 = Signal(signed(40)), Signal(signed(40))
    bench.m.d.comb += sum_1.eq(result + mine.zero_point)
    bench.m.d.sync += sum_2.eq(sum_1)
    before = bench.past(sum_2, "sum_3")
    low = Mux(before < mine.low, mine.low, before)
    clamped = Mux(low > mine.high, mine.high, low)
    raw = bench.past(bench.past(result, "raw_1"), "raw_2")
    warm = bench.past(bench.past(second, "warm_1"), "warm_2")
    moved = inside("moved", "tail_lane_0")
    bench.check(~warm | ~mine.clamp | (moved == sum_2), "the sum does not overflow")
    bench.check(~warm | ~mine.clamp | (word == clamped), "clamped")
    bench.check(~warm | mine.clamp | (word == raw), "raw")
    return bench


CHECKS = [
    Check(
        "clamp",
        sentence(__name__),
        clamp,
        "prove",
        4,
        Bug(TailLane, "with m.Elif(moved > steering.high):", "with m.Elif(moved[:32].as_signed() > steering.high):", 8),
        options=cut("dut.tail_lane_0.requantizer.result", "dut.tail_walk.instruction"),
    )
]

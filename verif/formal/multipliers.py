"""The multiplier made of adders gives the same products as multiplication, for every pair of operands.

Both styles of `rtl/multiplier.py` side by side, with the same inputs. Every value of one operand is tried, in 16 lanes
and 16 (paired: 32) cycles, and the other is left to the solver: all pairs. The twin of a vendor's cell without a
platform is multiplication; there is no open model of an ECP5 `MULT18X18D` to compare the cell itself with.
"""

from dataclasses import replace
from functools import partial

from amaranth.hdl import Cat, Const, Signal, Value

from lepton.rtl.multiplier import RowMultiplier
from lepton.rtl.spec.config import NpuConfig
from lepton.verif.formal.core import Bench, Bug, Check, sentence

LANES = 16


def twins(pe: str, bits: int) -> Bench:
    bench = Bench()
    config = NpuConfig(pe=pe)
    lut, cells = (RowMultiplier(replace(config, multiplier=style), LANES) for style in ("lut", "ecp5"))
    bench.m.submodules.lut, bench.m.submodules.cells = lut, cells
    turn = Signal(bits - 4, reset_less=True)
    bench.m.d.sync += turn.eq(turn + 1)
    left = bench.free(bits, "left")
    for unit in (lut, cells):
        for k in range(LANES):
            bench.m.d.comb += [unit.i_left[k].eq(left), unit.i_right[k].eq(Cat(Const(k, 4), turn))]
    bench.check(Value.cast(lut.o_product) == Value.cast(cells.o_product), "the same product")
    return bench


BUG = Bug(RowMultiplier, "return -term if bit == width - 1 else term", "return term", 24)
CHECKS = [
    Check(
        f"multipliers.{pe}",
        f"{sentence(__name__)} ({bits} bits)",
        partial(twins, pe, bits),
        "bmc",
        2**bits // LANES + 4,
        BUG,
    )
    for pe, bits in (("single", 8), ("paired", 9))
]

"""The requantizer computes TFLM's MultiplyByQuantizedMultiplier (two roundings) for every value, multiplier and shift.

In steps that meet: `shift` proves both operands of the multiplication and the right shift, `product` that the four
partial products add up to the 64-bit product, `round` everything behind the multiplication: gemmlowp's
SaturatingRoundingDoublingHighMul and RoundingDivideByPOT, to the letter, on a free 64-bit product; and product mode.

The bits of a multiplication itself are the tools' `$mul`. `product` gives one operand every power of two (2**31 as
-2**31) and the other every value, both ways round: this shows where each half goes and with what sign; that the sum is
then right for every pair is the distributive law. Simulation (`tests/test_requantizer.py`) multiplies at random.
"""

from amaranth.hdl import Cat, Const, Mux, Signal, signed

from lepton.rtl.requantizer import Requantizer
from lepton.rtl.spec.config import get_config
from lepton.verif.formal.core import Bench, Bug, Check, cut

CONFIG = get_config("tiny")
LOWEST = Const(-(1 << 31), signed(32))


def delay(bench: Bench, value, cycles: int, name: str):
    for k in range(cycles):
        value = bench.past(value, f"{name}_{k}")
    return value


def settled(bench: Bench, cycles: int):
    """Condition: `cycles` cycles have gone by since the last reset."""
    count = Signal(range(cycles + 1))
    with bench.m.If(count != cycles):
        bench.m.d.sync += count.eq(count + 1)
    return count == cycles


def shift() -> Bench:
    bench = Bench()
    dut = Requantizer(CONFIG)
    inside = bench.unit(dut, "dut")
    bench.assume((dut.shift >= -31) & (dut.shift <= 30))
    left = Signal(6)
    bench.m.d.comb += left.eq(dut.pre_shift + Mux(dut.shift > 0, dut.shift, 0))
    shifted = Signal(32)
    bench.m.d.comb += shifted.eq(Mux(left > 31, 0, dut.value << left))
    right = Signal(5)
    bench.m.d.comb += right.eq(Mux(dut.shift < 0, -dut.shift, 0))
    bench.check(~settled(bench, 2) | (inside("a").as_unsigned() == delay(bench, shifted, 2, "shifted")), "left shift")
    bench.check(~settled(bench, 2) | (inside("b") == delay(bench, dut.multiplier, 2, "multiplier")), "multiplier")
    bench.check(~settled(bench, 5) | (inside("right_3") == delay(bench, right, 5, "right")), "right shift")
    lowest = (inside("a") == LOWEST) & (inside("b") == LOWEST)
    bench.check(~settled(bench, 3) | (inside("saturate") == bench.past(lowest, "lowest")), "the one saturating pair")
    return bench


def product() -> Bench:
    bench = Bench()
    dut = Requantizer(CONFIG)
    inside = bench.unit(dut, "dut")
    a, b = inside("a"), inside("b")
    whole = Signal(64)
    bench.m.d.comb += whole.eq(
        (inside("hh") << 32) + (inside("hl") << 16) + (inside("lh") << 16) + inside("ll"),
    )
    # Which power and side is the cycle's number, so that the solver never multiplies two unknowns.
    turn = Signal(6, reset_less=True)
    bench.m.d.sync += turn.eq(turn + 1)
    one = Signal(signed(32))
    bench.m.d.comb += one.eq(Const(1, 32) << turn[:5])
    bench.assume(Mux(turn[5], dut.value, dut.multiplier) == one)
    bench.assume((dut.shift == 0) & (dut.pre_shift == 0))
    late = delay(bench, turn, 2, "turn")
    power, swap = late[:5], late[5]
    other = Mux(swap, b, a)
    wanted = Signal(signed(64))
    bench.m.d.comb += wanted.eq(Mux(power == 31, -other, other) << power)  # bit 31 counts negative
    ready = settled(bench, 3)
    bench.check(~ready | (whole == bench.past(wanted, "wanted").as_unsigned()), "partial products")
    return bench


def rounding() -> Bench:
    bench = Bench()
    dut = Requantizer(CONFIG)
    inside = bench.unit(dut, "dut")
    m = bench.m
    bench.assume((dut.shift >= -31) & (dut.shift <= 30))
    bench.assume(~dut.product | ((dut.shift == 0) & (dut.pre_shift == 0)))
    # The partial products are cut loose: any four numbers in range whose sum can be a product of two int32.
    hh, hl, lh, ll = (inside(name) for name in ("hh", "hl", "lh", "ll"))
    exact = Signal(signed(66))
    m.d.comb += exact.eq((hh << 32) + ((hl + lh) << 16) + ll)
    for middle in (hl, lh):
        bench.assume((middle >= -(1 << 15) * 0xFFFF) & (middle <= 0x7FFF * 0xFFFF))
    bench.assume((exact >= -(1 << 31) * ((1 << 31) - 1)) & (exact <= 1 << 62))
    bench.assume(inside("saturate") == (exact == 1 << 62))

    total = Signal(signed(64))
    z = Signal(signed(64))
    high = Signal(signed(33))
    quotient = Signal(signed(32))
    right = Signal(5)
    m.d.comb += [
        total.eq(delay(bench, exact, 4, "exact")),
        right.eq(delay(bench, Mux(dut.shift < 0, -dut.shift, 0), 7, "right")),
        z.eq(total + Mux(total >= 0, 1 << 30, 1 - (1 << 30))),
        high.eq(Mux(z < 0, -((-z) >> 31), z >> 31)),
        quotient.eq(Mux(total == 1 << 62, (1 << 31) - 1, high)),
    ]
    mask, rest, threshold = Signal(32), Signal(32), Signal(32)
    wanted = Signal(signed(32))
    m.d.comb += [
        mask.eq((Const(1, 32) << right) - 1),
        rest.eq(quotient & mask),
        threshold.eq((mask >> 1) + (quotient < 0)),
        wanted.eq((quotient >> right) + (rest > threshold)),
    ]
    modulo = delay(bench, dut.product, 7, "product")
    ready = settled(bench, 7)
    bench.check(~(ready & ~modulo) | (dut.result == wanted), "rounded as gemmlowp does")
    bench.check(~(ready & modulo) | (Cat(dut.result) == total[:32]), "the product modulo 2**32")
    return bench


CUT = cut(*(f"dut.{name}" for name in ("hh", "hl", "lh", "ll", "saturate")))
CHECKS = [
    Check(
        "requantize.shift",
        "Requantizer: operands and right shift are as TFLM defines them, for all inputs",
        shift,
        "prove",
        7,
        Bug(Requantizer, "Mux(negative, -self.shift, 0)", "Mux(negative, ~self.shift, 0)"),
    ),
    Check(
        "requantize.product",
        "Requantizer: the four partial products are those of the halves, rightly placed and signed",
        product,
        "bmc",
        68,
        Bug(Requantizer, "lh.eq(low_a * high_b)", "lh.eq(low_a * b[16:])", 68),
    ),
    Check(
        "requantize.round",
        "Requantizer: rounding, saturation, right shift and product mode are gemmlowp's, for every 64-bit product",
        rounding,
        "prove",
        9,
        Bug(Requantizer, "minus = scaled[-1] & right_5.any()", "minus = scaled[-1]"),
        options=CUT,
    ),
]

"""Fixed-point scaling of 32-bit sums, bit-exact with TensorFlow Lite Micro."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class Requantizer(wiring.Component):
    """One lane of TFLM's ``MultiplyByQuantizedMultiplier`` in its form with two roundings.

    left = pre_shift + max(shift, 0), right = max(-shift, 0). The value is shifted left modulo 2**32, multiplied
    (saturating rounding doubling high multiply, as gemmlowp's), and divided by 2**right, half away from zero.
    Exact for every value and multiplier, shift -31 to 30 and pre_shift 0 to 31.

    The doubling high multiply is ``floor((a*b + 2**30) / 2**31)`` for either sign of the product: gemmlowp's nudge of
    ``1 - 2**30`` followed by a division that truncates is the same number.

    Members:
        ``value``, ``multiplier``: In(signed(32)); ``shift``: In(signed(8)); ``pre_shift``: In(5)
        ``product``: In(1), the result is value * multiplier modulo 2**32 instead; shift and pre_shift must be 0
        ``result``: Out(signed(32))

    Throughput: one value a cycle. Latency: ``LATENCY`` cycles. Reset: none, the data path is free running.
    """

    LATENCY = timing.REQUANTIZE

    value: In(signed(32))
    multiplier: In(signed(32))
    shift: In(signed(8))
    pre_shift: In(5)
    product: In(1)
    result: Out(signed(32))

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()

        def reg(shape, name):
            return Signal(shape, name=name, reset_less=True)

        def delay(value, cycles, name):
            for i in range(cycles):
                stage = reg(value.shape(), f"{name}_{i}")
                m.d.sync += stage.eq(value)
                value = stage
            return value

        # 1: shift amounts
        left = reg(7, "left")
        right = reg(5, "right")
        value_1 = reg(signed(32), "value_1")
        negative = self.shift[-1]
        m.d.sync += [
            left.eq(self.pre_shift + Mux(negative, 0, self.shift[:6])),
            right.eq(Mux(negative, -self.shift, 0)),
            value_1.eq(self.value),
        ]
        multiplier_1 = delay(self.multiplier, 1, "multiplier")
        right_5 = delay(right, 4, "right")
        product_4 = delay(self.product, 4, "product")

        # 2: left shift; 32 and more leave nothing
        a = reg(signed(32), "a")
        b = reg(signed(32), "b")
        m.d.sync += [
            a.eq(Mux(left[5:].any(), 0, (value_1 << left[:5])[:32])),
            b.eq(multiplier_1),
        ]

        # 3: four products of 16-bit halves (17 bits signed at most)
        high_a, low_a, high_b, low_b = a[16:].as_signed(), a[:16], b[16:].as_signed(), b[:16]
        hh = reg(signed(32), "hh")
        hl = reg(signed(33), "hl")
        lh = reg(signed(33), "lh")
        ll = reg(32, "ll")
        lowest = Const(-(1 << 31), signed(32))
        saturate = reg(1, "saturate")
        m.d.sync += [
            hh.eq(high_a * high_b),
            hl.eq(high_a * low_b),
            lh.eq(low_a * high_b),
            ll.eq(low_a * low_b),
            saturate.eq((a == lowest) & (b == lowest)),
        ]

        # 4: middle products
        outer = reg(signed(64), "outer")
        middle = reg(signed(34), "middle")
        saturate_4 = delay(saturate, 1, "saturate")
        m.d.sync += [outer.eq(Cat(ll, hh)), middle.eq(hl + lh)]

        # 5: sum, rounded at bit 31. The low 16 bits of `outer` meet neither the middle products nor the rounding.
        total = Signal(signed(49))
        nudge = Mux(product_4, 0, Const(1 << 14, 15))
        m.d.comb += total.eq(outer[16:].as_signed() + (middle + nudge))
        scaled = reg(signed(32), "scaled")
        with m.If(product_4):
            m.d.sync += scaled.eq(Cat(outer[:16], total[:16]))
        with m.Elif(saturate_4):
            m.d.sync += scaled.eq((1 << 31) - 1)
        with m.Else():
            m.d.sync += scaled.eq(total[15:47])

        # 6: half of the divisor, one less below zero; right = 0 divides nothing
        nudged = reg(signed(33), "nudged")
        half = Signal(31)
        m.d.comb += half.eq((Const(1, 32) << right_5)[1:32])
        minus = scaled[-1] & right_5.any()
        m.d.sync += nudged.eq(scaled + half.as_unsigned() - minus)
        right_6 = delay(right_5, 1, "right_6")

        # 7: divide
        divided = Signal(signed(32), reset_less=True)
        m.d.sync += divided.eq(nudged >> right_6)
        m.d.comb += self.result.eq(divided)
        return m

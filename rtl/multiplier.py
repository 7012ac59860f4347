"""The multipliers of one array row, behind one interface: inferred, of look-up tables, or a vendor's cells."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.cells import ecp5, gowin
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class RowMultiplier(wiring.Component):
    """`count` signed products a cycle, in the style `config.multiplier`.

    Members (w = 8, paired 9): ``i_left``, ``i_right`` ArrayLayout(signed(w), count) · ``i_swap`` In(1) · ``o_product``
    ArrayLayout(signed(2 * w), count): left * right of ``LATENCY`` cycles ago.

    Styles: `generic`, the synthesizer chooses; the sums of paired PEs are registered in front of it. `lut`: adders
    and no multiplier cells. `ecp5`: a `MULT18X18D` a product, its input and output registers on, and one more
    register behind it; without `cells`, carry chains that take in the partial products. `gowin`: a
    `MULT9X9` a product, its input and output registers on. `ice40`: an `SB_MAC16` for two products, its product
    register on; it takes ``i_right`` with ``i_swap`` and holds it, which for the other styles a register of `Pe` does.
    Vendor cells are used when
    there is a platform; without one (simulation) a twin of the same latency stands in.
    Throughput: one row a cycle. Latency: ``LATENCY``. Reset: none.
    """

    def __init__(self, config: NpuConfig, count: int, cells: bool = True):
        self._cells = cells
        self._style = config.multiplier
        self._width = width = 9 if config.pe == "paired" else 8
        self._count = count
        self.LATENCY = timing.multiplier(config)
        super().__init__(
            {
                "i_left": In(data.ArrayLayout(signed(width), count)),
                "i_right": In(data.ArrayLayout(signed(width), count)),
                "i_swap": In(1),
                "o_product": Out(data.ArrayLayout(signed(2 * width), count)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        product = self._product
        if self._style == "lut":
            product = self._lut
        elif self._style == "ecp5" and platform is not None:
            product = self._ecp5 if self._cells else self._ecp5_carry
        elif self._style == "gowin" and platform is not None:
            product = self._gowin
        if self._style == "ice40" and platform is not None:
            self._ice40(m)
            return m
        for k in range(self._count):
            right = self.i_right[k]
            if self._style == "ice40":
                right = Signal(signed(self._width), name=f"held_{k}", reset_less=True)
                with m.If(self.i_swap):
                    m.d.sync += right.eq(self.i_right[k])
            m.d.comb += self.o_product[k].eq(product(m, k, self.i_left[k], right))
        return m

    def _register(self, m, value, name):
        register = Signal(signed(len(value)), name=name, reset_less=True)
        m.d.sync += register.eq(value)
        return register

    def _product(self, m, k, left, right):
        """Registered operands (but for a latency of 1), the product, registers behind it."""
        behind = 1
        if self.LATENCY > 1:
            left, right = self._register(m, left, f"left_{k}"), self._register(m, right, f"right_{k}")
            behind = self.LATENCY - 1
        product = left * right
        for stage in range(behind):
            product = self._register(m, product, f"product_{k}_{stage}")
        return product

    def _sum(self, m, k, terms):
        """Sum of terms (value, its weight's exponent), added in pairs."""
        while len(terms) > 1:
            out = []
            for (a, low), (b, high) in zip(terms[0::2], terms[1::2]):
                bits = min(2 * self._width, max(len(a), len(b) + high - low) + 1)
                total = Signal(signed(bits), name=f"sum_{k}_{len(terms)}_{low}")
                m.d.comb += total.eq(a + (b << (high - low)))
                out.append((total, low))
            terms = out + terms[len(out) * 2 :]
        total = Signal(signed(2 * self._width), name=f"total_{k}")
        m.d.comb += total.eq(terms[0][0])
        return total

    def _lut(self, m, k, left, right):
        """Partial products of four bits of `right`, then their sum; a register after each."""
        left, right = self._register(m, left, f"left_{k}"), self._register(m, right, f"right_{k}")
        width = self._width

        def part(bit):
            term = Mux(right[bit], left, Const(0, signed(width)))
            return -term if bit == width - 1 else term  # the sign bit counts negative

        terms = []
        for low in range(0, width, 4):
            value = self._sum(m, f"{k}_{low}", [(part(b), b - low) for b in range(low, min(low + 4, width))])
            terms.append((self._register(m, value, f"partial_{k}_{low}"), low))
        return self._register(m, self._sum(m, k, terms), f"product_{k}")

    def _ecp5(self, m, k, left, right):
        product = Signal(36, name=f"dsp_{k}")
        m.submodules[f"multiplier_{k}"] = ecp5.multiplier(left, right, product)
        return self._register(m, product[: 2 * self._width].as_signed(), f"product_{k}")

    def _gowin(self, m, k, left, right):
        product = Signal(18, name=f"dsp_{k}")
        m.submodules[f"multiplier_{k}"] = gowin.multiplier(left, right, product)
        return product[: 2 * self._width].as_signed()

    def _ecp5_carry(self, m, k, left, right):
        """Products with two bits of `right` in a carry chain each, then their sum; a register after each."""
        left, right = self._register(m, left, f"left_{k}"), self._register(m, right, f"right_{k}")
        width = self._width

        def gated(name, bits, subtract, a, b, c, d):
            m.submodules[name] = adder = ecp5.GatedAdder(bits, subtract)
            out = Signal(signed(bits), name=name)
            m.d.comb += [adder.a.eq(a), adder.b.eq(b), adder.c.eq(c), adder.d.eq(d), out.eq(adder.o)]
            return out

        odd = width % 2
        terms = []
        for low in range(odd, width, 2):
            top = low + 2 == width  # the sign bit counts negative
            value = gated(f"pair_{k}_{low}", width + 2, top, left << 1, right[low + 1], left, right[low])
            terms.append((value, low))
        if odd:
            value = gated(f"lowest_{k}", width + 4, False, left, right[0], terms[0][0] << 1, 1)
            terms[0] = (value, 0)
        terms = [(self._register(m, value, f"partial_{k}_{low}"), low) for value, low in terms]
        return self._register(m, self._sum(m, k, terms), f"product_{k}")

    def _ice40(self, m):
        for k in range(0, self._count, 2):
            pair = range(k, min(k + 2, self._count))
            product = Signal(32, name=f"mac_{k}")
            m.submodules[f"multiplier_{k}"] = Instance(
                "SB_MAC16",
                p_A_SIGNED=1,
                p_B_SIGNED=1,
                p_MODE_8x8=1,
                p_B_REG=1,
                p_TOP_8x8_MULT_REG=1,
                p_BOT_8x8_MULT_REG=1,
                p_TOPOUTPUT_SELECT=2,
                p_BOTOUTPUT_SELECT=2,
                i_A=Cat(self.i_left[c] for c in pair),
                i_B=Cat(self.i_right[c] for c in pair),
                i_C=Const(0, 16),
                i_D=Const(0, 16),
                i_CLK=ClockSignal("sync"),
                i_CE=Const(1),
                i_BHOLD=~self.i_swap,
                **{f"i_{name}HOLD": Const(0) for name in "ACD"},
                **{f"i_{name}": Const(0) for name in ("IRSTTOP", "IRSTBOT", "ORSTTOP", "ORSTBOT", "CI")},
                **{f"i_{name}": Const(0) for name in ("OLOADTOP", "OLOADBOT", "ADDSUBTOP", "ADDSUBBOT")},
                **{f"i_{name}": Const(0) for name in ("OHOLDTOP", "OHOLDBOT", "ACCUMCI", "SIGNEXTIN")},
                o_O=product,
            )
            m.d.comb += [self.o_product[c].eq(product[16 * n : 16 * n + 16].as_signed()) for n, c in enumerate(pair)]

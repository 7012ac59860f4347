"""The multipliers of one array row, behind one interface: inferred, of look-up tables, or a vendor's cells."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import NpuConfig


class RowMultiplier(wiring.Component):
    """`count` signed products a cycle, in the style `config.multiplier`.

    Members (w = 8, paired 9): ``i_left``, ``i_right`` ArrayLayout(signed(w), count) · ``o_product``
    ArrayLayout(signed(2 * w), count): left * right of ``LATENCY`` cycles ago.

    Styles: `generic`, the synthesizer chooses; the sums of paired PEs are registered in front of it. `lut`: adders
    and no multiplier cells. `ecp5`: a `MULT18X18D` a product, its input and output registers on, and one more
    register behind it. Cells are used when there is a platform; without one (simulation) a twin of the same latency
    stands in.
    Throughput: one row a cycle. Latency: ``LATENCY``. Reset: none.
    """

    def __init__(self, config: NpuConfig, count: int):
        self._style = config.multiplier
        self._width = width = 9 if config.pe == "paired" else 8
        self._count = count
        self.LATENCY = {"generic": 2 if config.pe == "paired" else 1, "lut": 3, "ecp5": 3}[config.multiplier]
        super().__init__(
            {
                "i_left": In(data.ArrayLayout(signed(width), count)),
                "i_right": In(data.ArrayLayout(signed(width), count)),
                "o_product": Out(data.ArrayLayout(signed(2 * width), count)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        product = self._product
        if self._style == "lut":
            product = self._lut
        elif self._style == "ecp5" and platform is not None:
            product = self._ecp5
        for k in range(self._count):
            m.d.comb += self.o_product[k].eq(product(m, k, self.i_left[k], self.i_right[k]))
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

    def _lut(self, m, k, left, right):
        """Partial products of two bits of `right` each, added in pairs; registers at the operands and after each two
        levels of adders."""
        left, right = self._register(m, left, f"left_{k}"), self._register(m, right, f"right_{k}")
        width = self._width
        size = 2 * width

        def part(bit):
            term = Mux(right[bit], left, Const(0, signed(width)))
            return -term if bit == width - 1 else term  # the sign bit counts negative

        def add(terms):
            """Sums of neighbours; a term is (value, its weight's exponent)."""
            out = []
            for (a, low), (b, high) in zip(terms[0::2], terms[1::2]):
                name = f"sum_{k}_{len(terms)}_{low}"
                total = Signal(signed(min(size, max(len(a), len(b) + high - low) + 1)), name=name)
                m.d.comb += total.eq(a + (b << (high - low)))
                out.append((total, low))
            return out + terms[len(out) * 2 :]

        terms = add(add([(part(bit), bit) for bit in range(width)]))
        terms = [(self._register(m, value, f"partial_{k}_{low}"), low) for value, low in terms]
        while len(terms) > 1:
            terms = add(terms)
        total = Signal(signed(size), name=f"total_{k}")
        m.d.comb += total.eq(terms[0][0])
        return self._register(m, total, f"product_{k}")

    def _ecp5(self, m, k, left, right):
        product = Signal(36, name=f"dsp_{k}")
        ports = {}
        for name, value in (("A", left), ("B", right)):
            for bit in range(18):
                ports[f"i_{name}{bit}"] = value[min(bit, self._width - 1)]  # sign-extended
        for bit in range(36):
            ports[f"o_P{bit}"] = product[bit]
        m.submodules[f"multiplier_{k}"] = Instance(
            "MULT18X18D",
            p_REG_INPUTA_CLK="CLK0",
            p_REG_INPUTA_CE="CE0",
            p_REG_INPUTA_RST="RST0",
            p_REG_INPUTB_CLK="CLK0",
            p_REG_INPUTB_CE="CE0",
            p_REG_INPUTB_RST="RST0",
            p_REG_OUTPUT_CLK="CLK0",
            p_REG_OUTPUT_CE="CE0",
            p_REG_OUTPUT_RST="RST0",
            i_CLK0=ClockSignal("sync"),
            i_CE0=1,
            i_RST0=0,
            i_SIGNEDA=1,
            i_SIGNEDB=1,
            i_SOURCEA=0,
            i_SOURCEB=0,
            **ports,
        )
        return self._register(m, Cat(product[: 2 * self._width]).as_signed(), f"product_{k}")

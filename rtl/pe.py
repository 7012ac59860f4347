"""Processing element: the weights, operands and partial sum of one multiplier of the array."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec.config import NpuConfig


def psum_bits(config: NpuConfig, row: int) -> int:
    """Bits of the partial sum that leaves physical row `row` (rows above it included)."""
    return (18 if config.pe == "paired" else 16) + (row + 1).bit_length()


class Pe(wiring.Component):
    """Operands of one product from an activation (paired: two) and the weight held here; add the product to the sum
    from above.

    Members (n = 1, w = 8; paired: n = 2, w = 9; all of one row's skewed time):
    ``i_load`` n bits: byte k of ``i_weight`` ArrayLayout(signed(8), n) goes to the shadow register · ``i_swap``:
    shadow goes to weight; a load in the same cycle is not seen by it · ``i_act`` ArrayLayout(signed(8), n):
    activation of the row · ``i_chain`` signed(8): activation of the column, taken in place of ``i_act[0]`` when
    ``i_depthwise`` · ``o_left``, ``o_right`` signed(w): operands, one cycle after ``i_act`` · ``i_product``
    signed(2 * w): what the row's multiplier makes of them, ``LATENCY`` of `RowMultiplier` later · ``i_psum`` signed,
    sum of the rows above, in the same cycle · ``o_psum`` signed(psum_bits(config, row)): the cycle after ·
    ``o_act``, ``o_chain`` signed(8): the activation one and two cycles ago.

    single: operands a0 and w0; paired: a0 + w1 and a1 + w0. Throughput: one a cycle. A swap in the cycle of an
    activation holds for that activation. Reset: none on the data path; weights start at zero.
    """

    def __init__(self, config: NpuConfig, row: int = 0):
        self._paired = config.pe == "paired"
        self._bits = psum_bits(config, row)
        self._held_outside = config.multiplier == "ice40"
        n = 2 if self._paired else 1
        width = 9 if self._paired else 8
        above = signed(psum_bits(config, row - 1) if row else 1)
        super().__init__(
            {
                "i_load": In(n),
                "i_weight": In(data.ArrayLayout(signed(8), n)),
                "i_swap": In(1),
                "i_depthwise": In(1),
                "i_act": In(data.ArrayLayout(signed(8), n)),
                "i_chain": In(signed(8)),
                "o_left": Out(signed(width)),
                "o_right": Out(signed(width)),
                "i_product": In(signed(2 * width)),
                "i_psum": In(above),
                "o_psum": Out(signed(self._bits)),
                "o_act": Out(signed(8)),
                "o_chain": Out(signed(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        weight = []
        for k in range(len(self.i_weight)):
            shadow = Signal(signed(8), name=f"shadow{k}", reset_less=True)
            active = Signal(signed(8), name=f"weight{k}", reset_less=True)
            with m.If(self.i_load[k]):
                m.d.sync += shadow.eq(self.i_weight[k])
            if self._held_outside:
                m.d.comb += active.eq(shadow)
            else:
                with m.If(self.i_swap):
                    m.d.sync += active.eq(shadow)
            weight.append(active)

        act = Signal(signed(8), reset_less=True)
        chain = Signal(signed(8), reset_less=True)
        m.d.sync += [
            act.eq(Mux(self.i_depthwise, self.i_chain, self.i_act[0])),
            chain.eq(act),
        ]
        m.d.comb += [self.o_act.eq(act), self.o_chain.eq(chain)]

        if self._paired:
            odd = Signal(signed(8), reset_less=True)
            m.d.sync += odd.eq(self.i_act[1])
            m.d.comb += [self.o_left.eq(act + weight[1]), self.o_right.eq(odd + weight[0])]
        else:
            m.d.comb += [self.o_left.eq(act), self.o_right.eq(weight[0])]

        psum = Signal(signed(self._bits), reset_less=True)
        m.d.sync += psum.eq(self.i_psum + self.i_product)
        m.d.comb += self.o_psum.eq(psum)
        return m

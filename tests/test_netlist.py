"""The ECP5 netlist under Verilator: products of both kinds of multipliers."""

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.config import NpuConfig
from lepton.rtl.multiplier import RowMultiplier
from lepton.sw.rtl_backend import Model, build_library
from lepton.verif.netlist import synthesize


class Products(wiring.Component):
    """Multipliers behind byte streams. Each left, right (2 bytes each) gives a product (3 bytes, signed) from a
    MULT18X18D and one (3) from carry chains."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def __init__(self, config):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        count, operands = Signal(4), Signal(32)
        results = []
        for cells in (True, False):
            m.submodules[f"multiplier_{cells}"] = unit = RowMultiplier(self._config, 1, cells)
            width = len(unit.i_left[0])
            m.d.comb += [unit.i_left[0].eq(operands[:width]), unit.i_right[0].eq(operands[16 : 16 + width])]
            product = Signal(range(-(1 << 23), 1 << 23), name=f"product_{cells}")
            m.d.comb += product.eq(unit.o_product[0])
            results.append(product)
        m.d.comb += self.o.payload.eq(Cat(results).word_select((count - 10)[:3], 8))
        with m.If(count < 4):
            m.d.comb += self.i.ready.eq(1)
            with m.If(self.i.valid):
                m.d.sync += [operands.eq(Cat(operands[8:], self.i.payload)), count.eq(count + 1)]
        with m.Elif(count < 10):
            m.d.sync += count.eq(count + 1)
        with m.Else():
            m.d.comb += self.o.valid.eq(1)
            with m.If(self.o.ready):
                m.d.sync += count.eq(count + 1)  # 15 wraps to 0
        return m


@pytest.mark.parametrize("pe,low,high", [("single", -128, 127), ("paired", -256, 254)])
def test_products(pe, low, high):
    rng = np.random.default_rng(5)
    corners = [low, low + 1, low // 2, -2, -1, 0, 1, 2, high // 2, high - 1, high]
    pairs = np.array([(a, b) for a in corners for b in corners] + list(rng.integers(low, high + 1, (20_000, 2))))
    config = NpuConfig(pe=pe, multiplier="ecp5")
    model = Model(build_library(synthesize(Products(config)), f"products_{pe}"))
    taken, out, _ = model.step(pairs.astype("<i2").tobytes(), 6 * len(pairs), 6 * len(pairs), 40 * len(pairs))
    assert taken == 4 * len(pairs) and len(out) == 6 * len(pairs)
    raw = np.frombuffer(out, np.uint8).reshape(-1, 2, 3).astype(int)
    got = raw[..., 0] | raw[..., 1] << 8 | raw[..., 2] << 16
    got -= (got >> 23) << 24
    want = pairs[:, 0] * pairs[:, 1]
    assert np.array_equal(got[:, 0], want), "MULT18X18D"
    assert np.array_equal(got[:, 1], want), "carry chains"

"""Clock generation, one class a vendor, all with the same members."""

from collections.abc import Iterable

from amaranth.hdl import Const, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec.errors import LeptonError


class PllError(LeptonError, ValueError):
    """A frequency that the PLL cannot make; the message is one line."""


def _nearest(settings: Iterable[tuple], reference: float, hz: float) -> tuple:
    """Of settings, each with the Hz it makes as its last element, the one nearest to `hz`; of equals the least.

    Raises PllError when that is more than 1 % away.
    """
    off, *best = min(((abs(s[-1] - hz), *s) for s in settings), default=(hz,))
    if off > 0.01 * hz:
        raise PllError(f"no PLL setting makes {hz / 1e6:g} MHz of {reference / 1e6:g} MHz")
    return tuple(best)


class Ecp5Pll(wiring.Component):
    """EHXPLLL, fed back from its first output.

    Members: ``i`` In(1): clock of `reference` Hz · ``o`` Out(1): clock of ``frequency`` Hz, the nearest to `hz` that
    there is · ``locked`` Out(1): the output is stable. Raises PllError when that is more than 1 % away.
    """

    FROM_PIN = False
    """``i`` is the clock pin, which the PLL has its own way from, not what its buffer gives."""

    i: In(1)
    o: Out(1)
    locked: Out(1)

    def __init__(self, reference: float, hz: float):
        settings = []
        for ref_div in range(1, 6):
            for feedback in range(1, 81):
                out = reference / ref_div * feedback
                out_div = round(600e6 / out)
                if 1 <= out_div <= 128 and 400e6 <= out * out_div <= 800e6 and reference / ref_div >= 3.125e6:
                    settings.append((ref_div, feedback, out_div, out))
        found = _nearest(settings, reference, hz)
        self._ref_div, self._feedback, self._out_div, self.frequency = found
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKOP=f"{self.frequency / 1e6:g}",
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOP_DIV=self._out_div,
            p_CLKOP_CPHASE=self._out_div - 1,
            p_CLKOP_FPHASE=0,
            p_CLKI_DIV=self._ref_div,
            p_CLKFB_DIV=self._feedback,
            p_FEEDBK_PATH="CLKOP",
            i_RST=0,
            i_STDBY=0,
            i_CLKI=self.i,
            i_CLKFB=self.o,
            i_PHASESEL0=0,
            i_PHASESEL1=0,
            i_PHASEDIR=1,
            i_PHASESTEP=1,
            i_PHASELOADREG=1,
            i_PLLWAKESYNC=0,
            i_ENCLKOP=0,
            o_CLKOP=self.o,
            o_LOCK=self.locked,
        )
        return m


class GowinPll(wiring.Component):
    """rPLL of the GW2A, fed back inside.

    Members: ``i`` In(1): clock of `reference` Hz · ``o`` Out(1): clock of ``frequency`` Hz, the nearest to `hz` that
    there is · ``locked`` Out(1): the output is stable. Raises PllError when that is more than 1 % away.
    """

    FROM_PIN = False

    i: In(1)
    o: Out(1)
    locked: Out(1)

    def __init__(self, reference: float, hz: float):
        self._reference = reference
        settings = []
        for ref_div in range(1, 65):
            for feedback in range(1, 65):
                out = reference * feedback / ref_div
                for out_div in (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128):
                    if reference / ref_div >= 3e6 and 500e6 <= out * out_div <= 1250e6:
                        settings.append((ref_div, feedback, out_div, out))
        found = _nearest(settings, reference, hz)
        self._ref_div, self._feedback, self._out_div, self.frequency = found
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.pll = Instance(
            "rPLL",
            p_FCLKIN=f"{self._reference / 1e6:g}",
            p_DEVICE="GW2AR-18C",
            p_DYN_IDIV_SEL="false",
            p_IDIV_SEL=self._ref_div - 1,
            p_DYN_FBDIV_SEL="false",
            p_FBDIV_SEL=self._feedback - 1,
            p_DYN_ODIV_SEL="false",
            p_ODIV_SEL=self._out_div,
            p_CLKFB_SEL="internal",
            p_CLKOUT_BYPASS="false",
            i_CLKIN=self.i,
            i_CLKFB=Const(0, 1),
            i_RESET=Const(0, 1),
            i_RESET_P=Const(0, 1),
            i_FBDSEL=Const(0, 6),
            i_IDSEL=Const(0, 6),
            i_ODSEL=Const(0, 6),
            i_PSDA=Const(0, 4),
            i_DUTYDA=Const(0, 4),
            i_FDLY=Const(0, 4),
            o_CLKOUT=self.o,
            o_LOCK=self.locked,
        )
        return m


class Ice40Pll(wiring.Component):
    """SB_PLL40_2F_PAD: a clock and its half, edges aligned, from a clock pin.

    Members: ``i`` In(1): the pin itself, not a buffer's output · ``o`` Out(1): clock of ``frequency`` Hz, the nearest
    to `hz` that there is · ``double`` Out(1): of twice that · ``locked`` Out(1): the outputs are stable. Both outputs
    are on global nets. Raises PllError when the frequency is more than 1 % away.
    """

    FROM_PIN = True

    i: In(1)
    o: Out(1)
    double: Out(1)
    locked: Out(1)

    def __init__(self, reference: float, hz: float):
        settings = []
        for ref_div in range(1, 17):
            if not 10e6 <= reference / ref_div <= 133e6:
                continue
            for feedback in range(1, 129):
                vco = reference / ref_div * feedback
                for out_shift in range(1, 7):
                    if 533e6 <= vco <= 1066e6:
                        out = vco / 2**out_shift / 2
                        settings.append((ref_div, feedback, out_shift, out))
        found = _nearest(settings, reference, hz)
        self._ref_div, self._feedback, self._out_shift, self.frequency = found
        compare = reference / self._ref_div / 1e6
        self._filter = 1 + sum(compare >= limit for limit in (17, 26, 44, 66, 101))
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.pll = Instance(
            "SB_PLL40_2F_PAD",
            p_DIVR=self._ref_div - 1,
            p_DIVF=self._feedback - 1,
            p_DIVQ=self._out_shift,
            p_FILTER_RANGE=self._filter,
            p_FEEDBACK_PATH="SIMPLE",
            p_PLLOUT_SELECT_PORTA="GENCLK",
            p_PLLOUT_SELECT_PORTB="GENCLK_HALF",
            i_PACKAGEPIN=self.i,
            i_RESETB=1,
            i_BYPASS=0,
            o_PLLOUTGLOBALA=self.double,
            o_PLLOUTGLOBALB=self.o,
            o_LOCK=self.locked,
        )
        return m


class NexusOscillator(wiring.Component):
    """OSCA, the oscillator in the part: a whole fraction of 450 MHz (`reference`), several percent off.

    Members: ``o`` Out(1): clock of ``frequency`` Hz, the nearest to `hz` that there is · ``locked`` Out(1): constant 1.
    Raises PllError when the frequency is more than 1 % away.
    """

    FROM_PIN = False

    o: Out(1)
    locked: Out(1)

    def __init__(self, reference: float, hz: float):
        self._div = max(1, min(256, round(reference / hz)))
        self.frequency = reference / self._div
        if abs(self.frequency - hz) > 0.01 * hz:
            raise PllError(f"no divisor makes {hz / 1e6:g} MHz of {reference / 1e6:g} MHz")
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.oscillator = Instance(
            "OSCA", p_HF_CLK_DIV=str(self._div - 1), i_HFOUTEN=Const(1), i_HFSDSCEN=Const(0), o_HFCLKOUT=self.o
        )
        m.d.comb += self.locked.eq(1)
        return m

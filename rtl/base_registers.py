"""The registers that addresses in memory count from."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.spec.isa import BASE_ALIGN, Reg, Region

__all__ = ["BaseRegisters"]


class BaseRegisters(wiring.Component):
    """IMAGE and ARENA, written by the host a byte at a time, but for the bits below `BASE_ALIGN`.

    Members: ``host`` `ports.host_write` · ``image``, ``arena`` Out(32). Reset: 0.
    """

    host: In(ports.host_write())
    image: Out(32)
    arena: Out(32)

    def elaborate(self, platform):
        m = Module()
        on = Signal()
        m.d.comb += on.eq(self.host.en & (self.host.region == Region.REG))
        for reg, value in ((Reg.IMAGE, self.image), (Reg.ARENA, self.arena)):
            for k in range(4):
                with m.If(on & (self.host.index == reg) & (self.host.byte[:2] == k)):
                    keep = self.host.data & ~(BASE_ALIGN - 1) if k == 0 else self.host.data
                    m.d.sync += value[8 * k : 8 * k + 8].eq(keep)
        return m

"""The accelerator with a bus at each of its two ports, named as other cores name them."""

from collections.abc import Callable

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.bus.axi import AxiControl, AxiMemory
from lepton.rtl.bus.control import ON_A_BUS
from lepton.rtl.bus.wishbone import WishboneControl, WishboneMemory
from lepton.rtl.npu import Npu
from lepton.rtl.spec.config import ConfigError, NpuConfig

__all__ = ["BUSES", "AxiNpu", "BusNpu", "WishboneNpu"]


class BusNpu(wiring.Component):
    """One accelerator on a bus; subclasses say which.

    Parameters: ``config``, with a memory port.
    Members: the signals of its two buses, ``irq`` Out(1), a level, clock and reset, by their names on that bus. The
    reset is synchronous, of a cycle or more.
    Raises ConfigError without a memory port.
    """

    CLOCK: str
    RESET: str
    RESET_LOW = False
    SLAVE: type[wiring.Component]
    MASTER: Callable[[int], wiring.Component]
    BUS: str
    """The adapters' member that is the bus."""

    def __init__(self, config: NpuConfig, **options):
        if not config.memory_width:
            raise ConfigError(
                f"config {config.name!r}: memory_width=0: a machine on a bus has a memory port: set memory_width and "
                "memory_bytes, or keep `--bus stream`"
            )
        self._npu = Npu(config, parts=ON_A_BUS, **options)
        self._adapters = {"control": self.SLAVE(), "memory": type(self).MASTER(config.memory_width)}
        self._wires = []  # port, adapter's side
        members = {self.CLOCK: In(1), self.RESET: In(1), "irq": Out(1)}
        for where, adapter in self._adapters.items():
            for signal, member in getattr(adapter, self.BUS).signature.members.items():
                name = self.port_name(where == "control", signal, member.flow is Out)
                members[name] = member
                self._wires.append((name, getattr(getattr(adapter, self.BUS), signal), member.flow))
        super().__init__(members)

    @staticmethod
    def port_name(control: bool, signal: str, output: bool) -> str:
        """Of a signal of one of the two buses."""
        raise NotImplementedError

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = domain = ClockDomain()
        reset = getattr(self, self.RESET)
        m.d.comb += [domain.clk.eq(getattr(self, self.CLOCK)), domain.rst.eq(~reset if self.RESET_LOW else reset)]
        m.submodules.npu = npu = self._npu
        for where, adapter in self._adapters.items():
            m.submodules[where] = adapter
            wiring.connect(m, getattr(npu, where), getattr(adapter, where))
        m.d.comb += self.irq.eq(npu.control.irq)
        for name, inside, flow in self._wires:
            port = getattr(self, name)
            m.d.comb += port.eq(inside) if flow is Out else inside.eq(port)
        return m


class AxiNpu(BusNpu):
    """``s_axil_*`` the control port as an AXI4-Lite subordinate, ``m_axi_*`` the memory port as an AXI4 manager."""

    CLOCK, RESET, RESET_LOW = "aclk", "aresetn", True
    SLAVE, MASTER, BUS = AxiControl, AxiMemory, "axi"

    @staticmethod
    def port_name(control, signal, output):
        return ("s_axil_" if control else "m_axi_") + signal


class WishboneNpu(BusNpu):
    """``wbs_*`` the control port as a slave, ``wbm_*`` the memory port as a master."""

    CLOCK, RESET = "wb_clk_i", "wb_rst_i"
    SLAVE, MASTER, BUS = WishboneControl, WishboneMemory, "wb"

    @staticmethod
    def port_name(control, signal, output):
        return f"{'wbs' if control else 'wbm'}_{signal.split('_')[0]}_{'o' if output else 'i'}"


BUSES = {"axi": AxiNpu, "wishbone": WishboneNpu}

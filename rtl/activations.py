"""The activations: the engines' during a run, else the host's."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from lepton.rtl import layouts, ports
from lepton.rtl.act_memory import ActMemory
from lepton.rtl.layouts import ADDRESS
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Region


class Activations(wiring.Component):
    """`ActMemory` with two users.

    Members: ``running`` In(1), ``busy`` In(1): a run is in progress, or begins · ``read``, ``write``: of the engines
    · ``host_read`` `ports.activation_read` of a byte, `Timing.link_read` · ``host`` `ports.host_write`
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(self._members(config))

    def _members(self, config: NpuConfig) -> dict:
        return {
            "running": In(1),
            "busy": In(1),
            "read": In(ports.activation_read(layouts.activations(config))),
            "write": In(ports.activation_write(config)),
            "host_read": In(ports.activation_read(8)),
            "host": In(ports.host_write()),
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.act_memory = memory = self._memory()
        self._reads(m, memory)
        host = self.host
        with m.If(self.running):
            self._engine_writes(m, memory)
        with m.Else():
            m.d.comb += [
                memory.write.en.eq(host.en & (host.region == Region.ACT)),
                memory.write.addr.eq(host.index),
                memory.write.count.eq(1),
                memory.write.data[0].eq(host.data),
            ]
        m.d.comb += self.read.data.eq(memory.read.data)
        return m

    def _engine_writes(self, m, memory):
        m.d.comb += [getattr(memory.write, name).eq(getattr(self.write, name)) for name in ("en", "addr", "count")]
        m.d.comb += memory.write.data.eq(self.write.data)

    def _engine_read(self, m):
        """A read, and its address."""
        return self.read.en, self.read.addr

    def _memory(self):
        return ActMemory(self._config)

    def _reads(self, m, memory):
        """The link is far, so its reads are registered on the way (and again where they arrive); so is `running`, so
        they come first when they come."""
        en, addr = self.host_read.en, self.host_read.addr
        for k in range(timing.of(self._config).link_way):
            late_en, late_addr = Signal(name=f"r_en_{k}"), Signal(ADDRESS, name=f"r_addr_{k}", reset_less=True)
            m.d.sync += [late_en.eq(en & ~self.busy), late_addr.eq(addr)]
            en, addr = late_en, late_addr
        with m.If(en):
            m.d.comb += [memory.read.en.eq(en), memory.read.addr.eq(addr)]
        with m.Else():
            read, address = self._engine_read(m)
            m.d.comb += [memory.read.en.eq(read), memory.read.addr.eq(address)]
        m.d.comb += self.host_read.data.eq(memory.read.data[0])

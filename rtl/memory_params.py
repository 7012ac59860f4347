"""The parameter memory of a machine with a memory port: MOVE writes it, too."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from lepton.rtl import ports
from lepton.rtl.layouts import PARAM
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.isa import Region


class MemoryParameters(wiring.Component):
    """`HostMemory` of parameter entries with ``move`` `ports.beat_write`, for which ``running`` decides. A byte or a
    beat is written a cycle later, and seen by reads from 2 cycles later on. A beat beyond the entry writes nothing.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        read = ports.memory_read(PARAM, 8 * isa.PARAM_BYTES)
        members = {"host": In(ports.host_write()), "move": In(ports.beat_write(config)), "read": In(read)}
        super().__init__({**members, "running": In(1)})

    def elaborate(self, platform):
        m = Module()
        width, size, host, move = self._config.memory_width, isa.PARAM_BYTES, self.host, self.move
        attrs = {"no_rw_check": 1}
        m.submodules.memory = memory = Memory(shape=8 * size, depth=self._config.params, init=[], attrs=attrs)
        write, read = memory.write_port(granularity=8), memory.read_port()
        of_host = host.en & (host.region == Region.PARAM)
        for k in range(size):
            beat, lane = divmod(k, width)
            on = Signal(name=f"on_{k}")
            m.d.sync += on.eq(Mux(self.running, move.en & (move.beat == beat), of_host & (host.byte == k)))
            byte = Signal(8, name=f"byte_{k}", reset_less=True)
            m.d.sync += byte.eq(Mux(self.running, move.data.word_select(lane, 8), host.data))
            m.d.comb += [write.en[k].eq(on), write.data[8 * k : 8 * k + 8].eq(byte)]
        index = Signal(len(write.addr), reset_less=True, attrs=KEEP)
        m.d.sync += index.eq(Mux(self.running, move.index, host.index))
        m.d.comb += [
            write.addr.eq(index),
            read.en.eq(self.read.en),
            read.addr.eq(self.read.addr),
            self.read.data.eq(read.data),
        ]
        return m

"""A memory that the host writes and one engine reads: the program, the parameters."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from lepton.rtl import ports
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.isa import Region


class HostMemory(wiring.Component):
    """The words of `region`, written a byte at a time.

    Parameters: `config`, `region`; `address_bits` of the read; `way`, 1 when the host is far: a byte is written a
    cycle later.
    Members: ``host`` `ports.host_write`, of which only `region` is looked at · ``read`` `ports.memory_read` ·
    ``running`` In(1), not looked at: the host does not write during a run.
    """

    def __init__(self, config: NpuConfig, region: Region, address_bits: int, way: int):
        self._depth, self._size = isa.depth(region, config), isa.word_bytes(region, config)
        self._region = region
        self._way = way
        read = ports.memory_read(address_bits, 8 * self._size)
        super().__init__({"host": In(ports.host_write()), "read": In(read), "running": In(1)})

    def elaborate(self, platform):
        m = Module()
        size = self._size
        m.submodules.memory = memory = Memory(shape=8 * size, depth=self._depth, init=[], attrs={"no_rw_check": 1})
        write, read = memory.write_port(granularity=8), memory.read_port()
        on = self.host.en & (self.host.region == self._region)
        index, byte, value = self.host.index, self.host.byte[: (size - 1).bit_length()], self.host.data
        for k in range(self._way):
            late_on = Signal(name=f"on_{k}")
            late = [
                Signal(len(s), name=f"w{n}_{k}", reset_less=True, attrs=KEEP)
                for n, s in enumerate((index, byte, value))
            ]
            m.d.sync += [late_on.eq(on), *(new.eq(old) for new, old in zip(late, (index, byte, value)))]
            on, (index, byte, value) = late_on, late
        m.d.comb += [
            write.addr.eq(index),
            write.data.eq(value.replicate(size)),
            write.en.eq(Mux(on, 1 << byte, 0)),
            read.en.eq(self.read.en),
            read.addr.eq(self.read.addr),
            self.read.data.eq(read.data),
        ]
        return m

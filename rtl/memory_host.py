"""The host link at the memory: a beat at a time."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports

__all__ = ["MemoryHost"]


class MemoryHost(wiring.Component):
    """Bytes that the host writes, gathered to beats, and beats that it reads.

    Members: ``host`` `ports.host_memory` · ``memory`` `ports.memory_client`, bursts of one beat.
    """

    def __init__(self, width: int):
        self._width = width
        super().__init__({"host": In(ports.host_memory(width)), "memory": Out(ports.memory_client(width))})

    def elaborate(self, platform):
        m = Module()
        host, memory, width = self.host, self.memory, self._width
        a, w = memory.a, memory.w
        at = width.bit_length() - 1
        m.d.comb += [
            host.busy.eq(a.valid | w.valid),
            host.valid.eq(memory.r.valid),
            host.beat.eq(memory.r.payload),
            memory.r.ready.eq(1),
        ]
        with m.If(a.valid & a.ready):
            m.d.sync += a.valid.eq(0)
        with m.If(w.valid & w.ready):
            m.d.sync += [w.valid.eq(0), w.payload.mask.eq(0)]
        whole = Signal()
        m.d.comb += whole.eq(host.write & (host.last | (host.byte == width - 1)))
        with m.If(host.write):
            m.d.sync += [
                w.payload.data.word_select(host.byte, 8).eq(host.data),
                w.payload.mask.bit_select(host.byte, 1).eq(1),
            ]
        with m.If(whole):
            m.d.sync += w.valid.eq(1)
        with m.If(whole | host.read):
            m.d.sync += [
                a.valid.eq(1),
                a.payload.write.eq(host.write),
                a.payload.address.eq(host.index << at),
                a.payload.beats.eq(0),
            ]
        return m

"""A queue of wide items in a memory made of look-up tables."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec import timing

__all__ = ["RamQueue"]


class RamQueue(wiring.Component):
    """Queue of `depth` items, a power of two, as `SkidQueue`; the oldest is read from the memory as it is.

    Members: ``i`` Stream(width) · ``o`` Stream(width). ``i.ready`` and ``o.valid`` come from registers.
    Throughput: one item a cycle from depth 2 on. Latency: 1 cycle. Reset: empty.
    """

    LATENCY = timing.SKID

    def __init__(self, width: int, depth: int):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth={depth}: must be a power of two, at least 2")
        self._width, self._depth = width, depth
        super().__init__({"i": In(stream.Signature(width)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform):
        m = Module()
        attrs = {"ram_style": "distributed", "no_rw_check": 1}
        m.submodules.items = items = Memory(shape=self._width, depth=self._depth, init=[], attrs=attrs)
        write, read = items.write_port(), items.read_port(domain="comb")
        count = Signal(range(self._depth + 1))
        first, end = Signal(range(self._depth)), Signal(range(self._depth))
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(count != 0),
            self.i.ready.eq(count != self._depth),
            push.eq(self.i.valid & self.i.ready),
            pop.eq(self.o.valid & self.o.ready),
            write.addr.eq(end),
            write.data.eq(self.i.payload),
            write.en.eq(push),
            read.addr.eq(first),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [count.eq(count + push - pop), first.eq(first + pop), end.eq(end + push)]
        return m

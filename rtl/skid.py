"""A small queue whose head is a register."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec import timing

__all__ = ["SkidQueue"]


class SkidQueue(wiring.Component):
    """Shift-register queue of `depth` items; the oldest item is always in the same register.

    Members: ``i`` Stream(shape) · ``o`` Stream(shape). ``i.ready`` and ``o.valid`` come from registers.
    Throughput: one item a cycle from depth 2 on. Latency: 1 cycle. Reset: empty.
    """

    LATENCY = timing.SKID

    def __init__(self, shape, depth: int):
        self._shape = shape
        self._depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        items = [Signal(self._shape, name=f"item{k}", reset_less=True) for k in range(self._depth)]
        count = Signal(range(self._depth + 1))
        push, pop = Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(count != 0),
            self.o.payload.eq(items[0]),
            self.i.ready.eq(count != self._depth),
            push.eq(self.i.valid & self.i.ready),
            pop.eq(self.o.valid & self.o.ready),
        ]
        m.d.sync += count.eq(count + push - pop)
        # What is behind the last item is free to change, so no register waits for `push`, which comes late.
        for k, item in enumerate(items[:-1]):
            with m.If((count <= k) | pop):
                m.d.sync += item.eq(Mux(count > k + 1, items[k + 1], self.i.payload))
        with m.If(count <= self._depth - 1):
            m.d.sync += items[-1].eq(self.i.payload)
        return m

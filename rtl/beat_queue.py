"""A queue of beats in a memory."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class BeatQueue(wiring.Component):
    """Queue of `depth` items, a power of two, in a memory. Who puts items in knows that there is room.

    Members: ``i`` Stream(shape), always taken · ``o`` Stream(shape).
    Throughput: one item a cycle. Latency: 2 cycles. Reset: empty.
    """

    LATENCY = 2

    def __init__(self, shape, depth: int):
        self._shape = shape
        self._depth = depth
        super().__init__({"i": In(stream.Signature(shape, always_ready=True)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        size = len(Value.cast(self.i.payload))
        m.submodules.items = items = Memory(shape=size, depth=self._depth, init=[], attrs={"no_rw_check": 1})
        write, read = items.write_port(), items.read_port()
        count = Signal(range(self._depth + 1))  # in the memory, but for the one at `o`
        m.d.comb += [
            write.en.eq(self.i.valid),
            write.data.eq(self.i.payload),
            read.en.eq((count != 0) & (~self.o.valid | self.o.ready)),
            self.o.payload.eq(read.data),
        ]
        m.d.sync += [
            count.eq(count + self.i.valid - read.en),
            write.addr.eq(write.addr + self.i.valid),
            read.addr.eq(read.addr + read.en),
            self.o.valid.eq(read.en | (self.o.valid & ~self.o.ready)),
        ]
        return m

"""MOVE's reads of activations: for a store, bytes from activation memory to beats."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.move_walk import access
from lepton.rtl.registers import late
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class MoveReads(wiring.Component):
    """Makes the accesses of stores.

    Members: ``i`` Stream(access) · ``room`` In(1): for one more beat · ``claims`` Out(1): this access fills it
    ``read`` `ports.move_read` · ``beats`` Stream(layouts.memory_beat), always taken: `act_read` cycles later
    ``done`` Out(1): the last access of an instruction is made in this cycle
    Throughput: an access a cycle. Reset: nothing is on its way.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(access(config))),
                "room": In(1),
                "claims": Out(1),
                "read": Out(ports.move_read(config)),
                "beats": Out(stream.Signature(layouts.memory_beat(config.memory_width), always_ready=True)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i, read = self.i.payload, self.read
        goes = Signal()
        m.d.comb += [
            read.en.eq(self.i.valid & i.store & self.room),
            read.addr.eq(i.at),
            goes.eq(read.en & read.ready),
            self.i.ready.eq(goes),
            self.claims.eq(goes & i.pops),
            self.done.eq(goes & i.end),
        ]
        latency = timing.of(self._config).act_read
        arrives = late(m, goes, latency, "arrives", reset_less=False)
        pops = late(m, i.pops, latency, "pops")
        piece, low, count, flip = (late(m, i[name], latency, name) for name in ("piece", "low", "count", "flip"))
        size, width = layouts.move_bytes(self._config), self._config.memory_width
        begun = Signal()  # parts of the beat have come
        datas, masks = [], []
        for p in range(width // size):
            here = Signal(name=f"here_{p}")
            kept_data = Signal(8 * size, name=f"data_{p}", reset_less=True)
            kept_mask = Signal(size, name=f"mask_{p}", reset_less=True)
            mask = Signal(size, name=f"new_mask_{p}")
            bytes_ = Signal(8 * size, name=f"new_data_{p}")
            m.d.comb += [
                here.eq(arrives & (piece == p)),
                mask.eq(Mux(here, Cat((low <= k) & (count > k) for k in range(size)), Mux(begun, kept_mask, 0))),
                bytes_.eq(Mux(here, Cat(byte ^ (flip << 7) for byte in read.data), kept_data)),
            ]
            with m.If(arrives):
                m.d.sync += [kept_data.eq(bytes_), kept_mask.eq(mask)]
            datas.append(bytes_)
            masks.append(mask)
        with m.If(arrives):
            m.d.sync += begun.eq(~pops)
        m.d.comb += [
            self.beats.valid.eq(arrives & pops),
            self.beats.payload.data.eq(Cat(datas)),
            self.beats.payload.mask.eq(Cat(masks)),
        ]
        return m

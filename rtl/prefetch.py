"""Prefetch: tiles from external memory into the ring at the end of the weight store."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.layouts import BURST, LOAD_LAYOUT, RUN, TILE
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Region


class Prefetch(wiring.Component):
    """Read the tiles of external LOADs, a burst each, as far ahead as the ring has room.

    Members:
        ``i`` Stream(128), ``o`` Stream(128): LOAD instructions, passed on in the same cycle; an external one is noted
        as soon as it is at ``i``, before it is taken at ``o`` · ``clear`` In(1): forget runs and ring
        ``x_req`` Stream(BURST) · ``x_data`` Stream(8), always taken: the bytes of the bursts, in order
        ``write`` `ports.tile_write` · ``ring`` `ports.ring`
        ``idle`` Out(1): no run is held, no burst is on its way

    Several bursts may be requested ahead. After ``clear`` the bytes of bursts already requested are discarded.
    Throughput: one byte a cycle. Latency: ``ring.count`` covers a tile 2 cycles after its last byte.
    """

    DEPTH = timing.RUN_QUEUE

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(layouts.LOAD_BITS)),
                "o": Out(stream.Signature(layouts.LOAD_BITS)),
                "clear": In(1),
                "x_req": Out(stream.Signature(BURST)),
                "x_data": In(stream.Signature(8)),
                "write": Out(ports.tile_write()),
                "ring": In(ports.ring()),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        size = isa.word_bytes(Region.WEIGHT, config)
        tiles = range(config.ring_tiles + 1)

        load = data.View(LOAD_LAYOUT, self.i.payload[: LOAD_LAYOUT.size])
        queue = SkidQueue(RUN, self.DEPTH)
        m.submodules.queue = ResetInserter(self.clear)(queue)
        runs = queue.o
        noted, may_pass = Signal(), Signal()
        m.d.comb += [
            queue.i.valid.eq(self.i.valid & load.external & ~noted),
            queue.i.payload.address.eq(load.address),
            queue.i.payload.count.eq(load.count),
            may_pass.eq(~load.external | noted | queue.i.ready),
            self.o.valid.eq(self.i.valid & may_pass),
            self.o.payload.eq(self.i.payload),
            self.i.ready.eq(self.o.ready & may_pass),
        ]
        with m.If((self.i.valid & self.i.ready) | self.clear):
            m.d.sync += noted.eq(0)
        with m.Elif(queue.i.valid & queue.i.ready):
            m.d.sync += noted.eq(1)

        # Runs to requests, one a tile; `used` tiles of the ring are requested or filled.
        address, left = Signal(RUN["address"].shape, reset_less=True), Signal(RUN["count"].shape)
        used, pending = (Signal(tiles, name=n) for n in ("used", "pending"))
        request, done = Signal(), Signal()
        m.d.comb += [
            runs.ready.eq(left == 0),
            request.eq((left != 0) & (used != config.ring_tiles) & (pending != config.ring_tiles)),
        ]
        with m.If(self.x_req.valid & self.x_req.ready):
            m.d.sync += self.x_req.valid.eq(0)
        free_slot = Signal()
        m.d.comb += free_slot.eq(~self.x_req.valid | self.x_req.ready)
        issue = Signal()
        m.d.comb += issue.eq(request & free_slot & ~self.clear)
        with m.If(issue):
            m.d.sync += [
                self.x_req.valid.eq(1),
                self.x_req.payload.address.eq(address),
                self.x_req.payload.length.eq(size),
                address.eq(address + size),
                left.eq(left - 1),
            ]
        with m.If(runs.valid & runs.ready):
            m.d.sync += [address.eq(runs.payload.address), left.eq(runs.payload.count)]

        # Bytes to the store. `stale` bursts were requested before a clear.
        stale = Signal(tiles)
        byte = Signal(range(size))
        slot = Signal(TILE, init=config.resident_tiles)
        complete = Signal()
        m.d.comb += [
            self.x_data.ready.eq(1),
            done.eq(self.x_data.valid & (byte == size - 1)),
            self.write.en.eq(self.x_data.valid & (stale == 0)),
            self.write.tile.eq(slot),
            self.write.byte.eq(byte),
            self.write.data.eq(self.x_data.payload),
        ]
        with m.If(self.x_data.valid):
            m.d.sync += byte.eq(Mux(done, 0, byte + 1))
        m.d.sync += [
            pending.eq(pending + issue - done),
            used.eq(used + issue - self.ring.free),
            complete.eq(done & (stale == 0)),
            self.ring.count.eq(self.ring.count + complete - self.ring.free),
        ]
        with m.If(done):
            with m.If(stale != 0):
                m.d.sync += stale.eq(stale - 1)
            with m.Else():
                m.d.sync += slot.eq(Mux(slot == config.weight_tiles - 1, config.resident_tiles, slot + 1))
        m.d.comb += self.idle.eq(~runs.valid & (left == 0) & (pending == 0))

        with m.If(self.clear):
            m.d.sync += [
                left.eq(0),
                used.eq(0),
                stale.eq(pending - done),
                complete.eq(0),
                self.ring.count.eq(0),
                slot.eq(config.resident_tiles),
            ]
        return m

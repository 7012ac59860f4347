"""Weight engine: LOAD instructions to a queue of tiles whose descriptors are known."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.layouts import LOAD_LAYOUT, TILE, TILE_LAYOUT
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig

__all__ = ["Loader"]


class Loader(wiring.Component):
    """Read the descriptors of the tiles that LOAD instructions name, ahead of the multiply engine.

    Members:
        ``i`` Stream(128): LOAD instructions
        ``descriptor`` `ports.descriptor_read`
        ``o`` Stream(TILE_LAYOUT): tiles in order
        ``ring_count`` In: tiles complete in the ring and not yet given back by ``ring_free``
        ``ring_free`` In(1): a ring tile was loaded (from the multiply engine) · ``busy`` Out(1): an instruction is held
        ``bad_address`` Out(1): in the cycle before, a descriptor beyond the weight store was read
    An external tile is read only when ``ring_count`` covers it; ring tiles are used in rising order from
    ``resident_tiles``, wrapping at ``weight_tiles``, running on from one LOAD to the next.
    Throughput: one tile a cycle, no gap between instructions. Latency: an instruction accepted in cycle c has its
    first read in c + 1 and its first tile at ``o`` in c + 3 (``LATENCY``), when the queue (``DEPTH`` tiles) has
    room. Reset: empty, ring at its first tile.
    """

    LATENCY = timing.LOADER
    DEPTH = timing.TILE_QUEUE

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(layouts.LOAD_BITS)),
                "descriptor": Out(ports.descriptor_read()),
                "o": Out(stream.Signature(TILE_LAYOUT)),
                "ring_count": In(TILE),
                "ring_free": In(1),
                "busy": Out(1),
                "bad_address": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        new = data.View(LOAD_LAYOUT, self.i.payload[: LOAD_LAYOUT.size])
        m.submodules.queue = queue = SkidQueue(TILE_LAYOUT, self.DEPTH)
        wiring.connect(m, queue.o, wiring.flipped(self.o))

        external = Signal()
        left = Signal(TILE)  # tiles still to read; 0: no instruction
        final = Signal()  # left == 1
        tile = Signal(TILE)
        claimed = Signal(range(self.DEPTH + 1))  # tiles being read or in the queue
        pop = Signal()
        m.d.comb += pop.eq(self.o.valid & self.o.ready)

        there = Signal(init=1)
        ring = Signal(TILE, init=self._config.resident_tiles)
        if self._config.ring_tiles:
            # Ring tiles read but not yet freed: in the queue here, or on their way through the multiply engine.
            out = Signal(TILE)
            m.d.sync += out.eq(out + (self.descriptor.en & external) - self.ring_free)
            m.d.comb += there.eq(~external | (self.ring_count > out))
            with m.If(self.descriptor.en & external):
                m.d.sync += ring.eq(Mux(ring == self._config.weight_tiles - 1, self._config.resident_tiles, ring + 1))

        m.d.comb += [
            self.busy.eq(left != 0),
            self.descriptor.en.eq(self.busy & (claimed != self.DEPTH) & there),
            self.descriptor.addr.eq(Mux(external, ring, tile)),
            self.i.ready.eq(~self.busy | (self.descriptor.en & final)),
        ]
        m.d.sync += self.bad_address.eq(self.descriptor.en & ~external & (tile >= self._config.weight_tiles))
        m.d.sync += claimed.eq(claimed + self.descriptor.en - pop)
        with m.If(self.descriptor.en):
            m.d.sync += [left.eq(left - 1), final.eq(left == 2), tile.eq(tile + 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [left.eq(new.count), final.eq(new.count == 1), tile.eq(new.tile), external.eq(new.external)]

        reading = Signal()
        read_tile = Signal(TILE, reset_less=True)
        read_ring = Signal(reset_less=True)
        m.d.sync += [reading.eq(self.descriptor.en), read_tile.eq(self.descriptor.addr), read_ring.eq(external)]
        m.d.comb += [
            queue.i.valid.eq(reading),
            queue.i.payload.tile.eq(read_tile),
            queue.i.payload.ring.eq(read_ring),
            queue.i.payload.descriptor.as_value().eq(self.descriptor.data),
        ]
        return m

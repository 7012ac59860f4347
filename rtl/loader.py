"""Weight engine: LOAD instructions to a queue of tiles whose descriptors are known."""

from amaranth.hdl import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig

__all__ = ["DESCRIPTOR_LAYOUT", "Loader", "TILE_LAYOUT", "layout_of"]


def layout_of(fields) -> data.StructLayout:
    """The fields of an instruction or a descriptor as a layout, the first at bit 0."""
    return data.StructLayout({f.name: signed(f.bits) if f.signed else unsigned(f.bits) for f in fields})


DESCRIPTOR_LAYOUT = layout_of(isa.DESCRIPTOR)
TILE_LAYOUT = data.StructLayout({"tile": 20, "ring": 1, "descriptor": DESCRIPTOR_LAYOUT})


class Loader(wiring.Component):
    """Read the descriptors of the tiles that LOAD instructions name, ahead of the multiply engine.

    Members:
        ``i`` Stream(128): LOAD instructions
        ``d_en`` Out(1), ``d_tile`` Out(20): descriptor read · ``descriptor`` In(48): valid one cycle after ``d_en``
        ``o`` Stream(TILE_LAYOUT): tiles in order
        ``ring_count`` In(20): tiles complete in the ring and not yet given back by ``ring_free``
        ``ring_free`` In(1): a ring tile was loaded (from the multiply engine) · ``busy`` Out(1): an instruction is held
        ``bad_address`` Out(1): in the cycle before, a descriptor beyond the weight store was read
    An external tile is read only when ``ring_count`` covers it; ring tiles are used in rising order from
    ``resident_tiles``, wrapping at ``weight_tiles``, running on from one LOAD to the next.
    Throughput: one tile a cycle, no gap between instructions. Latency: an instruction accepted in cycle c has its
    first ``d_en`` in c + 1 and its first tile at ``o`` in c + 3 (``LATENCY``), when the queue (``DEPTH`` tiles) has
    room. Reset: empty, ring at its first tile.
    """

    LATENCY = timing.LOADER
    DEPTH = timing.TILE_QUEUE

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(128)),
                "d_en": Out(1),
                "d_tile": Out(20),
                "descriptor": In(DESCRIPTOR_LAYOUT.size),
                "o": Out(stream.Signature(TILE_LAYOUT)),
                "ring_count": In(20),
                "ring_free": In(1),
                "busy": Out(1),
                "bad_address": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = layout_of(isa.LOAD.fields)
        new = data.View(layout, self.i.payload[: layout.size])
        m.submodules.queue = queue = SkidQueue(TILE_LAYOUT, self.DEPTH)
        wiring.connect(m, queue.o, wiring.flipped(self.o))

        external = Signal()
        left = Signal(20)  # tiles still to read; 0: no instruction
        final = Signal()  # left == 1
        tile = Signal(20)
        claimed = Signal(range(self.DEPTH + 1))  # tiles being read or in the queue
        pop = Signal()
        m.d.comb += pop.eq(self.o.valid & self.o.ready)

        there = Signal(init=1)
        ring = Signal(20, init=self._config.resident_tiles)
        if self._config.ring_tiles:
            # Ring tiles read but not yet freed: in the queue here, or on their way through the multiply engine.
            out = Signal(20)
            m.d.sync += out.eq(out + (self.d_en & external) - self.ring_free)
            m.d.comb += there.eq(~external | (self.ring_count > out))
            with m.If(self.d_en & external):
                m.d.sync += ring.eq(Mux(ring == self._config.weight_tiles - 1, self._config.resident_tiles, ring + 1))

        m.d.comb += [
            self.busy.eq(left != 0),
            self.d_en.eq(self.busy & (claimed != self.DEPTH) & there),
            self.d_tile.eq(Mux(external, ring, tile)),
            self.i.ready.eq(~self.busy | (self.d_en & final)),
        ]
        m.d.sync += self.bad_address.eq(self.d_en & ~external & (tile >= self._config.weight_tiles))
        m.d.sync += claimed.eq(claimed + self.d_en - pop)
        with m.If(self.d_en):
            m.d.sync += [left.eq(left - 1), final.eq(left == 2), tile.eq(tile + 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [left.eq(new.count), final.eq(new.count == 1), tile.eq(new.tile), external.eq(new.external)]

        reading = Signal()
        read_tile = Signal(20, reset_less=True)
        read_ring = Signal(reset_less=True)
        m.d.sync += [reading.eq(self.d_en), read_tile.eq(self.d_tile), read_ring.eq(external)]
        m.d.comb += [
            queue.i.valid.eq(reading),
            queue.i.payload.tile.eq(read_tile),
            queue.i.payload.ring.eq(read_ring),
            queue.i.payload.descriptor.as_value().eq(self.descriptor),
        ]
        return m

"""Weight engine of compact configurations: LOAD instructions to one tile at a time in the shadow weights."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.compact.ports import word_read
from lepton.rtl.layouts import DESCRIPTOR_LAYOUT, LOAD_LAYOUT, TILE, WORD_LAYOUT
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


def first_word(tile):
    """Address of a tile's first word, ``SerialLoader.WORDS`` times its number, by adders."""
    return (tile << 3) + (tile << 1) + tile


class SerialLoader(wiring.Component):
    """Tiles of a memory of 16-bit words into the array's shadow registers, the next one when one has started.

    Members:
        ``i`` Stream(WORD_LAYOUT): the words of LOAD instructions, 0 and 1 · ``o`` Stream(DESCRIPTOR_LAYOUT): of the
        tile that waits; taken when its pass starts · ``read`` `word_read`; a tile is ``WORDS`` consecutive words
        ``rows`` `ports.tile_rows` · ``busy`` Out(1)

    A LOAD's first word is accepted when no tile of the one before is left to read. With ``P`` the cycle in which the
    tile before was taken, a tile's words are read from B = max(accept, P) + 1 on, one a cycle, and it is at ``o`` from
    B + WORDS on. Its row r is loaded in cycle B + 5 + 2r: after row r's swap to the tile before, if that comes at most
    5 + r cycles after P, and before its own. Reset: empty.
    """

    WORDS = timing.TILE_WORDS

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "i": In(stream.Signature(WORD_LAYOUT)),
                "o": Out(stream.Signature(DESCRIPTOR_LAYOUT)),
                "read": Out(word_read()),
                "rows": Out(ports.tile_rows(config)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        word, index = self.i.payload.word, self.i.payload.index
        new = data.View(LOAD_LAYOUT, Cat(word, Const(0, LOAD_LAYOUT.size - len(word))))  # the second is not used
        left = Signal(TILE)
        step = Signal(range(self.WORDS))
        reading, full = Signal(), Signal()
        last = Signal()
        m.d.comb += [
            self.i.ready.eq((left == 0) | index[0]),
            self.busy.eq((left != 0) | full),
            self.o.valid.eq(full),
            last.eq(step == self.WORDS - 1),
        ]
        begin = Signal()  # the next cycle reads the first word
        with m.If(full):
            m.d.comb += begin.eq(self.o.ready & (left != 0))
        with m.If(reading):
            m.d.sync += [self.read.addr.eq(self.read.addr + 1), step.eq(Mux(last, 0, step + 1))]
            with m.If(last):
                m.d.sync += [reading.eq(0), full.eq(1), left.eq(left - 1)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += full.eq(0)
        with m.If(begin):
            m.d.sync += reading.eq(1)
        with m.If(self.i.valid & (left == 0) & ~index[0]):
            m.d.sync += [
                left.eq(new.count),
                self.read.addr.eq(first_word(new.tile[:14])),
                reading.eq(~full | self.o.ready),
            ]

        # The word read in the cycle before is `at` of its tile.
        at = Signal(range(self.WORDS))
        here = Signal()
        before = Signal(16, reset_less=True)
        m.d.sync += [at.eq(step), here.eq(reading), before.eq(self.read.data)]
        for k in range(3):
            with m.If(here & (at == k)):
                m.d.sync += self.o.payload.as_value()[16 * k : 16 * k + 16].eq(self.read.data)
        for r, row in enumerate(self.rows.weights):
            m.d.comb += [
                row.as_value().eq(Cat(before, self.read.data)),
                self.rows.load[r].eq(here & (at == 4 + 2 * r)),
            ]
        return m

"""Tile stage of the compact machine: an instruction is taken word by word, and nothing of it is copied."""

from amaranth.hdl import Cat
from amaranth.lib import data

from lepton.rtl import layouts
from lepton.rtl.spec import isa
from lepton.rtl.tile_stage import TileStage


class CompactTileStage(TileStage):
    """`TileStage` with ``i`` Stream(WORD_LAYOUT). The first word is accepted when nothing in flight needs the
    instruction before (``drained``)."""

    payload = layouts.WORD_LAYOUT

    def _room(self, take_end):
        return ~self.held & self.drained

    def _is_last_word(self):
        return self.i.payload.index == isa.MUL.words - 1

    def _take(self, m, accept, t, counters):
        raw, size = t.as_value(), isa.WORD_BITS
        word = self.i.payload.word
        with m.If(self.i.valid & self.i.ready), m.Switch(self.i.payload.index):
            for k in range(isa.MUL.words):
                with m.Case(k):
                    end = min(size * (k + 1), t.shape().size)
                    m.d.sync += raw[size * k : end].eq(word)
                    for name, counter in counters.items():
                        at, field = isa.MUL.offset(name)
                        for bit in range(len(counter)):
                            source = at + min(bit, field.bits - 1)  # sign extended
                            if source // size == k:
                                m.d.sync += counter[bit].eq(word[source % size])
        new = data.View(t.shape(), Cat(raw[: size * (isa.MUL.words - 1)], word)[: t.shape().size])
        return new, counters["groups"]

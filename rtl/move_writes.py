"""MOVE's writes on the chip: beats from memory, or a constant, to activations, tiles and parameters."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.move_walk import access
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Space


class MoveWrites(wiring.Component):
    """Makes the accesses of loads and fills.

    Members: ``i`` Stream(access), stores are let pass by no one · ``beats`` Stream(8W)
    ``write`` `ports.move_write` · ``tiles``, ``params`` `ports.beat_write`
    ``done`` Out(1): the last access of an instruction is made in this cycle
    Throughput: an access a cycle. No latency, no state.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(access(config))),
                "beats": In(stream.Signature(8 * config.memory_width)),
                "write": Out(ports.move_write(config)),
                "tiles": Out(ports.beat_write(config)),
                "params": Out(ports.beat_write(config)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        i, write = self.i.payload, self.write
        there = Signal()
        goes = Signal()
        m.d.comb += [
            there.eq(self.i.valid & ~i.store & (self.beats.valid | i.fill)),
            goes.eq(there & ((i.space != Space.ACT) | write.ready)),
            self.i.ready.eq(goes),
            self.beats.ready.eq(goes & i.pops & ~i.fill),
            self.done.eq(goes & i.end),
            write.en.eq(there & (i.space == Space.ACT)),
            write.addr.eq(i.at),
            write.low.eq(i.low),
            write.count.eq(i.count),
        ]
        part = self.beats.payload.word_select(i.piece, len(Cat(*write.data)))
        for k, byte in enumerate(write.data):
            m.d.comb += byte.eq(Mux(i.fill, i.value, part[8 * k : 8 * k + 8]) ^ (i.flip << 7))
        for space, words in ((Space.WEIGHT, self.tiles), (Space.PARAM, self.params)):
            m.d.comb += [
                words.en.eq(there & (i.space == space)),
                words.index.eq(i.at),
                words.beat.eq(i.beat),
                words.data.eq(self.beats.payload),
            ]
        return m

"""Memories of the compact machine: one port each, the engines' during a run, else the host's."""

from amaranth.hdl import Module, Mux, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.activations import Activations
from lepton.rtl.compact.ports import serial_tiles, word_read
from lepton.rtl.compact.serial_loader import SerialLoader, first_word
from lepton.rtl.compact.spram import Spram, SpramActMemory
from lepton.rtl.layouts import WORD_LAYOUT
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Region


class SpramActivations(Activations):
    """`Activations` in SPRAM: reads start at even bytes, and the host is near."""

    def _memory(self):
        return SpramActMemory(self._config)

    def _reads(self, m, memory):
        host = self.host_read
        m.d.comb += [
            memory.read.en.eq(Mux(self.running, self.read.en, host.en)),
            memory.read.addr.eq(Mux(self.running, self.read.addr, host.addr)),
            host.data.eq(Mux(host.addr[0], memory.read.data[1], memory.read.data[0])),
        ]


def _shared(m, memory: Spram, host, region: Region, first, running, read):
    """The memory reads for the engine during a run; else the host writes bytes of words from `first` on."""
    half, odd = host.byte >> 1, host.byte[0]
    m.d.comb += [
        memory.addr.eq(Mux(running, read.addr, first + half)),
        memory.w_on.eq(Mux(host.en & (host.region == region), 1 << odd, 0)),
        memory.w_data.eq(host.data.replicate(2)),
        read.data.eq(memory.r_data),
    ]


class SpramParameters(wiring.Component):
    """Parameter memory: an entry in the first 5 of 8 words. Members: ``running`` In(1) · ``host``
    `ports.host_write` · ``read`` `word_read`."""

    def __init__(self, config: NpuConfig):
        super().__init__({"running": In(1), "host": In(ports.host_write()), "read": In(word_read())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Spram()
        _shared(m, memory, self.host, Region.PARAM, self.host.index[:14] << 3, self.running, self.read)
        return m


class SerialTileSupply(wiring.Component):
    """`TileSupply` for the compact machine: tiles in SPRAM, read by the loader when the one before has started.

    Members: those of `TileSupply`, with ``i`` Stream(WORD_LAYOUT) and ``tiles`` `serial_tiles`.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(WORD_LAYOUT)),
                "tiles": In(serial_tiles()),
                "rows": Out(ports.tile_rows(config)),
                "host": In(ports.host_write()),
                "running": In(1),
                "clear": In(1),
                "idle": Out(1),
                "moved": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Spram()
        loader = SerialLoader(self._config)
        m.submodules.loader = ResetInserter(self.clear)(loader)
        wiring.connect(m, wiring.flipped(self.i), loader.i)
        wiring.connect(m, loader.o, wiring.flipped(self.tiles.i))
        wiring.connect(m, loader.rows, wiring.flipped(self.rows))
        _shared(m, memory, self.host, Region.WEIGHT, first_word(self.host.index[:14]), self.running, loader.read)
        m.d.comb += self.idle.eq(~loader.busy)
        return m

"""Tile supply of a machine with a memory port: MOVE writes the weight store, too."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from lepton.rtl import layouts, ports
from lepton.rtl.spec.isa import Region
from lepton.rtl.tile_supply import TileSupply
from lepton.rtl.weight_store import WideWeightStore


class MemoryTiles(TileSupply):
    """`TileSupply` with ``move`` `ports.beat_write`, for which ``running`` decides. There is no ring."""

    def _members(self, config):
        return super()._members(config) | {"move": In(ports.beat_write(config))}

    def elaborate(self, platform):
        m = Module()
        width, host, move = self._config.memory_width, self.host, self.move
        m.submodules.weight_store = store = WideWeightStore(self._config)
        wiring.connect(m, wiring.flipped(self.tiles.load), store.load)
        wiring.connect(m, wiring.flipped(self.tiles.descriptor), store.descriptor)
        wiring.connect(m, store.o, wiring.flipped(self.rows))
        wiring.connect(m, wiring.flipped(self.i), wiring.flipped(self.tiles.i))
        place = Signal(range(layouts.tile_byte(self._config, 2 ** len(host.byte))))
        lane = place[: (width - 1).bit_length()]
        m.d.comb += [
            place.eq(layouts.tile_byte(self._config, host.byte)),
            store.write.en.eq(Mux(self.running, move.en, host.en & (host.region == Region.WEIGHT))),
            store.write.index.eq(Mux(self.running, move.index, host.index)),
            store.write.beat.eq(Mux(self.running, move.beat, place[len(lane) :])),
            store.write.mask.eq(Mux(self.running, 2**width - 1, 1 << lane)),
            store.write.data.eq(Mux(self.running, move.data, host.data.replicate(width))),
            self.idle.eq(1),
        ]
        return m

"""Tile supply: the weight store, and ahead of it the prefetch of tiles from external memory."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.prefetch import Prefetch
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Region
from lepton.rtl.weight_store import WeightStore


class TileSupply(wiring.Component):
    """What stands between the LOAD instructions and the array's shadow registers.

    Members:
        ``i`` Stream(128): LOAD instructions · ``tiles`` `ports.tiles`, to the multiply engine · ``rows``
        `ports.tile_rows`, to the array · ``host`` `ports.host_write`: writes the store while no run is in progress
        ``running`` In(1) · ``clear`` In(1): forget what external memory was asked for · ``idle`` Out(1)
        ``moved`` Out(1): a byte came from external memory · ``x`` `ports.external_read` (only with a ring)
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(self._members(config))

    def _members(self, config: NpuConfig) -> dict:
        return {
            "i": In(stream.Signature(layouts.LOAD_BITS)),
            "tiles": In(ports.tiles()),
            "rows": Out(ports.tile_rows(config)),
            "host": In(ports.host_write()),
            "running": In(1),
            "clear": In(1),
            "idle": Out(1),
            "moved": Out(1),
            **({"x": Out(ports.external_read())} if config.ring_tiles else {}),
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.weight_store = store = WeightStore(self._config)
        wiring.connect(m, wiring.flipped(self.tiles.load), store.load)
        wiring.connect(m, wiring.flipped(self.tiles.descriptor), store.descriptor)
        wiring.connect(m, store.o, wiring.flipped(self.rows))
        host, write = self.host, store.write
        m.d.comb += [
            write.en.eq(host.en & (host.region == Region.WEIGHT)),
            write.tile.eq(host.index),
            write.byte.eq(host.byte),
            write.data.eq(host.data),
        ]
        if not self._config.ring_tiles:
            wiring.connect(m, wiring.flipped(self.i), wiring.flipped(self.tiles.i))
            m.d.comb += self.idle.eq(1)
            return m
        m.submodules.prefetch = prefetch = Prefetch(self._config)
        wiring.connect(m, wiring.flipped(self.i), prefetch.i)
        wiring.connect(m, prefetch.o, wiring.flipped(self.tiles.i))
        wiring.connect(m, wiring.flipped(self.tiles.ring), prefetch.ring)
        wiring.connect(m, prefetch.x_req, wiring.flipped(self.x.req))
        wiring.connect(m, wiring.flipped(self.x.data), prefetch.x_data)
        with m.If(self.running):
            m.d.comb += [getattr(write, name).eq(getattr(prefetch.write, name)) for name in write.signature.members]
        m.d.comb += [
            prefetch.clear.eq(self.clear),
            self.idle.eq(prefetch.idle),
            self.moved.eq(self.x.data.valid),
        ]
        return m

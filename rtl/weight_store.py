"""Weight store: tiles and their descriptors; a tile leaves a cycle, skewed like the array."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import NpuConfig
from .isa import DESCRIPTOR, DESCRIPTOR_BYTES


class WeightStore(wiring.Component):
    """`weight_tiles` tiles of rows x cols bytes, one memory a row, and a descriptor each.

    Members:
    ``load``, ``tile`` unsigned(20): hand tile to the array · ``o_load`` rows bits, ``o_weights``
    ArrayLayout(ArrayLayout(signed(8), cols), rows): row r with o_load[r] = 1 in cycle ``LATENCY`` + skew(r) after
    ``load``; skew(r) = r, paired: r // 2 · ``d_en``, ``d_tile`` unsigned(20) · ``descriptor`` unsigned(48), packed
    as isa.DESCRIPTOR, ``D_LATENCY`` cycles after ``d_en`` and held until the next · ``w_en``, ``w_tile``
    unsigned(20), ``w_byte`` unsigned(11), ``w_data`` unsigned(8): write one byte of a word: 6 bytes of descriptor,
    then row 0's cols bytes, row 1's, ...

    Throughput: a tile, a descriptor and a byte written a cycle. A written byte is visible to ``load`` or ``d_en``
    from ``W_LATENCY`` cycles later. ``w_byte`` beyond the word writes nothing. Reset: memories stay, loads under
    way are dropped.
    """

    LATENCY = 2
    D_LATENCY = 1
    W_LATENCY = 2

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "load": In(1),
                "tile": In(20),
                "o_load": Out(config.rows),
                "o_weights": Out(data.ArrayLayout(data.ArrayLayout(signed(8), config.cols), config.rows)),
                "d_en": In(1),
                "d_tile": In(20),
                "descriptor": Out(sum(f.bits for f in DESCRIPTOR)),
                "w_en": In(1),
                "w_tile": In(20),
                "w_byte": In(11),
                "w_data": In(8),
            }
        )

    def elaborate(self, platform):
        cfg = self._config
        m = Module()
        bits = (cfg.weight_tiles - 1).bit_length()
        n = 2 if cfg.pe == "paired" else 1

        w_at = Signal(bits, reset_less=True)
        w_value = Signal(8, reset_less=True)
        w_index = Signal(range(max(cfg.cols, DESCRIPTOR_BYTES)), reset_less=True)
        m.d.sync += [w_at.eq(self.w_tile), w_value.eq(self.w_data)]
        strobe = Signal(max(cfg.cols, DESCRIPTOR_BYTES))
        m.d.comb += strobe.eq(1 << w_index)

        def memory(name, base, count):
            """Memory of `count` bytes a word, byte-writable as w_byte base and on; returns its read port."""
            m.submodules[name] = unit = Memory(
                shape=8 * count, depth=cfg.weight_tiles, init=[], attrs=cfg.memory_attrs("weight")
            )
            hit, on = Signal(name=f"{name}_hit"), Signal(name=f"{name}_write")
            m.d.comb += hit.eq((self.w_byte >= base) & (self.w_byte < base + count))
            m.d.sync += on.eq(self.w_en & hit)
            with m.If(hit):
                m.d.sync += w_index.eq(self.w_byte - base)
            write = unit.write_port(granularity=8)
            m.d.comb += [
                write.addr.eq(w_at),
                write.data.eq(w_value.replicate(count)),
                write.en.eq(Mux(on, strobe[:count], 0)),
            ]
            return unit.read_port()

        read = memory("descriptors", 0, DESCRIPTOR_BYTES)
        m.d.comb += [
            read.en.eq(self.d_en),
            read.addr.eq(self.d_tile),
            self.descriptor.eq(read.data),
        ]

        load, tile = self.load, self.tile
        for r in range(cfg.rows):
            if r % n == 0:
                load_1 = Signal(name=f"load_{r}")
                tile_1 = Signal(bits, name=f"tile_{r}", reset_less=True)
                m.d.sync += [load_1.eq(load), tile_1.eq(tile)]
                load, tile = load_1, tile_1
                present = Signal(name=f"present_{r}")
                m.d.sync += present.eq(load)
            read = memory(f"row_{r}", DESCRIPTOR_BYTES + r * cfg.cols, cfg.cols)
            m.d.comb += [
                read.en.eq(load),
                read.addr.eq(tile),
                self.o_load[r].eq(present),
                self.o_weights[r].as_value().eq(read.data),
            ]
        return m

"""Weight store: tiles and their descriptors; a tile leaves a cycle, skewed like the array."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec import timing
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.isa import DESCRIPTOR, DESCRIPTOR_BYTES


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

    LATENCY = timing.WEIGHT_LOAD
    D_LATENCY = timing.DESCRIPTOR_READ
    W_LATENCY = timing.WEIGHT_WRITE

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

        def stage(of, name):
            """The write port's inputs (en, tile, byte, data) a cycle later."""
            out = [Signal.like(value, name=f"{name}_{k}", reset_less=bool(k), attrs=KEEP) for k, value in enumerate(of)]
            m.d.sync += [late.eq(value) for late, value in zip(out, of, strict=True)]
            return out

        def memory(name, base, count, before, now):
            """Memory of `count` bytes a word, byte-writable as w_byte base and on; returns its read port.

            `now` is the write port a cycle after `before`."""
            m.submodules[name] = unit = Memory(
                shape=8 * count, depth=cfg.weight_tiles, init=[], attrs=cfg.memory_attrs("weight")
            )
            on = Signal(name=f"{name}_write", attrs=KEEP)
            index = Signal(range(count), name=f"{name}_byte", reset_less=True, attrs=KEEP)
            en, _, byte, _ = before
            _, at, _, value = now
            m.d.sync += [on.eq(en & (byte >= base) & (byte < base + count)), index.eq(byte - base)]
            write = unit.write_port(granularity=8)
            m.d.comb += [
                write.addr.eq(at),
                write.data.eq(value.replicate(count)),
                write.en.eq(Mux(on, 1 << index, 0)),
            ]
            return unit.read_port()

        # Writes go down the array as loads do, so no wire crosses the chip in one cycle.
        before = [self.w_en, self.w_tile[:bits], self.w_byte, self.w_data]
        now = stage(before, "w_0")
        read = memory("descriptors", 0, DESCRIPTOR_BYTES, before, now)
        m.d.comb += [
            read.en.eq(self.d_en),
            read.addr.eq(self.d_tile),
            self.descriptor.eq(read.data),
        ]

        load, tile = self.load, self.tile
        for r in range(cfg.rows):
            if r % n == 0:
                if r:
                    before, now = now, stage(now, f"w_{r}")
                load_1 = Signal(name=f"load_{r}")
                tile_1 = Signal(bits, name=f"tile_{r}", reset_less=True)
                m.d.sync += [load_1.eq(load), tile_1.eq(tile)]
                load, tile = load_1, tile_1
                present = Signal(name=f"present_{r}")
                m.d.sync += present.eq(load)
            read = memory(f"row_{r}", DESCRIPTOR_BYTES + r * cfg.cols, cfg.cols, before, now)
            m.d.comb += [
                read.en.eq(load),
                read.addr.eq(tile),
                self.o_load[r].eq(present),
                self.o_weights[r].as_value().eq(read.data),
            ]
        return m

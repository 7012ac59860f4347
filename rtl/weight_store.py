"""Weight store: tiles and their descriptors; a tile leaves a cycle, skewed like the array."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.isa import DESCRIPTOR_BYTES


class WeightStore(wiring.Component):
    """`weight_tiles` tiles of rows x cols bytes, one memory a row, and a descriptor each.

    Members:
    ``load`` `ports.tile_load` · ``o`` `ports.tile_rows`: row r with load[r] in cycle ``LATENCY`` + skew(r) after
    ``load``; skew(r) = r, paired: r // 2 · ``descriptor`` `ports.descriptor_read`, packed as isa.DESCRIPTOR,
    ``D_LATENCY`` cycles after ``en`` and held until the next · ``write`` `ports.tile_write`

    Throughput: a tile, a descriptor and a byte written a cycle. A written byte is visible to ``load`` or ``descriptor``
    from ``W_LATENCY`` cycles later. A byte beyond the word writes nothing. Reset: memories stay, loads under
    way are dropped.
    """

    LATENCY = timing.WEIGHT_LOAD
    D_LATENCY = timing.DESCRIPTOR_READ
    W_LATENCY = timing.WEIGHT_WRITE

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "load": In(ports.tile_load()),
                "o": Out(ports.tile_rows(config)),
                "descriptor": In(ports.descriptor_read()),
                "write": In(self._write_port(config)),
            }
        )

    def _write_port(self, config):
        return ports.tile_write()

    def _write(self, bits):
        """What travels with a write, first ``en``, the tile and the byte."""
        return [self.write.en, self.write.tile[:bits], self.write.byte, self.write.data]

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
            write = unit.write_port(granularity=8)
            self._writes(m, write, name, range(base, base + count), before, now)
            return unit.read_port()

        # Writes go down the array as loads do, so no wire crosses the chip in one cycle.
        before = self._write(bits)
        now = stage(before, "w_0")
        read = memory("descriptors", 0, DESCRIPTOR_BYTES, before, now)
        m.d.comb += [
            read.en.eq(self.descriptor.en),
            read.addr.eq(self.descriptor.addr),
            self.descriptor.data.eq(read.data),
        ]

        load, tile = self.load.en, self.load.tile
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
                self.o.load[r].eq(present),
                self.o.weights[r].as_value().eq(read.data),
            ]
        return m

    def _writes(self, m, write, name, bytes_, before, now):
        """Steer the write port of a memory of those bytes of a tile; `now` is `before` a cycle later."""
        count = len(bytes_)
        on = Signal(name=f"{name}_write", attrs=KEEP)
        index = Signal(range(count), name=f"{name}_byte", reset_less=True, attrs=KEEP)
        en, _, byte, _ = before
        _, at, _, value = now
        m.d.sync += [on.eq(en & (byte >= bytes_.start) & (byte < bytes_.stop)), index.eq(byte - bytes_.start)]
        m.d.comb += [
            write.addr.eq(at),
            write.data.eq(value.replicate(count)),
            write.en.eq(Mux(on, 1 << index, 0)),
        ]


class WideWeightStore(WeightStore):
    """`WeightStore` with ``write`` `ports.masked_beat`: a beat a cycle. A beat beyond the tile writes nothing."""

    def _write_port(self, config):
        return ports.masked_beat(config)

    def _write(self, bits):
        return [self.write.en, self.write.index[:bits], self.write.beat, self.write.data, self.write.mask]

    def _writes(self, m, write, name, bytes_, before, now):
        width = self._config.memory_width
        places = [divmod(layouts.tile_byte(self._config, byte), width) for byte in bytes_]  # (beat, byte of it)
        first, last = places[0][0], places[-1][0]
        on = Signal(name=f"{name}_write", attrs=KEEP)
        index = Signal(range(last - first + 1), name=f"{name}_beat", reset_less=True, attrs=KEEP)
        en, _, beat, *_ = before
        _, at, _, value, mask = now
        m.d.sync += [on.eq(en & (beat >= first) & (beat <= last)), index.eq(beat - first)]
        m.d.comb += [
            write.addr.eq(at),
            write.data.eq(Cat(value.word_select(lane, 8) for _, lane in places)),
            write.en.eq(Cat(on & (index == beat - first) & mask[lane] for beat, lane in places)),
        ]

"""Weight store: tiles and their descriptors; a tile leaves a cycle, skewed like the array."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
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
                "write": In(ports.tile_write()),
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
        before = [self.write.en, self.write.tile[:bits], self.write.byte, self.write.data]
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

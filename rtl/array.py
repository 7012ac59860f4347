"""The systolic array: rows x cols weights, convolution and depthwise mode."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.multiplier import RowMultiplier
from lepton.rtl.pe import Pe
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.isa import MIN_LINE_DELAY


class Array(wiring.Component):
    """Multiply vectors by the tile held in the array.

    Members:
    ``vectors`` `ports.vectors`: one vector, all in one cycle t · ``tile`` `ports.tile_rows`: row r of a tile in cycle
    u + skew(r), skew(r) = r, paired: r // 2 · ``psum`` psums: the vector's sums in cycle t + ``LATENCY``.

    A swap at t makes the vector of t and all later ones use the last tile with u < t; u may equal the cycle of the
    previous swap (that swap still takes the tile before), not be less.

    Convolution: lane j meets row j. Depthwise: lane c meets column c; tap row j of segment s (row taps*s + j,
    paired: the even byte of physical row taps*s + j, its odd byte being zero) sees the vector s*(line_delay -
    taps) + j cycles older, so line delay = stream width + taps is exactly one stream row a segment. Rows below the
    last segment must hold zero weights. ``line_delay`` is ``MIN_LINE_DELAY`` to ``line_depth`` and takes effect
    with its vector; it and the line buffers count cycles, so the vectors of a depthwise stream come without gaps.
    Undefined and harmless in convolution mode. Throughput: one vector a cycle, of any mode. Reset: none on the data
    path.
    """

    MIN_LINE_DELAY = MIN_LINE_DELAY

    def __init__(self, config: NpuConfig):
        self._config = config
        paired = config.pe == "paired"
        self._columns = config.cols + 1 if paired else config.cols  # the last one sums a[2p]*a[2p+1]
        self.LATENCY = timing.array(config)
        super().__init__(
            {
                "vectors": In(ports.vectors(config)),
                "tile": In(ports.tile_rows(config)),
                "psum": Out(layouts.psums(config)),
            }
        )

    def elaborate(self, platform):
        cfg = self._config
        m = Module()
        paired = cfg.pe == "paired"
        n = 2 if paired else 1
        first_rows = {s * cfg.taps: s for s in range(cfg.segments)}

        # Row skew: row r works r cycles after row 0.
        swap, depthwise = [self.vectors.swap], [self.vectors.depthwise]
        for r in range(1, cfg.phys_rows):
            s, d = Signal(name=f"swap_{r}"), Signal(name=f"depthwise_{r}")
            m.d.sync += [s.eq(swap[-1]), d.eq(depthwise[-1])]
            swap.append(s)
            depthwise.append(d)

        def skewed(lane, by):
            value = self.vectors.act[lane]
            for k in range(by):
                stage = Signal(signed(8), name=f"skew_{lane}_{k}", reset_less=True)
                m.d.sync += stage.eq(value)
                value = stage
            return value

        above: list[Value] = []
        heads: list[Value] = []
        for r in range(cfg.phys_rows):
            bus = [skewed(r * n + k, r) for k in range(n)]
            if paired:
                odd = Signal(signed(8), name=f"odd_{r}")
                m.d.comb += odd.eq(Mux(depthwise[r], 0, bus[1]))
                bus[1] = odd
            row = []
            m.submodules[f"multiplier_{r}"] = multiplier = RowMultiplier(cfg, self._columns, r < cfg.cell_rows)
            m.d.comb += multiplier.i_swap.eq(swap[r])
            for c in range(self._columns):
                pe = Pe(cfg, r)
                m.submodules[f"pe_{r}_{c}"] = pe
                m.d.comb += [
                    *(pe.i_act[k].eq(bus[k]) for k in range(n)),
                    multiplier.i_left[c].eq(pe.o_left),
                    multiplier.i_right[c].eq(pe.o_right),
                    pe.i_product.eq(multiplier.o_product[c]),
                ]
                if r:
                    m.d.comb += pe.i_psum.eq(above[c].o_psum)
                if c < cfg.cols:
                    m.d.comb += pe.i_swap.eq(swap[r])
                    for k in range(n):
                        m.d.comb += [
                            pe.i_load[k].eq(self.tile.load[r * n + k]),
                            pe.i_weight[k].eq(self.tile.weights[r * n + k][c]),
                        ]
                    if r < cfg.taps * cfg.segments:
                        m.d.comb += pe.i_depthwise.eq(depthwise[r])
                        if r not in first_rows:
                            m.d.comb += pe.i_chain.eq(above[c].o_chain)
                row.append(pe)
            if r == 0:
                m.d.comb += [pe.i_chain.eq(self.vectors.act[c]) for c, pe in enumerate(row[: cfg.cols])]
            elif r in first_rows:
                line = self._line(m, first_rows[r], heads)
                m.d.comb += [pe.i_chain.eq(line[8 * c : 8 * c + 8].as_signed()) for c, pe in enumerate(row[: cfg.cols])]
            if r in first_rows:
                heads = [pe.o_act for pe in row[: cfg.cols]]
            above = row

        if paired:
            for c in range(cfg.cols):
                out = Signal(signed(cfg.psum_width), name=f"corrected_{c}", reset_less=True)
                m.d.sync += out.eq(above[c].o_psum - above[cfg.cols].o_psum)
                m.d.comb += self.psum[c].eq(out)
        else:
            m.d.comb += [self.psum[c].eq(above[c].o_psum) for c in range(cfg.cols)]
        return m

    def _line(self, m, segment, heads):
        """Line buffer from segment - 1's first row to segment's: `line_delay` cycles, counted at the inputs of
        those rows.

        Of these the activation register, the memory's read and the output register take one each; the others are the
        distance between write and read address (at least 1, so they never meet).
        """
        cfg = self._config
        bits = (cfg.line_depth - 1).bit_length()
        at = Signal(bits, name=f"line_at_{segment}")
        out = Signal(8 * cfg.cols, name=f"line_out_{segment}", reset_less=True)
        # The address register is set 3 cycles before the segment's first row takes the value.
        delay = Value.cast(self.vectors.line_delay)[:bits]
        for k in range(cfg.taps * segment - 3):
            stage = Signal(bits, name=f"line_delay_{segment}_{k}", reset_less=True)
            m.d.sync += stage.eq(delay)
            delay = stage
        m.d.sync += at.eq(at + 1)
        # Made of look-up tables, each column has its own, with its own addresses near it.
        parts = cfg.cols if "line" in cfg.lutram.split() else 1
        for part in range(parts):
            tag, own = (f"{segment}_{part}", KEEP) if parts > 1 else (f"{segment}", {})
            width = 8 * cfg.cols // parts
            m.submodules[f"line_{tag}"] = memory = Memory(
                shape=width, depth=1 << bits, init=[], attrs=cfg.memory_attrs("line")
            )
            write, read = memory.write_port(), memory.read_port()
            address = Signal(bits, name=f"line_address_{tag}", reset_less=True, attrs=own)
            m.d.sync += [
                address.eq(at + 1 - (delay - 3)),
                out[part * width : (part + 1) * width].eq(read.data),
            ]
            m.d.comb += [
                write.en.eq(1),
                write.addr.eq(at),
                write.data.eq(Cat(heads)[part * width : (part + 1) * width]),
                read.en.eq(1),
                read.addr.eq(address),
            ]
        return out

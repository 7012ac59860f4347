"""Activation memory: byte-wide banks, read and written at any byte address."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from lepton.rtl import layouts, ports
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


def _rotate_right(m, value, by, name, begin=0):
    """`value`, bytes, rotated down by the bits of `by` from bit `begin` on, in bytes (a power of two of them)."""
    size = len(value)
    for k, bit in enumerate(by, begin):
        stage = Signal(size, name=f"{name}_{k}")
        m.d.comb += stage.eq(Mux(bit, Cat(value[8 << k :], value[: 8 << k]), value))
        value = stage
    return value


class ActMemory(wiring.Component):
    """`act_bytes` bytes; addresses wrap at act_bytes. Byte a is in bank a mod banks, word a div banks.

    Members: ``read`` `ports.activation_read` of W = max(rows, cols) bytes, ``data`` only in the cycle ``LATENCY`` after
    ``en`` · ``write`` `ports.activation_write`.

    Throughput: one read and one write a cycle. A read sees the writes of ``W_LATENCY`` and more cycles before; of a
    byte written later, or in the same cycle, it sees either value. Reset: memory stays, the writes of the last
    ``W_LATENCY`` cycles may be lost.
    """

    LATENCY = timing.ACT_READ
    W_LATENCY = timing.ACT_WRITE

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "read": In(ports.activation_read(layouts.activations(config))),
                "write": In(self._write_port(config)),
            }
        )

    def _write_port(self, config):
        return ports.activation_write(config)

    def _inside(self, m):
        """Whether byte `index` of a write is one of its bytes; the write is registered, `w_count` with it."""
        return lambda index, w_count: index < w_count

    def elaborate(self, platform):
        cfg = self._config
        m = Module()
        banks = cfg.banks
        low_bits = (banks - 1).bit_length()
        words = cfg.act_bytes // banks
        high_bits = (words - 1).bit_length()

        def split(address, name):
            low = Signal(low_bits, name=f"{name}_low")
            here = Signal(high_bits, name=f"{name}_word")
            after = Signal(high_bits, name=f"{name}_next")
            m.d.comb += [low.eq(address), here.eq(address >> low_bits), after.eq(here + 1)]
            return low, here, after

        # The writes' sources, tail and link, are far from one another and from the banks.
        w_en = Signal(name="late_en")
        w_addr, w_count, w_data = (
            Signal(len(Value.cast(value)), name=f"late_{name}", reset_less=True)
            for name, value in (("addr", self.write.addr), ("count", self.write.count), ("data", self.write.data))
        )
        m.d.sync += [
            w_en.eq(self.write.en),
            w_addr.eq(self.write.addr),
            w_count.eq(self.write.count),
            w_data.eq(self.write.data),
        ]
        # Bank b takes byte (b - w_low) mod banks: rotate up, that is down by -w_low.
        up = Signal(low_bits, reset_less=True)
        m.d.sync += up.eq(-self.write.addr[:low_bits])

        r_low, r_word, r_next = split(self.read.addr, "r")
        w_low, w_word, w_next = split(w_addr, "w")
        en_1 = Signal()
        low_1, low_2, low_3 = (Signal(low_bits, name=f"r_low_{k}", reset_less=True) for k in (1, 2, 3))
        m.d.sync += [en_1.eq(self.read.en), low_1.eq(r_low), low_2.eq(low_1), low_3.eq(low_2)]

        inside = self._inside(m)
        w_bytes = Signal(8 * banks)
        m.d.comb += w_bytes.eq(w_data)
        w_rotated = Signal(8 * banks, reset_less=True)
        m.d.sync += w_rotated.eq(_rotate_right(m, w_bytes, up, "w_rotate"))

        outs = []
        for b in range(banks):
            m.submodules[f"bank_{b}"] = memory = Memory(shape=8, depth=words, init=[], attrs={"no_rw_check": 1})
            read, write = memory.read_port(), memory.write_port()
            r_at = Signal(high_bits, name=f"r_at_{b}", reset_less=True)
            w_at = Signal(high_bits, name=f"w_at_{b}", reset_less=True)
            w_on = Signal(name=f"w_on_{b}")
            index = Signal(low_bits, name=f"w_index_{b}")
            m.d.comb += index.eq(b - w_low)
            m.d.sync += [
                r_at.eq(Mux(b < r_low, r_next, r_word)),
                w_at.eq(Mux(b < w_low, w_next, w_word)),
                w_on.eq(w_en & inside(index, w_count)),
            ]
            m.d.comb += [
                read.en.eq(en_1),
                read.addr.eq(r_at),
                write.en.eq(w_on),
                write.addr.eq(w_at),
                write.data.eq(w_rotated[8 * b : 8 * b + 8]),
            ]
            outs.append(read.data)

        # A block RAM's output is late and the far steps cross the chip, so there is a register between them.
        near = low_bits // 2
        raw, half = Signal(8 * banks), Signal(8 * banks, reset_less=True)
        m.d.comb += raw.eq(Cat(outs))
        m.d.sync += half.eq(_rotate_right(m, raw, low_2[:near], "r_rotate"))
        result = Signal(8 * len(self.read.data), reset_less=True)
        m.d.sync += result.eq(_rotate_right(m, half, low_3[near:], "r_rotate", near))
        m.d.comb += self.read.data.as_value().eq(result)
        return m


class WideActMemory(ActMemory):
    """`ActMemory` with ``write`` `ports.masked_write`."""

    def _write_port(self, config):
        return ports.masked_write(config)

    def _inside(self, m):
        low = Signal.like(self.write.low, name="late_low", reset_less=True)
        m.d.sync += low.eq(self.write.low)
        return lambda index, w_count: (index >= low) & (index < w_count)

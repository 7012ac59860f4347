"""Tail lane: one channel's arithmetic, from its accumulators to its bytes."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.layouts import PARAM_LAYOUT, STEERING
from lepton.rtl.registers import late, output
from lepton.rtl.requantizer import Requantizer
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig


class TailLane(wiring.Component):
    """Bias or second operand, scaling, zero point and clamp, maximum over a window, table.

    Members; cycles are those after an accumulator is at ``read``:
        ``steering`` In(STEERING) · ``entry`` In(PARAM_LAYOUT), ``entry_en`` In(1): parameters of the next sub-group,
        ``switch`` In(1): it begins, with the cycle before its first ``read``
        ``read`` In(32), ``second``, ``minus`` In(1): a second operand, to be added or subtracted · 1 cycle: their sum
        2 + `REQUANTIZE`: ``word`` Out(signed(32)), scaled and clamped, 2 cycles on; in its cycle ``valid``, ``starts``
        In(1): it belongs to a window, as the first of it
        ``byte`` Out(signed(8)): the maximum of the window, through the table if asked, 3 cycles after ``word``
        ``table_en`` In(1), ``table_word`` In, ``table_data`` In(64): eight entries of the table, index -128 first
    Throughput: a value a cycle. Reset: the data path has none, the table stays.
    """

    steering: In(STEERING)
    entry: In(PARAM_LAYOUT)
    entry_en: In(1)
    switch: In(1)
    read: In(32)
    second: In(1)
    minus: In(1)
    valid: In(1)
    starts: In(1)
    table_en: In(1)
    table_word: In(range(isa.TABLE_ENTRIES))
    table_data: In(64)
    word: Out(signed(32))
    byte: Out(signed(8))

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        waiting, param = (Signal(PARAM_LAYOUT, name=name, reset_less=True) for name in ("waiting", "param"))
        with m.If(self.entry_en):
            m.d.sync += waiting.eq(self.entry)
        with m.If(self.switch):
            m.d.sync += param.eq(waiting)
        result = self._scaled(m, param)
        word = self._clamped(m, result)
        self._pooled(m, word)
        return m

    def _scaled(self, m, param):
        """Bias, or the second operand; then the requantizer."""
        steering = self.steering
        total, previous, multiplier = (
            Signal(signed(32), name=name, reset_less=True) for name in ("total", "previous", "multiplier")
        )
        shift = Signal(signed(8), reset_less=True)
        addend = Signal(signed(32))
        m.d.comb += addend.eq(Mux(self.second, Mux(steering.product, param.multiplier, total), param.bias))
        # One adder either way: the second operand inverted, with a carry in.
        operand = self.read ^ self.minus.replicate(32)
        m.d.sync += [
            total.eq((Cat(self.minus, operand) + Cat(self.minus, addend))[1:33]),
            previous.eq(total),
            multiplier.eq(param.multiplier),
            shift.eq(param.shift),
        ]
        m.submodules.requantizer = requantizer = Requantizer(self._config)
        m.d.comb += [
            requantizer.value.eq(Mux(steering.product, previous, total)),
            requantizer.multiplier.eq(Mux(steering.product, total, multiplier)),
            requantizer.shift.eq(Mux(steering.product, 0, shift)),
            requantizer.pre_shift.eq(Mux(steering.product, 0, steering.pre_shift)),
            requantizer.product.eq(steering.product),
        ]
        return requantizer.result

    def _clamped(self, m, result):
        """Zero point, then the limits."""
        steering = self.steering
        moved = Signal(signed(33), reset_less=True)
        m.d.sync += moved.eq(result + steering.zero_point)
        word = output(m, self.word, "clamped")
        with m.If(~steering.clamp):
            m.d.sync += word.eq(moved)
        with m.Elif(moved > steering.high):
            m.d.sync += word.eq(steering.high)
        with m.Elif(moved < steering.low):
            m.d.sync += word.eq(steering.low)
        with m.Else():
            m.d.sync += word.eq(moved)
        return word

    def _pooled(self, m, word):
        """Maximum over the window, then the table."""
        byte = word[:8].as_signed()
        best = Signal(signed(8), reset_less=True)
        with m.If(self.valid & (self.starts | (byte > best))):
            m.d.sync += best.eq(byte)

        m.submodules.table = table = Memory(shape=64, depth=isa.TABLE_ENTRIES, init=[], attrs={"no_rw_check": 1})
        write, read = table.write_port(), table.read_port()
        index = Signal(8)
        m.d.comb += [
            write.en.eq(self.table_en),
            write.addr.eq(self.table_word),
            write.data.eq(self.table_data),
            index.eq(best ^ 0x80),
            read.en.eq(1),
            read.addr.eq(index[3:]),
        ]
        mapped = read.data.word_select(late(m, index[:3], 1, "index"), 8)
        out = output(m, self.byte, "out")
        m.d.sync += out.eq(Mux(self.steering.table, mapped, late(m, best, 1, "best").as_unsigned()))

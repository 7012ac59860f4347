"""Tail parameters: the entries of the next sub-group, and those of a TABLE, one a cycle."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.layouts import PARAM, PARAM_LAYOUT, TABLE_LAYOUT, tail_layout
from lepton.rtl.registers import delays
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig


class TailParameters(wiring.Component):
    """Addresses of the parameter memory; its words go to the lanes.

    Members:
        ``accept`` In(1), ``new`` In(tail_layout): an instruction is taken · ``have``, ``shared`` In(1): a TAIL has
        sub-groups left, and one entry for all channels · ``go`` In(1): a sub-group takes the entries read
        ``wait`` In(1): a TABLE waits, as a TAIL is in flight
        ``read`` `ports.memory_read`, its ``data`` is not looked at · ``running`` Out(1): an entry is read, for ``lane``
        ``there`` Out(1): with it, all of the next sub-group are
        ``have_table`` Out(1): a TABLE has entries left to read · ``table_coming``, ``table_write`` Out(1): one and two
        cycles after such a read; then its word, of number ``table_word``, is written
        ``bad`` Out(1): an entry read for the next sub-group lies outside the memory
    Reset: no instruction.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        inputs = "accept have shared go wait".split()
        outputs = "running there have_table table_coming table_write bad".split()
        super().__init__(
            {
                **{name: In(1) for name in inputs},
                "new": In(tail_layout(config)),
                "read": Out(ports.memory_read(PARAM, PARAM_LAYOUT.size)),
                "lane": Out(range(config.lanes)),
                "table_word": Out(range(isa.TABLE_ENTRIES)),
                **{name: Out(1) for name in outputs},
            }
        )

    def elaborate(self, platform):
        m = Module()
        new = self.new
        new_table = data.View(TABLE_LAYOUT, new.as_value()[: TABLE_LAYOUT.size])
        full = Signal()
        left = Signal(16, name="p_left", reset_less=True)
        last = Signal()
        read_table = Signal()
        m.d.comb += [
            self.running.eq(self.have & ~full),
            last.eq(self.shared | (self.lane == self._config.lanes - 1) | (left == 1)),
            self.there.eq(full | (self.running & last)),
            self.read.en.eq(self.running | read_table),
        ]
        with m.If(self.read.en):
            m.d.sync += [self.read.addr.eq(self.read.addr + 1), left.eq(left - 1)]
        with m.If(self.running):
            m.d.sync += self.lane.eq(self.lane + 1)
            with m.If(last):
                m.d.sync += [full.eq(1), self.lane.eq(0)]
        with m.If(self.go & ~self.shared):
            m.d.sync += full.eq(0)

        m.d.comb += read_table.eq(self.have_table & ~self.wait)
        coming, write = delays(m, read_table, 2, "table_write", reset_less=False)[1:]
        m.d.comb += [self.table_coming.eq(coming), self.table_write.eq(write)]
        with m.If(read_table & (left == 1)):
            m.d.sync += self.have_table.eq(0)
        with m.If(write):
            m.d.sync += self.table_word.eq(self.table_word + 1)

        outside = Signal()
        was_outside = Signal()
        m.d.comb += [
            outside.eq(self.running & (self.read.addr >= self._config.params)),
            self.bad.eq(was_outside | outside),
        ]
        with m.If(self.accept):
            m.d.sync += [was_outside.eq(0), full.eq(0), self.lane.eq(0)]
            with m.If(new.opcode == isa.Opcode.TABLE):
                m.d.sync += [self.have_table.eq(1), self.read.addr.eq(new_table.param), left.eq(isa.TABLE_ENTRIES)]
            with m.Else():
                m.d.sync += [self.read.addr.eq(new.param), left.eq(new.channels)]
        with m.Elif(outside):
            m.d.sync += was_outside.eq(1)
        return m

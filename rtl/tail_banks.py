"""Tail banks: accumulator banks taken, held and given back, and with them when a sub-group may start."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.layouts import tail_layout
from lepton.rtl.spec.config import NpuConfig


class TailBanks(wiring.Component):
    """Takes banks in turn; one is free in the cycle after its last read, or, with to_acc, after its last write.

    Members:
        ``accept`` In(1), ``new`` In(tail_layout): an instruction is taken · ``ins`` In(tail_layout): it, afterwards
        ``ready`` In(1): but for bank and ``open`` the next sub-group may start · ``go`` Out(1): it does, next cycle
        ``sub_done``, ``group_done``, ``last_sub``, ``last_of_group`` In(1): as of `TailWalk`
        ``close`` Out(1): the read of this cycle is the last of a bank to be closed · ``closed`` In(1): its last word is
        written · ``open`` Out(1): no bank closes, or it has
        ``bank_ready`` In(1), ``bank_free`` Out(1): pulses · ``bank`` Out(1): the one it works on
        ``bad`` Out(1): a sub-group works without a bank, or takes one while one is held
    """

    def __init__(self, config: NpuConfig):
        inputs = "ready sub_done group_done last_sub last_of_group closed bank_ready".split()
        outputs = "go close open bank_free bank bad".split()
        instruction = {name: In(tail_layout(config)) for name in ("new", "ins")}
        super().__init__(
            {
                "accept": In(1),
                **instruction,
                **{name: In(1) for name in inputs},
                **{name: Out(1) for name in outputs},
            }
        )

    def elaborate(self, platform):
        m = Module()
        ins = self.ins
        credit = Signal(2)  # banks handed over and not taken
        need_bank = Signal()
        holding = Signal()  # a bank was taken and not given back
        closing = Signal()  # a bank written by to_acc waits for its last word
        needs = Signal()
        release = Signal()
        free = Signal()
        available = Signal(2)
        m.d.comb += [
            needs.eq(Mux(self.sub_done, self.last_of_group & ins.take & ~ins.stack, need_bank)),
            available.eq(credit + self.bank_ready),
            release.eq(self.group_done & ins.release & (self.last_sub | ~ins.stack)),
            self.close.eq(release & ins.to_acc),
            self.open.eq(~closing | self.closed),
            self.go.eq(self.ready & (available.any() | ~needs)),
            free.eq((release & ~ins.to_acc) | self.closed),
        ]
        with m.If(self.go & needs):
            m.d.sync += holding.eq(1)
        with m.Elif(release):
            m.d.sync += holding.eq(0)
        with m.If(self.sub_done):
            m.d.sync += need_bank.eq(needs)
        with m.If(self.go):
            m.d.sync += need_bank.eq(0)
        with m.If(self.accept):
            m.d.sync += need_bank.eq(self.new.take)
        with m.If(self.closed):
            m.d.sync += closing.eq(0)
        with m.If(self.close):
            m.d.sync += closing.eq(1)
        m.d.sync += [
            credit.eq(available - (self.go & needs)),
            self.bad.eq(self.ready & (needs == (holding & ~release))),
            self.bank_free.eq(free),
            self.bank.eq(self.bank ^ free),
        ]
        return m

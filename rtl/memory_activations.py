"""The activations of a machine with a memory port: MOVE shares both ports with the engines."""

from amaranth.hdl import Mux, Signal
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.act_memory import WideActMemory
from lepton.rtl.activations import Activations
from lepton.rtl.spec.timing import MOVE_TURN, MOVE_WAIT


class MemoryActivations(Activations):
    """`Activations` with MOVE, which takes a port in the cycles in which its engine does not.

    Members besides: ``move_read`` `ports.move_read` · ``move_write`` `ports.move_write`
    ``hold_pass`` Out(1): no pass may start. From the cycle after MOVE has waited `MOVE_WAIT` cycles for one read, until
    it asks for none or has had `MOVE_TURN`
    ``hold_tail`` Out(1): the tail may read no accumulator. From the cycle after MOVE has waited `MOVE_WAIT` cycles for
    writes, until the tail reads none (``tail_reads`` In(1)): `Timing.drain` cycles later it writes nothing
    """

    def _members(self, config):
        members = {"move_read": In(ports.move_read(config)), "move_write": In(ports.move_write(config))}
        members |= {"tail_reads": In(1), "hold_pass": Out(1), "hold_tail": Out(1)}
        return super()._members(config) | members

    def elaborate(self, platform):
        m = super().elaborate(platform)
        self._hold_pass(m)
        self._hold_tail(m)
        return m

    def _memory(self):
        return WideActMemory(self._config)

    def _engine_read(self, m):
        engine, move = self.read, self.move_read
        m.d.comb += [move.ready.eq(~engine.en), *(byte.eq(value) for byte, value in zip(move.data, engine.data))]
        return engine.en | move.en, Mux(engine.en, engine.addr, move.addr)

    def _engine_writes(self, m, memory):
        tail, move, write = self.write, self.move_write, memory.write
        m.d.comb += write.en.eq(tail.en | move.en)
        with m.If(tail.en):
            m.d.comb += [write.addr.eq(tail.addr), write.count.eq(tail.count)]
            m.d.comb += [byte.eq(value) for byte, value in zip(write.data, tail.data)]
        with m.Else():
            m.d.comb += [write.addr.eq(move.addr), write.low.eq(move.low), write.count.eq(move.count)]
            m.d.comb += [byte.eq(value) for byte, value in zip(write.data, move.data)]

    def _hold_pass(self, m):
        move, hold = self.move_read, self.hold_pass
        waited = Signal(range(MOVE_WAIT))
        had = Signal(range(MOVE_TURN))
        with m.If(hold):
            m.d.sync += had.eq(had + move.ready)
            with m.If(~move.en | (move.ready & (had == MOVE_TURN - 1))):
                m.d.sync += [hold.eq(0), had.eq(0)]
        with m.Elif(~move.en | move.ready):
            m.d.sync += waited.eq(0)
        with m.Elif(waited == MOVE_WAIT - 1):
            m.d.sync += [hold.eq(1), waited.eq(0)]
        with m.Else():
            m.d.sync += waited.eq(waited + 1)

    def _hold_tail(self, m):
        move, hold = self.move_write, self.hold_tail
        waited = Signal(range(MOVE_WAIT))
        m.d.comb += move.ready.eq(~self.write.en)
        with m.If(hold):
            m.d.sync += hold.eq(self.tail_reads)
        with m.Elif(move.en & self.write.en):
            m.d.sync += waited.eq(Mux(waited == MOVE_WAIT - 1, 0, waited + 1))
            m.d.sync += hold.eq(waited == MOVE_WAIT - 1)

"""The control port: registers in place of the framed link."""

from dataclasses import replace

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.layouts import pc_bits
from lepton.rtl.parts import MEMORY
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Reg, Region, Status
from lepton.rtl.spec.registers import IRQ, REGISTERS, Access, Control, Register

__all__ = ["ON_A_BUS", "ControlRegisters"]


class ControlRegisters(wiring.Component):
    """`REGISTERS` behind `ports.control`, in the place of a `Link`: it writes no memory and reads no activations.

    Members: ``control`` `ports.control` · ``write``, ``read``, ``registers``, ``run``, ``memory`` as of `MemoryLink`

    Latency: an access is done the cycle after it began, a write to IMAGE or ARENA 4 cycles later.
    An access in error does nothing: no such register, a write to one that is read only, of less than a word, or, to
    IMAGE, ARENA and START, during a run, to IMAGE and ARENA also under LOCK. Reset: PC, IRQ_ENABLE, IRQ_STATUS and LOCK
    are 0.
    """

    OUTSIDE = ("control",)

    def __init__(self, config: NpuConfig, act_latency: int = 0, timeout: int = 0):
        self._config = config
        super().__init__(
            {
                "control": In(ports.control()),
                "write": Out(ports.host_write()),
                "read": Out(ports.activation_read(8)),
                "registers": In(data.ArrayLayout(32, len(Reg))),
                "run": Out(ports.run_request(config)),
                "memory": Out(ports.host_memory(config.memory_width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        control, run, write = self.control, self.run, self.write
        pc = Signal(pc_bits(self._config))
        enable, pending = (Signal(len(IRQ), name=name) for name in ("enable", "pending"))
        kept = Signal()  # the image is
        own = {Control.PC: pc, Control.IRQ_ENABLE: enable, Control.IRQ_STATUS: pending, Control.LOCK: kept}
        m.d.sync += [control.done.eq(0), run.start.eq(0), run.reset.eq(0)]

        # A read.
        known = Signal()
        value = Signal(32)
        with m.Switch(control.word):
            for register in REGISTERS:
                with m.Case(register.number):
                    m.d.comb += [known.eq(1), value.eq(self._value(register, own))]

        # A write, and those that it may not be.
        writable, locked = (Signal(name=name) for name in ("writable", "locked"))
        with m.Switch(control.word):
            for register in REGISTERS:
                with m.Case(register.number):
                    m.d.comb += writable.eq(register.access is not Access.RO)
                    if register.number in (Reg.IMAGE, Reg.ARENA):
                        m.d.comb += locked.eq(run.busy | kept)
                    if register.number == Control.START:
                        m.d.comb += locked.eq(run.busy)
        refused = Signal()
        m.d.comb += refused.eq(~known | (control.write & (~writable | ~control.whole | locked)))

        cleared = Signal.like(pending)
        m.d.comb += [
            write.region.eq(Region.REG),
            write.index.eq(control.word),
            write.data.eq(control.data.word_select(write.byte[:2], 8)),
        ]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(control.en & ~control.done):
                    m.d.sync += [control.done.eq(1), control.error.eq(refused), control.read.eq(value)]
                    with m.If(control.write & ~refused):
                        with m.Switch(control.word):
                            with m.Case(Reg.IMAGE, Reg.ARENA):
                                m.d.sync += control.done.eq(0)
                                m.next = "BYTES"
                            with m.Case(Control.PC):
                                m.d.sync += pc.eq(control.data)
                            with m.Case(Control.START):
                                m.d.sync += [run.start.eq(1), run.pc.eq(pc), run.id.eq(control.data)]
                            with m.Case(Control.RESET):
                                m.d.sync += [run.reset.eq(1), run.id.eq(0)]
                            with m.Case(Control.IRQ_ENABLE):
                                m.d.sync += enable.eq(control.data)
                            with m.Case(Control.IRQ_STATUS):
                                m.d.comb += cleared.eq(control.data)
                            with m.Case(Control.LOCK):
                                m.d.sync += kept.eq(kept | control.data[0])
            with m.State("BYTES"):
                m.d.comb += write.en.eq(1)
                m.d.sync += write.byte.eq(write.byte + 1)
                with m.If(write.byte == 3):
                    m.d.sync += [write.byte.eq(0), control.done.eq(1)]
                    m.next = "IDLE"

        # The end of a run.
        status = Signal(Status)
        before = Signal(Status, init=Status.IDLE)
        m.d.comb += status.eq(self.registers[int(Reg.STATUS)])
        m.d.sync += before.eq(status)
        ended = (before == Status.RUNNING) & (status != Status.RUNNING)
        done, error = ended & (status == Status.DONE), ended & (status > Status.DONE)
        m.d.sync += [pending.eq((pending & ~cleared) | Cat(done, error)), control.irq.eq((pending & enable).any())]
        return m

    def _value(self, register: Register, own):
        """What a register reads as."""
        if register.number < len(Reg):
            return self.registers[register.number]
        return own.get(register.number, 0)


ON_A_BUS = replace(MEMORY, link=ControlRegisters)
"""The parts of a machine with a control port."""

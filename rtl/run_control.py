"""Run control: what a run's state is, what ends it, and the cycles it took."""

from functools import reduce
from operator import or_

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Status


class RunControl(wiring.Component):
    """Starts, counts and ends runs; keeps the registers that the host reads.

    Parameters: `config`; `watchdog`, cycles without progress after which a run ends; `counted`, the causes that have a
    counter.

    Members:
        ``request`` `ports.run_request` · ``status`` Out(Status)
        ``registers`` Out: words of 32 bits, `isa.registers` · ``running`` Out(1)
        ``clear`` Out(1): the engines forget everything · ``go`` Out(1), ``pc`` Out: fetch starts
        ``finished`` In(1): END was read and everything is idle · ``progress`` In(1): something goes on
        ``bad_opcode``, ``bad_instruction``, ``bad_address``, with a memory port ``bus_error`` In(1): they end the run,
        the first of them with its status
        ``cause`` In(Cause): what this cycle is spent on · ``no_more`` In(1): END was read, and no MUL waits

    With ``start`` in cycle s, ``clear`` is in s and ``go`` in s + 1, the first cycle that counts. DRAIN is FETCH when
    no MUL is left. Reset: idle.
    """

    def __init__(self, config: NpuConfig, watchdog: int, counted: tuple[Cause, ...]):
        if watchdog < 64:
            raise ValueError(f"watchdog={watchdog}: must be at least 64, or the pipelines look like a stall")
        self._config = config
        self._watchdog = watchdog
        self._counted = counted
        inputs = ("finished", "progress", "no_more", *(name for name, _ in self._errors()))
        super().__init__(
            {
                "request": In(ports.run_request(config)),
                "registers": Out(data.ArrayLayout(32, len(isa.registers(config)))),
                "status": Out(Status),
                "running": Out(1),
                "clear": Out(1),
                "go": Out(1),
                "pc": Out(layouts.pc_bits(config)),
                **{name: In(1) for name in inputs},
                "cause": In(Cause),
            }
        )

    def elaborate(self, platform):
        m = Module()
        failed, failure = self._failure(m)
        request, status, running = self.request, self.status, self.running
        m.d.comb += [
            running.eq(status == Status.RUNNING),
            self.clear.eq(request.start | request.reset | (running & failed)),
            request.busy.eq(running | request.start),
            self.pc.eq(request.pc),
        ]
        m.d.sync += self.go.eq(request.start & ~request.reset)
        with m.If(request.reset):
            m.d.sync += status.eq(Status.IDLE)
        with m.Elif(request.start):
            m.d.sync += status.eq(Status.RUNNING)
        with m.Elif(running & failed):
            m.d.sync += status.eq(failure)
        with m.Elif(running & self.finished):
            m.d.sync += status.eq(Status.DONE)

        values = identity.pack(self._config)
        values |= {Reg.STATUS: status, Reg.RUN_ID: request.id, **self._counters(m)}
        m.d.comb += [self.registers[int(r)].eq(value) for r, value in values.items()]
        return m

    def _errors(self):
        """What ends a run, and with which status; the first of them counts."""
        errors = [
            ("bad_opcode", Status.BAD_OPCODE),
            ("bad_instruction", Status.BAD_INSTRUCTION),
            ("bad_address", Status.BAD_ADDRESS),
        ]
        return [*errors, ("bus_error", Status.BUS_ERROR)] if self._config.memory_width else errors

    def _failure(self, m):
        """Whether the run ends with an error, and which: the first of those there are."""
        quiet = Signal(range(self._watchdog))  # cycles without progress
        stalled = Signal()
        m.d.sync += [
            quiet.eq(Mux(self.running & ~self.progress, quiet + 1, 0)),
            stalled.eq(self.running & ~self.progress & (quiet == self._watchdog - 1)),
        ]
        failed = Signal()
        failure = Signal(Status)
        errors = [(getattr(self, name), status) for name, status in self._errors()]
        m.d.comb += failed.eq(reduce(or_, (error for error, _ in errors)) | stalled)
        for k, (error, status) in enumerate(errors):
            with m.Elif(error) if k else m.If(error):
                m.d.comb += failure.eq(status)
        with m.Else():
            m.d.comb += failure.eq(Status.STALLED)
        return failed, failure

    def _counters(self, m):
        """Registers: the cycles of the run, and of each cause that is counted."""
        cycles = Signal(32)
        counters = {cause: Signal(32, name=f"count_{cause.name.lower()}") for cause in self._counted}
        drained = Signal()  # in the cycle before, no MUL was left
        cause = Signal(Cause)
        m.d.sync += drained.eq(self.no_more & ~self.request.start)
        m.d.comb += cause.eq(Mux((self.cause == Cause.FETCH) & drained, Cause.DRAIN, self.cause))
        with m.If(self.request.start):
            m.d.sync += [cycles.eq(0), *(c.eq(0) for c in counters.values())]
        with m.Elif(self.running):
            m.d.sync += cycles.eq(cycles + 1)
            with m.Switch(cause):
                for which, counter in counters.items():
                    with m.Case(which):
                        m.d.sync += counter.eq(counter + 1)
        return {Reg.CYCLES: cycles} | {Reg[which.name]: counter for which, counter in counters.items()}

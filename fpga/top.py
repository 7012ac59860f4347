"""What is in every board's FPGA besides clock, reset and pin buffers: the accelerator behind a UART."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.fpga.uart import UartReceiver, UartTransmitter
from lepton.rtl.burst_memory import BurstMemory, NpuWithMemory
from lepton.rtl.spec.config import ConfigError, NpuConfig
from lepton.rtl.spec.isa import Status
from lepton.rtl.spec.timing import link_timeout

__all__ = ["BoardTop"]


class BoardTop(wiring.Component):
    """The accelerator behind a UART, in one clock domain.

    Parameters: ``config``; ``clock_hz`` of the domain; ``baud`` of the UART, at most a quarter of it; ``memory``, class
    of the external memory (as `BurstMemory`). Raises ConfigError.
    Members: ``rx`` In(1), asynchronous · ``tx`` Out(1) · ``leds`` Out(4): running, done, error, and lit for at least
    2**20 cycles by each byte received

    A frame that stops in the middle is dropped after `timing.link_timeout` cycles. Requests get one answer each and
    the host waits for it, so neither direction needs flow control.
    """

    def __init__(self, config: NpuConfig, clock_hz: float, baud: float, memory=BurstMemory):
        if config.ring_tiles and not config.external_bytes:
            raise ConfigError(
                f"config {config.name!r}: ring_tiles={config.ring_tiles}: needs external_bytes on a board"
            )
        self.divisor = round(clock_hz / baud)
        if self.divisor < 4 or abs(clock_hz / self.divisor / baud - 1) > 0.02:
            near = clock_hz / max(self.divisor, 4)
            raise ConfigError(f"baud={baud:g}: cannot be made from a clock of {clock_hz:g} Hz: use {near:.0f}")
        self._npu = NpuWithMemory(config, memory, link_timeout=link_timeout(clock_hz))
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(4)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.npu = npu = self._npu
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        wiring.connect(m, receiver.o, npu.i)
        wiring.connect(m, npu.o, transmitter.i)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]

        lit = Signal(20)
        m.d.sync += lit.eq(Mux(receiver.o.valid, ~0, lit - (lit != 0)))
        status = npu.status
        running, done = status == Status.RUNNING, status == Status.DONE
        m.d.sync += self.leds.eq(Cat(running, done, ~running & ~done & (status != Status.IDLE), lit != 0))
        return m

"""UART: bytes on two wires, eight data bits, no parity, one stop bit, least significant bit first."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out


def _check(divisor):
    if divisor < 4:
        raise ValueError(f"divisor={divisor}: a bit needs at least 4 cycles: lower the baud rate or raise the clock")


class UartReceiver(wiring.Component):
    """Bytes from a pin.

    Parameters: ``divisor``, cycles a bit, at least 4.
    Members: ``rx`` In(1): the pin, asynchronous, idle high · ``o`` Stream(8)

    A pulse of one cycle is filtered out; a start bit that is over in its middle is none. A byte without a stop bit is
    dropped, and so is all that follows until the line is high again. There is no flow control: a byte that is complete
    while the one before was not taken is dropped.
    Tolerates a sender 4 % faster or slower from divisor 16 on, 2 % below. Latency: a byte is at ``o`` within
    5 cycles of the middle of its stop bit. Reset: idle.
    """

    def __init__(self, divisor: int):
        _check(divisor)
        self._divisor = divisor
        super().__init__({"rx": In(1), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        divisor = self._divisor
        pin, old, older, line = Signal(init=1), Signal(init=1), Signal(init=1), Signal(init=1)
        m.submodules.pin = FFSynchronizer(self.rx, pin, init=1)
        m.d.sync += [old.eq(pin), older.eq(old), line.eq((pin & old) | (pin & older) | (old & older))]

        count = Signal(range(divisor))
        bit = Signal(range(10))  # start, data, stop
        shift = Signal(8, reset_less=True)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [bit.eq(0), count.eq((divisor - 1) // 2)]
                with m.If(~line):
                    m.next = "BITS"
            with m.State("BITS"):
                m.d.sync += count.eq(count - 1)
                with m.If(count == 0):
                    m.d.sync += [count.eq(divisor - 1), bit.eq(bit + 1)]
                    with m.If(bit == 0):
                        with m.If(line):
                            m.next = "IDLE"
                    with m.Elif(bit != 9):
                        m.d.sync += shift.eq(Cat(shift[1:], line))
                    with m.Elif(line):
                        m.next = "IDLE"
                        with m.If(~self.o.valid | self.o.ready):
                            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(shift)]
                    with m.Else():
                        m.next = "BREAK"
            with m.State("BREAK"):
                with m.If(line):
                    m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a pin.

    Parameters: ``divisor``, cycles a bit, at least 4.
    Members: ``i`` Stream(8) · ``tx`` Out(1): the pin, from a register, idle high

    Throughput: a byte every 10 * divisor cycles. Latency: the start bit begins in the cycle after a byte was taken.
    Reset: idle, a byte under way is cut off.
    """

    def __init__(self, divisor: int):
        _check(divisor)
        self._divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        divisor = self._divisor
        count = Signal(range(divisor))
        left = Signal(range(11))  # bits to send, the present one included
        shift = Signal(9, reset_less=True)  # the bits behind the present one
        last = Signal()  # last cycle of a bit
        m.d.comb += [last.eq(count == 0), self.i.ready.eq((left == 0) | ((left == 1) & last))]
        m.d.sync += count.eq(count - 1)
        with m.If(last & (left != 0)):
            m.d.sync += [Cat(self.tx, shift).eq(Cat(shift, 1)), left.eq(left - 1), count.eq(divisor - 1)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [self.tx.eq(0), shift.eq(Cat(self.i.payload, 1)), left.eq(10), count.eq(divisor - 1)]
        return m

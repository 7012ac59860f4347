"""What surrounds the accelerator on a board: clock, reset and pins."""

from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from lepton.fpga.board import Board
from lepton.fpga.top import BoardTop


class Shell(Elaboratable):
    """Top of a bitstream: `BoardTop` in the PLL's clock domain `sync`, in reset until the PLL is stable and while the
    button is held, its UART and LEDs at the board's pins."""

    def __init__(self, board: Board):
        self._board = board

    def elaborate(self, platform):
        m = Module()
        board = self._board

        m.submodules.pll = pll = board.pll(platform.default_clk_frequency, board.mhz * 1e6)
        m.domains.sync = ClockDomain()
        clock_pin = platform.request(platform.default_clk, dir="-") if hasattr(pll, "i") else None
        if clock_pin is None:
            pass  # an oscillator in the part
        elif pll.FROM_PIN:
            pll.i = clock_pin.io
        else:
            m.submodules.clock_pin = clock_buffer = io.Buffer("i", clock_pin)
            m.d.comb += pll.i.eq(clock_buffer.i)
        m.d.comb += ClockSignal("sync").eq(pll.o)
        if hasattr(pll, "double"):
            m.domains.fast = ClockDomain(reset_less=True)
            m.d.comb += ClockSignal("fast").eq(pll.double)
        pressed = Const(0)
        if board.reset:
            m.submodules.button = button = io.Buffer("i", platform.request(*board.reset, dir="-"))
            pressed = button.i
        domain = "sync"
        if not board.config.compact:  # the last register, amid all that it resets, lies far from the PLL
            domain = "outer"
            m.domains.outer = ClockDomain()
            late = Signal(init=1, reset_less=True)
            m.d.sync += late.eq(ResetSignal(domain))
            m.d.comb += [ClockSignal(domain).eq(pll.o), ResetSignal("sync").eq(late)]
        m.submodules.reset = ResetSynchronizer(~pll.locked | pressed, domain=domain, stages=4)

        m.submodules.top = top = BoardTop(board.config, clock_hz=pll.frequency, baud=board.baud)
        assert board.uart is not None
        uart = platform.request(*board.uart, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.submodules.tx = tx = io.Buffer("o", uart.tx)
        m.d.comb += [top.rx.eq(rx.i), tx.o.eq(top.tx)]
        for k in range(board.leds):
            m.submodules[f"led_{k}"] = led = io.Buffer("o", platform.request("led", k, dir="-"))
            m.d.comb += led.o.eq(top.leds[k] if k < len(top.leds) else 0)
        return m

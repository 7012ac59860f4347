"""RISC-V, accelerator, memory and UART on a Wishbone bus, in one clock domain."""

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Mux, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.fpga.uart import UartReceiver, UartTransmitter
from lepton.rtl.bus.control import ON_A_BUS
from lepton.rtl.bus.wishbone import INCREMENTING, WishboneControl, WishboneMemory, wishbone
from lepton.rtl.npu import Npu
from lepton.rtl.spec.config import NpuConfig

__all__ = ["NPU", "SOC", "UART", "Cpu", "Ram", "Soc"]

RAM_BYTES = 1 << 17
SOC = NpuConfig(
    "soc",
    rows=8,
    cols=8,
    lanes=8,
    act_bytes=1 << 15,
    weight_tiles=1024,
    params=1024,
    memory_width=4,
    memory_bytes=RAM_BYTES,
)
"""The accelerator; its memory is the system's."""
UART, NPU = 0xF000_0000, 0xF001_0000
"""Addresses of the processor; RAM is at 0, and so is the first instruction.

UART + 0: write a byte to send; reads as 1 when the next may be written · + 4: a byte received, or 2**31 without one
+ 8: cycles since reset · + 12: LEDs
"""
NPU_INTERRUPT = 0
"""Its bit in the processor's interrupt mask (CSR 0xBC0)."""


class Cpu(wiring.Component):
    """VexRiscv: rv32im, caches of 4 KB. What the accelerator writes does not reach the data cache: firmware empties it.

    Members: ``instructions``, ``data`` `wishbone`, addresses in bytes · ``interrupts`` In(32), levels
    """

    def __init__(self):
        bus = Out(wishbone(32, 4, True))
        super().__init__({"instructions": bus, "data": bus, "interrupts": In(32)})

    def elaborate(self, platform):
        m = Module()
        waking = Signal(range(16), init=15)  # its caches and registers count on a reset, also behind power-up
        m.d.sync += waking.eq(waking - (waking != 0))
        ports = {
            "i_clk": ClockSignal(),
            "i_reset": ResetSignal() | (waking != 0),
            "i_externalResetVector": 0,
            "i_timerInterrupt": 0,
            "i_softwareInterrupt": 0,
            "i_externalInterruptArray": self.interrupts,
        }
        for name, bus in (("iBusWishbone", self.instructions), ("dBusWishbone", self.data)):
            ports |= {
                f"o_{name}_CYC": bus.cyc,
                f"o_{name}_STB": bus.stb,
                f"o_{name}_WE": bus.we,
                f"o_{name}_ADR": bus.adr[2:],
                f"o_{name}_DAT_MOSI": bus.dat_w,
                f"o_{name}_SEL": bus.sel,
                f"o_{name}_CTI": bus.cti,
                f"o_{name}_BTE": bus.bte,
                f"i_{name}_DAT_MISO": bus.dat_r,
                f"i_{name}_ACK": bus.ack,
                f"i_{name}_ERR": bus.err,
            }
        m.submodules.cpu = Instance("VexRiscv", **ports)
        return m


class Ram(wiring.Component):
    """Memory for three masters, one at a time, each in its turn; a beat a cycle within a burst.

    Parameters: ``contents``, its first bytes. Members: ``instructions``, ``data``, ``npu`` `wishbone`
    """

    def __init__(self, contents: bytes):
        if len(contents) > RAM_BYTES:
            raise ValueError(f"firmware of {len(contents)} bytes: the memory has {RAM_BYTES}")
        self._contents = contents
        bus = In(wishbone(32, 4, True))
        super().__init__({"instructions": bus, "data": bus, "npu": bus})

    def elaborate(self, platform):
        m = Module()
        data = self._contents + bytes(-len(self._contents) % 4)
        words = [int.from_bytes(data[k : k + 4], "little") for k in range(0, len(data), 4)]
        m.submodules.memory = memory = Memory(shape=32, depth=RAM_BYTES // 4, init=words)
        write, read = memory.write_port(granularity=8), memory.read_port()
        masters = (self.npu, self.data, self.instructions)
        turn = Signal(range(len(masters)))
        ack, word = Signal(), Signal(30)
        last = Signal()
        m.d.comb += [read.addr.eq(word), write.addr.eq(word), read.en.eq(1)]
        with m.Switch(turn):
            for k, bus in enumerate(masters):
                with m.Case(k):
                    taken = bus.cyc & bus.stb & ack
                    m.d.comb += [
                        word.eq(bus.adr[2:] + (taken & ~bus.we)),  # reads are a word ahead
                        last.eq(taken & (bus.cti != INCREMENTING)),
                        bus.ack.eq(ack),
                        write.data.eq(bus.dat_w),
                        write.en.eq(Mux(taken & bus.we, bus.sel, 0)),
                    ]
                    m.d.sync += ack.eq(bus.cyc & bus.stb & ~last)
                    with m.If(~bus.cyc | last):
                        m.d.sync += ack.eq(0)
                        for other in (k + 2, k + 1):  # the next one comes before the one behind it
                            with m.If(masters[other % 3].cyc):
                                m.d.sync += turn.eq(other % 3)
        m.d.comb += [bus.dat_r.eq(read.data) for bus in masters]
        return m


class Soc(wiring.Component):
    """The system.

    Parameters: ``contents`` of the memory; ``divisor``, cycles of a bit of the UART, at least 4.
    Members: ``rx`` In(1), asynchronous · ``tx`` Out(1) · ``leds`` Out(4), as the firmware sets them
    """

    def __init__(self, contents: bytes, divisor: int):
        self._contents, self._divisor = contents, divisor
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(4)})

    def elaborate(self, platform):
        m = Module()
        connect = wiring.connect
        m.submodules.cpu = cpu = Cpu()
        m.submodules.ram = ram = Ram(self._contents)
        m.submodules.npu = npu = Npu(SOC, parts=ON_A_BUS)
        m.submodules.npu_memory = npu_memory = WishboneMemory(SOC.memory_width)
        m.submodules.npu_control = npu_control = WishboneControl()
        connect(m, npu.memory, npu_memory.memory)
        connect(m, npu_control.control, npu.control)
        connect(m, npu_memory.wb, ram.npu)
        connect(m, cpu.instructions, ram.instructions)
        m.d.comb += cpu.interrupts[NPU_INTERRUPT].eq(npu.control.irq)
        self._decode(m, cpu.data, ram.data, {UART: self._uart(m), NPU: npu_control.wb})
        return m

    def _decode(self, m, bus, ram, devices):
        """The processor's data: memory, or one of the devices by its address's upper half."""
        masters = ("adr", "dat_w", "we", "sel", "stb")
        m.d.comb += [getattr(ram, name).eq(getattr(bus, name)) for name in (*masters, "cti", "bte")]
        m.d.comb += [bus.dat_r.eq(ram.dat_r), bus.ack.eq(ram.ack)]
        outside = Signal()
        m.d.comb += [outside.eq(bus.adr >= RAM_BYTES), ram.cyc.eq(bus.cyc & ~outside)]
        with m.If(outside):
            m.d.comb += [bus.ack.eq(0), bus.err.eq(bus.cyc & bus.stb)]
        for address, device in devices.items():
            m.d.comb += [getattr(device, name).eq(getattr(bus, name)) for name in masters]
            with m.If(bus.adr[16:] == address >> 16):
                m.d.comb += [
                    device.cyc.eq(bus.cyc),
                    bus.dat_r.eq(device.dat_r),
                    bus.ack.eq(device.ack),
                    bus.err.eq(device.err),
                ]

    def _uart(self, m):
        """A slave with UART, cycle counter and LEDs."""
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        m.d.comb += [self.tx.eq(transmitter.tx), receiver.rx.eq(self.rx)]
        wb = wishbone(32, 4, False).flip().create()
        cycles = Signal(32)
        m.d.sync += [cycles.eq(cycles + 1), wb.ack.eq(wb.cyc & wb.stb & ~wb.ack)]
        m.d.comb += transmitter.i.payload.eq(wb.dat_w)
        with m.If(wb.ack):
            with m.Switch(wb.adr[2:4]):
                with m.Case(0):
                    m.d.comb += [wb.dat_r.eq(transmitter.i.ready), transmitter.i.valid.eq(wb.we)]
                with m.Case(1):
                    m.d.comb += wb.dat_r.eq(Cat(receiver.o.payload, Signal(23), ~receiver.o.valid))
                    m.d.comb += receiver.o.ready.eq(~wb.we)
                with m.Case(2):
                    m.d.comb += wb.dat_r.eq(cycles)
                with m.Case(3):
                    m.d.comb += wb.dat_r.eq(self.leds)
                    with m.If(wb.we):
                        m.d.sync += self.leds.eq(wb.dat_w)
        return wb

"""External weight memory in block RAM: read in bursts by the accelerator, written by the host."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.layouts import BURST, INDEX
from lepton.rtl.npu import Npu
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class BurstMemory(wiring.Component):
    """`external_bytes` bytes behind the accelerator's burst port.

    Members:
        ``x_req`` Stream(BURST), length at least 1 · ``x_data`` Stream(8): the bytes of the bursts, in order
        ``x_w_en``, ``x_w_addr``, ``x_w_data`` (8): write a byte

    Throughput: a byte read a cycle without a gap between bursts, and a byte written a cycle. Latency: a burst taken in
    cycle c while none is under way has its first byte at ``x_data`` in c + ``LATENCY``. A read sees the writes of all
    cycles before ``x_req`` was taken; of a byte written during its burst it sees any value (the accelerator writes
    only between runs, when the bytes of a burst that is still under way are discarded, so one port is enough).
    Bytes from external_bytes on read as zero. Reset: bursts are forgotten, memory stays.
    """

    LATENCY = timing.EXTERNAL_READ

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "x_req": In(stream.Signature(BURST)),
                "x_data": Out(stream.Signature(8)),
                "x_w_en": In(1),
                "x_w_addr": In(INDEX),
                "x_w_data": In(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=8, depth=self._config.external_bytes, init=[], attrs={"no_rw_check": 1}
        )
        write, read = memory.write_port(), memory.read_port()
        # A bit more than the memory's addresses, and a burst is shorter than that, so it does not come round to byte 0.
        address, left = Signal(21, reset_less=True), Signal(16)
        far = Signal(reset_less=True)  # the burst began beyond those addresses
        there = Signal(reset_less=True)  # the byte read is one of the memory
        step = Signal()  # the read port moves on
        m.d.comb += [
            write.en.eq(self.x_w_en),
            write.addr.eq(self.x_w_addr),
            write.data.eq(self.x_w_data),
            step.eq(~self.x_data.valid | self.x_data.ready),
            read.en.eq(step & (left != 0)),
            read.addr.eq(address),
            self.x_data.payload.eq(Mux(there, read.data, 0)),
            self.x_req.ready.eq((left == 0) | (step & (left == 1))),
        ]
        with m.If(step):
            m.d.sync += self.x_data.valid.eq(left != 0)
            with m.If(left != 0):
                m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
                m.d.sync += there.eq(~far & (address < self._config.external_bytes))
        with m.If(self.x_req.valid & self.x_req.ready):
            m.d.sync += [address.eq(self.x_req.payload.address), left.eq(self.x_req.payload.length)]
            m.d.sync += far.eq(self.x_req.payload.address[20:].any())
        return m


class NpuWithMemory(wiring.Component):
    """The accelerator, and its external memory if the host writes it (``external_bytes``).

    Parameters: ``memory``, the class of the external memory, as `BurstMemory`; the others as for `Npu`.
    Members: as of `Npu`, without those of the external memory when it is here.
    """

    def __init__(self, config: NpuConfig, memory=BurstMemory, **options):
        self._npu = Npu(config, **options)
        self._memory = memory(config) if config.external_bytes else None
        inside = self._memory.signature.members if self._memory else {}
        super().__init__({k: v for k, v in self._npu.signature.members.items() if k not in inside})

    def elaborate(self, platform):
        m = Module()
        m.submodules.npu = npu = self._npu
        for name, member in self.signature.members.items():
            if member.is_port:
                m.d.comb += getattr(self, name).eq(getattr(npu, name))
            else:
                wiring.connect(m, getattr(npu, name), wiring.flipped(getattr(self, name)))
        if self._memory:
            m.submodules.memory = memory = self._memory
            wiring.connect(m, npu.x_req, memory.x_req)
            wiring.connect(m, memory.x_data, npu.x_data)
            m.d.comb += [
                memory.x_w_en.eq(npu.x_w_en),
                memory.x_w_addr.eq(npu.x_w_addr),
                memory.x_w_data.eq(npu.x_w_data),
            ]
        return m

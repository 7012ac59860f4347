"""AXI4 at the memory port, AXI4-Lite at the control port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from lepton.rtl import ports
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec.registers import ADDRESS_BITS

__all__ = ["AxiControl", "AxiMemory", "axi", "axi_lite"]

INCR, BUFFERABLE, UNPRIVILEGED = 0b01, 0b0011, 0b000
"""Values of AxBURST, AxCACHE (normal memory that is not cached) and AxPROT (data, secure)."""
SLVERR = 0b10


def _address(prefix: str) -> dict:
    widths = dict(id=1, addr=32, len=8, size=3, burst=2, lock=1, cache=4, prot=3, qos=4, valid=1)
    return {f"{prefix}{name}": Out(bits) for name, bits in widths.items()} | {f"{prefix}ready": In(1)}


def axi(width: int) -> Signature:
    """An AXI4 manager, `width` bytes a beat; all its transactions have ID 0."""
    return Signature(
        {
            **_address("aw"),
            "wdata": Out(8 * width),
            "wstrb": Out(width),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            **_address("ar"),
            "rid": In(1),
            "rdata": In(8 * width),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


def axi_lite() -> Signature:
    """An AXI4-Lite manager at the control port."""
    return Signature(
        {
            "awaddr": Out(ADDRESS_BITS),
            "awprot": Out(3),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(ADDRESS_BITS),
            "arprot": Out(3),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )


class AxiMemory(wiring.Component):
    """The memory port's bursts as AXI4 transactions, one for one.

    Parameters: ``width``, bytes of a beat; ``writes``, write bursts under way at most.
    Members: ``memory`` `ports.memory_port` · ``axi`` `axi`

    A read is asked for when all writes before it are answered, so it sees them. A write may overtake the reads before
    it: MOVE, which alone writes, has ended its reads before. SLVERR and DECERR are ``error``, the burst goes on.
    Throughput: a burst and a beat each way a cycle. Latency: none, but for ``idle`` and ``error``: a cycle.
    No output of the bus depends on an input of it in the same cycle. Reset: forgets all; the bus is reset with it.
    """

    def __init__(self, width: int, writes: int = 8):
        self._width, self._writes = width, writes
        super().__init__({"memory": In(ports.memory_port(width)), "axi": Out(axi(width))})

    def elaborate(self, platform):
        m = Module()
        memory, axi = self.memory, self.axi
        a, w, r = memory.a, memory.w, memory.r
        open_writes = Signal(range(self._writes + 1))  # taken, and not answered
        m.submodules.lengths = lengths = SkidQueue(8, self._writes)  # of those that not all beats were taken of
        may_write, may_read = (Signal(name=name) for name in ("may_write", "may_read"))
        m.d.comb += [may_write.eq((open_writes != self._writes) & lengths.i.ready), may_read.eq(open_writes == 0)]
        for way, valid in (("aw", a.payload.write & may_write), ("ar", ~a.payload.write & may_read)):
            values = {
                "addr": a.payload.address,
                "len": a.payload.beats,
                "size": self._width.bit_length() - 1,
                "burst": INCR,
                "cache": BUFFERABLE,
                "prot": UNPRIVILEGED,
                "valid": a.valid & valid,
            }
            m.d.comb += [getattr(axi, way + name).eq(value) for name, value in values.items()]
        written, answered = (Signal(name=name) for name in ("written", "answered"))
        m.d.comb += [
            a.ready.eq(Mux(a.payload.write, axi.awready & may_write, axi.arready & may_read)),
            written.eq(axi.awvalid & axi.awready),
            answered.eq(axi.bvalid & axi.bready),
            lengths.i.valid.eq(written),
            lengths.i.payload.eq(a.payload.beats),
        ]
        m.d.sync += open_writes.eq(open_writes + written - answered)

        beats = Signal(8)  # of the oldest burst, that have gone
        m.d.comb += [
            axi.wdata.eq(w.payload.data),
            axi.wstrb.eq(w.payload.mask),
            axi.wlast.eq(beats == lengths.o.payload),
            axi.wvalid.eq(w.valid & lengths.o.valid),
            w.ready.eq(axi.wready & lengths.o.valid),
            lengths.o.ready.eq(axi.wvalid & axi.wready & axi.wlast),
            axi.bready.eq(1),
            r.valid.eq(axi.rvalid),
            r.payload.eq(axi.rdata),
            axi.rready.eq(r.ready),
            memory.idle.eq(open_writes == 0),
        ]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += beats.eq(Mux(axi.wlast, 0, beats + 1))
        m.d.sync += memory.error.eq((answered & axi.bresp[1]) | (axi.rvalid & axi.rready & axi.rresp[1]))
        return m


class AxiControl(wiring.Component):
    """The control port as an AXI4-Lite subordinate, one access after the other.

    Members: ``axi`` `axi_lite` · ``control`` `ports.control`

    A write begins when its address and its data are there; when a read and a write wait, the one has its turn that did
    not have the last. No output depends on an input in the same cycle. Reset: idle.
    """

    def __init__(self):
        super().__init__({"axi": In(axi_lite()), "control": Out(ports.control())})

    def elaborate(self, platform):
        m = Module()
        axi, control = self.axi, self.control
        read_last = Signal()  # the last turn was a read's
        asks_write, asks_read = (Signal(name=name) for name in ("asks_write", "asks_read"))
        m.d.comb += [asks_write.eq(axi.awvalid & axi.wvalid), asks_read.eq(axi.arvalid)]
        with m.FSM():
            with m.State("IDLE"):
                with m.If(asks_write & ~(asks_read & ~read_last)):
                    m.d.sync += [
                        read_last.eq(0),
                        control.write.eq(1),
                        control.word.eq(axi.awaddr[2:]),
                        control.data.eq(axi.wdata),
                        control.whole.eq(axi.wstrb.all()),
                    ]
                    m.next = "TAKE"
                with m.Elif(asks_read):
                    m.d.sync += [read_last.eq(1), control.write.eq(0), control.word.eq(axi.araddr[2:])]
                    m.next = "TAKE"
            with m.State("TAKE"):
                write = control.write
                m.d.comb += [axi.awready.eq(write), axi.wready.eq(write), axi.arready.eq(~write)]
                m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += control.en.eq(1)
                with m.If(control.done):
                    m.d.sync += [
                        axi.rdata.eq(control.read),
                        axi.bvalid.eq(control.write),
                        axi.rvalid.eq(~control.write),
                    ]
                    m.d.sync += [resp.eq(Mux(control.error, SLVERR, 0)) for resp in (axi.bresp, axi.rresp)]
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If((axi.bvalid & axi.bready) | (axi.rvalid & axi.rready)):
                    m.d.sync += [axi.bvalid.eq(0), axi.rvalid.eq(0)]
                    m.next = "IDLE"
        return m

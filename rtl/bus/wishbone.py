"""Wishbone B4 at the memory port and at the control port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from lepton.rtl import ports
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec.registers import ADDRESS_BITS

__all__ = ["WishboneControl", "WishboneMemory", "wishbone"]

INCREMENTING, END = 0b010, 0b111
"""Values of CTI."""


def wishbone(address_bits: int, width: int, bursts: bool) -> Signature:
    """A master, `width` bytes wide; addresses count bytes. ``bursts``: its cycles are registered feedback ones."""
    return Signature(
        {
            "cyc": Out(1),
            "stb": Out(1),
            "we": Out(1),
            "adr": Out(address_bits),
            "sel": Out(width),
            "dat_w": Out(8 * width),
            **({"cti": Out(3), "bte": Out(2)} if bursts else {}),
            "dat_r": In(8 * width),
            "ack": In(1),
            "err": In(1),
        }
    )


class WishboneMemory(wiring.Component):
    """The memory port's bursts as registered feedback cycles, one after the other.

    Parameters: ``width``, bytes of a beat. Members: ``memory`` `ports.memory_port` · ``wb`` `wishbone`

    A burst is linear and incrementing, a single beat the end of one. Where the beat to be written is not there, or the
    one read has no place, STB is low for a while. ERR is ``error``, the burst goes on.
    Throughput: a beat a cycle, and a cycle between bursts. Latency: a cycle each way.
    No output of the bus depends on an input of it in the same cycle. Reset: forgets all.
    """

    def __init__(self, width: int):
        self._width = width
        super().__init__({"memory": In(ports.memory_port(width)), "wb": Out(wishbone(32, width, True))})

    def elaborate(self, platform):
        m = Module()
        memory, wb, width = self.memory, self.wb, self._width
        a, w = memory.a, memory.w
        m.submodules.queue = queue = SkidQueue(8 * width, 2)
        wiring.connect(m, queue.o, wiring.flipped(memory.r))
        left = Signal(8)  # beats behind this one
        term, last = (Signal(name=name) for name in ("term", "last"))
        m.d.comb += [
            a.ready.eq(~wb.cyc),
            wb.stb.eq(wb.cyc & Mux(wb.we, w.valid, queue.i.ready)),
            wb.sel.eq(Mux(wb.we, w.payload.mask, -1)),
            wb.dat_w.eq(w.payload.data),
            last.eq(left == 0),
            wb.cti.eq(Mux(last, END, INCREMENTING)),
            term.eq(wb.stb & (wb.ack | wb.err)),
            w.ready.eq(term & wb.we),
            queue.i.valid.eq(term & ~wb.we),
            queue.i.payload.eq(wb.dat_r),
            memory.idle.eq(~(wb.cyc & wb.we)),
        ]
        with m.If(a.valid & a.ready):
            m.d.sync += [
                wb.cyc.eq(1),
                wb.we.eq(a.payload.write),
                wb.adr.eq(a.payload.address),
                left.eq(a.payload.beats),
            ]
        with m.If(term):
            m.d.sync += [wb.adr.eq(wb.adr + width), left.eq(left - 1), wb.cyc.eq(~last)]
        m.d.sync += memory.error.eq(term & wb.err)
        return m


class WishboneControl(wiring.Component):
    """The control port as a Wishbone slave: classic cycles, each answered by ACK or ERR.

    Members: ``wb`` `wishbone` · ``control`` `ports.control`. Reset: idle.
    """

    def __init__(self):
        super().__init__({"wb": In(wishbone(ADDRESS_BITS, 4, False)), "control": Out(ports.control())})

    def elaborate(self, platform):
        m = Module()
        wb, control = self.wb, self.control
        m.d.comb += [
            control.en.eq(wb.cyc & wb.stb),
            control.write.eq(wb.we),
            control.word.eq(wb.adr[2:]),
            control.data.eq(wb.dat_w),
            control.whole.eq(wb.sel.all()),
            wb.dat_r.eq(control.read),
            wb.ack.eq(control.done & ~control.error),
            wb.err.eq(control.done & control.error),
        ]
        return m

"""Memories of 16-bit words in iCE40 single-port RAM (SPRAM), and their twins for simulation."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig

WORDS = 1 << 14
"""16-bit words of one SPRAM."""


def _cell(m, name, domain, address, w_on, w_data):
    """An SB_SPRAM256KA read or written in each cycle of `domain`; returns its output. `w_on`: a bit for each byte."""
    output = Signal(16, name=f"{name}_output")
    m.submodules[name] = Instance(
        "SB_SPRAM256KA",
        i_ADDRESS=address,
        i_DATAIN=w_data,
        i_MASKWREN=Cat(w_on[0], w_on[0], w_on[1], w_on[1]),
        i_WREN=w_on.any(),
        i_CHIPSELECT=Const(1),
        i_CLOCK=ClockSignal(domain),
        i_STANDBY=Const(0),
        i_SLEEP=Const(0),
        i_POWEROFF=Const(1),
        o_DATAOUT=output,
    )
    return output


class Spram(wiring.Component):
    """16384 words of 16 bits, read or written in each cycle.

    Members: ``addr`` In(14) · ``w_on`` In(2): write the low, the high byte of ``w_data`` (16) · ``r_data`` Out(16): the
    word of the cycle before, if it was not written in it. With a platform it is an SPRAM. Reset: memory stays.
    """

    addr: In(14)
    w_on: In(2)
    w_data: In(16)
    r_data: Out(16)

    def elaborate(self, platform):
        m = Module()
        if platform is not None:
            m.d.comb += self.r_data.eq(_cell(m, "cell", "sync", self.addr, self.w_on, self.w_data))
            return m
        m.submodules.memory = memory = Memory(shape=16, depth=WORDS, init=[], attrs={"no_rw_check": 1})
        read, write = memory.read_port(), memory.write_port(granularity=8)
        m.d.comb += [
            read.addr.eq(self.addr),
            write.addr.eq(self.addr),
            write.en.eq(self.w_on),
            write.data.eq(self.w_data),
            self.r_data.eq(read.data),
        ]
        return m


class SpramActMemory(wiring.Component):
    """Activation memory of up to 64 KB for reads from even addresses: members and semantics of `ActMemory`, one lane,
    four bytes; a read sees the writes of all earlier cycles. The lowest bit of ``read.addr`` is ignored.

    With a platform, two SPRAMs hold the even and the odd 16-bit words. They work in domain ``fast``, of twice the
    frequency of ``sync`` and with its edges: the first half of a cycle reads, the second writes.
    """

    LATENCY = timing.COMPACT_ACT_READ

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "read": In(ports.activation_read(layouts.activations(config))),
                "write": In(ports.activation_write(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = (self._config.act_bytes - 1).bit_length() - 2  # words of a memory

        write_half = Signal()
        if platform is not None:
            # `toggle` changes at each edge of sync; `fast` sees it unchanged once in each cycle: in its second half.
            toggle, seen = Signal(), Signal()
            m.d.sync += toggle.eq(~toggle)
            m.d.fast += seen.eq(toggle)
            m.d.comb += write_half.eq(seen == toggle)

        words = []
        for k in range(2):
            here = Signal(bits, name=f"r_word_{k}")
            # The word of four bytes at an odd word starts in the odd memory and goes on in the next even word.
            m.d.comb += here.eq(self.read.addr[2:] + (self.read.addr[1] if k == 0 else 0))
            w_on = Signal(2, name=f"w_on_{k}")
            with m.If(self.write.en & (self.write.count != 0) & (self.write.addr[1] == k)):
                m.d.comb += w_on.eq(1 << self.write.addr[0])
            w_at, w_data = self.write.addr[2 : 2 + bits], self.write.data[0].as_unsigned().replicate(2)
            if platform is not None:
                address = Mux(write_half, w_at, here)
                words.append(_cell(m, f"cell_{k}", "fast", address, w_on & write_half.replicate(2), w_data))
            else:
                m.submodules[f"memory_{k}"] = memory = Memory(shape=16, depth=1 << bits, init=[])
                read, write = memory.read_port(domain="comb"), memory.write_port(granularity=8)
                m.d.comb += [
                    read.addr.eq(here),
                    write.addr.eq(w_at),
                    write.en.eq(w_on),
                    write.data.eq(w_data),
                ]
                words.append(read.data)
        result = Signal(32, reset_less=True)
        m.d.sync += result.eq(Mux(self.read.addr[1], Cat(words[1], words[0]), Cat(words[0], words[1])))
        m.d.comb += self.read.data.as_value().eq(result)
        return m

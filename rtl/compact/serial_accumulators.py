"""Accumulators of compact configurations: read, add and write in one cycle."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from lepton.rtl import layouts, ports
from lepton.rtl.compact.ports import column_read
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class SerialAccumulators(wiring.Component):
    """Two banks of acc_depth vectors of cols int32.

    Members: those of `Accumulators`, with ``tail`` `column_read`: one column, nothing is written.

    A tail read from ``A_LATENCY`` cycles after a ``sums.en`` on sees its sum. In no cycle do array and tail use one
    bank. With a platform the memories are read at the falling edge in the middle of a cycle: addresses must be there
    half a cycle early. Reset: memories stay.
    """

    A_LATENCY = timing.COMPACT_ACC_SUM
    T_LATENCY = timing.COMPACT_ACC_READ

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "sums": In(ports.accumulate()),
                "psum": In(layouts.psums(config)),
                "tail": In(column_read(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        cfg = self._config
        bits = (cfg.acc_depth - 1).bit_length()
        read_domain = "comb"
        if platform is not None:
            m.domains.fall = ClockDomain("fall", clk_edge="neg", reset_less=True, local=True)
            m.d.comb += ClockSignal("fall").eq(ClockSignal("sync"))
            read_domain = "fall"

        words = []
        total = Signal(32 * cfg.cols)
        for b in range(2):
            m.submodules[f"bank_{b}"] = memory = Memory(
                shape=32 * cfg.cols, depth=cfg.acc_depth, init=[], attrs={"no_rw_check": 1}
            )
            read, write = memory.read_port(domain=read_domain), memory.write_port()
            m.d.comb += [
                read.addr.eq(
                    Mux(self.tail.r_en & (self.tail.bank == b), self.tail.r_entry[:bits], self.sums.entry[:bits])
                ),
                write.en.eq(self.sums.en & (self.sums.bank == b)),
                write.addr.eq(self.sums.entry),
                write.data.eq(total),
            ]
            words.append(read.data)
        old = Mux(self.sums.bank, words[1], words[0])
        for c in range(cfg.cols):
            operand = Signal(32, name=f"operand_{c}")
            m.d.comb += [
                operand.eq(Mux(self.sums.init, 0, old[32 * c : 32 * c + 32])),
                total[32 * c : 32 * c + 32].eq(operand + self.psum[c]),
            ]
        columns = [Mux(self.tail.bank, words[1], words[0])[32 * c : 32 * c + 32] for c in range(cfg.cols)]
        m.d.sync += self.tail.r_data.eq(Cat(columns).word_select(self.tail.r_column, 32))
        return m

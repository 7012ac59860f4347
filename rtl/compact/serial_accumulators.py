"""Accumulators of compact configurations: read, add and write in one cycle."""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class SerialAccumulators(wiring.Component):
    """Two banks of acc_depth vectors of cols int32.

    Members: those of `Accumulators`, but no ``t_w_*``; ``t_r_column`` In(range(cols)), in the cycle of ``t_r_en``, and
    ``t_r_data`` Out(signed(32)): that column, ``T_LATENCY`` cycle later, only then.

    A tail read from ``A_LATENCY`` cycles after an ``a_en`` on sees its sum. In no cycle do array and tail use the same
    bank. With a platform the memories are read at the falling edge in the middle of a cycle: addresses must be there
    half a cycle early. Reset: memories stay.
    """

    A_LATENCY = timing.COMPACT_ACC_SUM
    T_LATENCY = timing.COMPACT_ACC_READ

    def __init__(self, config: NpuConfig):
        self._config = config
        cols = config.cols
        super().__init__(
            {
                "a_en": In(1),
                "a_bank": In(1),
                "a_entry": In(10),
                "a_init": In(1),
                "a_psum": In(data.ArrayLayout(signed(config.psum_width), cols)),
                "t_bank": In(1),
                "t_r_en": In(1),
                "t_r_entry": In(10),
                "t_r_column": In(range(cols)),
                "t_r_data": Out(signed(32)),
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
                read.addr.eq(Mux(self.t_r_en & (self.t_bank == b), self.t_r_entry[:bits], self.a_entry[:bits])),
                write.en.eq(self.a_en & (self.a_bank == b)),
                write.addr.eq(self.a_entry),
                write.data.eq(total),
            ]
            words.append(read.data)
        old = Mux(self.a_bank, words[1], words[0])
        for c in range(cfg.cols):
            operand = Signal(32, name=f"operand_{c}")
            m.d.comb += [
                operand.eq(Mux(self.a_init, 0, old[32 * c : 32 * c + 32])),
                total[32 * c : 32 * c + 32].eq(operand + self.a_psum[c]),
            ]
        columns = [Mux(self.t_bank, words[1], words[0])[32 * c : 32 * c + 32] for c in range(cfg.cols)]
        m.d.sync += self.t_r_data.eq(Cat(columns).word_select(self.t_r_column, 32))
        return m

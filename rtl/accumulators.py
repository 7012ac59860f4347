"""Accumulators: two banks of vectors of 32-bit sums, one for the array, one for the tail."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .config import NpuConfig


class Accumulators(wiring.Component):
    """Two banks of acc_depth vectors of cols int32.

    Members:
    ``a_en``, ``a_bank``, ``a_entry`` unsigned(10), ``a_init``, ``a_psum`` ArrayLayout(signed(psum_width), cols):
    acc[bank][entry] = (init ? 0 : acc[bank][entry]) + psum, modulo 2**32; any entry any cycle, the same one back to
    back too · ``t_bank``: bank of the tail's accesses in this cycle · ``t_r_en``, ``t_r_entry`` unsigned(10) ·
    ``t_r_data`` ArrayLayout(signed(32), cols): ``T_LATENCY`` cycles after ``t_r_en``, only then · ``t_w_en``,
    ``t_w_entry`` unsigned(10), ``t_w_sub`` range(cols/lanes), ``t_w_data`` ArrayLayout(signed(32), lanes): writes
    columns sub*lanes and on.

    A tail read from ``A_LATENCY`` cycles after an ``a_en`` on sees its sum. A tail write is seen by reads of either
    side from ``W_LATENCY`` cycles later on. In no cycle do array (``a_en`` to A_LATENCY - 1 later) and tail use one
    bank.
    Throughput: one vector a cycle on each side, read and write. Reset: memories stay, sums under way are dropped.
    """

    A_LATENCY = 4
    T_LATENCY = 2
    W_LATENCY = 2

    def __init__(self, config: NpuConfig):
        self._config = config
        cols, lanes = config.cols, config.lanes
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
                "t_r_data": Out(data.ArrayLayout(signed(32), cols)),
                "t_w_en": In(1),
                "t_w_entry": In(10),
                "t_w_sub": In(range(cols // lanes)),
                "t_w_data": In(data.ArrayLayout(signed(32), lanes)),
            }
        )

    def elaborate(self, platform):
        cfg = self._config
        m = Module()
        bits = (cfg.acc_depth - 1).bit_length()
        size = 32 * cfg.cols
        subs = cfg.cols // cfg.lanes

        # Made of look-up tables, a memory spreads far: its addresses come from registers then, and it is read in the
        # cycle after, as late as a block RAM's word comes.
        spread = "acc" in cfg.lutram.split()

        # Cycle 0: read. Cycle 1: the memory's word. Cycle 2: operand and sum. Cycle 3: the sum, in `last`, is written;
        # a block RAM's read in that cycle misses it, so it is kept a cycle more, in `older`.
        stages = range(1, 3 if spread else 4)
        en = [self.a_en] + [Signal(name=f"en_{k}") for k in stages]
        bank = [self.a_bank] + [Signal(name=f"bank_{k}", reset_less=True) for k in stages]
        entry = [self.a_entry[:bits]] + [Signal(bits, name=f"entry_{k}", reset_less=True) for k in stages]
        init_1 = Signal(reset_less=True)
        for k in stages:
            m.d.sync += [en[k].eq(en[k - 1]), bank[k].eq(bank[k - 1]), entry[k].eq(entry[k - 1])]
        m.d.sync += init_1.eq(self.a_init)

        def same(k):
            """The vector k cycles before goes to this cycle's entry."""
            return en[k] & (bank[k] == self.a_bank) & (entry[k] == entry[0])

        from_one, from_one_2 = Signal(), Signal(reset_less=True)
        from_two = Signal(reset_less=True)
        from_three = Signal(reset_less=True)
        m.d.comb += from_one.eq(same(1) & ~self.a_init)
        from_one_1 = Signal(reset_less=True)
        m.d.sync += [from_one_1.eq(from_one), from_one_2.eq(from_one_1), from_two.eq(same(2))]
        if not spread:
            m.d.sync += from_three.eq(same(3))

        words = []
        last = Signal(size, reset_less=True)
        older = Signal(size, reset_less=True)
        operand = Signal(size, reset_less=True)
        total = Signal(size)

        t_en, t_bank_1 = Signal(2), Signal(reset_less=True)
        m.d.comb += t_en.eq(Mux(self.t_r_en, 1 << self.t_bank, 0))
        m.d.sync += t_bank_1.eq(self.t_bank)
        t_data = Signal(32 * cfg.lanes, reset_less=True)
        m.d.sync += t_data.eq(self.t_w_data.as_value())
        # Spread memories are one for each of the tail's sub-groups, with address registers of their own: odd ones hold
        # the complement, or a synthesizer would merge them and one wire would lead to all.
        parts = subs if spread else 1
        depth = 1 << bits if spread else cfg.acc_depth
        for b in range(2):
            at = Mux(t_en[b], self.t_r_entry[:bits], entry[0])
            sums_to_it = Signal(name=f"sum_{b}")
            t_writes = Signal(subs, name=f"t_writes_{b}")
            w_en = Signal(subs, name=f"w_en_{b}")
            m.d.comb += [
                sums_to_it.eq(en[2] & (bank[2] == b)),
                t_writes.eq(Mux(self.t_w_en & (self.t_bank == b), 1 << self.t_w_sub, 0)),
            ]
            with m.If(sums_to_it):
                m.d.sync += w_en.eq((1 << subs) - 1)
            with m.Else():
                m.d.sync += w_en.eq(t_writes)
            word = []
            for part in range(parts):
                width, name = size // parts, f"{b}_{part}" if spread else f"{b}"
                odd = part % 2

                def place(entry, odd=odd):
                    return ~entry if odd else entry

                m.submodules[f"bank_{name}"] = memory = Memory(
                    shape=width, depth=depth, init=[], attrs=cfg.memory_attrs("acc")
                )
                read = memory.read_port(domain="comb" if spread else "sync")
                write = memory.write_port(granularity=32 * cfg.lanes)
                if spread:
                    read_at = Signal(bits, name=f"read_at_{name}", reset_less=True)
                    m.d.sync += read_at.eq(place(at))
                    m.d.comb += read.addr.eq(read_at)
                else:
                    m.d.comb += [read.en.eq(t_en[b] | (self.a_en & (self.a_bank == b))), read.addr.eq(at)]
                word.append(read.data)

                w_sum = Signal(name=f"w_sum_{name}", reset_less=True, init=odd)
                w_at = Signal(bits, name=f"w_at_{name}", reset_less=True)
                w_entry = Mux(sums_to_it, entry[2], self.t_w_entry[:bits])
                m.d.sync += [w_sum.eq(sums_to_it), w_at.eq(place(w_entry))]
                m.d.comb += [
                    write.en.eq(w_en[part] if spread else w_en),
                    write.addr.eq(w_at),
                    write.data.eq(Mux(w_sum, last[part * width : (part + 1) * width], t_data.replicate(subs // parts))),
                ]
            words.append(Cat(word))

        with m.If(init_1):
            m.d.sync += operand.eq(0)
        with m.Elif(from_two):
            m.d.sync += operand.eq(last)
        with m.Elif(from_three):
            m.d.sync += operand.eq(older)
        with m.Else():
            m.d.sync += operand.eq(Mux(bank[1], words[1], words[0]))

        chosen = Signal(size)
        sums = []
        m.d.comb += chosen.eq(Mux(from_one_2, last, operand))
        for c in range(cfg.cols):
            psum = self.a_psum[c]
            for k in (1, 2):
                stage = Signal(signed(cfg.psum_width), name=f"psum_{c}_{k}", reset_less=True)
                m.d.sync += stage.eq(psum)
                psum = stage
            part = Signal(32, name=f"sum_{c}")
            m.d.comb += part.eq(chosen[32 * c : 32 * c + 32] + psum)
            sums.append(part)
        m.d.comb += total.eq(Cat(sums))
        m.d.sync += [last.eq(total), older.eq(last)]

        result = Signal(size, reset_less=True)
        m.d.sync += result.eq(Mux(t_bank_1, words[1], words[0]))
        m.d.comb += self.t_r_data.as_value().eq(result)
        return m

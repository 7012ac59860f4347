"""Accumulators: two banks of vectors of 32-bit sums, one for the array, one for the tail."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from lepton.rtl import layouts, ports
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import KEEP, NpuConfig


class Accumulators(wiring.Component):
    """Two banks of acc_depth vectors of cols int32.

    Members:
    ``sums`` `ports.accumulate`, ``psum`` psums: acc[bank][entry] = (init ? 0 : acc[bank][entry]) + psum, modulo 2**32;
    any entry any cycle, the same one back to back too · ``tail`` `ports.accumulator_access`: ``r_data`` comes
    ``T_LATENCY`` cycles after ``r_en``, only then; ``w_count`` is not looked at, whole sub-groups are written.

    A tail read from ``A_LATENCY`` cycles after a ``sums.en`` on sees its sum. A tail write is seen by reads of either
    side from ``W_LATENCY`` cycles later on. In no cycle do array (``sums.en`` to A_LATENCY - 1 later) and tail use one
    bank.
    Throughput: one vector a cycle on each side, read and write. Reset: memories stay, sums under way are dropped.
    """

    A_LATENCY = timing.ACC_SUM
    T_LATENCY = timing.ACC_READ
    W_LATENCY = timing.ACC_WRITE

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "sums": In(ports.accumulate()),
                "psum": In(layouts.psums(config)),
                "tail": In(ports.accumulator_access(config)),
            }
        )

    def elaborate(self, platform):
        cfg = self._config
        m = Module()
        bits = (cfg.acc_depth - 1).bit_length()
        subs = cfg.cols // cfg.lanes

        # Made of look-up tables, a memory spreads far: each column has one of its own then, with its own copies of what
        # steers it, and is read in the cycle after its address register, as late as a block RAM's word comes.
        spread = "acc" in cfg.lutram.split()
        parts = cfg.cols if spread else 1
        width = 32 * cfg.cols // parts
        depth = 1 << bits if spread else cfg.acc_depth

        # Cycle 0: read. Cycle 1: the memory's word. Cycle 2: operand and sum. Cycle 3: the sum, in `last`, is written;
        # a block RAM's read in that cycle misses it, so it is kept a cycle more, in `older`.
        stages = range(1, 3 if spread else 4)
        en = [self.sums.en] + [Signal(name=f"en_{k}") for k in stages]
        bank = [self.sums.bank] + [Signal(name=f"bank_{k}", reset_less=True) for k in stages]
        entry = [self.sums.entry[:bits]] + [Signal(bits, name=f"entry_{k}", reset_less=True) for k in stages]
        for k in stages:
            m.d.sync += [en[k].eq(en[k - 1]), bank[k].eq(bank[k - 1]), entry[k].eq(entry[k - 1])]

        def same(k):
            """The vector k cycles before goes to this cycle's entry."""
            return en[k] & (bank[k] == self.sums.bank) & (entry[k] == entry[0])

        from_one = Signal()
        from_one_1 = Signal(reset_less=True)
        from_two = Signal()
        m.d.comb += [from_one.eq(same(1) & ~self.sums.init), from_two.eq(same(2))]
        m.d.sync += from_one_1.eq(from_one)

        t_en = Signal(2)
        m.d.comb += t_en.eq(Mux(self.tail.r_en, 1 << self.tail.bank, 0))
        t_data = Signal(32 * cfg.lanes, reset_less=True)
        m.d.sync += t_data.eq(self.tail.w_data.as_value())
        sums_to = Signal(2)
        r_entry, w_entry = ([Signal(bits, name=f"{name}_{b}") for b in range(2)] for name in ("r_entry", "w_entry"))
        w_subs = [Signal(subs, name=f"w_subs_{b}") for b in range(2)]
        for b in range(2):
            t_writes = Mux(self.tail.w_en & (self.tail.bank == b), 1 << self.tail.w_sub, 0)
            m.d.comb += [
                sums_to[b].eq(en[2] & (bank[2] == b)),
                r_entry[b].eq(Mux(t_en[b], self.tail.r_entry, entry[0])),
                w_entry[b].eq(Mux(sums_to[b], entry[2], self.tail.w_entry)),
                w_subs[b].eq(Mux(sums_to[b], (1 << subs) - 1, t_writes)),
            ]

        for part in range(parts):
            tag = f"_{part}" if spread else ""
            columns = range(cfg.cols)[part * cfg.cols // parts : (part + 1) * cfg.cols // parts]

            def late(value, name, tag=tag, reset_less=True):
                """The part's own register of a value, not to be merged with those of other parts."""
                register = Signal(len(value), name=name + tag, reset_less=reset_less, attrs=KEEP if tag else {})
                m.d.sync += register.eq(value)
                return register

            last = Signal(width, name="last" + tag, reset_less=True)
            words = []
            for b in range(2):
                m.submodules[f"bank_{b}{tag}"] = memory = Memory(
                    shape=width, depth=depth, init=[], attrs=cfg.memory_attrs("acc")
                )
                read = memory.read_port(domain="comb" if spread else "sync")
                write = memory.write_port(granularity=width if spread else 32 * cfg.lanes)
                if spread:
                    m.d.comb += read.addr.eq(late(r_entry[b], f"r_at_{b}"))
                else:
                    m.d.comb += [read.en.eq(t_en[b] | (self.sums.en & (self.sums.bank == b))), read.addr.eq(r_entry[b])]
                words.append(read.data)
                from_tail = t_data.word_select(part % cfg.lanes, 32) if spread else t_data.replicate(subs)
                m.d.comb += [
                    write.en.eq(
                        late(w_subs[b][part // cfg.lanes] if spread else w_subs[b], f"w_en_{b}", reset_less=False)
                    ),
                    write.addr.eq(late(w_entry[b], f"w_at_{b}")),
                    write.data.eq(Mux(late(sums_to[b], f"w_sum_{b}"), last, from_tail)),
                ]

            init_1, from_two_1 = late(self.sums.init, "init_1"), late(from_two, "from_two_1")
            a_bank_1, t_bank_1 = late(self.sums.bank, "a_bank_1"), late(self.tail.bank, "t_bank_1")
            from_three_1, older = Const(0), Const(0)
            if not spread:
                from_three_1, older = late(same(3), "from_three_1"), late(last, "older")
            operand = Signal(width, name="operand" + tag, reset_less=True)
            with m.If(init_1):
                m.d.sync += operand.eq(0)
            with m.Elif(from_two_1):
                m.d.sync += operand.eq(last)
            with m.Elif(from_three_1):
                m.d.sync += operand.eq(older)
            with m.Else():
                m.d.sync += operand.eq(Mux(a_bank_1, words[1], words[0]))

            chosen = Signal(width, name="chosen" + tag)
            m.d.comb += chosen.eq(Mux(late(from_one_1, "from_one_2"), last, operand))
            sums = []
            for k, c in enumerate(columns):
                psum = self.psum[c]
                for stage in (1, 2):
                    register = Signal(signed(cfg.psum_width), name=f"psum_{c}_{stage}", reset_less=True)
                    m.d.sync += register.eq(psum)
                    psum = register
                total = Signal(32, name=f"sum_{c}")
                m.d.comb += total.eq(chosen.word_select(k, 32) + psum)
                sums.append(total)
            m.d.sync += last.eq(Cat(sums))

            result = Signal(width, name="result" + tag, reset_less=True)
            m.d.sync += result.eq(Mux(t_bank_1, words[1], words[0]))
            m.d.comb += Cat(self.tail.r_data[c] for c in columns).eq(result)
        return m

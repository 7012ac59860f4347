"""The tail of compact configurations: one accumulator after the other."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.compact.ports import column_read, word_read
from lepton.rtl.layouts import TAIL_LAYOUT, WORD_LAYOUT
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.timing import DIGIT, PARAM_CYCLES


class SerialTail(wiring.Component):
    """Executes TAIL as `docs/architecture.md` says, one value at a time, without second operand, table and to_acc.

    Members: those of `TailEngine`, with ``i`` In(Stream(WORD_LAYOUT)), the words of an instruction in order; ``acc``
    `column_read`; ``params`` `word_read`: word 8 * entry + k of the parameter memory, k < 5. Nothing is reported.

    Multipliers are not negative. A value is read, biased, shifted left a bit a cycle, multiplied by `DIGIT` bits a
    cycle, divided a bit a cycle and clamped; `Requantizer` says what comes out.

    Timing. An instruction whose last word was accepted in cycle A reads the entry of its first channel in A + 2 ..
    A + 1 + PARAM_CYCLES, and channel k's reads begin in

        R(0)   = max(A + PARAM_CYCLES + 2, bank + 1)
        R(k+1) = max(R(k) + reads * V(k) + (PARAM_CYCLES, or if shared 1 with a bank to take, else 0), bank + 1)

    where reads = width*height*window_x*window_y, V = `value_cycles` of the channel's entry and bank is the cycle of the
    ``ready`` pulse that this channel takes, if it takes one. ``free`` is in the cycle after the last read
    of the bank. D = R + reads * V - 1 of the last channel: the last byte is on the write port, ``token``; the next
    instruction is accepted from D + 1 on, the engine is idle from there on. Reset: drops everything.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(WORD_LAYOUT)),
                "banks": In(ports.handover()),
                "acc": Out(column_read(config)),
                "write": Out(ports.activation_write(config)),
                "params": Out(word_read()),
                "idle": Out(1),
                "bad_address": Out(1),
                "bad_bank": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        cols = config.cols
        entry_bits = (config.acc_depth - 1).bit_length()
        act_bits = (config.act_bytes - 1).bit_length()

        def reg(shape, name):
            return Signal(shape, name=name, reset_less=True)

        raw = reg(256, "ins")
        ins = data.View(TAIL_LAYOUT, raw[: TAIL_LAYOUT.size])
        entry, entry_window, entry_x, entry_y = (reg(entry_bits, f"entry{n}") for n in ("", "_window", "_x", "_y"))
        address, address_y, address_s, address_g = (reg(act_bits, f"address{n}") for n in ("", "_y", "_s", "_g"))
        ox, oy = reg(entry_bits + 1, "ox"), reg(entry_bits + 1, "oy")  # an output has its own accumulator
        wx, wy = reg(4, "wx"), reg(4, "wy")  # left, 1 is the last
        left = reg(16, "left")  # channels
        sub = Signal(range(cols))
        need_bank = Signal()
        begun = Signal()
        credit = Signal(2)
        available = Signal(2)
        m.d.comb += available.eq(credit + self.banks.ready)
        take = Signal()
        m.d.sync += credit.eq(available - take)

        wx_last, wy_last, ox_last, oy_last = wx == 1, wy == 1, ox == 1, oy == 1
        window_done = Signal()
        plane_done = Signal()
        group_last = Signal()
        last = Signal()
        m.d.comb += [
            window_done.eq(wx_last & wy_last),
            plane_done.eq(window_done & ox_last & oy_last),
            last.eq(left == 1),
            group_last.eq(last | (sub == cols - 1)),
        ]

        # --- Parameters --------------------------------------------------------------------------------------------
        bias = reg(signed(32), "bias")
        multiplier = reg(32, "multiplier")  # turns by DIGIT bits a cycle, once round for each value
        shift = reg(signed(8), "shift")
        p_step = Signal(range(PARAM_CYCLES))
        p_entry = reg(11, "p_entry")
        m.d.comb += self.params.addr.eq(Cat(p_step, p_entry))

        # --- One value -----------------------------------------------------------------------------------------------
        value = reg(signed(32), "value")
        count = Signal(7)  # shifts, digits, divisions
        # Before the rounding: product >> 30 in 34 bits.
        product = reg(signed(34), "product")
        nearest = Signal()  # the product is still to be rounded
        sticky = reg(1, "sticky")
        rounding = Signal()

        # A gated adder for each bit: carry chain and multiplexer are one cell.
        top = Signal()  # the last digit
        partial = product[2:].as_signed()
        kept = []
        for k in range(DIGIT):
            total = Signal(signed(33), name=f"partial_{k}")
            m.d.comb += total.eq(Mux(multiplier[k], partial + value, partial))
            kept.append(total[0])
            partial = total[1:].as_signed()

        left_shift = Signal(7)
        negative = shift[-1]
        m.d.comb += left_shift.eq(ins.pre_shift + Mux(negative, 0, shift[:6]))

        halved = Signal(signed(34))
        m.d.comb += halved.eq((product + rounding) >> 1)

        # Zero point and clamp: beyond ten bits only the sign counts.
        small = Signal()
        moved = Signal(signed(11))
        word = Signal(8)
        m.d.comb += [
            small.eq((product[9:] == 0) | product[9:].all()),
            moved.eq(product[:10].as_signed() + Mux(ins.clamp, ins.zero_point, 0)),
        ]
        over = Mux(small, moved > ins.high, ~product[-1])
        under = Mux(small, moved < ins.low, product[-1])
        with m.If(~ins.clamp):
            m.d.comb += word.eq(moved)
        with m.Elif(over):
            m.d.comb += word.eq(ins.high)
        with m.Elif(under):
            m.d.comb += word.eq(ins.low)
        with m.Else():
            m.d.comb += word.eq(moved)
        best = reg(signed(8), "best")
        first = Signal()  # of its window
        chosen = Signal(signed(8))
        m.d.comb += chosen.eq(Mux(first | (word.as_signed() > best), word.as_signed(), best))

        # --- Walk ----------------------------------------------------------------------------------------------------
        group_entry = reg(entry_bits, "group_entry")  # first of this group
        outputs = reg(entry_bits, "outputs")  # behind those of this group so far (stack)

        next_entry = Signal(entry_bits)
        source, step = Signal(entry_bits), Signal(entry_bits)
        m.d.comb += [source.eq(entry), step.eq(1)]
        with m.If(~wx_last):
            pass
        with m.Elif(~wy_last):
            m.d.comb += [source.eq(entry_window), step.eq(ins.window_row)]
        with m.Elif(~ox_last):
            m.d.comb += [source.eq(entry_x), step.eq(ins.acc_x)]
        with m.Elif(~oy_last):
            m.d.comb += [source.eq(entry_y), step.eq(ins.acc_y)]
        with m.Elif(group_last & ins.stack):
            m.d.comb += source.eq(outputs)
        with m.Else():
            m.d.comb += [source.eq(group_entry), step.eq(0)]
        m.d.comb += next_entry.eq(source + step)

        next_address = Signal(act_bits)
        a_source, a_step = Signal(act_bits), Signal(act_bits)
        with m.If(~ox_last):
            m.d.comb += [a_source.eq(address), a_step.eq(ins.out_x)]
        with m.Elif(~oy_last):
            m.d.comb += [a_source.eq(address_y), a_step.eq(ins.out_y)]
        with m.Elif(~group_last):
            m.d.comb += [a_source.eq(address_s), a_step.eq(1)]
        with m.Else():
            m.d.comb += [a_source.eq(address_g), a_step.eq(ins.group_step)]
        m.d.comb += next_address.eq(a_source + a_step)

        m.d.comb += [
            self.acc.r_entry.eq(entry),
            self.acc.r_column.eq(sub),
            self.write.count.eq(1),
            self.write.addr.eq(address),
            self.write.data[0].eq(chosen),
        ]
        free = Signal()
        m.d.sync += [
            self.banks.free.eq(free),
            self.acc.bank.eq(self.acc.bank ^ free),
        ]

        ready = Signal()
        m.d.comb += ready.eq(~need_bank | available.any())

        def begin():
            """The next cycle reads a value, if its bank is there."""
            with m.If(ready):
                m.d.comb += take.eq(need_bank)
                m.d.sync += need_bank.eq(0)
                m.next = "READ"
            with m.Else():
                m.next = "BANK"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.i.ready.eq(1), self.idle.eq(1)]
                m.d.sync += begun.eq(0)
                with m.If(self.i.valid):
                    m.d.sync += raw.word_select(self.i.payload.index, 64).eq(self.i.payload.word)
                    with m.If(self.i.payload.index == 3):
                        m.next = "PARAM"

            with m.State("PARAM"):
                with m.If(begun):
                    m.d.sync += p_step.eq(p_step + 1)
                with m.Else():
                    m.d.sync += [
                        begun.eq(1),
                        p_entry.eq(ins.param),
                        left.eq(ins.channels),
                        need_bank.eq(ins.take),
                        sub.eq(0),
                        first.eq(1),
                        wx.eq(ins.window_x),
                        wy.eq(ins.window_y),
                        ox.eq(ins.width),
                        oy.eq(ins.height),
                        *(e.eq(ins.acc_base) for e in (entry, entry_window, entry_x, entry_y, group_entry, outputs)),
                        *(a.eq(ins.address) for a in (address, address_y, address_s, address_g)),
                    ]
                with m.Switch(p_step):
                    with m.Case(1):
                        m.d.sync += bias[:16].eq(self.params.data)
                    with m.Case(2):
                        m.d.sync += bias[16:].eq(self.params.data)
                    with m.Case(3):
                        m.d.sync += multiplier[:16].eq(self.params.data)
                    with m.Case(4):
                        m.d.sync += multiplier[16:].eq(self.params.data)
                    with m.Case(5):
                        m.d.sync += [shift.eq(self.params.data[:8]), p_step.eq(0), p_entry.eq(p_entry + 1)]
                        begin()

            with m.State("BANK"):
                begin()

            with m.State("READ"):
                m.d.comb += self.acc.r_en.eq(1)
                with m.If(plane_done & group_last & ins.release & (last | ~ins.stack)):
                    m.d.comb += free.eq(1)
                m.next = "BIAS"

            with m.State("BIAS"):
                m.d.sync += [value.eq(self.acc.r_data + bias), count.eq(left_shift), product.eq(0)]
                m.next = "MULTIPLY"
                with m.If(left_shift != 0):
                    m.next = "LEFT"

            with m.State("LEFT"):
                m.d.sync += [value.eq(value << 1), count.eq(count - 1)]
                with m.If(count == 1):
                    m.next = "MULTIPLY"

            with m.State("MULTIPLY"):
                m.d.comb += top.eq(count == 32 // DIGIT - 1)
                m.d.sync += [
                    count.eq(count + 1),
                    multiplier.eq(multiplier.rotate_right(DIGIT)),
                    product.eq(Cat(kept[-2:], partial).as_signed()),
                    nearest.eq(1),
                ]
                with m.If(top):
                    m.d.sync += count.eq(Mux(negative, -shift, 0))
                    m.next = "RIGHT"

            with m.State("RIGHT"):
                # The product is rounded half up; a quotient half away from zero: what was shifted out decides.
                m.d.comb += rounding.eq(nearest | ((count == 1) & (~product[-1] | sticky)))
                m.d.sync += [product.eq(halved), sticky.eq(~nearest & (sticky | product[0])), nearest.eq(0)]
                with m.If(~nearest):
                    m.d.sync += count.eq(count - 1)
                with m.If(count == ~nearest):
                    m.next = "OUT"

            with m.State("OUT"):
                m.d.sync += [first.eq(window_done), best.eq(chosen)]
                m.d.comb += self.write.en.eq(window_done)
                m.d.sync += [wx.eq(Mux(wx_last, ins.window_x, wx - 1)), entry.eq(next_entry)]
                m.next = "READ"
                with m.If(wx_last):
                    m.d.sync += [entry_window.eq(next_entry), wy.eq(Mux(wy_last, ins.window_y, wy - 1))]
                with m.If(window_done):
                    m.d.sync += [
                        entry_x.eq(next_entry),
                        outputs.eq(outputs + 1),
                        ox.eq(Mux(ox_last, ins.width, ox - 1)),
                        address.eq(next_address),
                    ]
                    with m.If(ox_last):
                        m.d.sync += [
                            entry_y.eq(next_entry),
                            oy.eq(Mux(oy_last, ins.height, oy - 1)),
                            address_y.eq(next_address),
                        ]
                with m.If(plane_done):
                    m.d.sync += [
                        group_entry.eq(next_entry),
                        outputs.eq(next_entry),
                        address_s.eq(next_address),
                        left.eq(left - 1),
                        sub.eq(Mux(group_last, 0, sub + 1)),
                        need_bank.eq(group_last & ins.take & ~ins.stack),
                    ]
                    with m.If(group_last):
                        m.d.sync += address_g.eq(next_address)
                    with m.If(last):
                        m.d.comb += self.banks.token.eq(ins.post)
                        m.next = "IDLE"
                    with m.Elif(~ins.shared):
                        m.next = "PARAM"
                    with m.Elif(group_last & ins.take & ~ins.stack):
                        m.next = "BANK"
        return m

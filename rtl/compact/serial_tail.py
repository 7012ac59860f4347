"""The tail of compact configurations: one accumulator after the other."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.compact.ports import column_read, word_read
from lepton.rtl.layouts import WORD_LAYOUT, tail_layout
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig


class _State:
    """The instruction, the value it works on, and where it is."""

    def __init__(self, config: NpuConfig):
        entry_bits = (config.acc_depth - 1).bit_length()
        act_bits = (config.act_bytes - 1).bit_length()

        def reg(shape, name):
            return Signal(shape, name=name, reset_less=True)

        def several(shape, name, ends):
            return (reg(shape, f"{name}{end}") for end in ends)

        self.raw = reg(256, "ins")
        layout = tail_layout(config)
        self.ins = data.View(layout, self.raw[: layout.size])
        self.begun = Signal(name="begun")

        # The walk: accumulator entries and bytes, here and where a row, a window, a channel, a group began.
        self.entry, self.entry_window, self.entry_x, self.entry_y = several(
            entry_bits, "entry", ("", "_window", "_x", "_y")
        )
        self.group_entry = reg(entry_bits, "group_entry")  # first of this group
        self.outputs = reg(entry_bits, "outputs")  # behind those of this group so far (stack)
        self.address, self.address_y, self.address_s, self.address_g = several(
            act_bits, "address", ("", "_y", "_s", "_g")
        )
        self.ox, self.oy = several(entry_bits + 1, "o", "xy")  # left, 1 is the last; an output has its own accumulator
        self.wx, self.wy = several(4, "w", "xy")  # left, 1 is the last
        self.left = reg(16, "left")  # channels
        self.sub = Signal(range(config.cols), name="sub")
        self.next_entry = Signal(entry_bits, name="next_entry")
        self.next_address = Signal(act_bits, name="next_address")
        self.wx_last, self.wy_last, self.ox_last, self.oy_last = (n == 1 for n in (self.wx, self.wy, self.ox, self.oy))
        self.window_done = self.wx_last & self.wy_last
        self.plane_done = self.window_done & self.ox_last & self.oy_last
        self.last = self.left == 1
        self.group_last = self.last | (self.sub == config.cols - 1)

        # Banks.
        self.need_bank = Signal(name="need_bank")
        self.available = Signal(2, name="available")
        self.take = Signal(name="take")
        self.free = Signal(name="free")

        # The channel's parameters; the multiplier turns by timing.DIGIT bits a cycle, once round for each value.
        self.bias, self.multiplier, self.shift = reg(signed(32), "bias"), reg(32, "multiplier"), reg(signed(8), "shift")
        self.p_step, self.p_entry = Signal(range(timing.PARAM_CYCLES), name="p_step"), reg(11, "p_entry")

        # One value; before the rounding the product is its bits from 30 on, in 34 bits.
        self.value = reg(signed(32), "value")
        self.count = Signal(7, name="count")  # shifts, digits, divisions
        self.product = reg(signed(34), "product")
        self.nearest = Signal(name="nearest")  # the product is still to be rounded
        self.sticky = reg(1, "sticky")
        self.rounding = Signal(name="rounding")
        self.best = reg(signed(8), "best")
        self.first = Signal(name="first")  # of its window
        self.chosen = Signal(signed(8), name="chosen")


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
        s = _State(self._config)
        credit = Signal(2)
        m.d.comb += s.available.eq(credit + self.banks.ready)
        m.d.sync += [
            credit.eq(s.available - s.take),
            self.banks.free.eq(s.free),
            self.acc.bank.eq(self.acc.bank ^ s.free),
        ]
        self._clamp(m, s)
        self._next(m, s)
        m.d.comb += [
            self.params.addr.eq(Cat(s.p_step, s.p_entry)),
            self.acc.r_entry.eq(s.entry),
            self.acc.r_column.eq(s.sub),
            self.write.count.eq(1),
            self.write.addr.eq(s.address),
            self.write.data[0].eq(s.chosen),
        ]
        with m.FSM():
            self._instruction(m, s)
            self._read(m, s)
            self._multiply(m, s)
            self._divide(m, s)
            self._write(m, s)
        return m

    def _clamp(self, m, s):
        """The byte of the product, or the largest of its window so far."""
        # Zero point and clamp: beyond ten bits only the sign counts.
        small = Signal()
        moved = Signal(signed(11))
        word = Signal(8)
        m.d.comb += [
            small.eq((s.product[9:] == 0) | s.product[9:].all()),
            moved.eq(s.product[:10].as_signed() + Mux(s.ins.clamp, s.ins.zero_point, 0)),
        ]
        over = Mux(small, moved > s.ins.high, ~s.product[-1])
        under = Mux(small, moved < s.ins.low, s.product[-1])
        with m.If(~s.ins.clamp):
            m.d.comb += word.eq(moved)
        with m.Elif(over):
            m.d.comb += word.eq(s.ins.high)
        with m.Elif(under):
            m.d.comb += word.eq(s.ins.low)
        with m.Else():
            m.d.comb += word.eq(moved)
        m.d.comb += s.chosen.eq(Mux(s.first | (word.as_signed() > s.best), word.as_signed(), s.best))

    def _next(self, m, s):
        """Where the next value is, and where the next result goes."""
        source, step = Signal.like(s.next_entry), Signal.like(s.next_entry)
        m.d.comb += [source.eq(s.entry), step.eq(1)]
        with m.If(~s.wx_last):
            pass
        with m.Elif(~s.wy_last):
            m.d.comb += [source.eq(s.entry_window), step.eq(s.ins.window_row)]
        with m.Elif(~s.ox_last):
            m.d.comb += [source.eq(s.entry_x), step.eq(s.ins.acc_x)]
        with m.Elif(~s.oy_last):
            m.d.comb += [source.eq(s.entry_y), step.eq(s.ins.acc_y)]
        with m.Elif(s.group_last & s.ins.stack):
            m.d.comb += source.eq(s.outputs)
        with m.Else():
            m.d.comb += [source.eq(s.group_entry), step.eq(0)]
        m.d.comb += s.next_entry.eq(source + step)

        a_source, a_step = Signal.like(s.next_address), Signal.like(s.next_address)
        with m.If(~s.ox_last):
            m.d.comb += [a_source.eq(s.address), a_step.eq(s.ins.out_x)]
        with m.Elif(~s.oy_last):
            m.d.comb += [a_source.eq(s.address_y), a_step.eq(s.ins.out_y)]
        with m.Elif(~s.group_last):
            m.d.comb += [a_source.eq(s.address_s), a_step.eq(1)]
        with m.Else():
            m.d.comb += [a_source.eq(s.address_g), a_step.eq(s.ins.group_step)]
        m.d.comb += s.next_address.eq(a_source + a_step)

    def _begin(self, m, s):
        """The next cycle reads a value, if its bank is there."""
        with m.If(~s.need_bank | s.available.any()):
            m.d.comb += s.take.eq(s.need_bank)
            m.d.sync += s.need_bank.eq(0)
            m.next = "READ"
        with m.Else():
            m.next = "BANK"

    # --- States: an instruction and a channel's parameters; then value after value ---
    def _instruction(self, m, s):
        with m.State("IDLE"):
            m.d.comb += [self.i.ready.eq(1), self.idle.eq(1)]
            m.d.sync += s.begun.eq(0)
            with m.If(self.i.valid):
                m.d.sync += s.raw.word_select(self.i.payload.index, 64).eq(self.i.payload.word)
                with m.If(self.i.payload.index == 3):
                    m.next = "PARAM"

        with m.State("PARAM"):
            with m.If(s.begun):
                m.d.sync += s.p_step.eq(s.p_step + 1)
            with m.Else():
                m.d.sync += [
                    s.begun.eq(1),
                    s.p_entry.eq(s.ins.param),
                    s.left.eq(s.ins.channels),
                    s.need_bank.eq(s.ins.take),
                    s.sub.eq(0),
                    s.first.eq(1),
                    s.wx.eq(s.ins.window_x),
                    s.wy.eq(s.ins.window_y),
                    s.ox.eq(s.ins.width),
                    s.oy.eq(s.ins.height),
                    *(
                        e.eq(s.ins.acc_base)
                        for e in (s.entry, s.entry_window, s.entry_x, s.entry_y, s.group_entry, s.outputs)
                    ),
                    *(a.eq(s.ins.address) for a in (s.address, s.address_y, s.address_s, s.address_g)),
                ]
            with m.Switch(s.p_step):
                with m.Case(1):
                    m.d.sync += s.bias[:16].eq(self.params.data)
                with m.Case(2):
                    m.d.sync += s.bias[16:].eq(self.params.data)
                with m.Case(3):
                    m.d.sync += s.multiplier[:16].eq(self.params.data)
                with m.Case(4):
                    m.d.sync += s.multiplier[16:].eq(self.params.data)
                with m.Case(5):
                    m.d.sync += [s.shift.eq(self.params.data[:8]), s.p_step.eq(0), s.p_entry.eq(s.p_entry + 1)]
                    self._begin(m, s)

        with m.State("BANK"):
            self._begin(m, s)

    def _read(self, m, s):
        """Read, bias, left shift."""
        left_shift = Signal(7)
        m.d.comb += left_shift.eq(s.ins.pre_shift + Mux(s.shift[-1], 0, s.shift[:6]))

        with m.State("READ"):
            m.d.comb += self.acc.r_en.eq(1)
            with m.If(s.plane_done & s.group_last & s.ins.release & (s.last | ~s.ins.stack)):
                m.d.comb += s.free.eq(1)
            m.next = "BIAS"

        with m.State("BIAS"):
            m.d.sync += [s.value.eq(self.acc.r_data + s.bias), s.count.eq(left_shift), s.product.eq(0)]
            m.next = "MULTIPLY"
            with m.If(left_shift != 0):
                m.next = "LEFT"

        with m.State("LEFT"):
            m.d.sync += [s.value.eq(s.value << 1), s.count.eq(s.count - 1)]
            with m.If(s.count == 1):
                m.next = "MULTIPLY"

    def _multiply(self, m, s):
        """By a digit of the multiplier in each cycle."""
        # A gated adder for each bit: carry chain and multiplexer are one cell.
        partial = s.product[2:].as_signed()
        kept = []
        for k in range(timing.DIGIT):
            total = Signal(signed(33), name=f"partial_{k}")
            m.d.comb += total.eq(Mux(s.multiplier[k], partial + s.value, partial))
            kept.append(total[0])
            partial = total[1:].as_signed()

        with m.State("MULTIPLY"):
            m.d.sync += [
                s.count.eq(s.count + 1),
                s.multiplier.eq(s.multiplier.rotate_right(timing.DIGIT)),
                s.product.eq(Cat(kept[-2:], partial).as_signed()),
                s.nearest.eq(1),
            ]
            with m.If(s.count == 32 // timing.DIGIT - 1):
                m.d.sync += s.count.eq(Mux(s.shift[-1], -s.shift, 0))
                m.next = "RIGHT"

    def _divide(self, m, s):
        """Rounding, and the right shift."""
        halved = Signal(signed(34))
        m.d.comb += halved.eq((s.product + s.rounding) >> 1)

        with m.State("RIGHT"):
            # The product is rounded half up; a quotient half away from zero: what was shifted out decides.
            m.d.comb += s.rounding.eq(s.nearest | ((s.count == 1) & (~s.product[-1] | s.sticky)))
            m.d.sync += [s.product.eq(halved), s.sticky.eq(~s.nearest & (s.sticky | s.product[0])), s.nearest.eq(0)]
            with m.If(~s.nearest):
                m.d.sync += s.count.eq(s.count - 1)
            with m.If(s.count == ~s.nearest):
                m.next = "OUT"

    def _write(self, m, s):
        """The result, if it is its window's last; and on to the next value."""

        with m.State("OUT"):
            m.d.sync += [s.first.eq(s.window_done), s.best.eq(s.chosen)]
            m.d.comb += self.write.en.eq(s.window_done)
            m.d.sync += [s.wx.eq(Mux(s.wx_last, s.ins.window_x, s.wx - 1)), s.entry.eq(s.next_entry)]
            m.next = "READ"
            with m.If(s.wx_last):
                m.d.sync += [s.entry_window.eq(s.next_entry), s.wy.eq(Mux(s.wy_last, s.ins.window_y, s.wy - 1))]
            with m.If(s.window_done):
                m.d.sync += [
                    s.entry_x.eq(s.next_entry),
                    s.outputs.eq(s.outputs + 1),
                    s.ox.eq(Mux(s.ox_last, s.ins.width, s.ox - 1)),
                    s.address.eq(s.next_address),
                ]
                with m.If(s.ox_last):
                    m.d.sync += [
                        s.entry_y.eq(s.next_entry),
                        s.oy.eq(Mux(s.oy_last, s.ins.height, s.oy - 1)),
                        s.address_y.eq(s.next_address),
                    ]
            with m.If(s.plane_done):
                m.d.sync += [
                    s.group_entry.eq(s.next_entry),
                    s.outputs.eq(s.next_entry),
                    s.address_s.eq(s.next_address),
                    s.left.eq(s.left - 1),
                    s.sub.eq(Mux(s.group_last, 0, s.sub + 1)),
                    s.need_bank.eq(s.group_last & s.ins.take & ~s.ins.stack),
                ]
                with m.If(s.group_last):
                    m.d.sync += s.address_g.eq(s.next_address)
                with m.If(s.last):
                    m.d.comb += self.banks.token.eq(s.ins.post)
                    m.next = "IDLE"
                with m.Elif(~s.ins.shared):
                    m.next = "PARAM"
                with m.Elif(s.group_last & s.ins.take & ~s.ins.stack):
                    m.next = "BANK"

"""The tail: from accumulators to activations."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.loader import layout_of
from lepton.rtl.requantizer import Requantizer
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.timing import Timing

TAIL_LAYOUT = layout_of(isa.TAIL.fields)
TABLE_LAYOUT = layout_of(isa.TABLE.fields)
PARAM_LAYOUT = layout_of(isa.PARAM)
# What lanes ask of an instruction: `product` is dual == 2, `zero_point` what is to be added.
STEERING = data.StructLayout(
    {"product": 1}
    | {name: TAIL_LAYOUT[name].shape for name in ("pre_shift", "clamp", "table", "zero_point", "low", "high")}
)


class TailEngine(wiring.Component):
    """Executes TAIL and TABLE as `docs/architecture.md` says, one accumulator vector a cycle.

    Parameters:
        ``config``; ``latencies`` (the configuration's unless told): ``t_r_data`` comes ``acc_read`` cycles
        after ``t_r_en``, at least 1; DRAIN below is their ``drain``

    Members:
        ``i``: In(Stream(256)), a TAIL or TABLE instruction from bit 0 (TABLE: the upper bits are ignored)
        ``bank_ready``: In(1), pulse: a bank is handed over
        ``bank_free``: Out(1), pulse: given back, in the cycle after its last read (to_acc: after its last write)
        ``post``: Out(1), pulse: a data token, in the cycle in which the last byte is on the write port
        ``idle``: Out(1), no instruction held and nothing in flight
        ``t_bank``, ``t_r_en``, ``t_r_entry``: Out; ``t_r_data``: In(ArrayLayout(signed(32), cols)). ``t_bank`` belongs
        to the read or write of the same cycle and may change in the next
        ``t_w_en``, ``t_w_entry``, ``t_w_sub``, ``t_w_data``: Out(ArrayLayout(signed(32), lanes)), columns sub*lanes..;
        ``t_w_count``: Out(range(lanes+1)), lanes that carry a channel. The others may be written too: no instruction
        reads them
        ``w_en``, ``w_addr``, ``w_count``, ``w_data``: Out(ArrayLayout(signed(8), lanes)): activation write
        ``p_en``, ``p_addr``: Out; ``p_data``: In(72), one cycle later
        ``bad_address``: Out(1), pulse: an accumulator entry, a parameter entry or an activation lies outside its memory
        ``bad_bank``: Out(1), pulse: a sub-group works without a bank, or takes one while one is held. Both come in the
        cycle after the read (or before it), so that a reset in their cycle prevents the write

    Outside the contract: an instruction that breaks `isa.rules`, an entry read after the same instruction wrote it.
    Without clamp, memory gets the low byte.

    Timing, all of it fixed. With S = ceil(channels/lanes) sub-groups, valid(k) lanes in sub-group k, and reads =
    width*height*window_x*window_y*(2 if dual else 1), an instruction accepted in cycle A reads sub-group k in cycles
    R(k) to R(k)+reads-1:

        R(0)   = max(A + 1 + (1 if shared else valid(0)), D' + 1, bank + 1)
        R(k+1) = max(R(k) + max(reads, 0 if shared else valid(k+1)), bank + 1)
        D      = R(S-1) + reads - 1 + DRAIN, in which the last byte is on the write port; D' is D of the TAIL before

    where bank is the cycle of the ``bank_ready`` pulse this sub-group takes, if it takes one. The next instruction is
    accepted from cycle R(S-1) + reads on; ``post`` is in D and the engine is idle from D + 1 on. With to_acc and
    release, a group closes first: its bank is given back DRAIN cycles after its last read, and the next group starts in
    the cycle after that at the earliest. A TABLE reads its 32 entries from max(A + 1, D' + 1) on, one a cycle; the next
    instruction is accepted in the cycle after the last, and the engine is idle one cycle later.

    Reset: drops everything but the tables.
    """

    def __init__(self, config: NpuConfig, latencies: Timing | None = None):
        self.timing = latencies or timing.of(config)
        if self.timing.acc_read < 1:
            raise ValueError(f"acc_read={self.timing.acc_read}: must be at least 1")
        self._config = config
        lanes = config.lanes
        super().__init__(
            {
                "i": In(stream.Signature(256)),
                "bank_ready": In(1),
                "bank_free": Out(1),
                "post": Out(1),
                "idle": Out(1),
                "t_bank": Out(1),
                "t_r_en": Out(1),
                "t_r_entry": Out(10),
                "t_r_data": In(data.ArrayLayout(signed(32), config.cols)),
                "t_w_en": Out(1),
                "t_w_entry": Out(10),
                "t_w_sub": Out(range(config.cols // lanes)),
                "t_w_count": Out(range(lanes + 1)),
                "t_w_data": Out(data.ArrayLayout(signed(32), lanes)),
                "w_en": Out(1),
                "w_addr": Out(20),
                "w_count": Out(range(lanes + 1)),
                "w_data": Out(data.ArrayLayout(signed(8), lanes)),
                "p_en": Out(1),
                "p_addr": Out(16),
                "p_data": In(72),
                "bad_address": Out(1),
                "bad_bank": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes, latency = self._config.lanes, self.timing.acc_read
        subs = self._config.cols // lanes

        def reg(shape, name):
            return Signal(shape, name=name, reset_less=True)

        def delays(value, cycles, name, *, reset_less=True, attrs=None):
            """The value and its delayed copies: element k is k cycles late."""
            out = [value]
            for k in range(cycles):
                stage = Signal(value.shape(), name=f"{name}_{k + 1}", reset_less=reset_less, attrs=attrs)
                m.d.sync += stage.eq(out[-1])
                out.append(stage)
            return out

        # --- The instruction in front: reads and parameters -------------------------------------------------------
        new = data.View(TAIL_LAYOUT, self.i.payload[: TAIL_LAYOUT.size])
        new_table = data.View(TABLE_LAYOUT, self.i.payload[: TABLE_LAYOUT.size])
        ins = reg(TAIL_LAYOUT, "ins")
        have = Signal()  # a TAIL has sub-groups left to read
        have_table = Signal()  # a TABLE has entries left to read
        accept = Signal()
        m.d.comb += [self.i.ready.eq(~have & ~have_table), accept.eq(self.i.valid & self.i.ready)]

        run = Signal()  # a sub-group is being read
        go = Signal()  # the next sub-group starts in the next cycle
        begun = Signal()  # its first sub-group has started
        sub_first = Signal()  # first read of a sub-group
        busy = Signal()  # something of a TAIL is in flight
        done = Signal()  # its last byte is on the write port
        closing = Signal()  # a bank written by to_acc waits for its last word
        closed = Signal()
        credit = Signal(2)  # banks handed over and not taken
        need_bank = Signal()

        half = Signal()
        wx, wy = (Signal(4, name=n) for n in ("wx", "wy"))
        ox, oy = (Signal(12, name=n) for n in ("ox", "oy"))
        sub = Signal(range(subs))
        left = reg(16, "left")  # channels from this sub-group on
        entry, entry_window, entry_x, entry_y, entry_group = (
            reg(10, f"entry{n}") for n in ("", "_window", "_x", "_y", "_group")
        )
        outputs = reg(10, "outputs")  # entry_group plus the outputs before this one
        address, address_y, address_sub, address_group = (reg(20, f"address{n}") for n in ("", "_y", "_sub", "_group"))

        dual = ins.dual != 0
        # Whether a counter stands at its last value is compared a step ahead.
        counters = ((wx, "wx", "window_x"), (wy, "wy", "window_y"), (ox, "ox", "width"), (oy, "oy", "height"))
        lasts = wx_last, wy_last, ox_last, oy_last = [reg(1, f"{name}_last") for _, name, _ in counters]
        advance = []
        for (counter, name, limit), last in zip(counters, lasts, strict=True):
            single = reg(1, f"{name}_single")
            with m.If(accept):
                m.d.sync += [last.eq(new[limit] == 1), single.eq(new[limit] == 1)]
            after = Mux(last, single, counter + 2 == ins[limit])
            advance.append([counter.eq(Mux(last, 0, counter + 1)), last.eq(after)])
        next_wx, next_wy, next_ox, next_oy = advance
        step = Signal()  # last read of a window position
        window_done, sub_done, group_done, all_done = Signal(), Signal(), Signal(), Signal()
        last_sub, last_of_group = Signal(), Signal()
        count = Signal(range(lanes + 1))  # lanes that carry a channel
        m.d.comb += [
            step.eq(run & (half | ~dual)),
            window_done.eq(step & wx_last & wy_last),
            sub_done.eq(window_done & ox_last & oy_last),
            last_sub.eq(left <= lanes),
            count.eq(Mux(last_sub, left[: len(count)], lanes)),
            last_of_group.eq(last_sub | (sub == subs - 1)),
            group_done.eq(sub_done & last_of_group),
            all_done.eq(sub_done & last_sub),
        ]

        next_entry = Signal(10)
        next_outputs = Signal(10)
        next_group = Signal(10)
        next_address_sub = Signal(20)
        m.d.comb += [
            next_outputs.eq(outputs + 1),
            next_group.eq(Mux(last_of_group & ins.stack, next_outputs, entry_group)),
            next_address_sub.eq(Mux(last_of_group, address_group + ins.group_step, address_sub + lanes)),
        ]
        with m.If(~wx_last):
            m.d.comb += next_entry.eq(entry + 1)
        with m.Elif(~wy_last):
            m.d.comb += next_entry.eq(entry_window + ins.window_row)
        with m.Elif(~ox_last):
            m.d.comb += next_entry.eq(entry_x + ins.acc_x)
        with m.Elif(~oy_last):
            m.d.comb += next_entry.eq(entry_y + ins.acc_y)
        with m.Else():
            m.d.comb += next_entry.eq(next_group)

        m.d.comb += self.t_r_en.eq(run)
        m.d.sync += sub_first.eq(go)
        with m.If(run & ~step):
            m.d.sync += [half.eq(1), self.t_r_entry.eq(entry + ins.acc_other)]
        with m.If(step):
            m.d.sync += [half.eq(0), entry.eq(next_entry), self.t_r_entry.eq(next_entry)]
            m.d.sync += next_wx
            with m.If(wx_last):
                m.d.sync += [entry_window.eq(next_entry), *next_wy]
        with m.If(window_done):
            m.d.sync += [
                entry_x.eq(next_entry),
                outputs.eq(next_outputs),
                *next_ox,
                address.eq(address + ins.out_x),
            ]
            with m.If(ox_last):
                m.d.sync += [
                    entry_y.eq(next_entry),
                    *next_oy,
                    address.eq(address_y + ins.out_y),
                    address_y.eq(address_y + ins.out_y),
                ]
        with m.If(sub_done):
            m.d.sync += [
                entry_group.eq(next_group),
                outputs.eq(next_group),
                address.eq(next_address_sub),
                address_y.eq(next_address_sub),
                address_sub.eq(next_address_sub),
                left.eq(left - lanes),
                sub.eq(Mux(last_of_group, 0, sub + 1)),
                run.eq(0),
            ]
            with m.If(last_of_group):
                m.d.sync += address_group.eq(next_address_sub)
        with m.If(all_done):
            m.d.sync += have.eq(0)

        # --- Parameters: the next sub-group's, one entry a cycle ----------------------------------------------------
        lane = Signal(range(lanes))
        full = Signal()
        p_left = reg(16, "p_left")
        p_run = Signal()
        p_last = Signal()
        p_read_table = Signal()
        m.d.comb += [
            p_run.eq(have & ~full),
            p_last.eq(ins.shared | (lane == lanes - 1) | (p_left == 1)),
            self.p_en.eq(p_run | p_read_table),
        ]
        with m.If(self.p_en):
            m.d.sync += [self.p_addr.eq(self.p_addr + 1), p_left.eq(p_left - 1)]
        with m.If(p_run):
            m.d.sync += lane.eq(lane + 1)
            with m.If(p_last):
                m.d.sync += [full.eq(1), lane.eq(0)]
        with m.If(go & ~ins.shared):
            m.d.sync += full.eq(0)

        # --- Banks, start, end ----------------------------------------------------------------------------------
        needs = Signal()
        close = Signal()  # this read is the last of a bank to be closed
        release = Signal()
        ready = Signal()  # but for the bank, the next sub-group may start
        available = Signal(2)
        m.d.comb += [
            needs.eq(Mux(sub_done, last_of_group & ins.take & ~ins.stack, need_bank)),
            available.eq(credit + self.bank_ready),
            release.eq(group_done & ins.release & (last_sub | ~ins.stack)),
            close.eq(release & ins.to_acc),
            ready.eq(
                have
                & Mux(run, sub_done & ~last_sub & ~close, 1)
                & (full | (p_run & p_last))
                & (begun | ~busy | done)
                & (~closing | closed)
            ),
            go.eq(ready & (available.any() | ~needs)),
        ]
        holding = Signal()  # a bank was taken and not given back
        with m.If(go & needs):
            m.d.sync += holding.eq(1)
        with m.Elif(release):
            m.d.sync += holding.eq(0)
        m.d.sync += self.bad_bank.eq(ready & (needs == (holding & ~release)))

        # Checks of addresses, with the reads.
        p_outside, p_bad = Signal(), Signal()
        m.d.comb += p_outside.eq(p_run & (self.p_addr >= self._config.params))
        with m.If(accept):
            m.d.sync += p_bad.eq(0)
        with m.Elif(p_outside):
            m.d.sync += p_bad.eq(1)
        bits = self._config.act_bytes.bit_length() - 1
        beyond = Const(0)
        if bits < len(address):
            beyond = address[bits:].any()
            if lanes > 1:
                k = (lanes - 1).bit_length()
                beyond = beyond | (address[k:bits].all() & (address[:k] + count > 1 << k))
        m.d.sync += self.bad_address.eq(
            (run & (self.t_r_entry >= self._config.acc_depth))
            | (window_done & ~ins.to_acc & beyond)
            | (go & (p_bad | p_outside))
        )
        with m.If(sub_done):
            m.d.sync += need_bank.eq(needs)
        with m.If(go):
            m.d.sync += [run.eq(1), begun.eq(1), need_bank.eq(0)]
        m.d.sync += credit.eq(available - (go & needs))
        with m.If(closed):
            m.d.sync += closing.eq(0)
        with m.If(close):
            m.d.sync += closing.eq(1)
        free = Signal()
        m.d.comb += free.eq((release & ~ins.to_acc) | closed)
        m.d.sync += [self.bank_free.eq(free), self.t_bank.eq(self.t_bank ^ free)]

        back = Signal(TAIL_LAYOUT, name="back", reset_less=True)  # of the instruction in the pipeline
        with m.If(done):
            m.d.sync += busy.eq(0)
        starts_now = Signal()
        m.d.sync += starts_now.eq(go & ~begun)
        with m.If(go & ~begun):
            m.d.sync += busy.eq(1)
        with m.If(starts_now):  # nothing needs it before
            m.d.sync += back.eq(ins)
        m.d.comb += self.post.eq(done & back.post)

        # --- TABLE ------------------------------------------------------------------------------------------------
        m.d.comb += p_read_table.eq(have_table & ~busy)
        table_word = Signal(5)
        table_coming, table_write = delays(p_read_table, 2, "table_write", reset_less=False)[1:]
        with m.If(p_read_table & (p_left == 1)):
            m.d.sync += have_table.eq(0)
        m.d.comb += self.idle.eq(~have & ~have_table & ~busy & ~table_coming & ~table_write)
        with m.If(table_write):
            m.d.sync += table_word.eq(table_word + 1)

        with m.If(accept):
            m.d.sync += [
                ins.eq(new),
                begun.eq(0),
                full.eq(0),
                lane.eq(0),
                need_bank.eq(new.take),
                entry.eq(new.acc_base),
                entry_window.eq(new.acc_base),
                entry_x.eq(new.acc_base),
                entry_y.eq(new.acc_base),
                entry_group.eq(new.acc_base),
                outputs.eq(new.acc_base),
                self.t_r_entry.eq(new.acc_base),
                address.eq(new.address),
                address_y.eq(new.address),
                address_sub.eq(new.address),
                address_group.eq(new.address),
                left.eq(new.channels),
            ]
            with m.If(new.opcode == isa.Opcode.TABLE):
                m.d.sync += [have_table.eq(1), self.p_addr.eq(new_table.param), p_left.eq(32)]
            with m.Else():
                m.d.sync += [have.eq(1), self.p_addr.eq(new.param), p_left.eq(new.channels)]

        # --- Tags: element k belongs to the read of k cycles ago -----------------------------------------------------
        drain = self.timing.drain
        to_acc = self.timing.to_acc
        valid = delays(step, drain, "valid", reset_less=False)  # the last operand of a window position
        emit = delays(window_done, drain, "emit", reset_less=False)
        ended = delays(all_done, drain, "ended", reset_less=False)
        closes = delays(close, drain, "closes", reset_less=False)
        second = delays(half, latency + 1, "second")
        starts = delays((wx == 0) & (wy == 0), to_acc, "starts")
        switch = delays(run & sub_first, latency, "switch")[-1]
        m.d.comb += [done.eq(ended[-1]), closed.eq(closes[-1])]

        # Where it goes waits in a small memory until the word is ready for the accumulator.
        place = data.StructLayout({"address": 20, "sub": range(subs), "count": range(lanes + 1)})
        depth = 1 << to_acc.bit_length()
        m.submodules.places = places = Memory(shape=place, depth=depth, init=[], attrs={"no_rw_check": 1})
        place_w, place_r = places.write_port(), places.read_port()
        now = Signal(range(depth))
        m.d.sync += now.eq(now + 1)
        m.d.comb += [
            place_w.en.eq(1),
            place_w.addr.eq(now),
            place_w.data.address.eq(Mux(ins.to_acc, entry, address)),
            place_w.data.sub.eq(sub),
            place_w.data.count.eq(count),
            place_r.en.eq(1),
            place_r.addr.eq(now - (to_acc - 1)),
        ]

        # --- Lanes ------------------------------------------------------------------------------------------------
        read = Signal.like(self.t_w_data.as_value(), name="read", reset_less=True)
        sub_late = delays(sub, latency, "sub")[-1]
        m.d.sync += read.eq(self.t_r_data.as_value().word_select(sub_late, 32 * lanes))

        p_valid = delays(p_run, latency, "p_valid", reset_less=False)[-1]
        p_lane = delays(lane, latency, "p_lane")[-1]
        p_shared = delays(ins.shared, latency, "p_shared")[-1]
        steering = Signal(STEERING)
        same = [name for name, _ in STEERING if name not in ("product", "zero_point")]
        m.d.comb += [
            *(steering[name].eq(ins[name]) for name in same),
            steering.product.eq(ins.dual == 2),
            steering.zero_point.eq(Mux(ins.clamp, ins.zero_point, 0)),
        ]
        minus = Signal(reset_less=True)
        m.d.sync += minus.eq(second[-2] & (back.dual == 3))

        for n in range(lanes):
            if n % 2 == 0:  # two lanes share what steers them; the other twos, far away, have it too
                twin = KEEP if lanes > 2 else {}
                mine = Signal(STEERING, name=f"mine_{n}", reset_less=True, attrs=twin)
                with m.If(starts_now):
                    m.d.sync += mine.eq(steering)
                p_words = delays(self.p_data, max(1, latency - 1), f"p_word_{n}", attrs=twin)
            waiting = Signal(PARAM_LAYOUT, name=f"waiting_{n}", reset_less=True)
            param = Signal(PARAM_LAYOUT, name=f"param_{n}", reset_less=True)
            with m.If(p_valid & (p_shared | (p_lane == n))):
                m.d.sync += waiting.eq(p_words[latency - 1])
            with m.If(switch):
                m.d.sync += param.eq(waiting)

            # latency + 1: bias, or the second operand
            total = reg(signed(32), f"total_{n}")
            previous = reg(signed(32), f"previous_{n}")
            multiplier = reg(signed(32), f"multiplier_{n}")
            shift = reg(signed(8), f"shift_{n}")
            addend = Signal(signed(32), name=f"addend_{n}")
            m.d.comb += addend.eq(Mux(second[-1], Mux(mine.product, param.multiplier, total), param.bias))
            # One adder either way: the second operand inverted, with a carry in.
            operand = read.word_select(n, 32) ^ minus.replicate(32)
            m.d.sync += [
                total.eq((Cat(minus, operand) + Cat(minus, addend))[1:33]),
                previous.eq(total),
                multiplier.eq(param.multiplier),
                shift.eq(param.shift),
            ]

            # latency + 2
            requantizer = Requantizer(self._config)
            m.submodules[f"requantizer_{n}"] = requantizer
            m.d.comb += [
                requantizer.value.eq(Mux(mine.product, previous, total)),
                requantizer.multiplier.eq(Mux(mine.product, total, multiplier)),
                requantizer.shift.eq(Mux(mine.product, 0, shift)),
                requantizer.pre_shift.eq(Mux(mine.product, 0, mine.pre_shift)),
                requantizer.product.eq(mine.product),
            ]

            # latency + 2 + Requantizer.LATENCY: zero point, clamp
            moved = reg(signed(33), f"moved_{n}")
            m.d.sync += moved.eq(requantizer.result + mine.zero_point)
            word = reg(signed(32), f"word_{n}")
            m.d.comb += self.t_w_data[n].eq(word)
            with m.If(~mine.clamp):
                m.d.sync += word.eq(moved)
            with m.Elif(moved > mine.high):
                m.d.sync += word.eq(mine.high)
            with m.Elif(moved < mine.low):
                m.d.sync += word.eq(mine.low)
            with m.Else():
                m.d.sync += word.eq(moved)

            # TO_ACC: maximum over the window
            byte = word[:8].as_signed()
            best = reg(signed(8), f"best_{n}")
            with m.If(valid[to_acc] & (starts[to_acc] | (byte > best))):
                m.d.sync += best.eq(byte)

            # TO_ACC + 1: table, index -128 first
            table = Memory(shape=64, depth=32, init=[], attrs={"no_rw_check": 1})
            m.submodules[f"table_{n}"] = table
            table_w, table_r = table.write_port(), table.read_port()
            index = Signal(8, name=f"index_{n}")
            m.d.comb += [
                table_w.en.eq(table_write),
                table_w.addr.eq(table_word),
                table_w.data.eq(p_words[1][:64]),
                index.eq(best ^ 0x80),
                table_r.en.eq(1),
                table_r.addr.eq(index[3:]),
            ]
            best_late = delays(best, 1, f"best_{n}")[1]
            place_in_word = delays(index[:3], 1, f"index_{n}")[1]
            out = reg(signed(8), f"out_{n}")
            m.d.sync += out.eq(Mux(mine.table, table_r.data.word_select(place_in_word, 8), best_late.as_unsigned()))
            m.d.comb += self.w_data[n].eq(out)

        # --- Write ports -----------------------------------------------------------------------------------------
        where = delays(Cat(place_r.data.address, place_r.data.count), 3, "where")[-1]
        m.d.comb += [
            self.t_w_en.eq(valid[to_acc] & back.to_acc),
            self.t_w_entry.eq(place_r.data.address),
            self.t_w_sub.eq(place_r.data.sub),
            self.t_w_count.eq(place_r.data.count),
            self.w_en.eq(emit[drain] & ~back.to_acc),
            self.w_addr.eq(where[:20]),
            self.w_count.eq(where[20:]),
        ]
        return m

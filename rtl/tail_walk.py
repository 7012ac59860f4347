"""Tail walk: which accumulators a TAIL reads, in which order, and where their results go."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.layouts import ADDRESS, ENTRY, tail_layout
from lepton.rtl.registers import output
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig


class TailWalk(wiring.Component):
    """Reads the sub-groups (up to ``lanes`` channels) of one TAIL, one accumulator vector a cycle.

    Members:
        ``accept`` In(1), ``new`` In(tail_layout): an instruction is taken; a TABLE only leaves its fields here
        ``go`` In(1): the next sub-group's first read is in the next cycle
        ``ins`` Out(tail_layout): the instruction · ``have`` Out(1): it has sub-groups left to read · ``begun`` Out(1):
        its first has started · ``run`` Out(1): a read, of ``entry_read``; the others tell of the read of this cycle:
        ``sub_first``: the first of its sub-group · ``half``: of a second operand · ``step``: the last of a window
        position, the first one's entry is ``entry`` · ``window_first``, ``window_done``: the first, the last position
        of a window · ``sub_done``, ``group_done``, ``all_done``: the last of a sub-group, a group, the instruction
        ``sub``, ``count``: sub-group within the group, lanes that carry a channel · ``last_sub``, ``last_of_group``
        ``address``: byte of the window's result
    Reset: no instruction.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        flags = "have begun run sub_first half step window_first window_done sub_done group_done all_done last_sub"
        super().__init__(
            {
                "accept": In(1),
                "new": In(tail_layout(config)),
                "go": In(1),
                "ins": Out(tail_layout(config)),
                **{name: Out(1) for name in [*flags.split(), "last_of_group"]},
                "entry_read": Out(ENTRY),
                "entry": Out(ENTRY),
                "address": Out(ADDRESS),
                "sub": Out(range(config.cols // config.lanes)),
                "count": Out(range(config.lanes + 1)),
                **self._besides(),
            }
        )

    def _besides(self) -> dict:
        """Further members."""
        return {}

    def _running(self, m):
        """The register behind ``run``."""
        return self.run

    def elaborate(self, platform):
        m = Module()
        running = self._running(m)
        lanes, subs = self._config.lanes, self._config.cols // self._config.lanes
        new, accept = self.new, self.accept
        ins = output(m, self.ins, "instruction")
        left = Signal(16, reset_less=True)  # channels from this sub-group on
        lasts, advance, window_first = self._counters(m, ins)
        wx_last, wy_last, ox_last, oy_last = lasts
        m.d.comb += [
            self.window_first.eq(window_first),
            self.step.eq(self.run & (self.half | (ins.dual == 0))),
            self.window_done.eq(self.step & wx_last & wy_last),
            self.sub_done.eq(self.window_done & ox_last & oy_last),
            self.last_sub.eq(left <= lanes),
            self.count.eq(Mux(self.last_sub, left[: len(self.count)], lanes)),
            self.last_of_group.eq(self.last_sub | (self.sub == subs - 1)),
            self.group_done.eq(self.sub_done & self.last_of_group),
            self.all_done.eq(self.sub_done & self.last_sub),
        ]
        m.d.sync += self.sub_first.eq(self.go)
        with m.If(self.run & ~self.step):
            m.d.sync += self.half.eq(1)
        with m.If(self.step):
            m.d.sync += [self.half.eq(0), *advance["wx"]]
            with m.If(wx_last):
                m.d.sync += advance["wy"]
        with m.If(self.window_done):
            m.d.sync += advance["ox"]
            with m.If(ox_last):
                m.d.sync += advance["oy"]
        with m.If(self.sub_done):
            m.d.sync += [left.eq(left - lanes), self.sub.eq(Mux(self.last_of_group, 0, self.sub + 1)), running.eq(0)]
        with m.If(self.all_done):
            m.d.sync += self.have.eq(0)
        with m.If(self.go):
            m.d.sync += [running.eq(1), self.begun.eq(1)]
        with m.If(accept):
            m.d.sync += [ins.eq(new), self.begun.eq(0), left.eq(new.channels)]
            with m.If(new.opcode != isa.Opcode.TABLE):
                m.d.sync += self.have.eq(1)
        self._entries(m, ins, lasts)
        self._addresses(m, ins, ox_last)
        return m

    def _counters(self, m, ins):
        """Window and output positions: which stand at their last value, how each goes on, and whether the window's
        stand at their first. Whether one stands at its last value is compared a step ahead."""
        lasts, advance, counters = [], {}, {}
        for name, limit in (("wx", "window_x"), ("wy", "window_y"), ("ox", "width"), ("oy", "height")):
            counters[name] = counter = Signal(len(ins[limit]), name=name)
            last, single = (Signal(name=f"{name}_{kind}", reset_less=True) for kind in ("last", "single"))
            with m.If(self.accept):
                m.d.sync += [last.eq(self.new[limit] == 1), single.eq(self.new[limit] == 1)]
            after = Mux(last, single, counter + 2 == ins[limit])
            advance[name] = [counter.eq(Mux(last, 0, counter + 1)), last.eq(after)]
            lasts.append(last)
        return lasts, advance, (counters["wx"] == 0) & (counters["wy"] == 0)

    def _entries(self, m, ins, lasts):
        """The next window position's first accumulator entry: one on, or from the start of a row, window, group."""
        wx_last, wy_last, ox_last, oy_last = lasts
        entry = output(m, self.entry, "entry_now")
        entry_window, entry_x, entry_y, entry_group = (
            Signal(ENTRY, name=f"entry_{name}", reset_less=True) for name in ("window", "x", "y", "group")
        )
        outputs = Signal(ENTRY, reset_less=True)  # entry_group plus the outputs before this one
        next_entry, next_outputs, next_group = (
            Signal(ENTRY, name=f"next_{name}") for name in ("entry", "outputs", "group")
        )
        m.d.comb += [
            next_outputs.eq(outputs + 1),
            next_group.eq(Mux(self.last_of_group & ins.stack, next_outputs, entry_group)),
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

        with m.If(self.run & ~self.step):
            m.d.sync += self.entry_read.eq(entry + ins.acc_other)
        with m.If(self.step):
            m.d.sync += [entry.eq(next_entry), self.entry_read.eq(next_entry)]
            with m.If(wx_last):
                m.d.sync += entry_window.eq(next_entry)
        with m.If(self.window_done):
            m.d.sync += [entry_x.eq(next_entry), outputs.eq(next_outputs)]
            with m.If(ox_last):
                m.d.sync += entry_y.eq(next_entry)
        with m.If(self.sub_done):
            m.d.sync += [entry_group.eq(next_group), outputs.eq(next_group)]
        starts = entry, entry_window, entry_x, entry_y, entry_group, outputs, self.entry_read
        with m.If(self.accept):
            m.d.sync += [start.eq(self.new.acc_base) for start in starts]

    def _addresses(self, m, ins, ox_last):
        """The next result's byte."""
        address = output(m, self.address, "address_now")
        address_y, address_sub, address_group = (
            Signal(ADDRESS, name=f"address_{name}", reset_less=True) for name in ("y", "sub", "group")
        )
        next_sub = Signal(ADDRESS, name="next_address_sub")
        m.d.comb += next_sub.eq(
            Mux(self.last_of_group, address_group + ins.group_step, address_sub + self._config.lanes)
        )
        with m.If(self.window_done):
            m.d.sync += address.eq(address + ins.out_x)
            with m.If(ox_last):
                m.d.sync += [address.eq(address_y + ins.out_y), address_y.eq(address_y + ins.out_y)]
        with m.If(self.sub_done):
            m.d.sync += [address.eq(next_sub), address_y.eq(next_sub), address_sub.eq(next_sub)]
            with m.If(self.last_of_group):
                m.d.sync += address_group.eq(next_sub)
        with m.If(self.accept):
            m.d.sync += [start.eq(self.new.address) for start in (address, address_y, address_sub, address_group)]

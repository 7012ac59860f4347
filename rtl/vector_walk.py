"""Vector walk: the vectors of a tile's pass, one a cycle, and which of them completes an output."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts
from lepton.rtl.layouts import MUL_LAYOUT, POSITION
from lepton.rtl.registers import output
from lepton.rtl.spec.config import NpuConfig

COPIED = (
    "depthwise still width x_limit x_step y_limit y_step row_step zero_point out_width subsample line_delay"
).split()
"""What a running pass needs of its instruction."""
STEPS = data.StructLayout({name: MUL_LAYOUT[name].shape for name in COPIED})


class VectorWalk(wiring.Component):
    """Issues the vectors of a pass in consecutive cycles, the first in the cycle after its start.

    Members:
        ``start`` In(1), ``i`` In(pass_layout): a pass starts
        ``running`` Out(1): a vector is issued, ``final`` Out(1): the last of its pass · ``swap`` Out(1): the first
        ``v`` Out(STEPS): its instruction · ``address``, ``x``, ``y`` Out: of its lane 0
        ``output`` Out(1): it completes an output, whose sum goes to ``entry`` of ``bank``, first of all if ``init``
        ``release`` Out(1): the bank is handed over behind the pass
        ``bad_outputs`` Out(1): a stream row ended in the cycle before, and not all of its outputs were there
    Depthwise, the output position follows the stream by taps - 1 positions and `skip` rows.
    Reset: no pass.
    """

    def __init__(self, config: NpuConfig, address_bits: int = layouts.ADDRESS, entry_bits: int = layouts.ENTRY):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "i": In(layouts.pass_layout(config, address_bits)),
                "running": Out(1),
                "final": Out(1),
                "swap": Out(1),
                "v": Out(STEPS),
                "address": Out(address_bits),
                "x": Out(POSITION),
                "y": Out(POSITION),
                "output": Out(1),
                "entry": Out(entry_bits),
                "bank": Out(1),
                "init": Out(1),
                "release": Out(1),
                "bad_outputs": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        running, final = self.running, self.final
        narrow = Signal(reset_less=True)
        narrow_out = Signal(reset_less=True)
        bank, release = output(m, self.bank, "v_bank"), output(m, self.release, "v_release")
        self._steering(m)
        with m.If(self.start):
            m.d.sync += [narrow.eq(self.i.narrow), narrow_out.eq(self.i.narrow_out)]
            m.d.sync += [bank.eq(self.i.bank), release.eq(self.i.release), running.eq(1)]
        with m.Elif(final):
            m.d.sync += running.eq(0)
        m.d.sync += self.swap.eq(self.start)

        # The walk's registers, those it sets by `set_next` first (see `_registers`).
        now = {name: Signal(name=name, reset_less=True) for name in ("x_end", "y_end", "q_end", "q_open")}
        now["lag"] = Signal(range(max(2, self._config.taps)), name="lag", reset_less=True)
        now["skip"] = Signal(3, name="skip", reset_less=True)
        now |= {name: Signal(4, name=name, reset_less=True) for name in ("column_phase", "row_phase")}
        set_next, ahead = self._registers(m, now)
        lag_x_end = Signal(reset_less=True)  # the output position ends its stream row
        row_done = Signal()  # of outputs
        self._foresee(m, now, ahead, row_done)

        going_on = running & ~final
        self._stream(m, going_on, row_done, narrow, now["x_end"], set_next)
        self._outputs(m, going_on, narrow, narrow_out, lag_x_end, now, set_next)
        self._entries(m, going_on)
        with m.If(self.start):
            i = self.i
            set_next(x_end=i.narrow, y_end=i.flat, q_end=i.narrow_out, q_open=1)
            set_next(lag=self._config.taps - 1, skip=i.skip, column_phase=0, row_phase=0)
        self._check(m, now, lag_x_end, row_done)
        return m

    # --- The walk over the stream, and over the outputs ---
    def _stream(self, m, going_on, row_done, narrow, x_end, set_next):
        """Address and position of the next vector."""
        v, i = self.v, self.i
        address, x, y = (
            output(m, port, name) for name, port in (("at", self.address), ("at_x", self.x), ("at_y", self.y))
        )
        row_address = Signal.like(address, name="row_address", reset_less=True)
        row_x = Signal(POSITION, name="row_x", reset_less=True)
        x_left = Signal(12, name="x_left", reset_less=True)  # vectors left in the row
        y_left = Signal(12, name="y_left", reset_less=True)  # rows left (depthwise: output rows)
        next_row = Signal.like(address, name="next_row")
        m.d.comb += next_row.eq(row_address + v.row_step)
        with m.If(going_on):
            with m.If(x_end):
                m.d.sync += [address.eq(next_row), row_address.eq(next_row), x.eq(row_x), y.eq(y + v.y_step)]
                m.d.sync += x_left.eq(v.width)
                set_next(x_end=narrow)
            with m.Else():
                m.d.sync += [address.eq(address + v.x_step), x.eq(x + v.x_step), x_left.eq(x_left - 1)]
                set_next(x_end=x_left == 2)
            with m.If(row_done):
                m.d.sync += y_left.eq(y_left - 1)
                set_next(y_end=y_left == 2)
        with m.If(self.start):
            m.d.sync += [address.eq(i.address), row_address.eq(i.address), x.eq(i.x), row_x.eq(i.x), y.eq(i.y)]
            m.d.sync += [x_left.eq(i.mul.width), y_left.eq(i.mul.height)]

    def _outputs(self, m, going_on, narrow, narrow_out, lag_x_end, now, set_next):
        """Depthwise: where the output position is, and how far the next output is."""
        v, i = self.v, self.i
        lag, skip, column_phase, row_phase, q_end = (
            now[name] for name in ("lag", "skip", "column_phase", "row_phase", "q_end")
        )
        lag_x_left = Signal(12, name="lag_x_left", reset_less=True)
        q_left = Signal(12, name="q_left", reset_less=True)
        with m.If(going_on):
            with m.If(lag != 0):
                set_next(lag=lag - 1)
            with m.Elif(lag_x_end):
                m.d.sync += [lag_x_left.eq(v.width), lag_x_end.eq(narrow), q_left.eq(v.out_width)]
                set_next(column_phase=0, q_end=narrow_out, q_open=1)
                with m.If(skip != 0):
                    set_next(skip=skip - 1)
                with m.Else():
                    set_next(row_phase=Mux(row_phase == 0, v.subsample, row_phase) - 1)
            with m.Else():
                m.d.sync += [lag_x_left.eq(lag_x_left - 1), lag_x_end.eq(lag_x_left == 2)]
                set_next(column_phase=Mux(column_phase == 0, v.subsample, column_phase) - 1)
                with m.If(self.output):
                    m.d.sync += q_left.eq(q_left - 1)
                    set_next(q_end=q_left == 2, q_open=~q_end)
        with m.If(self.start):
            m.d.sync += [lag_x_left.eq(i.mul.width), lag_x_end.eq(i.narrow), q_left.eq(i.mul.out_width)]

    def _entries(self, m, going_on):
        """The accumulator entry of each output."""
        t = self.i.mul
        entry, init = output(m, self.entry, "at_entry"), output(m, self.init, "at_init")
        base = Signal.like(entry, name="base", reset_less=True)  # of the group's first
        init_once = Signal(name="init_once", reset_less=True)
        first_entry = Signal.like(entry, name="first_entry")
        with m.If(~self.i.first_tile):
            m.d.comb += first_entry.eq(base)
        with m.Elif(t.stack & ~self.i.first_group):
            m.d.comb += first_entry.eq(entry + 1)  # `entry` rests on the last of the group before
        with m.Else():
            m.d.comb += first_entry.eq(t.acc_base)
        with m.If(going_on):
            with m.If(self.output & ~self.v.still):
                m.d.sync += entry.eq(entry + 1)
            with m.If(init_once):
                m.d.sync += init.eq(0)
        with m.If(self.start):
            m.d.sync += [
                entry.eq(first_entry),
                base.eq(first_entry),
                init.eq(t.init & self.i.first_tile),
                init_once.eq(t.still),
            ]

    # --- What the compact machine does otherwise ---
    def _steering(self, m):
        """The instruction, from its first pass's start until the next one's."""
        v = output(m, self.v, "steps")
        with m.If(self.start):
            m.d.sync += [v[name].eq(self.i.mul[name]) for name in COPIED]

    def _registers(self, m, now):
        """How `now` is set, and what it will hold in the next cycle.

        Whether a vector is its pass's last decides much in the cycle after, so it is known a cycle before, from what
        these registers will hold.
        """
        ahead = {name: Signal.like(s, name=f"{name}_next") for name, s in now.items()}
        m.d.comb += [ahead[name].eq(s) for name, s in now.items()]
        m.d.sync += [s.eq(ahead[name]) for name, s in now.items()]

        def set_next(**values):
            m.d.comb += [ahead[name].eq(value) for name, value in values.items()]

        return set_next, ahead

    def _foresee(self, m, now, ahead, row_done):
        """Whether the vector completes an output, ends a row of them, and is its pass's last."""
        depthwise_next = Mux(self.start, self.i.mul.depthwise, self.v.depthwise)
        output_next = Signal()
        m.d.comb += [
            row_done.eq(Mux(self.v.depthwise, self.output & now["q_end"], now["x_end"])),
            output_next.eq(self._completes(depthwise_next, ahead)),
        ]
        m.d.sync += [
            self.output.eq(output_next),
            self.final.eq(Mux(depthwise_next, output_next & ahead["q_end"], ahead["x_end"]) & ahead["y_end"]),
        ]

    @staticmethod
    def _completes(depthwise, at):
        on_grid = (at["lag"] == 0) & (at["skip"] == 0) & (at["row_phase"] == 0) & (at["column_phase"] == 0)
        return ~depthwise | (on_grid & at["q_open"])

    def _check(self, m, now, lag_x_end, row_done):
        in_row = (now["lag"] == 0) & (now["skip"] == 0) & (now["row_phase"] == 0)
        m.d.sync += self.bad_outputs.eq(
            self.running & self.v.depthwise & in_row & lag_x_end & now["q_open"] & ~row_done
        )

"""Tile stage: the MUL instruction whose tiles start next, its token and its bank."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.layouts import POSITION
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause


class TileStage(wiring.Component):
    """Starts the pass of the next tile when everything it needs is there.

    Members:
        ``i`` Stream(256): MUL instructions · ``tile`` Stream(DESCRIPTOR_LAYOUT): descriptors of the tiles to come, in
        order; one is taken with each start · ``running``, ``final`` In(1): a vector is issued, it is its pass's last
        ``start`` Out(1), ``o`` Out(pass_layout): a pass starts; its first vector is issued in the next cycle
        ``banks`` `ports.handover` (``ready`` is not driven here) · ``held`` Out(1): an instruction is there
        ``drained`` In(1): no vector or sum is in flight (only the compact machine asks) · ``cause`` Out(Cause): of this
        cycle

    `MultiplyEngine` says when a pass starts. Reset: no instruction, both banks free, no token.
    """

    def __init__(self, config: NpuConfig, address_bits: int = layouts.ADDRESS):
        self._config = config
        super().__init__(self._members(address_bits))

    def _members(self, address_bits: int) -> dict:
        return {
            "i": In(stream.Signature(self.payload)),
            "tile": In(stream.Signature(layouts.DESCRIPTOR_LAYOUT)),
            "running": In(1),
            "final": In(1),
            "drained": In(1),
            "start": Out(1),
            "o": Out(layouts.pass_layout(self._config, address_bits)),
            "banks": Out(ports.handover()),
            "held": Out(1),
            "cause": Out(Cause, init=Cause.FETCH),
        }

    payload: object = layouts.MUL_BITS
    """What the stream of instructions carries."""

    def elaborate(self, platform):
        m = Module()
        tile = self.tile.payload
        t = self._instruction()
        t_address = Signal(len(self.o.address), reset_less=True)  # of the next tile's group
        t_x = Signal(POSITION, reset_less=True)
        groups_left = Signal(12, reset_less=True)
        last_group = Signal(reset_less=True)
        first_tile = Signal(reset_less=True)  # of its group
        first_group = Signal(reset_less=True)
        narrow = Signal(reset_less=True)  # width == 1
        narrow_out = Signal(reset_less=True)  # out_width == 1
        flat = Signal(reset_less=True)  # height == 1

        start = self.start
        group_end = Signal()
        take_end = Signal()
        accept = Signal()
        need_token, token_ok = self._tokens(m)
        bank, release, bank_ok = self._banks(m, group_end & t.release & (~t.stack | last_group))
        m.d.comb += [
            start.eq(self._also(m, self.held & (~self.running | self.final) & self.tile.valid & token_ok & bank_ok)),
            self.tile.ready.eq(start),
            group_end.eq(tile.last),
            take_end.eq(start & group_end & last_group),
            self.i.ready.eq(self._room(take_end)),
            accept.eq(self.i.valid & self.i.ready & self._is_last_word()),
            self.o.mul.eq(t),
            self.o.address.eq(t_address + tile.offset),
            self.o.x.eq(t_x + tile.x),
            self.o.y.eq(t.y + tile.y),
            self.o.skip.eq(tile.skip),
            self.o.bank.eq(bank),
            self.o.release.eq(release),
        ]
        known = {"narrow": narrow, "narrow_out": narrow_out, "flat": flat}
        known |= {"first_tile": first_tile, "first_group": first_group}
        m.d.comb += [self.o[name].eq(value) for name, value in known.items()]

        with m.If(start):
            m.d.sync += [need_token.eq(0), first_tile.eq(group_end)]
            with m.If(group_end):
                m.d.sync += [
                    t_address.eq(t_address + t.group_step),
                    t_x.eq(t_x + t.group_step),
                    groups_left.eq(groups_left - 1),
                    last_group.eq(groups_left == 2),
                    first_group.eq(0),
                ]
        with m.If(take_end):
            m.d.sync += self.held.eq(0)
        self._ends(m, t, take_end)
        new, groups = self._take(m, accept, t, {"address": t_address, "x": t_x, "groups": groups_left})
        with m.If(accept):
            m.d.sync += [
                self.held.eq(1),
                last_group.eq(groups == 1),
                first_tile.eq(1),
                first_group.eq(1),
                need_token.eq(new.wait),
                narrow.eq(new.width == 1),
                narrow_out.eq(new.out_width == 1),
                flat.eq(new.height == 1),
            ]
            self._accepts(m, new)
        self._waits(m, token_ok, bank_ok)
        return m

    # --- Tokens and banks ---
    def _tokens(self, m):
        """Data tokens given and not taken: (the instruction still needs one, it has what it needs)."""
        tokens = Signal(range(self._config.program_words // isa.TAIL.words + 1))  # a program posts no more
        need_token = Signal(reset_less=True)
        take_token = Signal()
        token_ok = Signal()
        m.d.comb += [token_ok.eq(~need_token | (tokens != 0)), take_token.eq(self.start & need_token)]
        m.d.sync += tokens.eq(tokens + self.banks.token - take_token)
        return need_token, token_ok

    def _banks(self, m, last):
        """(the bank that the pass fills, this pass is the last that does: `last`, a bank is held or free)."""
        bank = Signal()
        have_bank = Signal()
        banks_free = Signal(2, init=2)
        acquire = Signal()
        release = Signal()
        bank_ok = Signal()
        m.d.comb += [
            bank_ok.eq(have_bank | (banks_free != 0)),
            acquire.eq(self.start & ~have_bank),
            release.eq(self.start & last),
        ]
        m.d.sync += banks_free.eq(banks_free + self.banks.free - acquire)
        with m.If(release):
            m.d.sync += [have_bank.eq(0), bank.eq(~bank)]
        with m.Elif(acquire):
            m.d.sync += have_bank.eq(1)
        return bank, release, bank_ok

    def _waits(self, m, token_ok, bank_ok):
        """What the next cycle is spent on."""
        with m.If(self.start | (self.running & ~self.final)):
            m.d.sync += self.cause.eq(Cause.MULTIPLY)
        with m.Elif(~self.held):
            m.d.sync += self.cause.eq(Cause.FETCH)
        with m.Elif(~token_ok):
            m.d.sync += self.cause.eq(Cause.ACTIVATIONS)
        with m.Elif(~bank_ok):
            m.d.sync += self.cause.eq(Cause.TAIL)
        with m.Else():
            m.d.sync += self.cause.eq(Cause.WEIGHTS)

    # --- What MOVE adds, where there is one ---
    def _also(self, m, ready):
        """Whether a pass starts for which all this class knows of is `ready`."""
        return ready

    def _ends(self, m, t, take_end):
        """The last pass of an instruction starts."""

    def _accepts(self, m, new):
        """An instruction is taken."""

    # --- How an instruction comes: whole; the compact machine's comes in words ---
    def _instruction(self):
        """Where it is kept."""
        return Signal(layouts.mul_layout(self._config), name="t", reset_less=True)

    def _room(self, take_end):
        """The next one (or its next word) may come; `take_end`: the last tile of this one starts."""
        return ~self.held | take_end

    def _is_last_word(self):
        return 1

    def _take(self, m, accept, t, counters):
        """Keep it, and the fields that change from group to group; returns what has come, and its groups."""
        new = data.View(t.shape(), self.i.payload[: t.shape().size])
        with m.If(accept):
            m.d.sync += [t.eq(new), *(counter.eq(new[name]) for name, counter in counters.items())]
        return new, new.groups

"""The tail: from accumulators to activations."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.layouts import ADDRESS, PARAM, PARAM_LAYOUT, STEERING
from lepton.rtl.registers import delays, late
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.timing import Timing
from lepton.rtl.tail_banks import TailBanks
from lepton.rtl.tail_lane import TailLane
from lepton.rtl.tail_params import TailParameters
from lepton.rtl.tail_walk import TailWalk


class TailEngine(wiring.Component):
    """Executes TAIL and TABLE as `docs/architecture.md` says, one accumulator vector a cycle.

    Parameters:
        ``config``; ``latencies`` (the configuration's unless told): an accumulator comes ``acc_read`` cycles after its
        read, at least 1; DRAIN below is their ``drain``

    Members:
        ``i``: In(Stream(256)), a TAIL or TABLE instruction from bit 0 (TABLE: the upper bits are ignored)
        ``banks``: `ports.handover`: ``free`` is in the cycle after the bank's last read (to_acc: after its last write),
        ``token`` in the cycle in which the last byte is on the write port
        ``idle``: Out(1), no instruction held and nothing in flight
        ``acc``: `ports.accumulator_access`. ``bank`` belongs to the read or write of the same cycle and may change in
        the next; columns that carry no channel may be written too: no instruction reads them
        ``write``: `ports.activation_write` · ``params``: `ports.memory_read`
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

    where bank is the cycle of the ``ready`` pulse this sub-group takes, if it takes one. The next instruction is
    accepted from cycle R(S-1) + reads on; ``token`` is in D and the engine is idle from D + 1 on. With to_acc and
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
        super().__init__(self._members(config))

    def _members(self, config: NpuConfig) -> dict:
        return {
            "i": In(stream.Signature(layouts.TAIL_BITS)),
            "banks": In(ports.handover()),
            "acc": Out(ports.accumulator_access(config)),
            "write": Out(ports.activation_write(config)),
            "params": Out(ports.memory_read(PARAM, PARAM_LAYOUT.size)),
            "idle": Out(1),
            "bad_address": Out(1),
            "bad_bank": Out(1),
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.tail_walk = walk = self._walk()
        m.submodules.tail_params = parameters = TailParameters(self._config)
        m.submodules.tail_banks = banks = TailBanks(self._config)
        wiring.connect(m, parameters.read, wiring.flipped(self.params))

        accept = Signal()
        busy = Signal()  # something of a TAIL is in flight
        done = Signal()  # its last byte
        ready = Signal()  # but for the bank, the next sub-group may start
        m.d.comb += [
            self.i.ready.eq(~walk.have & ~parameters.have_table),
            accept.eq(self.i.valid & self.i.ready),
            ready.eq(
                self._also(
                    m,
                    walk,
                    walk.have
                    & Mux(walk.run, walk.sub_done & ~walk.last_sub & ~banks.close, 1)
                    & parameters.there
                    & (walk.begun | ~busy | done)
                    & banks.open,
                )
            ),
        ]
        for unit in (walk, parameters, banks):
            m.d.comb += [unit.accept.eq(accept), unit.new.eq(self.i.payload[: unit.new.shape().size])]
        ins, go = walk.ins, banks.go
        m.d.comb += [
            walk.go.eq(go),
            parameters.go.eq(go),
            parameters.have.eq(walk.have),
            parameters.shared.eq(ins.shared),
            parameters.wait.eq(busy),
            banks.ins.eq(ins),
            banks.ready.eq(ready),
            *(getattr(banks, name).eq(getattr(walk, name)) for name in ("sub_done", "group_done")),
            *(getattr(banks, name).eq(getattr(walk, name)) for name in ("last_sub", "last_of_group")),
            banks.bank_ready.eq(self.banks.ready),
            self.banks.free.eq(banks.bank_free),
            self.acc.bank.eq(banks.bank),
            self.acc.r_en.eq(walk.run),
            self.acc.r_entry.eq(walk.entry_read),
            self.bad_bank.eq(banks.bad),
            self.idle.eq(
                ~(walk.have | parameters.have_table | busy | parameters.table_coming | parameters.table_write)
            ),
        ]
        back = Signal(ins.shape(), reset_less=True)  # the instruction in the pipeline
        starts_now = Signal()  # its first read: nothing needs it before
        with m.If(done):
            m.d.sync += busy.eq(0)
        m.d.sync += starts_now.eq(go & ~walk.begun)
        with m.If(go & ~walk.begun):
            m.d.sync += busy.eq(1)
        with m.If(starts_now):
            m.d.sync += back.eq(ins)

        # Tags: element k belongs to the read of k cycles ago.
        t = self.timing
        valid = delays(m, walk.step, t.drain, "valid", reset_less=False)  # the last operand of a window position
        emit = late(m, walk.window_done, t.drain, "emit", reset_less=False)
        starts = late(m, walk.window_first, t.to_acc, "starts")
        m.d.comb += [
            done.eq(late(m, walk.all_done, t.drain, "ended", reset_less=False)),
            banks.closed.eq(late(m, banks.close, t.drain, "closes", reset_less=False)),
            self.banks.token.eq(done & back.post),
            self.acc.w_en.eq(valid[t.to_acc] & back.to_acc),
            self.write.en.eq(emit & ~back.to_acc),
        ]
        self._ends(m, done, back)
        self._lanes(m, walk, parameters, back, starts_now, valid[t.to_acc], starts)
        self._places(m, walk)
        self._check(m, walk, parameters, go)
        return m

    # --- What MOVE adds, where there is one ---
    def _walk(self):
        return TailWalk(self._config)

    def _also(self, m, walk, ready):
        """Whether, but for the bank, the next sub-group may start, for which all this class knows of is `ready`."""
        return ready

    def _ends(self, m, done, back):
        """Instruction `back` is done."""

    # --- The datapath ---
    def _lanes(self, m, walk, parameters, back, starts_now, valid, starts):
        """The lanes, and what steers them as the read's accumulators come."""
        lanes, latency, ins = self._config.lanes, self.timing.acc_read, walk.ins
        read = Signal(32 * lanes, reset_less=True)
        m.d.sync += read.eq(self.acc.r_data.as_value().word_select(late(m, walk.sub, latency, "sub"), 32 * lanes))
        second = delays(m, walk.half, latency + 1, "second")
        minus = Signal(reset_less=True)
        m.d.sync += minus.eq(second[-2] & (back.dual == 3))
        switch = late(m, walk.run & walk.sub_first, latency, "switch")
        p_valid = late(m, parameters.running, latency, "p_valid", reset_less=False)
        p_lane = late(m, parameters.lane, latency, "p_lane")
        p_shared = late(m, ins.shared, latency, "p_shared")
        steering = Signal(STEERING)
        same = [name for name, _ in STEERING if name not in ("product", "zero_point")]
        m.d.comb += [
            *(steering[name].eq(ins[name]) for name in same),
            steering.product.eq(ins.dual == 2),
            steering.zero_point.eq(Mux(ins.clamp, ins.zero_point, 0)),
        ]
        for n in range(lanes):
            if n % 2 == 0:  # two lanes share what steers them; the other twos, far away, have it too
                twin = KEEP if lanes > 2 else {}
                mine = Signal(STEERING, name=f"mine_{n}", reset_less=True, attrs=twin)
                with m.If(starts_now):
                    m.d.sync += mine.eq(steering)
                words = delays(m, self.params.data, max(1, latency - 1), f"p_word_{n}", attrs=twin)
            m.submodules[f"tail_lane_{n}"] = lane = TailLane(self._config)
            m.d.comb += [
                lane.steering.eq(mine),
                lane.entry.eq(words[latency - 1]),
                lane.entry_en.eq(p_valid & (p_shared | (p_lane == n))),
                lane.switch.eq(switch),
                lane.read.eq(read.word_select(n, 32)),
                lane.second.eq(second[-1]),
                lane.minus.eq(minus),
                lane.valid.eq(valid),
                lane.starts.eq(starts),
                lane.table_en.eq(parameters.table_write),
                lane.table_word.eq(parameters.table_word),
                lane.table_data.eq(words[1][:64]),
                self.acc.w_data[n].eq(lane.word),
                self.write.data[n].eq(lane.byte),
            ]

    def _places(self, m, walk):
        """Where a result goes waits in a small memory until the word is ready for the accumulator."""
        to_acc, after = self.timing.to_acc, self.timing.drain - self.timing.to_acc
        place = data.StructLayout({"address": ADDRESS, "sub": walk.sub.shape(), "count": walk.count.shape()})
        depth = 1 << to_acc.bit_length()
        m.submodules.places = places = Memory(shape=place, depth=depth, init=[], attrs={"no_rw_check": 1})
        write, read = places.write_port(), places.read_port()
        now = Signal(range(depth))
        m.d.sync += now.eq(now + 1)
        m.d.comb += [
            write.en.eq(1),
            write.addr.eq(now),
            write.data.address.eq(Mux(walk.ins.to_acc, walk.entry, walk.address)),
            write.data.sub.eq(walk.sub),
            write.data.count.eq(walk.count),
            read.en.eq(1),
            read.addr.eq(now - (to_acc - 1)),
            self.acc.w_entry.eq(read.data.address),
            self.acc.w_sub.eq(read.data.sub),
            self.acc.w_count.eq(read.data.count),
            Cat(self.write.addr, self.write.count).eq(late(m, Cat(read.data.address, read.data.count), after, "where")),
        ]

    def _check(self, m, walk, parameters, go):
        """Addresses, with the reads."""
        bits, lanes, address = self._config.act_bytes.bit_length() - 1, self._config.lanes, walk.address
        beyond = Const(0)
        if bits < len(address):
            beyond = address[bits:].any()
            if lanes > 1:
                k = (lanes - 1).bit_length()
                beyond = beyond | (address[k:bits].all() & (address[:k] + walk.count > 1 << k))
        m.d.sync += self.bad_address.eq(
            (walk.run & (walk.entry_read >= self._config.acc_depth))
            | (walk.window_done & ~walk.ins.to_acc & beyond)
            | (go & parameters.bad)
        )

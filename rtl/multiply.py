"""Multiply engine: MUL instructions to one vector a cycle for the array, and where its sums go."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.loader import DESCRIPTOR_LAYOUT, Loader, layout_of
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause
from lepton.rtl.spec.timing import Timing

__all__ = ["MultiplyEngine"]

_POSITION = signed(18)  # byte and row positions, padding included
_COPIED = (  # what a running tile pass needs of its instruction
    "depthwise still width x_limit x_step y_limit y_step row_step zero_point out_width subsample line_delay"
).split()


def _chain(m, value, n, name, reset_less=True):
    """`value` and its copies 1 .. n cycles later, as a list."""
    out = [value]
    for k in range(n):
        out.append(Signal.like(out[-1], name=f"{name}_{k + 1}", reset_less=reset_less))
        m.d.sync += out[-1].eq(out[-2])
    return out


def _delay(m, value, n, name, in_memory):
    """`value` n cycles later; `in_memory`: by a memory instead of n registers."""
    if not in_memory:
        return _chain(m, value, n, name)[-1]
    depth = 1 << n.bit_length()
    m.submodules[name] = memory = Memory(shape=len(value), depth=depth, init=[], attrs={"ram_style": "block"})
    write, read = memory.write_port(), memory.read_port()
    now = Signal(range(depth), name=f"{name}_now")
    m.d.sync += now.eq(now + 1)
    m.d.comb += [
        write.en.eq(1),
        write.addr.eq(now),
        write.data.eq(value),
        read.addr.eq(now - (n - 1)),
    ]
    return read.data


class MultiplyEngine(wiring.Component):
    """Runs LOAD and MUL instructions: reads activations, masks padding, steers array and accumulators.

    Parameters: `config`; `latencies` of the units around it (the configuration's unless told; ``act_read`` at least 1).

    Members:
        ``i_load`` Stream(128), ``i_mul`` Stream(256): instructions
        ``load`` Out(1), ``tile`` Out(20): weight store reads a tile for the array
        ``d_en`` Out(1), ``d_tile`` Out(20), ``descriptor`` In(48): descriptor read, one cycle
        ``r_en`` Out(1), ``r_addr`` Out(20), ``i_data`` In(W x signed(8)): activation memory
        ``o_act`` Out(W x signed(8)), ``o_depthwise``, ``o_swap`` Out(1), ``o_line_delay`` Out(10): to the array;
        ``o_act`` is meaningless in cycles without a vector, ``o_swap`` is 0 there
        ``a_en``, ``a_bank``, ``a_init`` Out(1), ``a_entry`` Out(10): accumulators, in the cycle of the array's sum
        ``token_in`` In(1): pulse, gives a data token; as many are kept as a program has room for TAILs
        ``bank_free`` In(1): pulse, the tail gives a bank back
        ``bank_ready`` Out(1): pulse, all sums of a released bank are visible from this cycle on
        ``ring_count`` In(20): tiles complete in the ring and not yet freed; one less from the cycle after ``ring_free``
        ``ring_free`` Out(1): pulse, a ring tile is being loaded: its row r is read `skew(r)` cycles after this one
        ``idle`` Out(1): no instruction held, nothing in flight · ``cause`` Out(3): `Cause` of this cycle
        ``bad_address`` Out(1): pulse, a tile, an accumulator entry or an activation that is not masked lies outside its
        memory · ``bad_outputs`` Out(1): pulse, a stream row ended before its depthwise outputs. Both come before the
        sum of the vector, so that a reset in the cycle of the pulse prevents the write

    Timing. A tile pass *starts* in cycle s when: the pass before issues its last vector (or none is running), a MUL is
    held (accepted in s - 1 or before), the next tile is in the loader's queue (LOAD accepted in s - 3 or before), the
    token that `wait` asks for was given (``token_in`` in s - 1 or before), and a bank is held or free (``bank_free`` in
    s - 1 or before). Its vectors are issued (``cause`` MULTIPLY) in s + 1 .. s + n, without gaps. In `Timing`:
    the first is at ``r_en`` `first_read` after s, a sum's ``a_en`` comes `sums` after its vector was issued, and
    ``bank_ready`` `bank_ready` after the last one was.
    Waits are only before a pass. ``cause`` of a cycle without a vector is the first that lacked in the cycle before,
    of: instruction (FETCH), token (ACTIVATIONS), bank (TAIL), tile (WEIGHTS).
    The next MUL is accepted in the cycle in which the last tile of the one before starts. `load` is issued so that
    it meets row 0 one cycle before the tile's swap: the swap of the tile before was in that cycle at the latest.
    Requires instructions that keep `isa.rules`.
    Throughput: one vector a cycle over tiles, groups and instructions. Reset: idle, both banks free, no token.
    """

    def __init__(self, config: NpuConfig, latencies: Timing | None = None):
        self._config = config
        self.timing = latencies or timing.of(config)
        lanes = data.ArrayLayout(signed(8), max(config.rows, config.cols))
        loads = {
            "i_load": In(stream.Signature(128)),
            "load": Out(1),
            "tile": Out(20),
            "d_en": Out(1),
            "d_tile": Out(20),
            "descriptor": In(DESCRIPTOR_LAYOUT.size),
            "ring_count": In(20),
            "ring_free": Out(1),
        }
        super().__init__(
            {
                **({"i_tile": In(stream.Signature(DESCRIPTOR_LAYOUT.size))} if config.compact else loads),
                "i_mul": In(stream.Signature(64 if config.compact else 256)),
                **({"i_index": In(2)} if config.compact else {}),
                "r_en": Out(1),
                "r_addr": Out(20),
                "i_data": In(lanes),
                "o_act": Out(lanes),
                "o_depthwise": Out(1),
                "o_swap": Out(1),
                "o_line_delay": Out(10),
                "a_en": Out(1),
                "a_bank": Out(1),
                "a_entry": Out(10),
                "a_init": Out(1),
                "token_in": In(1),
                "bank_free": In(1),
                "bank_ready": Out(1),
                "idle": Out(1),
                "cause": Out(3, init=Cause.FETCH),
                "bad_address": Out(1),
                "bad_outputs": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        mul = layout_of(isa.MUL.fields)
        if config.compact:
            raw = Signal(256, name="t", reset_less=True)
            new = data.View(mul, Cat(raw[:192], self.i_mul.payload)[: mul.size])
        else:
            new = data.View(mul, self.i_mul.payload[: mul.size])

        compact = config.compact
        # Addresses wrap, so bits beyond the memory's matter only to the checks, which compact configurations lack.
        address_bits = config.act_bytes.bit_length() - 1 if compact else 20
        entry_bits = (config.acc_depth - 1).bit_length() if compact else 10
        if compact:
            tiles = self.i_tile
            desc = data.View(DESCRIPTOR_LAYOUT, tiles.payload)
        else:
            m.submodules.loader = loader = Loader(config)
            wiring.connect(m, wiring.flipped(self.i_load), loader.i)
            m.d.comb += [
                self.d_en.eq(loader.d_en),
                self.d_tile.eq(loader.d_tile),
                loader.descriptor.eq(self.descriptor),
                loader.ring_count.eq(self.ring_count),
                loader.ring_free.eq(self.ring_free),
            ]
            tiles = loader.o
            head = tiles.payload
            desc = head.descriptor

        # --- Tile stage: the instruction whose tiles start next ------------------------------------------------------
        held = Signal()
        t = data.View(mul, raw[: mul.size]) if compact else Signal(mul, reset_less=True)
        t_address = Signal(address_bits, reset_less=True)  # of the next tile's group
        t_x = Signal(_POSITION, reset_less=True)
        groups_left = Signal(12, reset_less=True)
        last_group = Signal(reset_less=True)
        first_tile = Signal(reset_less=True)  # of its group
        first_group = Signal(reset_less=True)
        need_token = Signal(reset_less=True)
        narrow = Signal(reset_less=True)  # width == 1
        narrow_out = Signal(reset_less=True)  # out_width == 1
        flat = Signal(reset_less=True)  # height == 1

        running = Signal()  # a vector is issued
        final = Signal()  # the last of its pass
        start = Signal()
        group_end, take_end = Signal(), Signal()
        accept = Signal()
        drained = Signal()  # compact: nothing in flight needs `t`

        tokens = Signal(range(config.program_words // isa.TAIL.words + 1))  # a program posts no more
        take_token = Signal()
        bank = Signal()
        have_bank = Signal()
        banks_free = Signal(2, init=2)
        acquire, release = Signal(), Signal()
        token_ok, bank_ok = Signal(), Signal()
        m.d.comb += [
            token_ok.eq(~need_token | (tokens != 0)),
            bank_ok.eq(have_bank | (banks_free != 0)),
            start.eq(held & (~running | final) & tiles.valid & token_ok & bank_ok),
            tiles.ready.eq(start),
            group_end.eq(desc.last),
            take_end.eq(start & group_end & last_group),
            self.i_mul.ready.eq(~held & drained if compact else ~held | take_end),
            accept.eq(self.i_mul.valid & self.i_mul.ready & (self.i_index == 3 if compact else 1)),
            take_token.eq(start & need_token),
            acquire.eq(start & ~have_bank),
            release.eq(start & group_end & t.release & (~t.stack | last_group)),
        ]
        m.d.sync += [
            tokens.eq(tokens + self.token_in - take_token),
            banks_free.eq(banks_free + self.bank_free - acquire),
        ]
        with m.If(release):
            m.d.sync += [have_bank.eq(0), bank.eq(~bank)]
        with m.Elif(acquire):
            m.d.sync += have_bank.eq(1)

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
            m.d.sync += held.eq(0)
        if compact:
            with m.If(self.i_mul.valid & self.i_mul.ready), m.Switch(self.i_index):
                for k in range(4):
                    with m.Case(k):
                        m.d.sync += raw[64 * k : 64 * k + 64].eq(self.i_mul.payload)
                        for target, name in ((t_address, "address"), (t_x, "x"), (groups_left, "groups")):
                            at, field = isa.MUL.offset(name)
                            for bit in range(len(target)):
                                source = at + min(bit, field.bits - 1)
                                if source // 64 == k:
                                    m.d.sync += target[bit].eq(self.i_mul.payload[source % 64])
        with m.If(accept):
            if not compact:
                m.d.sync += [t.eq(new), t_address.eq(new.address), t_x.eq(new.x), groups_left.eq(new.groups)]
            m.d.sync += [
                held.eq(1),
                last_group.eq((groups_left if compact else new.groups) == 1),
                first_tile.eq(1),
                first_group.eq(1),
                need_token.eq(new.wait),
                narrow.eq(new.width == 1),
                narrow_out.eq(new.out_width == 1),
                flat.eq(new.height == 1),
            ]

        with m.If(start | (running & ~final)):
            m.d.sync += self.cause.eq(Cause.MULTIPLY)
        with m.Elif(~held):
            m.d.sync += self.cause.eq(Cause.FETCH)
        with m.Elif(~token_ok):
            m.d.sync += self.cause.eq(Cause.ACTIVATIONS)
        with m.Elif(~bank_ok):
            m.d.sync += self.cause.eq(Cause.TAIL)
        with m.Else():
            m.d.sync += self.cause.eq(Cause.WEIGHTS)

        # --- Vector stage: the vector issued in this cycle -----------------------------------------------------------
        if compact:
            v = {name: t[name] for name in _COPIED}
        else:
            v = {name: Signal(mul[name].shape, name=f"v_{name}", reset_less=True) for name in _COPIED}
        v_narrow = Signal(reset_less=True)
        v_narrow_out = Signal(reset_less=True)
        swap = Signal()
        address, row_address = (Signal(address_bits, name=n, reset_less=True) for n in ("address", "row_address"))
        x, row_x = Signal(_POSITION, reset_less=True), Signal(_POSITION, reset_less=True)
        y = Signal(_POSITION, reset_less=True)
        x_left = Signal(12, reset_less=True)  # vectors left in the row
        x_end = Signal(reset_less=True)  # x_left == 1
        y_left = Signal(12, reset_less=True)  # rows left (depthwise: output rows)
        y_end = Signal(reset_less=True)
        next_row = Signal(address_bits)
        m.d.comb += next_row.eq(row_address + v["row_step"])

        # Depthwise: the output position follows the stream by taps - 1 positions and `skip` rows.
        lag = Signal(range(max(2, config.taps)), reset_less=True)
        skip = Signal(3, reset_less=True)
        lag_x_left = Signal(12, reset_less=True)
        lag_x_end = Signal(reset_less=True)
        column_phase, row_phase = Signal(4, reset_less=True), Signal(4, reset_less=True)
        q_left, q_end, q_open = Signal(12, reset_less=True), Signal(reset_less=True), Signal(reset_less=True)
        output = Signal()  # this vector completes an output
        row_done = Signal()
        # Whether a vector is its pass's last decides much in the cycle after, so where there is room, it is known a
        # cycle before, from what these registers will hold.
        now = {"x_end": x_end, "y_end": y_end, "lag": lag, "skip": skip, "q_end": q_end, "q_open": q_open}
        now |= {"column_phase": column_phase, "row_phase": row_phase}
        ahead = now
        if not compact:
            ahead = {name: Signal.like(s, name=f"{name}_next") for name, s in now.items()}
            m.d.comb += [ahead[name].eq(s) for name, s in now.items()]
            m.d.sync += [s.eq(ahead[name]) for name, s in now.items()]

        def set_next(**values):
            """The values of these registers from the next cycle on."""
            domain = m.d.sync if compact else m.d.comb
            domain += [ahead[name].eq(value) for name, value in values.items()]

        def completes(depthwise, lag, skip, row_phase, column_phase, q_open):
            return ~depthwise | ((lag == 0) & (skip == 0) & (row_phase == 0) & (column_phase == 0) & q_open)

        last = Mux(v["depthwise"], output & q_end, x_end)
        if compact:
            open_now = lag, skip, row_phase, column_phase, q_open
            m.d.comb += [
                output.eq(completes(v["depthwise"], *open_now)),
                row_done.eq(last),
                final.eq(row_done & y_end),
            ]
        else:
            m.d.comb += row_done.eq(last)
            depthwise_next = Mux(start, t.depthwise, v["depthwise"])
            output_next = Signal()
            names = ("lag", "skip", "row_phase", "column_phase", "q_open")
            m.d.comb += output_next.eq(completes(depthwise_next, *(ahead[name] for name in names)))
            m.d.sync += [
                output.eq(output_next),
                final.eq(Mux(depthwise_next, output_next & ahead["q_end"], ahead["x_end"]) & ahead["y_end"]),
            ]

        entry, base = (
            Signal(entry_bits, name="entry", reset_less=True),
            Signal(entry_bits, name="base", reset_less=True),
        )  # of this vector; of the group's first
        init, init_once = Signal(reset_less=True), Signal(reset_less=True)
        v_bank = Signal(reset_less=True)
        v_release = Signal(reset_less=True)

        with m.If(start):
            m.d.sync += running.eq(1)
        with m.Elif(final):
            m.d.sync += running.eq(0)
        m.d.sync += swap.eq(start)

        with m.If(running & ~final):
            with m.If(x_end):
                m.d.sync += [
                    address.eq(next_row),
                    row_address.eq(next_row),
                    x.eq(row_x),
                    y.eq(y + v["y_step"]),
                    x_left.eq(v["width"]),
                ]
                set_next(x_end=v_narrow)
            with m.Else():
                m.d.sync += [
                    address.eq(address + v["x_step"]),
                    x.eq(x + v["x_step"]),
                    x_left.eq(x_left - 1),
                ]
                set_next(x_end=x_left == 2)
            with m.If(row_done):
                m.d.sync += y_left.eq(y_left - 1)
                set_next(y_end=y_left == 2)
            with m.If(lag != 0):
                set_next(lag=lag - 1)
            with m.Elif(lag_x_end):
                m.d.sync += [lag_x_left.eq(v["width"]), lag_x_end.eq(v_narrow)]
                set_next(column_phase=0)
                m.d.sync += q_left.eq(v["out_width"])
                set_next(q_end=v_narrow_out, q_open=1)
                with m.If(skip != 0):
                    set_next(skip=skip - 1)
                with m.Else():
                    set_next(row_phase=Mux(row_phase == 0, v["subsample"], row_phase) - 1)
            with m.Else():
                m.d.sync += [
                    lag_x_left.eq(lag_x_left - 1),
                    lag_x_end.eq(lag_x_left == 2),
                ]
                set_next(column_phase=Mux(column_phase == 0, v["subsample"], column_phase) - 1)
                with m.If(output):
                    m.d.sync += q_left.eq(q_left - 1)
                    set_next(q_end=q_left == 2, q_open=~q_end)
            with m.If(output & ~v["still"]):
                m.d.sync += entry.eq(entry + 1)
            with m.If(init_once):
                m.d.sync += init.eq(0)

        first_entry = Signal(entry_bits)
        with m.If(~first_tile):
            m.d.comb += first_entry.eq(base)
        with m.Elif(t.stack & ~first_group):
            m.d.comb += first_entry.eq(entry + 1)  # `entry` rests on the last of the group before
        with m.Else():
            m.d.comb += first_entry.eq(t.acc_base)
        with m.If(start):
            if not compact:
                m.d.sync += [v[name].eq(t[name]) for name in _COPIED]
            m.d.sync += [
                v_narrow.eq(narrow),
                v_narrow_out.eq(narrow_out),
                address.eq(t_address + desc.offset),
                row_address.eq(t_address + desc.offset),
                x.eq(t_x + desc.x),
                row_x.eq(t_x + desc.x),
                y.eq(t.y + desc.y),
                x_left.eq(t.width),
                y_left.eq(t.height),
                lag_x_left.eq(t.width),
                lag_x_end.eq(narrow),
                q_left.eq(t.out_width),
                entry.eq(first_entry),
                base.eq(first_entry),
                init.eq(t.init & first_tile),
                init_once.eq(t.still),
                v_bank.eq(bank),
                v_release.eq(release),
            ]
            set_next(x_end=narrow, y_end=flat, q_end=narrow_out, q_open=1)
            set_next(lag=config.taps - 1, skip=desc.skip, column_phase=0, row_phase=0)

        # --- Weights: the load meets row 0 one cycle before the swap ------------------------------------------------
        if not compact:
            loads = _chain(m, start, self.timing.load_delay, "load", reset_less=False)
            tiles = _chain(m, head.tile, self.timing.load_delay, "tile")
            rings = _chain(m, head.ring, self.timing.load_delay, "ring")
            m.d.comb += [self.load.eq(loads[-1]), self.tile.eq(tiles[-1]), self.ring_free.eq(loads[-1] & rings[-1])]

        # --- Activations: read, mask ----------------------------------------------------------------------------------
        m.d.comb += [
            self.r_en.eq(_chain(m, running, self.timing.read_delay, "r_en", reset_less=False)[-1]),
            self.r_addr.eq(_chain(m, address, self.timing.read_delay, "r_addr")[-1]),
        ]
        path = self.timing.operands  # issue to o_act; the mask is registered at path - 1 (with the data), o_act at path
        room = Signal(signed(19))  # bytes from lane 0 to the row's end
        inside_y = Signal()
        m.d.comb += [room.eq(v["x_limit"] - x), inside_y.eq((y >= 0) & (y < v["y_limit"]))]
        first = 1 if path >= 3 else 0  # a register between the subtraction and the comparators when there is time
        at_x = _chain(m, x, first, "mask_x")[-1]
        at_room = _chain(m, room, first, "mask_room")[-1]
        at_inside = _chain(m, inside_y, first, "mask_y")[-1]
        mask = Signal(len(self.o_act))
        # Lane j is inside when -j <= x and j < room; only the lower bits of these depend on j.
        low_bits = (len(self.o_act) - 1).bit_length()
        some_room = ~at_room[-1] & at_room[low_bits:].any()
        nearly = at_x[low_bits:].all()
        for j in range(len(self.o_act)):
            right_of = ~at_x[-1] | (nearly & (at_x[:low_bits] >= (1 << low_bits) - j))
            left_of = some_room | (~at_room[-1] & (at_room[:low_bits] > j))
            m.d.comb += mask[j].eq(right_of & left_of & at_inside)
        masks = _chain(m, mask, path - 1 - first, "mask")
        mask = masks[-1]

        def still(name, cycles):
            """A field of the instruction of the vector issued `cycles` ago; compact: it has not changed since."""
            return v[name] if compact else _chain(m, v[name], cycles, name)[-1]

        zero = still("zero_point", path - 1)
        for j in range(len(self.o_act)):
            lane = Signal(signed(8), name=f"lane{j}", reset_less=True)
            m.d.sync += lane.eq(Mux(mask[j], self.i_data[j], zero))
            m.d.comb += self.o_act[j].eq(lane)
        # Lane j reads byte address + j. It is inside the memory when the upper bits of the address are zero, or all one
        # (just below 0) and the lower ones overflow.
        bits, lanes = config.act_bytes.bit_length() - 1, len(self.o_act)
        outside_read = Signal()
        if bits < len(address) and not compact:
            k = (lanes - 1).bit_length()
            checked = min(1, len(masks) - 1)  # with the mask registered if it is

            def late(value, name):
                return _chain(m, value, first + checked, name)[-1]

            near = address[k:bits].all()
            plain = late(address[bits:] == 0, "read_plain")
            carried = late(Mux(near, address[bits:].all(), address[bits:] == 0), "read_carried")
            low = late(address[:k], "read_low")
            issued = _chain(m, running, first + checked, "read_issued", reset_less=False)[-1]
            wrong = [masks[checked][j] & ~Mux(low >= (1 << k) - j, carried, plain) for j in range(lanes)]
            m.d.comb += outside_read.eq(issued & Cat(wrong).any())
        if not compact:
            outside = Signal()
            m.d.comb += outside.eq(running & output & (entry >= config.acc_depth))
            bad_vector = Signal()
            m.d.sync += bad_vector.eq(outside | outside_read)
            m.d.comb += self.bad_address.eq(bad_vector | loader.bad_address)
            m.d.sync += self.bad_outputs.eq(
                running & v["depthwise"] & (lag == 0) & (skip == 0) & (row_phase == 0) & lag_x_end & q_open & ~row_done
            )
        m.d.comb += [
            self.o_swap.eq(_chain(m, swap, path, "swap", reset_less=False)[-1]),
            self.o_depthwise.eq(still("depthwise", path)),
            self.o_line_delay.eq(still("line_delay", path)),
        ]

        # --- Sums ----------------------------------------------------------------------------------------------------
        enable = Signal()
        done = Signal()
        m.d.comb += [enable.eq(running & output), done.eq(running & final & v_release)]
        enables = _chain(m, enable, self.timing.sums, "a_en", reset_less=False)
        dones = _chain(m, done, self.timing.bank_ready, "ready", reset_less=False)
        m.d.comb += [
            self.a_en.eq(enables[-1]),
            Cat(self.a_bank, self.a_init, self.a_entry[:entry_bits]).eq(
                _delay(m, Cat(v_bank, init, entry), self.timing.sums, "where", in_memory=compact)
            ),
            self.bank_ready.eq(dones[-1]),
            drained.eq(~(running | Cat(enables).any())),
            self.idle.eq(~(held | running | Cat(enables, dones).any() | (0 if compact else loader.busy))),
        ]
        return m

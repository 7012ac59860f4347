"""The accelerator as a block diagram: host link, run control, memories, engines and array, and what connects them."""

from amaranth.hdl import Module, Mux, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.array import Array
from lepton.rtl.base_registers import BaseRegisters
from lepton.rtl.compact.parts import COMPACT
from lepton.rtl.layouts import BURST, INDEX, LOAD_BITS, TAIL_BITS
from lepton.rtl.memory_arbiter import MemoryArbiter
from lepton.rtl.memory_host import MemoryHost
from lepton.rtl.move import MoveEngine
from lepton.rtl.parts import LARGE, MEMORY, Parts
from lepton.rtl.run_control import RunControl
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Region, Status
from lepton.rtl.tokens import TokenCounter, TokenGate


def parts_of(config: NpuConfig) -> Parts:
    """The parts of the machine of that configuration."""
    return COMPACT if config.compact else MEMORY if config.memory_width else LARGE


class Npu(wiring.Component):
    """One accelerator behind a byte stream, or what else its host link is.

    Parameters: ``config``; ``link_timeout``, cycles without a byte after which the link drops a partial request;
    ``parts``, other than `parts_of` gives.

    Members:
        ``status`` Out(Status): as the register
        ``i`` Stream(8): request bytes · ``o`` Stream(8): reply bytes (frames: `frames`); of another link its own
        with ``ring_tiles`` only: ``x_req`` Stream(BURST), ``x_data`` Stream(8): burst read port to external memory; the
        bytes of the bursts in the order of the requests, several of which may be under way
        with ``external_bytes`` only: ``x_w_en``, ``x_w_addr`` (20), ``x_w_data`` (8): the host writes a byte of the
        external memory, never during a run
        with ``memory_width`` only: ``memory`` `ports.memory_port`

    Run: with START taken in cycle s the engines are cleared, and the run's cycles are s + 1 (`fetch` starts) to the one
    in which END has been read and all engines are idle; CYCLES counts them, and each is counted as one `Cause`, so the
    counters sum to CYCLES. DRAIN: no MUL is left and no vector is issued. RESET clears the engines and sets IDLE;
    memories and counters stay. During a run the memories belong to the engines, else to the link.
    Errors: `fetch`, `multiply` and `tail` report what the machine does not do; the engines are cleared at once and the
    status tells which (`Status`). When nothing progressed for ``watchdog`` cycles (no word fetched, no vector issued,
    no tail read, no external byte came) the run ends with STALLED.
    """

    def __init__(
        self,
        config: NpuConfig,
        watchdog: int = 65536,
        link_timeout: int = timing.LINK_TIMEOUT,
        parts: Parts | None = None,
    ):
        self._parts = parts or parts_of(config)
        self._config = config
        self._control = RunControl(config, watchdog, self._parts.counted)
        self._link = self._parts.link(config, timing.of(config).link_read, timeout=link_timeout)
        members = {name: self._link.signature.members[name] for name in self._link.OUTSIDE} | {"status": Out(Status)}
        if config.ring_tiles:
            members["x_req"] = Out(stream.Signature(BURST))
            members["x_data"] = In(stream.Signature(8))
        if config.external_bytes:
            members |= {"x_w_en": Out(1), "x_w_addr": Out(INDEX), "x_w_data": Out(8)}
        if config.memory_width:
            members["memory"] = Out(ports.memory_port(config.memory_width))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config, parts = self._config, self._parts
        control, link = self._control, self._link
        fetch, multiply, tail = parts.fetch(config), parts.multiply(config), parts.tail(config)
        program, params = parts.program(config), parts.params(config)
        activations, tiles, accumulators = parts.activations(config), parts.tiles(config), parts.accumulators(config)
        array = Array(config)
        engines = {"fetch": fetch, "multiply": multiply, "tail": tail}
        others = {
            "run_control": control,
            "link": link,
            "program": program,
            "params": params,
            "activations": activations,
        }
        others |= {"tile_supply": tiles, "array": array, "accumulators": accumulators}
        for name, unit in engines.items():
            m.submodules[name] = ResetInserter(control.clear)(unit)
        for name, unit in others.items():
            m.submodules[name] = unit

        def connect(*interfaces):
            wiring.connect(m, *interfaces)

        # Host.
        for name in link.OUTSIDE:
            connect(wiring.flipped(getattr(self, name)), getattr(link, name))
        connect(link.run, control.request)
        connect(link.read, activations.host_read)
        m.d.comb += [link.registers.eq(control.registers), self.status.eq(control.status)]
        written = (params, activations, tiles) if config.memory_width else (program, params, activations, tiles)
        ports.feed(m, link.write, *(unit.host for unit in written))

        # Instructions.
        loads, tails = fetch.o_load, fetch.o_tail
        if config.memory_width:
            loads, tails = self._gates(m, fetch)
        connect(fetch.program, program.read)
        connect(loads, tiles.i)
        connect(fetch.o_mul, multiply.i)
        connect(tails, tail.i)

        # Tiles and activations to the array, sums to the accumulators, results to the activations.
        connect(multiply.tiles, tiles.tiles)
        connect(tiles.rows, array.tile)
        connect(multiply.read, activations.read)
        connect(multiply.vectors, array.vectors)
        connect(multiply.sums, accumulators.sums)
        connect(multiply.banks, tail.banks)
        connect(tail.acc, accumulators.tail)
        connect(tail.params, params.read)
        connect(tail.write, activations.write)
        m.d.comb += accumulators.psum.eq(array.psum)

        # Runs.
        running = control.running
        waiting = fetch.o_load.valid | fetch.o_mul.valid | fetch.o_tail.valid
        progress = fetch.moved | (multiply.cause == Cause.MULTIPLY) | tail.acc.r_en | tiles.moved
        bad_instruction = fetch.bad | multiply.bad_outputs | tail.bad_bank
        bad_address = multiply.bad_address | tail.bad_address
        if config.memory_width:
            move = self._move(m, engines | others)
            memory_idle = self._memory(m, engines | others, move)
            waiting |= fetch.o_move.valid | ~move.idle | ~memory_idle
            progress |= move.moved
            bad_instruction |= self._tokens(m, engines, move)
            bad_address |= move.bad_address
        m.d.comb += [
            fetch.start.eq(control.go),
            fetch.pc.eq(control.pc),
            control.cause.eq(multiply.cause),
            control.no_more.eq(fetch.done_fetching & ~fetch.o_mul.valid),
            control.progress.eq(progress),
            control.finished.eq(fetch.done_fetching & ~waiting & multiply.idle & tail.idle & tiles.idle),
            control.bad_opcode.eq(fetch.error),
            control.bad_instruction.eq(bad_instruction),
            control.bad_address.eq(bad_address),
            activations.running.eq(running),
            activations.busy.eq(link.run.busy),
            params.running.eq(running),
            tiles.running.eq(running),
            tiles.clear.eq(control.clear),
        ]

        # External memory.
        if config.ring_tiles:
            connect(tiles.x.req, wiring.flipped(self.x_req))
            connect(wiring.flipped(self.x_data), tiles.x.data)
        if config.external_bytes:
            m.d.comb += [
                self.x_w_en.eq(link.write.en & (link.write.region == Region.EXTERNAL)),
                self.x_w_addr.eq(link.write.index),
                self.x_w_data.eq(link.write.data),
            ]
        return m

    # --- With a memory port ---
    def _gates(self, m, fetch):
        """LOADs and TAILs that have what they take of MOVE."""

        def asks(op, payload):
            return payload[op.offset("wait_move")[0]]

        m.submodules.load_gate = load = TokenGate(LOAD_BITS, lambda payload: asks(isa.LOAD, payload))
        m.submodules.tail_gate = tail = TokenGate(
            TAIL_BITS,
            lambda payload: Mux(payload[:4] == isa.Opcode.TABLE, asks(isa.TABLE, payload), asks(isa.TAIL, payload)),
        )
        wiring.connect(m, fetch.o_load, load.i)
        wiring.connect(m, fetch.o_tail, tail.i)
        return load.o, tail.o

    def _move(self, m, units):
        """MOVE and what it moves."""
        control, fetch, activations = (units[name] for name in ("run_control", "fetch", "activations"))
        multiply, tail = units["multiply"], units["tail"]
        move = MoveEngine(self._config)
        m.submodules.move = ResetInserter(control.clear)(move)
        wiring.connect(m, fetch.o_move, move.i)
        wiring.connect(m, move.read, activations.move_read)
        wiring.connect(m, move.write, activations.move_write)
        wiring.connect(m, move.tiles, units["tile_supply"].move)
        wiring.connect(m, move.params, units["params"].move)
        m.d.comb += [
            activations.tail_reads.eq(tail.acc.r_en),
            multiply.hold.eq(activations.hold_pass),
            tail.hold.eq(activations.hold_tail),
        ]
        return move

    def _tokens(self, m, engines, move):
        """Between MOVE and the other engines. Returns whether there were more than are counted."""
        multiply, tail, clear = engines["multiply"], engines["tail"], self._control.clear
        load_gate, tail_gate = m.submodules.load_gate, m.submodules.tail_gate
        lost = multiply.lost
        for name, give, token in (
            ("load", move.post_load, load_gate.token),
            ("mul", move.post_mul, multiply.move),
            ("tail", move.post_tail, tail_gate.token),
            ("from_mul", multiply.post_move, move.mul),
            ("from_tail", tail.post_move, move.tail),
        ):
            counter = TokenCounter()
            m.submodules[f"tokens_{name}"] = ResetInserter(clear)(counter)
            wiring.connect(m, token, counter.token)
            m.d.comb += counter.give.eq(give)
            lost |= counter.lost
        m.d.comb += multiply.load_waits.eq(load_gate.waits)
        return lost

    def _memory(self, m, units, move):
        """What is behind the memory port's arbiter, and the registers that addresses count from. Returns whether
        nothing of a run is under way there."""
        control, link, program = (units[name] for name in ("run_control", "link", "program"))
        width = self._config.memory_width
        m.submodules.bases = bases = BaseRegisters()
        m.submodules.memory_host = host = MemoryHost(width)
        m.submodules.arbiter = arbiter = MemoryArbiter(width)
        wiring.connect(m, wiring.flipped(self.memory), arbiter.memory)
        wiring.connect(m, program.memory, arbiter.program)
        wiring.connect(m, move.memory, arbiter.move)
        wiring.connect(m, host.memory, arbiter.host)
        wiring.connect(m, link.memory, host.host)
        ports.feed(m, link.write, bases.host)
        m.d.comb += [
            program.image.eq(bases.image),
            move.image.eq(bases.image),
            move.arena.eq(bases.arena),
            program.clear.eq(control.clear),
            arbiter.clear.eq(control.clear),
            control.bus_error.eq(self.memory.error),
            *(link.registers[reg].eq(value) for reg, value in ((Reg.IMAGE, bases.image), (Reg.ARENA, bases.arena))),
        ]
        return arbiter.idle

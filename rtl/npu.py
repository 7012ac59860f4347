"""The accelerator as a block diagram: host link, run control, memories, engines and array, and what connects them."""

from amaranth.hdl import Module, ResetInserter
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.array import Array
from lepton.rtl.compact.parts import COMPACT
from lepton.rtl.layouts import BURST, INDEX
from lepton.rtl.parts import LARGE, Parts
from lepton.rtl.run_control import RunControl
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Region, Status


def parts_of(config: NpuConfig) -> Parts:
    """The parts of the machine of that configuration."""
    return COMPACT if config.compact else LARGE


class Npu(wiring.Component):
    """One accelerator behind a byte stream.

    Parameters: ``config``; ``link_timeout``, cycles without a byte after which the link drops a partial request.

    Members:
        ``status`` Out(Status): as the register
        ``i`` Stream(8): request bytes · ``o`` Stream(8): reply bytes (frames: `frames`)
        with ``ring_tiles`` only: ``x_req`` Stream(BURST), ``x_data`` Stream(8): burst read port to external memory; the
        bytes of the bursts in the order of the requests, several of which may be under way
        with ``external_bytes`` only: ``x_w_en``, ``x_w_addr`` (20), ``x_w_data`` (8): the host writes a byte of the
        external memory, never during a run

    Run: with START taken in cycle s the engines are cleared, and the run's cycles are s + 1 (`fetch` starts) to the one
    in which END has been read and all engines are idle; CYCLES counts them, and each is counted as one `Cause`, so the
    counters sum to CYCLES. DRAIN: no MUL is left and no vector is issued. RESET clears the engines and sets IDLE;
    memories and counters stay. During a run the memories belong to the engines, else to the link.
    Errors: `fetch`, `multiply` and `tail` report what the machine does not do; the engines are cleared at once and the
    status tells which (`Status`). When nothing progressed for ``watchdog`` cycles (no word fetched, no vector issued,
    no tail read, no external byte came) the run ends with STALLED.
    """

    def __init__(self, config: NpuConfig, watchdog: int = 65536, link_timeout: int = timing.LINK_TIMEOUT):
        parts = parts_of(config)
        self._config = config
        self._control = RunControl(config, watchdog, parts.counted)
        self._link_timeout = link_timeout
        members = {"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), "status": Out(Status)}
        if config.ring_tiles:
            members["x_req"] = Out(stream.Signature(BURST))
            members["x_data"] = In(stream.Signature(8))
        if config.external_bytes:
            members |= {"x_w_en": Out(1), "x_w_addr": Out(INDEX), "x_w_data": Out(8)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config, parts = self._config, parts_of(self._config)
        control = self._control
        link = parts.link(config, timing.of(config).link_read, timeout=self._link_timeout)
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
        connect(wiring.flipped(self.i), link.i)
        connect(link.o, wiring.flipped(self.o))
        connect(link.run, control.request)
        connect(link.read, activations.host_read)
        m.d.comb += [link.registers.eq(control.registers), self.status.eq(control.status)]
        ports.feed(m, link.write, program.host, params.host, activations.host, tiles.host)

        # Instructions.
        connect(fetch.program, program.read)
        connect(fetch.o_load, tiles.i)
        connect(fetch.o_mul, multiply.i)
        connect(fetch.o_tail, tail.i)

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
        m.d.comb += [
            fetch.start.eq(control.go),
            fetch.pc.eq(control.pc),
            control.cause.eq(multiply.cause),
            control.no_more.eq(fetch.done_fetching & ~fetch.o_mul.valid),
            control.progress.eq(fetch.moved | (multiply.cause == Cause.MULTIPLY) | tail.acc.r_en | tiles.moved),
            control.finished.eq(fetch.done_fetching & ~waiting & multiply.idle & tail.idle & tiles.idle),
            control.bad_opcode.eq(fetch.error),
            control.bad_instruction.eq(fetch.bad | multiply.bad_outputs | tail.bad_bank),
            control.bad_address.eq(multiply.bad_address | tail.bad_address),
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

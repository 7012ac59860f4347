"""The accelerator: host link, memories, engines and array connected, with its run control and cycle counters."""

from amaranth.hdl import Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.act_memory import ActMemory
from lepton.rtl.array import Array
from lepton.rtl.compact.serial_accumulators import SerialAccumulators
from lepton.rtl.compact.serial_loader import SerialLoader, first_word
from lepton.rtl.compact.serial_tail import SerialTail
from lepton.rtl.compact.spram import Spram, SpramActMemory
from lepton.rtl.fetch import Fetch
from lepton.rtl.link import Link
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.prefetch import BURST, Prefetch
from lepton.rtl.spec import identity, isa, timing
from lepton.rtl.spec.config import KEEP, NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Region, Status
from lepton.rtl.tail import TailEngine
from lepton.rtl.weight_store import WeightStore


class Npu(wiring.Component):
    """One accelerator behind a byte stream.

    Parameters: ``config``; ``link_timeout``, cycles without a byte after which the link drops a partial request.

    Members:
        ``status`` Out(Status): as the register
        ``i`` Stream(8): request bytes · ``o`` Stream(8): reply bytes (frames: `isa`, host link)
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

    def __init__(self, config: NpuConfig, watchdog: int = 65536, link_timeout: int = 65536):
        if watchdog < 64:
            raise ValueError(f"watchdog={watchdog}: must be at least 64, or the pipelines look like a stall")
        self._config = config
        self._watchdog = watchdog
        self._link_timeout = link_timeout
        members = {"i": In(stream.Signature(8)), "o": Out(stream.Signature(8)), "status": Out(Status)}
        if config.ring_tiles:
            members["x_req"] = Out(stream.Signature(BURST))
            members["x_data"] = In(stream.Signature(8))
        if config.external_bytes:
            members |= {"x_w_en": Out(1), "x_w_addr": Out(20), "x_w_data": Out(8)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self._config

        clear = Signal()  # engines forget everything
        reset = ResetInserter(clear)
        compact = config.compact
        fetch, multiply, array = Fetch(config), MultiplyEngine(config), Array(config)
        if compact:
            tail, act, acc = SerialTail(config), SpramActMemory(config), SerialAccumulators(config)
            weights, params, loader = Spram(), Spram(), SerialLoader(config)
            m.submodules.params = params
            m.submodules.loader = reset(loader)
        else:
            tail = TailEngine(config)
            act, acc, weights = ActMemory(config), Accumulators(config), WeightStore(config)
        # The link is far from the memory, so its reads are registered on the way, and again where they arrive.
        on_way = timing.of(config).link_way
        link = Link(config, timing.of(config).link_read, timeout=self._link_timeout)
        r_en, r_addr = link.r_en, link.r_addr
        for k in range(on_way):
            en, addr = Signal(name=f"r_en_{k}"), Signal(20, name=f"r_addr_{k}", reset_less=True)
            m.d.sync += [en.eq(r_en & ~link.busy), addr.eq(r_addr)]
            r_en, r_addr = en, addr
        m.submodules.link = link
        m.submodules.fetch = reset(fetch)
        m.submodules.multiply = reset(multiply)
        m.submodules.tail = reset(tail)
        m.submodules.act_memory = act
        m.submodules.weight_store = weights
        m.submodules.array = array
        m.submodules.accumulators = acc
        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))

        # --- Run control ------------------------------------------------------------------------------------------
        status = self.status
        running, finished = Signal(), Signal()
        go = Signal()
        failed, failure = Signal(), Signal(Status)
        progress = Signal()
        quiet = Signal(range(self._watchdog))  # cycles without progress
        stalled = Signal()
        m.d.sync += [
            quiet.eq(Mux(running & ~progress, quiet + 1, 0)),
            stalled.eq(running & ~progress & (quiet == self._watchdog - 1)),
        ]
        with m.If(fetch.error):
            m.d.comb += [failed.eq(1), failure.eq(Status.BAD_OPCODE)]
        if not compact:
            with m.Elif(fetch.bad | multiply.bad_outputs | tail.bad_bank):
                m.d.comb += [failed.eq(1), failure.eq(Status.BAD_INSTRUCTION)]
            with m.Elif(multiply.bad_address | tail.bad_address):
                m.d.comb += [failed.eq(1), failure.eq(Status.BAD_ADDRESS)]
        with m.Else():
            m.d.comb += [failed.eq(stalled), failure.eq(Status.STALLED)]
        m.d.comb += [
            running.eq(status == Status.RUNNING),
            clear.eq(link.start | link.reset_run | (running & failed)),
            link.busy.eq(running | link.start),
            fetch.start.eq(go),
            fetch.pc.eq(link.start_pc),
        ]
        m.d.sync += go.eq(link.start & ~link.reset_run)
        with m.If(link.reset_run):
            m.d.sync += status.eq(Status.IDLE)
        with m.Elif(link.start):
            m.d.sync += status.eq(Status.RUNNING)
        with m.Elif(running & failed):
            m.d.sync += status.eq(failure)
        with m.Elif(running & finished):
            m.d.sync += status.eq(Status.DONE)

        # --- Counters ---------------------------------------------------------------------------------------------
        cycles = Signal(32)
        counters = {} if compact else {cause: Signal(32, name=f"count_{cause.name.lower()}") for cause in Cause}
        no_more = Signal()  # in the cycle before, no MUL was left
        cause = Signal(Cause)
        m.d.sync += no_more.eq(fetch.done_fetching & ~fetch.o_mul.valid & ~link.start)
        m.d.comb += cause.eq(Mux((multiply.cause == Cause.FETCH) & no_more, Cause.DRAIN, multiply.cause))
        with m.If(link.start):
            m.d.sync += [cycles.eq(0), *(c.eq(0) for c in counters.values())]
        with m.Elif(running):
            m.d.sync += cycles.eq(cycles + 1)
            with m.Switch(cause):
                for which, counter in counters.items():
                    with m.Case(which):
                        m.d.sync += counter.eq(counter + 1)

        values = identity.pack(config)
        values |= {Reg.STATUS: status, Reg.RUN_ID: link.run_id, Reg.CYCLES: cycles}
        values |= {Reg[c.name]: counter for c, counter in counters.items()}
        m.d.comb += [link.registers[int(r)].eq(value) for r, value in values.items()]

        # --- Memories the link writes -----------------------------------------------------------------------------
        def memory(name, region, bits):
            """Memory of whole words, written a byte at a time by the link; returns its read port."""
            size = bits // 8
            m.submodules[name] = unit = Memory(
                shape=bits, depth=isa.depth(region, config), init=[], attrs={"no_rw_check": 1}
            )
            write = unit.write_port(granularity=8)
            on = link.w_en & (link.w_region == region)
            index, byte, value = link.w_index, link.w_byte[: (size - 1).bit_length()], link.w_data
            if not compact:  # a cycle later: the link is far
                late = [Signal(name=f"{name}_on")]
                late += [
                    Signal(len(s), name=f"{name}_w{k}", reset_less=True, attrs=KEEP)
                    for k, s in enumerate((index, byte, value))
                ]
                m.d.sync += [late[0].eq(on), late[1].eq(index), late[2].eq(byte), late[3].eq(value)]
                on, index, byte, value = late
            m.d.comb += [
                write.addr.eq(index),
                write.data.eq(value.replicate(size)),
                write.en.eq(Mux(on, 1 << byte, 0)),
            ]
            return unit.read_port()

        program = memory("program", Region.PROGRAM, 8 * isa.word_bytes(Region.PROGRAM, config))
        m.d.comb += [
            program.en.eq(fetch.p_en),
            program.addr.eq(fetch.p_addr),
            fetch.p_data.eq(program.data),
        ]
        w_act = Signal()
        m.d.comb += w_act.eq(link.w_en & (link.w_region == Region.ACT))
        engine_reads = [act.r_en.eq(multiply.r_en), act.r_addr.eq(multiply.r_addr)]
        link_reads = [act.r_en.eq(r_en), act.r_addr.eq(r_addr)]
        if not compact:  # `running` comes from afar
            with m.If(r_en):
                m.d.comb += link_reads
            with m.Else():
                m.d.comb += engine_reads
            engine_reads = link_reads = []
        with m.If(running):
            m.d.comb += [
                *engine_reads,
                act.w_en.eq(tail.w_en),
                act.w_addr.eq(tail.w_addr),
                act.w_count.eq(tail.w_count),
                act.w_data.eq(tail.w_data),
            ]
        with m.Else():
            m.d.comb += [
                *link_reads,
                act.w_en.eq(w_act),
                act.w_addr.eq(link.w_index),
                act.w_count.eq(1),
                act.w_data[0].eq(link.w_data),
            ]
        m.d.comb += multiply.i_data.eq(act.r_data)

        if compact:
            # One memory of 16-bit words each: the link's while no run is in progress.
            half, odd = link.w_byte >> 1, link.w_byte[0]
            index = link.w_index[:14]
            for unit, region, address, mine in (
                (weights, Region.WEIGHT, first_word(index), loader.s_addr),
                (params, Region.PARAM, index << 3, tail.p_addr),
            ):
                m.d.comb += [
                    unit.addr.eq(Mux(running, mine, address + half)),
                    unit.w_on.eq(Mux(link.w_en & (link.w_region == region), 1 << odd, 0)),
                    unit.w_data.eq(link.w_data.replicate(2)),
                ]
            wiring.connect(m, fetch.o_load, loader.i)
            wiring.connect(m, loader.o, multiply.i_tile)
            m.d.comb += [unit.i_index.eq(fetch.o_index) for unit in (loader, multiply, tail)]
            m.d.comb += [
                link.r_data.eq(Mux(link.r_addr[0], act.r_data[1], act.r_data[0])),
                loader.s_data.eq(weights.r_data),
                tail.p_data.eq(params.r_data),
                array.i_load.eq(loader.o_load),
                array.i_weights.eq(loader.o_weights),
                acc.t_r_column.eq(tail.t_r_column),
            ]
            others_idle, external_byte = ~loader.busy, 0
        else:
            others_idle, external_byte = self._tiles(m, config, link, fetch, multiply, weights, array, running, clear)
            params = memory("params", Region.PARAM, 8 * isa.word_bytes(Region.PARAM, config))
            m.d.comb += [
                params.en.eq(tail.p_en),
                params.addr.eq(tail.p_addr),
                tail.p_data.eq(params.data),
                link.r_data.eq(act.r_data[0]),
                acc.t_w_en.eq(tail.t_w_en),
                acc.t_w_entry.eq(tail.t_w_entry),
                acc.t_w_sub.eq(tail.t_w_sub),
                acc.t_w_data.eq(tail.t_w_data),
            ]

        # --- Engines ----------------------------------------------------------------------------------------------
        wiring.connect(m, fetch.o_mul, multiply.i_mul)
        wiring.connect(m, fetch.o_tail, tail.i)
        m.d.comb += [
            array.i_act.eq(multiply.o_act),
            array.i_depthwise.eq(multiply.o_depthwise),
            array.i_swap.eq(multiply.o_swap),
            array.i_line_delay.eq(multiply.o_line_delay),
            acc.a_en.eq(multiply.a_en),
            acc.a_bank.eq(multiply.a_bank),
            acc.a_entry.eq(multiply.a_entry),
            acc.a_init.eq(multiply.a_init),
            acc.a_psum.eq(array.o_psum),
            acc.t_bank.eq(tail.t_bank),
            acc.t_r_en.eq(tail.t_r_en),
            acc.t_r_entry.eq(tail.t_r_entry),
            tail.t_r_data.eq(acc.t_r_data),
            multiply.token_in.eq(tail.post),
            multiply.bank_free.eq(tail.bank_free),
            tail.bank_ready.eq(multiply.bank_ready),
            progress.eq(fetch.moved | (multiply.cause == Cause.MULTIPLY) | tail.t_r_en | external_byte),
            finished.eq(
                fetch.done_fetching
                & ~(fetch.o_load.valid | fetch.o_mul.valid | fetch.o_tail.valid)
                & multiply.idle
                & tail.idle
                & others_idle
            ),
        ]
        return m

    def _tiles(self, m, config, link, fetch, multiply, weights, array, running, clear):
        """The weight store, and the ring's prefetch; returns what tells that it is idle, and that a byte came."""
        m.d.comb += [
            weights.load.eq(multiply.load),
            weights.tile.eq(multiply.tile),
            weights.d_en.eq(multiply.d_en),
            weights.d_tile.eq(multiply.d_tile),
            multiply.descriptor.eq(weights.descriptor),
            array.i_load.eq(weights.o_load),
            array.i_weights.eq(weights.o_weights),
            weights.w_en.eq(link.w_en & (link.w_region == Region.WEIGHT)),
            weights.w_tile.eq(link.w_index),
            weights.w_byte.eq(link.w_byte),
            weights.w_data.eq(link.w_data),
        ]
        if config.external_bytes:
            m.d.comb += [
                self.x_w_en.eq(link.w_en & (link.w_region == Region.EXTERNAL)),
                self.x_w_addr.eq(link.w_index),
                self.x_w_data.eq(link.w_data),
            ]
        idle, external_byte = 1, 0
        if config.ring_tiles:
            m.submodules.prefetch = prefetch = Prefetch(config)
            wiring.connect(m, fetch.o_load, prefetch.i)
            wiring.connect(m, prefetch.o, multiply.i_load)
            wiring.connect(m, prefetch.x_req, wiring.flipped(self.x_req))
            wiring.connect(m, wiring.flipped(self.x_data), prefetch.x_data)
            with m.If(running):
                m.d.comb += [
                    weights.w_en.eq(prefetch.w_en),
                    weights.w_tile.eq(prefetch.w_tile),
                    weights.w_byte.eq(prefetch.w_byte),
                    weights.w_data.eq(prefetch.w_data),
                ]
            m.d.comb += [
                prefetch.clear.eq(clear),
                prefetch.ring_free.eq(multiply.ring_free),
                multiply.ring_count.eq(prefetch.ring_count),
            ]
            idle, external_byte = prefetch.idle, self.x_data.valid
        else:
            wiring.connect(m, fetch.o_load, multiply.i_load)
        return idle, external_byte

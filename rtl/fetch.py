"""Instruction fetch: program memory to the three engines' queues."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .config import NpuConfig
from .isa import OPS, WORD_BITS, Opcode
from .skid import SkidQueue

__all__ = ["Fetch"]

_TARGETS = {Opcode.LOAD: "load", Opcode.MUL: "mul", Opcode.TAIL: "tail", Opcode.TABLE: "tail"}
_BITS = {"load": 128, "mul": 256, "tail": 256}


class Fetch(wiring.Component):
    """Read a program, assemble whole instructions, hand each to the queue of its engine.

    Members:
        ``start`` In(1): pulse; starts (or restarts) at word ``pc`` · ``pc`` In(16)
        ``p_en`` Out(1), ``p_addr`` Out(16): read of the program memory · ``p_data`` In(64): its word one cycle later
        ``o_load`` Stream(128), ``o_mul`` Stream(256), ``o_tail`` Stream(256): instructions, unused high bits undefined
        ``done_fetching`` Out(1): END was read · ``error`` Out(1): an unknown opcode, or the program ran off the
        memory. Either stops the fetch; both hold until the next ``start``. Queued instructions stay.
    Throughput: one word a cycle. An instruction's last word waits while its queue (``DEPTH`` instructions) is full.
    Latency: with ``start`` in cycle s and no stall, word k (counted from the first) is taken in cycle s + 2 + k; the
    instruction of which it is the last word is valid at its output in cycle s + 3 + k, and ``done_fetching`` or
    ``error`` is up in s + 3 + k. Reset: stopped, queues empty.
    """

    DEPTH = 2

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "pc": In(16),
                "p_en": Out(1),
                "p_addr": Out(16),
                "p_data": In(64),
                "o_load": Out(stream.Signature(_BITS["load"])),
                "o_mul": Out(stream.Signature(_BITS["mul"])),
                "o_tail": Out(stream.Signature(_BITS["tail"])),
                "done_fetching": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        queues = {}
        for name, bits in _BITS.items():
            m.submodules[f"queue_{name}"] = queues[name] = SkidQueue(bits, self.DEPTH)
            wiring.connect(m, queues[name].o, wiring.flipped(getattr(self, f"o_{name}")))

        running = Signal()
        have = Signal()  # p_data is the word at `at`
        at = Signal(17)
        take = Signal()
        addr = Signal(17)
        m.d.comb += [
            addr.eq(at + take),
            self.p_en.eq(running),
            self.p_addr.eq(addr),
        ]
        m.d.sync += [at.eq(addr), have.eq(running)]

        index = Signal(2)  # word within the instruction
        opcode, held = Signal(4), Signal(4)
        parts = [Signal(WORD_BITS, name=f"part{k}", reset_less=True) for k in range(3)]
        m.d.comb += opcode.eq(Mux(index == 0, self.p_data[:4], held))
        full = {name: ~queue.i.ready for name, queue in queues.items()}
        last, known, end, blocked = Signal(), Signal(), Signal(), Signal()
        with m.Switch(opcode):
            for op in OPS.values():
                with m.Case(op.opcode):
                    m.d.comb += [known.eq(1), last.eq(index == op.words - 1)]
                    if op.opcode == Opcode.END:
                        m.d.comb += end.eq(1)
                    else:
                        m.d.comb += blocked.eq(last & full[_TARGETS[op.opcode]])
        outside = Signal()
        m.d.comb += outside.eq(at >= self._config.program_words)

        with m.If(have & running):
            with m.If(outside | ~known):
                m.d.sync += [self.error.eq(1), running.eq(0)]
            with m.Elif(end):
                m.d.sync += [self.done_fetching.eq(1), running.eq(0)]
            with m.Elif(~blocked):
                m.d.comb += take.eq(1)
                m.d.sync += [held.eq(opcode), index.eq(Mux(last, 0, index + 1))]
                with m.Switch(index):
                    for k, part in enumerate(parts):
                        with m.Case(k):
                            m.d.sync += part.eq(self.p_data)

        # The word at hand is the instruction's last: it goes to the queue directly, the ones before from `parts`.
        whole = {op.words: Cat(*parts[: op.words - 1], self.p_data) for op in OPS.values()}
        for name, queue in queues.items():
            with m.Switch(opcode):
                for code, target in _TARGETS.items():
                    if target == name:
                        with m.Case(code):
                            m.d.comb += [
                                queue.i.valid.eq(take & last),
                                queue.i.payload.eq(whole[OPS[code].words]),
                            ]

        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                have.eq(0),
                at.eq(self.pc),
                index.eq(0),
                self.done_fetching.eq(0),
                self.error.eq(0),
            ]
        return m

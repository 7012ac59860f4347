"""Instruction fetch: program memory to the three engines' queues."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.layouts import PC
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import OPS, WORD_BITS, Op, Opcode, last_word, operations, rules

__all__ = ["AtHand", "Fetch", "TARGETS"]

TARGETS = {Opcode.LOAD: "load", Opcode.MUL: "mul", Opcode.TAIL: "tail", Opcode.TABLE: "tail", Opcode.MOVE: "move"}
"""The engine of each instruction."""


@dataclass(frozen=True)
class AtHand:
    """The word that is looked at, where it stands in its instruction, and what becomes of it."""

    word: Value
    index: Signal
    opcode: Signal
    last: Signal
    """Of its instruction."""
    there: Value
    """It is at hand, and the memory's."""
    take: Signal


class Fetch(wiring.Component):
    """Read a program, assemble whole instructions, hand each to the queue of its engine.

    Members:
        ``start`` In(1): pulse; starts (or restarts) at word ``pc`` In(16)
        ``program`` `ports.memory_read`
        ``o_load`` Stream(128), ``o_mul`` Stream(256), ``o_tail`` Stream(256): instructions, unused high bits undefined
        ``moved`` Out(1): a word is taken · ``done_fetching`` Out(1): END was read · ``error`` Out(1): an unknown
        opcode, or the program ran off the memory · ``bad`` Out(1): an instruction breaks one of `isa.rules`. Each of
        the three stops the fetch and holds until the next ``start``. Queued instructions stay; one whose last word
        shows that it breaks a rule is queued too.
    Words are read up to ``AHEAD`` before they are taken.
    Throughput: one word a cycle. An instruction's last word waits while its queue (``DEPTH`` instructions) is full.
    Latency: with ``start`` in cycle s and no stall, word k (counted from the first) is taken in cycle
    s + `Timing.fetch` + k; the instruction of which it is the last word is valid at its output the cycle after, and
    ``done_fetching``, ``error`` or ``bad`` (by the first word with which it is certain) is up then. Reset: stopped,
    queues empty.
    """

    DEPTH = timing.FETCH_QUEUE
    AHEAD = timing.FETCH_AHEAD
    PAYLOADS: dict[str, object] = {"load": layouts.LOAD_BITS, "mul": layouts.MUL_BITS, "tail": layouts.TAIL_BITS}
    """What its outputs carry."""

    def __init__(self, config: NpuConfig):
        self._config = config
        self._ops = self._operations()
        super().__init__(
            {
                "start": In(1),
                "pc": In(layouts.pc_bits(config)),
                "program": Out(self._program()),
                **{f"o_{name}": Out(stream.Signature(payload)) for name, payload in self.PAYLOADS.items()},
                "done_fetching": Out(1),
                "error": Out(1),
                "bad": Out(1),
                "moved": Out(1),
            }
        )

    def _operations(self) -> tuple[Op, ...]:
        """The instructions it knows."""
        return operations(self._config)

    def _program(self) -> wiring.Signature:
        """Where the words come from."""
        return ports.memory_read(PC, WORD_BITS)

    def _queue(self, name: str, bits: object) -> wiring.Component:
        """Where an engine's instructions wait."""
        return SkidQueue(bits, self.DEPTH)

    def elaborate(self, platform):
        m = Module()
        running = Signal()
        take = Signal()
        m.d.comb += self.moved.eq(take)
        have, word, outside = self._words(m, running, take)
        index = Signal(2)  # word within the instruction
        opcode = Signal(4)
        held = Signal(4)
        m.d.comb += opcode.eq(Mux(index == 0, word[:4], held))
        last = Signal()
        known = Signal()
        end = Signal()
        blocked = Signal()
        at_hand = AtHand(word, index, opcode, last, have & running & ~outside, take)
        room, broken = self._hand_over(m, at_hand)

        with m.Switch(opcode):
            for op in self._ops:
                with m.Case(op.opcode):
                    m.d.comb += [known.eq(1), last.eq(index == op.words - 1)]
                    if op.opcode == Opcode.END:
                        m.d.comb += end.eq(1)
                    else:
                        m.d.comb += blocked.eq(~room[TARGETS[op.opcode]])
        with m.If(have & running):
            with m.If(outside | ~known):
                m.d.sync += [self.error.eq(1), running.eq(0)]
            with m.Elif(end):
                m.d.sync += [self.done_fetching.eq(1), running.eq(0)]
            with m.Elif(~blocked):
                m.d.comb += take.eq(1)
                with m.If(broken):
                    m.d.sync += [self.bad.eq(1), running.eq(0)]
                m.d.sync += [held.eq(opcode), index.eq(Mux(last, 0, index + 1))]
        with m.If(self.start):
            m.d.sync += [running.eq(1), index.eq(0)]
            m.d.sync += [self.done_fetching.eq(0), self.error.eq(0), self.bad.eq(0)]
        return m

    def _words(self, m, running, take):
        """Words of the program: (one is at hand, it, it lies beyond the memory).

        A block RAM's word comes late, so it is decoded from a register, and reads do not wait for what it says. With it
        comes whether it lies beyond the memory.
        """
        m.submodules.words = words = ResetInserter(self.start)(SkidQueue(WORD_BITS + 1, self.AHEAD))
        ahead = Signal(range(self.AHEAD + 1))  # words read and not yet taken
        reading = Signal(PC + 1)
        asked = Signal()  # the memory's word is the one after those in the queue
        beyond = Signal()
        have = Signal()
        word = Signal(WORD_BITS)
        outside = Signal()
        m.d.comb += [
            self.program.en.eq(running & (ahead != self.AHEAD)),
            self.program.addr.eq(reading),
            words.i.valid.eq(asked),
            words.i.payload.eq(Cat(self.program.data, beyond)),
            words.o.ready.eq(take),
            have.eq(words.o.valid),
            word.eq(words.o.payload),
            outside.eq(words.o.payload[-1]),
        ]
        m.d.sync += [
            asked.eq(self.program.en),
            beyond.eq(reading >= self._config.program_words),
            reading.eq(reading + self.program.en),
            ahead.eq(ahead + self.program.en - take),
        ]
        with m.If(self.start):
            m.d.sync += [reading.eq(self.pc), ahead.eq(0), asked.eq(0)]
        return have, word, outside

    def _hand_over(self, m, at_hand: "AtHand"):
        """Whole instructions to their queues: (for each engine, whether the word may be taken; a rule is broken)."""
        word, index = at_hand.word, at_hand.index
        queues = {}
        for name, bits in self.PAYLOADS.items():
            m.submodules[f"queue_{name}"] = queue = self._queue(name, bits)
            wiring.connect(m, queue.o, wiring.flipped(getattr(self, f"o_{name}")))
            queues[name] = queue.i
        parts = [Signal(WORD_BITS, name=f"part{k}", reset_less=True) for k in range(3)]
        with m.Switch(index):  # till the word is taken, what is in its part does not matter
            for k, part in enumerate(parts):
                with m.Case(k):
                    m.d.sync += part.eq(word)

        # The word at hand is the instruction's last: it goes to the queue directly, the ones before from `parts`.
        whole = {op.words: Cat(*parts[: op.words - 1], word) for op in self._ops}
        for name, queue in queues.items():
            ops = [OPS[code] for code, target in TARGETS.items() if target == name]
            with m.Switch(at_hand.opcode):
                with m.Case(*(op.opcode for op in ops)):
                    m.d.comb += queue.valid.eq(at_hand.take & at_hand.last)
            with m.Switch(index):  # known earlier than the opcode
                for words in sorted({op.words for op in ops}):
                    with m.Case(words - 1):
                        m.d.comb += queue.payload.eq(whole[words])
        room = {name: ~at_hand.last | queue.ready for name, queue in queues.items()}
        return room, self._rules(m, at_hand, parts)

    def _rules(self, m, at_hand: "AtHand", parts):
        """Whether the instruction breaks a rule that is looked at with this word, the last one it needs."""
        broken = Signal()
        for op in self._ops:
            for k in range(op.words):
                so_far = Cat(*parts[:k], at_hand.word)
                found = [self._broken(op, rule, so_far) for rule in rules(op, self._config) if last_word(op, rule) == k]
                if found:
                    with m.If((at_hand.opcode == op.opcode) & (at_hand.index == k)):
                        m.d.comb += broken.eq(Cat(found).any())
        return broken

    @staticmethod
    def _broken(op: Op, rule, so_far):
        """Whether the instruction, of which the lowest bits are known, breaks the rule."""

        def field(name):
            at, f = op.offset(name)
            return so_far[at : at + f.bits]

        value = field(rule.field)
        out = Const(0)
        if rule.low:
            out = value == 0 if rule.low == 1 else value < rule.low
        if rule.high is not None:
            out = out | (Const(1) if rule.high < 0 else value > rule.high)
        return out & (field(rule.when) == rule.equals) if rule.when else out

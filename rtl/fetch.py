"""Instruction fetch: program memory to the three engines' queues."""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import LOAD, MUL, OPS, TABLE, TAIL, WORD_BITS, Op, Opcode, last_word, rules

__all__ = ["Fetch"]

_TARGETS = {Opcode.LOAD: "load", Opcode.MUL: "mul", Opcode.TAIL: "tail", Opcode.TABLE: "tail"}
_BITS = {"load": 128, "mul": 256, "tail": 256}


class Fetch(wiring.Component):
    """Read a program, assemble whole instructions, hand each to the queue of its engine.

    Members:
        ``start`` In(1): pulse; starts (or restarts) at word ``pc`` · ``pc`` In(16)
        ``p_en`` Out(1), ``p_addr`` Out(16): read of the program memory · ``p_data`` In(64): its word one cycle later
        ``o_load`` Stream(128), ``o_mul`` Stream(256), ``o_tail`` Stream(256): instructions, unused high bits undefined
        ``moved`` Out(1): a word is taken · ``done_fetching`` Out(1): END was read · ``error`` Out(1): an unknown
        opcode, or the program ran off the memory · ``bad`` Out(1): an instruction breaks one of `isa.rules`. Each of
        the three stops the fetch and holds until the next ``start``. Queued instructions stay; one whose last word
        shows that it breaks a rule is queued too.
    Words are read up to ``AHEAD`` before they are taken.
    Compact: TABLE is unknown, and rules are not checked; no queues: the outputs are Stream(64), each word of an
    instruction is valid at its engine's output while it is at hand, with its number ``o_index`` Out(2).
    Throughput: one word a cycle. An instruction's last word waits while its queue (``DEPTH`` instructions) is full.
    Latency: with ``start`` in cycle s and no stall, word k (counted from the first) is taken in cycle
    s + `Timing.fetch` + k; the instruction of which it is the last word is valid at its output the cycle after, and
    ``done_fetching``, ``error`` or ``bad`` (by the first word with which it is certain) is up then. Reset: stopped,
    queues empty.
    """

    DEPTH = timing.FETCH_QUEUE
    AHEAD = timing.FETCH_AHEAD

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "start": In(1),
                "pc": In(16),
                "p_en": Out(1),
                "p_addr": Out(16),
                "p_data": In(64),
                **{f"o_{n}": Out(stream.Signature(WORD_BITS if config.compact else b)) for n, b in _BITS.items()},
                **({"o_index": Out(2)} if config.compact else {}),
                "done_fetching": Out(1),
                "error": Out(1),
                "bad": Out(1),
                "moved": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        compact = self._config.compact
        queues = {}
        for name, bits in _BITS.items():
            if compact:
                queues[name] = getattr(self, f"o_{name}")
                continue
            m.submodules[f"queue_{name}"] = queue = SkidQueue(bits, self.DEPTH)
            wiring.connect(m, queue.o, wiring.flipped(getattr(self, f"o_{name}")))
            queues[name] = queue.i

        running = Signal()
        have = Signal()  # a word is at hand
        word = self.p_data if compact else Signal(WORD_BITS)
        bits = self._config.program_words.bit_length() if compact else 17
        take = Signal()
        outside = Signal()
        if compact:
            at = Signal(bits)
            addr = Signal(bits)
            m.d.comb += addr.eq(at + take)
            m.d.sync += at.eq(addr)
            m.d.comb += [self.p_en.eq(running), self.p_addr.eq(addr)]
            m.d.sync += have.eq(running)
        else:
            # A block RAM's word comes late, so it is decoded from a register, and reads do not wait for what it says.
            # With it comes whether it lies beyond the memory.
            m.submodules.words = words = ResetInserter(self.start)(SkidQueue(WORD_BITS + 1, self.AHEAD))
            ahead = Signal(range(self.AHEAD + 1))  # words read and not yet taken
            reading = Signal(bits)
            asked = Signal()  # p_data is the word after those in the queue
            beyond = Signal()
            m.d.comb += [
                self.p_en.eq(running & (ahead != self.AHEAD)),
                self.p_addr.eq(reading),
                words.i.valid.eq(asked),
                words.i.payload.eq(Cat(self.p_data, beyond)),
                words.o.ready.eq(take),
                have.eq(words.o.valid),
                word.eq(words.o.payload),
                outside.eq(words.o.payload[-1]),
            ]
            m.d.sync += [
                asked.eq(self.p_en),
                beyond.eq(reading >= self._config.program_words),
                reading.eq(reading + self.p_en),
                ahead.eq(ahead + self.p_en - take),
            ]
        m.d.comb += self.moved.eq(take)

        index = Signal(2)  # word within the instruction
        opcode, held = Signal(4), Signal(4)
        parts = [Signal(WORD_BITS, name=f"part{k}", reset_less=True) for k in range(3)]
        m.d.comb += opcode.eq(Mux(index == 0, word[:4], held))
        full = {name: ~queue.ready for name, queue in queues.items()}
        last, known, end, blocked = Signal(), Signal(), Signal(), Signal()
        with m.Switch(opcode):
            for op in OPS.values():
                with m.Case(op.opcode):
                    m.d.comb += [known.eq(not (compact and op is TABLE)), last.eq(index == op.words - 1)]
                    if op.opcode == Opcode.END:
                        m.d.comb += end.eq(1)
                    else:
                        m.d.comb += blocked.eq((1 if compact else last) & full[_TARGETS[op.opcode]])
        if compact:
            m.d.comb += outside.eq(at >= self._config.program_words)

        # A rule is looked at with the last word it needs; `parts` and the word at hand are the instruction so far.
        broken = Signal()
        for op in () if compact else OPS.values():
            for k in range(op.words):
                so_far = Cat(*parts[:k], word)
                found = [self._broken(op, rule, so_far) for rule in rules(op, self._config) if last_word(op, rule) == k]
                if found:
                    with m.If((opcode == op.opcode) & (index == k)):
                        m.d.comb += broken.eq(Cat(found).any())

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

        with m.Switch(index):  # till the word is taken, what is in its part does not matter
            for k, part in () if compact else enumerate(parts):
                with m.Case(k):
                    m.d.sync += part.eq(word)

        # The word at hand is the instruction's last: it goes to the queue directly, the ones before from `parts`.
        whole = {op.words: Cat(*parts[: op.words - 1], word) for op in OPS.values()}
        for op in (LOAD, MUL, TAIL) if compact else ():  # each the only one of its engine
            queue = queues[_TARGETS[op.opcode]]
            at_hand = have & running & ~outside & (opcode == op.opcode)
            m.d.comb += [queue.valid.eq(at_hand), queue.payload.eq(word), self.o_index.eq(index)]
        for name, queue in () if compact else queues.items():
            ops = [OPS[code] for code, target in _TARGETS.items() if target == name]
            with m.Switch(opcode):
                with m.Case(*(op.opcode for op in ops)):
                    m.d.comb += queue.valid.eq(take & last)
            with m.Switch(index):  # known earlier than the opcode
                for words in sorted({op.words for op in ops}):
                    with m.Case(words - 1):
                        m.d.comb += queue.payload.eq(whole[words])

        with m.If(self.start):
            m.d.sync += [
                running.eq(1),
                *([have.eq(0), at.eq(self.pc)] if compact else [reading.eq(self.pc), ahead.eq(0), asked.eq(0)]),
                index.eq(0),
                self.done_fetching.eq(0),
                self.error.eq(0),
                self.bad.eq(0),
            ]
        return m

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

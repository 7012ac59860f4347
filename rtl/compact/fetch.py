"""Instruction fetch of the compact machine: word by word, no queues."""

from amaranth.hdl import Const, Signal

from lepton.rtl.fetch import TARGETS, Fetch
from lepton.rtl.layouts import WORD_LAYOUT
from lepton.rtl.spec.isa import END, LOAD, MUL, TAIL


class CompactFetch(Fetch):
    """`Fetch` without TABLE (an unknown opcode here) and without rules: each output is a Stream(WORD_LAYOUT); each word
    of an instruction is valid at its engine's output while it is at hand, and waits there."""

    PAYLOADS = dict.fromkeys(Fetch.PAYLOADS, WORD_LAYOUT)

    def _operations(self):
        return END, LOAD, MUL, TAIL

    def _words(self, m, running, take):
        at, after = (Signal(self._config.program_words.bit_length(), name=name) for name in ("at", "after"))
        have = Signal()
        m.d.comb += [after.eq(at + take), self.program.en.eq(running), self.program.addr.eq(after)]
        m.d.sync += [at.eq(after), have.eq(running)]
        with m.If(self.start):
            m.d.sync += [have.eq(0), at.eq(self.pc)]
        return have, self.program.data, at >= self._config.program_words

    def _hand_over(self, m, at_hand):
        room = {}
        for op in (LOAD, MUL, TAIL):  # each the only one of its engine
            name = TARGETS[op.opcode]
            output = getattr(self, f"o_{name}")
            m.d.comb += [
                output.valid.eq(at_hand.there & (at_hand.opcode == op.opcode)),
                output.payload.word.eq(at_hand.word),
                output.payload.index.eq(at_hand.index),
            ]
            room[name] = output.ready
        return room, Const(0)

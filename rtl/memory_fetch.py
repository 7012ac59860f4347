"""Instruction fetch of a machine with a memory port: the words come as a stream, and MOVE has a queue."""

from lepton.rtl import layouts, ports
from lepton.rtl.fetch import Fetch
from lepton.rtl.ram_queue import RamQueue
from lepton.rtl.spec import timing
from lepton.rtl.spec.isa import WORD_BITS

__all__ = ["MemoryFetch"]


class MemoryFetch(Fetch):
    """`Fetch` with ``program`` `ports.program_stream` and ``o_move`` Stream(256), before which `timing.MOVE_QUEUE`
    instructions wait. The first word is taken when it has come."""

    PAYLOADS = {**Fetch.PAYLOADS, "move": layouts.MOVE_BITS}

    def _program(self):
        return ports.program_stream()

    def _queue(self, name, bits):
        return RamQueue(bits, timing.MOVE_QUEUE) if name == "move" else super()._queue(name, bits)

    def _words(self, m, running, take):
        words = self.program.words
        m.d.comb += [
            self.program.start.eq(self.start),
            self.program.pc.eq(self.pc),
            words.ready.eq(take),
        ]
        return words.valid, words.payload[:WORD_BITS], words.payload[WORD_BITS]

"""Host link of a machine with a memory port: the memory behind it, and the registers of its bases."""

from amaranth.hdl import Cat, Const, Mux, Signal
from amaranth.lib.wiring import Out

from lepton.rtl import ports
from lepton.rtl.layouts import MEMORY_PC
from lepton.rtl.link import Link, _above
from lepton.rtl.spec import isa
from lepton.rtl.spec.frames import WRITE_HEADER
from lepton.rtl.spec.isa import Reg, Region

__all__ = ["MemoryLink"]


class MemoryLink(Link):
    """`Link` with ``memory`` `ports.host_memory`, through which it writes and reads Region.MEMORY, also during a run.
    Of the registers, IMAGE and ARENA are written like the words of a memory. The bytes of a write to memory take two
    cycles and more; ``memory`` has to answer every one of its requests, or the link stands still.
    """

    WALK = 25  # of MEMORY a payload may begin at the last word that an index names

    def __init__(self, config, act_latency, timeout=65536):
        super().__init__(config, act_latency, timeout)
        self.WORD = max(32, 8 * config.memory_width)
        self._start_high = Signal(16)  # upper half of START's first word

    def _members(self):
        return {"memory": Out(ports.host_memory(self._config.memory_width))}

    # --- Verdicts
    @staticmethod
    def _of_memory(f):
        return f.region == Region.MEMORY

    def _beyond(self, f, region):
        if region == Region.REG:
            return (f.walk_index < Reg.IMAGE) | (f.walk_index > Reg.ARENA)
        if region == Region.MEMORY:
            return f.walk_index >= isa.depth(region, self._config)
        return super()._beyond(f, region)

    def _unwritable(self, f):
        return Const(0)

    def _unreadable(self, f):
        return super()._unreadable(f) & ~self._of_memory(f)

    def _too_far(self, f, read_end):
        words = isa.depth(Region.MEMORY, self._config)
        payload = f.offset > isa.MAX_PAYLOAD // self._config.memory_width
        return Mux(self._of_memory(f), _above(read_end, words) | payload, super()._too_far(f, read_end))

    def _bad_pc(self, f):
        words = self._config.memory_bytes // 8
        return Cat(f.offset, self._start_high) >= words

    def _pc(self, f):
        return Cat(f.offset, self._start_high)[:MEMORY_PC]

    def _after_head(self, m, f):
        for k in range(2):
            with m.If(f.count == WRITE_HEADER + k):
                m.d.sync += self._start_high.word_select(k, 8).eq(self.i.payload)

    def _refused(self, f):
        return self.run.busy & ~self._of_memory(f)

    # --- Bytes of the memory
    def _walk(self, m, f):
        super()._walk(m, f)
        m.d.sync += [self.memory.write.eq(0), self.memory.read.eq(0)]

    def _commit(self, m, f):
        with m.State("COMMIT"):
            with m.If(~(self._of_memory(f) & (self.memory.write | self.memory.busy))):
                self._step(m, f)

    def _step(self, m, f):
        super()._step(m, f)
        m.d.sync += [
            self.memory.write.eq(self._of_memory(f)),
            self.memory.index.eq(f.walk_index),
            self.memory.byte.eq(f.walk_byte),
            self.memory.data.eq(f.buffer_r.data),
            self.memory.last.eq(f.at_next == f.length),
        ]

    def _reply_bytes(self, f):
        return Mux(self._of_memory(f), f.offset * self._config.memory_width, super()._reply_bytes(f))

    def _fetch(self, m, f):
        with m.If(~self._of_memory(f)):
            super()._fetch(m, f)
        with m.Elif(f.walk_byte == 0):
            m.next = "FETCH"
            with m.If(~self.memory.busy):
                m.d.sync += [self.memory.read.eq(1), self.memory.index.eq(f.walk_index)]
                m.next = "MEMORY"

    def _reply_data(self, m, f):
        super()._reply_data(m, f)
        with m.State("MEMORY"):
            with m.If(self.memory.valid):
                m.d.sync += f.word.eq(self.memory.beat)
                m.next = "DATA_OUT"

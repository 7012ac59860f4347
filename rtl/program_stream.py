"""The program as a stream of words from memory, read ahead."""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.layouts import MEMORY_PC
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import WORD_BITS

__all__ = ["ProgramStream"]


class ProgramStream(wiring.Component):
    """Words of the program, from a queue that bursts fill as there is room.

    Members:
        ``read`` `ports.program_stream`: words, from byte ``image`` + 8 * ``pc`` on · ``image`` In(32), a multiple of 16
        ``memory`` `ports.memory_client`, which reads · ``clear`` In(1): forget all, and ask for nothing

    Bursts end at multiples of 128 bytes, so none crosses 4 KB, and none reaches beyond the memory. Words behind its end
    are not read: the stream says so in their highest bit, without end. The queue is a ring of 64 words, in which a word
    lies where the low bits of its address say. Throughput: a word a cycle. Latency: 4 cycles from a word's last beat.
    Between ``clear`` and ``start`` is a cycle or more; only ``clear`` may come at any time, and beats of what was asked
    for before it do not come any more.
    """

    WORDS = timing.PROGRAM_QUEUE
    BLOCK = timing.MEMORY_BURST // 8
    """Words of a burst, if it begins where it may."""

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "read": In(ports.program_stream()),
                "image": In(32),
                "memory": Out(ports.memory_client(config.memory_width)),
                "clear": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width, memory = self._config.memory_width, self.memory
        ring = 2 * self.WORDS  # positions are counted modulo twice the ring's words, so full and empty differ

        asking = Signal()
        ask = Signal(MEMORY_PC + 1)  # the word that is asked for next
        got = Signal(range(ring))  # words that are there, and the one whose beats come
        taken = Signal(range(ring))  # the word that leaves next
        beyond = Signal()
        block = self.BLOCK.bit_length() - 1
        used = Signal(range(ring // self.BLOCK))  # blocks of the ring in use, the ones to be taken and to be asked for
        m.d.comb += [
            beyond.eq(ask >= self._config.memory_bytes // 8),
            used.eq(ask[block : block + len(used)] - taken[block:]),
            memory.a.valid.eq(asking & ~beyond & (used < self.WORDS // self.BLOCK)),
            memory.a.payload.address.eq(ask << 3),
            memory.w.valid.eq(0),
            memory.r.ready.eq(1),
        ]
        if width < 16:
            m.d.comb += memory.a.payload.beats.eq(((~ask[:block]) << 3 | 7) >> (width.bit_length() - 1))
        else:
            m.d.comb += [memory.a.payload.address[3].eq(0), memory.a.payload.beats.eq(~ask[1:block])]
        with m.If(memory.a.valid & memory.a.ready):
            m.d.sync += ask.eq(Cat(Const(0, block), ask[block:] + 1))

        # Beats into the ring: parts of a word, or two words.
        wide = max(width, 8)
        m.submodules.ring = store = Memory(
            shape=8 * wide, depth=8 * self.WORDS // wide, init=[], attrs={"no_rw_check": 1}
        )
        write, read = store.write_port(granularity=8 * width), store.read_port()
        beat = memory.r.valid
        parts = 8 // width if width < 8 else 1
        part = Signal(range(parts))
        skip = (wide // 8).bit_length() - 1  # bits of a word's number within an entry
        m.d.comb += [
            write.addr.eq(got[skip:]),
            write.data.eq(memory.r.payload.replicate(parts)),
            write.en.eq(Mux(beat, 1 << part, 0)),
        ]
        with m.If(beat):
            m.d.sync += part.eq(part + 1)
            with m.If(part == parts - 1):
                m.d.sync += got.eq(Cat(Const(0, skip), (got[skip:] + 1)[: len(got) - skip]))

        # Words out of it, by way of a queue: a block RAM's word comes late.
        m.submodules.words = words = ResetInserter(self.clear)(SkidQueue(WORD_BITS + 1, timing.FETCH_AHEAD))
        wiring.connect(m, words.o, wiring.flipped(self.read.words))
        ahead = Signal(range(timing.FETCH_AHEAD + 1))  # words read and not yet handed on
        room, over = Signal(), Signal()
        reading = Signal()  # a word comes out of the ring
        was_over = Signal()  # there is none
        half = Signal(skip)
        m.d.comb += [
            room.eq(asking & (ahead != timing.FETCH_AHEAD)),
            read.en.eq(room & (taken != got)),
            read.addr.eq(taken[skip:]),
            over.eq(room & beyond & (taken == ask[: len(taken)])),
            words.i.valid.eq(reading | was_over),
            words.i.payload.eq(Cat(read.data.word_select(half, WORD_BITS), was_over)),
        ]
        m.d.sync += [
            taken.eq(taken + read.en),
            half.eq(taken[:skip]),
            reading.eq(read.en),
            was_over.eq(over),
            ahead.eq(ahead + (read.en | over) - (words.o.valid & words.o.ready)),
        ]

        first = Signal.like(ask)
        m.d.comb += first.eq(self.image[3:] + self.read.pc)
        with m.If(self.clear):
            m.d.sync += [asking.eq(0), reading.eq(0), was_over.eq(0), ahead.eq(0)]
        with m.Elif(self.read.start):
            m.d.sync += [asking.eq(1), ask.eq(first), got.eq(first), taken.eq(first), part.eq(0)]
        return m

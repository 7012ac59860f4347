"""MOVE: copies between memory and the chip."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.beat_queue import BeatQueue
from lepton.rtl.layouts import MOVE_BITS
from lepton.rtl.move_reads import MoveReads
from lepton.rtl.move_requests import MoveRequests, burst_beats
from lepton.rtl.move_walk import MoveWalk
from lepton.rtl.move_writes import MoveWrites
from lepton.rtl.skid import SkidQueue
from lepton.rtl.spec.config import NpuConfig


def queue_beats(config: NpuConfig) -> int:
    """Beats asked for and not yet on the chip, or read there and not yet in memory, at most: a memory's latency."""
    return max(64, 2 * burst_beats(config))


class MoveEngine(wiring.Component):
    """Executes MOVEs in order, as `docs/architecture.md` says.

    Members:
        ``i`` Stream(256): MOVE instructions · ``image``, ``arena`` In(32): bases · ``memory`` `ports.memory_client`
        ``read`` `ports.move_read`, ``write`` `ports.move_write`: of activations
        ``tiles``, ``params`` `ports.beat_write`
        ``mul``, ``tail`` `ports.token`: of `wait_mul`, `wait_tail`, before the first byte is asked for
        ``post_load``, ``post_mul``, ``post_tail`` Out(1): pulses, 1 cycle after the last byte went to a write port of
        the chip, or with it in memory: a read that a token of that cycle starts sees it
        ``idle`` Out(1): no instruction held, nothing on its way · ``moved`` Out(1): an access, or a beat, was made
        ``bad_address`` Out(1): pulse, an access outside the memory or the chip's, which is not made

    Loads and fills read ahead: while the data of one comes, memory is asked for the next one's. A store begins when
    all before it is done, and ends before the next begins.
    Throughput: a beat a cycle, or `layouts.move_bytes` of one, when both sides take it; bursts of an instruction follow
    each other without a gap, 2 cycles lie between those of two. Reset: drops everything.
    """

    JOBS = 2

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(MOVE_BITS)),
                "image": In(32),
                "arena": In(32),
                "memory": Out(ports.memory_client(config.memory_width)),
                "read": Out(ports.move_read(config)),
                "write": Out(ports.move_write(config)),
                "tiles": Out(ports.beat_write(config)),
                "params": Out(ports.beat_write(config)),
                "mul": Out(ports.token()),
                "tail": Out(ports.token()),
                "post_load": Out(1),
                "post_mul": Out(1),
                "post_tail": Out(1),
                "idle": Out(1),
                "moved": Out(1),
                "bad_address": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, depth = self._config, queue_beats(self._config)
        m.submodules.requests = requests = MoveRequests(config, depth)
        m.submodules.jobs = jobs = SkidQueue(layouts.move_job(config), self.JOBS)
        m.submodules.walk = walk = MoveWalk(config)
        m.submodules.writes = writes = MoveWrites(config)
        m.submodules.reads = reads = MoveReads(config)
        m.submodules.beats = beats = BeatQueue(layouts.memory_beat(config.memory_width), depth)

        def outward(port, name):
            wiring.connect(m, port, wiring.flipped(getattr(self, name)))

        for unit, names in ((requests, "mul tail"), (writes, "write tiles params"), (reads, "read")):
            for name in names.split():
                outward(getattr(unit, name), name)
        wiring.connect(m, wiring.flipped(self.i), requests.i)
        wiring.connect(m, requests.a, wiring.flipped(self.memory.a))
        wiring.connect(m, requests.job, jobs.i)
        wiring.connect(m, jobs.o, walk.i)
        self._accesses(m, walk, writes, reads)

        self._data(m, requests, writes, reads, beats)
        claimed = Signal(range(depth + 1))  # beats asked for, or read on the chip, and not yet taken from the queue
        at_hand = Signal(range(depth + 1))  # beats of a store in the queue that no burst has
        owed = Signal(range(depth + 1))  # beats in the queue that a burst has
        taken = beats.o.valid & beats.o.ready
        m.d.sync += [
            claimed.eq(claimed + requests.asked + reads.claims - taken),
            at_hand.eq(at_hand + reads.beats.valid - requests.promised),
            owed.eq(owed + requests.promised - (self.memory.w.valid & self.memory.w.ready)),
        ]
        empty = Signal()
        m.d.comb += [
            empty.eq(claimed == 0),
            self.memory.w.valid.eq(beats.o.valid & (owed != 0)),
            requests.room.eq(claimed <= depth - burst_beats(config)),
            requests.stored.eq(at_hand),
            reads.room.eq(claimed != depth),
            requests.image.eq(self.image),
            requests.arena.eq(self.arena),
        ]
        done_storing = Signal()
        ending = self._posts(m, walk, writes, reads, done_storing)
        m.d.comb += [
            done_storing.eq(ending & empty & requests.idle),
            requests.drained.eq(walk.idle & ~jobs.o.valid & ~ending & empty),
            self.idle.eq(requests.drained & requests.idle & ~(self.post_load | self.post_mul | self.post_tail)),
            self.moved.eq(taken | beats.i.valid | (walk.o.valid & walk.o.ready)),
            self.bad_address.eq(requests.bad_address | walk.bad_address),
        ]
        return m

    def _accesses(self, m, walk, writes, reads):
        """Each access to the side that makes it."""
        m.d.comb += walk.o.ready.eq(Mux(walk.o.payload.store, reads.i.ready, writes.i.ready))
        for side in (writes, reads):
            m.d.comb += [side.i.valid.eq(walk.o.valid), side.i.payload.eq(walk.o.payload)]

    def _data(self, m, requests, writes, reads, beats):
        """Through one queue go the beats that come from memory, or those that go there."""
        memory, storing = self.memory, requests.storing
        m.d.comb += [
            memory.r.ready.eq(1),
            beats.i.valid.eq(memory.r.valid | reads.beats.valid),
            beats.i.payload.data.eq(Mux(storing, reads.beats.payload.data, memory.r.payload)),
            beats.i.payload.mask.eq(reads.beats.payload.mask),
            writes.beats.valid.eq(beats.o.valid & ~storing),
            writes.beats.payload.eq(beats.o.payload.data),
            memory.w.payload.eq(beats.o.payload),
            beats.o.ready.eq(Mux(storing, memory.w.valid & memory.w.ready, writes.beats.ready)),
        ]

    def _posts(self, m, walk, writes, reads, stored):
        """Tokens at the end of an instruction; returns whether a store's last access is made, and not all is stored."""
        ending = Signal()
        with m.If(reads.done):
            m.d.sync += ending.eq(1)
        with m.Elif(stored):
            m.d.sync += ending.eq(0)
        for name in ("post_load", "post_mul", "post_tail"):
            post, kept = walk.o.payload[name], Signal(name=f"kept_{name}", reset_less=True)
            with m.If(reads.done):
                m.d.sync += kept.eq(post)
            m.d.sync += getattr(self, name).eq((writes.done & post) | (stored & kept))
        return ending

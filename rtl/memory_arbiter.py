"""The memory port's users, one after the other: program, MOVE and host link."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import ports
from lepton.rtl.skid import SkidQueue

__all__ = ["MemoryArbiter"]


class MemoryArbiter(wiring.Component):
    """Hand bursts of several clients to the memory port, and the beats to whom they belong.

    Parameters: ``width``, bytes of a beat; ``reads``, ``writes``: bursts of a kind that are under way at most.
    Members:
        ``program``, ``move``, ``host`` `ports.memory_client` · ``memory`` `ports.memory_port`
        ``clear`` In(1): program and move forget everything. Beats still to come of what they had asked for are dropped,
        beats they had promised are written with mask 0; the host's go on.
        ``idle`` Out(1): no write is under way, here or at the memory

    Round robin: between a burst's offer and its turn each other client has at most one. Throughput: a burst and a beat
    each way a cycle. Latency: a burst or a beat written is at the port the cycle after; a beat read passes through.
    Reset: forgets all, and the memory has to be reset with it.
    """

    CLIENTS = "program", "move", "host"
    CLEARED = 2
    """How many of them, from the first on, `clear` is for."""

    def __init__(self, width: int, reads: int = 8, writes: int = 4):
        self._reads, self._writes = reads, writes
        clients = {name: In(ports.memory_client(width)) for name in self.CLIENTS}
        super().__init__({**clients, "memory": Out(ports.memory_port(width)), "clear": In(1), "idle": Out(1)})

    def elaborate(self, platform):
        m = Module()
        memory = self.memory
        clients = [getattr(self, name) for name in self.CLIENTS]
        burst = data.StructLayout({"client": range(len(clients)), "beats": 8})
        m.submodules.reads = reads = SkidQueue(burst, self._reads)
        m.submodules.writes = writes = SkidQueue(burst, self._writes)

        # Whose turn: the first behind the one that had the last.
        turn = Signal(range(len(clients)))
        chosen = Signal(range(len(clients)))
        asks = Signal()
        with m.Switch(turn):
            for last in range(len(clients)):
                with m.Case(last):
                    for k in range(last, last - len(clients), -1):  # the last assignment counts
                        with m.If(clients[k % len(clients)].a.valid):
                            m.d.comb += [chosen.eq(k % len(clients)), asks.eq(1)]
        granted = Signal()
        asked = Array(client.a.payload for client in clients)[chosen]
        m.d.comb += granted.eq(asks & reads.i.ready & writes.i.ready & (~memory.a.valid | memory.a.ready))
        for k, client in enumerate(clients):
            m.d.comb += client.a.ready.eq(granted & (chosen == k))
        with m.If(memory.a.ready):
            m.d.sync += memory.a.valid.eq(0)
        with m.If(granted):
            m.d.sync += [memory.a.valid.eq(1), memory.a.payload.eq(asked), turn.eq(chosen)]
        for queue, write in ((reads, 0), (writes, 1)):
            m.d.comb += [
                queue.i.valid.eq(granted & (asked.write == write)),
                queue.i.payload.client.eq(chosen),
                queue.i.payload.beats.eq(asked.beats),
            ]

        # Beats to write, by way of a register.
        whose, stale, beat = self._head(m, writes, "write")
        room = Signal()
        offered = Array(client.w.valid for client in clients)[whose]
        m.d.comb += [
            room.eq(~memory.w.valid | memory.w.ready),
            beat.eq(writes.o.valid & room & (offered | stale)),
        ]
        for k, client in enumerate(clients):
            m.d.comb += client.w.ready.eq(writes.o.valid & room & ~stale & (whose == k))
        with m.If(memory.w.ready):
            m.d.sync += memory.w.valid.eq(0)
        with m.If(beat):
            word = Array(client.w.payload for client in clients)[whose]
            m.d.sync += [
                memory.w.valid.eq(1),
                memory.w.payload.data.eq(word.data),
                memory.w.payload.mask.eq(Mux(stale, 0, word.mask)),
            ]

        # Beats read.
        whose, stale, beat = self._head(m, reads, "read")
        taken = Array(client.r.ready for client in clients)[whose]
        m.d.comb += [memory.r.ready.eq(reads.o.valid & (taken | stale)), beat.eq(memory.r.valid & memory.r.ready)]
        for k, client in enumerate(clients):
            m.d.comb += [
                client.r.valid.eq(memory.r.valid & reads.o.valid & ~stale & (whose == k)),
                client.r.payload.eq(memory.r.payload),
            ]

        writing = memory.a.valid & memory.a.payload.write
        m.d.comb += self.idle.eq(memory.idle & ~writing & ~writes.o.valid & ~memory.w.valid)
        return m

    def _head(self, m, queue, name: str):
        """The oldest burst of a queue: (its client, whether that has forgotten it, a beat of it to be set)."""
        whose = Signal(range(len(self.CLIENTS)), name=f"{name}_client")
        stale = Signal(name=f"{name}_stale")
        beat = Signal(name=f"{name}_beat")
        done = Signal(range(256), name=f"{name}_done")  # beats of it that have passed
        held = Signal(range(max(self._reads, self._writes) + 1), name=f"{name}_held")  # bursts in the queue
        old = Signal.like(held, name=f"{name}_old")  # those of them from before a clear
        after = Signal.like(held, name=f"{name}_after")
        last = done == queue.o.payload.beats
        m.d.comb += [
            whose.eq(queue.o.payload.client),
            stale.eq((old != 0) & (whose < self.CLEARED)),
            queue.o.ready.eq(beat & last),
            after.eq(held + (queue.i.valid & queue.i.ready) - (beat & last)),
        ]
        m.d.sync += held.eq(after)
        with m.If(beat):
            m.d.sync += done.eq(Mux(last, 0, done + 1))
        with m.If(self.clear):
            m.d.sync += old.eq(after)
        with m.Elif(beat & last & (old != 0)):
            m.d.sync += old.eq(old - 1)
        return whose, stale, beat

"""MOVE's bursts: the runs of an instruction in memory, cut into bursts; its tokens are awaited here."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.layouts import MOVE_BITS, MOVE_LAYOUT
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Base, Space


def burst_beats(config: NpuConfig) -> int:
    """Beats of the largest burst; none crosses a multiple of so many."""
    return timing.MEMORY_BURST // config.memory_width


class MoveRequests(wiring.Component):
    """Takes one MOVE after the other, hands on what is done with it on the chip, and asks memory for its bytes.

    Members:
        ``i`` Stream(MOVE_BITS) · ``image``, ``arena`` In(32): bases
        ``mul``, ``tail`` `ports.token`: of `wait_mul`, `wait_tail`; they are taken before the instruction is
        ``job`` Stream(layouts.move_job): the instruction, for the other side, which may begin at once
        ``drained`` In(1): all jobs handed on are done. Two MOVEs are under way together when neither is a store
        ``a`` Stream(MEMORY_BURST): bursts in order
        ``room`` In(1): there is room for the beats of any burst · ``asked`` Out: beats that a burst of this cycle reads
        ``stored`` In: beats at hand for bursts of a store · ``promised`` Out: those that a burst of this cycle writes.
        A burst is not asked for before its beats are at hand, so memory never waits for the chip
        ``storing`` Out(1): the instruction is a store, until the next is taken
        ``idle`` Out(1): nothing is left to ask
        ``bad_address`` Out(1): pulse, a burst lies beyond memory; it is not asked for
    Tiles and entries are one run. Throughput: one burst a cycle, of a run or of several. Reset: no instruction.
    """

    def __init__(self, config: NpuConfig, depth: int):
        self._config = config
        self._low = (config.memory_width - 1).bit_length()
        self._burst = burst_beats(config)
        super().__init__(
            {
                "i": In(stream.Signature(MOVE_BITS)),
                "image": In(32),
                "arena": In(32),
                "mul": Out(ports.token()),
                "tail": Out(ports.token()),
                "job": Out(stream.Signature(layouts.move_job(config))),
                "drained": In(1),
                "a": Out(stream.Signature(layouts.MEMORY_BURST)),
                "room": In(1),
                "asked": Out(range(self._burst + 1)),
                "stored": In(range(depth + 1)),
                "promised": Out(range(self._burst + 1)),
                "storing": Out(1),
                "idle": Out(1),
                "bad_address": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        walking = Signal()  # runs are left
        bursting = Signal()  # bursts of a run are left
        m.d.comb += self.idle.eq(~walking & ~bursting & ~self.a.valid)
        accept = self._accept(m, walking | bursting)
        new_run = Signal()
        run, length = self._runs(m, accept, walking, new_run)
        self._bursts(m, bursting, walking, new_run, run, length)
        return m

    def _accept(self, m, busy):
        """The next instruction, when its tokens are there."""
        new = self._new()
        tokens = (~new.wait_mul | self.mul.there) & (~new.wait_tail | self.tail.there)
        apart = ~(new.store | self.storing) | (self.drained & self.idle)
        may = Signal()
        accept = Signal()
        m.d.comb += [
            may.eq(~busy & tokens & apart),
            self.job.valid.eq(self.i.valid & may),
            self.i.ready.eq(self.job.ready & may),
            accept.eq(self.i.valid & self.i.ready),
            self.mul.take.eq(accept & new.wait_mul),
            self.tail.take.eq(accept & new.wait_tail),
            *(self.job.payload[name].eq(new[name]) for name, _ in self.job.payload.shape()),
        ]
        with m.If(accept):
            m.d.sync += self.storing.eq(new.store)
        return accept

    def _new(self):
        return data.View(MOVE_LAYOUT, self.i.payload[: MOVE_LAYOUT.size])

    def _runs(self, m, accept, walking, new_run):
        """(first byte of the next run, bytes of a run); `new_run`: it is taken."""
        new = self._new()
        run, plane, step, plane_step = (Signal(32, name=n) for n in ("run", "plane", "step", "plane_step"))
        length = Signal(32, name="length")
        rows, rows_left, planes_left = (Signal(12, name=n) for n in ("rows", "rows_left", "planes_left"))
        ends_plane = Signal()
        m.d.comb += ends_plane.eq(rows_left == 1)
        with m.If(new_run):
            m.d.sync += rows_left.eq(Mux(ends_plane, rows, rows_left - 1))
            with m.If(ends_plane):
                m.d.sync += [run.eq(plane + plane_step), plane.eq(plane + plane_step)]
                m.d.sync += [planes_left.eq(planes_left - 1), walking.eq(planes_left != 1)]
            with m.Else():
                m.d.sync += run.eq(run + step)
        act = new.space == Space.ACT
        beats = Mux(act, 2**32 - 1, 2**32 - self._config.memory_width)  # of anything but activations it is whole ones
        first = (Mux(new.base == Base.ARENA, self.arena, self.image) + new.external) & beats
        with m.If(accept):
            m.d.sync += [run.eq(first), plane.eq(first), step.eq(new.external_step), plane_step.eq(new.external_plane)]
            m.d.sync += [
                rows.eq(new.rows),
                rows_left.eq(Mux(act, new.rows, 1)),
                planes_left.eq(Mux(act, new.planes, 1)),
            ]
            m.d.sync += [length.eq(self._bytes(new)), walking.eq(~new.fill)]
        return run, length

    def _bytes(self, new):
        """Bytes of a run: of so many tiles, entries, or bytes."""

        def times(size):
            return sum((new.length << k for k in range(size.bit_length()) if size >> k & 1), Const(0))

        tiles, entries = isa.memory_tile_bytes(self._config), isa.memory_param_bytes(self._config)
        return Mux(new.space == Space.WEIGHT, times(tiles), Mux(new.space == Space.PARAM, times(entries), new.length))

    def _bursts(self, m, bursting, walking, new_run, run, length):
        """Bursts of a run: to the next multiple of the largest, or to the run's end."""
        low, largest = self._low, self._burst
        part = (largest - 1).bit_length()
        at = Signal(32 - low, name="at")  # beat
        left = Signal(32 - low, name="left")  # beats of the run
        behind = Signal(range(largest + 1))  # beats up to the next multiple
        last = Signal()
        beats = Signal(range(largest + 1))
        outside = Signal()
        issue = Signal()
        m.d.comb += [
            behind.eq(largest - at[:part]),
            last.eq(left <= behind),
            beats.eq(Mux(last, left[: part + 1], behind)),
            outside.eq(Const(0) if self._config.memory_bytes == 2**32 else at >= self._config.memory_bytes >> low),
            issue.eq(
                bursting
                & (~self.a.valid | self.a.ready)
                & ~outside
                & Mux(self.storing, self.stored >= beats, self.room)
            ),
            self.asked.eq(Mux(issue & ~self.storing, beats, 0)),
            self.promised.eq(Mux(issue & self.storing, beats, 0)),
            new_run.eq(walking & (~bursting | (issue & last))),
        ]
        m.d.sync += self.bad_address.eq(bursting & outside)
        with m.If(self.a.ready):
            m.d.sync += self.a.valid.eq(0)
        with m.If(issue):
            m.d.sync += [
                self.a.valid.eq(1),
                self.a.payload.write.eq(self.storing),
                self.a.payload.address.eq(Cat(Const(0, low), at)),
                self.a.payload.beats.eq(beats - 1),
                at.eq(Cat(Const(0, part), at[part:] + 1)),
                left.eq(left - beats),
                bursting.eq(~last),
            ]
        with m.If(new_run):
            m.d.sync += [
                bursting.eq(1),
                at.eq(run >> low),
                left.eq((run[:low] + length + (self._config.memory_width - 1)) >> low),
            ]

"""MOVE's walk on the chip: accesses of activation memory, weight store and parameter memory, one a cycle."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts
from lepton.rtl.layouts import ADDRESS, BYTE
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Space

KEPT = "space store fill flip value post_load post_mul post_tail".split()
"""What an access needs of its instruction."""


def access(config: NpuConfig) -> data.StructLayout:
    """One access: bytes ``low`` .. ``count`` - 1 of part ``piece`` of a beat are those behind byte ``at``; or beat
    ``beat`` of tile or entry ``at``. ``pops``: the last of its beat, ``end``: of its instruction."""
    ends, pieces = range(layouts.move_bytes(config) + 1), config.memory_width // layouts.move_bytes(config)
    job = layouts.move_job(config)
    return data.StructLayout(
        {
            "at": ADDRESS,
            "low": ends,
            "count": ends,
            "piece": range(pieces),
            "beat": BYTE,
            "pops": 1,
            "end": 1,
            **{name: job[name].shape for name in KEPT},
        }
    )


class MoveWalk(wiring.Component):
    """The accesses of each job, in order. A byte of a beat stays in its place: the first access of a run begins
    before the run's first byte, by as much as that lies behind the beat's.

    Members: ``i`` Stream(layouts.move_job) · ``o`` Stream(access) · ``idle`` Out(1): no job is held
    ``bad_address`` Out(1): pulse, a run, tile or entry lies outside its memory; it is not accessed
    Throughput: an access a cycle, of a run or of several. Latency: 2 cycles. Reset: no job.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(layouts.move_job(config))),
                "o": Out(stream.Signature(access(config))),
                "idle": Out(1),
                "bad_address": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        have = Signal()  # runs are left
        active = Signal()  # accesses of a run are left
        new_run = Signal()
        job = Signal(layouts.move_job(self._config), reset_less=True)
        m.d.comb += self.idle.eq(~have & ~active)
        run = self._runs(m, have, new_run, job)
        self._accesses(m, have, active, new_run, job, run)
        return m

    def _runs(self, m, have, new_run, job):
        """The next run: (first byte, tile or entry, low bits of its first byte in memory, it is the job's last)."""
        new = self.i.payload
        low_bits = len(new.external)
        chip, chip_plane = (Signal(ADDRESS, name=n, reset_less=True) for n in ("chip", "chip_plane"))
        low, low_plane = (Signal(low_bits, name=n, reset_less=True) for n in ("low", "low_plane"))
        rows_left = Signal(len(new.length), reset_less=True)
        planes_left = Signal(len(new.planes), reset_less=True)
        ends_plane = Signal()
        last = Signal()
        next_chip = Signal(ADDRESS)
        next_low = Signal(low_bits)
        m.d.comb += [
            ends_plane.eq(rows_left == 1),
            last.eq(ends_plane & (planes_left == 1)),
            next_chip.eq(Mux(ends_plane, chip_plane + job.chip_plane, chip + job.chip_step)),
            next_low.eq(Mux(ends_plane, low_plane + job.external_plane, low + job.external_step)),
            self.i.ready.eq(~have | (new_run & last)),
        ]
        with m.If(new_run):
            m.d.sync += [chip.eq(next_chip), low.eq(next_low), rows_left.eq(Mux(ends_plane, job.rows, rows_left - 1))]
            with m.If(ends_plane):
                m.d.sync += [chip_plane.eq(next_chip), low_plane.eq(next_low), planes_left.eq(planes_left - 1)]
            with m.If(last):
                m.d.sync += have.eq(0)
        act = new.space == Space.ACT
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                have.eq(1),
                job.eq(new),
                chip.eq(new.chip),
                chip_plane.eq(new.chip),
                low.eq(Mux(act, new.external, 0)),
                low_plane.eq(new.external),
                rows_left.eq(Mux(act, new.rows, new.length)),
                planes_left.eq(Mux(act, new.planes, 1)),
            ]
            with m.If(~act):  # each tile, each entry is a run
                m.d.sync += [job.chip_step.eq(1), job.external_step.eq(0)]
        return chip, low, last

    def _accesses(self, m, have, active, new_run, job, run):
        config, o = self._config, self.o.payload
        size = layouts.move_bytes(config)
        part = (size - 1).bit_length()
        chip, low, last = run
        at = Signal(ADDRESS, reset_less=True)
        first = Signal(part, name="first", reset_less=True)
        left = Signal(len(job.length) + 1, reset_less=True)  # bytes of the run, from the access's first on
        piece = Signal.like(o.piece, reset_less=True)
        beat = Signal(BYTE, reset_less=True)
        last_beat = Signal(BYTE, reset_less=True)
        outside = Signal(reset_less=True)
        last_run = Signal(reset_less=True)
        kept = Signal(data.StructLayout({name: o[name].shape() for name in KEPT}), reset_less=True)
        act = Signal()
        run_end = Signal()
        taken = Signal()
        m.d.comb += [
            act.eq(kept.space == Space.ACT),
            run_end.eq(Mux(act, left <= size, beat == last_beat)),
            taken.eq(self.o.valid & self.o.ready),
            new_run.eq(have & (~active | (taken & run_end))),
            self.o.valid.eq(active & ~outside),
            o.at.eq(at),
            o.low.eq(first),
            o.count.eq(Mux(left <= size, left, size)),
            o.piece.eq(piece),
            o.beat.eq(beat),
            o.pops.eq(run_end | ~act | (piece == config.memory_width // size - 1)),
            o.end.eq(run_end & last_run),
            *(o[name].eq(kept[name]) for name in KEPT),
        ]
        m.d.sync += self.bad_address.eq(active & outside)
        with m.If(taken):
            m.d.sync += [first.eq(0), left.eq(left - size), piece.eq(piece + 1), beat.eq(beat + 1)]
            with m.If(act):
                m.d.sync += at.eq(at + size)
            with m.If(run_end):
                m.d.sync += active.eq(0)
        begins = low[:part]
        with m.If(new_run):
            m.d.sync += [
                active.eq(1),
                at.eq(chip - begins),
                first.eq(begins),
                left.eq(job.length + begins),
                piece.eq(low[part:]),
                beat.eq(0),
                last_beat.eq(Mux(job.space == Space.WEIGHT, *(n - 1 for n in self._beats()))),
                outside.eq(self._outside(job, chip)),
                last_run.eq(last),
                *(kept[name].eq(job[name]) for name in KEPT),
            ]

    def _beats(self):
        """Beats of a tile, of an entry."""
        config = self._config
        return [size // config.memory_width for size in (isa.memory_tile_bytes(config), isa.memory_param_bytes(config))]

    def _outside(self, job, chip):
        config = self._config
        behind = Const(0) if config.act_bytes == 2**20 else chip + job.length > config.act_bytes
        beyond = Mux(job.space == Space.WEIGHT, chip >= config.weight_tiles, chip >= config.params)
        return Mux(job.space == Space.ACT, behind, beyond)

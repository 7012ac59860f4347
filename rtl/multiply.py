"""Multiply engine: MUL instructions to one vector a cycle for the array, and where its sums go."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.lane_mask import LaneMask
from lepton.rtl.loader import Loader
from lepton.rtl.registers import delays, late
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause
from lepton.rtl.spec.timing import Timing
from lepton.rtl.tile_stage import TileStage
from lepton.rtl.vector_walk import VectorWalk

__all__ = ["MultiplyEngine"]


class MultiplyEngine(wiring.Component):
    """Runs LOAD and MUL instructions: reads activations, masks padding, steers array and accumulators.

    Parameters: `config`; `latencies` of the units around it (the configuration's unless told; ``act_read`` at least 1).

    Members:
        ``i`` Stream(256): MUL instructions · ``tiles`` `ports.tiles`: LOAD instructions, descriptors, loads, the ring.
        A tile whose place in the ring is freed has its row r read `skew(r)` cycles after ``tiles.ring.free``
        ``read`` `ports.activation_read` · ``vectors`` `ports.vectors`: ``act`` is meaningless in cycles without a
        vector, ``swap`` is 0 there · ``sums`` `ports.accumulate`, in the cycle of the array's sum
        ``banks`` `ports.handover`: as many tokens are kept as a program has room for TAILs; from the cycle of ``ready``
        on all sums of a bank are visible
        ``idle`` Out(1): no instruction held, nothing in flight · ``cause`` Out(Cause): of this cycle
        ``bad_address`` Out(1): pulse, a tile, an accumulator entry or an activation that is not masked lies outside its
        memory · ``bad_outputs`` Out(1): pulse, a stream row ended before its depthwise outputs. Both come before the
        sum of the vector, so that a reset in the cycle of the pulse prevents the write

    Timing. A tile pass *starts* in cycle s when: the pass before issues its last vector (or none is running), a MUL is
    held (accepted in s - 1 or before), the next tile is in the loader's queue (LOAD accepted in s - 3 or before), the
    token that `wait` asks for was given (``token`` in s - 1 or before), and a bank is held or free (``free`` in s - 1
    or before). Its vectors are issued (``cause`` MULTIPLY) in s + 1 .. s + n, without gaps. `Timing`: the first is at
    ``read.en`` `first_read` after s, a sum's ``sums.en`` comes `sums` after its vector was issued, and ``banks.ready``
    `bank_ready` after the last one was.
    Waits are only before a pass. ``cause`` of a cycle without a vector is the first that lacked in the cycle before,
    of: instruction (FETCH), token (ACTIVATIONS), bank (TAIL), tile (WEIGHTS).
    The next MUL is accepted in the cycle in which the last tile of the one before starts. `load` is issued so that
    it meets row 0 one cycle before the tile's swap: the swap of the tile before was in that cycle at the latest.
    Requires instructions that keep `isa.rules`.
    Throughput: one vector a cycle over tiles, groups and instructions. Reset: idle, both banks free, no token.
    """

    def __init__(self, config: NpuConfig, latencies: Timing | None = None):
        self._config = config
        self.timing = latencies or timing.of(config)
        super().__init__(self._members(config))

    def _members(self, config: NpuConfig) -> dict:
        return {
            "i": In(stream.Signature(layouts.MUL_BITS)),
            "tiles": Out(ports.tiles()),
            "read": Out(ports.activation_read(layouts.activations(config))),
            "vectors": Out(ports.vectors(config)),
            "sums": Out(ports.accumulate()),
            "banks": Out(ports.handover()),
            "idle": Out(1),
            "cause": Out(Cause, init=Cause.FETCH),
            "bad_address": Out(1),
            "bad_outputs": Out(1),
        }

    def elaborate(self, platform):
        m = Module()
        t = self.timing
        m.submodules.loader = loader = Loader(self._config)
        m.submodules.tile_stage = stage = self._stage()
        m.submodules.vector_walk = walk = VectorWalk(self._config)
        m.submodules.lane_mask = mask = LaneMask(self._config, t.operands, wrap=t.wrap)

        wiring.connect(m, wiring.flipped(self.tiles.i), loader.i)
        wiring.connect(m, loader.descriptor, wiring.flipped(self.tiles.descriptor))
        wiring.connect(m, wiring.flipped(self.i), stage.i)
        tile = loader.o.payload
        m.d.comb += [
            stage.tile.valid.eq(loader.o.valid),
            stage.tile.payload.eq(tile.descriptor),
            loader.o.ready.eq(stage.tile.ready),
            walk.start.eq(stage.start),
            walk.i.eq(stage.o),
            stage.running.eq(walk.running),
            stage.final.eq(walk.final),
            self.cause.eq(stage.cause),
            stage.banks.free.eq(self.banks.free),
            stage.banks.token.eq(self.banks.token),
        ]

        # The tile's load meets row 0 one cycle before the swap.
        load, ring = self.tiles.load, self.tiles.ring
        m.d.comb += [
            load.en.eq(late(m, stage.start, t.load_delay, "load", reset_less=False)),
            load.tile.eq(late(m, tile.tile, t.load_delay, "tile")),
            ring.free.eq(load.en & late(m, tile.ring, t.load_delay, "ring")),
            loader.ring_count.eq(ring.count),
            loader.ring_free.eq(ring.free),
        ]
        # Activations: read, mask; the swap goes with the first of a tile.
        address = self._address(m, stage, walk)
        of_vector = {name: getattr(walk, name) for name in ("running", "address", "x", "y", "v")} | {"address": address}
        m.d.comb += [
            self.read.en.eq(late(m, walk.running, t.read_delay, "r_en", reset_less=False)),
            self.read.addr.eq(late(m, address, t.read_delay - t.wrap, "r_addr")),
            *(getattr(mask, name).eq(value) for name, value in of_vector.items()),
            mask.data.eq(self.read.data),
            self.vectors.act.eq(mask.o),
            self.vectors.swap.eq(late(m, walk.swap, t.operands, "swap", reset_less=False)),
            self.vectors.depthwise.eq(late(m, walk.v.depthwise, t.operands, "depthwise")),
            self.vectors.line_delay.eq(late(m, walk.v.line_delay, t.operands, "line_delay")),
        ]
        # Sums: where they go, and the bank behind the last.
        enables = delays(m, walk.running & walk.output, t.sums, "a_en", reset_less=False)
        dones = delays(m, walk.running & walk.final & walk.release, t.bank_ready, "ready", reset_less=False)
        where = late(m, Cat(walk.bank, walk.init, walk.entry), t.sums, "where")
        m.d.comb += [
            self.sums.en.eq(enables[-1]),
            Cat(self.sums.bank, self.sums.init, self.sums.entry).eq(where),
            self.banks.ready.eq(dones[-1]),
            self.idle.eq(~(stage.held | walk.running | Cat(enables, dones).any() | loader.busy)),
        ]
        # What lies outside.
        outside = Signal()
        bad_vector = Signal()
        m.d.comb += outside.eq(walk.running & walk.output & (walk.entry >= self._config.acc_depth))
        m.d.sync += bad_vector.eq(outside | mask.outside)
        m.d.comb += [
            self.bad_address.eq(bad_vector | loader.bad_address),
            self.bad_outputs.eq(walk.bad_outputs),
        ]
        return m

    def _stage(self):
        return TileStage(self._config)

    def _address(self, m, stage, walk):
        """Of the vector issued `Timing.wrap` cycles before."""
        return walk.address

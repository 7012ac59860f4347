"""Multiply engine of the compact machine: its instruction stays where it is until the last sum is on its way."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts, ports
from lepton.rtl.compact.ports import serial_tiles
from lepton.rtl.compact.tile_stage import CompactTileStage
from lepton.rtl.compact.vector_walk import CompactVectorWalk
from lepton.rtl.lane_mask import LaneMask
from lepton.rtl.registers import delays, late
from lepton.rtl.spec import timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause


class _SteadyMask(LaneMask):
    """The mask of vectors whose instruction rests; what lies outside the memory wraps, and is not reported."""

    def _padding(self, m):
        return self.v.zero_point

    def _check(self, m, mask):
        pass


class SerialMultiply(wiring.Component):
    """`MultiplyEngine` with ``i`` Stream(WORD_LAYOUT), and ``tiles.i`` a Stream of descriptors: a tile that waits in
    the array's shadow registers. The next MUL is accepted when no sum of the one before is on its way. Addresses and
    entries wrap: nothing is reported.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        self.timing = timing.of(config)
        super().__init__(
            {
                "i": In(stream.Signature(layouts.WORD_LAYOUT)),
                "tiles": Out(serial_tiles()),
                "read": Out(ports.activation_read(layouts.activations(config))),
                "vectors": Out(ports.vectors(config)),
                "sums": Out(ports.accumulate()),
                "banks": Out(ports.handover()),
                "idle": Out(1),
                "cause": Out(Cause, init=Cause.FETCH),
                "bad_address": Out(1),
                "bad_outputs": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, t = self._config, self.timing
        address_bits, entry_bits = config.act_bytes.bit_length() - 1, (config.acc_depth - 1).bit_length()
        m.submodules.tile_stage = stage = CompactTileStage(config, address_bits)
        m.submodules.vector_walk = walk = CompactVectorWalk(config, address_bits, entry_bits)
        m.submodules.lane_mask = mask = _SteadyMask(config, t.operands, address_bits)

        wiring.connect(m, wiring.flipped(self.i), stage.i)
        wiring.connect(m, wiring.flipped(self.tiles.i), stage.tile)
        m.d.comb += [
            walk.start.eq(stage.start),
            walk.i.eq(stage.o),
            stage.running.eq(walk.running),
            stage.final.eq(walk.final),
            self.cause.eq(stage.cause),
            stage.banks.free.eq(self.banks.free),
            stage.banks.token.eq(self.banks.token),
            self.read.en.eq(walk.running),
            self.read.addr.eq(walk.address),
            *(getattr(mask, name).eq(getattr(walk, name)) for name in ("running", "address", "x", "y", "v")),
            mask.data.eq(self.read.data),
            self.vectors.act.eq(mask.o),
            self.vectors.swap.eq(late(m, walk.swap, t.operands, "swap", reset_less=False)),
            self.vectors.depthwise.eq(walk.v.depthwise),
            self.vectors.line_delay.eq(walk.v.line_delay),
        ]
        enables = delays(m, walk.running & walk.output, t.sums, "a_en", reset_less=False)
        dones = delays(m, walk.running & walk.final & walk.release, t.bank_ready, "ready", reset_less=False)
        where = self._in_memory(m, Cat(walk.bank, walk.init, walk.entry), t.sums, "where")
        m.d.comb += [
            self.sums.en.eq(enables[-1]),
            Cat(self.sums.bank, self.sums.init, self.sums.entry[:entry_bits]).eq(where),
            self.banks.ready.eq(dones[-1]),
            stage.drained.eq(~(walk.running | Cat(enables).any())),
            self.idle.eq(~(stage.held | walk.running | Cat(enables, dones).any())),
        ]
        return m

    @staticmethod
    def _in_memory(m, value, cycles, name):
        """The value `cycles` cycles ago, by a memory instead of so many registers."""
        depth = 1 << cycles.bit_length()
        m.submodules[name] = memory = Memory(shape=len(value), depth=depth, init=[], attrs={"ram_style": "block"})
        write, read = memory.write_port(), memory.read_port()
        now = Signal(range(depth), name=f"{name}_now")
        m.d.sync += now.eq(now + 1)
        m.d.comb += [
            write.en.eq(1),
            write.addr.eq(now),
            write.data.eq(value),
            read.addr.eq(now - (cycles - 1)),
        ]
        return read.data

"""The tail of a machine with a memory port: it gives MOVE tokens, and stands still for it."""

from amaranth.hdl import Signal
from amaranth.lib.wiring import In, Out

from lepton.rtl.tail import TailEngine
from lepton.rtl.tail_walk import TailWalk


class HeldTailWalk(TailWalk):
    """`TailWalk` with ``hold`` In(1): no read in this cycle, unless it is the first of a sub-group (the parameters of
    the next must not come to the lanes before it) or of a second operand (the lanes have the first for a cycle)."""

    def _besides(self):
        return {"hold": In(1)}

    def _running(self, m):
        running = Signal()
        m.d.comb += self.run.eq(running & (~self.hold | self.sub_first | self.half))
        return running


class MemoryTail(TailEngine):
    """`TailEngine` with ``hold`` In(1): held, it has a cycle without a read within three, as no sub-group starts in
    the next; ``post_move`` Out(1): pulse, with ``banks.token``, for TAILs with `post_move`. `wait_move` is not looked
    at (`TokenGate`). The cycles of its timing are those without ``hold``."""

    def _members(self, config):
        return super()._members(config) | {"hold": In(1), "post_move": Out(1)}

    def _walk(self):
        return HeldTailWalk(self._config)

    def _also(self, m, walk, ready):
        m.d.comb += walk.hold.eq(self.hold)
        return ready & ~self.hold

    def _ends(self, m, done, back):
        m.d.comb += self.post_move.eq(done & back.post_move)

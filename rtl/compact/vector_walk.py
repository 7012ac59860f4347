"""Vector walk of the compact machine: its instruction rests in the tile stage, and nothing is foreseen."""

from amaranth.hdl import Mux

from lepton.rtl.vector_walk import COPIED, VectorWalk


class CompactVectorWalk(VectorWalk):
    """`VectorWalk` whose ``i.mul`` rests while a pass runs; ``bad_outputs`` stays 0."""

    def _steering(self, m):
        m.d.comb += [self.v[name].eq(self.i.mul[name]) for name in COPIED]

    def _registers(self, m, now):
        def set_next(**values):
            m.d.sync += [now[name].eq(value) for name, value in values.items()]

        return set_next, now

    def _foresee(self, m, now, ahead, row_done):
        m.d.comb += [
            self.output.eq(self._completes(self.v.depthwise, now)),
            row_done.eq(Mux(self.v.depthwise, self.output & now["q_end"], now["x_end"])),
            self.final.eq(row_done & now["y_end"]),
        ]

    def _check(self, m, now, lag_x_end, row_done):
        pass

"""Lane mask: padding for the lanes of a vector that lie outside its row, and a check of those that do not."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl import layouts
from lepton.rtl.layouts import ADDRESS, POSITION
from lepton.rtl.registers import late
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.vector_walk import STEPS


class LaneMask(wiring.Component):
    """Lane j of a vector is the byte at position x + j; outside the row, and outside the rows, it reads `zero_point`.

    Parameters: `config`; `operands`, cycles from a vector's issue to ``o`` (`Timing`): ``data`` comes one before;
    `wrap`, by how many ``address`` is later than what else tells of the vector.

    Members:
        ``running`` In(1), ``address``, ``x``, ``y`` In, ``v`` In(STEPS): the vector issued in this cycle
        ``data`` In(activations): its bytes, ``operands`` - 1 cycles later · ``o`` Out: masked, the cycle after
        ``outside`` Out(1): a lane that is not masked lies outside the memory; `OUTSIDE` cycles after the issue
    Throughput: one vector a cycle. Reset: none on the data path.
    """

    def __init__(self, config: NpuConfig, operands: int, address_bits: int = ADDRESS, wrap: int = 0):
        self._config = config
        self._wrap = wrap
        self._path = operands
        self._first = 1 if operands >= 3 else 0  # a register between subtraction and comparators when there is time
        self.OUTSIDE = self._first + min(1, operands - 1 - self._first)
        super().__init__(
            {
                "running": In(1),
                "address": In(address_bits),
                "x": In(POSITION),
                "y": In(POSITION),
                "v": In(STEPS),
                "data": In(layouts.activations(config)),
                "o": Out(layouts.activations(config)),
                "outside": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        masks = [self._inside(m)]
        for k in range(self._path - 1 - self._first):
            masks.append(late(m, masks[-1], 1, f"mask_{k}"))
        zero = self._padding(m)
        for j, byte in enumerate(self.data):
            lane = Signal(signed(8), name=f"lane{j}", reset_less=True)
            m.d.sync += lane.eq(Mux(masks[-1][j], byte, zero))
            m.d.comb += self.o[j].eq(lane)
        self._check(m, masks[self.OUTSIDE - self._first])
        return m

    def _padding(self, m):
        """`zero_point` of the vector whose bytes come in this cycle."""
        return late(m, self.v.zero_point, self._path - 1, "zero_point")

    def _inside(self, m):
        """A bit for each lane: it is inside the row."""
        room = Signal(signed(19))  # bytes from lane 0 to the row's end
        inside_y = Signal()
        m.d.comb += [
            room.eq(self.v.x_limit - self.x),
            inside_y.eq((self.y >= 0) & (self.y < self.v.y_limit)),
        ]
        at_x = late(m, self.x, self._first, "mask_x")
        at_room = late(m, room, self._first, "mask_room")
        at_inside = late(m, inside_y, self._first, "mask_y")
        # Lane j is inside when -j <= x and j < room; only the lower bits of these depend on j.
        lanes = len(self.data)
        low_bits = (lanes - 1).bit_length()
        some_room = ~at_room[-1] & at_room[low_bits:].any()
        nearly = at_x[low_bits:].all()
        mask = Signal(lanes)
        for j in range(lanes):
            right_of = ~at_x[-1] | (nearly & (at_x[:low_bits] >= (1 << low_bits) - j))
            left_of = some_room | (~at_room[-1] & (at_room[:low_bits] > j))
            m.d.comb += mask[j].eq(right_of & left_of & at_inside)
        return mask

    def _check(self, m, mask):
        """Lane j reads byte address + j. It is inside the memory when the upper bits of the address are zero, or all
        one (just below 0) and the lower ones overflow."""
        bits, lanes, address = self._config.act_bytes.bit_length() - 1, len(self.data), self.address
        if bits == len(address):
            return
        k = (lanes - 1).bit_length()

        def with_mask(value, name, **options):
            return late(m, value, self.OUTSIDE - self._wrap, name, **options)

        near = address[k:bits].all()
        plain = with_mask(address[bits:] == 0, "read_plain")
        carried = with_mask(Mux(near, address[bits:].all(), address[bits:] == 0), "read_carried")
        low = with_mask(address[:k], "read_low")
        issued = late(m, self.running, self.OUTSIDE, "read_issued", reset_less=False)
        wrong = [mask[j] & ~Mux(low >= (1 << k) - j, carried, plain) for j in range(lanes)]
        m.d.comb += self.outside.eq(issued & Cat(wrong).any())

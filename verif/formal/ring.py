"""A ring tile is not overwritten between its last byte and its load, nor, row by row, before the row is read.

The prefetcher, with external memory that sends only what was asked for, in any rhythm, and with any engine that frees
only tiles that are complete, in order. The solver chooses one place of the ring. Row r is read at most r cycles after
the tile is freed; byte b of the next tile in that place comes more than b cycles after, and row r comes after byte r.
"""

from amaranth.hdl import Mux, Signal

from lepton.rtl.prefetch import Prefetch
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Region
from lepton.verif.formal.core import Bench, Bug, Check, sentence

CONFIG = NpuConfig(
    rows=2, cols=2, lanes=2, act_bytes=256, weight_tiles=16, ring_tiles=4, params=40, program_words=64, acc_depth=16
)


def ring() -> Bench:
    bench = Bench()
    m = bench.m
    dut = Prefetch(CONFIG)
    inside = bench.unit(dut, "dut")
    tiles, first, size = CONFIG.ring_tiles, CONFIG.resident_tiles, isa.word_bytes(Region.WEIGHT, CONFIG)
    slot, byte = inside("slot"), inside("byte")
    used, pending, stale, complete = inside("used"), inside("pending"), inside("stale"), inside("complete")
    whole = dut.ring.count + complete  # tiles that lie complete in the ring
    asked = (pending - stale).as_unsigned()  # tiles on their way into it

    bench.assume(~dut.x_data.valid | (pending != 0))
    bench.assume(~dut.ring.free | ((dut.ring.count != 0) & ~dut.clear))

    free = Signal(2)  # place of the tile that is freed next
    m.d.sync += free.eq(Mux(dut.clear, 0, free + dut.ring.free))
    place = bench.constant(2, "place")
    since = Signal(6, init=63)  # cycles since the chosen place was freed, 63 and more
    with m.If(dut.clear):
        m.d.sync += since.eq(63)
    with m.Elif(dut.ring.free & (free == place)):
        m.d.sync += since.eq(1)
    with m.Elif(since != 63):
        m.d.sync += since.eq(since + 1)

    bench.check(used <= tiles, "the ring is not filled beyond its size")
    bench.check(pending <= tiles, "no more is asked for than there are places")
    bench.check(stale <= pending, "what is stale is on its way")
    bench.check((byte < size) & ((pending != 0) | (byte == 0)), "a byte belongs to what was asked for")
    bench.check(used == whole + asked, "places are complete, on their way, or free")
    bench.check((slot >= first) & (slot < first + tiles), "the place written lies in the ring")
    bench.check((slot - first)[:2] == (free + whole)[:2], "it is the one after the complete ones")
    ahead = (place - (slot - first))[:2]  # how many tiles come before the chosen place is written
    coming = ahead < asked
    bench.check(~coming | (since >= 2), "nothing is asked for into a place that is still read")
    current = (ahead == 0) & coming & (stale == 0)
    bench.check(~current | (since == 63) | (since >= byte + 2), "byte b comes more than b cycles later")

    held = Signal()  # the chosen place is complete and not freed
    m.d.comb += held.eq((place - free)[:2] < whole)
    here = dut.write.en & (dut.write.tile == first + place)
    bench.check(~dut.write.en | ((dut.write.tile >= first) & (dut.write.byte < size)), "only the ring is written")
    bench.check(~(here & held), "a complete tile is not written")
    bench.check(~here | (since == 63) | (since > dut.write.byte), "a row is written after it was read")
    return bench


CHECKS = [
    Check(
        "ring",
        sentence(__name__),
        ring,
        "prove",
        2,
        Bug(Prefetch, "used.eq(used + issue - self.ring.free)", "used.eq(used + issue - complete)", 24),
    )
]

"""The host link acts only on right frames, writes only inside the region named, and always comes back to wait for one.

Each part is inductive, on the link as it is built (full payload and timeout), for any bytes in any rhythm. What the CRC
unit computes is Amaranth's, and simulation's to check; it is cut loose where its verdict may be any.
"""

from functools import partial

from amaranth.hdl import Array, Cat, Const, Mux, Signal

from lepton.rtl.act_memory import ActMemory
from lepton.rtl.link import Link
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.frames import WRITE_HEADER
from lepton.rtl.spec.isa import Command, Region
from lepton.verif.formal.core import Bench, Bug, Check, cut

# Every size another, so that no region is mistaken for another; words of 16 bytes are easy to count.
CONFIG = NpuConfig(
    rows=5, cols=2, lanes=2, act_bytes=512, weight_tiles=21, ring_tiles=4, params=37, program_words=75, acc_depth=16
)
TIMEOUT = 65536
WRITABLE = (Region.ACT, Region.WEIGHT, Region.PARAM, Region.PROGRAM)


def started():
    bench = Bench()
    dut = Link(CONFIG, act_latency=ActMemory.LATENCY, timeout=TIMEOUT)
    return bench, dut, bench.unit(dut, "dut")


def crc() -> Bench:
    bench, dut, inside = started()
    states = {name: inside.state(name) for name in ("SYNC", "HEADER", "PAYLOAD", "CRC", "EXECUTE", "COMMIT")}
    receiving = states["HEADER"] | states["PAYLOAD"] | states["CRC"]
    match = inside("match_detected", "crc")
    shown, byte = inside("valid"), inside("data")
    bench.check(~states["SYNC"] | (inside("start", domain="comb") & ~shown), "a frame begins anew")
    sent = dut.i.valid & dut.i.ready
    bench.check(~receiving | (shown == sent), "the CRC unit is shown every byte of the frame, once")
    bench.check(~(receiving & shown) | (byte == dut.i.payload), "as it came")

    right = Signal()  # the verdict on the frame
    with bench.m.If(states["EXECUTE"]):
        bench.m.d.sync += right.eq(match)
    bench.check(~states["COMMIT"] | right, "commits only a right frame")
    acts = dut.run.start | dut.run.reset | dut.write.en
    bench.check(~acts | right, "acts only on a right frame")
    was_execute, was_commit = bench.past(states["EXECUTE"], "was_execute"), bench.past(states["COMMIT"], "was_commit")
    bench.check(~(dut.run.start | dut.run.reset) | was_execute, "starts and resets on the verdict")
    bench.check(~dut.run.start | ~bench.past(dut.run.busy, "was_busy"), "starts only what is not busy")
    bench.check(~dut.write.en | was_commit, "writes while it commits")
    return bench


def pick(region, function):
    """`function` of the region, from the memory map; 0 for no region."""
    table = Array([Const(function(r, CONFIG) if r in isa.regions(CONFIG) else 0, 21) for r in range(8)])
    return Mux(region < 8, table[region[:3]], 0)


def header_rests(bench, inside, state):
    """What is registered of the header is up to date when it is used."""
    count, length, head = inside("count"), inside("length"), inside("head")
    old = {name: bench.past(inside(name), f"old_{name}") for name in ("head", "length", "outside", "last_byte")}
    begun = bench.past(Const(1), "begun")
    region, index, offset = old["head"][:8], old["head"][8:32], old["head"][32:48]
    known = pick(region, isa.word_bytes) != 0
    bench.check(~begun | ~known | (inside("last_byte") == pick(region, isa.word_bytes) - 1), "size of its words")
    bad = (region == Region.REG) | (old["length"] < WRITE_HEADER) | (offset > old["last_byte"]) | old["outside"]
    bench.check(~begun | inside("write_bad") | ~bad, "the verdict on a write follows")
    bad = ((region != Region.REG) & (region != Region.ACT)) | (index + offset > pick(region, isa.depth))
    bad |= offset > isa.MAX_PAYLOAD
    bench.check(~begun | inside("read_bad") | ~bad, "the verdict on a read follows")
    bench.check(~begun | (inside("is_reg") == (region == Region.REG)), "so does what it reads")
    bench.check(~state["PAYLOAD"] | (count < 2) | (begun & (region == head[:8])), "the region rests")
    same = begun & (old["head"] == head) & (old["length"] == length)
    settled = bench.past((old["head"] == head) & begun, "settled")
    same_outside = old["outside"] == inside("outside")
    bench.check(~(state["CRC"] & (count == 1)) | (same & same_outside), "the header is complete")
    late = (state["CRC"] & (count >= 2)) | state["EXECUTE"]
    same_size = old["last_byte"] == inside("last_byte")
    bench.check(~late | (same & settled & same_outside & same_size), "the header rests")
    bench.check(~state["CRC"] | (count < 4), "CRC")
    bench.check(~state["COMMIT"] | same, "the header rests while bytes are committed")


def bounds(target: Region | None) -> Bench:
    """Requests that name this region; None: any that cannot be written."""
    bench, dut, inside = started()
    m = bench.m
    state = {name: inside.state(name) for name in ("SYNC", "HEADER", "PAYLOAD", "CRC", "EXECUTE", "COMMIT")}
    count, length, at = inside("count"), inside("length"), inside("at")
    head = inside("head")
    region, index, offset = head[:8], head[8:32], head[32:48]
    size, words = (1, 0) if target is None else (isa.word_bytes(target, CONFIG), isa.depth(target, CONFIG))
    named = (state["PAYLOAD"] & (count != 0)) | state["CRC"] | state["EXECUTE"] | state["COMMIT"]
    theirs = ~Cat(region == r for r in WRITABLE).any() if target is None else region == target
    bench.assume(~named | theirs)
    # Byte numbers in the region: the request's first, the end, the walk, of what begins in the region and is no longer
    # than a payload; so many bits of a word index are enough.
    bits = (words + isa.MAX_PAYLOAD // size + 1).bit_length()
    first, end, here = Signal(15), words * size, Signal(15)
    m.d.comb += [
        first.eq(index[:bits] * size + offset),
        here.eq(inside("walk_index")[:bits] * size + inside("walk_byte")),
    ]
    bench.check(
        ~(state["PAYLOAD"] & (count == WRITE_HEADER)) | (inside("walk_index") == index), "the walk begins at the index"
    )
    far = ((state["PAYLOAD"] & (count > WRITE_HEADER)) | state["CRC"] | state["EXECUTE"]) & (length > WRITE_HEADER)
    bench.check(~far | (region == Region.REG) | (index < words) | inside("outside"), "an index outside is seen")
    good = (index < words) & (offset < size) & (length <= isa.MAX_PAYLOAD)
    walk_ok = (inside("walk_byte") < size) & (inside("walk_index") < 1 << bits)

    header_rests(bench, inside, state)

    # How far a request reaches: in the payload as it comes, then in commit.
    past_end = (length > WRITE_HEADER) & (first + length - (WRITE_HEADER + 1) >= end)
    bench.check(~state["HEADER"] | ((count < 4) & ~inside("outside")), "header")
    bench.check(~state["PAYLOAD"] | (count < length), "payload")
    bench.check(~(state["PAYLOAD"] & (count <= WRITE_HEADER)) | ~inside("outside"), "nothing is outside yet")
    data = state["PAYLOAD"] & (count >= WRITE_HEADER) & good
    bench.check(~data | ((here == first + count - WRITE_HEADER) & walk_ok), "the walk follows the payload")
    over = (count > WRITE_HEADER) & (first + count - (WRITE_HEADER + 1) >= end)
    bench.check(~data | (inside("outside") == over), "what lies outside is seen")
    bench.check(
        ~((state["CRC"] | state["EXECUTE"]) & good & (length >= WRITE_HEADER)) | (inside("outside") == past_end),
        "the verdict on the range",
    )
    commit = good & ~past_end & (inside("command") == Command.WRITE) & (region != Region.REG)
    commit &= (length > WRITE_HEADER) & (at >= WRITE_HEADER) & (at < length)
    bench.check(~state["COMMIT"] | (commit & (here == first + at - WRITE_HEADER) & walk_ok), "commit stays in range")

    inside_region = (dut.write.index < pick(dut.write.region, isa.depth)) & (
        dut.write.byte < pick(dut.write.region, isa.word_bytes)
    )
    bench.check(
        ~dut.write.en | (inside_region & (dut.write.region != Region.REG)), "every byte written is in its region"
    )
    return bench


def returns() -> Bench:
    bench, dut, inside = started()
    m = bench.m
    names = "SYNC HEADER PAYLOAD CRC EXECUTE COMMIT HEADER_OUT FETCH WAIT DATA_OUT CRC_OUT".split()
    state = {name: inside.state(name) for name in names}
    count, length, at = inside("count"), inside("length"), inside("at")
    sent, reply, latency = inside("sent"), inside("reply_length"), inside("latency")
    wait = ActMemory.LATENCY

    # An upper bound of the cycles left to SYNC; a byte that the host does not take stops the clock.
    each = wait + 2  # cycles of a reply byte
    data = (reply - sent).as_unsigned() * each
    tail = 4 - count
    reply_most = isa.MAX_PAYLOAD * each + 10
    work = isa.MAX_PAYLOAD + reply_most  # commit and reply
    bytes_left = Signal(17)  # of the frame, this one included
    rank = Signal(40)
    still = TIMEOUT - inside("idle")
    receiving = state["HEADER"] | state["PAYLOAD"] | state["CRC"]
    with m.If(state["HEADER"]):
        m.d.comb += bytes_left.eq(4 - count + 65535 + 4)
    with m.Elif(state["PAYLOAD"]):
        m.d.comb += bytes_left.eq(length - count + 4)
    with m.Else():
        m.d.comb += bytes_left.eq(4 - count)
    with m.If(receiving):
        m.d.comb += rank.eq(bytes_left * TIMEOUT + still + work + 2)
    with m.Elif(state["EXECUTE"]):
        m.d.comb += rank.eq(work + 1)
    with m.Elif(state["COMMIT"]):
        m.d.comb += rank.eq(reply_most + length - at)
    with m.Elif(state["HEADER_OUT"]):
        m.d.comb += rank.eq(reply * each + 9 - count)
    with m.Elif(state["FETCH"]):
        m.d.comb += rank.eq(data + 4)
    with m.Elif(state["WAIT"]):
        m.d.comb += rank.eq(data + 4 - wait + latency)
    with m.Elif(state["DATA_OUT"]):
        m.d.comb += rank.eq(data + 4 - wait - 1)
    with m.Elif(state["CRC_OUT"]):
        m.d.comb += rank.eq(tail)

    header_rests(bench, inside, state)
    bench.check(Cat(state.values()).any(), "a state")
    bench.check(~state["HEADER"] | (count < 4), "header")
    bench.check(~state["PAYLOAD"] | (count < length), "payload")
    bench.check(~(state["CRC"] | state["CRC_OUT"]) | (count < 4), "CRC")
    bench.check(~state["HEADER_OUT"] | ((count < 5) & (sent == 0)), "reply header")
    bench.check(~state["COMMIT"] | ((at < length) & (length <= isa.MAX_PAYLOAD) & (at >= WRITE_HEADER)), "commit")
    bench.check(~state["COMMIT"] | ((count == 0) & (sent == 0) & (reply == 0)), "before the reply")
    sending = state["FETCH"] | state["WAIT"] | state["DATA_OUT"]
    bench.check(~sending | ((sent < reply) & (count == 0)), "reply")
    bench.check(reply <= isa.MAX_PAYLOAD, "a reply is no longer than a payload")
    bench.check(~state["WAIT"] | (latency < wait), "wait")

    waited = bench.past(dut.o.valid & ~dut.o.ready, "waited")
    before = bench.past(rank, "before")
    was_idle = bench.past(state["SYNC"], "was_idle", init=1)
    bench.check(was_idle | state["SYNC"] | Mux(waited, rank == before, rank < before), "closer to SYNC in every cycle")
    most = (4 + 65535 + 4) * TIMEOUT + TIMEOUT + work + 2
    bench.check(rank <= most, f"at most {most} cycles")
    bench.check(~state["SYNC"] | dut.i.ready, "in SYNC bytes are taken")
    return bench


CUT = cut("dut.crc*.match_detected")
CHECKS = [
    Check(
        "link.crc",
        "The link starts, resets and writes only when the CRC unit, shown just the frame, says it is right",
        crc,
        "prove",
        1,
        Bug(Link, "with m.If(~f.crc.match_detected):", "with m.If(~f.crc.match_detected & (f.length != 0)):", 14),
        options=CUT,
    ),
    Check(
        "link.returns",
        "The link comes back to wait for a frame within a bound, whatever bytes come or stop coming",
        returns,
        "prove",
        1,
        Bug(Link, "f.partial & ~self.i.valid, idle + 1", "f.partial & ~self.i.valid & (f.count != 3), idle + 1", 10),
        options=CUT,
    ),
] + [
    Check(
        f"link.bounds_{name.lower()}",
        f"The link never writes a byte outside the memory that the request names ({name})",
        partial(bounds, target),
        "prove",
        2,
        Bug(Link, *bug),
        options=CUT,
    )
    for name, target, bug in (
        *((r.name, r, ("| f.outside\n", "\n", 24)) for r in WRITABLE),
        (
            "others",
            None,
            ("self._unwritable(f)\n                | (f.length < WRITE_HEADER)", "(f.length < WRITE_HEADER)", 24),
        ),
    )
]

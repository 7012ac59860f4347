"""A read of a memory returns what was written there last.

The solver chooses one byte (of the accumulators: one entry) and watches it through every write and read.
Inductive, with the units' real pipelines at a small size: any sequence of accesses that keeps the units' contracts.
"""

from functools import partial

from amaranth.hdl import Array, Cat, Const, Mux, Signal, Value

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.act_memory import ActMemory
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.weight_store import WeightStore
from lepton.verif.formal.core import Bench, Bug, Check

CONFIG = NpuConfig(rows=3, cols=4, lanes=2, act_bytes=256, weight_tiles=16, params=40, program_words=64, acc_depth=16)


def chain(bench, value, cycles, name):
    out = [Value.cast(value)]
    for k in range(cycles):
        out.append(bench.past(out[-1], f"{name}_{k + 1}"))
    return out


def watch(bench, known, value, writes, cycles):
    """What was known of the watched byte k cycles ago (value, then whether it is known), and whether it was written."""
    kept = chain(bench, Cat(value, known), cycles, "kept")
    wrote = chain(bench, writes, cycles, "wrote")
    for k in range(1, cycles + 1):
        bench.check(wrote[k] | (kept[k - 1] == kept[k]), f"{k} cycles ago: only a write changes it")
    return kept, wrote


def activations() -> Bench:
    bench = Bench()
    m = bench.m
    dut = ActMemory(CONFIG)
    inside = bench.unit(dut, "dut")
    bench.assume(dut.write.count <= CONFIG.lanes)
    where = bench.constant(8, "where")
    banks = CONFIG.banks

    # The byte as it must be, at once.
    known, value = Signal(), Signal(8)
    writes, data = Const(0), Const(0, 8)
    for k in range(CONFIG.lanes):
        hit = dut.write.en & (k < dut.write.count) & ((dut.write.addr + k)[:8] == where)
        writes, data = writes | hit, Mux(hit, dut.write.data[k].as_unsigned(), data)
    with m.If(writes):
        m.d.sync += [known.eq(1), value.eq(data)]

    # In the memory: two cycles behind.
    bank, word = where[:2], where[2:]
    contents = Array([inside.read(bench, word, f"bank_{b}") for b in range(banks)])
    (_, kept_1, kept), wrote = watch(bench, known, value, writes, 2)
    w_addr, w_count, w_data = inside("late_addr"), inside("late_count"), inside("late_data")
    hits = [inside("late_en") & (k < w_count) & ((w_addr + k)[:8] == where) for k in range(CONFIG.lanes)]
    bench.check(Cat(hits).any() == wrote[1], "stage 1: the write")
    for k, hit in enumerate(hits):
        bench.check(~hit | (w_data[8 * k : 8 * k + 8] == value), f"stage 1: byte {k}")
    bench.check(w_count <= CONFIG.lanes, "stage 1: count")
    bench.check(~kept[8] | (contents[bank] == kept[:8]), "the memory holds it")
    on_bank = [inside(f"w_on_{b}") & (inside(f"w_at_{b}") == word) & (bank == b) for b in range(banks)]
    on = Cat(on_bank).any()
    bench.check(on == wrote[2], "a write reaches its place, and only its place")
    rotated = Array([inside("w_rotated")[8 * b : 8 * b + 8] for b in range(banks)])
    bench.check(~wrote[2] | (rotated[bank] == kept_1[:8]), "with its byte")

    # A read that covers the byte: what was known at its `r_en`, unless it is written in that cycle or the one before.
    lanes = len(dut.read.data)
    for j in range(lanes):
        asks = dut.read.en & ((dut.read.addr + j)[:8] == where) & known & ~writes & ~wrote[1]
        asked = chain(bench, asks, dut.LATENCY, f"asked_{j}")
        expected = chain(bench, value, dut.LATENCY, f"expected_{j}")
        # One cycle on: the address is in its bank's register. Two: the word has been read. Three: it is half way.
        at = Cat([inside(f"r_at_{b}") == word for b in range(banks)])
        low_1, low_2, low_3 = (inside(f"r_low_{k}") for k in (1, 2, 3))
        bench.check(
            ~asked[1] | (at.bit_select(bank, 1) & ((low_1 + j)[:2] == bank) & inside("en_1")), f"lane {j}: address"
        )
        words = Array([inside.output(f"bank_{b}") for b in range(banks)])
        bench.check(~asked[2] | ((words[bank] == expected[2]) & ((low_2 + j)[:2] == bank)), f"lane {j}: word")
        half = Array([inside("half")[8 * b : 8 * b + 8] for b in range(banks)])[(bank - low_3[0])[:2]]
        bench.check(~asked[3] | ((half == expected[3]) & ((low_3 + j)[:2] == bank)), f"lane {j}: half way")
        bench.check(~asked[4] | (dut.read.data[j].as_unsigned() == expected[4]), f"lane {j}: byte")
    return bench


def weights() -> Bench:
    bench = Bench()
    m = bench.m
    dut = WeightStore(CONFIG)
    inside = bench.unit(dut, "dut")
    row, column, tile = bench.constant(range(4), "row"), bench.constant(range(4), "column"), bench.constant(4, "tile")
    bench.assume((dut.write.tile < 16) & (dut.load.tile < 16) & (dut.descriptor.addr < 16))
    # Row 3 stands for the descriptor, of which byte `column` is watched.
    byte = Signal(11)
    m.d.comb += byte.eq(Mux(row == CONFIG.rows, column, isa.DESCRIPTOR_BYTES + row * CONFIG.cols + column))
    known, value = Signal(), Signal(8)
    writes = dut.write.en & (dut.write.tile == tile) & (dut.write.byte == byte)
    with m.If(writes):
        m.d.sync += [known.eq(1), value.eq(dut.write.data)]
    kept, wrote = watch(bench, known, value, writes, CONFIG.rows)
    names = [f"row_{r}" for r in range(CONFIG.rows)] + ["descriptors"]
    contents = Array([inside.read(bench, tile, name) for name in names])
    on = Array([inside(f"{name}_write") & (inside(f"{name}_byte") == column) for name in names])
    for r in range(CONFIG.rows):  # on its way down the rows
        en, at, which, data = (inside(f"w_{r}_{k}") for k in range(4))
        mine = en & (at == tile) & (which == byte)
        bench.check(mine == wrote[1 + r], f"row {r}: the write")
        bench.check(~mine | (data == kept[r][:8]), f"row {r}: its byte")
    # Row r is written r cycles after row 0, the descriptor in its step.
    for r, name in enumerate(names):
        mine = row == r
        late = 1 + (r if r < CONFIG.rows else 0)
        now = f"w_{r}" if r < CONFIG.rows else "w_0"
        bench.check(
            ~(mine & kept[late][8]) | (contents[row].word_select(column, 8) == kept[late][:8]), f"{name} holds it"
        )
        hits = on[r] & (inside(f"{now}_1") == tile)
        bench.check(~mine | (hits == wrote[late]), f"{name}: a write reaches its place, and only its place")
        bench.check(~(mine & wrote[late]) | (inside(f"{now}_3") == kept[late - 1][:8]), f"{name}: with its byte")

    # A load reads row r r cycles after row 0; a byte of which no write is under way.
    loads, tiles = (
        chain(bench, dut.load.en, CONFIG.rows + 1, "load"),
        chain(bench, dut.load.tile[:4], CONFIG.rows + 1, "tile"),
    )
    for r in range(CONFIG.rows):
        bench.check(
            (inside(f"load_{r}") == loads[r + 1]) & (~loads[r + 1] | (inside(f"tile_{r}") == tiles[r + 1])),
            f"row {r}: skew",
        )
        asks = loads[r + 1] & (tiles[r + 1] == tile) & (row == r) & kept[1 + r][8] & ~wrote[1 + r]
        asked, expected = bench.past(asks, f"asked_{r}"), bench.past(kept[1 + r][:8], f"expected_{r}")
        got = dut.o.weights[r].as_value().word_select(column, 8)
        bench.check(~asked | (dut.o.load[r] & (got == expected)), f"row {r}: the weight")
    asks = dut.descriptor.en & (dut.descriptor.addr == tile) & (row == CONFIG.rows) & kept[1][8] & ~wrote[1]
    asked, expected = bench.past(asks, "asked_d"), bench.past(kept[1][:8], "expected_d")
    bench.check(~asked | (dut.descriptor.data.word_select(column, 8) == expected), "the descriptor")
    return bench


def accumulators(lutram: str) -> Bench:
    bench = Bench()
    m = bench.m
    config = NpuConfig(rows=3, cols=2, lanes=1, acc_depth=16, lutram=lutram)
    dut = Accumulators(config)
    inside = bench.unit(dut, "dut")
    bank, entry = bench.constant(1, "bank"), bench.constant(4, "entry")
    column = 1  # all are generated alike
    bench.assume((dut.sums.entry < 16) & (dut.tail.r_entry < 16) & (dut.tail.w_entry < 16))
    t_used = dut.tail.r_en | dut.tail.w_en
    age = dut.A_LATENCY  # a vector's sum has been written then, and read again
    working = chain(bench, dut.sums.en, age, "working"), chain(bench, dut.sums.bank, age, "bank_of")
    for k in range(age):  # `tokens` proves it of the engines
        bench.assume(~(t_used & working[0][k] & (working[1][k] == dut.tail.bank)))
    t_wrote = bench.past(dut.tail.w_en, "t_wrote") & (bench.past(dut.tail.bank, "t_bank_was") == dut.sums.bank)
    bench.assume(~(dut.sums.en & t_wrote))

    # The sum as it must be, at once.
    known, value = Signal(), Signal(32)
    a_hit = dut.sums.en & (dut.sums.bank == bank) & (dut.sums.entry == entry)
    psum = Signal(32)
    m.d.comb += psum.eq(dut.psum[column])
    sub = Value.cast(dut.tail.w_sub)
    t_hit = dut.tail.w_en & (dut.tail.bank == bank) & (dut.tail.w_entry == entry) & (sub == column)
    written = dut.tail.w_data[0].as_unsigned()
    with m.If(a_hit):
        m.d.sync += value.eq(Mux(dut.sums.init, 0, value) + psum)
        with m.If(dut.sums.init):
            m.d.sync += known.eq(1)
    with m.Elif(t_hit):
        m.d.sync += [known.eq(1), value.eq(written)]

    # Where it is while it is added to: `hit` and `values` k cycles ago; `base` is what the memory holds.
    hit, values = chain(bench, a_hit, age, "hit"), chain(bench, value, age, "value")
    inits, psums = chain(bench, dut.sums.init, age, "init"), chain(bench, psum, age, "psum")
    knowns = chain(bench, known, age, "known")
    t_hits, written_1 = chain(bench, t_hit, age, "t_hit"), bench.past(written, "written_1")
    t_hit_1 = t_hits[1]
    base = Signal(32)
    with m.If(hit[3]):
        m.d.sync += base.eq(values[2])
    with m.Elif(t_hit_1):
        m.d.sync += base.eq(written_1)
    # In look-up tables, each column of this configuration has its memory.
    part = f"_{column}" if lutram else ""
    contents = Array([inside.read(bench, entry, f"bank_{b}{part}") for b in range(2)])
    words = Array([inside.output(f"bank_{b}{part}") for b in range(2)])

    def lane(word):
        return word if lutram else word.word_select(column, 32)

    def own(name):
        return inside(name + part)

    for k in range(1, age + 1):
        bench.check(~hit[k] | (working[0][k] & (working[1][k] == bank)), f"stage {k}: a hit is a sum")
        added = (Mux(inits[k], 0, values[k]) + psums[k])[:32]
        bench.check(~hit[k] | (values[k - 1] == added), f"stage {k}: what it becomes")
        bench.check(~hit[k] | (knowns[k - 1] == (knowns[k] | inits[k])), f"stage {k}: known from its first sum on")
        same = (values[k - 1] == values[k]) & (knowns[k - 1] == knowns[k])
        bench.check(hit[k] | t_hits[k] | same, f"stage {k}: else it stays")
        for other in range(k - 1, age + 1):
            bench.check(~(t_hits[k] & hit[other]), f"stage {k}: the tail alone")
    for k in (1, 2):
        bench.check(inside(f"en_{k}") == working[0][k], f"stage {k}")
        same = (inside(f"bank_{k}") == bank) & (inside(f"entry_{k}") == entry)
        bench.check(~working[0][k] | ((inside(f"bank_{k}") == working[1][k]) & (hit[k] == same)), f"stage {k}: place")
        stage = inside(f"psum_{column}_{k}")
        bench.check(~hit[k] | (stage.as_unsigned() == psums[k][: len(stage)]), f"stage {k}: sum")
        wide = psums[k][: len(stage)].as_signed()
        bench.check(psums[k].as_signed() == wide, f"stage {k}: sign")
    before = Mux(hit[3], values[3], Mux(hit[2], values[2], Mux(hit[1] | t_hit_1, values[1], value)))
    known_before = Mux(hit[3], knowns[3], Mux(hit[2], knowns[2], Mux(hit[1] | t_hit_1, knowns[1], known)))
    bench.check(~t_hit_1 | (known & (value == written_1)), "the tail's write")
    bench.check(~known_before | (base == before), "held but for sums under way")
    bench.check(~known_before | (lane(contents[bank]) == base), "the memory holds it")
    bench.check(~working[0][1] | (own("init_1") == inits[1]), "stage 1: init")
    bench.check(~hit[1] | (inside("from_one_1") == (hit[2] & ~inits[1])), "stage 1: the sum before is its own")
    bench.check(~hit[1] | (own("from_two_1") == hit[3]), "stage 1: or the one before that")
    fetched = lane(words[bank])
    if not lutram:
        bench.check(~hit[1] | (own("from_three_1") == hit[4]), "stage 1: or the third")
        bench.check(~(hit[4] & (knowns[4] | inits[4])) | (lane(own("older")) == values[3]), "stage 4: the sum, kept")
        fetched = Mux(own("from_three_1"), lane(own("older")), fetched)
    operand = Mux(own("from_two_1"), lane(own("last")), fetched)
    reads = hit[1] & ~inits[1] & ~hit[2] & knowns[1]
    bench.check(~reads | (operand == values[1]), "stage 1: the operand")
    chosen = lane(Mux(own("from_one_2"), own("last"), own("operand")))
    bench.check(~(hit[2] & (knowns[2] | inits[2])) | (chosen == Mux(inits[2], 0, values[2])), "stage 2: the operand")
    bench.check(~(hit[3] & (knowns[3] | inits[3])) | (lane(own("last")) == values[2]), "stage 3: the sum")
    w_sum, w_at = (Array([own(f"{n}_{b}") for b in range(2)])[bank] for n in ("w_sum", "w_at"))
    w_en = Array([own(f"w_en_{b}") for b in range(2)])[bank]
    writes = w_en.bit_select(0 if lutram else column, 1) & (w_at == entry)
    bench.check(writes == (hit[3] | t_hit_1), "a write reaches its place, and only its place")
    bench.check(~writes | (w_sum == hit[3]), "and is a sum or the tail's")
    bench.check(~t_hit_1 | (inside("t_data") == written_1), "with its word")

    asks = dut.tail.r_en & (dut.tail.bank == bank) & (dut.tail.r_entry == entry) & known & ~t_hit_1
    asked = chain(bench, asks, dut.T_LATENCY, "asked")
    expected = chain(bench, value, dut.T_LATENCY, "expected")
    bench.check(~asked[1] | ((own("t_bank_1") == bank) & (lane(words[bank]) == expected[1])), "the word")
    bench.check(
        ~asked[2] | (Value.cast(dut.tail.r_data[column]).as_unsigned() == expected[2]), "the tail reads the sum"
    )
    return bench


CHECKS = [
    Check(
        "memories.activations",
        "Activation memory: each byte read is the one written there last",
        activations,
        "prove",
        2,
        Bug(ActMemory, "w_at.eq(Mux(b < w_low, w_next, w_word))", "w_at.eq(Mux(b <= w_low, w_next, w_word))", 8),
    ),
    Check(
        "memories.weights",
        "Weight store: each weight loaded, and each descriptor byte read, is the one written there last",
        weights,
        "prove",
        2,
        Bug(
            WeightStore,
            "on.eq(en & (byte >= bytes_.start) & (byte < bytes_.stop))",
            "on.eq(en & (byte >= bytes_.start) & (byte <= bytes_.stop))",
            10,
        ),
    ),
    *(
        Check(
            f"memories.accumulators{name}",
            "Accumulators: the tail reads the sum of what the array added since the entry began, or what it wrote "
            f"itself{what}",
            partial(accumulators, lutram),
            "prove",
            2,
            Bug(
                Accumulators,
                "from_one.eq(same(1) & ~self.sums.init)",
                "from_one.eq(same(1) & self.sums.init)",
                10,
            ),
        )
        for name, lutram, what in (("", "", ""), (".lutram", "acc", " (in look-up tables)"))
    ),
]

"""Random programs: the generator, and fifty programs on the RTL against the simulator."""

from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.rtl.spec.isa import Status
from lepton.sw.reference.iss import IssError
from lepton.verif.random import programs
from lepton.verif.random.programs import CONFIGS, START, Bench, Mismatch, campaign, expected, make, report, shrink


@pytest.mark.parametrize("name", ["ring5x3", "moves6x4"])
def test_generator(name):
    """Same seed, same program. Legal ones use every instruction and nearly every flag, the others end in every way."""
    config = CONFIGS[name]
    cases = [make(config, seed) for seed in range(60)]
    again = make(config, 7)
    assert again.words == cases[7].words and np.array_equal(again.act, cases[7].act)
    seen, ends = set(), set()
    for case in cases:
        wanted, _, _ = expected(case)
        ends |= wanted or set()
        if case.kind != "legal":
            continue
        assert wanted == {Status.DONE}
        at = 0
        while at < len(case.words):
            op, fields = isa.decode(case.words, at)
            at += op.words
            seen |= {(op.opcode.name, f.name, fields[f.name]) for f in op.fields if f.bits <= 2}
    missing = {
        (op.opcode.name, f.name, v)
        for op in isa.operations(config)
        for f in op.fields
        if f.bits <= 2
        for v in range(1 << f.bits)
    } - seen
    if config.memory_width:
        assert missing == {("MOVE", "space", 3), ("LOAD", "external", 1)}
    else:
        assert all(name in ("wait_move", "post_move") for _, name, _ in missing)
    assert {Status.DONE, Status.BAD_OPCODE, Status.BAD_INSTRUCTION, Status.BAD_ADDRESS, Status.STALLED} == ends


def test_accumulators_are_copied_out_whole():
    """Four bytes an accumulator: each distinct value gives distinct bytes."""
    case = make(CONFIGS["ring5x3"], 0)
    iss = case.iss()
    values = np.array([0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**23, 2**24, 2**31 - 1], np.int64)
    values = np.concatenate([values, -values, [-(2**31)]])
    rng = np.random.default_rng(1)
    iss.acc[0].flat[: len(values)] = values.astype(np.int32)
    iss.acc[1] = rng.integers(-(2**31), 2**31, iss.acc[1].shape)
    before = iss.acc.copy()
    iss.run(len(programs.service_programs(case.config)[0]))
    assert np.array_equal(iss.acc, before)
    size = iss.acc[0].size
    copied = iss.act[: 8 * size].reshape(2, 4, size).transpose(0, 2, 1).reshape(-1, 4)
    assert len(np.unique(copied, axis=0)) == len(np.unique(before))


def test_fifty_programs():
    lines = []
    assert campaign([CONFIGS["ring5x3"]], 50, 1, lines.append), "\n".join(lines)


def test_programs_with_moves():
    lines = []
    assert campaign([CONFIGS["moves6x4"]], 50, 1, lines.append), "\n".join(lines)


@pytest.mark.parametrize("what", ["flip", "rows", "token"])
def test_a_wrong_move_is_found(monkeypatch, what):
    """A simulator whose MOVEs do not invert, leave out a row, or that knows nothing of their tokens, is no RTL."""
    bench, move = Bench(CONFIGS["moves6x4"]), programs.Iss._move

    def wrong(self, step):
        if what == "flip":
            step.flip = 0
        elif what == "rows" and not step.space:
            step.rows = max(1, step.rows - 1)
        return move(self, step)

    cases = [case for case in (make(bench.config, seed) for seed in range(40)) if case.kind == "legal"]
    if what == "token":
        cases = [replace(case, chunks=without(case.chunks, "wait_move")) for case in cases]
        assert sum(expected(case)[0] != {Status.DONE} for case in cases) > len(cases) // 2
        return
    monkeypatch.setattr(programs.Iss, "_move", wrong)
    for case in cases:
        try:
            bench.run(replace(case, reset_after=0))
        except Mismatch as error:
            assert "differ" in str(error)
            return
    pytest.fail("not found")


def without(chunks, flag):
    """The program with that flag 0 everywhere."""
    out = []
    for chunk in chunks:
        op, fields = isa.decode(chunk)
        out.append(isa.encode(op, **fields | ({flag: 0} if flag in fields else {})))
    return out


def test_a_difference_is_found_and_made_smaller(monkeypatch, tmp_path):
    """A simulator that forgets the table in a TAIL stands for a wrong RTL."""
    monkeypatch.setattr(programs, "BUILD", tmp_path)
    config = CONFIGS["ring5x3"]
    bench = Bench(config)
    original = programs.Iss._store

    def wrong(self, step, bank, address, v):
        original(self, step, bank, address, v ^ 1 if step.table else v)

    monkeypatch.setattr(programs.Iss, "_store", wrong)
    for seed in range(1, 30):
        case = make(config, seed)
        try:
            bench.run(case)
        except Mismatch as error:
            why = str(error)
            break
    else:
        pytest.fail("not found")
    smaller, reason = shrink(bench, case, why, 20)
    assert len(smaller.chunks) <= len(case.chunks)
    text = report(smaller, reason, seed).read_text()
    assert f"--seed {seed}" in text and "table=1" in text and f"{START:5}  " in text
    with pytest.raises(Mismatch):
        bench.run(smaller)


def test_disassembly_of_any_words():
    rng = np.random.default_rng(2)
    words = [int(w) for w in rng.integers(0, 1 << 64, 30, dtype=np.uint64)] + isa.encode(isa.MUL, width=3)[:2]
    lines = programs.disassemble(words)
    assert lines and all(len(line.split()) >= 2 for line in lines)


def test_an_undefined_result_is_no_failure():
    case = make(CONFIGS["ring5x3"], 0)
    case.params["shift"][:71] = 100
    with pytest.raises(IssError) as error:
        case.iss().run(START)
    assert error.value.status is None and expected(case)[0] is None


def test_a_changed_opcode_moves_the_instructions(monkeypatch, tmp_path):
    """LOAD becomes MUL, which takes the words behind it, too: chunks are no longer instructions."""
    monkeypatch.setattr(programs, "BUILD", tmp_path)
    case = make(CONFIGS["ring5x3"], 1)
    load, mul = isa.encode(isa.LOAD, count=1), isa.encode(isa.MUL, width=3)
    words = [load[0] & ~15 | int(isa.Opcode.MUL), *load[1:], *mul, *isa.encode(isa.END)]
    assert [op.opcode.name for op, _ in programs.executed(words)][0] == "MUL"
    assert [op.opcode.name for op, _ in programs.executed(load + mul)] == ["LOAD", "MUL"]
    assert report(replace(case, chunks=[words[:2], words[2:]]), "a reason", 1).read_text()


def test_memory_after_an_error():
    """Any number of the program's first writes is right; a byte that none of them writes, or one too early, is not."""
    for seed in range(100):
        case = make(CONFIGS["ring5x3"], seed)
        wanted, iss, _ = expected(case)
        if wanted and Status.DONE not in wanted and len(iss.writes) > 10:
            break
    act = case.act.copy()
    for at, value in iss.writes[:10]:
        assert programs.a_beginning(case.act, iss, act)
        act[at] = value
    untouched = np.setdiff1d(np.arange(len(act)), np.append(np.concatenate([at for at, _ in iss.writes]), iss.doubtful))
    act[untouched[0]] ^= 1
    assert not programs.a_beginning(case.act, iss, act)
    at, value = next((at, value) for at, value in iss.writes[1:] if (case.act[at] != value).any())
    act = case.act.copy()
    act[at] = value ^ 1
    assert not programs.a_beginning(case.act, iss, act)

"""The mutator: stable ids, mutants that differ, known ones killed, survivors judged."""

import ast
import json
import subprocess
import sys
from collections import Counter

import pytest

from lepton.verif.formal.__main__ import choose
from lepton.verif.mutants import mutate, planted

SOURCE = b'''"""Doc: 1 + 2."""
class Unit:
    LATENCY = 2

    def elaborate(self, platform):
        """3 + 4"""
        with m.If(a & ~b):
            m.d.sync += [x.eq(y + 1), z.eq(Mux(c, d, e[1:n]).as_signed())]
        s = Signal(signed(8), name="five")
        return m
'''


def found(source=SOURCE):
    return mutate.mutants("pe", source)


def test_changes_of_a_small_module():
    kinds = Counter(m.id.split(":")[2] for m in found())
    assert kinds == {
        **{"operator": 2, "uninvert": 1, "negate": 1, "always": 1, "never": 1, "drop": 2, "swap": 1, "first": 1},
        **{"second": 1, "slice-upper": 1, "not-as_signed": 1, "unsigned": 1, "more": 3, "less": 4},
    }
    texts = [m.apply(SOURCE).decode() for m in found()]
    assert len(set(texts)) == len(texts) and SOURCE.decode() not in texts
    assert any("with m.If((a | ~b)):" in t for t in texts) and any("x.eq((y - 1))" in t for t in texts)
    assert any("[[], z.eq(" in t for t in texts) and any("Mux(c, e[1:n], d)" in t for t in texts)


def test_ids_outlive_changes_elsewhere():
    moved = SOURCE.replace(b"        with m.If", b"        m.d.comb += w.eq(v)\n\n        with m.If")
    before, after = {m.id for m in found()}, {m.id for m in found(moved)}
    assert before < after and len(after) == len(found(moved))
    edited = SOURCE.replace(b"y + 1", b"y + 2")
    assert before - {m.id for m in found(edited)} == {m.id for m in found() if m.line == 8 and "y" in m.before} | {
        m.id for m in found() if m.before == "1" and m.line == 8 and SOURCE[m.start - 4 : m.start] == b"y + "
    }


@pytest.mark.parametrize("module", mutate.UNITS)
def test_all_mutants_are_python_and_differ(module):
    source = mutate.source_of(module).read_bytes()
    all_of_it = mutate.mutants(module)
    assert len({m.id for m in all_of_it}) == len(all_of_it) > 10
    assert all_of_it == mutate.mutants(module)
    assert len({m.apply(source) for m in all_of_it} | {source}) == len(all_of_it) + 1
    original = ast.dump(ast.parse(source))
    for m in mutate.sample(all_of_it, 20, 1):
        assert ast.dump(ast.parse(m.apply(source))) != original, m


def test_the_choice_is_by_seed_and_nearly_the_same_after_a_change():
    population = [m for module in mutate.UNITS for m in mutate.mutants(module)]
    assert mutate.sample(population, 50, 1) == mutate.sample(population[::-1], 50, 1)[::-1]
    assert mutate.sample(population, 50, 1) != mutate.sample(population, 50, 2)
    fewer = population[:300] + population[310:]
    assert len(set(mutate.sample(population, 50, 1)) & set(mutate.sample(fewer, 50, 1))) >= 45


def test_known_mutants(tmp_path):
    """Sign, saturation and rounding of the requantizer are killed; a counter as wide as before changes no netlist."""
    by_text = {(m.before, m.after): m.id for m in mutate.mutants("requantizer")}
    ids = [
        by_text["scaled + half.as_unsigned()", "(scaled - half.as_unsigned())"],
        by_text["(1 << 31) - 1", "((1 << 31) + 1)"],
        by_text["Mux(product_4, 0, Const(1 << 14, 15))", "Mux(1, 0, Const(1 << 14, 15))"],
    ]
    unit = mutate.source_of("skid").read_bytes()
    ids += [m.id for m in mutate.mutants("skid") if b"range(self._depth + (0))" in m.apply(unit)]
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "lepton.verif.mutants.mutate", "--json", str(out)]
    done = subprocess.run([*command, *(f"--id={i}" for i in ids)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert [m["verdict"] for m in result["mutants"]] == ["killed", "killed", "killed", "equivalent"]
    assert result["mutants"][0]["by"] == "tests/test_requantizer.py::test_exact_and_one_a_cycle"
    assert result["units"]["quantizer"] | {"survivors": None} == {
        **{"mutants": 3, "invalid": 0, "equivalent": 0, "killed": 3, "timeouts": 0, "survivors": None, "score": 100.0}
    }


def test_score_counts_what_is_not_equivalent():
    todo = mutate.mutants("fetch")[:6]
    verdicts = ["killed", "timeout", "equivalent", "invalid", "survived", "survived"]
    results = {m.id: mutate.Outcome(v, "", 0.1) for m, v in zip(todo, verdicts)}
    judged = {todo[4].id: {"id": todo[4].id, "verdict": "equivalent", "reason": "never read"}}
    group = mutate.summary(todo, results, judged)["controller"]
    assert (group["killed"], group["equivalent"], group["invalid"], group["score"]) == (2, 2, 1, 66.7)
    assert group["survivors"] == [{"id": todo[5].id, "verdict": "open", "reason": ""}]


def test_tests_that_must_notice_exist():
    for name in {name for unit in mutate.UNITS.values() for name in unit.tests} | set(mutate.WHOLE):
        file, _, test = name.partition("::")
        assert f"def {test}(" * bool(test) in (mutate.ROOT / f"tests/test_{file}.py").read_text()


def test_a_survivor_meets_whole_programs():
    """A mutant that the tests of its unit (here another's) do not see gets a second run, with other tests."""
    (mutant,) = (m for m in mutate.mutants("requantizer") if m.after == "(scaled - half.as_unsigned())")
    change = (
        "from lepton.verif.mutants import mutate; "
        "mutate.UNITS['requantizer'] = mutate.Unit('quantizer', 'Requantizer', "
        "('fetch::test_queue',)); mutate.WHOLE = ('requantizer::test_exact_and_one_a_cycle',); "
        f"mutate.main(['--id', '{mutant.id}'])"
    )
    done = subprocess.run([sys.executable, "-c", change], capture_output=True, text=True)
    first, second, _, row, *_ = done.stdout.splitlines() + [done.stderr] * 4
    assert first.startswith("survived") and second.startswith("killed") and row.endswith("100.0%"), done.stdout


def test_wrong_arguments(capsys):
    for argv in (["nothing"], ["--id", "pe:x"], ["--id", "a:b"]):
        with pytest.raises(SystemExit) as stopped:
            mutate.main(argv)
        assert stopped.value.code == 2
    assert "unknown unit 'nothing'; known: array" in capsys.readouterr().err


@pytest.mark.parametrize("bug", planted.BUGS, ids=lambda b: b.name)
def test_planted_bug_fits_the_source(bug):
    text = (mutate.ROOT / bug.file).read_text()
    assert text.count(bug.before) == 1 and bug.before != bug.after
    ast.parse(text.replace(bug.before, bug.after))
    assert (mutate.ROOT / "tests" / bug.tests).exists()
    assert [check.name for check in choose(list(bug.proofs))] == list(bug.proofs) or not bug.proofs


def test_a_planted_bug_is_found(capsys, tmp_path):
    assert planted.main(["--quick", "queue overflow", "--json", str(tmp_path / "bugs.json")]) == 0
    assert "1 of 1 planted bugs found" in capsys.readouterr().out
    (result,) = json.loads((tmp_path / "bugs.json").read_text())
    assert "test_fetch.py::test_queue[2]" in result["unit"] and not result["missed"]


def test_a_bug_that_nothing_finds_is_told(capsys, monkeypatch):
    harmless = planted.Bug("none", "controller", "", "rtl/skid.py", "count != 0", "count != (0)", "test_fetch.py")
    monkeypatch.setattr(planted, "BUGS", [harmless])
    assert planted.main(["--quick"]) == 1
    assert "MISSED BY test_fetch.py" in capsys.readouterr().out

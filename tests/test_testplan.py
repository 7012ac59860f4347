"""The verification plan: everything it names exists, results are joined as they should be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lepton.verif import plan
from lepton.verif.coverage import functional as cover

ROWS = plan.load()


@pytest.fixture(scope="module")
def collected():
    """Names of all tests, without the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "not wheel", "-p", "no:cacheprovider"],
        cwd=plan.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    names = [line.removeprefix("tests/") for line in done.stdout.splitlines() if line.startswith("tests/")]
    assert len(names) > 500, done.stdout[-2000:]
    return names


def items(kind):
    return [(row.name, item) for row in ROWS for item in row.items.get(kind, [])]


def test_every_test_exists(collected):
    for row, item in items("tests"):
        assert any(plan.matches(item, name) for name in collected), f"{row}: no test {item}"


def test_every_bench_exists_and_is_in_the_plan():
    assert {item for _, item in items("benches")} == plan.bench_tests()


def test_every_proof_exists():
    names = plan.proof_names()
    for row, item in items("proofs"):
        assert any(plan.matches(item, name) for name in names), f"{row}: no proof {item}"


def test_every_cover_point_exists_and_is_in_the_plan():
    assert {item for _, item in items("covers")} == set(cover.POINTS)


def test_every_campaign_exists_and_is_in_the_plan():
    assert {item for _, item in items("campaigns")} | {"tests"} == set(plan.CAMPAIGNS)


JUNIT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_good[1]"/><testcase classname="tests.test_a" name="test_good[2]"/>
<testcase classname="tests.test_a" name="test_mixed[1]"/>
<testcase classname="tests.test_a" name="test_mixed[2]"><failure/></testcase>
<testcase classname="tests.test_a" name="test_away"><skipped/></testcase></testsuite></testsuites>"""


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "RESULTS", tmp_path)
    (tmp_path / "tests.xml").write_text(JUNIT)
    about = dict(proves="a sentence", mode="prove", depth=2, passed=True)
    proofs = [dict(name="skid.load", bug_found=True, **about), dict(name="skid.run", bug_found=False, **about)]
    (tmp_path / "proofs.json").write_text(json.dumps(proofs))
    about = dict(what="a point", bins=2, unreachable={"b": "why"})
    points = {"queues": {"missing": []} | about, "causes": {"missing": ["TAIL"]} | about}
    code = {
        "targets": {"line": 98.0},
        "percent": {"line": 50.0},
        "components": {"unit": {"line": [1, 2]}},
        "left": [{"component": "unit", "kind": "line", "what": "a | b", "reason": None}],
    }
    (tmp_path / "coverage_detail.json").write_text(json.dumps({"functional": points} | code))
    (tmp_path / "fuzz.json").write_text(
        json.dumps({"name": "fuzz", "command": "c", "passed": False, "seconds": 1, "summary": ""})
    )
    return plan.Results()


@pytest.mark.parametrize(
    "kind, item, state",
    [
        ("tests", "test_a.py::test_good", plan.PASS),
        ("tests", "test_a.py::test_good[2]", plan.PASS),
        ("tests", "test_a.py::test_goo", plan.NONE),
        ("tests", "test_a.py::test_mixed", plan.FAIL),
        ("tests", "test_a.py::test_mixed[1]", plan.PASS),
        ("tests", "test_a.py::test_away", plan.SKIP),
        ("tests", "test_a.py", plan.FAIL),
        ("tests", "test_b.py", plan.NONE),
        ("proofs", "skid", plan.FAIL),
        ("proofs", "skid.load", plan.PASS),
        ("covers", "queues", plan.PASS),
        ("covers", "causes", plan.FAIL),
        ("campaigns", "fuzz", plan.FAIL),
        ("campaigns", "fuzz_rtl", plan.NONE),
    ],
)
def test_state_of_an_item(results, kind, item, state):
    assert results.state(kind, item) == state


def test_state_of_a_row(results):
    def row(*tests):
        return results.row(plan.Row("r", "x", "V1", {"tests": [f"test_a.py::test_{t}" for t in tests]}))

    assert row("good") == (plan.PASS, [])
    assert row("good", "mixed") == (plan.FAIL, ["test_a.py::test_mixed: fail"])
    assert row("good", "away") == (plan.SKIP, ["test_a.py::test_away: skipped"])
    assert row("good", "nowhere") == (plan.FAIL, ["test_a.py::test_nowhere: no result"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("- {name: a, requires: b, stage: V4, tests: [c]}", "needs name"),
        ("- {name: a, requires: b, stage: V1}", "nothing shows it"),
        ("- {name: a, requires: b, stage: V1, test: [c]}", "unknown: ['test']"),
        ("- &r {name: a, requires: b, stage: V1, tests: [c]}\n- *r", "more than one row"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path, text, message):
    path = Path(tmp_path / "plan.yaml")
    path.write_text(text)
    with pytest.raises(plan.PlanError) as error:
        plan.load(path)
    assert message in str(error.value)


def test_a_campaign_leaves_its_log_and_result(results, monkeypatch):
    campaigns = {name: plan.Campaign("x", (module,)) for name, module in (("zen", "this"), ("bad", "nothing"))}
    monkeypatch.setattr(plan, "CAMPAIGNS", campaigns)
    good, bad = plan.run("zen", 1), plan.run("bad", 1)
    assert good["passed"] and good["summary"].startswith("Namespaces") and good["command"] == "python -m this"
    assert not bad["passed"] and "No module named nothing" in (plan.RESULTS / "bad.log").read_text()
    assert plan.Results().campaigns["zen"] == good


def test_the_page_names_everything(results):
    text = plan.page(ROWS, results)
    assert all(f"| {row.name} |" in text for row in ROWS)
    assert "no result" in text and "| `skid.run` | a sentence | induction 2 cycles | proven | NOT FOUND |" in text


def test_uncovered_bits_are_ranges():
    names = ["b[3]:0->1", "b[3]:1->0", "b[4]:0->1", "b[7]:1->0", "a.c[0]:0->1", "if (x) #1"]
    assert plan._points(names) == "`a.c[0]`, `b[3-4,7]`, `if (x) #1`"

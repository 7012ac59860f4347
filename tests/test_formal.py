"""The proofs: quick ones are run, and each must find the bug planted for it. All of them: `make formal`."""

import json
from dataclasses import replace

import pytest
from amaranth.hdl import Signal

from lepton.rtl.skid import SkidQueue
from lepton.verif.formal import core
from lepton.verif.formal.__main__ import checks, main, run

ALL = {check.name: check for check in checks()}
QUICK = [name for name, check in ALL.items() if check.quick]


@pytest.mark.parametrize("name", QUICK)
def test_proof_holds_and_finds_its_planted_bug(name, tmp_path):
    result = core.solve(ALL[name], build=tmp_path)
    assert result.passed, result.trace
    found = core.solve(ALL[name], bug=True, build=tmp_path)
    assert not found.passed and found.trace.endswith(".vcd")


def test_an_answer_is_kept_with_its_problem(tmp_path):
    check = ALL["skid.load"]
    first, again = (core.solve(check, build=tmp_path) for _ in range(2))
    assert first.passed and not first.kept and again.passed and again.kept
    with core.planted(check.bug):  # another problem
        other = core.solve(check, build=tmp_path)
    assert not other.kept and not other.passed


def test_names_differ_and_every_check_says_what_it_proves():
    assert len(ALL) == len(checks())
    assert all(len(check.proves.split()) > 4 and check.mode in ("prove", "bmc") for check in ALL.values())


def test_every_planted_bug_changes_its_unit_for_the_duration_only():
    for check in ALL.values():
        before = check.bug.unit.elaborate
        with core.planted(check.bug):
            assert check.bug.unit.elaborate is not before
        assert check.bug.unit.elaborate is before
    with pytest.raises(ValueError, match="occurs 0 times, expected once"):
        with core.planted(core.Bug(SkidQueue, "no such text", "")):
            pass


def _contradiction():
    bench = core.Bench()
    bench.assume(bench.free(1, "x") & ~Signal(init=1))
    return bench


def test_assumptions_that_cannot_hold_prove_nothing(tmp_path):
    check = core.Check("contradiction", "nothing", _contradiction, "prove", 2, ALL[QUICK[0]].bug)
    with pytest.raises(RuntimeError, match="the solver did not answer"):
        core.solve(check, build=tmp_path)


def test_command_line(tmp_path, monkeypatch, capsys):
    assert main(["--list", "skid"]) == 0
    assert "skid.load" in capsys.readouterr().out
    assert main(["no_such_proof"]) == 2
    assert "no proof named 'no_such_proof'" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["skid.load", "--no-bugs", "--json", "out/results.json"]) == 0
    (row,) = json.loads((tmp_path / "out/results.json").read_text())
    assert row["name"] == "skid.load" and row["passed"] and row["mode"] == "prove" and row["bug_found"] is None


def test_a_failing_proof_names_its_trace_and_exits_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with core.planted(ALL["skid.load"].bug):
        assert main(["skid.load", "--no-bugs"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "trace: build/formal/skid.load/run/engine_0/trace" in out


def test_a_broken_design_is_told_and_nothing_crashes(tmp_path, monkeypatch, capsys):
    """Not what is wrong with the tools: a proof that fails, a bug whose text is gone, a bench that finds no signal."""
    monkeypatch.chdir(tmp_path)
    check = ALL["skid.load"]
    gone = replace(check, bug=core.Bug(SkidQueue, "no such text", ""))
    lost = replace(check, name="lost", build=lambda: {}["no such signal"])
    with core.planted(check.bug):
        failed, no_bench = run([gone, lost], bugs=True)
    out = capsys.readouterr().out
    assert "[1/2] skid.load (prove 2) ... FAILED, planted bug NOT PLANTED" in out
    assert f"fails: {failed.failed}; trace: " in out and "'no such text' occurs 0 times, expected once" in out
    assert "[2/2] lost (prove 2) ... NO ANSWER" in out and "KeyError: 'no such signal'" in out
    assert not failed.passed and failed.bug_found is False and failed.failed
    assert not no_bench.passed and no_bench.bug_found is None


def test_a_bug_whose_text_is_gone_is_no_success(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    check = replace(ALL["skid.load"], bug=core.Bug(SkidQueue, "no such text", ""))
    monkeypatch.setattr("lepton.verif.formal.__main__.checks", lambda: [check])
    assert main(["skid.load"]) == 1
    assert "proven, planted bug NOT PLANTED" in capsys.readouterr().out

"""The verification plan: run everything that verif/testplan.yaml names, join the results, print and write the table.

    python -m lepton.verif.plan                  # all of it (`make verify`)
    python -m lepton.verif.plan --run fuzz       # one campaign again, the others' results as they are
    python -m lepton.verif.plan --run none       # only the table

Each campaign leaves `NAME.json` (what ran, how it ended) and `NAME.log` in build/verify. A row of the plan is green if
all it names ran and passed, red if something failed or has no result. Writes docs/verification.md; exit code 1 if a row
is red.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from lepton.fpga.build import tree

ROOT = Path(__file__).resolve().parents[1]
PLAN = ROOT / "verif" / "testplan.yaml"
NOT_SHOWN = ROOT / "verif" / "not_shown.yaml"
BENCHES = ROOT / "verif" / "benches"
RESULTS = ROOT / "build" / "verify"
PAGE = ROOT / "docs" / "verification.md"
STAGES = ("V1", "V2", "V3")
KINDS = ("tests", "benches", "proofs", "covers", "campaigns")
PASS, FAIL, SKIP, NONE = "pass", "fail", "skipped", "no result"


class PlanError(ValueError):
    """The plan is not well formed; one line."""


@dataclass(frozen=True)
class Campaign:
    what: str
    arguments: tuple[str, ...]
    """After `python -m`."""
    whole: bool = False
    """Uses both cores: nothing runs beside it."""


CAMPAIGNS = {
    "tests": Campaign(
        "unit tests, testbenches, end-to-end tests",
        ("pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not wheel", f"--junitxml={RESULTS / 'tests.xml'}"),
        whole=True,
    ),
    "formal": Campaign(
        "proofs, and that each finds its planted bug", ("lepton.verif.formal", "--json", f"{RESULTS / 'proofs.json'}")
    ),
    "mutate": Campaign(
        "mutants of the RTL against the tests, a sample of each group",
        ("lepton.verif.mutants.mutate", "--count", "60", "--json", f"{RESULTS / 'mutants.json'}"),
    ),
    "planted": Campaign(
        "bugs planted by hand, against the tests of their unit",
        ("lepton.verif.mutants.planted", "--quick", "--json", f"{RESULTS / 'planted_detail.json'}"),
    ),
    "coverage": Campaign(
        "functional and code coverage of the cocotb benches",
        ("lepton.verif.coverage.code", "--json", f"{RESULTS / 'coverage_detail.json'}"),
    ),
    "programs": Campaign(
        "random programs, legal and not, on the RTL against the simulator",
        ("lepton.verif.random.programs", "--count", "1600"),
    ),
    "fuzz_rtl": Campaign(
        "random graphs on the RTL against TFLM", ("lepton.verif.random.graphs", "--count", "100", "--backend", "rtl")
    ),
    "fuzz_port_rtl": Campaign(
        "random graphs that pass through a small chip, on the RTL with a memory of random pace, against TFLM",
        ("lepton.verif.random.graphs", "--count", "100", "--backend", "rtl", "--memory"),
    ),
    "fuzz_port": Campaign(
        "random graphs that pass through a small chip, golden model and simulator against TFLM",
        ("lepton.verif.random.graphs", "--count", "1000", "--memory"),
    ),
    "fuzz": Campaign(
        "random graphs, golden model and simulator against TFLM", ("lepton.verif.random.graphs", "--count", "2000")
    ),
    "faults": Campaign("faults on the host link, RTL and driver", ("lepton.verif.random.faults", "--count", "100000")),
}
"""What `make verify` runs, in this order, two at a time; the longest first."""

SEEDED = ("fuzz", "fuzz_rtl", "fuzz_port", "fuzz_port_rtl", "programs", "faults", "coverage", "mutate")
"""Campaigns that take `--seed`."""


# --- The plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    name: str
    requires: str
    stage: str
    items: dict[str, list[str]] = field(default_factory=dict)


def load(path: Path = PLAN) -> list[Row]:
    """The rows of the plan. Raises PlanError."""
    import yaml

    rows = []
    for n, entry in enumerate(yaml.safe_load(path.read_text())):
        name = entry.get("name", f"row {n}")
        unknown = set(entry) - {"name", "requires", "stage", *KINDS}
        if unknown or not {"name", "requires", "stage"} <= set(entry) or entry["stage"] not in STAGES:
            raise PlanError(f"{path.name}: {name}: needs name, requires, stage (V1 to V3); unknown: {sorted(unknown)}")
        items = {kind: entry[kind] for kind in KINDS if kind in entry}
        if not items:
            raise PlanError(f"{path.name}: {name}: nothing shows it")
        rows.append(Row(name, entry["requires"], entry["stage"], items))
    double = {r.name for r in rows if sum(r.name == other.name for other in rows) > 1}
    if double:
        raise PlanError(f"{path.name}: more than one row named {sorted(double)[0]!r}")
    return rows


def proof_names() -> list[str]:
    from lepton.verif.formal.__main__ import checks

    return [check.name for check in checks()]


def bench_tests() -> set[str]:
    """Names of all cocotb tests, as `file::function`."""
    found = set()
    for path in BENCHES.glob("*_tb.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.AsyncFunctionDef) and node.decorator_list:
                found.add(f"{path.name}::{node.name}")
    return found


def matches(item: str, name: str) -> bool:
    """Whether the plan's item means this test or proof: itself, all its parameters, or all of a file."""
    return name == item or name.startswith((item + "[", item + "::", item + "."))


# --- Results ---------------------------------------------------------------------------------------------------------


def _cases(path: Path) -> dict[str, str]:
    """State of each test case of a JUnit file, by `file.py::name`."""
    out: dict[str, str] = {}
    if not path.exists():
        return out
    for case in ElementTree.parse(path).iter("testcase"):
        name = case.get("classname", "").split(".")[-1] + ".py::" + case.get("name", "")
        bad = case.find("failure") is not None or case.find("error") is not None
        state = FAIL if bad else SKIP if case.find("skipped") is not None else PASS
        out[name] = _worst([state, out[name]]) if name in out else state
    return out


def _worst(states: list[str]) -> str:
    """Of several: failed, no result, passed (some may be skipped), skipped."""
    return next(s for s in (FAIL, NONE, PASS, SKIP) if s in states)


def _json(name: str):
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


class Results:
    """All results under build/verify, and of the benches where the tests left them."""

    def __init__(self):
        self.tests = _cases(RESULTS / "tests.xml")
        self.benches: dict[str, str] = {}
        for path in sorted((ROOT / "build" / "benches").glob("*/*.xml")):
            for name, state in _cases(path).items():
                self.benches[name] = _worst([state, self.benches.get(name, state)])
        self.campaigns = {name: _json(name) for name in CAMPAIGNS}
        self.details = {n: _json(n) for n in ("proofs", "coverage_detail", "mutants", "planted_detail")}
        proofs = self.details["proofs"] or []
        self.proofs = {p["name"]: PASS if p["passed"] and p["bug_found"] is not False else FAIL for p in proofs}
        points = (self.details["coverage_detail"] or {"functional": {}})["functional"]
        self.covers = {name: FAIL if point["missing"] else PASS for name, point in points.items()}

    def state(self, kind: str, item: str) -> str:
        """PASS, FAIL, SKIP or NONE of one item of the plan."""
        if kind == "campaigns":
            result = self.campaigns[item]
            return NONE if result is None else PASS if result["passed"] else FAIL
        cases = getattr(self, kind)
        return _worst([state for name, state in cases.items() if matches(item, name)] or [NONE])

    def row(self, row: Row) -> tuple[str, list[str]]:
        """State of a row, and the items that do not hold, each with why."""
        states = [
            (f"{item}: {s}", s) for kind, items in row.items.items() for item in items for s in [self.state(kind, item)]
        ]
        bad = [text for text, s in states if s in (FAIL, NONE)]
        if bad:
            return FAIL, bad
        skipped = [text for text, s in states if s == SKIP]
        return (SKIP if skipped else PASS), skipped


# --- Running ---------------------------------------------------------------------------------------------------------


def run(name: str, seed: int) -> dict:
    """Run one campaign; its log, its result."""
    campaign = CAMPAIGNS[name]
    arguments = [*campaign.arguments, *(("--seed", str(seed)) if name in SEEDED else ())]
    RESULTS.mkdir(parents=True, exist_ok=True)
    log = RESULTS / f"{name}.log"
    begun = time.monotonic()
    with open(log, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"NO_COLOR": "1", "COLUMNS": "160"},
        )
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    result = {
        "name": name,
        "command": " ".join(["python", "-m", *arguments]).replace(f"{ROOT}/", ""),
        "passed": done.returncode == 0,
        "seconds": round(time.monotonic() - begun, 1),
        "summary": lines[-1].strip("= ") if lines else "",
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def run_all(names: list[str], seed: int, console) -> None:
    """Run campaigns, two at a time, those that use both cores alone."""

    def one(name):
        console.print(f"{name}: {CAMPAIGNS[name].what} ...", highlight=False)
        r = run(name, seed)
        mark = "[green]passed" if r["passed"] else f"[red]FAILED, see {(RESULTS / name).relative_to(ROOT)}.log"
        console.print(f"{name}: {mark}[/], {r['seconds']:.0f} s: ", end="", highlight=False)
        console.print(r["summary"], markup=False, highlight=False)

    for name in names:
        if CAMPAIGNS[name].whole:
            one(name)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, [name for name in names if not CAMPAIGNS[name].whole]))


# --- Output ----------------------------------------------------------------------------------------------------------


ONE = {"tests": "test", "benches": "bench", "proofs": "proof", "covers": "cover", "campaigns": "campaign"}


def _counts(row: Row) -> str:
    return ", ".join(f"{len(items)} {ONE[kind] if len(items) == 1 else kind}" for kind, items in row.items.items())


def show(rows: list[Row], results: Results, console) -> bool:
    """Print the table; returns whether no row is red."""
    from rich.table import Table

    table = Table("stage", "row", "requirement", "shown by", "result", title="Verification plan")
    colour = {PASS: "[green]pass", FAIL: "[red]FAIL", SKIP: "[yellow]skipped"}
    good = True
    for row in rows:
        state, why = results.row(row)
        good &= state != FAIL
        lines = "".join(f"\n{w}".replace("[", r"\[") for w in why[:5])
        table.add_row(row.stage, row.name, row.requires, _counts(row) + lines, colour[state])
    console.print(table)
    return good


def _table(head: str, rows) -> list[str]:
    """Lines of a Markdown table."""
    columns = head.split("|")
    cells = [" | ".join(str(c).replace("|", "\\|") for c in row) for row in rows]
    return [
        f"| {' | '.join(c.strip() for c in columns)} |",
        "|" + " --- |" * len(columns),
        *(f"| {c} |" for c in cells),
        "",
    ]


def _left() -> list[str]:
    import yaml

    left = yaml.safe_load(NOT_SHOWN.read_text())
    return ["## What is not shown, and why", "", *_table("what | why", ((e["what"], e["why"]) for e in left))]


def _ran(results: Results):
    for name, campaign in CAMPAIGNS.items():
        r = results.campaigns[name]
        if r is None:
            yield f"{name}: {campaign.what}", "", "", "not run"
        else:
            state = "passed" if r["passed"] else "FAILED"
            yield f"{name}: {campaign.what}", f"`{r['command']}`", f"{r['seconds']:.0f}", f"{state}: {r['summary']}"


def _proven(results: Results) -> list[str]:
    proofs = results.details["proofs"] or []
    text = {None: "", True: "found", False: "NOT FOUND"}
    how = {"prove": "induction", "bmc": "all runs of", "cover": "cover"}
    rows = [
        (f"`{p['name']}`", p["proves"], f"{how.get(p['mode'], p['mode'])} {p['depth']} cycles",
         "proven" if p["passed"] else "FAILED", text[p["bug_found"]])
        for p in proofs
    ]  # fmt: skip
    return [
        "## What is proven",
        "",
        "By induction: in every run from reset, of any length, whatever comes in at the unit's ports (but for what the "
        "proof's file in `verif/formal/` says it assumes). *All runs of n cycles* is as long as the unit's pipeline, "
        "so it is every case, too. Each proof must also fail when a bug is planted for it.",
        "",
        *_table("proof | sentence | by | result | planted bug", rows),
    ]


def _points(names: list[str]) -> str:
    """Names of uncovered points: the bits of a signal as ranges, whichever way they do not toggle."""
    bits: dict[str, set[int]] = {}
    for name in names:
        toggle = re.fullmatch(r"(.*)\[(\d+)\]:(0->1|1->0)", name)
        bits.setdefault(toggle[1] if toggle else name, set()).update([int(toggle[2])] if toggle else [])
    out = []
    for name, numbers in sorted(bits.items()):
        first = [n for n in sorted(numbers) if n - 1 not in numbers]
        last = [n for n in sorted(numbers) if n + 1 not in numbers]
        ranges = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last))
        out.append(f"`{name}[{ranges}]`" if numbers else f"`{name}`")
    return ", ".join(out)


def _covered(results: Results) -> list[str]:
    c = results.details["coverage_detail"]
    if c is None:
        return []
    out = [
        "## What is covered",
        "",
        "Functional coverage, bins hit by the cocotb benches (`verif/coverage/functional.py`):",
        "",
    ]
    rows = [
        (f"`{n}`", p["what"], f"{p['bins'] - len(p['missing'])} of {p['bins']}") for n, p in c["functional"].items()
    ]
    out += _table("point | what | bins", rows)
    lost = [(f"`{n}`: {b}", why) for n, p in c["functional"].items() for b, why in p["unreachable"].items()]
    out += ["Bins that cannot be reached:", "", *_table("bin | why", lost)]
    kinds = list(c["targets"])
    goals = ", ".join(f"{kind} {c['percent'][kind]} % (target {c['targets'][kind]:.0f} %)" for kind in kinds)
    out += [f"Code coverage of the generated Verilog by the same benches, merged by component: {goals}.", ""]
    cells = [(n, *(f"{k[kind][0]} of {k[kind][1]}" for kind in kinds)) for n, k in c["components"].items()]
    out += _table("component | " + " | ".join(kinds), cells)
    grouped: dict[tuple, list[str]] = {}
    for item in c["left"]:
        key = item["component"], item["kind"], item["reason"] or "NO REASON"
        grouped.setdefault(key, []).append(item["what"])
    out += [
        "What is left uncovered, and why (`verif/coverage/uncovered.yaml`):",
        "",
    ]
    points = [(unit, kind, len(what), _points(what), why) for (unit, kind, why), what in sorted(grouped.items())]
    return out + _table("component | kind | points | which | why", points)


def _survived(results: Results) -> list[str]:
    out = []
    if mutants := results.details["mutants"]:
        out += ["## Mutation score", "", "Small faults in the source of the RTL, against the tests of the unit:", ""]
        groups = mutants["units"].items()
        rows = [
            (n, g["mutants"], g["equivalent"], g["killed"], len(g["survivors"]), f"{g['score']} %") for n, g in groups
        ]
        out += _table("group | mutants | equivalent | killed | survived | score", rows)
        survivors = [(f"`{s['id']}`", s["verdict"], s["reason"]) for _, g in groups for s in g["survivors"]]
        out += [*_table("survivor | verdict | why", survivors)] if survivors else []
    if planted := results.details["planted_detail"]:
        out += [
            "## Planted bugs",
            "",
            "Put into the RTL by hand, one at a time; each must be found by its unit's tests.",
            "",
        ]
        found = [
            (p["block"], p["what"], "; ".join([*(f"`{t}`" for t in [*p["unit"], *p["machine"]][:3]), *p["proofs"]]))
            for p in planted
        ]
        out += _table("block | bug | found by (the first three)", found)
    return out


def page(rows: list[Row], results: Results) -> str:
    """The text of docs/verification.md."""
    states = [results.row(row) for row in rows]
    green = sum(state == PASS for state, _ in states)
    out = [
        "# Verification",
        "",
        f"Written by `make verify` from the results of its last run, on tree {tree()}. "
        "The plan is `verif/testplan.yaml`: each requirement of the machine and what shows it. "
        "A row holds if everything it names ran and passed.",
        "",
        f"**{green} of {len(rows)} rows of the plan hold.**",
        "",
        "## What ran",
        "",
        *_table("campaign | command | seconds | result", _ran(results)),
        *_proven(results),
        *_covered(results),
        *_survived(results),
        *_left(),
        "## The plan",
        "",
        "V1 it works, V2 corners, stalls and waits, V3 closed: proofs, coverage, campaigns.",
        "",
    ]
    plan = []
    for row, (state, why) in zip(rows, states):
        shown = "; ".join(f"{kind}: " + ", ".join(f"`{i}`" for i in items) for kind, items in row.items.items())
        plan.append((row.stage, row.name, row.requires, shown, "; ".join([state, *why])))
    return "\n".join([*out, *_table("stage | row | requirement | shown by | result", plan)])


def main(arguments=None) -> int:
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m lepton.verif.plan", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--run", nargs="+", metavar="NAME", help=f"campaigns to run: all (default), none, or of {', '.join(CAMPAIGNS)}"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the random campaigns (default 1)")
    args = parser.parse_args(arguments)
    names = {("all",): list(CAMPAIGNS), ("none",): []}.get(tuple(args.run or ["all"]), args.run)
    unknown = [name for name in names if name not in CAMPAIGNS]
    if unknown:
        parser.error(f"no campaign {unknown[0]!r}; known: {', '.join(CAMPAIGNS)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows = load()
    run_all(names, args.seed, console)
    results = Results()
    good = show(rows, results, console)
    PAGE.write_text(page(rows, results))
    red = sum(results.row(row)[0] == FAIL for row in rows)
    console.print(f"{len(rows) - red} of {len(rows)} rows hold; {PAGE.relative_to(ROOT)} written", highlight=False)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

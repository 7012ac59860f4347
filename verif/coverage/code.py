"""Coverage of the RTL by the cocotb benches: functional and code (lines, branches, toggles).

    python -m lepton.verif.coverage.code              # build, run, report
    python -m lepton.verif.coverage.code --report     # report the last run again

Code is counted by Verilator on the Verilog of the benches' configurations, and merged by component: a point of the
same text (or the same bit of a signal of the same name) in several instances, contexts and configurations is one point.
Lines and branches are those of the generated `always` blocks; Amaranth's constructs come out as `if` and `casez`.
Toggles are those of named signals, each bit up and down. What the generator adds, unnamed intermediate
values, and what is not ours (CRC of amaranth.lib, the benches' own modules) is not counted; nor is a component without
a line or branch of its own (`npu`, the block diagram): its signals are the ports of its units, and counted there.

What is not covered must stand in uncovered.yaml, beside this, with its reason. Exit code 1 when a target is missed, a
bin is not hit, or something uncovered has no reason.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from lepton.verif.coverage import functional as cover

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "coverage"
REASONS = Path(__file__).with_name("uncovered.yaml")
BENCHES = "accumulators array store quantizer tail controller npu".split()
TARGETS = {"line": 98.0, "branch": 95.0, "toggle": 90.0}
ALIASES = {"deep_array": "array", "store": "weight_store", "program": "host_memory", "params": "host_memory"}
NOT_OURS = {"lepton_bench", "crc", "controller", "quantizers"}
"""Modules that are not counted: the benches' own, and the CRC of amaranth.lib."""
DUMMY = re.compile(r"\\\$auto\$verilog_backend")
UNNAMED = re.compile(r"^\$")


def component(module: str) -> str | None:
    """The file in rtl/ that a Verilog module comes from, None if it is not counted."""
    name = re.sub(r"(_\d+)+$|\$\d+$", "", module.split(".")[-1])
    if name in NOT_OURS:
        return None
    return "skid" if name.startswith("queue") else ALIASES.get(name, name)


@dataclass(frozen=True)
class Point:
    """Something to be covered: in which component, line, branch or toggle, what (text or bit, and which of several)."""

    component: str
    kind: str
    what: str


def _plain(name: str) -> str:
    """A name as it is in the Verilog: Verilator writes special characters as `__0` and two digits."""
    return re.sub(r"__0([0-9A-Fa-f]{2})", lambda m: chr(int(m[1], 16)), name)


def _parse(paths: list[Path]):
    """(attributes, count) of each point of Verilator's coverage files of one simulator."""
    counts: Counter = Counter()
    for path in paths:
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("C '"):
                text, _, count = line[3:].rpartition("' ")
                counts[text] += int(count)
    for text, total in counts.items():
        yield dict(item.split("\2", 1) for item in text.split("\1") if "\2" in item), total


class Source:
    """The text of one configuration, and names for its lines that are the same in every instance of a component."""

    def __init__(self, path: Path):
        self.lines = path.read_text().splitlines()
        self.names: list[str | None] = []
        seen: Counter = Counter()
        for line in self.lines:
            if line.startswith("module "):
                seen.clear()
            plain = re.sub(r"\\?\$(\w+\$)?\d+|\\?\$signal(\$\d+)?", "$", line.strip())
            plain = re.sub(r"\b\w+_(clk|rst)\b", r"\1", re.sub(r"\d+'[hdb]", "'", plain))
            seen[plain] += 1
            self.names.append(None if DUMMY.search(line) else f"{plain} #{seen[plain]}")


def points(data: list[Path], source: Source) -> Counter:
    """How often each point was hit in these runs of one simulator."""
    out: Counter = Counter()
    for a, count in _parse(data):
        kind, _, module = a["page"].removeprefix("v_").partition("/")
        unit = component(_plain(module))
        if unit is None:
            continue
        if kind == "toggle":
            bit = re.sub(r"^\w+_(clk|rst)\b", r"\1", _plain(a["o"]))  # each unit has its clock in the benches
            if not UNNAMED.search(bit):
                out[Point(unit, kind, re.sub(r"\$\d+", "", bit))] += count
            continue
        first = source.names[int(a["l"]) - 1]
        if first is None:
            continue
        if kind == "branch":
            out[Point(unit, kind, f"{first} {a['o']}")] += count
        for part in a.get("S", "").split(","):
            low, _, high = part.partition("-")
            for n in range(int(low), int(high or low) + 1) if low else ():
                if name := source.names[n - 1]:
                    out[Point(unit, "line", name)] += count
    return out


def run(seeds) -> None:
    """Build the simulators with counters and run all benches, once with each seed."""
    from lepton.verif.benches.build import build, verilog
    from lepton.verif.benches.build import run as run_bench
    from lepton.verif.benches.top import CONFIGS

    for config in CONFIGS.values():
        folder = FOLDER / config.name
        for old in [*folder.glob("*.dat"), *folder.glob("*.cover.json")]:
            old.unlink()
        runner = build(verilog(config), folder, coverage=True)
        for bench in BENCHES:
            failed = run_bench(runner, bench, config, seeds, folder)
            print(f"{config.name} {bench}: {'FAILED' if failed else 'passed'}", flush=True)
            if failed:
                raise SystemExit(1)


# --- Report --------------------------------------------------------------------------------------------------------


def reasons() -> list[dict]:
    """Entries of uncovered.yaml: component and what (regular expressions), kind, reason; the first counts."""
    import yaml

    return yaml.safe_load(REASONS.read_text()) or []


def report() -> dict:
    """Everything as data: per component and kind covered and total, what is left with its reason, functional points."""
    total: Counter = Counter()
    for text in sorted(FOLDER.glob("*/lepton_bench.v")):
        total.update(points(sorted(text.parent.glob("*.dat")), Source(text)))
    working = {point.component for point in total if point.kind != "toggle"}
    table: dict = defaultdict(lambda: {kind: [0, 0] for kind in TARGETS})
    left = []
    known = reasons()
    used = set()
    for point, count in total.items():
        if point.component not in working:
            continue
        cell = table[point.component][point.kind]
        cell[0] += count > 0
        cell[1] += 1
        if not count:
            why = None
            for n, r in enumerate(known):
                here = re.fullmatch(r["component"], point.component) and r["kind"] == point.kind
                if here and re.search(r["what"], point.what):
                    why = r["reason"]
                    used.add(n)
                    break
            left.append({"component": point.component, "kind": point.kind, "what": point.what, "reason": why})
    hits = cover.merge(FOLDER.glob("*/*.cover.json"))
    missing = cover.missing(hits)
    sums = {kind: [sum(c[kind][n] for c in table.values()) for n in (0, 1)] for kind in TARGETS}
    return {
        "targets": TARGETS,
        "percent": {kind: round(100 * a / b, 2) if b else 0.0 for kind, (a, b) in sums.items()},
        "components": dict(sorted(table.items())),
        "left": left,
        "idle_reasons": [known[n]["what"] for n in range(len(known)) if n not in used],
        "functional": {
            name: {"bins": len(p.goal), "missing": missing[name], "what": p.what, "unreachable": p.unreachable}
            for name, p in cover.POINTS.items()
        },
    }


def show(r: dict, console) -> None:
    from rich.table import Table

    table = Table("component", *TARGETS, title="Code coverage, percent (covered of total)")
    for name, cells in r["components"].items():
        table.add_row(name, *(f"{100 * a / b:.1f} ({a} of {b})" if b else "" for a, b in cells.values()))
    table.add_row("[bold]all", *(f"[bold]{p:.2f} (target {TARGETS[kind]:.0f})" for kind, p in r["percent"].items()))
    console.print(table)
    for item in r["left"]:
        if item["reason"] is None:
            console.print(
                f"no reason: {item['component']} {item['kind']}: {item['what']}", markup=False, soft_wrap=True
            )
    for what in r["idle_reasons"]:
        console.print(f"{REASONS.name}: nothing uncovered matches {what!r}", markup=False)
    for name, point in r["functional"].items():
        if point["missing"]:
            console.print(f"functional {name}: not hit: {', '.join(point['missing'])}", markup=False)


def summary(r: dict) -> str:
    bins = sum(p["bins"] for p in r["functional"].values())
    hit = bins - sum(len(p["missing"]) for p in r["functional"].values())
    code = ", ".join(f"{kind} {p} %" for kind, p in r["percent"].items())
    bare = sum(item["reason"] is None for item in r["left"])
    return f"functional {hit} of {bins} bins; {code}; {len(r['left'])} points left, {bare} without a reason"


def good(r: dict) -> bool:
    """Targets met, every bin hit, a reason for everything left."""
    return (
        all(r["percent"][kind] >= target for kind, target in TARGETS.items())
        and not any(p["missing"] for p in r["functional"].values())
        and all(item["reason"] for item in r["left"])
    )


def main(arguments=None) -> int:
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m lepton.verif.coverage.code", description=__doc__.splitlines()[0])
    parser.add_argument("--report", action="store_true", help="do not run, report the last run")
    parser.add_argument("--seed", type=int, default=1, help="of the benches (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    args = parser.parse_args(arguments)
    if not args.report:
        run(args.seed)
    r = report()
    console = Console(width=None if sys.stdout.isatty() else 160)
    show(r, console)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(r, indent=1) + "\n")
    print(summary(r))
    return 0 if good(r) else 1


if __name__ == "__main__":
    sys.exit(main())

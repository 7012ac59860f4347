"""Run the proofs: `python -m lepton.verif.formal [NAME ...]`, all of them without names."""

import argparse
import importlib
import json
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lepton.verif import formal
from lepton.verif.formal.core import BugError, Check, Result, solve


def checks() -> list[Check]:
    """All checks of all proof files, in the order of the files' names."""
    names = sorted(info.name for info in pkgutil.iter_modules(formal.__path__) if info.name not in ("core", "__main__"))
    return [c for name in names for c in importlib.import_module(f"{formal.__name__}.{name}").CHECKS]


def choose(names: list[str]) -> list[Check]:
    """The checks of those names (a file's name stands for all its checks). Raises ValueError on an unknown one."""
    known = checks()
    for name in names:
        if not any(name in (c.name, c.name.split(".")[0]) for c in known):
            raise ValueError(f"no proof named {name!r}; --list shows them")
    return [c for c in known if not names or c.name in names or c.name.split(".")[0] in names]


def attempt(check: Check, bug: bool = False) -> Result:
    """The check's result. What keeps it from an answer, as a bench that does not fit a broken design, is told in it."""
    try:
        return solve(check, bug)
    except Exception as error:  # anything may go wrong while a broken design is built
        why = str(error) if isinstance(error, BugError) else f"{type(error).__name__}: {error}"
        return Result(check.name, check.proves, check.mode, check.depth, 0.0, False, trouble=why)


def run(wanted: list[Check], bugs: bool) -> list[Result]:
    results = []
    for n, check in enumerate(wanted):
        print(f"[{n + 1}/{len(wanted)}] {check.name} ({check.mode} {check.depth}) ...", end=" ", flush=True)
        result = attempt(check)
        text = "proven" if result.passed else "NO ANSWER" if result.trouble else "FAILED"
        trouble = [result.trouble] if result.trouble else []
        if bugs and not result.trouble:
            hunt = attempt(check, bug=True)
            result.bug_found = not hunt.passed and not hunt.trouble
            text += ", planted bug " + ("found" if result.bug_found else "NOT PLANTED" if hunt.trouble else "NOT FOUND")
            if hunt.trouble:
                result.trouble = hunt.trouble
                trouble = [f"the planted bug does not fit the source: {hunt.trouble}"]
        print(f"{text}, {result.seconds} s{' when it was run' * result.kept}", flush=True)
        if result.trace:
            print(f"    fails: {result.failed or 'no assertion'}; trace: {result.trace}")
        for line in trouble:
            print(f"    {line}")
        results.append(result)
    return results


def show(results: list[Result]) -> None:
    table = Table("proof", "what it proves", "mode", "depth", "seconds", "result", "planted bug")
    for r in results:
        bug = {None: "", True: "found", False: "[red]not found"}[r.bug_found]
        result = "[green]proven" if r.passed else "[red]no answer" if not r.trace and r.trouble else "[red]failed"
        table.add_row(r.name, r.proves, r.mode, str(r.depth), f"{r.seconds:.1f}", result, bug)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.verif.formal", description="Run the proofs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="proofs, or files of proofs (default: all)")
    parser.add_argument("--list", action="store_true", help="list the proofs and what they prove")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("--no-bugs", action="store_true", help="do not check that each proof finds its planted bug")
    arguments = parser.parse_args(argv)
    try:
        wanted = choose(arguments.names)
    except ValueError as error:
        print(f"formal: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        for c in wanted:
            print(f"{c.name:28} {c.mode} {c.depth}: {c.proves}")
        return 0
    results = run(wanted, not arguments.no_bugs)
    show(results)
    proven, found = sum(r.passed for r in results), sum(r.bug_found is True for r in results)
    print(f"{proven} of {len(results)} proven" + ("" if arguments.no_bugs else f", {found} planted bugs found"))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    return 0 if all(r.passed and r.bug_found is not False for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())

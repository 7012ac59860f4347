"""Ten bugs and more, planted one by one in copies of the sources: what finds each.

    python -m lepton.verif.mutants.planted [NAME ...] [--quick] [--jobs N] [--json FILE] [--list]

Of each bug the tests of its unit run, then whole programs on the accelerator (Verilator, against the instruction-set
simulator), then the proofs named with it. Every one of them must fail. Exit code 1 when one does not.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rtl", "verif", "sw", "fpga")
MACHINE = ("test_npu.py", "-k", "4x4 or external or reset")
"""Whole programs on one configuration."""
SECONDS = 900
"""Limit of each run; a bug that makes it hang is found."""


@dataclass(frozen=True)
class Bug:
    name: str
    block: str
    what: str
    file: str
    before: str
    """Text of the source; occurs once."""
    after: str
    tests: str
    """File of the unit's tests."""
    machine: bool = True
    """Whole programs must notice, too."""
    proofs: tuple[str, ...] = ()


BUGS = [
    Bug(
        name="sign in the PE",
        block="array",
        what="the product is subtracted from the sum",
        file="rtl/pe.py",
        before="psum.eq(self.i_psum + self.i_product)",
        after="psum.eq(self.i_psum - self.i_product)",
        tests="test_array.py",
    ),
    Bug(
        name="line buffer a pixel late",
        block="array",
        what="the delay of a depthwise segment is one more than the row",
        file="rtl/array.py",
        before="address.eq(at + 1 - (delay - 3))",
        after="address.eq(at + 1 - (delay - 2))",
        tests="test_array.py",
        machine=False,  # has one segment
    ),
    Bug(
        name="lost token",
        block="controller",
        what="a data token given in the cycle in which another is taken is dropped",
        file="rtl/tile_stage.py",
        before="tokens.eq(tokens + self.banks.token - take_token)",
        after="tokens.eq(tokens + (self.banks.token & ~take_token) - take_token)",
        tests="test_multiply.py",
        machine=False,  # compiled programs never meet that cycle
    ),
    Bug(
        name="skipped swap",
        block="controller",
        what="a tile pass of one vector behind another keeps the tile of the one before",
        file="rtl/vector_walk.py",
        before="m.d.sync += self.swap.eq(self.start)",
        after="m.d.sync += self.swap.eq(self.start & ~(running & self.i.narrow & self.i.flat))",
        tests="test_multiply.py",
    ),
    Bug(
        name="mask off by one",
        block="controller",
        what="the first byte behind a row's end is not replaced by the zero point",
        file="rtl/lane_mask.py",
        before="(at_room[:low_bits] > j)",
        after="(at_room[:low_bits] >= j)",
        tests="test_multiply.py",
    ),
    Bug(
        name="lost last tile",
        block="controller",
        what="an external LOAD hands on one tile less than it says, when it has several",
        file="rtl/loader.py",
        before="left.eq(new.count)",
        after="left.eq(new.count - (new.external & (new.count > 1)))",
        tests="test_multiply.py",
    ),
    Bug(
        name="queue overflow",
        block="controller",
        what="a full queue takes an item in the cycle in which it is asked for one, and none leaves",
        file="rtl/skid.py",
        before="self.i.ready.eq(count != self._depth)",
        after="self.i.ready.eq((count != self._depth) | self.o.valid)",
        tests="test_fetch.py",
        machine=False,  # the tests' programs are shorter than the queues
        proofs=("skid.tile",),
    ),
    Bug(
        name="address off by one",
        block="weight buffer",
        what="a read that begins in the last bank takes that bank's byte from the next word",
        file="rtl/act_memory.py",
        before="Mux(b < r_low, r_next, r_word)",
        after="Mux((b < r_low) | (r_low == banks - 1), r_next, r_word)",
        tests="test_act_memory.py",
    ),
    Bug(
        name="sum overtaken",
        block="weight buffer",
        what="two sums to one entry, a cycle between them: the first is lost",
        file="rtl/accumulators.py",
        before="from_two.eq(same(2))",
        after="from_two.eq(same(2) & same(1))",
        tests="test_accumulators.py",
        machine=False,
    ),
    Bug(
        name="rounded once",
        block="quantizer",
        what="the doubling high multiply truncates, only the shift rounds",
        file="rtl/requantizer.py",
        before="Mux(product_4, 0, Const(1 << 14, 15))",
        after="Const(0, 15)",
        tests="test_requantizer.py",
        proofs=("requantize.round",),
    ),
    Bug(
        name="wrong bank",
        block="quantizer",
        what="after a stacked TAIL the next one reads the same bank again",
        file="rtl/tail_banks.py",
        before="self.bank.eq(self.bank ^ free)",
        after="self.bank.eq(self.bank ^ (free & ~ins.stack))",
        tests="test_tail.py",
    ),
    Bug(
        name="max-pool window start",
        block="quantizer",
        what="the maximum starts anew with each row of the window",
        file="rtl/tail_walk.py",
        before='(counters["wx"] == 0) & (counters["wy"] == 0)',
        after='counters["wx"] == 0',
        tests="test_tail.py",
        machine=False,  # its programs have no windows
    ),
    Bug(
        name="wrong CRC polynomial",
        block="host link",
        what="one byte of the polynomial is 0x1C for 0x1D",
        file="rtl/link.py",
        before="from amaranth.lib.crc.catalog import CRC32_ISO_HDLC\n",
        after="from amaranth.lib.crc import Algorithm\n\n"
        "CRC32_ISO_HDLC = Algorithm(crc_width=32, polynomial=0x04C11CB7, "
        "initial_crc=0xFFFFFFFF, reflect_input=True, reflect_output=True, xor_output=0xFFFFFFFF)\n",
        tests="test_link.py",
    ),
]


def copy_tree(folder: Path, bug: Bug) -> dict[str, str]:
    """A copy of the sources with the bug in it, in `folder`; the environment in which it is found first."""
    for package in PACKAGES:
        ignore = shutil.ignore_patterns("__pycache__", "build")
        shutil.copytree(ROOT / package, folder / "lepton" / package, ignore=ignore)
    (folder / "lepton" / "__init__.py").touch()
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / "lepton" / bug.file
    text = path.read_text()
    if text.count(bug.before) != 1:
        raise ValueError(f"bug {bug.name!r}: {bug.before!r} is {text.count(bug.before)} times in {bug.file}")
    path.write_text(text.replace(bug.before, bug.after))
    shared = os.environ.get("LEPTON_SHARED", str(ROOT.parent / "shared"))
    return os.environ | {
        "PYTHONPATH": str(folder),
        "LEPTON_CACHE": str(folder / "cache"),
        "LEPTON_SHARED": shared,
        "NO_COLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _run(command: list[str], folder: Path, env: dict[str, str]) -> int:
    """Exit code; 124 when it does not end."""
    with open(folder / "log", "a") as log:
        try:
            done = subprocess.run(
                [sys.executable, "-m", *command], cwd=folder, env=env, stdout=log, stderr=log, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return 124
    return done.returncode


def _tests(folder: Path, env: dict[str, str], *arguments: str) -> list[str]:
    """Run tests of the copy; those that failed, the first five."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    first, *more = arguments
    command = ["pytest", "-q", "-p", "no:cacheprovider", "--maxfail=5", f"--junitxml={report}", f"tests/{first}", *more]
    code = _run(command, folder, env)
    if code == 124:
        return [f"{first}: does not end"]
    if code not in (0, 1):
        raise RuntimeError(f"pytest exit code {code} of tests/{first}: {(folder / 'log').read_text()[-400:]}")
    cases = ElementTree.parse(report).iter("testcase")
    bad = (c for c in cases if c.find("failure") is not None or c.find("error") is not None)
    return [f"{c.get('classname', '').split('.')[-1]}.py::{c.get('name')}" for c in bad]


def _proof_fails(folder: Path, env: dict[str, str], proof: str) -> bool:
    """Whether the proof fails in the copy: one that breaks or does not end says nothing."""
    out = folder / f"{proof}.json"
    _run(["lepton.verif.formal", proof, "--no-bugs", "--json", str(out)], folder, env)
    if not out.exists():
        raise RuntimeError(f"proof {proof} gives no result: {(folder / 'log').read_text()[-400:]}")
    return not all(result["passed"] for result in json.loads(out.read_text()))


def hunt(bug: Bug, quick: bool = False) -> dict:
    """Plant it and look: {name, ..., unit, machine, proofs: what failed, missed: what should have}.

    `quick`: only the tests of the unit.
    """
    proofs, machine = ((), False) if quick else (bug.proofs, bug.machine)
    begun = time.monotonic()
    found: dict[str, list[str]] = {"unit": [], "machine": [], "proofs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = copy_tree(folder, bug)
        found["unit"] = _tests(folder, env, bug.tests)
        found["proofs"] = [p for p in proofs if _proof_fails(folder, env, p)]
        if machine:
            found["machine"] = _tests(folder, env, *MACHINE)
    missed = [p for p in proofs if p not in found["proofs"]]
    missed += [bug.tests] if not found["unit"] else []
    missed += ["whole programs"] if machine and not found["machine"] else []
    about = {k: v for k, v in asdict(bug).items() if k in ("name", "block", "what", "file")}
    return {**about, **found, "missed": missed, "seconds": round(time.monotonic() - begun, 1)}


def _row(result: dict) -> str:
    by = []
    for kind in ("unit", "machine"):
        if names := result[kind]:
            by.append(f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    by += [f"proof {p}" for p in result["proofs"]]
    missed = f"  MISSED BY {', '.join(result['missed'])}" if result["missed"] else ""
    return f"{result['name']:26}{result['block']:15}{'; '.join(by)}{missed}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.verif.mutants.planted", description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", help="of bugs; all unless given")
    parser.add_argument("--quick", action="store_true", help="only the tests of the bug's unit")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--list", action="store_true", help="show the bugs and plant none")
    args = parser.parse_args(argv)
    if unknown := [n for n in args.name if n not in {bug.name for bug in BUGS}]:
        parser.error(f"no bug {unknown[0]!r}; known: {', '.join(bug.name for bug in BUGS)}")
    bugs = [bug for bug in BUGS if not args.name or bug.name in args.name]
    if args.list:
        for bug in bugs:
            print(f"{bug.name:26}{bug.block:15}{bug.file:22}{bug.what}")
        return 0
    results = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for result in pool.map(lambda bug: hunt(bug, args.quick), bugs):
            print(_row(result), flush=True)
            results.append(result)
    found = sum(not r["missed"] for r in results)
    print(f"{found} of {len(results)} planted bugs found by all that should")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if found == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Mutation score of the RTL: small faults in its source, one at a time, against the tests of the unit.

    python -m lepton.verif.mutants.mutate [UNIT ...] [--count N] [--seed S] [--jobs N] [--id ID] [--json FILE] [--list]

A UNIT is a group (`array`, `quantizer`, `controller`, `memory`, `port`, `move`) or one of its modules (`pe`, ...). A
mutant changes one expression or drops one assignment. It is *killed* when a test fails or runs out of time;
*equivalent* when it gives the same netlist as the original for all `probes`, or survives and `survivors.yaml` says why;
*invalid* (not counted) when it cannot be built. One that survives without a verdict meets whole programs, too
(`WHOLE`). Score: killed of those that are not equivalent. Survivors are listed; exit code 1 when a group is below
`GOAL`.

Every mutant runs in a fork of a process that holds Amaranth and pytest but none of our modules, so that it costs little
more than its tests. The working tree is never written: an import hook hands the changed source to the child.
"""

import argparse
import ast
import copy
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
SURVIVORS = Path(__file__).with_name("survivors.yaml")
GOAL = 95.0
"""Least score of a group, in percent."""
BUILD_SECONDS, TEST_SECONDS, WHOLE_SECONDS = 10.0, 15.0, 90.0
"""CPU time after which a build or a test (of a unit, of whole programs) counts as failed: several times what they need
unchanged."""


@dataclass(frozen=True)
class Unit:
    """A mutated module: its group, the component it defines, the tests that must notice, the quick ones first.

    `arguments` of the component, `config` standing for the configuration.
    """

    group: str
    component: str
    tests: tuple[str, ...]
    arguments: tuple = ("config",)
    also: str = ""
    """A component for a memory port that the module defines besides."""


_ENGINES = "memory_engines::"
_PORT = "memory_port::test_"
_MOVE = tuple(
    f"move::test_{name}"
    for name in ("short_runs_follow_each_other", "loads_read_ahead_and_stores_do_not", "tokens_are_awaited",
                 "what_lies_outside", "random_moves")
)  # fmt: skip
UNITS = {
    "pe": Unit("array", "Pe", ("array",)),
    "array": Unit("array", "Array", ("array",)),
    "multiplier": Unit("array", "RowMultiplier", ("multiplier",), ("config", 3)),
    "requantizer": Unit("quantizer", "Requantizer", ("requantizer",)),
    "tail": Unit("quantizer", "TailEngine", ("tail",)),
    "tail_walk": Unit("quantizer", "TailWalk", ("tail",)),
    "tail_params": Unit("quantizer", "TailParameters", ("tail",)),
    "tail_banks": Unit("quantizer", "TailBanks", ("tail",), ()),
    "tail_lane": Unit("quantizer", "TailLane", ("tail",)),
    "fetch": Unit("controller", "Fetch", ("fetch",)),
    "skid": Unit("controller", "SkidQueue", ("fetch",), (8, 3)),
    "loader": Unit("controller", "Loader", ("multiply",)),
    "multiply": Unit("controller", "MultiplyEngine", ("multiply",)),
    "tile_stage": Unit("controller", "TileStage", ("multiply",)),
    "vector_walk": Unit("controller", "VectorWalk", ("multiply",)),
    "lane_mask": Unit("controller", "LaneMask", ("multiply",), ("config", 5)),
    "prefetch": Unit("controller", "Prefetch", ("prefetch",)),
    "weight_store": Unit("memory", "WeightStore", ("weight_store", "memory_chip::test_tiles"), also="WideWeightStore"),
    "act_memory": Unit(
        "memory", "ActMemory", ("act_memory", "memory_chip::test_masked_writes_of_activations"), also="WideActMemory"
    ),
    "accumulators": Unit("memory", "Accumulators", ("accumulators",)),
    "memory_arbiter": Unit(
        "port",
        "MemoryArbiter",
        (_PORT + "clients_find_what_they_wrote", _PORT + "what_was_asked_for_before_a_clear_goes_to_nobody"),
        (4,),
    ),
    "program_stream": Unit(
        "port",
        "ProgramStream",
        (
            _PORT + "a_program_that_begins_beyond_the_memory_has_no_words",
            _PORT + "a_word_that_was_cut_off_by_a_clear_is_forgotten",
            _PORT + "words_of_a_program",
        ),
    ),
    "ram_queue": Unit("port", "RamQueue", (_PORT + "the_queue_of_wide_items",), (8, 4)),
    "memory_host": Unit("port", "MemoryHost", (_PORT + "the_host_at_the_memory_beat_by_beat",), (4,)),
    "memory_activations": Unit(
        "port",
        "MemoryActivations",
        (
            "memory_chip::test_ports_are_shared",
            "memory_chip::test_a_pass_is_held",
            "memory_chip::test_the_tail_is_held",
        ),
    ),
    "memory_params": Unit("port", "MemoryParameters", ("memory_chip::test_parameters",)),
    "memory_tiles": Unit("port", "MemoryTiles", ("memory_chip::test_tiles",)),
    "memory_multiply": Unit(
        "port",
        "MemoryMultiply",
        (_ENGINES + "test_too_many_data_tokens", _ENGINES + "test_causes", _ENGINES + "test_random_program"),
    ),
    "memory_tail": Unit("port", "MemoryTail", (_ENGINES + "test_tail_with_holds",)),
    "move": Unit("move", "MoveEngine", _MOVE),
    "move_requests": Unit("move", "MoveRequests", _MOVE, ("config", 64)),
    "move_walk": Unit("move", "MoveWalk", _MOVE),
    "move_writes": Unit("move", "MoveWrites", _MOVE),
    "move_reads": Unit("move", "MoveReads", _MOVE),
    "beat_queue": Unit("move", "BeatQueue", _MOVE, (8, 64)),
}
LEFT_OUT = {f"multiplier:RowMultiplier.{name}" for name in ("_ecp5", "_ecp5_carry", "_gowin", "_ice40")}
"""Functions that are not mutated, nor are statements that ask for the platform: vendor cells, for which simulation has
no model but their twin."""

WHOLE = (
    "programs::test_fifty_programs",
    "programs::test_programs_with_moves",
    "npu::test_layers_in_sequence",
    "compact::test_zoo",
)
"""Tests of whole programs on Verilator, for mutants that the tests of their unit let live and nobody has judged."""

GROUPS = list(dict.fromkeys(unit.group for unit in UNITS.values()))

PROBES = (
    dict(rows=9, cols=4, lanes=2, act_bytes=256, weight_tiles=32, ring_tiles=5, acc_depth=20, line_depth=24),
    dict(rows=18, cols=5, lanes=5, pe="paired", act_bytes=1024, weight_tiles=17, ring_tiles=4, params=99),
    dict(rows=4, cols=4, lanes=1, act_bytes=512, weight_tiles=64, ring_tiles=8, acc_depth=64, multiplier="lut"),
    dict(rows=4, cols=4, lanes=1, act_bytes=512, weight_tiles=40, multiplier="ice40", compact=True, act_align=2),
)
"""Configurations whose netlists are compared; the first also tells whether a mutant can be built."""
PORTS = (
    dict(rows=6, cols=4, lanes=2, act_bytes=256, weight_tiles=17, params=20, memory_width=8, memory_bytes=1 << 16),
    dict(rows=18, cols=8, lanes=4, pe="paired", act_bytes=1024, memory_width=2, memory_bytes=1 << 32),
)
"""The same of the groups for a memory port."""


def probes(module: str) -> tuple[dict, ...]:
    unit = UNITS[module]
    return PORTS if unit.group in ("port", "move") else (*PROBES, *PORTS) if unit.also else PROBES


@dataclass(frozen=True)
class Mutant:
    """One change of a module. Its `id` depends on function, text of the statement and change, not on where it is."""

    id: str
    module: str
    function: str
    line: int
    before: str
    after: str
    start: int
    """First byte of the source that is replaced."""
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


@dataclass(frozen=True)
class Outcome:
    """verdict: killed, timeout, equivalent, invalid or survived; `by`: the test that failed, or the reason."""

    verdict: str
    by: str
    seconds: float


# --- The changes ------------------------------------------------------------------------------------------------------
_COMPARE = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_COMPARE |= {ast.In: ast.NotIn, ast.NotIn: ast.In}
_BINARY = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd}
_BINARY |= {ast.BitXor: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift}
_SHAPES = {"Signal", "signed", "unsigned", "reg"}


def _name(call: ast.AST) -> str:
    """Last name of what is called: `m.If` is `If`."""
    if not isinstance(call, ast.Call):
        return ""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _changes(node: ast.AST, parent: ast.AST):
    """(kind, replacement) of every change to one expression."""

    def edited(change, **fields):
        new = copy.deepcopy(node)
        for field, value in fields.items():
            setattr(new, field, value)
        return change, new

    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
        yield edited("compare", ops=[_COMPARE[type(node.ops[0])]()])
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        yield edited("operator", op=_BINARY[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Invert, ast.Not)):
        yield "uninvert", node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        width = isinstance(parent, ast.Call) and _name(parent) in _SHAPES and node is parent.args[0]
        if not width:  # one bit more is no fault
            yield edited("more", value=node.value + 1)
        if node.value:
            yield edited("less", value=node.value - 1)
    elif isinstance(node, ast.Slice):
        for bound in ("lower", "upper"):
            if (at := getattr(node, bound)) is not None and not isinstance(at, ast.Constant):
                yield edited(f"slice-{bound}", **{bound: ast.BinOp(at, ast.Sub(), ast.Constant(1))})
    elif isinstance(node, ast.Call):
        yield from _changes_of_call(node, edited)


def _changes_of_call(node: ast.Call, edited):
    name, function = _name(node), node.func
    if name in ("If", "Elif"):
        (condition,) = node.args
        yield edited("negate", args=[ast.Compare(condition, [ast.Eq()], [ast.Constant(0)])])
        yield edited("always", args=[ast.Constant(1)])
        yield edited("never", args=[ast.Constant(0)])
    elif name == "Mux" and len(node.args) == 3:
        condition, yes, no = node.args
        yield edited("swap", args=[condition, no, yes])
        yield edited("first", args=[ast.Constant(1), yes, no])
        yield edited("second", args=[ast.Constant(0), yes, no])
    elif name == "eq":
        yield "drop", ast.List([], ast.Load())
    elif name == "signed":
        yield "unsigned", node.args[0]
    elif name in ("as_signed", "as_unsigned") and isinstance(function, ast.Attribute):
        yield f"not-{name}", function.value
    elif name in ("any", "all") and isinstance(function, ast.Attribute):
        yield edited("any-all", func=ast.Attribute(function.value, {"any": "all", "all": "any"}[name]))


def _expressions(node: ast.AST, parent: ast.AST | None = None, statement: str = ""):
    """(expression, parent, text of its statement) of everything that describes hardware."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.arguments, ast.arg)):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # docstring
        return
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":  # the interface
        return
    if isinstance(node, ast.keyword) and node.arg in ("name", "attrs", "reset_less"):
        return
    if isinstance(node, ast.stmt) and not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.With, ast.If, ast.For)):
        statement = ast.unparse(node)
    elif _name(node) in ("eq", "If", "Elif") or isinstance(parent, (ast.With, ast.If, ast.For)):
        statement = ast.unparse(node) if isinstance(node, ast.expr) else statement
    if isinstance(node, (ast.expr, ast.Slice)):
        yield node, parent, statement
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _expressions(child, node, statement)


def _functions(tree: ast.Module):
    """(qualified name, body) of the module's top level and of every function that is not inside another."""

    def walk(body, prefix):
        rest = []
        for node in body:
            if isinstance(node, ast.FunctionDef):
                yield prefix + node.name, node.body
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, f"{prefix}{node.name}.")
            elif not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"):
                rest.append(node)
        yield prefix.rstrip(".") or "module", rest

    yield from walk(tree.body, "")


def source_of(module: str) -> Path:
    return ROOT / "rtl" / f"{module}.py"


def mutants(module: str, source: bytes | None = None) -> list[Mutant]:
    """All mutants of a module, in the order of the source (which is read from the tree unless it is given)."""
    source = source_of(module).read_bytes() if source is None else source
    starts = [0]
    for row in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found: list[Mutant] = []
    seen: Counter[tuple[str, ...]] = Counter()
    for function, body in _functions(ast.parse(source)):
        if f"{module}:{function}" in LEFT_OUT:
            continue
        for top in body:
            for node, parent, statement in _expressions(top):
                if "platform" in statement:
                    continue
                for kind, new in _changes(node, parent):
                    new = ast.fix_missing_locations(new) if isinstance(new, ast.AST) else new
                    text = ast.unparse(new)
                    text = text if isinstance(new, (ast.Slice, ast.List, ast.Call, ast.Name)) else f"({text})"
                    before = ast.unparse(node)
                    key = (function, statement, kind, before, text)
                    seen[key] += 1
                    digest = hashlib.sha256(repr((*key, seen[key])).encode()).hexdigest()[:8]
                    found.append(
                        Mutant(
                            id=f"{module}:{function}:{kind}:{digest}",
                            module=module,
                            function=function,
                            line=node.lineno,
                            before=before,
                            after=text,
                            start=starts[node.lineno - 1] + node.col_offset,
                            end=starts[node.end_lineno - 1] + node.end_col_offset,
                            text=text,
                        )
                    )
    return sorted(found, key=lambda mutant: (mutant.start, mutant.end, mutant.id))


def sample(population: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """`count` of them, chosen by a hash of seed and id: a change elsewhere in the source hardly changes the choice."""
    order = sorted(population, key=lambda m: hashlib.sha256(f"{seed} {m.id}".encode()).digest())
    chosen = {m.id for m in order[:count]}
    return [m for m in population if m.id in chosen]


# --- Running one ------------------------------------------------------------------------------------------------------
class _Overlay(importlib.abc.MetaPathFinder):
    """Hands out the changed source of one module."""

    def __init__(self, name: str, path: Path, source: bytes):
        class Loader(SourceFileLoader):
            def get_code(self, fullname):
                return compile(source, str(path), "exec", dont_inherit=True)

        self._name = name
        self._spec = importlib.util.spec_from_file_location(name, path, loader=Loader(name, str(path)))

    def find_spec(self, fullname, path=None, target=None):
        return self._spec if fullname == self._name else None


class _First:
    """pytest plugin: the first test that fails, and a limit of CPU time for each."""

    def __init__(self, seconds: float):
        self.failed, self._seconds = "", seconds

    def pytest_runtest_logstart(self, nodeid, location):
        _say(nodeid)
        signal.setitimer(signal.ITIMER_PROF, self._seconds)  # its signal ends the process

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid or "collection"


_report_file: TextIO | None = None


def _say(text: str) -> None:
    """What the child is doing, for the parent: the last line counts."""
    assert _report_file is not None
    _report_file.write(text + "\n")
    _report_file.flush()


def _netlist(module: str, probe: dict) -> str:
    """Digest of the netlist, all names replaced by numbers in the order in which they come."""
    from amaranth.back import rtlil

    config = importlib.import_module("lepton.rtl.spec.config").NpuConfig(**probe)
    unit = UNITS[module]
    name = unit.also if unit.also and config.memory_width else unit.component
    component = getattr(importlib.import_module(f"lepton.rtl.{module}"), name)
    arguments = [config if a == "config" else a for a in unit.arguments]
    text = rtlil.convert(component(*arguments), name="top", emit_src=False)
    names: dict[str, str] = {}
    text = re.sub(r"\\[^\s\[\]{}]+", lambda name: names.setdefault(name[0], f"n{len(names)}"), text)
    return hashlib.sha256(text.encode()).hexdigest()


def _run_tests(names) -> str:
    """Run tests (`FILE` or `FILE::TEST`) until one fails; its name, or nothing."""
    import pytest

    first = _First(WHOLE_SECONDS if names == WHOLE else TEST_SECONDS)
    files = [re.sub(r"^(\w+)", rf"{ROOT}/tests/test_\1.py", name) for name in names]
    code = pytest.main(["-x", "-q", "--rootdir", str(ROOT), "-p", "no:cacheprovider", *files], plugins=[first])
    signal.setitimer(signal.ITIMER_PROF, 0)
    return first.failed or ("" if code == 0 else f"pytest exit code {code}")


def _child(module: str, mutant: Mutant | None, netlists: list[str], tests: tuple[str, ...]) -> str:
    """Runs in the fork: one line, `verdict by`; of the unchanged source, `survived` and its netlists."""
    for name in [n for n in sys.modules if n.startswith("lepton.rtl")]:
        del sys.modules[name]
    if mutant is None:
        if tests and (failed := _run_tests(tests)):
            return f"killed {failed}"
        return " ".join(["survived", *(_netlist(module, p) for p in probes(module))])
    path = source_of(module)
    sys.meta_path.insert(0, _Overlay(f"lepton.rtl.{module}", path, mutant.apply(path.read_bytes())))
    signal.setitimer(signal.ITIMER_PROF, BUILD_SECONDS)
    try:
        first, *others = probes(module)
        same = _netlist(module, first) == netlists[0]
    except BaseException as error:
        return f"invalid {type(error).__name__}: {error}".splitlines()[0]
    try:
        same = same and [_netlist(module, probe) for probe in others] == netlists[1:]
    except BaseException as error:
        return f"killed building {type(error).__name__}: {error}".splitlines()[0]
    # A latency stated beside the netlist is a promise too: only the tests tell.
    inside = "." in mutant.function and not mutant.function.endswith("__init__")
    if same and inside:
        return "equivalent the same netlist"
    if failed := _run_tests(tests):
        return f"killed {failed}"
    return "equivalent the same netlist" if same and mutant.function.endswith("__init__") else "survived"


def _fork(module: str, mutant: Mutant | None, netlists: list[str], tests: tuple[str, ...], log: str) -> int:
    """Start a child; its output goes to `log`, its report to `log`.report."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    global _report_file
    code = 1
    try:
        out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if mutant is not None:
            os.environ["LEPTON_CACHE"] = f"{log}.cache"  # models are kept by the text of the sources
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        warnings.simplefilter("ignore")
        with open(f"{log}.report", "w") as _report_file:
            _say(_child(module, mutant, netlists, tests))
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def _outcome(status: int, log: str, seconds: float) -> Outcome:
    lines = Path(f"{log}.report").read_text().splitlines() or ["start"]
    if os.WIFSIGNALED(status):
        return Outcome("timeout", lines[-1], seconds)
    if os.WEXITSTATUS(status):
        return Outcome("killed", f"the process ended in {lines[-1]}", seconds)
    verdict, _, by = lines[-1].partition(" ")
    return Outcome(verdict, by, seconds)


def run(
    todo: list[Mutant], jobs: int = 1, tell=lambda mutant, outcome: None, whole: bool = False
) -> dict[str, Outcome]:
    """Outcome of each mutant by its id, with the tests of its unit, or with those of `WHOLE`.

    Raises RuntimeError when the tests fail on the unchanged source.
    """
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    for name in ("numpy", "pytest", "amaranth.sim", "amaranth.sim.pysim", "amaranth.back.rtlil", "amaranth.lib.memory"):
        importlib.import_module(name)
    # The unchanged modules first: their tests pass, and their netlists are what the mutants' are compared with.
    queue: list[tuple[str, Mutant | None]] = [(module, None) for module in dict.fromkeys(m.module for m in todo)]
    queue += [(m.module, m) for m in todo]
    netlists: dict[str, list[str]] = {}
    known_good: set[tuple[str, ...]] = set()
    results: dict[str, Any] = {}
    running: dict[int, tuple[str, Mutant | None, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            while queue or running:
                while queue and len(running) < jobs and (queue[0][1] is None or queue[0][0] in netlists):
                    module, mutant = queue.pop(0)
                    log = str(Path(folder) / f"{len(queue)}")
                    tests = WHOLE if whole else UNITS[module].tests
                    if mutant is None:
                        tests = () if tests in known_good else tests
                        known_good.add(tests)
                    running[_fork(module, mutant, netlists.get(module, []), tests, log)] = (module, mutant, log)
                pid, status, used = os.wait4(-1, 0)
                if pid not in running:
                    continue
                module, mutant, log = running.pop(pid)
                outcome = _outcome(status, log, used.ru_utime + used.ru_stime)
                if mutant is not None:
                    results[mutant.id] = outcome
                    tell(mutant, outcome)
                elif outcome.verdict != "survived":
                    raise RuntimeError(f"tests of {module} fail on the unchanged source: {outcome.by}")
                else:
                    netlists[module] = outcome.by.split()
        finally:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return results


# --- Verdicts and score -----------------------------------------------------------------------------------------------
def verdicts(path: Path = SURVIVORS) -> dict[str, dict]:
    """What was decided about survivors: id to {verdict, reason}."""
    import yaml

    entries = yaml.safe_load(path.read_text()) or []
    for entry in entries:
        if set(entry) != {"id", "verdict", "reason"} or entry["verdict"] not in ("equivalent", "accepted"):
            raise ValueError(f"{path.name}: {entry}: needs id, verdict (equivalent or accepted) and reason")
    return {entry["id"]: entry for entry in entries}


def summary(todo: list[Mutant], results: dict[str, Outcome], judged: dict[str, dict]) -> dict:
    """Counts and score of each group; `survivors` are {id, verdict, reason}, verdict `open` when nobody judged."""
    groups = {}
    for group in GROUPS:
        here = [m for m in todo if UNITS[m.module].group == group]
        if not here:
            continue
        counts = Counter(results[m.id].verdict for m in here)
        survivors = []
        for m in here:
            if results[m.id].verdict == "survived":
                entry = judged.get(m.id, {"verdict": "open", "reason": ""})
                survivors.append({"id": m.id, "verdict": entry["verdict"], "reason": entry["reason"]})
        left = [s for s in survivors if s["verdict"] != "equivalent"]
        killed = counts["killed"] + counts["timeout"]
        groups[group] = {
            "mutants": len(here),
            "invalid": counts["invalid"],
            "equivalent": counts["equivalent"] + len(survivors) - len(left),
            "killed": killed,
            "timeouts": counts["timeout"],
            "survivors": left,
            "score": round(100 * killed / (killed + len(left)), 1) if killed + len(left) else 100.0,
        }
    return groups


def _choose(parser, names: list[str], ids: list[str], count: int | None, seed: int) -> list[Mutant]:
    if unknown := [n for n in names if n not in UNITS and n not in GROUPS]:
        parser.error(f"unknown unit {unknown[0]!r}; known: {', '.join([*GROUPS, *UNITS])}")
    if unknown := [i for i in ids if i.split(":")[0] not in UNITS]:
        parser.error(f"no mutant {unknown[0]!r}: --list shows them all")
    if ids:
        known = {m.id: m for module in dict.fromkeys(i.split(":")[0] for i in ids) for m in mutants(module)}
        if missing := [i for i in ids if i not in known]:
            parser.error(f"no mutant {missing[0]!r}: --list shows them all")
        return [known[i] for i in ids]
    chosen = []
    for group in GROUPS:
        modules = [n for n, u in UNITS.items() if u.group == group and (not names or n in names or group in names)]
        population = [m for module in modules for m in mutants(module)]
        chosen += population if count is None else sample(population, count, seed)
    return chosen


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lepton.verif.mutants.mutate", description="Mutation score of the RTL."
    )
    parser.add_argument("unit", nargs="*", help=f"{', '.join(GROUPS)}, or a module; all unless given")
    parser.add_argument("--count", type=int, help="mutants of each group (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--id", action="append", default=[], help="only this mutant (may be repeated)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    args = parser.parse_args(argv)
    todo = _choose(parser, args.unit, args.id, args.count, args.seed)
    if args.list:
        for m in todo:
            print(f"{m.id}  line {m.line}: {m.before}  ->  {m.after}")
        return 0

    def tell(mutant, outcome):
        if outcome.verdict not in ("killed", "invalid", "timeout") or args.id:
            print(
                f"{outcome.verdict:10} {mutant.id} line {mutant.line}: {mutant.before} -> {mutant.after} {outcome.by}"
            )

    begin, judged = time.monotonic(), verdicts()
    try:
        results = run(todo, args.jobs, tell)
        alive = [m for m in todo if results[m.id].verdict == "survived"]
        results |= run([m for m in alive if judged.get(m.id, {}).get("verdict") != "equivalent"], 1, tell, whole=True)
    except RuntimeError as error:
        print(f"mutate: {error}", file=sys.stderr)
        return 2
    groups = summary(todo, results, judged)
    print(f"{'unit':12}{'mutants':>9}{'invalid':>9}{'equivalent':>12}{'killed':>9}{'survived':>10}{'score':>9}")
    for name, g in groups.items():
        row = f"{name:12}{g['mutants']:9}{g['invalid']:9}{g['equivalent']:12}{g['killed']:9}{len(g['survivors']):10}"
        print(f"{row}{g['score']:8.1f}%")
    for g in groups.values():
        for s in g["survivors"]:
            print(f"survivor {s['id']}: {s['verdict']} {s['reason']}")
    known = {m.id for module in UNITS for m in mutants(module)}
    for old in sorted(set(judged) - known):
        print(f"{SURVIVORS.name}: no mutant {old}: its line was changed")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"seed {args.seed}: {len(todo)} mutants, {cpu:.0f} s of CPU, {time.monotonic() - begin:.0f} s")
    if args.json:
        detail = [{**asdict(m), **asdict(results[m.id])} for m in todo]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"seed": args.seed, "units": groups, "mutants": detail}, indent=1) + "\n")
    return 0 if all(g["score"] >= GOAL for g in groups.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

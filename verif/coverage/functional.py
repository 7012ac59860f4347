"""Functional coverage: points with bins, declared here as data and hit by the testbenches' monitors.

A bench counts hits with `hit`; `save` writes them to the file named by `LEPTON_COVER`; `merge` adds files up. A bin
that cannot be reached stands in `unreachable` with its reason, and hitting it is an error.

(cocotb-coverage was looked at: it samples by a decorated call a value, which the benches' arrays of 100,000 values
cannot afford, and knows its points only inside a simulator; the plan must know them without one.)
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Command, Opcode, Result

MODES = ("conv", "depthwise")
CORNERS = (-128, -1, 0, 1, 127)
OPERANDS = (-(1 << 31), -1, 0, 1, (1 << 31) - 1)


@dataclass(frozen=True)
class Point:
    what: str
    bins: tuple[str, ...]
    unreachable: dict[str, str] = field(default_factory=dict)
    """Bins left out, and why."""

    @property
    def goal(self) -> list[str]:
        return [b for b in self.bins if b not in self.unreachable]


def field_corners(f: isa.Field) -> list[int]:
    """Smallest and largest value of a field, and 0 and 1."""
    low, high = (-(1 << f.bits - 1), (1 << f.bits - 1) - 1) if f.signed else (0, (1 << f.bits) - 1)
    return sorted({low, 0, min(1, high), high})


def param_corners(f: isa.Field) -> list[int]:
    """Corners of a field of a parameter entry: the shift stays within its contract."""
    return [-31, 0, 1, 30] if f.name == "shift" else field_corners(f)


def _fields(what: str, fields: Iterable[isa.Field], unreachable: dict[str, str] | None = None) -> Point:
    kept = [f for f in fields if f.name not in ("opcode", "pad")]
    return Point(
        f"corners of every field of {what}: smallest, largest, 0, 1",
        tuple(f"{f.name}={v}" for f in kept for v in field_corners(f)),
        unreachable or {},
    )


def _cross(what: str, *axes: Iterable, unreachable: dict[str, str] | None = None) -> Point:
    return Point(what, tuple(" ".join(map(str, c)) for c in product(*axes)), unreachable or {})


def rule_name(op: isa.Op, rule: isa.Rule) -> str:
    """Bin of the point `errors` for an instruction that breaks this rule."""
    return f"{op.opcode.name}.{rule.field}" + (f" when {rule.when} is {rule.equals}" if rule.when else "")


DEEP = NpuConfig("deep", rows=9)
"""A configuration in which every rule of an instruction applies."""
_ZERO = "must be at least 1: an instruction without work is refused"
_NOT_BUSY = "answered while a run is in progress, too"

POINTS: dict[str, Point] = {
    # --- Array
    "array.operands": _cross("weight times activation, corners with each other", CORNERS, CORNERS),
    "array.sums": Point("sums of a column at their limits", ("largest", "smallest", "zero")),
    "array.passes": _cross("mode of a tile pass after mode of the one before", MODES, MODES),
    "array.length": Point("vectors in a pass, cycles between passes", ("one vector", "many vectors", "no gap", "gap")),
    "array.load": Point("when a tile is loaded", ("as late as allowed", "as early as allowed")),
    "array.line_delay": Point("line buffers", ("shortest", "longest")),
    # --- Requantizer
    "requantizer.shift": Point("every shift, left and right", tuple(str(n) for n in range(-31, 31))),
    "requantizer.pre_shift": Point("every shift before the multiplication", tuple(str(n) for n in range(32))),
    "requantizer.operands": _cross("value times multiplier, corners with each other", OPERANDS, OPERANDS),
    "requantizer.rounding": Point(
        "halves at both roundings, the product that saturates, a left shift that overflows",
        ("half up", "half down", "high half up", "high half down", "saturates", "overflows"),
    ),
    # --- Accumulators
    "accumulators.entry": _cross("array side, by bank", (0, 1), ("first entry", "last entry")),
    "accumulators.sum": Point(
        "32-bit extremes, and of the array's sum",
        ("wraps up", "wraps down", "largest", "smallest", "zero", "largest partial", "smallest partial"),
    ),
    "accumulators.distance": Point(
        "cycles since the same entry was added to", ("1", "2", "3", "4")
    ),
    "accumulators.tail": Point(
        "tail side while the array adds",
        ("reads", "writes", "reads first entry", "reads last entry", "bank 0", "bank 1"),
    ),
    # --- Weight store
    "store.tile": _cross("accesses to tiles", ("load", "descriptor", "write"), ("first", "last", "middle")),
    "store.byte": Point("bytes written", ("descriptor first", "descriptor last", "weights first", "weights last")),
    # --- Instructions in fetch and multiply engine
    "load.fields": _fields(
        "LOAD",
        isa.LOAD.fields,
        {"count=0": _ZERO, "count=1048575": "takes a million cycles; the counter's upper bits are set in no bench"},
    ),
    "mul.fields": _fields(
        "MUL",
        isa.MUL.fields,
        {f"{name}=0": _ZERO for name in ("groups", "width", "height")},
    ),
    "mul.modes": _cross(
        "MUL flags with each other",
        ("conv", "depthwise"),
        ("bank a group", "stack"),
        ("add", "init"),
        ("keep", "release"),
        ("moving", "still"),
        unreachable={
            f"depthwise {a} {b} {c} still": "depthwise sums do not stay in one entry"
            for a, b, c in product(("bank a group", "stack"), ("add", "init"), ("keep", "release"))
        },
    ),
    "mul.groups": Point("tiles of a group", ("only tile", "first tile", "middle tile", "last tile")),
    "mul.padding": Point(
        "vectors by where they lie",
        ("inside", "left", "right", "above", "below", "partly left", "partly right", "both sides"),
    ),
    "mul.zero_point": Point("what a masked lane reads", tuple(map(str, CORNERS))),
    "descriptor.fields": _fields("a tile's descriptor", isa.DESCRIPTOR),
    "tail.fields": _fields(
        "TAIL",
        isa.TAIL.fields,
        {f"{name}=0": _ZERO for name in ("width", "height", "window_x", "window_y", "channels")},
    ),
    "tail.modes": _cross(
        "TAIL flags with each other",
        ("one", "sum", "product", "difference"),
        ("to memory", "to accumulator"),
        ("raw", "clamp"),
        ("bank a group", "stack"),
        ("entry a channel", "shared"),
    ),
    "tail.channels": Point(
        "channels", ("1", "lanes", "cols - 1", "cols", "cols + 1", "two groups", "more groups")
    ),
    "tail.clamp": Point("results", ("at low", "at high", "between", "low = high", "table")),
    "table.fields": _fields("TABLE", isa.TABLE.fields),
    "param.fields": Point(
        "corners of every field of a parameter entry; its shift is -31 to 30",
        tuple(f"{f.name}={v}" for f in isa.PARAM for v in param_corners(f)),
    ),
    # --- Queues and waits
    "queues": _cross(
        "every queue",
        ("load", "mul", "tail", "tiles", "runs"),
        ("empty", "full"),
        unreachable={
            "runs full": "the prefetcher notes a LOAD when the loader took the one before, whose tiles were all "
            "requested by then, so one waits at most (tests/test_prefetch.py fills the queue from outside)"
        },
    ),
    "stall.fetch": Point("fetch waits for a queue", ("load", "mul", "tail")),
    "stall.multiply": Point("cause of a cycle, multiply engine", tuple(c.name for c in Cause if c != Cause.DRAIN)),
    "stall.tail": Point("why the tail does not read", ("bank", "parameters", "tail before", "closing bank")),
    "stall.external": Point(
        "external weights", ("ring full", "tile not there", "request not taken", "no byte")
    ),
    "causes": Point("cause of a cycle, whole accelerator", tuple(c.name for c in Cause)),
    # --- Programs
    "pairs": Point(
        "instructions one after the other",
        tuple(f"{a} {b}" for a in ("start", "LOAD", "MUL", "TAIL", "TABLE") for b in (o.name for o in Opcode)),
    ),
    "layers": Point(
        "shapes that run from memory to memory",
        (
            "one pixel", "one row", "one column", "one channel", "one pixel of one channel", "one group", "two groups",
            "more groups", "one tile", "first tile of the store", "last tile of the store", "first byte of memory",
            "last byte of memory",
        ),
    ),
    "errors": Point(
        "what ends a run with an error: every rule of an instruction, every address, what never comes",
        (
            *(rule_name(op, rule) for op in isa.OPS.values() for rule in isa.rules(op, DEEP)),
            "unknown opcode", "end of memory", "tile", "entry added to", "entry read", "parameter", "byte read",
            "byte written", "outputs", "no bank", "second bank", "never",
        ),
        {"MUL.line_delay when depthwise is 1": "no bench has line buffers: tests/test_fetch.py"},
    ),
    # --- Host link
    "link.answers": _cross(
        "answers to each command",
        (c.name for c in Command),
        (r.name for r in (Result.OK, Result.BAD_CRC, Result.BAD_RANGE, Result.BUSY)),
        unreachable={"PING BUSY": _NOT_BUSY, "RESET BUSY": _NOT_BUSY},
    ),
    "link.unknown": Point("a command that is none", ("BAD_COMMAND",)),
    "link.length": Point("bytes of a payload", ("0", "1", "largest", "too many")),
    "link.status": Point("ends of a run", tuple(s.name for s in isa.Status if s != isa.Status.RUNNING)),
    "link.restart": Point("starts", ("first word", "last word", "same id again", "after reset", "after error")),
}  # fmt: skip

_hits: dict[str, Counter] = {}


def hit(point: str, *bins) -> None:
    """Count a hit of each bin but None. Raises ValueError if it is unknown, or said to be unreachable."""
    p = POINTS[point]
    for b in (str(b) for b in bins if b is not None):
        if b not in p.bins:
            raise ValueError(f"coverage point {point} has no bin {b!r}")
        if b in p.unreachable:
            raise ValueError(f"coverage point {point}: bin {b!r} was reached: {p.unreachable[b]}")
        _hits.setdefault(point, Counter())[b] += 1


def save() -> None:
    """Write what was hit so far to the file named by `LEPTON_COVER`, if it is set."""
    if path := os.environ.get("LEPTON_COVER"):
        Path(path).write_text(json.dumps(_hits, indent=1, sort_keys=True) + "\n")


def merge(paths: Iterable[Path]) -> dict[str, Counter]:
    """Hits of all files together."""
    out: dict[str, Counter] = {}
    for path in paths:
        for point, bins in json.loads(Path(path).read_text()).items():
            out.setdefault(point, Counter()).update(bins)
    return out


def missing(hits: dict[str, Counter]) -> dict[str, list[str]]:
    """For each point the bins nobody hit."""
    return {name: [b for b in p.goal if not hits.get(name, Counter())[b]] for name, p in POINTS.items()}

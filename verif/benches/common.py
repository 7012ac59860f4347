"""What the testbenches share: pins, a clock, drivers, monitors and checkers.

A bench is a `Bench` with parts. Each cycle every part's `drive` sets inputs at the falling edge of the clock, then
every part's `sample` reads settled values: what it sees is what the rising edge takes.
"""

import os
import zlib
from collections.abc import Callable, Iterable

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from lepton.rtl.spec.config import NpuConfig
from lepton.verif.benches.differ import same
from lepton.verif.benches.top import CONFIGS
from lepton.verif.coverage import functional as cover

INT32 = -(1 << 31), (1 << 31) - 1


def seed() -> int:
    """The seed of this run: `LEPTON_SEED`, or 1."""
    return int(os.environ.get("LEPTON_SEED", "1"))


def bench_config() -> NpuConfig:
    """The configuration the simulator was built for, by its name in `LEPTON_BENCH_CONFIG`."""
    return CONFIGS[os.environ["LEPTON_BENCH_CONFIG"]]


def random_for(name: str) -> np.random.Generator:
    """A generator that depends on the seed and on a name only; the seed goes to the log."""
    cocotb.log.info("%s: replay with LEPTON_SEED=%d", name, seed())
    return np.random.default_rng([seed(), zlib.crc32(name.encode())])


def pack(values: Iterable[int], bits: int) -> int:
    """Elements, the first in the lowest bits."""
    mask, out = (1 << bits) - 1, 0
    for n, v in enumerate(values):
        out |= (int(v) & mask) << bits * n
    return out


def corner8(rng, shape) -> np.ndarray:
    """Random int8; one array in four holds extremes only."""
    return rng.choice([-128, 127], shape) if rng.integers(4) == 0 else rng.integers(-128, 128, shape)


class Pins:
    """The ports of one unit of `BenchTop`, as unsigned integers."""

    def __init__(self, dut, unit: str):
        self._dut, self._unit = dut, unit
        self._handles: dict[str, object] = {}
        self._last: dict[str, int] = {}

    def _handle(self, name):
        if name not in self._handles:
            self._handles[name] = getattr(self._dut, f"{self._unit}__{name}")
        return self._handles[name]

    def set(self, name: str, value: int) -> None:
        """Drive an input from now on."""
        value = int(value)
        if self._last.get(name) != value:
            self._last[name] = value
            self._handle(name).value = value

    def get(self, name: str) -> int:
        return int(self._handle(name).value)


class Bench:
    """One unit under test: its pins, a generator named after the test, and the number of the cycle.

    The other units' clocks stand still.
    """

    def __init__(self, dut, unit: str, name: str):
        self.pins = Pins(dut, unit)
        self.rng = random_for(name)
        self.cycle = 0
        self._clock, self._reset = getattr(dut, f"{unit}_clk"), getattr(dut, f"{unit}_rst")
        self._dut, self._name = dut, unit

    async def run(self, *parts, until: Callable[[], bool], timeout: int, drain: int = 0) -> None:
        """Reset, then cycles until `until()`, and `drain` more. Fails after `timeout` cycles."""
        Clock(self._clock, 10, "ns").start()
        self._reset.value = 1
        for _ in range(4):
            await FallingEdge(self._clock)
        self._reset.value = 0
        left = None
        while left != 0:
            for part in parts:
                part.drive(self.cycle)
            await ReadOnly()
            for part in parts:
                part.sample(self.cycle)
            if left is not None:
                left -= 1
            elif until():
                left = drain
            self.cycle += 1
            assert self.cycle < timeout, f"not finished after {timeout} cycles"
            await FallingEdge(self._clock)

    def inner(self, path: str):
        """The handle of a signal inside the unit, by its path; `build.PROBES` says which there are."""
        handle = self._dut
        for name in (self._name, *path.split(".")):
            handle = getattr(handle, name)
        return handle


class Part:
    """Something in the bench; does nothing unless a method is overridden."""

    def drive(self, cycle: int) -> None:
        """Set inputs of this cycle."""

    def sample(self, cycle: int) -> None:
        """Look at this cycle's values; must not set any."""


class Stall:
    """Says now and then that it is not the time: never, often or nearly always, changing every few dozen cycles."""

    def __init__(self, rng, levels=(0.0, 0.0, 0.3, 0.7, 0.95)):
        self._rng, self._levels, self._left, self._level = rng, levels, 0, 0.0

    def __call__(self) -> bool:
        if not self._left:
            self._left, self._level = int(self._rng.integers(1, 60)), float(self._rng.choice(self._levels))
        self._left -= 1
        return self._rng.random() < self._level


class Queues(Part):
    """Notes which queues were empty and which were full; `queues` maps their names to their paths in the unit."""

    def __init__(self, bench: Bench, queues: dict[str, str]):
        self._left = []
        for name, path in queues.items():
            self._left.append((f"{name} empty", bench.inner(f"{path}.o__valid")))
            self._left.append((f"{name} full", bench.inner(f"{path}.i__ready")))

    def sample(self, cycle):
        if cycle:  # before, some queue may not have been reset yet
            seen = [(name, handle) for name, handle in self._left if not int(handle.value)]
            for found in seen:
                cover.hit("queues", found[0])
                self._left.remove(found)


class Checker:
    """Compares what comes with what is expected, in order; `show` makes of a packed value what a message names."""

    def __init__(self, name: str, expected: Iterable, show: Callable = lambda value: value):
        self.name, self._expected, self._show, self.count = name, list(expected), show, 0

    def put(self, value) -> None:
        assert self.count < len(self._expected), f"{self.name}: {self._show(value)} after the last of {self.count}"
        want = self._expected[self.count]
        if value != want:
            same(self._show(value), self._show(want), f"{self.name} {self.count}")
            raise AssertionError(f"{self.name} {self.count}: {value}, expected {want}")
        self.count += 1

    @property
    def done(self) -> bool:
        return self.count == len(self._expected)

    def finish(self) -> None:
        assert self.done, f"{self.name}: {self.count} of {len(self._expected)} came"


class StreamDriver(Part):
    """Offers items on a valid/ready stream, with stalls; the payload is noise while nothing is offered."""

    def __init__(self, bench: Bench, name: str, items: Iterable[int], bits: int, stall: Stall | None = None):
        self._pins, self._rng, self._name, self._bytes = bench.pins, bench.rng, name, bits // 8
        self.items = list(items)
        self.taken = 0
        self._stall = stall or Stall(bench.rng)
        self._offered = False

    def drive(self, cycle):
        if not self._offered:
            self._offered = self.taken < len(self.items) and not self._stall()
            noise = int.from_bytes(self._rng.bytes(self._bytes), "little")
            self._pins.set(f"{self._name}__payload", self.items[self.taken] if self._offered else noise)
            self._pins.set(f"{self._name}__valid", self._offered)

    def sample(self, cycle):
        if self._offered and self._pins.get(f"{self._name}__ready"):
            self.taken += 1
            self._offered = False

    @property
    def done(self) -> bool:
        return self.taken == len(self.items)


class StreamMonitor(Part):
    """Takes items from a valid/ready stream, with stalls, hands them to `put`, and checks that an offer stands."""

    def __init__(self, bench: Bench, name: str, put: Callable[[int], None], stall: Stall | None = None):
        self._pins, self._name, self._put = bench.pins, name, put
        self._stall = stall or Stall(bench.rng)
        self._ready = False
        self._waiting: int | None = None

    def drive(self, cycle):
        self._ready = not self._stall()
        self._pins.set(f"{self._name}__ready", self._ready)

    def sample(self, cycle):
        if not self._pins.get(f"{self._name}__valid"):
            assert self._waiting is None, f"{self._name}: an offer was withdrawn"
            return
        payload = self._pins.get(f"{self._name}__payload")
        assert self._waiting in (None, payload), f"{self._name}: an offer changed"
        self._waiting = None if self._ready else payload
        if self._ready:
            self._put(payload)

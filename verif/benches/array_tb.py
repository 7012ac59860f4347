"""Array: passes of convolution and depthwise vectors, tiles changed as fast as allowed, against NumPy."""

import cocotb
import numpy as np

from lepton.rtl.array import Array
from lepton.rtl.spec import timing
from lepton.verif.benches.common import Bench, Checker, Part, bench_config, corner8, pack
from lepton.verif.benches.differ import unpack
from lepton.verif.benches.top import deep_config
from lepton.verif.coverage import functional as cover

PASSES = 400


class Model:
    """Sums of one pass: int64[vectors, cols], and from which vector on they are defined."""

    def __init__(self, config):
        self.config = config

    def convolution(self, vectors, weights):
        sums = vectors[:, : self.config.rows] @ weights
        if self.config.pe == "paired":  # what the correction column leaves for the bias to remove
            sums = sums + (weights[0::2] * weights[1::2]).sum(axis=0)
        return sums, 0

    def depthwise(self, vectors, weights, width):
        config, step = self.config, 2 if self.config.pe == "paired" else 1
        sums = np.zeros((len(vectors), config.cols), np.int64)
        for s in range(config.segments):
            for j in range(config.taps):
                old = s * width + j
                part = vectors[: max(0, len(vectors) - old), : config.cols]
                sums[old : old + len(part)] += weights[step * (config.taps * s + j)] * part
        return sums, config.taps - 1 + (config.segments - 1) * width


def random_pass(rng, model):
    """(weights, vectors, depthwise, line delay, sums, first defined)"""
    config = model.config
    lanes = max(config.rows, config.cols)
    if rng.random() < 0.8:
        weights = corner8(rng, (config.rows, config.cols))
        vectors = corner8(rng, (int(rng.choice([1, 1, 1, 2, 5])), lanes))
        return weights, vectors, 0, int(rng.integers(1024)), *model.convolution(vectors, weights)
    used = config.taps * config.segments
    weights = np.zeros((config.rows, config.cols), np.int64)
    if config.pe == "paired":
        weights[0 : 2 * used : 2] = corner8(rng, (used, config.cols))
    else:
        weights[:used] = corner8(rng, (used, config.cols))
    low, high = Array.MIN_LINE_DELAY - config.taps, config.line_depth - config.taps
    width = int(rng.choice([max(1, low), high, *rng.integers(max(1, low), 9, 4)]))
    vectors = corner8(rng, (min(width, 12) * 3 + (config.segments - 1) * width, lanes))
    return weights, vectors, 1, width + config.taps, *model.depthwise(vectors, weights, width)


def corner_passes(model):
    """Every corner of a weight meets every corner of an activation."""
    config = model.config
    out = []
    for n, act in enumerate(cover.CORNERS):
        weights = np.resize(np.roll(cover.CORNERS, n), (config.rows, config.cols))
        vectors = np.full((2, max(config.rows, config.cols)), act)
        out.append((weights, vectors, 0, 4, *model.convolution(vectors, weights)))
    return out


def note(config, passes):
    """Coverage of passes whose sums were right."""
    before = None
    for weights, vectors, depthwise, line_delay, sums, first in passes:
        mode = ("conv", "depthwise")[depthwise]
        if before:
            cover.hit("array.passes", f"{before} {mode}")
        before = mode
        cover.hit("array.length", "one vector" if len(vectors) == 1 else "many vectors")
        if depthwise:
            shortest = max(1, Array.MIN_LINE_DELAY - config.taps) + config.taps
            found = {shortest: "shortest", config.line_depth: "longest"}
            cover.hit("array.line_delay", found.get(line_delay))
            continue
        lanes = vectors[:, : config.rows]
        for weight in cover.CORNERS:
            rows = (weights == weight).any(axis=1)
            acts = [a for a in cover.CORNERS if ((lanes == a).any(axis=0) & rows).any()]
            cover.hit("array.operands", *(f"{weight} {a}" for a in acts))
        limits = {config.rows * 128 * 128: "largest", -config.rows * 128 * 127: "smallest", 0: "zero"}
        cover.hit("array.sums", *(limits[s] for s in np.unique(lanes @ weights).tolist() if s in limits))


class Driver(Part):
    """Passes one after the other, most without a gap; a tile is loaded as late as allowed or as early."""

    def __init__(self, bench, config, passes, start=2):
        self._pins, self._rng, self._config = bench.pins, bench.rng, config
        self.vectors: dict[int, tuple] = {}
        self._swaps: set[int] = set()
        self._loads: dict[int, tuple] = {}
        t, previous = start, 0
        for weights, vectors, depthwise, line_delay, _, _ in passes:
            gap = int(self._rng.choice([0, 0, 0, 1, 5]))
            cover.hit("array.length", "gap" if gap else "no gap")
            t += gap
            late, early = t - 1, previous
            at = int(self._rng.choice([late, early]))
            at = at if at not in self._loads else late
            cover.hit("array.load", *["as late as allowed"] * (at == late), *["as early as allowed"] * (at == early))
            self._loads[at] = weights
            self._swaps.add(t)
            previous = t
            for vector in vectors:
                self.vectors[t] = vector, depthwise, line_delay
                t += 1
        self.end = t

    def drive(self, cycle):
        config, rng = self._config, self._rng
        lanes = max(config.rows, config.cols)
        vector, depthwise, line_delay = self.vectors.get(cycle, (None, int(rng.integers(2)), int(rng.integers(1024))))
        self._pins.set("vectors__act", pack(rng.integers(-128, 128, lanes) if vector is None else vector, 8))
        self._pins.set("vectors__depthwise", depthwise)
        self._pins.set("vectors__line_delay", line_delay)
        self._pins.set("vectors__swap", cycle in self._swaps)
        load = weights = 0
        for r in range(config.rows):
            tile = self._loads.get(cycle - (r // 2 if config.pe == "paired" else r))
            row = rng.integers(-128, 128, config.cols) if tile is None else tile[r]
            weights |= pack(row, 8) << 8 * config.cols * r
            load |= (tile is not None) << r
        self._pins.set("tile__load", load)
        self._pins.set("tile__weights", weights)


class Monitor(Part):
    """Sums, `LATENCY` cycles after their vectors, handed on if they are defined."""

    def __init__(self, bench, config, driver, defined, checker):
        self._pins, self._config, self._driver, self._checker = bench.pins, config, driver, checker
        self._defined = iter(defined)
        self._latency = timing.array(config)

    def sample(self, cycle):
        if cycle - self._latency in self._driver.vectors and next(self._defined):
            self._checker.put(unpack(self._pins.get("psum"), self._config.psum_width, self._config.cols))


async def check(dut, unit, name, config, passes_of):
    bench, model = Bench(dut, unit, name), Model(config)
    passes = passes_of(bench.rng, model)
    defined = [n >= first for *_, sums, first in passes for n in range(len(sums))]
    checker = Checker("sums", [row.tolist() for *_, sums, first in passes for row in sums[first:]])
    driver = Driver(bench, config, passes)
    monitor = Monitor(bench, config, driver, defined, checker)
    await bench.run(driver, monitor, until=lambda: checker.done, timeout=driver.end + 100)
    checker.finish()
    note(config, passes)
    cover.save()
    dut._log.info("%d sums of %d vectors", checker.count, len(defined))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_passes(dut):
    config = bench_config()

    def passes(rng, model):
        return [random_pass(rng, model) for _ in range(PASSES)] + corner_passes(model)

    await check(dut, "array", "random_passes", config, passes)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_passes_with_line_buffers(dut):
    config = deep_config(bench_config())
    assert config.segments > 1
    await check(dut, "deep_array", "line_buffers", config, lambda rng, m: [random_pass(rng, m) for _ in range(150)])


def extremes(rng, model):
    """All weights and all activations at their limits."""
    config, out = model.config, []
    for weight in (-128, 127):
        for act in (-128, 127):
            weights = np.full((config.rows, config.cols), weight)
            vectors = np.full((3, max(config.rows, config.cols)), act)
            out.append((weights, vectors, 0, 4, *model.convolution(vectors, weights)))
    return out


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def all_extremes(dut):
    await check(dut, "deep_array", "all_extremes", deep_config(bench_config()), extremes)

"""Requantizer: values, multipliers and shifts a cycle, against `lepton.sw.reference.arith.requantize`."""

import cocotb
import numpy as np

from lepton.rtl.requantizer import Requantizer
from lepton.sw.reference.arith import requantize, wrap32
from lepton.verif.benches.common import INT32, Bench, Checker, Part
from lepton.verif.benches.differ import unpack
from lepton.verif.benches.top import QUANTIZERS
from lepton.verif.coverage import functional as cover

LOW, HIGH = INT32
VALUES = [LOW, LOW + 1, -(1 << 30) - 1, -(1 << 30), -3, -2, -1, 0, 1, 2, 3, (1 << 30) - 1, 1 << 30, HIGH - 1, HIGH]
MULTIPLIERS = [0, 1, (1 << 30) - 1, 1 << 30, (1 << 30) + 1, HIGH - 1, HIGH, LOW, LOW + 1, -1]
SHIFTS = range(-31, 31)
PRE_SHIFTS = (0, 1, 20, 31)
RANDOM = 90_000


def vectors(rng) -> np.ndarray:
    """All corners with each other, then random ones: int64[n, 4], value, multiplier, shift, pre_shift."""
    corners = np.array(np.meshgrid(VALUES, MULTIPLIERS, SHIFTS, PRE_SHIFTS, indexing="ij"), np.int64).reshape(4, -1).T
    n = RANDOM
    value = rng.integers(LOW, HIGH + 1, n) >> rng.integers(0, 32, n)
    multiplier = np.where(rng.random(n) < 0.8, rng.integers(1 << 30, 1 << 31, n), rng.integers(LOW, HIGH + 1, n))
    shift = rng.integers(-31, 31, n)
    pre_shift = np.where(rng.random(n) < 0.6, 0, rng.integers(0, 32, n))
    half = rng.random(n) < 0.2  # ties: a multiplier of one half and small shifts
    multiplier, shift = np.where(half, 1 << 30, multiplier), np.where(half, rng.integers(-6, 1, n), shift)
    out = np.concatenate([corners, np.stack([value, multiplier, shift, pre_shift], 1)])
    out = out[rng.permutation(len(out))]
    return out[: len(out) // QUANTIZERS * QUANTIZERS]


def note(inputs):
    """Coverage of inputs whose results were right."""
    value, multiplier, shift, pre_shift = inputs.T
    cover.hit("requantizer.shift", *np.unique(shift))
    cover.hit("requantizer.pre_shift", *np.unique(pre_shift))
    corners = np.isin(value, cover.OPERANDS) & np.isin(multiplier, cover.OPERANDS)
    pairs = np.unique(inputs[corners, :2], axis=0)
    cover.hit("requantizer.operands", *(f"{v} {m}" for v, m in pairs))
    left, right = pre_shift + np.maximum(shift, 0), np.maximum(-shift, 0)
    moved = wrap32(value << np.minimum(left, 32))
    exact = moved * multiplier
    high = requantize(moved, multiplier, 0 * shift, 0 * shift)
    tie, half = (exact & (1 << 31) - 1) == 1 << 30, (right > 0) & ((high & (1 << right) - 1) == (1 << right) >> 1)
    found = {
        "half up": half & (high > 0),
        "half down": half & (high < 0),
        "high half up": tie & (exact > 0),
        "high half down": tie & (exact < 0),
        "saturates": (moved == LOW) & (multiplier == LOW),
        "overflows": (left > 0) & (moved >> np.minimum(left, 31) != value),
    }
    cover.hit("requantizer.rounding", *(name for name, where in found.items() if where.any()))


def packed(column, dtype) -> list[int]:
    """One integer a cycle for the elements of all lanes."""
    raw = column.astype(dtype).tobytes()
    size = QUANTIZERS * np.dtype(dtype).itemsize
    return [int.from_bytes(raw[at : at + size], "little") for at in range(0, len(raw), size)]


class Driver(Part):
    """A vector for each lane every cycle."""

    def __init__(self, bench, inputs, product):
        self._pins, self._product = bench.pins, product
        five = inputs[:, 3].reshape(-1, QUANTIZERS) << 5 * np.arange(QUANTIZERS)
        self._rows = list(
            zip(
                packed(inputs[:, 0], "<i4"),
                packed(inputs[:, 1], "<i4"),
                packed(inputs[:, 2], "i1"),
                five.sum(axis=1).tolist(),
            )
        )

    def drive(self, cycle):
        self._pins.set("product", self._product)
        if cycle < len(self._rows):
            for name, value in zip(("value", "multiplier", "shift", "pre_shift"), self._rows[cycle]):
                self._pins.set(name, value)


class Monitor(Part):
    """Results, `Requantizer.LATENCY` cycles after their vectors."""

    def __init__(self, bench, checker, cycles):
        self._pins, self._checker, self._cycles = bench.pins, checker, cycles

    def sample(self, cycle):
        if Requantizer.LATENCY <= cycle < Requantizer.LATENCY + self._cycles:
            self._checker.put(self._pins.get("result"))


async def check(dut, name, inputs, want, bench, product):
    checker = Checker(f"{name}, vector", packed(want, "<i4"), lambda value: unpack(value, 32, QUANTIZERS))
    cycles = len(inputs) // QUANTIZERS
    parts = Driver(bench, inputs, product), Monitor(bench, checker, cycles)
    await bench.run(*parts, until=lambda: checker.done, timeout=cycles + 100)
    dut._log.info("%s: %d vectors", name, len(inputs))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def scaling(dut):
    bench = Bench(dut, "quantizers", "scaling")
    inputs = vectors(bench.rng)
    assert len(inputs) >= 100_000
    value, multiplier, shift, pre_shift = inputs.T
    await check(dut, "scaling", inputs, requantize(value, multiplier, shift, pre_shift), bench, 0)
    note(inputs)
    cover.save()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def product(dut):
    bench = Bench(dut, "quantizers", "product")
    inputs = vectors(bench.rng)[:16_000]
    inputs[:, 2:] = 0
    low = (inputs[:, 0].astype(np.int32) * inputs[:, 1].astype(np.int32)).astype(np.int64)
    await check(dut, "product", inputs, wrap32(low), bench, 1)

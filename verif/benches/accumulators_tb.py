"""Accumulators: sums of the array in one bank, reads and writes of the tail in the other, against two tables."""

import cocotb
import numpy as np

from lepton.rtl.accumulators import Accumulators
from lepton.sw.reference.arith import wrap32
from lepton.verif.benches.common import INT32, Bench, Part, Stall, bench_config, pack
from lepton.verif.benches.differ import same, unpack
from lepton.verif.coverage import functional as cover

PHASES, CYCLES = 60, 60
CLOSE = Accumulators.A_LATENCY
"""Cycles after the array's last sum before the tail may have its bank."""


class Machine(Part):
    """Drives both sides at random and keeps the tables: in phase k the array has bank k % 2, the tail the other."""

    def __init__(self, bench, config):
        self._pins, self._rng, self._config = bench.pins, bench.rng, config
        self._stalls = [Stall(bench.rng) for _ in range(3)]
        self._acc = np.zeros((2, config.acc_depth, config.cols), np.int64)
        self._reads = {}
        self._added = {}  # cycle in which an entry was last added to
        self._written = None  # entry that the tail wrote in the cycle before
        self.reads = 0
        limit = 1 << config.psum_width - 1
        self._psums = [limit - 1, -limit]
        # The tail's first writes are the values that wrap, and partners that make the 32-bit extremes.
        self._values = [INT32[1], INT32[0], INT32[1] - 5, INT32[0] + 5, 0, -1]

    def _entry(self):
        """Few entries, so that the same one comes again soon, and the last."""
        return int(
            self._rng.choice([0, 1, 2, 3, self._config.acc_depth - 1, self._rng.integers(self._config.acc_depth)])
        )

    def _psum(self):
        kind = self._rng.integers(4)
        if kind == 0:
            return self._rng.choice([*self._psums, 5, -5, 0], self._config.cols).astype(np.int64)
        return self._rng.integers(self._psums[1], self._psums[0] + 1, self._config.cols)

    def drive(self, cycle):
        phase, at = divmod(cycle, CYCLES)
        mine, other = phase % 2, 1 - phase % 2
        adding = at < CYCLES - CLOSE and not self._stalls[0]()
        self._add(cycle, mine, adding)
        self._pins.set("tail__bank", other)
        entry = self._entry()
        reading = not self._stalls[1]() and entry != self._written
        self._pins.set("tail__r_en", reading)
        self._pins.set("tail__r_entry", entry)
        if reading:  # writes of the same cycle and the one before are not seen
            self._reads[cycle + Accumulators.T_LATENCY] = self._acc[other, entry].copy()
            edges = {0: "reads first entry", self._config.acc_depth - 1: "reads last entry"}
            cover.hit("accumulators.tail", f"bank {other}", edges.get(entry), *["reads"] * adding)
        # A read of an entry is open in the cycle of its write and the next; so nothing is written in a phase's last.
        writing, sub = not self._stalls[2](), int(self._rng.integers(self._config.cols // self._config.lanes))
        written = self._entry()
        writing &= not (reading and written == entry) and at <= CYCLES - Accumulators.W_LATENCY
        self._written = written if writing else None
        lanes = self._config.lanes
        value = self._rng.choice(self._values, lanes) if self._rng.random() < 0.7 else self._rng.integers(*INT32, lanes)
        self._pins.set("tail__w_en", writing)
        self._pins.set("tail__w_entry", written)
        if self._config.cols > lanes:
            self._pins.set("tail__w_sub", sub)
        self._pins.set("tail__w_data", pack(value, 32))
        if writing:
            first = sub * lanes if self._config.cols > lanes else 0
            self._acc[other, written, first : first + lanes] = value
            cover.hit("accumulators.tail", *["writes"] * adding)

    def _add(self, cycle, bank, adding):
        entry, init, psum = self._entry(), int(self._rng.random() < 0.2), self._psum()
        self._pins.set("sums__en", adding)
        self._pins.set("sums__bank", bank)
        self._pins.set("sums__entry", entry)
        self._pins.set("sums__init", init)
        self._pins.set("psum", pack(psum, self._config.psum_width))
        if not adding:
            return
        exact = psum if init else self._acc[bank, entry] + psum
        self._acc[bank, entry] = wrap32(exact)
        edges = {0: "first entry", self._config.acc_depth - 1: "last entry"}
        cover.hit("accumulators.entry", f"{bank} {edges[entry]}" if entry in edges else None)
        distance = cycle - self._added.get((bank, entry), -9)
        cover.hit("accumulators.distance", *[distance] * (distance <= 4 and not init))
        self._added[bank, entry] = cycle
        found = {
            "wraps up": exact > INT32[1], "wraps down": exact < INT32[0], "largest": exact == INT32[1],
            "smallest": exact == INT32[0], "zero": exact == 0, "largest partial": psum == self._psums[0],
            "smallest partial": psum == self._psums[1],
        }  # fmt: skip
        cover.hit("accumulators.sum", *(name for name, where in found.items() if where.any()))

    def sample(self, cycle):
        want = self._reads.pop(cycle, None)
        if want is not None:
            got = unpack(self._pins.get("tail__r_data"), 32, self._config.cols)
            same(got, want.tolist(), f"cycle {cycle}, entry read")
            self.reads += 1


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_accesses(dut):
    config = bench_config()
    bench = Bench(dut, "accumulators", "random_accesses")
    machine = Machine(bench, config)
    await bench.run(machine, until=lambda: bench.cycle >= PHASES * CYCLES, timeout=PHASES * CYCLES + 10)
    dut._log.info("%d reads", machine.reads)
    assert machine.reads > 1000
    cover.save()

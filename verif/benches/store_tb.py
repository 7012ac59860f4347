"""WeightStore: writes, tiles to the array and descriptor reads at once, against a table of words."""

import cocotb

from lepton.rtl.spec.isa import DESCRIPTOR, DESCRIPTOR_BYTES
from lepton.rtl.weight_store import WeightStore
from lepton.verif.benches.common import Bench, Part, Stall, bench_config, pack
from lepton.verif.benches.differ import same, unpack
from lepton.verif.benches.top import store_config
from lepton.verif.coverage import functional as cover

CYCLES = 6000


class Model:
    """The words, as they are for an access of this cycle."""

    def __init__(self, config):
        self.size = DESCRIPTOR_BYTES + config.rows * config.cols
        self.words = [bytearray(self.size) for _ in range(config.weight_tiles)]

    def write(self, tile, byte, value):
        if byte < self.size:
            self.words[tile][byte] = value


class Driver(Part):
    """Random accesses; avoids only what the contract leaves open: a tile being read while it is written."""

    def __init__(self, bench, config, model):
        self._pins, self._rng, self._model, self._tiles = bench.pins, bench.rng, model, config.weight_tiles
        self._stalls = [Stall(bench.rng) for _ in range(3)]
        self._open = WeightStore.LATENCY + config.rows  # cycles for which a load reads its tile
        self._read = [-100] * self._tiles
        self._written: list[tuple[int, int, int, int]] = []  # not visible yet
        self.load = self.d_en = False
        self.fill = [(t, b) for t in range(self._tiles) for b in range(model.size)]
        self._rng.shuffle(self.fill)

    def _tile(self, ok):
        allowed = [t for t in range(self._tiles) if ok(t)]
        return int(self._rng.choice(allowed)) if allowed else None

    def _place(self, tile):
        return {0: "first", self._tiles - 1: "last"}.get(tile, "middle")

    def drive(self, cycle):
        # What was written W_LATENCY cycles ago is there from now on.
        while self._written and self._written[0][0] + WeightStore.W_LATENCY <= cycle:
            self._model.write(*self._written.pop(0)[1:])
        pending = {tile for _, tile, _, _ in self._written}
        filling = bool(self.fill)
        load_tile = d_tile = None
        if not filling and not self._stalls[0]():
            load_tile = self._tile(lambda t: t not in pending)
        if not filling and not self._stalls[1]():
            d_tile = self._tile(lambda t: t not in pending)
        for tile in (load_tile, d_tile):
            if tile is not None:
                self._read[tile] = cycle
        self.load, self.d_en = load_tile is not None, d_tile is not None
        self.load_tile, self.d_tile = load_tile, d_tile
        noise = int(self._rng.integers(self._tiles))
        for name, tile in (("load", load_tile), ("descriptor", d_tile)):
            if tile is not None:
                cover.hit("store.tile", f"{name} {self._place(tile)}")
        self._pins.set("load__en", self.load)
        self._pins.set("load__tile", noise if load_tile is None else load_tile)
        self._pins.set("descriptor__en", self.d_en)
        self._pins.set("descriptor__addr", noise if d_tile is None else d_tile)

        w_tile = byte = None
        if filling:
            w_tile, byte = self.fill.pop()
        elif not self._stalls[2]():
            w_tile = self._tile(lambda t: cycle - self._read[t] > self._open)
            byte = int(self._rng.integers(self._model.size + 2))
        value = int(self._rng.integers(256))
        self._pins.set("write__en", w_tile is not None)
        self._pins.set("write__tile", noise if w_tile is None else w_tile)
        self._pins.set("write__byte", 7 if byte is None else byte)
        self._pins.set("write__data", value)
        if w_tile is not None and byte is not None:
            cover.hit("store.tile", f"write {self._place(w_tile)}")
            edges = {0: "descriptor first", DESCRIPTOR_BYTES - 1: "descriptor last"}
            edges |= {DESCRIPTOR_BYTES: "weights first", self._model.size - 1: "weights last"}
            cover.hit("store.byte", edges.get(byte))
            self._written.append((cycle, w_tile, byte, value))


class Monitor(Part):
    """Rows leave skewed behind their load; a descriptor holds until the next."""

    def __init__(self, bench, config, model, driver):
        self._pins, self._config, self._model, self._driver = bench.pins, config, model, driver
        self._loads: dict[int, bytes] = {}
        self._descriptor = self._next = None
        self.rows = self.descriptors = 0

    def _rows(self, weights: int) -> list[list[int]]:
        cols = self._config.cols
        return [unpack(weights >> 8 * cols * row, 8, cols) for row in range(self._config.rows)]

    def sample(self, cycle):
        config, bits = self._config, sum(f.bits for f in DESCRIPTOR)
        load = weights = 0
        for r in range(config.rows):
            skew = r // 2 if config.pe == "paired" else r
            word = self._loads.get(cycle - WeightStore.LATENCY - skew)
            if word is not None:
                at = DESCRIPTOR_BYTES + r * config.cols
                load |= 1 << r
                weights |= int.from_bytes(word[at : at + config.cols], "little") << 8 * config.cols * r
                self.rows += 1
        mask = pack([((load >> r) & 1) * (2 ** (8 * config.cols) - 1) for r in range(config.rows)], 8 * config.cols)
        assert self._pins.get("o__load") == load, (
            f"cycle {cycle}: rows {self._pins.get('o__load'):b}, expected {load:b}"
        )
        got = self._pins.get("o__weights") & mask
        if got != weights:
            same(self._rows(got), self._rows(weights), f"cycle {cycle}, weights", "row")
        if self._next is not None:
            self._descriptor, self._next = self._next, None
            self.descriptors += 1
        if self._descriptor is not None:
            got = self._pins.get("descriptor__data")
            assert got == self._descriptor, f"cycle {cycle}: descriptor {got:#x}, expected {self._descriptor:#x}"
        if self._driver.load:
            self._loads[cycle] = bytes(self._model.words[self._driver.load_tile])
        if self._driver.d_en:
            word = self._model.words[self._driver.d_tile]
            self._next = int.from_bytes(word[:DESCRIPTOR_BYTES], "little") & (1 << bits) - 1


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_accesses(dut):
    config = store_config(bench_config())
    bench = Bench(dut, "store", "random_accesses")
    model = Model(config)
    driver = Driver(bench, config, model)
    monitor = Monitor(bench, config, model, driver)
    await bench.run(driver, monitor, until=lambda: bench.cycle >= CYCLES, timeout=CYCLES + 10)
    dut._log.info("%d rows, %d descriptors", monitor.rows, monitor.descriptors)
    assert monitor.rows > 2000 and monitor.descriptors > 500
    cover.save()

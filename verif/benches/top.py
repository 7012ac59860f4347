"""The module the testbenches simulate: every unit under test side by side, each on its own clock and reset."""

from dataclasses import replace

from amaranth.hdl import ClockDomain, DomainRenamer, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.array import Array
from lepton.rtl.fetch import Fetch
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.npu import Npu
from lepton.rtl.requantizer import Requantizer
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.tail import TailEngine
from lepton.rtl.weight_store import WeightStore

QUANTIZERS = 8
"""Requantizers that the quantizer bench feeds at once."""
LINK_TIMEOUT = 500
"""Of the accelerator's host link, so that the bench can wait for it; longer than any stall of a driver."""

CONFIGS = {
    "3x5": NpuConfig("3x5", rows=3, cols=5, lanes=5, act_bytes=4096, weight_tiles=1024, params=512, acc_depth=64),
    "4x4paired": NpuConfig(
        "4x4paired",
        rows=4,
        cols=4,
        lanes=2,
        pe="paired",
        act_bytes=4096,
        weight_tiles=1024,
        ring_tiles=8,
        params=512,
        acc_depth=64,
    ),
}
"""Configurations of the benches by name; memories are small, the second has a ring."""


def store_config(config: NpuConfig) -> NpuConfig:
    """That of the weight store's bench: few tiles, so that random accesses meet, and not a power of two."""
    return replace(config, weight_tiles=20, ring_tiles=0)


def deep_config(config: NpuConfig) -> NpuConfig:
    """That of the second array: enough rows for the line buffers of depthwise segments."""
    return replace(config, rows=12 if config.pe == "paired" else 9, line_depth=24)


class Quantizers(wiring.Component):
    """`QUANTIZERS` Requantizers side by side; members as there, each an array. Latency: Requantizer.LATENCY."""

    def __init__(self, config: NpuConfig):
        self._config = config

        def lanes(shape):
            return data.ArrayLayout(shape, QUANTIZERS)

        super().__init__(
            {
                "value": In(lanes(signed(32))),
                "multiplier": In(lanes(signed(32))),
                "shift": In(lanes(signed(8))),
                "pre_shift": In(lanes(5)),
                "product": In(1),
                "result": Out(lanes(signed(32))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        for n in range(QUANTIZERS):
            m.submodules[f"requantizer_{n}"] = unit = Requantizer(self._config)
            m.d.comb += [getattr(unit, k).eq(getattr(self, k)[n]) for k in ("value", "multiplier", "shift")]
            m.d.comb += [
                unit.pre_shift.eq(self.pre_shift[n]),
                unit.product.eq(self.product),
                self.result[n].eq(unit.result),
            ]
        return m


class Controller(wiring.Component):
    """Fetch and MultiplyEngine connected: program words in, steering of array and accumulators out.

    Members: those of both, but for the two queues between them, and those of ``tiles`` by themselves; Fetch's `o_tail`
    is a Stream(256).
    """

    def __init__(self, config: NpuConfig):
        self._fetch, self._multiply = Fetch(config), MultiplyEngine(config)
        members = {}
        for unit in (self._fetch, self._multiply, self._multiply.tiles):
            for name, member in unit.signature.members.items():
                if name not in ("o_load", "o_mul", "tiles", "i"):
                    members[name] = member
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch, m.submodules.multiply = self._fetch, self._multiply
        wiring.connect(m, self._fetch.o_load, self._multiply.tiles.i)
        wiring.connect(m, self._fetch.o_mul, self._multiply.i)
        for unit in (self._fetch, self._multiply, self._multiply.tiles):
            for name, member in unit.signature.members.items():
                if name not in self.signature.members:
                    continue
                if not member.is_port:
                    wiring.connect(m, getattr(unit, name), wiring.flipped(getattr(self, name)))
                elif member.flow == In:
                    m.d.comb += _bits(getattr(unit, name)).eq(_bits(getattr(self, name)))
                else:
                    m.d.comb += _bits(getattr(self, name)).eq(_bits(getattr(unit, name)))
        return m


def _bits(value):
    return value.as_value() if hasattr(value, "as_value") else value


def units(config: NpuConfig) -> dict[str, wiring.Component]:
    """The units under test by the prefix of their ports."""
    return {
        "accumulators": Accumulators(config),
        "array": Array(config),
        "deep_array": Array(deep_config(config)),
        "store": WeightStore(store_config(config)),
        "quantizers": Quantizers(config),
        "tail": TailEngine(config),
        "controller": Controller(config),
        "npu": Npu(config, link_timeout=LINK_TIMEOUT),
    }


class BenchTop(wiring.Component):
    """All units of `units`; member `unit` has the unit's signature, its clock is `unit_clk`, its reset `unit_rst`.

    Ports are `unit__member`. A unit whose clock stands still costs the simulator next to nothing.
    """

    def __init__(self, config: NpuConfig):
        self._units = units(config)
        clocks = {f"{name}_{k}": In(1) for name in self._units for k in ("clk", "rst")}
        super().__init__({name: Out(unit.signature) for name, unit in self._units.items()} | clocks)

    def elaborate(self, platform):
        m = Module()
        for name, unit in self._units.items():
            # Named here, not by the back end, which would give the ports in another order each time.
            m.domains += (domain := ClockDomain(name))
            m.d.comb += [domain.clk.eq(getattr(self, f"{name}_clk")), domain.rst.eq(getattr(self, f"{name}_rst"))]
            m.submodules[name] = DomainRenamer(name)(unit)
            wiring.connect(m, unit, wiring.flipped(getattr(self, name)))
        return m

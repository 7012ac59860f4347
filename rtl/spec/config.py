"""The one configuration object. RTL, compiler, simulators, cycle model and driver all read it."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from lepton.rtl.spec.errors import LeptonError


class ConfigError(LeptonError, ValueError):
    """A configuration that cannot be built; the message names the field, the reason and the range."""


MULTIPLIERS = ("generic", "lut", "ecp5", "gowin", "ice40")


def _clog2(n: int) -> int:
    return (n - 1).bit_length()


@dataclass(frozen=True)
class NpuConfig:
    """Shape of one accelerator. Sizes are in bytes unless the name says otherwise.

    Raises ConfigError when a field is out of range.
    """

    name: str = "custom"
    rows: int = 8
    """K positions multiplied in one cycle (input side of the array), 2 to 32."""
    cols: int = 8
    """Output channels computed in one cycle, 2 to 32."""
    lanes: int = 8
    """Requantizer lanes; divides cols."""
    pe: str = "single"
    """`single`: one product a multiplier; `paired`: two (rows must be even)."""
    act_bytes: int = 65536
    """Activation memory, a power of two, at most 2**20."""
    weight_tiles: int = 1024
    """Depth of the weight store, in tiles of rows x cols bytes."""
    ring_tiles: int = 0
    """Tiles at the end of the weight store that buffer weights streamed from external memory (0: none)."""
    external_bytes: int = 0
    """External weight memory that the host writes over the link, at most 2**20 (0: none, or it is filled otherwise)."""
    memory_width: int = 0
    """Bytes of a beat of the memory port: 1, 2, 4, 8 or 16 (0: no port, the program lies in a memory of its own)."""
    memory_bytes: int = 0
    """Bytes behind the memory port, at most 2**32."""
    params: int = 4096
    """Depth of the parameter memory, in entries (one per output channel)."""
    program_words: int = 4096
    """Depth of the program memory, in 64-bit words."""
    acc_depth: int = 256
    """Accumulator vectors in each of the two banks."""
    line_depth: int = 128
    """Depth of a depthwise line buffer, in pixels."""
    multiplier: str = "generic"
    """Style of the array's multipliers, see `multiplier.RowMultiplier`: `generic`, `lut`, `ecp5`, `gowin` or
    `ice40`."""
    cell_rows: int = 32
    """Array rows whose products are made in multiplier cells (`ecp5`); the others are made of look-up tables."""
    lutram: str = ""
    """Memories made of look-up tables instead of block RAM, with spaces between: `acc`, `line`, `weight`."""
    compact: bool = False
    """Engines for the smallest parts: no instruction queues, tiles loaded and results scaled one after the other, no
    second operand in the tail, no table, one cycle counter. Needs one lane, single PEs and no ring."""
    act_align: int = 1
    """Reads of activations start at multiples of this; compact: 2, else 1."""

    def __post_init__(self) -> None:
        def check(ok: bool, field: str, why: str) -> None:
            if not ok:
                raise ConfigError(f"config {self.name[:40]!r}: {field}={repr(getattr(self, field))[:60]}: {why}")

        check(len(self.name) <= 100 and self.name.isprintable(), "name", "must be at most 100 printable characters")
        check(2 <= self.rows <= 32, "rows", "must be 2 to 32")
        check(2 <= self.cols <= 32, "cols", "must be 2 to 32")
        check(self.pe in ("single", "paired"), "pe", "must be 'single' or 'paired'")
        check(self.pe == "single" or self.rows % 2 == 0, "rows", "must be even with paired PEs")
        check(self.lanes >= 1 and self.cols % self.lanes == 0, "lanes", f"must divide cols={self.cols}")
        check(
            256 <= self.act_bytes <= 2**20 and self.act_bytes & (self.act_bytes - 1) == 0,
            "act_bytes",
            "must be a power of two from 256 to 1048576",
        )
        check(16 <= self.weight_tiles <= 2**20, "weight_tiles", "must be 16 to 1048576")
        check(
            self.ring_tiles == 0 or 4 <= self.ring_tiles < self.weight_tiles,
            "ring_tiles",
            "must be 0, or at least 4 and less than weight_tiles",
        )
        check(0 <= self.external_bytes <= 2**20, "external_bytes", "must be 0 to 1048576")
        check(self.external_bytes == 0 or self.ring_tiles > 0, "external_bytes", "needs ring_tiles to stream through")
        width = self.memory_width
        check(width in (0, 1, 2, 4, 8, 16), "memory_width", "must be 0, 1, 2, 4, 8 or 16")
        if width:
            check(
                self.cols % width == 0 or width % self.cols == 0,
                "memory_width",
                f"must divide cols={self.cols}, or cols it",
            )
            check(self.ring_tiles == 0, "ring_tiles", "must be 0 with a memory port")
            check(not self.compact, "memory_width", "must be 0 with compact")
            check(4096 <= self.memory_bytes <= 2**32, "memory_bytes", "must be 4096 to 4294967296 with a memory port")
            check(self.memory_bytes % 4096 == 0, "memory_bytes", "must be a multiple of 4096")
        else:
            check(self.memory_bytes == 0, "memory_bytes", "must be 0 without memory_width")
        check(16 <= self.params <= 2**16, "params", "must be 16 to 65536")
        check(64 <= self.program_words <= 2**16, "program_words", "must be 64 to 65536")
        check(16 <= self.acc_depth <= 1024, "acc_depth", "must be 16 to 1024")
        check(16 <= self.line_depth <= 512, "line_depth", "must be 16 to 512")
        check(0 <= self.cell_rows <= 32, "cell_rows", "must be 0 to 32")
        check(set(self.lutram.split()) <= {"acc", "line", "weight"}, "lutram", "must name some of acc, line, weight")
        check(self.multiplier != "ice40" or self.pe == "single", "multiplier", "'ice40' needs single PEs")
        if self.compact:
            check(self.lanes == 1, "lanes", "must be 1 with compact")
            check(self.rows == self.cols == 4, "rows", "must be 4, like cols, with compact")
            check(self.pe == "single", "pe", "must be 'single' with compact")
            check(self.ring_tiles == 0, "ring_tiles", "must be 0 with compact")
        check(self.act_align == (2 if self.compact else 1), "act_align", "must be 2 with compact, else 1")
        check(self.multiplier in MULTIPLIERS, "multiplier", f"must be one of {', '.join(MULTIPLIERS)}")

    def memory_attrs(self, name: str) -> dict[str, int | str]:
        """Attributes of memory `name` for synthesis: no logic for collisions, and its kind if it is chosen."""
        style = {"ram_style": "distributed"} if name in self.lutram.split() else {}
        return {"no_rw_check": 1, **style}

    @property
    def phys_rows(self) -> int:
        """Rows of multipliers (half of rows when paired)."""
        return self.rows // 2 if self.pe == "paired" else self.rows

    @property
    def banks(self) -> int:
        """Byte-wide banks of the activation memory: a power of two covering rows and cols."""
        return 1 << _clog2(max(self.rows, self.cols))

    @property
    def taps(self) -> int:
        """Depthwise taps in one segment of array rows."""
        return min(3, self.phys_rows)

    @property
    def segments(self) -> int:
        """Depthwise segments (kernel rows handled in one pass)."""
        return max(1, min(3, self.phys_rows // 3))

    @property
    def psum_width(self) -> int:
        """Bits of the sum that leaves a column."""
        if self.pe == "paired":
            return 18 + _clog2(self.phys_rows + 1) + 1
        return 16 + _clog2(self.rows + 1)

    @property
    def tile_bytes(self) -> int:
        return self.rows * self.cols

    @property
    def macs_per_cycle(self) -> int:
        return self.rows * self.cols

    @property
    def resident_tiles(self) -> int:
        """Tiles of the weight store that hold on-chip weights."""
        return self.weight_tiles - self.ring_tiles

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "NpuConfig":
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise ConfigError(f"config: unknown field {unknown[0][:40]!r}; known: {', '.join(sorted(known))}")
        for f in fields(cls):
            kind = type(f.default)
            if f.name in data and type(data[f.name]) is not kind:
                raise ConfigError(f"config: {f.name}={str(data[f.name])[:40]!r}: must be of type {kind.__name__}")
        return cls(**data)


_PORT: dict[str, Any] = {"memory_width": 16, "memory_bytes": 1 << 25}
PRESETS = {
    c.name: c
    for c in (
        NpuConfig("tiny", rows=4, cols=4, lanes=1, weight_tiles=20480, **_PORT),
        NpuConfig("small", rows=8, cols=8, lanes=8, weight_tiles=5120, **_PORT),
        NpuConfig("large", rows=16, cols=16, lanes=16, weight_tiles=1280, **_PORT),
        NpuConfig("flagship", rows=18, cols=16, lanes=16, pe="paired", weight_tiles=1024, acc_depth=128, **_PORT),
    )
}

KEEP = {"keep": 1}
"""Attribute of a register: synthesis does not merge it with others that hold the same (`fpga/flow.py`), so each can be
near what it leads to."""

UP5K = NpuConfig(
    "up5k",
    rows=4,
    cols=4,
    lanes=1,
    act_bytes=32768,
    weight_tiles=1489,
    params=2048,
    program_words=512,
    line_depth=16,
    multiplier="ice40",
    compact=True,
    act_align=2,
)
"""What fits an iCE40UP5K: weights, parameters and activations in its four SPRAMs, a product in half an SB_MAC16."""


def get_config(name: str) -> NpuConfig:
    """The preset of that name. Raises ConfigError naming the known ones."""
    known = PRESETS | {UP5K.name: UP5K}
    if name not in known:
        raise ConfigError(f"unknown configuration {name!r}; known: {', '.join(known)}")
    return known[name]

"""The registers that tell a host what a device is: packed from a configuration, unpacked to one."""

from collections.abc import Mapping
from dataclasses import replace

from lepton.rtl.spec import isa
from lepton.rtl.spec.codec import Field, Record
from lepton.rtl.spec.config import PRESETS, ConfigError, NpuConfig
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.isa import Reg

SHAPE = Record(
    "SHAPE",
    (
        Field("rows", 8),
        Field("cols", 8),
        Field("lanes", 8),
        Field("paired", 1, doc="pe is 'paired'"),
        Field("compact", 1),
        Field("memory", 1, doc="a memory port, and the registers that tell of it"),
    ),
    4,
)
SIZES = Record(
    "SIZES", (Field("act_log2", 8, doc="log2(act_bytes)"), Field("acc_depth", 12), Field("line_depth", 12)), 4
)


class IdentityError(LeptonError, ValueError):
    """Registers that are not those of a device this software can drive."""


def pack(config: NpuConfig) -> dict[Reg, int]:
    """Values of the registers MAGIC to RING_TILES, EXTERNAL_BYTES, and with a memory port its own."""
    shape = {
        "rows": config.rows,
        "cols": config.cols,
        "lanes": config.lanes,
        "paired": config.pe == "paired",
        "compact": config.compact,
        "memory": config.memory_width > 0,
    }
    sizes = {
        "act_log2": config.act_bytes.bit_length() - 1,
        "acc_depth": config.acc_depth,
        "line_depth": config.line_depth,
    }
    port = {Reg.MEMORY_WIDTH: config.memory_width, Reg.MEMORY_BYTES: config.memory_bytes % 2**32}
    return {
        Reg.MAGIC: isa.MAGIC,
        Reg.VERSION: isa.VERSION,
        Reg.SHAPE: SHAPE.pack(shape),
        Reg.SIZES: SIZES.pack(sizes),
        Reg.WEIGHT_TILES: config.weight_tiles,
        Reg.PARAMS: config.params,
        Reg.PROGRAM_WORDS: config.program_words,
        Reg.RING_TILES: config.ring_tiles,
        Reg.EXTERNAL_BYTES: config.external_bytes,
        **(port if config.memory_width else {}),
    }


def unpack(registers: Mapping[Reg, int]) -> NpuConfig:
    """The configuration that the registers tell, named after the preset if it is one.

    Fields that only synthesis sees (multiplier, cell_rows, lutram) are not told. Raises IdentityError.
    """
    magic, version = registers[Reg.MAGIC], registers[Reg.VERSION]
    if magic != isa.MAGIC:
        raise IdentityError(
            f"not a Lepton device: magic register is 0x{magic:08x}, not 0x{isa.MAGIC:08x}; program the right bitstream"
        )
    if version != isa.VERSION:
        raise IdentityError(
            f"device has interface version {version}, this software speaks {isa.VERSION}; "
            "rebuild the bitstream or change the software"
        )
    shape, sizes = SHAPE.unpack(registers[Reg.SHAPE]), SIZES.unpack(registers[Reg.SIZES])
    try:
        config = NpuConfig(
            rows=shape["rows"],
            cols=shape["cols"],
            lanes=shape["lanes"],
            pe="paired" if shape["paired"] else "single",
            compact=bool(shape["compact"]),
            act_align=2 if shape["compact"] else 1,
            act_bytes=1 << sizes["act_log2"],
            acc_depth=sizes["acc_depth"],
            line_depth=sizes["line_depth"],
            weight_tiles=registers[Reg.WEIGHT_TILES],
            params=registers[Reg.PARAMS],
            program_words=registers[Reg.PROGRAM_WORDS],
            ring_tiles=registers[Reg.RING_TILES],
            external_bytes=registers[Reg.EXTERNAL_BYTES],
            memory_width=registers[Reg.MEMORY_WIDTH] if shape["memory"] else 0,
            memory_bytes=(registers[Reg.MEMORY_BYTES] or 2**32) if shape["memory"] else 0,
        )
    except ConfigError as error:
        raise IdentityError(f"device reports an impossible configuration: {error}") from None
    for preset in PRESETS.values():
        if replace(preset, name=config.name) == config:
            return preset
    return config

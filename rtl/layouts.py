"""What travels between units: payloads, vectors and the widths of their numbers, each defined once."""

from collections.abc import Iterable

from amaranth.hdl import signed, unsigned
from amaranth.lib import data

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import WORD_BITS, Field, Op


def layout_of(fields: Iterable[Field]) -> data.StructLayout:
    """The fields of an instruction or a descriptor as a layout, the first at bit 0."""
    return data.StructLayout({f.name: signed(f.bits) if f.signed else unsigned(f.bits) for f in fields})


def bits_of(op: Op, field: str) -> int:
    return op.offset(field)[1].bits


# --- Widths ---------------------------------------------------------------------------------------------------------
ADDRESS = bits_of(isa.MUL, "address")
"""Byte of the activation memory."""
ENTRY = bits_of(isa.MUL, "acc_base")
"""Vector of an accumulator bank."""
TILE = bits_of(isa.LOAD, "tile")
"""Tile of the weight store."""
PARAM = bits_of(isa.TAIL, "param")
"""Entry of the parameter memory."""
PC = 16
"""Word of the program memory (`isa.Command.START`)."""
MEMORY_PC = 29
"""Word of a program behind the memory port."""
LINE_DELAY = bits_of(isa.MUL, "line_delay")
INDEX = max(ADDRESS, TILE, PARAM, PC)
"""Word of any memory that the host writes."""
BYTE = (isa.DESCRIPTOR_BYTES + 32 * 32 - 1).bit_length()
"""Byte in such a word: the largest is a tile of the largest array."""
REGION = max(isa.Region).bit_length()
POSITION = signed(18)
"""Position of a byte in its row, or of a row; padding included."""


def pc_bits(config: NpuConfig) -> int:
    """Word of the program, wherever this machine has it."""
    return MEMORY_PC if config.memory_width else PC


# --- Instructions, each from bit 0 of its words -----------------------------------------------------------------------
LOAD_LAYOUT = layout_of(isa.LOAD.fields)
MUL_LAYOUT = layout_of(isa.MUL.fields)
TAIL_LAYOUT = layout_of(isa.TAIL.fields)
TABLE_LAYOUT = layout_of(isa.TABLE.fields)

MOVE_LAYOUT = layout_of(isa.MOVE.fields)


def mul_layout(config: NpuConfig) -> data.StructLayout:
    """What a MUL says to this machine."""
    return _said(isa.MUL, config)


def tail_layout(config: NpuConfig) -> data.StructLayout:
    """What a TAIL says to this machine."""
    return _said(isa.TAIL, config)


def _said(op: Op, config: NpuConfig) -> data.StructLayout:
    return layout_of(f for f in op.fields if config.memory_width or f.name not in isa.OF_MOVE)


LOAD_BITS, MUL_BITS, TAIL_BITS, MOVE_BITS = (WORD_BITS * op.words for op in (isa.LOAD, isa.MUL, isa.TAIL, isa.MOVE))
"""Whole instructions, as queues hold them; the bits above the layout's are undefined."""

WORD_LAYOUT = data.StructLayout({"word": WORD_BITS, "index": 2})
"""A word of an instruction and its number there, as the compact machine hands them on."""

# --- Tiles and parameters ---------------------------------------------------------------------------------------------
DESCRIPTOR_LAYOUT = layout_of(isa.DESCRIPTOR)
PARAM_LAYOUT = layout_of(isa.PARAM)
TILE_LAYOUT = data.StructLayout({"tile": TILE, "ring": 1, "descriptor": DESCRIPTOR_LAYOUT})
"""A tile to be multiplied: where it is, whether it frees a place of the ring, where it applies."""

BURST = data.StructLayout({"address": 32, "length": 16})
"""A burst read of external memory: `length` bytes from byte `address` on."""
RUN = data.StructLayout({"address": bits_of(isa.LOAD, "address"), "count": bits_of(isa.LOAD, "count")})
"""A run of tiles in external memory."""

MEMORY_BURST = data.StructLayout({"write": 1, "address": 32, "beats": 8})
"""A burst of the memory port: from byte `address` on, a multiple of a beat's, `beats` + 1 beats, not across 4 KB."""


def memory_beat(width: int) -> data.StructLayout:
    """A beat of a write burst, of which only the bytes with their bit in `mask` are written."""
    return data.StructLayout({"data": 8 * width, "mask": width})


def move_bytes(config: NpuConfig) -> int:
    """Bytes that MOVE moves between activation memory and a beat at once: a power of two, a beat or a part of one."""
    return min(config.memory_width, 1 << max(config.rows, config.cols).bit_length() - 1)


def tile_byte(config: NpuConfig, byte):
    """Where byte `byte` of a tile's word lies in a tile in memory, whose parts are filled up to whole beats."""
    fill = -isa.DESCRIPTOR_BYTES % config.memory_width
    return byte + fill * (byte >= isa.DESCRIPTOR_BYTES)


def move_data(config: NpuConfig) -> data.ArrayLayout:
    """What MOVE reads or writes at once in the activation memory."""
    return data.ArrayLayout(8, move_bytes(config))


def move_job(config: NpuConfig) -> data.StructLayout:
    """A MOVE on the chip: its instruction but for the upper bits of what counts bytes in memory."""
    low = (config.memory_width - 1).bit_length()
    same = "chip chip_step chip_plane length rows planes space store fill flip value post_load post_mul post_tail"
    lows = {name: low for name in ("external", "external_step", "external_plane")}
    return data.StructLayout({**{name: MOVE_LAYOUT[name].shape for name in same.split()}, **lows})


STEERING = data.StructLayout(
    {"product": 1}
    | {name: TAIL_LAYOUT[name].shape for name in ("pre_shift", "clamp", "table", "zero_point", "low", "high")}
)
"""What the tail's lanes ask of an instruction: `product` is dual == 2, `zero_point` what is to be added."""


def pass_layout(config: NpuConfig, address_bits: int) -> data.StructLayout:
    """A tile's pass as it starts: its instruction, where its first vector is, and what is known of its counts."""
    return data.StructLayout(
        {
            "mul": mul_layout(config),
            "address": address_bits,
            "x": POSITION,
            "y": POSITION,
            "skip": DESCRIPTOR_LAYOUT["skip"].shape,
            "narrow": 1,  # width == 1
            "narrow_out": 1,  # out_width == 1
            "flat": 1,  # height == 1
            "first_tile": 1,  # of its group
            "first_group": 1,
            "bank": 1,
            "release": 1,  # the bank is handed over behind its last vector
        }
    )


# --- Vectors ----------------------------------------------------------------------------------------------------------
def activations(config: NpuConfig) -> data.ArrayLayout:
    """The bytes read for one vector: enough for every row, and for every column."""
    return data.ArrayLayout(signed(8), max(config.rows, config.cols))


def psums(config: NpuConfig) -> data.ArrayLayout:
    """What leaves the array in a cycle."""
    return data.ArrayLayout(signed(config.psum_width), config.cols)


def sums(count: int) -> data.ArrayLayout:
    """Accumulators side by side."""
    return data.ArrayLayout(signed(32), count)


def results(config: NpuConfig) -> data.ArrayLayout:
    """Bytes that the tail writes at once."""
    return data.ArrayLayout(signed(8), config.lanes)


def weights(config: NpuConfig) -> data.ArrayLayout:
    """A tile's rows."""
    return data.ArrayLayout(data.ArrayLayout(signed(8), config.cols), config.rows)

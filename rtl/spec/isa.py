"""The instruction set, the memory regions and the registers: defined here once.

Words are 64 bits, little-endian in memory. An instruction is `Op.words` words, its fields packed from bit 0 of the
first word in the order listed; the opcode is always the low 4 bits. What each field does: `docs/architecture.md`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

import numpy as np

from lepton.rtl.spec.codec import CodecError, Field, Record
from lepton.rtl.spec.config import NpuConfig

WORD_BITS = 64


def _f(name: str, bits: int, doc: str = "", signed: bool = False) -> Field:
    return Field(name, bits, signed, doc)


class Opcode(IntEnum):
    END = 1
    LOAD = 2
    MUL = 3
    TAIL = 4
    TABLE = 5
    MOVE = 6


@dataclass(frozen=True)
class Op:
    opcode: Opcode
    words: int
    fields: tuple[Field, ...]

    @cached_property
    def record(self) -> Record:
        return Record(self.opcode.name, self.fields, 8 * self.words)

    def offset(self, name: str) -> tuple[int, Field]:
        """First bit and field of that name."""
        return self.record.offsets[name], next(f for f in self.fields if f.name == name)


END = Op(Opcode.END, 1, (_f("opcode", 4),))

LOAD = Op(
    Opcode.LOAD,
    2,
    (
        _f("opcode", 4),
        _f("external", 1, "tiles come from external memory through the ring"),
        _f("count", 20, "tiles to hand to the array, in order"),
        _f("tile", 20, "first tile in the weight store (not external)"),
        _f("wait_move", 1, "take one token of MOVE before the first tile"),
        _f("pad", 18),
        _f("address", 32, "first byte in external memory (external)"),
    ),
)

MUL = Op(
    Opcode.MUL,
    4,
    (
        _f("opcode", 4),
        _f("wait", 1, "take one data token before the first vector"),
        _f("depthwise", 1, "activations shift down the columns"),
        _f("stack", 1, "groups stay in one bank, each acc_base advanced by the vectors of a group"),
        _f("init", 1, "the first tile of a group overwrites the accumulator"),
        _f("release", 1, "hand the bank to the tail after each group (stack: after the last)"),
        _f("still", 1, "every vector of a tile goes to the same accumulator entry"),
        _f("acc_base", 10, "first accumulator entry"),
        _f("groups", 12, "groups of output channels"),
        _f("width", 12, "vectors in a row of the stream"),
        _f("height", 12, "rows of the stream (depthwise: output rows)"),
        _f("address", 20, "byte address of lane 0 of the first vector"),
        _f("x", 16, "byte position of lane 0 in its row", signed=True),
        _f("x_limit", 16, "bytes in a row; a lane outside 0..x_limit reads zero_point"),
        _f("x_step", 16, "bytes from one vector to the next"),
        _f("y", 12, "row of the first vector", signed=True),
        _f("y_limit", 12, "rows; a vector outside 0..y_limit reads zero_point"),
        _f("y_step", 4, "rows from one stream row to the next"),
        _f("row_step", 20, "bytes from one stream row to the next"),
        _f("group_step", 16, "added to address and x from group to group"),
        _f("zero_point", 8, "what padding reads", signed=True),
        _f("out_width", 12, "depthwise: outputs in a row"),
        _f("subsample", 4, "depthwise: stride of the outputs in the stream, both ways"),
        _f("line_delay", 10, "depthwise: cycles each line buffer delays (width + taps)"),
        _f("wait_move", 1, "take one token of MOVE before the first vector"),
        _f("post_move", 1, "give MOVE one token when the last vector is read"),
        _f("wrap_y", 12, "rows from this one on lie `wrap_size` bytes before"),
        _f("wrap_size", 20, "bytes of a buffer of rows, 0: it has no end"),
    ),
)

TAIL = Op(
    Opcode.TAIL,
    4,
    (
        _f("opcode", 4),
        _f("take", 1, "wait for a bank at the start (stack: once, else once a group)"),
        _f("release", 1, "give the bank back (stack: after the last group, else after each)"),
        _f("post", 1, "give one data token when the last byte is written"),
        _f("stack", 1, "groups lie in one bank, width*height entries apart"),
        _f("to_acc", 1, "write the 32-bit result over the first operand, not to activation memory"),
        _f("clamp", 1, "add zero_point and clamp (else the raw 32-bit result)"),
        _f("table", 1, "map the int8 result through the table"),
        _f("dual", 2, "second operand: 0 none, 1 x+y+bias, 2 (x+bias)*(y+multiplier) unscaled, 3 x-y+bias"),
        _f("shared", 1, "one parameter entry for all channels of the instruction"),
        _f("pre_shift", 5, "left shift before the multiplication, besides the entry's own"),
        _f("acc_base", 10, "first accumulator entry"),
        _f("acc_other", 10, "distance from the first operand's entry to the second's"),
        _f("acc_x", 8, "entries from one output to the next"),
        _f("acc_y", 12, "entries from one output row to the next"),
        _f("width", 12, "outputs in a row"),
        _f("height", 12, "output rows"),
        _f("window_x", 4, "max pooling window, 1 for none"),
        _f("window_y", 4, "max pooling window rows, 1 for none"),
        _f("window_row", 10, "entries from one window row to the next"),
        _f("address", 20, "byte address of the first output"),
        _f("out_x", 16, "bytes from one output to the next"),
        _f("out_y", 20, "bytes from one output row to the next"),
        _f("group_step", 16, "bytes from one group to the next"),
        _f("channels", 16, "output channels over all groups"),
        _f("param", 16, "first parameter entry"),
        _f("zero_point", 8, "added after scaling", signed=True),
        _f("low", 8, "lower clamp", signed=True),
        _f("high", 8, "upper clamp", signed=True),
        _f("wait_move", 1, "take one token of MOVE at the start"),
        _f("post_move", 1, "give MOVE one token when the last byte is written"),
    ),
)

TABLE = Op(
    Opcode.TABLE,
    1,
    (
        _f("opcode", 4),
        _f("param", 16, "first of 32 parameter entries; the low 8 bytes of each are 8 table bytes, index -128 first"),
        _f("wait_move", 1, "take one token of MOVE at the start"),
    ),
)

MOVE = Op(
    Opcode.MOVE,
    4,
    (
        _f("opcode", 4),
        _f("wait_mul", 1, "take one token of MUL before the first byte"),
        _f("wait_tail", 1, "take one token of TAIL before the first byte"),
        _f("post_load", 1, "give LOAD one token when the last byte is written"),
        _f("post_mul", 1, "give MUL one token when the last byte is written"),
        _f("post_tail", 1, "give TAIL one token when the last byte is written"),
        _f("store", 1, "from activations to memory, else to the chip"),
        _f("fill", 1, "to the chip: every byte is `value`, memory is not read"),
        _f("flip", 1, "invert bit 7 of each byte: int8 to uint8 and back"),
        _f("space", 2, "on the chip: `Space`"),
        _f("base", 1, "what `external` counts from: `Base`"),
        _f("value", 8, "what fill writes", signed=True),
        _f("pad0", 9),
        _f("external", 32, "first byte in memory, from the base; a multiple of memory_width for tiles and parameters"),
        _f("chip", 20, "first byte (ACT), tile or entry on the chip"),
        _f("length", 20, "bytes of a run (ACT), tiles or entries"),
        _f("rows", 12, "runs"),
        _f("planes", 12, "times that the runs repeat"),
        _f("external_step", 32, "bytes from one run to the next in memory", signed=True),
        _f("chip_step", 20, "bytes from one run to the next on the chip"),
        _f("pad1", 12),
        _f("external_plane", 32, "bytes from the first run of a plane to that of the next in memory", signed=True),
        _f("chip_plane", 20, "the same on the chip"),
        _f("pad2", 12),
    ),
)
"""A copy between memory and the chip: for each plane and row a run of consecutive bytes on either side."""


OF_MOVE = ("wait_move", "post_move", "wrap_y", "wrap_size")
"""Fields of MUL and TAIL, the last ones, that only a machine with a memory port looks at."""


class Space(IntEnum):
    """Where MOVE works on the chip. Tiles and entries lie in memory as `memory_tile_bytes` and `memory_param_bytes`."""

    ACT = 0
    WEIGHT = 1
    PARAM = 2


class Base(IntEnum):
    """What an address in memory counts from: a register."""

    IMAGE = 0
    ARENA = 1


BASE_ALIGN = 16
"""A base is a multiple of this; the lowest bits of what the host writes are dropped."""

TABLE_ENTRIES = 32
"""Parameter entries that a TABLE reads."""

OPS = {op.opcode: op for op in (END, LOAD, MUL, TAIL, TABLE, MOVE)}

MIN_LINE_DELAY = 4
"""Cycles a depthwise line buffer delays at least: its write and its read never meet."""


@dataclass(frozen=True)
class Rule:
    """`low` <= field <= `high` in every instruction in which the one-bit field `when` (if named) equals `equals`."""

    field: str
    low: int = 0
    high: int | None = None
    when: str = ""
    equals: int = 1

    def __str__(self) -> str:
        limit = f"at least {self.low}" if self.high is None else f"at most {self.high}"
        limit = limit if self.low == 0 or self.high is None else f"{self.low} to {self.high}"
        return f"must be {limit}" + (f" when {self.when} is {self.equals}" if self.when else "")


def rules(op: Op, config: NpuConfig) -> tuple[Rule, ...]:
    """What `fetch` checks of an instruction: one that breaks a rule ends the run with BAD_INSTRUCTION.

    A rule whose `high` is negative cannot be kept: this configuration has no such instruction.
    """
    if op is LOAD:
        return Rule("count", 1), *(() if config.ring_tiles else (Rule("external", 0, 0),))
    if op is MUL:
        line = Rule("line_delay", MIN_LINE_DELAY, config.line_depth, "depthwise")
        return (
            *(Rule(name, 1) for name in ("groups", "width", "height")),
            Rule("still", 0, 0, "depthwise"),
            Rule("out_width", 1, None, "depthwise"),
            Rule("subsample", 1, None, "depthwise"),
            *((line,) if config.segments > 1 else ()),
        )
    if op is TAIL:
        windows = [
            Rule(name, 0, 1, when, equals)
            for name in ("window_x", "window_y")
            for when, equals in (("stack", 1), ("to_acc", 1), ("clamp", 0))
        ]
        return *(Rule(name, 1) for name in ("width", "height", "window_x", "window_y", "channels")), *windows
    if op is TABLE:
        return (Rule("param", 0, config.params - TABLE_ENTRIES),)
    if op is MOVE:
        chip = (Rule("space", 0, 0, "store"), Rule("space", 0, 0, "fill"), Rule("fill", 0, 0, "store"))
        return *(Rule(name, 1) for name in ("length", "rows", "planes")), Rule("space", 0, max(Space)), *chip
    return ()


def operations(config: NpuConfig) -> tuple[Op, ...]:
    """The instructions that this configuration has."""
    return tuple(op for op in OPS.values() if op is not MOVE or config.memory_width)


def broken(op: Op, config: NpuConfig, values: Mapping[str, int]) -> Rule | None:
    """The first rule that an instruction's fields break, in the order of the words in which `fetch` sees it."""
    for rule in sorted(rules(op, config), key=lambda r: last_word(op, r)):
        v = values[rule.field]
        if rule.when and values[rule.when] != rule.equals:
            continue
        if v < rule.low or (rule.high is not None and v > rule.high):
            return rule
    return None


def last_word(op: Op, rule: Rule) -> int:
    """The word of the instruction with which all that a rule looks at is known."""
    ends = [at + f.bits for at, f in (op.offset(name) for name in (rule.field, rule.when) if name)]
    return (max(ends) - 1) // WORD_BITS


def encode(op: Op, **values: int) -> list[int]:
    """Pack one instruction into 64-bit words. Raises CodecError if a field is unknown or out of range."""
    raw = op.record.pack({"opcode": op.opcode, **values})
    return [raw >> (WORD_BITS * i) & (2**WORD_BITS - 1) for i in range(op.words)]


def decode(words: Sequence[int] | np.ndarray, at: int = 0) -> tuple[Op, dict[str, int]]:
    """Unpack the instruction at word `at`. Raises CodecError on an unknown opcode, IndexError when it is cut off."""
    code = int(words[at]) & 15
    if code not in OPS:
        raise CodecError(f"word {at}: unknown opcode {code}")
    op = OPS[Opcode(code)]
    raw = sum(int(words[at + i]) << (WORD_BITS * i) for i in range(op.words))
    return op, op.record.unpack(raw)


def instructions(
    words: Sequence[int] | np.ndarray, first: int = 0, end: int | None = None
) -> Iterator[tuple[int, Op, dict[str, int]]]:
    """The instructions from word `first` on, each with its first word: before word `end`, or with the first END."""
    at = first
    while end is None or at < end:
        op, values = decode(words, at)
        yield at, op, values
        at += op.words
        if end is None and op is END:
            return


DESCRIPTOR_BYTES = 6
DESCRIPTOR = Record(
    "descriptor",
    (
        _f("offset", 20, "added to MUL.address"),
        _f("x", 16, "added to MUL.x", signed=True),
        _f("y", 8, "added to MUL.y", signed=True),
        _f("skip", 3, "depthwise: stream rows before the first output row"),
        _f("last", 1, "last tile of its group"),
    ),
    DESCRIPTOR_BYTES,
)
"""Where a tile applies, stored in front of its weights."""

PARAM_BYTES = 9
PARAM = Record(
    "param",
    (
        _f("bias", 32, "added to the accumulator", signed=True),
        _f("multiplier", 32, "Q31 multiplier", signed=True),
        _f("shift", 8, "exponent, -31 to 30: left if positive", signed=True),
    ),
    PARAM_BYTES,
)
"""A parameter entry: one output channel's scale."""


def memory_tile_bytes(config: NpuConfig) -> int:
    """Bytes of a tile in memory: descriptor, then rows of cols bytes, each part filled up to whole beats."""
    return _beats(DESCRIPTOR_BYTES, config) + _beats(config.tile_bytes, config)


def memory_param_bytes(config: NpuConfig) -> int:
    """Bytes of a parameter entry in memory, filled up to whole beats."""
    return _beats(PARAM_BYTES, config)


def _beats(size: int, config: NpuConfig) -> int:
    return -(-size // config.memory_width) * config.memory_width


class Region(IntEnum):
    """Memories a host can write (and, ACT and REG, read). Indexes count words of the region, see `word_bytes`."""

    REG = 0
    ACT = 1
    WEIGHT = 2
    PARAM = 3
    PROGRAM = 4
    EXTERNAL = 5  # behind the burst port; no words when config.external_bytes is 0
    MEMORY = 6  # behind the memory port, also READ; a word is a beat


def regions(config: NpuConfig) -> tuple[Region, ...]:
    """Those that this configuration has; EXTERNAL may be empty."""
    return tuple(region for region in Region if region is not Region.MEMORY or config.memory_width)


def word_bytes(region: Region, config: NpuConfig) -> int:
    """Bytes of one word of a region; a weight word is descriptor, then rows of cols bytes."""
    return {
        Region.REG: 4,
        Region.ACT: 1,
        Region.WEIGHT: DESCRIPTOR_BYTES + config.rows * config.cols,
        Region.PARAM: PARAM_BYTES,
        Region.PROGRAM: 8,
        Region.EXTERNAL: 1,
        Region.MEMORY: config.memory_width or 1,
    }[region]


def depth(region: Region, config: NpuConfig) -> int:
    """Words in a region."""
    return {
        Region.REG: len(registers(config)),
        Region.ACT: config.act_bytes,
        Region.WEIGHT: config.weight_tiles,
        Region.PARAM: config.params,
        Region.PROGRAM: 0 if config.memory_width else config.program_words,
        Region.EXTERNAL: config.external_bytes,
        Region.MEMORY: config.memory_bytes // (config.memory_width or 1),
    }[region]


class Cause(IntEnum):
    """What a cycle between start and done was spent on, from the multiply engine's view."""

    MULTIPLY = 0  # a vector entered the array
    WEIGHTS = 1  # a tile was not there yet
    ACTIVATIONS = 2  # a data token was missing: the layer before is not written yet
    TAIL = 3  # both accumulator banks were taken
    FETCH = 4  # no instruction was there yet
    DRAIN = 5  # no more work for the array; the pipeline empties
    MEMORY = 6  # a token of MOVE was missing, or MOVE had the activation memory


class Reg(IntEnum):
    """32-bit registers, read through Region.REG."""

    MAGIC = 0  # 0x4E54504C, "LPTN"
    VERSION = 1
    SHAPE = 2  # identity.SHAPE
    SIZES = 3  # identity.SIZES
    WEIGHT_TILES = 4
    PARAMS = 5
    PROGRAM_WORDS = 6
    RING_TILES = 7
    STATUS = 8  # Status
    RUN_ID = 9  # id of the last start
    CYCLES = 10  # start to done
    MULTIPLY = 11  # counters by Cause, in order
    WEIGHTS = 12
    ACTIVATIONS = 13
    TAIL = 14
    FETCH = 15
    DRAIN = 16
    EXTERNAL_BYTES = 17
    MEMORY = 18  # the counter of Cause.MEMORY
    MEMORY_WIDTH = 19
    MEMORY_BYTES = 20
    IMAGE = 21  # Base.IMAGE, written by the host: where the program's words and Base.IMAGE count from
    ARENA = 22  # Base.ARENA, written by the host


def registers(config: NpuConfig) -> tuple[Reg, ...]:
    """Those that this configuration has, without gaps: those from MEMORY on with a memory port only."""
    return tuple(reg for reg in Reg if reg < Reg.MEMORY or config.memory_width)


class Status(IntEnum):
    """State of the last run. From BAD_OPCODE on: it ended with an error, see `docs/architecture.md`, Errors."""

    IDLE = 0
    RUNNING = 1
    DONE = 2
    BAD_OPCODE = 3  # an unknown opcode, or the program ran off its memory
    BAD_INSTRUCTION = 4  # a known opcode with fields the machine does not define
    BAD_ADDRESS = 5  # an access outside a memory
    STALLED = 6  # nothing went on any more: something is awaited that never comes
    BUS_ERROR = 7  # the memory refused an access


MAGIC = 0x4E54504C
VERSION = 1


# --- Host link -----------------------------------------------------------------------------------------------------
# The frames and the payloads of the commands: `lepton.rtl.spec.frames`.
SYNC_HOST = 0xA5
SYNC_DEVICE = 0x5A
MAX_PAYLOAD = 256


class Command(IntEnum):
    PING = 0  # payload echoed
    WRITE = 1  # frames.WRITE, data
    READ = 2  # frames.READ
    START = 3  # frames.START
    RESET = 4  # stop the run, forget tokens; memories stay


class Result(IntEnum):
    OK = 0
    BAD_CRC = 1
    BAD_COMMAND = 2
    BAD_RANGE = 3
    BUSY = 4

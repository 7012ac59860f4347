"""The control port of a machine on a bus: its registers, described once for RTL, headers, documents and other tools.

The registers that tell and count are those of the host link (`isa.Reg`), each at 4 times its number; behind them are
those that only this port has. All are 32 bits, read and written as whole words.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import accumulate

from lepton.rtl.spec import identity
from lepton.rtl.spec.codec import Field
from lepton.rtl.spec.isa import BASE_ALIGN, Reg, Status

ADDRESS_BITS = 12
"""Of a byte in the port's window, 4 KB; what no register has is answered with an error."""


class Access(Enum):
    """What a bus may do with a register; a write to one that is `ro` is answered with an error."""

    RO = "read-only"
    RW = "read-write"
    WO = "write-only"  # reads as 0
    W1C = "read-write, a 1 clears the bit"
    W1S = "read-write, a 1 sets the bit"


class Control(IntEnum):
    """The port's own registers, numbered behind those of `Reg`."""

    PC = 32
    START = 33
    RESET = 34
    IRQ_ENABLE = 35
    IRQ_STATUS = 36
    LOCK = 37


@dataclass(frozen=True)
class Register:
    name: str
    number: int
    access: Access
    doc: str
    fields: tuple[Field, ...] = (Field("VALUE", 32),)
    """From bit 0; one without a name is reserved and reads as 0."""
    values: type[IntEnum] | None = None
    """What the first field's values are called."""

    @property
    def offset(self) -> int:
        """Byte in the port's window."""
        return 4 * self.number

    @property
    def mask(self) -> int:
        """The bits that are not reserved."""
        return sum((1 << f.bits) - 1 << at for f, at in self.places)

    @property
    def places(self) -> tuple[tuple[Field, int], ...]:
        """The fields that have a name, each with its first bit."""
        ends = tuple(accumulate(f.bits for f in self.fields))
        return tuple((f, end - f.bits) for f, end in zip(self.fields, ends) if f.name)


IDLE_ONLY = "a write during a run is answered with an error"
IRQ = (
    Field("DONE", 1, doc="a run has ended with status DONE"),
    Field("ERROR", 1, doc="a run has ended with an error"),
)


def _count(what: str) -> str:
    return f"cycles of the last run {what}"


_TELL = {
    Reg.MAGIC: "0x4E54504C, the letters LPTN",
    Reg.VERSION: "version of this interface",
    Reg.SHAPE: "the array",
    Reg.SIZES: "memories on the chip",
    Reg.WEIGHT_TILES: "tiles of the weight store",
    Reg.PARAMS: "entries of the parameter memory",
    Reg.PROGRAM_WORDS: "words of the program memory, where the machine has one",
    Reg.RING_TILES: "tiles of the ring, where the machine has one",
    Reg.STATUS: "state of the last run",
    Reg.RUN_ID: "what was written to START; 0 after RESET",
    Reg.CYCLES: "cycles from start to end of the last run",
    Reg.MULTIPLY: _count("in which a vector entered the array"),
    Reg.WEIGHTS: _count("that waited for a tile"),
    Reg.ACTIVATIONS: _count("that waited for the layer before"),
    Reg.TAIL: _count("that waited for an accumulator bank"),
    Reg.FETCH: _count("that waited for an instruction"),
    Reg.DRAIN: _count("behind the last vector"),
    Reg.EXTERNAL_BYTES: "bytes of the external weight memory, where the machine has one",
    Reg.MEMORY: _count("that waited for the memory port"),
    Reg.MEMORY_WIDTH: "bytes of a beat of the memory port",
    Reg.MEMORY_BYTES: "bytes that the memory port reaches; 0: 2**32",
    Reg.IMAGE: f"address of the image, a multiple of {BASE_ALIGN}; {IDLE_ONLY}",
    Reg.ARENA: f"address of the arena, a multiple of {BASE_ALIGN}; {IDLE_ONLY}",
}
_BASES = (Reg.IMAGE, Reg.ARENA)
_FIELDS = {
    Reg.SHAPE: tuple(Field(f.name.upper(), f.bits, doc=f.doc) for f in identity.SHAPE),
    Reg.SIZES: tuple(Field(f.name.upper(), f.bits, doc=f.doc) for f in identity.SIZES),
    Reg.STATUS: (Field("STATE", 3),),
    **{reg: (Field("", BASE_ALIGN.bit_length() - 1), Field("ADDRESS", 33 - BASE_ALIGN.bit_length())) for reg in _BASES},
}
REGISTERS = (
    *(
        Register(
            reg.name,
            int(reg),
            Access.RW if reg in _BASES else Access.RO,
            doc,
            _FIELDS.get(reg, (Field("VALUE", 32),)),
            Status if reg is Reg.STATUS else None,
        )
        for reg, doc in _TELL.items()
    ),
    Register(
        "PC",
        Control.PC,
        Access.RW,
        "word of the image that the next run begins with",
        (Field("VALUE", 29),),
    ),
    Register("START", Control.START, Access.WO, f"a write starts a run and gives it this id; {IDLE_ONLY}"),
    Register("RESET", Control.RESET, Access.WO, "a write of anything stops the run; memories and counters stay"),
    Register("IRQ_ENABLE", Control.IRQ_ENABLE, Access.RW, "bits of IRQ_STATUS that raise `irq`", IRQ),
    Register("IRQ_STATUS", Control.IRQ_STATUS, Access.W1C, "`irq` stays up while an enabled bit is set", IRQ),
    Register(
        "LOCK",
        Control.LOCK,
        Access.W1S,
        "with the bit set, writes to IMAGE and ARENA are answered with an error until the reset of the chip",
        (Field("LOCKED", 1),),
    ),
)

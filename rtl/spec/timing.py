"""How long everything takes, in cycles: what units promise, and what follows from it.

Units build what is said here and tests measure it; the cycle model (`lepton.sw.reference.cycles`) replays it.
"""

from dataclasses import dataclass

from lepton.rtl.spec.config import NpuConfig

# --- Places in queues -----------------------------------------------------------------------------------------------
FETCH_QUEUE = 2
"""Instructions that wait for each engine."""
MOVE_QUEUE = 4
"""MOVEs that wait for their engine."""
TOKENS = 255
"""Tokens of a kind that are given and not yet taken, at most: one more ends the run."""
MOVE_WAIT, MOVE_TURN = 8, 16
"""Cycles that MOVE waits for a port of the activation memory before it holds whom it waits for; reads that it then has
at most before the next pass starts."""
MEMORY_BURST = 128
"""Bytes of a client's burst at the memory port, at most."""
MEMORY_AHEAD = 4
"""Bursts of a client that are under way at the memory port, at most."""
PROGRAM_QUEUE = 64
"""Program words read ahead from memory."""
FETCH_AHEAD = 3
"""Program words read before they are taken."""
TILE_QUEUE = 3
"""Tiles whose descriptors are read ahead of the multiply engine."""
RUN_QUEUE = 2
"""External LOADs that the prefetch knows ahead."""

# --- Memories and arithmetic ----------------------------------------------------------------------------------------
ACT_READ, ACT_WRITE = 4, 2
"""Activation memory: from a read to its data; from a write until a read sees it."""
WEIGHT_LOAD, DESCRIPTOR_READ, WEIGHT_WRITE = 2, 1, 2
"""Weight store: from a load to row 0; from a read to the descriptor; from a byte written until a read sees it."""
ACC_SUM, ACC_READ, ACC_WRITE = 4, 2, 2
"""Accumulators: from a sum until the tail sees it; from a read of the tail to its data; from its write to a read."""
REQUANTIZE = 7
"""Requantizer: from a value to its result."""
LOADER = 3
"""Loader: from an accepted LOAD to its first tile in the queue."""
SKID = 1
"""A queue: from an item put in to the same at its head."""
EXTERNAL_READ = 2
"""External memory in block RAM: from a burst taken to its first byte."""


@dataclass(frozen=True)
class Memory:
    """What is behind the memory port: cycles from a request to its first beat, and from one beat to the next."""

    latency: int = 30
    interval: int = 1


# --- The host link --------------------------------------------------------------------------------------------------
LINK_TIMEOUT = 65536
"""Cycles without a byte after which the link drops a partial request."""


def link_timeout(clock_hz: float) -> int:
    """`LINK_TIMEOUT` of a board with this clock: 20 ms, which a host that was interrupted may take."""
    return max(LINK_TIMEOUT, round(clock_hz / 50))


# --- The compact machine --------------------------------------------------------------------------------------------
COMPACT_ACT_READ = 1
COMPACT_ACC_SUM, COMPACT_ACC_READ = 1, 1
TILE_WORDS = 11
"""16-bit words of a tile, one read a cycle."""
DIGIT = 2
"""Bits of the multiplier that the tail uses in a cycle."""
PARAM_WORDS = 5
"""16-bit words of a parameter entry."""
PARAM_CYCLES = PARAM_WORDS + 1
"""Cycles to read one."""


def value_cycles(pre_shift: int, shift: int) -> int:
    """Cycles the compact machine's tail takes for one accumulator, with the entry's shift."""
    return 4 + pre_shift + max(shift, 0) + 32 // DIGIT + max(-shift, 0)


def multiplier(config: NpuConfig) -> int:
    """From operands to their product, in the style `config.multiplier`."""
    paired = config.pe == "paired"  # the sums of its operands are registered
    return {"generic": 2 if paired else 1, "lut": 3, "ecp5": 3, "gowin": 2, "ice40": 1}[config.multiplier]


def array(config: NpuConfig) -> int:
    """From a vector at the array to its sums: activation, product and sum; a row less one; the paired correction."""
    return 1 + multiplier(config) + 1 + config.phys_rows - 1 + (1 if config.pe == "paired" else 0)


@dataclass(frozen=True)
class Timing:
    """Latencies of one machine: what its units take, and the sums of the paths through them."""

    fetch: int
    """From `start` to the first word's taking."""
    act_read: int
    weight_load: int
    """From a tile's load to its row 0 at the array."""
    array: int
    acc_sum: int
    acc_read: int
    link_way: int
    """Registers between the host link and the activation memory."""
    wrap: int = 0
    """From a vector's address to where it is turned back to (`MUL.wrap_size`), with a memory port."""

    @property
    def load_delay(self) -> int:
        """From a pass's start to its tile's load, which is at the array one cycle before the swap."""
        return max(0, 1 + self.wrap + self.act_read - self.weight_load)

    @property
    def read_delay(self) -> int:
        """From a vector's issue to its read: `wrap` unless the tile takes longer than the activations."""
        return max(self.wrap, self.weight_load - 1 - self.act_read)

    @property
    def first_read(self) -> int:
        """From a pass's start to its first read of activations."""
        return 1 + self.read_delay

    @property
    def operands(self) -> int:
        """From a vector's issue to its activations at the array."""
        return self.read_delay + self.act_read + 1

    @property
    def sums(self) -> int:
        """From a vector's issue to its sums at the accumulators."""
        return self.operands + self.array

    @property
    def bank_ready(self) -> int:
        """From a bank's last vector's issue until the tail may read it."""
        return self.sums + self.acc_sum

    @property
    def to_acc(self) -> int:
        """From a read of the tail to its word on the accumulators' write port."""
        return self.acc_read + 4 + REQUANTIZE

    @property
    def drain(self) -> int:
        """From a read of the tail to its byte on the activation memory's write port."""
        return self.to_acc + 3

    @property
    def link_read(self) -> int:
        """From a read by the host link to its data."""
        return self.act_read + self.link_way


def of(config: NpuConfig) -> Timing:
    """The latencies of the machine of that configuration."""
    if config.compact:
        return Timing(
            fetch=2,
            act_read=COMPACT_ACT_READ,
            weight_load=1,
            array=array(config),
            acc_sum=COMPACT_ACC_SUM,
            acc_read=COMPACT_ACC_READ,
            link_way=0,
        )
    return Timing(
        fetch=3,
        act_read=ACT_READ,
        weight_load=WEIGHT_LOAD,
        array=array(config),
        acc_sum=ACC_SUM,
        acc_read=ACC_READ,
        link_way=2,
        wrap=1 if config.memory_width else 0,
    )

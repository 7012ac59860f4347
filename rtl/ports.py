"""The Signatures through which units meet, each from the side that asks (`Out`); the other side has it as `In`.

Latencies are those of `lepton.rtl.spec.timing`. A stream of instructions carries whole ones (`layouts.LOAD_BITS`, ...);
the compact machine's carries their words (`layouts.WORD_LAYOUT`).
"""

from amaranth.hdl import signed
from amaranth.lib import stream
from amaranth.lib.data import ArrayLayout
from amaranth.lib.wiring import In, Out, Signature

from lepton.rtl import layouts
from lepton.rtl.layouts import ADDRESS, BYTE, DESCRIPTOR_LAYOUT, ENTRY, INDEX, LINE_DELAY, REGION, TILE
from lepton.rtl.spec import isa, registers
from lepton.rtl.spec.config import NpuConfig


def feed(m, source, *sinks) -> None:
    """Connect one interface of outputs only to several of the same Signature."""
    for sink in sinks:
        m.d.comb += [getattr(sink, name).eq(getattr(source, name)) for name in source.signature.members]


def memory_read(address_bits: int, shape) -> Signature:
    """A word of a memory, one cycle after ``en``."""
    return Signature({"en": Out(1), "addr": Out(address_bits), "data": In(shape)})


def activation_read(shape) -> Signature:
    """Consecutive bytes from byte ``addr`` on; ``data`` comes `act_read` cycles after ``en``, for one cycle."""
    return Signature({"en": Out(1), "addr": Out(ADDRESS), "data": In(shape)})


def activation_write(config: NpuConfig) -> Signature:
    """The first ``count`` bytes of ``data`` go to byte ``addr`` and on."""
    return Signature(
        {
            "en": Out(1),
            "addr": Out(ADDRESS),
            "count": Out(range(config.lanes + 1)),
            "data": Out(layouts.results(config)),
        }
    )


def masked_write(config: NpuConfig) -> Signature:
    """Bytes ``low`` .. ``count`` - 1 of ``data``, as long as the tail's or MOVE's, go as far behind byte ``addr``."""
    size = max(config.lanes, layouts.move_bytes(config))
    ends, data = range(size + 1), ArrayLayout(signed(8), size)
    return Signature({"en": Out(1), "addr": Out(ADDRESS), "low": Out(ends), "count": Out(ends), "data": Out(data)})


def host_write() -> Signature:
    """The host writes byte ``byte`` of word ``index`` of a memory (`isa.Region`)."""
    return Signature({"en": Out(1), "region": Out(REGION), "index": Out(INDEX), "byte": Out(BYTE), "data": Out(8)})


def tile_write() -> Signature:
    """Byte ``byte`` of a tile's word: descriptor, then the rows."""
    return Signature({"en": Out(1), "tile": Out(TILE), "byte": Out(BYTE), "data": Out(8)})


def run_request(config: NpuConfig) -> Signature:
    """The host starts a run at word ``pc`` (pulse ``start``; ``pc`` and ``id`` change with it) or stops it (pulse
    ``reset``); ``busy``: a run is in progress."""
    return Signature(
        {"start": Out(1), "pc": Out(layouts.pc_bits(config)), "id": Out(32), "reset": Out(1), "busy": In(1)}
    )


def vectors(config: NpuConfig) -> Signature:
    """A vector for the array, how it is to be taken, and whether the tile in the shadow registers goes with it."""
    return Signature(
        {
            "act": Out(layouts.activations(config)),
            "depthwise": Out(1),
            "swap": Out(1),
            "line_delay": Out(LINE_DELAY),
        }
    )


def tile_rows(config: NpuConfig) -> Signature:
    """Rows of a tile into the shadow registers of the array: row r in a cycle with ``load[r]``."""
    return Signature({"load": Out(config.rows), "weights": Out(layouts.weights(config))})


def accumulate() -> Signature:
    """Where the sums go that leave the array in this cycle; ``init``: they replace what is there."""
    return Signature({"en": Out(1), "bank": Out(1), "entry": Out(ENTRY), "init": Out(1)})


def accumulator_access(config: NpuConfig) -> Signature:
    """The tail at the accumulators: ``bank`` of its accesses in this cycle, a read (``r_data`` comes `acc_read` cycles
    later, for one cycle), and a write of columns ``w_sub`` * lanes and on; ``w_count`` of them carry a channel."""
    subs = config.cols // config.lanes
    return Signature(
        {
            "bank": Out(1),
            "r_en": Out(1),
            "r_entry": Out(ENTRY),
            "r_data": In(layouts.sums(config.cols)),
            "w_en": Out(1),
            "w_entry": Out(ENTRY),
            "w_sub": Out(range(subs)),
            "w_count": Out(range(config.lanes + 1)),
            "w_data": Out(layouts.sums(config.lanes)),
        }
    )


def handover() -> Signature:
    """Between multiply engine and tail, pulses: a bank is filled (``ready``), is free again (``free``), and a layer is
    written (``token``)."""
    return Signature({"ready": Out(1), "free": In(1), "token": In(1)})


def tiles() -> Signature:
    """The multiply engine at the tiles: ``i`` the LOADs (Stream), ``descriptor`` a read, ``load`` a tile to the array,
    ``ring``: tiles complete in the ring and not yet freed, one less from the cycle after ``free``."""
    return Signature(
        {
            "i": In(stream.Signature(layouts.LOAD_BITS)),
            "descriptor": Out(descriptor_read()),
            "load": Out(tile_load()),
            "ring": Out(ring()),
        }
    )


def descriptor_read() -> Signature:
    return memory_read(TILE, DESCRIPTOR_LAYOUT.size)


def tile_load() -> Signature:
    """A tile for the array."""
    return Signature({"en": Out(1), "tile": Out(TILE)})


def ring() -> Signature:
    """Tiles complete in the ring and not yet freed; ``free``, a pulse, frees one."""
    return Signature({"count": In(TILE), "free": Out(1)})


def external_read() -> Signature:
    """Burst reads of external memory: requests, and their bytes in the order of the requests."""
    return Signature({"req": Out(stream.Signature(layouts.BURST)), "data": In(stream.Signature(8))})


def host_memory(width: int) -> Signature:
    """The link at the memory, pulses: ``write`` byte ``byte`` of beat ``index``; the beat is complete with its last
    byte or with the ``last`` of them. ``read`` beat ``index``: it is ``beat`` when ``valid``. Not while ``busy``, nor
    right behind a ``write``."""
    return Signature(
        {
            "write": Out(1),
            "read": Out(1),
            "last": Out(1),
            "index": Out(25),
            "byte": Out(range(width)),
            "data": Out(8),
            "busy": In(1),
            "valid": In(1),
            "beat": In(8 * width),
        }
    )


def control() -> Signature:
    """A bus at the registers (`registers.REGISTERS`): ``en`` asks for an access to number ``word`` and stays, with all
    that belongs to it, until ``done``, which is up for a cycle, with ``read`` and ``error``; ``en`` in the cycle behind
    is another. ``whole``: all four bytes are written. ``irq``: the interrupt, a level."""
    return Signature(
        {
            "en": Out(1),
            "write": Out(1),
            "word": Out(registers.ADDRESS_BITS - 2),
            "data": Out(32),
            "whole": Out(1),
            "done": In(1),
            "read": In(32),
            "error": In(1),
            "irq": In(1),
        }
    )


def program_stream() -> Signature:
    """Fetch at a program in memory: ``words`` from word ``pc`` on, after a pulse ``start``. The highest bit: there is
    no such word, the program runs past the end of its memory."""
    words = stream.Signature(isa.WORD_BITS + 1)
    return Signature({"start": Out(1), "pc": Out(layouts.MEMORY_PC), "words": In(words)})


def memory_client(width: int) -> Signature:
    """A user of the memory port at the arbiter, `width` bytes a beat: ``a`` bursts, ``w`` exactly the beats of the
    write bursts, ``r`` those of the read bursts, each in the order of the bursts; data of a burst may come before or
    after it is taken at ``a``. What a client asks for it has room for (``r.ready`` may be low for a while, never for
    ever), and what it promises to write it has, or gets without any other client's doing. Forgetting all at the
    machine's ``clear``, it starts anew: the arbiter deals with what is under way then."""
    return Signature(
        {
            "a": Out(stream.Signature(layouts.MEMORY_BURST)),
            "w": Out(stream.Signature(layouts.memory_beat(width))),
            "r": In(stream.Signature(8 * width)),
        }
    )


def memory_port(width: int) -> Signature:
    """The machine at its memory: a client's streams, answered in the order asked (a read accepted after a write sees
    it). ``idle``: no write is under way; ``error``, a pulse: a burst failed."""
    return Signature({**memory_client(width).members, "idle": In(1), "error": In(1)})


def move_read(config: NpuConfig) -> Signature:
    """MOVE at the activation memory: consecutive bytes from byte ``addr`` on; ``en`` waits for ``ready``, ``data``
    comes `act_read` cycles after the cycle in which both are up, for one cycle."""
    data = layouts.move_data(config)
    return Signature({"en": Out(1), "addr": Out(ADDRESS), "ready": In(1), "data": In(data)})


def move_write(config: NpuConfig) -> Signature:
    """Bytes ``low`` .. ``count`` - 1 of ``data`` go as far behind byte ``addr``; ``en`` waits for ``ready``."""
    data = layouts.move_data(config)
    ends = range(data.length + 1)
    members = {"en": Out(1), "addr": Out(ADDRESS), "low": Out(ends), "count": Out(ends), "data": Out(data)}
    return Signature({**members, "ready": In(1)})


def beat_write(config: NpuConfig) -> Signature:
    """Beat ``beat`` of word ``index``, a tile or a parameter entry, laid out as in memory."""
    members = {"index": Out(INDEX), "beat": Out(BYTE), "data": Out(8 * config.memory_width)}
    return Signature({"en": Out(1), **members})


def masked_beat(config: NpuConfig) -> Signature:
    """`beat_write` of the bytes with their bit in ``mask``."""
    return Signature({**beat_write(config).members, "mask": Out(config.memory_width)})


def token() -> Signature:
    """Who awaits a token: one is ``there``, it is ``take``n. Another may be there in the next cycle."""
    return Signature({"there": In(1), "take": Out(1)})

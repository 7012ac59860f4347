"""Signatures between the compact machine's units, where they are not those of `lepton.rtl.ports`."""

from amaranth.hdl import signed
from amaranth.lib import stream
from amaranth.lib.wiring import In, Out, Signature

from lepton.rtl.layouts import DESCRIPTOR_LAYOUT, ENTRY
from lepton.rtl.spec.config import NpuConfig


def serial_tiles() -> Signature:
    """``i``: descriptor of the tile that waits in the array's shadow registers; taken when its pass starts."""
    return Signature({"i": In(stream.Signature(DESCRIPTOR_LAYOUT))})


def word_read() -> Signature:
    """A 16-bit word, one cycle after its address."""
    return Signature({"addr": Out(14), "data": In(16)})


def column_read(config: NpuConfig) -> Signature:
    """The tail at the accumulators: ``bank`` of its access in this cycle, a read of one column, whose value comes
    `acc_read` cycles later, for one cycle."""
    return Signature(
        {
            "bank": Out(1),
            "r_en": Out(1),
            "r_entry": Out(ENTRY),
            "r_column": Out(range(config.cols)),
            "r_data": In(signed(32)),
        }
    )

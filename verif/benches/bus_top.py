"""What the bench of the buses simulates."""

from lepton.rtl.bus.top import BUSES
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.verilog import to_verilog
from lepton.verif.benches.build import TOP

_SIZES = dict(act_bytes=16384, weight_tiles=256, params=512, acc_depth=128, line_depth=64)
BUS_CONFIGS = {
    "w4": NpuConfig("w4", rows=8, cols=8, lanes=8, memory_width=4, memory_bytes=1 << 32, **_SIZES),
    "w16": NpuConfig("w16", rows=4, cols=4, lanes=2, memory_width=16, memory_bytes=1 << 24, **_SIZES),
    "w1": NpuConfig("w1", rows=4, cols=4, lanes=2, memory_width=1, memory_bytes=1 << 24, **_SIZES),
}
"""Machines by the width of their memory port."""


def bus_verilog(bus: str, which: str) -> str:
    """Verilog of a machine on a bus, as the benches' top module."""
    return to_verilog(BUSES[bus](BUS_CONFIGS[which]), name=TOP)

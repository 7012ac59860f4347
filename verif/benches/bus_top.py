"""What the bench of the buses simulates."""

from dataclasses import replace

from lepton.rtl.bus.top import BUSES
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.verilog import to_verilog
from lepton.verif.benches.build import TOP

_W4 = NpuConfig(
    "w4",
    act_bytes=16384,
    weight_tiles=256,
    params=512,
    acc_depth=128,
    line_depth=64,
    memory_width=4,
    memory_bytes=1 << 32,
)
_SMALL = replace(_W4, rows=4, cols=4, lanes=2, memory_bytes=1 << 24)
BUS_CONFIGS = {
    "w4": _W4,
    "w16": replace(_SMALL, name="w16", memory_width=16),
    "w1": replace(_SMALL, name="w1", memory_width=1),
}
"""Machines by the width of their memory port."""


def bus_verilog(bus: str, which: str) -> str:
    """Verilog of a machine on a bus, as the benches' top module."""
    return to_verilog(BUSES[bus](BUS_CONFIGS[which]), name=TOP)

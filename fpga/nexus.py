"""Nexus boards as Amaranth platforms."""

from amaranth.build import Attrs, Connector, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import LatticePlatform


class LifclEvnPlatform(LatticePlatform):
    """Lattice CrossLink-NX Evaluation Board: the second port of its USB chip is a UART once R15 and R17 are fitted."""

    device = "LIFCL-40"
    package = "BG400"
    speed = "8"
    grade = "C"
    default_clk = "OSCA"
    osca_div = 1
    resources = [
        Resource(
            "uart",
            0,
            Subsignal("rx", Pins("F16", dir="i")),
            Subsignal("tx", Pins("F18", dir="o")),
            Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP"),
        ),
        *(
            Resource("led", k, PinsN(pin, dir="o"), Attrs(IO_TYPE="LVCMOS33"))
            for k, pin in enumerate("E17 F13 G13 F14 L16 L15 L20 L19".split())
        ),
        Resource("button", 0, PinsN("G14", dir="i"), Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
    ]
    connectors: list[Connector] = []

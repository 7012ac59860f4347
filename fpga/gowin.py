"""Gowin boards as Amaranth platforms for the tools from pip."""

from amaranth.build import Attrs, Clock, Connector, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import GowinPlatform


class Gw2aPlatform(GowinPlatform):
    """A platform that calls `nextpnr-himbaechel-gowin`, which Amaranth's does not."""

    _apicula_required_tools = ["yosys", "nextpnr-himbaechel-gowin", "gowin-pack"]
    _apicula_command_templates = [
        r"""
        {{invoke_tool("yosys")}} {{name}}.ys
        """,
        r"""
        {{invoke_tool("nextpnr-himbaechel-gowin")}}
            {{get_override("nextpnr_opts")|options}}
            --log {{name}}.tim
            --device {{platform.part}}
            --vopt family={{platform._chipdb_device}}
            --vopt cst={{name}}.cst
            --json {{name}}.json
            --write {{name}}.pnr.json
        """,
        r"""
        {{invoke_tool("gowin-pack")}}
            -d {{platform._chipdb_device}}
            -o {{name}}.fs
            {{name}}.pnr.json
        """,
    ]
    _chipdb_device = "GW2A-18C"


class TangNano20kPlatform(Gw2aPlatform):
    """Sipeed Tang Nano 20K: USB's second port is a UART."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    resources = [
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        Resource(
            "uart",
            0,
            Subsignal("rx", Pins("70", dir="i"), Attrs(PULL_MODE="UP")),
            Subsignal("tx", Pins("69", dir="o")),
            Attrs(IO_TYPE="LVCMOS33"),
        ),
        *(Resource("led", k, PinsN(str(15 + k), dir="o"), Attrs(IO_TYPE="LVCMOS33")) for k in range(6)),
        Resource("button", 0, Pins("88", dir="i"), Attrs(IO_TYPE="LVCMOS33")),
        Resource("button", 1, Pins("87", dir="i"), Attrs(IO_TYPE="LVCMOS33")),
    ]
    connectors: list[Connector] = []

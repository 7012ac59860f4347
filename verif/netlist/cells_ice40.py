"""A board's iCE40 netlist, after synthesis or after place and route, as Verilog with the UART's pins for Verilator.

Logic cells, multipliers and block RAM are yosys' models of the vendor's cells. Ours are the pins, the PLL, which makes
its clocks of a faster one at its pin, and the SPRAM. Where the vendor does not say what a memory gives (a bit that is
read while it is written, the output in the cycle of an SPRAM's write) it is the complement; SPRAMs wake up full of
noise.
"""

import re
from pathlib import Path

from lepton.fpga import flow
from lepton.fpga.board import Board
from lepton.verif.netlist.cells import LINT, Netlist, models

PULSES = 4
"""Pulses at the PLL's pin for one cycle of the accelerator's clock."""

OWN = """
module PIN_IN(input PACKAGE_PIN, output D_IN_0);
    assign D_IN_0 = PACKAGE_PIN;
endmodule
module PIN_OUT(output PACKAGE_PIN, input D_OUT_0, OUTPUT_ENABLE);
    assign PACKAGE_PIN = OUTPUT_ENABLE ? D_OUT_0 : 1'b1;
endmodule
module PLL(input PIN, RESETB, output A, B, LOCK);
    // Both outputs come from registers of one clock: their edges are in the same instant.
    reg [6:0] count = 0;
    reg locked = 0;
    always @(posedge PIN) begin
        count <= RESETB ? count + 1 : 0;
        locked <= RESETB & (locked | &count);
    end
    assign A = ~count[0], B = ~count[1], LOCK = locked;
endmodule
module SPRAM(input [13:0] ADDRESS, input [15:0] DATAIN, input [3:0] MASKWREN,
             input WREN, CHIPSELECT, CLOCK, STANDBY, SLEEP, POWEROFF, output reg [15:0] DATAOUT);
    reg [15:0] mem [0:16383];
    integer k;
    initial for (k = 0; k < 16384; k = k + 1) mem[k] = (k + 1) * 40503 >> 7;
    wire [15:0] on = {{4{MASKWREN[3]}}, {4{MASKWREN[2]}}, {4{MASKWREN[1]}}, {4{MASKWREN[0]}}};
    always @(posedge CLOCK) if (CHIPSELECT & ~STANDBY & ~SLEEP & POWEROFF) begin
        DATAOUT <= WREN ? ~mem[ADDRESS] : mem[ADDRESS];
        if (WREN) mem[ADDRESS] <= mem[ADDRESS] & ~on | DATAIN & on;
    end
endmodule
"""

TOP = """
module npu(input clk, input rst, input rx, output tx, output [3:0] leds);
    netlist netlist(.pin(clk), .rx(rx), .tx(tx));
    assign leds = 0;
endmodule
"""


def cells() -> str:
    """yosys' models of the other cells, none of whose inputs may be open."""
    text = models(["ice40/cells_sim.v"], r"SB_(LUT4|CARRY|DFF\w*|GB|RAM40_\w+|MAC16)|ICESTORM_(LC|RAM)")
    text = re.sub(r"\((\w+) === 1'bz\) \? 1'b[01] : \1", r"\1", text)
    read = "memory[RADDR[7:0]] & ~RMASK_I;"
    hit = "WCLK & WE & WCLKE & (WADDR[7:0] == RADDR[7:0])"  # at a falling edge WCLK is low
    assert text.count(read) == 1
    text = text.replace(read, f"(memory[RADDR[7:0]] ^ ({hit} ? ~WMASK_I : 16'h0)) & ~RMASK_I;")
    defaults = "".join(f"`define ICE40_DEFAULT_ASSIGNMENT_{k}\n" for k in ("V(v)", "0", "1"))
    return f"`define SB_DFF_INIT initial Q = 0;\n{defaults}{text}"


def board_verilog(path: Path, board: Board) -> str:
    """Verilog, top module `npu` as `PinModel` wants it, of a netlist of `board`: synthesis' `top.json` or what nextpnr
    writes. Raises FlowError when something in it has no model here."""
    top = flow.load_json(path)["modules"]["top"]
    pads = {port["bits"][0]: name for name, port in top["ports"].items()}
    assert board.uart
    pins = {f"{board.uart[0]}_{board.uart[1]}__{pin}__io": pin for pin in ("rx", "tx")}
    netlist = Netlist("netlist")
    for bit, pad in pads.items():
        netlist.port(pins.get(pad, "pin"), "output" if pins.get(pad) == "tx" else "input", [bit])

    clocks: dict[str, list] = {}
    for name, cell in top["cells"].items():
        kind, links, parameters = cell["type"], cell["connections"], cell["parameters"]
        if kind in ("ICESTORM_DSP", "ICESTORM_SPRAM"):
            links = _as_buses(links)
        for port, bits in links.items():  # what place and route leaves open
            if cell["port_directions"].get(port, "input") == "input":
                high = port in ("CE", "CEN", "WCLKE", "RCLKE")
                links[port] = [str(int(high)) if b is None else b for b in bits or [None]]
        if kind == "SB_IO":
            pad = pads[links["PACKAGE_PIN"][0]]
            if pad in pins:
                if int(parameters["PIN_TYPE"], 2) == 0b000001:
                    netlist.cell("PIN_IN", name, {}, {p: links[p] for p in ("PACKAGE_PIN", "D_IN_0")})
                elif int(parameters["PIN_TYPE"], 2) == 0b101001:
                    used = ("PACKAGE_PIN", "D_OUT_0", "OUTPUT_ENABLE")
                    netlist.cell("PIN_OUT", name, {}, {p: links[p] for p in used})
                else:
                    raise flow.FlowError(f"{path}: pin {pad} is of a kind that has no model")
        elif kind in ("SB_PLL40_2F_PAD", "ICESTORM_PLL"):
            settings = {p: int(parameters[p], 2) for p in ("DIVR", "DIVF", "DIVQ")}
            made = board.platform().default_clk_frequency * (settings["DIVF"] + 1) / (settings["DIVR"] + 1)
            made /= 2 ** settings["DIVQ"]
            if round(made) != round(2e6 * board.mhz):
                raise flow.FlowError(f"{path}: its PLL makes {made / 1e6:g} MHz, not {2 * board.mhz:g}")
            kinds = [parameters[f"PLLOUT_SELECT_PORT{p}"] for p in "AB"]
            if kinds != ["GENCLK", "GENCLK_HALF"]:
                raise flow.FlowError(f"{path}: PLL outputs {', '.join(kinds)} have no model")
            clocks |= {port: links[port] for port in ("RESETB", "LOCK")}
            clocks |= {p: links[f"PLLOUTGLOBAL{p}"] for p in "AB" if kind == "SB_PLL40_2F_PAD"}
        elif found := re.search("_pllout_([ab])$", name):  # the PLL's own way to a global net
            clocks[found[1].upper()] = links["GLOBAL_BUFFER_OUTPUT"]
        elif kind in ("SB_SPRAM256KA", "ICESTORM_SPRAM"):
            netlist.cell("SPRAM", name, {}, links)
        else:
            netlist.cell("SB_MAC16" if kind == "ICESTORM_DSP" else kind, name, parameters, links)
    if len(clocks) != 4:
        raise flow.FlowError(
            f"{path}: PLL without reset, lock or one of two outputs, but {', '.join(clocks) or 'none'}"
        )
    clock = next(bit for bit, pad in pads.items() if pad not in pins)
    netlist.cell("PLL", "pll", {}, {"PIN": [clock], **clocks})
    return f"{LINT}{TOP}{netlist.verilog()}{OWN}{cells()}"


def _as_buses(links: dict) -> dict:
    """Ports A_0, A_1, ... become A."""
    out: dict = {}
    for port in sorted(links, key=lambda p: [int(n) for n in re.findall(r"_(\d+)$", p)]):
        if re.search(r"_\d+$", port):
            out.setdefault(port.rpartition("_")[0], []).extend(links[port] or [None])
        else:
            out[port] = links[port]
    return out

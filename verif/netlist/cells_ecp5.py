"""Models of the ECP5's cells for netlists: yosys' own, and ours of those that it has no more than the ports of.

Block RAM and multiplier are made by the vendor's description of the modes that are used; a byte that is read while it
is written reads as its complement, so nothing may depend on it.
"""

from lepton.verif.netlist.cells import models, with_body

# With `%`, for the braces are Verilog's; the operands are the cell's ports as it has them, one line each.
MULTIPLIER = """
    wire signed [18:0] a = {SIGNEDA & A17, A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire signed [18:0] b = {SIGNEDB & B17, B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    reg signed [18:0] a_q, b_q;
    reg [35:0] p_q;
    wire signed [37:0] product =
        (REG_INPUTA_CLK == "NONE" ? a : a_q) * (REG_INPUTB_CLK == "NONE" ? b : b_q);
    always @(posedge CLK0) if (CE0) begin a_q <= a; b_q <= b; p_q <= product[35:0]; end
    assign {%s} = REG_OUTPUT_CLK == "NONE" ? product[35:0] : p_q;
""" % ", ".join(f"P{k}" for k in reversed(range(36)))  # noqa: E501, UP031


def _bus(name: str, bits: int) -> str:
    return "{" + ", ".join(f"{name}{k}" for k in reversed(range(bits))) + "}"


def _memory() -> str:
    """Body of DP16KD: 2,048 bytes of 9 bits, two ports, no output registers, no reset."""
    text = """
    reg [8:0] mem [0:2047];
    integer k;
    initial for (k = 0; k < 2048; k = k + 1) mem[k] = 0;
    reg [35:0] qa, qb;
"""
    text += f"    wire [13:0] ada = {_bus('ADA', 14)}, adb = {_bus('ADB', 14)};\n"
    text += f"    wire [35:0] da = {{{_bus('DIB', 18)}, {_bus('DIA', 18)}}};\n"
    text += f"    wire [17:0] db = {_bus('DIB', 18)};\n"
    # Bytes a port takes part in: one, two or four from the byte its address names.
    for port in "ab":
        width = f"DATA_WIDTH_{port.upper()}"
        ad = f"ad{port}"
        text += f"""
    wire [10:0] at_{port} = {width} == 36 ? {{{ad}[13:5], 2'b0}} : {width} == 18 ? {{{ad}[13:4], 1'b0}} : {ad}[13:3];
    wire [3:0] be_{port} = {width} == 36 ? {ad}[3:0] : {width} == 18 ? {{2'b0, {ad}[1:0]}} : 4'b1;
    wire we_{port} = CE{port.upper()} & WE{port.upper()};
    wire [2:0] low_{port} = {width} == 4 ? {{{ad}[2], 2'b0}} : {width} == 2 ? {{{ad}[2:1], 1'b0}} : {ad}[2:0];
    wire [8:0] ones_{port} = {width} == 4 ? 9'hf : {width} == 2 ? 9'h3 : {width} == 1 ? 9'h1 : 9'h1ff;
    wire [8:0] mask_{port} = {width} < 9 ? ones_{port} << low_{port} : 9'h1ff;
    wire [2:0] shift_{port} = {width} < 9 ? low_{port} : 3'b0;
    wire [3:0] used_{port} = {width} == 36 ? 4'hf : {width} == 18 ? 4'h3 : 4'h1;
"""
    text += "    always @(posedge CLKA) begin\n"
    for port, other in ("ab", "ba"):
        text += f"        if (CE{port.upper()} & ~WE{port.upper()}) begin\n"
        for k in range(4):
            hit = " | ".join(
                f"(we_{other} & be_{other}[{j}] & used_{other}[{j}] & (at_{other} + {j} == at_{port} + {k}))"
                for j in range(4)
            )
            value = f"mem[at_{port} + {k}] ^ {{9{{{hit}}}}}"
            if k == 0:
                value = f"(({value}) >> shift_{port}) & ones_{port}"
            text += f"            if (used_{port}[{k}]) q{port}[{9 * k} +: 9] <= {value};\n"
        text += "        end\n"
    for port in "ab":
        for k in range(4):
            data = f"d{port}[{9 * k} +: 9]" if port == "a" or k < 2 else "9'b0"
            shifted = f"({data} << shift_{port})" if k == 0 else data
            mask = f"mask_{port}" if k == 0 else "9'h1ff"
            at = f"mem[at_{port} + {k}]"
            text += f"        if (we_{port} & be_{port}[{k}] & used_{port}[{k}])\n"
            text += f"            {at} <= ({at} & ~{mask}) | ({shifted} & {mask});\n"
    text += "    end\n"
    # A read port of 36 bits gives its upper half at the other port's pins; a narrower one beside a write port of 36
    # bits gives all at its own.
    text += f"    assign {_bus('DOA', 18)} = DATA_WIDTH_B == 36 ? qb[17:0] : qa[17:0];\n"
    text += f"    assign {_bus('DOB', 18)} = DATA_WIDTH_B == 36 ? qb[35:18] : qb[17:0];\n"
    return text


def cells() -> str:
    """Verilog of all cells that netlists have."""
    logic = "LUT[24]|L6MUX21|PFUMX|TRELLIS_(DPR16X4|FF)|CCU2C"
    text = models(["lattice/common_sim.vh", "lattice/ccu2c_sim.vh"], logic)
    text += models(["lattice/cells_sim_ecp5.v"], "DP16KD") + models(["lattice/cells_bb_ecp5.v"], "MULT18X18D")
    text = text.replace("initial Q = srval;", 'initial Q = REGSET == "SET";')
    return with_body(with_body(text, "DP16KD", _memory()), "MULT18X18D", MULTIPLIER)

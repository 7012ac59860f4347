"""Models of the Gowin GW2A's cells for netlists: yosys' own, and ours of those that it has no more than the ports of.

Block RAM and multipliers are made by the vendor's description of the modes that are used; a byte that is read while it
is written reads as its complement, so nothing may depend on it.
"""

from lepton.verif.netlist.cells import models, with_body

# Registers of an enabled port; ports are signed or not as their ASIGN and BSIGN say.
_MULTIPLIER = """
    wire signed [{n}:0] a = {{ASIGN & A[{top}], A}}, b = {{BSIGN & B[{top}], B}};
    reg signed [{n}:0] a_q, b_q;
    reg [{out}:0] p_q;
    wire signed [{wide}:0] product = (AREG ? a_q : a) * (BREG ? b_q : b);
    always @(posedge CLK) if (CE) begin a_q <= a; b_q <= b; p_q <= product[{out}:0]; end
    assign DOUT = OUT_REG ? p_q : product[{out}:0];
"""

_STORE = """
    reg [8:0] mem [0:2047];
    integer k;
    initial for (k = 0; k < 2048; k = k + 1) mem[k] = 0;
"""


def _multiplier(bits: int) -> str:
    return _MULTIPLIER.format(n=bits, top=bits - 1, out=2 * bits - 1, wide=2 * bits + 1)


def _port(name: str, width: str, address: str) -> str:
    """Bytes that port `name` takes part in: `used` from byte `at` on, `be` of them written; below a byte, bits from
    `low` on, `mask`."""
    return f"""
    wire [10:0] at_{name} = {width} >= 32 ? {{{address}[13:5], 2'b0}} : {width} >= 16 ? {{{address}[13:4], 1'b0}} :
        {address}[13:3];
    wire [3:0] used_{name} = {width} >= 32 ? 4'hf : {width} >= 16 ? 4'h3 : 4'h1;
    wire [3:0] be_{name} = {width} >= 16 ? {address}[3:0] & used_{name} : 4'h1;
    wire [2:0] low_{name} = {width} == 4 ? {{{address}[2], 2'b0}} : {width} == 2 ? {{{address}[2:1], 1'b0}} :
        {width} == 1 ? {address}[2:0] : 3'b0;
    wire [8:0] mask_{name} = {width} >= 8 ? 9'h1ff : ((9'h1 << {width}) - 9'h1) << low_{name};
"""


def _write(name: str, enable: str, data: str, unit: int, bytes_: int) -> str:
    text = f"        if ({enable}) begin\n"
    for k in range(bytes_):
        value = f"{data}[{unit * k} +: {unit}]"
        if k == 0:
            value = f"({{1'b0, {value}}} << low_{name})"
        mask = f"mask_{name}" if k == 0 else "9'h1ff"
        at = f"mem[at_{name} + {k}]"
        text += f"            if (be_{name}[{k}]) {at} <= ({at} & ~{mask}) | ({value} & {mask});\n"
    return text + "        end\n"


def _read(name: str, enable: str, out: str, unit: int, bytes_: int, other: str, other_enable: str) -> str:
    text = f"        if ({enable}) begin\n"
    for k in range(bytes_):
        hit = " | ".join(f"(be_{other}[{j}] & (at_{other} + {j} == at_{name} + {k}))" for j in range(4))
        value = f"mem[at_{name} + {k}] ^ {{9{{({other_enable}) & ({hit})}}}}"
        if k == 0:
            value = f"(({value}) & mask_{name}) >> low_{name}"
        text += f"            if (used_{name}[{k}]) {out}[{unit * k} +: {unit}] <= {value};\n"
    return text + "        end\n"


def _simple(unit: int) -> str:
    """Body of SDPB (bytes of 8 bits) or SDPX9B (9): port A writes, port B reads."""
    text = _STORE + f"    reg [{4 * unit - 1}:0] q;\n    assign DO = q;\n"
    text += _port("a", "BIT_WIDTH_0", "ADA") + _port("b", "BIT_WIDTH_1", "ADB")
    text += "    always @(posedge CLKA) begin\n"
    text += _read("b", "CEB", "q", unit, 4, "a", "CEA")
    return text + _write("a", "CEA", "DI", unit, 4) + "    end\n"


def _dual(unit: int) -> str:
    """Body of DPB or DPX9B: each port reads or writes, and keeps its output when it writes."""
    text = _STORE + f"    reg [{2 * unit - 1}:0] qa, qb;\n    assign DOA = qa;\n    assign DOB = qb;\n"
    text += _port("a", "BIT_WIDTH_0", "ADA") + _port("b", "BIT_WIDTH_1", "ADB")
    text += "    always @(posedge CLKA) begin\n"
    text += _read("a", "CEA & ~WREA", "qa", unit, 2, "b", "CEB & WREB")
    text += _read("b", "CEB & ~WREB", "qb", unit, 2, "a", "CEA & WREA")
    text += _write("a", "CEA & WREA", "DIA", unit, 2) + _write("b", "CEB & WREB", "DIB", unit, 2)
    return text + "    end\n"


def cells() -> str:
    """Verilog of all cells that netlists have."""
    wanted = r"LUT[1-4]|MUX2(_LUT[5-8])?|DFF(|E|S|SE|R|RE|P|PE|C|CE)|ALU|RAM16SDP4|VCC|GND"
    bodies = {
        "MULT9X9": _multiplier(9),
        "MULT18X18": _multiplier(18),
        "SDPB": _simple(8),
        "SDPX9B": _simple(9),
        "DPB": _dual(8),
        "DPX9B": _dual(9),
    }
    text = models(["gowin/cells_sim.v"], wanted) + models(["gowin/cells_xtra_gw2a.v"], "|".join(bodies))
    for name, body in bodies.items():
        text = with_body(text, name, body)
    return text

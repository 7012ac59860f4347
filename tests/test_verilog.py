"""Generated Verilog: what a user gets, and what other tools say of it."""

import json
import os
import re
import shutil
import subprocess

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib.memory import Memory

from lepton.fpga.boards import get_board
from lepton.fpga.top import BoardTop
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import UP5K, NpuConfig
from lepton.rtl.spec.isa import Reg, Status
from lepton.rtl.verilog import _quick_memories, prefixed, to_verilog, version, write_verilog
from lepton.sw.cli import main
from lepton.sw.device.verilated import _verilator

WITH_RING = NpuConfig("ring", 4, 4, lanes=2, act_bytes=4096, weight_tiles=64, ring_tiles=8, params=64, program_words=64)
WITH_MEMORY = NpuConfig(
    "memory", 4, 4, lanes=2, pe="paired", act_bytes=4096, weight_tiles=64, ring_tiles=8, external_bytes=4096
)
WITH_PORT = NpuConfig("port", 4, 4, lanes=2, act_bytes=4096, weight_tiles=64, memory_width=4, memory_bytes=1 << 20)


@pytest.fixture(scope="module", params=[WITH_RING, WITH_MEMORY, WITH_PORT, UP5K], ids=lambda c: c.name)
def generated(request, tmp_path_factory):
    """(configuration, Verilog, description, waivers) as `lepton verilog` writes them."""
    return request.param, *write_verilog(request.param, tmp_path_factory.mktemp("v") / f"{request.param.name}.v")


def test_header_says_what_it_is(generated):
    config, verilog, *_ = generated
    head = verilog.read_text()[:2000]
    for text in (f"version {version()}", "SPDX-License-Identifier: Apache-2.0", f"Configuration {config.name}:"):
        assert text in head
    assert f"//   act_bytes = {config.act_bytes}\n" in head


def test_every_module_has_the_prefix(generated):
    _, verilog, *_ = generated
    text = verilog.read_text()
    names = re.findall(r"^module (\S+?) ?\(", text, re.MULTILINE)
    assert "lepton_npu" in names and all(re.fullmatch(r"lepton_\w+", name) for name in names)
    assert len(set(names)) == len(names)


def test_no_memory_is_spelled_out(generated):
    """An `initial` of a statement for each of thousands of words makes files that no editor opens."""
    _, verilog, *_ = generated
    text = verilog.read_text()
    assert len(re.findall(r"^ +\S+ ?\[\d+\] = \d+'", text, re.MULTILINE)) < 100
    assert "[-1:0]" not in text


def test_verilator_is_silent(generated):
    _, verilog, _, vlt = generated
    root = _verilator()
    done = subprocess.run(
        [root / "bin" / "verilator", "--lint-only", "--quiet", "--top-module", "lepton_npu", vlt, verilog],
        env={**os.environ, "VERILATOR_ROOT": str(root)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, "", "")


def test_icarus_is_silent(generated, tmp_path):
    _, verilog, *_ = generated
    if shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog is not installed")
    command = ["iverilog", "-Wall", "-s", "lepton_npu", "-o", str(tmp_path / "out"), str(verilog)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out").stat().st_size > 0


def test_description(generated):
    config, verilog, description, _ = generated
    about = json.loads(description.read_text())
    assert about["top"] == "lepton_npu" and about["release"] == version()
    assert NpuConfig.from_dict(about["config"]) == config
    assert [r["index"] for r in about["registers"]] == list(range(len(Reg)))
    assert {r["region"]: r["words"] for r in about["memory_map"]}["ACT"] == config.act_bytes
    port = {p["name"]: p for p in about["ports"]}
    streams = ("i", "o", "x_req", "x_data") if config is WITH_RING else ("i", "o")
    single = {"clk", "rst", "status"}
    if config is WITH_PORT:
        streams, single = (*streams, *about["memory_port"]["streams"]), single | {"memory__idle", "memory__error"}
        assert (about["memory_port"]["beat_bytes"], about["memory_port"]["bytes"]) == (4, 1 << 20)
    assert ("memory_port" in about) == (config is WITH_PORT)
    assert set(port) == {f"{s}__{p}" for s in streams for p in ("payload", "valid", "ready")} | single
    assert {i["name"] for i in about["instructions"]} == {op.opcode.name for op in isa.operations(config)}
    assert [r["name"] for r in about["registers"] if r["writable"]] == ["IMAGE", "ARENA"] * (config is WITH_PORT)
    readable = {r["region"] for r in about["memory_map"] if r["readable"]}
    assert readable == {"REG", "ACT"} | ({"MEMORY"} if config is WITH_PORT else set())
    text = verilog.read_text()
    header = text[text.index("module lepton_npu(") :].split(")")[0].split("(")[1]
    assert {name.strip() for name in header.split(",")} == set(port)
    for p in port.values():
        width = f"[{p['width'] - 1}:0] " if p["width"] > 1 else ""
        assert f"  {p['direction']}put {width}{p['name']};" in text
        assert sum(f["width"] for f in p.get("fields", [{"width": p["width"]}])) == p["width"]
    assert port["status"]["fields"][0]["values"] == {s.name: int(s) for s in Status}


def test_fields_of_a_port(generated):
    config, _, description, _ = generated
    known = {
        WITH_RING: {"x_req__payload": [("address", 0, 32), ("length", 32, 16)]},
        WITH_PORT: {
            "memory__a__payload": [("write", 0, 1), ("address", 1, 32), ("beats", 33, 8)],
            "memory__w__payload": [("data", 0, 32), ("mask", 32, 4)],
        },
    }
    if config not in known:
        pytest.skip("this configuration has no port of several fields")
    port = {p["name"]: p for p in json.loads(description.read_text())["ports"]}
    for name, fields in known[config].items():
        assert [(f["name"], f["bit"], f["width"]) for f in port[name]["fields"]] == fields


def test_files_that_do_not_change_are_left_alone(generated):
    config, verilog, *others = generated
    before = [p.stat().st_mtime_ns for p in (verilog, *others)]
    write_verilog(config, verilog)
    assert [p.stat().st_mtime_ns for p in (verilog, *others)] == before


def test_a_prefix_changes_only_names():
    text = (
        "module \\npu.a (clk);\n  wire \\npu.a$1 ;\nendmodule\nmodule npu(clk);\n  \\npu.a  a (\n    .clk(clk)\n  );\n"
    )
    expected = (
        "module x_npu_a(clk);\n  wire \\npu.a$1 ;\nendmodule\nmodule x_npu(clk);\n  x_npu_a a (\n    .clk(clk)\n  );\n"
    )
    assert prefixed(text, "x_") == expected


def test_names_that_would_meet_are_refused():
    with pytest.raises(ValueError, match="same name"):
        prefixed("module \\a.b (clk);\nmodule a_b(clk);\n", "x_")


def modules(text: str, root: str) -> dict[str, list[str]]:
    """Words of each module whose name begins with `root`, by the rest of it; their order, and numbers that the
    generator gives, depend on what stands round the modules."""
    found = re.finditer(rf"^module {root}(\w*)\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    plain = {m[1]: re.sub(rf"\$[\d$]+|_\d+\b|{root}", "", m[0]) for m in found}
    return {name: sorted(re.findall(r"[\w'.]+", body)) for name, body in plain.items()}


def test_a_board_by_its_name_is_its_netlist(tmp_path):
    """Module by module, the link's timeout too: it follows from the board's clock, and is not the preset's."""
    file = tmp_path / "icebreaker.v"
    assert main(["verilog", "--config", "icebreaker", "-o", str(file)]) == 0
    about = json.loads(file.with_suffix(".json").read_text())
    assert about["link"]["timeout"] == 18_000_000 * 20 // 1000
    board = get_board("icebreaker")
    top = prefixed(to_verilog(BoardTop(board.config, board.clock_hz, board.baud), name="top"), "lepton_")
    shipped, built = modules(file.read_text(), "lepton_npu"), modules(top, "lepton_top_npu_npu")
    assert shipped.keys() == built.keys() and "_link" in shipped
    assert [name for name in shipped if shipped[name] != built[name]] == []


def test_contents_of_memories_are_written_as_amaranth_does():
    m = Module()
    for k, (width, init) in enumerate(((8, [1, 2, 200]), (3, []), (70, [0, (1 << 69) + 5]), (0, []))):
        m.submodules[f"memory{k}"] = memory = Memory(shape=width, depth=5, init=init)
        memory.read_port()
    expected = rtlil.convert(m, emit_src=False, ports=[])
    with _quick_memories():
        assert rtlil.convert(m, emit_src=False, ports=[]) == expected
    assert rtlil.convert(m, emit_src=False, ports=[]) == expected

"""Waveforms: off without a file, and what a file holds."""

import re
import shutil
import subprocess

import pytest

from lepton.rtl.spec.config import NpuConfig
from lepton.sw.device import verilated
from lepton.sw.device.verilated import BackendError, Model, build_library, waves_kind
from lepton.sw.graph.model import ModelError
from lepton.sw.session import Session

ECHO = """
module npu(input clk, input rst, input i__valid, input [7:0] i__payload, output i__ready,
           output reg o__valid, output reg [7:0] o__payload, input o__ready);
  assign i__ready = !o__valid;
  always @(posedge clk)
    if (rst) o__valid <= 0;
    else if (i__valid & i__ready) begin o__valid <= 1; o__payload <= i__payload + 8'd1; end
    else if (o__ready) o__valid <= 0;
endmodule
"""
"""A top module that answers each byte with the next one."""


def test_a_file_holds_what_followed_record(tmp_path):
    path = tmp_path / "echo.vcd"
    model = Model(build_library(ECHO, "echo", "vcd"))
    assert model.step(bytes([9]), cap=1, want=1)[1] == bytes([10])
    model.record(path)
    start = model.cycles
    assert model.step(bytes([20, 40]), cap=2, want=2)[1] == bytes([21, 41])
    cycles = model.cycles - start
    with pytest.raises(BackendError, match="cannot be written"):
        model.record(tmp_path / "again.vcd")
    model.close()
    text = path.read_text()
    (code,) = {c for c in re.findall(r"\$var \w+ +8 (\S+) o__payload", text)}
    values = [int(v, 2) for v in re.findall(rf"^b([01]+) {re.escape(code)}$", text, re.M)]
    assert values == [10, 21, 41]  # of the byte before, the register still holds the answer
    (clock,) = {c for c in re.findall(r"\$var \w+ +1 (\S+) clk", text)}
    rises = [int(part.split()[0]) for part in re.split(r"^#", text, flags=re.M)[1:] if f"1{clock}" in part.split()]
    assert len(rises) == cycles and {b - a for a, b in zip(rises, rises[1:])} == {10_000}
    assert "$timescale 1ps" in text


def test_fst(tmp_path):
    compiler = shutil.which("g++")
    probe = "#include <lz4.h>\n#include <zlib.h>\n"
    if subprocess.run([compiler, "-x", "c++", "-E", "-"], input=probe, text=True, capture_output=True).returncode:
        with pytest.raises(BackendError, match="apt install liblz4-dev"):
            build_library(ECHO, "echo", "fst")
        pytest.skip("no headers of lz4 and zlib: .fst files cannot be written here")
    model = Model(build_library(ECHO, "echo", "fst"))
    model.record(tmp_path / "echo.fst")
    model.step(bytes([1, 2, 3]), cap=3, want=3)
    model.close()
    data = (tmp_path / "echo.fst").read_bytes()
    assert data[:9] == b"\0" + (329).to_bytes(8, "big")  # an FST header block and its length


def test_without_a_file_there_is_no_trace_in_the_library(tmp_path):
    library = build_library(ECHO, "echo")
    assert b"VerilatedVcd" not in library.read_bytes() and b"VerilatedFst" not in library.read_bytes()
    with pytest.raises(BackendError, match="cannot be written"):
        Model(library).record(tmp_path / "x.vcd")
    assert not (tmp_path / "x.vcd").exists()


def test_names():
    assert waves_kind("a/b.FST") == "fst" and waves_kind("b.vcd") == "vcd"
    with pytest.raises(BackendError, match="x.png: .*such an ending"):
        waves_kind("x.png")


def test_a_session_records_its_inferences_only(tmp_path, monkeypatch):
    asked = []

    class Transport:
        def __init__(self, config, library=None, waves=None):
            asked.append(waves)

        def record(self):
            asked.append("record")

    monkeypatch.setattr(verilated, "SimTransport", Transport)
    monkeypatch.setattr(verilated.Device, "load", lambda self, images: asked.append("load"))
    device = verilated.open_device(NpuConfig("x"), waves=tmp_path / "w.fst")
    device.load([])
    assert asked == [tmp_path / "w.fst", "load", "record"]


def test_other_backends_have_none(tmp_path):
    digits = verilated.HARNESS.parents[1] / "models" / "digits.tflite"
    with pytest.raises(ModelError, match="only the rtl backend"):
        Session(digits, backend="iss", waves=tmp_path / "w.fst")

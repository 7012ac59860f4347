"""The coverage report: Verilator's points by component and text, reasons for what is left, verdicts."""

import pytest

from lepton.verif.coverage import code as coverage
from lepton.verif.coverage.code import Point

# Two instances of one component, as the generator writes them.
VERILOG = """module \\top.unit_0 (clk, rst);
  always @* begin
    if (\\$auto$verilog_backend.cc:2445:dump_module$1 ) begin end
    \\$5  = \\$2 [1:0];
    if (rst) begin
      \\$5  = 2'h0;
    end
  end
endmodule
module \\top.unit_1 (clk, rst);
  always @* begin
    if (\\$auto$verilog_backend.cc:2445:dump_module$2 ) begin end
    \\$7  = \\$3 [1:0];
    if (rst) begin
      \\$7  = 3'h1;
    end
  end
endmodule
"""


def point(kind, module, line, what, count, lines=""):
    keys = {"f": "v", "l": line, "n": 1, "t": kind, "page": f"v_{kind}/{module}", "o": what, "S": lines, "h": "TOP"}
    return "C '" + "".join(f"\1{k}\2{v}" for k, v in keys.items() if v != "") + f"' {count}\n"


def unit(n, at, taken):
    name = f"top__02Eunit_{n}"
    return (
        point("line", name, at + 1, "block", 9, f"{at + 1},{at + 3}")
        + point("branch", name, at + 2, "if", 0, f"{at + 2}")
        + point("branch", name, at + 4, "if", taken, f"{at + 4}-{at + 5}")
        + point("branch", name, at + 4, "else", 5)
        + point("toggle", name, 1, f"i___05Fvalid[{n}]:0->1", taken)
        + point("toggle", name, 1, "tail_rst:1->0", 1)
        + point("toggle", name, 1, "__0245[0]:0->1", 0)
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "lepton_bench.v").write_text(VERILOG)
    (tmp_path / "a" / "x.dat").write_text("# SystemC::Coverage-3\n" + unit(0, 1, 0) + unit(1, 10, 4))
    monkeypatch.setattr(coverage, "FOLDER", tmp_path)
    monkeypatch.setattr(coverage, "REASONS", tmp_path / "reasons.yaml")
    (tmp_path / "reasons.yaml").write_text("")
    return tmp_path


def test_points_of_all_instances_are_one(folder):
    found = coverage.points([folder / "a" / "x.dat"], coverage.Source(folder / "a" / "lepton_bench.v"))
    assert found == {
        Point("unit", "line", "always @* begin #1"): 18,
        Point("unit", "line", "$  = $ [1:0]; #1"): 18,
        Point("unit", "line", "if (rst) begin #1"): 4,
        Point("unit", "line", "$  = '0; #1"): 0,
        Point("unit", "line", "$  = '1; #1"): 4,
        Point("unit", "branch", "if (rst) begin #1 if"): 4,
        Point("unit", "branch", "if (rst) begin #1 else"): 10,
        Point("unit", "toggle", "i__valid[0]:0->1"): 0,
        Point("unit", "toggle", "i__valid[1]:0->1"): 4,
        Point("unit", "toggle", "rst:1->0"): 2,
    }


def test_report_and_reasons(folder):
    r = coverage.report()
    assert r["components"] == {"unit": {"line": [4, 5], "branch": [2, 2], "toggle": [2, 3]}}
    assert r["percent"] == {"line": 80.0, "branch": 100.0, "toggle": 66.67}
    assert [(p["kind"], p["reason"]) for p in r["left"]] == [("line", None), ("toggle", None)]
    assert not coverage.good(r) and "2 without a reason" in coverage.summary(r)
    (folder / "reasons.yaml").write_text(
        "- {component: unit, kind: line, what: '= .0;', reason: so}\n"
        "- {component: unit, kind: toggle, what: '^i__valid', reason: so, too}\n"
        "- {component: unit, kind: branch, what: 'if', reason: old}\n"
    )
    r = coverage.report()
    assert [p["reason"] for p in r["left"]] == ["so", "so"] and r["idle_reasons"] == ["if"]


def test_what_has_no_line_of_its_own_is_not_counted(folder):
    """Wires between units: their bits are the units'."""
    wires = point("toggle", "top__02Ewires", 1, "i___05Fvalid[9]:0->1", 0)
    (folder / "a" / "x.dat").write_text("# SystemC::Coverage-3\n" + unit(0, 1, 0) + wires)
    assert list(coverage.report()["components"]) == ["unit"]


def test_verdict(monkeypatch):
    r = {
        "percent": dict(coverage.TARGETS),
        "left": [{"reason": "so"}],
        "functional": {"a": {"bins": 2, "missing": []}},
    }
    assert coverage.good(r)
    for wrong in (
        {"percent": coverage.TARGETS | {"line": 97.9}},
        {"left": [{"reason": None}]},
        {"functional": {"a": {"bins": 2, "missing": ["b"]}}},
    ):
        assert not coverage.good(r | wrong)


@pytest.mark.parametrize(
    "module, name",
    [
        ("lepton_bench.npu.fetch.queue_load", "skid"),
        ("lepton_bench.npu.multiply.loader.queue", "skid"),
        ("lepton_bench.deep_array.pe_0_11", "pe"),
        ("lepton_bench.deep_array", "array"),
        ("lepton_bench.store", "weight_store"),
        ("lepton_bench.quantizers.requantizer_7", "requantizer"),
        ("lepton_bench.npu.link", "link"),
        ("lepton_bench.npu.link.crc$63", None),
        ("lepton_bench.controller", None),
        ("lepton_bench", None),
    ],
)
def test_component_of_a_module(module, name):
    assert coverage.component(module) == name

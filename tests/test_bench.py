"""`lepton bench` and `lepton profile`: layers sum to the total, hardware equals prediction, pages are whole."""

import json

import numpy as np
import pytest

from lepton.rtl.spec.config import PRESETS, get_config
from lepton.sw.commands import bench as bench_command
from lepton.sw.compiler import compile_model
from lepton.sw.errors import UserError
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.report import bench

LAYER_KEYS = {"index", "op", "macs", "cycles", "predicted_cycles", "utilization", "causes"}
KEYS = {"model", "config", "rows", "cols", "macs", "cycles", "predicted_cycles", "utilization", "causes"}
KEYS |= {"host_bytes_in", "host_bytes_out", "layers"}


class Args:
    """What argparse would give."""

    def __init__(self, model=None, **values):
        self.model, self.config, self.json, self.backend, self.all = model, "small", False, "iss", False
        self.output, self.memory = "docs/performance.md", None
        self.__dict__.update(values)


def check_sums(report):
    assert report.keys() >= KEYS
    assert set(report["causes"]) == set(bench.CAUSES)
    assert sum(report["causes"].values()) == report["cycles"]
    for key in ("cycles", "predicted_cycles", "macs"):
        assert sum(row[key] for row in report["layers"]) == report[key]
    for row in report["layers"]:
        assert row.keys() >= LAYER_KEYS
        assert sum(row["causes"].values()) == row["cycles"]
        assert min(row["causes"].values()) >= 0
    for name in bench.CAUSES:
        assert sum(row["causes"][name] for row in report["layers"]) == report["causes"][name]
    want = report["macs"] / (report["rows"] * report["cols"] * report["cycles"])
    assert report["utilization"] == pytest.approx(want)


@pytest.mark.parametrize("config", PRESETS)
@pytest.mark.parametrize("name", ["models/ad01_int8", "zoo/mbv2_block", "zoo/sigmoid_tanh", "zoo/resnet_block"])
def test_sums_of_the_prediction(shared, name, config):
    check_sums(bench.bench(shared / f"{name}.tflite", config, "iss"))


@pytest.mark.parametrize("name", ["models/kws_ref_model", "zoo/mbv2_block", "zoo/conv3x3_c16", "zoo/dw3x3_s2_c24"])
def test_hardware_equals_the_prediction_layer_by_layer(shared, name):
    report = bench.bench(shared / f"{name}.tflite", "small", "rtl")
    check_sums(report)
    for row in report["layers"]:
        assert (row["cycles"], row["causes"]) == (row["predicted_cycles"], row["predicted_causes"]), row["op"]


def test_layers_are_those_of_check(shared):
    from lepton.sw.report.check import layer_cycles

    program = compile_model(load_model(shared / "models" / "vww_96_int8.tflite"), get_config("large"))
    got = [count.cycles for count in bench.predicted_layers(program)]
    want = layer_cycles(program)
    assert got == want


def test_bytes_over_the_link(shared):
    report = bench.bench(shared / "zoo" / "fc_100_37.tflite", "small", "iss")
    assert (report["host_bytes_in"], report["host_bytes_out"]) == (100, 37)


def test_bound_of_a_dense_layer(shared):
    report = bench.bench(shared / "zoo" / "fc_100_37.tflite", "small", "iss")
    assert report["layers"][0]["bound"] == 13 * 5


def test_a_wrong_output_is_refused(shared, monkeypatch):
    monkeypatch.setattr(bench.golden, "run", lambda model, x: np.zeros((1, 37), np.int8) + 99)
    with pytest.raises(ModelError, match="differs"):
        bench.bench(shared / "zoo" / "fc_100_37.tflite", "small", "iss")


def test_json_and_table(shared, capsys):
    path = str(shared / "zoo" / "fc_mlp.tflite")
    assert bench_command.command(Args(path, json=True)) == 0
    check_sums(json.loads(capsys.readouterr().out))
    assert bench_command.command(Args(path)) == 0
    out = capsys.readouterr().out
    assert "FULLY_CONNECTED" in out and "total" in out and "activations" in out


def test_page_of_all_models(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_SHARED", str(shared))
    path = tmp_path / "performance.md"
    reports = [bench.bench(p, c, "iss") for p in bench.shared_models() for c in ("small", "flagship")]
    path.write_text(bench.performance_page(reports, "make bench"), encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    for part in ("make bench", "**Lepton small** 8x8", "GAP9", "90 %: met", "54,000 cycles: met", "Syntiant"):
        assert part in text
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_wrong_use():
    with pytest.raises(UserError, match="give a MODEL"):
        bench_command.command(Args())
    with pytest.raises(UserError, match="--all"):
        bench_command.command(Args("x.tflite", all=True))


def test_shared_models_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("LEPTON_SHARED", str(tmp_path))
    with pytest.raises(ModelError, match="LEPTON_SHARED"):
        bench.shared_models()

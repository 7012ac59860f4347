"""`lepton check`: rows, sums, speed, and what it says of models that do not run."""

import json
import time

import numpy as np
import pytest

from lepton.rtl.spec.config import PRESETS, NpuConfig, get_config
from lepton.sw.commands import check as check_command
from lepton.sw.compiler import CompileError, compile_model
from lepton.sw.errors import UserError
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.cycles import predict
from lepton.sw.report import check
from lepton.verif.random.tflite_builder import build, one_operator

KEYS = {"index", "op", "where", "reason", "macs", "cycles", "weight_bytes", "activation_bytes"}


class Args:
    """What argparse would give."""

    def __init__(self, model, config="small", clock=50.0, as_json=False):
        self.model, self.config, self.clock, self.json = str(model), config, clock, as_json


def act(shape, scale=0.05, zero=3):
    return (shape, scale, zero, None, 0)


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
def test_every_shared_model_is_explained_quickly(shared, config):
    paths = sorted([*(shared / "models").glob("*.tflite"), *(shared / "zoo").glob("*.tflite")])
    assert len(paths) >= 27
    for path in paths:
        start = time.process_time()
        report = check.check_file(path, config)
        assert time.process_time() - start < 5, path
        assert report["supported"], path
        json.dumps(report)
        for i, row in enumerate(report["operators"]):
            assert row.keys() >= KEYS and row["index"] == i and row["where"] in ("npu", "host")
            assert row["where"] == "npu" or row["reason"]
            assert row["cycles"] >= 0
        assert sum(row["cycles"] for row in report["operators"]) == report["cycles"]
        assert 0 < report["memory_peak"] <= config.act_bytes
        assert report["seconds"] == pytest.approx(report["cycles"] / 50e6)


@pytest.mark.parametrize("name", ["kws_ref_model", "pretrainedResnet_quant"])
def test_a_layer_ends_where_the_program_cut_behind_it_sends_its_last_vector(shared, name):
    from lepton.rtl.spec import isa

    config = get_config("small")
    program = compile_model(load_model(shared / "models" / f"{name}.tflite"), config)
    cycles = check.layer_cycles(program)
    at = 0
    for layer, n in zip(program.layers[:-1], cycles):
        at += n
        cut = predict(config, program.words[: layer.end_word] + isa.encode(isa.END), program.tiles)
        assert cut.cycles - cut.causes["drain"] == at
    assert sum(cycles) == predict(config, program.words, program.tiles).cycles


def test_fused_operators_point_to_the_first(shared):
    report = check.check_file(shared / "zoo" / "resnet_block.tflite", get_config("small"))
    (add,) = [row for row in report["operators"] if row["op"] == "ADD"]
    main = report["operators"][add["fused_into"]]
    assert add["cycles"] == 0 and add["reason"] == f"fused into {main['index']}" and main["op"] == "CONV_2D"
    assert main["cycles"] > 0 and 0 < main["utilization"] <= 1


def test_table_names_everything(shared, capsys):
    assert check_command.command(Args(shared / "models" / "kws_ref_model.tflite")) == 0
    out = capsys.readouterr().out
    for text in (
        "DEPTHWISE_CONV_2D",
        "SOFTMAX",
        "host",
        "npu",
        "memory",
        "tiles",
        "ms at 50 MHz",
        "MACs",
        "runs     yes",
    ):
        assert text in out


def test_json_on_stdout(shared, capsys):
    assert check_command.command(Args(shared / "zoo" / "fc_mlp.tflite", clock=100, as_json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["supported"] and report["clock_mhz"] == 100 and report["cycles"] > 0


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(shared, capsys):
    config = NpuConfig("little", act_bytes=4096)
    report = check.check_file(shared / "models" / "vww_96_int8.tflite", config)
    assert not report["supported"] and "4,096" in report["reason"] and "fits" in report["reason"]
    assert all(row["cycles"] is None for row in report["operators"])
    check.show(report)
    assert "no:" in capsys.readouterr().out


def unknown_operator():
    tensors = [act((1, 4)), act((1, 4)), act((1, 4))]
    return build(tensors, [("RELU", [0], [1], None), ("FLOOR", [1], [2], None)], [0], [2])


def test_an_unknown_operator_gets_its_row_and_one_line(tmp_path, capsys):
    path = tmp_path / "floor.tflite"
    path.write_bytes(unknown_operator())
    with pytest.raises(ModelError, match=r"operator 1 \(FLOOR\)"):
        check_command.command(Args(path, as_json=True))
    report = json.loads(capsys.readouterr().out)
    assert not report["supported"]
    assert [row["where"] for row in report["operators"]] == ["host", "unsupported"]
    assert "not known" in report["operators"][1]["reason"]
    with pytest.raises(ModelError):
        check_command.command(Args(path))
    assert "FLOOR" in capsys.readouterr().out


def test_a_wrong_operator_says_what_is_wrong(tmp_path):
    path = tmp_path / "pool.tflite"
    options = dict(Padding=1, StrideH=2, StrideW=2, FilterHeight=2, FilterWidth=2)
    tensors = [act((1, 4, 4, 3)), act((1, 2, 2, 3), scale=0.1)]
    path.write_bytes(one_operator("MAX_POOL_2D", tensors, [0], [1], options, "Pool2DOptions"))
    (row,) = check.check_file(path, get_config("small"))["operators"]
    assert row["where"] == "unsupported" and row["reason"] == "input and output are quantised differently"


def test_damaged_files_end_in_one_error(tmp_path):
    good = unknown_operator()
    path = tmp_path / "damaged.tflite"
    rng = np.random.default_rng(5)
    refused = 0
    for i in range(200):
        data = bytearray(good)
        for at in rng.integers(0, len(data), 1 + i % 4):
            data[at] = rng.integers(256)
        path.write_bytes(bytes(data[: rng.integers(1, len(data))] if i % 3 == 0 else data))
        try:
            refused += not check.check_file(path, get_config("tiny"))["supported"]
        except (ModelError, CompileError) as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 150


def test_missing_file_and_bad_clock(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        check.check_file(tmp_path / "no.tflite", get_config("small"))
    with pytest.raises(UserError, match="--clock"):
        check_command.command(Args("x.tflite", clock=-1.0))

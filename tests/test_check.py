"""`lepton check`: rows, sums, speed, and what it says of models that do not run."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec.config import PRESETS, ConfigError, NpuConfig, get_config
from lepton.rtl.spec.timing import Memory
from lepton.sw.commands import check as check_command
from lepton.sw.compiler import CompileError, FitError, compile_model
from lepton.sw.compiler.plan import Limits
from lepton.sw.compiler.streaming import compile_streaming
from lepton.sw.errors import LeptonError, UserError
from lepton.sw.files import DIGITS
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.graph.writer import GraphSpec, OperatorSpec, TensorSpec
from lepton.sw.reference.cycles import predict
from lepton.sw.report import check
from lepton.sw.targets import all_targets, get_target
from lepton.verif.random.tflite_builder import build, one_operator

KEYS = {"index", "op", "where", "reason", "macs", "cycles", "weight_bytes", "activation_bytes"}


class Args:
    """What argparse would give."""

    def __init__(self, model, config="small", clock=None, as_json=False, node_data=None, every=False, min_memory=False):
        self.model, self.config, self.clock, self.json = str(model), config, clock, as_json
        self.node_data, self.all, self.memory, self.min_memory = node_data, every, None, min_memory


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
        "memories",
        "weight_tiles",
        "ms at 50 MHz",
        "MACs",
        "runs      yes",
    ):
        assert text in out


def test_json_on_stdout(shared, capsys):
    assert check_command.command(Args(shared / "zoo" / "fc_mlp.tflite", clock=100, as_json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["supported"] and report["clock_mhz"] == 100 and report["cycles"] > 0


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(shared, capsys):
    config = NpuConfig("little", act_bytes=4096)
    report = check.check_file(shared / "models" / "vww_96_int8.tflite", config)
    assert not report["supported"] and "4,096" in report["reason"] and "with act_bytes=65,536" in report["way_out"]
    assert all(row["cycles"] is None for row in report["operators"])
    check.show(report)
    assert "no:" in capsys.readouterr().out


def test_all_limits_at_once(shared):
    """Each field is the least with which it fits, and below any one of them it does not."""
    model = load_model(shared / "models" / "kws_ref_model.tflite")
    config = NpuConfig("little", act_bytes=4096, weight_tiles=64, params=32, program_words=64)
    report = check.check_model(model, config)
    needs = {limit["field"]: limit["need"] for limit in report["limits"]}
    assert [*needs] == ["act_bytes", "weight_tiles", "params", "program_words"]
    assert not any(limit["fits"] for limit in report["limits"])
    for field, need in needs.items():
        assert f"{field}={need:,}" in report["reason"]
    enough = replace(config, **(needs | {"act_bytes": 16384}))
    assert needs["act_bytes"] <= 16384
    good = check.check_model(model, enough)
    assert good["supported"] and all(limit["need"] <= needs[limit["field"]] for limit in good["limits"])
    for field in ("params", "program_words"):
        with pytest.raises(FitError, match=f"need {field}={needs[field]:,}, configuration"):
            compile_model(model, replace(enough, **{field: needs[field] - 1}))


def test_more_than_any_configuration_has():
    shape = (1, 700, 700, 4)
    model = load_model(build([act(shape), act(shape), act(shape)], [("ADD", [0, 1], [2], None)], [0, 1], [2]), name="m")
    report = check.check_model(model, get_config("small"))
    assert report["supported"] and report["groups"] and report["host"]["operators"] == 0
    report = check.check_model(model, NpuConfig())
    assert "act_bytes=5,880,000" in report["reason"]
    assert "no configuration is large enough (act_bytes=8388608" in report["way_out"]


def test_groups_say_what_is_copied(shared):
    """Of a network larger than the chip: all of its operators, cycles that sum, and at least the maps that pass."""
    model = load_model(shared / "models" / "kws_ref_model.tflite")
    config = replace(get_config("small"), act_bytes=8192)
    report = check.check_model(model, config)
    groups = report["groups"]
    assert sum(group["cycles"] for group in groups) == report["cycles"]
    there = {i for group in groups for i in group["operators"]}
    assert there == {row["index"] for row in report["operators"] if row["where"] == "npu" and row["macs"]} | there
    assert all(0 < group["peak_bytes"] <= 8192 for group in groups)
    assert sum(group["traffic_bytes"] for group in groups) >= 2 * 25 * 5 * 64
    slower = check.check_model(model, replace(config, memory_width=1), memory=Memory(latency=300))
    assert slower["cycles"] > report["cycles"] and slower["groups"][0]["bound"] != "array"


def test_the_least_memory(shared, capsys):
    """With that many bytes it compiles, with half of them it does not."""
    path, config = shared / "models" / "kws_ref_model.tflite", get_config("small")
    assert check_command.command(Args(path, as_json=True, min_memory=True)) == 0
    least = json.loads(capsys.readouterr().out)["min_memory"]
    assert 1024 < least < 16000
    for room, good in ((least, True), (least // 2, False)):
        host: dict[int, str] = {}
        program = compile_streaming(load_model(path), config, host, Limits(room, 1))
        assert program.span_bytes <= room
        assert (not host) == good


def test_every_machine_by_name(capsys):
    assert check_command.command(Args(DIGITS, config="tang-nano-20k")) == 0
    assert "ms at 54 MHz" in capsys.readouterr().out
    assert check_command.command(Args(DIGITS, config="tang-nano-20k", clock=108.0, as_json=True)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seconds"] == pytest.approx(report["cycles"] / 108e6)
    with pytest.raises(ConfigError, match="known: tiny, .*icebreaker, .*ulx3s-85f$"):
        get_target("nexys")


def test_a_machine_of_a_package_that_is_missing(monkeypatch):
    class Point:
        name = "boards"

        def load(self):
            raise ImportError("pip install 'lepton-npu[fpga]'")

    monkeypatch.setattr("lepton.sw.targets.entry_points", lambda group: [Point()])
    assert get_target("tiny").config == PRESETS["tiny"] and len(all_targets()) == len(PRESETS)
    with pytest.raises(ConfigError, match=r"lepton-npu\[fpga\]"):
        get_target("ulx3s-85f")


def test_the_table_of_all(capsys):
    assert check_command.command(Args(DIGITS, every=True, as_json=True)) == 0
    reports = {report["config"]: report for report in json.loads(capsys.readouterr().out)}
    assert {*PRESETS, "ulx3s-25f", "icebreaker"} <= reports.keys()
    assert reports["small"]["cycles"] == check.check_file(DIGITS, PRESETS["small"])["cycles"]
    assert reports["ulx3s-85f"]["seconds"] == pytest.approx(reports["ulx3s-85f"]["cycles"] / 70e6)
    assert check_command.command(Args(DIGITS, every=True)) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert f"{reports['large']['cycles']:,}" in lines["large"] and " 54 " in lines["tang-nano-20k"]
    with pytest.raises(UserError, match="--all out"):
        check_command.command(Args(DIGITS, every=True, node_data="x.json"))


def test_what_the_host_does_is_apart():
    host = check.check_file(DIGITS, PRESETS["small"])["host"]
    assert host == {"operators": 1, "between": 0, "names": {"SOFTMAX": 1}, "macs": 0}
    shape = (1, 4, 4, 8)
    tensors = [act(shape), act(shape), (shape, 1 / 256, -128, None, 0), act(shape)]
    steps = [
        ("ADD", [0, 0], [1], None),
        ("SOFTMAX", [1], [2], ("SoftmaxOptions", {"Beta": 1.0})),
        ("ADD", [2, 1], [3], None),
    ]
    report = check.check_model(load_model(build(tensors, steps, [0], [3]), name="m"), PRESETS["small"])
    assert report["host"]["between"] == 1 and "1 of them between" in check._host_text(report)


@pytest.mark.parametrize("config, model", [("nexys", DIGITS), ("small", "nix.tflite"), ("small", __file__)])
def test_json_of_every_refusal(capsys, config, model):
    with pytest.raises((LeptonError, OSError)) as error:
        check_command.command(Args(model, config=config, as_json=True))
    report = json.loads(capsys.readouterr().out)
    assert report["supported"] is False and report["reason"] == str(error.value)
    assert report.keys() == check.check_file(DIGITS, PRESETS["tiny"]).keys()


def test_only_what_is_unknown_is_refused():
    """Beside an operator that nobody knows: state, another graph, a shape that is computed from constants."""
    handle, number = TensorSpec("h", (), "resource"), TensorSpec("n", (2,), "int32")
    whole = TensorSpec("c", (), "int32", data=np.array(12, np.int32))
    tensors = [act((1, 3, 4)), handle, act((1, 3, 4)), act((1, 12)), whole, number, act((12, 12)), act((12, 12))]
    name = ("VarHandleOptions", {"SharedName": "a", "Container": ""})
    operators = [
        ("CALL_ONCE", [], [], ("CallOnceOptions", {"InitSubgraphIndex": 1})),
        ("VAR_HANDLE", [], [1], name),
        ("READ_VARIABLE", [1], [2], None),
        ("RESHAPE", [2], [3], ("ReshapeOptions", {"NewShape": [1, 12]})),
        ("ASSIGN_VARIABLE", [1, 0], [], None),
        ("PACK", [4, 4], [5], ("PackOptions", {"ValuesCount": 2, "Axis": 0})),
        ("BROADCAST_TO", [3, 5], [6], None),
        ("RFFT2D", [6], [7], None),
    ]
    start = GraphSpec([handle], [OperatorSpec("VAR_HANDLE", [], [0], *name)], [], [])
    data = build(tensors, operators, [0], [7], [start])
    with pytest.raises(ModelError) as error:
        load_model(data)
    report = check.explain_refusal(data, error.value, "model", PRESETS["small"], 100)
    refused = {row["op"]: row["reason"] for row in report["operators"] if row["where"] == "unsupported"}
    assert refused == {"RFFT2D": "the operator is not known"}, refused


def test_a_float_model_is_told_how_to_quantize(tmp_path, capsys):
    path = tmp_path / "float.tflite"
    weights = np.ones((5, 20), np.float32)
    tensors = [act((1, 20)), TensorSpec("w", (5, 20), "float32", data=weights), act((1, 5))]
    path.write_bytes(build(tensors, [("FULLY_CONNECTED", [0, 1], [2], ("FullyConnectedOptions", {}))], [0], [2]))
    with pytest.raises(ModelError, match=r"operator 0 .*tensor 1 .* float32, .*; quantize it to int8 .*representative"):
        check_command.command(Args(path))
    assert "way out" in capsys.readouterr().out


def test_node_data(tmp_path, capsys):
    """One entry an operator, by its index; places in words, cycles that sum to the total."""
    path = tmp_path / "digits.json"
    assert check_command.command(Args(DIGITS, node_data=str(path))) == 0
    assert f"{path}\n{tmp_path / 'digits.place.json'}\n" in capsys.readouterr().out
    cycles, places = (json.loads(p.read_text()) for p in (path, tmp_path / "digits.place.json"))
    report = check.check_file(DIGITS, PRESETS["small"])
    assert sum(value["value"] for value in cycles["results"].values()) == report["cycles"]
    assert [cycles["gradient"][n]["stop"] for n in (0, 1)] == [0, 1]
    found = {index: value["value"] for index, value in places["results"].items()}
    assert found == {"0": "array", "1": "array", "2": "fused", "3": "no work", "4": "array", "5": "host"}
    assert [index for index, value in cycles["results"].items() if "bgColor" in value] == ["5"]


def unknown_operator():
    tensors = [act((1, 4)), act((1, 4)), act((1, 4))]
    return build(tensors, [("RELU", [0], [1], None), ("UNIQUE", [1], [2], None)], [0], [2])


def test_an_unknown_operator_gets_its_row_and_one_line(tmp_path, capsys):
    path = tmp_path / "unique.tflite"
    path.write_bytes(unknown_operator())
    with pytest.raises(ModelError, match=r"operator 1 \(UNIQUE\)"):
        check_command.command(Args(path, as_json=True))
    report = json.loads(capsys.readouterr().out)
    assert not report["supported"]
    assert [row["where"] for row in report["operators"]] == ["host", "unsupported"]
    assert "not known" in report["operators"][1]["reason"]
    with pytest.raises(ModelError):
        check_command.command(Args(path))
    assert "UNIQUE" in capsys.readouterr().out


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

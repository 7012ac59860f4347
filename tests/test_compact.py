"""Compact configurations: TFLM's bytes and the cycle model's cycles on the RTL, and what the compiler refuses."""

from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec.config import UP5K, ConfigError, NpuConfig
from lepton.sw.compiler import CompileError, HostStep, NpuStep, compile_model
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.cycles import predict
from lepton.sw.session import Session


def check(path):
    data = np.load(path.with_suffix(".npz"))
    session = Session(path, UP5K, "rtl")
    assert np.array_equal(session.run(data["input"][:1]), data["output"][:1])
    program = session.program
    timings = [
        predict(UP5K, program.words, program.tiles, step.pc, params=program.params)
        for step in program.steps
        if isinstance(step, NpuStep)
    ]
    assert session.report["cycles"] == sum(timing.cycles for timing in timings)
    return session


def test_kws(shared):
    session = check(shared / "models" / "kws_ref_model.tflite")
    assert [type(step) for step in session.program.steps] == [NpuStep, HostStep]  # softmax


@pytest.mark.parametrize("name", ["conv3x3_c16", "dw3x3_c16", "fc_100_37", "maxpool2", "avgpool3", "gap_fc"])
def test_zoo(shared, name):
    check(shared / "zoo" / f"{name}.tflite")


@pytest.mark.parametrize("name", ["add_c12", "mul_gate", "sigmoid_tanh", "resnet_block"])
def test_operators_without_hardware_run_on_the_host(shared, name):
    session = check(shared / "zoo" / f"{name}.tflite")
    assert any(isinstance(step, HostStep) for step in session.program.steps)


def test_what_reads_odd_addresses_runs_on_the_host(shared):
    program = compile_model(load_model(shared / "zoo" / "conv5x5_valid_c5.tflite"), UP5K)
    assert program.steps == [HostStep(0)] and "odd and even addresses" in program.why_host[0]


def test_what_does_not_fit_is_refused(shared):
    with pytest.raises(CompileError, match="weight_tiles"):
        compile_model(load_model(shared / "models" / "ad01_int8.tflite"), replace(UP5K, act_bytes=65536))


@pytest.mark.parametrize(
    "field,value", [("lanes", 4), ("rows", 8), ("pe", "paired"), ("ring_tiles", 4), ("act_align", 1), ("cols", 2)]
)
def test_configurations_that_cannot_be_built(field, value):
    with pytest.raises(ConfigError):
        replace(UP5K, **{field: value})
    with pytest.raises(ConfigError):
        NpuConfig(act_align=2)

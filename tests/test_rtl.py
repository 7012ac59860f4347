"""Whole networks on the RTL: TFLM's bytes, and the cycles and causes that the model predicts."""

import importlib.resources

import numpy as np
import pytest
from test_end_to_end import MODELS, ODD, ZOO

from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause
from lepton.sw.compiler import NpuStep
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.sw.session import Session
from lepton.verif.random.tflite_builder import build


def predicted(session):
    """(cycles, causes) of one inference by the cycle model."""
    program = session.program
    cycles, causes = 0, dict.fromkeys((c.name.lower() for c in Cause), 0)
    for step in program.steps:
        if isinstance(step, NpuStep):
            timing = program.predict(step.pc)
            cycles += timing.cycles
            for name, count in timing.causes.items():
                causes[name] += count
    return cycles, causes


def check(path, config, count):
    data = np.load(path.with_suffix(".npz"))
    session = Session(path, config, "rtl")
    assert np.array_equal(session.run(data["input"][:count]), data["output"][:count])
    assert session.report["same_cycles"]
    assert sum(session.report["causes"].values()) == session.report["cycles"]
    return session


@pytest.mark.parametrize("name", ZOO)
def test_zoo(shared, name):
    session = check(shared / "zoo" / f"{name}.tflite", "small", 2)
    assert (session.report["cycles"], session.report["causes"]) == predicted(session)


@pytest.mark.parametrize("config", ["small", "large"])
@pytest.mark.parametrize("name", MODELS)
def test_models(shared, name, config):
    session = check(shared / "models" / f"{name}.tflite", config, 1)
    assert (session.report["cycles"], session.report["causes"]) == predicted(session)


@pytest.mark.parametrize(
    "config", [c if c.rows < 18 else pytest.param(c, marks=pytest.mark.slow) for c in ODD], ids=lambda c: c.name
)
def test_odd_shapes(shared, config):
    for name in ("resnet_block", "dw5x5_c9", "mbv2_block", "mul_gate"):
        session = check(shared / "zoo" / f"{name}.tflite", config, 1)
        assert (session.report["cycles"], session.report["causes"]) == predicted(session)


@pytest.mark.parametrize("name", MODELS)
def test_paired(shared, name):
    session = check(shared / "models" / f"{name}.tflite", "flagship", 1)
    assert (session.report["cycles"], session.report["causes"]) == predicted(session)


def test_multiplier_style(shared):
    """The array is longer by the multiplier's registers; bytes stay, cycles follow the model."""
    config = NpuConfig("ecp5", rows=8, cols=4, lanes=2, pe="paired", act_bytes=16384, multiplier="ecp5")
    for name in ("resnet_block", "dw5x5_c9"):
        session = check(shared / "zoo" / f"{name}.tflite", config, 1)
        assert (session.report["cycles"], session.report["causes"]) == predicted(session)


def test_external_weights(shared):
    session = check(shared / "zoo" / "seed_mnist_cnn.tflite", "small", 1)
    cycles, _ = predicted(session)
    assert 0.9 * cycles < session.report["cycles"] <= cycles


@pytest.mark.parametrize("config", ["tiny", "small", "large"])
def test_digits(config):
    folder = importlib.resources.files("lepton.sw") / "models"
    data = np.load(folder / "digits.npz")
    session = Session(folder / "digits.tflite", config, "rtl")
    assert np.array_equal(session.run(data["x"][:100]), data["tflm"][:100])


def test_zero_tiles_cost_nothing():
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 128, (64, 1, 1, 64)).astype(np.int8)
    sparse = weights.copy()
    for i in range(8):  # two of the eight tiles of each group of 8 output channels stay
        for j in range(8):
            if (i + j) % 4:
                sparse[8 * i : 8 * i + 8, :, :, 8 * j : 8 * j + 8] = 0
    x = rng.integers(-128, 128, (1, 12, 12, 64)).astype(np.int8)
    options = ("Conv2DOptions", {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1})
    cycles = []
    for data in (weights, sparse):
        tensors = [
            ((1, 12, 12, 64), 0.1, 3, None, 0),
            ((64, 1, 1, 64), np.full(64, 0.01), 0, data, 0),
            ((64,), np.full(64, 0.001), 0, np.arange(64, dtype=np.int32), 0),
            ((1, 12, 12, 64), 0.5, -4, None, 0),
        ]
        model = load_model(build(tensors, [("CONV_2D", [0, 1, 2], [3], options)], [0], [3]), name="sparse")
        session = Session(model, "small", "rtl")
        assert np.array_equal(session.run(x), golden.run(model, x))
        cycles.append(session.report["causes"]["multiply"])
    assert cycles[1] <= 0.35 * cycles[0]


def test_several_ends():
    """Two inputs and two outputs; what one test file expects of golden and ISS."""
    pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
    import test_ends

    data = test_ends.two_in_two_out()
    a, b = test_ends.random(2, 5, 4, 3), test_ends.random(2, 5, 4, 6)
    gate, total = test_ends.expected(data, a, b)
    found = Session(load_model(data), "small", "rtl").run([a, b])
    assert np.array_equal(found["gate"], gate[:, 0]) and np.array_equal(found["sum"], total[:, 0])


def test_state():
    """Variables go from row to row and from run to run, and start again."""
    pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
    import interpreter
    import test_state

    data, x = test_state.counter(), test_state.rows()
    (want,) = interpreter.outputs(data, x[:, None])
    session = Session(load_model(data), "small", "rtl")
    assert np.array_equal(session.run(x[:2]), want[:2, 0]) and np.array_equal(session.run(x[2:]), want[2:, 0])
    session.reset()
    assert np.array_equal(session.run(x), want[:, 0])

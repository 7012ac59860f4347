"""Whole networks on the RTL: TFLM's bytes, and the cycles and causes that the model predicts."""

import importlib.resources

import numpy as np
import pytest
from test_end_to_end import MODELS, ZOO

from lepton.rtl.isa import Cause
from lepton.sw.compiler import NpuStep
from lepton.sw.session import Session
from lepton.verif.cycles import predict


def predicted(session):
    """(cycles, causes) of one inference by the cycle model."""
    program = session.program
    cycles, causes = 0, dict.fromkeys((c.name.lower() for c in Cause), 0)
    for step in program.steps:
        if isinstance(step, NpuStep):
            timing = predict(session.config, program.words, program.tiles, step.pc, program.external)
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

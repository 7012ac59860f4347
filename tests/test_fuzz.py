"""The fuzzer: random graphs agree with TensorFlow Lite Micro, planted faults are found and shrink."""

import numpy as np
import pytest

from lepton.sw import compiler
from lepton.sw.compiler import network
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import arith
from lepton.verif.random import graphs as fuzz

pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite_micro is not installed")


@pytest.mark.parametrize("first", range(1000, 1060, 10))
def test_random_graphs_on_golden_and_iss(first):
    for seed in range(first, first + 10):
        fuzz.run_graph(seed)


def test_every_preset_and_odd_shape():
    for seed in (3, 14, 15):
        fuzz.run_graph(seed, fuzz.CONFIGS, ("iss",))


def test_the_same_seed_gives_the_same_bytes():
    assert fuzz.graph(5) == fuzz.graph(5) != fuzz.graph(6)
    data = fuzz.graph(5)
    assert fuzz.random_config(8, data) == fuzz.random_config(8, data)


def test_every_operator_is_generated():
    seen = {node.op for seed in range(150) for node in fuzz.random_graph(seed).nodes}
    assert seen == set(fuzz.OPERATORS)


def test_external_weights_and_host_steps_are_covered():
    external = mixed = 0
    for seed in range(60):
        data = fuzz.graph(seed)
        program = compiler.compile_model(load_model(data), fuzz.random_config(seed, data))
        external += bool(program.external)
        mixed += len({type(step) for step in program.steps}) == 2
    assert external >= 5 and mixed >= 5


def single_rounding(x, multiplier, shift, pre_shift=0):
    """A wrong `arith.requantize`: one rounding where TFLM rounds twice."""
    shift = np.asarray(shift, np.int64)
    v = arith.wrap32(np.asarray(x, np.int64) << (pre_shift + np.maximum(shift, 0)))
    right = 31 + np.maximum(-shift, 0)
    return (v * np.asarray(multiplier, np.int64) + (np.int64(1) << (right - 1))) >> right


def first_mismatch(backends, limit=200) -> fuzz.Mismatch:
    for seed in range(limit):
        try:
            fuzz.run_graph(seed, backends=backends)
        except fuzz.Mismatch as error:
            error.seed = seed
            return error
    pytest.fail(f"not found within {limit} graphs")


def test_a_single_rounding_is_found_and_shrinks(monkeypatch, tmp_path):
    monkeypatch.setattr(arith, "requantize", single_rounding)
    error = first_mismatch(("golden",))
    path, small, message = fuzz.keep(error.seed, None, ("golden",), error, tmp_path)
    assert len(small.nodes) <= 2 and "bytes differ from TFLM" in message
    assert path.read_bytes() == small.to_bytes()


def test_missing_synchronisation_is_found(monkeypatch):
    """Bytes would be right on the instruction-set simulator, whose engines take turns: the hazards tell."""
    monkeypatch.setattr(compiler.Compiler, "set_flag", lambda *args, **kwargs: None)
    assert "without waiting for its token" in str(first_mismatch(("iss",), 50))


def test_overlapping_tensors_are_found(monkeypatch):
    monkeypatch.setattr(network, "place_tensors", lambda sizes, lives, limit: dict.fromkeys(sizes, 0))
    first_mismatch(("iss",), 50)


def test_command_line(capsys, monkeypatch, tmp_path):
    assert fuzz.main(["--count", "3", "--seed", "7"]) == 0
    assert "seed 7: 3 graphs, 0 too large, 0 mismatches" in capsys.readouterr().out
    monkeypatch.setattr(arith, "requantize", single_rounding)
    monkeypatch.chdir(tmp_path)
    assert fuzz.main(["--count", "200", "--seed", "0", "--backend", "golden", "--max-failures", "1"]) == 1
    assert len(list((tmp_path / "build" / "fuzz").glob("seed*.tflite"))) == 1
    assert "kept in build/fuzz" in capsys.readouterr().out

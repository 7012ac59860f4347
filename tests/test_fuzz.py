"""The fuzzer: random graphs agree with TensorFlow Lite Micro, planted faults are found and shrink."""

import numpy as np
import pytest

from lepton.sw import compiler
from lepton.sw.compiler import network
from lepton.sw.compiler.bind import ENGINES, Binder
from lepton.sw.compiler.convolution import Convolution
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


@pytest.mark.parametrize("op", fuzz.OPERATORS)
def test_every_operator_is_generated(op):
    """Onto some random graph it can be put."""
    for seed in range(60):
        made = fuzz.random_graph(seed)
        rng = np.random.default_rng(seed)
        writer = fuzz._Writer(made)
        nodes = fuzz._random_nodes(rng, writer, op, len(made.nodes))
        nodes = [] if any("like" in n.attrs for n in nodes) else nodes
        if nodes and fuzz.valid(fuzz.replace(made, nodes=(*made.nodes, *nodes), outputs=())):
            return
    pytest.fail("never valid")


def test_wider_kinds_are_generated():
    """Several inputs and outputs, state, any rank and first dimension, wide and deep maps, strides with dilation."""
    found = dict.fromkeys(
        ("inputs", "outputs", "state", "batch", "rank", "wide", "deep", "both", "above", "n1", "ends"), 0
    )
    for seed in range(200):
        g = fuzz.random_graph(seed)
        spatial = [n.attrs for n in g.nodes if "kernel" in n.attrs]
        found["inputs"] += any(n.op == "INPUT" for n in g.nodes)
        found["outputs"] += bool(g.outputs)
        found["state"] += any(n.op in ("DELAY", "STREAM") for n in g.nodes)
        found["ends"] += g.ends != ("int8", "int8")
        found["batch"] += g.shape[0] > 1
        found["rank"] += len(g.shape) not in (2, 4)
        found["wide"] += len(g.shape) == 4 and g.shape[2] > 60
        found["deep"] += g.shape[-1] > 100 and len(g.shape) == 4
        found["both"] += any(max(a.get("dilation", (1,))) > 1 and max(a["stride"]) > 1 for a in spatial)
        found["above"] += any(a["stride"] > a["kernel"] for a in spatial)
        found["n1"] += any(n.attrs.get("activation") == 2 for n in g.nodes)
    assert min(found.values()) >= 2, found


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


def test_a_line_buffer_one_short_is_found(monkeypatch):
    """Rows of width + taps = line_depth + 1 take one entry more than there is."""
    right = Convolution._width_limit

    def wrong(self):
        config = self.e.config
        if self.streamed and self._stream_width(0, self.ow) + config.taps == config.line_depth + 1:
            return None
        return right(self)

    monkeypatch.setattr(Convolution, "_width_limit", wrong)
    first_mismatch(("iss",), 150)


def test_multipliers_of_float32_are_found(monkeypatch):
    """What TFLM's source says for sums of one scale, and its compiled kernels do not."""
    right = arith.quantize_multiplier
    monkeypatch.setattr(arith, "quantize_multiplier", lambda real: right(np.float32(real)))
    first_mismatch(("golden",), 300)


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


def test_graphs_through_a_small_chip():
    for seed in range(2000, 2020):
        fuzz.run_graph(seed, [fuzz.memory_config(seed)], ("iss",))


@pytest.mark.parametrize("who", ["load", "mul", "tail", "move"])
def test_a_missing_token_of_move_is_found(monkeypatch, who):
    """Nobody waits for it: some graph reads what is not there, or overwrites what is still wanted."""
    original = Binder._tokens

    def wrong(self, program):
        for i in (made := original(self, program)):
            for flag in ("wait_move", "wait_mul", "wait_tail"):
                if ENGINES.get(i.op.opcode.name) == who and i.fields.get(flag):
                    i.fields[flag] = 0
        return made

    monkeypatch.setattr(Binder, "_tokens", wrong)
    for seed in range(100):
        try:
            fuzz.run_graph(seed, [fuzz.memory_config(seed)], ("iss",))
        except fuzz.Mismatch as error:
            assert "token" in str(error) or "may still have to" in str(error)
            return
    pytest.fail("not found")


def test_a_value_a_row_passes_through_a_small_chip():
    """What is broadcast along the columns, but differs from row to row."""
    mean = fuzz.Node("MEAN", (0,), {"axes": (2, 3), "keep": True}, 0, (1.0, -51))
    made = fuzz.Graph((1, 13, 6, 7), (0.03, -60), (mean, fuzz.Node("MUL", (0, 1), {"activation": 0}, 0, (1.0, -128))))
    config = fuzz.replace(fuzz.memory_config(3152), act_bytes=1024, params=670)
    fuzz.check(made.to_bytes(), [config], ("iss",))

"""`lepton compare`: the first tensor that differs, not the last; equal backends are equal in every tensor."""

import argparse
from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec.config import get_config
from lepton.sw.commands import compare as command
from lepton.sw.compiler import compile_model
from lepton.sw.errors import UserError
from lepton.sw.files import DIGITS
from lepton.sw.graph.model import Model, ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.sw.reference.cycles import predict
from lepton.sw.report.compare import Difference, compare, tensors
from lepton.sw.session import Session
from lepton.verif.random.tflite_builder import build


def images(count):
    with np.load(DIGITS.with_suffix(".npz")) as data:
        return data["x"][:count]


def with_other_bias(model: Model, operator: int) -> Model:
    """The same network, but for the bias of an operator's first channel."""
    t = model.operators[operator].inputs[2]
    bias = model.tensors[t].data.copy()
    bias[0] += 3000
    changed = tuple(replace(x, data=bias) if x.index == t else x for x in model.tensors)
    return replace(model, tensors=changed)


def values(model, x):
    """Every tensor of the golden model."""
    out = {model.inputs[0]: x}
    for op in model.operators:
        feeds = {t: out[t] for t in op.inputs if t in out}
        out.update(zip(op.outputs, golden.run_operator(model, op, feeds)))
    return out


@pytest.mark.parametrize("operator", [0, 1, 4])
def test_the_first_tensor_that_differs(operator):
    model = load_model(DIGITS)
    other = with_other_bias(model, operator)
    x = images(3)
    results = list(compare(Session(other, "small", "iss"), Session(model, "small", "golden"), [x]))
    visible = {0: 0, 1: 2, 4: 4}[operator]  # the pooling behind operator 1 is fused: only its output is in memory
    t = model.operators[visible].outputs[0]
    for row, found in enumerate(results):
        want, got = values(model, x[row : row + 1])[t], values(other, x[row : row + 1])[t]
        assert isinstance(found, Difference) and (found.row, found.seen.tensor) == (row, t)
        index = np.argwhere(want != got)
        assert found.index == tuple(index[0]) and found.count == len(index)
        assert (found.expected, found.found) == (want[found.index], got[found.index])
        assert found.name == model.tensors[t].name


def test_the_cycles_are_those_of_the_layer():
    model = load_model(DIGITS)
    (found,) = compare(
        Session(with_other_bias(model, 1), "small", "iss"), Session(model, "small", "golden"), [images(1)]
    )
    program = compile_model(model, get_config("small"))
    total = predict(program.config, program.words, program.tiles).cycles
    first, last = found.seen.cycles
    assert 0 < first < last < total
    lines = found.lines("iss", "golden", "operator 1")
    assert f"expected {found.expected} (golden), found {found.found} (iss)" in lines[1]
    assert f"cycles {first:,} to {last:,}" in lines[2]


@pytest.mark.parametrize("name", ["resnet_block", "mbv2_block", "mul_gate", "concat"])
def test_equal_in_every_tensor(shared, name):
    path = shared / "zoo" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"no {name} here")
    found = Session(path, "small", "iss")
    x = np.random.default_rng(2).integers(-128, 128, (2, *found.input_shape[1:]), np.int8)
    results = list(compare(found, Session(path, "small", "golden"), [x]))
    assert results == [len(found.program.layers) + sum(hasattr(s, "operator") for s in found.program.steps)] * 2
    assert np.array_equal(found.run(x), Session(path, backend="golden").run(x))  # the program is whole again


def test_layers_on_the_host_between(tmp_path):
    shape = (1, 4, 4, 8)
    t = (shape, 0.05, 3, None, 0)
    steps = [
        ("ADD", [0, 0], [1], None),
        ("SOFTMAX", [1], [2], ("SoftmaxOptions", {"Beta": 1.0})),
        ("ADD", [2, 1], [3], None),
        ("MUL", [3, 0], [4], None),
    ]
    model = load_model(build([t, t, (shape, 1 / 256, -128, None, 0), t, t], steps, [0], [4]), name="m")
    session = Session(model, "small", "iss")
    x = np.random.default_rng(2).integers(-128, 128, shape, np.int8)
    seen = tensors(session, [x])
    assert [s.tensor for s in seen] == [1, 2, 3, 4] and seen[1].cycles is None
    want = values(model, x)
    assert all(np.array_equal(s.value, want[s.tensor]) for s in seen)


def arguments(*words):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["compare", *map(str, words)])


def test_command(tmp_path, capsys):
    args = arguments(DIGITS, "--backend", "iss", "--input", DIGITS.with_suffix(".npz"), "--count", 2)
    assert command.command(args) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"input {row}: iss and golden are equal in all 4 tensors" for row in range(2)
    ]
    with pytest.raises(UserError, match="both iss"):
        command.command(arguments(DIGITS, "--backend", "iss", "--against", "iss"))
    with pytest.raises(UserError, match="--count 0"):
        command.command(arguments(DIGITS, "--count", 0))


def test_a_difference_ends_with_1(monkeypatch, capsys):
    model = load_model(DIGITS)
    sessions = iter([Session(with_other_bias(model, 0), backend="iss"), Session(model, backend="golden")])
    monkeypatch.setattr(command, "open_session", lambda path, args: next(sessions))
    assert command.command(arguments("x", "--backend", "iss")) == 1
    out = capsys.readouterr().out
    assert out.startswith("first difference: tensor ") and "operator 0 (CONV_2D), input 0" in out


def test_other_networks():
    t = ((1, 4), 0.1, 0, None, 0)
    one = Session(load_model(build([t, t], [("RELU", [0], [1], None)], [0], [1]), name="one"), backend="golden")
    with pytest.raises(ModelError, match="other networks"):
        list(compare(one, Session(DIGITS, backend="golden"), [images(1)]))


def test_the_hardware():
    """On the RTL the cycles are the hardware's own, and those of the model."""
    x = images(1)
    results = list(compare(Session(DIGITS, "small", "rtl"), Session(DIGITS, backend="golden"), [x]))
    assert results == [4]
    counted, predicted = (tensors(Session(DIGITS, "small", b), [x]) for b in ("rtl", "iss"))
    assert [s.cycles for s in counted] == [s.cycles for s in predicted]

"""What a model keeps from one inference to the next, against TensorFlow Lite Micro."""

import numpy as np
import pytest

pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
import interpreter

from lepton.sw import cli
from lepton.sw.compiler import compile_model
from lepton.sw.device.link import LinkError
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.graph.writer import GraphSpec, OperatorSpec, TensorSpec, write_model
from lepton.sw.program_file import dump_program
from lepton.sw.reference import golden, state
from lepton.sw.session import Session

RNG = np.random.default_rng(11)
SHAPE = (1, 3, 4)


def act(name, scale=0.05, zero=5, data=None):
    return TensorSpec(name, SHAPE, "int8", [scale], [zero], data=data)


def handle(name):
    return TensorSpec(name, (), "resource")


def var(name, out):
    return OperatorSpec("VAR_HANDLE", [], [out], "VarHandleOptions", dict(Container="", SharedName=name))


def counter(once: bool = True) -> bytes:
    """y = x + a, then a = y, as wake words do. CALL_ONCE puts a first value into a, which is its zero point without."""
    tensors = [act("x"), handle("h"), act("a"), act("sum", 0.06), act("y", 0.05), handle("h2")]
    operators = [
        OperatorSpec("CALL_ONCE", [], [], "CallOnceOptions", dict(InitSubgraphIndex=1)),
        var("a", 1),
        OperatorSpec("READ_VARIABLE", [1], [2], "ReadVariableOptions"),
        OperatorSpec("ADD", [0, 2], [3], "AddOptions"),
        OperatorSpec("QUANTIZE", [3], [4], "QuantizeOptions"),
        var("a", 5),
        OperatorSpec("ASSIGN_VARIABLE", [5, 4], [], "AssignVariableOptions"),
    ]
    first = RNG.integers(-128, 128, SHAPE).astype(np.int8)
    start = GraphSpec(
        [handle("h"), act("first", data=first)], [var("a", 0), OperatorSpec("ASSIGN_VARIABLE", [0, 1], [])], [], []
    )
    return write_model(tensors, operators[0 if once else 1 :], [0], [4], others=[start] if once else [])


def rows(count=5):
    return RNG.integers(-60, 60, (count, *SHAPE[1:])).astype(np.int8)


@pytest.mark.parametrize("backend", ["golden", "iss"])
@pytest.mark.parametrize("once", [True, False])
def test_state_goes_from_row_to_row_and_run_to_run(backend, once):
    data, x = counter(once), rows()
    (want,) = interpreter.outputs(data, x[:, None])
    session = Session(load_model(data), backend=backend)
    assert np.array_equal(session.run(x[:2]), want[:2, 0])
    assert np.array_equal(session.run(x[2:]), want[2:, 0])
    session.reset()
    assert np.array_equal(session.run(x), want[:, 0])


@pytest.mark.parametrize("backend", ["golden", "iss"])
def test_reset_between_rows(tmp_path, backend):
    """--reset: each row as in an interpreter of its own."""
    data, x = counter(), rows(3)
    (tmp_path / "m.tflite").write_bytes(data)
    np.save(tmp_path / "x.npy", x)
    args = [
        "run",
        tmp_path / "m.tflite",
        "--input",
        tmp_path / "x.npy",
        "--output",
        tmp_path / "y.npy",
        "--backend",
        backend,
    ]
    want = np.concatenate([interpreter.outputs(data, row[None, None])[0][:, 0] for row in x])
    assert cli.main([*map(str, args), "--reset"]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), want)
    assert cli.main([*map(str, args)]) == 0
    assert not np.array_equal(np.load(tmp_path / "y.npy"), want)


def test_a_compiled_program_keeps_it(tmp_path):
    data, x = counter(), rows()
    path = tmp_path / "m.lepton"
    path.write_bytes(dump_program(compile_model(load_model(data), Session(load_model(data)).config), data))
    (want,) = interpreter.outputs(data, x[:, None])
    assert np.array_equal(Session(path, backend="iss").run(x), want[:, 0])


@pytest.mark.parametrize("backend", ["golden", "iss"])
def test_a_run_that_fails_leaves_the_state(backend, monkeypatch):
    """The link breaks in the third row, after the second has changed the state: the run has not happened."""
    data, x = counter(), rows()
    (want,) = interpreter.outputs(data, x[:, None])
    session = Session(load_model(data), backend=backend)
    assert np.array_equal(session.run(x[:1]), want[:1, 0])

    def breaks(done, total):
        if done == 2:
            raise LinkError("the cable")

    with pytest.raises(LinkError):
        session.run(x[1:], progress=breaks)
    assert np.array_equal(session.run(x[1:]), want[1:, 0])


def test_sessions_share_nothing():
    data, x = counter(), rows()
    model = load_model(data)
    first, second = Session(model, backend="golden"), Session(model, backend="golden")
    (want,) = interpreter.outputs(data, x[:, None])
    first.run(x[:3])
    assert np.array_equal(second.run(x), want[:, 0]) and np.array_equal(first.run(x[3:]), want[3:, 0])
    assert np.array_equal(golden.run(model, x), want[:, 0])


def test_what_is_kept_is_told(tmp_path, capsys):
    (tmp_path / "m.tflite").write_bytes(counter())
    assert cli.main(["info", str(tmp_path / "m.tflite")]) == 0
    assert "state     a: 12 bytes" in capsys.readouterr().out


def test_a_variable_that_nothing_assigns_is_refused():
    tensors = [act("x"), handle("h"), act("a"), act("y")]
    operators = [var("a", 1), OperatorSpec("READ_VARIABLE", [1], [2]), OperatorSpec("ADD", [0, 2], [3], "AddOptions")]
    with pytest.raises(ModelError, match="its variable is never assigned"):
        load_model(write_model(tensors, operators, [0], [3]))


def test_a_variable_of_two_sizes_is_refused():
    small = TensorSpec("s", (1, 2), "int8", [0.05], [5])
    tensors = [act("x"), handle("h"), act("a"), act("y"), small]
    operators = [
        var("a", 1),
        OperatorSpec("ASSIGN_VARIABLE", [1, 0], []),
        OperatorSpec("ASSIGN_VARIABLE", [1, 4], []),
        OperatorSpec("READ_VARIABLE", [1], [3]),
    ]
    with pytest.raises(ModelError, match="of 12 bytes is assigned 2"):
        load_model(write_model(tensors, operators, [0, 4], [3]))


def test_graphs_that_run_themselves_are_refused():
    again = OperatorSpec("CALL_ONCE", [], [], "CallOnceOptions", dict(InitSubgraphIndex=1))
    tensors = [act("x"), act("y", 0.06)]
    operators = [again, OperatorSpec("QUANTIZE", [0], [1])]
    for index, says in ((1, "run themselves"), (7, "subgraph 7 of 2")):
        again.options["InitSubgraphIndex"] = index
        with pytest.raises(ModelError, match=says):
            load_model(write_model(tensors, operators, [0], [1], others=[GraphSpec([], [again], [], [])]))


def twice(k: int) -> GraphSpec:
    """A graph that runs graph k two times."""
    tensors = [TensorSpec("which", (1,), "bool"), act("a"), act("b"), act("c")]
    options = dict(ThenSubgraphIndex=k, ElseSubgraphIndex=k)
    operators = [OperatorSpec("IF", [0, 0, i], [i + 1], "IfOptions", options) for i in (1, 2)]
    return GraphSpec(tensors, operators, [0, 1], [3])


def forever() -> bytes:
    """A WHILE whose condition is a constant."""
    always = GraphSpec([act("a"), TensorSpec("c", (1,), "bool", data=np.array([True]))], [], [0], [1])
    body = GraphSpec([act("a"), act("b")], [OperatorSpec("ADD", [0, 0], [1], "AddOptions")], [0], [1])
    options = dict(CondSubgraphIndex=1, BodySubgraphIndex=2)
    return write_model(
        [act("x"), act("y")],
        [OperatorSpec("WHILE", [0], [1], "WhileOptions", options)],
        [0],
        [1],
        others=[always, body],
    )


def doubling() -> bytes:
    """40 graphs that each run the next two times."""
    add = OperatorSpec("ADD", [1, 1], [2], "AddOptions")
    leaf = GraphSpec([TensorSpec("which", (1,), "bool"), act("a"), act("b")], [add], [0, 1], [2])
    first = twice(1)
    others = [*(twice(k + 2) for k in range(40)), leaf]
    return write_model(first.tensors, first.operators, first.inputs, first.outputs, others=others)


@pytest.mark.parametrize("made", [forever, doubling])
def test_graphs_that_run_others_for_ever(made, monkeypatch):
    monkeypatch.setattr(state, "MAX_RUNS", 200)
    session = Session(load_model(made()), backend="golden")
    x = rows(1) if made is forever else [np.ones(1, bool), rows(1)]
    for _ in range(2):
        with pytest.raises(ModelError, match="no end after 200 runs"):
            session.run(x)


@pytest.mark.parametrize("backend", ["golden", "iss"])
@pytest.mark.parametrize("which", [True, False])
def test_a_branch(backend, which):
    """IF: one of two graphs, by a bool that comes in."""
    tensors = [TensorSpec("which", (1,), "bool"), act("x"), act("y")]
    operators = [OperatorSpec("IF", [0, 1], [2], "IfOptions", dict(ThenSubgraphIndex=1, ElseSubgraphIndex=2))]
    branches = [
        GraphSpec([act("a"), act("b")], [OperatorSpec("ADD", [0, 0], [1], "AddOptions")], [0], [1]),
        GraphSpec([act("a"), act("b")], [OperatorSpec("SUB", [0, 0], [1], "SubOptions")], [0], [1]),
    ]
    data = write_model(tensors, operators, [0, 1], [2], others=branches)
    x, given = rows(1), np.array([[which]])
    (want,) = interpreter.outputs(data, given, x[:, None])
    assert np.array_equal(Session(load_model(data), backend=backend).run([given[:, 0], x]), want[:, 0])

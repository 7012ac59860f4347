"""The ways in other than ONNX: float .tflite, PyTorch, Keras, and `lepton.compile`."""

import os
import subprocess
import sys

import numpy as np
import pytest

import lepton
from lepton.sw.cli import main
from lepton.sw.files import DIGITS
from lepton.sw.frontends import graph as ir
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.frontends.importer import cosine, import_model, read_source
from lepton.sw.frontends.simplify import simplify, without_gelu
from lepton.sw.frontends.tflite_reader import read_tflite
from lepton.sw.graph.model import MAX_FILE_BYTES
from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model

RNG = np.random.default_rng(9)


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def float_tflite() -> bytes:
    """A float file: CONV_2D with ReLU, SPLIT, EXPAND_DIMS and FULLY_CONNECTED."""
    w, m = floats(4, 3, 3, 2), floats(3, 32)
    tensors = [
        TensorSpec("x", (1, 6, 6, 2), "float32"),
        TensorSpec("w", w.shape, "float32", data=w),
        TensorSpec("a", (1, 4, 4, 4), "float32"),
        TensorSpec("axis", (), "int32", data=np.array(3, np.int32)),
        TensorSpec("low", (1, 4, 4, 2), "float32"),
        TensorSpec("high", (1, 4, 4, 2), "float32"),
        TensorSpec("f", (1, 32), "float32"),
        TensorSpec("m", m.shape, "float32", data=m),
        TensorSpec("y", (1, 3), "float32"),
    ]
    conv = {"Padding": 1, "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    operators = [
        OperatorSpec("CONV_2D", [0, 1, -1], [2], "Conv2DOptions", conv | {"FusedActivationFunction": 1}),
        OperatorSpec("SPLIT", [3, 2], [4, 5], "SplitOptions", {"NumSplits": 2}),
        OperatorSpec("RESHAPE", [5], [6]),
        OperatorSpec("FULLY_CONNECTED", [6, 7, -1], [8], "FullyConnectedOptions"),
    ]
    return write_model(tensors, operators, [0], [8])


def test_float_tflite(tmp_path, capsys):
    data = float_tflite()
    graph = read_tflite(data)
    x = floats(1, 6, 6, 2)
    w, m = (next(v.data for n in graph.nodes for v in n.inputs if v is not None and v.name == k) for k in "wm")
    a = np.zeros((4, 4, 4), np.float32)
    for i in range(4):
        for j in range(4):
            a[i, j] = np.maximum((w * x[:, i : i + 3, j : j + 3]).sum((1, 2, 3)), 0)
    want = m @ a[..., 2:].reshape(-1)
    np.testing.assert_allclose(ir.evaluate(graph, x)[graph.outputs[0]][0], want, rtol=1e-4, atol=1e-5)
    (tmp_path / "f.tflite").write_bytes(data)
    np.savez(tmp_path / "d.npz", x=floats(20, 6, 6, 2))
    command = ["import", str(tmp_path / "f.tflite"), "-o", str(tmp_path / "q.tflite")]
    assert main([*command, "--calibrate", str(tmp_path / "d.npz")]) == 0
    assert "cosine 0.999" in capsys.readouterr().out


def test_int8_tflite_needs_no_import(tmp_path, capsys):
    assert main(["import", str(DIGITS), "-o", str(tmp_path / "q.tflite")]) == 2
    assert "an int8 model needs no import" in capsys.readouterr().err


def test_damaged_float_tflite():
    data = float_tflite()
    rng = np.random.default_rng(4)
    for _ in range(60):
        bad = bytearray(data)
        for place in rng.integers(8, len(bad), 30):
            bad[place] = rng.integers(256)
        try:
            read_tflite(bytes(bad[: rng.integers(40, len(bad))]))
        except ImportModelError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name, missing, words",
    [
        ("a.onnx", "onnx", "pip install 'lepton-npu[onnx]'"),
        ("a.pt2", "torch", "pip install 'lepton-npu[torch]'"),
        ("a.keras", "tensorflow", "pip install 'lepton-npu[keras]'"),
    ],
)
def test_missing_extra_is_one_line(tmp_path, monkeypatch, capsys, name, missing, words):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "lepton.sw.frontends.onnx_reader", raising=False)
    monkeypatch.delattr("lepton.sw.frontends.onnx_reader", raising=False)
    (tmp_path / name).write_bytes(b"x")
    assert main(["import", str(tmp_path / name), "-o", str(tmp_path / "q.tflite")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said


NO_FILES = ("pipe", "zeros", "circle", "folder")


def no_file(folder, kind, ending):
    """A pipe that nobody writes to, a device without end, a link to itself, or a folder."""
    path = folder / f"{kind}{ending}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "zeros" else path)
    return path


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".keras", ".h5", ".tflite"])
def test_what_is_no_file_is_not_opened(tmp_path, capsys, kind, ending):
    path = no_file(tmp_path, kind, ending)
    assert main(["import", str(path), "-o", str(tmp_path / "q.tflite")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and path.name in said
    for use in (read_source, lepton.compile):
        with pytest.raises(ImportModelError, match=f"{kind}.*(not a file|cannot be read)"):
            use(path)


def test_a_large_file_is_not_opened(tmp_path):
    for ending in (".onnx", ".pt2", ".keras", ".tflite"):
        path = tmp_path / f"large{ending}"
        with path.open("wb") as file:
            file.truncate(MAX_FILE_BYTES + 1)
        with pytest.raises(ImportModelError, match="larger than"):
            read_source(path)


@pytest.mark.parametrize("ending, module", [(".pt2", "torch"), (".keras", "tensorflow"), (".h5", "tensorflow")])
def test_a_damaged_file_is_one_line(tmp_path, ending, module):
    """Whatever the framework has to say of it."""
    pytest.importorskip(module)
    path = tmp_path / f"bad{ending}"
    path.write_bytes(b"x\n" * 100)
    command = [sys.executable, "-m", "lepton.sw.cli", "import", str(path), "-o", str(tmp_path / "q.tflite")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and path.name in done.stderr, done.stderr


def test_unknown_ending(tmp_path, capsys):
    (tmp_path / "a.pb").write_bytes(b"x")
    assert main(["import", str(tmp_path / "a.pb"), "-o", str(tmp_path / "q.tflite")]) == 2
    assert "known: .onnx, .pt2" in capsys.readouterr().err


def test_scales_are_tflites():
    """Ranges, zero points and per-channel weights by the definition."""
    w = np.array([[1.0, -2.0], [0.25, 0.5]], np.float32)
    x, y = Value("x", (1, 2)), Value("y", (1, 2))
    options = {"FusedActivationFunction": 0, "WeightsFormat": 0, "KeepNumDims": False}
    node = Node("FULLY_CONNECTED", [x, Value("w", w.shape, w), Value("b", (2,), np.float32([1, -1]))], [y], options)
    from lepton.sw.frontends.quantize import calibrate, quantize
    from lepton.sw.graph.reader import load_model

    graph = Graph([node], [x], [y])
    q = quantize(graph, calibrate(graph, [(np.float32([[0.0, 2.55]]),), (np.float32([[-2.55, 0.0]]),)]))
    assert (q.params[x].scale, q.params[x].zero_point) == (pytest.approx(0.02), 0)
    model = load_model(q.data)
    weights = next(t for t in model.tensors if t.shape == (2, 2))
    np.testing.assert_allclose(weights.scales, [2 / 127, 0.5 / 127], rtol=1e-6)
    np.testing.assert_array_equal(weights.data, [[64, -127], [64, 127]])
    bias = next(t for t in model.tensors if t.dtype == "int32")
    np.testing.assert_array_equal(bias.data, np.round([1 / (0.02 * 2 / 127), -1 / (0.02 * 0.5 / 127)]))


def test_a_norm_as_keras_writes_it_is_centred_first():
    """x * r + -mean * r becomes (x - mean) * r, and NEG, which int8 has not, goes."""
    x, mean, r, a, b, y, minus = (
        Value(n, (1, 4) if n in "xay" else (1, 1)) for n in ("x", "m", "r", "a", "b", "y", "n")
    )
    table = Value("axes", (1,), np.array([1], np.int32))
    nodes = [
        Node("MEAN", [x, table], [mean], {"KeepDims": True}),
        Node("NEG", [mean], [minus]),
        Node("LOGISTIC", [mean], [r]),
        Node("MUL", [x, r], [a], {"FusedActivationFunction": 0}),
        Node("MUL", [minus, r], [b], {"FusedActivationFunction": 0}),
        Node("ADD", [a, b], [y], {"FusedActivationFunction": 0}),
    ]
    data = floats(1, 4)
    want = ir.evaluate(Graph(list(nodes), [x], [y]), data)[y]
    graph = simplify(Graph(nodes, [x], [y]))
    assert [n.op for n in graph.nodes] == ["MEAN", "LOGISTIC", "SUB", "MUL"]
    np.testing.assert_allclose(ir.evaluate(graph, data)[y], want, rtol=1e-5)


def test_without_gelu_is_near_gelu():
    x, y = Value("x", (1, 200)), Value("y", (1, 200))
    graph = Graph([Node("GELU", [x], [y], {"Approximate": False})], [x], [y])
    data = np.linspace(-6, 6, 200, dtype=np.float32)[None]
    other = without_gelu(graph)
    assert [n.op for n in other.nodes] == ["MUL", "LOGISTIC", "MUL"]
    assert 0.001 < np.abs(ir.evaluate(graph, data)[y] - ir.evaluate(other, data)[y]).max() < 0.021


# lepton.compile


def test_compile_of_a_path_is_a_session():
    digits = np.load(DIGITS.with_suffix(".npz"))
    session = lepton.compile(DIGITS, backend="golden")
    np.testing.assert_array_equal(session.run(digits["x"][:3]), digits["tflm"][:3])


def test_compile_of_a_float_file(tmp_path):
    (tmp_path / "f.tflite").write_bytes(float_tflite())
    session = lepton.compile(tmp_path / "f.tflite", calibration=floats(20, 6, 6, 2))
    assert session.backend == "iss" and session.run(np.zeros((2, 6, 6, 2), np.int8)).shape == (2, 3)


# PyTorch and Keras, where they are installed


def test_torch_module_and_pt2(tmp_path):
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    pytest.importorskip("onnxscript")
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    x = torch.randn(16, 2, 8, 8)
    want = net(x).detach().numpy()
    torch.export.save(torch.export.export(net, (x[:1],)), tmp_path / "n.pt2")
    for source, example in ((net, [x[:1].numpy()]), (tmp_path / "n.pt2", None)):
        graph = read_source(source, example_inputs=example)
        got = np.concatenate([ir.evaluate(graph, row[None].numpy())[graph.outputs[0]] for row in x])
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    session = lepton.compile(net, x[:1], calibration=x)
    assert session.input_shape == (1, 2, 8, 8)


def test_torch_lstm_is_one_operator():
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    pytest.importorskip("onnxscript")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(6, 5, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    net, x = Net().eval(), torch.randn(1, 7, 6)
    graph = read_source(net, example_inputs=[x.numpy()])
    assert [n.op for n in graph.nodes].count("UNIDIRECTIONAL_SEQUENCE_LSTM") == 1
    got = ir.evaluate(graph, x.numpy())[graph.outputs[0]]
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["cnn", "lstm", "gru"])
def test_keras(tmp_path, kind):
    tf = pytest.importorskip("tensorflow", reason="pip install -e '.[keras]'")
    k = tf.keras
    if kind == "cnn":
        layers = [k.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"), k.layers.BatchNormalization(),
                  k.layers.GlobalAveragePooling2D(), k.layers.Dense(3)]  # fmt: skip
        shape = (8, 8, 2)
    else:
        layer = k.layers.LSTM if kind == "lstm" else k.layers.GRU
        other = {} if kind == "lstm" else {"reset_after": False}
        layers = [k.layers.Dense(5), layer(6, return_sequences=True), layer(4, **other), k.layers.Dense(3)]
        shape = (7, 6)
    model = k.Sequential([k.Input(shape), *layers])
    for v in model.trainable_variables:  # biases, too
        v.assign(0.5 * floats(*v.shape))
    model.save(tmp_path / "m.keras")
    x = floats(12, *shape)
    graph = read_source(tmp_path / "m.keras")
    assert [n.op for n in graph.nodes].count("UNIDIRECTIONAL_SEQUENCE_LSTM") == (2 if kind == "lstm" else 0)
    got = np.concatenate([ir.evaluate(graph, row[None])[graph.outputs[0]] for row in x])
    np.testing.assert_allclose(got, model(x).numpy(), rtol=1e-3, atol=1e-5)
    if kind == "cnn":
        imported = import_model(model, x)
        assert cosine(imported.samples[0][0], x[:1]) > 0.999 and imported.model().operators


def test_keras_layers_that_are_not_known_are_named():
    k = pytest.importorskip("tensorflow", reason="pip install -e '.[keras]'").keras
    chain = k.Sequential([k.Input((5, 3)), k.layers.Bidirectional(k.layers.GRU(4), name="both")])
    with pytest.raises(ImportModelError, match=r"layer 'both' \(Bidirectional\): LSTM and GRU are supported"):
        read_source(chain)
    x = k.Input((5, 3))
    forked = k.Model(x, k.layers.Add()([k.layers.GRU(4)(x), k.layers.GRU(4)(x)]))
    with pytest.raises(ImportModelError, match="GRU in a network that is no chain of layers: export it to ONNX"):
        read_source(forked)
    long = k.Sequential([k.Input((257, 3)), k.layers.GRU(4)])
    with pytest.raises(ImportModelError, match="257 steps: a GRU is unrolled, at most 256"):
        read_source(long)

"""Imported with 16-bit activations: each operator of the float graph in TensorFlow Lite Micro and the golden model."""

import re
from pathlib import Path

import numpy as np
import pytest

from lepton.sw.cli import main
from lepton.sw.frontends import graph as ir
from lepton.sw.frontends import simplify
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.frontends.importer import cosine, import_model, read_source
from lepton.sw.frontends.quantize import calibrate, quantize
from lepton.sw.frontends.simplify import WIDE, narrow_operators, widened
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden

runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite_micro is not installed")
RNG = np.random.default_rng(16)
X, ROWS, POOLED = (1, 4, 4, 4), (1, 6, 4), (1, 2, 2, 4)
FUSED = {"FusedActivationFunction": 0}
HALF = dict(Padding=1, StrideH=2, StrideW=2, **FUSED)
WINDOW = dict(HALF, FilterHeight=2, FilterWidth=2)
CONV = dict(Padding=0, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1, **FUSED)
SLICE = dict(BeginMask=0, EndMask=0, EllipsisMask=0, NewAxisMask=0, ShrinkAxisMask=0)
BORDER = [[0, 0], [1, 1], [1, 1], [0, 0]]
DENSE = dict(WeightsFormat=0, KeepNumDims=False, **FUSED)
LSTM = dict(FusedActivationFunction=4, CellClip=0.0, ProjClip=0.0, TimeMajor=False, AsymmetricQuantizeInputs=False)


def w(*shape):
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def lstm_operands():
    return [*(w(5, 4) for _ in range(4)), *(w(5, 5) for _ in range(4)), None, None, None, *(w(5) for _ in range(4))]


CASES: dict[str, tuple] = {
    # operator: (operands: the shape of an activation, an array, or a list of int32; the output's shape; options)
    "CONV_2D": ((X, w(5, 3, 3, 4), w(5)), (1, 4, 4, 5), CONV),
    "DEPTHWISE_CONV_2D": ((X, w(1, 3, 3, 4), w(4)), X, CONV | {"DepthMultiplier": 1}),
    "TRANSPOSE_CONV": (([1, 8, 8, 5], w(5, 2, 2, 4), X, w(5)), (1, 8, 8, 5), HALF),
    "FULLY_CONNECTED": (((1, 8), w(5, 8), w(5)), (1, 5), DENSE),
    "BATCH_MATMUL": ((X, X), X, {"AdjX": False, "AdjY": True}),
    "AVERAGE_POOL_2D": ((X,), POOLED, WINDOW),
    "MAX_POOL_2D": ((X,), POOLED, WINDOW),
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV"), ((X, X), X, FUSED)),
    **dict.fromkeys(("MINIMUM", "MAXIMUM", "SQUARED_DIFFERENCE"), ((X, X), X, {})),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), ((X, [1, 2]), (1, 4), {"KeepDims": False})),
    "PAD": ((X, BORDER), (1, 6, 6, 4), {}),
    "PADV2": ((X, BORDER, np.float32([-0.5])), (1, 6, 6, 4), {}),
    "MIRROR_PAD": ((X, BORDER), (1, 6, 6, 4), {"Mode": 0}),
    "CONCATENATION": ((X, X), (1, 4, 4, 8), {"Axis": 3, **FUSED}),
    "RESHAPE": ((X,), (1, 64), {}),
    "TRANSPOSE": ((X, [0, 3, 1, 2]), X, {}),
    "STRIDED_SLICE": ((X, [0, 0, 0, 0], [1, 2, 2, 4], [1, 1, 1, 1]), POOLED, SLICE),
    "SOFTMAX": ((X,), X, {"Beta": 0.7}),
    "LEAKY_RELU": ((X,), X, {"Alpha": 0.1}),
    "PRELU": ((X, w(1, 1, 4)), X, {}),
    "GELU": ((X,), X, {"Approximate": False}),
    "RESIZE_NEAREST_NEIGHBOR": ((X, [8, 8]), (1, 8, 8, 4), {"AlignCorners": False, "HalfPixelCenters": True}),
    "RESIZE_BILINEAR": ((X, [8, 8]), (1, 8, 8, 4), {"AlignCorners": False, "HalfPixelCenters": True}),
    "DEPTH_TO_SPACE": ((X,), (1, 8, 8, 1), {"BlockSize": 2}),
    "SPACE_TO_DEPTH": ((X,), (1, 2, 2, 16), {"BlockSize": 2}),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ((ROWS, *lstm_operands()), (1, 6, 5), LSTM),
}
CASES |= {op: ((X,), X, {}) for op in ir.OPERATORS if op not in CASES}
UNKNOWN = {"GELU", "RELU_N1_TO_1", "EXP", "SQUARE", "SQRT", "LOG", "NEG"}
"""What TFLM has no kernel of for int8 either, or not this one."""
POSITIVE = ("DIV", "RSQRT", "SQRT", "LOG")


def samples(op: str) -> list[tuple[np.ndarray, ...]]:
    shapes = [o for o in CASES[op][0] if isinstance(o, tuple)]
    draw = (lambda s: RNG.uniform(0.3, 2, s)) if op in POSITIVE else (lambda s: RNG.normal(0, 1, s))
    return [tuple(draw(s).astype(np.float32) for s in shapes) for _ in range(24)]


def network(op: str) -> Graph:
    """A float graph of the one operator."""
    operands, shape, options = CASES[op]
    values: list[Value | None] = []
    for k, o in enumerate(operands):
        data = np.array(o, np.int32) if isinstance(o, list) else None if isinstance(o, tuple) else o
        values.append(None if o is None else Value(f"v{k}", o if data is None else data.shape, data))
    y = Value("y", shape)
    inputs = [v for v in values if v is not None and v.data is None]
    return Graph([Node(op, values, [y], dict(options), op)], inputs, [y])


def in_tflm(data: bytes, inputs) -> np.ndarray:
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 20)
    for k, x in enumerate(inputs):
        interpreter.set_input(x, k)
    interpreter.invoke()
    return np.array(interpreter.get_output(0))


@pytest.mark.parametrize("op", [op for op in ir.OPERATORS if op in WIDE or op == "GELU"])
def test_wide_operator(op):
    """Only int16 flows, TFLM and the golden model give the same bytes, and they are very near the float values."""
    data = samples(op)
    exact, graph = network(op), widened(network(op))
    made = quantize(graph, calibrate(graph, data))
    model = load_model(made.data)
    assert {model.tensors[i].dtype for o in model.operators for i in o.outputs} == {"int16"}
    want, got = [], []
    for sample in data[:6]:
        stored = [made.params[v].quantize(x) for v, x in zip(graph.inputs, sample)]
        (y,) = golden.run_graph(model, stored)
        np.testing.assert_array_equal(in_tflm(made.data, stored).reshape(y.shape), y)
        got.append(made.params[graph.outputs[0]].dequantize(y))
        want.append(ir.evaluate(exact, *sample)[exact.outputs[0]])
    assert cosine(np.stack(got), np.stack(want)) > 0.9999


@pytest.mark.parametrize("op", [op for op in ir.OPERATORS if op not in WIDE and op != "GELU"])
def test_narrow_operator(op, monkeypatch):
    """TFLM has no 16-bit kernel of it: 8 bits, between two QUANTIZE, give the same bytes there."""
    data = samples(op)
    graph = widened(network(op))
    assert narrow_operators(graph) == [op] and [n.op for n in graph.nodes][-1] == "QUANTIZE"
    made = quantize(graph, calibrate(graph, data))
    stored = [made.params[v].quantize(x) for v, x in zip(graph.inputs, data[0])]
    assert all(x.dtype == np.int16 for x in stored)
    if op not in UNKNOWN:
        (y,) = golden.run_graph(load_model(made.data), stored)
        assert y.dtype == np.int16
        np.testing.assert_array_equal(in_tflm(made.data, stored).reshape(y.shape), y)
    monkeypatch.setattr(simplify, "WIDE", WIDE | {op})
    graph = widened(network(op))
    with pytest.raises(RuntimeError):
        in_tflm(quantize(graph, calibrate(graph, data)).data, stored)


def test_gelu_of_16_bits_is_near_gelu():
    x = np.linspace(-6, 6, 64, dtype=np.float32).reshape(X)
    exact, graph = network("GELU"), widened(network("GELU"))
    want, got = (ir.evaluate(g, x)[g.outputs[0]] for g in (exact, graph))
    assert 1e-5 < np.abs(got - want).max() < 0.0005


def test_command(tmp_path, capsys):
    """What stays at 8 bits is printed; the file runs as any other."""
    onnx = pytest.importorskip("onnx", reason="pip install -e '.[onnx]'")
    from test_onnx import net

    nodes = [("Gemm", ["x", "m"], ["a"], {}), ("HardSwish", ["a"], ["b"], {}), ("Gemm", ["b", "n"], ["y"], {})]
    onnx.save(net(nodes, {"x": (1, 8)}, constants={"m": w(8, 6), "n": w(6, 3)}), tmp_path / "n.onnx")
    x = RNG.normal(0, 1, (20, 8)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    names = {k: str(tmp_path / k) for k in ("n.onnx", "d.npz", "q.tflite", "y.npy")}
    command = ["import", names["n.onnx"], "-o", names["q.tflite"], "--calibrate", names["d.npz"], "--activations", "16"]
    assert main([*command, "--report"]) == 0
    said = capsys.readouterr().out
    assert "8 bits, since TensorFlow Lite Micro has no kernel for 16: HARD_SWISH\n" in said and "cosine 0.999" in said
    run = ["run", names["q.tflite"], "--float", "--input", names["d.npz"], "--output", names["y.npy"]]
    assert main(run) == 0
    graph = read_source(names["n.onnx"])
    want = np.concatenate([ir.evaluate(graph, row[None])[graph.outputs[0]] for row in x])
    assert cosine(np.load(names["y.npy"]), want) > 0.9999


def test_what_is_quantized_to_8_bits_is_refused():
    pytest.importorskip("onnx", reason="pip install -e '.[onnx]'")
    from test_onnx import net

    scale = {"s": np.float32(0.1), "z": np.int8(0)}
    nodes = [
        ("QuantizeLinear", ["x", "s", "z"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "z"], ["d"], {}),
        ("Relu", ["d"], ["y"], {}),
    ]
    model = net(nodes, {"x": (1, 8)}, constants=scale)
    with pytest.raises(ImportModelError, match="quantized to 8 bits: import the float model"):
        import_model(model, w(4, 8), activations=16)


def test_the_page_names_what_keeps_8_bits():
    page = (Path(__file__).resolve().parents[1] / "docs" / "frontends.md").read_text()
    section = page.split("## Activations of 16 bits")[1].split("\n## ")[0].split("It has none of")[1].split(": such")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(ir.OPERATORS) - WIDE - {"GELU"}

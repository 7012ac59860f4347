"""ONNX files to int8: each operator against the `onnx` package's reference, whole networks against float and TFLM."""

import os

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install -e '.[onnx]'")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from lepton.sw.cli import main  # noqa: E402
from lepton.sw.frontends import graph as ir  # noqa: E402
from lepton.sw.frontends.graph import ImportModelError  # noqa: E402
from lepton.sw.frontends.importer import cosine, import_model  # noqa: E402
from lepton.sw.frontends.onnx_reader import read_onnx  # noqa: E402

RNG = np.random.default_rng(5)


def net(nodes, inputs, outputs=("y",), constants=None, opset=18, name="net"):
    """A ModelProto. inputs: name to shape; constants: name to array; nodes: (op, inputs, outputs, attributes)."""
    made = [helper.make_node(op, ins, outs, **attributes) for op, ins, outs, attributes in nodes]
    ins = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    data = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    return helper.make_model(
        helper.make_graph(made, name, ins, outs, data), opset_imports=[helper.make_opsetid("", opset)], ir_version=9
    )


def floats(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def both(model, x, nhwc=False):
    """(the source's outputs by onnx.reference, the float graph's)."""
    graph = read_onnx(model, nhwc=nhwc)
    want = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})
    given = np.moveaxis(x, 1, -1) if nhwc and x.ndim > 2 else x
    values = ir.evaluate(graph, given)
    return want, [values[v] for v in graph.outputs]


def one(op, x, constants=(), opset=18, outputs=1, **attributes):
    """A network of one node: its first input x, then constants."""
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    outs = ["y", *(f"y{i}" for i in range(1, outputs))]
    arrays = {n: c for n, c in zip(names, constants) if n}
    return net([(op, ["x", *names], outs, attributes)], {"x": x.shape}, outs, arrays, opset)


IMAGE = (1, 4, 9, 7)
I64 = np.int64
ONE = {
    "conv": ("Conv", IMAGE, [floats(6, 4, 3, 3), floats(6)], dict(pads=[1, 1, 1, 1])),
    "conv stride 2": ("Conv", IMAGE, [floats(6, 4, 3, 3)], dict(pads=[1, 1, 1, 1], strides=[2, 2])),
    "conv uneven pads": ("Conv", IMAGE, [floats(6, 4, 3, 2)], dict(pads=[2, 0, 0, 1])),
    "conv dilated": ("Conv", IMAGE, [floats(6, 4, 3, 3)], dict(dilations=[2, 2])),
    "conv groups": ("Conv", IMAGE, [floats(6, 2, 3, 3), floats(6)], dict(group=2)),
    "conv depthwise": ("Conv", IMAGE, [floats(4, 1, 3, 3), floats(4)], dict(group=4, pads=[1, 1, 1, 1])),
    "conv depthwise x2": ("Conv", IMAGE, [floats(8, 1, 3, 3)], dict(group=4)),
    "conv same upper": ("Conv", IMAGE, [floats(6, 4, 3, 3)], dict(auto_pad="SAME_UPPER", strides=[2, 2])),
    "conv same lower": ("Conv", IMAGE, [floats(6, 4, 4, 4)], dict(auto_pad="SAME_LOWER")),
    "conv 1d": ("Conv", (1, 3, 32), [floats(5, 3, 7), floats(5)], dict(pads=[3, 3], strides=[4])),
    "conv transpose 2": ("ConvTranspose", IMAGE, [floats(4, 5, 2, 2), floats(5)], dict(strides=[2, 2])),
    "conv transpose 4": ("ConvTranspose", IMAGE, [floats(4, 5, 4, 4)], dict(strides=[2, 2], pads=[1, 1, 1, 1])),
    "conv transpose 3": (
        "ConvTranspose",
        IMAGE,
        [floats(4, 5, 3, 3)],
        dict(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    ),
    "conv transpose 1d": ("ConvTranspose", (1, 3, 8), [floats(3, 5, 4)], dict(strides=[2], pads=[1, 1])),
    "max pool": ("MaxPool", IMAGE, [], dict(kernel_shape=[2, 2], strides=[2, 2])),
    "max pool padded": ("MaxPool", IMAGE, [], dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])),
    "max pool ceil": ("MaxPool", IMAGE, [], dict(kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)),
    "max pool 1d": ("MaxPool", (1, 3, 32), [], dict(kernel_shape=[4], strides=[4])),
    "average pool": ("AveragePool", IMAGE, [], dict(kernel_shape=[3, 3], strides=[2, 2])),
    "average pool padded": ("AveragePool", IMAGE, [], dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1])),
    "average pool uneven": ("AveragePool", IMAGE, [], dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1])),
    "average pool counted": (
        "AveragePool",
        IMAGE,
        [],
        dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    ),
    "global average": ("GlobalAveragePool", IMAGE, [], {}),
    "global max": ("GlobalMaxPool", IMAGE, [], {}),
    "gemm": ("Gemm", (1, 12), [floats(5, 12), floats(5)], dict(transB=1)),
    "gemm scaled": ("Gemm", (1, 12), [floats(12, 5), floats(5)], dict(alpha=0.5, beta=2.0)),
    "matmul": ("MatMul", (1, 7, 12), [floats(12, 5)], {}),
    "matmul batch": ("MatMul", (1, 3, 7, 12), [floats(1, 3, 12, 5)], {}),
    "batch norm": (
        "BatchNormalization",
        IMAGE,
        [floats(4), floats(4), floats(4), abs(floats(4)) + 0.1],
        dict(epsilon=1e-3),
    ),
    "layer norm": ("LayerNormalization", (1, 5, 16), [floats(16), floats(16)], {}),
    "instance norm": ("InstanceNormalization", IMAGE, [floats(4), floats(4)], {}),
    "softmax": ("Softmax", (1, 5, 16), [], dict(axis=-1)),
    "softmax axis 1": ("Softmax", IMAGE, [], dict(axis=1)),
    "clip": ("Clip", IMAGE, [np.float32(-0.5), np.float32(0.7)], {}),
    "relu6": ("Clip", IMAGE, [np.float32(0), np.float32(6)], {}),
    "leaky": ("LeakyRelu", IMAGE, [], dict(alpha=0.2)),
    "prelu": ("PRelu", IMAGE, [floats(4, 1, 1)], {}),
    "elu": ("Elu", IMAGE, [], {}),
    "hard sigmoid": ("HardSigmoid", IMAGE, [], {}),
    "hard swish": ("HardSwish", IMAGE, [], {}),
    "sigmoid": ("Sigmoid", IMAGE, [], {}),
    "tanh": ("Tanh", IMAGE, [], {}),
    "neg": ("Neg", IMAGE, [], {}),
    "pow": ("Pow", IMAGE, [np.float32(2)], {}),
    "add channel": ("Add", IMAGE, [floats(4, 1, 1)], {}),
    "add last": ("Add", IMAGE, [floats(7)], {}),
    "sub": ("Sub", IMAGE, [np.float32(0.3)], {}),
    "div": ("Div", IMAGE, [floats(1, 4, 1, 1)], {}),
    "mean": ("ReduceMean", IMAGE, [np.array([2, 3], I64)], dict(keepdims=0)),
    "mean channels": ("ReduceMean", IMAGE, [np.array([1], I64)], dict(keepdims=1)),
    "max over": ("ReduceMax", IMAGE, [np.array([-1], I64)], dict(keepdims=0)),
    "sum": ("ReduceSum", IMAGE, [np.array([1, 3], I64)], {}),
    "flatten": ("Flatten", IMAGE, [], {}),
    "reshape": ("Reshape", IMAGE, [np.array([0, 4, -1], I64)], {}),
    "reshape mixed": ("Reshape", IMAGE, [np.array([1, 2, 2, 63], I64)], {}),
    "squeeze": ("Squeeze", (1, 4, 1, 7), [np.array([2], I64)], {}),
    "unsqueeze": ("Unsqueeze", (1, 4, 7), [np.array([-2], I64)], {}),
    "transpose": ("Transpose", IMAGE, [], dict(perm=[0, 2, 3, 1])),
    "transpose other": ("Transpose", IMAGE, [], dict(perm=[0, 3, 1, 2])),
    "slice": ("Slice", IMAGE, [np.array([1, -5], I64), np.array([100, -1], I64), np.array([1, 2], I64)], {}),
    "slice back": (
        "Slice",
        IMAGE,
        [np.array([-1], I64), np.array([-(1 << 62)], I64), np.array([3], I64), np.array([-1], I64)],
        {},
    ),
    "gather": ("Gather", IMAGE, [np.array(-1, I64)], dict(axis=2)),
    "gather many": ("Gather", IMAGE, [np.array([3, 2, 1], I64)], dict(axis=1)),
    "pad": ("Pad", IMAGE, [np.array([0, 0, 1, 2, 0, 1, 0, 1], I64)], {}),
    "pad value": ("Pad", IMAGE, [np.array([0, 0, 1, 2, 0, 1, 0, 1], I64), np.float32(1.5)], {}),
    "pad reflect": ("Pad", IMAGE, [np.array([0, 0, 1, 2, 0, 0, 2, 1], I64)], dict(mode="reflect")),
    "depth to space": ("DepthToSpace", IMAGE, [], dict(blocksize=2)),
    "pixel shuffle": ("DepthToSpace", (1, 8, 3, 2), [], dict(blocksize=2, mode="CRD")),
    "space to depth": ("SpaceToDepth", (1, 4, 6, 8), [], dict(blocksize=2)),
    "resize nearest": (
        "Resize",
        IMAGE,
        [None, np.array([1, 1, 2, 2], np.float32)],
        dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ),
    "resize half pixel": ("Resize", IMAGE, [None, np.array([1, 1, 2, 2], np.float32)], dict(mode="nearest")),
    "resize linear": ("Resize", IMAGE, [None, np.array([1, 1, 2, 2], np.float32)], dict(mode="linear")),
    "resize corners": (
        "Resize",
        IMAGE,
        [None, None, np.array([1, 4, 17, 13], I64)],
        dict(mode="linear", coordinate_transformation_mode="align_corners"),
    ),
    "expand": ("Expand", (1, 4, 1, 7), [np.array([1, 4, 3, 7], I64)], {}),
}


@pytest.mark.parametrize("case", ONE)
def test_operator(case):
    op, shape, constants, attributes = ONE[case]
    x = floats(*shape)
    model = one(op, x, constants, **attributes)
    for nhwc in (False, True):
        (want,), (got,) = both(model, x, nhwc)
        if nhwc and want.ndim > 2:
            got = np.moveaxis(got, -1, 1)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_split():
    x = floats(1, 6, 5, 4)
    model = one("Split", x, [np.array([1, 2, 3], I64)], axis=1, outputs=3)
    for want, got in zip(*both(model, x), strict=True):
        np.testing.assert_array_equal(got, want)


def test_concat_of_turned_and_straight():
    """A convolution's output is turned, the input is not: the concatenation has to bring them together."""
    nodes = [("Conv", ["x", "w"], ["a"], dict(pads=[1, 1, 1, 1])), ("Concat", ["a", "x", "c"], ["y"], dict(axis=1))]
    x = floats(*IMAGE)
    constants = {"w": floats(3, 4, 3, 3), "c": floats(1, 2, 9, 7)}
    (want,), (got,) = both(net(nodes, {"x": IMAGE}, constants=constants), x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "GRU, reset first"])
def test_recurrent(op, direction):
    after = {"linear_before_reset": 1} if op == "GRU" else {}
    op = op.split(",")[0]
    gates, d = {"LSTM": 4, "GRU": 3}[op], 2 if direction == "bidirectional" else 1
    constants = {"w": floats(d, gates * 5, 3), "r": floats(d, gates * 5, 5), "b": floats(d, 2 * gates * 5)}
    attributes = dict(hidden_size=5, direction=direction) | after
    model = net([(op, ["x", "w", "r", "b"], ["y", "h"], attributes)], {"x": (6, 1, 3)}, ("y", "h"), constants)
    x = floats(6, 1, 3)
    with pytest.raises(ImportModelError, match="batch is 6"):
        read_onnx(model)
    nodes = [("Transpose", ["x"], ["t"], dict(perm=[1, 0, 2])), (op, ["t", "w", "r", "b"], ["y", "h"], attributes)]
    model = net(nodes, {"x": (1, 6, 3)}, ("y", "h"), constants)
    if direction == "forward":
        want = ReferenceEvaluator(model).run(None, {"x": x.swapaxes(0, 1)})
    else:  # the reference has these two not: by the forward one on the turned sequence
        halves = []
        for k, turn in enumerate([True] if d == 1 else [False, True]):
            part = {n: c[k : k + 1] for n, c in constants.items()}
            single = net([(op, ["x", "w", "r", "b"], ["y"], attributes | {"direction": "forward"})], {"x": x.shape},
                         constants=part)  # fmt: skip
            (y,) = ReferenceEvaluator(single).run(None, {"x": x[::-1] if turn else x})
            halves.append((y[::-1] if turn else y, y[-1]))
        want = [np.concatenate([h[0] for h in halves], 1), np.concatenate([h[1] for h in halves], 0)]
    graph = read_onnx(model)
    values = ir.evaluate(graph, x.swapaxes(0, 1))
    for w, v in zip(want, graph.outputs):
        np.testing.assert_allclose(values[v], w, rtol=1e-3, atol=1e-5)
    if op == "LSTM":
        assert sum(n.op == "UNIDIRECTIONAL_SEQUENCE_LSTM" for n in graph.nodes) == d


def gru(steps: int):
    constants = {"w": floats(1, 96, 4), "r": 0.2 * floats(1, 96, 32), "b": floats(1, 192)}
    attributes = dict(hidden_size=32, linear_before_reset=1)
    nodes = [("Transpose", ["x"], ["t"], dict(perm=[1, 0, 2])), ("GRU", ["t", "w", "r", "b"], ["y"], attributes)]
    return net(nodes, {"x": (1, steps, 4)}, constants=constants)


def test_gru_of_many_steps_runs_in_tflm():
    """Written out step by step, and near the float network; TFLM joins no more than 10 tensors at a time."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    from lepton.sw.session import Session

    made = import_model(gru(21), data := floats(20, 21, 4))
    model = made.model()
    assert max(len(o.inputs) for o in model.operators if o.op == "CONCATENATION") == 10
    session = Session(model, backend="golden")
    stored = session.inputs[0].quantize(data[:2])
    got = session.run(stored)
    interpreter = runtime.Interpreter.from_bytes(made.data, arena_size=1 << 20)
    for row, y in zip(stored, got):
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.get_output(0).reshape(y.shape), y)
    values = [ir.evaluate(made.graph, x[None])[made.graph.outputs[0]] for x in data[:2]]
    assert cosine(session.outputs[0].dequantize(got), np.stack(values)) > 0.999


def test_the_same_weights_are_in_the_file_once():
    import tflite

    root = tflite.Model.GetRootAsModel(import_model(gru(5), floats(3, 5, 4)).data, 0)
    kept = [root.Buffers(i).DataAsNumpy() for i in range(1, root.BuffersLength())]
    assert len({bytes(b) for b in kept}) == len(kept) and sum(b.size == 64 * 32 for b in kept) == 1
    tensors = [root.Subgraphs(0).Tensors(i) for i in range(root.Subgraphs(0).TensorsLength())]
    assert sum(t.ShapeAsNumpy().tolist() == [64, 32] for t in tensors) == 4  # a tensor for each step but the first


def test_batch_norm_and_relu_are_folded():
    nodes = [
        ("Conv", ["x", "w"], ["a"], dict(pads=[1, 1])),
        ("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"], {}),
        ("Relu", ["n"], ["y"], {}),
    ]
    constants = {"w": floats(5, 3, 3), "s": floats(5), "b": floats(5), "m": floats(5), "v": abs(floats(5)) + 0.1}
    model = net(nodes, {"x": (1, 3, 16)}, constants=constants)
    x = floats(1, 3, 16)
    (want,), (got,) = both(model, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert [n.op for n in read_onnx(model, nhwc=True).nodes if n.op != "RESHAPE"] == ["CONV_2D"]


@pytest.mark.parametrize("form", ["x*(0.5*(1+erf))", "(x*0.5)*(1+erf)", "(x*(1+erf))*0.5"])
def test_gelu_is_found(form):
    head = [("Div", ["x", "root"], ["d"], {}), ("Erf", ["d"], ["e"], {}), ("Add", ["e", "one"], ["a"], {})]
    tail = {
        "x*(0.5*(1+erf))": [("Mul", ["a", "half"], ["h"], {}), ("Mul", ["x", "h"], ["y"], {})],
        "(x*0.5)*(1+erf)": [("Mul", ["x", "half"], ["h"], {}), ("Mul", ["h", "a"], ["y"], {})],
        "(x*(1+erf))*0.5": [("Mul", ["x", "a"], ["h"], {}), ("Mul", ["h", "half"], ["y"], {})],
    }[form]
    constants = {"root": np.float32(np.sqrt(2)), "one": np.float32(1), "half": np.float32(0.5)}
    model = net(head + tail, {"x": (1, 9)}, constants=constants)
    x = floats(1, 9)
    assert [n.op for n in read_onnx(model).nodes] == ["GELU"]
    (want,), (got,) = both(model, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_gelu_is_found_between_the_scales_of_a_qdq_file():
    """As ONNX Runtime writes it, every value and constant quantized: one operator, with the scale behind the last."""
    nodes, constants = [], {"zero": np.int8(0)}

    def quantized(name: str, high: float) -> str:
        constants[f"{name}_s"] = np.float32(high / 127)
        nodes.append(("QuantizeLinear", [name, f"{name}_s", "zero"], [f"{name}_q"], {}))
        nodes.append(("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_d"], {}))
        return f"{name}_d"

    for name, value in (("root", np.sqrt(2)), ("one", 1), ("half", 0.5)):
        constants |= {f"{name}_s": np.float32(value / 127), f"{name}_q": np.int8(127)}
        nodes.append(("DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [name], {}))
    x = quantized("x", 4)
    nodes.append(("Div", [x, "root"], ["d"], {}))
    nodes.append(("Erf", [quantized("d", 3)], ["e"], {}))
    nodes.append(("Add", [quantized("e", 1), "one"], ["a"], {}))
    nodes.append(("Mul", [x, quantized("a", 2)], ["m"], {}))
    nodes.append(("Mul", [quantized("m", 8), "half"], ["h"], {}))
    nodes.append(("Relu", [quantized("h", 4)], ["y"], {}))
    model = net(nodes, {"x": (1, 9)}, constants=constants, opset=19)
    graph = read_onnx(model)
    assert [n.op for n in graph.nodes][0] == "GELU" and not any(n.op in ("MUL", "ADD", "DIV") for n in graph.nodes)
    (gelu,) = (n for n in graph.nodes if n.op == "GELU")
    assert gelu.y.quant.scales[0] == np.float32(4 / 127) and gelu.x().quant.scales[0] == np.float32(4 / 127)
    x = floats(1, 9)
    (want,), (got,) = both(model, x)
    np.testing.assert_allclose(got, want, atol=0.06)


def test_mask_of_minus_infinity_keeps_the_scores_resolution():
    mask = np.triu(np.full((1, 5, 5), -np.inf, np.float32), 1)
    nodes = [("Add", ["x", "m"], ["a"], {}), ("Softmax", ["a"], ["y"], {})]
    model = net(nodes, {"x": (1, 5, 5)}, constants={"m": mask})
    x = floats(1, 5, 5)
    (want,), (got,) = both(model, x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    imported = import_model(model, floats(9, 5, 5))
    assert imported.quantized.params[imported.graph.nodes[0].y].scale < 0.1


def test_shuffle_of_channels_turns_the_channels_only():
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}),
        ("Reshape", ["a", "s"], ["b"], {}),
        ("Transpose", ["b"], ["t"], dict(perm=(0, 2, 1, 3, 4))),
        ("Reshape", ["t", "r"], ["c"], {}),
        ("Conv", ["c", "w"], ["y"], {}),
    ]
    shapes = {"s": np.array([1, 2, 3, 4, 5], I64), "r": np.array([1, 6, 4, 5], I64)}
    model = net(nodes, {"x": (1, 6, 4, 5)}, constants={"w": floats(6, 6, 1, 1)} | shapes)
    (want,), (got,) = both(model, floats(1, 6, 4, 5))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    ops = [n.op for n in read_onnx(model, nhwc=True).nodes]
    assert ops == ["CONV_2D", "RESHAPE", "TRANSPOSE", "RESHAPE", "CONV_2D"]


@pytest.mark.parametrize("perm", [(0, 2, 1, 3, 4), (0, 3, 4, 1, 2), (0, 4, 1, 2, 3)])
def test_transpose_of_many_axes_is_narrowed(perm):
    """TFLM takes 4 axes at most; the shuffle of channels is written with 5."""
    nodes = [
        ("Reshape", ["x", "s"], ["a"], {}),
        ("Transpose", ["a"], ["t"], dict(perm=perm)),
        ("Add", ["t", "c"], ["y"], {}),
    ]
    constants = {"s": np.array([1, 2, 3, 4, 5], I64), "c": floats(1)}
    model = net(nodes, {"x": (1, 6, 4, 5)}, constants=constants)
    (want,), (got,) = both(model, floats(1, 6, 4, 5))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert all(len(n.x().shape) <= 4 for n in read_onnx(model).nodes if n.op == "TRANSPOSE")


@pytest.mark.parametrize("swapped", [False, True])
def test_where(swapped):
    keep = np.array([[True, False, True]])
    pair = ["c", "x"] if swapped else ["x", "c"]
    model = net([("Where", ["k", *pair], ["y"], {})], {"x": (1, 3)}, constants={"k": keep, "c": np.float32(2.5)})
    (want,), (got,) = both(model, floats(1, 3))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_flatten_turns_the_weights_and_not_the_data():
    nodes = [
        ("Conv", ["x", "w"], ["a"], {}),
        ("Flatten", ["a"], ["f"], {}),
        ("Gemm", ["f", "m"], ["y"], {}),
    ]
    model = net(nodes, {"x": (1, 1, 6, 6)}, constants={"w": floats(3, 1, 3, 3), "m": floats(48, 5)})
    assert "TRANSPOSE" not in [n.op for n in read_onnx(model).nodes]
    x = floats(1, 1, 6, 6)
    (want,), (got,) = both(model, x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# Refusals


@pytest.mark.parametrize(
    "nodes, shape, words",
    [
        ([("Softplus", ["x"], ["y"], {})], (1, 4), ["'y' (Softplus)", "not supported", "use ReLU"]),
        ([("ArgMax", ["x"], ["y"], {})], (1, 4), ["(ArgMax)", "end the network before it"]),
        ([("Conv", ["x", "w"], ["y"], {})], (1, 4, 4, 4, 4), ["(Conv)", "5 axes"]),
        ([("Relu", ["z"], ["y"], {})], (1, 4), ["(Relu)", "'z' is not computed"]),
        ([("Relu", ["x"], ["y"], {})], (2, 4), ["batch is 2", "batch 1"]),
        ([("Relu", ["x"], ["y"], {})], (1, "n"), ["axis 1 has no fixed size (n)", "--calibrate"]),
        ([("Pow", ["x", "p"], ["y"], {})], (1, 4), ["(Pow)", "exponent 1.5"]),
    ],
)
def test_refusals_name_node_operator_and_help(nodes, shape, words):
    model = net(nodes, {"x": shape}, constants={"w": floats(2, 4, 3, 3, 3), "p": np.float32(1.5)})
    with pytest.raises(ImportModelError) as error:
        read_onnx(model)
    for word in words:
        assert word in str(error.value)


def test_float_without_calibration(tmp_path, capsys):
    model = net([("Conv", ["x", "w"], ["y"], {})], {"x": (1, 2, 6, 6)}, constants={"w": floats(3, 2, 3, 3)})
    onnx.save(model, tmp_path / "a.onnx")
    assert main(["import", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "a.tflite")]) == 2
    assert "give --calibrate" in capsys.readouterr().err


def small_network():
    nodes = [
        ("Conv", ["x", "w", "b"], ["a"], dict(pads=[1, 1, 1, 1], strides=[2, 2])),
        ("Conv", ["a", "d"], ["e"], dict(group=8)),
        ("Relu", ["e"], ["r"], {}),
        ("GlobalAveragePool", ["r"], ["p"], {}),
        ("Flatten", ["p"], ["f"], {}),
        ("Gemm", ["f", "m", "n"], ["y"], {}),
    ]
    constants = {"w": floats(8, 2, 3, 3), "b": floats(8), "d": floats(8, 1, 3, 3), "m": floats(8, 4), "n": floats(4)}
    return net(nodes, {"x": (1, 2, 8, 8)}, constants=constants)


def test_200_corrupted_files(tmp_path, capsys):
    """Bytes changed, cut off, doubled: one line each, exit code 2, or an import that still makes sense."""
    whole = small_network().SerializeToString()
    np.savez(tmp_path / "d.npz", calibration=floats(2, 2, 8, 8))
    rng = np.random.default_rng(3)
    path = tmp_path / "bad.onnx"
    refused = 0
    for k in range(200):
        data = bytearray(whole)
        kind = k % 4
        if kind == 0:
            data = data[: rng.integers(len(data))]
        elif kind == 1:
            for place in rng.integers(0, len(data), 40):
                data[place] = rng.integers(256)
        elif kind == 2:
            low, high = sorted(rng.integers(0, len(data), 2))
            del data[low:high]
        else:
            place = int(rng.integers(len(data)))
            data[place:place] = rng.bytes(int(rng.integers(1, 60)))
        path.write_bytes(data)
        code = main(["import", str(path), "-o", str(tmp_path / "o.tflite"), "--calibrate", str(tmp_path / "d.npz")])
        said = capsys.readouterr()
        if code == 0:
            continue
        refused += 1
        assert code == 2
        assert said.err.count("\n") == 1 and said.err.startswith("lepton: error: "), said.err
    assert refused > 150


def test_tensors_in_files_beside_the_model(tmp_path):
    """They are read from beside the model, and only from files, within the limits."""
    path, model = tmp_path / "m.onnx", small_network()
    x, whole = floats(1, 2, 8, 8), read_onnx(model.SerializeToString())
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    graph = read_onnx(path)
    want, got = (ir.evaluate(g, x)[g.outputs[0]] for g in (whole, graph))
    np.testing.assert_array_equal(got, want)
    with pytest.raises(ImportModelError, match="in another file: give the model's path"):
        read_onnx(path.read_bytes())
    with (tmp_path / "m.data").open("r+b") as file:
        file.truncate(1 << 33)
    with pytest.raises(ImportModelError, match="m.data: larger than"):
        read_onnx(path)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ImportModelError, match="m.data: cannot be read"):
        read_onnx(path)
    os.mkfifo(tmp_path / "m.data")
    with pytest.raises(ImportModelError, match="m.data: not a file"):
        read_onnx(path)


def test_more_in_files_beside_the_model_than_is_read(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    onnx.save(small_network(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for t in model.graph.initializer:  # each as long as the file, which no length says
        del t.external_data[:]
        t.external_data.add(key="location", value="m.data")
    path.write_bytes(model.SerializeToString())
    monkeypatch.setattr("lepton.sw.frontends.onnx_reader.MAX_FILE_BYTES", path.stat().st_size)
    with pytest.raises(ImportModelError, match="bytes of tensors in other files"):
        read_onnx(path)


# Whole networks


def test_runs_in_tflm_as_in_the_golden_model():
    runtime = pytest.importorskip("tflite_micro").runtime
    from lepton.sw.session import Session

    data = floats(16, 2, 8, 8)
    model = small_network()
    imported = import_model(model, data, name="small")
    interpreter = runtime.Interpreter.from_bytes(imported.data)
    want = ReferenceEvaluator(model)
    q, given, taken = imported.quantized, imported.graph.inputs[0], imported.graph.outputs[0]
    assert given.shape == (1, 2, 8, 8)  # the source's layout
    x = q.params[given].quantize(data)
    out = []
    for row in x:
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        out.append(interpreter.get_output(0)[0])
    for backend in ("golden", "iss"):
        np.testing.assert_array_equal(Session(imported.model(), backend=backend).run(x), np.stack(out))
    real = np.concatenate([want.run(None, {"x": row[None]})[0] for row in data])
    assert cosine(q.params[taken].dequantize(np.stack(out)), real) > 0.999


@pytest.mark.parametrize("nhwc", [False, True])
def test_an_imported_model_on_the_rtl(nhwc):
    from lepton.sw.session import Session

    model = import_model(small_network(), floats(16, 2, 8, 8), nhwc, name="small").model()
    session = Session(model, backend="golden")
    x = session.inputs[0].quantize(floats(2, *session.inputs[0].row))
    np.testing.assert_array_equal(Session(model, backend="rtl").run(x), session.run(x))


SHARED = {"cnn": 0.999, "cnn_ts": 0.999, "cnn_qdq": 0.999, "au_qdq": 0.999, "lstm": 0.999, "tr": 0.985}


def onnx_files(shared):
    """Folder of the files that other exporters wrote: only the reference files have it, not the stand-ins."""
    folder = shared / "frontends" / "onnx"
    if not folder.is_dir():
        pytest.skip("the files themselves are not there (LEPTON_SHARED)")
    return folder


@pytest.mark.parametrize("name", SHARED)
def test_shared_file(shared, name):
    from lepton.sw.session import Session

    folder = onnx_files(shared)
    arrays = np.load(folder / f"{name}.npz")
    calibration = None if "qdq" in name else arrays["calibration"]
    imported = import_model(folder / f"{name}.onnx", calibration)
    q, graph = imported.quantized, imported.graph
    x = q.params[graph.inputs[0]].quantize(arrays["input"])
    count = 3 if name == "tr" else 20
    with_session = Session(imported.model(), backend="iss").run(x[:count])
    got = q.params[graph.outputs[0]].dequantize(with_session)
    assert cosine(got, arrays["output"][:count]) >= SHARED[name]


def test_scales_of_a_qdq_file_are_carried_over(shared):
    """Every scale of the file's QuantizeLinear nodes stands in the int8 model."""
    path = onnx_files(shared) / "cnn_qdq.onnx"
    source = onnx.load(path)
    constants = {i.name: numpy_helper.to_array(i) for i in source.graph.initializer}
    wanted = {
        (float(constants[n.input[1]]), int(constants[n.input[2]]))
        for n in source.graph.node
        if n.op_type == "QuantizeLinear"
    }
    model = import_model(path).model()
    found = {(float(t.scale), t.zero_point) for t in model.tensors if t.dtype == "int8" and not t.constant}
    assert wanted <= found and len(wanted) == 8


def test_command_prints_check_and_agreement(tmp_path, capsys):
    onnx.save(small_network(), tmp_path / "a.onnx")
    np.savez(tmp_path / "d.npz", x=floats(9, 2, 8, 8))
    command = ["import", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "a.tflite"), "--report"]
    assert main([*command, "--calibrate", str(tmp_path / "d.npz"), "--nhwc"]) == 0
    said = capsys.readouterr().out
    assert "cycles" in said and "on 9 calibration samples: cosine 0.99" in said and "dB alone" in said
    from lepton.sw.graph.reader import load_model

    model = load_model(tmp_path / "a.tflite")
    assert model.tensors[model.inputs[0]].shape == (1, 8, 8, 2)

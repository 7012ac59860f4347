"""Keras models, by TensorFlow's converter to float TensorFlow Lite with the batch fixed to 1.

The converter takes a Keras 3 LSTM or GRU apart, or dies of it. In a chain of layers each of them is therefore read here
(an LSTM is one operator), and only the layers between them are converted.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from lepton.sw.frontends import graph as ir
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.frontends.recurrent import MAX_STEPS, gru
from lepton.sw.frontends.simplify import simplify
from lepton.sw.frontends.tflite_reader import read_tflite

MISSING = "reading Keras needs TensorFlow: pip install 'lepton-npu[keras]'"


def is_keras(source: Any) -> bool:
    """Whether it is a Keras model, without importing Keras."""
    return any(
        c.__module__.split(".")[0] in ("keras", "tf_keras") and c.__name__ == "Model" for c in type(source).__mro__
    )


def read_keras(source: Any, name: str | None = None) -> Graph:
    """The float graph of a .keras or .h5 file, or of a Keras model. Raises ImportModelError, one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportModelError(MISSING) from None
    if isinstance(source, (str, Path)):
        path = Path(source)
        name = name or path.stem
        try:
            source = tf.keras.models.load_model(path, compile=False)
        except Exception as error:
            first = " ".join(str(error).split())[:160]
            raise ImportModelError(f"{path}: Keras cannot load it ({type(error).__name__}: {first})") from None
    name = name or source.name
    for t in source.inputs:
        if any(d is None for d in t.shape[1:]):
            raise ImportModelError(f"{name}: input {t.name!r} has shape {tuple(t.shape)}: build it with fixed sizes")
    layers = [layer for layer in source.layers if type(layer).__name__ != "InputLayer"]
    recurrent = [layer for layer in layers if _is_recurrent(tf, layer)]
    if not recurrent:
        return read_tflite(_converted(tf, source, source.inputs, name), name)
    if type(source).__name__ != "Sequential" and not _is_chain(layers):
        kind = type(recurrent[0]).__name__
        raise ImportModelError(f"{name}: {kind} in a network that is no chain of layers: export it to ONNX (tf2onnx)")
    return _chain(tf, layers, tuple(source.inputs[0].shape[1:]), name)


def _is_recurrent(tf, layer) -> bool:
    return isinstance(layer, (tf.keras.layers.RNN, tf.keras.layers.Bidirectional))


def _converted(tf, model, inputs, name: str) -> bytes:
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    specs = [tf.TensorSpec((1, *t.shape[1:]), tf.float32) for t in inputs]

    def call(*x):
        return model(list(x) if len(x) > 1 else x[0], training=False)

    try:
        function = convert_variables_to_constants_v2(tf.function(call).get_concrete_function(*specs))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
        return converter.convert()
    except Exception as error:
        first = " ".join(str(error).split())[:200]
        raise ImportModelError(f"{name}: TensorFlow's converter refuses it ({type(error).__name__}: {first})") from None


def _is_chain(layers) -> bool:
    """Every layer takes what the one before it gives, and nothing else."""
    for before, layer in zip(layers, layers[1:]):
        try:
            if layer.input is not before.output:
                return False
        except (AttributeError, ValueError):
            return False
    return True


def _chain(tf, layers, shape: tuple[int, ...], name: str) -> Graph:
    nodes: list[Node] = []
    first = current = Value("input", (1, *shape))
    part: list = []

    def convert():
        nonlocal current
        if not part:
            return
        inputs = tf.keras.Input(current.shape[1:], batch_size=1)
        y = inputs
        for layer in part:
            y = layer(y)
        between = tf.keras.Model(inputs, y)
        graph = read_tflite(_converted(tf, between, between.inputs, name), name)
        for node in graph.nodes:
            node.inputs = [current if v is graph.inputs[0] else v for v in node.inputs]
        nodes.extend(graph.nodes)
        current = current if graph.outputs[0] is graph.inputs[0] else graph.outputs[0]
        part.clear()

    for layer in layers:
        if not _is_recurrent(tf, layer):
            part.append(layer)
            continue
        convert()
        current = _recurrent(layer, current, nodes, name)
    convert()
    return simplify(Graph(nodes, [first], [current], name))


def _recurrent(layer, x: Value, nodes: list[Node], name: str) -> Value:
    """An LSTM or GRU, and the last step of it where the layer gives no sequence."""
    kind = type(layer).__name__
    where, source = f"{name}: layer {layer.name!r} ({kind})", f"{layer.name} ({kind})"
    if kind not in ("LSTM", "GRU"):
        raise ImportModelError(f"{where}: LSTM and GRU are supported; export others to ONNX (tf2onnx)")
    functions = (layer.activation.__name__, layer.recurrent_activation.__name__)
    for ok, why in (
        (functions == ("tanh", "sigmoid"), f"activations {functions}: tanh and sigmoid are supported"),
        (not layer.go_backwards, "go_backwards is not supported"),
        (not layer.stateful, "stateful is not supported"),
        (not layer.return_state, "return_state is not supported"),
        (kind == "LSTM" or x.shape[1] <= MAX_STEPS, f"{x.shape[1]} steps: a GRU is unrolled, at most {MAX_STEPS}"),
    ):
        if not ok:
            raise ImportModelError(f"{where}: {why}")
    if kind == "GRU":
        kernel, recurrent, *bias = (np.asarray(w, np.float32) for w in layer.get_weights())
        both = np.zeros((2, 3 * layer.units), np.float32)
        if bias:
            both[: len(np.atleast_2d(bias[0]))] = bias[0]
        made, y = gru(x, kernel.T, recurrent.T, both, layer.reset_after, layer.name, source)
        nodes += made
    else:
        y = _lstm(layer, x, nodes, source)
    if layer.return_sequences:
        return y
    last, steps = Value(f"{layer.name}/last", (1, layer.units)), x.shape[1]
    tables = [np.array(t, np.int32) for t in ([0, steps - 1, 0], [0, steps, 0], [1, 1, 1])]
    cut = ir.CUT | {"BeginMask": 5, "EndMask": 5, "ShrinkAxisMask": 2}
    nodes.append(Node("STRIDED_SLICE", [y, *(Value("table", t.shape, t) for t in tables)], [last], cut, source))
    return last


def _lstm(layer, x: Value, nodes: list[Node], source: str) -> Value:
    """One operator."""
    kernel, recurrent, *bias = (np.asarray(w, np.float32) for w in layer.get_weights())
    n = layer.units

    def parts(a: np.ndarray, kind: str) -> list[Value | None]:  # Keras has the gates in TFLite's order: i, f, c, o
        made = [a[..., k * n : (k + 1) * n].T for k in range(4)]
        return [Value(f"{layer.name}/{kind}{k}", m.shape, np.ascontiguousarray(m)) for k, m in enumerate(made)]

    biases = parts(bias[0], "bias") if bias else [None] * 4
    y = Value(layer.name, (1, x.shape[1], n))
    options = {"FusedActivationFunction": ir.TANH, "CellClip": 0.0, "ProjClip": 0.0, "TimeMajor": False}
    operands = [x, *parts(kernel, "kernel"), *parts(recurrent, "recurrent"), None, None, None, *biases]
    nodes.append(
        Node("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, [y], options | {"AsymmetricQuantizeInputs": False}, source)
    )
    return y

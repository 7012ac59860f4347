"""Convolutions and matrix products of int16, by int4 and by weights that are activations, against TFLM."""

from dataclasses import replace

import numpy as np
import pytest
import tflite
from test_sequence import act, compare, const, lstm, model_of, svdf

from lepton.rtl.spec.config import PRESETS
from lepton.sw.compiler import compile_model
from lepton.sw.compiler.network import Compiler
from lepton.sw.compiler.program import HostStep
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.graph.writer import OperatorSpec, TensorSpec, write_model
from lepton.sw.reference import golden
from lepton.sw.session import Session

RNG = np.random.default_rng(11)


def weights(shape, channels, axis=0, scale=0.004):
    return const(RNG.integers(-127, 128, shape).astype(np.int8), scale * RNG.uniform(0.5, 2, channels), axis)


def int4(shape, channels, axis=0, scale=0.05):
    """Constant int4 weights, packed."""
    values = RNG.integers(-8, 8, int(np.prod(shape))).astype(np.int8)
    low, high = values[::2] & 15, np.append(values, np.int8(0))[1::2][: (len(values) + 1) // 2] & 15
    scales = scale * RNG.uniform(0.5, 2, channels)
    return TensorSpec("w", shape, "int4", scales, [0] * channels, axis, (low | high << 4).astype(np.uint8))


def bias(n, dtype="int64"):
    size = {"int64": 2_000_000, "int32": 2_000_000, "int16": 30000}[dtype]
    # TFLM compares the bias's scale with that of the products
    return const(RNG.integers(-size, size, n).astype(dtype), 1e-7)


def wide(shape, scale=1e-4, zero=0):
    return act(shape, scale, zero, "int16")


CONV = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1, "Padding": 0}


@pytest.mark.parametrize("channels", [1, 7])
@pytest.mark.parametrize("of_bias", ["int64", "int32", "none", "none, 32 bits"])
@pytest.mark.parametrize("activation", [0, 3])
def test_conv_of_int16(channels, of_bias, activation):
    tensors = [wide((2, 6, 5, 4)), weights((7, 3, 2, 4), channels)]
    options = CONV | {"FusedActivationFunction": activation, "StrideW": 2}
    if "none" in of_bias:
        options["QuantizedBiasType"] = tflite.TensorType.INT32 if "32" in of_bias else tflite.TensorType.FLOAT32
    else:
        tensors.append(bias(7, of_bias))
    n = len(tensors)
    tensors.append(wide((2, 6, 3, 7), 3e-4))
    seen = compare(model_of("CONV_2D", tensors, list(range(n)), [n], "Conv2DOptions", **options))
    assert len(np.unique(seen)) > 100


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("with_bias", [True, False])
def test_depthwise_conv_of_int16(multiplier, with_bias):
    channels = 3 * multiplier
    tensors = [wide((1, 6, 6, 3)), weights((1, 3, 3, channels), channels, 3)]
    tensors += [bias(channels)] * with_bias
    n = len(tensors)
    tensors.append(wide((1, 4, 4, channels), 2e-4))
    options = CONV | {"DepthMultiplier": multiplier, "Padding": 1}
    compare(model_of("DEPTHWISE_CONV_2D", tensors, list(range(n)), [n], "DepthwiseConv2DOptions", **options))


@pytest.mark.parametrize("of_bias", ["int64", "int16", None])
def test_transpose_conv_of_int16(of_bias):
    shape = const(np.array([1, 8, 8, 5], np.int32))
    tensors = [shape, weights((5, 3, 3, 4), 5), wide((1, 4, 4, 4))]
    tensors += [bias(5, of_bias)] if of_bias else []
    n = len(tensors)
    tensors.append(wide((1, 8, 8, 5), 3e-4))
    options = {"StrideH": 2, "StrideW": 2, "Padding": 0}
    compare(model_of("TRANSPOSE_CONV", tensors, list(range(n)), [n], "TransposeConvOptions", **options))


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("activation", [1, 2, 3])
def test_transpose_conv_with_activation(dtype, activation):
    shape = const(np.array([1, 7, 5, 3], np.int32))
    x, y = (act((1, 4, 3, 4)), act((1, 7, 5, 3), 0.07)) if dtype == "int8" else (wide((1, 4, 3, 4)), wide((1, 7, 5, 3)))
    tensors = [shape, weights((3, 3, 3, 4), 3, 0, 0.02), x, y]
    options = {"StrideH": 2, "StrideW": 2, "Padding": 0, "FusedActivationFunction": activation}
    compare(model_of("TRANSPOSE_CONV", tensors, [0, 1, 2], [3], "TransposeConvOptions", **options))


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("of_bias", ["int64", "int32", "none", "none, 32 bits"])
def test_fully_connected_of_int16(channels, of_bias):
    tensors = [wide((2, 3, 20)), weights((9, 20), channels)]
    options = {"KeepNumDims": True}
    if "none" in of_bias:
        options["QuantizedBiasType"] = tflite.TensorType.INT32 if "32" in of_bias else tflite.TensorType.FLOAT32
    else:
        tensors.append(bias(9, of_bias))
    n = len(tensors)
    tensors.append(wide((2, 3, 9), 2e-4))
    compare(model_of("FULLY_CONNECTED", tensors, list(range(n)), [n], "FullyConnectedOptions", **options))


@pytest.mark.parametrize("channels", [1, 5])
def test_conv_by_int4(channels):
    tensors = [act((1, 5, 5, 3)), int4((5, 3, 3, 3), channels), bias(5, "int32"), act((1, 5, 5, 5), 0.3)]
    compare(model_of("CONV_2D", tensors, [0, 1, 2], [3], "Conv2DOptions", **CONV))


def test_depthwise_conv_by_int4():
    tensors = [act((1, 5, 5, 3)), int4((1, 3, 3, 3), 3, 3), bias(3, "int32"), act((1, 5, 5, 3), 0.2)]
    options = CONV | {"DepthMultiplier": 1}
    compare(model_of("DEPTHWISE_CONV_2D", tensors, [0, 1, 2], [3], "DepthwiseConv2DOptions", **options))


@pytest.mark.parametrize("op", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_int4_on_the_array(op):
    depthwise = op == "DEPTHWISE_CONV_2D"
    weight = int4((1, 3, 3, 4), 4, 3) if depthwise else int4((4, 3, 3, 4), 4)
    tensors = [act((1, 5, 5, 4)), weight, bias(4, "int32"), act((1, 5, 5, 4), 0.3)]
    options = CONV | ({"DepthMultiplier": 1} if depthwise else {})
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    model = load_model(model_of(op, tensors, [0, 1, 2], [3], kind, **options))
    program = compile_model(model, PRESETS["tiny"])
    assert not any(isinstance(step, HostStep) for step in program.steps)
    x = RNG.integers(-128, 128, (3, 5, 5, 4)).astype(np.int8)
    assert np.array_equal(Session(model, "tiny", "iss").run(x), golden.run(model, x))


def test_products_are_counted():
    def count(data):
        model = load_model(data)
        return Compiler(model, PRESETS["tiny"]).macs(model.operators[0])

    assert count(lstm(RNG, steps=9, inputs=7, units=12)) == 9 * 4 * 12 * (7 + 12)
    assert count(svdf(RNG, 20, 9, 2, 5, "int8", batch=3)) == 3 * 18 * (20 + 5)
    tensors = [act((2, 6, 4)), act((2, 6, 5)), act((2, 4, 5))]
    assert count(model_of("BATCH_MATMUL", tensors, [0, 1], [2], "BatchMatMulOptions", AdjX=True)) == 2 * 4 * 6 * 5


def test_fully_connected_by_int4():
    tensors = [act((1, 21)), int4((5, 21), 1), bias(5, "int32"), act((1, 5), 0.2)]
    compare(model_of("FULLY_CONNECTED", tensors, [0, 1, 2], [3], "FullyConnectedOptions"))


@pytest.mark.parametrize("zero", [0, -5])
@pytest.mark.parametrize("rows", [1, 4])
def test_fully_connected_by_an_activation(zero, rows):
    tensors = [act((rows, 20)), act((9, 20), 0.01, zero), act((rows, 9), 0.06)]
    compare(model_of("FULLY_CONNECTED", tensors, [0, 1], [2], "FullyConnectedOptions"))


def test_fully_connected_by_an_activation_and_a_bias():
    tensors = [act((3, 20)), act((9, 20), 0.01), bias(9, "int32"), act((3, 9), 0.06)]
    compare(model_of("FULLY_CONNECTED", tensors, [0, 1, 2], [3], "FullyConnectedOptions"))


@pytest.mark.parametrize("x, y, keep", [((2, 3, 8), (6, 5), False), ((2, 3, 8), (2, 3, 5), True), ((4, 4), (2, 5), 0)])
def test_fully_connected_rows(x, y, keep):
    tensors = [act(x), weights((5, 8), 5), bias(5, "int32"), act(y, 0.05)]
    compare(model_of("FULLY_CONNECTED", tensors, [0, 1, 2], [3], "FullyConnectedOptions", KeepNumDims=bool(keep)))


@pytest.mark.parametrize("scales", [(0.05, 0.1, 0.004), (0.081, 0.009, 0.002916), (0.024, 0.018, 0.0001728)])
@pytest.mark.parametrize("constant", [True, False])
def test_ties_of_fully_connected(scales, constant):
    """Scales whose ratio in float32 is a short binary fraction, in double not."""
    x, w, y = scales
    weight = const(RNG.integers(-128, 128, (4, 2)).astype(np.int8), w) if constant else act((4, 2), w, 0)
    tensors = [act((200, 2), x), weight, act((200, 4), y, 1)]
    compare(model_of("FULLY_CONNECTED", tensors, [0, 1], [2], "FullyConnectedOptions"))


def test_refusals():
    tensors = [act((1, 8)), int4((5, 8), 5), bias(5, "int32"), act((1, 5))]
    with pytest.raises(ModelError, match="int4 weights with a scale a channel"):
        load_model(model_of("FULLY_CONNECTED", tensors, [0, 1, 2], [3], "FullyConnectedOptions"))
    tensors = [wide((1, 6, 6, 3)), weights((1, 3, 3, 3), 3, 3), bias(3, "int32"), wide((1, 6, 6, 3))]
    with pytest.raises(ModelError, match="bias must be constant int64"):
        options = CONV | {"DepthMultiplier": 1}
        load_model(model_of("DEPTHWISE_CONV_2D", tensors, [0, 1, 2], [3], "DepthwiseConv2DOptions", **options))
    tensors = [wide((1, 8), zero=4), weights((5, 8), 5), wide((1, 5))]
    with pytest.raises(ModelError, match="zero point other than 0"):
        load_model(model_of("FULLY_CONNECTED", tensors, [0, 1], [2], "FullyConnectedOptions"))


def test_shapes_that_the_file_leaves_open():
    """A free batch's shapes come from a constant that is computed when the model is read; 1 stands in for them."""

    def made(settled):
        def open_(shape, *quant):
            x = act(shape, *quant)
            return x if settled else replace(x, shape=[1] * len(shape), signature=[-1] * len(shape))

        tensors = [
            replace(act((1, 6, 4)), signature=[-1, 6, 4]),
            const(np.array([-1, 4], np.int32)),
            open_((6, 4)),
            TensorSpec("w", (5, 4), "int8", [0.01], [0], 0, (np.arange(20, dtype=np.int8) * 7 % 41 - 20).reshape(5, 4)),
            open_((6, 5), 0.02),
            const(np.array([1, 0], np.int32)),
            open_((5, 6), 0.02),
            open_((5, 6), 1 / 256, -128),
            open_((10, 6), 1 / 256, -128),
            open_((10, 10), 0.01, 0),
        ]
        operators = [
            OperatorSpec("RESHAPE", [0, 1], [2]),
            OperatorSpec("FULLY_CONNECTED", [2, 3], [4], "FullyConnectedOptions"),
            OperatorSpec("TRANSPOSE", [4, 5], [6]),
            OperatorSpec("SOFTMAX", [6], [7], "SoftmaxOptions", {"Beta": 1.0}),
            OperatorSpec("CONCATENATION", [7, 7], [8], "ConcatenationOptions", {"Axis": 0}),
            OperatorSpec("BATCH_MATMUL", [8, 8], [9], "BatchMatMulOptions", {"AdjY": True}),
        ]
        return write_model(tensors, operators, [0], [9])

    compare(made(True))  # with the shapes in the file, TFLM runs it
    fixed, free = load_model(made(True)), load_model(made(False))
    assert [t.shape for t in free.tensors] == [t.shape for t in fixed.tensors]
    x = RNG.integers(-128, 128, (3, 6, 4)).astype(np.int8)
    assert np.array_equal(golden.run(free, x), golden.run(fixed, x))

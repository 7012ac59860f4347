"""The golden model against recorded outputs and against TensorFlow Lite Micro itself."""

import numpy as np
import pytest

from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden, quantities
from lepton.verif.random.tflite_builder import one_operator

MODELS = ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"]
ZOO = """
add_c12 avgpool3 concat conv1x1_c64 conv1x7_c10 conv3x3_c16 conv3x3_dil2 conv3x3_s2_c3 conv5x5_valid_c5
dw3x3_c16 dw3x3_mult2_c4 dw3x3_s2_c24 dw5x5_c9 fc_100_37 fc_mlp gap_fc maxpool2 mbv2_block mul_gate pad_conv
resnet_block seed_mnist_cnn sigmoid_tanh
""".split()


@pytest.mark.parametrize("name", [f"models/{n}" for n in MODELS] + [f"zoo/{n}" for n in ZOO])
def test_recorded_outputs(shared, name):
    model = load_model(shared / f"{name}.tflite")
    with np.load(shared / f"{name}.npz") as record:
        x, want = record["input"][:2], record["output"][:2]
    got = golden.run(model, x)
    assert got.dtype == np.int8 and got.shape == want.shape
    assert np.array_equal(got, want)


def compare(data, seed=0, count=3):
    """Golden and TensorFlow Lite Micro on `count` random inputs: equal bytes."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite_micro is not installed")
    model = load_model(data)
    rng = np.random.default_rng(seed)
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 20)
    for _ in range(count):
        xs = []
        for k, i in enumerate(model.inputs):
            shape = model.tensors[i].shape
            if np.prod(shape) == 256:
                x = rng.permutation(np.arange(-128, 128)).astype(np.int8).reshape(shape)
            else:
                x = rng.integers(-128, 128, shape).astype(np.int8)
            interpreter.set_input(x, k)
            xs.append(x)
        interpreter.invoke()
        want = interpreter.get_output(0)
        got = golden.run(model, *xs)
        assert np.array_equal(got.reshape(want.shape), want)


def act(shape, scale=0.05, zero=3):
    return (shape, scale, zero, None, 0)


def ints(values):
    values = np.array(values, np.int32)
    return (values.shape, None, 0, values, 0)


RNG = np.random.default_rng(7)


def weights(shape, channels, axis, scale=0.004):
    data = RNG.integers(-128, 128, shape).astype(np.int8)
    return (shape, scale * RNG.uniform(0.5, 2, channels), 0, data, axis)


def bias(n):
    return ((n,), np.full(n, 0.0002), 0, RNG.integers(-20000, 20000, n).astype(np.int32), 0)


@pytest.mark.parametrize("op, scale, zero", [("LOGISTIC", 1 / 256, -128), ("TANH", 1 / 128, 0)])
@pytest.mark.parametrize("of_input", [9.0, 15.9, 16.0, 64.5])
def test_functions_of_large_scales(op, scale, zero, of_input):
    compare(one_operator(op, [act((1, 256), of_input, 90), act((1, 256), scale, zero)], [0], [1]))


@pytest.mark.parametrize("scale, zero", [(0.05, 3), (0.0005, -128), (0.0231, 90), (0.4, 127), (1.7, -7)])
@pytest.mark.parametrize("op", ["LOGISTIC", "TANH", "RELU", "RELU6", "HARD_SWISH", "LEAKY_RELU", "QUANTIZE", "SOFTMAX"])
def test_unary_operators(op, scale, zero):
    out = {"LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0), "RELU6": (scale, zero)}
    out = out.get(op, (scale * 0.73, -11))
    kind = {"LEAKY_RELU": "LeakyReluOptions", "SOFTMAX": "SoftmaxOptions"}.get(op)
    options = {"LEAKY_RELU": {"Alpha": 0.2}, "SOFTMAX": {"Beta": 1.0}}.get(op)
    shape = (1, 8, 32)
    compare(one_operator(op, [act(shape, scale, zero), act(shape, *out)], [0], [1], options, kind))


@pytest.mark.parametrize("size", [511, 1000, 4095])
def test_wide_softmax(size):
    """As long as the exponentials sum to less than 512, TFLM has an answer: 511 equal values, or many that differ."""
    tensors = [act((1, size), 0.4, 3), act((1, size), 1 / 256, -128)]
    data = one_operator("SOFTMAX", tensors, [0], [1], {"Beta": 1.0}, "SoftmaxOptions")
    compare(data)
    flat = golden.run(load_model(data), np.full((1, size), 7, np.int8))
    assert (flat == round(256 / size) - 128).all()


@pytest.mark.parametrize("op, kind", [("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions")])
@pytest.mark.parametrize("second", [(1, 5, 4, 6), (1, 1, 1, 6)])
@pytest.mark.parametrize("activation", [0, 1, 3])
def test_binary_operators(op, kind, second, activation):
    shape = (1, 5, 4, 6)
    tensors = [act(shape, 0.07, 9), act(second, 0.013, -80), act(shape, 0.06, 4)]
    compare(one_operator(op, tensors, [0, 1], [2], {"FusedActivationFunction": activation}, kind))


@pytest.mark.parametrize("op", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
@pytest.mark.parametrize("padding, out", [(0, (1, 4, 5, 3)), (1, (1, 3, 4, 3))])
@pytest.mark.parametrize("activation", [0, 1])
def test_pools(op, padding, out, activation):
    options = dict(
        Padding=padding, StrideH=2, StrideW=2, FilterHeight=3, FilterWidth=2, FusedActivationFunction=activation
    )
    compare(one_operator(op, [act((1, 7, 9, 3)), act(out)], [0], [1], options, "Pool2DOptions"))


@pytest.mark.parametrize("target", [(0.05, 3), (0.011, -20)])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes", [[1, 2], [2], [-1], [1]])
def test_mean(target, keep, axes):
    shape = (1, 5, 7, 6)
    kept = [1 if i in {a % 4 for a in axes} else d for i, d in enumerate(shape)]
    out = kept if keep else [d for i, d in enumerate(shape) if i not in {a % 4 for a in axes}]
    tensors = [act(shape), ints(axes), act(tuple(out), *target)]
    compare(one_operator("MEAN", tensors, [0, 1], [2], {"KeepDims": keep}, "ReducerOptions"))


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_fully_connected(per_channel, with_bias):
    w = weights((5, 24), 5 if per_channel else 1, 0)
    b = ((5,), 0.05 * w[1], 0, RNG.integers(-2000, 2000, 5).astype(np.int32), 0)
    tensors = [act((1, 24)), w, b, act((1, 5), 0.2)]
    ins = [0, 1, 2] if with_bias else [0, 1, -1]
    compare(one_operator("FULLY_CONNECTED", tensors, ins, [3], {"FusedActivationFunction": 1}, "FullyConnectedOptions"))


@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("depthwise", [False, True])
def test_convolutions(stride, dilation, padding, depthwise):
    extent = (3 - 1) * dilation + 1
    size = [-(-n // stride) if padding == 0 else (n - extent) // stride + 1 for n in (9, 8)]
    options = dict(Padding=padding, StrideH=stride, StrideW=stride, DilationHFactor=dilation, DilationWFactor=dilation)
    options["FusedActivationFunction"] = 3
    if depthwise:
        options["DepthMultiplier"] = 2
    w = weights((1, 3, 3, 8) if depthwise else (8, 3, 3, 4), 8, 3 if depthwise else 0)
    op, kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
    tensors = [act((1, 9, 8, 4), 0.05, -7), w, bias(8), act((1, *size, 8), 0.03, -100)]
    compare(one_operator(op, tensors, [0, 1, 2], [3], options, kind))


def test_grouped_convolution():
    tensors = [act((1, 6, 6, 8)), weights((6, 3, 3, 4), 6, 0), bias(6), act((1, 6, 6, 6), 0.1)]
    options = dict(Padding=0, StrideH=1, StrideW=1)
    compare(one_operator("CONV_2D", tensors, [0, 1, 2], [3], options, "Conv2DOptions"))


@pytest.mark.parametrize("padding, out", [(0, 10), (1, 11)])
def test_transpose_conv(padding, out):
    shape = (1, out, out, 6)
    tensors = [ints(shape), weights((6, 3, 3, 4), 6, 0), act((1, 5, 5, 4), 0.05, -30), bias(6), act(shape, 0.1)]
    options = dict(Padding=padding, StrideH=2, StrideW=2)
    compare(one_operator("TRANSPOSE_CONV", tensors, [0, 1, 2, 3], [4], options, "TransposeConvOptions"))


def test_pad_and_transpose():
    x = act((1, 4, 5, 3))
    compare(
        one_operator(
            "PAD", [x, ints([[0, 0], [1, 2], [0, 3], [0, 0]]), act((1, 7, 8, 3))], [0, 1], [2], {}, "PadOptions"
        )
    )
    compare(one_operator("TRANSPOSE", [x, ints([0, 3, 1, 2]), act((1, 3, 4, 5))], [0, 1], [2], {}, "TransposeOptions"))


def test_concatenation():
    tensors = [act((1, 4, 5, 3)), act((1, 4, 2, 3)), act((1, 4, 7, 3))]
    compare(one_operator("CONCATENATION", tensors, [0, 1], [2], {"Axis": -2}, "ConcatenationOptions"))


@pytest.mark.parametrize(
    "begin, end, strides, masks, out",
    [
        ([0, 1, 2, 0], [1, 5, 6, 3], [1, 2, 1, 1], {}, (1, 2, 4, 3)),
        ([0, -1, 0, 0], [1, 0, 0, 0], [1, -2, 2, 1], {"BeginMask": 12, "EndMask": 14}, (1, 3, 3, 3)),
        ([0, 2, 0, 0], [1, 3, 6, 3], [1, 1, 1, 1], {"ShrinkAxisMask": 2}, (1, 6, 3)),
    ],
)
def test_strided_slice(begin, end, strides, masks, out):
    tensors = [act((1, 6, 6, 3)), ints(begin), ints(end), ints(strides), act(out)]
    compare(one_operator("STRIDED_SLICE", tensors, [0, 1, 2, 3], [4], masks, "StridedSliceOptions"))


@pytest.mark.parametrize("options", [{}, {"AlignCorners": True}, {"HalfPixelCenters": True}])
@pytest.mark.parametrize("size", [(8, 10), (7, 3), (2, 1)])
def test_resize_nearest(options, size):
    tensors = [act((1, 4, 5, 3)), ints(size), act((1, *size, 3))]
    kind = "ResizeNearestNeighborOptions"
    compare(one_operator("RESIZE_NEAREST_NEIGHBOR", tensors, [0, 1], [2], options, kind))


def test_tables_and_parameters_agree_with_operators():
    data = one_operator("QUANTIZE", [act((1, 256)), act((1, 256), 0.02, 5)], [0], [1])
    model = load_model(data)
    table = quantities.unary_table(model, model.operators[0])
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    assert table.dtype == np.int8 and np.array_equal(golden.run(model, x)[0], table)


def test_run_refuses_wrong_inputs():
    model = load_model(one_operator("RELU6", [act((1, 4)), act((1, 4))], [0], [1]))
    with pytest.raises(ModelError, match="is int8"):
        golden.run(model, np.zeros((1, 4), np.float32))
    with pytest.raises(ModelError, match="is int8"):
        golden.run(model, np.zeros((1, 5), np.int8))
    with pytest.raises(ModelError, match="1 inputs"):
        golden.run(model)

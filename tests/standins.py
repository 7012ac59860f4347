"""Stand-ins for the reference models: nets of the same shapes, with weights drawn by chance.

`make(folder)` writes `models` (the four of MLPerf Tiny) and `zoo` (a block each), every .tflite with an .npz of `input`
and `output` (N, ...), as TensorFlow Lite Micro computes them.
"""

from pathlib import Path

import numpy as np

from lepton.verif.random.graphs import reference
from lepton.verif.random.tflite_builder import build

SIGMA = 2.0
"""Every layer's weights are scaled so that its results spread like this."""
ROWS = 4


class Net:
    """A network under construction: each method adds an operator and gives the number of its output tensor."""

    def __init__(self, *shape: int, seed: int = 1):
        self.rng = np.random.default_rng(seed)
        self.tensors: list[tuple] = []
        self.operators: list[tuple] = []
        self.rms: dict[int, float] = {}
        self.x = self.tensor((1, *shape), SIGMA, signed=True)

    def tensor(self, shape, rms=SIGMA, signed=False, quant=None) -> int:
        quant = quant or ((3 * rms / 127, int(self.rng.integers(-20, 20))) if signed else (3 * rms / 255, -128))
        self.tensors.append((tuple(shape), *quant, None, 0))
        self.rms[len(self.tensors) - 1] = rms
        return len(self.tensors) - 1

    def constant(self, data, scale=None, axis=0) -> int:
        self.tensors.append((data.shape, scale, 0, data, axis))
        return len(self.tensors) - 1

    def shape(self, t) -> tuple[int, ...]:
        return self.tensors[t][0]

    def quant(self, t) -> tuple[float, int]:
        return self.tensors[t][1:3]

    def add_op(self, op, ins, out, kind=None, **options) -> int:
        self.operators.append((op, ins, [out], kind and (kind, options)))
        return out

    def weights(self, x, shape, axis) -> list[int]:
        fan_in, channels = int(np.prod(shape)) // shape[axis], shape[axis]
        scale = SIGMA / (self.rms[x] * 73 * np.sqrt(fan_in)) * self.rng.uniform(0.7, 1.4, channels)
        scale = scale.astype(np.float32)
        w = self.constant(self.rng.integers(-127, 128, shape).astype(np.int8), scale, axis)
        bias_scale = np.float32(self.quant(x)[0]) * scale
        bias = (self.rng.normal(0, SIGMA / 4, channels) / bias_scale).astype(np.int32)
        return [w, self.constant(bias, bias_scale)]

    def conv(self, x, channels, kernel=(3, 3), stride=1, act=0, valid=0, dilation=1, multiplier=None) -> int:
        """CONV_2D; DEPTHWISE_CONV_2D with a depth multiplier. act: 0 none, 1 RELU, 3 RELU6."""
        h, w, c = self.shape(x)[1:]
        depthwise = multiplier is not None
        shape, axis = ((1, *kernel, c * multiplier), 3) if depthwise else ((channels, *kernel, c), 0)
        spans = [(k - 1) * dilation + 1 for k in kernel]
        size = [(n - s + stride) // stride if valid else -(-n // stride) for n, s in zip((h, w), spans)]
        out = self.tensor((1, *size, shape[axis]), signed=not act, quant=(6 / 255, -128) if act == 3 else None)
        options = dict(Padding=valid, StrideH=stride, StrideW=stride, FusedActivationFunction=act)
        options |= dict(DilationHFactor=dilation, DilationWFactor=dilation)
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        if depthwise:
            options["DepthMultiplier"] = multiplier
        op = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self.add_op(op, [x, *self.weights(x, shape, axis)], out, kind, **options)

    def dw(self, x, kernel=(3, 3), stride=1, act=0, multiplier=1) -> int:
        return self.conv(x, 0, kernel, stride, act, multiplier=multiplier)

    def fc(self, x, channels, act=0) -> int:
        inputs = int(np.prod(self.shape(x)))
        out = self.tensor((1, channels), signed=not act)
        weights = self.weights(x, (channels, inputs), 0)
        return self.add_op("FULLY_CONNECTED", [x, *weights], out, "FullyConnectedOptions", FusedActivationFunction=act)

    def plus(self, a, b, act=0) -> int:
        out = self.tensor(self.shape(a), 1.4 * SIGMA, signed=not act)
        return self.add_op("ADD", [a, b], out, "AddOptions", FusedActivationFunction=act)

    def times(self, a, b) -> int:
        return self.add_op("MUL", [a, b], self.tensor(self.shape(a), signed=True), "MulOptions")

    def pool(self, x, kernel, stride=None, kind="MAX") -> int:
        """Windows of kernel (h, w), a stride of the same size by default."""
        (kh, kw), (sh, sw) = kernel, stride or kernel
        _, h, w, c = self.shape(x)
        out = self.tensor((1, (h - kh) // sh + 1, (w - kw) // sw + 1, c), self.rms[x], quant=self.quant(x))
        options = dict(Padding=1, StrideH=sh, StrideW=sw, FilterHeight=kh, FilterWidth=kw)
        return self.add_op(f"{kind}_POOL_2D", [x], out, "Pool2DOptions", **options)

    def mean(self, x) -> int:
        out = self.tensor((1, self.shape(x)[3]), signed=True)
        axes = self.constant(np.array([1, 2], np.int32))
        return self.add_op("MEAN", [x, axes], out, "ReducerOptions", KeepDims=False)

    def pad(self, x, *pads) -> int:
        shape = [d + a + b for d, (a, b) in zip(self.shape(x), pads)]
        out = self.tensor(shape, quant=self.quant(x))
        return self.add_op("PAD", [x, self.constant(np.array(pads, np.int32))], out, "PadOptions")

    def flat(self, x) -> int:
        shape = (1, int(np.prod(self.shape(x))))
        out = self.tensor(shape, self.rms[x], quant=self.quant(x))
        return self.add_op("RESHAPE", [x, self.constant(np.array(shape, np.int32))], out, "ReshapeOptions")

    def unary(self, op, x, quant) -> int:
        kind = ("SoftmaxOptions", dict(Beta=1.0)) if op == "SOFTMAX" else (None, {})
        return self.add_op(op, [x], self.tensor(self.shape(x), quant=quant), kind[0], **kind[1])

    def softmax(self, x) -> int:
        return self.unary("SOFTMAX", x, (1 / 256, -128))

    def concat(self, *parts: int) -> int:
        shape = self.shape(parts[0])
        shape = (*shape[:-1], sum(self.shape(t)[-1] for t in parts))
        quant = self.quant(parts[0])
        for t in parts:  # the kernel only copies: they are quantised alike
            self.tensors[t] = (self.tensors[t][0], *quant, *self.tensors[t][3:])
        return self.add_op(
            "CONCATENATION", list(parts), self.tensor(shape, quant=quant), "ConcatenationOptions", Axis=-1
        )

    def data(self) -> bytes:
        return build(self.tensors, self.operators, [self.x], [self.operators[-1][2][0]])


def one(*shape):
    """A net of one layer: decorator of function(net, input)."""

    def decorate(function):
        def made(seed):
            net = Net(*shape, seed=seed)
            function(net, net.x)
            return net.data(), shape

        return made

    return decorate


@one(8, 8, 12)
def add_c12(n, x):
    n.plus(n.conv(x, 12, (1, 1)), x, act=1)


@one(6, 6, 8)
def concat(n, x):
    n.concat(n.conv(x, 5, (1, 1), act=1), n.conv(x, 11))


@one(12, 12, 6)
def avgpool3(n, x):
    n.pool(n.conv(x, 6), (3, 3), kind="AVERAGE")


@one(64)
def fc_mlp(n, x):
    n.softmax(n.fc(n.fc(x, 48, act=1), 10))


@one(7, 7, 20)
def gap_fc(n, x):
    n.softmax(n.fc(n.mean(x), 5))


@one(14, 14, 8)
def mbv2_block(n, x):
    y = n.conv(n.dw(n.conv(x, 48, (1, 1), act=3), act=3), 8, (1, 1))
    n.conv(n.dw(n.conv(n.plus(y, x), 48, (1, 1), act=3), stride=2, act=3), 16, (1, 1))


@one(6, 6, 8)
def mul_gate(n, x):
    a = n.conv(x, 8, (1, 1))
    n.times(a, n.unary("LOGISTIC", n.conv(x, 8, (1, 1)), (1 / 256, -128)))


@one(9, 9, 4)
def pad_conv(n, x):
    n.conv(n.pad(x, (0, 0), (1, 2), (0, 3), (0, 0)), 6, stride=2, valid=1)


def residual(n, x, channels, stride):
    y = n.conv(n.conv(x, channels, stride=stride, act=1), channels)
    return n.plus(y, n.conv(x, channels, (1, 1), stride=stride) if stride > 1 else x, act=1)


@one(16, 16, 8)
def resnet_block(n, x):
    residual(n, x, 12, 2)


@one(28, 28, 1)
def seed_mnist_cnn(n, x):
    y = n.flat(n.pool(n.conv(x, 32, act=1, valid=1), (2, 2)))
    n.softmax(n.fc(n.fc(y, 128, act=1), 10))


@one(30)
def sigmoid_tanh(n, x):
    quant = (1 / 128, 0)
    a = n.unary("QUANTIZE", n.unary("LOGISTIC", n.fc(x, 8), (1 / 256, -128)), quant)
    n.concat(a, n.unary("QUANTIZE", n.unary("TANH", n.fc(x, 8), quant), quant))


@one(640)
def ad01_int8(n, x):
    for channels in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = n.fc(x, channels, act=1)
    n.fc(x, 640)


@one(49, 10, 1)
def kws_ref_model(n, x):
    x = n.conv(x, 64, (10, 4), stride=2, act=1)
    for _ in range(4):
        x = n.conv(n.dw(x, act=1), 64, (1, 1), act=1)
    n.softmax(n.fc(n.flat(n.pool(x, (25, 5), kind="AVERAGE")), 12))


@one(32, 32, 3)
def pretrained_resnet_quant(n, x):
    x = n.conv(x, 16, act=1)
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        x = residual(n, x, channels, stride)
    n.softmax(n.fc(n.flat(n.pool(x, (8, 8), kind="AVERAGE")), 10))


@one(96, 96, 3)
def vww_96_int8(n, x):
    x = n.conv(x, 8, stride=2, act=1)
    for channels, stride in (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ):
        x = n.conv(n.dw(x, stride=stride, act=1), channels, (1, 1), act=1)
    n.softmax(n.fc(n.flat(n.pool(x, (3, 3), kind="AVERAGE")), 2))


ZOO = {
    "add_c12": add_c12,
    "avgpool3": avgpool3,
    "concat": concat,
    "conv1x1_c64": one(5, 5, 64)(lambda n, x: n.conv(x, 64, (1, 1), act=1)),
    "conv1x7_c10": one(6, 20, 10)(lambda n, x: n.conv(x, 13, (1, 7), act=3)),
    "conv3x3_c16": one(12, 12, 16)(lambda n, x: n.conv(x, 16, act=1)),
    "conv3x3_dil2": one(13, 13, 8)(lambda n, x: n.conv(x, 8, act=1, dilation=2)),
    "conv3x3_s2_c3": one(17, 19, 3)(lambda n, x: n.conv(x, 8, stride=2, act=1)),
    "conv5x5_valid_c5": one(11, 9, 5)(lambda n, x: n.conv(x, 7, (5, 5), valid=1)),
    "dw3x3_c16": one(10, 10, 16)(lambda n, x: n.dw(x, act=1)),
    "dw3x3_mult2_c4": one(8, 8, 4)(lambda n, x: n.dw(x, multiplier=2)),
    "dw3x3_s2_c24": one(15, 15, 24)(lambda n, x: n.dw(x, stride=2, act=3)),
    "dw5x5_c9": one(9, 9, 9)(lambda n, x: n.dw(x, (5, 5))),
    "fc_100_37": one(100)(lambda n, x: n.fc(x, 37, act=1)),
    "fc_mlp": fc_mlp,
    "gap_fc": gap_fc,
    "maxpool2": one(14, 14, 8)(lambda n, x: n.pool(n.conv(x, 8), (2, 2))),
    "mbv2_block": mbv2_block,
    "mul_gate": mul_gate,
    "pad_conv": pad_conv,
    "resnet_block": resnet_block,
    "seed_mnist_cnn": seed_mnist_cnn,
    "sigmoid_tanh": sigmoid_tanh,
}
MODELS = {
    "ad01_int8": ad01_int8,
    "kws_ref_model": kws_ref_model,
    "pretrainedResnet_quant": pretrained_resnet_quant,
    "vww_96_int8": vww_96_int8,
}


def make(folder: Path) -> Path:
    """Write all stand-ins to `folder`; returns it."""
    for kind, nets in (("zoo", ZOO), ("models", MODELS)):
        (folder / kind).mkdir(parents=True)
        for seed, (name, net) in enumerate(nets.items(), 1):
            data, shape = net(seed)
            (folder / kind / f"{name}.tflite").write_bytes(data)
            rng = np.random.default_rng([seed, 7])
            xs = rng.integers(-128, 128, (ROWS, *shape)).astype(np.int8)
            np.savez(folder / kind / f"{name}.npz", input=xs, output=reference(data, xs)[:, 0])
    return folder

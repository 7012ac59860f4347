"""The founding documents' networks: dense weights larger than the chip, convolution and pooling in one pass."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from lepton.rtl.spec.config import PRESETS
from lepton.sw.compiler import Program, compile_model
from lepton.sw.graph.reader import load_model
from lepton.sw.session import Session
from lepton.verif.random.graphs import reference
from lepton.verif.random.tflite_builder import build

pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite_micro is not installed")

SMALL = PRESETS["small"]
ROOMY = replace(SMALL, name="roomy", act_bytes=2**20)
WIDE = replace(PRESETS["large"], name="wide", act_bytes=2**20)
PAIRED = replace(PRESETS["flagship"], name="pairs", act_bytes=2**20)
VALID = 1
RELU = 1


class Network:
    """Builds a sequential CNN with seeded random weights, layer by layer; `bytes` ends it."""

    def __init__(self, size: int, seed: int):
        self.rng = np.random.default_rng(seed)
        self.tensors = [((1, size, size, 3), 1 / 64, -3, None, 0)]
        self.operators = []
        self.unpooled = []
        """Tensors that a convolution hands to its pooling."""

    def add(self, *tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    @property
    def shape(self):
        return self.tensors[-1][0]

    def weights(self, shape, channels) -> tuple[int, int, int]:
        """Weights and bias for the last tensor: (input, weights, bias) indexes, scales for outputs that fill int8."""
        x = len(self.tensors) - 1
        x_scale = self.tensors[x][1]
        spread = 0.75 / (74 * 60 * np.sqrt(np.prod(shape) / channels))
        scales = (spread * self.rng.uniform(0.7, 1.4, channels) / x_scale).astype(np.float32)
        w = self.add(shape, scales, 0, self.rng.integers(-127, 128, shape).astype(np.int8), 0)
        bias = self.rng.integers(-1000, 1000, channels).astype(np.int32)
        return x, w, self.add((channels,), scales * np.float32(x_scale), 0, bias, 0)

    def conv_pool(self, channels: int):
        _, h, w, c = self.shape
        ins = self.weights((channels, 3, 3, c), channels)
        y = self.add((1, h - 2, w - 2, channels), 1 / 64, -128, None, 0)
        options = dict(Padding=VALID, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1)
        options["FusedActivationFunction"] = RELU
        self.operators.append(("CONV_2D", ins, [y], ("Conv2DOptions", options)))
        z = self.add((1, (h - 2) // 2, (w - 2) // 2, channels), 1 / 64, -128, None, 0)
        options = dict(Padding=VALID, StrideH=2, StrideW=2, FilterHeight=2, FilterWidth=2)
        self.operators.append(("MAX_POOL_2D", [y], [z], ("Pool2DOptions", options)))
        self.unpooled.append(y)

    def flatten(self):
        x = len(self.tensors) - 1
        size = int(np.prod(self.shape))
        _, scale, zero, *_ = self.tensors[x]
        shape = self.add((2,), None, 0, np.array([1, size], np.int32), 0)
        self.operators.append(("RESHAPE", [x, shape], [self.add((1, size), scale, zero, None, 0)], None))

    def dense(self, channels: int, relu: bool):
        ins = self.weights((channels, self.shape[1]), channels)
        scale = self.tensors[ins[1]][1][:1]  # one scale for the whole tensor
        for i, factor in ((ins[1], 1), (ins[2], np.float32(self.tensors[ins[0]][1]))):
            shape, _, zero, data, axis = self.tensors[i]
            self.tensors[i] = (shape, scale * factor, zero, data, axis)
        y = self.add((1, channels), 1 / 32, -128 if relu else 5, None, 0)
        options = dict(FusedActivationFunction=RELU if relu else 0)
        self.operators.append(("FULLY_CONNECTED", ins, [y], ("FullyConnectedOptions", options)))

    def end(self, op: str, options=None):
        x = len(self.tensors) - 1
        self.operators.append((op, [x], [self.add(self.shape, 1 / 256, -128, None, 0)], options))

    def bytes(self, operators=None) -> bytes:
        """The model, or the one that ends with its first `operators` operators."""
        kept = self.operators[:operators]
        return build(self.tensors, kept, [0], kept[-1][2])


@cache
def cnn64():
    """64x64x3: two convolutions, 1.6 MB of dense weights, ten classes."""
    net = Network(64, 1)
    net.conv_pool(32)
    net.conv_pool(64)
    net.flatten()
    net.dense(128, True)
    net.dense(10, False)
    net.end("SOFTMAX", ("SoftmaxOptions", dict(Beta=1.0)))
    return net.bytes(), tuple(net.unpooled)


def network150() -> Network:
    net = Network(150, 2)
    for channels in (32, 64, 128, 128):
        net.conv_pool(channels)
    net.flatten()
    net.dense(512, True)
    net.dense(1, False)
    net.end("LOGISTIC")
    return net


@cache
def cnn150():
    """150x150x3: four convolutions, 3.2 MB of dense weights, one probability."""
    net = network150()
    return net.bytes(), tuple(net.unpooled)


@cache
def features150():
    """The same up to the 512 values of its first dense layer, which tell more than one probability."""
    net = network150()
    return net.bytes(-2), tuple(net.unpooled)


@cache
def answers(network):
    """(inputs, TFLM's outputs) of a network."""
    data, _ = network()
    size = 64 if network is cnn64 else 150
    xs = np.random.default_rng(7).integers(-128, 128, (2, size, size, 3)).astype(np.int8)
    xs[1] = xs[1] // 4 + np.linspace(-90, 90, size).astype(np.int8)[:, None]  # a picture that is not only noise
    want = reference(data, xs)
    return xs, want.reshape(len(xs), want.shape[-1])


def assert_streams_and_fuses(program: Program, unpooled):
    """Dense weights lie outside the chip, and no map in front of a pooling has a place."""
    assert len(program.image) > 1_600_000 and program.arena_bytes
    assert len(program.tiles) // (6 + program.config.tile_bytes) > program.config.weight_tiles
    assert not set(unpooled) & set(program.places)
    computed = "+".join(layer.name for layer in program.layers)
    assert computed.startswith("+".join(["CONV_2D+MAX_POOL_2D"] * len(unpooled)))


def run(network, config, backend, count=1):
    """Compare a backend with TFLM; the session."""
    data, _ = network()
    xs, want = answers(network)
    session = Session(load_model(data, network.__name__), config, backend)
    assert np.array_equal(session.run(xs[:count]), want[:count])
    return session


@pytest.mark.parametrize("network", (cnn64, cnn150, features150))
def test_golden(network):
    run(network, SMALL, "golden", 2)
    _, want = answers(network)
    assert len(np.unique(want)) > 1  # the two inputs, or the classes, are told apart


@pytest.mark.parametrize("config", (SMALL, ROOMY, WIDE, PAIRED), ids=lambda c: c.name)
def test_64_on_iss(config):
    session = run(cnn64, config, "iss")
    assert_streams_and_fuses(session.program, cnn64()[1])


@pytest.mark.parametrize("config", (SMALL, WIDE), ids=lambda c: c.name)
@pytest.mark.parametrize("network", (cnn150, features150))
def test_150_on_iss(network, config):
    session = run(network, config, "iss")
    assert_streams_and_fuses(session.program, network()[1])


def test_64_on_rtl():
    session = run(cnn64, SMALL, "rtl")
    assert_streams_and_fuses(session.program, cnn64()[1])
    assert session.report["cycles"] > 0


@pytest.mark.parametrize("network", (cnn150, features150))
def test_150_on_rtl(network):
    session = run(network, SMALL, "rtl")
    assert_streams_and_fuses(session.program, network()[1])
    assert session.report["cycles"] > len(session.program.image) // SMALL.memory_width  # a beat a cycle at the most


def test_unpooled_maps_do_not_count_in_the_peak():
    """150x150x3: the input with its stacked rows and the first pooled map are all that is alive at once."""
    program = compile_model(load_model(cnn150()[0]), ROOMY)
    assert program.peak_bytes < 148 * 148 * 32

"""Pruning by the compiler's tiles, and training on the device's arithmetic."""

import re
from dataclasses import replace

import interpreter
import numpy as np
import pytest

from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.sw.compiler import Compiler, compile_model
from lepton.sw.compiler.geometry import weight_tiles
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.graph.reader import load_model
from lepton.sw.optimize import Pruner, cubic
from lepton.sw.reference import golden
from lepton.verif.random.tflite_builder import one_operator

SMALL = get_config("small")
CONFIGS = (SMALL, get_config("flagship"), NpuConfig("odd6x9", rows=6, cols=9, lanes=3, pe="paired", acc_depth=240))
RNG = np.random.default_rng(3)
WINDOW = dict(Padding=0, StrideH=1, StrideW=1)
DILATION = dict(DilationHFactor=1, DilationWFactor=1)


def weights(*shape):
    return (shape, 0.01, 0, RNG.integers(1, 128, shape).astype(np.int8), 0)


def product(op, x, w, y, kind, options):
    """A model of one operator with weights, none of them zero."""
    tensors = [(x, 0.05, 3, None, 0), weights(*w), (y, 0.07, -2, None, 0)]
    if op == "TRANSPOSE_CONV":
        shape = np.array(y, np.int32)
        return load_model(one_operator(op, [*tensors, ((4,), None, 0, shape, 0)], [3, 1, 0], [2], options, kind), "net")
    return load_model(one_operator(op, tensors, [0, 1], [2], options, kind), "net")


PRODUCTS = {
    "conv": ("CONV_2D", (1, 7, 7, 5), (19, 3, 3, 5), (1, 7, 7, 19), "Conv2DOptions", WINDOW | DILATION),
    "dilated": (
        "CONV_2D",
        (1, 9, 9, 5),
        (11, 3, 3, 5),
        (1, 9, 9, 11),
        "Conv2DOptions",
        WINDOW | dict(DilationHFactor=2, DilationWFactor=2),
    ),
    "grouped": ("CONV_2D", (1, 7, 7, 24), (16, 3, 3, 12), (1, 7, 7, 16), "Conv2DOptions", WINDOW | DILATION),
    "depthwise": (
        "DEPTHWISE_CONV_2D",
        (1, 7, 7, 21),
        (1, 5, 5, 21),
        (1, 7, 7, 21),
        "DepthwiseConv2DOptions",
        WINDOW | DILATION | dict(DepthMultiplier=1),
    ),
    "multiplied": (
        "DEPTHWISE_CONV_2D",
        (1, 7, 7, 3),
        (1, 3, 3, 12),
        (1, 7, 7, 12),
        "DepthwiseConv2DOptions",
        WINDOW | DILATION | dict(DepthMultiplier=4),
    ),
    "dense": ("FULLY_CONNECTED", (1, 100), (37, 100), (1, 37), "FullyConnectedOptions", {}),
    "transposed": (
        "TRANSPOSE_CONV",
        (1, 5, 5, 12),
        (10, 3, 3, 12),
        (1, 10, 10, 10),
        "TransposeConvOptions",
        dict(Padding=0, StrideH=2, StrideW=2),
    ),
}


@pytest.mark.parametrize("kind", PRODUCTS)
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_what_is_masked_by_tiles_is_not_on_the_tape(kind, config):
    """The tiles that are left are those the map says, whichever are taken; an empty group has one."""
    made = product(*PRODUCTS[kind])
    (index, found), w = weight_tiles(made, config).popitem(), made.operators[0].inputs[1]
    assert found.tile.min() == 0 and found.tile.max() == len(found.group) - 1
    for share in (0, 0.5, 0.9, 1):
        kept = RNG.random(len(found.group)) >= share
        tensors = list(made.tensors)
        tensors[w] = replace(tensors[w], data=np.where(kept[found.tile], made.tensors[w].data, 0).astype(np.int8))
        compiler = Compiler(replace(made, tensors=tuple(tensors)), config)
        compiler.compile()
        left = [max(1, int(kept[found.group == g].sum())) for g in np.unique(found.group)]
        assert compiler.layer_tiles[index] == sum(left), (kind, share)


class Network:
    """A network of no framework: a convolution and a product behind it."""

    def __init__(self):
        self.arrays = {"conv": RNG.normal(size=(16, 3, 3, 8)), "dense": RNG.normal(size=(10, 576))}
        self.arrays = {name: a.astype(np.float32) for name, a in self.arrays.items()}

    def weights(self):
        return self.arrays

    def assign(self, name, values):
        self.arrays[name] = values

    def graph(self, digits):
        x, y, f, z = Value("x", (1, 8, 8, 8)), Value("y", (1, 6, 6, 16)), Value("f", (1, 576)), Value("z", (1, 10))
        w, m = (Value(n, self.arrays[n].shape, digits(n)) for n in ("conv", "dense"))
        conv = dict(Padding=1, StrideH=1, StrideW=1, FusedActivationFunction=1) | DILATION
        full = {"FusedActivationFunction": 0, "WeightsFormat": 0, "KeepNumDims": False}
        nodes = [
            Node("CONV_2D", [x, w], [y], conv),
            Node("RESHAPE", [y], [f]),
            Node("FULLY_CONNECTED", [f, m], [z], full),
        ]
        return Graph(nodes, [x], [z])


def test_pruning_by_tiles():
    network = Network()
    before = {n: a.copy() for n, a in network.arrays.items()}
    pruner = Pruner(network, config="small")
    tiles = 2 * 9 + 2 * 72
    report = pruner.report()
    assert report.before == report.after and report.before.tiles == tiles and report.sparsity == 0
    pruner.prune_tiles(0.5)
    report = pruner.report()
    assert report.after.tiles == tiles // 2
    assert report.before.cycles > report.after.cycles and report.before.multiply > report.after.multiply
    zeros = sum(int((a == 0).sum()) for a in network.arrays.values())
    assert report.sparsity == zeros / sum(a.size for a in before.values())
    for name, found in pruner.tiles.items():  # whole tiles, those with the least; what is left is as it was
        kept = network.arrays[name] != 0
        assert all(len(set(kept[found.tile == t])) == 1 for t in np.unique(found.tile))
        assert np.array_equal(network.arrays[name][kept], before[name][kept])
        energy = np.bincount(found.tile.reshape(-1), (before[name] ** 2).reshape(-1))[np.unique(found.tile)]
        alive = np.array([kept[found.tile == t].any() for t in np.unique(found.tile)])
        assert energy[alive].min() >= 0.9 * energy[~alive].max()
    network.arrays = {n: a + 1 for n, a in network.arrays.items()}
    pruner.apply()
    assert all(((network.arrays[n] == 0) == ~pruner.masks[n]).all() for n in before)
    pruner.prune_tiles(1)
    assert pruner.report().after.tiles == 4  # one a group
    assert re.search(r"multiplying [\d,]+ and [\d,]+ \(\d+\.\d%\)", str(pruner.report()))


def test_shares_of_single_layers():
    network = Network()
    pruner = Pruner(network, config="small")
    pruner.prune_tiles(0.25, {"conv": 0.5})
    assert {name: gone for name, (_, _, gone) in pruner.report().layers.items()} == {"conv": 9, "dense": 36}
    with pytest.raises(ImportModelError, match="no weights 'none'; known: conv, dense"):
        pruner.prune_tiles(0.5, {"none": 1})


def test_pruning_by_magnitude():
    network = Network()
    want = {n: np.where(np.abs(a) < 0.7, 0, a) for n, a in network.arrays.items()}
    pruner = Pruner(network, config="small")
    pruner.magnitude(0.7)
    assert all(np.array_equal(network.arrays[n], want[n]) for n in want)


def test_the_schedule_begins_steep_and_ends_at_the_share():
    shares = [cubic(k, 10, 0.8) for k in range(12)]
    assert shares[0] == 0 and shares[10] == shares[11] == pytest.approx(0.8) and shares[1] > 0.2
    assert all(a <= b for a, b in zip(shares, shares[1:]))


def test_what_cannot_be_pruned_is_one_line():
    with pytest.raises(ImportModelError, match="neither a torch.nn.Module nor a Keras model"):
        Pruner(3)
    with pytest.raises(ImportModelError, match="share 1.5: must be between 0 and 1"):
        Pruner(Network()).prune_tiles(1.5)


# --- PyTorch, where it is installed --------------------------------------------------------------------------------


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
    pytest.importorskip("onnxscript", reason="pip install -e '.[torch]'")
    torch.manual_seed(4)
    torch.set_num_threads(1)
    return torch


def residual(torch):
    """Convolutions (strided, grouped, depthwise, 1x1, transposed), residual add, pools, a mean, dense layers."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
            self.b, self.c = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1)
            self.d, self.g = nn.Conv2d(8, 16, 1, bias=False), nn.Conv2d(16, 32, 3, groups=2, dilation=2)
            self.t, self.e, self.f = nn.ConvTranspose2d(16, 6, 3, 2, 1), nn.Linear(6, 7), nn.Linear(32 * 2 * 2, 7)

        def forward(self, x):
            x = torch.relu(self.norm(self.a(x)))
            y = self.c(nn.functional.relu6(self.b(x))) + self.d(x)
            z = torch.sigmoid(nn.functional.avg_pool2d(self.t(y), 3, 2, 1)).mean((2, 3))
            y = nn.functional.max_pool2d(torch.relu(self.g(y)), 2)
            return self.f(y.flatten(1)) * 0.5 - self.e(z)

    return Net().eval()


def trained(torch, module, x, steps=3):
    """A few steps; the losses."""
    optimizer, y, losses = torch.optim.Adam(module.parameters(), 1e-2), torch.arange(len(x)) % 7, []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_forward_pass_is_the_devices(torch):
    """Byte for byte the golden model's and TFLM's, before training and after; real values are those bytes, scaled."""
    from lepton.sw.optimize import qat

    x = torch.randn(40, 3, 16, 16)
    module = qat(residual(torch), x)
    ops = {op.op for op in module.skeleton.operators}
    assert ops >= {
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "TRANSPOSE_CONV",
        "FULLY_CONNECTED",
        "ADD",
        "SUB",
        "MEAN",
        "LOGISTIC",
    }
    assert ops >= {"MAX_POOL_2D", "AVERAGE_POOL_2D"}
    stored = RNG.integers(-128, 128, (12, 3, 16, 16)).astype(np.int8)
    for steps in (0, 30):
        losses = trained(torch, module, x, steps)
        data = module.export()
        model = load_model(data)
        got = module.integers(stored)
        np.testing.assert_array_equal(got, golden.run(model, stored))
        np.testing.assert_array_equal(got, interpreter.outputs(data, stored[:, None])[0][:, 0])
        t_in, t_out = model.tensors[model.inputs[0]], model.tensors[model.outputs[0]]
        real = (stored - np.float32(t_in.zero_point)) * t_in.scale
        want = (got.astype(np.float32) - t_out.zero_point) * t_out.scale
        np.testing.assert_allclose(module(torch.as_tensor(real)).detach().numpy(), want, rtol=1e-6)
    assert losses[-1] < losses[0] - 0.1


def test_averages_are_rounded_as_the_device_rounds(torch):
    """Halves go away from zero of the stored value, not of the code."""
    from lepton.sw.optimize import qat

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.AvgPool2d(2)).eval()
    module = qat(net, torch.randn(20, 3, 8, 8) + 0.5)
    stored = RNG.integers(-128, 128, (30, 3, 8, 8)).astype(np.int8)
    np.testing.assert_array_equal(module.integers(stored), golden.run(load_model(module.export()), stored))


def test_an_lstm_is_trained_as_the_device_computes_it(torch):
    """Two of them, one behind the other, before training and after; the gradient is near the float network's."""
    from lepton.sw.optimize import qat

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.LSTM(6, 12, batch_first=True), torch.nn.LSTM(12, 5, batch_first=True)
            self.dense = torch.nn.Linear(5, 7)

        def forward(self, x):
            return self.dense(self.b(self.a(x)[0])[0][:, -1])

    net, x = Net().eval(), torch.randn(40, 9, 6)
    module, y = qat(net, x), torch.arange(40) % 7
    for network in (net, module):
        torch.nn.functional.cross_entropy(network(x), y).backward()
    want = net.a.weight_ih_l0.grad.numpy().reshape(4, -1)
    got = [p.grad.numpy().ravel() for p in module.parameters() if p.shape == (12, 6)]
    assert min(float(np.corrcoef(g, w)[0, 1]) for g, w in zip(got, want, strict=True)) > 0.9
    stored = RNG.integers(-128, 128, (6, 9, 6)).astype(np.int8)
    before = module.integers(stored)
    for steps in (0, 8):
        trained(torch, module, x, steps)
        data = module.export()
        np.testing.assert_array_equal(module.integers(stored), golden.run(load_model(data), stored))
        np.testing.assert_array_equal(module.integers(stored), interpreter.outputs(data, stored[:, None])[0][:, 0])
    assert (module.integers(stored) != before).any()


def test_gradients_are_near_those_of_the_float_network(torch):
    from lepton.sw.optimize import qat

    net, x = residual(torch), torch.randn(40, 3, 16, 16)
    module, y = qat(net, x), torch.arange(40) % 7
    for network in (net, module):
        torch.nn.functional.cross_entropy(network(x), y).backward()
    for layer in (net.c, net.f, net.e, net.d):
        want = layer.weight.grad.reshape(layer.weight.shape[:2]).numpy().ravel()
        best = 0.0
        for p in module.parameters():
            if p.grad.numel() == want.size:
                got = p.grad.numpy()
                orders = [got.reshape(7, 2, 2, 32).transpose(0, 3, 1, 2)] if layer is net.f else [got]
                best = max(best, *(float(np.corrcoef(o.ravel(), want)[0, 1]) for o in orders))
        assert best > 0.95, layer


def test_attention_is_trained_as_the_device_computes_it(torch):
    from lepton.sw.optimize import qat

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            kind = dict(dropout=0.0, batch_first=True)
            self.layer, self.dense = torch.nn.TransformerEncoderLayer(8, 2, 16, **kind), torch.nn.Linear(8, 7)

        def forward(self, x):
            return self.dense(self.layer(x).mean(1))

    x = torch.randn(30, 5, 8)
    module = qat(Net().eval(), x)
    ops = {op.op for op in module.skeleton.operators}
    assert ops >= {"BATCH_MATMUL", "SOFTMAX", "SQUARED_DIFFERENCE", "RSQRT", "MEAN", "ADD"}
    losses = trained(torch, module, x, 20)
    data, stored = module.export(), RNG.integers(-128, 128, (6, 5, 8)).astype(np.int8)
    np.testing.assert_array_equal(module.integers(stored), golden.run(load_model(data), stored))
    np.testing.assert_array_equal(module.integers(stored), interpreter.outputs(data, stored[:, None])[0][:, 0])
    assert losses[-1] < losses[0] - 0.1


def test_what_cannot_be_trained_is_named(torch):
    from lepton.sw.optimize import qat

    class Net(torch.nn.Module):
        def forward(self, x):
            return torch.maximum(x, x.flip(1))

    with pytest.raises(ImportModelError, match=r"\((MAXIMUM|REVERSE_V2)\): no training for this operator; known: "):
        qat(Net(), torch.randn(4, 3, 5))


def test_masks_are_held_in_training_and_by_qat(torch):
    """Flattened maps come in another order on the device: the tiles that go are the compiler's all the same."""
    from lepton.sw.optimize import qat

    net, x = residual(torch), torch.randn(20, 3, 16, 16)
    pruner = Pruner(net, x[:1], "small")
    pruner.prune_tiles(0.7)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    pruner.hold(optimizer)
    torch.nn.functional.cross_entropy(net(x), torch.arange(20) % 7).backward()
    before = net.g.weight.detach().clone()
    optimizer.step()
    zero = ~torch.as_tensor(pruner.masks["g.weight"])
    assert zero.any() and (net.g.weight[zero] == 0).all() and (net.g.weight != before)[~zero].any()
    report = pruner.report()
    module = qat(net, x)
    trained(torch, module, x, 4)
    model = load_model(module.export())
    compiler = Compiler(model, SMALL)
    compiler.compile()
    assert sum(compiler.layer_tiles.values()) == report.after.tiles < 0.5 * report.before.tiles
    again = Pruner(module, config="small")
    again.prune_tiles(0.85)
    trained(torch, module, x, 2)
    after = Compiler(load_model(module.export()), SMALL)
    after.compile()
    assert sum(after.layer_tiles.values()) == again.report().after.tiles < report.after.tiles
    assert compile_model(load_model(module.export()), SMALL).words


# --- Keras, where it is installed ----------------------------------------------------------------------------------


def test_pruning_in_keras():
    tf = pytest.importorskip("tensorflow", reason="pip install -e '.[keras]'")
    from lepton.sw.frontends.importer import import_model

    k = tf.keras
    layers = [k.layers.Conv2D(16, 3, use_bias=False), k.layers.BatchNormalization(), k.layers.ReLU(),
              k.layers.SeparableConv2D(8, 3), k.layers.Flatten(), k.layers.Dense(5)]  # fmt: skip
    model = k.Sequential([k.Input((10, 10, 4)), *layers])
    model.compile("adam", k.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = model.get_weights()
    pruner = Pruner(model, config="small")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before))  # asking changes nothing
    assert len(pruner.tiles) == 4
    x, y = RNG.normal(size=(64, 10, 10, 4)).astype(np.float32), RNG.integers(0, 5, 64)
    model.fit(x, y, epochs=3, batch_size=16, verbose=0, callbacks=[pruner.callback(steps=2, share=0.6)])
    report = pruner.report()
    assert report.after.tiles == report.before.tiles - round(0.6 * report.before.tiles)
    compiler = Compiler(import_model(model, x[:20]).model(), SMALL)
    compiler.compile()
    assert sum(compiler.layer_tiles.values()) == report.after.tiles

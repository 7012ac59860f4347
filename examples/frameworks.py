"""A small CNN from PyTorch, ONNX QDQ or Keras to the accelerator: as trained, pruned, and trained on its integers.

    python examples/frameworks.py torch            # pip install '.[torch,evaluate]'
    python examples/frameworks.py qdq              # pip install '.[torch,evaluate]' onnxruntime
    python examples/frameworks.py keras            # pip install '.[keras,evaluate]'; with '[torch]' QAT, too
    python examples/frameworks.py torch mnist.npz  # on MNIST in place of scikit-learn's digits

Prints accuracy on the test images (instruction-set simulator) and the cycles of an inference for each variant. Exit
code: 0, or 2 for a user's error, which is one line.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from mnist import ExampleError, load_data, positive

import lepton
from lepton.rtl.spec.errors import LeptonError

SEED = 1
TEST = 300
CONFIG = "small"
SHARE = 0.5
"""Of the tiles that are pruned."""


def data(path: Path | None) -> tuple[np.ndarray, ...]:
    """Images (N, 1, h, w) from 0 to 1 and labels, for training and for the test."""
    if path is not None:
        (x, y), (u, v) = load_data(path, "train"), load_data(path, "test")
        parts = x / np.float32(255), y, u[:TEST] / np.float32(255), v[:TEST]
    else:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = (images.reshape(-1, 8, 8) / 16).astype(np.float32)
        parts = images[TEST:], labels[TEST:], images[:TEST], labels[:TEST]
    x, y, u, v = parts
    return x[:, None].astype(np.float32), y, u[:, None].astype(np.float32), v


def told(name: str, session, images: np.ndarray, labels: np.ndarray) -> None:
    """A line: accuracy on the simulator, cycles by the cycle model."""
    from lepton.sw.optimize.prune import count

    x = session.inputs[0].quantize(images.reshape(-1, *session.inputs[0].row))
    right = (session.run(x).reshape(len(x), -1).argmax(1) == labels).mean()
    cycles = count(session.program, 0).cycles
    print(f"{name:40} {right:7.2%} of {len(labels)} test images, {cycles:,} cycles")


# PyTorch


def torch_network(size: int):
    """Two convolutions with norms, a pool, a dense layer."""
    from torch import nn

    block = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1)]
    dense = nn.Linear(32 * (size // 2) ** 2, 10)
    return nn.Sequential(*block, nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), dense)


def torch_train(net, x: np.ndarray, y: np.ndarray, epochs: int, rate: float = 2e-3, pruner=None) -> None:
    """The loop is the same for a float network and for one on the device's integers."""
    import torch

    from lepton.sw.optimize import cubic

    optimizer = torch.optim.Adam(net.parameters(), rate)
    if pruner is not None:
        pruner.hold(optimizer)
    net.train()
    for epoch in range(epochs):
        if pruner is not None:
            pruner.prune_tiles(cubic(epoch + 1, max(1, epochs // 2), SHARE))
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(torch.as_tensor(x)[batch]), torch.as_tensor(y)[batch])
            loss.backward()
            optimizer.step()
    net.eval()


def torch_trained(x: np.ndarray, y: np.ndarray, epochs: int):
    """The network, trained in float."""
    try:
        import torch
    except ImportError:
        raise ExampleError("PyTorch is not there: pip install '.[torch]'") from None
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    net = torch_network(x.shape[2])
    torch_train(net, x, y, epochs)
    return net


def run_torch(x, y, images, labels, epochs: int) -> None:
    """PyTorch: quantized after training, in training, and pruned."""
    from lepton.sw.optimize import Pruner, qat

    net = torch_trained(x, y, epochs)
    told("PyTorch, quantized after training", lepton.compile(net, x[:1], x[:200], config=CONFIG), images, labels)
    module = qat(net, x[:1], x[:200])
    torch_train(module, x, y, 1, 5e-4)
    told("PyTorch, trained on the integers", module.session(CONFIG), images, labels)
    pruner = Pruner(net, x[:1], CONFIG)
    torch_train(net, x, y, epochs, 1e-3, pruner)
    module = qat(net, x[:1], x[:200])
    torch_train(module, x, y, 1, 5e-4)
    told(f"PyTorch, {SHARE:.0%} of the tiles pruned", module.session(CONFIG), images, labels)
    print(pruner.report())


def run_qdq(x, y, images, labels, epochs: int) -> None:
    """ONNX, quantized by ONNX Runtime: the scales are its own."""
    net = torch_trained(x, y, epochs)
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError:
        raise ExampleError("ONNX Runtime is not there: pip install onnxruntime") from None
    import torch

    class Reader(CalibrationDataReader):
        rows = iter([{"x": row[None]} for row in x[:200]])

        def get_next(self):
            return next(self.rows, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = f"{folder}/net.onnx", f"{folder}/qdq.onnx"
        torch.onnx.export(net, (torch.as_tensor(x[:1]),), plain, input_names=["x"], dynamo=True, verbose=False)
        kinds = dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True)
        quantize_static(plain, quantized, Reader(), quant_format=QuantFormat.QDQ, **kinds)
        told("ONNX, float", lepton.compile(plain, calibration=x[:200], config=CONFIG), images, labels)
        told("ONNX, quantized by ONNX Runtime (QDQ)", lepton.compile(quantized, config=CONFIG), images, labels)


# Keras


def run_keras(x, y, images, labels, epochs: int) -> None:
    """Keras: quantized after training, and pruned; trained on the integers where PyTorch is there, too."""
    try:
        import tensorflow as tf
    except ImportError:
        raise ExampleError("TensorFlow is not there: pip install '.[keras]'") from None
    from lepton.sw.optimize import Pruner

    tf.keras.utils.set_random_seed(SEED)
    x, k = np.moveaxis(x, 1, -1), tf.keras.layers
    norms = [k.BatchNormalization(momentum=0.9) for _ in range(2)]  # PyTorch's: 0.99 needs more steps than these
    layers = [k.Conv2D(16, 3, padding="same"), norms[0], k.ReLU(), k.Conv2D(32, 3, padding="same"), norms[1], k.ReLU()]
    layers += [k.MaxPool2D(2), k.Flatten(), k.Dense(10)]
    model = tf.keras.Sequential([tf.keras.Input(x.shape[1:]), *layers])
    model.compile(tf.keras.optimizers.Adam(2e-3), tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    told("Keras, quantized after training", lepton.compile(model, calibration=x[:200], config=CONFIG), images, labels)
    pruner = Pruner(model, config=CONFIG)
    hold = pruner.callback(steps=max(1, epochs // 2), share=SHARE)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0, callbacks=[hold])
    session = lepton.compile(model, calibration=x[:200], config=CONFIG)
    told(f"Keras, {SHARE:.0%} of the tiles pruned", session, images, labels)
    print(pruner.report())
    try:
        import torch  # noqa: F401
    except ImportError:
        return
    from lepton.sw.optimize import qat

    module = qat(model, calibration=x[:200])
    torch_train(module, x, y, 1, 5e-4)
    told("Keras, pruned, trained on the integers", module.session(CONFIG), images, labels)


WAYS = {"torch": run_torch, "qdq": run_qdq, "keras": run_keras}


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("data", type=Path, nargs="?", metavar="DATA", help="mnist.npz (default: scikit-learn's digits)")
    parser.add_argument("--epochs", type=positive, default=8, help="of each training in float; default: %(default)s")
    args = parser.parse_args(argv)
    try:
        WAYS[args.way](*data(args.data), args.epochs)
    except (ExampleError, LeptonError, OSError) as error:
        print(f"frameworks: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""MNIST in PyTorch to a quarter of the tiles: float, int8, trained on the device's integers, and pruned.

    python examples/prune_mnist.py mnist.npz [--count 10000] [--epochs 4] [--no-rtl]

Prints int8 accuracy on the test images, and the cycles of an inference on the RTL for the dense and the pruned network.
Needs ``pip install '.[torch,rtl]'``; DATA as for `mnist.py`. Exit code: 0, or 2 for an error, which is one line; bytes
of simulator or RTL that differ from those of the training are one.
"""

import argparse
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mnist import ExampleError, load_data, positive

from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.isa import Region, word_bytes
from lepton.sw.session import Session

SEED = 1
BATCH = 64
SHARES = {"0.weight": 0.5, "4.weight": 0.78, "6.weight": 0.0}
"""Of the tiles that are pruned: a tile of the convolution costs 676 cycles, but there are twelve."""
CALIBRATION = 500
CONFIG = "small"


@dataclass
class Result:
    """One row of the table."""

    name: str
    accuracy: float
    tiles: int | None = None
    cycles: int | None = None
    multiply: int | None = None


def as_float(images: np.ndarray) -> np.ndarray:
    """float32 (N, 1, 28, 28) in 0..1."""
    return (images / np.float32(255))[:, None].astype(np.float32)


def network():
    """Conv 32@3x3, MaxPool, Dense 128, Dense 10."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5408, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train(net, x, y, epochs: float, rate: float, pruner=None) -> None:
    """An ordinary training loop, for float and device arithmetic alike; the rate falls to zero along a cosine.

    pruner: prunes to SHARES of the tiles along the first half of the steps.
    """
    import torch

    from lepton.sw.optimize import cubic

    steps = max(1, int(epochs * len(x) / BATCH))
    optimizer = torch.optim.Adam(net.parameters(), rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    if pruner is not None:
        pruner.hold(optimizer)
    net.train()
    order = torch.randperm(len(x))
    for step in range(steps):
        if pruner is not None and step % 20 == 0 and step <= steps // 2:
            shares = {name: cubic(step + 20, steps // 2, share) for name, share in SHARES.items()}
            pruner.prune_tiles(0, shares)
        at = step * BATCH % len(x)
        if at + BATCH > len(x):
            order = torch.randperm(len(x))
        batch = order[at : at + BATCH]
        moved = torch.roll(x[batch], torch.randint(-1, 2, (2,)).tolist(), (2, 3))  # borders are empty
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(moved), y[batch]).backward()
        optimizer.step()
        falling.step()
    net.eval()


def measured(name: str, module, images: np.ndarray, labels: np.ndarray, rtl: bool) -> Result:
    """Accuracy by the module's integers; some of them must be the simulator's and, with its cycles, one the RTL's."""
    session = module.session(CONFIG)
    x = session.inputs[0].quantize(as_float(images)).reshape(-1, *session.inputs[0].row)
    outputs = np.concatenate([module.integers(part) for part in np.array_split(x, -(-len(x) // 500))])
    tiles = len(session.program.tiles + session.program.external) // word_bytes(Region.WEIGHT, session.config)
    result = Result(name, float((outputs.argmax(1) == labels).mean()), tiles)
    backends = {"iss": 20, "rtl": 1} if rtl else {"iss": 20}
    for backend, count in backends.items():
        with closing(Session(session.model, config=CONFIG, backend=backend)) as other:
            if not np.array_equal(other.run(x[:count]), outputs[:count]):
                raise ExampleError(f"{name}: the bytes of {backend} differ from the module's")
            if backend == "rtl" and other.report is not None:
                result.cycles, result.multiply = other.report["cycles"], other.report["causes"]["multiply"]
    return result


def run(args) -> int:
    try:
        import torch
    except ImportError:
        raise ExampleError("training needs PyTorch: pip install '.[torch]'") from None
    from lepton.sw.optimize import Pruner, qat

    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    images, labels = load_data(args.data, "train")
    x, y = torch.as_tensor(as_float(images)), torch.as_tensor(labels)
    images, labels = load_data(args.data, "test")
    images, labels = images[: args.count], labels[: args.count]
    started, results = time.monotonic(), []

    def told(result: Result) -> Result:
        results.append(result)
        print(f"{time.monotonic() - started:7.0f} s  {result.name}: {result.accuracy:.2%}", file=sys.stderr)
        return result

    calibration = x[:CALIBRATION]
    net = network()
    train(net, x, y, args.epochs, 2e-3)
    with torch.no_grad():
        told(Result("float", float((net(torch.as_tensor(as_float(images))).argmax(1).numpy() == labels).mean())))
    rtl = not args.no_rtl
    exact = qat(net, x[:1], calibration)  # untrained, it is the quantized network
    told(measured("int8 after training (PTQ)", exact, images, labels, False))
    train(exact, x, y, args.epochs / 4, 5e-4)
    dense = told(measured("int8 in training (QAT)", exact, images, labels, rtl))

    pruner = Pruner(net, x[:1], CONFIG)
    train(net, x, y, args.epochs, 1e-3, pruner)
    exact = qat(net, x[:1], calibration)  # what is zero stays zero
    train(exact, x, y, args.epochs / 4, 5e-4)
    pruned = told(measured("QAT, 78% of the tiles pruned", exact, images, labels, rtl))

    print(pruner.report())
    print(
        f"\n{'network':34} {'accuracy':>9} {'tiles':>8} {'cycles':>9} {'multiply':>9}   ({len(images):,} test images)"
    )
    for r in results:
        numbers = ("" if n is None else f"{n:,}" for n in (r.tiles, r.cycles, r.multiply))
        print(f"{r.name:34} {r.accuracy:9.2%}" + "".join(f" {n:>{w}}" for n, w in zip(numbers, (8, 9, 9))))
    if dense.multiply and pruned.multiply:
        print(f"\nmultiply cycles on RTL ({CONFIG}): {pruned.multiply / dense.multiply:.1%} of the dense network's")
    return 0


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA", help="mnist.npz, or a folder with the IDX files")
    parser.add_argument("--count", type=positive, default=10000, help="the first N test images", metavar="N")
    parser.add_argument("--epochs", type=positive, default=4, help="of each training in float; default: %(default)s")
    parser.add_argument("--threads", type=positive, default=1, help="of torch; default: %(default)s")
    parser.add_argument("--no-rtl", action="store_true", help="no cycles from the RTL")
    parser.set_defaults(run=run)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ExampleError, LeptonError, OSError) as error:
        print(f"prune_mnist: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())

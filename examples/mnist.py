"""MNIST from end to end: train in Keras, quantize to int8, and prove the accelerator exact on the test images.

    python examples/mnist.py train mnist.npz -o build/mnist.tflite
    python examples/mnist.py evaluate build/mnist.tflite mnist.npz

`train` needs the extra ``pip install '.[train]'``; `evaluate` needs scikit-learn and tflite-micro (``'.[test]'``).
DATA is the `mnist.npz` of Keras or a folder with the four IDX files. Exit code: 0, or 1 when an output vector differs
from TensorFlow Lite Micro's, or 2 for a user's error, which is one line.
"""

import argparse
import gzip
import importlib.util
import multiprocessing
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

from lepton.rtl.spec.errors import LeptonError

SEED = 1
EPOCHS = 4
CALIBRATION = 500
CHUNK = 50
CLASSES = 10
BACKENDS = ("iss", "golden", "rtl")
RTL_COUNT = 20
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class ExampleError(LeptonError):
    """Wrong use of the example; the message is one line."""


# Data


def read_idx(folder: Path, name: str) -> np.ndarray:
    """One IDX file of bytes, plain or gzip-compressed (`.gz`), with `-` or `.` before `idx`. Raises ExampleError."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for path, opener in ((folder / spelling, open), (folder / f"{spelling}.gz", gzip.open)):
            if not path.exists():
                continue
            try:
                with opener(path, "rb") as file:
                    raw = file.read()
            except (OSError, EOFError) as error:
                raise ExampleError(f"{path}: cannot be read ({error})") from None
            rank = raw[3] if len(raw) >= 4 else 0
            if raw[:3] != b"\0\0\x08" or not rank or len(raw) < 4 + 4 * rank:
                raise ExampleError(f"{path}: not an IDX file of bytes; download it again")
            shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", rank, 4))
            values = np.frombuffer(raw, np.uint8, offset=4 + 4 * rank)
            if values.size != np.prod(shape):
                raise ExampleError(f"{path}: holds {values.size} values, its header says {shape}; download it again")
            return values.reshape(shape)
    raise ExampleError(f"{folder}: {name} (or {name}.gz) is missing; see examples/README.md for the files")


def load_data(path: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and labels (N,) of `part`, `train` or `test`. Raises ExampleError."""
    names = (f"x_{part}", f"y_{part}")
    if path.is_dir():
        images, labels = (read_idx(path, IDX_FILES[name]) for name in names)
    else:
        try:
            with np.load(path, allow_pickle=False) as data:
                images, labels = (data[name] for name in names)
        except FileNotFoundError:
            raise ExampleError(f"{path}: no such file; see examples/README.md for where to get it") from None
        except (ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, zipfile.BadZipFile):
            raise ExampleError(
                f"{path}: not an .npz file with x_{part} and y_{part}; give the mnist.npz of Keras"
            ) from None
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28) or labels.shape != (len(images),) or not len(images):
        raise ExampleError(
            f"{path}: {names[0]} is {images.dtype} {images.shape} and {names[1]} {labels.shape}; "
            "need uint8 (N, 28, 28) and (N,)"
        )
    return images, labels.astype(np.int64)


def as_float(images) -> np.ndarray:
    """float32 (N, 28, 28, 1) in 0..1, as the network was trained."""
    return (images / np.float32(255))[..., None].astype(np.float32)


# Training


def train(args) -> int:
    """Train, quantize and write the model."""
    images, labels = load_data(args.data, "train")
    folder = args.output.resolve().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExampleError(f"{args.output}: its folder cannot be made ({error.strerror}); give another") from None
    if args.output.is_dir() or not os.access(folder, os.W_OK):
        raise ExampleError(f"{args.output}: cannot be written; give a file in a folder you may write to")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError:
        raise ExampleError("training needs TensorFlow: pip install '.[train]'") from None

    tf.keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    layers = tf.keras.layers
    body = [
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPool2D(2),
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(CLASSES, activation="softmax"),
    ]
    x = as_float(images)
    model = tf.keras.Sequential([layers.Input((28, 28, 1)), *body])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, labels, batch_size=64, epochs=args.epochs, verbose=2)
    # A fixed batch of one, so that the converter leaves a plain RESHAPE.
    fixed = tf.keras.Sequential([layers.Input((28, 28, 1), batch_size=1), *body])
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in x[:CALIBRATION])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    flatbuffer = converter.convert()
    args.output.write_bytes(flatbuffer)
    print(f"{args.output}: {len(flatbuffer)} bytes, trained on {len(x)} images, {args.epochs} epochs")
    return 0


# Evaluation

_worker: dict = {}


def _open_worker(model: Path, config: str, backend: str) -> None:
    """What a process keeps: a session on the accelerator and the reference interpreter."""
    from tflite_micro import runtime

    from lepton.sw.session import Session

    _worker["session"] = Session(model, config=config, backend=backend)
    _worker["reference"] = runtime.Interpreter.from_file(str(model))


def _run_chunk(x) -> tuple[np.ndarray, np.ndarray, dict | None]:
    """Outputs of the backend and of TensorFlow Lite Micro for a chunk of int8 images, and the session's report."""
    session, reference = _worker["session"], _worker["reference"]
    expected = []
    for image in x:
        reference.set_input(image[None], 0)
        reference.invoke()
        expected.append(reference.get_output(0)[0].copy())
    return session.run(x), np.stack(expected), session.report


def infer(model: Path, x, config: str, backend: str, jobs: int):
    """Outputs (N, 10) of the backend and of TensorFlow Lite Micro, and the different cycle counts seen (RTL)."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    size = 1 if backend == "rtl" else min(CHUNK, -(-len(x) // jobs))
    chunks = [x[i : i + size] for i in range(0, len(x), size)]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    results = []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{backend} {config}", total=len(x))

        def collect(parts):
            for part in parts:
                results.append(part)
                bar.advance(task, len(part[0]))

        if jobs == 1:
            _open_worker(model, config, backend)
            collect(map(_run_chunk, chunks))
        else:
            context = multiprocessing.get_context("spawn")
            with context.Pool(jobs, _open_worker, (model, config, backend)) as pool:
                collect(pool.imap(_run_chunk, chunks))
    cycles = sorted({report["cycles"] for *_, report in results if report and report["cycles"]})
    return np.concatenate([r[0] for r in results]), np.concatenate([r[1] for r in results]), cycles


def show(labels, predicted) -> None:
    """Per-class table and confusion matrix on stdout."""
    from rich.console import Console
    from rich.table import Table
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    console = Console(width=None if sys.stdout.isatty() else 100)
    classes = list(range(CLASSES))
    each = precision_recall_fscore_support(labels, predicted, labels=classes, zero_division=0)
    present = sorted(set(labels.tolist()))
    mean = precision_recall_fscore_support(labels, predicted, labels=present, average="macro", zero_division=0)
    table = Table("class", "images", "precision", "recall", "F1", title="per class")
    for column in table.columns[1:]:
        column.justify = "right"
    for c in classes:
        precision, recall, f1, images = (values[c] for values in each)
        table.add_row(str(c), str(images), f"{precision:.4f}", f"{recall:.4f}", f"{f1:.4f}")
    table.add_section()
    table.add_row("mean", str(len(labels)), *(f"{value:.4f}" for value in mean[:3]))
    console.print(table)

    table = Table("", *map(str, classes), title="confusion: rows are labels, columns are predictions")
    for column in table.columns[1:]:
        column.justify = "right"
    for c, row in enumerate(confusion_matrix(labels, predicted, labels=classes)):
        cells = [f"[bold]{n}[/]" if c == k else str(n) if n else "·" for k, n in enumerate(row)]
        table.add_row(str(c), *cells)
    console.print(table)


def evaluate(args) -> int:
    """Run the test images, compare every output vector, and print the metrics."""
    for needed in ("sklearn", "tflite_micro"):
        if importlib.util.find_spec(needed) is None:
            raise ExampleError(f"evaluation needs {needed}: pip install '.[test]'")
    from lepton.sw.session import Session

    images, labels = load_data(args.data, "test")
    count = args.count or (RTL_COUNT if args.backend == "rtl" else len(images))
    images, labels = images[:count], labels[:count]
    session = Session(args.model, config=args.config, backend=args.backend)
    if session.input_shape != (1, 28, 28, 1):
        raise ExampleError(f"{args.model}: takes {session.input_shape}, not (1, 28, 28, 1); make it with `train`")
    if args.backend != "golden":
        _ = session.program  # refuse here, not in a worker
    tensor = session.model.tensors[session.model.inputs[0]]
    x = np.clip(np.round(as_float(images) / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)
    jobs = 1 if args.backend == "rtl" else max(1, min(args.jobs, len(x)))
    started = time.monotonic()
    outputs, expected, cycles = infer(args.model, x, args.config, args.backend, jobs)
    seconds = time.monotonic() - started
    predicted = outputs.argmax(1)
    show(labels, predicted)
    equal = int(np.all(outputs == expected, axis=1).sum())
    print(f"int8 accuracy: {np.mean(predicted == labels):.4f} ({int(np.sum(predicted == labels))} of {len(labels)})")
    print(f"equal to TensorFlow Lite Micro: {equal} of {len(outputs)} output vectors")
    if cycles:
        print(f"cycles per inference: {', '.join(map(str, cycles))}")
    print(f"{args.backend}, {args.config}: {seconds:.1f} s, {len(x) / seconds:.1f} images/s, {jobs} process(es)")
    return 0 if equal == len(outputs) else 1


def positive(text: str) -> int:
    """An argument of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return value


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("train", help="train in Keras and write an int8 .tflite")
    command.add_argument("data", type=Path, metavar="DATA", help="mnist.npz, or a folder with the IDX files")
    command.add_argument("-o", "--output", type=Path, default=Path("mnist.tflite"), help="default: %(default)s")
    command.add_argument("--epochs", type=positive, default=EPOCHS, help="default: %(default)s")
    command.set_defaults(run=train)
    command = commands.add_parser("evaluate", help="accuracy, recall, F1, confusion matrix, and equality with TFLM")
    command.add_argument("model", type=Path, metavar="MODEL", help="the .tflite of `train`")
    command.add_argument("data", type=Path, metavar="DATA", help="mnist.npz, or a folder with the IDX files")
    command.add_argument(
        "--count", type=positive, help=f"the first N test images; default: all, on rtl {RTL_COUNT}", metavar="N"
    )
    command.add_argument("--backend", choices=BACKENDS, default="iss", help="default: %(default)s")
    command.add_argument("--config", default="small", help="preset of the accelerator; default: %(default)s")
    command.add_argument(
        "--jobs", type=positive, default=os.cpu_count() or 1, help="processes (rtl: one); default: one a core"
    )
    command.set_defaults(run=evaluate)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except Exception as error:
        # Exceptions of the package that speak to the user are told by name, so that `train` needs none of it.
        if not isinstance(error, (ExampleError, OSError)) and type(error).__name__ not in (
            "ModelError", "CompileError", "ConfigError", "BackendError", "LinkError", "IssError",
        ):  # fmt: skip
            raise
        print(f"mnist: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())

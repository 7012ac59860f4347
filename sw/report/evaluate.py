"""`lepton evaluate`: how well a model does on labelled data, int8 and float side by side.

Three tasks: `classes` (accuracy, precision, recall, F1, confusion matrix; all averages are over classes), `regression`
(errors), `anomaly` (area under the ROC curve of a score: the reconstruction's error, or the single output).
"""

import csv
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lepton.sw.arrays import ArrayError, holds, read_arrays
from lepton.sw.errors import need
from lepton.sw.files import check_file
from lepton.sw.graph.model import MAX_FILE_BYTES, Model, ModelError
from lepton.sw.report import PICTURES
from lepton.sw.session import End

INPUT_KEYS = ("x", "input", "images", "x_test")
LABEL_KEYS = ("y", "label", "labels", "target", "y_test")
MAX_VALUES = 1 << 26
"""Most values of a table."""
LABEL_COLUMNS = ("label", "class", "target", "y")


class EvaluateError(ModelError):
    """Data that cannot be used for an evaluation; one line."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (N, shape of the model's input) as real numbers, or int8 as the model takes them; labels or targets (N,
    …); the names of the classes, where known; and what was done to the data, in words."""

    x: np.ndarray
    y: np.ndarray
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# Data


def load_samples(
    path: str | Path, shape: tuple[int, ...], scale: str = "auto", resize: str = "bilinear", limit: int | None = None
) -> Samples:
    """Labelled data for an input of `shape` (without batch). Raises EvaluateError.

    path: .npz with x and y; a folder with a folder of pictures for each class (their order is the alphabet's, as Keras
    reads it); .csv or .parquet of rows with a label column (label, class, target, y, or else the last one).
    scale: unit (bytes over 255), signed (bytes over 127.5, less 1), none; auto is unit for bytes and none for the rest.
    """
    path = Path(path)
    if not path.exists():
        raise EvaluateError(f"{path}: no such file or folder")
    if path.is_dir():
        found = _pictures(path, shape, resize, limit)
    elif path.suffix.lower() == ".npz":
        found = _arrays(path)
    elif path.suffix.lower() in (".csv", ".parquet"):
        found = _rows(path)
    else:
        raise EvaluateError(f"{path}: neither .npz, .csv, .parquet nor a folder of pictures")
    x, y = found.x[:limit], found.y[:limit]
    if not len(x) or len(x) != len(y):
        raise EvaluateError(f"{path}: {len(x)} inputs and {len(y)} labels")
    notes = list(found.notes)
    x = scaled(x, scale, notes)
    return Samples(_shaped(x, shape, path, notes), y, found.names, notes)


def _arrays(path: Path) -> Samples:
    try:
        arrays = read_arrays(path, (*INPUT_KEYS, *LABEL_KEYS))
    except ArrayError as error:
        raise EvaluateError(str(error)) from None
    x = next((arrays[k] for k in INPUT_KEYS if k in arrays), None)
    y = next((arrays[k] for k in LABEL_KEYS if k in arrays), None)
    if x is None or y is None:
        raise EvaluateError(f"{path}: holds {holds(path)}; needed are inputs (x or input) and labels (y or label)")
    return Samples(x, y)


def _pictures(folder: Path, shape, resize, limit) -> Samples:
    names = sorted(d.name for d in folder.iterdir() if d.is_dir())
    files = [
        (p, k) for k, n in enumerate(names) for p in sorted((folder / n).iterdir()) if p.suffix.lower() in PICTURES
    ]
    if not files:
        raise EvaluateError(f"{folder}: no folders of pictures, one a class")
    if limit is not None and limit < len(files):  # evenly from all classes
        files = [files[i * len(files) // limit] for i in range(limit)]
    size, channels, first = picture_shape(shape)
    x = np.stack([read_picture(p, size, channels, first, resize) for p, _ in files])
    kind = "grey" if channels == 1 else "RGB"
    return Samples(
        x, np.array([k for _, k in files]), names, [f"pictures resized to {size[1]}x{size[0]} {kind} ({resize})"]
    )


def picture_shape(shape: tuple[int, ...]) -> tuple[tuple[int, int], int, bool]:
    """((height, width), channels, whether they come first) of an input's shape without batch. Raises EvaluateError."""
    if len(shape) == 2:
        return (shape[0], shape[1]), 1, False
    if len(shape) == 3 and shape[2] in (1, 3):
        return (shape[0], shape[1]), shape[2], False
    if len(shape) == 3 and shape[0] in (1, 3):
        return (shape[1], shape[2]), shape[0], True
    raise EvaluateError(f"the model's input {shape} is no picture: give the data as .npz")


def read_picture(path: Path, size: tuple[int, int], channels: int, first: bool, resize: str = "bilinear") -> np.ndarray:
    """A picture as uint8, (H, W, C) or with the channels first. resize: bilinear or nearest (the sides become those of
    `size`), or crop (the middle, bilinear, in its own proportions). Raises EvaluateError."""
    need("evaluate", "PIL")
    from PIL import Image, UnidentifiedImageError

    check_file(path, MAX_FILE_BYTES, EvaluateError)
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise EvaluateError(f"{path}: not a picture that can be read ({type(error).__name__})") from None
    height, width = size
    how = Image.Resampling.NEAREST if resize == "nearest" else Image.Resampling.BILINEAR
    box = None
    if resize == "crop":
        factor = min(image.width / width, image.height / height)
        w, h = width * factor, height * factor
        left, top = (image.width - w) / 2, (image.height - h) / 2
        box = (left, top, left + w, top + h)
    x = np.asarray(image.resize((width, height), how, box=box), np.uint8).reshape(height, width, channels)
    return np.moveaxis(x, -1, 0) if first else x


def _rows(path: Path) -> Samples:
    check_file(path, MAX_FILE_BYTES, EvaluateError)
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise EvaluateError("reading .parquet needs pyarrow: pip install 'lepton-npu[evaluate]'") from None
        try:
            file = parquet.ParquetFile(path)
            told = file.metadata.num_rows * file.metadata.num_columns
            if told > MAX_VALUES:
                raise EvaluateError(f"{path}: {told:,} values, at most {MAX_VALUES:,} are read: split the file")
            table = file.read()
        except EvaluateError:
            raise
        except Exception as error:
            raise EvaluateError(f"{path}: not a .parquet file that can be read ({type(error).__name__})") from None
        header, columns = table.column_names, [c.to_pylist() for c in table.columns]
    else:
        try:
            with path.open(newline="") as file:
                lines = [r for r in csv.reader(file) if r]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise EvaluateError(f"{path}: not a .csv file ({type(error).__name__})") from None
        if not lines or any(len(r) != len(lines[0]) for r in lines):
            raise EvaluateError(f"{path}: its rows are not all of one length")
        named = not all(_number(v) for v in lines[0])
        header = lines[0] if named else [str(i) for i in range(len(lines[0]))]
        columns = [list(c) for c in zip(*lines[named:])]
    place = next((header.index(c) for c in LABEL_COLUMNS if c in header), len(header) - 1)
    try:
        x = np.array([[float(v) for v in c] for k, c in enumerate(columns) if k != place], np.float32).T
    except (TypeError, ValueError):
        raise EvaluateError(f"{path}: a column other than the label {header[place]!r} holds no numbers") from None
    labels = columns[place] if columns else []
    names: list[str] = []
    if all(_number(v) for v in labels):
        y = np.array([float(v) for v in labels])
        y = y.astype(np.int64) if (y == y.round()).all() else y
    else:
        names = sorted({str(v) for v in labels})
        y = np.array([names.index(str(v)) for v in labels])
    return Samples(x, y, names, [f"label: column {header[place]!r}"])


def _number(text) -> bool:
    try:
        float(text)
        return True
    except (TypeError, ValueError):
        return False


def scaled(x: np.ndarray, scale: str, notes: list[str]) -> np.ndarray:
    """x as real numbers by one of SCALES (int8 stays); what was done is added to the notes."""
    if x.dtype == np.int8 and scale in ("auto", "none"):
        notes.append("inputs: the model's own bytes")
        return x
    if scale == "auto":
        scale = "unit" if x.dtype == np.uint8 else "none"
    x = x.astype(np.float32)
    if scale == "unit":
        x = x / np.float32(255)
        notes.append("inputs: divided by 255")
    elif scale == "signed":
        x = x / np.float32(127.5) - np.float32(1)
        notes.append("inputs: divided by 127.5, less 1")
    return x


def _shaped(x: np.ndarray, shape: tuple[int, ...], where, notes: list[str]) -> np.ndarray:
    """x as (N, *shape): as it is, with axes of size 1 added or gone, or with the channels moved."""
    if x.shape[1:] == shape:
        return x
    if (
        [d for d in x.shape[1:] if d > 1] == [d for d in shape if d > 1]
        or x.ndim == 2
        and x[0].size == math.prod(shape)
    ):
        return x.reshape(len(x), *shape)
    for words, source, target in (("last", 1, -1), ("first", -1, 1)):
        moved = np.moveaxis(x, source, target) if x.ndim > 2 else x
        if moved.shape[1:] == shape:
            notes.append(f"channels moved {words}")
            return np.ascontiguousarray(moved)
    wanted = ", ".join(map(str, ("N", *shape)))
    raise EvaluateError(f"{where}: inputs have shape {x.shape}, the model takes ({wanted})")


# Running


def quantized(end: End, x: np.ndarray) -> np.ndarray:
    """Real numbers as the end's integers; what is already int8 stays."""
    return x if x.dtype == np.int8 else end.quantize(x)


def ends(model: Model) -> tuple[End, End]:
    """The input and the output of a model that has one each. Raises EvaluateError."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise EvaluateError(
            f"{model.name}: {len(model.inputs)} inputs, {len(model.outputs)} outputs: one each is needed"
        )
    return End.of(model.tensors[model.inputs[0]]), End.of(model.tensors[model.outputs[0]])


def float_outputs(source: str | Path, samples: Samples, progress: Callable | None = None) -> np.ndarray:
    """What the float model gives for the samples, (N, …). Raises ImportModelError or EvaluateError."""
    from lepton.sw.frontends.graph import evaluate
    from lepton.sw.frontends.importer import read_source

    if samples.x.dtype == np.int8:
        raise EvaluateError("the data are bytes of the int8 model: the float model needs real numbers")
    graph = read_source(source, shapes=[(1, *samples.x.shape[1:])])
    shape = graph.inputs[0].shape
    x = _shaped(samples.x, shape[1:], source, [])
    out = []
    for i in range(len(x)):
        out.append(evaluate(graph, x[i : i + 1].reshape(shape))[graph.outputs[0]][0])
        if progress:
            progress(i + 1, len(x))
    return np.stack(out)


# Scores


def task_of(task: str, outputs: np.ndarray, samples: Samples) -> str:
    """The task, where `auto` says to find it."""
    if task != "auto":
        return task
    if outputs.shape[1:] and outputs[0].size == samples.x[0].size and outputs[0].size > 1 and samples.y.ndim == 1:
        return "anomaly"
    whole = samples.y.ndim == 1 and samples.y.dtype.kind in "iub"
    if whole and outputs[0].size == 1 and set(np.unique(samples.y)) <= {0, 1}:
        return "anomaly"
    return "classes" if whole and outputs[0].size > 1 else "regression"


def scores(task: str, outputs: np.ndarray, samples: Samples) -> dict:
    """The numbers of one model, JSON-able. outputs: real numbers (N, …)."""
    try:
        from sklearn import metrics
    except ImportError:
        raise EvaluateError("the scores need scikit-learn: pip install 'lepton-npu[evaluate]'") from None
    y, flat = samples.y, outputs.reshape(len(outputs), -1)
    if task == "classes":
        guess, labels = flat.argmax(1), np.arange(flat.shape[1])
        if y.dtype.kind not in "iub" or y.min() < 0 or y.max() >= flat.shape[1]:
            raise EvaluateError(f"labels from {y.min()} to {y.max()}, the model has {flat.shape[1]} outputs")
        kw = dict(labels=labels, zero_division=0)
        precision, recall, f1, count = metrics.precision_recall_fscore_support(y, guess, **kw)
        seen = count > 0
        return {
            "accuracy": float((guess == y).mean()),
            "precision": float(precision[seen].mean()),
            "recall": float(recall[seen].mean()),
            "f1": float(f1[seen].mean()),
            "per_class": [
                {"precision": float(p), "recall": float(r), "f1": float(f), "count": int(n)}
                for p, r, f, n in zip(precision, recall, f1, count)
            ],
            "confusion": metrics.confusion_matrix(y, guess, labels=labels).tolist(),
        }
    if task == "anomaly":
        if set(np.unique(y)) != {0, 1}:
            raise EvaluateError("an anomaly detector's labels are 0 (normal) and 1, with some of each")
        score = flat[:, 0] if flat.shape[1] == 1 else ((flat - samples.x.reshape(len(flat), -1)) ** 2).mean(1)
        return {
            "auc": float(metrics.roc_auc_score(y, score)),
            "average_precision": float(metrics.average_precision_score(y, score)),
        }
    target = y.reshape(len(y), -1).astype(np.float64)
    if target.shape != flat.shape:
        raise EvaluateError(f"targets have shape {y.shape}, the outputs {outputs.shape}")
    return {
        "mean_absolute_error": float(np.abs(flat - target).mean()),
        "root_mean_square_error": float(np.sqrt(((flat - target) ** 2).mean())),
        "r2": float(metrics.r2_score(target, flat)) if len(flat) > 1 else None,
    }


def evaluate(session, samples: Samples, task: str = "auto", float_model=None, progress: Callable | None = None) -> dict:
    """The report: task, count, notes, and for each of `int8` and `float` (if there is one) its scores."""
    given, taken = ends(session.model)
    x = quantized(given, samples.x)
    y = taken.dequantize(np.asarray(session.run(x.reshape(len(x), *given.row), progress=progress)))
    compared = samples
    if samples.x.dtype == np.int8:
        compared = Samples(given.dequantize(samples.x), samples.y, samples.names, samples.notes)
    task = task_of(task, y, compared)
    models = {"int8": scores(task, y, compared)}
    if float_model is not None:
        models["float"] = scores(task, float_outputs(float_model, samples, progress), compared)
    cycles = (session.report or {}).get("cycles")
    report = {"model": session.model.name, "backend": session.backend, "task": task, "count": len(x)}
    return report | {"names": samples.names, "notes": samples.notes, "cycles": cycles, "models": models}


# Output


def show(report: dict, file=None) -> None:
    """Print the report."""
    from rich.console import Console
    from rich.table import Table

    file = file or sys.stdout
    console = Console(file=file, highlight=False, width=None if file.isatty() else 120)
    models = report["models"]
    cycles = f", {report['cycles']:,} cycles each" if report["cycles"] else ""
    console.print(f"{report['model']}: {report['task']}, {report['count']} samples on {report['backend']}{cycles}")
    for note in report["notes"]:
        console.print(f"  {note}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in models:
        table.add_column(name, justify="right")
    first = next(iter(models.values()))
    for key, value in first.items():
        if not isinstance(value, list):
            percent = report["task"] == "classes"
            cells = (m[key] for m in models.values())
            shown = ("" if c is None else f"{c:.2%}" if percent else f"{c:.5f}" for c in cells)
            table.add_row(key.replace("_", " "), *shown)
    console.print(table)
    if report["task"] != "classes":
        return
    names = report["names"] or [str(i) for i in range(len(first["confusion"]))]
    for name, m in models.items():
        console.print(f"\nconfusion matrix, {name} (row: the label, column: the answer)")
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("")
        for n in names:
            table.add_column(n[:10], justify="right")
        for head in ("precision", "recall", "F1"):
            table.add_column(head, justify="right", style="dim")
        for n, row, c in zip(names, m["confusion"], m["per_class"]):
            marks = (f"{c[k]:.2%}" for k in ("precision", "recall", "f1"))
            table.add_row(n[:10], *(str(v) if v else "·" for v in row), *marks)
        console.print(table)


def draw(report: dict, path: str | Path) -> None:
    """The confusion matrices as a picture; other tasks as bars."""
    need("report", "matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = report["models"]
    figure = Figure(figsize=(5.2 * len(models), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for k, (name, m) in enumerate(models.items(), 1):
        axes = figure.add_subplot(1, len(models), k)
        if report["task"] != "classes":
            numbers = {a.replace("_", " "): v for a, v in m.items() if v is not None}
            axes.barh(list(numbers), list(numbers.values()))
            axes.set_title(f"{report['model']}, {name}")
            continue
        matrix = np.array(m["confusion"])
        share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        names = report["names"] or [str(i) for i in range(len(matrix))]
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("answer")
        axes.set_ylabel("label")
        axes.set_title(f"{report['model']}, {name}: {m['accuracy']:.2%} of {report['count']}")
        if len(matrix) <= 20:
            for (i, j), v in np.ndenumerate(matrix):
                if v:
                    axes.text(
                        j,
                        i,
                        str(v),
                        ha="center",
                        va="center",
                        color="white" if share[i, j] > 0.5 else "black",
                        fontsize=7,
                    )
    figure.savefig(path, dpi=120, format="png")

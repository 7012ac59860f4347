"""`lepton import`: a framework's file to an int8 .tflite, with what it cost."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lepton.sw.arrays import ArrayError, holds, read_arrays
from lepton.sw.files import check_file
from lepton.sw.frontends import graph as ir
from lepton.sw.frontends import keras_source, torch_source
from lepton.sw.frontends.graph import Graph, ImportModelError, Value
from lepton.sw.frontends.quantize import Quantized, Ranges, calibrate, quantize
from lepton.sw.frontends.simplify import widened, without_gelu
from lepton.sw.frontends.tflite_reader import read_tflite
from lepton.sw.graph.model import MAX_FILE_BYTES, Model, ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden

ENDINGS = (".onnx", ".pt2", ".keras", ".h5", ".tflite")
KEYS = ("calibration", "x")
AGREEMENT_SAMPLES = 32
REPORT_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class Imported:
    """An imported model: the float graph, its int8 form, what calibration saw, and its data as the graph takes them."""

    graph: Graph
    quantized: Quantized
    ranges: Ranges
    samples: list[tuple[np.ndarray, ...]]

    @property
    def data(self) -> bytes:
        """The .tflite file."""
        return self.quantized.data

    def model(self) -> Model:
        """The file as the compiler reads it. Raises ModelError that tells the source's node."""
        try:
            return load_model(self.data, self.graph.name)
        except ModelError as error:
            words = str(error).split("operator ", 1)
            number = words[1].split(" ", 1)[0] if len(words) == 2 else ""
            if number.isdigit() and int(number) < len(self.quantized.sources):
                raise ModelError(f"{error}; in the source: {self.quantized.sources[int(number)]}") from None
            raise


def load_calibration(path: str | Path, names: list[str] | None = None) -> list[np.ndarray]:
    """Arrays (N, shape of the input in the source's layout), one an input: `calibration` or `x`, or for several inputs
    by their names. Raises ImportModelError."""
    try:
        arrays = read_arrays(path, (*KEYS, *(names or ())))
    except OSError as error:
        raise ImportModelError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ArrayError as error:
        raise ImportModelError(str(error)) from None
    single = next((arrays[k] for k in KEYS if k in arrays), None)
    if single is not None:
        return [single]
    if names and all(n in arrays for n in names):
        return [arrays[n] for n in names]
    wanted = f"calibration or x{', or ' + ', '.join(names) if names and len(names) > 1 else ''}"
    raise ImportModelError(f"{path}: holds {holds(path)}; the data must be named {wanted}")


def read_source(source, nhwc: bool = False, shapes=None, name: str | None = None, example_inputs=None) -> Graph:
    """The float graph of a file by its ending, of an ONNX ModelProto, or of a torch or Keras model.

    shapes: of the inputs, where the source leaves sizes open; example_inputs: what a torch module is called with.
    Raises ImportModelError, one line.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        check_file(path, MAX_FILE_BYTES, ImportModelError)
        ending = path.suffix.lower()
    else:
        path, ending = source, ""
    if ending in (".keras", ".h5") or keras_source.is_keras(source):
        return keras_source.read_keras(path, name)
    if ending == ".tflite":
        return read_tflite(path, name)
    if ending == ".pt2" or torch_source.is_module(source):
        return torch_source.read_torch(path, example_inputs, nhwc, name)
    if ending not in ("", ".onnx"):
        raise ImportModelError(f"{path}: the ending {ending} is not known; known: {', '.join(ENDINGS)}")
    from lepton.sw.frontends.onnx_reader import read_onnx

    return read_onnx(path, name, nhwc, shapes)


def _channels_last(source) -> bool:
    """Whether the source's own layout has the channels last."""
    return keras_source.is_keras(source) or Path(str(source)).suffix.lower() in (".keras", ".h5", ".tflite")


def samples_of(graph: Graph, arrays: list[np.ndarray], nhwc: bool, where: str) -> list[tuple[np.ndarray, ...]]:
    """Calibration arrays, in the source's layout, as samples of the graph. Raises ImportModelError."""
    if len(arrays) != len(graph.inputs):
        raise ImportModelError(f"{where}: {len(arrays)} arrays for {len(graph.inputs)} inputs")
    turned = []
    for x, v in zip(arrays, graph.inputs):
        if x.dtype.kind not in "fiub":
            raise ImportModelError(f"{where}: type is {x.dtype}, numbers are expected")
        last = nhwc and len(v.shape) > 2
        shape = (v.shape[0], v.shape[-1], *v.shape[1:-1]) if last else v.shape
        if x.shape[1:] != shape[1:] or not len(x) or x.ndim != len(shape):
            wanted = ", ".join(map(str, ("N", *shape[1:])))
            raise ImportModelError(f"{where}: shape is {x.shape}, the source takes ({wanted}), N at least 1")
        if len(x) != len(arrays[0]):
            raise ImportModelError(f"{where}: {len(x)} samples of {v.name!r}, {len(arrays[0])} of the first input")
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ImportModelError(f"{where}: values that are not finite numbers")
        turned.append(np.moveaxis(x, 1, -1) if last else x)
    return [tuple(x[i : i + 1] for x in turned) for i in range(len(turned[0]))]


def import_model(
    source,
    calibration: list[np.ndarray] | np.ndarray | None = None,
    nhwc: bool = False,
    name: str | None = None,
    where: str = "calibration",
    progress=None,
    example_inputs: list[np.ndarray] | None = None,
    tflm: bool = False,
    activations: int = 8,
) -> Imported:
    """An integer model of a source (see `read_source`).

    calibration: (N, shape of the input) in the source's layout, a list of such for several inputs; None for sources
    that are quantized (QDQ). nhwc: inputs and outputs keep their channels last, as they run. tflm: only operators that
    TFLM has (`without_gelu`). activations: of 8 or 16 bits (`widened`). Raises ImportModelError.
    """
    arrays = [calibration] if isinstance(calibration, np.ndarray) else list(calibration or [])
    shapes = [(1, *a.shape[1:]) for a in arrays] or None
    graph = read_source(source, nhwc, shapes, name, example_inputs)
    if activations == 16:
        if any(v.quant is not None for v in (*graph.inputs, *(n.y for n in graph.nodes))):
            raise ImportModelError(f"{graph.name}: it is quantized to 8 bits: import the float model with 16")
        graph = widened(graph)
    elif tflm:
        graph = without_gelu(graph)
    turned = nhwc and not _channels_last(source)
    samples = samples_of(graph, arrays, turned, where) if arrays else []
    ranges = calibrate(graph, samples, progress) if samples else Ranges()
    return Imported(graph, quantize(graph, ranges), ranges, samples)


# What it cost


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of the angle between two arrays as vectors; 1 where both are zero."""
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / size if size else float(not a.any() and not b.any())


def decibels(reference: np.ndarray, error: np.ndarray) -> float:
    """Signal to noise."""
    noise = float((np.asarray(error, np.float64) ** 2).sum())
    signal = float((np.asarray(reference, np.float64) ** 2).sum())
    return math.inf if not noise else 10 * math.log10(signal / noise) if signal else -math.inf


def _runs(imported: Imported, model: Model, count: int) -> Iterator[tuple[dict, dict]]:
    """(float values, int8 tensors) of the first calibration samples."""
    for sample in imported.samples[:count]:
        stored = [
            imported.quantized.params[v].quantize(x).reshape(v.shape) for v, x in zip(imported.graph.inputs, sample)
        ]
        yield ir.evaluate(imported.graph, *sample), golden.run_all(model, *stored)


def agreement(imported: Imported, model: Model, count: int = AGREEMENT_SAMPLES) -> dict:
    """How near the int8 model is to the float model on calibration data: cosine, signal to noise (dB), the largest
    error and the span of the float outputs, and how often the largest output is the same (None: not one vector)."""
    out = imported.graph.outputs[0]
    params = imported.quantized.params[out]
    pairs = [(f[out], params.dequantize(t[imported.quantized.tensors[out]])) for f, t in _runs(imported, model, count)]
    real, got = (np.stack(x) for x in zip(*pairs))
    vector = math.prod(out.shape) == out.shape[-1] > 1
    same = (real.reshape(len(real), -1).argmax(1) == got.reshape(len(got), -1).argmax(1)).mean() if vector else None
    return {
        "samples": len(pairs),
        "cosine": cosine(real, got),
        "decibels": decibels(real, real - got),
        "largest_error": float(np.abs(real - got).max()),
        "span": float(real.max() - real.min()),
        "same_argmax": None if same is None else float(same),
    }


def layers(imported: Imported, model: Model, count: int = REPORT_SAMPLES) -> list[dict]:
    """For each operator: cosine and signal to noise of its output with the float model's, and of the operator alone,
    computed in float from the same int8 inputs: where the latter is low, the loss begins there."""
    q = imported.quantized
    found: dict[Value, list[list[np.ndarray]]] = {}
    for real, stored in _runs(imported, model, count):
        got = {v: q.params[v].dequantize(stored[t]) if t in stored else real[v] for v, t in q.tensors.items()}
        for node in imported.graph.nodes:
            arguments = [None if v is None else got[v] if v.data is None else v.data for v in node.inputs]
            found.setdefault(node.y, []).append([real[node.y], got[node.y], ir.run_node(node, arguments)])
    rows = []
    for node in imported.graph.nodes:
        whole, int8, alone = (np.stack(x) for x in zip(*found[node.y]))
        p = q.params[node.y]
        rows.append(
            {
                "op": node.op,
                "source": node.source,
                "shape": list(node.y.shape),
                "scale": p.scale,
                "zero_point": p.zero_point,
                "cosine": cosine(whole, int8),
                "decibels": decibels(whole, whole - int8),
                "own_decibels": decibels(alone, alone - int8),
            }
        )
    return rows


def show_layers(rows: list[dict], file=None) -> None:
    """Print `layers` as a table."""
    from rich.console import Console
    from rich.table import Table

    file = file or sys.stdout
    console = Console(file=file, highlight=False, width=None if file.isatty() else 150)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("operator", "source", "shape", "scale", "cosine", "dB", "dB alone"):
        table.add_column(name, justify="left" if name in ("operator", "source", "shape") else "right")
    for r in rows:
        shape = "x".join(map(str, r["shape"][1:])) or "1"
        numbers = (f"{r['cosine']:.5f}", *(f"{r[k]:.1f}" for k in ("decibels", "own_decibels")))
        table.add_row(r["op"], r["source"][:48], shape, f"{r['scale']:.4g}", *numbers)
    console.print(table)

"""`python -m lepton.verif.networks`: the table, a line a network and way; exit code 1 where one does not hold.

Ways: a PyTorch module, its ONNX file, that file quantized by ONNX Runtime (QDQ), and Keras; of the transformer also the
ONNX file with activations of 16 bits, which the host computes. For each: the cosine of the imported model (golden) with
the float network, and whether golden, the instruction-set simulator, TensorFlow Lite Micro and the RTL give the same
bytes. GELU, which TFLM has not, is written as with `lepton import --tflm`.
"""

import argparse
import importlib.util
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.rtl.spec.config import get_config
from lepton.rtl.spec.errors import LeptonError
from lepton.sw.compiler import NpuStep
from lepton.sw.frontends.importer import cosine, import_model
from lepton.sw.session import Session

WAYS = {"torch": ("torch", "onnxscript"), "onnx": ("torch", "onnxscript"), "qdq": ("torch", "onnxruntime"),
        "onnx16": ("torch", "onnxscript"), "keras": ("tensorflow",)}  # fmt: skip
"""What each way needs."""
SHAPES = {"audio": (1, 1024), "lstm": (28, 28), "transformer": (28, 28)}
NAMES = ("cnn", "depthwise", "audio", "unet", "lstm", "transformer")
REFERENCES = ("iss", "tflm", "rtl")
TRAINING, COMPARED, STEPS = 256, 20, 2
CONFIG = get_config("small")
"""All of them fit it."""


@dataclass
class Row:
    """One network by one way. `bytes`: what each reference says: yes, NO, or why it does not know; `host` of the RTL
    where it has no part in the program."""

    network: str
    way: str
    cosine: float
    bytes: dict[str, str]

    @property
    def holds(self) -> bool:
        least = 0.985 if self.network == "transformer" else 0.999
        rest = dict(self.bytes)
        if self.way == "onnx16":
            least = 0.998
            if rest.get("rtl") == "host":
                del rest["rtl"]
        return self.cosine >= least and set(rest.values()) == {"yes"}


def samples(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures, sounds or sequences of ten classes, channels first; labels."""
    rng = np.random.default_rng(11)
    shape = SHAPES.get(name, (1, 28, 28))
    classes = rng.uniform(0, 1, (10, *shape)) * (rng.uniform(size=(10, *shape)) < 0.4)
    y = rng.integers(0, 10, TRAINING)
    x = np.clip(classes[y] + rng.normal(0, 0.15, (TRAINING, *shape)), 0, 1)
    return x.astype(np.float32), y


# Ways: (source, float outputs) of a network


def torch_way(name: str, x: np.ndarray, y: np.ndarray, folder: str) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The module, and its ONNX files."""
    import torch

    from lepton.verif.networks.torch_networks import trained

    net = trained(name, x, y)
    with torch.no_grad():
        real = net(torch.as_tensor(x[:COMPARED])).numpy()
    yield "torch", net, real
    plain, quantized = f"{folder}/{name}.onnx", f"{folder}/{name}_qdq.onnx"
    export = dict(input_names=["x"], dynamo=True, opset_version=18, verbose=False)
    torch.onnx.export(net, (torch.as_tensor(x[:1]),), plain, **export)
    yield "onnx", plain, real
    if name == "transformer":
        yield "onnx16", plain, real
    if importlib.util.find_spec("onnxruntime") is None:
        return
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        rows = iter([{"x": row[None]} for row in x[:100]])

        def get_next(self):
            return next(self.rows, None)

    kinds = dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, per_channel=True)
    quantize_static(plain, quantized, Reader(), quant_format=QuantFormat.QDQ, **kinds)
    yield "qdq", quantized, real


def keras_way(name: str, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, Any, np.ndarray]]:
    from lepton.verif.networks.keras_networks import trained

    model = trained(name, x, y)
    yield "keras", model, np.asarray(model(x[:COMPARED]))


# Bytes


def tflm(data: bytes, stored: np.ndarray) -> list[np.ndarray]:
    """Outputs of TensorFlow Lite Micro."""
    from tflite_micro.python.tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(data, arena_size=1 << 23)
    out = []
    for row in stored:
        interpreter.set_input(row, 0)
        interpreter.invoke()
        out.append(np.array(interpreter.get_output(0)))
    return out


def compared(name: str, way: str, source: Any, real: np.ndarray, x: np.ndarray, references: list[str]) -> Row:
    """Import, run everywhere, compare."""
    example = [x[:1]] if way == "torch" else None
    bits = 16 if way == "onnx16" else 8
    imported = import_model(source, x[:100], name=name, example_inputs=example, tflm=True, activations=bits)
    model = imported.model()
    session = Session(model, CONFIG, "golden")
    stored = session.inputs[0].quantize(x[:COMPARED].reshape(COMPARED, *session.inputs[0].row))
    want = session.run(stored)
    seen: dict[str, str] = {}

    def told(where: str, run: Callable[[], np.ndarray]) -> None:
        try:
            seen[where] = "yes" if np.array_equal(run(), want[: len(rows)]) else "NO"
        except Exception as error:
            seen[where] = f"({type(error).__name__}: {str(error).splitlines()[0][:60]})"

    rows = stored[:STEPS]
    if "iss" in references:
        told("iss", lambda: Session(model, CONFIG, "iss").run(rows))
    if "tflm" in references:
        shaped = rows.reshape(STEPS, *model.tensors[model.inputs[0]].shape)
        told("tflm", lambda: np.stack([r.reshape(want.shape[1:]) for r in tflm(imported.data, shaped)]))
    if "rtl" in references:
        rows = stored[:1]
        device = Session(model, CONFIG, "rtl")
        if any(isinstance(step, NpuStep) for step in device.program.steps):
            told("rtl", lambda: device.run(rows))
        else:
            seen["rtl"] = "host"
    return Row(name, way, cosine(session.outputs[0].dequantize(want), real), seen)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lepton.verif.networks", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--networks", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--references", nargs="+", choices=REFERENCES, default=list(REFERENCES))
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # what the exporters find to say
    missing = {w: [m for m in WAYS[w] if importlib.util.find_spec(m) is None] for w in args.ways}
    for way, modules in missing.items():
        if modules:
            print(
                f"{way}: left out, it needs {' and '.join(modules)}: pip install 'lepton-npu[networks]'",
                file=sys.stderr,
            )
    ways = [w for w in args.ways if not missing[w]]
    results: list[Row] = []
    started = time.monotonic()
    print(f"{'network':12} {'way':6} {'cosine':>9}  the same bytes as golden ({CONFIG.name})")
    for name in args.networks:
        x, y = samples(name)
        with tempfile.TemporaryDirectory() as folder:
            made: list[Iterator[tuple[str, Any, np.ndarray]]] = []
            if set(ways) - {"keras"}:
                made.append(torch_way(name, x, y, folder))
            if "keras" in ways:
                turned = np.moveaxis(x, 1, -1) if name not in ("lstm", "transformer") else x
                made.append(keras_way(name, turned, y))
            for sources in made:
                for way, source, real in sources:
                    if way not in ways:
                        continue
                    data = turned if way == "keras" else x
                    try:
                        row = compared(name, way, source, real, data, args.references)
                    except LeptonError as error:
                        row = Row(name, way, 0.0, {"import": "NO", "why": str(error)[:150]})
                    results.append(row)
                    said = ", ".join(f"{k} {v}" for k, v in row.bytes.items())
                    print(
                        f"{name:12} {way:6} {row.cosine:9.5f}  {said}{'' if row.holds else '   <- does not hold'}",
                        flush=True,
                    )
    held = sum(r.holds for r in results)
    print(f"{held} of {len(results)} hold, {time.monotonic() - started:.0f} s")
    return 0 if results and held == len(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())

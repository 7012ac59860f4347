"""`lepton.compile`: from a network in a framework to a Session, in one call."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton.rtl.spec.config import NpuConfig
from lepton.sw.files import check_file
from lepton.sw.frontends.graph import ImportModelError
from lepton.sw.frontends.importer import import_model, load_calibration
from lepton.sw.graph.model import MAX_FILE_BYTES
from lepton.sw.session import Session


def compile(
    model: Any,
    example_inputs: Any = None,
    calibration: Any = None,
    *,
    config: str | NpuConfig | None = None,
    backend: str = "iss",
    nhwc: bool = False,
    activations: int = 8,
) -> Session:
    """A Session of a network, quantized on the way where it is float.

    model : torch.nn.Module, ExportedProgram, Keras model, onnx.ModelProto, or a path (.onnx, .pt2, .keras, .tflite).
        An int8 .tflite and a compiled program are taken as they are, without calibration.
    example_inputs : what the network is called with, batch first: an array or tensor, or a tuple of them. A torch
        module needs it; it is also the calibration data where there are no others.
    calibration : (N, shape of the input) in the source's layout: an array or tensor, one for each input, or the path
        of an .npz with `calibration` or `x`.
    config, backend : as of Session.
    nhwc : inputs and outputs keep their channels last; else they are as in the source.
    activations : of 8 bits, or of 16, which the host computes.

    Raises ImportModelError, ModelError, CompileError or ConfigError, each with one line.
    """
    given = None if example_inputs is None else as_arrays(example_inputs)
    if isinstance(calibration, (str, Path)):
        data: list[np.ndarray] | None = load_calibration(calibration)
    else:
        data = given if calibration is None else as_arrays(calibration)
    if isinstance(model, (str, Path)):
        check_file(Path(model), MAX_FILE_BYTES, ImportModelError)
    ready = isinstance(model, (str, Path)) and Path(model).suffix.lower() not in (".onnx", ".pt2", ".keras", ".h5")
    if ready and data is None:
        return Session(str(model), config=config, backend=backend)
    imported = import_model(model, data, nhwc, example_inputs=given, activations=activations)
    return Session(imported.model(), config=config, backend=backend)


def as_arrays(data: Any) -> list[np.ndarray]:
    """One array an input; torch tensors become arrays."""
    many = isinstance(data, Sequence) and not isinstance(data, np.ndarray)
    return [np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in (data if many else [data])]

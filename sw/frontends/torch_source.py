"""PyTorch modules and .pt2 files, by PyTorch's own ONNX exporter: an LSTM stays one operator, and no more is installed
than torch and onnxscript."""

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

from lepton.sw.frontends.graph import Graph, ImportModelError

MISSING = "reading PyTorch needs torch, onnx and onnxscript: pip install 'lepton-npu[torch]'"


def is_module(source: Any) -> bool:
    """Whether it is a torch.nn.Module or an ExportedProgram, without importing torch."""
    return any(
        c.__module__.startswith("torch.") and c.__name__ in ("Module", "ExportedProgram") for c in type(source).__mro__
    )


def read_torch(source: Any, example_inputs: tuple | None = None, nhwc: bool = False, name: str | None = None) -> Graph:
    """The float graph of an nn.Module (with example inputs, batch 1), an ExportedProgram, or a .pt2 file of
    torch.export.save. Raises ImportModelError, one line."""
    try:
        import onnxscript  # noqa: F401
        import torch

        from lepton.sw.frontends.onnx_reader import read_onnx
    except ImportError:
        raise ImportModelError(MISSING) from None
    if isinstance(source, (str, Path)):
        path = Path(source)
        name = name or path.stem
        try:
            with warnings.catch_warnings(), _quiet():
                warnings.simplefilter("ignore")
                source = torch.export.load(str(path))
        except Exception as error:
            raise ImportModelError(f"{path}: not a .pt2 file of torch.export.save ({type(error).__name__})") from None
    name = name or (type(source).__name__ if isinstance(source, torch.nn.Module) else "model")
    arguments: tuple = ()
    if isinstance(source, torch.nn.Module):
        if not example_inputs:
            raise ImportModelError(f"{name}: a module needs example_inputs, batch 1")
        arguments = tuple(torch.as_tensor(x)[:1] for x in example_inputs)
        source = source.eval()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(source, arguments, dynamo=True, opset_version=18, verbose=False)
        proto = program.model_proto
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise ImportModelError(f"{name}: torch.onnx.export refuses it: {' '.join(first)[:200]}") from None
    return read_onnx(proto, name, nhwc)


@contextlib.contextmanager
def _quiet():
    """Without what torch's loader and exporter tell of their progress: a user's error is one line."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)

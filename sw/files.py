"""Files that a user names: checked before long work, read with errors in one line, written whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lepton.sw.errors import LeptonError, UserError

if TYPE_CHECKING:  # commands import this module before they know that they need NumPy
    import numpy as np

    from lepton.rtl.spec.config import NpuConfig
    from lepton.sw.targets import Target

DIGITS = Path(__file__).resolve().parent / "models" / "digits.tflite"
"""The network that ships."""
MAX_TEXT = 1 << 20
"""Most bytes of a configuration or a list of labels."""
INPUT_KEYS, LABEL_KEYS, EXPECTED_KEYS = ("x", "input"), ("y", "labels"), ("tflm", "output")


def check_model(name: str | Path) -> None:
    """Raises UserError when there is no such file."""
    if not Path(name).is_file():
        raise UserError(f"{name}: no such file")


def check_file(path: Path, limit: int, error: type[LeptonError]) -> None:
    """Raises `error` unless it is a file (no pipe, no device: they may never end) of at most `limit` bytes that can be
    read. For files that a library opens; others are read with `read_file`."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise error(f"{path}: not a file")
        if size > limit:
            raise error(f"{path}: larger than {limit} bytes")
        path.open("rb").close()
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror or e}") from None


def read_file(path: Path, limit: int, error: type[LeptonError]) -> bytes:
    """Bytes of a file, once `check_file` has found nothing wrong with it."""
    check_file(path, limit, error)
    try:
        return path.read_bytes()
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror or e}") from None


def check_output(name: str | Path) -> Path:
    """The path, when a file can be written there. Raises UserError: better before a long run than after."""
    path = Path(name)
    if path.is_dir():
        raise UserError(f"{name}: is a folder; give a file to write")
    folder = Path(os.path.realpath(path)).parent  # pathlib's own raises at links in a circle
    if not folder.is_dir():
        raise UserError(f"{name}: the folder {folder} does not exist")
    if not os.access(path if path.exists() and not path.is_file() else folder, os.W_OK):
        raise UserError(f"{name}: no permission to write there")
    return path


@contextmanager
def atomic(name: str | Path) -> Iterator[Path]:
    """A path to write to that becomes `name` when the block ends well, and vanishes when it does not."""
    path = Path(os.path.realpath(name))
    if path.exists() and not path.is_file():  # a device or pipe cannot be replaced
        yield path
        return
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def pick(arrays: Mapping[str, "np.ndarray"], keys: Sequence[str]) -> "np.ndarray | None":
    """The first of the arrays named `keys` that is there."""
    return next((arrays[k] for k in keys if k in arrays), None)


def find_answers(arrays: Mapping[str, "np.ndarray"]) -> "tuple[np.ndarray | None, np.ndarray | None]":
    """Labels (N,) and expected outputs among the arrays of an input file; None for what is not there."""
    labels = pick(arrays, LABEL_KEYS)
    return (labels if labels is not None and labels.ndim == 1 else None), pick(arrays, EXPECTED_KEYS)


def load_inputs(name: str | Path) -> "tuple[np.ndarray, dict[str, np.ndarray]]":
    """The array x or input of an .npy or .npz file, and all its arrays. Raises UserError, ArrayError."""
    from lepton.sw.arrays import read_arrays

    arrays = read_arrays(name)
    x = pick(arrays, INPUT_KEYS)
    if x is None:
        raise UserError(f"{name}: holds {', '.join(arrays) or 'nothing'}; the inputs must be named x or input")
    return x, arrays


def same_file(a: str | Path, b: str | Path) -> bool:
    """Whether two names are one file."""
    return Path(a).exists() and Path(b).exists() and os.path.samefile(a, b)


def check_input(x: "np.ndarray", shape: Sequence[int], name: object) -> None:
    """Refuse inputs that are not int8 of (N, *shape). Raises UserError."""
    want = "(" + ", ".join(["N", *map(str, shape)]) + ")"
    if x.dtype.name != "int8":
        raise UserError(f"{name}: type is {x.dtype.name} with shape {x.shape}; the model takes int8 {want}")
    if x.shape[1:] != tuple(shape) or x.ndim != len(shape) + 1:
        hint = "; add the leading N with x[None]" if x.shape == tuple(shape) else ""
        raise UserError(f"{name}: shape is {x.shape}; the model takes {want}{hint}")
    if not len(x):
        raise UserError(f"{name}: shape is {x.shape}: no inputs; the model takes {want} with N at least 1")


def load_config(name: str) -> "NpuConfig":
    """The configuration that `load_target` finds by its name."""
    return load_target(name).config


def load_target(name: str) -> "Target":
    """The preset or board of that name, or the configuration in a .json file. Raises ConfigError, UserError."""
    from lepton.rtl.spec.config import ConfigError, NpuConfig
    from lepton.sw.targets import Target, get_target

    if not name.endswith(".json"):
        return get_target(name)
    text = read_file(Path(name), MAX_TEXT, UserError)
    try:
        data = json.loads(text)
        config = NpuConfig.from_dict(data.get("config", data))
        return Target(config.name, config, title=name)
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{name}: not a configuration: {e}") from None

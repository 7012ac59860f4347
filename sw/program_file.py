"""A compiled program as a file: a zip of the model, the configuration, the step list and the memory images."""

import io
import json
import struct
import zipfile
import zlib
from dataclasses import asdict

import numpy as np

from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler import CompileError, HostStep, Layer, NpuStep, Place, Program
from lepton.sw.graph.reader import load_model

FORMAT = 1
MAGIC = b"PK\x03\x04"
DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, KeyError, TypeError, ValueError, EOFError,
          OSError, RuntimeError)  # fmt: skip
"""What reading a damaged archive raises."""


def dump_program(program: Program, source: bytes) -> bytes:
    """Bytes of a program file; `source` is the .tflite the program was compiled from."""
    index = {
        "format": FORMAT,
        "config": program.config.to_dict(),
        "steps": [asdict(s) | {"kind": type(s).__name__} for s in program.steps],
        "places": {str(t): asdict(p) for t, p in program.places.items()},
        "layers": [asdict(layer) for layer in program.layers],
        "peak_bytes": program.peak_bytes,
        "name": program.model.name,
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (
            ("program.json", json.dumps(index, indent=1).encode()),
            ("model.tflite", source),
            ("weights.bin", program.tiles),
            ("external.bin", program.external),
            ("params.bin", program.params),
            ("program.bin", program.program_bytes),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)  # fixed date: same input, same file
    return out.getvalue()


def parse_program(data: bytes) -> Program:
    """A program from the bytes of a program file. Raises CompileError when they are not one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if "program.json" not in archive.namelist():
                raise CompileError("a zip archive, not a program of `lepton compile`: give the .tflite in it")
            index = json.loads(archive.read("program.json"))
            if index["format"] != FORMAT:
                raise CompileError(
                    f"program file has format {index['format']}, this version reads {FORMAT}: compile the model again"
                )
            model = load_model(archive.read("model.tflite"))
            steps = [NpuStep(s["pc"]) if s["kind"] == "NpuStep" else HostStep(s["operator"]) for s in index["steps"]]
            return Program(
                config=NpuConfig.from_dict(index["config"]),
                model=model,
                tiles=archive.read("weights.bin"),
                external=archive.read("external.bin"),
                params=archive.read("params.bin"),
                words=[int(w) for w in np.frombuffer(archive.read("program.bin"), "<u8")],
                steps=steps,
                places={int(t): Place(**p) for t, p in index["places"].items()},
                layers=[Layer(**{**entry, "operators": tuple(entry["operators"])}) for entry in index["layers"]],
                peak_bytes=index["peak_bytes"],
            )
    except CompileError:
        raise
    except DAMAGE as error:
        raise CompileError(f"program file is damaged ({error}): compile the model again") from None

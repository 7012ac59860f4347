"""A compiled program as a file: a zip of the model, the configuration, the step list, the memory images, and a manifest
of what they are (`lepton.sw.integrity`)."""

import io
import json
import struct
import zipfile
import zlib
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw import integrity
from lepton.sw.compiler import CompileError, HostStep, Layer, NpuStep, Place, Program
from lepton.sw.graph.model import MAX_FILE_BYTES
from lepton.sw.graph.reader import load_model

FORMAT = 3
MAGIC = b"PK\x03\x04"
MAX_INDEX, MAX_EXTERNAL, MAX_ROWS = 1 << 24, 1 << 27, 1 << 20
DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, KeyError, TypeError, ValueError, EOFError,
          AttributeError, OSError, RuntimeError)  # fmt: skip
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
        "arena_bytes": program.arena_bytes,
        "setup": program.setup,
        "name": program.model.name,
    }
    members = {
        "program.json": json.dumps(index, indent=1).encode(),
        "model.tflite": source,
        "weights.bin": program.tiles,
        "external.bin": program.external,
        "params.bin": program.params,
        "program.bin": program.program_bytes,
    }
    made = {"model": program.model.name, "config": program.config.name}
    return integrity.archive({integrity.MANIFEST: integrity.manifest(members, made), **members})


def parse_program(data: bytes) -> Program:
    """A program from the bytes of a program file. Raises CompileError when they are not one.

    A program file is data that anybody may have made: no member is unpacked beyond what its configuration can hold, and
    all that the session will follow (steps, places, layers) is checked here.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if "program.json" not in archive.namelist():
                raise CompileError("a zip archive, not a program of `lepton compile`: give the .tflite in it")
            return _parse(archive)
    except CompileError:
        raise
    except DAMAGE as error:
        raise CompileError(f"program file is damaged ({error}): compile the model again") from None


def _parse(archive: zipfile.ZipFile) -> Program:
    raw = integrity.read(archive, "program.json", MAX_INDEX)
    index = json.loads(raw)
    if index["format"] != FORMAT:
        raise CompileError(
            f"program file has format {index['format']}, this version reads {FORMAT}: compile the model again"
        )
    manifest = integrity.read(archive, integrity.MANIFEST, MAX_INDEX)
    told = json.loads(manifest)
    digests = told.pop("sha256")

    def checked(name: str, data: bytes) -> bytes:
        if integrity.sha256(data) != digests[name]:
            raise ValueError(f"{name} is not what its manifest tells: changed, or damaged")
        return data

    def member(name: str, limit: int) -> bytes:
        return checked(name, integrity.read(archive, name, limit))

    checked("program.json", raw)
    config = NpuConfig.from_dict(index["config"])
    model = load_model(member("model.tflite", MAX_FILE_BYTES), index["name"])
    limit = {r: isa.depth(r, config) * isa.word_bytes(r, config) for r in isa.Region}
    if config.memory_width:  # all of them pass through the chip
        limit |= dict.fromkeys((isa.Region.WEIGHT, isa.Region.PARAM, isa.Region.PROGRAM), config.memory_bytes)
    external = config.external_bytes or MAX_EXTERNAL
    words = np.frombuffer(member("program.bin", limit[isa.Region.PROGRAM]), "<u8")
    program = Program(
        config=config,
        model=model,
        tiles=member("weights.bin", limit[isa.Region.WEIGHT]),
        external=member("external.bin", external),
        params=member("params.bin", limit[isa.Region.PARAM]),
        words=[int(w) for w in words],
        steps=[_step(s) for s in index["steps"]],
        places={int(t): _plain(Place, p) for t, p in index["places"].items()},
        layers=[_plain(Layer, entry) for entry in index["layers"]],
        peak_bytes=_integer(index["peak_bytes"], "peak_bytes"),
        arena_bytes=_integer(index["arena_bytes"], "arena_bytes"),
        setup=None if index["setup"] is None else _integer(index["setup"], "setup"),
        made={str(k)[:40]: str(v)[:80] for k, v in told.items()} | {"manifest": integrity.sha256(manifest)},
    )
    _check(program)
    return program


def _integer(value, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 40:
        raise ValueError(f"{what} is {str(value)[:40]}, not a number")
    return value


def _step(entry: dict) -> HostStep | NpuStep:
    kinds: dict[str, type[HostStep] | type[NpuStep]] = {"HostStep": HostStep, "NpuStep": NpuStep}
    return _plain(kinds[entry["kind"]], {k: v for k, v in entry.items() if k != "kind"})


def _plain(kind, entry: dict):
    """A dataclass of numbers, names, tuples of numbers and tables of numbers, from JSON."""
    values: dict[str, Any] = {}
    for field in fields(kind):
        value, what = entry.pop(field.name), f"{field.name} of a {kind.__name__}"
        if isinstance(value, list):
            values[field.name] = tuple(_integer(v, what) for v in value)
        elif isinstance(value, dict):
            values[field.name] = {k: v if k == "zero_point" else _integer(v, what) for k, v in value.items()}
        elif isinstance(value, str) or value is None and field.name == "stack":
            values[field.name] = value
        else:
            values[field.name] = _integer(value, what)
    if entry:
        raise ValueError(f"a {kind.__name__} has {', '.join(entry)}")
    return kind(**values)


def _check(program: Program) -> None:
    """Whether what a session follows leads somewhere."""
    model, room = program.model, program.arena_bytes or program.config.act_bytes
    port = bool(program.config.memory_width)
    if (program.setup is not None) != port or (program.arena_bytes and not port):
        raise ValueError("its memories are not those of its configuration")
    if port and (program.setup or 0) >= len(program.words):
        raise ValueError(f"its setup is word {program.setup} of {len(program.words)}")
    for data, region in ((program.tiles, isa.Region.WEIGHT), (program.params, isa.Region.PARAM)):
        if len(data) % isa.word_bytes(region, program.config):
            raise ValueError(f"{len(data)} bytes are no whole words of {region.name}")
    if port and program.arena_at + program.arena_bytes > program.config.memory_bytes:
        raise ValueError("image and arena exceed the memory")
    operators = {op.index for op in model.operators}
    starts = [s.pc for s in program.steps if isinstance(s, NpuStep)]
    if len(set(program.steps)) != len(program.steps):
        raise ValueError("a step comes twice")
    for step in program.steps:
        if isinstance(step, HostStep) and step.operator not in operators:
            raise ValueError(f"a step is operator {step.operator}, which the model does not have")
        if isinstance(step, NpuStep) and step.pc >= len(program.words):
            raise ValueError(f"a step starts at word {step.pc} of {len(program.words)}")
    for layer in program.layers:
        if not operators.issuperset(layer.operators):
            raise ValueError(f"layer {layer.name[:40]} has an operator that the model does not have")
        if not any(pc <= layer.first_word for pc in starts) or layer.end_word > len(program.words):
            raise ValueError(f"no step runs layer {layer.name[:40]}")
    for t, place in program.places.items():
        if not -len(model.variables) <= t < len(model.tensors):
            raise ValueError(f"a place of tensor {t}, which the model does not have")
        size = model.tensors[t].nbytes if t >= 0 else model.variables[-1 - t].bytes
        if place.address + max(size, place.size) > room and place.stack is None:
            raise ValueError(f"tensor {t} lies outside the memory")
        if place.stack is not None:
            _check_stack(place, size, room)
    _check_values(program)


def _check_values(program: Program) -> None:
    """Whether each tensor that the host reads is an input, computed on the host, a view of one, or has a place."""
    model = program.model
    by_index = {op.index: op for op in model.operators}
    there = {*model.inputs, *program.places} | {t.index for t in model.tensors if t.constant or t.variable}
    on_array = {i for layer in program.layers for i in layer.operators}
    on_host = {s.operator for s in program.steps if isinstance(s, HostStep)}
    views = {t: op for op in model.operators if op.index not in on_array | on_host for t in op.outputs}

    def need(*tensors: int) -> None:
        todo = list(tensors)
        while todo:
            t = todo.pop()
            if t < 0 or t in there:
                continue
            if t not in views:
                raise ValueError(f"tensor {t} is read before it is there, or has no place")
            there.add(t)
            todo += views[t].inputs

    for step in program.steps:
        if isinstance(step, HostStep):
            need(*by_index[step.operator].inputs)
            there.update(by_index[step.operator].outputs)
    need(*model.outputs)


STACK = "h w c top bottom left right kernel stride dilation out_h zero_point size".split()


def _check_stack(place: Place, size: int, room: int) -> None:
    """Whether an input laid out for a convolution (`Program.pack_input`) is the input, and fits."""
    stack = place.stack or {}
    if sorted(stack) != sorted(STACK):
        raise ValueError("the layout of an input is not one")
    rows, columns = stack["h"] + stack["top"] + stack["bottom"], stack["w"] + stack["left"] + stack["right"]
    last = (stack["out_h"] - 1) * stack["stride"] + (stack["kernel"] - 1) * stack["dilation"]
    made = stack["out_h"] * columns * stack["kernel"] * stack["c"]
    if (
        stack["h"] * stack["w"] * stack["c"] != size
        or not 0 <= last < rows <= MAX_ROWS
        or place.address + max(made, place.size) > room
        or stack["zero_point"] not in range(-128, 128)
    ):
        raise ValueError("the layout of an input does not fit it")

"""What the compiler makes: memory images, steps, and where the tensors lie."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.timing import Memory
from lepton.sw.graph.model import Model
from lepton.sw.reference.cycles import Timing, predict

T = TypeVar("T")


class CompileError(LeptonError, ValueError):
    """The model does not fit or is not supported; one line says what, why and what would help."""


@dataclass(frozen=True)
class Limit:
    """What a program needs of a memory: the configuration's field, what lies there, how much it needs and has."""

    field: str
    what: str
    need: int
    have: int

    @property
    def exceeded(self) -> bool:
        return self.need > self.have

    def __str__(self):
        return f"{self.what} need {self.field}={self.need:,}"


class FitError(CompileError):
    """A program that needs more than its configuration has; the message names all that is exceeded.

    `limits`: of every memory; `program`: what does not fit.
    """

    def __init__(self, program: "Program"):
        self.program, self.limits = program, program.limits()
        exceeded = [limit for limit in self.limits if limit.exceeded]
        name = program.config.name
        if len(exceeded) == 1:
            needs = f"{exceeded[0]}, configuration {name!r} has {exceeded[0].have:,}"
        else:
            needs = f"configuration {name!r} is too small: "
            needs += ", ".join(f"{limit} (it has {limit.have:,})" for limit in exceeded)
        smaller = " or a smaller input" if any(limit.field == "act_bytes" for limit in exceeded) else ""
        super().__init__(f"{program.model.name}: {needs}: use a larger configuration{smaller}")


class LayerError(CompileError):
    """The array cannot compute a layer in this configuration: the host does, the message says why.

    `operator`: the layer's first, once it is known.
    """

    operator: int = -1


def until_settled(host: dict[int, str], attempt: Callable[[], T]) -> T:
    """What `attempt` gives once it raises no LayerError; what the array turns out not to compute goes to `host`."""
    while True:
        try:
            return attempt()
        except LayerError as error:
            host[error.operator] = str(error)


@dataclass(frozen=True)
class Place:
    """A tensor in activation memory: first byte, and how the host lays it out (None: as it is)."""

    address: int
    size: int
    stack: dict | None = None


@dataclass(frozen=True)
class HostStep:
    operator: int


@dataclass(frozen=True)
class NpuStep:
    pc: int


@dataclass(frozen=True)
class Layer:
    """What the report needs of one group of fused operators."""

    operators: tuple[int, ...]
    name: str
    macs: int
    first_word: int
    end_word: int
    peak_bytes: int = 0
    """With a memory port: most bytes on the chip at one time, of activations; 0: not known."""


PART_ALIGN = 128
"""Bytes to whose multiples the parts of an image and the tensors of an arena are aligned: a burst of the program."""
ARENA_ALIGN = 4096


def aligned(size: int, to: int = PART_ALIGN) -> int:
    return -(-size // to) * to


def in_beats(raw: bytes, parts: Sequence[int], width: int) -> bytes:
    """Words, each of parts of so many bytes, with each part filled up to whole beats."""
    words = np.frombuffer(raw, np.uint8).reshape(-1, sum(parts))
    out = []
    for start, size in zip(np.cumsum([0, *parts]), parts):
        out.append(np.pad(words[:, start : start + size], ((0, 0), (0, -size % width))))
    return np.concatenate(out, axis=1).tobytes()


@dataclass
class Program:
    """A compiled network: memory images, steps, and where the tensors lie."""

    config: NpuConfig
    model: Model
    tiles: bytes = b""
    external: bytes = b""
    params: bytes = b""
    words: list[int] = field(default_factory=list)
    steps: list[HostStep | NpuStep] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    """Of tensors by index; -1 - n: of variable n."""
    layers: list[Layer] = field(default_factory=list)
    peak_bytes: int = 0
    """Most bytes of tensors that are alive at one time."""
    span_bytes: int = 0
    """Activation memory up to the last byte that a tensor takes; not kept in a program file."""
    arena_bytes: int = 0
    """With a memory port: of the arena, in which the places are then; 0: they are on the chip."""
    setup: int | None = None
    """With a memory port: word from which on a program brings what stays on the chip there, to be run once."""
    memory: Memory = Memory()
    """What the cycle model takes to be behind the memory port; not kept in a program file."""
    shared: dict[isa.Region, int] = field(default_factory=dict)
    """Words of a memory that several layers use, stored once: how many that saves; not kept in a program file."""
    made: dict[str, str] = field(default_factory=dict)
    """Of a program file: the version, model and configuration it was made of, and the SHA-256 of its manifest."""
    why_host: dict[int, str] = field(default_factory=dict)
    """Operators that the host computes, and why; not kept in a program file."""

    @property
    def variables(self) -> dict[int, Place]:
        """Where the array keeps variables of the model from one inference to the next, by number."""
        return {-1 - t: place for t, place in self.places.items() if t < 0}

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def program_bytes(self) -> bytes:
        return np.array(self.words, np.uint64).astype("<u8").tobytes()

    @property
    def image(self) -> bytes:
        """With a memory port: tiles, parameters and program as they lie in memory (`image_parts`)."""
        c = self.config
        tiles = in_beats(self.tiles, (isa.DESCRIPTOR_BYTES, c.tile_bytes), c.memory_width)
        params = in_beats(self.params, (isa.PARAM_BYTES,), c.memory_width)
        parts = (tiles, params, self.program_bytes)
        return b"".join(part + bytes(-len(part) % PART_ALIGN) for part in parts)

    @property
    def image_parts(self) -> tuple[int, int, int]:
        """First byte in the image of the parameters, of the program, and the one behind its end."""
        c = self.config
        tiles = len(self.tiles) // isa.word_bytes(isa.Region.WEIGHT, c) * isa.memory_tile_bytes(c)
        params = aligned(tiles)
        program = params + aligned(len(self.params) // isa.PARAM_BYTES * isa.memory_param_bytes(c))
        return params, program, program + aligned(8 * len(self.words))

    @property
    def first_word(self) -> int:
        """What to add to a word's number to start there: with a memory port they count from the image's first byte."""
        return self.image_parts[1] // 8 if self.config.memory_width else 0

    @property
    def arena_at(self) -> int:
        """With a memory port: the arena's first byte, where image and arena lie one behind the other."""
        return aligned(self.image_parts[2], ARENA_ALIGN)

    def predict(self, pc: int, words: Sequence[int] | None = None) -> Timing:
        """What the cycle model says of the run from word `pc` on; `words`: of a changed program."""
        words = self.words if words is None else [*words]
        c = self.config
        return predict(c, words, self.tiles, pc, self.external, params=self.params, memory=self.memory)

    def images(self) -> list[tuple[isa.Region, bytes]]:
        """What to write before the first run, as (region, bytes from index 0)."""
        if self.config.memory_width:
            return [(isa.Region.MEMORY, self.image)]
        external = [(isa.Region.EXTERNAL, self.external)] if self.config.external_bytes else []
        return [
            *external,
            (isa.Region.WEIGHT, self.tiles),
            (isa.Region.PARAM, self.params),
            (isa.Region.PROGRAM, self.program_bytes),
        ]

    def limits(self) -> list[Limit]:
        """What each memory must hold, beside what it has."""
        c, external = self.config, len(self.external)
        if c.memory_width:
            memory = Limit("memory_bytes", "image and arena", self.arena_at + self.arena_bytes, c.memory_bytes)
            return [Limit("act_bytes", "activations", self.span_bytes, c.act_bytes), *self._resident_limits(), memory]
        weights = f"weights, besides weight_tiles={c.resident_tiles:,}," if external else "weights"
        return [
            Limit("act_bytes", "activations", self.span_bytes, c.act_bytes),
            Limit("weight_tiles", "weights", len(self.tiles) // isa.word_bytes(isa.Region.WEIGHT, c), c.resident_tiles),
            *([Limit("external_bytes", weights, external, c.external_bytes)] if c.external_bytes else []),
            Limit("params", "parameters", len(self.params) // isa.word_bytes(isa.Region.PARAM, c), c.params),
            Limit("program_words", "instructions", len(self.words), c.program_words),
        ]

    def _resident_limits(self) -> list[Limit]:
        """With a memory port: of what must be on the chip because nothing brings it later."""
        if self.arena_bytes or not self.words:
            return []
        c = self.config
        return [
            Limit("weight_tiles", "weights", len(self.tiles) // isa.word_bytes(isa.Region.WEIGHT, c), c.weight_tiles),
            Limit("params", "parameters", len(self.params) // isa.PARAM_BYTES, c.params),
        ]

    def pack_input(self, tensor: int, value: np.ndarray) -> bytes:
        """Bytes of one input (without the batch axis' other entries) in the layout the program reads."""
        stack = self.places[tensor].stack
        if stack is None:
            return np.ascontiguousarray(value, np.int8).tobytes()
        image = value.reshape(stack["h"], stack["w"], stack["c"])
        image = np.pad(
            image,
            ((stack["top"], stack["bottom"]), (stack["left"], stack["right"]), (0, 0)),
            constant_values=stack["zero_point"],
        )
        rows = np.arange(stack["out_h"])[:, None] * stack["stride"] + np.arange(stack["kernel"]) * stack["dilation"]
        return np.ascontiguousarray(image[rows].transpose(0, 2, 1, 3)).astype(np.int8).tobytes()  # oy, x, ky, c

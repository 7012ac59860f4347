"""A program as a driver on a bus needs it: one image, one arena, and what to do in turn.

All that the host reads or writes lies in the arena, as it is: where the program keeps tensors on the chip, it is given
MOVEs that bring them there and back, and lay the input out as its first layer wants it.
"""

from dataclasses import dataclass, replace

from lepton.rtl.spec import isa
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.isa import Base, Space
from lepton.sw.compiler import HostStep, NpuStep, Place, Program
from lepton.sw.compiler.program import aligned
from lepton.sw.graph.model import Operator

AHEAD = 8 * 64
"""Bytes behind the program's end that the machine may read: it fetches ahead."""


class DeployError(LeptonError, ValueError):
    """A program that no driver on a bus can run; one line says why and what would help."""


@dataclass(frozen=True)
class Run:
    """Start at word `pc` of the image and wait for the end."""

    pc: int


@dataclass(frozen=True)
class Compute:
    """The host computes an operator."""

    operator: Operator


@dataclass
class Deployment:
    program: Program
    image: bytes
    """To be at an address that is a multiple of 16; `AHEAD` bytes more than the program has, which may be anything."""
    arena_bytes: int
    places: dict[int, Place]
    """In the arena, of the tensors that the host reads or writes."""
    setup: Run | None
    """Once, before the first inference."""
    steps: list[Run | Compute]

    def place(self, tensor: int) -> Place:
        """Of a tensor, or of the one that it is another shape of."""
        return self.places[_source(self.program, tensor)]


def deploy(program: Program) -> Deployment:
    """What a driver on a bus needs of a program. Raises DeployError."""
    model, config = program.model, program.config
    if not config.memory_width:
        raise DeployError(
            f"{model.name}: configuration {config.name!r} has no memory port (memory_width=0): "
            "choose one that has, a bus needs it"
        )
    if model.stateful:
        raise DeployError(f"{model.name}: keeps state from one inference to the next, which only a Session does so far")
    first = program.first_word
    setup = None if program.setup is None else Run(first + program.setup)
    by_index = {op.index: op for op in model.operators}
    if program.arena_bytes:
        steps: list[Run | Compute] = [
            Run(first + s.pc) if isinstance(s, NpuStep) else Compute(by_index[s.operator]) for s in program.steps
        ]
        return Deployment(
            program, program.image + bytes(AHEAD), program.arena_bytes, dict(program.places), setup, steps
        )
    return _with_moves(program, by_index)


def _with_moves(program: Program, by_index: dict[int, Operator]) -> Deployment:
    """Of a program whose tensors are on the chip."""
    model = program.model
    reads, writes = set(model.outputs), set(model.inputs)  # by the host
    computed = [by_index[s.operator] for s in program.steps if isinstance(s, HostStep)]
    for op in computed:
        reads |= {t for t in op.inputs if t >= 0 and not model.tensors[t].constant}
        writes |= set(op.outputs)
    used = sorted({_source(program, t) for t in reads | writes})
    places, at = {}, 0
    for t in used:
        places[t] = Place(at, model.tensors[t].nbytes)
        at += aligned(places[t].size)

    words = _until_end(program, program.setup) if program.setup is not None else []
    steps: list[Run | Compute] = []
    fresh = set(model.inputs)  # what the host has written, and the chip has not
    made = _made(program)
    wanted = {_source(program, t) for t in reads}
    for n, step in enumerate(program.steps):
        if isinstance(step, HostStep):
            op = by_index[step.operator]
            steps.append(Compute(op))
            fresh |= set(op.outputs)
        else:
            ends = (fresh, {t for t in wanted if made.get(t) == n})
            on_chip = [[t for t in sorted(end) if t in program.places] for end in ends]
            moves = [[move for t in some for move in _move(places[t].address, program.places[t])] for some in on_chip]
            steps.append(Run(program.first_word + len(words)))
            words += _between(_until_end(program, step.pc), *moves)
            fresh = set()
    setup = None if program.setup is None else Run(program.first_word)
    program = replace(program, words=words, setup=None if program.setup is None else 0)
    return Deployment(program, program.image + bytes(AHEAD), at, places, setup, steps)


def _until_end(program: Program, pc: int) -> list[int]:
    """The words of the program that starts at `pc`, with its END."""
    *_, (at, end, _) = isa.instructions(program.words, pc)
    return program.words[pc : at + end.words]


def _between(words: list[int], before: list[dict[str, int]], behind: list[dict[str, int]]) -> list[int]:
    """A program with MOVEs to the chip before its first MUL, which waits for them, and MOVEs from there behind its last
    TAIL, for which they wait."""
    operations = list(isa.instructions(words))
    first = next(at for at, op, _ in operations if op is isa.MUL)
    last = next(at for at, op, _ in reversed(operations) if op is isa.TAIL)
    out = list(words)
    for at, field, moves in ((first, "wait_move", before), (last, "post_move", behind)):
        op, values = isa.decode(words, at)
        out[at : at + op.words] = isa.encode(op, **values | {field: int(bool(moves))})
    common = {"space": Space.ACT, "base": Base.ARENA}
    for k, move in enumerate(before):
        move |= common | {"post_mul": int(k == len(before) - 1)}
    for k, move in enumerate(behind):
        move |= common | {"store": 1, "wait_tail": int(k == 0)}
    to_chip, from_chip = ([w for move in moves for w in isa.encode(isa.MOVE, **move)] for moves in (before, behind))
    return [*to_chip, *out[: -isa.END.words], *from_chip, *out[-isa.END.words :]]


def _move(external: int, chip: Place) -> list[dict[str, int]]:
    """The MOVEs of a tensor between byte `external` of the arena and its place on the chip."""
    whole = {"chip": chip.address, "length": chip.size, "rows": 1, "planes": 1}
    stack = chip.stack
    if stack is None:
        return [whole | {"external": external}]
    # [row][column][kernel row][channel]: for each kernel row the rows of the input that it sees; the rest is padding.
    channels, kernel, stride = stack["c"], stack["kernel"], stack["stride"]
    line, cell = stack["w"] * channels, kernel * channels
    columns = stack["left"] + stack["w"] + stack["right"]
    moves = [whole | {"fill": 1, "value": stack["zero_point"]}]
    for k in range(kernel):
        above = stack["top"] - k * stack["dilation"]  # rows of padding in front of the first that it sees
        first = max(0, -(-above // stride))
        rows = min(stack["out_h"], (stack["h"] - 1 + above) // stride + 1) - first
        if rows > 0:
            moves.append(
                {
                    "external": external + (first * stride - above) * line,
                    "external_step": channels,
                    "external_plane": stride * line,
                    "chip": chip.address + (first * columns + stack["left"]) * cell + k * channels,
                    "chip_step": cell,
                    "chip_plane": columns * cell,
                    "length": channels,
                    "rows": stack["w"],
                    "planes": rows,
                }
            )
    return moves


def _made(program: Program) -> dict[int, int]:
    """Of each tensor that the array computes, the number of the step with which it is there."""
    starts = {s.pc: n for n, s in enumerate(program.steps) if isinstance(s, NpuStep)}
    steps = {
        index: starts[max(pc for pc in starts if pc <= layer.first_word)]
        for layer in program.layers
        for index in layer.operators
    }
    host = {s.operator for s in program.steps if isinstance(s, HostStep)}
    made: dict[int, int] = {}
    for op in program.model.operators:  # in an order in which they can be computed
        before = [made[t] for t in op.inputs if t in made]
        if op.index in steps:
            made |= dict.fromkeys(op.outputs, steps[op.index])
        elif before and op.index not in host:  # a view, or parts that were written side by side
            made |= dict.fromkeys(op.outputs, max(before))
    return made


def _source(program: Program, tensor: int) -> int:
    """The tensor whose bytes these are: an operator that neither array nor host computes is a view."""
    model = program.model
    busy = {i for layer in program.layers for i in layer.operators}
    busy |= {s.operator for s in program.steps if isinstance(s, HostStep)}
    makers = {t: op for op in model.operators if op.index not in busy for t in op.outputs}
    while tensor not in program.places and tensor in makers:
        tensor = makers[tensor].inputs[0]
    return tensor

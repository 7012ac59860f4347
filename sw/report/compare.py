"""`lepton compare`: the first tensor in which two backends differ.

On an engine (ISS, RTL, a board) a layer's output may be overwritten before the run ends. So each stretch of the program
is run once a layer, cut (by an END) behind the layer, each time with the same tensors in memory, and the layer's output
read. Up to the cut everything happens as in the whole run, cycle for cycle. The golden model knows every tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.rtl.spec import isa
from lepton.sw.compiler import Layer, Program
from lepton.sw.graph.model import ModelError, Operator
from lepton.sw.reference import golden
from lepton.sw.report.check import stretches
from lepton.sw.session import Engine, Session

Fetch = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Seen:
    """A tensor as a backend computed it, and the cycles of its run between which it did (None: not on the array)."""

    tensor: int
    operators: tuple[int, ...]
    value: np.ndarray
    cycles: tuple[int, int] | None = None


@dataclass(frozen=True)
class Difference:
    """The first difference. `row`: of the inputs; `index`: of the first value that differs; `count`: how many do."""

    row: int
    seen: Seen
    name: str
    index: tuple[int, ...]
    expected: Any
    found: Any
    count: int

    def lines(self, backend: str, against: str, what: str) -> list[str]:
        """For people. `what`: the operators."""
        of = f"{self.count:,} of {self.seen.value.size:,} values differ"
        out = [
            f"first difference: tensor {self.seen.tensor} {self.name!r}, {what}, input {self.row}",
            f"  at {list(self.index)}: expected {self.expected} ({against}), found {self.found} ({backend}); {of}",
        ]
        if self.seen.cycles:
            first, last = self.seen.cycles
            out.append(f"  computed in cycles {first:,} to {last:,} of its run")
        return out


class _Probe:
    """Sees every tensor that an engine leaves in memory, or the host computes."""

    def __init__(self, session: Session):
        self.program, self.seen = session.program, list[Seen]()
        self.operators = {op.index: op for op in self.program.model.operators}

    def host(self, op: Operator, fetch: Fetch) -> None:
        self.seen += [Seen(t, (op.index,), fetch(t)) for t in op.outputs]

    def stretch(self, engine: Engine, pc: int, fetch: Fetch) -> dict[str, Any] | None:
        program = self.program
        (stretch,) = (s for s in stretches(program) if s.pc == pc)
        layers = [program.layers[i] for i in stretch.layers]
        given = {t: fetch(t) for t in self._reads(stretch.layers)}
        if program.arena_bytes:
            return self._whole(engine, pc, layers)
        result, before = None, 0
        (end,) = isa.encode(isa.END)
        for layer in layers:
            for t, value in given.items():
                engine.write(program.places[t].address, program.pack_input(t, value))
            cut = {layer.end_word: end} | _unpost(program, pc, layer.end_word)
            for at, word in cut.items():
                engine.patch(at, word)
            try:
                result = engine.start(pc)
            finally:
                for at in cut:
                    engine.patch(at, program.words[at])
            after = result["cycles"] if result else self._cycles(pc, layer.end_word)
            for t in self.operators[layer.operators[-1]].outputs:
                self.seen.append(Seen(t, layer.operators, self._read(engine, t), (before, after)))
            before = after
        return result

    def _whole(self, engine: Engine, pc: int, layers: list[Layer]) -> dict[str, Any] | None:
        """In an arena every tensor has its own place, but not all are stored: those that are, behind the run."""
        result = engine.start(pc)
        for layer in layers:
            for i in layer.operators:
                self.seen += [
                    Seen(t, (i,), self._read(engine, t)) for t in self.operators[i].outputs if t in self.program.places
                ]
        return result

    def _reads(self, layers: list[int]) -> list[int]:
        """Tensors in memory that these layers read and do not make."""
        ops = [self.operators[i] for k in layers for i in self.program.layers[k].operators]
        views = {t: op for op in self.operators.values() for t in op.outputs}
        made = {t for op in ops for t in op.outputs}
        out: list[int] = []
        todo = [t for op in ops for t in op.inputs if t >= 0]
        while todo:
            t = todo.pop(0)
            if t in made or t in out or self.program.model.tensors[t].constant:
                continue
            if t in self.program.places:
                out.append(t)
            elif t in views:
                todo += [u for u in views[t].inputs if u >= 0]
        return out

    def _read(self, engine: Engine, t: int) -> np.ndarray:
        tensor = self.program.model.tensors[t]
        data = engine.read(self.program.places[t].address, tensor.size)
        return np.frombuffer(data, np.int8).reshape(tensor.shape)

    def _cycles(self, pc: int, end: int) -> int:
        """As the cycle model has them, for an engine that does not count."""
        return self.program.predict(pc, [*self.program.words[:end], *isa.encode(isa.END)]).cycles


def _unpost(program: Program, pc: int, end: int) -> dict[int, int]:
    """Words of the TAILs before word `end` that post for a MUL behind it, without the post."""
    posts, waits = [], 0
    bit, _ = isa.TAIL.offset("post")
    for at, op, values in isa.instructions(program.words, pc, end):
        if op is isa.TAIL and values["post"]:
            posts.append(at + bit // isa.WORD_BITS)
        waits += op is isa.MUL and values["wait"]
    return {word: program.words[word] & ~(1 << bit % isa.WORD_BITS) for word in posts[waits:]}


def tensors(session: Session, inputs: list[np.ndarray]) -> list[Seen]:
    """Every tensor that one inference computes and that can be seen, in order; `inputs` in the tensors' shapes."""
    model = session.model
    if session.backend != "golden":
        if session._engine is None:
            session._engine = session._open()
        probe = _Probe(session)
        session._infer(inputs, probe)
        return probe.seen
    values = dict(zip(model.inputs, inputs))
    out = []
    for op in model.operators:
        feeds = {t: values[t] for t in op.inputs if t in values}
        made = golden.run_operator(model, op, feeds, session.state)
        values.update(zip(op.outputs, made, strict=True))
        out += [Seen(t, (op.index,), value) for t, value in zip(op.outputs, made)]
    return out


def compare(found: Session, expected: Session, arrays: list[np.ndarray]) -> Iterator[Difference | int]:
    """For each row the first Difference, or how many tensors were equal. Raises ModelError: other models."""
    if [op.op for op in found.model.operators] != [op.op for op in expected.model.operators]:
        raise ModelError(f"{found.model.name} and {expected.model.name} are other networks")
    shapes = [end.shape for end in found.inputs]
    for row in range(len(arrays[0]) if arrays else 1):
        inputs = [a[row].reshape(shape) for a, shape in zip(arrays, shapes)]
        want = {seen.tensor: seen for seen in tensors(expected, inputs)}
        yield _first(found, row, tensors(found, inputs), want)


def _first(session: Session, row: int, found: list[Seen], want: dict[int, Seen]) -> Difference | int:
    equal = 0
    for seen in found:
        other = want.get(seen.tensor)
        if other is None:  # fused away on the other side
            continue
        differ = np.argwhere(seen.value != other.value.reshape(seen.value.shape))
        if not len(differ):
            equal += 1
            continue
        index = tuple(map(int, differ[0]))
        place = seen if seen.cycles else other
        at = Seen(seen.tensor, place.operators, seen.value, place.cycles)
        name = session.model.tensors[seen.tensor].name
        expected = other.value.reshape(seen.value.shape)[index]
        return Difference(row, at, name, index, expected.item(), seen.value[index].item(), len(differ))
    return equal

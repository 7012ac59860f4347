"""What a profile knows of each layer: the array's, with their cycles, and the host's."""

from dataclasses import dataclass

from lepton.rtl.spec import isa
from lepton.sw.compiler import HostStep, Layer, Program
from lepton.sw.report.bench import bound
from lepton.sw.report.check import Count, predicted_layers, stretches


@dataclass(frozen=True)
class Row:
    """One layer: fused operators on the array, or an operator on the host, whose `count` is None."""

    index: int
    """Of its first operator."""
    name: str
    shape: str
    """Of its output."""
    macs: int
    count: Count | None
    ideal: int
    """Cycles if every multiplier were busy."""
    bound: int
    """Cycles that tiling alone forces."""
    bytes_moved: int
    """Weights into the array, activations read and written once."""
    busy: float | None
    """Share of the multipliers that work, or None where there is nothing to multiply."""
    why: str = ""
    """Why the host computes it."""

    @property
    def cycles(self) -> int | None:
        return self.count.cycles if self.count else None


def weight_bytes(program: Program, layer: Layer) -> int:
    """Bytes of the weights that a layer loads into the array, every time it does."""
    found = isa.instructions(program.words, layer.first_word, layer.end_word)
    return sum(values["count"] for _, op, values in found if op is isa.LOAD) * program.config.tile_bytes


def layer_rows(program: Program, counts: list[Count] | None = None) -> list[Row]:
    """A Row for each layer in the order of execution; `counts`: of the array's layers (default: predicted)."""
    counts = predicted_layers(program) if counts is None else counts
    starts = {stretch.pc: stretch for stretch in stretches(program)}
    rows = []
    for step in program.steps:
        if isinstance(step, HostStep):
            rows.append(_host_row(program, step))
        else:
            rows += [_array_row(program, program.layers[i], counts[i]) for i in starts[step.pc].layers]
    return rows


def _shape(program: Program, tensors: tuple[int, ...]) -> str:
    shape = program.model.tensors[tensors[0]].shape if tensors else ()
    return "x".join(map(str, shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)) or "1"


def _host_row(program: Program, step: HostStep) -> Row:
    op = next(op for op in program.model.operators if op.index == step.operator)
    why = program.why_host.get(op.index, "")
    return Row(op.index, op.op, _shape(program, op.outputs), 0, None, 0, 0, 0, None, why)


def _array_row(program: Program, layer: Layer, count: Count) -> Row:
    model, config = program.model, program.config
    operators = {op.index: op for op in model.operators}
    ops = [operators[i] for i in layer.operators]
    made = {t for op in ops for t in op.outputs}
    read = {t for op in ops for t in op.inputs if t >= 0 and not model.tensors[t].constant} - made
    moved = sum(model.tensors[t].size for t in (*read, *ops[-1].outputs)) + weight_bytes(program, layer)
    busy = layer.macs / (config.macs_per_cycle * count.cycles) if layer.macs and count.cycles else None
    return Row(
        layer.operators[0],
        layer.name,
        _shape(program, ops[-1].outputs),
        layer.macs,
        count,
        -(-layer.macs // config.macs_per_cycle),
        sum(bound(model, op, config.rows, config.cols) for op in ops),
        moved,
        busy,
    )

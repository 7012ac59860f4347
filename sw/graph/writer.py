"""Writes .tflite files with flatbuffers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import flatbuffers
import numpy as np
import tflite

TYPES = {name.lower(): number for name, number in vars(tflite.TensorType).items()}
"""The schema's number of a type."""


@dataclass(frozen=True, eq=False)
class TensorSpec:
    """A tensor to write. `data`: constant contents, of `dtype` (int4: bytes of two values, the first in the low half);
    `scales`, `zero_points`: one, or one for each index of axis `quant_axis`, none if not quantised; `variable`: state
    that stays from one inference to the next; `signature`: the shape with -1 where it is open, if it is."""

    name: str
    shape: Sequence[int]
    dtype: str
    scales: Sequence[float] | np.ndarray = ()
    zero_points: Sequence[int] | np.ndarray = ()
    quant_axis: int = 0
    data: np.ndarray | None = None
    variable: bool = False
    signature: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class OperatorSpec:
    """An operator to write: TFLite's name of it, tensor indexes (-1: an optional input left out), and the name of its
    options table (None: it has none) with the fields by the names of the schema's `Add` functions."""

    op: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options_kind: str | None = None
    options: dict = field(default_factory=dict)
    intermediates: Sequence[int] = ()
    version: int = 1


@dataclass(frozen=True, eq=False)
class GraphSpec:
    """A graph to write beside the first one, for CALL_ONCE, IF or WHILE."""

    tensors: Sequence[TensorSpec]
    operators: Sequence[OperatorSpec]
    inputs: Sequence[int]
    outputs: Sequence[int]


def write_model(
    tensors: Sequence[TensorSpec],
    operators: Sequence[OperatorSpec],
    inputs: Sequence[int],
    outputs: Sequence[int],
    description: str | None = None,
    others: Sequence[GraphSpec] = (),
) -> bytes:
    """Bytes of a model; `inputs` and `outputs` are tensor indexes, `others` its graphs after the first."""
    graphs = [GraphSpec(tensors, operators, inputs, outputs), *others]
    b = flatbuffers.Builder(4096)

    tflite.BufferStart(b)
    buffers, places = [tflite.BufferEnd(b)], {b"": 0}  # the first one is empty; the same bytes are stored once
    numbers = []  # of each tensor's buffer
    for t in (t for g in graphs for t in g.tensors):
        data = b"" if t.data is None else np.ascontiguousarray(t.data).tobytes()
        if data not in places:
            places[data] = len(buffers)
            # TFLM reads constants where they lie, so that they must be aligned in the file
            raw = _aligned_bytes(b, data)
            tflite.BufferStart(b)
            tflite.BufferAddData(b, raw)
            buffers.append(tflite.BufferEnd(b))
        numbers.append(places[data])
    kinds = list(dict.fromkeys((o.op, o.version) for g in graphs for o in g.operators))
    opcodes = []
    for name, version in kinds:
        code = getattr(tflite.BuiltinOperator, name)
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddVersion(b, version)
        opcodes.append(tflite.OperatorCodeEnd(b))
    left = iter(numbers)
    written = [_write_graph(b, g, kinds, left) for g in graphs]
    all_graphs = _vector(b, written, tflite.ModelStartSubgraphsVector)
    codes = _vector(b, opcodes, tflite.ModelStartOperatorCodesVector)
    all_buffers = _vector(b, buffers, tflite.ModelStartBuffersVector)
    text = None if description is None else b.CreateString(description)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, all_graphs)
    tflite.ModelAddBuffers(b, all_buffers)
    if text is not None:
        tflite.ModelAddDescription(b, text)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def _write_graph(b: flatbuffers.Builder, g: GraphSpec, kinds: list, numbers: Iterator[int]) -> int:
    """One graph. kinds: (operator, version) of each operator code; numbers: of its tensors' buffers, then others."""

    def ints(values):
        return b.CreateNumpyVector(np.array(values, np.int32))

    made = []
    for t, number in zip(g.tensors, numbers):
        quant = None
        if len(t.scales):
            s = b.CreateNumpyVector(np.asarray(t.scales, np.float32))
            z = b.CreateNumpyVector(np.broadcast_to(np.asarray(t.zero_points, np.int64), len(t.scales)).copy())
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, s)
            tflite.QuantizationParametersAddZeroPoint(b, z)
            tflite.QuantizationParametersAddQuantizedDimension(b, t.quant_axis)
            quant = tflite.QuantizationParametersEnd(b)
        name = b.CreateString(t.name)
        dims = ints(t.shape)
        signature = ints(t.signature) if len(t.signature) else None
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, dims)
        if signature is not None:
            tflite.TensorAddShapeSignature(b, signature)
        tflite.TensorAddType(b, TYPES[t.dtype])
        tflite.TensorAddBuffer(b, number)
        tflite.TensorAddName(b, name)
        if t.variable:
            tflite.TensorAddIsVariable(b, True)
        if quant is not None:
            tflite.TensorAddQuantization(b, quant)
        made.append(tflite.TensorEnd(b))
    coded = []
    for o in g.operators:
        table = None
        if o.options_kind is not None:
            # vectors and strings first: flatbuffers builds no table inside another
            values = {k: ints(v) if isinstance(v, (list, tuple)) else v for k, v in o.options.items()}
            values = {k: b.CreateString(v) if isinstance(v, str) else v for k, v in values.items()}
            getattr(tflite, f"{o.options_kind}Start")(b)
            for key, value in values.items():
                getattr(tflite, f"{o.options_kind}Add{key}")(b, value)
            table = getattr(tflite, f"{o.options_kind}End")(b)
        ins, outs = ints(o.inputs), ints(o.outputs)
        middle = ints(o.intermediates) if len(o.intermediates) else None
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, kinds.index((o.op, o.version)))
        tflite.OperatorAddInputs(b, ins)
        tflite.OperatorAddOutputs(b, outs)
        if table is not None and o.options_kind is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, o.options_kind))
            tflite.OperatorAddBuiltinOptions(b, table)
        if middle is not None:
            tflite.OperatorAddIntermediates(b, middle)
        coded.append(tflite.OperatorEnd(b))
    graph_ins, graph_outs = ints(g.inputs), ints(g.outputs)
    tensor_vector = _vector(b, made, tflite.SubGraphStartTensorsVector)
    operator_vector = _vector(b, coded, tflite.SubGraphStartOperatorsVector)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, tensor_vector)
    tflite.SubGraphAddInputs(b, graph_ins)
    tflite.SubGraphAddOutputs(b, graph_outs)
    tflite.SubGraphAddOperators(b, operator_vector)
    return tflite.SubGraphEnd(b)


def _vector(b: flatbuffers.Builder, values: Sequence[int], start) -> int:
    start(b, len(values))
    for v in reversed(values):
        b.PrependUOffsetTRelative(v)
    return b.EndVector()


def _aligned_bytes(b: flatbuffers.Builder, raw: bytes) -> int:
    """A byte vector whose contents begin at a multiple of 16 in the finished file, as the schema asks of buffers."""
    b.StartVector(1, len(raw), 16)
    b.head = b.Head() - len(raw)
    b.Bytes[b.Head() : b.Head() + len(raw)] = raw
    return b.EndVector()

"""Writes .tflite files with flatbuffers, for tests and for the fuzzer."""

import flatbuffers
import numpy as np
import tflite

TYPES = {name.lower(): number for name, number in vars(tflite.TensorType).items()}
"""TensorType of a dtype's name."""


def _vector(b, values, start, prepend):
    start(b, len(values))
    for v in reversed(values):
        prepend(v)
    return b.EndVector()


def _tensor(b, name, tensor, buffer):
    shape, scale, zero, data, axis, *more = tensor
    dtype = more[0] if more else "int8" if data is None else data.dtype.name
    quant = None
    if scale is not None:
        scales = np.atleast_1d(np.float32(scale))
        s = b.CreateNumpyVector(scales)
        z = b.CreateNumpyVector(np.broadcast_to(np.asarray(zero, np.int64), scales.shape).copy())
        tflite.QuantizationParametersStart(b)
        tflite.QuantizationParametersAddScale(b, s)
        tflite.QuantizationParametersAddZeroPoint(b, z)
        tflite.QuantizationParametersAddQuantizedDimension(b, axis)
        quant = tflite.QuantizationParametersEnd(b)
    text = b.CreateString(name)
    dims = b.CreateNumpyVector(np.array(shape, np.int32))
    tflite.TensorStart(b)
    tflite.TensorAddShape(b, dims)
    tflite.TensorAddType(b, TYPES[dtype])
    tflite.TensorAddBuffer(b, buffer)
    tflite.TensorAddName(b, text)
    tflite.TensorAddIsVariable(b, len(more) > 1 and more[1])
    if quant is not None:
        tflite.TensorAddQuantization(b, quant)
    return tflite.TensorEnd(b)


def _options(b, kind, values):
    made = {}
    for key, value in values.items():
        if isinstance(value, str):
            value = b.CreateString(value)
        elif isinstance(value, (list, tuple, np.ndarray)):
            value = b.CreateNumpyVector(np.array(value, np.int32))
        made[key] = value
    getattr(tflite, f"{kind}Start")(b)
    for key, value in made.items():
        getattr(tflite, f"{kind}Add{key}")(b, value)
    return getattr(tflite, f"{kind}End")(b)


def _operator(b, code, inputs, outputs, options):
    table = None if options is None else _options(b, *options)
    ins = b.CreateNumpyVector(np.array(inputs, np.int32))
    outs = b.CreateNumpyVector(np.array(outputs, np.int32))
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, code)
    tflite.OperatorAddInputs(b, ins)
    tflite.OperatorAddOutputs(b, outs)
    if table is not None:
        tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, options[0]))
        tflite.OperatorAddBuiltinOptions(b, table)
    return tflite.OperatorEnd(b)


def build(tensors, operators, inputs, outputs, *subgraphs) -> bytes:
    """Bytes of a model of one subgraph, or of several: each of `subgraphs` is such a tuple of four.

    tensors: (shape, scale(s) or None, zero_point(s), data or None, quant_axis, then if need be dtype and whether it is
    a variable); the dtype is that of the data, without data int8. operators: (name, inputs, outputs, options), options
    None or (name of the options table, field to value). inputs, outputs: tensor indexes.
    """
    b = flatbuffers.Builder(4096)
    offsets = b.PrependUOffsetTRelative
    graphs = [(tensors, operators, inputs, outputs), *subgraphs]
    names = list(dict.fromkeys(op[0] for graph in graphs for op in graph[1]))
    buffers = []
    for t in [None, *(t for graph in graphs for t in graph[0])]:
        raw = None if t is None or t[3] is None else b.CreateByteVector(np.ascontiguousarray(t[3]).tobytes())
        tflite.BufferStart(b)
        if raw is not None:
            tflite.BufferAddData(b, raw)
        buffers.append(tflite.BufferEnd(b))
    coded, first = [], 1
    for graph_tensors, graph_operators, graph_inputs, graph_outputs in graphs:
        made = [_tensor(b, f"t{i}", t, first + i) for i, t in enumerate(graph_tensors)]
        first += len(made)
        done = [_operator(b, names.index(name), *rest) for name, *rest in graph_operators]
        ins = b.CreateNumpyVector(np.array(graph_inputs, np.int32))
        outs = b.CreateNumpyVector(np.array(graph_outputs, np.int32))
        tensor_vector = _vector(b, made, tflite.SubGraphStartTensorsVector, offsets)
        operator_vector = _vector(b, done, tflite.SubGraphStartOperatorsVector, offsets)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensor_vector)
        tflite.SubGraphAddInputs(b, ins)
        tflite.SubGraphAddOutputs(b, outs)
        tflite.SubGraphAddOperators(b, operator_vector)
        coded.append(tflite.SubGraphEnd(b))
    opcodes = []
    for name in names:
        code = getattr(tflite.BuiltinOperator, name)
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddVersion(b, 1)
        opcodes.append(tflite.OperatorCodeEnd(b))
    all_graphs = _vector(b, coded, tflite.ModelStartSubgraphsVector, offsets)
    codes = _vector(b, opcodes, tflite.ModelStartOperatorCodesVector, offsets)
    all_buffers = _vector(b, buffers, tflite.ModelStartBuffersVector, offsets)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, all_graphs)
    tflite.ModelAddBuffers(b, all_buffers)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def one_operator(op, tensors, inputs, outputs, options=None, kind=None, graph_inputs=None) -> bytes:
    """Bytes of a model of one operator; its inputs without data are the model's. kind: name of the options table."""
    given = graph_inputs or list(dict.fromkeys(i for i in inputs if i >= 0 and tensors[i][3] is None))
    table = None if kind is None else (kind, options or {})
    return build(tensors, [(op, inputs, outputs, table)], given, outputs)

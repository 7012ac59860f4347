"""Writes .tflite files with flatbuffers, for tests and for the fuzzer."""

import flatbuffers
import numpy as np
import tflite


def build(tensors, operators, inputs, outputs) -> bytes:
    """Bytes of a model of one subgraph.

    tensors: (shape, scale(s) or None, zero_point, data or None, quant_axis); int32 data makes an int32 tensor, all
    others are int8. operators: (name, inputs, outputs, options), options None or (name of the options table, field to
    value). inputs, outputs: tensor indexes.
    """
    b = flatbuffers.Builder(4096)

    def vector(values, start, prepend):
        start(b, len(values))
        for v in reversed(values):
            prepend(v)
        return b.EndVector()

    buffers = []
    for t in [None, *tensors]:
        raw = None if t is None or t[3] is None else b.CreateByteVector(np.ascontiguousarray(t[3]).tobytes())
        tflite.BufferStart(b)
        if raw is not None:
            tflite.BufferAddData(b, raw)
        buffers.append(tflite.BufferEnd(b))
    made = []
    for i, (shape, scale, zero, data, axis) in enumerate(tensors):
        quant = None
        if scale is not None:
            scales = np.atleast_1d(np.float32(scale))
            s = b.CreateNumpyVector(scales)
            z = b.CreateNumpyVector(np.full(len(scales), zero, np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, s)
            tflite.QuantizationParametersAddZeroPoint(b, z)
            tflite.QuantizationParametersAddQuantizedDimension(b, axis)
            quant = tflite.QuantizationParametersEnd(b)
        name = b.CreateString(f"t{i}")
        dims = b.CreateNumpyVector(np.array(shape, np.int32))
        kind_of = tflite.TensorType.INT32 if data is not None and data.dtype == np.int32 else tflite.TensorType.INT8
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, dims)
        tflite.TensorAddType(b, kind_of)
        tflite.TensorAddBuffer(b, i + 1)
        tflite.TensorAddName(b, name)
        if quant is not None:
            tflite.TensorAddQuantization(b, quant)
        made.append(tflite.TensorEnd(b))
    names = list(dict.fromkeys(op[0] for op in operators))
    coded = []
    for op, ins, outs, options in operators:
        table = None
        if options is not None:
            kind, values = options
            getattr(tflite, f"{kind}Start")(b)
            for key, value in values.items():
                getattr(tflite, f"{kind}Add{key}")(b, value)
            table = getattr(tflite, f"{kind}End")(b)
        ins = b.CreateNumpyVector(np.array(ins, np.int32))
        outs = b.CreateNumpyVector(np.array(outs, np.int32))
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, names.index(op))
        tflite.OperatorAddInputs(b, ins)
        tflite.OperatorAddOutputs(b, outs)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, kind))
            tflite.OperatorAddBuiltinOptions(b, table)
        coded.append(tflite.OperatorEnd(b))
    opcodes = []
    for name in names:
        code = getattr(tflite.BuiltinOperator, name)
        tflite.OperatorCodeStart(b)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        tflite.OperatorCodeAddVersion(b, 1)
        opcodes.append(tflite.OperatorCodeEnd(b))
    graph_ins = b.CreateNumpyVector(np.array(inputs, np.int32))
    graph_outs = b.CreateNumpyVector(np.array(outputs, np.int32))
    offsets = b.PrependUOffsetTRelative
    tensor_vector = vector(made, tflite.SubGraphStartTensorsVector, offsets)
    operator_vector = vector(coded, tflite.SubGraphStartOperatorsVector, offsets)
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, tensor_vector)
    tflite.SubGraphAddInputs(b, graph_ins)
    tflite.SubGraphAddOutputs(b, graph_outs)
    tflite.SubGraphAddOperators(b, operator_vector)
    graph = tflite.SubGraphEnd(b)
    graphs = vector([graph], tflite.ModelStartSubgraphsVector, offsets)
    codes = vector(opcodes, tflite.ModelStartOperatorCodesVector, offsets)
    all_buffers = vector(buffers, tflite.ModelStartBuffersVector, offsets)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, graphs)
    tflite.ModelAddBuffers(b, all_buffers)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def one_operator(op, tensors, inputs, outputs, options=None, kind=None, graph_inputs=None) -> bytes:
    """Bytes of a model of one operator; its inputs without data are the model's. kind: name of the options table."""
    given = graph_inputs or [i for i in inputs if i >= 0 and tensors[i][3] is None]
    table = None if kind is None else (kind, options or {})
    return build(tensors, [(op, inputs, outputs, table)], given, outputs)

"""Reader of TensorFlow Lite models.

`load_model` turns a file into plain frozen dataclasses and checks all it will be asked later: indexes, buffer sizes,
types, shapes and options of every operator. What is constant is computed (`fold`). Whatever is wrong comes out as
`ModelError` with one line.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import tflite

from lepton.sw.files import read_file
from lepton.sw.graph.control import Variables, check_calls, check_variables
from lepton.sw.graph.fold import Budget, fold, living
from lepton.sw.graph.model import (
    MAX_ACTIVATION_ELEMENTS,
    MAX_FILE_BYTES,
    MAX_NAME,
    MAX_OBJECTS,
    MAX_OPERATORS,
    MAX_RANK,
    MAX_SUBGRAPHS,
    MAX_TENSOR_ELEMENTS,
    STORED,
    FreeShape,
    Model,
    ModelError,
    Operator,
    Tensor,
    need,
    tensor_name,
)
from lepton.sw.graph.operators import check_operator, indexes, read_operator

DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.FLOAT16: "float16",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.UINT8: "uint8",
    tflite.TensorType.INT64: "int64",
    tflite.TensorType.BOOL: "bool",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.INT4: "int4",
    tflite.TensorType.RESOURCE: "resource",
}


def load_model(path_or_bytes, name: str | None = None) -> Model:
    """Model from a .tflite path or its bytes. Raises ModelError."""
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        data, name = bytes(path_or_bytes), name or "model"
    else:
        path = Path(path_or_bytes)
        name = name or path.stem
        data = read_file(path, MAX_FILE_BYTES, ModelError)
    need(len(data) <= MAX_FILE_BYTES, name, f"larger than {MAX_FILE_BYTES} bytes")
    need(data[:4] != b"PK\3\4", name, "a zip archive or compiled program, not a TensorFlow Lite file: give the .tflite")
    need(len(data) >= 16 and data[4:8] == b"TFL3", name, "not a TensorFlow Lite file (no TFL3 mark)")
    try:
        return _read(data, name)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None
    except Exception as error:  # whatever the flatbuffer accessors stumble over
        raise ModelError(f"{name}: damaged or truncated file ({type(error).__name__})") from None


def _text(raw, where) -> str:
    need(raw is None or len(raw) <= MAX_NAME, where, "name is too long: damaged file")
    text = "" if raw is None else raw.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _count(n, what, most=MAX_OBJECTS) -> int:
    need(n <= most, what, f"{n} of them, at most {most} are possible: damaged file")
    return n


def _read(data: bytes, name: str) -> Model:
    root = tflite.Model.GetRootAsModel(data, 0)
    need(root.Version() == 3, "file", f"schema version {root.Version()}, only 3 is known")
    count = root.SubgraphsLength()
    need(1 <= count <= MAX_SUBGRAPHS, "file", f"{count} subgraphs, 1 to {MAX_SUBGRAPHS} are possible")
    every = [root.Subgraphs(k) for k in range(count)]
    _count(sum(graph.TensorsLength() for graph in every), "tensors")
    _count(sum(graph.OperatorsLength() for graph in every), "operators", MAX_OPERATORS)
    variables, budget = Variables(), Budget()
    graphs = [_read_graph(root, k, name, variables, budget) for k in range(count)]
    check_calls(graphs)
    for graph in graphs:
        check_variables(graph, variables)
    first = replace(graphs[0], subgraphs=tuple(graphs[1:]), variables=variables.found())
    need(first.outputs, "file", "no outputs")
    return first


def _read_graph(root, number: int, name: str, variables: Variables, budget: Budget) -> Model:
    """One graph of the file, folded. Raises ModelError."""
    graph = root.Subgraphs(number)
    buffers = _count(root.BuffersLength(), "buffers")
    n = graph.TensorsLength()
    tensors = [_read_tensor(root, graph.Tensors(i), i, buffers) for i in range(n)]
    inputs = indexes(graph.Inputs, graph.InputsLength(), n, "model inputs")
    outputs = indexes(graph.Outputs, graph.OutputsLength(), n, "model outputs")
    for i in inputs:
        need(not tensors[i].constant, tensor_name(tensors[i]), "a model input has constant data")
        _check_shape(tensors[i])
    operators = []
    known = set(inputs)
    for i in range(graph.OperatorsLength()):
        operator = read_operator(root, graph.Operators(i), i, tensors)
        for j in operator.inputs:
            if j >= 0:
                t = tensors[j]
                need(j in known or t.constant or t.variable, operator, f"input {tensor_name(t)} is not computed before")
                _check_shape(t)
        for j in operator.outputs:
            need(j not in known and not tensors[j].constant, operator, f"{tensor_name(tensors[j])} is written twice")
            _check_shape(tensors[j])
            known.add(j)
        check_settled(operator, tensors)
        operators.append(operator)
        for t in fold(operator, tensors, variables, budget):
            tensors[t.index] = t
    for i in outputs:
        need(i in known or tensors[i].constant, "model outputs", f"{tensor_name(tensors[i])} is never computed")
    total = sum(tensors[i].size for i in known)
    need(total <= MAX_ACTIVATION_ELEMENTS, "file", f"{total} activation elements in all: too large")
    return Model(tuple(tensors), tuple(living(operators, tensors, outputs)), inputs, outputs, name)


def check_settled(operator: Operator, tensors: list[Tensor]) -> None:
    """Check an operator; outputs whose shape the file left open get the one that the operator gives them."""
    for _ in range(len(operator.outputs)):
        try:
            return check_operator(operator, tensors)
        except FreeShape as found:
            t, shape = found.tensor, found.shape
            rank, size = len(shape), math.prod(shape)
            need(rank <= MAX_RANK and min(shape, default=1) > 0 and size <= MAX_TENSOR_ELEMENTS, operator, found)
            tensors[t.index] = replace(t, shape=shape, free=False)
    check_operator(operator, tensors)


def _check_shape(t: Tensor) -> None:
    """Whether a tensor that is used has a size; empty constants may be, as the shape of a scalar."""
    low = 0 if t.constant else 1
    need(
        all(d >= low for d in t.shape),
        tensor_name(t),
        f"dynamic or empty shape {t.shape}: convert the model with fixed sizes",
    )


def _read_tensor(root, t, index, buffers) -> Tensor:
    name = _text(t.Name(), f"tensor {index}")
    where = f"tensor {index} {name[:80]!r}"
    rank = t.ShapeLength()
    need(rank <= MAX_RANK, where, f"{rank} dimensions, at most {MAX_RANK} are supported")
    shape = tuple(int(t.Shape(i)) for i in range(rank))
    elements = math.prod(max(d, 0) for d in shape)
    need(elements <= MAX_TENSOR_ELEMENTS, where, f"shape {shape} has too many elements")
    dtype = DTYPES.get(t.Type(), f"type {t.Type()}")
    need(t.Sparsity() is None, where, "sparse weights are not supported: convert without sparsity")
    scales, zero_points, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    q = t.Quantization()
    if q is not None and q.ScaleLength():
        axis = q.QuantizedDimension()
        count = q.ScaleLength()
        need(
            count == 1 or (0 <= axis < rank and count == shape[axis]), where, f"{count} scales do not fit shape {shape}"
        )
        scales = np.array(q.ScaleAsNumpy(), np.float32)
        need(np.isfinite(scales).all() and (scales > 0).all(), where, "a scale is not a positive number")
        zeros = q.ZeroPointLength()
        need(zeros in (0, 1, count), where, f"{zeros} zero points for {count} scales")
        zero_points = np.array(q.ZeroPointAsNumpy(), np.int64) if zeros else np.zeros(count, np.int64)
        kind = np.iinfo(dtype if dtype in ("int8", "uint8", "int16") else "int32")
        need(((zero_points >= kind.min) & (zero_points <= kind.max)).all(), where, f"zero point outside {kind.dtype}")
    number = t.Buffer()
    need(number < buffers, where, f"buffer {number} of {buffers} does not exist")
    buffer = root.Buffers(number)
    need(buffer.Offset() <= 1 and buffer.Size() <= 1, where, "data outside the flatbuffer is not supported")
    length = buffer.DataLength()
    need(not t.IsVariable() or not length, where, "a variable tensor with constant data")
    data = None
    if length:
        raw = buffer.DataAsNumpy()
        need(len(raw) == length, where, "data beyond the end of the file")
        data = _values(raw, shape, dtype, where)
    elif shape == (0,) and dtype in ("int32", "int64"):  # the shape of a scalar
        data = np.zeros(shape, STORED[dtype])
    signature = t.ShapeSignatureLength()
    need(signature <= MAX_RANK, where, "damaged shape")
    free = any(t.ShapeSignature(i) < 0 for i in range(signature))
    return Tensor(index, name, shape, dtype, scales, zero_points, axis, data, bool(t.IsVariable()), free)


def _values(raw: np.ndarray, shape, dtype: str, where) -> np.ndarray | None:
    """The bytes of a constant as an array of its shape, read-only; None if nothing here computes with its type."""
    if dtype not in STORED:
        return None
    n = math.prod(shape)
    kind = np.dtype(STORED[dtype])
    want = -(-n // 2) if dtype == "int4" else n * kind.itemsize
    need(
        min(shape, default=0) >= 0 and len(raw) == want,
        where,
        f"{len(raw)} bytes of data, shape {shape} of {dtype} needs {want}",
    )
    if dtype == "int4":  # two a byte, the first one in the low bits
        data = np.stack([raw << 4, raw & 0xF0], axis=-1).reshape(-1)[:n].view(np.int8) >> 4
    elif dtype == "bool":
        data = raw != 0
    else:
        data = raw.view(kind.newbyteorder("<"))
    data = data.reshape(shape)
    data.flags.writeable = False
    return data

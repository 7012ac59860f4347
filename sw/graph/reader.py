"""Reader of int8 TensorFlow Lite models.

`load_model` turns a file into plain frozen dataclasses and checks all it will be asked later: indexes, buffer sizes,
types, shapes and options of every operator. Whatever is wrong comes out as `ModelError` with one line.
"""

import math
from pathlib import Path

import numpy as np
import tflite

from lepton.sw.graph.model import (
    MAX_ACTIVATION_ELEMENTS,
    MAX_FILE_BYTES,
    MAX_NAME,
    MAX_OBJECTS,
    MAX_RANK,
    MAX_TENSOR_ELEMENTS,
    Model,
    ModelError,
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
}
ITEM_BYTES = {"int8": 1, "int32": 4, "int64": 8}


def load_model(path_or_bytes, name: str | None = None) -> Model:
    """Model from a .tflite path or its bytes. Raises ModelError."""
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        data, name = bytes(path_or_bytes), name or "model"
    else:
        path = Path(path_or_bytes)
        name = name or path.stem
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ModelError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None
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
    return "" if raw is None else raw.decode("utf-8", "replace")


def _count(n, what) -> int:
    need(n <= MAX_OBJECTS, what, f"{n} of them, at most {MAX_OBJECTS} are possible: damaged file")
    return n


def _read(data: bytes, name: str) -> Model:
    root = tflite.Model.GetRootAsModel(data, 0)
    need(root.Version() == 3, "file", f"schema version {root.Version()}, only 3 is known")
    need(root.SubgraphsLength() == 1, "file", f"{root.SubgraphsLength()} subgraphs, only one is supported")
    graph = root.Subgraphs(0)
    buffers = _count(root.BuffersLength(), "buffers")
    n = _count(graph.TensorsLength(), "tensors")
    need(n > 0, "file", "no tensors")
    tensors = tuple(_read_tensor(root, graph.Tensors(i), i, buffers) for i in range(n))
    inputs = indexes(graph.Inputs, graph.InputsLength(), n, "model inputs")
    outputs = indexes(graph.Outputs, graph.OutputsLength(), n, "model outputs")
    need(inputs and outputs, "file", "no inputs or no outputs")
    for i in inputs:
        t = graph.Tensors(i)
        length = t.ShapeSignatureLength()
        need(length <= MAX_RANK, tensor_name(tensors[i]), "damaged shape")
        need(
            all(t.ShapeSignature(j) >= 0 for j in range(1, length)),
            tensor_name(tensors[i]),
            "dynamic shape: convert the model with fixed input sizes",
        )
    operators = []
    known = set(inputs)
    need(len(known) == len(inputs), "model inputs", "the same tensor twice")
    for i in known:
        need(not tensors[i].constant, tensor_name(tensors[i]), "a model input has constant data")
    for i in range(_count(graph.OperatorsLength(), "operators")):
        operator = read_operator(root, graph.Operators(i), i, tensors)
        check_operator(operator, tensors)
        for j in operator.inputs:
            need(
                j < 0 or j in known or tensors[j].constant,
                operator,
                f"input {tensor_name(tensors[max(j, 0)])} is not computed before",
            )
        for j in operator.outputs:
            need(j not in known and not tensors[j].constant, operator, f"{tensor_name(tensors[j])} is written twice")
            known.add(j)
        operators.append(operator)
    need(operators, "file", "no operators")
    for i in outputs:
        need(i in known, "model outputs", f"{tensor_name(tensors[i])} is never computed")
    for i in inputs:
        need(
            tensors[i].shape and tensors[i].shape[0] == 1,
            tensor_name(tensors[i]),
            "batch is not 1: convert with batch 1",
        )
    total = sum(tensors[i].size for i in known)
    need(total <= MAX_ACTIVATION_ELEMENTS, "file", f"{total} activation elements in all: too large")
    return Model(tensors, tuple(operators), inputs, outputs, name)


def _read_tensor(root, t, index, buffers) -> Tensor:
    name = _text(t.Name(), f"tensor {index}")
    where = f"tensor {index} {name[:80]!r}"
    rank = t.ShapeLength()
    need(rank <= MAX_RANK, where, f"{rank} dimensions, at most {MAX_RANK} are supported")
    shape = tuple(int(t.Shape(i)) for i in range(rank))
    need(all(d > 0 for d in shape), where, f"dynamic or empty shape {shape}: convert the model with fixed sizes")
    need(math.prod(shape) <= MAX_TENSOR_ELEMENTS, where, f"shape {shape} has too many elements")
    dtype = DTYPES.get(t.Type(), f"type {t.Type()}")
    need(t.Sparsity() is None, where, "sparse weights are not supported: convert without sparsity")
    need(not t.IsVariable(), where, "variable tensors are not supported")
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
        need((zero_points >= -(1 << 31)).all() and (zero_points < 1 << 31).all(), where, "zero point out of range")
        if dtype == "int8":
            need(((zero_points >= -128) & (zero_points <= 127)).all(), where, "zero point outside int8")
    number = t.Buffer()
    need(number < buffers, where, f"buffer {number} of {buffers} does not exist")
    buffer = root.Buffers(number)
    need(buffer.Offset() <= 1 and buffer.Size() <= 1, where, "data outside the flatbuffer is not supported")
    data = None
    length = buffer.DataLength()
    if length:
        item = ITEM_BYTES.get(dtype)
        if item is not None:
            want = math.prod(shape) * item
            need(length == want, where, f"{length} bytes of data, shape {shape} of {dtype} needs {want}")
            data = buffer.DataAsNumpy()
            need(len(data) == length, where, "data beyond the end of the file")
            data = data.view("<i%d" % item if item > 1 else np.int8).reshape(shape)
            data.flags.writeable = False
    return Tensor(index, name, shape, dtype, scales, zero_points, axis, data)

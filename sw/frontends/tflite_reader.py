"""Float .tflite files to the float graph: the way of what TensorFlow and Keras write."""

import math
from pathlib import Path

import numpy as np
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from lepton.sw.files import read_file
from lepton.sw.frontends import graph as ir
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.frontends.quantize import OPTIONS
from lepton.sw.frontends.simplify import simplify
from lepton.sw.graph.model import MAX_FILE_BYTES, MAX_OBJECTS, MAX_RANK, MAX_TENSOR_ELEMENTS

TYPES = {
    tflite.TensorType.FLOAT32: np.float32,
    tflite.TensorType.FLOAT16: np.float16,
    tflite.TensorType.INT32: np.int32,
    tflite.TensorType.INT64: np.int64,
    tflite.TensorType.BOOL: np.bool_,
}
LSTM = "UNIDIRECTIONAL_SEQUENCE_LSTM"


def read_tflite(source: str | Path | bytes, name: str | None = None) -> Graph:
    """The float graph of a float .tflite file or its bytes. Raises ImportModelError, one line."""
    if isinstance(source, bytes):
        data, name = source, name or "model"
    else:
        path = Path(source)
        name = name or path.stem
        data = read_file(path, MAX_FILE_BYTES, ImportModelError)
    try:
        if data[4:8] != b"TFL3":
            raise ImportModelError("not a TensorFlow Lite file (no TFL3 mark)")
        return _Reader(data).read(name)
    except ImportModelError as error:
        raise ImportModelError(f"{name}: {error}") from None
    except Exception as error:  # whatever the flatbuffer accessors and numpy stumble over in a damaged file
        raise ImportModelError(f"{name}: damaged or truncated file ({type(error).__name__})") from None


class _Reader:
    def __init__(self, data: bytes):
        self.root = tflite.Model.GetRootAsModel(data, 0)
        if self.root.SubgraphsLength() != 1:
            raise ImportModelError(f"{self.root.SubgraphsLength()} graphs: convert without control flow and state")
        self.graph = self.root.Subgraphs(0)
        self.values: dict[int, Value] = {}
        self.nodes: list[Node] = []
        self.where = "file"

    def need(self, ok, why):
        if not ok:
            raise ImportModelError(f"{self.where}: {why}")

    def read(self, name: str) -> Graph:
        g = self.graph
        count = g.TensorsLength()
        self.need(0 < count <= MAX_OBJECTS and g.OperatorsLength() <= MAX_OBJECTS, "damaged file")
        inputs = [self.activation(int(g.Inputs(i)), is_input=True) for i in range(g.InputsLength())]
        for i in range(g.OperatorsLength()):
            self.operator(g.Operators(i), i)
        outputs = []
        for i in range(g.OutputsLength()):
            found = self.values.get(int(g.Outputs(i)))
            self.where = "file"
            self.need(found is not None and found.data is None, "an output does not depend on the input")
            outputs.append(found)
        self.need(inputs and outputs, "no inputs or no outputs")
        return simplify(Graph(self.nodes, inputs, [v for v in outputs if v is not None], name))

    def shape(self, index: int) -> tuple[int, ...]:
        t = self.graph.Tensors(index)
        shape = tuple(int(t.Shape(i)) for i in range(min(t.ShapeLength(), 64)))
        self.need(len(shape) <= MAX_RANK, f"tensor {index} has {len(shape)} axes, at most {MAX_RANK} are supported")
        self.need(math.prod(shape) <= MAX_TENSOR_ELEMENTS and min(shape, default=1) >= 0, "damaged shape")
        return shape

    def name(self, index: int) -> str:
        return (self.graph.Tensors(index).Name() or b"").decode("utf-8", "replace")[:200] or f"tensor {index}"

    def activation(self, index: int, is_input: bool = False) -> Value:
        t, shape = self.graph.Tensors(index), self.shape(index)
        self.where = f"tensor {index} {self.name(index)[:80]!r}"
        self.need(
            t.Type() not in (tflite.TensorType.INT8, tflite.TensorType.UINT8),
            "is quantized already: an int8 model needs no import (lepton check MODEL)",
        )
        self.need(t.Type() == tflite.TensorType.FLOAT32, "is no float32: only float networks can be quantized")
        if is_input:
            signature = [t.ShapeSignature(i) for i in range(t.ShapeSignatureLength())]
            self.need(all(d >= 0 for d in signature[1:]), "has no fixed size: convert with fixed sizes")
            self.need(shape and shape[0] == 1, f"batch is {shape[:1]}: convert with batch 1")
        self.need(min(shape, default=1) > 0, f"shape {shape}: convert with fixed sizes")
        value = self.values[index] = Value(self.name(index), shape)
        return value

    def operand(self, index: int) -> Value | None:
        if index < 0:
            return None
        self.need(index < self.graph.TensorsLength(), f"tensor {index} does not exist")
        if index in self.values:
            return self.values[index]
        t, shape = self.graph.Tensors(index), self.shape(index)
        if t.IsVariable():
            return None
        buffer = self.root.Buffers(t.Buffer())
        kind = TYPES.get(t.Type())
        self.need(kind is not None, f"constant {self.name(index)!r} is of a type that is not supported")
        size = math.prod(shape)
        self.need(buffer.DataLength() > 0 or not size, f"{self.name(index)!r} is not computed before")
        data = buffer.DataAsNumpy() if size else np.zeros(0, np.uint8)
        self.need(len(data) == size * np.dtype(kind).itemsize, f"{self.name(index)!r}: data and shape do not fit")
        data = np.frombuffer(data.tobytes(), kind).reshape(shape)
        data = data.astype(np.float32) if data.dtype.kind == "f" else data.astype(np.int32)
        value = self.values[index] = Value(self.name(index), shape, data)
        return value

    def options(self, o, op: str) -> dict:
        kind = OPTIONS.get(op) or {"SPLIT": "SplitOptions", "PACK": "PackOptions", "GATHER": "GatherOptions"}.get(op)
        table = o.BuiltinOptions()
        if kind is None or table is None or o.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, kind):
            return {}
        t = getattr(tflite, kind)()
        t.Init(table.Bytes, table.Pos)
        fields = [n.removeprefix(f"{kind}Add") for n in dir(tflite) if n.startswith(f"{kind}Add")]
        return {f: getattr(t, f)() for f in fields if f not in ("NewShape", "SqueezeDims")}

    def operator(self, o, index: int) -> None:
        code = self.root.OperatorCodes(o.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        op = BUILTIN_OPCODE2NAME.get(number, f"code {number}")
        self.where = f"node {index} ({op})"
        self.need(o.InputsLength() <= 1024 and 0 < o.OutputsLength() <= 1024, "damaged file")
        if op.startswith("CUSTOM"):
            self.need(False, f"custom operator {code.CustomCode()!r}: convert with built-in operators only")
        inputs = [self.operand(int(o.Inputs(i))) for i in range(o.InputsLength())]
        outs = [int(o.Outputs(i)) for i in range(o.OutputsLength())]
        options = self.options(o, op)
        self.where = f"node {index} ({op})"
        if op == "DEQUANTIZE" and inputs[0] is not None and inputs[0].data is not None:  # float16 weights
            self.values[outs[0]] = inputs[0]
            return
        if op == "SPLIT":
            self.split(inputs, outs, options, index)
            return
        y = self.activation(outs[0])
        self.where = f"node {index} ({op}) {y.name[:60]!r}"
        self.need(len(outs) == 1, "several outputs are not supported")
        source = f"{y.name} ({op})"
        if op in ("EXPAND_DIMS", "SQUEEZE"):
            op, inputs, options = "RESHAPE", inputs[:1], {}
        elif op == "RESHAPE":
            inputs, options = inputs[:1], {}
        elif op == "SLICE":
            self.need(all(v is not None and v.data is not None for v in inputs[1:3]), "begin and size must be constant")
            x, begin, size = inputs[:3]
            assert x is not None and begin is not None and size is not None
            first, sizes = begin.values.reshape(-1), size.values.reshape(-1)
            end = [int(b) + (int(s) if s >= 0 else d - int(b)) for b, s, d in zip(first, sizes, x.shape)]
            op, inputs, options = "STRIDED_SLICE", [x, *self.cut(first, end)], dict(ir.CUT)
        elif op == "PACK":
            self.pack(inputs, y, options, source)
            return
        elif op == LSTM:
            self.need(not options.get("TimeMajor"), "time major: convert with the batch first")
            self.need(all(v is None for v in (*inputs[9:12], *inputs[16:18], *inputs[20:24])), "only the plain LSTM")
            inputs = inputs[:18]
        self.need(op in ir.OPERATORS, f"operator not supported: known: {', '.join(sorted(ir.OPERATORS))}")
        if op == "FULLY_CONNECTED" and inputs[0] is not None and len(y.shape) != len(inputs[0].shape):
            options["KeepNumDims"] = False
        self.need(any(v is not None and v.data is None for v in inputs), "depends on constants only")
        self.nodes.append(Node(op, inputs, [y], options, source))

    def cut(self, begin, end) -> list[Value]:
        tables = (np.array(begin), np.array(end), np.ones(len(end)))
        return [Value("table", (len(end),), t.astype(np.int32)) for t in tables]

    def split(self, inputs, outs, options, index):
        axis, x = inputs
        a = int(axis.data.reshape(-1)[0]) % len(x.shape)
        part = x.shape[a] // len(outs)
        for k, i in enumerate(outs):
            y = self.activation(i)
            begin = [k * part if j == a else 0 for j in range(len(x.shape))]
            end = [(k + 1) * part if j == a else d for j, d in enumerate(x.shape)]
            source = f"{y.name} (SPLIT)"
            self.nodes.append(Node("STRIDED_SLICE", [x, *self.cut(begin, end)], [y], dict(ir.CUT), source))

    def pack(self, inputs, y, options, source):
        axis = options.get("Axis", 0) % len(y.shape)
        shape = tuple(1 if i == axis else d for i, d in enumerate(y.shape))
        parts: list[Value | None] = []
        for k, v in enumerate(inputs):
            self.need(v.data is None, "packs constants")
            part = Value(f"{y.name}/{k}", shape)
            self.nodes.append(Node("RESHAPE", [v], [part], {}, source))
            parts.append(part)
        self.nodes.append(Node("CONCATENATION", parts, [y], {"Axis": axis, "FusedActivationFunction": 0}, source))

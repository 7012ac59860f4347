"""ONNX files, float or QDQ, to the float graph: on the `onnx` package alone.

Layouts are turned lazily: a value remembers which axis of the source each of its axes is (`Laid.perm`), and a
TRANSPOSE is written only where an operator needs another order than the value has. Where only axes of size 1 move, a
RESHAPE does.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lepton.sw.files import check_file, read_file
from lepton.sw.frontends import graph as ir
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Quant, Value
from lepton.sw.frontends.recurrent import MAX_STEPS, gru
from lepton.sw.frontends.simplify import simplify
from lepton.sw.graph.model import MAX_FILE_BYTES, MAX_RANK, MAX_TENSOR_ELEMENTS, window

try:
    import onnx
    from onnx import external_data_helper, helper, numpy_helper
except ImportError:
    raise ImportModelError("reading ONNX needs the onnx package: pip install 'lepton-npu[onnx]'") from None

MAX_PADDING = 65536
MAX_EXTERNAL_BYTES = 1 << 32
"""Most bytes of a file beside a model, of which the model's tensors may be a part."""
LOWEST = np.float32(-3.4e38)
MASKED = np.float32(-16)
"""What stands for minus infinity in a mask: exp(-16) is below an int8's 1/256, and the scores keep their resolution."""
FOLDED = frozenset(
    "Abs Add And Cast Ceil Clip Concat ConstantOfShape Div Equal Exp Expand Flatten Floor Gather Greater Identity Less "
    "Log Max Min Mod Mul Neg Not Or Pow Range Reciprocal ReduceProd Reshape Shape Slice Split Sqrt Squeeze Sub Tile "
    "Transpose Unsqueeze Where Sign Trilu ScatterND".split()
)
HELP = {
    "QLinearConv": "quantize in QDQ form (quant_format=QuantFormat.QDQ)",
    "QLinearMatMul": "quantize in QDQ form (quant_format=QuantFormat.QDQ)",
    "QLinearAdd": "quantize in QDQ form (quant_format=QuantFormat.QDQ)",
    "DynamicQuantizeLinear": "quantize statically (quantize_static), or import the float model",
    "MatMulInteger": "quantize statically (quantize_static), or import the float model",
    "ConvInteger": "quantize statically (quantize_static), or import the float model",
    "If": "export without control flow",
    "Loop": "export without control flow",
    "Scan": "export without control flow",
    "ArgMax": "end the network before it and take the argmax of the output",
    "TopK": "end the network before it and sort the output",
    "NonMaxSuppression": "end the network before it and suppress on the host",
    "RNN": "use an LSTM",
    "Einsum": "write it as MatMul and Transpose",
    "Softplus": "use ReLU, GELU or SiLU",
    "GridSample": "use Resize",
}


@dataclass(eq=False)
class Const:
    """A constant of the source, in the source's layout."""

    data: np.ndarray
    quant: Quant | None = None

    @property
    def shape(self):
        return self.data.shape


@dataclass(eq=False)
class Laid:
    """An activation: its value, its shape in the source, and for each axis of the value the axis in the source."""

    value: Value
    shape: tuple[int, ...]
    perm: tuple[int, ...]

    @property
    def rank(self):
        return len(self.shape)


def identity(rank: int) -> tuple[int, ...]:
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank), 1)


def spatial_first(rank: int, spatial: int) -> tuple[int, ...]:
    """(N, parts of the channels …, spatial axes …) with the spatial axes before the parts."""
    return (0, *range(rank - spatial, rank), *range(1, rank - spatial))


def read_onnx(
    source: "str | Path | bytes | onnx.ModelProto",
    name: str | None = None,
    nhwc: bool = False,
    input_shapes: Sequence[Sequence[int]] | None = None,
) -> Graph:
    """The float graph of an ONNX file, its bytes or a ModelProto.

    `nhwc`: inputs and outputs of 3 and more axes have their channels last, else they are as in the source.
    `input_shapes` (with batch) fill in sizes that the file leaves open. Raises ImportModelError, one line.
    """
    folder = None
    if isinstance(source, (str, Path)):
        path = Path(source)
        name, folder = name or path.stem, path.parent
        source = read_file(path, MAX_FILE_BYTES, ImportModelError)
    name = name or "model"
    try:
        model = onnx.load_model_from_string(source) if isinstance(source, bytes) else source
        if not model.graph.node:
            raise ImportModelError("not an ONNX file, or one without a graph")
        _load_external_data(model, folder)
        return _Reader(model, nhwc, input_shapes).read(name)
    except ImportModelError as error:
        raise ImportModelError(f"{name}: {error}") from None
    except Exception as error:  # whatever protobuf, onnx and numpy stumble over in a damaged file
        raise ImportModelError(f"{name}: not an ONNX file, or a damaged one ({type(error).__name__})") from None


def _load_external_data(model: "onnx.ModelProto", folder: Path | None) -> None:
    """Fetch the tensors that lie in files beside the model. Raises ImportModelError, and whatever onnx does."""
    attributes = (a for n in model.graph.node for a in n.attribute if a.HasField("t"))
    left = MAX_FILE_BYTES
    for t in (*model.graph.initializer, *(a.t for a in attributes)):
        if not external_data_helper.uses_external_data(t):
            continue
        if folder is None:
            raise ImportModelError(f"tensor {t.name!r} lies in another file: give the model's path, or load it whole")
        fields = {e.key: e.value for e in t.external_data}
        path = folder / fields["location"]
        check_file(path, MAX_EXTERNAL_BYTES, ImportModelError)
        left -= int(fields.get("length", path.stat().st_size))
        if left < 0:
            raise ImportModelError(f"more than {MAX_FILE_BYTES} bytes of tensors in other files")
        external_data_helper.load_external_data_for_tensor(t, str(folder))


class _Reader:
    def __init__(self, model, nhwc, input_shapes):
        self.graph = model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=17)
        self.nhwc = nhwc
        self.input_shapes = input_shapes
        self.nodes: list[Node] = []
        self.env: dict[str, Laid | Const] = {}
        self.producers = {o: n for n in self.graph.node for o in n.output if o}
        self.uses = Counter(i for n in self.graph.node for i in n.input)
        self.uses.update(o.name for o in self.graph.output)
        self.turned: dict = {}
        self.names: Counter = Counter()
        self.skipped: set[int] = set()
        self.node: Any = None

    # Entry

    def read(self, name) -> Graph:
        for t in self.graph.initializer:
            self._check_elements(t.dims, f"initializer {t.name!r}")
            self.env[t.name] = Const(_plain(numpy_helper.to_array(t)))
        inputs: list[Value] = []
        for i in self.graph.input:
            if i.name not in self.env:
                inputs.append(self._input(i, len(inputs)))
        if not inputs:
            raise ImportModelError("no inputs: export it as a function of its input")
        gelus = self._find_gelus()
        for index, node in enumerate(self.graph.node):
            if index in self.skipped:
                continue
            self.node = node
            self._lower(gelus.get(index, node), node)
        outputs = []
        for o in self.graph.output:
            found = self.env.get(o.name)
            if not isinstance(found, Laid):
                raise ImportModelError(f"output {o.name!r} does not depend on the input")
            last = self.nhwc and found.rank > 2
            value = self.arranged(found, channels_last(found.rank) if last else identity(found.rank))
            if value in inputs or value in outputs:
                value = self.emit("RESHAPE", [value], shape=value.shape)
            outputs.append(value)
        return simplify(Graph(self.nodes, inputs, outputs, name))

    def _input(self, info, index) -> Value:
        kind = info.type.tensor_type
        if not info.type.HasField("tensor_type"):
            raise ImportModelError(f"input {info.name!r} is no tensor")
        shape = []
        for axis, d in enumerate(kind.shape.dim):
            size = d.dim_value if d.HasField("dim_value") else 0
            if size <= 0 and self.input_shapes is not None:
                given = self.input_shapes[index] if index < len(self.input_shapes) else ()
                size = int(given[axis]) if axis < len(given) else 0
            if axis == 0 and size <= 0:
                size = 1
            if size <= 0:
                raise ImportModelError(
                    f"input {info.name!r}: axis {axis} has no fixed size ({d.dim_param or 'unknown'}): export with "
                    "fixed sizes, or give --calibrate, whose shape fills it in"
                )
            shape.append(size)
        if shape and shape[0] != 1:
            raise ImportModelError(f"input {info.name!r}: batch is {shape[0]}: export with batch 1")
        if not shape or len(shape) > MAX_RANK:
            raise ImportModelError(f"input {info.name!r} has {len(shape)} axes, 1 to {MAX_RANK} are possible")
        self._check_elements(shape, f"input {info.name!r}")
        types = onnx.TensorProto
        if kind.elem_type not in (types.FLOAT, types.FLOAT16, types.DOUBLE, types.INT8, types.UINT8):
            what = types.DataType.Name(kind.elem_type) if kind.elem_type in types.DataType.values() else "unknown"
            raise ImportModelError(
                f"input {info.name!r} is of type {what}: only float inputs can be quantized; for token numbers, cut "
                "the network behind its embedding"
            )
        perm = channels_last(len(shape)) if self.nhwc and len(shape) > 2 else identity(len(shape))
        value = Value(info.name, tuple(shape[a] for a in perm))
        self.env[info.name] = Laid(value, tuple(shape), perm)
        return value

    @staticmethod
    def _check_elements(shape, what):
        if any(d < 0 for d in shape) or math.prod(shape) > MAX_TENSOR_ELEMENTS:
            raise ImportModelError(f"{what}: shape {tuple(shape)} is damaged or too large")

    def _lower(self, node, original):
        op = node.op_type
        inputs = []
        for name in node.input:
            if name and name not in self.env:
                raise self.error(f"input {name!r} is not computed before it: the file is damaged or not sorted")
            inputs.append(self.env[name] if name else None)
        try:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        except Exception:
            raise self.error("its attributes are damaged") from None
        constant = all(not isinstance(i, Laid) for i in inputs)
        if node.domain not in ("", "ai.onnx", "com.microsoft"):
            raise self.error(f"operators of domain {node.domain!r} are not known")
        shaped = inputs[0] if op == "Shape" else None
        handler = getattr(self, f"_{op}", None) if op.isalnum() else None
        try:
            if isinstance(shaped, Laid):
                s = shaped.shape[attributes.get("start", 0) : attributes.get("end", None)]
                results: Any = Const(np.array(s, np.int64))
            elif op == "Constant":
                results = Const(_plain(_constant(attributes)))
            elif constant and op not in ("QuantizeLinear", "DequantizeLinear"):
                results = self._fold(node, inputs)
            elif handler is None:
                raise self.error(HELP.get(op, f"known: {KNOWN}"), not_known=True)
            else:
                results = handler(inputs, attributes)
        except ImportModelError:
            raise
        except (KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError, ZeroDivisionError) as e:
            raise self.error(f"its inputs or attributes do not fit together ({type(e).__name__})") from None
        results = results if isinstance(results, tuple) else (results,)
        for name, result in zip(original.output, results):
            if name:
                self.env[name] = result
        for name in original.output[len(results) :]:
            if name and self.uses[name]:
                raise self.error(f"its output {name!r} is not supported: use the first output only")

    def error(self, why, not_known=False) -> ImportModelError:
        n = self.node
        label = n.name or (n.output[0] if n.output else "")
        colon = "operator not supported: " if not_known else ""
        return ImportModelError(f"node {label[:80]!r} ({n.op_type[:40]}): {colon}{why}")

    def need(self, ok, why):
        if not ok:
            raise self.error(why)

    # Constants

    def _fold(self, node, inputs) -> tuple[Const, ...] | Const:
        op = node.op_type
        first: Any = inputs[0] if inputs else None
        if op in ("Identity", "Dropout"):
            return first
        if op == "Transpose" and first.quant is not None:
            perm = _attribute(node, "perm", tuple(range(first.data.ndim))[::-1])
            return _turn_constant(first, perm)
        if op == "Reshape" and first.quant is not None and len(first.quant.scales) == 1:
            shape = self._reshape_target(first.shape, inputs[1].data, _attribute(node, "allowzero", 0))
            q = first.quant
            return Const(first.data.reshape(shape), Quant(q.scales, q.zero_points, 0, q.stored.reshape(shape)))
        if op not in FOLDED:
            raise self.error(HELP.get(op, "on constants only it is not supported: simplify the file (onnxsim)"), True)
        if op in ("ConstantOfShape", "Expand", "Reshape"):
            self._check_elements([abs(int(d)) for d in inputs[-1].data.reshape(-1)], f"node {node.output[0]!r}")
        if op == "Tile":
            self._check_elements([int(a) * int(b) for a, b in zip(first.shape, inputs[1].data)], "Tile")
        if op == "Range":
            a, b, c = (float(i.data) for i in inputs)
            self.need(c and abs((b - a) / c) < MAX_TENSOR_ELEMENTS, "too many values")
        from onnx.reference import ReferenceEvaluator

        names = [n for n in node.input]
        infos = [helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(names) if n]
        outs = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
        model = helper.make_model(
            helper.make_graph([node], "constant", infos, outs),
            opset_imports=[helper.make_opsetid("", self.opset)],
        )
        feeds = {n: i.data for n, i in zip(names, inputs) if n}
        try:
            results = ReferenceEvaluator(model).run(None, feeds)
        except Exception as e:
            raise self.error(f"cannot be computed from its constants ({type(e).__name__})") from None
        return tuple(Const(_plain(np.asarray(r))) for r in results)

    def integers(self, x, what) -> list[int]:
        self.need(isinstance(x, Const), f"{what} must be constant: export with fixed sizes")
        self.need(x.data.size <= 1024, f"{what} has too many values")
        return [int(v) for v in x.data.reshape(-1)]

    def number(self, x, default=None) -> float:
        if x is None:
            self.need(default is not None, "an input is missing")
            return default
        self.need(isinstance(x, Const) and x.data.size == 1, "a limit or scale must be one constant")
        return float(x.data.reshape(-1)[0])

    # Emission

    def emit(self, op, inputs, options=None, shape=None, label="") -> Value:
        """Append an operator; its output's shape is computed from `inputs` unless it is given."""
        base = (self.node.output[0] if self.node is not None and len(self.node.output) else op) + label
        self.names[base] += 1
        name = base if self.names[base] == 1 else f"{base}:{self.names[base] - 1}"
        source = f"{self.node.name or name} ({self.node.op_type})" if self.node is not None else op
        y = Value(name, tuple(shape) if shape is not None else ())
        node = Node(op, list(inputs), [y], options or {}, source)
        if shape is None:
            with np.errstate(all="ignore"):
                zeros = [
                    None if v is None else np.zeros(v.shape, np.float32) if v.data is None else v.data for v in inputs
                ]
                y.shape = ir.run_node(node, zeros).shape
        self._check_elements(y.shape, f"node {base!r}")
        self.nodes.append(node)
        return y

    def constant(self, data, quant=None) -> Value:
        data = np.asarray(data)
        if data.dtype.kind == "f":
            data = data.astype(np.float32)
            self.need(np.isfinite(data).all() or data.size == 1, "a constant is not finite")
        else:
            data = data.astype(np.int32)
        return Value(f"constant{id(data)}", data.shape, data, quant)

    def arranged(self, x: Laid, perm: tuple[int, ...]) -> Value:
        """The value of x with its axes in the order `perm` of the source's axes."""
        if x.perm == perm:
            return x.value
        key = (x.value, x.perm, perm)
        if key not in self.turned:
            turn = tuple(x.perm.index(a) for a in perm)
            shape = tuple(x.shape[a] for a in perm)
            moving = [a for a in turn if x.value.shape[a] > 1]
            if moving == sorted(moving):
                y = self.emit("RESHAPE", [x.value], shape=shape, label="/turned")
            else:
                y = self.emit("TRANSPOSE", [x.value, self.constant(np.array(turn, np.int32))], label="/turned")
            y.quant = x.value.quant
            self.turned[key] = y
        return self.turned[key]

    def laid(self, value: Value, perm=None) -> Laid:
        perm = identity(len(value.shape)) if perm is None else tuple(perm)
        shape = [0] * len(perm)
        for size, a in zip(value.shape, perm):
            shape[a] = size
        return Laid(value, tuple(shape), perm)

    def plain(self, x: Laid) -> Value:
        return self.arranged(x, identity(x.rank))

    def tensor(self, x) -> Laid:
        """An input that must be an activation; constants are not expected there."""
        self.need(isinstance(x, Laid), "a constant where the network's data is expected")
        return x

    def with_rank(self, x: Laid, rank: int) -> Laid:
        """x with axes of size 1 in front."""
        if x.rank == rank:
            return x
        k = rank - x.rank
        return self.reshaped(x, (1,) * k + x.shape)

    def reshaped(self, x: Laid, shape: tuple[int, ...]) -> Laid:
        """x in another shape of the source; the order of axes stays where it can."""
        self.need(math.prod(shape) == math.prod(x.shape), f"{x.shape} does not fit {shape}")
        if shape == x.shape:
            return x
        old, new = [a for a in range(x.rank) if x.shape[a] > 1], [a for a in range(len(shape)) if shape[a] > 1]
        perm: tuple[int, ...]
        if [x.shape[a] for a in old] == [shape[a] for a in new]:  # only axes of size 1 come or go
            where = dict(zip(old, new))
            big = [where[a] for a in x.perm if a in where]
            ones = [a for a in range(len(shape)) if shape[a] == 1]
            perm = identity(len(shape)) if big == sorted(big) else (*ones, *big)
        elif x.rank > 2 and len(shape) > 2 and x.perm == channels_last(x.rank) and x.shape[:2] == shape[:2]:
            perm = channels_last(len(shape))  # the spatial axes among themselves
        elif x.perm == channels_last(x.rank) and shape[:1] == x.shape[:1] and shape[-(x.rank - 2) :] == x.shape[2:]:
            perm = spatial_first(len(shape), x.rank - 2)  # the channels into parts, as a shuffle does
        elif (
            x.rank > len(shape) > 2
            and x.perm != identity(x.rank)
            and shape[:1] == x.shape[:1]
            and shape[2:] == x.shape[-(len(shape) - 2) :]
        ):
            between = spatial_first(x.rank, len(shape) - 2)  # and back
            x = Laid(self.arranged(x, between), x.shape, between)
            perm = channels_last(len(shape))
        else:
            perm = identity(len(shape))
            x = Laid(self.plain(x), x.shape, identity(x.rank))
        y = self.emit("RESHAPE", [x.value], shape=tuple(shape[a] for a in perm))
        y.quant = x.value.quant
        return Laid(y, shape, perm)

    def like(self, x: Laid, value: Value) -> Laid:
        """A value with the axes of x."""
        return self.laid(value, x.perm)

    def unary(self, op, x, options=None) -> Laid:
        x = self.tensor(x)
        return self.like(x, self.emit(op, [x.value], options))

    def broadcast(self, a, b) -> tuple[Value, Value, tuple[int, ...]]:
        """Both operands with as many axes in the same order, and that order."""
        rank = max(len(a.shape), len(b.shape))
        np.broadcast_shapes(a.shape, b.shape)
        laid = [self.with_rank(x, rank) if isinstance(x, Laid) else x for x in (a, b)]
        whole = [x for x in laid if isinstance(x, Laid)]
        perm = max(whole, key=lambda x: (math.prod(x.shape), x.perm != identity(rank))).perm
        out = []
        for x in laid:
            if isinstance(x, Laid):
                out.append(self.arranged(x, perm))
            else:
                data = x.data.astype(np.float32).reshape((1,) * (rank - x.data.ndim) + x.shape)
                quant = None
                if x.quant is not None and len(x.quant.scales) == 1:
                    q = x.quant
                    stored = q.stored.reshape(data.shape).transpose(perm)
                    quant = Quant(q.scales, q.zero_points, 0, stored)
                out.append(self.constant(data.transpose(perm), quant))
        return out[0], out[1], perm

    def binary(self, op, a, b) -> Laid:
        x, y, perm = self.broadcast(a, b)
        return self.laid(
            self.emit(op, [x, y], {} if op in ("MINIMUM", "MAXIMUM", "SQUARED_DIFFERENCE") else FUSED), perm
        )

    # Quantization

    def _quant(self, scale, zero, axis, x):
        self.need(isinstance(scale, Const) and (zero is None or isinstance(zero, Const)), "its scale must be constant")
        scales = scale.data.astype(np.float32).reshape(-1)
        self.need(scales.size and np.isfinite(scales).all() and (scales > 0).all(), "a scale is not a positive number")
        kind = np.dtype(np.uint8) if zero is None else zero.data.dtype
        zeros = np.zeros(len(scales), np.int64) if zero is None else zero.data.astype(np.int64).reshape(-1)
        self.need(zeros.size == scales.size, "scales and zero points do not fit together")
        self.need(scales.size == 1 or -len(x.shape) <= axis < len(x.shape), f"axis {axis} is outside the tensor")
        return scales, zeros, axis % max(len(x.shape), 1) if scales.size > 1 else 0, kind

    def _QuantizeLinear(self, inputs, attributes):
        x, scale, zero = (*inputs, None)[:3]
        scales, zeros, axis, kind = self._quant(scale, zero, attributes.get("axis", 1), x)
        self.need(not attributes.get("block_size"), "blocked quantization is not supported: quantize per channel")
        low = {np.dtype(np.int8): 0, np.dtype(np.uint8): 128}.get(kind)
        self.need(low is not None, f"quantized to {kind}: only int8 and uint8 are supported")
        zeros = zeros - low
        if isinstance(x, Const):
            shape = [-1 if i == axis else 1 for i in range(x.data.ndim)] if scales.size > 1 else []
            stored = np.round(x.data / scales.reshape(shape)) + zeros.reshape(shape)
            stored = np.clip(stored, -128, 127).astype(np.int8)
            data = (stored.astype(np.float32) - zeros.reshape(shape)) * scales.reshape(shape)
            return Const(data.astype(np.float32), Quant(scales, zeros, axis, stored))
        self.need(scales.size == 1, "an activation quantized per channel: quantize activations per tensor")
        quant = Quant(scales, zeros)
        if x.value.quant is None:
            x.value.quant = quant
            return x
        if x.value.quant.same(quant):
            return x
        y = self.emit("QUANTIZE", [x.value])
        y.quant = quant
        return self.like(x, y)

    def _DequantizeLinear(self, inputs, attributes):
        x, scale, zero = (*inputs, None)[:3]
        scales, zeros, axis, _ = self._quant(scale, zero, attributes.get("axis", 1), x)
        self.need(not attributes.get("block_size"), "blocked quantization is not supported: quantize per channel")
        if isinstance(x, Laid):
            self.need(scales.size == 1, "an activation quantized per channel: quantize activations per tensor")
            if x.value.quant is None:  # a model whose input is the bytes themselves
                shift = 128 if self._is_unsigned(zero) else 0
                x.value.quant = Quant(scales, zeros - shift)
            return x
        if x.quant is not None:
            return x
        shape = [-1 if i == axis else 1 for i in range(x.data.ndim)] if scales.size > 1 else []
        data = (x.data.astype(np.float64) - zeros.reshape(shape)) * scales.astype(np.float64).reshape(shape)
        stored = x.data.astype(np.int64)
        if x.data.dtype == np.uint8:
            stored, zeros = stored - 128, zeros - 128
        self.need(x.data.dtype in (np.int8, np.uint8, np.int32), f"quantized to {x.data.dtype}: only int8 is supported")
        return Const(data.astype(np.float32), Quant(scales, zeros, axis, stored))

    @staticmethod
    def _is_unsigned(zero):
        return zero is None or zero.data.dtype == np.uint8

    def weights(self, w: Const, transpose, axis_out: int, axis_in: int, reshape=None) -> Value:
        """A constant operand of the array, turned: `axis_in` its channel in the source, `axis_out` afterwards."""
        self.need(isinstance(w, Const), "its weights must be constant")
        data = w.data.astype(np.float32).transpose(transpose)
        quant = None
        if w.quant is not None:
            q = w.quant
            self.need(not q.zero_points.any(), "weights with a zero point other than 0: quantize weights symmetrically")
            if len(q.scales) == 1 or q.axis == axis_in:
                stored = None if q.stored is None else q.stored.transpose(transpose)
                quant = Quant(q.scales, q.zero_points, axis_out, stored)
        if reshape is not None:
            data = data.reshape(reshape)
            if quant is not None and quant.stored is not None:
                quant.stored = quant.stored.reshape(reshape)
        return self.constant(data, quant)

    def bias(self, b) -> Value | None:
        if b is None:
            return None
        self.need(isinstance(b, Const), "its bias must be constant")
        q = b.quant
        quant = None if q is None else Quant(q.scales, q.zero_points, 0, q.stored.reshape(-1))
        return self.constant(b.data.astype(np.float32).reshape(-1), quant)

    # Windows

    def _spatial(self, attributes, key, n, default):
        values = [int(v) for v in attributes.get(key, [default] * n)]
        self.need(len(values) == n and all(1 <= v <= MAX_PADDING for v in values), f"{key} {values} do not fit")
        return values

    def _pads(self, attributes, size, kernel, stride, dilation):
        """[(before, after)] for each spatial axis."""
        auto = attributes.get("auto_pad", b"NOTSET").decode()
        n = len(size)
        if auto in ("NOTSET", "VALID"):
            pads = [int(p) for p in attributes.get("pads", [0] * 2 * n)] if auto == "NOTSET" else [0] * 2 * n
            self.need(len(pads) == 2 * n and all(0 <= p <= MAX_PADDING for p in pads), f"pads {pads} do not fit")
            return list(zip(pads[:n], pads[n:]))
        out = []
        for d, k, s, e in zip(size, kernel, stride, dilation):
            total = max((-(-d // s) - 1) * s + (k - 1) * e + 1 - d, 0)
            low = total // 2 if auto == "SAME_UPPER" else total - total // 2
            out.append((low, total - low))
        return out

    def _image(self, x) -> tuple[Laid, Value]:
        """(x, its value as NHWC) of (N, C, L) or (N, C, H, W)."""
        x = self.tensor(x)
        self.need(x.rank in (3, 4), f"its input has {x.rank} axes; 1-D and 2-D are supported")
        value = self.arranged(x, channels_last(x.rank))
        if x.rank == 3:
            n, length, c = value.shape
            quant = value.quant
            value = self.emit("RESHAPE", [value], shape=(n, 1, length, c))
            value.quant = quant
        return x, value

    def _from_image(self, x: Laid, value: Value) -> Laid:
        if x.rank == 3:
            n, _, length, c = value.shape
            value = self.emit("RESHAPE", [value], shape=(n, length, c))
        return self.laid(value, channels_last(x.rank))

    def _padded(self, value, pads, kernel, stride, dilation, fill=0.0, ceil=False):
        """(value, padding): SAME where that is what `pads` say, else VALID behind a PAD of what is used."""
        need, same = [], True
        for axis, (k, s, e) in enumerate(zip(kernel, stride, dilation)):
            size, (before, after) = value.shape[1 + axis], pads[axis]
            reach = (k - 1) * e + 1
            room = size + before + after - reach
            self.need(room >= 0, "its window is larger than its input")
            n = (-(-room // s) if ceil else room // s) + 1
            if ceil and (n - 1) * s >= size + before:
                n -= 1
            used = max((n - 1) * s + reach - size - before, 0)
            need.append((before, used))
            same &= window(size, k, s, e, "SAME") == (n, before)
        if not any(p for pair in need for p in pair):
            return value, ir.VALID
        if same:
            return value, ir.SAME
        table = np.array([(0, 0), *need, (0, 0)], np.int32)
        self._check_elements([d + int(a + b) for d, (a, b) in zip(value.shape, table)], "padded input")
        quant = value.quant
        if fill:
            value = self.emit("PADV2", [value, self.constant(table), self.constant(np.array([fill]))], label="/padded")
        else:
            value = self.emit("PAD", [value, self.constant(table)], label="/padded")
        value.quant = quant
        return value, ir.VALID

    def _Conv(self, inputs, attributes):
        x, value = self._image(inputs[0])
        w, b = inputs[1], (*inputs, None)[2]
        self.need(isinstance(w, Const), "its weights must be constant")
        self.need(w.data.ndim == x.rank, f"weights have shape {w.shape}")
        n = x.rank - 2
        kernel = list(w.shape[2:])
        stride, dilation = self._spatial(attributes, "strides", n, 1), self._spatial(attributes, "dilations", n, 1)
        pads = self._pads(attributes, x.shape[2:], kernel, stride, dilation)
        if n == 1:
            kernel, stride, dilation, pads = [1, *kernel], [1, *stride], [1, *dilation], [(0, 0), *pads]
        group = int(attributes.get("group", 1))
        cin, cout = x.shape[1], w.shape[0]
        self.need(group >= 1 and w.shape[1] * group == cin and cout % group == 0, f"weights {w.shape}, input {x.shape}")
        value, padding = self._padded(value, pads, kernel, stride, dilation)
        options = {"Padding": padding, "StrideH": stride[0], "StrideW": stride[1], "FusedActivationFunction": 0}
        options |= {"DilationHFactor": dilation[0], "DilationWFactor": dilation[1]}
        if group == cin and group > 1:
            turn = (1, *range(2, w.data.ndim), 0)
            weights = self.weights(w, turn, 3, 0, (1, *kernel, cout))
            y = self.emit(
                "DEPTHWISE_CONV_2D", [value, weights, self.bias(b)], options | {"DepthMultiplier": cout // cin}
            )
        else:
            turn = (0, *range(2, w.data.ndim), 1)
            weights = self.weights(w, turn, 0, 0, (cout, *kernel, w.shape[1]))
            y = self.emit("CONV_2D", [value, weights, self.bias(b)], options)
        return self._from_image(x, y)

    def _ConvTranspose(self, inputs, attributes):
        x, value = self._image(inputs[0])
        w, b = inputs[1], (*inputs, None)[2]
        self.need(isinstance(w, Const) and w.data.ndim == x.rank, "its weights must be constant and fit its input")
        n = x.rank - 2
        kernel = list(w.shape[2:])
        stride, dilation = self._spatial(attributes, "strides", n, 1), self._spatial(attributes, "dilations", n, 1)
        self.need(all(d == 1 for d in dilation), "dilation is not supported: use Resize and Conv")
        self.need(int(attributes.get("group", 1)) == 1, "groups are not supported: use Resize and a grouped Conv")
        self.need("output_shape" not in attributes, "output_shape is not supported: give pads and output_padding")
        extra = [int(v) for v in attributes.get("output_padding", [0] * n)]
        pads = self._pads(attributes, x.shape[2:], kernel, stride, dilation)
        self.need(attributes.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"), "auto_pad: give pads")
        if n == 1:
            kernel, stride, extra, pads = [1, *kernel], [1, *stride], [0, *extra], [(0, 0), *pads]
        self.need(all(0 <= e < s for e, s in zip(extra, stride)), f"output_padding {extra} does not fit")
        weights = self.weights(w, (1, *range(2, w.data.ndim), 0), 0, 1, (w.shape[1], *kernel, w.shape[0]))
        whole = [(d - 1) * s + k for d, s, k in zip(value.shape[1:3], stride, kernel)]
        size = [full - a - c + e for full, (a, c), e in zip(whole, pads, extra)]
        self.need(all(d > 0 for d in size), "its padding leaves nothing")
        same = all(
            window(d, k, s, 1, "SAME") == (i, a)
            for d, k, s, i, (a, _) in zip(size, kernel, stride, value.shape[1:3], pads)
        )
        cut = not same and any(a or c for a, c in pads)
        full = [f + e for f, e in zip(whole, extra)]
        target = size if same or not cut else full
        shape = self.constant(np.array([1, *target, w.shape[1]], np.int32))
        self._check_elements([*target, w.shape[1]], "output")
        options = {"Padding": ir.SAME if same else ir.VALID, "StrideH": stride[0], "StrideW": stride[1]}
        options["FusedActivationFunction"] = 0
        y = self.emit("TRANSPOSE_CONV", [shape, weights, value, self.bias(b)], options)
        if cut:
            y = self._cut(y, [(0, None, 1), *((a, a + d, 1) for (a, _), d in zip(pads, size)), (0, None, 1)])
        return self._from_image(x, y)

    def _MaxPool(self, inputs, attributes):
        return self._pool("MAX_POOL_2D", inputs[0], attributes)

    def _AveragePool(self, inputs, attributes):
        return self._pool("AVERAGE_POOL_2D", inputs[0], attributes)

    def _pool(self, op, x, attributes):
        x, value = self._image(x)
        n = x.rank - 2
        kernel, stride = self._spatial(attributes, "kernel_shape", n, 0), self._spatial(attributes, "strides", n, 1)
        dilation = self._spatial(attributes, "dilations", n, 1)
        self.need(all(d == 1 for d in dilation), "dilation is not supported in pooling")
        pads = self._pads(attributes, x.shape[2:], kernel, stride, dilation)
        if n == 1:
            kernel, stride, pads = [1, *kernel], [1, *stride], [(0, 0), *pads]
        ceil = bool(attributes.get("ceil_mode", 0))
        average = op == "AVERAGE_POOL_2D"
        counted = bool(attributes.get("count_include_pad", 0))
        inside = value
        value, padding = self._padded(value, pads, kernel, stride, (1, 1), 0.0 if average else LOWEST, ceil)
        if average and counted and padding == ir.SAME:  # SAME counts what is inside only
            table = self.constant(np.array([(0, 0), *pads, (0, 0)], np.int32))
            value, padding = self.emit("PAD", [value, table]), ir.VALID
        options = {"Padding": padding, "StrideH": stride[0], "StrideW": stride[1], "FusedActivationFunction": 0}
        y = self.emit(op, [value], options | {"FilterHeight": kernel[0], "FilterWidth": kernel[1]})
        if average and not counted and value is not inside:
            ones = np.pad(np.ones(inside.shape[1:3], np.float32), [(a, b) for a, b in pads])[None, :, :, None]
            share = ir.windows(self.nodes[-1], _at_least(ones, value.shape[1:3]), tuple(kernel), 0).mean((3, 4))
            y = self.emit("MUL", [y, self.constant(1 / share)], FUSED)
        return self._from_image(x, y)

    def _GlobalAveragePool(self, inputs, attributes):
        x = self.tensor(inputs[0])
        return self._mean("MEAN", x, range(2, x.rank), True)

    def _GlobalMaxPool(self, inputs, attributes):
        x, value = self._image(inputs[0])
        h, w = value.shape[1:3]
        options = {"Padding": ir.VALID, "StrideH": 1, "StrideW": 1, "FusedActivationFunction": 0}
        return self._from_image(x, self.emit("MAX_POOL_2D", [value], options | {"FilterHeight": h, "FilterWidth": w}))

    # Products

    def _Gemm(self, inputs, attributes):
        a, b, c = (*inputs, None)[:3]
        alpha, beta = float(attributes.get("alpha", 1)), float(attributes.get("beta", 1))
        if attributes.get("transA", 0):
            a = self._transposed(a, (1, 0))
        if attributes.get("transB", 0):
            b = self._transposed(b, (1, 0))
        self.need(alpha == 1 or not isinstance(b, Const) or b.quant is None, "alpha other than 1 on quantized weights")
        if alpha != 1:
            self.need(isinstance(b, Const), "alpha other than 1 without constant weights")
            b = Const(b.data * np.float32(alpha))
        if c is not None and beta != 1:
            self.need(isinstance(c, Const), "beta other than 1 on an activation")
            c = Const(c.data * np.float32(beta))
        return self._matmul(a, b, c)

    def _MatMul(self, inputs, attributes):
        return self._matmul(inputs[0], inputs[1], None)

    def _transposed(self, x, perm):
        if isinstance(x, Const):
            return _turn_constant(x, perm)
        return self._Transpose([x], {"perm": perm})

    def _matmul(self, a, b, c) -> Laid:
        if isinstance(a, Laid) and isinstance(b, Const) and b.data.ndim == 2:
            last = (*(i for i in a.perm if i != a.rank - 1), a.rank - 1)
            perm = a.perm if a.perm[-1] == a.rank - 1 else last
            x = self.arranged(a, perm)
            self.need(x.shape[-1] == b.shape[0], f"shapes {a.shape} and {b.shape} do not fit")
            w = self.weights(b, (1, 0), 0, 1)
            fused = c is None or (isinstance(c, Const) and c.data.size == b.shape[1] and c.shape[-1:] == b.shape[1:])
            bias = self.bias(c) if fused else None
            options = {"FusedActivationFunction": 0, "WeightsFormat": 0, "KeepNumDims": len(x.shape) != 2}
            y = self.laid(
                self.emit("FULLY_CONNECTED", [x, w, bias], options, (*x.shape[:-1], b.shape[1])),
                perm,
            )
            return y if fused else self.binary("ADD", y, c)
        values = []
        for x in (a, b):
            if isinstance(x, Laid):
                values.append(self.plain(x))
            else:
                quant = x.quant if x.quant is not None and len(x.quant.scales) == 1 else None
                values.append(self.constant(x.data.astype(np.float32), quant))
        self.need(all(len(v.shape) >= 2 for v in values), "a product with a vector: unsqueeze it to a matrix")
        options = {"AdjX": False, "AdjY": False, "AsymmetricQuantizeInputs": False}
        y = self.laid(self.emit("BATCH_MATMUL", values, options))
        return y if c is None else self.binary("ADD", y, c)

    # Elementwise

    def _Add(self, inputs, attributes):
        return self.binary("ADD", *(_unmasked(x) for x in inputs))

    def _Where(self, inputs, attributes):
        choose, a, b = inputs
        self.need(isinstance(choose, Const), "its condition depends on data: use arithmetic, or a constant mask")
        keep = choose.data.astype(bool)
        if isinstance(a, Const):
            a, b, keep = b, a, ~keep
        self.need(isinstance(a, Laid), "a constant where the network's data is expected")
        if isinstance(b, Const) and (b.data < -1e4).all():  # a mask before a softmax
            return self.binary("ADD", a, Const(np.where(keep, 0, MASKED).astype(np.float32)))
        kept = self.binary("MUL", a, Const(keep.astype(np.float32)))
        if isinstance(b, Laid):
            return self.binary("ADD", kept, self.binary("MUL", b, Const((~keep).astype(np.float32))))
        rest = np.where(keep, 0, b.data).astype(np.float32)
        return kept if not rest.any() else self.binary("ADD", kept, Const(rest))

    def _Sub(self, inputs, attributes):
        a, b = inputs
        if isinstance(b, Const) and b.quant is None:
            return self.binary("ADD", a, Const(-b.data))
        return self.binary("SUB", a, b)

    def _Mul(self, inputs, attributes):
        a, b = inputs
        for x, y in ((0, 1), (1, 0)):  # x * HardSigmoid(x)
            made = self.producers.get(self.node.input[y])
            if made is not None and made.op_type == "HardSigmoid" and made.input[0] == self.node.input[x]:
                if _hard_swish_slope(made):
                    return self.unary("HARD_SWISH", inputs[x])
        return self.binary("MUL", a, b)

    def _Div(self, inputs, attributes):
        a, b = inputs
        if isinstance(b, Const) and b.quant is None:
            self.need((b.data != 0).all(), "division by zero")
            return self.binary("MUL", a, Const(1 / b.data.astype(np.float32)))
        made = self.producers.get(self.node.input[1])
        if made is not None and made.op_type == "Sqrt" and isinstance(b, Laid):
            root = self.unary("RSQRT", self.env[made.input[0]])
            return root if _is(a, 1.0) else self.binary("MUL", a, root)
        return self.binary("DIV", a, b)

    def _Pow(self, inputs, attributes):
        x, exponent = self.tensor(inputs[0]), self.number(inputs[1])
        if exponent == 1:
            return x
        if exponent == 2:
            return self.binary("MUL", x, x)
        if exponent == 3:
            return self.binary("MUL", self.binary("MUL", x, x), x)
        ops = {0.5: "SQRT", -0.5: "RSQRT"}
        self.need(exponent in ops, f"exponent {exponent}: only -0.5, 0.5, 1, 2 and 3 are supported")
        return self.unary(ops[exponent], x)

    def _Max(self, inputs, attributes):
        y = inputs[0]
        for x in inputs[1:]:
            y = self.unary("RELU", y) if isinstance(y, Laid) and _is(x, 0.0) else self.binary("MAXIMUM", y, x)
        return y

    def _Min(self, inputs, attributes):
        y = inputs[0]
        for x in inputs[1:]:
            y = self.binary("MINIMUM", y, x)
        return y

    def _Reciprocal(self, inputs, attributes):
        made = self.producers.get(self.node.input[0])
        self.need(made is not None and made.op_type == "Sqrt", "only of a square root")
        assert made is not None
        return self.unary("RSQRT", self.env[made.input[0]])

    def _Relu(self, inputs, attributes):
        return self.unary("RELU", inputs[0])

    def _Sigmoid(self, inputs, attributes):
        return self.unary("LOGISTIC", inputs[0])

    def _Tanh(self, inputs, attributes):
        return self.unary("TANH", inputs[0])

    def _Elu(self, inputs, attributes):
        self.need(float(attributes.get("alpha", 1)) == 1, "alpha other than 1")
        return self.unary("ELU", inputs[0])

    def _HardSwish(self, inputs, attributes):
        return self.unary("HARD_SWISH", inputs[0])

    def _Gelu(self, inputs, attributes):
        return self.unary("GELU", inputs[0], {"Approximate": attributes.get("approximate", b"none") == b"tanh"})

    def _Neg(self, inputs, attributes):
        return self.binary("MUL", inputs[0], Const(np.array(-1, np.float32)))

    def _Abs(self, inputs, attributes):
        return self.unary("ABS", inputs[0])

    def _Sqrt(self, inputs, attributes):
        return self.unary("SQRT", inputs[0])

    def _Exp(self, inputs, attributes):
        return self.unary("EXP", inputs[0])

    def _Log(self, inputs, attributes):
        return self.unary("LOG", inputs[0])

    def _LeakyRelu(self, inputs, attributes):
        return self.unary("LEAKY_RELU", inputs[0], {"Alpha": float(attributes.get("alpha", 0.01))})

    def _PRelu(self, inputs, attributes):
        x, a = self.tensor(inputs[0]), inputs[1]
        self.need(isinstance(a, Const), "its slope must be constant")
        if a.data.size == 1:
            return self.unary("LEAKY_RELU", x, {"Alpha": float(a.data.reshape(-1)[0])})
        x_value, slope, perm = self.broadcast(x, a)
        if slope.shape[0] == 1 and slope.quant is None:  # PRELU's slope has no batch
            slope = self.constant(slope.values[0])
        return self.laid(self.emit("PRELU", [x_value, slope]), perm)

    def _Clip(self, inputs, attributes):
        x, low, high = (*inputs, None, None)[:3]
        a = self.number(low, float(attributes.get("min", -np.inf)))
        b = self.number(high, float(attributes.get("max", np.inf)))
        ops = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
        if (a, b) in ops:
            return self.unary(ops[a, b], x)
        if a == 0:
            x = self.unary("RELU", x)
        elif a > LOWEST:
            x = self.binary("MAXIMUM", x, Const(np.array(a, np.float32)))
        return self.binary("MINIMUM", x, Const(np.array(b, np.float32))) if b < -LOWEST else x

    def _HardSigmoid(self, inputs, attributes):
        alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
        y = self.binary(
            "ADD",
            self.binary("MUL", inputs[0], Const(np.array(6 * alpha, np.float32))),
            Const(np.array(6 * beta, np.float32)),
        )
        return self.binary("MUL", self.unary("RELU6", y), Const(np.array(1 / 6, np.float32)))

    def _Identity(self, inputs, attributes):
        return inputs[0]

    def _Dropout(self, inputs, attributes):
        return inputs[0]

    def _Cast(self, inputs, attributes):
        types = onnx.TensorProto
        self.need(attributes["to"] in (types.FLOAT, types.FLOAT16, types.DOUBLE), "only between float types")
        return inputs[0]

    def _Softmax(self, inputs, attributes):
        x = self.tensor(inputs[0])
        if self.opset < 13:  # the axes from `axis` on are one
            axis = attributes.get("axis", 1) % x.rank
            self.need(all(d == 1 for d in x.shape[axis + 1 :]), "several axes at once: export with opset 13 or newer")
        axis = attributes.get("axis", -1 if self.opset >= 13 else 1) % x.rank
        perm = (*(a for a in x.perm if a != axis), axis)
        return self.laid(self.emit("SOFTMAX", [self.arranged(x, perm)], {"Beta": 1.0}), perm)

    # Norms

    def _BatchNormalization(self, inputs, attributes):
        x = self.tensor(inputs[0])
        self.need(not attributes.get("training_mode", 0), "in training mode: export the network in eval mode")
        self.need(all(isinstance(i, Const) for i in inputs[1:5]), "its parameters must be constant")
        gamma, beta, mean, variance = (i.data.astype(np.float64) for i in inputs[1:5])
        factor = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        shape = [-1 if i == 1 else 1 for i in range(x.rank)]
        y = self.binary("MUL", x, Const(factor.astype(np.float32).reshape(shape)))
        return self.binary("ADD", y, Const((beta - mean * factor).astype(np.float32).reshape(shape)))

    def _LayerNormalization(self, inputs, attributes):
        x, gamma, beta = (*inputs, None)[:3]
        x = self.tensor(x)
        axis = attributes.get("axis", -1) % x.rank
        y = self._norm(x, range(axis, x.rank), attributes.get("epsilon", 1e-5))
        if gamma is not None and not _is(gamma, 1.0):
            y = self.binary("MUL", y, gamma)
        return y if beta is None or _is(beta, 0.0) else self.binary("ADD", y, beta)

    def _InstanceNormalization(self, inputs, attributes):
        x, gamma, beta = inputs
        x = self.tensor(x)
        shape = [-1 if i == 1 else 1 for i in range(x.rank)]
        y = self._norm(x, range(2, x.rank), attributes.get("epsilon", 1e-5))
        for op, c in (("MUL", gamma), ("ADD", beta)):
            self.need(isinstance(c, Const), "its parameters must be constant")
            y = self.binary(op, y, Const(c.data.reshape(shape)))
        return y

    def _norm(self, x: Laid, axes, epsilon) -> Laid:
        """(x - mean) / sqrt(variance + epsilon) over `axes`."""
        axes = list(axes)
        mean = self._mean("MEAN", x, axes, True)
        centred = self.binary("SUB", x, mean)
        square = self.binary("SQUARED_DIFFERENCE", x, mean)
        variance = self._mean("MEAN", square, axes, True)
        root = self.unary("RSQRT", self.binary("ADD", variance, Const(np.array(epsilon, np.float32))))
        return self.binary("MUL", centred, root)

    # Shapes

    def _Transpose(self, inputs, attributes):
        x = self.tensor(inputs[0])
        perm = [int(a) for a in attributes.get("perm", range(x.rank)[::-1])]
        self.need(sorted(perm) == list(range(x.rank)), f"{perm} is not a permutation")
        shape = tuple(x.shape[a] for a in perm)
        return Laid(x.value, shape, tuple(perm.index(a) for a in x.perm))

    def _reshape_target(self, old, wanted, allow_zero) -> tuple[int, ...]:
        shape = [int(d) for d in wanted.reshape(-1)]
        self.need(len(shape) <= MAX_RANK, f"{len(shape)} axes, at most {MAX_RANK} are supported")
        if not allow_zero:
            shape = [old[i] if d == 0 else d for i, d in enumerate(shape)]
        if -1 in shape:
            rest = math.prod(d for d in shape if d != -1)
            self.need(rest > 0 and math.prod(old) % rest == 0, f"{old} does not fit {shape}")
            shape[shape.index(-1)] = math.prod(old) // rest
        self.need(all(d > 0 for d in shape) and math.prod(shape) == math.prod(old), f"{old} does not fit {shape}")
        return tuple(shape)

    def _Reshape(self, inputs, attributes):
        x = self.tensor(inputs[0])
        self.need(isinstance(inputs[1], Const), "its shape must be constant: export with fixed sizes")
        return self.reshaped(x, self._reshape_target(x.shape, inputs[1].data, attributes.get("allowzero", 0)))

    def _Flatten(self, inputs, attributes):
        x = self.tensor(inputs[0])
        axis = attributes.get("axis", 1)
        axis = axis + x.rank if axis < 0 else axis
        return self.reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))

    def _axes(self, inputs, attributes, rank, default=None) -> list[int]:
        if len(inputs) > 1 and inputs[1] is not None:
            axes = self.integers(inputs[1], "the list of axes")
        else:
            axes = [int(a) for a in attributes.get("axes", default if default is not None else [])]
        self.need(all(-rank <= a < rank for a in axes), f"axes {axes} are outside {rank}")
        return sorted({a % rank for a in axes})

    def _Squeeze(self, inputs, attributes):
        x = self.tensor(inputs[0])
        axes = self._axes(inputs, attributes, x.rank, [a for a in range(x.rank) if x.shape[a] == 1])
        self.need(all(x.shape[a] == 1 for a in axes), f"axes {axes} of {x.shape} are not all 1")
        return self.reshaped(x, tuple(d for a, d in enumerate(x.shape) if a not in axes))

    def _Unsqueeze(self, inputs, attributes):
        x = self.tensor(inputs[0])
        count = len(self.integers(inputs[1], "axes")) if len(inputs) > 1 else len(attributes["axes"])
        self.need(x.rank + count <= MAX_RANK, f"{x.rank + count} axes, at most {MAX_RANK} are supported")
        axes = self._axes(inputs, attributes, x.rank + count)
        rest = iter(x.shape)
        return self.reshaped(x, tuple(1 if a in axes else next(rest) for a in range(x.rank + count)))

    def _mean(self, op, x: Laid, axes, keep) -> Laid:
        axes = sorted(axes)
        where = sorted(x.perm.index(a) for a in axes)
        table = self.constant(np.array(where, np.int32))
        y = self.emit(op, [x.value, table], {"KeepDims": bool(keep)})
        if keep:
            return self.laid(y, x.perm)
        left = [a for a in range(x.rank) if a not in axes]
        return self.laid(y, [left.index(a) for a in x.perm if a not in axes])

    def _reduce(self, op, inputs, attributes):
        x = self.tensor(inputs[0])
        axes = self._axes(inputs, attributes, x.rank)
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return x
            axes = list(range(x.rank))
        return self._mean(op, x, axes, attributes.get("keepdims", 1))

    def _ReduceMean(self, inputs, attributes):
        return self._reduce("MEAN", inputs, attributes)

    def _ReduceSum(self, inputs, attributes):
        return self._reduce("SUM", inputs, attributes)

    def _ReduceMax(self, inputs, attributes):
        return self._reduce("REDUCE_MAX", inputs, attributes)

    def _Concat(self, inputs, attributes):
        first = next(x for x in inputs if isinstance(x, Laid))
        axis = attributes["axis"] % first.rank
        self.need(all(len(x.shape) == first.rank for x in inputs), "its inputs have different numbers of axes")
        perm = first.perm
        values = []
        for x in inputs:
            if isinstance(x, Laid):
                values.append(self.arranged(x, perm))
            else:
                values.append(self.constant(x.data.astype(np.float32).transpose(perm)))
        options = {"Axis": perm.index(axis), "FusedActivationFunction": 0}
        return self.laid(self.emit("CONCATENATION", values, options), perm)

    def _cut(self, value: Value, parts, label="") -> Value:
        """Part of a value: (begin, end or None, step) for each of its axes."""
        begin, end, step, open_end = [], [], [], 0
        for i, (b, e, s) in enumerate(parts):
            begin.append(b)
            end.append(0 if e is None else e)
            step.append(s)
            open_end |= (e is None) << i
        options = ir.CUT | {"EndMask": open_end}
        tables = [self.constant(np.array(v, np.int32)) for v in (begin, end, step)]
        y = self.emit("STRIDED_SLICE", [value, *tables], options, label=label)
        y.quant = value.quant
        return y

    def _cut_axis(self, x: Laid, axis, begin, end, step=1) -> Laid:
        parts = [(begin, end, step) if a == axis else (0, None, 1) for a in x.perm]
        return self.laid(self._cut(x.value, parts), x.perm)

    def _Split(self, inputs, attributes):
        x = self.tensor(inputs[0])
        axis = attributes.get("axis", 0) % x.rank
        count = len(self.node.output)
        if len(inputs) > 1 and inputs[1] is not None:
            sizes = self.integers(inputs[1], "the sizes")
        elif "split" in attributes:
            sizes = [int(v) for v in attributes["split"]]
        else:
            part = -(-x.shape[axis] // count)
            sizes = [min(part, x.shape[axis] - i * part) for i in range(count)]
        self.need(len(sizes) == count and sum(sizes) == x.shape[axis] and min(sizes) > 0, f"sizes {sizes} do not fit")
        ends = np.cumsum(sizes)
        return tuple(self._cut_axis(x, axis, int(e - n), int(e)) for n, e in zip(sizes, ends))

    def _Slice(self, inputs, attributes):
        x = self.tensor(inputs[0])
        if len(inputs) > 1:
            starts, ends = self.integers(inputs[1], "starts"), self.integers(inputs[2], "ends")
            axes = self.integers(inputs[3], "axes") if len(inputs) > 3 and inputs[3] else list(range(len(starts)))
            steps = self.integers(inputs[4], "steps") if len(inputs) > 4 and inputs[4] else [1] * len(starts)
        else:
            starts, ends = list(attributes["starts"]), list(attributes["ends"])
            axes, steps = list(attributes.get("axes", range(len(starts)))), [1] * len(starts)
        self.need(len(starts) == len(ends) == len(axes) == len(steps) and all(steps), "its lists do not fit together")
        cuts: dict[int, tuple[int, int | None, int]] = {}
        for a, b, e, s in zip(axes, starts, ends, steps):
            a %= x.rank
            r = range(*slice(b, e, s).indices(x.shape[a]))
            self.need(len(r) > 0, "nothing is left of its input")
            if r.stop < 0 or r.stop >= x.shape[a]:
                cuts[a] = (r.start, None, s)
            else:
                cuts[a] = (r.start, r.stop, s)
        parts = [cuts.get(a, (0, None, 1)) for a in x.perm]
        if all(p == (0, None, 1) for p in parts):
            return x
        return self.laid(self._cut(x.value, parts), x.perm)

    def _Gather(self, inputs, attributes):
        x, index = inputs
        self.need(isinstance(x, Laid), "its indices are data: for embeddings, cut the network behind them")
        values = self.integers(index, "its indices")
        axis = attributes.get("axis", 0) % x.rank
        size = x.shape[axis]
        self.need(values and all(-size <= v < size for v in values), "an index is outside its input")
        values = [v % size for v in values]
        steps = {b - a for a, b in zip(values, values[1:])}
        self.need(len(steps) <= 1 and 0 not in steps, "its indices are not evenly spaced: use Slice and Concat")
        step = steps.pop() if steps else 1
        end = values[-1] + (1 if step > 0 else -1)
        y = self._cut_axis(x, axis, values[0], None if end < 0 or end >= size else end, step)
        shape = list(y.shape)
        shape[axis : axis + 1] = index.shape
        return self.reshaped(y, tuple(shape))

    def _Expand(self, inputs, attributes):
        x = self.tensor(inputs[0])
        shape = np.broadcast_shapes(x.shape, tuple(self.integers(inputs[1], "its shape")))
        self._check_elements(shape, "output")
        if shape == x.shape:
            return x
        return self.binary("MUL", x, Const(np.ones(shape, np.float32)))

    def _Pad(self, inputs, attributes):
        x = self.tensor(inputs[0])
        pads = self.integers(inputs[1], "pads") if len(inputs) > 1 else [int(p) for p in attributes["pads"]]
        axes = self.integers(inputs[3], "axes") if len(inputs) > 3 and inputs[3] is not None else list(range(x.rank))
        mode = attributes.get("mode", b"constant").decode()
        self.need(len(pads) == 2 * len(axes), "its pads do not fit its input")
        self.need(all(0 <= p <= MAX_PADDING for p in pads), "negative or damaged pads: use Slice to cut")
        both = {a % x.rank: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
        fill = self.number(inputs[2] if len(inputs) > 2 else None, float(attributes.get("value", 0.0)))
        if not any(p for pair in both.values() for p in pair):
            return x
        self._check_elements([d + sum(both.get(a, (0, 0))) for a, d in enumerate(x.shape)], "output")
        table = self.constant(np.array([both.get(a, (0, 0)) for a in x.perm], np.int32))
        if mode == "constant" and fill == 0:
            y = self.emit("PAD", [x.value, table])
        elif mode == "constant":
            y = self.emit("PADV2", [x.value, table, self.constant(np.array([max(fill, LOWEST)], np.float32))])
        else:
            self.need(mode == "reflect", f"mode {mode!r}: constant and reflect are supported")
            y = self.emit("MIRROR_PAD", [x.value, table], {"Mode": 0})
        return self.like(x, y)

    def _DepthToSpace(self, inputs, attributes):
        x, value = self._image(inputs[0])
        k = int(attributes["blocksize"])
        if attributes.get("mode", b"DCR") == b"CRD" and x.shape[1] != k * k:  # PixelShuffle's order of channels
            n, h, w, c = value.shape
            split = self.emit("RESHAPE", [value], shape=(n, h * w, c // (k * k), k * k))
            turned = self.emit("TRANSPOSE", [split, self.constant(np.array([0, 1, 3, 2], np.int32))])
            value = self.emit("RESHAPE", [turned], shape=(n, h, w, c))
        return self._from_image(x, self.emit("DEPTH_TO_SPACE", [value], {"BlockSize": k}))

    def _SpaceToDepth(self, inputs, attributes):
        x, value = self._image(inputs[0])
        return self._from_image(x, self.emit("SPACE_TO_DEPTH", [value], {"BlockSize": int(attributes["blocksize"])}))

    def _Upsample(self, inputs, attributes):
        return self._Resize(
            [inputs[0], None, inputs[1]], attributes | {"coordinate_transformation_mode": b"asymmetric"}
        )

    def _Resize(self, inputs, attributes):
        x = self.tensor(inputs[0])
        self.need(x.rank == 4, f"its input has {x.rank} axes, 4 are supported")
        scales, sizes = ((*inputs, None, None)[2:4]) if len(inputs) > 2 else (None, None)
        self.need("axes" not in attributes, "axes are not supported: give scales or sizes of all")
        if sizes is not None and getattr(sizes, "data", np.zeros(0)).size:
            size = self.integers(sizes, "sizes")
        else:
            self.need(isinstance(scales, Const) and scales.data.size == 4, "its scales must be four constants")
            size = [math.floor(d * float(s)) for d, s in zip(x.shape, scales.data)]
        self.need(len(size) == 4 and tuple(size[:2]) == x.shape[:2] and min(size) > 0, f"size {size} of {x.shape}")
        self._check_elements(size, "output")
        mode = attributes.get("mode", b"nearest").decode()
        where = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
        known = {"half_pixel": (False, True), "pytorch_half_pixel": (False, True), "align_corners": (True, False)}
        known["asymmetric"] = (False, False)
        self.need(where in known, f"coordinates {where!r}: use half_pixel, align_corners or asymmetric")
        corners, half = known[where]
        table = self.constant(np.array(size[2:], np.int32))
        value = self.arranged(x, channels_last(4))
        if mode == "linear":
            options = {"AlignCorners": corners, "HalfPixelCenters": half}
            return self.laid(self.emit("RESIZE_BILINEAR", [value, table], options), channels_last(4))
        self.need(mode == "nearest", f"mode {mode!r}: nearest and linear are supported")
        wanted = [_nearest_index(d, n, where, attributes) for d, n in zip(x.shape[2:], size[2:])]
        for corners, half in ((False, False), (False, True), (True, False)):
            options = {"AlignCorners": corners, "HalfPixelCenters": half}
            probe = Node("RESIZE_NEAREST_NEIGHBOR", [], [], options)
            ramp = np.arange(x.shape[2])[:, None] * 65536 + np.arange(x.shape[3])[None]
            found = ir.run_node(probe, [ramp.astype(np.float64)[None, :, :, None], np.array(size[2:])])[0, :, :, 0]
            if np.array_equal(found, (wanted[0][:, None] * 65536 + wanted[1][None]).astype(np.float32)):
                y = self.emit("RESIZE_NEAREST_NEIGHBOR", [value, table], options)
                return self.laid(y, channels_last(4))
        raise self.error("its rounding is none of TensorFlow Lite's: use asymmetric coordinates with floor")

    # Sequences

    def _LSTM(self, inputs, attributes):
        x, w, r, b, lengths, h0, c0, peephole = (*inputs, *[None] * 8)[:8]
        x = self.tensor(x)
        self.need(attributes.get("layout", 0) == 0 or x.rank == 3, "layout 1: export with layout 0")
        self.need(peephole is None, "peepholes are not supported")
        self.need(lengths is None or self._whole(lengths, x.shape[0]), "sequence lengths are not supported")
        self.need(_zero(h0) and _zero(c0), "an initial state other than 0 is not supported")
        self.need(not attributes.get("input_forget", 0), "input_forget is not supported")
        functions = [f.decode().lower() for f in attributes.get("activations", [])]
        self.need(functions in ([], ["sigmoid", "tanh", "tanh"], ["sigmoid", "tanh", "tanh"] * 2), f"{functions}")
        self._one_output(("Y_c", 2))

        def run(sequence, d):
            hidden = r.shape[2]
            order = (0, 2, 3, 1)  # i o f c, and TFLite's i f c o
            part = [slice(k * hidden, (k + 1) * hidden) for k in order]
            biases: list[Value | None] = [None] * 4
            if b is not None:
                both = b.data[d].astype(np.float32).reshape(2, -1).sum(0)
                biases = [self.constant(both[p]) for p in part]
            ws = [self.constant(w.data[d][p].astype(np.float32)) for p in part]
            rs = [self.constant(r.data[d][p].astype(np.float32)) for p in part]
            operands = [sequence, *ws, *rs, *[None] * 3, *biases]
            options = {"FusedActivationFunction": ir.TANH, "CellClip": float(attributes.get("clip", 0.0))}
            options |= {"ProjClip": 0.0, "TimeMajor": False, "AsymmetricQuantizeInputs": False}
            return self.emit("UNIDIRECTIONAL_SEQUENCE_LSTM", operands, options)

        return self._recurrent(x, w, r, b, attributes, 4, run)

    def _GRU(self, inputs, attributes):
        x, w, r, b, lengths, h0 = (*inputs, *[None] * 6)[:6]
        x = self.tensor(x)
        self.need(lengths is None or self._whole(lengths, x.shape[0]), "sequence lengths are not supported")
        self.need(_zero(h0), "an initial state other than 0 is not supported")
        functions = [f.decode().lower() for f in attributes.get("activations", [])]
        self.need(functions in ([], ["sigmoid", "tanh"], ["sigmoid", "tanh"] * 2), f"activations {functions}")
        after = attributes.get("linear_before_reset", 0) == 1

        def run(sequence, d):
            steps = sequence.shape[1]
            self.need(steps <= MAX_STEPS, f"{steps} steps: a GRU is unrolled, at most {MAX_STEPS} steps")
            bias = np.zeros((2, 3 * r.shape[2])) if b is None else b.data[d].reshape(2, -1)
            name = f"{self.node.output[0] or self.node.output[1]}/{d}"
            nodes, y = gru(sequence, w.data[d], r.data[d], bias, after, name, f"{self.node.name or name} (GRU)")
            self.nodes += nodes
            return y

        return self._recurrent(x, w, r, b, attributes, 3, run)

    def _one_output(self, *refused):
        for name, place in refused:
            outputs = self.node.output
            if len(outputs) > place and outputs[place] and self.uses[outputs[place]]:
                raise self.error(f"its output {name} is used: only the hidden states are supported")

    def _whole(self, lengths, steps):
        return isinstance(lengths, Const) and (lengths.data == steps).all()

    def _recurrent(self, x: Laid, w, r, b, attributes, gates, run):
        """(Y, Y_h) of a recurrent layer; run(sequence (B, T, I), direction) gives (B, T, H)."""
        self.need(
            all(isinstance(v, Const) for v in (w, r)) and (b is None or isinstance(b, Const)),
            "weights must be constant",
        )
        self.need(x.rank == 3 and w.data.ndim == 3 and r.data.ndim == 3, "its input must have 3 axes")
        direction = attributes.get("direction", b"forward").decode()
        ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        self.need(direction in ways and w.shape[0] == r.shape[0] == len(ways[direction]), f"direction {direction!r}")
        n = r.shape[2]
        self.need(w.shape[1] == gates * n and r.shape[1] == gates * n, f"weights {w.shape} and {r.shape} do not fit")
        batch_first = attributes.get("layout", 0) == 1
        perm = (0, 1, 2) if batch_first else (1, 0, 2)
        sequence = self.arranged(x, perm)
        self.need(sequence.shape[0] == 1, f"batch is {sequence.shape[0]}: export with batch 1")
        self.need(w.shape[2] == sequence.shape[2], f"weights {w.shape} for {sequence.shape[2]} inputs")
        outs, lasts = [], []
        for d, reverse in enumerate(ways[direction]):
            length = sequence.shape[1]
            given = self._cut(sequence, [(0, None, 1), (length - 1, None, -1), (0, None, 1)]) if reverse else sequence
            y = run(given, d)
            lasts.append(self._cut(y, [(0, None, 1), (length - 1, length, 1), (0, None, 1)], "/last"))
            outs.append(self._cut(y, [(0, None, 1), (length - 1, None, -1), (0, None, 1)]) if reverse else y)
        both = len(outs) > 1
        options = {"Axis": 0, "FusedActivationFunction": 0}
        stack = self.emit("CONCATENATION", outs, options) if both else outs[0]  # (D, T, H), the batch being 1
        last = self.emit("CONCATENATION", lasts, options) if both else lasts[0]  # (D, 1, H)
        d, t = stack.shape[:2]
        whole = self.emit("RESHAPE", [stack], shape=(d, 1, t, n))
        # in the source (T, D, B, H), or with the batch first (B, T, D, H)
        y_whole = self.laid(whole, (2, 0, 1, 3) if batch_first else (1, 2, 0, 3))
        y_last = self.laid(last, (1, 0, 2) if batch_first else (0, 1, 2))
        return y_whole, y_last

    # Patterns

    def _find_gelus(self) -> dict:
        """GELU written out with Erf: {index of the last node: a Gelu node}; the nodes it stands for are skipped.

        A QDQ file may have its scales between them: the operator has the last one's.
        """
        nodes = list(self.graph.node)
        index = {id(n): i for i, n in enumerate(nodes)}
        users: dict[str, list] = {}
        for n in nodes:
            for i in n.input:
                users.setdefault(i, []).append(n)
        outs = {o.name for o in self.graph.output}

        def plain(name):
            """The value before it was quantized."""
            made = self.producers.get(name)
            quantizer = made and self.producers.get(made.input[0]) if made and made.op_type == QDQ[1] else None
            return plain(quantizer.input[0]) if quantizer is not None and quantizer.op_type == QDQ[0] else name

        def scalar(name):
            made = self.producers.get(plain(name))
            if made is not None and made.op_type == "DequantizeLinear":
                q, scale, zero = (self.env.get(i) for i in (*made.input, "")[:3])
                if not (isinstance(q, Const) and isinstance(scale, Const) and q.data.size == scale.data.size == 1):
                    return None
                offset = float(zero.data.reshape(-1)[0]) if isinstance(zero, Const) else 0.0
                return (float(q.data.reshape(-1)[0]) - offset) * float(scale.data.reshape(-1)[0])
            name = plain(name)
            c = self.env.get(name)
            if c is None:
                made = self.producers.get(name)
                if made is None or made.op_type != "Constant":
                    return None
                c = Const(_plain(_constant({a.name: helper.get_attribute_value(a) for a in made.attribute})))
            return float(c.data.reshape(-1)[0]) if isinstance(c, Const) and c.data.size == 1 else None

        def only(name):
            """The one node that reads a value, and what it calls it."""
            found = users.get(name, [])
            if len(found) != 1 or name in outs:
                return None, name
            if found[0].op_type not in QDQ:
                return found[0], name
            between.append(found[0])
            return only(found[0].output[0])

        def other(node, name):
            rest = [i for i in node.input if i != name]
            return rest[0] if len(rest) == 1 else None

        def near(value, wanted):  # int8 constants of a QDQ file are not quite what they were
            return value is not None and abs(value - wanted) < 0.01 * wanted

        found = {}
        for erf in nodes:
            if erf.op_type != "Erf" or len(erf.input) != 1:
                continue
            between: list = []
            inner = self.producers.get(plain(erf.input[0]))
            if inner is None or inner.op_type not in ("Div", "Mul") or len(inner.input) != 2:
                continue
            x, factor = inner.input[0], scalar(inner.input[1])
            if factor is None and inner.op_type == "Mul":
                x, factor = inner.input[1], scalar(inner.input[0])
            add, current = only(erf.output[0])
            if not near(factor, math.sqrt(2) if inner.op_type == "Div" else math.sqrt(0.5)):
                continue
            if add is None or add.op_type != "Add" or not near(scalar(other(add, current) or ""), 1):
                continue
            chain, current, seen_x, seen_half = [erf, add], add.output[0], False, False
            while not (seen_x and seen_half):
                nxt, current = only(current)
                if nxt is None or nxt.op_type not in ("Mul", "Div"):
                    break
                rest = other(nxt, current)
                if rest is None:
                    break
                value = scalar(rest)
                half = self.producers.get(plain(rest))
                if near(value, 0.5 if nxt.op_type == "Mul" else 2):
                    seen_half = True
                elif plain(rest) == plain(x) and nxt.op_type == "Mul":
                    seen_x = True
                elif (
                    half is not None
                    and half.op_type == "Mul"
                    and nxt.op_type == "Mul"
                    and any(plain(i) == plain(x) and near(scalar(other(half, i) or ""), 0.5) for i in half.input)
                ):
                    seen_x = seen_half = True
                    if only(half.output[0])[0] is nxt:
                        chain.append(half)
                else:
                    break
                chain.append(nxt)
                current = nxt.output[0]
            if not (seen_x and seen_half):
                continue
            last = chain[-1]
            if only(inner.output[0])[0] is erf:
                chain.append(inner)
            chain += between
            self.skipped |= {index[id(n)] for n in chain if n is not last}
            found[index[id(last)]] = helper.make_node("Gelu", [x], list(last.output), name=last.name)
        return found


QDQ = ("QuantizeLinear", "DequantizeLinear")
FUSED = {"FusedActivationFunction": 0}


def _plain(a: np.ndarray) -> np.ndarray:
    """float16, bfloat16 and double as float32; integers and booleans as they are."""
    a = np.asarray(a)
    return a.astype(np.float32) if a.dtype.kind not in "iub" else a


def _constant(attributes: dict) -> np.ndarray:
    """What a Constant node holds."""
    for key, value in attributes.items():
        if key == "value":
            return numpy_helper.to_array(value)
        if key in ("value_float", "value_floats"):
            return np.array(value, np.float32)
        if key in ("value_int", "value_ints"):
            return np.array(value, np.int64)
    raise ValueError("a constant without a value")


def _attribute(node, name, default):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _turn_constant(x: Const, perm) -> Const:
    perm = [int(a) for a in perm]
    q = x.quant
    if q is not None and q.stored is not None:
        axis = perm.index(q.axis) if len(q.scales) > 1 else 0
        q = Quant(q.scales, q.zero_points, axis, q.stored.transpose(perm))
    return Const(x.data.transpose(perm), q)


def _unmasked(x):
    """A constant whose lowest values stand for minus infinity, with MASKED in their place."""
    if isinstance(x, Const) and x.quant is None and x.data.dtype.kind == "f" and (x.data < -1e4).any():
        return Const(np.where(x.data < -1e4, MASKED, x.data))
    return x


def _is(x, value: float) -> bool:
    """x is a constant that is `value` everywhere."""
    return isinstance(x, Const) and bool(x.data.size) and bool((x.data == value).all())


def _zero(x) -> bool:
    return x is None or _is(x, 0.0)


def _at_least(ones, size):
    """A map of what is inside, enlarged by zeros to `size`."""
    more = [max(n - d, 0) for n, d in zip(size, ones.shape[1:3])]
    return np.pad(ones, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)))[:, : size[0], : size[1]]


def _hard_swish_slope(node) -> bool:
    alpha, beta = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
    return abs(alpha - 1 / 6) < 1e-4 and abs(beta - 0.5) < 1e-4


def _nearest_index(old, new, where, attributes) -> np.ndarray:
    """ONNX's source index of each of `new` places."""
    i = np.arange(new, dtype=np.float64)
    if where == "align_corners":
        place = i * (old - 1) / max(new - 1, 1)
    elif where == "asymmetric":
        place = i * old / new
    else:
        place = (i + 0.5) * old / new - 0.5
        if where == "pytorch_half_pixel" and new == 1:
            place = np.zeros(1)
    rounding = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    functions: dict[str, Callable] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    return np.clip(functions[rounding](place), 0, old - 1).astype(np.int64)


KNOWN = ", ".join(sorted(n[1:] for n in vars(_Reader) if n[0] == "_" and n[1:2].isupper()))

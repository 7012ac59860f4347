"""Differential fuzzing: random int8 graphs on TensorFlow Lite Micro, the golden model and the accelerator.

    python -m lepton.verif.random.graphs --count 2000 --seed 1
    python -m lepton.verif.random.graphs --count 100 --seed 1 --backend rtl
    python -m lepton.verif.random.graphs --count 1000 --seed 1 --memory [--backend rtl]

`graph(seed)` gives the bytes of a .tflite file, the same for the same seed; `run_graph` compares what everybody
computes, byte for byte, and on the RTL the cycles. A graph that fails is made smaller as long as it fails, and is kept
in `build/fuzz`.

Configurations: golden and ISS take for 40 % of the seeds one of CONFIGS (the presets, odd shapes, paired PEs, with
memories of their own or roomy ones), else an array of random shape whose memories are as large as the model needs, so
that weights stream from a ring of random size. The RTL takes `small` and `tiny` with a ring in turn, because each other
shape is a build; half of its seeds (2 and 3 of 4) have all weights in external memory, the others are held to the cycle
model.
With `--memory` there is a memory port, and 1 to 4 KB of activations, so tensors, tiles and parameters pass through:
on golden and ISS arrays of random shape, on the RTL MEMORY_CONFIGS in turn, with a memory of random pace. Half of these
seeds (2 and 3 of 4) have refresh and stalls, too, the others are held to the cycle model's bound (`BOUND`).
"Too large" counts graphs that truly do not fit a preset; any other refusal is a mismatch.
"""

import argparse
import secrets
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lepton.rtl.spec.config import PRESETS, NpuConfig
from lepton.rtl.spec.isa import PARAM_BYTES, Region, word_bytes
from lepton.rtl.spec.timing import MEMORY_BURST, Memory
from lepton.sw.compiler import CompileError, Compiler, FitError, NpuStep, compile_model
from lepton.sw.compiler.program import until_settled
from lepton.sw.graph.model import ModelError, window
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import arith, quantities
from lepton.sw.reference.iss import IssError
from lepton.sw.reference.kernels.lstm import lstm_parameters
from lepton.sw.reference.kernels.matmul import matmul_parameters
from lepton.sw.reference.kernels.svdf import svdf_parameters
from lepton.sw.session import DeviceEngine, IssEngine, Session
from lepton.verif.random.stateful import LSTM, Invalid, Stateful
from lepton.verif.random.stateful import need as _need
from lepton.verif.random.stateful import random_nodes as stateful_nodes
from lepton.verif.random.tflite_builder import build

ARENA_BYTES = 8 << 20
FOLDER = Path("build/fuzz")


class Mismatch(AssertionError):
    """Two implementations disagree, or one refuses a graph it must run; one line."""


# --- Graphs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """One operator. inputs: values it reads (0: the graph's input, i + 1: node i); seed: of its constants.

    Three are none of TFLite's: INPUT is a further input of the graph (its size in `shape`), DELAY a variable that gives
    the value of the inference before, STREAM one that keeps the last rows (`stateful.Stateful`).
    """

    op: str
    inputs: tuple[int, ...]
    attrs: dict = field(default_factory=dict)
    seed: int = 0
    quant: tuple[float, int] | None = None
    """Scale (of a linear operator: relative to its natural one) and zero point; None: as the first input."""


@dataclass(frozen=True)
class Graph:
    """A graph before its shapes are known: the first input's shape and quantization, nodes; the last is an output."""

    shape: tuple[int, ...]
    quant: tuple[float, int]
    nodes: tuple[Node, ...]
    outputs: tuple[int, ...] = ()
    """Values that are outputs besides the last."""
    ends: tuple[str, str] = ("int8", "int8")
    """Types of the first input and of the outputs; other than int8 with QUANTIZE or DEQUANTIZE beside them."""

    def to_bytes(self) -> bytes:
        """The .tflite file. Raises Invalid."""
        return _Writer(self).data()

    def __str__(self):
        return f"{'x'.join(map(str, self.shape))} -> " + ", ".join(f"{n.op}{list(n.inputs)}" for n in self.nodes)


FIXED = {"LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128), "TANH": (1 / 128, 0)}
FIXED |= {"L2_NORMALIZATION": (1 / 128, 0)}
SAME_QUANT = """
AVERAGE_POOL_2D BROADCAST_TO CONCATENATION DEPTH_TO_SPACE GATHER MAXIMUM MAX_POOL_2D MINIMUM MIRROR_PAD PACK PAD
PADV2 REDUCE_MAX REDUCE_MIN RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SLICE SPACE_TO_DEPTH SPLIT
STRIDED_SLICE TRANSPOSE UNPACK
""".split()
LINEAR = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
MAX_ELEMENTS = 40_000


END_TYPES = ("float32", "uint8", "int16")


class _Writer(Stateful):
    """Tensors and operators of a Graph."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph = graph
        self.values = [self.add(graph.shape, *graph.quant)]
        self.inputs = [self.values[0]]
        if graph.ends[0] != "int8":
            self.inputs = [self.end(graph.ends[0], self.values[0])]
            self.operators.append(("QUANTIZE", [*self.inputs], [self.values[0]], None))
        for node in graph.nodes:
            self.values.append(self.node(node))

    def end(self, dtype: str, tensor: int) -> int:
        """An input or output of that type beside an int8 tensor."""
        shape, scale, zero = self.tensors[tensor][:3]
        quant = {"float32": (None, 0), "uint8": (scale, int(zero) + 128), "int16": (np.float32(scale / 200), 0)}[dtype]
        return self.add(shape, *quant, None, 0, dtype)

    def shape(self, value) -> tuple[int, ...]:
        return self.tensors[self.values[value]][0]

    def quant(self, value) -> tuple[float, int]:
        return self.tensors[self.values[value]][1:3]

    def data(self) -> bytes:
        outputs = [self.values[-1], *(self.values[v] for v in self.graph.outputs)]
        operators, dtype = list(self.operators), self.graph.ends[1]
        if dtype != "int8":
            ends = {t: self.end(dtype, t) for t in outputs}
            operator = "DEQUANTIZE" if dtype == "float32" else "QUANTIZE"
            operators += [(operator, [t], [end], None) for t, end in ends.items()]
            outputs = [ends[t] for t in outputs]
        start, others = self.start()
        return build(self.tensors, start + operators, self.inputs, outputs, others)

    def node(self, node: Node) -> int:
        ins = [self.values[v] for v in node.inputs]
        x, quant = self.shape(node.inputs[0]), self.quant(node.inputs[0])
        if node.op in ("DELAY", "STREAM"):
            return (self.delay if node.op == "DELAY" else self.stream)(node, x, quant)
        method = getattr(self, f"_{node.op.lower()}", None)
        if method is None:
            shape, extra, options, out = x, [], None, node.quant
        else:
            shape, extra, options, out = method(node, x, quant)
        if node.op in FIXED:
            out = FIXED[node.op]
        elif node.op in SAME_QUANT or out is None:
            out = quant
        if node.op == "INPUT":
            out = node.quant
        assert out is not None
        _need(all(d > 0 for d in shape), "an empty tensor")
        _need(int(np.prod(shape)) <= MAX_ELEMENTS, "a large tensor")
        y = self.add(shape, *out)
        if node.op == "INPUT":
            self.inputs.append(y)
            return y
        if node.op in ("SPLIT", "UNPACK"):  # all parts are made, one is the value
            parts = [y if i == node.attrs["take"] else self.add(shape, *out) for i in range(node.attrs["parts"])]
            self.operators.append((node.op, [*extra, *ins], parts, options))
            return y
        if node.op == "TRANSPOSE_CONV":
            size, w, bias = extra
            self.operators.append((node.op, [size, w, *ins, *([bias] if bias >= 0 else [])], [y], options))
            return y
        if extra and extra[-1] < 0 and node.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            extra = extra[:-1]  # TFLM's convolutions take no bias as a missing input, not as -1
        self.operators.append((node.op, [*ins, *extra], [y], options))
        return y

    def weights(self, node, shape, axis, fan_in, x_quant):
        """(weight tensor, bias tensor or -1, output quantization) of a linear operator."""
        rng = np.random.default_rng(node.seed)
        channels = shape[axis]
        low = -127 if rng.random() < 0.8 else -128
        data = rng.integers(low, 128, shape).astype(np.int8)
        kind = rng.random()
        if kind < 0.15:
            data[rng.random(shape) < 0.9] = 0
        elif kind < 0.2:
            data[:] = rng.choice([-127, 127], shape)
        elif kind < 0.25:
            data[tuple(slice(None) if a == axis else slice(0, 1) for a in range(len(shape)))] = 0
            data = data if rng.random() < 0.7 else data * 0
        per_channel = rng.random() < 0.8
        scale = 0.003 * rng.uniform(0.4, 2.5, channels if per_channel else 1).astype(np.float32)
        if rng.random() < 0.1:
            scale *= np.float32(rng.choice([1e-3, 20.0]))
        w = self.add(shape, scale, 0, data, axis)
        bias = -1
        if rng.random() < 0.8:
            b = (rng.normal(0, 1500 * np.sqrt(fan_in), channels)).astype(np.int32)
            bias = self.add((channels,), np.float32(x_quant[0]) * scale, 0, b, 0)
        natural = float(x_quant[0]) * float(scale.mean()) * 73 * 73 * np.sqrt(fan_in) / 60 * node.quant[0]
        if len(scale) == 1 and rng.random() < 0.5:  # multipliers within a hair of powers of two, and so sums near ties
            product = float(x_quant[0]) * float(scale[0])
            natural = product * 2.0 ** np.round(np.log2(natural / product))
        return w, bias, (np.float32(natural), node.quant[1])

    def windows(self, node, x, kernel):
        _need(len(x) == 4, "not a map")
        a = node.attrs
        sizes = [
            window(n, k, s, d, a["padding"])[0]
            for n, k, s, d in zip(x[1:3], kernel, a["stride"], a.get("dilation", (1, 1)))
        ]
        _need(all(n > 0 for n in sizes), "a window larger than its input")
        options = {
            "Padding": int(a["padding"] == "VALID"),
            "StrideH": a["stride"][0],
            "StrideW": a["stride"][1],
            "FusedActivationFunction": a["activation"],
        }
        return sizes, options

    def _conv_2d(self, node, x, quant):
        a = node.attrs
        sizes, options = self.windows(node, x, a["kernel"])
        groups = a.get("groups", 1)
        _need(x[3] % groups == 0 and a["channels"] % groups == 0, "groups do not divide the channels")
        shape = (a["channels"], *a["kernel"], x[3] // groups)
        w, bias, out = self.weights(node, shape, 0, int(np.prod(shape[1:])), quant)
        options |= {"DilationHFactor": a["dilation"][0], "DilationWFactor": a["dilation"][1]}
        return (x[0], *sizes, a["channels"]), [w, bias], ("Conv2DOptions", options), out

    def _depthwise_conv_2d(self, node, x, quant):
        a = node.attrs
        sizes, options = self.windows(node, x, a["kernel"])
        channels = x[3] * a["multiplier"]
        w, bias, out = self.weights(node, (1, *a["kernel"], channels), 3, int(np.prod(a["kernel"])), quant)
        options |= {"DilationHFactor": a["dilation"][0], "DilationWFactor": a["dilation"][1]}
        options["DepthMultiplier"] = a["multiplier"]
        return (x[0], *sizes, channels), [w, bias], ("DepthwiseConv2DOptions", options), out

    def _fully_connected(self, node, x, quant):
        a = node.attrs
        inputs = x[-1] if a["per_pixel"] else int(np.prod(x))
        w, bias, out = self.weights(node, (a["channels"], inputs), 0, inputs, quant)
        shape = (*x[:-1], a["channels"]) if a["per_pixel"] else (1, a["channels"])
        options = {"FusedActivationFunction": a["activation"], "KeepNumDims": bool(a["per_pixel"])}
        return shape, [w, bias], ("FullyConnectedOptions", options), out

    def _transpose_conv(self, node, x, quant):
        _need(len(x) == 4, "not a map")
        a = node.attrs
        if a["padding"] == "SAME":
            sizes = [n * s for n, s in zip(x[1:3], a["stride"])]
        else:
            sizes = [(n - 1) * s + k for n, s, k in zip(x[1:3], a["stride"], a["kernel"])]
        _need(
            all(
                window(n, k, s, 1, a["padding"])[0] == m for n, k, s, m in zip(sizes, a["kernel"], a["stride"], x[1:3])
            ),
            "sizes",
        )
        shape = (a["channels"], *a["kernel"], x[3])
        w, bias, out = self.weights(node, shape, 0, int(np.prod(a["kernel"])) * x[3], quant)
        y = (x[0], *sizes, a["channels"])
        options = {
            "Padding": int(a["padding"] == "VALID"),
            "StrideH": a["stride"][0],
            "StrideW": a["stride"][1],
            "FusedActivationFunction": a["activation"],
        }
        return y, [self.integers(y), w, bias], ("TransposeConvOptions", options), out

    def _pool(self, node, x, quant):
        a = node.attrs
        sizes, options = self.windows(node, x, a["kernel"])
        options |= {"FilterHeight": a["kernel"][0], "FilterWidth": a["kernel"][1]}
        return (x[0], *sizes, x[3]), [], ("Pool2DOptions", options), quant

    _average_pool_2d = _max_pool_2d = _pool

    def _binary(self, node, x, quant):
        scale, zero = node.quant
        extra, second, other = [], x, quant
        if len(node.inputs) == 2:
            second, other = self.shape(node.inputs[1]), self.quant(node.inputs[1])
        elif node.attrs.get("constant"):
            rng = np.random.default_rng(node.seed)
            second, other = x[-1:], (np.float32(quant[0] * rng.uniform(0.3, 3)), int(rng.integers(-128, 128)))
            if node.attrs["constant"] == 2:  # a scalar
                second = ()
            extra = [self.add(second, *other, rng.integers(-128, 128, second).astype(np.int8))]
        try:
            shape = np.broadcast_shapes(x, second)
        except ValueError:
            raise Invalid("shapes do not broadcast") from None
        if node.op == "MUL":
            natural, kind = float(quant[0]) * float(other[0]) * 70, "MulOptions"
        elif node.op == "SQUARED_DIFFERENCE":
            natural, kind = max(float(quant[0]), float(other[0])) ** 2 * 90, "SquaredDifferenceOptions"
        elif node.op in ("MAXIMUM", "MINIMUM"):
            return shape, extra, ("MaximumMinimumOptions", {}), quant
        else:
            natural, kind = max(float(quant[0]), float(other[0])) * 1.3, f"{node.op.title()}Options"
        if node.op == "SQUARED_DIFFERENCE":
            return shape, extra, (kind, {}), (np.float32(natural * scale), zero)
        options = {"FusedActivationFunction": node.attrs["activation"]}
        return shape, extra, (kind, options), (np.float32(natural * scale), zero)

    _add = _sub = _mul = _maximum = _minimum = _squared_difference = _binary

    def _prelu(self, node, x, quant):
        rng = np.random.default_rng(node.seed)
        shape = (1,) * (len(x) - 2) + x[-1:] if len(x) > 1 else x
        scale = np.float32(rng.choice([1 / 128, 1 / 256, rng.uniform(0.001, 0.02)]))
        alpha = self.add(shape, scale, int(rng.integers(-128, 128)), rng.integers(-128, 128, shape).astype(np.int8))
        return x, [alpha], None, (np.float32(quant[0] * node.quant[0]), node.quant[1])

    def _reduce(self, node, x, quant):
        if node.op == "SUM":
            y, extra, options, _ = self._mean(node, x, quant)
            count = np.prod([x[a] for a in node.attrs["axes"]])
            return y, extra, options, (np.float32(quant[0] * np.sqrt(count) * node.quant[0]), node.quant[1])
        return self._mean(replace(node, quant=None), x, quant)

    _sum = _reduce_max = _reduce_min = _reduce

    def _transpose(self, node, x, quant):
        _need(len(x) <= 5, "rank")
        perm = np.random.default_rng(node.seed).permutation(len(x))
        return tuple(x[i] for i in perm), [self.integers(perm)], ("TransposeOptions", {}), quant

    def _strided_slice(self, node, x, quant):
        _need(len(x) <= 4, "rank")
        rng = np.random.default_rng(node.seed)
        begin, end, strides, shape = [], [], [], []
        for d in x:
            a, b = sorted(int(v) for v in rng.integers(0, d + 1, 2))
            step = int(rng.choice([1, 1, 1, 2, 3]))
            a, b = (0, d) if rng.random() < 0.5 or a == b else (a, b)
            begin.append(a)
            end.append(b)
            strides.append(step)
            shape.append(len(range(a, b, step)))
        extra = [self.integers(v) for v in (begin, end, strides)]
        return tuple(shape), extra, ("StridedSliceOptions", {}), quant

    def _slice(self, node, x, quant):
        _need(len(x) <= 5, "rank")
        rng = np.random.default_rng(node.seed)
        begin = [int(rng.integers(0, d)) if rng.random() < 0.4 else 0 for d in x]
        size = [int(rng.integers(1, d - b + 1)) if rng.random() < 0.5 else d - b for d, b in zip(x, begin)]
        return tuple(size), [self.integers(begin), self.integers(size)], ("SliceOptions", {}), quant

    def _split(self, node, x, quant):
        axis, parts = node.attrs["axis"] % len(x), node.attrs["parts"]
        _need(x[axis] % parts == 0, "parts")
        shape = (*x[:axis], x[axis] // parts, *x[axis + 1 :])
        axis = self.add((), None, 0, np.array(axis, np.int32))
        return shape, [axis], ("SplitOptions", {"NumSplits": parts}), quant

    def _unpack(self, node, x, quant):
        axis = node.attrs["axis"] % len(x)
        _need(x[axis] == node.attrs["parts"] and len(x) > 1, "parts")
        options = {"Num": x[axis], "Axis": axis}
        return x[:axis] + x[axis + 1 :], [], ("UnpackOptions", options), quant

    def _pack(self, node, x, quant):
        shapes = [self.shape(v) for v in node.inputs]
        _need(all(s == x for s in shapes) and len(x) < 5, "shapes differ")
        _need(all(self.quant(v) == quant for v in node.inputs), "quantizations differ")
        axis = node.attrs["axis"] % (len(x) + 1)
        options = {"ValuesCount": len(shapes), "Axis": axis}
        return (*x[:axis], len(shapes), *x[axis:]), [], ("PackOptions", options), quant

    def _gather(self, node, x, quant):
        rng = np.random.default_rng(node.seed)
        axis = int(rng.integers(len(x)))
        at = rng.integers(0, x[axis], int(rng.integers(1, 6)))
        return (*x[:axis], len(at), *x[axis + 1 :]), [self.integers(at)], ("GatherOptions", {"Axis": axis}), quant

    def _resize(self, node, x, quant):
        _need(len(x) == 4, "not a map")
        size = [max(1, int(d * f)) for d, f in zip(x[1:3], node.attrs["factor"])]
        bilinear = node.op == "RESIZE_BILINEAR"
        kind = "ResizeBilinearOptions" if bilinear else "ResizeNearestNeighborOptions"
        options = {node.attrs["mode"]: True} if node.attrs["mode"] else {}
        return (x[0], *size, x[3]), [self.integers(size)], (kind, options), quant

    _resize_bilinear = _resize_nearest_neighbor = _resize

    def _blocks(self, node, x, quant):
        _need(len(x) == 4, "not a map")
        n, b = node.attrs["block"], {"BlockSize": node.attrs["block"]}
        if node.op == "DEPTH_TO_SPACE":
            _need(x[3] % (n * n) == 0, "blocks")
            return (x[0], x[1] * n, x[2] * n, x[3] // (n * n)), [], ("DepthToSpaceOptions", b), quant
        _need(x[1] % n == 0 and x[2] % n == 0, "blocks")
        return (x[0], x[1] // n, x[2] // n, x[3] * n * n), [], ("SpaceToDepthOptions", b), quant

    _depth_to_space = _space_to_depth = _blocks

    def _mirror_pad(self, node, x, quant):
        rng = np.random.default_rng(node.seed)
        pads = [[int(v) for v in rng.integers(0, min(d, 4), 2)] if rng.random() < 0.5 else [0, 0] for d in x]
        shape = tuple(d + a + b for d, (a, b) in zip(x, pads))
        return shape, [self.integers(pads)], ("MirrorPadOptions", {"Mode": int(rng.integers(2))}), quant

    def _reverse_v2(self, node, x, quant):
        axis = int(np.random.default_rng(node.seed).integers(len(x)))
        return x, [self.integers([axis])], ("ReverseV2Options", {}), quant

    def _broadcast_to(self, node, x, quant):
        rng = np.random.default_rng(node.seed)
        shape = tuple(int(rng.integers(1, 5)) if d == 1 else d for d in x)
        if len(shape) < 5 and rng.random() < 0.3:
            shape = (int(rng.integers(1, 4)), *shape)
        return shape, [self.integers(shape)], ("BroadcastToOptions", {}), quant

    def _cumsum(self, node, x, quant):
        rng = np.random.default_rng(node.seed)
        options = {"Exclusive": bool(rng.integers(2)), "Reverse": bool(rng.integers(2))}
        axis = self.integers([int(rng.integers(len(x)))])
        return x, [axis], ("CumsumOptions", options), (np.float32(quant[0] * 2 * node.quant[0]), node.quant[1])

    def _input(self, node, x, quant):
        shape = self.shape(0) if node.attrs["shape"] is None else node.attrs["shape"]
        return shape, [], None, node.quant

    def _mean(self, node, x, quant):
        axes, keep = node.attrs["axes"], node.attrs["keep"]
        _need(len(x) > max(axes), "rank")
        shape = [1 if i in axes else d for i, d in enumerate(x) if keep or i not in axes]
        _need(shape, "no dimension left")
        out = None if node.quant is None else (np.float32(quant[0] * node.quant[0]), node.quant[1])
        return tuple(shape), [self.integers(axes)], ("ReducerOptions", {"KeepDims": keep}), out

    def _pad(self, node, x, quant):
        pads = node.attrs["pads"][-len(x) :]
        _need(len(pads) == len(x) and len(x) <= 5, "rank")
        shape = tuple(d + a + b for d, (a, b) in zip(x, pads))
        extra = [self.integers(pads)]
        if node.op == "PADV2":
            scale, zero = quant
            extra.append(self.add((1,), scale, zero, np.array([node.attrs["value"]], np.int8)))
        return shape, extra, ("PadV2Options" if node.op == "PADV2" else "PadOptions", {}), quant

    _padv2 = _pad

    def _concatenation(self, node, x, quant):
        axis = node.attrs["axis"]
        shapes = [self.shape(v) for v in node.inputs]
        _need(-len(x) <= axis < len(x) and all(len(s) == len(x) for s in shapes), "ranks differ")
        at = axis % len(x)
        _need(all(s[:at] + s[at + 1 :] == x[:at] + x[at + 1 :] for s in shapes), "shapes differ")
        _need(all(self.quant(v) == quant for v in node.inputs), "quantizations differ")
        shape = x[:at] + (sum(s[at] for s in shapes),) + x[at + 1 :]
        return shape, [], ("ConcatenationOptions", {"Axis": axis}), quant

    def _reshape(self, node, x, quant):
        kind, size = node.attrs["kind"], int(np.prod(x))
        shape: tuple[int, ...]
        if kind == "flat":
            shape = (1, size)
        elif kind == "rows":
            shape = (1, size // x[-1], x[-1])
        else:  # a map with twice, or half, the channels
            shape = (x[0], x[1], x[2] * x[3], 1) if len(x) == 4 else (1, 1, 1, size)
        return shape, [self.integers(shape)], ("ReshapeOptions", {}), quant

    def _relative(self, node, x, quant):
        options = {"LEAKY_RELU": ("LeakyReluOptions", {"Alpha": node.attrs.get("alpha", 0.0)})}.get(node.op)
        return x, [], options, (np.float32(quant[0] * node.quant[0]), node.quant[1])

    def _l2_normalization(self, node, x, quant):
        _need(len(x) <= 4, "rank")
        return x, [], None, None

    _leaky_relu = _hard_swish = _relu = _quantize = _abs = _elu = _relative

    def _softmax(self, node, x, quant):
        _need(node.attrs["beta"] * quant[0] > 1 / 1024, "softmax of too small a scale")
        _need(x[-1] < arith.SOFTMAX_SUM, "TFLM may assert")
        return x, [], ("SoftmaxOptions", {"Beta": node.attrs["beta"]}), None


# --- Random graphs -------------------------------------------------------------------------------------------------


def _zero(rng) -> int:
    kind = rng.random()
    return -128 if kind < 0.25 else int(rng.choice([0, 127, -127])) if kind < 0.4 else int(rng.integers(-128, 128))


def _quant(rng, low=0.4, high=2.5) -> tuple[float, int]:
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if rng.random() < 0.2:  # ties
        scale = float(rng.choice([0.5, 1, 1, 2, 1.5, 0.75]))
    return scale, _zero(rng)


def _channels(rng) -> int:
    if rng.random() < 0.04:
        return int(rng.integers(41, 601))
    return int(rng.choice([1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 18, 20, 24, 31, 33, 40]))


def _pair(rng, values, same=0.7) -> tuple[int, int]:
    a, b = (int(v) for v in rng.choice(values, 2))
    return (a, a) if rng.random() < same else (a, b)


def _activation(rng) -> int:
    return int(rng.choice([0, 0, 0, 1, 2, 3]))


OPERATORS = {
    "CONV_2D": 8,
    "DEPTHWISE_CONV_2D": 7,
    "FULLY_CONNECTED": 2,
    "ADD": 5,
    "MUL": 2,
    "SUB": 1,
    "AVERAGE_POOL_2D": 2,
    "MAX_POOL_2D": 3,
    "MEAN": 1,
    "PAD": 1,
    "PADV2": 0.5,
    "CONCATENATION": 2,
    "RESHAPE": 0.8,
    "QUANTIZE": 1,
    "LOGISTIC": 0.6,
    "TANH": 0.6,
    "LEAKY_RELU": 0.6,
    "HARD_SWISH": 0.6,
    "RELU": 0.6,
    "RELU6": 0.6,
    "SOFTMAX": 0.4,
    "ABS": 0.2,
    "BATCH_MATMUL": 0.5,
    "BROADCAST_TO": 0.2,
    "CUMSUM": 0.1,
    "DELAY": 0.3,
    "DEPTH_TO_SPACE": 0.3,
    "ELU": 0.2,
    "GATHER": 0.2,
    "INPUT": 0.6,
    "L2_NORMALIZATION": 0.2,
    "MAXIMUM": 0.6,
    "MINIMUM": 0.6,
    "MIRROR_PAD": 0.2,
    "PACK": 0.3,
    "PRELU": 0.5,
    "REDUCE_MAX": 0.4,
    "REDUCE_MIN": 0.2,
    "RESIZE_BILINEAR": 0.3,
    "RESIZE_NEAREST_NEIGHBOR": 0.5,
    "REVERSE_V2": 0.2,
    "SLICE": 0.4,
    "SPACE_TO_DEPTH": 0.3,
    "SPLIT": 0.6,
    "SQUARED_DIFFERENCE": 0.2,
    "STREAM": 0.3,
    "STRIDED_SLICE": 0.6,
    "SUM": 0.3,
    "SVDF": 0.3,
    "TRANSPOSE": 0.5,
    "TRANSPOSE_CONV": 1.5,
    "UNPACK": 0.3,
    LSTM: 0.3,
}


def _random_nodes(rng, writer, op, source) -> list[Node]:
    """Nodes (one, or a few where the operands must be prepared) that apply `op` to the value `source`."""
    x = writer.shape(source)
    seed = int(rng.integers(1 << 30))
    new = len(writer.values)  # the value of the next node

    def node(inputs, **attrs):
        return Node(op, tuple(inputs), attrs, seed, _quant(rng))

    def spatial(kernels):
        return dict(
            kernel=_pair(rng, kernels, 0.6),
            stride=_pair(rng, [1, 1, 1, 2, 2, 3, 4, 5], 0.85),
            padding=str(rng.choice(["SAME", "SAME", "VALID"])),
            activation=_activation(rng),
        )

    if op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        attrs = spatial([1, 1, 2, 3, 3, 3, 4, 5, 7])
        attrs["dilation"] = (1, 1)
        if rng.random() < (0.25 if attrs["stride"] == (1, 1) else 0.1):
            attrs["dilation"] = _pair(rng, [1, 2, 3])
        if op == "DEPTHWISE_CONV_2D" and rng.random() < 0.6:  # as the array streams it
            return [node([source], multiplier=1, **{**attrs, "dilation": (1, 1), "stride": _pair(rng, [1, 1, 2], 1)})]
        if op == "DEPTHWISE_CONV_2D":
            return [node([source], multiplier=int(rng.choice([1, 1, 1, 1, 2, 3])), **attrs)]
        if rng.random() < 0.3:
            attrs["kernel"] = (1, 1)
        attrs["channels"] = _channels(rng)
        if rng.random() < 0.08 and x[-1] > 1:
            attrs["groups"] = next(g for g in (2, 3, x[-1]) if x[-1] % g == 0)
            attrs["channels"] = attrs["groups"] * int(rng.integers(1, 5))
        if rng.random() < 0.2:  # a residual block keeps the channels
            attrs |= {"channels": x[-1], "stride": (1, 1), "padding": "SAME", "groups": 1}
        return [node([source], **attrs)]
    if op == "FULLY_CONNECTED":
        per_pixel = bool(rng.random() < 0.15)
        return [node([source], channels=_channels(rng), per_pixel=per_pixel, activation=_activation(rng))]
    if op in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        attrs = spatial([1, 2, 2, 3, 3, 4, 5, 7])
        if rng.random() < 0.4:
            attrs["stride"] = attrs["kernel"]
        if op == "AVERAGE_POOL_2D" and rng.random() < 0.3 and len(x) == 4:
            attrs |= {"kernel": x[1:3], "padding": "VALID"}
        return [node([source], **attrs)]
    if op == "TRANSPOSE_CONV":
        attrs = spatial([1, 2, 3, 3, 4, 5])
        return [node([source], channels=min(_channels(rng), 40), **attrs)]
    if op in ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
        kind = rng.random()
        if kind < 0.12 or op in ("MAXIMUM", "MINIMUM") and kind < 0.6:
            return [node([source], constant=int(rng.choice([1, 2])), activation=_activation(rng))]
        if kind < 0.2 and len(x) == 4:  # a gate: one value a channel
            mean = Node("MEAN", (source,), {"axes": (1, 2), "keep": True}, 0, _quant(rng))
            gate = Node("LOGISTIC", (new,))
            return [mean, gate, node([source, new + 1], activation=_activation(rng))]
        if kind < 0.3:  # one value a row, a column, a map: broadcasting
            axes = tuple(i for i in range(1, len(x)) if rng.random() < 0.5)
            if axes:
                mean = Node("MEAN", (source,), {"axes": axes, "keep": True}, 0, _quant(rng))
                return [mean, node([source, new][:: int(rng.choice([1, -1]))], activation=_activation(rng))]
        others = [v for v in range(len(writer.values)) if writer.shape(v) == x and v != source]
        pick = [source, int(rng.choice(others)) if others else source]
        if not others and rng.random() < 0.7:
            branch = Node("QUANTIZE", (source,), {}, 0, _quant(rng))
            if len(x) == 4:
                attrs = dict(kernel=_pair(rng, [1, 3]), stride=(1, 1), padding="SAME", dilation=(1, 1))
                attrs |= {"channels": x[3], "activation": _activation(rng)}
                branch = Node("CONV_2D", (source,), attrs, seed + 1, _quant(rng))
            pick = [source, new]
            rng.shuffle(pick)
            return [branch, node(pick, activation=_activation(rng))]
        rng.shuffle(pick)
        return [node([int(v) for v in pick], activation=_activation(rng))]
    if op in ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"):
        axes = (1, 2) if rng.random() < 0.7 else tuple(sorted({int(a) for a in rng.integers(0, len(x), 2)}))
        made = node([source], axes=axes, keep=bool(rng.integers(2)))
        return [replace(made, quant=None) if op == "MEAN" and rng.random() < 0.4 else made]
    if op in ("PAD", "PADV2"):
        pads = rng.integers(0, 4, (5, 2))
        pads[0] = 0
        if rng.random() < 0.8:
            pads[1] = 0
        if len(x) != 4 and rng.random() < 0.5:
            pads[-len(x) :] = rng.integers(0, 3, (len(x), 2))
        if rng.random() < 0.85:
            pads[4] = 0
        value = {"value": int(rng.integers(-128, 128))} if op == "PADV2" else {}
        return [node([source], pads=tuple((int(a), int(b)) for a, b in pads), **value)]
    if op == "CONCATENATION":
        axis = int(rng.choice([-1, -1, -1, -2, 1, 0]))
        if not -len(x) <= axis < len(x):
            return []
        at = axis % len(x)
        others = [
            v
            for v in range(len(writer.values))
            if len(writer.shape(v)) == len(x)
            and writer.shape(v)[:at] + writer.shape(v)[at + 1 :] == x[:at] + x[at + 1 :]
        ]
        pick = [int(v) for v in rng.choice(others, int(rng.integers(1, 4)))]
        nodes, inputs = [], [source]
        for v in pick:  # operands of another quantization are requantized first
            if writer.quant(v) == writer.quant(source):
                inputs.append(v)
                continue
            nodes.append(Node("QUANTIZE", (v,), {"like": source}, 0, (1.0, 0)))
            inputs.append(new + len(nodes) - 1)
        rng.shuffle(inputs)
        return [*nodes, node([int(v) for v in inputs], axis=axis)]
    if op in ("SPLIT", "UNPACK"):
        axis = int(rng.integers(len(x)))
        parts = [n for n in range(1, 9) if x[axis] % n == 0] if op == "SPLIT" else [x[axis]] if x[axis] < 9 else []
        if not parts:
            return []
        count = int(rng.choice(parts))
        two = rng.permutation(count)[:2]
        attrs = {"axis": axis, "parts": count}
        return [Node(op, (source,), attrs | {"take": int(k)}, seed) for k in two]
    if op == "PACK":
        same = [
            v for v in range(len(writer.values)) if writer.shape(v) == x and writer.quant(v) == writer.quant(source)
        ]
        pick = [int(v) for v in rng.choice(same, int(rng.integers(1, 4)))]
        return [node(pick, axis=int(rng.integers(len(x) + 1)))]
    if op.startswith("RESIZE"):
        factor = [float(f) for f in rng.choice([0.5, 1, 2, 2, 2, 3, 1.5], 2)]
        return [
            node([source], factor=tuple(factor), mode=str(rng.choice(["", "", "AlignCorners", "HalfPixelCenters"])))
        ]
    if op in ("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"):
        return [node([source], block=int(rng.choice([2, 2, 3])))]
    if op == "INPUT":
        return [
            Node(
                op, (0,), {"shape": x if rng.random() < 0.7 else None}, seed, (float(writer.graph.quant[0]), _zero(rng))
            )
        ]
    if op in ("DELAY", "STREAM", "BATCH_MATMUL", "SVDF", LSTM):

        def reshape(kind):
            return Node("RESHAPE", (source,), {"kind": kind}, 0, _quant(rng))

        return stateful_nodes(rng, op, node, source, new, x, reshape)
    if op == "RESHAPE":
        return [node([source], kind=str(rng.choice(["flat", "rows", "map"])))]
    if op == "LEAKY_RELU":
        return [node([source], alpha=float(rng.choice([0.0, 0.01, 0.1, 0.25, 0.3, 0.5, 1.0, -0.2])))]
    if op == "SOFTMAX":
        return [node([source], beta=1.0)]
    return [node([source])]


def random_graph(seed: int) -> Graph:
    """The graph of a seed: 1 to 10 operators that depend on one another."""
    rng = np.random.default_rng([seed, 1])
    kind = rng.random()
    shape: tuple[int, ...]
    if kind < 0.12:
        shape = (1, int(rng.integers(1, 300)))
    elif kind < 0.2:
        shape = (1, 1, 1, _channels(rng))
    elif kind < 0.3:
        shape = (1, int(rng.integers(1, 60)), 1, _channels(rng))[:: int(rng.choice([1, 1]))]
    elif kind < 0.36:  # any rank, any first dimension
        shape = tuple(int(v) for v in rng.integers(1, 9, int(rng.integers(1, 6))))
    elif kind < 0.46:  # wide
        shape = (1, int(rng.integers(1, 5)), int(rng.integers(17, 201)), int(rng.choice([1, 2, 3, 4, 8, 16, 17])))
    elif kind < 0.5:  # deep
        shape = (1, int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(41, 601)))
    elif kind < 0.52:
        shape = (int(rng.integers(2, 4)), int(rng.integers(1, 9)), int(rng.integers(1, 9)), _channels(rng))
    else:
        shape = (1, int(rng.integers(1, 17)), int(rng.integers(1, 25)), _channels(rng))
    if rng.random() < 0.25 and len(shape) == 4:
        shape = (*shape[:3], int(rng.choice([1, 3])))
    graph = Graph(shape, (float(np.float32(rng.uniform(0.005, 0.1))), _zero(rng)), ())
    names, weights = list(OPERATORS), np.array(list(OPERATORS.values()))
    wanted, attempts = int(rng.integers(1, 10)), 0
    while len(graph.nodes) < wanted and attempts < 60:
        attempts += 1
        writer = _Writer(graph)
        last = len(graph.nodes)
        source = last if rng.random() < 0.85 else int(rng.integers(last + 1))
        op = str(rng.choice(names, p=weights / weights.sum()))
        if not graph.nodes and len(shape) == 4 and shape[2] > 16 and rng.random() < 0.7:
            op = "DEPTHWISE_CONV_2D"  # rows about as long as line buffers
        nodes = []
        for n in _random_nodes(rng, writer, op, source):
            like = n.attrs.get("like")
            if like is not None:  # becomes a ratio of the operand's scale
                ratio = float(writer.quant(like)[0]) / float(writer.quant(n.inputs[0])[0])
                n = replace(n, attrs={}, quant=(ratio, writer.quant(like)[1]))
            nodes.append(n)
        made = replace(graph, nodes=(*graph.nodes, *nodes))
        if valid(made):
            graph = made
    if not graph.nodes:
        graph = replace(graph, nodes=(Node("QUANTIZE", (0,), {}, 0, (1.0, 0)),))
    if rng.random() < 0.25:  # further outputs, the input itself among them
        graph = replace(
            graph, outputs=tuple(int(v) for v in rng.integers(0, len(graph.nodes), int(rng.integers(1, 3))))
        )
    if rng.random() < 0.2:
        ends = tuple(str(rng.choice(["int8", *END_TYPES])) for _ in range(2))
        graph = replace(graph, ends=(ends[0], ends[1]))
    if rng.random() < 0.9:
        graph = prune(graph)
    return graph


PARAMETERS = {
    "ADD": quantities.add_parameters,
    "BATCH_MATMUL": matmul_parameters,
    "CONV_2D": quantities.conv_parameters,
    "CUMSUM": quantities.sum_parameters,
    "DEPTHWISE_CONV_2D": quantities.conv_parameters,
    "FULLY_CONNECTED": quantities.conv_parameters,
    "MUL": quantities.mul_parameters,
    "PRELU": quantities.prelu_parameters,
    "SQUARED_DIFFERENCE": quantities.difference_parameters,
    "SUB": quantities.add_parameters,
    "SUM": quantities.mean_parameters,
    "SVDF": svdf_parameters,
    LSTM: lstm_parameters,
    "TRANSPOSE_CONV": quantities.conv_parameters,
}
"""Functions that tell whether an operator's scales are ones that TFLM takes."""


def valid(graph: Graph) -> bool:
    """Whether the nodes make a model whose scales the kernels accept."""
    try:
        writer = _Writer(graph)
    except Invalid:
        return False
    products = 0
    for op, ins, outs, _ in writer.operators:
        scale = writer.tensors[outs[0]][1] if outs else None
        if scale is not None and not 1e-6 < float(scale) < 1e4:
            return False
        if op == "TRANSPOSE_CONV":
            products += int(np.prod(writer.tensors[ins[2]][0])) * int(np.prod(writer.tensors[ins[1]][0][:3]))
        if op in LINEAR:
            w, y = writer.tensors[ins[1]][0], writer.tensors[outs[0]][0]
            products += int(np.prod(y)) * int(np.prod(w[:-1] if op == "DEPTHWISE_CONV_2D" else w[1:]))
    if products > 3_000_000:
        return False
    model = load_model(writer.data())
    try:
        for op in model.operators:
            if op.op in PARAMETERS:
                PARAMETERS[op.op](model, op)
            elif op.op in quantities.UNARY:
                quantities.unary_table(model, op)
    except (ModelError, arith.ArithmeticRangeError):
        return False
    return True


def prune(graph: Graph) -> Graph:
    """Without the nodes that the output does not depend on."""
    used, stack = set(), [len(graph.nodes), *graph.outputs]
    while stack:
        v = stack.pop()
        if v and v not in used:
            used.add(v)
            stack += graph.nodes[v - 1].inputs
    number = {0: 0} | {v: i + 1 for i, v in enumerate(sorted(used))}
    nodes = [graph.nodes[v - 1] for v in sorted(used)]
    nodes = [replace(n, inputs=tuple(number[v] for v in n.inputs)) for n in nodes]
    return replace(graph, nodes=tuple(nodes), outputs=tuple(number[v] for v in graph.outputs))


def graph(seed: int) -> bytes:
    """A .tflite file, the same for the same seed."""
    return random_graph(seed).to_bytes()


# --- Configurations ------------------------------------------------------------------------------------------------


def roomy(config: NpuConfig) -> NpuConfig:
    """The configuration with memories that hold all of these graphs."""
    tiles = max(1 << 17, (1 << 22) // config.tile_bytes)
    return replace(config, weight_tiles=tiles, params=1 << 14, program_words=1 << 16, act_bytes=1 << 18)


def without_port(name: str, ring: int = 0) -> NpuConfig:
    """The preset with a ring of so many tiles in place of the memory port."""
    return replace(PRESETS[name], name=f"{name}-ring", memory_width=0, memory_bytes=0, ring_tiles=ring)


CONFIGS = (
    *(roomy(without_port(name)) for name in PRESETS),
    roomy(NpuConfig("odd3x5", rows=3, cols=5, lanes=5, acc_depth=64)),
    roomy(NpuConfig("odd9x8", rows=9, cols=8, lanes=2)),
    roomy(NpuConfig("odd18x14", rows=18, cols=14, lanes=7, acc_depth=40)),
    roomy(NpuConfig("min2x2", rows=2, cols=2, lanes=2, acc_depth=16, line_depth=16)),
    roomy(NpuConfig("paired4x4", rows=4, cols=4, lanes=2, pe="paired", acc_depth=32, line_depth=24)),
    roomy(NpuConfig("paired6x4", rows=6, cols=4, lanes=4, pe="paired", line_depth=20)),
)
RTL_CONFIGS = (without_port("small", 64), without_port("tiny", 256))
MEMORY_CONFIGS = (
    NpuConfig("narrow4x4", rows=4, cols=4, lanes=1, act_bytes=1024, weight_tiles=48, params=700, acc_depth=32,
              line_depth=32, memory_width=2, memory_bytes=1 << 22),
    NpuConfig("wide8x8", rows=8, cols=8, lanes=8, act_bytes=4096, weight_tiles=64, params=700, acc_depth=64,
              line_depth=32, memory_width=16, memory_bytes=1 << 22),
)  # fmt: skip
"""With a memory port, for the RTL."""
BOUND = 1.1
"""With a memory port the cycle model says at least the RTL's cycles, and at most so many times them."""


def memory_config(seed: int) -> NpuConfig:
    """An array of any shape with a memory port, through which almost all of a graph must pass."""
    rng = np.random.default_rng([seed, 4])
    rows, width = int(rng.integers(2, 20)), int(rng.choice([1, 2, 4, 8, 16]))
    cols = int(rng.choice([n for n in range(2, 20) if n % width == 0 or width % n == 0]))
    return NpuConfig(
        f"memory{seed}",
        rows=rows,
        cols=cols,
        lanes=int(rng.choice([n for n in range(1, cols + 1) if cols % n == 0])),
        pe="paired" if rows % 2 == 0 and rng.random() < 0.4 else "single",
        act_bytes=int(rng.choice([1024, 2048, 4096])),
        weight_tiles=int(rng.integers(16, 80)),
        params=int(rng.integers(640, 800)),
        acc_depth=int(rng.integers(16, 65)),
        line_depth=int(rng.integers(16, 40)),
        memory_width=width,
        memory_bytes=1 << 24,
    )


def random_config(seed: int, data: bytes | None = None) -> NpuConfig:
    """One of CONFIGS, or an array of any shape with little depth and, given the model, no more memory than it needs."""
    rng = np.random.default_rng([seed, 2])
    if rng.random() < 0.4:
        config = CONFIGS[int(rng.integers(len(CONFIGS)))]
        return config if data is None or rng.random() < 0.5 else line_limit(rng, config, load_model(data))
    rows, cols = (int(v) for v in rng.integers(2, 20, 2))
    shape = NpuConfig(
        f"random{seed}",
        rows=rows,
        cols=cols,
        lanes=int(rng.choice([n for n in range(1, cols + 1) if cols % n == 0])),
        pe="paired" if rows % 2 == 0 and rng.random() < 0.4 else "single",
        acc_depth=int(rng.integers(16, 65)),
        line_depth=int(rng.integers(16, 40)),
    )
    config = roomy(shape)
    if data is not None and rng.random() < 0.7:
        config = line_limit(rng, config, load_model(data))
    ring = int(rng.choice([0, 4, 5, 16, 64]))
    return config if data is None else tight(config, load_model(data), ring, float(rng.uniform()))


def line_limit(rng, config: NpuConfig, model) -> NpuConfig:
    """With line buffers about as long as a row that a depthwise convolution streams: of the map and padding."""
    depths = []
    for op in model.operators:
        o = op.options
        if op.op == "DEPTHWISE_CONV_2D" and o["depth_multiplier"] == o["dilation_h"] == o["dilation_w"] == 1:
            width = model.tensors[op.inputs[0]].shape[2] + config.taps
            depths += [width + d for d in (-1, 0, 0, 1, 2) if 16 <= width + d <= 512]
    return replace(config, line_depth=int(rng.choice(depths))) if depths else config


def tight(config: NpuConfig, model, ring: int = 0, resident: float = 1.0) -> NpuConfig:
    """The configuration with just the memories the model needs; with a ring, `resident` of the weights stay on chip."""
    peak = compile_model(model, config).peak_bytes
    most, config = config.act_bytes, replace(config, act_bytes=max(256, 1 << (peak - 1).bit_length()))
    while True:
        try:
            program = compile_model(model, config)
            break
        except CompileError:  # an operator that goes to the host in the end is placed first
            if config.act_bytes >= most:
                raise
            config = replace(config, act_bytes=2 * config.act_bytes)
    tiles = len(program.tiles) // word_bytes(Region.WEIGHT, config)
    if ring:
        movable = movable_tiles(model, config)
        tiles += ring - movable + int(movable * resident)
    while True:
        config = replace(
            config,
            weight_tiles=max(16, tiles, ring + 1 if ring else 0),
            ring_tiles=ring,
            params=max(16, len(program.params) // PARAM_BYTES),
            program_words=max(64, len(program.words)),
        )
        try:
            compile_model(model, config)
            return config
        except FitError as error:  # with little room for constants, more is computed by instructions
            program = error.program
            tiles = max(tiles + 1, ring + len(program.tiles) // word_bytes(Region.WEIGHT, config))
            config = replace(config, act_bytes=max(config.act_bytes, 1 << (program.span_bytes - 1).bit_length()))


def compiled(model, config: NpuConfig, external=frozenset()):
    """(compiler, program) with the weights of the operators `external` in external memory."""
    host: dict[int, str] = {}

    def once():
        compiler = Compiler(model, config, external, host=host)
        return compiler, compiler.compile()

    return until_settled(host, once)


def external_program(model, config: NpuConfig):
    """The model compiled with all its weights in external memory."""
    linear = frozenset(op.index for op in model.operators if op.op in LINEAR)
    compiler, program = compiled(model, config, linear)
    compiler.check_fit()
    return program


def too_large(model, config: NpuConfig) -> bool:
    """Whether it is true that the model does not fit, which only the presets' fixed memories can cause."""
    program = compile_model(model, roomy(replace(config, ring_tiles=0)))
    return (
        len(program.tiles) // word_bytes(Region.WEIGHT, config) > config.resident_tiles
        or len(program.params) // PARAM_BYTES > config.params
        or len(program.words) > config.program_words
        or program.peak_bytes > config.act_bytes
    )


def movable_tiles(model, config: NpuConfig) -> int:
    """Tiles of the operators whose weights may lie in external memory."""
    compiler, _ = compiled(model, config)
    return sum(compiler.layer_tiles.values())


# --- Comparison ----------------------------------------------------------------------------------------------------


class _CheckedSession(Session):
    """A session whose instruction-set simulator also reports what would depend on timing, and whose RTL starts when the
    memory has answered what the run before read ahead of its end, as the cycle model has it."""

    def _open(self):
        if self.backend == "iss":
            return IssEngine(self.config, self.program, hazards=True)
        engine = super()._open()
        return _Settled(engine) if self.config.memory_width else engine


class _Settled:
    """A device's engine that waits before each start."""

    def __init__(self, engine):
        self.device, self.write, self.read, self.patch = engine.device, engine.write, engine.read, engine.patch
        self._start = engine.start

    def start(self, pc: int):
        self.device._transport.run(4 * MEMORY_BURST * 10)
        return self._start(pc)


def random_memory(seed: int) -> Memory:
    """What is behind the memory port."""
    rng = np.random.default_rng([seed, 5])
    return Memory(int(rng.choice([1, 5, 30, 30, 100])), int(rng.choice([1, 1, 1, 2, 5])))


class _DisturbedSession(_CheckedSession):
    """A session on the RTL whose memory refreshes and stalls at random."""

    def _open(self):
        engine = Session._open(self)
        assert isinstance(engine, DeviceEngine)
        model = engine.device._transport.model
        model.set_pace(self._memory.latency, self._memory.interval, refresh=(900, 70))
        model.set_stalls(1 + self._memory.latency, request=50, data=50, written=50)
        return engine


def references(data: bytes, xs) -> list[np.ndarray]:
    """Outputs of TensorFlow Lite Micro for inputs (N, ...), one row after the other: (N, ...) each."""
    from tflite_micro.python.tflite_micro import runtime

    try:
        interpreter = runtime.Interpreter.from_bytes(data, arena_size=ARENA_BYTES)
    except RuntimeError as error:
        raise Mismatch(f"the interpreter refuses a graph of the generator: {error}") from None
    model = load_model(data)
    rows = []
    for i in range(len(xs[0])):
        for k, x in enumerate(xs):
            interpreter.set_input(x[i].reshape(model.tensors[model.inputs[k]].shape), k)
        interpreter.invoke()
        rows.append([np.array(interpreter.get_output(k)) for k in range(len(model.outputs))])
    return [np.stack(column) for column in zip(*rows)]


def reference(data: bytes, xs) -> np.ndarray:
    """Outputs (N, shape) of a model with one input and one output for inputs (N, ...)."""
    return references(data, [xs])[0]


def inputs(data: bytes, seed: int, count=2) -> list[np.ndarray]:
    """Random inputs of a model, the first rows with many corner values."""
    model = load_model(data)
    rng = np.random.default_rng([seed, 3])
    out = []
    for i in model.inputs:
        t = model.tensors[i]
        if t.dtype == "float32":  # halves, too, of the scale it is quantized with
            scale = next((model.tensors[op.outputs[0]].scale for op in model.operators if i in op.inputs), 0.1)
            out.append((rng.integers(-300, 301, (count, *t.row)) / 2 * scale).astype(np.float32))
            continue
        kind = np.iinfo(t.dtype)
        xs = rng.integers(kind.min, kind.max + 1, (count, *t.row)).astype(t.dtype)
        first = xs[:1]  # a view also where a row is a scalar
        corner = rng.random(first.shape) < 0.4
        first[corner] = rng.choice(np.array([kind.min, kind.max], t.dtype), int(corner.sum()))
        out.append(xs)
    return out


def check(data: bytes, configs, backends=("golden", "iss"), seed=0) -> int:
    """Compare every backend (and configuration) with TensorFlow Lite Micro on two inputs. Raises Mismatch.

    Returns how many comparisons were left out because the model truly does not fit a preset's memories.
    """
    skipped = 0
    xs = inputs(data, seed)
    want = references(data, xs)
    model = load_model(data, "fuzz")
    for backend in backends:
        for config in configs if backend != "golden" else configs[:1]:
            where = backend if backend == "golden" else f"{backend} {config.name}"
            try:
                made = _CheckedSession
                hindered = backend == "rtl" and seed % 4 >= 2
                if hindered and config.memory_width:
                    made = _DisturbedSession
                session = made(model, config, backend, memory=random_memory(seed) if config.memory_width else Memory())
                if hindered and not config.memory_width:
                    session._program = external_program(model, config)
                found = session.run(xs)
                every = list(found.values()) if isinstance(found, dict) else [found]
            except (CompileError, IssError, ModelError) as error:
                if isinstance(error, CompileError) and config in RTL_CONFIGS and too_large(model, config):
                    skipped += 1
                    continue
                raise Mismatch(f"{where}: {type(error).__name__}: {error}") from None
            except Exception as error:  # a crash is a finding, too, and shrinks
                raise Mismatch(f"{where}: {type(error).__name__}: {error}") from error
            for k, (got, y) in enumerate(zip(every, want, strict=True)):
                if got.dtype != y.dtype:
                    raise Mismatch(f"{where}: output {k} is {got.dtype}, TFLM's {y.dtype}: they differ")
                got = got.reshape(y.shape)
                wrong = np.argwhere(got != y)
                if len(wrong):
                    at = tuple(int(i) for i in wrong[0])
                    what = f"output {k}: " if k else ""
                    raise Mismatch(
                        f"{where}: {what}{len(wrong)} of {y.size} bytes differ from TFLM, the first at {at}: "
                        f"{got[at]} for {y[at]}"
                    )
            if backend == "rtl" and not hindered and not session.program.external:
                _check_cycles(session, where)
    return skipped


def _check_cycles(session: Session, where):
    """The cycle model and the RTL's counters agree."""
    program = session.program
    steps = [step for step in program.steps if isinstance(step, NpuStep)]
    want = sum(program.predict(step.pc).cycles for step in steps)
    got = (session.report or {}).get("cycles") or 0
    if program.config.memory_width:
        if not got <= want <= BOUND * got:
            raise Mismatch(f"{where}: {got} cycles are not bounded by the cycle model's {want}: they differ")
    elif got != want:
        raise Mismatch(f"{where}: {got} cycles differ from the cycle model's {want}")


def run_graph(seed: int, configs=None, backends=("golden", "iss")) -> int:
    """Compare the graph of a seed, at the configurations given or a random one. Raises Mismatch; result as `check`."""
    data = graph(seed)
    if backends == ("golden",):
        configs = configs or [PRESETS["small"]]  # not looked at
    return check(data, configs or [choose(seed, data)], backends, seed)


def choose(seed: int, data: bytes) -> NpuConfig:
    """A random configuration for a model. Raises Mismatch when the compiler refuses it."""
    try:
        return random_config(seed, data)
    except CompileError as error:
        raise Mismatch(f"compiler: {error}") from None
    except Exception as error:
        raise Mismatch(f"compiler: {type(error).__name__}: {error}") from error


def shrink(made: Graph, fails, progress=None) -> Graph:
    """A smaller graph for which `fails(graph)` still holds, tried greedily until nothing helps."""

    def candidates(g: Graph):
        if g.ends != ("int8", "int8"):
            yield replace(g, ends=("int8", "int8"))
        if g.outputs:
            yield prune(replace(g, outputs=()))
        for cut in range(1, len(g.nodes)):  # from the end
            yield prune(replace(g, nodes=g.nodes[:cut], outputs=tuple(v for v in g.outputs if v <= cut)))
        for drop in range(len(g.nodes)):  # one operator bypassed by its input
            if len(g.nodes) == 1:
                break
            for bypass in g.nodes[drop].inputs:
                number = [bypass if v == drop + 1 else v - (v > drop + 1) for v in range(len(g.nodes) + 1)]
                rest = [n for i, n in enumerate(g.nodes) if i != drop]
                rest = [replace(n, inputs=tuple(number[v] for v in n.inputs)) for n in rest]
                if number[len(g.nodes)] == len(g.nodes) - 1:
                    yield prune(replace(g, nodes=tuple(rest), outputs=tuple(number[v] for v in g.outputs)))
        try:
            writer = _Writer(g)
        except Invalid:
            return
        for v in range(1, len(g.nodes)):  # from the front: a value becomes the input
            if not g.outputs and all(not set(n.inputs) & set(range(v)) for n in g.nodes[v:]):
                rest = [replace(n, inputs=tuple(i - v for i in n.inputs)) for n in g.nodes[v:]]
                yield Graph(writer.shape(v), writer.quant(v), tuple(rest))
        for axis in range(1, len(g.shape)):
            for size in (g.shape[axis] // 2, g.shape[axis] - 1):
                if 1 <= size < g.shape[axis]:
                    yield replace(g, shape=(*g.shape[:axis], size, *g.shape[axis + 1 :]))
        for i, n in enumerate(g.nodes):
            for key, values in (
                ("channels", [n.attrs.get("channels", 1) // 2, n.attrs.get("channels", 1) - 1]),
                ("dilation", [(1, 1)]),
                ("stride", [(1, 1)]),
                ("activation", [0]),
                ("multiplier", [1]),
                ("kernel", [(1, 1), *((k, k) for k in range(2, min(n.attrs.get("kernel", (0,)))))]),
            ):
                for value in values:
                    if (
                        key in n.attrs
                        and n.attrs[key] != value
                        and value != 0
                        or key == "activation"
                        and n.attrs.get(key)
                    ):
                        changed = replace(n, attrs={**n.attrs, key: value})
                        yield replace(g, nodes=(*g.nodes[:i], changed, *g.nodes[i + 1 :]))

    again = True
    while again:
        again = False
        for smaller in candidates(made):
            if smaller.nodes and valid(smaller) and fails(smaller):
                made, again = smaller, True
                if progress:
                    progress(made)
                break
    return made


def keep(seed: int, config: NpuConfig | None, backends, error: Mismatch, folder: Path = FOLDER):
    """Shrink the failing graph of a seed and write it; (file, graph, what is wrong with the small one).

    config: None for the random configuration of the seed, which follows the graph's size.
    """
    message = [str(error)]

    def kind(text):
        return [
            word for word in ("CompileError", "IssError", "ModelError", "Error", "golden", "differ") if word in text
        ]

    def fails(g):
        data = g.to_bytes()
        try:
            golden = backends == ("golden",)
            check(data, [config or (PRESETS["small"] if golden else choose(seed, data))], backends, seed)
        except Mismatch as wrong:
            if kind(str(wrong)) != kind(message[0]):
                return False
            message[0] = str(wrong)
            return True
        return False

    small = shrink(random_graph(seed), fails)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"seed{seed}.tflite"
    path.write_bytes(small.to_bytes())
    return path, small, message[0]


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.verif.random.graphs", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="graphs (default 2000)")
    parser.add_argument("--seed", type=int, help="first seed (default: random)")
    parser.add_argument(
        "--backend", choices=("golden", "iss", "rtl"), default="iss", help="what to compare (default iss)"
    )
    parser.add_argument("--memory", action="store_true", help="machines with a memory port and few activations")
    parser.add_argument("--max-failures", type=int, default=5, help="stop after this many (default 5)")
    args = parser.parse_args(arguments)
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    first = secrets.randbelow(1 << 31) if args.seed is None else args.seed
    backends = {"golden": ("golden",), "iss": ("golden", "iss"), "rtl": ("rtl",)}[args.backend]
    where = " with a memory port" if args.memory else ""
    print(f"seed {first}: {args.count} graphs on {' and '.join(backends)}{where} against TensorFlow Lite Micro")
    failures: list[int] = []
    operators: dict[str, int] = {}
    done = skipped = 0
    columns = (*Progress.get_default_columns()[:3], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("graphs", total=args.count)
        for seed in range(first, first + args.count):
            config = memory_config(seed) if args.memory and args.backend == "iss" else None
            if args.backend == "rtl":
                config = (MEMORY_CONFIGS if args.memory else RTL_CONFIGS)[seed % 2]
            made = random_graph(seed)
            for n in made.nodes:
                operators[n.op] = operators.get(n.op, 0) + 1
            try:
                skipped += run_graph(seed, config and [config], backends)
            except Mismatch as error:
                path, small, message = keep(seed, config, backends, error)
                failures.append(seed)
                progress.console.print(f"seed {seed}: {message}\n  {small}\n  kept in {path}", soft_wrap=True)
            done += 1
            progress.update(task, advance=1)
            if len(failures) >= args.max_failures:
                break
    print(", ".join(f"{n} {op}" for op, n in sorted(operators.items(), key=lambda item: -item[1])))
    print(
        f"seed {first}: {done} graphs, {skipped} too large, {len(failures)} mismatches"
        + (f" (seeds {failures})" if failures else "")
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

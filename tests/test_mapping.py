"""Operators on the array: what moves bytes, broadcast and constant operands, reductions, transposed convolutions.

Each model is run by the instruction-set simulator, which refuses what depends on timing, and by the golden model, whose
kernels are held to the interpreter elsewhere; nothing may be left to the host.
"""

from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.spec.isa import Region, word_bytes
from lepton.sw.compiler import Compiler, NpuStep
from lepton.sw.compiler.movement import NotStrided, pieces
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.cycles import predict
from lepton.sw.session import Session
from lepton.verif.random.graphs import _CheckedSession
from lepton.verif.random.tflite_builder import build

SMALL = get_config("small")
CONFIGS = (
    SMALL,
    NpuConfig("odd6x9", rows=6, cols=9, lanes=3, pe="paired", acc_depth=240, weight_tiles=8192),
)
QUANT = (0.05, -3)


def act(*shape, quant=QUANT):
    return (shape, *quant, None, 0)


def integers(values):
    values = np.array(values, np.int32)
    return (values.shape, None, 0, values, 0)


def constant(shape, quant=(0.03, 5), seed=1):
    return (shape, *quant, np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8), 0)


def network(tensors, operators, inputs=(0,), outputs=None):
    return load_model(build(tensors, operators, list(inputs), list(outputs or operators[-1][2])), "net")


def one(op, x, extra, y, options=None, kind=None):
    """A model of one operator: its activation first, then `extra` tensors, then the output(s)."""
    ys = y if isinstance(y, list) else [y]
    tensors = [x, *extra, *ys]
    last = 1 + len(extra)
    table = (kind, options or {}) if kind else None
    return network(tensors, [(op, list(range(last)), list(range(last, len(tensors))), table)])


def inputs(made, rows=3):
    rng = np.random.default_rng(7)
    shapes = [made.tensors[t].shape for t in made.inputs]
    xs = [rng.integers(-128, 128, (rows, *s[1:])).astype(np.int8) for s in shapes]
    for x in xs:
        x[0].flat[:: max(1, x[0].size // 7)] = -128
    return xs if len(xs) > 1 else xs[0]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    return np.array_equal(a, b)


def on_array(made, configs=CONFIGS, layers=None):
    """Nothing on the host, and the same bytes; `layers`: how many the array computes, for the first configuration."""
    x = inputs(made)
    want = Session(made, configs[0], "golden").run(x)
    for config in configs:
        session = _CheckedSession(made, config, "iss")
        assert session.program.why_host == {}
        assert same(session.run(x), want), config.name
        if layers is not None:
            assert len(session.program.layers) == layers
    return Session(made, configs[0], "iss").program


# --- Bytes that move -----------------------------------------------------------------------------------------------


def strided(shape, begin, end, strides, y, **masks):
    extra = [integers(begin), integers(end), integers(strides)]
    return one("STRIDED_SLICE", act(*shape), extra, act(*y), masks, "StridedSliceOptions")


@pytest.mark.parametrize(
    "made",
    [
        strided((1, 6, 7, 5), (0, 1, 2, 1), (1, 5, 6, 4), (1, 1, 1, 1), (1, 4, 4, 3)),
        strided((1, 9, 8, 16), (0, 0, 0, 0), (1, 9, 8, 16), (1, 2, 3, 1), (1, 5, 3, 16)),
        strided((1, 9, 8, 17), (0, 0, 0, 1), (1, 9, 8, 17), (1, 1, 1, 3), (1, 9, 8, 6)),
        strided((1, 5, 6, 3), (0, 4, 5, 2), (1, -9, -9, -9), (1, -1, -2, -1), (1, 5, 3, 3), EndMask=14),
        strided((1, 40, 3), (0, 7, 0), (1, 39, 3), (1, 2, 1), (1, 16, 3)),
    ],
    ids=["corner", "every second row, third column", "every third channel", "backwards", "rank 3"],
)
def test_slices(made):
    on_array(made, layers=1)


@pytest.mark.parametrize(
    "shape, perm",
    [
        ((1, 6, 9, 5), (0, 3, 1, 2)),
        ((1, 6, 9, 5), (0, 2, 1, 3)),
        ((1, 3, 8, 16), (0, 2, 3, 1)),
        ((1, 7, 24), (0, 2, 1)),
        ((1, 4, 5, 2, 6), (0, 1, 2, 4, 3)),  # the shuffle of channels
        ((1, 3, 2, 4, 5), (0, 3, 1, 4, 2)),
    ],
)
def test_transposes(shape, perm):
    made = one("TRANSPOSE", act(*shape), [integers(perm)], act(*(shape[i] for i in perm)), {}, "TransposeOptions")
    on_array(made, layers=1)


@pytest.mark.parametrize("shape, size", [((1, 3, 4, 5), (6, 8)), ((1, 5, 3, 16), (10, 3)), ((1, 2, 2, 3), (6, 8))])
def test_nearest_neighbours_by_whole_factors(shape, size):
    made = one(
        "RESIZE_NEAREST_NEIGHBOR",
        act(*shape),
        [integers(size)],
        act(1, *size, shape[3]),
        {},
        "ResizeNearestNeighborOptions",
    )
    on_array(made, layers=1)


def test_nearest_neighbours_by_any_factor():
    made = one(
        "RESIZE_NEAREST_NEIGHBOR", act(1, 5, 7, 6), [integers((7, 10))], act(1, 7, 10, 6), {},
        "ResizeNearestNeighborOptions",
    )  # fmt: skip
    on_array(made)


@pytest.mark.parametrize(
    "shape, pads",
    [
        ((1, 4, 5, 3), ((0, 0), (1, 2), (0, 3), (2, 1))),
        ((1, 4, 5, 8), ((0, 0), (0, 0), (0, 0), (0, 8))),
        ((1, 6, 9), ((0, 0), (2, 1), (0, 4))),
        ((1, 21), ((0, 0), (3, 5))),
    ],
)
def test_padding_of_any_dimensions(shape, pads):
    out = tuple(d + a + b for d, (a, b) in zip(shape, pads))
    extra = [integers(pads), ((1,), *QUANT, np.array([77], np.int8), 0)]
    on_array(one("PADV2", act(*shape), extra, act(*out), {}, "PadV2Options"), layers=1)


@pytest.mark.parametrize("axis, shapes", [(3, ((1, 4, 5, 3), (1, 4, 5, 7))), (2, ((1, 4, 2, 8), (1, 4, 5, 8)))])
def test_concatenation_with_constants(axis, shapes):
    out = list(shapes[0])
    out[axis] += shapes[1][axis]
    made = one("CONCATENATION", act(*shapes[0]), [constant(shapes[1], QUANT)], act(*out), {"Axis": axis},
               "ConcatenationOptions")  # fmt: skip
    on_array(made, layers=1)


def test_rows_are_joined_where_they_are_made():
    """Both halves are written into the joined map by the convolutions; joining them is no work."""
    shape = (1, 4, 4, 8)
    tensors = [act(*shape), *weights(8, 3, 3, 8), act(*shape), *weights(8, 1, 1, 8, seed=2), act(*shape)]
    tensors += [act(1, 8, 4, 8)]
    conv = ("Conv2DOptions", dict(Padding=0, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1))
    operators = [("CONV_2D", [0, 1, 2], [3], conv), ("CONV_2D", [0, 4, 5], [6], conv)]
    operators += [("CONCATENATION", [6, 3], [7], ("ConcatenationOptions", {"Axis": 1}))]
    program = on_array(network(tensors, operators), layers=2)
    assert program.places[6].address == program.places[7].address
    assert program.places[3].address == program.places[7].address + 4 * 4 * 8
    on_array(network(tensors, operators, outputs=(7, 3)), layers=3)  # as an output, too, it is copied


def test_a_part_that_another_operator_reads_is_copied():
    shape = (1, 4, 4, 8)
    tensors = [act(*shape), act(*shape), act(*shape), act(1, 8, 4, 8), act(*shape)]
    operators = [
        ("TANH", [0], [1], None),
        ("MAX_POOL_2D", [1], [2], pool(3)),
        ("CONCATENATION", [1, 2], [3], ("ConcatenationOptions", {"Axis": 1})),
    ]
    tensors[1] = tensors[2] = act(*shape, quant=(1 / 128, 0))
    tensors[3] = act(1, 8, 4, 8, quant=(1 / 128, 0))
    program = on_array(network(tensors[:4], operators), layers=3)
    assert program.places[2].address == program.places[3].address + 128  # the pooled one is in place
    assert program.places[1].address != program.places[3].address


def pool(size):
    return ("Pool2DOptions", dict(Padding=0, StrideH=1, StrideW=1, FilterHeight=size, FilterWidth=size))


def weights(cout, kh, kw, cin, seed=1, depthwise=False):
    """Weights and bias; the output is to have QUANT."""
    rng = np.random.default_rng(seed)
    shape = (1, kh, kw, cout) if depthwise else (cout, kh, kw, cin)
    data = rng.integers(-127, 128, shape).astype(np.int8)
    scale = 0.01 * rng.uniform(0.5, 2, cout).astype(np.float32) / np.sqrt(kh * kw * cin)
    bias = rng.integers(-900, 900, cout).astype(np.int32)
    return [(shape, scale, 0, data, 3 if depthwise else 0), ((cout,), QUANT[0] * scale, 0, bias, 0)]


def test_a_slice_of_rows_is_a_view():
    """Rows 2 to 5 are read where they lie, also as an output, and beside the whole."""
    made = network(
        [act(1, 8, 4, 3), integers((0, 2, 0, 0)), integers((1, 6, 4, 3)), integers((1, 1, 1, 1)), act(1, 4, 4, 3)]
        + [act(1, 4, 4, 3, quant=(1 / 128, 0)), act(1, 8, 4, 3)],
        [
            ("MAX_POOL_2D", [0], [6], pool(2)),
            ("STRIDED_SLICE", [6, 1, 2, 3], [4], ("StridedSliceOptions", {})),
            ("TANH", [4], [5], None),
        ],
    )
    program = on_array(made, layers=2)
    assert program.places[4].address == program.places[6].address + 2 * 4 * 3


def test_bytes_that_follow_no_pattern_stay_on_the_host():
    """A gather by a random list is no few strided pieces."""
    made = one(
        "RESIZE_NEAREST_NEIGHBOR", act(1, 37, 41, 1), [integers((100, 97))], act(1, 100, 97, 1), {},
        "ResizeNearestNeighborOptions",
    )  # fmt: skip
    with pytest.raises(NotStrided, match="a few strided pieces"):
        pieces(made, made.operators[0])
    assert "pieces" in Compiler(made, SMALL).why_host[0]


# --- Value by value ------------------------------------------------------------------------------------------------

KINDS = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}
OUT = {"ADD": (0.07, 4), "SUB": (0.07, 4), "MUL": (0.1, -9)}


def binary(op, shapes, constants=(), order=1, activation=1):
    """a op b (order -1: b op a); `constants`: which of the operands are."""
    y = act(*np.broadcast_shapes(*shapes), quant=OUT[op])
    tensors = [constant(s, (0.03, 5), 3) if i in constants else act(*s, quant=((0.05, -3), (0.03, 5))[i])
               for i, s in enumerate(shapes)]  # fmt: skip
    options = (KINDS[op], {"FusedActivationFunction": activation})
    given = [i for i in range(2) if i not in constants]
    return network([*tensors, y], [(op, [0, 1][::order], [2], options)], given)


@pytest.mark.parametrize("op", KINDS)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shape", [(1, 1, 1, 20), (20,), (1, 1, 7, 1), (1, 5, 1, 1), (1, 5, 7, 20)], ids=str)
def test_an_operand_that_is_constant(op, order, shape):
    on_array(binary(op, [(1, 5, 7, 20), shape], (1,), order), layers=1)


def test_large_constants_are_brought_as_operands():
    """A constant map has too many vectors for instructions of their own."""
    on_array(binary("SUB", [(1, 8, 8, 20), (1, 8, 8, 20)], (1,)), (replace(SMALL, cols=4, lanes=4),), layers=1)


@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (1, 4, 6, 5)])
def test_a_product_with_the_farthest_factors(shape):
    """-128 and 127 less the zero point are more than a weight holds."""
    for zero in (-128, 127):
        tensors = [act(1, 4, 6, 5), ((1, 1, 1, 5), 0.03, zero, np.array([-128, 127, 0, -1, 1], np.int8), 0)]
        made = network([*tensors, act(1, 4, 6, 5, quant=(2.0, 0))], [("MUL", [0, 1], [2], ("MulOptions", {}))])
        on_array(made, layers=1)


@pytest.mark.parametrize("op", KINDS)
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shape", [(1, 1, 1, 20), (1, 5, 7, 1), (1, 5, 1, 20)], ids=str)
def test_a_broadcast_operand(op, order, shape):
    """Squeeze and excite, attention by pixel, by row."""
    x = network(
        [act(1, 5, 7, 20), act(*shape, quant=(0.03, 5)), integers(reduced(shape)), act(1, 5, 7, 20, quant=OUT[op])],
        [
            ("MEAN", [0, 2], [1], ("ReducerOptions", {"KeepDims": True})),
            (op, [0, 1][::order], [3], (KINDS[op], {})),
        ],
    )
    on_array(x, layers=2)


def reduced(shape):
    """Axes of (1, 5, 7, 20) that are 1 in the shape."""
    return [i for i in (1, 2, 3) if shape[i] == 1]


@pytest.mark.parametrize("op", ["MAXIMUM", "MINIMUM"])
@pytest.mark.parametrize("shape", [(1, 5, 7, 20), (1, 1, 1, 20), (1, 1, 1, 1), (20,)], ids=str)
def test_extremes(op, shape):
    operators = [(op, [0, 1], [2], ("MaximumMinimumOptions", {}))]
    second = constant(shape, QUANT)
    if shape[:2] == (1, 5):
        operators, second = [("MAX_POOL_2D", [0], [1], pool(2)), *operators], act(*shape)
    made = network([act(1, 5, 7, 20), second, act(1, 5, 7, 20)], operators)
    on_array(made)


def test_prelu_with_a_slope_for_each_channel():
    slopes = ((1, 1, 20), 0.007, 3, np.random.default_rng(2).integers(-128, 128, (1, 1, 20)).astype(np.int8), 0)
    made = network([act(1, 5, 7, 20), slopes, act(1, 5, 7, 20, quant=(0.04, 9))], [("PRELU", [0, 1], [2], None)])
    on_array(made, layers=1)


# --- Reductions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("axes", [(1,), (2,), (3,), (1, 2), (2, 3), (1, 3), (1, 2, 3)], ids=str)
def test_means_along_any_axes(axes, keep):
    shape = (1, 6, 7, 20)
    y = [1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes]
    made = one("MEAN", act(*shape), [integers(axes)], act(*y, quant=(0.02, 11)), {"KeepDims": keep}, "ReducerOptions")
    on_array(made, layers=1)


def test_means_of_many_values():
    """Beyond 128 values a tile for each is too much: vector after vector into one entry."""
    for shape, axes in (((1, 200, 9), (1,)), ((1, 3, 500), (2,))):
        y = [d for i, d in enumerate(shape) if i not in axes]
        made = one("MEAN", act(*shape), [integers(axes)], act(*y, quant=(0.02, 11)), {}, "ReducerOptions")
        on_array(made, layers=1)


@pytest.mark.parametrize("op", ["REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize("shape, axes", [((1, 6, 4, 20), (1,)), ((1, 6, 5, 3), (2,)), ((1, 6, 4, 20), (1, 2)),
                                         ((1, 4, 37), (2,)), ((1, 31, 1, 9), (1,))])  # fmt: skip
def test_extremes_along_axes(op, shape, axes):
    y = [d for i, d in enumerate(shape) if i not in axes]
    on_array(one(op, act(*shape), [integers(axes)], act(*y), {}, "ReducerOptions"), layers=1)


# --- Convolutions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel, stride, padding",
    [((3, 3), (2, 2), 0), ((2, 2), (2, 2), 1), ((4, 4), (2, 2), 0), ((3, 5), (1, 3), 1), ((2, 1), (3, 2), 1),
     ((5, 5), (2, 2), 1), ((1, 1), (2, 2), 0)],
)  # fmt: skip
def test_transposed_convolutions(kernel, stride, padding):
    h, w, cin, cout = 5, 4, 6, 11
    y = [d * s if padding == 0 else (d - 1) * s + k for d, s, k in zip((h, w), stride, kernel)]
    if padding == 1:  # where the stride is above the kernel, VALID outputs may end with rows that no input reaches
        y = [max(d * s, n) if k < s else n for d, s, k, n in zip((h, w), stride, kernel, y)]
        y = [n if (n + s - k) // s == d else (d - 1) * s + k for n, d, s, k in zip(y, (h, w), stride, kernel)]
    tensors = [act(1, h, w, cin), *weights(cout, *kernel, cin), integers((1, *y, cout)), act(1, *y, cout)]
    options = ("TransposeConvOptions", dict(Padding=padding, StrideH=stride[0], StrideW=stride[1]))
    on_array(network(tensors, [("TRANSPOSE_CONV", [3, 1, 0, 2], [4], options)]), layers=1)


@pytest.mark.parametrize("rows", [2, 37, 300])
def test_fully_connected_of_many_rows(rows):
    tensors = [act(1, rows, 13), *weights(9, 1, 1, 13), act(1, rows, 9)]
    shape, *rest = tensors[1]
    tensors[1] = ((9, 13), *rest[:2], rest[2].reshape(9, 13), 0)
    options = ("FullyConnectedOptions", {"KeepNumDims": True})
    on_array(network(tensors, [("FULLY_CONNECTED", [0, 1, 2], [3], options)]), layers=1)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_padding_is_read_by_the_convolution(depthwise, stride):
    pads = ((0, 0), (1, 2), (2, 0), (0, 0))
    oh, ow = (6 + 3 - 3) // stride + 1, (8 + 2 - 3) // stride + 1
    tensors = [act(1, 6, 8, 8), integers(pads), act(1, 9, 10, 8), *weights(8, 3, 3, 8, depthwise=depthwise)]
    tensors += [act(1, oh, ow, 8)]
    options = dict(Padding=1, StrideH=stride, StrideW=stride, DilationHFactor=1, DilationWFactor=1)
    if depthwise:
        options["DepthMultiplier"] = 1
    name, kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions") if depthwise else ("CONV_2D", "Conv2DOptions")
    operators = [("PAD", [0, 1], [2], ("PadOptions", {})), (name, [2, 3, 4], [5], (kind, options))]
    program = on_array(network(tensors, operators), layers=1)
    assert program.layers[0].name == f"PAD+{name}" and program.layers[0].operators == (1, 0) and 2 not in program.places
    # As an output, too, it is made.
    on_array(network(tensors, operators, outputs=(5, 2)), layers=2)


@pytest.mark.parametrize("extra", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [3, 5])
def test_rows_as_long_as_the_line_buffers(kernel, extra):
    """A depthwise row and its taps fill the line buffers, or are some bytes longer and are cut into two.

    A `_width_limit` that lets width + taps = line_depth + 1 through makes an instruction that the machine refuses, or
    that reads the row above a byte too early.
    """
    config = replace(SMALL, line_depth=24)
    width = config.line_depth - config.taps - 2 + extra
    tensors = [act(1, 5, width, 8), *weights(8, kernel, kernel, 8, depthwise=True), act(1, 5, width, 8)]
    options = dict(Padding=0, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1, DepthMultiplier=1)
    made = network(tensors, [("DEPTHWISE_CONV_2D", [0, 1, 2], [3], ("DepthwiseConv2DOptions", options))])
    on_array(made, (config,), layers=1)


@pytest.mark.parametrize("width", [20, 21, 22, 60])
@pytest.mark.parametrize("behind", ["MAX_POOL_2D", "ADD"])
def test_rows_as_long_as_the_line_buffers_with_a_layer_behind(width, behind):
    """What is fused into a depthwise convolution cuts its rows as well."""
    config = replace(SMALL, line_depth=24)
    tensors = [act(1, 6, width, 8), *weights(8, 3, 3, 8, depthwise=True), act(1, 6, width, 8)]
    options = dict(Padding=0, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1, DepthMultiplier=1)
    operators = [("DEPTHWISE_CONV_2D", [0, 1, 2], [3], ("DepthwiseConv2DOptions", options))]
    if behind == "ADD":
        operators.append(("ADD", [3, 0], [4], ("AddOptions", {})))
        tensors.append(act(1, 6, width, 8, quant=(0.08, 2)))
    else:
        pooled = ("Pool2DOptions", dict(Padding=1, StrideH=2, StrideW=2, FilterHeight=2, FilterWidth=2))
        operators.append(("MAX_POOL_2D", [3], [4], pooled))
        tensors.append(act(1, 3, width // 2, 8))
    on_array(network(tensors, operators), (config,), layers=1)


# --- The RTL -------------------------------------------------------------------------------------------------------


def chain(alike: bool):
    """Three convolutions of one geometry and scale; with the same weights, or not."""
    channels = 2 * SMALL.cols
    (shape, scale, zero, data, axis), bias = weights(channels, 3, 3, channels)
    tensors, operators = [act(1, 6, 6, channels), bias], []
    for k in range(3):
        kernel = data if alike else np.roll(data, k, axis=0)
        tensors += [(shape, scale, zero, kernel, axis), act(1, 6, 6, channels)]
        x, w = (0 if k == 0 else 2 * k + 1), 2 * k + 2
        options = dict(Padding=0, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1)
        operators.append(("CONV_2D", [x, w, 1], [w + 1], ("Conv2DOptions", options)))
    return network(tensors, operators)


@pytest.mark.parametrize("kept", [4096, 8])  # tiles in the weight store; the others are behind the burst port
def test_what_several_layers_use_is_stored_once(kept):
    config = replace(SMALL, name="own", memory_width=0, memory_bytes=0, weight_tiles=kept + 64, ring_tiles=64)
    stored, cycles = [], []
    for made in (chain(True), chain(False)):
        p = on_array(made, [config], layers=3)
        assert bool(p.external) == (kept == 8)
        stored.append((len(p.tiles + p.external), len(p.params), p.shared[Region.WEIGHT]))
        cycles.append(predict(config, p.words, p.tiles, external=p.external).cycles)
    tiles = stored[0][0] // word_bytes(Region.WEIGHT, config)
    assert stored[1] == (3 * stored[0][0], 3 * stored[0][1], 0) and stored[0][2] == 2 * tiles
    assert cycles[0] == cycles[1]


@pytest.mark.parametrize(
    "made",
    [
        one("TRANSPOSE", act(1, 3, 8, 6), [integers((0, 3, 1, 2))], act(1, 6, 3, 8), {}, "TransposeOptions"),
        binary("MUL", [(1, 3, 4, 12), (1, 1, 1, 12)], (1,)),
        binary("SUB", [(1, 3, 4, 12), (1, 3, 4, 12)], (0,)),
        one("MEAN", act(1, 5, 3, 9), [integers((1,))], act(1, 3, 9), {}, "ReducerOptions"),
    ],
    ids=["transpose", "constant factors", "constant map", "mean"],
)
def test_the_rtl_does_the_same(made):
    x = inputs(made, 1)
    session = Session(made, SMALL, "rtl")
    assert same(session.run(x), Session(made, SMALL, "golden").run(x))
    program = session.program
    pcs = [step.pc for step in program.steps if isinstance(step, NpuStep)]
    assert session.report["cycles"] == sum(predict(SMALL, program.words, program.tiles, pc).cycles for pc in pcs)

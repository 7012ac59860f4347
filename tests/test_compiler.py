"""The compiler: what it refuses and why, where it puts things, what it fuses."""

from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.sw.compiler import CompileError, Compiler, HostStep, NpuStep, compile_model
from lepton.sw.compiler.emitter import Window
from lepton.sw.compiler.placement import place_tensors
from lepton.sw.compiler.pooling import average_regions
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.sw.session import Session
from lepton.verif.random.graphs import Graph, Node
from lepton.verif.random.tflite_builder import build, one_operator

SMALL = get_config("small")
PLAIN = replace(SMALL, memory_width=0, memory_bytes=0)
CONV = dict(kernel=(3, 3), stride=(1, 1), dilation=(1, 1), padding="SAME", channels=8, activation=1)


def conv(*inputs, seed=1, **attrs):
    return Node("CONV_2D", inputs or (0,), {**CONV, **attrs}, seed, (1.0, 4))


def pool(op, value, size, **attrs):
    kept = dict(kernel=(size, size), stride=(size, size), padding="VALID", activation=0)
    return Node(op, (value,), {**kept, **attrs})


def spread(value):
    """A map as large as the one it is made of."""
    return Node("MAX_POOL_2D", (value,), dict(kernel=(3, 3), stride=(1, 1), padding="SAME", activation=0))


SPREAD = spread(0)


def model(*nodes, shape=(1, 8, 8, 3)):
    return load_model(Graph(shape, (0.05, -3), nodes).to_bytes(), "net")


def instructions(program, op):
    at = 0
    while at < len(program.words):
        kind, fields = isa.decode(program.words, at)
        if kind is op:
            yield fields
        at += kind.words


def exact(made, config):
    """The instruction-set simulator and the golden model agree on three inputs."""
    x = np.random.default_rng(0).integers(-128, 128, (3, *made.tensors[made.inputs[0]].shape[1:])).astype(np.int8)
    return np.array_equal(Session(made, config, "iss").run(x), golden.run(made, x))


# --- What does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"weight_tiles": 16}, "weights need weight_tiles="),
        ({"params": 16}, "parameters need params=32,"),
        ({"program_words": 64}, "instructions need program_words="),
        ({"act_bytes": 256}, "activations need"),
        ({"memory_bytes": 4096, "memory_width": 16}, "image and arena need memory_bytes="),
    ],
)
def test_too_small_a_memory_is_named_with_the_numbers(changes, words):
    deep = model(conv(), conv(1, seed=2), conv(2, seed=3), conv(3, seed=4), shape=(1, 24, 24, 8))
    compile_model(deep, PLAIN)
    with pytest.raises(CompileError, match=words) as error:
        compile_model(deep, replace(PLAIN, name="less", **changes))
    text = str(error.value)
    limit = next(iter(changes.values()))
    assert "\n" not in text and text.startswith("net: ") and "'less'" in text and f"{limit:,}" in text


def test_a_pooling_window_larger_than_the_accumulators():
    made = model(pool("MAX_POOL_2D", 0, 7), shape=(1, 14, 14, 4))
    less = replace(SMALL, acc_depth=32)
    assert Compiler(made, less).why_host[0] == "a window of 7x7 needs 49 accumulators, acc_depth is 32"
    for config in (less, replace(SMALL, acc_depth=49)):
        program = compile_model(made, config)
        assert program.steps == [HostStep(0)] if config is less else [layer.name for layer in program.layers]
        assert exact(made, config)


POOL = dict(Padding=0, StrideH=1, StrideW=1, FilterHeight=3, FilterWidth=3)


def pooling(shape, op="MAX_POOL_2D", **options):
    options = {**POOL, **options}
    return pool_of(op, shape, "Pool2DOptions", options)


def pool_of(op, shape, kind, options, *others):
    """A model of one operator whose output has its input's shape and scale."""
    tensors = [(shape, 0.1, 3, None, 0), *others, (shape, 0.1, 3, None, 0)]
    last = len(tensors) - 1
    return load_model(one_operator(op, tensors, list(range(last)), [last], options, kind))


@pytest.mark.parametrize(
    "made, reason",
    [
        (lambda: pooling((1, 4, 4, 8200)), "a row of more than 32767 bytes"),
        (lambda: pooling((1, 2100, 1, 4)), "more than 2047 rows or 4095 columns"),
        (lambda: pooling((1, 2, 4200, 1), "AVERAGE_POOL_2D"), "more than 2047 rows or 4095 columns"),
        (lambda: pooling((1, 40, 40, 1), FilterHeight=17), "a window above 15"),
        (
            lambda: pooling((1, 140, 2, 1), "AVERAGE_POOL_2D", FilterHeight=130),
            "a window of more than 128 rows or 32767 bytes",
        ),
    ],
)
def test_what_no_field_holds_runs_on_the_host(made, reason):
    made, roomy = made(), replace(SMALL, act_bytes=2**20)
    assert Compiler(made, roomy).why_host[0] == reason
    assert compile_model(made, roomy).steps == [HostStep(0)] and exact(made, roomy)


def test_a_batch_in_the_middle_runs_on_the_host():
    """Two maps after a RESHAPE: the array would pool only the first."""
    shapes = [(1, 8, 4, 4), (2, 4, 4, 4), (2, 4, 4, 4), (1, 8, 4, 4)]
    tensors = [(shape, 0.1, 3, None, 0) for shape in shapes]
    tensors += [((4,), None, 0, np.array(shape, np.int32), 0) for shape in (shapes[1], shapes[3])]
    operators = [
        ("RESHAPE", [0, 4], [1], None),
        ("MAX_POOL_2D", [1], [2], ("Pool2DOptions", POOL)),
        ("RESHAPE", [2, 5], [3], None),
    ]
    made = load_model(build(tensors, operators, [0], [3]))
    assert Compiler(made, SMALL).why_host[1] == "a batch of more than one"
    assert exact(made, SMALL)


def test_rows_as_long_as_the_fields_hold():
    made = pooling((1, 3, 4095, 8), FilterHeight=2, FilterWidth=2)
    roomy = replace(SMALL, act_bytes=2**20, program_words=2**16)
    assert Compiler(made, roomy).why_host == {0: None} and exact(made, roomy)


@pytest.mark.parametrize("kernel, stride", [((3, 3), (1, 1)), ((3, 3), (2, 2)), ((5, 2), (1, 3)), ((7, 7), (2, 1))])
def test_average_pooling_with_padding_is_cut_into_regions_of_one_count(kernel, stride):
    attrs = dict(kernel=kernel, stride=stride, padding="SAME", activation=0)
    made = model(Node("AVERAGE_POOL_2D", (0,), attrs), shape=(1, 9, 6, 5))
    assert names(made) == ["AVERAGE_POOL_2D"] and exact(made, SMALL)
    window = Window.of(made, made.operators[0])
    covered = np.zeros((window.oh, window.ow), int)
    for (oy, ox, height, width), _ in average_regions(window):
        covered[oy : oy + height, ox : ox + width] += 1
    assert (covered == 1).all()


# --- Placement -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_no_two_tensors_alive_at_one_time_overlap(seed):
    rng = np.random.default_rng(seed)
    sizes = {t: int(rng.integers(1, 1000)) for t in range(12)}
    births = {t: int(rng.integers(0, 12)) for t in sizes}
    lives = {t: (b, b + int(rng.integers(0, 4))) for t, b in births.items()}
    places = place_tensors(sizes, lives, 4096)
    for t in sizes:
        assert places[t] >= 0
        for u in range(t):
            apart = places[t] + sizes[t] <= places[u] or places[u] + sizes[u] <= places[t]
            assert apart or lives[t][1] < lives[u][0] or lives[u][1] < lives[t][0]


def test_a_chain_fits_where_input_and_output_fit():
    """Three maps of 800 bytes one after another: 1600 bytes are enough."""
    places = place_tensors(dict.fromkeys(range(4), 800), {0: (0, 1), 1: (1, 2), 2: (2, 3), 3: (3, 4)}, 1600)
    assert set(places.values()) == {0, 800}


def test_peak_is_reported_and_within_the_memory():
    chain = model(conv(), conv(1), conv(2), shape=(1, 8, 8, 8))
    program = compile_model(chain, SMALL)
    assert program.peak_bytes == 1024
    assert max(p.address + p.size for p in program.places.values()) == program.peak_bytes
    assert exact(chain, replace(SMALL, act_bytes=1024))


# --- Fusion --------------------------------------------------------------------------------------------------------


def names(made, config=SMALL):
    return [layer.name for layer in compile_model(made, config).layers]


@pytest.mark.parametrize("operands", [(2, 1), (1, 2)])
@pytest.mark.parametrize("op", ["ADD", "SUB"])
def test_a_residual_add_is_one_layer(op, operands):
    """Also a difference, with the convolution as the minuend or the subtrahend."""
    made = model(conv(), conv(1, seed=2), Node(op, operands, {"activation": 1}, 0, (1.0, 7)))
    assert names(made) == ["CONV_2D", f"CONV_2D+{op}"]
    assert exact(made, SMALL)


def test_a_difference_of_two_maps_runs_on_the_array():
    made = model(SPREAD, Node("SUB", (0, 1), {"activation": 0}, 0, (1.0, 7)))
    assert names(made) == ["MAX_POOL_2D", "SUB"] and exact(made, SMALL)
    assert [t["dual"] for t in instructions(compile_model(made, SMALL), isa.TAIL) if t["dual"]] == [3]


def test_no_fusion_of_a_value_that_others_read():
    made = model(
        conv(),
        conv(1, seed=2),
        Node("ADD", (2, 1), {"activation": 0}, 0, (1.0, 7)),
        Node("MUL", (3, 2), {"activation": 0}, 0, (1.0, 0)),
    )
    assert names(made) == ["CONV_2D", "CONV_2D", "ADD", "MUL"]
    assert exact(made, SMALL)


@pytest.mark.parametrize(
    "attrs, fused", [({}, True), ({"stride": (1, 1)}, False), ({"activation": 1}, False), ({"padding": "SAME"}, True)]
)
def test_max_pooling_is_fused_where_windows_tile_the_map(attrs, fused):
    made = model(conv(), pool("MAX_POOL_2D", 1, 2, **attrs))
    assert names(made) == (["CONV_2D+MAX_POOL_2D"] if fused else ["CONV_2D", "MAX_POOL_2D"])
    program = compile_model(made, SMALL)
    assert (made.operators[0].outputs[0] in program.places) == (not fused)
    assert exact(made, SMALL)


def test_max_pooling_is_not_fused_with_padding_or_too_few_accumulators():
    padded = model(conv(), pool("MAX_POOL_2D", 1, 3, padding="SAME"))
    assert names(padded) == ["CONV_2D", "MAX_POOL_2D"] and exact(padded, SMALL)


def test_reshape_costs_nothing():
    made = model(conv(), Node("RESHAPE", (1,), {"kind": "flat"}), shape=(1, 4, 4, 3))
    program = compile_model(made, SMALL)
    assert [layer.name for layer in program.layers] == ["CONV_2D"]
    assert program.places[made.operators[0].outputs[0]] == program.places[made.outputs[0]]


UNARY = ["LOGISTIC", "TANH", "LEAKY_RELU", "HARD_SWISH", "RELU", "RELU6", "QUANTIZE"]


@pytest.mark.parametrize("op", UNARY)
def test_a_unary_function_is_fused_into_the_convolution(op):
    made = model(conv(), Node(op, (1,), {"alpha": 0.1}, 0, (0.7, 11)))
    assert names(made) == [f"CONV_2D+{op}"] and exact(made, SMALL)
    program = compile_model(made, SMALL)
    assert made.operators[0].outputs[0] not in program.places
    assert all(t["table"] for t in instructions(program, isa.TAIL))


@pytest.mark.parametrize(
    "before",
    [
        (conv(), pool("MAX_POOL_2D", 1, 2)),
        (conv(), conv(1, seed=2), Node("ADD", (2, 1), {"activation": 1}, 0, (1.0, 7))),
        (Node("FULLY_CONNECTED", (0,), dict(channels=21, per_pixel=False, activation=0), 4, (1.0, 0)),),
        (Node("SUB", (0, 0), {"activation": 0}, 0, (1.0, 9)),),
        (pool("AVERAGE_POOL_2D", 0, 3, padding="SAME"),),
        (Node("MEAN", (0,), {"axes": (1, 2), "keep": True}, 0, (1.0, 3)),),
        (Node("PAD", (0,), {"pads": ((0, 0), (1, 2), (0, 1), (0, 0))}),),
        (Node("CONCATENATION", (0, 0), {"axis": 3}),),
        (Node("QUANTIZE", (0,), {}, 0, (0.6, 5)),),
    ],
    ids=lambda nodes: nodes[-1].op,
)
def test_a_unary_function_is_fused_into_any_layer(before):
    """Only bytes that are written pass the table, not the operands that go back to the accumulators."""
    made = model(*before, Node("TANH", (len(before),)))
    assert names(made)[-1].endswith("+TANH") and exact(made, SMALL)
    assert not any(t["table"] and t["to_acc"] for t in instructions(compile_model(made, SMALL), isa.TAIL))


def test_no_fusion_of_a_function_with_a_value_that_others_read():
    made = model(conv(), Node("TANH", (1,)), spread(1), Node("MUL", (2, 3), {"activation": 0}, 0, (1.0, 0)))
    assert names(made) == ["CONV_2D", "TANH", "MAX_POOL_2D", "MUL"] and exact(made, SMALL)


def test_operators_that_are_a_function_of_one_value_are_one_table():
    """x * logistic(x), hard swish from its parts, one function of another: fused into the convolution, all of them."""
    silu = model(conv(), Node("LOGISTIC", (1,)), Node("MUL", (1, 2), {"activation": 0}, 0, (1.0, 0)))
    assert names(silu) == ["CONV_2D+LOGISTIC+MUL"] and exact(silu, SMALL)
    two = model(Node("TANH", (0,)), Node("LOGISTIC", (1,)))
    assert names(two) == ["TANH+LOGISTIC"] and exact(two, SMALL)
    program = compile_model(silu, SMALL)
    assert not {t for op in silu.operators[:2] for t in op.outputs} & set(program.places)


def test_a_value_that_others_read_ends_a_function():
    """The tanh is read by a pooling too: it is stored, and the logistic is a layer of its own."""
    made = model(
        conv(),
        Node("TANH", (1,)),
        Node("LOGISTIC", (2,)),
        spread(2),
        Node("ADD", (3, 4), {"activation": 0}, 0, (1.0, 0)),
    )
    assert names(made) == ["CONV_2D+TANH", "LOGISTIC", "MAX_POOL_2D", "ADD"] and exact(made, SMALL)


# --- Input layout --------------------------------------------------------------------------------------------------


def test_the_first_layer_reads_stacked_rows_where_that_saves_tiles():
    """3x3x3: 27 bytes are 4 tiles of 8 rows, three times 9 would be 6."""
    made = model(conv())
    program = compile_model(made, SMALL)
    stack = program.places[made.inputs[0]].stack
    assert stack["kernel"] == 3 and program.places[made.inputs[0]].size == 8 * 10 * 9
    assert len(program.tiles) == 4 * isa.word_bytes(isa.Region.WEIGHT, SMALL)
    x = np.zeros(made.tensors[made.inputs[0]].shape, np.int8)
    packed = np.frombuffer(program.pack_input(made.inputs[0], x), np.int8).reshape(8, 10, 3, 3)  # oy, x, ky, c
    assert (packed[:, 1:-1, 1] == 0).all()
    assert (packed[:, 0] == -3).all() and (packed[0, :, 0] == -3).all() and (packed[-1, :, 2] == -3).all()
    assert exact(made, SMALL)


@pytest.mark.parametrize("channels, others", [(8, ()), (3, (Node("RELU6", (0,)), Node("TANH", (2,))))])
def test_other_inputs_are_as_they_are(channels, others):
    """With 8 channels stacking saves nothing; an input with two readers cannot be laid out for one."""
    made = model(conv(), *others, shape=(1, 8, 8, channels))
    assert compile_model(made, SMALL).places[made.inputs[0]].stack is None


# --- Steps and synchronisation -------------------------------------------------------------------------------------


def test_host_operators_cut_the_program():
    softmax = Node("SOFTMAX", (1,), {"beta": 1.0})
    made = model(conv(), softmax, Node("QUANTIZE", (2,), {}, 0, (1.0, 0)))
    steps = compile_model(made, SMALL).steps
    assert [type(s) for s in steps] == [NpuStep, HostStep, NpuStep] and steps[1].operator == 1
    assert exact(made, SMALL)


def test_every_posted_token_is_taken():
    made = model(conv(), conv(1), conv(2), Node("ADD", (3, 2), {"activation": 0}, 0, (1.0, 0)))
    program = compile_model(made, SMALL)
    posts = sum(t["post"] for t in instructions(program, isa.TAIL))
    waits = sum(m["wait"] for m in instructions(program, isa.MUL))
    assert posts == waits == 2


# --- Weights in external memory ------------------------------------------------------------------------------------

FC = dict(channels=40, per_pixel=False, activation=0)
RING = NpuConfig("ring", rows=4, cols=4, lanes=2, weight_tiles=48, ring_tiles=8)


def test_large_weights_go_to_external_memory():
    made = model(conv(channels=4), Node("FULLY_CONNECTED", (1,), FC, 4, (1.0, 0)), shape=(1, 6, 6, 3))
    program = compile_model(made, RING)
    word = isa.word_bytes(isa.Region.WEIGHT, RING)
    assert len(program.tiles) <= RING.resident_tiles * word
    assert len(program.external) == 36 * 10 * word
    loads = list(instructions(program, isa.LOAD))
    assert sum(load["count"] for load in loads if load["external"]) == 360
    assert any(not load["external"] for load in loads)
    assert exact(made, RING)


def test_without_a_ring_they_do_not_fit():
    made = model(conv(channels=4), Node("FULLY_CONNECTED", (1,), FC, 4, (1.0, 0)), shape=(1, 6, 6, 3))
    with pytest.raises(CompileError, match="weights need weight_tiles="):
        compile_model(made, replace(RING, ring_tiles=0))


def test_weights_that_fit_stay_on_the_chip():
    made = model(conv(channels=4))
    assert compile_model(made, RING).external == b""


# --- Long runs -----------------------------------------------------------------------------------------------------


def test_elementwise_operators_are_independent_of_the_channels():
    """23 columns of 5 channels: 8 bytes at a time all the same."""
    made = model(Node("TANH", (0,)), shape=(1, 4, 23, 5))
    tails = list(instructions(compile_model(made, SMALL), isa.TAIL))
    assert sum(t["width"] for t in tails) == -(-4 * 23 * 5 // 8)
    assert exact(made, SMALL)


def test_a_long_concatenation_is_a_short_program():
    nodes = [Node("CONCATENATION", (0, 0), {"axis": 1})]
    made = model(*nodes, shape=(1, 12, 6, 23))
    config = get_config("tiny")
    assert len(compile_model(made, config).words) < 200
    assert exact(made, config)


def test_more_than_32767_bytes():
    """Positions in a row are 16-bit; a contiguous run has no such limit."""
    made = model(Node("RELU6", (0,)), Node("ADD", (1, 0), {"activation": 0}, 0, (1.0, 0)), shape=(1, 1, 1, 8))
    for t in made.tensors:
        object.__setattr__(t, "shape", (1, 90, 90, 8))
    assert exact(made, replace(SMALL, act_bytes=2**18, program_words=2**15))

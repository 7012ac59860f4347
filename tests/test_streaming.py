"""Networks on the machine that fetches for itself: programs with MOVE on the instruction set simulator, which also
reports what would depend on timing."""

from dataclasses import replace

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import get_config
from lepton.rtl.spec.timing import Memory
from lepton.sw.compiler import compile_model
from lepton.sw.compiler.bind import Cache
from lepton.sw.compiler.streaming import compile_streaming
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.cycles import predict
from lepton.sw.session import IssEngine, Session
from lepton.verif.random.tflite_builder import build

MODELS = ["models/ad01_int8", "models/kws_ref_model", "models/vww_96_int8", "models/pretrainedResnet_quant"]
ZOO = ["add_c12", "avgpool3", "concat", "mbv2_block", "pad_conv", "resnet_block", "seed_mnist_cnn", "sigmoid_tanh"]


def machine(name: str, **changes):
    return replace(get_config(name), **changes)


def run(path, config, rows=2):
    """Outputs that are there and outputs expected."""
    session = Session(path, config, "iss")
    session._engine = IssEngine(config, session.program, hazards=True)
    data = np.load(path.with_suffix(".npz"))
    x, y = (data[k][:rows] for k in data.files[:2])
    return session.run(x), y


@pytest.mark.parametrize("name", [*MODELS, *(f"zoo/{z}" for z in ZOO)])
def test_bytes_are_those_of_tflm(shared, name):
    path = shared / f"{name}.tflite"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    got, expected = run(path, machine("large"))
    assert np.array_equal(got, expected)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("small", {"act_bytes": 16384}),  # rows pass through buffers
        ("small", {"act_bytes": 16384, "memory_width": 2, "weight_tiles": 256, "params": 256}),  # and so do tiles
        ("tiny", {"act_bytes": 16384, "memory_width": 1}),
        ("flagship", {"act_bytes": 32768, "memory_width": 4}),
    ],
    ids=["rows", "tiles", "tiny", "paired"],
)
def test_networks_larger_than_the_chip(shared, name, changes):
    for model in ("kws_ref_model", "pretrainedResnet_quant"):
        config = machine(name, **changes)
        path = shared / f"models/{model}.tflite"
        program = compile_model(load_model(path), config)
        assert program.span_bytes <= config.act_bytes
        got, expected = run(path, config, 1)
        assert np.array_equal(got, expected)


def test_a_program_says_who_waits(shared):
    """Without the tokens of MOVE the simulator sees that bytes would be read too early."""
    path, config = shared / "models/pretrainedResnet_quant.tflite", machine("small", act_bytes=16384)
    session = Session(path, config, "iss")
    words, at, cleared = session.program.words, 0, 0
    while at < len(words):
        op, fields = isa.decode(words, at)
        for flag in {"wait_move", "post_mul"} & fields.keys():
            if op in (isa.MUL, isa.MOVE) and fields[flag]:
                bit, _ = op.offset(flag)
                words[at + bit // 64] &= ~(1 << bit % 64)
                cleared += 1
        at += op.words
    assert cleared
    session._engine = IssEngine(config, session.program, hazards=True)
    with pytest.raises(ValueError, match="written by a MOVE, without waiting for its token"):
        session.run(np.load(path.with_suffix(".npz"))["input"][:1])


def test_resident_networks_read_their_weights_once(shared):
    """The program of a network whose weights fit copies its input and output only."""
    model, config = load_model(shared / "models/kws_ref_model.tflite"), machine("large")
    program = compile_streaming(model, config, {})
    spaces, at = [], program.steps[0].pc
    while True:
        op, fields = isa.decode(program.words, at)
        if op is isa.END:
            break
        spaces += [fields["space"]] if op is isa.MOVE else []
        at += op.words
    assert spaces
    assert set(spaces) == {isa.Space.ACT}


def test_slow_memory_takes_longer(shared):
    """The bound grows with latency and narrow beats, and its causes sum to it."""
    model = load_model(shared / "models/pretrainedResnet_quant.tflite")
    cycles = []
    for width, memory in ((16, Memory()), (16, Memory(latency=300)), (2, Memory(latency=300))):
        config = machine("large", act_bytes=16384, memory_width=width)
        program = compile_model(model, config)
        timing = predict(config, program.words, program.tiles, program.steps[0].pc, memory=memory)
        assert sum(timing.causes.values()) == timing.cycles
        cycles.append(timing.cycles)
    assert cycles == sorted(cycles)
    assert cycles[0] < cycles[2]


def test_cache_gives_slots_round_and_round():
    cache = Cache(10)
    assert cache.find(0, 4, 0) == (0, -1)
    assert cache.find(4, 4, 1) == (4, -1)
    assert cache.find(0, 4, 2) == (0, None)  # still there
    assert cache.find(8, 3, 3) == (0, 2)  # does not fit behind: over the first, which unit 2 used last
    assert cache.find(4, 4, 4) == (4, None)
    assert cache.find(0, 4, 5) == (3, 4)


def test_a_unit_overwrites_nothing_of_its_own():
    """What is found of a unit's spans is fetched again if its others would lie there."""
    cache = Cache(10)
    cache.find(0, 4, 0)
    cache.find(4, 4, 0)
    cache.gather({(0, 4), (20, 5)})  # 9 slots from the first on: there lie 0 to 3
    places = [cache.find(*span, 1) for span in ((20, 5), (0, 4))]
    assert places == [(0, 0), (5, 0)]


def test_a_layer_of_more_tiles_than_the_chip_holds_is_for_the_host():
    def weights(shape, seed=3):
        return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)

    tensors = [
        ((1, 300), np.float32(0.02), 0, None, 0), ((7, 300), np.float32(0.003), 0, weights((7, 300)), 0),
        ((1, 7), np.float32(0.1), 3, None, 0),
    ]  # fmt: skip
    dense = ("FULLY_CONNECTED", [0, 1, -1], [2], ("FullyConnectedOptions", {}))
    model = load_model(build(tensors, [dense], [0], [2]), "dense")
    config = machine("tiny", act_bytes=1024, memory_width=2, weight_tiles=40)
    program = compile_model(model, config)
    assert "weight_tiles=40 do not hold the 75" in program.why_host[0]
    assert not compile_model(model, replace(config, weight_tiles=75)).why_host


def test_rows_that_are_read_in_any_order(shared):
    """An LSTM as its converter unrolls it: row after row of the input, the first of which are read last. A copy that
    brought rows which nobody read there overwrote what a later one had brought."""
    path = shared / "frontends" / "k_lstmu_b1.tflite"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    with np.load(path.with_suffix(".npz")) as data:
        got = Session(path, "small", "iss").run(data["input0"][:, 0])
        assert np.array_equal(got, data["output0"][:, 0])

"""The model reader: what it reads, and that damaged files end in ModelError only."""

import numpy as np
import pytest
import tflite
from test_golden import act, ints, weights

from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.verif.random.tflite_builder import one_operator

CONV = dict(Padding=0, StrideH=1, StrideW=2, FusedActivationFunction=1)


def conv(w=None, y=(1, 4, 2, 6), options=CONV, x=(1, 4, 4, 3)):
    tensors = [act(x), w or weights((6, 3, 3, 3), 6, 0), act(y)]
    return one_operator("CONV_2D", tensors, [0, 1], [2], options, "Conv2DOptions")


def test_reads_a_convolution():
    model = load_model(conv(), name="one")
    (op,) = model.operators
    assert (model.name, model.inputs, model.outputs, op.op, op.inputs, op.outputs) == (
        "one",
        (0,),
        (2,),
        "CONV_2D",
        (0, 1),
        (2,),
    )
    want = dict(
        stride_h=1, stride_w=2, dilation_h=1, dilation_w=1, padding="SAME", activation="RELU", filter_h=3, filter_w=3
    )
    assert want.items() <= op.options.items() and op.options["pad_h"] == 1 and op.options["pad_w"] == 0
    x, w, _ = model.tensors
    assert (
        x.shape == (1, 4, 4, 3)
        and x.dtype == "int8"
        and x.scale == np.float32(0.05)
        and x.zero_point == 3
        and x.data is None
    )
    assert w.data.shape == (6, 3, 3, 3) and w.quant_axis == 0 and len(w.scales) == 6 and not w.data.flags.writeable


def test_a_code_that_only_the_newer_field_has():
    """TFLM reads it; PAD has room in the older field, which is left at 0, that is ADD."""
    tensors = [act((1, 2, 3)), ints([[0, 0], [1, 0], [0, 2]]), act((1, 3, 5))]
    data = bytearray(one_operator("PAD", tensors, [0, 1], [2]))
    table = tflite.Model.GetRootAsModel(data, 0).OperatorCodes(0)._tab
    data[table.Offset(4) + table.Pos] = 0
    assert [op.op for op in load_model(bytes(data)).operators] == ["PAD"]


def test_reads_from_a_path(shared):
    model = load_model(shared / "zoo" / "fc_mlp.tflite")
    assert model.name == "fc_mlp" and [o.op for o in model.operators] == [
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]


@pytest.mark.parametrize(
    "data, message",
    [
        (lambda: b"", "not a TensorFlow Lite file"),
        (lambda: b"x" * 100, "not a TensorFlow Lite file"),
        (lambda: conv()[:200], "damaged"),
        (lambda: conv(y=(1, 4, 4, 6)), "output shape is"),
        (lambda: conv(y=(1, -1, 4, 6)), "dynamic"),
        (lambda: conv(x=(0, 4, 4, 3), y=(0, 4, 2, 6)), "dynamic or empty"),
        (lambda: conv(options=CONV | {"StrideH": 0}), "stride_h=0"),
        (lambda: conv(options=CONV | {"Padding": 5}), "unknown padding"),
        (lambda: conv(w=weights((6, 3, 3, 2), 6, 0)), "input channels"),
        (lambda: conv(w=weights((6, 3, 3, 3), 3, 3)), "wrong axis"),
        (lambda: conv(w=weights((6, 3, 3, 3), 5, 0)), "do not fit shape"),
        (lambda: conv(w=act((6, 3, 3, 3))), "must be constant"),
        (lambda: conv(w=ints(np.zeros((6, 3, 3, 3)))), "not int8"),
        (lambda: conv(w=((6, 3, 3, 3), 0.1, 0, np.zeros(7, np.int8), 0)), "bytes of data"),
        (lambda: one_operator("UNIQUE", [act((1, 4)), act((1, 4))], [0], [1]), "operator not supported"),
        (lambda: one_operator("RELU", [act((1, 4)), act((1, 4))], [7], [1], graph_inputs=[0]), "tensor index 7"),
        (lambda: one_operator("RELU", [act((1, 4)), act((1, 4))], [1], [1], graph_inputs=[0]), "not computed before"),
        (lambda: one_operator("RELU", [act((1, 4)), act((1, 4))], [0, 0], [1], graph_inputs=[0]), "2 inputs"),
        (lambda: one_operator("RELU", [act((1, 4)), act((1, 4), -1.0)], [0], [1]), "scale is not a positive"),
        (lambda: one_operator("RELU", [act((1, 4)), act((1, 4), None)], [0], [1]), "needs one scale"),
        (
            lambda: one_operator("CONV_2D", [act((1, 4)), act((1, 4)), act((1, 4))], [0, 1], [2]),
            "must have 4 dimensions",
        ),
        (lambda: one_operator("SOFTMAX", [act((1, 4)), act((1, 4), 1 / 256, -128)], [0], [1]), "beta 0.0"),
    ],
)
def test_errors_are_told_in_one_line(data, message):
    with pytest.raises(ModelError, match=message) as error:
        load_model(data())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind, message", [(0, "float32"), (7, "int16")])
def test_other_types_are_refused(kind, message):
    """The tensor type byte of a good file, changed: find it by trying each byte that holds INT8."""
    data = bytearray(one_operator("RELU6", [act((1, 4)), act((1, 4))], [0], [1]))
    seen = set()
    for i, byte in enumerate(data):
        if byte == 9:
            changed = bytes(data[:i]) + bytes([kind]) + bytes(data[i + 1 :])
            try:
                load_model(changed)
            except ModelError as error:
                seen.add(str(error))
    assert any(message in text and "int8" in text for text in seen)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path / "none.tflite")


def test_truncated_files():
    data = conv()
    for n in range(0, len(data), 7):
        try:
            load_model(data[:n])
        except ModelError:
            pass


@pytest.mark.parametrize("seed", range(4))
def test_corrupted_files(seed):
    """Random bytes and words of a file changed: it loads, or raises ModelError."""
    rng = np.random.default_rng(seed)
    good = (
        conv()
        if seed % 2
        else one_operator("MEAN", [act((1, 5, 5, 2)), ints([1, 2]), act((1, 2))], [0, 1], [2], {}, "ReducerOptions")
    )
    refused = 0
    for _ in range(100):
        data = bytearray(good)
        for _ in range(rng.integers(1, 12)):
            at = int(rng.integers(8, len(data) - 4))
            if rng.integers(2):
                data[at] = int(rng.integers(256))
            else:
                data[at : at + 4] = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])).to_bytes(4, "little")
        try:
            load_model(bytes(data))
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 0

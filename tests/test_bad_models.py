"""Models that cannot run: `lepton check`, `compile` and `run` say so in one line and exit with 2."""

import io
import time
import zipfile

import numpy as np
import pytest
import tflite

from lepton.sw.cli import main
from lepton.sw.graph import writer
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model
from lepton.verif.random.tflite_builder import build, one_operator

COMMANDS = ("check", "compile", "run")
SHAPE = (1, 6, 6, 3)


def act(shape, scale=0.05, zero=3):
    return (shape, scale, zero, None, 0)


def good() -> bytes:
    """A small network with a convolution, pooling, a reshape, a dense layer and a softmax."""
    rng = np.random.default_rng(1)
    tensors = [
        act(SHAPE),
        ((4, 3, 3, 3), np.full(4, 0.01), 0, rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), 0),
        ((4,), np.full(4, 0.0005), 0, rng.integers(-99, 99, 4).astype(np.int32), 0),
        act((1, 4, 4, 4)),
        act((1, 2, 2, 4)),
        ((2,), None, 0, np.array([1, 16], np.int32), 0),
        act((1, 16)),
        ((5, 16), 0.01, 0, rng.integers(-127, 128, (5, 16)).astype(np.int8), 0),
        act((1, 5)),
        act((1, 5), 1 / 256, -128),
    ]
    conv = dict(Padding=1, StrideH=1, StrideW=1, DilationHFactor=1, DilationWFactor=1)
    pool = dict(Padding=1, StrideH=2, StrideW=2, FilterHeight=2, FilterWidth=2)
    operators = [
        ("CONV_2D", [0, 1, 2], [3], ("Conv2DOptions", conv)),
        ("MAX_POOL_2D", [3], [4], ("Pool2DOptions", pool)),
        ("RESHAPE", [4, 5], [6], None),
        ("FULLY_CONNECTED", [6, 7, -1], [8], ("FullyConnectedOptions", {})),
        ("SOFTMAX", [8], [9], ("SoftmaxOptions", dict(Beta=1.0))),
    ]
    return build(tensors, operators, [0], [9])


def of_type(kind: int) -> bytes:
    """An ADD whose tensors all have a type that is not int8."""
    data = bytearray(one_operator("ADD", [act(SHAPE)] * 3, [0, 1], [2], {}, "AddOptions"))
    graph = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0)
    for i in range(graph.TensorsLength()):
        table = graph.Tensors(i)._tab
        data[table.Offset(6) + table.Pos] = kind
    return bytes(data)


def of_code(code: int) -> bytes:
    """A RELU whose operator code becomes `code`."""
    data = bytearray(one_operator("RELU", [act(SHAPE)] * 2, [0], [1]))
    table = tflite.Model.GetRootAsModel(data, 0).OperatorCodes(0)._tab
    data[table.Offset(4) + table.Pos] = min(code, 127)
    at = table.Offset(10) + table.Pos
    data[at : at + 4] = code.to_bytes(4, "little")
    return bytes(data)


def of_dimension(value: int) -> bytes:
    """A RELU on a map whose height is `value`."""
    data = bytearray(one_operator("RELU", [act((1, 77, 6, 3))] * 2, [0], [1]))
    for i in range(2):
        table = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0).Tensors(i)._tab
        at = table.Vector(table.Offset(4)) + 4
        assert int.from_bytes(data[at : at + 4], "little") == 77
        data[at : at + 4] = value.to_bytes(4, "little", signed=True)
    return bytes(data)


def of_signature() -> bytes:
    """A RELU whose input has a fixed shape but a signature with an open height, as the converter writes it."""
    builder_start, added = tflite.TensorEnd, []

    def end(b):
        tflite.TensorAddShapeSignature(b, added[0])
        return builder_start(b)

    start = tflite.TensorStart

    def begin(b):
        added[:] = [b.CreateNumpyVector(np.array([1, -1, 6, 3], np.int32))]
        return start(b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tflite, "TensorStart", begin)
        patch.setattr(tflite, "TensorEnd", end)
        return one_operator("RELU", [act(SHAPE)] * 2, [0], [1])


def zipped() -> bytes:
    """A good model in a zip archive, as models are handed around."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.tflite", good())
    return out.getvalue()


@pytest.fixture
def attempt(tmp_path, capsys):
    """attempt(data) runs all three commands on a model; per command the exit code and the error line (None if good)."""
    path, x = tmp_path / "model.tflite", tmp_path / "x.npy"
    np.save(x, np.zeros(SHAPE, np.int8))
    y = tmp_path / "y.npy"
    argvs = {
        "check": ["check", str(path)],
        "compile": ["compile", str(path), "-o", str(tmp_path / "program")],
        "run": ["run", str(path), "--backend", "golden", "--input", str(x), "--output", str(y)],
    }

    def go(data: bytes, commands=COMMANDS) -> dict:
        path.write_bytes(data)
        out = {}
        for command in commands:
            code = main(argvs[command])
            error = capsys.readouterr().err
            if code:
                assert code == 2
                assert error.count("\n") == 1 and error.startswith("lepton: error: ") and "Traceback" not in error
            else:
                assert error == ""
            out[command] = error or None
        return out

    return go


def test_the_good_model_runs(attempt):
    assert attempt(good()) == dict.fromkeys(COMMANDS)


@pytest.mark.parametrize(
    "data, says",
    [
        (of_type(tflite.TensorType.FLOAT16), "float16"),
        (of_type(tflite.TensorType.STRING), "type 5"),
        (of_type(tflite.TensorType.UINT8), "uint8"),
        (of_dimension(-1), "dynamic"),
        (of_dimension(0), "dynamic or empty"),
        (of_code(tflite.BuiltinOperator.FLOOR), "FLOOR"),
        (of_code(250), "250"),
        (of_code(2**31 - 1), "2147483647"),
        (b"", "not a TensorFlow Lite file"),
        (b"RIFF" + bytes(60), "not a TensorFlow Lite file"),
        (zipped(), "zip archive"),
    ],
    ids="float16 string uint8 dynamic empty known_code unknown_code huge_code nothing other zip".split(),
)
def test_unsupported(attempt, data, says):
    for command, error in attempt(data).items():
        assert error is not None and says in error, command


def test_an_open_size_is_what_the_shape_says(attempt):
    """TFLM looks at a tensor's shape, never at the signature by which a converter keeps a size open."""
    assert attempt(of_signature()) == dict.fromkeys(COMMANDS)


def test_truncated_at_many_lengths(attempt):
    data = good()
    lengths = [*range(0, 64), *range(64, len(data), 41), len(data) - 1]
    refused = sum(attempt(data[:n])["check"] is not None for n in lengths)
    assert refused >= len(lengths) - 2  # the file may end in bytes that nothing reads


def test_graphs_that_share_their_tensors(monkeypatch):
    """256 graphs of 40,000 tensors each, in a file that holds them once: refused before any is read."""
    right, written = writer._write_graph, []

    def once(*args):
        if not written:
            written.append(right(*args))
        return written[0]

    monkeypatch.setattr(writer, "_write_graph", once)
    tensors = [writer.TensorSpec("", (1, 4), "int8")] * 40_000
    others = [writer.GraphSpec([], [], [], [])] * 255
    data = writer.write_model(tensors, [writer.OperatorSpec("RELU", [0], [1])], [0], [1], others=others)
    start = time.process_time()
    with pytest.raises(ModelError, match="tensors: 10240000 of them, at most 65536"):
        load_model(data)
    assert time.process_time() - start < 2


def test_names_move_no_cursor():
    """Names go to terminals: what is not text in them does not."""
    tensors = [((1, 4), 0.1, 0, None, 0), ((1, 4), 0.2, 0, None, 0)]
    data = build(tensors, [("QUANTIZE", [0], [1], None)], [0], [1]).replace(b"t0\0", b"\x1bc\0")
    assert load_model(data).tensors[0].name == "\ufffdc"


@pytest.mark.parametrize("part", range(4))
def test_corrupted(attempt, part):
    """50 of 200 files: random bytes or words changed, some cut as well."""
    data = good()
    refused = 0
    for seed in range(50 * part, 50 * part + 50):
        rng = np.random.default_rng(seed)
        bad = bytearray(data)
        for _ in range(rng.integers(1, 10)):
            at = int(rng.integers(0, len(bad) - 4))
            if rng.integers(2):
                bad[at] = int(rng.integers(256))
            else:
                word = int(rng.choice([0, 1, 2, 255, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
                bad[at : at + 4] = word.to_bytes(4, "little")
        if seed % 5 == 0:
            bad = bad[: rng.integers(1, len(bad))]
        results = attempt(bytes(bad))
        refused += all(results.values())
        assert (results["check"] is None) == (results["compile"] is None)
    assert refused > 20

"""`lepton evaluate`: scores against scikit-learn by hand and against what the data are made to give."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score
from test_frontends import NO_FILES, no_file

from lepton.sw.cli import main
from lepton.sw.files import DIGITS
from lepton.sw.frontends.graph import Graph, Node, Value
from lepton.sw.frontends.quantize import calibrate, quantize
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.sw.report.evaluate import EvaluateError, load_samples, quantized, read_picture, scores, task_of
from lepton.sw.report.evaluate import Samples as Data
from lepton.sw.session import End

RNG = np.random.default_rng(2)


def run(capsys, *arguments):
    code = main(["evaluate", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def linear(tmp_path, weights, shape, data):
    """An int8 .tflite of one FULLY_CONNECTED over the whole input, and its path."""
    w = np.asarray(weights, np.float32)
    x = Value("x", (1, *shape))
    flat, y = Value("flat", (1, w.shape[1])), Value("y", (1, w.shape[0]))
    options = {"FusedActivationFunction": 0, "WeightsFormat": 0, "KeepNumDims": False}
    nodes = [Node("RESHAPE", [x], [flat]), Node("FULLY_CONNECTED", [flat, Value("w", w.shape, w), None], [y], options)]
    graph = Graph(nodes, [x], [y])
    path = tmp_path / "linear.tflite"
    path.write_bytes(quantize(graph, calibrate(graph, [(row[None],) for row in data])).data)
    return path


def test_digits_against_scikit_learn(tmp_path, capsys):
    digits = np.load(DIGITS.with_suffix(".npz"))
    x, y = digits["x"][:150], digits["y"][:150]
    np.savez(tmp_path / "d.npz", x=x, y=y)
    code, out, _ = run(capsys, DIGITS, tmp_path / "d.npz", "--json", "-")
    assert code == 0
    report = json.loads(out)
    guess = golden.run(load_model(DIGITS), x).argmax(1)
    assert report["task"] == "classes" and report["count"] == 150
    assert report["models"]["int8"]["accuracy"] == pytest.approx((guess == y).mean())
    assert report["models"]["int8"]["f1"] == pytest.approx(f1_score(y, guess, average="macro"))
    assert np.array(report["models"]["int8"]["confusion"]).sum() == 150


def test_text_and_picture(tmp_path, capsys):
    picture = tmp_path / "p.png"
    digits = np.load(DIGITS.with_suffix(".npz"))
    np.savez(tmp_path / "d.npz", input=digits["x"], label=digits["y"])
    code, out, _ = run(capsys, DIGITS, tmp_path / "d.npz", "--count", 20, "--picture", picture)
    assert code == 0 and "accuracy" in out and "confusion matrix, int8" in out and "20 samples" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("shape", [(4, 4, 1), (1, 4, 4)])
def test_folder_of_pictures(tmp_path, capsys, shape):
    """Dark pictures are `a`, bright ones `b`: a network that sums the pixels tells them apart."""
    from PIL import Image

    for name, level in (("a", 10), ("b", 240)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(3):
            pixels = np.clip(level + RNG.integers(-9, 9, (8, 8)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{k}.png")
    data = RNG.uniform(0, 1, (20, *shape)).astype(np.float32)
    model = linear(tmp_path, [np.full(16, -1.0), np.full(16, 1.0)], shape, [*data, np.ones(shape, np.float32)])
    code, out, _ = run(capsys, model, tmp_path / "data", "--json", "-", "--backend", "iss")
    report = json.loads(out)
    assert code == 0 and report["names"] == ["a", "b"]
    assert "pictures resized to 4x4 grey (bilinear)" in report["notes"] and "inputs: divided by 255" in report["notes"]
    # the sum is never negative: all are `b`
    assert report["models"]["int8"]["confusion"] == [[0, 3], [0, 3]]
    assert report["models"]["int8"]["accuracy"] == 0.5


def test_picture_is_cropped_in_its_proportions(tmp_path):
    from PIL import Image

    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "w.png")
    assert (read_picture(tmp_path / "w.png", (10, 10), 1, False, "crop") == 200).all()
    assert read_picture(tmp_path / "w.png", (10, 10), 3, True).shape == (3, 10, 10)


def test_csv_with_names_of_classes(tmp_path, capsys):
    rows = RNG.uniform(-1, 1, (40, 3)).astype(np.float32)
    kinds = np.where(rows[:, 0] > rows[:, 1], "left", "right")
    lines = ["p,label,q,r", *(f"{a},{k},{b},{c}" for (a, b, c), k in zip(rows, kinds))]
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
    model = linear(tmp_path, [[1, 0, 0], [0, 1, 0]], (3,), rows)
    code, out, _ = run(capsys, model, tmp_path / "d.csv", "--json", "-")
    report = json.loads(out)
    assert code == 0 and report["names"] == ["left", "right"]
    assert report["models"]["int8"]["accuracy"] >= 0.97  # but for those that lie within a rounding


def test_regression_beside_the_float_model(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    w = np.array([[2.0], [-1.0]], np.float32)
    made = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "f.onnx")
    x = RNG.uniform(-1, 1, (50, 2)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=x @ w)
    model = linear(tmp_path, w.T, (2,), x)
    code, out, _ = run(capsys, model, tmp_path / "d.npz", "--json", "-", "--float-model", tmp_path / "f.onnx")
    models = json.loads(out)["models"]
    assert code == 0
    assert models["float"]["mean_absolute_error"] < 1e-6 < models["int8"]["mean_absolute_error"] < 0.02


def test_anomaly_scores():
    x, y = RNG.uniform(size=(6, 5)), np.array([0, 0, 1, 0, 1, 1])
    rebuilt = x + y[:, None] * np.array([[0.1, 0.2, 0.1, 0, 0.3]]) + RNG.uniform(0, 0.2, (6, 5))
    data = Data(x, y)
    assert task_of("auto", rebuilt, data) == "anomaly"
    assert scores("anomaly", rebuilt, data)["auc"] == roc_auc_score(y, ((rebuilt - x) ** 2).mean(1))


def test_channels_are_moved_as_the_model_takes_them(tmp_path):
    x = RNG.uniform(size=(2, 5, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=[0, 1])
    np.testing.assert_array_equal(load_samples(tmp_path / "d.npz", (3, 5, 6)).x, x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda p: p.write_bytes(b"no"), "not an .npy or .npz file of plain numbers"),
        (lambda p: np.savez(p, z=[1]), "needed are inputs"),
        (lambda p: np.savez(p, x=np.zeros((2, 3)), y=[1]), "2 inputs and 1 labels"),
        (lambda p: np.savez(p, x=np.zeros((2, 3)), y=[1, 0]), "the model takes (N, 4)"),
    ],
)
def test_refusals(tmp_path, make, words):
    make(tmp_path / "d.npz")
    with pytest.raises(EvaluateError) as error:
        load_samples(tmp_path / "d.npz", (4,))
    assert words in str(error.value)


def test_labels_outside_the_outputs():
    with pytest.raises(EvaluateError, match="labels from 0 to 7, the model has 4"):
        scores("classes", np.zeros((2, 4)), Data(np.zeros((2, 4)), np.array([0, 7])))


def test_command_refuses_in_one_line(tmp_path, capsys):
    code, _, err = run(capsys, DIGITS, tmp_path / "nothing.npz")
    assert code == 2 and err.count("\n") == 1 and "no such file" in err


# `lepton run` on pictures and sounds


def classify(capsys, *arguments):
    code = main(["run", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_run_names_the_best_classes_of_pictures(tmp_path, capsys):
    """A picture of a digit, as the shipped network saw it in training: 8x8 grey, enlarged."""
    from PIL import Image

    digits = np.load(DIGITS.with_suffix(".npz"))
    model = load_model(DIGITS)
    given = model.tensors[model.inputs[0]]
    guess = golden.run(model, digits["x"][:4]).argmax(1)
    folder = tmp_path / "p"
    folder.mkdir()
    for k in range(4):
        level = (digits["x"][k].reshape(given.row).astype(np.float32) - given.zero_point) * given.scale
        pixels = np.clip(np.round(level * 255 / max(1.0, float(level.max()))), 0, 255).astype(np.uint8)
        Image.fromarray(pixels[..., 0]).save(folder / f"{k}.png")
    (tmp_path / "l.txt").write_text("\n".join(f"digit {i}" for i in range(10)))
    code, out, _ = classify(capsys, DIGITS, "--input", folder, "--labels", tmp_path / "l.txt", "--top", 2)
    lines = out.splitlines()
    assert code == 0 and "resized to" in lines[0] and "divided by 255" in lines[0]
    assert [line.split(": ")[1].split()[1] for line in lines[1:]] == [str(g) for g in guess]
    code, _, err = classify(capsys, DIGITS, "--input", folder / "0.png", "--labels", folder / "0.png")
    assert code == 2 and err.count("\n") == 1


def test_run_classifies_a_sound(tmp_path, capsys):
    import wave

    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.full((100, 2), 16384, "<i2").tobytes())
    data = RNG.uniform(-1, 1, (20, 50)).astype(np.float32)
    model = linear(tmp_path, [np.full(50, 1 / 50), np.full(50, -1 / 50)], (50,), [*data, np.ones(50, np.float32)])
    code, out, _ = classify(capsys, model, "--input", tmp_path / "s.wav", "--rate", 8000)
    assert code == 0 and "50 samples at 8000 Hz of 50" in out
    assert out.splitlines()[1].split(": ")[1].startswith("0 0.5")


def test_run_without_output_is_for_pictures_only(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8, 1), np.int8))
    code, _, err = classify(capsys, DIGITS, "--input", tmp_path / "x.npy")
    assert code == 2 and "--output is missing" in err


def test_real_values_are_rounded_as_a_session_rounds_them():
    """Half away from zero, as TensorFlow Lite's QUANTIZE; what has no scale, or is float, stays."""
    x = np.array([0.5, 1.5, 2.5, -0.5, -2.5, 900.0], np.float32)
    end = End("x", (1, 6), np.dtype(np.int8), 1.0, 0, (6,))
    assert quantized(end, x).tolist() == [1, 2, 3, -1, -3, 127]
    assert quantized(end, np.arange(6, dtype=np.int8)).tolist() == [0, 1, 2, 3, 4, 5]
    float_end = End("y", (1, 6), np.dtype(np.float32), 0.1, 3, (6,))
    assert np.array_equal(quantized(float_end, x), x) and np.array_equal(float_end.dequantize(x), x)


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz", ".png", ".wav", ".txt"])
def test_what_is_no_file_is_not_opened(tmp_path, capsys, kind, ending):
    """As data, as a picture of a class, as what is classified, and as its labels."""
    (tmp_path / "data" / "class").mkdir(parents=True)
    path = no_file(tmp_path / "data" / "class", kind, ending)
    sound = linear(tmp_path, np.ones((2, 8)), (8,), RNG.normal(size=(4, 8))) if ending == ".wav" else DIGITS
    if ending in (".png", ".wav"):
        command = ["run", sound, "--input", path]
    elif ending == ".txt":
        digit = tmp_path / "digit.png"
        Image.new("L", (8, 8)).save(digit)
        command = ["run", DIGITS, "--input", digit, "--labels", path]
    else:
        command = ["evaluate", DIGITS, path]
    assert main([str(c) for c in command]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and (path.name in said or str(path.parent) in said)
    if ending == ".png" and kind != "folder":
        with pytest.raises(EvaluateError, match=kind):
            load_samples(tmp_path / "data", (8, 8, 1))


@pytest.mark.parametrize(
    "module, name, words",
    [
        ("PIL", "p.png", "the package 'PIL' is missing"),
        ("PIL", "data", "the package 'PIL' is missing"),
        ("sklearn", "d.npz", "the scores need scikit-learn"),
        ("pyarrow", "d.parquet", "reading .parquet needs pyarrow"),
    ],
)
def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch, module, name, words):
    (tmp_path / "data" / "class").mkdir(parents=True)
    for picture in ("p.png", "data/class/p.png"):
        Image.new("L", (8, 8)).save(tmp_path / picture)
    np.savez(tmp_path / "d.npz", **np.load(DIGITS.with_suffix(".npz")))
    (tmp_path / "d.parquet").write_bytes(b"x")
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)

    class Blocked:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name.split(".")[0] == module:
                raise ModuleNotFoundError(name)

    monkeypatch.setattr(sys, "meta_path", [Blocked, *sys.meta_path])
    monkeypatch.setattr("lepton.sw.errors.find_spec", lambda name: None if name == module else True)
    command = ["run", DIGITS, "--input"] if name == "p.png" else ["evaluate", DIGITS]
    assert main([*map(str, command), str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said and said.endswith("pip install 'lepton-npu[evaluate]'\n")


def test_a_table_that_unpacks_to_too_much(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install -e '.[evaluate]'")
    import pyarrow

    parquet.write_table(pyarrow.table({"a": np.zeros(200), "y": np.zeros(200)}), tmp_path / "t.parquet")
    assert len(load_samples(tmp_path / "t.parquet", (1,)).x) == 200
    monkeypatch.setattr("lepton.sw.report.evaluate.MAX_VALUES", 399)
    with pytest.raises(EvaluateError, match="400 values, at most 399"):
        load_samples(tmp_path / "t.parquet", (1,))

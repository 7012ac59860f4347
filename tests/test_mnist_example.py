"""The MNIST example's own errors: one line, exit code 2; its output folder is made."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

_spec = spec_from_file_location("mnist", Path(__file__).resolve().parents[1] / "examples" / "mnist.py")
assert _spec and _spec.loader
mnist = module_from_spec(_spec)
_spec.loader.exec_module(mnist)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "few.npz"
    np.savez(path, x_train=np.zeros((3, 28, 28), np.uint8), y_train=np.arange(3))
    return path


def test_train_makes_the_output_folder(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # so that it stops before training
    assert mnist.main(["train", str(data), "-o", str(tmp_path / "a" / "b" / "mnist.tflite")]) == 2
    assert capsys.readouterr().err == "mnist: error: training needs TensorFlow: pip install '.[train]'\n"
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize(
    "output, says", [("few.npz/mnist.tflite", "its folder cannot be made"), (".", "cannot be written")]
)
def test_where_nothing_can_be_written(data, tmp_path, capsys, output, says):
    assert mnist.main(["train", str(data), "-o", str(tmp_path / output)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_data_that_is_not_there_or_not_mnist(data, tmp_path, capsys):
    for path, says in (
        (tmp_path / "none.npz", "no such file"),
        (tmp_path, "is missing"),
        (data, "not an .npz file with"),
    ):
        assert mnist.main(["evaluate", "m.tflite", str(path)]) == 2
        assert says in capsys.readouterr().err


def test_idx_files_are_read(tmp_path):
    images = np.arange(2 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 28, 28)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(
        b"\0\0\x08\3" + np.array([2, 28, 28], ">u4").tobytes() + images.tobytes()
    )
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(b"\0\0\x08\1" + np.array([2], ">u4").tobytes() + bytes([7, 1]))
    x, y = mnist.load_data(tmp_path, "test")
    assert np.array_equal(x, images) and y.tolist() == [7, 1]

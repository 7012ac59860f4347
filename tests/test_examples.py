"""The examples run from end to end, where what they need is there; the notebook from its first cell to its last."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "digits.ipynb"


def need(*modules: str) -> None:
    extras = {
        "torch": "'.[torch]'",
        "onnxscript": "'.[torch]'",
        "tensorflow": "'.[keras]'",
        "ipykernel": "'.[notebook]'",
    }
    extras |= {"nbclient": "'.[notebook]'"}
    for module in modules:
        pytest.importorskip(module, reason=f"pip install -e {extras.get(module, module)}")


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def accuracies(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"([\d.]+)% of 300 test images", text)]


def test_the_notebook_is_clean():
    """Cells are Python that compiles, and were saved without outputs."""
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")
            assert not cell["outputs"] and cell["execution_count"] is None


def test_the_notebook_runs(tmp_path):
    need("torch", "onnxscript", "sklearn", "nbclient", "ipykernel")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for c in notebook.cells for o in c.get("outputs", ())]
    texts = [o.get("text") or "".join(o.get("data", {}).get("text/plain", "")) for o in outputs]
    printed = "\n".join(texts)
    shares = [float(n) for n in re.findall(r"^(?:float|int8|pruned.*): ([\d.]+)%", printed, re.MULTILINE)]
    assert "of the tiles gone" in printed and "yes, it fits configuration 'small'" in printed
    assert len(shares) == 3 and min(shares) > 92 and (tmp_path / "build" / "digits_pruned.tflite").exists()


def test_from_torch():
    need("torch", "onnxscript", "sklearn")
    out = run("frameworks.py", "torch", "--epochs", "3")
    assert len(accuracies(out)) == 3 and min(accuracies(out)) > 85 and "50.0% of the tiles gone" in out


def test_from_qdq():
    need("torch", "onnxscript", "sklearn", "onnxruntime")
    assert min(accuracies(run("frameworks.py", "qdq", "--epochs", "3"))) > 85


def test_from_keras():
    need("tensorflow", "sklearn")
    out = run("frameworks.py", "keras", "--epochs", "4")
    assert len(accuracies(out)) >= 2 and min(accuracies(out)) > 85 and "50.0% of the tiles gone" in out


def test_mnist_pruned(tmp_path):
    """On scikit-learn's digits, enlarged to MNIST's size; the RTL is run elsewhere."""
    need("torch", "onnxscript", "sklearn")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = np.kron(images.reshape(-1, 8, 8) * 15.9, np.ones((3, 3))).astype(np.uint8)
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    part = {"x_train": images[100:], "y_train": labels[100:], "x_test": images[:100], "y_test": labels[:100]}
    np.savez(tmp_path / "mnist.npz", **part)
    out = run("prune_mnist.py", str(tmp_path / "mnist.npz"), "--epochs", "4", "--no-rtl")
    assert "77.7% of the tiles gone" in out
    rows = [line for line in out.splitlines() if line.startswith(("float", "int8", "QAT"))]
    assert len(rows) == 4 and all(float(r.split("%")[-2 if "tiles" in r else 0].split()[-1]) > 80 for r in rows)


BLOCKED = """
import sys

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("torch", "tensorflow"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked)
"""


@pytest.mark.parametrize(
    "command", [["frameworks.py", "torch"], ["frameworks.py", "keras"], ["prune_mnist.py", "no.npz"]]
)
def test_what_is_missing_is_one_line(tmp_path, command):
    """Without the framework, or without the data."""
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text(BLOCKED)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    arguments = [sys.executable, str(EXAMPLES / command[0]), *command[1:]]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "error: " in done.stderr

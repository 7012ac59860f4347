"""The driver in C on the RTL, by AXI: `verif/benches/axi_system.cpp`, with both sanitizers."""

import os
import secrets
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from lepton.rtl.bus.top import AxiNpu
from lepton.rtl.lint import no_warnings
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.verilog import to_verilog, write_if_changed
from lepton.sw.compiler import compile_model
from lepton.sw.csource import c_files, identifier
from lepton.sw.deploy import deploy
from lepton.sw.graph.reader import load_model
from lepton.verif.benches.build import _tools

ROOT = Path(__file__).resolve().parents[1]
CONFIG = NpuConfig("system", rows=8, cols=8, lanes=8, memory_width=8, memory_bytes=1 << 27)
FLAGS = ["-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def system():
    """Build the program for a model; returns what runs it."""
    _tools()
    folder = ROOT / "build" / "benches" / "system"
    write_if_changed(folder / "npu.v", to_verilog(AxiNpu(CONFIG), name="npu"))

    def build(path):
        ready = deploy(compile_model(load_model(str(path)), CONFIG))
        name, work = identifier(Path(path).stem), folder / "model"
        for file, text in c_files(ready).items():
            write_if_changed(work / file, text)
        upper, sizes = name.upper(), ("ARENA_BYTES", "INPUT_SIZE", "OUTPUT_SIZE")
        lines = [f'#include "{name}.h"', f"#define MODEL {name}_model", f"#define RUN {name}_run"]
        lines += [f"#define {size} {upper}_{size}" for size in sizes] + [f"#define BEAT {CONFIG.memory_width}u"]
        write_if_changed(work / "model.h", "\n".join([*lines, ""]))
        objects = [str(work / "net.o"), str(work / "driver.o")]
        for source, target in zip((f"{name}.c", "lepton.c"), objects):
            subprocess.run(["gcc", *FLAGS, "-c", source, "-o", target], cwd=work, check=True)
        (folder / "system").unlink(
            missing_ok=True
        )  # the same command for every model: only what changed is built again
        command = ["verilator", "--cc", "--exe", "--build", *no_warnings("ASCRANGE"), "--top-module", "npu"]
        command += ["--Mdir", str(folder / "obj"), "-o", str(folder / "system"), "--output-split", "10000"]
        command += ["-CFLAGS", f"-I{work}", "-LDFLAGS", "-fsanitize=address,undefined -no-pie"]
        command += [str(folder / "npu.v"), str(ROOT / "verif" / "benches" / "axi_system.cpp"), *objects]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder / "system"

    return build


def run(program, x, known, count, tmp_path):
    x[:count].tofile(tmp_path / "in")
    known[:count].tofile(tmp_path / "out")
    seed = os.environ.get("LEPTON_SEED") or str(secrets.randbelow(1 << 31))
    done = subprocess.run(
        [program, tmp_path / "in", tmp_path / "out", str(count), seed], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"LEPTON_SEED={seed}: {done.stderr}"
    print(done.stdout)
    assert done.stdout.count("inference") == count


def test_digits(system, tmp_path):
    folder = Path(str(files("lepton.sw") / "models"))
    with np.load(folder / "digits.npz") as data:
        x, known = data["x"].astype(np.int8), data["tflm"].astype(np.int8)
    program = system(folder / "digits.tflite")
    run(program, x, known, 20, tmp_path)
    known[3, 2] ^= 1
    with pytest.raises(AssertionError, match="other bytes than expected"):
        run(program, x, known, 4, tmp_path)


def test_keyword_spotting(system, shared, tmp_path):
    path = next((shared / "models").glob("kws*.tflite"))
    with np.load(path.with_suffix(".npz")) as data:
        x, known = data["input"], data["output"]
    run(system(path), x, known, min(2, len(x)), tmp_path)

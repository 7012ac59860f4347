"""The contracts of the imports (`make lint`): broken on purpose, each is reported."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLANTED = {  # file: import that breaks a contract
    "sw/files.py": "import lepton.fpga.uart",
    "rtl/spec/codec.py": "import amaranth.hdl",
    "sw/graph/model.py": "import lepton.sw.compiler.program",
    "sw/cli.py": "import lepton.sw.commands.run",
    "fpga/uart.py": "import lepton.fpga.top",
}


def contracts(folder: Path) -> tuple[int, str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    env = {**os.environ, "PYTHONPATH": str(folder / "src"), "COLUMNS": "200"}
    result = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result.returncode, result.stdout


def test_each_contract_sees_an_import_that_breaks_it(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    for floor in ("rtl", "sw", "fpga", "verif"):
        skip = shutil.ignore_patterns("__pycache__", "*.npz", "*.tflite", "examples")
        shutil.copytree(ROOT / floor, tmp_path / floor, ignore=skip)
    code, text = contracts(tmp_path)
    assert code == 0, text
    kept = re.findall("^(.*) KEPT", text, re.MULTILINE)
    assert len(kept) == len(PLANTED)
    for name, statement in PLANTED.items():
        path = tmp_path / name
        path.write_text(f"{path.read_text()}\n{statement}\n")
    code, text = contracts(tmp_path)
    assert code == 1
    assert re.findall("^(.*) BROKEN", text, re.MULTILINE) == kept, text
    for name in PLANTED:
        assert f"lepton.{name.removesuffix('.py').replace('/', '.')} -> " in text or "fpga/uart" in name, (name, text)

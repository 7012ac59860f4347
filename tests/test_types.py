"""Types are seen: mistakes planted in a file are reported, and a new file resolves without installing again."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLANTED = """\
from lepton.fpga.boards import get_board
from lepton.rtl.link import Link
from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.sw.compiler import compile_model
from lepton.sw.graph.reader import load_model
from lepton.sw.session import Session

config = get_config("small")
NpuConfig(row=3)  # call-arg
NpuConfig(rows="3")  # arg-type
get_config(3)  # arg-type
config.colums  # attr-defined
config.rows = 3  # misc


def lanes() -> int:
    return get_config("small").name  # return-value


isa.encode("MUL")  # arg-type
isa.encode(isa.MUL, width="3")  # arg-type
identity.unpack(config)  # arg-type
load_model("m.tflite").operators[0].inputs + 1  # operator
compile_model(config, load_model("m.tflite"))  # arg-type
compile_model(load_model("m.tflite"), config).words.upper()  # attr-defined
Session("m.tflite", backend=3)  # arg-type
Session("m.tflite").runs  # attr-defined
Link(config)  # call-arg
Link("small", 3)  # arg-type
get_board("ulx3s-25f").mhzz  # attr-defined
"""


def mypy(*files: Path) -> str:
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def test_planted_mistakes_are_found(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(PLANTED)
    lines = PLANTED.splitlines()
    wanted = {(i, line.split("# ")[1]) for i, line in enumerate(lines, 1) if "# " in line}
    out = mypy(path)
    found = {(int(line), code) for line, code in re.findall(r"planted\.py:(\d+): error: .*\[([a-z-]+)\]", out)}
    assert len(wanted) == 17
    assert {line for line, _ in found} == {line for line, _ in wanted}, out
    assert wanted <= found, out


def test_a_new_file_resolves_without_installing_again(tmp_path):
    new = ROOT / "sw" / "graph" / f"planted_{tmp_path.parent.name.replace('-', '_')}.py"
    user = tmp_path / "user.py"
    user.write_text(f"from lepton.sw.graph.{new.stem} import answer\nreveal_type(answer())\nanswer(1)\n")
    try:
        new.write_text("def answer() -> int:\n    return 42\n")
        code = f"from lepton.sw.graph.{new.stem} import answer; print(answer())"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "42\n"
        out = mypy(user)
    finally:
        new.unlink()
    assert 'user.py:2: note: Revealed type is "int"' in out or 'Revealed type is "builtins.int"' in out, out
    assert "user.py:3: error: Too many arguments" in out and "Found 1 error" in out, out


@pytest.mark.parametrize("word", ["__import" + "__", "_MustUse" + "__silence", "ignore_missing" + "_imports"])
def test_what_hid_mistakes_is_gone(word):
    """No import by string, no silenced component, no import whose absence is ignored."""
    found = subprocess.run(["git", "grep", "-n", word], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode in (0, 1)
    assert found.stdout == ""

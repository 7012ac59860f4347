"""The command line: each user error is one line and exit code 2, files appear whole or not at all."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from lepton.sw import cli, train_digits
from lepton.sw.compiler import compile_model
from lepton.sw.files import DIGITS, atomic, load_config
from lepton.sw.graph.reader import load_model
from lepton.sw.report import sim as sim_report


@pytest.fixture(scope="module")
def digits():
    return dict(np.load(DIGITS.with_suffix(".npz")))


def refused(capsys, *argv) -> str:
    """Run a command that must be refused; returns its one line."""
    assert cli.main([str(a) for a in argv]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("lepton: error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert out == ""
    return err


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    "argv, says",
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["run", "m.tflite"], "--input"),
        (["run", "m", "--input", "x", "--output", "y", "--backend", "gpu"], "gpu"),
        (["sim", "--count", "0"], "--count 0"),
        (["sim", "--count", "many"], "many"),
        (["sim", "--model", "none.tflite"], "none.tflite"),
        (["sim", "--input", "none.npy"], "none.npy"),
        (["verilog", "--config", "huge", "-o", "x.v"], "huge"),
        (["verilog", "-o", "nowhere/x.v"], "nowhere"),
        (["verilog", "-o", "x.json"], "x.json"),
        (["compile", "none.tflite", "-o", "x.lepton"], "none.tflite"),
    ],
)
def test_wrong_use(capsys, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *argv)


def test_no_traceback_from_the_program(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "lepton.sw.cli", "run", "none.tflite", "--input", "a.npy", "--output", "b.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stderr == "lepton: error: a.npy: no such file\n"


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda x: x.astype(np.float32), ["float32", "(360, 8, 8, 1)", "int8 (N, 8, 8, 1)"]),
        (lambda x: x.astype(np.uint8), ["uint8", "int8"]),
        (lambda x: x[..., 0], ["(360, 8, 8)", "(N, 8, 8, 1)"]),
        (lambda x: x[0], ["(8, 8, 1)", "(N, 8, 8, 1)", "x[None]"]),
        (lambda x: x[:, :7], ["(360, 7, 8, 1)", "(N, 8, 8, 1)"]),
        (lambda x: x[:0], ["(0, 8, 8, 1)", "(N, 8, 8, 1)"]),
        (lambda x: np.int8(3), ["()", "(N, 8, 8, 1)"]),
    ],
)
def test_wrong_input_names_both_shapes(capsys, tmp_path, digits, make, says):
    x, y = save(tmp_path / "x.npy", make(digits["x"])), tmp_path / "y.npy"
    line = refused(capsys, "run", DIGITS, "--input", x, "--output", y, "--backend", "golden")
    assert all(s in line for s in says), line
    assert not y.exists()


@pytest.mark.parametrize("content", [b"", b"not numpy", b"\x93NUMPY\x01\x00", b"PK\x03\x04broken"])
def test_broken_input_file(capsys, tmp_path, content):
    x = tmp_path / "x.npy"
    x.write_bytes(content)
    assert "x.npy" in refused(capsys, "run", DIGITS, "--input", x, "--output", tmp_path / "y.npy")


def test_pickled_input_is_not_loaded(capsys, tmp_path):
    x = tmp_path / "x.npy"
    np.save(x, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "plain numbers" in refused(capsys, "run", DIGITS, "--input", x, "--output", tmp_path / "y.npy")


def test_npz_without_inputs(capsys, tmp_path):
    np.savez(tmp_path / "x.npz", other=np.zeros(3))
    line = refused(capsys, "run", DIGITS, "--input", tmp_path / "x.npz", "--output", tmp_path / "y.npy")
    assert "other" in line and "x or input" in line


@pytest.mark.parametrize("cut", [0, 4, 100, 5000])
@pytest.mark.parametrize("command", ["run", "compile"])
def test_truncated_model(capsys, tmp_path, digits, cut, command):
    model = tmp_path / "cut.tflite"
    model.write_bytes(DIGITS.read_bytes()[:cut])
    if command == "run":
        refused(
            capsys, "run", model, "--input", save(tmp_path / "x.npy", digits["x"][:1]), "--output", tmp_path / "y.npy"
        )
    else:
        refused(capsys, "compile", model, "-o", tmp_path / "m.lepton")
    assert not (tmp_path / "m.lepton").exists() and not (tmp_path / "y.npy").exists()


@pytest.mark.parametrize("text", ["", "[]", '{"rows": "many"}', '{"rows": 1}', '{"wings": 2}'])
def test_wrong_configuration_file(capsys, tmp_path, text):
    config = tmp_path / "c.json"
    config.write_text(text)
    refused(capsys, "verilog", "--config", config, "-o", tmp_path / "x.v")


def test_configuration_file(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"name": "mine", "rows": 3, "cols": 5, "lanes": 1}))
    config = load_config(str(tmp_path / "c.json"))
    assert (config.name, config.rows, config.cols) == ("mine", 3, 5)


def test_atomic_write(tmp_path):
    target = tmp_path / "y.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError):
        with atomic(target) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError
    assert target.read_bytes() == b"old"
    with atomic(target) as temporary:
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["y.bin"]


def test_atomic_write_keeps_devices():
    with atomic("/dev/null") as temporary:
        temporary.write_bytes(b"gone")
    assert Path("/dev/null").is_char_device()


def test_run_golden_equals_tflm(capsys, tmp_path, digits):
    x, y = save(tmp_path / "x.npy", digits["x"][:20]), tmp_path / "y"
    assert cli.main(["run", str(DIGITS), "--input", str(x), "--output", str(y), "--backend", "golden"]) == 0
    assert np.array_equal(np.load(y), digits["tflm"][:20])


def test_sim_golden(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sim", "--backend", "golden", "--count", "12"]) == 0
    out = capsys.readouterr().out
    assert "equal: all 120 output bytes of 12 inputs" in out and "12 of 12 right" in out
    assert (tmp_path / "build" / "sim.png").read_bytes().startswith(b"\x89PNG")


def test_sim_reports_a_difference(capsys, tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    wrong = digits["tflm"][:4].copy()
    wrong[2, 3] ^= 1
    np.savez(tmp_path / "x.npz", x=digits["x"][:4], tflm=wrong)
    assert cli.main(["sim", "--backend", "golden", "--input", "x.npz"]) == 1
    assert "NOT EQUAL: 1 of 4" in capsys.readouterr().out


def test_shipped_digits_are_held_out(digits):
    """None of the shipped images (exact pixels) is among the images that trained the network."""
    train, _, held, labels = train_digits.split()
    assert len(held) >= 300 and np.array_equal(labels, digits["y"])
    assert not {i.tobytes() for i in train} & {i.tobytes() for i in held}
    assert np.mean(digits["tflm"].argmax(1) == labels) >= 0.97


class CountingSession:
    """Answers with stored outputs and a report like the rtl backend's."""

    backend = "rtl"

    def __init__(self, config, outputs):
        self.config, self.outputs, self.at, self.report = config, outputs, 0, None
        self.program = compile_model(load_model(DIGITS), config)

    def run(self, x, progress=None):
        self.report = {"macs": 6400, "cycles": 200, "utilization": 0.5, "causes": {"multiply": 150, "tail": 50}}
        self.at += len(x)
        return self.outputs[self.at - len(x) : self.at]


def test_report_shows_cycles_and_causes(capsys, tmp_path, digits):
    session = CountingSession(load_config("small"), digits["tflm"])
    result = sim_report.run(session, digits["x"][:10], digits["y"][:10], digits["tflm"][:10])
    sim_report.show(result, "digits")
    out = capsys.readouterr().out
    assert "200 each inference, 2,000 for 10" in out and "50.0%" in out and "75.0%" in out and "multiply" in out
    sim_report.draw(result, tmp_path / "sim.png", "digits")
    assert (tmp_path / "sim.png").stat().st_size > 10000


def test_compiled_file_runs_in_place_of_the_model(tmp_path, digits):
    x, y, program = save(tmp_path / "x.npy", digits["x"][:5]), tmp_path / "y.npy", tmp_path / "d.lepton"
    assert cli.main(["compile", str(DIGITS), "-o", str(program), "--config", "tiny"]) == 0
    assert cli.main(["run", str(program), "--input", str(x), "--output", str(y), "--backend", "iss"]) == 0
    assert np.array_equal(np.load(y), digits["tflm"][:5])


def test_help_is_quick_and_light():
    """Commands import what they need when they run: no NumPy for `--help`."""
    code = "import sys; from lepton.sw.cli import build_parser; build_parser().format_help(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    heavy = {"numpy", "amaranth", "tflite", "rich", "serial", "matplotlib"} & set(modules)
    assert not heavy
    assert "lepton.fpga.commands" in modules and "lepton.sw.commands.run" in modules


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    name, number = capsys.readouterr().out.split()
    assert name == "lepton" and number == version("lepton-npu")


def test_no_commands_installed(capsys, monkeypatch):
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    assert "no commands are installed" in refused(capsys, "run")


@pytest.mark.parametrize("extra, package", [("rtl", "amaranth"), ("report", "matplotlib"), ("fpga", "amaranth_boards")])
def test_a_missing_package_names_its_extra(capsys, tmp_path, monkeypatch, digits, extra, package):
    """Each command that needs an extra; in a process of its own, where the package cannot be imported."""
    argv = {
        "rtl": ["verilog", "-o", "x.v"],
        "report": ["sim", "--backend", "golden", "--count", "1"],
        "fpga": ["fpga", "build", "icebreaker"],
    }[extra]
    code = f"import sys; sys.modules[{package!r}] = None; from lepton.sw.cli import main; sys.exit(main({argv!r}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    line = f"lepton: error: the package {package!r} is missing: pip install 'lepton-npu[{extra}]'\n"
    assert result.stderr.endswith(line), result.stderr


def test_a_session_needs_no_amaranth(digits):
    code = (
        "import sys; sys.modules['amaranth'] = None\n"
        "import numpy as np\n"
        "from lepton.sw.session import Session\n"
        "from lepton.sw.files import DIGITS\n"
        "x = np.load(DIGITS.with_suffix('.npz'))['x'][:1]\n"
        "print(*Session(DIGITS, 'tiny', 'iss').run(x).ravel())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [int(v) for v in result.stdout.split()] == digits["tflm"][0].ravel().tolist()

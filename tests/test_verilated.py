"""The cache of built RTL models, and the tools that build them; nothing is built here."""

import os
import pwd
import shutil

import pytest

from lepton.sw.device import verilated
from lepton.sw.device.verilated import BackendError, cache_folder, keep, kept


def test_what_is_kept_is_whole_or_not_there(tmp_path):
    """A file cut anywhere, or with a byte changed, is none."""
    path = tmp_path / "new" / "model.so"
    data = bytes(range(256)) * 4
    assert kept(path) is None
    keep(path, data)
    assert kept(path) == data
    whole = path.read_bytes()
    for n in (0, 1, len(data) - 1, len(data), len(data) + 5, len(whole) - 2):
        path.write_bytes(whole[:n])
        assert kept(path) is None, n
    path.write_bytes(whole[:9] + b"\xff" + whole[10:])
    assert kept(path) is None
    keep(path, b"other")
    assert kept(path) == b"other" and os.listdir(path.parent) == [path.name]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.so"
    keep(path, b"old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match="No space left"):
        keep(path, b"new")
    assert kept(path) == b"old" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "told, found",
    [("g++", ["g++"]), ("g++ -m64 '-DX=a b'", ["g++", "-m64", "-DX=a b"]), ("", ["g++"]), (None, ["g++"])],
)
def test_the_compiler_may_have_arguments(monkeypatch, told, found):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "g++" else None)
    monkeypatch.delenv("CXX", raising=False)
    if told is not None:
        monkeypatch.setenv("CXX", told)
    assert verilated._compiler() == found


@pytest.mark.parametrize("told", ["none++", "none++ g++", "g++ '"])
def test_a_compiler_that_is_not_there(monkeypatch, told):
    monkeypatch.setenv("CXX", told)
    with pytest.raises(BackendError, match="CXX"):
        verilated._compiler()


def test_without_a_home(monkeypatch, tmp_path):
    """Neither HOME nor an entry in the list of users: a folder of one's own among the temporary files."""
    for name in ("LEPTON_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(verilated, "gettempdir", lambda: str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
    assert cache_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(BackendError, match="others may write"):
        cache_folder()

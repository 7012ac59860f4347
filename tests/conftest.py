"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

LONGEST = "rtl cocotb memory_port move programs move_machine fpga c_system bus serial array tail mutate npu".split()
"""Files that take a minute or more, the longest first: started late, they are what the other core waits for."""


def pytest_collection_modifyitems(items):
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


def shared_folder() -> Path:
    """Folder of the reference models: `LEPTON_SHARED`, or `../shared` beside the checkout."""
    return Path(os.environ.get("LEPTON_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """Folder with `models` and `zoo`: the reference models or, where they are not there, stand-ins made now."""
    folder = shared_folder()
    if (folder / "models").is_dir():
        return folder
    pytest.importorskip("tflite_micro", reason="tflite_micro is not installed: nothing to expect")
    import standins

    return standins.make(tmp_path_factory.mktemp("standins"))

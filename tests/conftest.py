"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


def shared_folder() -> Path:
    """Folder of the reference models: `LEPTON_SHARED`, or `../shared` beside the checkout."""
    return Path(os.environ.get("LEPTON_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = shared_folder()
    if not (folder / "models").is_dir():
        pytest.skip(f"no reference models at {folder}: set LEPTON_SHARED")
    return folder

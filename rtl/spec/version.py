"""Version of the distribution."""

from importlib import metadata


def version() -> str:
    """As pip knows it; "unknown" where the sources lie uninstalled."""
    try:
        return metadata.version("lepton-npu")
    except metadata.PackageNotFoundError:
        return "unknown"

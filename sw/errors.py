"""Errors of the software that belong to no single part of it; their base is `lepton.rtl.spec.errors.LeptonError`."""

from importlib.util import find_spec

from lepton.rtl.spec.errors import LeptonError

__all__ = ["LeptonError", "MissingExtraError", "UserError", "need"]


class UserError(LeptonError):
    """Wrong use of a command; the message is one line."""


class MissingExtraError(LeptonError, ImportError):
    """A package of one of the extras is not installed."""


def need(extra: str, *packages: str) -> None:
    """Call before importing what the extra installs. Raises MissingExtraError naming the command that installs it."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(f"the package {package!r} is missing: pip install 'lepton-npu[{extra}]'")

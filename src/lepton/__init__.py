"""Lepton: an open int8 neural-network accelerator. `lepton.compile` leads from a network to a Session."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton.sw.frontends.api import compile

__all__ = ["compile"]


def __getattr__(name: str) -> Any:
    """`compile`, imported when it is first asked for."""
    if name == "compile":
        from lepton.sw.frontends.api import compile

        return compile
    raise AttributeError(f"module 'lepton' has no attribute {name!r}")

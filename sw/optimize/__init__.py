"""Smaller and more exact networks for this machine: pruning, and training on the device's arithmetic.

`Pruner` works on torch modules, Keras models and what `qat` makes; `qat` makes a torch module of any float network that
`lepton import` reads, with the integers of the device in its forward pass. How they are used: docs/optimize.md.
"""

from typing import TYPE_CHECKING, Any

from lepton.sw.optimize.prune import Pruner, PruneReport, cubic

if TYPE_CHECKING:
    from lepton.sw.optimize.training import qat

__all__ = ["Pruner", "PruneReport", "cubic", "qat"]


def __getattr__(name: str) -> Any:
    """`qat`, with torch, when it is first asked for."""
    if name == "qat":
        from lepton.sw.optimize.training import qat

        return qat
    raise AttributeError(f"module 'lepton.sw.optimize' has no attribute {name!r}")

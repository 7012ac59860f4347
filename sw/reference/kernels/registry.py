"""Where the kernels are listed: operator name to function."""

from collections.abc import Callable

import numpy as np

KERNELS: dict[str, Callable] = {}
"""Name of an operator to its kernel, `f(model, op, args)`: args are the input arrays (None where absent), the result
is the output array, or a tuple of them for an operator with several outputs."""


def kernel(*names: str):
    """Decorator: this function is the kernel of these operators."""

    def register(function: Callable) -> Callable:
        for name in names:
            assert name not in KERNELS, f"two kernels for {name}"
            KERNELS[name] = function
        return function

    return register


def dense(x) -> np.ndarray:
    """x laid out row by row; a scalar stays one, which np.ascontiguousarray makes a list."""
    return np.asarray(x, order="C")

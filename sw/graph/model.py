"""A network as plain frozen dataclasses: tensors, operators, model."""

import math
from dataclasses import dataclass, field

import numpy as np

from lepton.rtl.spec.errors import LeptonError

MAX_FILE_BYTES = 1 << 28
MAX_TENSOR_ELEMENTS = 1 << 26
MAX_ACTIVATION_ELEMENTS = 1 << 28
MAX_PRODUCTS = 1 << 36
MAX_OBJECTS = 1 << 16
MAX_RANK = 6
MAX_NAME = 4096


class ModelError(LeptonError, ValueError):
    """A model that cannot be used; the message names the part, the reason and the way out."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor. data is None for activations, else a read-only array of `shape`."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: np.ndarray
    """float32, one value or one for each index of axis quant_axis; empty if not quantised."""
    zero_points: np.ndarray
    quant_axis: int
    data: np.ndarray | None

    @property
    def scale(self) -> np.float32:
        """First scale (the only one of an activation)."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0]) if len(self.zero_points) else 0

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def constant(self) -> bool:
        return self.data is not None


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator. inputs and outputs are tensor indexes, -1 for an absent optional input."""

    index: int
    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict = field(default_factory=dict)

    def __str__(self):
        return f"operator {self.index} ({self.op})"


@dataclass(frozen=True, eq=False)
class Model:
    """A whole network: operators in the order of execution."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str


def need(ok, where, why):
    if not ok:
        raise ModelError(f"{where}: {why}")


def tensor_name(t: Tensor) -> str:
    return f"tensor {t.index} {t.name[:80]!r}"


def window(size, kernel, stride, dilation, padding) -> tuple[int, int]:
    """(outputs, padding before) of a window along one axis, as TFLite computes it; outputs may be less than 1."""
    effective = (kernel - 1) * dilation + 1
    n = -(-size // stride) if padding == "SAME" else (size + stride - effective) // stride
    return n, max((n - 1) * stride + effective - size, 0) // 2 if padding == "SAME" else 0

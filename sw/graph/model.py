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
MAX_OPERATORS = 1 << 14
MAX_RANK = 6
MAX_NAME = 4096
MAX_SUBGRAPHS = 256
STORED = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "bool": np.bool_,
    "int4": np.int8,
    "resource": np.int32,
}
"""NumPy type of the values of a tensor, by its type."""


class ModelError(LeptonError, ValueError):
    """A model that cannot be used; the message names the part, the reason and the way out."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor. data is None for activations, else a read-only array of `shape`.

    dtype: float32, float16, int8, uint8, int16, int32, int64, bool, int4 (whose data is int8, a value a byte),
    resource (the handle of a variable; its data is its number in `Model.variables`, int32), or another one's name.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: np.ndarray
    """float32, one value or one for each index of axis quant_axis; empty if not quantised."""
    zero_points: np.ndarray
    quant_axis: int
    data: np.ndarray | None
    variable: bool = False
    """Keeps its value from one inference to the next; an operator that reads it changes it."""
    free: bool = False
    """Its shape in the file is a stand-in (the signature has -1): the operator that makes it says the right one."""

    @property
    def scale(self) -> np.float32:
        """First scale (the only one of an activation)."""
        return self.scales[0]

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0]) if len(self.zero_points) else 0

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of one value in an array of many: (N, *row). A leading 1 is left out."""
        return self.shape[1:] if self.shape[:1] == (1,) else self.shape

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in a file or in memory; int4 are two a byte."""
        item = np.dtype(STORED.get(self.dtype, np.int8)).itemsize
        return -(-self.size // 2) if self.dtype == "int4" else self.size * item

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


@dataclass(frozen=True)
class Variable:
    """What READ_VARIABLE and ASSIGN_VARIABLE work on: so many bytes, each `fill` before the first assignment."""

    name: str
    bytes: int
    fill: int


@dataclass(frozen=True, eq=False)
class Model:
    """A whole network: operators in the order of execution, but for those whose result is known when it is read."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str
    subgraphs: tuple["Model", ...] = ()
    """The graphs that CALL_ONCE, IF and WHILE run: number k of the file is subgraphs[k - 1]."""
    variables: tuple[Variable, ...] = ()

    @property
    def stateful(self) -> bool:
        """Whether an inference depends on those before it."""
        return bool(self.variables) or any(t.variable for g in (self, *self.subgraphs) for t in g.tensors)


class FreeShape(Exception):
    """The shape that an operator gives a tensor whose own is a stand-in."""

    def __init__(self, tensor: Tensor, shape: tuple[int, ...]):
        super().__init__(f"{tensor_name(tensor)} has shape {shape}")
        self.tensor, self.shape = tensor, shape


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

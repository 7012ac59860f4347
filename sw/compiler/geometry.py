"""Where the weights of a model fall in tiles, found by asking the compiler: it is given weights that are numbers."""

from dataclasses import dataclass, replace

import numpy as np

from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler.emitter import Span, Tile
from lepton.sw.compiler.network import Compiler
from lepton.sw.compiler.program import until_settled
from lepton.sw.graph.model import Model, Operator

BASE = 126
"""Numbers are written in digits 1 to 126: an int8, and never zero, which is left out."""


@dataclass(frozen=True, eq=False)
class TileMap:
    """The tiles of one operator's weights."""

    tile: np.ndarray
    """Number of the tile that each weight lies in, in the weights' shape."""
    group: np.ndarray
    """Number of the group of channels that each tile belongs to. A group needs a tile, and be it empty."""


class _Asked(Compiler):
    """Keeps the groups of tiles of each operator's weights."""

    found: dict[int, list[list[Tile]]]

    def add_weights(self, op: Operator, groups: list[list[Tile]]) -> list[Span]:
        self.found.setdefault(op.index, []).extend(groups)
        return super().add_weights(op, groups)


def _groups(model: Model, config: NpuConfig) -> dict[int, list[list[Tile]]]:
    host: dict[int, str] = {}

    def once():
        compiler = _Asked(model, config, host=host)
        compiler.found = {}
        compiler.compile()
        return compiler.found

    return until_settled(host, once)


def weight_tiles(model: Model, config: NpuConfig) -> dict[int, TileMap]:
    """The tiles of each operator whose weights the array multiplies, by its index. Raises CompileError."""
    kernels = {op.index: op.inputs[1] for op in model.operators if len(op.inputs) > 1 and op.inputs[1] >= 0}
    asked = {t for t in kernels.values() if model.tensors[t].constant and model.tensors[t].dtype in ("int8", "int4")}
    numbers: dict[int, list[np.ndarray]] = {}
    most = max((model.tensors[t].size for t in asked), default=0)
    power = 1
    while power <= most:
        tensors = list(model.tensors)
        for t in asked:
            digits = np.arange(model.tensors[t].size, dtype=np.int64) // power % BASE + 1
            tensors[t] = replace(tensors[t], data=digits.astype(np.int8).reshape(tensors[t].shape))
        for index, groups in _groups(replace(model, tensors=tuple(tensors)), config).items():
            digits = np.stack([t.weights for tiles in groups for t in tiles]).astype(np.int64)
            group = np.repeat(np.arange(len(groups)), [len(tiles) for tiles in groups])
            numbers.setdefault(index, [group, np.zeros_like(digits), digits > 0])[1] += (digits - 1) * power
        power *= BASE
    out = {}
    for index, (group, number, there) in numbers.items():
        weights = model.tensors[kernels[index]]
        tile = np.full(weights.size, -1, np.int64)
        tile[number[there]] = np.broadcast_to(np.arange(len(number))[:, None, None], number.shape)[there]
        out[index] = TileMap(tile.reshape(weights.shape), group)
    return out

"""Pruning: weights that become zero, by magnitude or by the compiler's tiles, and stay zero while training goes on.

A tile without any weight is not on the tape: no cycle goes into it. Where tiles fall depends on the configuration; the
compiler itself is asked (`lepton.sw.compiler.geometry`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lepton.rtl.spec.config import NpuConfig, get_config
from lepton.rtl.spec.isa import Cause
from lepton.sw.compiler import FitError, NpuStep, Program, compile_model
from lepton.sw.compiler.geometry import TileMap, weight_tiles
from lepton.sw.frontends.graph import Graph, ImportModelError, Node, Value
from lepton.sw.frontends.quantize import PRODUCTS, Ranges, quantize
from lepton.sw.graph.model import Model
from lepton.sw.graph.reader import load_model
from lepton.sw.optimize.sources import source_of, trace


def cubic(step: int, steps: int, final: float, first: float = 0.0) -> float:
    """The share to prune at a step of a gradual schedule: quickly at first, slowly at the end (Zhu and Gupta, 2017)."""
    done = min(max(step / max(steps, 1), 0.0), 1.0)
    return final + (first - final) * (1 - done) ** 3


@dataclass(frozen=True)
class Counted:
    """A network on the machine: tiles of weights, and cycles by the cycle model (`multiply`: of them, those in which
    vectors enter the array). Without cycles where the configuration is too small."""

    tiles: int
    cycles: int | None
    multiply: int | None


@dataclass(frozen=True)
class PruneReport:
    """What pruning did. `layers`: by the name of the weights (share of zeros, tiles, tiles that are gone)."""

    config: str
    layers: dict[str, tuple[float, int, int]]
    sparsity: float
    before: Counted
    after: Counted

    def __str__(self) -> str:
        lines = [f"{'weights':40} {'zeros':>7} {'tiles':>7} {'gone':>7}"]
        for name, (zeros, tiles, gone) in self.layers.items():
            lines.append(f"{name[-40:]:40} {zeros:7.1%} {tiles:7,} {gone:7,}")
        a, b = self.before, self.after
        lines.append(
            f"{self.sparsity:.1%} of the weights are zero, {1 - b.tiles / max(a.tiles, 1):.1%} of the tiles gone"
        )
        if a.cycles and b.cycles and a.multiply and b.multiply:
            lines.append(
                f"cycles on {self.config}: {a.cycles:,} before, {b.cycles:,} after; multiplying {a.multiply:,} and "
                f"{b.multiply:,} ({b.multiply / a.multiply:.1%})"
            )
        else:
            lines.append(f"cycles on {self.config}: not known, it is too small for the network (lepton check)")
        return "\n".join(lines)


class Pruner:
    """Masks for the weights of a torch module, a Keras model or what `qat` made.

    network : it is changed in place whenever masks are made or `apply` is called.
    example_inputs : what a torch module is called with, batch first.
    config : where tiles fall: a preset's name or an NpuConfig.

    Weights that are zero already stay so. Raises ImportModelError, one line.
    """

    def __init__(self, network: Any, example_inputs: Any = None, config: str | NpuConfig = "small"):
        self.source = source_of(network, example_inputs)
        self.config = get_config(config) if isinstance(config, str) else config
        self.masks = {name: w != 0 for name, w in self.source.weights().items()}
        self._graph, self._starts, self._numbers = trace(self.source)
        self._dense = self._model(None)
        self.tiles = self._tiles()

    # --- where weights lie -----------------------------------------------------------------------------------------

    def _products(self, graph: Graph) -> list[Node]:
        return [n for n in graph.nodes if n.op in PRODUCTS]

    def _model(self, masks: Mapping[str, np.ndarray] | None) -> Model:
        """An int8 model of the network's structure whose weights are zero where masks are, and nowhere else."""
        graph = self._graph
        kept = None if masks is None else np.concatenate([masks[n].reshape(-1) for n in self._starts])
        made: dict[Node, Node] = {}
        for node, numbers in zip(self._products(graph), self._numbers):
            i = PRODUCTS[node.op][0]
            data = np.where(numbers >= 0, 1 + numbers % 100, 0).astype(np.float32)
            if kept is not None:
                data *= kept[numbers]
            made[node] = replace(node, inputs=[*node.inputs])
            made[node].inputs[i] = Value(node.x(i).name, node.x(i).shape, data)
        limits = {v: (-1.0, 1.0) for v in (*graph.inputs, *(n.y for n in graph.nodes))}
        cells = {n: 1.0 for n in graph.nodes if n.op == "UNIDIRECTIONAL_SEQUENCE_LSTM"}
        nodes = [made.get(n, n) for n in graph.nodes]
        quantized = quantize(Graph(nodes, graph.inputs, graph.outputs, graph.name), Ranges(limits, cells))
        return load_model(quantized.data, graph.name)

    def _tiles(self) -> dict[str, TileMap]:
        """The tiles of each weight array, in its own shape; arrays that the array does not multiply are left out."""
        maps = weight_tiles(self._dense, self.config)
        operators = [op for op in self._dense.operators if op.op in PRODUCTS]
        tile = np.full(sum(m.size for m in self.masks.values()), -1, np.int64)
        groups: list[np.ndarray] = []
        count = 0
        for op, numbers in zip(operators, self._numbers, strict=True):
            if op.index not in maps:
                continue
            found = maps[op.index]
            tile[numbers[numbers >= 0]] = found.tile[numbers >= 0] + count
            groups.append(found.group + (groups[-1].max() + 1 if groups else 0))
            count += len(found.group)
        out = {}
        group = np.concatenate(groups) if groups else np.zeros(0, np.int64)
        for name, mask in self.masks.items():
            part = tile[self._starts[name] :][: mask.size].reshape(mask.shape)
            if (part >= 0).all():
                out[name] = TileMap(part, group)
        return out

    # --- masks -----------------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Set what is pruned to zero: after each step of an optimizer (`hold` and `callback` do it)."""
        for name, w in self.source.weights().items():
            if not self.masks[name].all():
                self.source.assign(name, w * self.masks[name])

    def magnitude(self, threshold: float) -> None:
        """w = 0 where |w| < threshold."""
        for name, w in self.source.weights().items():
            self.masks[name] &= np.abs(w) >= threshold
        self.apply()

    def prune_tiles(self, share: float, layers: Mapping[str, float] | None = None) -> None:
        """Prune until this share of the tiles is gone, those that hold least of their layer first.

        layers: shares of their own, by the name of the weights; `share` is of all the others together.
        The measure is the sum of squares in a tile, relative to the mean tile of its layer. The best tile of each group
        of channels stays: a group without any needs one to write its zeros, so that nothing would be gained.
        """
        own = dict(layers or {})
        for value in (share, *own.values()):
            if not 0 <= value <= 1:
                raise ImportModelError(f"share {value}: must be between 0 and 1")
        for name in own:
            if name not in self.tiles:
                raise ImportModelError(f"no weights {name!r}; known: {', '.join(self.tiles)}")
        if not self.tiles:
            raise ImportModelError("no weights that the array multiplies: nothing can be pruned by tiles")
        rest = [name for name in self.tiles if name not in own]
        for names, part in [*(([name], value) for name, value in own.items()), (rest, share)]:
            self._prune(names, part)
        self.apply()

    def _prune(self, names: list[str], share: float) -> None:
        """Take this share of the tiles of these weights from the masks."""
        if not names:
            return
        group, weights = self.tiles[names[0]].group, self.source.weights()
        score = np.full(len(group), np.inf)
        for name in names:
            found = self.tiles[name]
            squares = (weights[name].astype(np.float64) * self.masks[name]) ** 2
            energy = np.bincount(found.tile.reshape(-1), squares.reshape(-1), len(group))
            mine = np.unique(found.tile)
            score[mine] = energy[mine] / max(energy[mine].mean(), 1e-30)
        order = np.flatnonzero(np.isfinite(score))
        order = order[np.argsort(score[order], kind="stable")]
        best = {int(group[t]): int(t) for t in order}  # the last one of a group wins
        kept = set(best.values())
        gone = [t for t in order.tolist() if t not in kept][: int(round(share * len(order)))]
        dead = np.zeros(len(group), bool)
        dead[gone] = True
        for name in names:
            self.masks[name] &= ~dead[self.tiles[name].tile]

    def hold(self, optimizer: Any) -> Any:
        """After each step of a torch optimizer, what is pruned is zero again. `.remove()` of the result ends it."""
        return optimizer.register_step_post_hook(lambda *_: self.apply())

    def callback(self, steps: int = 0, share: float = 0.0) -> Any:
        """A Keras callback that holds the masks, and before that prunes to `share` of the tiles in `steps` epochs."""
        import tensorflow as tf

        pruner = self

        class Hold(tf.keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if steps and epoch < steps:
                    pruner.prune_tiles(cubic(epoch + 1, steps, share))

            def on_train_batch_end(self, batch, logs=None):
                pruner.apply()

        return Hold()

    # --- what it brought -------------------------------------------------------------------------------------------

    def _counted(self, model: Model, tiles: int) -> Counted:
        try:
            program = compile_model(model, self.config)
        except FitError:
            return Counted(tiles, None, None)
        return count(program, tiles)

    def _live(self, masks: Mapping[str, np.ndarray] | None) -> dict[str, int]:
        """Tiles with a weight, of each array."""
        return {
            name: len(np.unique(found.tile if masks is None else found.tile[masks[name]]))
            for name, found in self.tiles.items()
        }

    def report(self) -> PruneReport:
        """Zeros, tiles and cycles of the network as it is masked now, beside all weights."""
        before, after = self._live(None), self._live(self.masks)
        layers = {
            name: (1 - float(mask.mean()), before.get(name, 0), before.get(name, 0) - after.get(name, 0))
            for name, mask in self.masks.items()
        }
        total = sum(m.size for m in self.masks.values())
        zeros = total - sum(int(m.sum()) for m in self.masks.values())
        dense = self._counted(self._dense, sum(before.values()))
        pruned = self._counted(self._model(self.masks), sum(after.values()))
        return PruneReport(self.config.name, layers, zeros / max(total, 1), dense, pruned)


def count(program: Program, tiles: int) -> Counted:
    """Cycles of a program by the cycle model."""
    runs = [program.predict(step.pc) for step in program.steps if isinstance(step, NpuStep)]
    multiply = sum(run.causes[Cause.MULTIPLY.name.lower()] for run in runs)
    return Counted(tiles, sum(run.cycles for run in runs), multiply)

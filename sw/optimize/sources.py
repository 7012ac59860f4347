"""The weights of a network in its framework, and where each lies in the graph that becomes the int8 model.

Which weight is which after a framework's export (layouts turned, flattened maps reordered, products cut apart) is
found by exporting a copy whose weights are numbers.
"""

import copy
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lepton.sw.frontends import keras_source, torch_source
from lepton.sw.frontends.graph import Graph, ImportModelError
from lepton.sw.frontends.importer import read_source
from lepton.sw.frontends.quantize import PRODUCTS

BASE = 4096
"""Numbers are written in digits 1 to 4096: exact in float32 with room for an export that scales by nearly one."""


@runtime_checkable
class Source(Protocol):
    """A network whose weights can be read and set."""

    def weights(self) -> dict[str, np.ndarray]:
        """What can be pruned, by name."""

    def assign(self, name: str, values: np.ndarray) -> None:
        """Give a weight new values."""

    def graph(self, digits: Callable[[str], np.ndarray]) -> Graph:
        """The float graph of a copy with these weights, in which nothing else changes a product's weights."""


class TorchSource:
    """A torch.nn.Module."""

    def __init__(self, module: Any, example_inputs: Any):
        if example_inputs is None:
            raise ImportModelError(f"{type(module).__name__}: a torch module needs example_inputs, batch 1")
        self.module = module
        self.examples = list(example_inputs) if isinstance(example_inputs, (tuple, list)) else [example_inputs]

    def _parameters(self, module) -> dict[str, Any]:
        return {name: p for name, p in module.named_parameters() if p.ndim > 1}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: p.detach().cpu().numpy() for name, p in self._parameters(self.module).items()}

    def assign(self, name: str, values: np.ndarray) -> None:
        import torch

        p = self._parameters(self.module)[name]
        with torch.no_grad():
            p.copy_(torch.as_tensor(values).to(p.device, p.dtype))

    def graph(self, digits: Callable[[str], np.ndarray]) -> Graph:
        import torch

        twin = copy.deepcopy(self.module).cpu().eval()
        with torch.no_grad():
            for name, b in twin.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    b.fill_(float(name.endswith("running_var")))
            for name, p in twin.named_parameters():
                if p.ndim > 1:
                    p.copy_(torch.as_tensor(digits(name)))
                else:  # biases, and the factors of norms
                    p.fill_(float(name.rpartition(".")[2] == "weight"))
        examples = [np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)[:1] for x in self.examples]
        return read_source(twin, example_inputs=examples)


class KerasSource:
    """A Keras model."""

    def __init__(self, model: Any):
        self.model = model

    def _variables(self, model) -> dict[str, Any]:
        return {f"{k}/{v.path}": v for k, v in enumerate(model.trainable_variables) if len(v.shape) > 1}

    def weights(self) -> dict[str, np.ndarray]:
        return {name: v.numpy() for name, v in self._variables(self.model).items()}

    def assign(self, name: str, values: np.ndarray) -> None:
        self._variables(self.model)[name].assign(values)

    def graph(self, digits: Callable[[str], np.ndarray]) -> Graph:
        kept = self.model.get_weights()
        try:
            for name, v in self._variables(self.model).items():
                v.assign(digits(name))
            for v in self.model.variables:
                if v.path.endswith(("gamma", "moving_variance")):
                    v.assign(np.ones(v.shape))
                elif v.path.endswith(("beta", "moving_mean", "bias")):
                    v.assign(np.zeros(v.shape))
            return read_source(self.model)
        finally:
            self.model.set_weights(kept)


def source_of(network: Any, example_inputs: Any = None) -> Source:
    """The weights of a torch module, a Keras model, what `qat` made, or a Source itself. Raises ImportModelError."""
    if isinstance(network, Source):
        return network
    if type(network).__name__ == "QatModule":
        return network.prunable
    if torch_source.is_module(network):
        return TorchSource(network, example_inputs)
    if keras_source.is_keras(network):
        return KerasSource(network)
    raise ImportModelError(f"{type(network).__name__}: neither a torch.nn.Module nor a Keras model")


def trace(source: Source) -> tuple[Graph, dict[str, int], list[np.ndarray]]:
    """(a graph of the network's structure, the number of each weight array's first value, and for each product of the
    graph, in order, the number of the value that each of its weights is, -1 where it is none of them)."""
    arrays = source.weights()
    starts = dict(zip(arrays, np.cumsum([0, *(a.size for a in arrays.values())]).tolist()))
    total = sum(a.size for a in arrays.values())

    def exported(values: Callable[[str], np.ndarray]) -> tuple[Graph, list[np.ndarray]]:
        graph = source.graph(lambda name: values(name).astype(np.float32).reshape(arrays[name].shape))
        return graph, [n.x(PRODUCTS[n.op][0]).values.astype(np.float64) for n in graph.nodes if n.op in PRODUCTS]

    graph, factors = exported(lambda name: np.ones(arrays[name].size))  # an export may scale weights
    found = [np.where(f != 0, 0, -1) for f in factors]
    power = 1
    while power < total:

        def digits(name: str) -> np.ndarray:
            numbers = np.arange(arrays[name].size, dtype=np.int64) + starts[name]
            return numbers // power % BASE + 1

        for k, w in enumerate(exported(digits)[1]):
            seen = np.divide(w, factors[k], out=np.zeros_like(w), where=factors[k] != 0)
            whole = np.round(seen).astype(np.int64)
            known = (found[k] >= 0) & (np.abs(seen - whole) < 0.25) & (whole > 0)
            found[k] = np.where(known, found[k] + (whole - 1) * power, -1)
        power *= BASE
    return graph, starts, found

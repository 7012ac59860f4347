"""`lepton info`: what a model takes and gives, its operators, and what it keeps from one inference to the next."""

from collections import Counter

import numpy as np

from lepton.sw.graph.model import Model
from lepton.sw.session import End


def describe(model: Model, ends: tuple[list[End], list[End]]) -> dict:
    """What `lepton info` tells, as plain data."""

    def plain(end: End) -> dict:
        return {
            "name": end.name,
            "shape": list(end.shape),
            "dtype": end.dtype.name,
            "scale": end.scale,
            "zero_point": end.zero_point,
            "array": ["N", *end.row],
        }

    tensors = [(t.name, t.shape, t.dtype) for g in (model, *model.subgraphs) for t in g.tensors if t.variable]
    return {
        "name": model.name,
        "inputs": [plain(end) for end in ends[0]],
        "outputs": [plain(end) for end in ends[1]],
        "operators": dict(Counter(op.op for op in model.operators).most_common()),
        "constant_bytes": sum(t.nbytes for t in used(model)),
        "state": [
            *({"name": v.name, "bytes": v.bytes} for v in model.variables),
            *({"name": name, "shape": list(shape), "dtype": dtype} for name, shape, dtype in tensors),
        ],
    }


def used(model: Model) -> list:
    """The constants that operators read."""
    return [
        model.tensors[i]
        for i in {i for op in model.operators for i in op.inputs if i >= 0}
        if model.tensors[i].constant
    ]


def show(told: dict) -> None:
    """Print it as text."""
    print(told["name"])
    for what in ("inputs", "outputs"):
        for k, end in enumerate(told[what]):
            shape = " x ".join(map(str, end["shape"])) or "scalar"
            scale = f", scale {str(np.float32(end['scale']))}, zero point {end['zero_point']}" if end["scale"] else ""
            print(f"{what[:-1] + str(k):9} {end['name']}: {end['dtype']} {shape}{scale}")
    for what, value in told.get("made", {}).items():
        print(f"{what:9} {value}")
    print("operators " + ", ".join(f"{name} {n}" for name, n in told["operators"].items()))
    print(f"constants {told['constant_bytes']:,} bytes")
    for kept in told["state"]:
        print(
            f"state     {kept['name']}: "
            + (f"{kept['bytes']} bytes" if "bytes" in kept else f"{kept['dtype']} {kept['shape']}")
        )
    if not told["state"]:
        print("state     none")

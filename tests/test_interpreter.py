"""That the installed interpreter computes what this one did when the tests were written.

"Exact" means exact as this version of tflite-micro. Old releases leave the index, so another may be installed: when it
computes something else, this says so, before a hundred other tests do.
"""

import hashlib
from importlib.metadata import version

import pytest

pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
import numpy as np
import standins

from lepton.verif.random.graphs import reference

VERSION = "0.dev20261023182759"
"""The version that the digests are of."""
DIGESTS: dict[str, tuple[str, str]] = {}
"""Net: first digits of the SHA-256 of its file, and of its outputs."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def computed(name: str) -> tuple[str, str]:
    nets = standins.ZOO | standins.MODELS
    data, shape = nets[name](1 + list(nets).index(name))
    xs = np.random.default_rng([3, len(name)]).integers(-128, 128, (4, *shape)).astype(np.int8)
    return digest(data), digest(reference(data, xs).tobytes())


@pytest.mark.parametrize("name", sorted(standins.ZOO | standins.MODELS))
def test_the_installed_version_computes_the_same(name):
    made, found = computed(name)
    assert made == DIGESTS[name][0], "another net than the digests are of: run this file to print new ones"
    assert found == DIGESTS[name][1], (
        f"{name}: tflite-micro {version('tflite-micro')} computes something else than {VERSION}, of which the README "
        "says 'exact'"
    )


if __name__ == "__main__":
    for name in sorted(standins.ZOO | standins.MODELS):
        print(f'    "{name}": {computed(name)},'.replace("'", '"'))

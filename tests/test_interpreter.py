"""That the installed interpreter computes what this one did when the tests were written.

"Exact" means exact as this version of tflite-micro. Old releases leave the index, so another may be installed: when it
computes something else, this says so, before a hundred other tests do.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("tflite_micro", reason="tflite_micro is not installed")
import numpy as np
import standins

from lepton.verif.random.graphs import reference

VERSION = "0.dev20261023182759"
"""The version that the digests are of."""
DIGESTS: dict[str, tuple[str, str]] = {
    "ad01_int8": ("931dd27109dfb417", "344ea27f96909eec"),
    "add_c12": ("43160b9508c396d2", "ab317a56b6317c78"),
    "avgpool3": ("6e8a690f15474f64", "adb95776207aeede"),
    "concat": ("17224bef841643f9", "09e65f15bfd332e7"),
    "conv1x1_c64": ("7863d9fad8703daa", "13e08f0aa419798b"),
    "conv1x7_c10": ("5d150a6dc65cfd5e", "44bb0bf94349c2a2"),
    "conv3x3_c16": ("e4f9321e67955541", "e743d978af69f5dd"),
    "conv3x3_dil2": ("b2d6aa4b5ebe968a", "06bb2502ec351686"),
    "conv3x3_s2_c3": ("d5e6f8a4eb02e00e", "06b876021f76bdc7"),
    "conv5x5_valid_c5": ("cf41f34e7938608c", "3e9dd2cb11122330"),
    "dw3x3_c16": ("c13e90b9bc591fbe", "b1f705161002fbed"),
    "dw3x3_mult2_c4": ("c230496353133b4b", "4da2daeda8fb61d0"),
    "dw3x3_s2_c24": ("7d6a00b9f647734b", "259e4c2708a14966"),
    "dw5x5_c9": ("ec853d4cc660fce6", "7e1618d264c37c55"),
    "fc_100_37": ("39d3c92d1847543b", "ad40b7ac3c8a7533"),
    "fc_mlp": ("84cd716d92d70da1", "9cfb996c74bd1303"),
    "gap_fc": ("4c3fdbe4689bafec", "a82ac5a2e37c855e"),
    "kws_ref_model": ("2be12ca6e1a33b24", "e003332e40e30037"),
    "maxpool2": ("6f1c45155729f0a2", "67e2a9fd26189152"),
    "mbv2_block": ("c149327b68ec3287", "1949a7a1e6244020"),
    "mul_gate": ("43b1e2742eb17e37", "9e2ea12f37ebd6db"),
    "pad_conv": ("2eacad1b8e5c1c26", "93cdd90a5869a585"),
    "pretrainedResnet_quant": ("0753025d11ddd1c5", "0fff67a570a409c4"),
    "resnet_block": ("839d89136a9a3597", "c8d96f9f2575006a"),
    "seed_mnist_cnn": ("39f8032d28ee58fe", "e071032aaa097246"),
    "sigmoid_tanh": ("a509cf38731b8b20", "f68d6250d71dbb77"),
    "vww_96_int8": ("cc7cfdf52d8c4f0a", "9713660fc45b7d09"),
}
"""Net: first digits of the SHA-256 of its file, and of its outputs."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def computed(name: str) -> tuple[str, str]:
    nets = standins.ZOO | standins.MODELS
    data, shape = nets[name](1 + list(nets).index(name))
    xs = np.random.default_rng([3, len(name)]).integers(-128, 128, (4, *shape)).astype(np.int8)
    return digest(data), digest(reference(data, xs).tobytes())


def test_the_readme_names_the_version():
    readme = Path(__file__).resolve().parents[1] / "README.md"
    assert f"`tflite-micro` {VERSION} " in readme.read_text()


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

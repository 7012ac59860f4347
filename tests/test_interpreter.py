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
    "ad01_int8": ("84609120a6195505", "344ea27f96909eec"),
    "add_c12": ("cfe0123a1aa809d5", "ab317a56b6317c78"),
    "avgpool3": ("04a3c3bbc703800b", "adb95776207aeede"),
    "concat": ("bb92ca0542fa212f", "09e65f15bfd332e7"),
    "conv1x1_c64": ("9606617282ad0824", "13e08f0aa419798b"),
    "conv1x7_c10": ("3769d00d4060f45c", "44bb0bf94349c2a2"),
    "conv3x3_c16": ("3e004db01e44c98f", "e743d978af69f5dd"),
    "conv3x3_dil2": ("7627645fdc3744a7", "06bb2502ec351686"),
    "conv3x3_s2_c3": ("b96d378afb412f2c", "06b876021f76bdc7"),
    "conv5x5_valid_c5": ("1ce5097dcf42d195", "3e9dd2cb11122330"),
    "dw3x3_c16": ("022310b56c92f1f1", "b1f705161002fbed"),
    "dw3x3_mult2_c4": ("da23bee8a65b0165", "4da2daeda8fb61d0"),
    "dw3x3_s2_c24": ("a4e402d0e6bb89a0", "259e4c2708a14966"),
    "dw5x5_c9": ("a9da8a7f749fb58a", "7e1618d264c37c55"),
    "fc_100_37": ("7013172fefd68729", "ad40b7ac3c8a7533"),
    "fc_mlp": ("d8aefade5c2836b9", "9cfb996c74bd1303"),
    "gap_fc": ("04d05086e0b6425f", "a82ac5a2e37c855e"),
    "kws_ref_model": ("b1a9acccf9312397", "e003332e40e30037"),
    "maxpool2": ("e41ded1fc39ab397", "67e2a9fd26189152"),
    "mbv2_block": ("dd7ab8651a8708de", "1949a7a1e6244020"),
    "mul_gate": ("b9e6f57bc55ecf34", "9e2ea12f37ebd6db"),
    "pad_conv": ("d651a56e058cfc02", "93cdd90a5869a585"),
    "pretrainedResnet_quant": ("70a89a31283462ea", "0fff67a570a409c4"),
    "resnet_block": ("05c0623337f88a51", "c8d96f9f2575006a"),
    "seed_mnist_cnn": ("e2aa79a6536a933f", "e071032aaa097246"),
    "sigmoid_tanh": ("8707f15e030e923d", "f68d6250d71dbb77"),
    "vww_96_int8": ("2b121359f92b206f", "9713660fc45b7d09"),
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

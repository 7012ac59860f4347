"""Whole networks: the compiled program on the instruction-set simulator gives TFLM's bytes."""

import numpy as np
import pytest

from lepton.rtl.spec.config import PRESETS, NpuConfig
from lepton.sw.session import Session

MODELS = ("pretrainedResnet_quant", "kws_ref_model", "vww_96_int8", "ad01_int8")
ZOO = (
    "add_c12 avgpool3 concat conv1x1_c64 conv1x7_c10 conv3x3_c16 conv3x3_dil2 conv3x3_s2_c3 conv5x5_valid_c5 dw3x3_c16 "
    "dw3x3_mult2_c4 dw3x3_s2_c24 dw5x5_c9 fc_100_37 fc_mlp gap_fc maxpool2 mbv2_block mul_gate pad_conv resnet_block "
    "sigmoid_tanh"
).split()
ODD = (
    NpuConfig("odd3x5", rows=3, cols=5, lanes=5, weight_tiles=4096),
    NpuConfig("odd9x8", rows=9, cols=8, lanes=2, weight_tiles=4096),
    NpuConfig("odd18x14", rows=18, cols=14, lanes=7, weight_tiles=4096),
)


def check(folder, name, config, count):
    data = np.load(folder / f"{name}.npz")
    got = Session(folder / f"{name}.tflite", config, "iss").run(data["input"][:count])
    assert np.array_equal(got, data["output"][:count])


@pytest.mark.parametrize("config", [*PRESETS.values(), *ODD], ids=lambda c: c.name)
@pytest.mark.parametrize("name", ZOO)
def test_zoo_on_iss(shared, name, config):
    check(shared / "zoo", name, config, 2)


@pytest.mark.parametrize("config", PRESETS.values(), ids=lambda c: c.name)
@pytest.mark.parametrize("name", MODELS)
def test_models_on_iss(shared, name, config):
    check(shared / "models", name, config, 1)

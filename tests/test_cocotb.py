"""The cocotb testbenches of `lepton.verif.benches`, on a simulator built for two small configurations.

`LEPTON_SEED=n` replays a run; without it every run draws a new seed, which a failure names.
"""

import os
import secrets
from pathlib import Path

import pytest

from lepton.verif.benches.build import build, run, verilog
from lepton.verif.benches.top import CONFIGS

FOLDER = Path(__file__).resolve().parents[1] / "build" / "benches"
BENCHES = "accumulators array store quantizer tail controller npu".split()


@pytest.fixture(scope="module", params=CONFIGS)
def simulator(request):
    config = CONFIGS[request.param]
    folder = FOLDER / config.name
    return config, folder, build(verilog(config), folder)


@pytest.mark.parametrize("bench", BENCHES)
def test_bench(simulator, bench):
    config, folder, runner = simulator
    seed = int(os.environ.get("LEPTON_SEED") or secrets.randbelow(1 << 31))
    print(f"{bench} on {config.name}: LEPTON_SEED={seed}")
    failed = run(runner, bench, config, seed, folder)
    assert not failed, f"{bench} on {config.name}: see {folder / bench}.log; again with LEPTON_SEED={seed}"

"""The cocotb testbenches of `lepton.verif.benches`, on a simulator built for two small configurations.

`LEPTON_SEED=n` replays a run; without it every run draws a new seed, which a failure names. `WAVES=1` leaves
`build/benches/CONFIG/BENCH.fst`.
"""

import os
import secrets
from pathlib import Path

import pytest

from lepton.verif.benches.build import build, failures, run, verilog
from lepton.verif.benches.top import CONFIGS

FOLDER = Path(__file__).resolve().parents[1] / "build" / "benches"
BENCHES = "accumulators array store quantizer tail controller npu".split()


FIRST = next(iter(CONFIGS))


@pytest.fixture(
    scope="module", params=[name if name == FIRST else pytest.param(name, marks=pytest.mark.slow) for name in CONFIGS]
)
def simulator(request):
    config = CONFIGS[request.param]
    folder = FOLDER / config.name
    return config, folder, build(verilog(config), folder, waves=os.environ.get("WAVES", "0") not in ("", "0"))


@pytest.mark.parametrize("bench", BENCHES)
def test_bench(simulator, bench):
    config, folder, runner = simulator
    seed = int(os.environ.get("LEPTON_SEED") or secrets.randbelow(1 << 31))
    print(f"{bench} on {config.name}: LEPTON_SEED={seed}")
    failed = run(runner, bench, config, seed, folder)
    if failed:
        lines = [f"{bench} on {config.name}:", *failures(folder, bench)]
        pytest.fail("\n".join([*lines, f"see {folder / bench}.log; again with LEPTON_SEED={seed}"]), pytrace=False)

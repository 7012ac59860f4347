"""The accelerator on a bus, in the cocotb bench `bus`: every bus at several widths of the memory port.

`LEPTON_SEED=n` replays a run; without it every run draws a new seed, which a failure names.
"""

import os
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from lepton.verif.benches.build import build, failures, run
from lepton.verif.benches.bus_top import BUS_CONFIGS, bus_verilog

FOLDER = Path(__file__).resolve().parents[1] / "build" / "benches"


def simulate(bus, which, monkeypatch, model=None):
    """Run the bench; returns what failed."""
    name = f"{bus}-{which}"
    folder = FOLDER / name
    runner = build(bus_verilog(bus, which), folder)
    seed = int(os.environ.get("LEPTON_SEED") or secrets.randbelow(1 << 31))
    print(f"{name}: LEPTON_SEED={seed}")
    if model is not None:
        monkeypatch.setenv("LEPTON_BENCH_MODEL", str(model.resolve()))
    failed = run(runner, "bus", replace(BUS_CONFIGS[which], name=name), seed, folder)
    return [*failures(folder, "bus"), f"see {folder / 'bus'}.log; again with LEPTON_SEED={seed}"] if failed else []


@pytest.mark.parametrize("which", BUS_CONFIGS)
@pytest.mark.parametrize("bus", ["axi", "wishbone"])
def test_bench(bus, which, monkeypatch):
    failed = simulate(bus, which, monkeypatch)
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)

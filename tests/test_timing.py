"""The latencies in one place: sums that follow from others, and a cycle model that needs no hardware description.

That units keep them is measured with the units (`test_multiply.py`, `test_tail.py`, `test_array.py`, ...).
"""

import subprocess
import sys
from dataclasses import replace

import pytest

from lepton.rtl.spec import timing
from lepton.rtl.spec.config import PRESETS, UP5K, NpuConfig


def test_the_cycle_model_and_check_import_no_amaranth():
    code = "import sys, lepton.sw.reference.cycles, lepton.sw.report.check; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "lepton.rtl.spec.timing" in loaded
    assert not [name for name in loaded if name.split(".")[0] == "amaranth"]


@pytest.mark.parametrize("act_read, weight_load", [(1, 1), (3, 2), (2, 3), (2, 5), (1, 4), (4, 2)])
def test_a_load_meets_row_0_one_cycle_before_the_swap(act_read, weight_load):
    t = replace(timing.of(PRESETS["small"]), act_read=act_read, weight_load=weight_load, wrap=0)
    swap = 1 + t.operands  # of the first vector, after its pass's start
    assert t.load_delay + weight_load == swap - 1
    assert t.first_read + act_read + 1 == swap  # a register takes the masked data
    assert min(t.load_delay, t.read_delay) == 0  # nothing waits for nothing


@pytest.mark.parametrize(
    "config, array",
    [  # activation, product, sum, a row each but one, the correction
        (PRESETS["small"], 1 + 1 + 1 + 7),
        (PRESETS["flagship"], 1 + 2 + 1 + 8 + 1),
        (NpuConfig(rows=4, cols=4, lanes=1, multiplier="lut"), 1 + 3 + 1 + 3),
        (UP5K, 1 + 1 + 1 + 3),
    ],
)
def test_array(config, array):
    assert timing.array(config) == timing.of(config).array == array


def test_the_tail_of_architecture_md():
    """ "writes 16 cycles after the read", and "sum + 4 cycles after its last vector"."""
    small = timing.of(PRESETS["small"])
    assert small.drain == 16 and small.bank_ready == small.sums + 4


def test_a_value_of_the_compact_tail():
    """A cycle for each bit of shift, either way, and for two bits of the multiplier; four besides."""
    assert [timing.value_cycles(*v) for v in ((0, 0), (3, 2), (0, -5))] == [20, 25, 25]

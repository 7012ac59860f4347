"""Two machines, each with its parts: one place chooses, and what travels between units has one width."""

import ast
from dataclasses import fields, replace
from pathlib import Path

import pytest
from amaranth.lib.wiring import Component

from lepton.rtl import layouts
from lepton.rtl.compact.parts import COMPACT
from lepton.rtl.npu import parts_of
from lepton.rtl.parts import LARGE, MEMORY
from lepton.rtl.run_control import RunControl
from lepton.rtl.spec import frames, isa
from lepton.rtl.spec.config import PRESETS, UP5K, NpuConfig

RTL = Path(__file__).parents[1] / "rtl"
UNITS = [f.name for f in fields(LARGE) if f.name not in ("link", "counted")]


def test_only_the_choice_asks_which_machine():
    asks = {
        path.relative_to(RTL).as_posix()
        for path in RTL.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "compact"
    }
    # The parts; the latencies; what is valid, and what a host is told.
    assert asks == {"npu.py", "spec/timing.py", "spec/config.py", "spec/identity.py"}


def test_the_machine_of_a_configuration():
    assert parts_of(UP5K) is COMPACT
    assert all(parts_of(config) is MEMORY for config in PRESETS.values())
    assert parts_of(NpuConfig()) is LARGE


@pytest.mark.parametrize("job", UNITS)
def test_units_of_a_job_have_the_same_members(job):
    def members(parts, config) -> dict:
        unit = getattr(parts, job)(config)
        assert isinstance(unit, Component)
        return {name: member.flow for name, member in unit.signature.members.items()}

    large = members(LARGE, NpuConfig())
    assert members(COMPACT, UP5K) == large


def test_no_elaborate_is_longer_than_a_reader_can_hold():
    for path in [*RTL.glob("*.py"), *(RTL / "compact").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 120, f"{path.name}: {node.name}"


def test_widths_follow_from_the_instruction_set():
    assert (layouts.ADDRESS, layouts.ENTRY, layouts.TILE, layouts.PARAM, layouts.LINE_DELAY) == (20, 10, 20, 16, 10)
    assert 2**layouts.PC >= max(c.program_words for c in PRESETS.values())
    largest = isa.DESCRIPTOR_BYTES + 32 * 32
    assert 2 ** (layouts.BYTE - 1) < largest <= 2**layouts.BYTE
    assert max(isa.Region) < 2**layouts.REGION
    assert (layouts.LOAD_BITS, layouts.MUL_BITS, layouts.TAIL_BITS) == (128, 256, 256)


def test_a_machine_without_a_port_knows_nothing_of_one():
    """Its registers, its START and what it keeps of an instruction end where MOVE's begin."""
    with_port, without = replace(UP5K, compact=False, act_align=1, memory_width=4, memory_bytes=4096), UP5K
    assert len(isa.registers(without)) == 18 and len(isa.registers(with_port)) == 23
    assert (frames.start(without).size, frames.start(with_port).size) == (6, 8)
    for layout, size, more in ((layouts.mul_layout, 222, 34), (layouts.tail_layout, 229, 2)):
        assert layout(without).size == size and layout(with_port).size == size + more
        assert all(layout(with_port)[name].offset == field.offset for name, field in layout(without))
    assert not hasattr(RunControl(without, 64, ()), "bus_error") and hasattr(RunControl(with_port, 64, ()), "bus_error")

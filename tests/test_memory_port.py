"""The machine with a memory port: its program, and the host, at the memory behind it."""

from dataclasses import replace

import numpy as np
import pytest
from test_npu import Program

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Region, Status
from lepton.sw.device.link import Device, LinkError
from lepton.sw.device.verilated import open_device

SIZES = dict(act_bytes=4096, weight_tiles=128, params=256, program_words=128, acc_depth=64, line_depth=32)
BYTES = 1 << 16


def config_of(width, **more):
    return NpuConfig(f"port{width}", rows=4, cols=4, lanes=2, memory_width=width, memory_bytes=BYTES, **SIZES | more)


@pytest.fixture(scope="module", params=[1, 2, 4, 8, 16])
def device(request):
    return open_device(config_of(request.param))


@pytest.fixture(scope="module")
def four():
    return open_device(config_of(4))


def network(seed, config):
    """A program for the machine without a port, which has the same engines."""
    p = Program(replace(config, memory_width=0, memory_bytes=0), seed)
    p.new_table()
    p.conv(0, 1000, 5, 6, 3, 7, wait=0, post=1)
    p.depthwise(1000, 1300, 5, 6, 7, wait=1, post=1)
    p.conv(1300, 1600, 5, 6, 7, 4, wait=1, post=1, table=1)
    p.dense(1600, 1900, 60, 11, wait=1, post=0)
    p.emit(isa.END)
    return p


def load(device, p, image, pc):
    """What the program needs, and itself in memory at word `pc` of the image."""
    for region, count in (
        (Region.ACT, p.config.act_bytes),
        (Region.WEIGHT, p.tile_count),
        (Region.PARAM, p.param_count),
    ):
        device.write(region, 0, p.read(region, 0, count))
    device.set_bases(image, 0)
    device.write_memory(image + 8 * pc, p.program[: p.pc].tobytes())


def check(device, p, pc, iss_pc=0):
    device.start(pc)
    registers = device.wait(timeout=400_000)
    p.run(iss_pc)
    assert device.read(Region.ACT, 0, p.config.act_bytes) == p.act.tobytes()
    assert registers[Reg.STATUS] == Status.DONE
    assert registers[Reg.CYCLES] == sum(registers[Reg[cause.name]] for cause in Cause)
    return registers


def test_identity(device):
    found = device.config()
    assert found.to_dict() == {**device._transport.config.to_dict(), "name": "custom"}


@pytest.mark.parametrize("image, pc", [(0, 0), (16, 3), (0x1FF0, 1), (BYTES - 4096, 0)])
def test_a_program_in_memory_computes_what_one_on_the_chip_does(device, image, pc):
    p = network(1, device.config())
    load(device, p, image, pc)
    check(device, p, pc)

"""The system of `make soc`: its memory on the bus by itself; its firmware on the whole."""

from importlib.util import find_spec

import pytest
from amaranth.sim import Simulator

from lepton.fpga.soc.firmware import SocError, build
from lepton.fpga.soc.soc import RAM_BYTES, SOC, Ram
from lepton.rtl.bus.wishbone import END, INCREMENTING
from lepton.sw.errors import MissingExtraError

NEEDED = pytest.mark.skipif(
    not (find_spec("ziglang") and find_spec("pythondata_cpu_vexriscv")), reason="needs the extra: pip install '.[soc]'"
)


def test_three_masters_at_one_memory():
    """Bursts and single words of all three at once: each reads what it or another wrote, and all come to an end."""
    contents = bytes(range(256))
    dut = Ram(contents)
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    ended = []

    def master(bus, first):
        async def access(ctx, word, count, data=None, sel=15):
            """`count` words read, or `data` written to one."""
            got = []
            ctx.set(bus.cyc, 1)
            ctx.set(bus.stb, 1)
            ctx.set(bus.we, data is not None)
            ctx.set(bus.sel, sel)
            ctx.set(bus.dat_w, data or 0)
            for k in range(count):
                ctx.set(bus.adr, 4 * (word + k))
                ctx.set(bus.cti, 0 if count == 1 else END if k == count - 1 else INCREMENTING)
                *_, ack, value = await ctx.tick().sample(bus.ack, bus.dat_r)
                while not ack:
                    *_, ack, value = await ctx.tick().sample(bus.ack, bus.dat_r)
                got.append(value)
            ctx.set(bus.cyc, 0)
            ctx.set(bus.stb, 0)
            await ctx.tick()
            return got

        async def testbench(ctx):
            known = [int.from_bytes(contents[4 * k : 4 * k + 4], "little") for k in range(64)]
            for k in range(20):
                assert await access(ctx, k, 8) == known[k : k + 8]
                await access(ctx, first + k, 1, 0x01020304 * (k + 1))
                await access(ctx, first + k, 1, 0xAA0000, sel=4)
                assert await access(ctx, first + k, 1) == [0x01020304 * (k + 1) & 0xFF00FFFF | 0xAA0000]
            ended.append(first)

        return testbench

    for n, bus in enumerate((dut.npu, dut.data, dut.instructions)):
        sim.add_testbench(master(bus, 100 + 100 * n))
    sim.run_until(4000e-6)
    assert sorted(ended) == [100, 200, 300]


def test_a_firmware_that_is_too_large():
    with pytest.raises(ValueError, match="the memory has 131072"):
        Ram(bytes(RAM_BYTES + 1))


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr("lepton.sw.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lepton-npu\[soc\]'"):
        build([], SOC, tmp_path / "build")
    assert not (tmp_path / "build").exists()


@NEEDED
def test_the_digits(tmp_path):
    from lepton.fpga.soc.__main__ import digits, simulate

    job, expected = digits(5)
    found = simulate(build([job], SOC, tmp_path))
    assert [one.output for one in found] == expected and {one.network for one in found} == {"digits"}
    assert all(one.array < one.cycles < 3 * one.array for one in found)


@NEEDED
def test_what_the_compiler_says(tmp_path, monkeypatch):
    monkeypatch.setattr("lepton.fpga.soc.firmware.COMPILE", ["cc", "--no-such-option"])
    with pytest.raises(SocError, match="the firmware does not compile: .*; see"):
        build([], SOC, tmp_path)

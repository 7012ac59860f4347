# amaranth: UnusedElaboratable=no
"""UART: bytes on the line as the standard says, with mismatched clocks, noise, breaks and receivers that stall."""

import random

import pytest
from amaranth.sim import Simulator

from lepton.fpga.top import BoardTop
from lepton.fpga.uart import UartReceiver, UartTransmitter
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import ConfigError, NpuConfig
from lepton.rtl.spec.frames import frame
from lepton.rtl.spec.isa import Command, Result

CONFIG = NpuConfig("uart", rows=4, cols=4, lanes=1, act_bytes=256, weight_tiles=16, params=16, program_words=64)


def wave(data, cycles_per_bit, gap=0):
    """Level of the line in each cycle: frames of the bytes, `gap` idle bits between them."""
    bits = [1] * 3
    for byte in data:
        bits += [0, *(byte >> i & 1 for i in range(8)), 1, *[1] * gap]
    bits += [1] * 3
    return [bits[int(t / cycles_per_bit)] for t in range(int(len(bits) * cycles_per_bit))]


def receive(divisor, line, ready=lambda cycle: True):
    """Bytes that the receiver gives for the levels of the line."""
    dut = UartReceiver(divisor)
    got = []

    async def bench(ctx):
        for cycle, level in enumerate([*line, *[1] * 8]):
            ctx.set(dut.rx, level)
            ctx.set(dut.o.ready, ready(cycle))
            _, _, given, byte = await ctx.tick().sample(dut.o.valid & dut.o.ready, dut.o.payload)
            if given:
                got.append(byte)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return bytes(got)


BYTES = bytes([0, 255, 0x55, 0xAA, 0xA5, 0x5A, 1, 128]) + random.Random(1).randbytes(12)


@pytest.mark.parametrize("divisor", [4, 5, 7, 16, 24])
def test_receives_from_a_clock_that_is_off(divisor):
    error = 0.04 if divisor >= 16 else 0.02
    for factor in (1 - error, 1, 1 + error):
        assert receive(divisor, wave(BYTES, divisor * factor)) == BYTES
        assert receive(divisor, wave(BYTES, divisor * factor, gap=2)) == BYTES


def test_pulses_of_a_cycle_are_filtered_out():
    line = wave(BYTES, 8)
    for at in range(20, len(line), 7):
        line[at] ^= 1
    assert receive(8, line) == BYTES
    line = [1] * 50
    line[10:13] = [0] * 3  # a start bit that is over in its middle
    assert receive(8, line + wave(BYTES, 8)) == BYTES


def test_a_byte_without_a_stop_bit_is_dropped():
    def character(byte, stop):
        return [0, *(byte >> i & 1 for i in range(8)), stop]

    bits = [1, *character(0x31, 1), *character(0x32, 0), 1, *character(0x33, 1), *[0] * 57, 1, *character(0x34, 1), 1]
    assert receive(6, [b for b in bits for _ in range(6)]) == b"\x31\x33\x34"


def test_what_is_not_taken_is_dropped():
    assert receive(4, wave(b"abcde", 4), ready=lambda cycle: cycle > 150) == b"ade"


@pytest.mark.parametrize("divisor", [4, 9])
@pytest.mark.parametrize("rest", [0, 0.95])
def test_transmits(divisor, rest):
    dut = UartTransmitter(divisor)
    rng = random.Random(divisor)
    line, starts = [], []

    async def bench(ctx):
        todo = list(BYTES)
        valid = False
        while todo or len(line) < starts[-1] + 12 * divisor:
            valid = bool(todo) and (valid or rng.random() >= rest)
            ctx.set(dut.i.valid, valid)
            ctx.set(dut.i.payload, todo[0] if todo else 0)
            _, _, taken, level = await ctx.tick().sample(dut.i.valid & dut.i.ready, dut.tx)
            line.append(level)
            if taken:
                starts.append(len(line))
                todo.pop(0)
                valid = False

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    expected = [1] * len(line)
    for at, byte in zip(starts, BYTES):
        character = wave([byte], divisor)[3 * divisor : 13 * divisor]
        expected[at : at + len(character)] = character
    assert line == expected
    if rest == 0:
        assert [b - a for a, b in zip(starts, starts[1:])] == [10 * divisor] * (len(BYTES) - 1)


def test_board_top_at_3_megabaud():
    """A request and its answer on the pins, 72 MHz here and a host whose clock is 1 % fast."""
    dut = BoardTop(CONFIG, 72e6, 3e6)
    assert dut.divisor == 24
    line = wave(frame(isa.SYNC_HOST, Command.PING, 7, b"board"), 24 / 1.01)
    levels, leds = [], set()

    async def bench(ctx):
        for level in [*line, *[1] * 24 * 10 * 16]:
            ctx.set(dut.rx, level)
            _, _, tx, lit = await ctx.tick().sample(dut.tx, dut.leds)
            levels.append(tx)
            leds.add(lit)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert receive(24, levels) == frame(isa.SYNC_DEVICE, Result.OK, 7, b"board")
    assert leds == {0, 8}


def test_board_top_refuses():
    for arguments, text in (
        ((CONFIG, 3e6, 1e6), r"baud=1e\+06: cannot be made from a clock of 3e\+06 Hz: use 750000"),
        ((CONFIG, 18e6, 4.2e6), "cannot be made from"),
        ((NpuConfig(**{**CONFIG.to_dict(), "ring_tiles": 4}), 50e6, 1e6), "ring_tiles=4: needs external_bytes"),
    ):
        with pytest.raises(ConfigError, match=text):
            BoardTop(*arguments)

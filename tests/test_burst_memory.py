"""The external weight memory: bursts with stalls, and a network whose weights are streamed."""

import importlib.resources
import random
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator

from lepton.rtl.burst_memory import BurstMemory
from lepton.rtl.spec import isa
from lepton.rtl.spec.config import ConfigError, NpuConfig
from lepton.rtl.spec.isa import Region, Result
from lepton.sw.compiler import CompileError, compile_model
from lepton.sw.device.link import LinkError
from lepton.sw.device.verilated import open_device
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.iss import DESCRIPTOR_DTYPE, PARAM_DTYPE, Iss
from lepton.sw.session import Session

CONFIG = NpuConfig("external4x4", rows=4, cols=4, lanes=1, act_bytes=4096, weight_tiles=64, ring_tiles=8,
                   external_bytes=12000, params=256, program_words=256, acc_depth=64, line_depth=32)  # fmt: skip
DIGITS = importlib.resources.files("lepton.sw") / "models" / "digits.tflite"


def simulate(size, bursts, stall_request, stall_data, seed=0):
    """Fill the memory with random bytes and read bursts (address, length); returns the cycles of bursts and bytes."""
    rng = random.Random(seed)
    dut = BurstMemory(replace(CONFIG, external_bytes=size))
    content = rng.randbytes(size)
    expected = b"".join(content[a : a + n].ljust(n, b"\0") for a, n in bursts)
    got, start, at = bytearray(), [], []

    async def bench(ctx):
        for address in rng.sample(range(size), size):
            ctx.set(dut.x_w_en, 1)
            ctx.set(dut.x_w_addr, address)
            ctx.set(dut.x_w_data, content[address])
            await ctx.tick()
        ctx.set(dut.x_w_en, 0)
        todo, cycle = deque(bursts), 0
        held = None
        while len(got) < len(expected) or todo or held:
            if held is None and todo and rng.random() >= stall_request:
                held = todo.popleft()
                ctx.set(dut.x_req.payload, {"address": held[0], "length": held[1]})
            ctx.set(dut.x_req.valid, held is not None)
            ctx.set(dut.x_data.ready, rng.random() >= stall_data)
            _, _, taken, given, byte = await ctx.tick().sample(
                dut.x_req.valid & dut.x_req.ready, dut.x_data.valid & dut.x_data.ready, dut.x_data.payload
            )
            if taken:
                held = None
                start.append(cycle)
            if given:
                got.append(byte)
                at.append(cycle)
            cycle += 1
            assert cycle < 20 * len(expected) + 100

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert bytes(got) == expected
    return start, at


def test_throughput_and_latency():
    start, at = simulate(300, [(5, 7), (299, 1), (0, 1), (100, 150), (250, 50)], 0, 0)
    assert at == list(range(at[0], at[0] + 209))
    assert at[0] == start[0] + BurstMemory.LATENCY


@pytest.mark.parametrize("seed", range(4))
def test_stalls(seed):
    rng = random.Random(seed)
    bursts = [(a, rng.randint(1, min(12, 257 - a))) for a in (rng.randrange(257) for _ in range(60))]
    simulate(257, bursts, (0, 0.5, 0.9, 0.3)[seed], (0.5, 0, 0.2, 0.8)[seed], seed)


def test_beyond_the_memory_bytes_are_zero():
    bursts = [(250, 10), (256, 2), (257, 3), (1 << 20, 2), (1 << 31, 2), ((1 << 20) - 2, 300), (0, 4), (3, 600)]
    simulate(257, bursts, 0.3, 0.3)


def test_tiles_beyond_the_memory_are_zero():
    """A tile far beyond the memory, then one of which five weights are still in it: the same bytes on RTL and ISS."""
    size = isa.word_bytes(Region.WEIGHT, CONFIG)
    first = CONFIG.external_bytes - isa.DESCRIPTOR_BYTES - 5
    last = isa.DESCRIPTOR.pack_array(np.array([(0, 0, 0, 0, 1)], DESCRIPTOR_DTYPE)).tobytes()
    vector = dict(width=1, height=1)
    program = [
        *isa.encode(isa.LOAD, external=1, count=1, address=(1 << 32) - size),
        *isa.encode(isa.LOAD, external=1, count=1, address=first),
        *isa.encode(isa.MUL, groups=1, init=1, release=1, x_limit=4, y_limit=1, **vector),
        *isa.encode(isa.TAIL, take=1, release=1, clamp=1, low=-128, high=127, shared=1, channels=4, window_x=1,
                    window_y=1, address=100, **vector),
        *isa.encode(isa.END),
    ]  # fmt: skip
    param = np.zeros(1, PARAM_DTYPE)
    param["multiplier"] = (1 << 31) - 1
    device, iss = open_device(CONFIG), Iss(CONFIG)
    for machine in (device, iss):
        machine.write(Region.ACT, 0, bytes([1, 2, 3, 4]))
        machine.write(Region.EXTERNAL, first, last + bytes([1, 2, 3, 4, 5]))
        machine.write(Region.PARAM, 0, param.tobytes())
        machine.write(Region.PROGRAM, 0, np.array(program, np.uint64).tobytes())
    device.start(0)
    device.wait()
    iss.run(0)
    got = np.frombuffer(device.read(Region.ACT, 100, 4), np.int8)
    assert got.tolist() == iss.act[100:104].tolist() == [1 + 2 * 5, 2, 3, 4]


def test_configuration():
    with pytest.raises(ConfigError, match="external_bytes=100: needs ring_tiles"):
        replace(CONFIG, ring_tiles=0, external_bytes=100)
    with pytest.raises(ConfigError, match="external_bytes=1048577: must be 0 to 1048576"):
        replace(CONFIG, external_bytes=2**20 + 1)
    assert [isa.depth(Region.EXTERNAL, c) for c in (CONFIG, replace(CONFIG, external_bytes=0))] == [12000, 0]


def test_compiler_says_what_does_not_fit():
    need = len(compile_model(load_model(DIGITS), CONFIG).external)
    assert need > 1000
    with pytest.raises(
        CompileError, match=rf"besides weight_tiles=56, need external_bytes={need:,}, .* has 1,000: use"
    ):
        compile_model(load_model(DIGITS), replace(CONFIG, external_bytes=1000))


def test_weights_are_written_and_streamed():
    """A network on the ISS and the RTL, loaded over the link alone."""
    data = np.load(DIGITS.with_suffix(".npz"))
    for backend in ("iss", "rtl"):
        session = Session(DIGITS, CONFIG, backend)
        assert np.array_equal(session.run(data["x"][:3]), data["tflm"][:3])
        assert session.program.external


def test_region_over_the_link():
    device = open_device(CONFIG)
    assert device.config() == replace(CONFIG, name="custom")
    device.write(Region.EXTERNAL, 11990, bytes(10))
    with pytest.raises(LinkError, match=r"EXTERNAL 11999 \+ 2 words: the memory has 12000"):
        device.write(Region.EXTERNAL, 11999, bytes(2))
    device._config = replace(CONFIG, external_bytes=2**20)  # the device itself refuses
    for index, size in ((11999, 2), (12000, 1)):
        with pytest.raises(LinkError) as error:
            device.write(Region.EXTERNAL, index, bytes(size))
        assert error.value.result == Result.BAD_RANGE
    device._config = CONFIG
    with pytest.raises(LinkError, match="EXTERNAL cannot be read"):
        device.read(Region.EXTERNAL, 0, 1)

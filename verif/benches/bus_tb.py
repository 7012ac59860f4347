"""The accelerator on a bus: its registers, a network, interrupts, refusals of the memory, and resets.

The AXI subordinate and manager are cocotbext-axi's; the Wishbone ones are here (`wishbone_model`). Every bus stalls at
random, and what the machine does is compared with the golden model.
"""

import itertools
import os
from importlib.resources import files
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp, AxiSlave
from cocotbext.axi.address_space import SparseMemoryRegion

from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.isa import Reg, Status
from lepton.rtl.spec.registers import ADDRESS_BITS, IDLE_ONLY, REGISTERS, Access, Control
from lepton.sw.compiler import compile_model
from lepton.sw.deploy import Run, deploy
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.verif.benches.bus_top import BUS_CONFIGS
from lepton.verif.benches.common import Stall, random_for
from lepton.verif.benches.wishbone_model import WishboneMaster, WishboneMemoryModel

BUS, _, WHICH = os.environ["LEPTON_BENCH_CONFIG"].partition("-")
CONFIG = BUS_CONFIGS[WHICH]


class Refusing(SparseMemoryRegion):
    """Memory that refuses accesses to the bytes from `bad` on."""

    bad: int | None = None

    def _check(self, address):
        if self.bad is not None and address >= self.bad:
            raise ValueError("refused")

    async def _read(self, address, length, **kwargs):
        self._check(address)
        return await super()._read(address, length, **kwargs)

    async def _write(self, address, data, **kwargs):
        self._check(address)
        await super()._write(address, data, **kwargs)


def pauses(rng):
    stall = Stall(rng, (0.0, 0.0, 0.1, 0.5))
    return (stall() for _ in itertools.count())


class Axi:
    """Its control port and the memory behind its memory port."""

    def __init__(self, dut, rng):
        self.clock, self._reset = dut.aclk, dut.aresetn
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.aclk, dut.aresetn, False)
        self.memory = Refusing(size=2**32)
        slave = AxiSlave(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, dut.aresetn, self.memory, False)
        sides: list[Any] = [slave, self.master]
        for write, read in ((side.write_if, side.read_if) for side in sides):
            for channel in (write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel):
                channel.set_pause_generator(pauses(rng))

    async def reset(self):
        self._reset.value = 0
        await ClockCycles(self.clock, 4)
        self._reset.value = 1
        await RisingEdge(self.clock)

    async def read(self, offset):
        """(whether it was refused, value)."""
        answer = await self.master.read(offset, 4)
        return answer.resp != AxiResp.OKAY, int.from_bytes(answer.data, "little")

    async def write(self, offset, value, size=4):
        answer = await self.master.write(offset, value.to_bytes(4, "little")[:size])
        return answer.resp != AxiResp.OKAY


class Wishbone:
    def __init__(self, dut, rng):
        self.clock, self._reset = dut.wb_clk_i, dut.wb_rst_i
        self.master = WishboneMaster(dut, rng)
        self.memory = WishboneMemoryModel(dut, rng, CONFIG.memory_width)
        self.read, self.write = self.master.read, self.master.write

    async def reset(self):
        self._reset.value = 1
        await ClockCycles(self.clock, 4)
        self._reset.value = 0
        await RisingEdge(self.clock)


class Driver:
    """What a driver does, by the names of the registers."""

    def __init__(self, dut, name):
        self.rng = random_for(name)
        self.dut = dut
        buses: dict[str, Any] = {"axi": Axi, "wishbone": Wishbone}
        self.bus = buses[BUS](dut, self.rng)
        self.offset = {r.name: r.offset for r in REGISTERS}
        Clock(self.bus.clock, 10, "ns").start()

    async def read(self, name):
        refused, value = await self.bus.read(self.offset[name])
        assert not refused, name
        return value

    async def write(self, name, value):
        assert not await self.bus.write(self.offset[name], value), name

    async def start(self, pc, run_id):
        await self.write("PC", pc)
        await self.write("START", run_id)

    async def ended(self, limit=200_000):
        """Wait for the end of a run, by its interrupt; its status."""
        for _ in range(limit):
            if int(self.dut.irq.value):
                break
            await RisingEdge(self.bus.clock)
        else:
            raise AssertionError(f"no interrupt; status {Status(await self.read('STATUS')).name}")
        pending = await self.read("IRQ_STATUS")
        status = Status(await self.read("STATUS"))
        assert pending == (1 if status is Status.DONE else 2), (pending, status)
        await self.write("IRQ_STATUS", pending)
        await ClockCycles(self.bus.clock, 2)
        assert not int(self.dut.irq.value), "the interrupt falls when it is cleared"
        return status

    def poke(self, address, data):
        self.bus.memory[address : address + len(data)] = data

    def peek(self, address, count):
        return bytes(self.bus.memory[address : address + count])


async def opened(dut, name) -> Driver:
    driver = Driver(dut, name)
    await driver.bus.reset()
    await driver.write("IRQ_ENABLE", 3)
    return driver


class Network:
    """A compiled model at an address, and what it computes."""

    def __init__(self, driver: Driver, path: Path, name: str):
        self.driver = driver
        self.model = load_model(str(path), name)
        self.ready = deploy(compile_model(self.model, CONFIG))
        self.image = 16 * int(driver.rng.integers(1, 1 << 12))
        self.arena = self.image + -(-len(self.ready.image) // 16) * 16 + 16 * int(driver.rng.integers(1, 1 << 8))

    async def load(self):
        self.driver.poke(self.image, self.ready.image)
        self.driver.poke(self.arena + self.ready.arena_bytes, GUARD)
        await self.driver.write("IMAGE", self.image)
        await self.driver.write("ARENA", self.arena)
        if self.ready.setup:
            await self.driver.start(self.ready.setup.pc, 1)
            assert await self.driver.ended() is Status.DONE

    def put(self, x):
        (index,) = self.model.inputs
        self.driver.poke(self.arena + self.ready.place(index).address, np.asarray(x, np.int8).tobytes())

    async def run(self, run_id, limit=200_000):
        """The status in which it ends. Checks the counters and adds `cycles` up."""
        self.cycles = 0
        for step in self.ready.steps:
            if isinstance(step, Run):
                await self.driver.start(step.pc, run_id)
                status = await self.driver.ended(limit)
                if status is not Status.DONE:
                    return status
                assert await self.driver.read("RUN_ID") == run_id
                cycles = await self.driver.read("CYCLES")
                assert cycles == sum([await self.driver.read(cause.name) for cause in isa.Cause])
                self.cycles += cycles
        return Status.DONE

    @property
    def longest(self):
        """Where the run begins that computes."""
        return next(s.pc for s in self.ready.steps if isinstance(s, Run))

    @property
    def last(self):
        """The tensor that the array computes last: the one behind which there is only the host."""
        (host,) = [s.operator for s in self.ready.steps if not isinstance(s, Run)]
        return host.inputs[0]

    def check(self, x):
        """What the array has computed last, against the golden model."""
        want = golden.run_all(self.model, x)[self.last].tobytes()
        got = self.driver.peek(self.arena + self.ready.place(self.last).address, len(want))
        assert got == want, f"tensor {self.last}: {got[:16].hex()}, expected {want[:16].hex()}"
        assert self.driver.peek(self.arena + self.ready.arena_bytes, len(GUARD)) == GUARD, "written beyond the arena"


GUARD = bytes(range(64))


def digits(driver):
    folder = Path(str(files("lepton.sw") / "models"))
    with np.load(folder / "digits.npz") as data:
        images = next(data[k] for k in data.files if data[k].dtype == np.int8 and data[k].ndim > 2)
    return Network(driver, folder / "digits.tflite", "digits"), images


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def register_map(dut):
    """Every register of the description does what it says, and nothing else is there."""
    driver = await opened(dut, "register_map")
    rng, told = driver.rng, identity.pack(CONFIG)
    await driver.write("IRQ_ENABLE", 0)
    for register in REGISTERS:
        value = int(rng.integers(1 << 32))
        refused, before = await driver.bus.read(register.offset)
        assert not refused and not before & ~register.mask, register.name
        if register.number in told:
            assert before == told[Reg(register.number)], register.name
        else:
            assert before == 0, f"{register.name} after reset"
        assert await driver.bus.write(register.offset, value, size=2), f"{register.name}: half of it is written"
        if register.number == Control.START:
            continue
        refused = await driver.bus.write(register.offset, value)
        assert refused == (register.access is Access.RO), register.name
        _, after = await driver.bus.read(register.offset)
        want = value & register.mask if register.access in (Access.RW, Access.W1S) else before
        assert after == want, f"{register.name}: {after:08x}, written {value:08x}"
    known = {r.offset for r in REGISTERS}
    for offset in range(0, 1 << ADDRESS_BITS, 4):
        if offset not in known and (offset < 0x200 or rng.random() < 0.1):
            assert (await driver.bus.read(offset))[0], f"{offset:#x}"
            assert await driver.bus.write(offset, 1), f"{offset:#x}"


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def network(dut):
    """A network: its bytes are the golden model's, the counters sum up, an id tells the run."""
    driver = await opened(dut, "network")
    net, images = digits(driver)
    await net.load()
    for run in range(3):
        x = images[int(driver.rng.integers(len(images)))].reshape(net.model.tensors[net.model.inputs[0]].shape)
        net.put(x)
        assert await net.run(100 + run) is Status.DONE
        net.check(x)
        dut._log.info("digits: %d cycles", net.cycles)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def locked_while_running(dut):
    """During a run its bases stay and no other starts; a reset stops it without an interrupt, and the next one runs."""
    driver = await opened(dut, "locked_while_running")
    net, images = digits(driver)
    await net.load()
    x = images[0].reshape(net.model.tensors[net.model.inputs[0]].shape)
    net.put(x)
    await driver.start(net.longest, 7)
    locked = [r for r in REGISTERS if IDLE_ONLY in r.doc]
    assert [r.name for r in locked] == ["IMAGE", "ARENA", "START"]
    for register in locked:
        assert await driver.bus.write(register.offset, 16), register.name
        assert await driver.read("STATUS") == Status.RUNNING, "the run is too short for this test"
    await driver.write("RESET", 1)
    assert (await driver.read("STATUS"), await driver.read("RUN_ID")) == (Status.IDLE, 0)
    assert await driver.read("IRQ_STATUS") == 0 and not int(dut.irq.value)
    assert (await driver.read("IMAGE"), await driver.read("ARENA")) == (net.image, net.arena)
    assert await net.run(8) is Status.DONE
    net.check(x)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def locked_for_good(dut):
    """Under LOCK the bases stay, whatever is written and stopped; networks run on; the reset of the chip ends it."""
    driver = await opened(dut, "locked_for_good")
    net, images = digits(driver)
    await net.load()
    await driver.write("LOCK", 1)
    for _ in range(2):
        for name in ("IMAGE", "ARENA"):
            assert await driver.bus.write(next(r.offset for r in REGISTERS if r.name == name), 16), name
        assert (await driver.read("IMAGE"), await driver.read("ARENA")) == (net.image, net.arena)
        await driver.write("LOCK", 0)
        await driver.write("RESET", 1)
        assert await driver.read("LOCK") == 1
    x = images[2].reshape(net.model.tensors[net.model.inputs[0]].shape)
    net.put(x)
    assert await net.run(11) is Status.DONE
    net.check(x)
    await driver.bus.reset()
    assert await driver.read("LOCK") == 0
    await driver.write("IMAGE", 32)
    assert await driver.read("IMAGE") == 32


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def refused_by_the_memory(dut):
    """A read or a write that the memory refuses ends the run with BUS_ERROR; the next run is as good as ever."""
    driver = await opened(dut, "refused_by_the_memory")
    net, images = digits(driver)
    await net.load()
    x = images[1].reshape(net.model.tensors[net.model.inputs[0]].shape)
    net.put(x)
    for bad in (net.image, net.arena, net.arena + net.ready.place(net.last).address):
        driver.bus.memory.bad = bad
        assert await net.run(9) is Status.BUS_ERROR, f"{bad:#x}"
        driver.bus.memory.bad = None
        await ClockCycles(driver.bus.clock, int(driver.rng.integers(200)))
    await ClockCycles(driver.bus.clock, 2000)  # what was asked for before has come
    assert await net.run(10) is Status.DONE
    net.check(x)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def interrupts_are_enabled_one_by_one(dut):
    """The line follows the enabled bits, whenever they are enabled."""
    driver = await opened(dut, "interrupts_are_enabled_one_by_one")
    end = np.array(isa.encode(isa.END), "<u8").tobytes()
    driver.poke(0x100, end)
    driver.poke(0x140, bytes(8))  # no instruction
    await driver.write("IMAGE", 0x100)
    for pc, bit in ((0, 1), (8, 2)):
        await driver.write("IRQ_ENABLE", 3 - bit)
        await driver.start(pc, 5)
        await ClockCycles(driver.bus.clock, 600)
        assert await driver.read("IRQ_STATUS") == bit and not int(dut.irq.value)
        await driver.write("IRQ_STATUS", 3 - bit)
        await driver.write("IRQ_ENABLE", bit)
        await ClockCycles(driver.bus.clock, 2)
        assert int(dut.irq.value)
        await driver.write("IRQ_STATUS", bit)
        await ClockCycles(driver.bus.clock, 2)
        assert not int(dut.irq.value)


@cocotb.test(timeout_time=200, timeout_unit="ms", skip=not os.environ.get("LEPTON_BENCH_MODEL"))
async def given_network(dut):
    """A model of the material beside the checkout, its recorded input and the golden model's bytes."""
    path = Path(os.environ["LEPTON_BENCH_MODEL"])
    driver = await opened(dut, "given_network")
    net = Network(driver, path, path.stem)
    await net.load()
    with np.load(path.with_suffix(".npz")) as data:
        inputs = data["input"]
    x = inputs[0].reshape(net.model.tensors[net.model.inputs[0]].shape)
    net.put(x)
    assert await net.run(11, 2_000_000) is Status.DONE
    net.check(x)
    dut._log.info("%s: %d cycles", path.stem, net.cycles)

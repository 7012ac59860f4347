"""The machine with a memory port: its program, and the host, at the memory behind it."""

import random
from collections import deque
from dataclasses import replace

import pytest
from amaranth.sim import Simulator
from test_npu import Program

from lepton.rtl.memory_arbiter import MemoryArbiter
from lepton.rtl.memory_fetch import MemoryFetch
from lepton.rtl.memory_host import MemoryHost
from lepton.rtl.program_stream import ProgramStream
from lepton.rtl.ram_queue import RamQueue
from lepton.rtl.spec import isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Region, Status
from lepton.sw.device.verilated import open_device

SIZES = dict(act_bytes=4096, weight_tiles=128, params=256, program_words=128, acc_depth=64, line_depth=32)
BYTES = 1 << 16


def config_of(width, **more):
    sizes = SIZES | {"memory_bytes": BYTES} | more
    return NpuConfig(f"port{width}", rows=4, cols=4, lanes=2, memory_width=width, **sizes)


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


class Memory:
    """What is behind a memory port in pysim: bursts in order, in a random rhythm. Keeps (write, address, beats)."""

    def __init__(self, port, width, rng, size=BYTES):
        self.port, self.width, self.rng = port, width, rng
        self.bytes = bytearray(rng.randbytes(size))
        self.bursts = []

    def processes(self):
        queue = deque()
        port, width, rng = self.port, self.width, self.rng

        async def run(ctx):
            while True:
                head = queue[0] if queue else None
                ctx.set(port.a.ready, len(queue) < 6 and rng.random() < 0.5)
                ctx.set(port.w.ready, bool(head and head[0] and rng.random() < 0.6))
                if not ctx.get(port.r.valid):
                    ctx.set(port.r.valid, bool(head and not head[0] and rng.random() < 0.7))
                    at = head[1] if head else 0
                    ctx.set(port.r.payload, int.from_bytes(self.bytes[at : at + width], "little"))
                if "idle" in port.signature.members:
                    ctx.set(port.idle, not any(write for write, *_ in queue))
                _, _, asked, a, wrote, data, mask, read = await ctx.tick().sample(
                    port.a.valid & port.a.ready,
                    port.a.payload,
                    port.w.valid & port.w.ready,
                    port.w.payload.data,
                    port.w.payload.mask,
                    port.r.valid & port.r.ready,
                )
                if wrote:
                    for k in range(width):
                        if mask >> k & 1:
                            self.bytes[head[1] + k] = data >> 8 * k & 255
                if read:
                    ctx.set(port.r.valid, 0)
                if wrote or read:
                    head[1] += width
                    head[2] -= 1
                    if not head[2]:
                        queue.popleft()
                if asked:
                    self.bursts.append((a.write, a.address, a.beats + 1))
                    queue.append([a.write, a.address, a.beats + 1])

        return [(run, True)]


def simulate(dut, *benches):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    for bench, background in benches:
        sim.add_testbench(bench, background=background)
    sim.run()


class Client:
    """A user of the arbiter with random bursts in a part of the memory of its own, which it knows the content of."""

    def __init__(self, port, first, size, width, memory, rng, length, writes=0.5):
        self.port, self.width, self.rng, self.length = port, width, rng, length
        self.writes = writes
        self.first, self.size = first, size
        self.known = bytearray(memory.bytes[first : first + size])
        self.grants = []
        self.count = 0
        self.wanted, self.to_write = deque(), deque()
        self.stop = False

    async def run(self, ctx):
        port, width, rng = self.port, self.width, self.rng
        while True:
            if not ctx.get(port.a.valid) and not self.stop and rng.random() < 0.7:
                beats = rng.randint(1, self.length)
                at = rng.randrange((self.size - beats * width) // width + 1) * width
                beats = min(beats, (4096 - (self.first + at) % 4096) // width)
                self.write = rng.random() < self.writes
                ctx.set(port.a.payload.write, self.write)
                ctx.set(port.a.payload.address, self.first + at)
                ctx.set(port.a.payload.beats, beats - 1)
                ctx.set(port.a.valid, 1)
                self.burst = at, beats
            if not ctx.get(port.w.valid) and self.to_write and rng.random() < 0.7:
                data, mask = self.to_write[0]
                ctx.set(port.w.payload.data, data)
                ctx.set(port.w.payload.mask, mask)
                ctx.set(port.w.valid, 1)
            ctx.set(port.r.ready, rng.random() < 0.8)
            _, _, asked, wrote, read, found = await ctx.tick().sample(
                port.a.valid & port.a.ready,
                port.w.valid & port.w.ready,
                port.r.valid & port.r.ready,
                port.r.payload,
            )
            if read:
                assert self.wanted, "a beat that was not asked for"
                assert found == self.wanted.popleft()
            if wrote:
                self.to_write.popleft()
                ctx.set(port.w.valid, 0)
            if asked:
                ctx.set(port.a.valid, 0)
                self.count += 1
                at, beats = self.burst
                for k in range(beats):
                    here = slice(at + k * width, at + (k + 1) * width)
                    if self.write:
                        data, mask = rng.getrandbits(8 * width), rng.getrandbits(width)
                        self.to_write.append((data, mask))
                        for j in range(width):
                            if mask >> j & 1:
                                self.known[at + k * width + j] = data >> 8 * j & 255
                    else:
                        self.wanted.append(int.from_bytes(self.known[here], "little"))


@pytest.mark.parametrize("width", [1, 16])
def test_clients_find_what_they_wrote(width):
    rng = random.Random(width)
    dut = MemoryArbiter(width)
    memory = Memory(dut.memory, width, rng)
    clients = [
        Client(getattr(dut, name), 4096 * k, 4096, width, memory, rng, (5, 12, 1)[k])
        for k, name in enumerate(dut.CLIENTS)
    ]

    async def bench(ctx):
        await ctx.tick().repeat(4000)
        for client in clients:
            client.stop = True
        await ctx.tick().repeat(1500)
        assert ctx.get(dut.idle) and not any(c.wanted or c.to_write for c in clients)

    simulate(dut, *memory.processes(), *((c.run, True) for c in clients), (bench, False))
    for k, client in enumerate(clients):
        assert client.count > 100
        assert memory.bytes[4096 * k : 4096 * (k + 1)] == client.known


def test_what_was_asked_for_before_a_clear_goes_to_nobody():
    rng = random.Random(7)
    dut = MemoryArbiter(2)
    memory = Memory(dut.memory, 2, rng)
    before = bytes(memory.bytes)
    host = Client(dut.host, 4096, 4096, 2, memory, rng, 3, writes=0)

    async def ask(ctx, write, beats):
        ctx.set(dut.move.a.payload.write, write)
        ctx.set(dut.move.a.payload.beats, beats - 1)
        ctx.set(dut.move.a.valid, 1)
        await ctx.tick().until(dut.move.a.ready)
        ctx.set(dut.move.a.valid, 0)

    async def bench(ctx):
        for _ in range(20):
            for write, beats in ((1, 4), (0, 9), (1, 2), (0, 1)):
                await ask(ctx, write, beats)
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.move.r.ready, 1)
            assert not ctx.get(dut.idle)
            await ask(ctx, 0, 3)
            for k in range(3):
                found = await ctx.tick().sample(dut.move.r.payload).until(dut.move.r.valid)
                assert found[0] == int.from_bytes(before[2 * k : 2 * k + 2], "little")
            ctx.set(dut.move.r.ready, 0)
        host.stop = True
        await ctx.tick().repeat(300)
        assert ctx.get(dut.idle)

    simulate(dut, *memory.processes(), (host.run, True), (bench, False))
    assert memory.bytes[:4096] == before[:4096]
    assert memory.bytes[4096:8192] == host.known and host.count > 50


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("image, pc", [(0, 0), (0x1F0, 1), (16, 37), (8192 - 128, 3)])
def test_words_of_a_program(width, image, pc):
    rng = random.Random(width)
    config = config_of(width, memory_bytes=8192)
    dut = ProgramStream(config)
    memory = Memory(dut.memory, width, rng, 8192)
    words = [int.from_bytes(memory.bytes[k : k + 8], "little") for k in range(image + 8 * pc, 8192, 8)]
    count = min(len(words), 80)

    async def bench(ctx):
        ctx.set(dut.image, image)
        for _ in range(2):
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)
            ctx.set(dut.read.pc, pc)
            ctx.set(dut.read.start, 1)
            await ctx.tick()
            ctx.set(dut.read.start, 0)
            ctx.set(dut.read.pc, 0x1234)
            got = []
            while len(got) < count + 2 * (count == len(words)):
                ctx.set(dut.read.words.ready, rng.random() < 0.7)
                word = dut.read.words
                _, _, moved, value = await ctx.tick().sample(word.valid & word.ready, word.payload)
                got += [value] * moved
            ctx.set(dut.read.words.ready, 0)
            assert got[:count] == words[:count]
            assert all(word >> 64 for word in got[count:])
            await ctx.tick().repeat(
                1600 // width + 200
            )  # all that was asked for comes: the arbiter drops it after a clear

    simulate(dut, *memory.processes(), (bench, False))
    assert all(address % 128 + beats * width <= 128 for _, address, beats in memory.bursts)
    assert all(address + beats * width <= 8192 for _, address, beats in memory.bursts)


def test_a_program_that_begins_beyond_the_memory_has_no_words():
    config = config_of(4, memory_bytes=8192)
    dut = ProgramStream(config)
    memory = Memory(dut.memory, 4, random.Random(0), 8192)

    async def bench(ctx):
        ctx.set(dut.image, 2**32 - 16)
        ctx.set(dut.read.pc, 2**29 - 1)
        ctx.set(dut.read.start, 1)
        await ctx.tick()
        ctx.set(dut.read.start, 0)
        await ctx.tick().repeat(20)
        assert ctx.get(dut.read.words.valid) and ctx.get(dut.read.words.payload) >> 64

    simulate(dut, *memory.processes(), (bench, False))
    assert not memory.bursts


def test_the_queue_of_wide_items():
    dut, rng = RamQueue(70, 4), random.Random(3)
    sent, got = [], []

    async def bench(ctx):
        for cycle in range(600):
            value = rng.getrandbits(70)
            push, pop = rng.random() < 0.6, rng.random() < 0.5
            ctx.set(dut.i.payload, value)
            ctx.set(dut.i.valid, push)
            ctx.set(dut.o.ready, pop)
            if push and ctx.get(dut.i.ready):
                sent.append(value)
            if pop and ctx.get(dut.o.valid):
                got.append(ctx.get(dut.o.payload))
            assert ctx.get(dut.i.ready) == (
                len(sent) - (push and ctx.get(dut.i.ready)) - len(got) + (pop and ctx.get(dut.o.valid)) < 4
            )
            await ctx.tick()

    simulate(dut, (bench, False))
    assert got == sent[: len(got)] and len(got) > 200


def test_fetch_hands_moves_on():
    config = config_of(4)
    rng = random.Random(4)
    dut = MemoryFetch(config)
    values = [
        {f.name: rng.getrandbits(f.bits - f.signed) for f in isa.MOVE.fields if f.name != "opcode"}
        | {"space": 0, "fill": 0}
        for _ in range(6)
    ]
    values = [v | {name: max(1, v[name]) for name in ("length", "rows", "planes")} for v in values]
    words = [w for v in values for w in isa.encode(isa.MOVE, **v)] + isa.encode(isa.TABLE, param=5)
    bad = isa.encode(isa.MOVE, length=1, rows=1, planes=0)
    words += bad + isa.encode(isa.END)
    queued = []

    async def bench(ctx):
        ctx.set(dut.start, 1)
        assert ctx.get(dut.program.start)
        await ctx.tick()
        ctx.set(dut.start, 0)
        left = deque(words)
        for cycle in range(120):
            ctx.set(dut.program.words.valid, bool(left))
            ctx.set(dut.program.words.payload, left[0] if left else 0)
            ctx.set(dut.o_move.ready, cycle > 60)
            if ctx.get(dut.program.words.ready) and left:
                left.popleft()
            if ctx.get(dut.o_move.valid) and ctx.get(dut.o_move.ready):
                queued.append(ctx.get(dut.o_move.payload))
            if cycle == 60:  # its queue is full, and the last word of the next waits
                assert len(words) - len(left) == 4 * timing.MOVE_QUEUE + 3
            await ctx.tick()
        assert ctx.get(dut.bad) and not ctx.get(dut.done_fetching)
        assert ctx.get(dut.o_tail.valid)

    simulate(dut, (bench, False))
    raw = [sum(w << 64 * k for k, w in enumerate(isa.encode(isa.MOVE, **v))) for v in values]
    assert queued[:6] == raw


def test_the_host_at_the_memory_beat_by_beat():
    rng = random.Random(5)
    dut = MemoryHost(4)
    memory = Memory(dut.memory, 4, rng)
    known = bytearray(memory.bytes)

    async def settle(ctx):
        await ctx.tick()
        while ctx.get(dut.host.busy):
            await ctx.tick()

    async def write(ctx, at, data):
        for k, byte in enumerate(data):
            for name, value in (
                ("index", (at + k) // 4),
                ("byte", (at + k) % 4),
                ("data", byte),
                ("last", k == len(data) - 1),
                ("write", 1),
            ):
                ctx.set(getattr(dut.host, name), value)
            await ctx.tick()
            ctx.set(dut.host.write, 0)
            while ctx.get(dut.host.busy):
                await ctx.tick()

    async def bench(ctx):
        for _ in range(60):
            at, data = rng.randrange(200), rng.randbytes(rng.randint(1, 13))
            await write(ctx, at, data)
            known[at : at + len(data)] = data
            beat = rng.randrange(50)
            ctx.set(dut.host.read, 1)
            ctx.set(dut.host.index, beat)
            await ctx.tick()
            ctx.set(dut.host.read, 0)
            while not ctx.get(dut.host.valid):
                await ctx.tick()
            assert ctx.get(dut.host.beat) == int.from_bytes(known[4 * beat : 4 * beat + 4], "little")
            await settle(ctx)

    simulate(dut, *memory.processes(), (bench, False))
    assert memory.bytes == known
    assert all(beats == 1 for *_, beats in memory.bursts)

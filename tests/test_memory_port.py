"""The machine with a memory port: its program, and the host, at the memory behind it."""

import random
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from amaranth.sim import Simulator
from test_npu import Program

from lepton.rtl.memory_arbiter import MemoryArbiter
from lepton.rtl.memory_fetch import MemoryFetch
from lepton.rtl.memory_host import MemoryHost
from lepton.rtl.program_stream import ProgramStream
from lepton.rtl.ram_queue import RamQueue
from lepton.rtl.spec import frames, isa, timing
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Command, Reg, Region, Result, Status
from lepton.sw.device.link import Device, LinkError
from lepton.sw.device.verilated import open_device

SIZES = dict(act_bytes=4096, weight_tiles=640, params=512, acc_depth=64, line_depth=32)  # as in test_move_machine.py
BYTES = 1 << 16


def config_of(width, **more):
    sizes = SIZES | {"memory_bytes": BYTES} | more
    return NpuConfig(f"port{width}", rows=4, cols=4, lanes=2, memory_width=width, **sizes)


@pytest.fixture(scope="module", params=[1, 2, 4, 16])  # 8 is in test_move_machine.py
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
        ctx.set(dut.move.w.payload.mask, 3)  # not valid: nothing of it is to be written
        ctx.set(dut.move.w.payload.data, 0x5A5A)
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
            await ctx.tick().repeat(2500 // width)  # the ring is full
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


def test_a_word_that_was_cut_off_by_a_clear_is_forgotten():
    """Three of its four beats have come; the next run's words begin with their first."""
    dut = ProgramStream(config_of(2, memory_bytes=8192))
    words = [0x1122334455667788, 0x99AABBCCDDEEFF00]

    async def begin(ctx):
        for name in (dut.clear, dut.read.start):
            ctx.set(name, 1)
            await ctx.tick()
            ctx.set(name, 0)
        await ctx.tick().until(dut.memory.a.valid)

    async def give(ctx, beats):
        for beat in beats:
            ctx.set(dut.memory.r.payload, beat)
            ctx.set(dut.memory.r.valid, 1)
            await ctx.tick()
        ctx.set(dut.memory.r.valid, 0)

    async def bench(ctx):
        ctx.set(dut.memory.a.ready, 1)
        await begin(ctx)
        await give(ctx, [0xDEAD] * 3)
        await begin(ctx)
        await give(ctx, [word >> at & 0xFFFF for word in words for at in (0, 16, 32, 48)])
        for word in words:
            got = await ctx.tick().sample(dut.read.words.payload).until(dut.read.words.valid)
            assert got[0] == word
            ctx.set(dut.read.words.ready, 1)
            await ctx.tick()
            ctx.set(dut.read.words.ready, 0)

    simulate(dut, (bench, False))


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


# --- The machine, by frames


def by_frames(device):
    """The driver of the same simulation as a serial line would have it."""
    return Device(device._transport)


@pytest.mark.parametrize("seed", range(3))
def test_the_host_reads_and_writes_memory(four, seed):
    slow, rng = by_frames(four), random.Random(seed)
    known = bytearray(four.read_memory(0, BYTES))
    for _ in range(12):
        at, data = rng.randrange(1, BYTES - 700), rng.randbytes(rng.choice((1, 2, 3, 4, 5, 255, 700)))
        slow.write_memory(at, data)
        known[at : at + len(data)] = data
        first = rng.randrange(BYTES - 600)
        count = rng.choice((1, 3, 4, 300))
        assert slow.read_memory(first, count) == known[first : first + count]
        assert slow.read_memory(at, len(data)) == data
    assert four.read_memory(0, BYTES) == known


def refused(call, result=Result.BAD_RANGE):
    with pytest.raises(LinkError) as error:
        call()
    assert error.value.result == result


def test_what_the_host_may_not_do(four):
    slow = by_frames(four)
    four.reset()
    slow.config()

    def write(region, index, byte, data):
        payload = frames.WRITE.to_bytes(region=region, index=index, byte=byte) + data
        slow._request(Command.WRITE, payload, "WRITE", 0)

    def read(region, index, words):
        payload = frames.READ.to_bytes(region=region, index=index, words=words)
        slow._request(Command.READ, payload, "READ", 4 * words)

    def start(pc):
        slow._request(Command.START, frames.MEMORY_START.to_bytes(run_id=1, pc=pc), "START", 0)

    last = BYTES // 4
    before = four.read_memory(0, BYTES)
    for call in (
        lambda: write(Region.MEMORY, last, 0, b"1"),
        lambda: write(Region.MEMORY, last - 1, 0, b"12345"),
        lambda: write(Region.MEMORY, 0, 4, b"1"),
        lambda: write(Region.MEMORY, 2**24 - 1, 0, b"1"),
        lambda: write(Region.REG, Reg.IMAGE - 1, 0, b"12345678"),
        lambda: write(Region.REG, Reg.ARENA, 0, b"12345"),
        lambda: write(Region.PROGRAM, 0, 0, b"1"),
        lambda: read(Region.MEMORY, last, 1),
        lambda: read(Region.MEMORY, last - 1, 2),
        lambda: read(Region.MEMORY, 0, 65),
        lambda: read(Region.WEIGHT, 0, 1),
        lambda: start(BYTES // 8),
        lambda: start(1 << 29),
        lambda: start(1 << 31),
    ):
        refused(call)
    assert four.read_memory(0, BYTES) == before
    write(Region.MEMORY, last - 1, 3, b"\x5a")
    read(Region.MEMORY, 0, 64)
    assert four.read_memory(BYTES - 1, 1) == b"\x5a"
    for call, text in (
        (lambda: four.write_memory(BYTES - 1, b"12"), f"memory {BYTES - 1} \\+ 2 bytes: there are {BYTES}"),
        (lambda: four.read_memory(-1, 1), "memory -1"),
        (lambda: four.set_bases(8, 0), "image at byte 8: must be a multiple of 16"),
        (lambda: four.set_bases(0, BYTES), "arena at byte 65536"),
        (lambda: four.write(Region.REG, Reg.STATUS, bytes(4)), "registers cannot be written"),
        (lambda: four.write(Region.PROGRAM, 0, bytes(8)), "PROGRAM 0"),
        (lambda: four.start(BYTES // 8), "START at word 8192: the program memory has 8192"),
    ):
        with pytest.raises(LinkError, match=text):
            call()


def test_the_bases_are_registers(four):
    four.reset()
    four.set_bases(0x1230, 0xFFF0)
    registers = four.registers()
    assert (registers[Reg.IMAGE], registers[Reg.ARENA]) == (0x1230, 0xFFF0)
    four.write(Region.REG, Reg.ARENA, (0x12345678).to_bytes(4, "little"))
    registers = four.registers()
    assert (registers[Reg.IMAGE], registers[Reg.ARENA]) == (0x1230, 0x12345670)


def endless(device):
    """A program that waits for a token until the watchdog ends it."""
    four_words = isa.encode(isa.MUL, wait=1, groups=1, width=1, height=1)
    device.write_memory(0, b"".join(w.to_bytes(8, "little") for w in four_words + isa.encode(isa.END)))
    device.set_bases(0, 0)
    device.start(0)


def test_the_host_reads_and_writes_memory_during_a_run(four):
    slow = by_frames(four)
    endless(four)
    slow.write_memory(5001, b"while it runs")
    assert slow.read_memory(5000, 20)[1:14] == b"while it runs"
    refused(lambda: four.read(Region.ACT, 0, 1), Result.BUSY)
    refused(lambda: four.write(Region.PARAM, 0, b"1"), Result.BUSY)
    refused(lambda: four.set_bases(0, 0), Result.BUSY)
    assert four.registers()[Reg.STATUS] == Status.RUNNING
    four.reset()


@pytest.mark.parametrize("pace", [dict(latency=200), dict(interval=5), dict(refresh=(100, 37)), dict(latency=1)])
def test_a_slow_memory_changes_nothing_but_the_time(four, pace):
    model = four._transport.model
    model.set_pace(**pace)
    model.set_stalls(5, 0, 0, 90, 120, 90)
    try:
        p = network(2, four.config())
        load(four, p, 64, 5)
        check(four, p, 5)
    finally:
        model.set_pace()
        model.set_stalls()


def test_after_a_reset_in_the_middle_the_next_run_is_as_ever(four):
    p = network(3, four.config())
    load(four, p, 0, 0)
    rng = random.Random(1)
    four._transport.model.set_pace(latency=90)
    for _ in range(25):
        four.start(0)
        four._transport.run(rng.randrange(400))
        four.reset()
    four._transport.model.set_pace()
    four.write(Region.ACT, 0, p.read(Region.ACT, 0, p.config.act_bytes))
    check(four, p, 0)


def test_how_runs_end_at_the_memory(four):
    def run(words, image=0):
        four.reset()
        four.set_bases(image, 0)
        four.write_memory(image, b"".join(w.to_bytes(8, "little") for w in words))
        four.start(0)
        with pytest.raises(LinkError):
            four.wait(timeout=100_000)
        return four.registers()[Reg.STATUS]

    table = isa.encode(isa.TABLE, param=0)
    assert run(table * 16, BYTES - 128) == Status.BAD_OPCODE  # it runs past the end
    assert run([15]) == Status.BAD_OPCODE
    assert run(isa.encode(isa.MUL)) == Status.BAD_INSTRUCTION
    four.set_bases(BYTES - 16, 0)
    four.start(2)  # the first word is behind the end
    with pytest.raises(LinkError, match="END is missing"):
        four.wait(timeout=100_000)


def test_a_memory_that_fails_ends_the_run():
    device = open_device(config_of(4))
    memory = device._transport.model.open_port(8192)  # of the 64 KB it should have
    device._transport.memory = memory
    words = isa.encode(isa.TABLE, param=0) * 1100
    memory[:8192] = np.frombuffer(np.array(words[:1024], "<u8").tobytes(), np.uint8)
    device.set_bases(0, 0)
    device.start(0)
    with pytest.raises(LinkError, match="the memory refused an access"):
        device.wait(timeout=200_000)
    assert device.registers()[Reg.STATUS] == Status.BUS_ERROR
    memory[:8] = np.frombuffer(np.array(isa.encode(isa.END), "<u8").tobytes(), np.uint8)
    device.start(0)
    assert device.wait()[Reg.STATUS] == Status.DONE
    device.close()


def test_the_driver_loads_images(four):
    p = network(4, four.config())
    program = p.program[: p.pc].tobytes()
    images = [
        (region, p.read(region, 0, count))
        for region, count in ((Region.ACT, 4096), (Region.WEIGHT, p.tile_count), (Region.PARAM, p.param_count))
    ]
    four.load([*images, (Region.MEMORY, program)])
    check(four, p, 0)

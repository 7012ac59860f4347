# amaranth: UnusedElaboratable=no
"""The host link: the RTL against frames good and bad, the driver against a faulty line, and both together."""

import random
from collections import deque
from dataclasses import replace

import pytest
from amaranth.sim import Simulator

from lepton.rtl.link import Link
from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import PRESETS, NpuConfig
from lepton.rtl.spec.frames import frame
from lepton.rtl.spec.isa import Command, Reg, Region, Result, Status
from lepton.sw.device.link import Device, LinkError

CONFIG = NpuConfig(
    rows=4, cols=4, lanes=2, act_bytes=1024, weight_tiles=32, params=32, program_words=64, acc_depth=16, line_depth=16
)
REGISTERS = isa.registers(CONFIG)
TIMEOUT = 60


def registers_of(config, **more):
    return {**dict.fromkeys(isa.registers(config), 0), **identity.pack(config), **{Reg[k]: v for k, v in more.items()}}


def parse(raw):
    """The replies in a byte string that holds whole, good replies only."""
    out = []
    while raw:
        length = int.from_bytes(raw[3:5], "little")
        out.append((Result(raw[1]), raw[2], bytes(raw[5 : 5 + length])))
        assert bytes(raw[: 9 + length]) == frame(isa.SYNC_DEVICE, raw[1], raw[2], bytes(raw[5 : 5 + length]))
        raw = raw[9 + length :]
    return out


def write_payload(region, index, byte, data):
    return bytes([region]) + index.to_bytes(3, "little") + byte.to_bytes(2, "little") + bytes(data)


def read_payload(region, index, words):
    return bytes([region]) + index.to_bytes(3, "little") + words.to_bytes(2, "little")


def start_payload(run_id, pc):
    return run_id.to_bytes(4, "little") + pc.to_bytes(2, "little")


class Bench:
    """A Link in pysim with memories round it. Is a Transport: reading runs the simulation."""

    def __init__(self, config=CONFIG, act_latency=3, seed=0, stalls=False):
        self.dut = Link(config, act_latency, timeout=TIMEOUT)
        self.config = config
        self.act_latency = act_latency
        self.random = random.Random(seed)
        self.stalls = stalls
        self.to_device = deque()
        self.from_device = bytearray()
        self.memory = {}
        self.strobes = 0
        self.act = bytearray(self.random.randbytes(config.act_bytes))
        self.registers = registers_of(config)
        self.busy = False
        self.started = []
        self.resets = 0
        self.cycle = 0
        self.simulator = Simulator(self.dut)
        self.simulator.add_clock(1e-6)
        self.simulator.add_testbench(self._run)

    async def _run(self, ctx):
        dut, rng = self.dut, self.random
        pipe = deque([None] * (self.act_latency - 1))
        held = shown = None
        while True:
            if not ctx.get(dut.i.valid) and self.to_device and not (self.stalls and rng.random() < 0.3):
                ctx.set(dut.i.valid, 1)
                ctx.set(dut.i.payload, self.to_device.popleft())
            ctx.set(dut.o.ready, not (self.stalls and rng.random() < 0.3))
            ctx.set(dut.run.busy, self.busy)
            if self.registers != shown:
                shown = dict(self.registers)
                for reg, value in shown.items():
                    ctx.set(dut.registers[reg], value)
            (
                _,
                _,
                i_taken,
                o_valid,
                o_ready,
                o_byte,
                w_en,
                w,
                r_en,
                r_addr,
                start,
                pc,
                run_id,
                reset,
            ) = await ctx.tick().sample(
                dut.i.ready & dut.i.valid,
                dut.o.valid,
                dut.o.ready,
                dut.o.payload,
                dut.write.en,
                dut.write.region | dut.write.byte << 3 | dut.write.index << 14 | dut.write.data << 34,
                dut.read.en,
                dut.read.addr,
                dut.run.start,
                dut.run.pc,
                dut.run.id,
                dut.run.reset,
            )
            self.cycle += 1
            if i_taken:
                ctx.set(dut.i.valid, 0)
                if self.to_device and not self.stalls:
                    ctx.set(dut.i.valid, 1)
                    ctx.set(dut.i.payload, self.to_device.popleft())
            if held is not None:
                assert o_valid and o_byte == held, "reply byte changed before it was taken"
            held = o_byte if o_valid and not o_ready else None
            if o_valid and o_ready:
                self.from_device.append(o_byte)
            if w_en:
                self.strobes += 1
                region, byte, index, value = w & 7, w >> 3 & 0x7FF, w >> 14 & 0xFFFFF, w >> 34
                self.memory[region, index, byte] = value
                if region == Region.ACT:
                    self.act[index] = value
            pipe.append(r_addr if r_en else None)
            address = pipe.popleft()
            ctx.set(dut.read.data, rng.randrange(256) if address is None else self.act[address])
            if start:
                self.started.append((run_id, pc))
                self.registers[Reg.RUN_ID] = run_id
                self.registers[Reg.STATUS] = Status.DONE
            if reset:
                assert run_id == 0
                self.resets += 1
                self.registers[Reg.RUN_ID] = 0
                self.registers[Reg.STATUS] = Status.IDLE

    def run(self, cycles):
        end = self.cycle + cycles
        while self.cycle < end:
            self.simulator.advance()

    def write(self, data):
        self.to_device.extend(data)

    def read(self, n, timeout, cycles=400):
        quiet = self.cycle
        while not self.from_device:
            if self.to_device:
                quiet = self.cycle
            if self.cycle > quiet + cycles:
                return b""
            self.simulator.advance()
        out = bytes(self.from_device[:n])
        del self.from_device[:n]
        return out

    def flush(self):
        self.from_device.clear()

    def exchange(self, raw):
        """Send bytes; return all replies that come until a partial frame would have been dropped."""
        self.write(raw)
        out = b""
        while chunk := self.read(4096, 0, TIMEOUT + 20):
            out += chunk
        return parse(out)

    def request(self, command, payload=b"", sequence=None):
        sequence = self.random.randrange(256) if sequence is None else sequence
        self.write(frame(isa.SYNC_HOST, command, sequence, payload))
        out = b""
        while len(out) < 9 or len(out) < 9 + int.from_bytes(out[3:5], "little"):
            chunk = self.read(4096, 0)
            assert chunk, "no reply"
            out += chunk
        ((result, got, data),) = parse(out)
        assert got == sequence
        return result, data


@pytest.mark.parametrize("stalls", [False, True])
def test_ping_echoes(stalls):
    bench = Bench(stalls=stalls)
    for n in (0, 1, 5, 6, 7, isa.MAX_PAYLOAD):
        payload = bench.random.randbytes(n)
        assert bench.request(Command.PING, payload) == (Result.OK, payload)


def test_frames_back_to_back():
    bench = Bench()
    frames = [frame(isa.SYNC_HOST, Command.PING, s, bytes([s] * s)) for s in range(8)]
    assert bench.exchange(b"".join(frames)) == [(Result.OK, s, bytes([s] * s)) for s in range(8)]


@pytest.mark.parametrize("region", [Region.ACT, Region.WEIGHT, Region.PARAM, Region.PROGRAM])
@pytest.mark.parametrize("stalls", [False, True])
def test_write_walks_words(region, stalls):
    bench = Bench(seed=region, stalls=stalls)
    size, depth = isa.word_bytes(region, CONFIG), isa.depth(region, CONFIG)
    total = size * depth
    for n in (0, 1, size, 3 * size + 1, 250):
        n = min(n, 250)
        for at in (0, bench.random.randrange(total - n), total - max(n, 1)):
            bench.memory.clear()
            data = bench.random.randbytes(n)
            assert bench.request(Command.WRITE, write_payload(region, at // size, at % size, data)) == (Result.OK, b"")
            assert bench.memory == {(region, (at + i) // size, (at + i) % size): b for i, b in enumerate(data)}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_write_end_of_every_memory(preset):
    bench = Bench(config=preset)
    for region in (Region.ACT, Region.WEIGHT, Region.PARAM, Region.PROGRAM):
        size, depth = isa.word_bytes(region, preset), isa.depth(region, preset)
        if not depth:
            assert bench.request(Command.WRITE, write_payload(region, 0, 0, b"\x01")) == (Result.BAD_RANGE, b"")
            continue
        last = write_payload(region, depth - 1, size - 1, b"\x01")
        assert bench.request(Command.WRITE, last) == (Result.OK, b"")
        assert bench.memory.pop((region, depth - 1, size - 1)) == 1
        assert bench.request(Command.WRITE, last + b"\x02") == (Result.BAD_RANGE, b"")
    assert not bench.memory


def test_write_out_of_range_touches_nothing():
    bench = Bench()
    bad = [
        b"",
        write_payload(Region.ACT, 0, 0, b"")[:5],
        write_payload(Region.REG, 0, 0, b"\1"),
        write_payload(5, 0, 0, b"\1"),
        write_payload(0x81, 0, 0, b"\1"),
        write_payload(Region.ACT, 0, 1, b"\1"),
    ]
    for region in (Region.ACT, Region.WEIGHT, Region.PARAM, Region.PROGRAM):
        size, depth = isa.word_bytes(region, CONFIG), isa.depth(region, CONFIG)
        bad += [
            write_payload(region, depth, 0, b"\1"),
            write_payload(region, depth, 0, b""),
            write_payload(region, 0xFFFFFF, size - 1, b"\1\2"),
            write_payload(region, depth - 1, 0, bytes(size + 1)),
            write_payload(region, 0, size, b"\1"),
            write_payload(region, 0, 0xFFFF, b"\1"),
            write_payload(region, 0, 2048, b"\1"),
        ]
    for payload in bad:
        assert bench.request(Command.WRITE, payload) == (Result.BAD_RANGE, b"")
    assert bench.strobes == 0
    assert bench.request(Command.WRITE, write_payload(Region.ACT, 7, 0, b"\3")) == (Result.OK, b"")
    assert bench.memory == {(Region.ACT, 7, 0): 3}


@pytest.mark.parametrize("act_latency", [1, 2, 5])
@pytest.mark.parametrize("stalls", [False, True])
def test_read_act(act_latency, stalls):
    bench = Bench(act_latency=act_latency, stalls=stalls)
    for at, n in ((0, 0), (0, 1), (1021, 3), (500, 256)):
        expected = bytes(bench.act[at : at + n])
        assert bench.request(Command.READ, read_payload(Region.ACT, at, n)) == (Result.OK, expected)


def test_read_registers():
    bench = Bench()
    bench.registers = {reg: bench.random.getrandbits(32) for reg in REGISTERS}
    raw = b"".join(bench.registers[reg].to_bytes(4, "little") for reg in REGISTERS)
    for at, n in ((0, len(REGISTERS)), (len(REGISTERS) - 1, 1), (3, 5), (0, 0)):
        assert bench.request(Command.READ, read_payload(Region.REG, at, n)) == (Result.OK, raw[4 * at : 4 * (at + n)])


def test_register_word_is_captured_at_once():
    bench = Bench()
    bench.registers[Reg.CYCLES] = 0
    bench.write(frame(isa.SYNC_HOST, Command.READ, 1, read_payload(Region.REG, Reg.CYCLES, 1)))
    while len(bench.from_device) < 13:
        value = bench.cycle * 0x01010101
        bench.registers[Reg.CYCLES] = value & 0xFFFFFFFF
        bench.simulator.advance()
    data = bench.from_device[5:9]
    assert len(set(data)) == 1 and data[0]


def test_read_out_of_range():
    assert 4 * len(Reg) <= isa.MAX_PAYLOAD
    bench = Bench()
    for payload in (
        b"",
        read_payload(Region.ACT, 0, 1)[:5],
        read_payload(Region.ACT, 0, 1) + b"\0",
        read_payload(Region.ACT, 0, 257),
        read_payload(Region.ACT, 0, 0xFFFF),
        read_payload(Region.ACT, 1024, 1),
        read_payload(Region.ACT, 1020, 5),
        read_payload(Region.ACT, 0xFFFFFF, 1),
        read_payload(Region.REG, 0, len(REGISTERS) + 1),
        read_payload(Region.REG, len(REGISTERS), 1),
        read_payload(Region.WEIGHT, 0, 1),
        read_payload(Region.PROGRAM, 0, 1),
        read_payload(0x81, 0, 1),
    ):
        assert bench.request(Command.READ, payload) == (Result.BAD_RANGE, b"")


def test_start_once_per_run_id():
    bench = Bench()
    assert bench.request(Command.START, start_payload(0, 1)) == (Result.OK, b"")
    assert bench.request(Command.START, start_payload(0xDEADBEEF, 63)) == (Result.OK, b"")
    assert bench.request(Command.START, start_payload(0xDEADBEEF, 63)) == (Result.OK, b"")
    bench.busy = True
    assert bench.request(Command.START, start_payload(0xDEADBEEF, 63)) == (Result.OK, b"")
    assert bench.request(Command.START, start_payload(0xDEADBEEE, 63)) == (Result.BUSY, b"")
    assert bench.started == [(0, 1), (0xDEADBEEF, 63)]
    assert bench.request(Command.RESET) == (Result.OK, b"")
    bench.busy = False
    assert bench.resets == 1
    assert bench.request(Command.START, start_payload(0xDEADBEEF, 0)) == (Result.OK, b"")
    assert bench.started[2:] == [(0xDEADBEEF, 0)]
    assert bench.request(Command.RESET) == (Result.OK, b"")
    assert bench.request(Command.START, start_payload(0, 2)) == (Result.OK, b"")
    assert bench.started.pop() == (0, 2)
    good = start_payload(5, 0)
    for payload in (start_payload(5, 64), start_payload(5, 0xFFFF), good[:5], good + b"\0"):
        assert bench.request(Command.START, payload) == (Result.BAD_RANGE, b"")
    assert bench.request(Command.RESET, b"\0") == (Result.BAD_RANGE, b"")
    assert len(bench.started) == 3 and bench.resets == 2


def test_busy_refuses_memory():
    bench = Bench()
    bench.busy = True
    assert bench.request(Command.WRITE, write_payload(Region.PARAM, 0, 0, b"\1")) == (Result.BUSY, b"")
    assert bench.request(Command.READ, read_payload(Region.ACT, 0, 1)) == (Result.BUSY, b"")
    assert bench.request(Command.READ, read_payload(Region.REG, Reg.MAGIC, 1)) == (Result.OK, b"LPTN")
    assert bench.request(Command.PING, b"x") == (Result.OK, b"x")
    assert bench.strobes == 0


def test_unknown_command():
    bench = Bench()
    for command in (5, 0x80, 0xFF):
        assert bench.request(command) == (Result.BAD_COMMAND, b"")


def test_corrupted_frame_is_refused_and_touches_nothing():
    bench = Bench()
    good = frame(isa.SYNC_HOST, Command.WRITE, 0x33, write_payload(Region.ACT, 5, 0, b"\x11\x22\x33\x44"))
    for byte in (1, 2, *range(5, len(good))):  # the length: below
        bad = bytearray(good)
        bad[byte] ^= 1 << bench.random.randrange(8)
        assert bench.exchange(bad) == [(Result.BAD_CRC, bad[2], b"")]
    for command in (Command.START, Command.RESET):
        bad = bytearray(frame(isa.SYNC_HOST, command, 1, start_payload(1, 1)))
        bad[-1] ^= 0x80
        assert bench.exchange(bad) == [(Result.BAD_CRC, 1, b"")]
    assert bench.strobes == 0 and not bench.started and not bench.resets
    assert bench.exchange(good) == [(Result.OK, 0x33, b"")]
    assert bytes(bench.act[5:9]) == b"\x11\x22\x33\x44"


def test_corrupted_length_recovers():
    bench = Bench()
    good = frame(isa.SYNC_HOST, Command.WRITE, 0x33, write_payload(Region.ACT, 5, 0, b"\x11\x22\x33\x44"))
    for bit in range(16):
        bad = bytearray(good)
        bad[3 + bit // 8] ^= 1 << bit % 8
        replies = bench.exchange(bad)  # ends early with a bad CRC, or waits for more and is dropped
        assert all(result == Result.BAD_CRC for result, _, _ in replies)
        assert bench.request(Command.PING, b"alive") == (Result.OK, b"alive")
    assert bench.strobes == 0


def test_oversized_payload_is_swallowed():
    bench = Bench()
    inner = frame(isa.SYNC_HOST, Command.START, 9, start_payload(9, 9))
    for n in (257, 300, 1000):
        payload = (inner * 80)[:n]
        assert bench.request(Command.PING, payload) == (Result.BAD_RANGE, b"")
    assert bench.request(Command.WRITE, write_payload(Region.ACT, 0, 0, bytes(251))) == (Result.BAD_RANGE, b"")
    assert not bench.started and bench.strobes == 0


def test_partial_frame_is_dropped_after_timeout():
    bench = Bench()
    good = frame(isa.SYNC_HOST, Command.WRITE, 0x33, write_payload(Region.ACT, 5, 0, b"\x11"))
    for cut in range(1, len(good)):
        bench.write(good[:cut])
        bench.run(len(good) + TIMEOUT + 2)
        assert bench.request(Command.PING, b"a") == (Result.OK, b"a")
    assert bench.strobes == 0
    # One byte in time keeps a frame alive.
    for byte in good:
        bench.write([byte])
        bench.run(TIMEOUT - 2)
    assert parse(bytes(bench.from_device)) == [(Result.OK, 0x33, b"")]
    assert bench.strobes == 1


def test_noise_never_does_anything():
    bench = Bench(seed=11)
    for _ in range(20):
        noise = bytes(bench.random.choice((0xA5, 0, 1, 2, 3, 4, 255)) for _ in range(bench.random.randrange(1, 60)))
        assert all(result == Result.BAD_CRC for result, _, _ in bench.exchange(noise))
        assert bench.request(Command.PING, b"b") == (Result.OK, b"b")
    assert bench.strobes == 0 and not bench.started and not bench.resets


def test_constructor_checks():
    with pytest.raises(ValueError, match="act_latency=0: must be at least 1"):
        Link(CONFIG, 0)
    with pytest.raises(ValueError, match="timeout=0: must be at least 1"):
        Link(CONFIG, 1, timeout=0)


# --- The driver


class DeviceModel:
    """What a device does with bytes, in plain Python."""

    def __init__(self, config=CONFIG):
        self.config = config
        regions = [r for r in Region if r != Region.REG]
        self.memory = {r: bytearray(isa.word_bytes(r, config) * isa.depth(r, config)) for r in regions}
        self.registers = registers_of(config)
        self.starts = []
        self.busy = False
        self.partial = bytearray()

    def idle(self):
        self.partial.clear()

    def feed(self, data):
        out = b""
        for byte in data:
            if not self.partial and byte != isa.SYNC_HOST:
                continue
            self.partial.append(byte)
            length = int.from_bytes(self.partial[3:5], "little")
            if len(self.partial) >= 9 and len(self.partial) == 9 + length:
                raw = bytes(self.partial)
                self.partial.clear()
                command, sequence, payload = raw[1], raw[2], raw[5:-4]
                if raw != frame(isa.SYNC_HOST, command, sequence, payload):
                    out += frame(isa.SYNC_DEVICE, Result.BAD_CRC, sequence)
                else:
                    out += frame(isa.SYNC_DEVICE, *self.execute(command, sequence, payload))
        return out

    def execute(self, command, sequence, payload):
        index, third = int.from_bytes(payload[1:4], "little"), int.from_bytes(payload[4:6], "little")
        result, reply = Result.OK, b""
        if command == Command.PING:
            reply = payload
        elif command == Command.WRITE:
            at = index * isa.word_bytes(payload[0], self.config) + third
            memory, data = self.memory[payload[0]], payload[6:]
            if self.busy:
                result = Result.BUSY
            elif at + len(data) > len(memory):
                result = Result.BAD_RANGE
            else:
                memory[at : at + len(data)] = data
        elif command == Command.READ and payload[0] == Region.REG:
            values = b"".join(self.registers[r].to_bytes(4, "little") for r in isa.registers(self.config))
            reply = values[4 * index : 4 * (index + third)]
        elif command == Command.READ:
            reply = bytes(self.memory[Region.ACT][index : index + third])
        elif command == Command.START:
            run_id = int.from_bytes(payload[:4], "little")
            if self.registers[Reg.RUN_ID] != run_id:
                self.starts.append(third)
                self.registers[Reg.RUN_ID] = run_id
                self.registers[Reg.STATUS] = Status.RUNNING
        elif command == Command.RESET:
            self.registers[Reg.RUN_ID] = 0
            self.registers[Reg.STATUS] = Status.IDLE
        return result, sequence, reply


class Line:
    """A transport to a model whose bytes are flipped, dropped, doubled or preceded by noise with probability `rate`."""

    def __init__(self, model, rate=0.0, seed=0):
        self.model, self.rate, self.random = model, rate, random.Random(seed)
        self.buffer = bytearray()
        self.writes = []

    def spoil(self, data):
        out = bytearray()
        for byte in data:
            if self.random.random() >= self.rate:
                out.append(byte)
                continue
            kind = self.random.randrange(4)
            if kind == 0:
                out.append(byte ^ 1 << self.random.randrange(8))
            elif kind == 1:
                out += bytes([byte, byte])
            elif kind == 2:
                out += self.random.randbytes(self.random.randrange(4)) + bytes([byte])
        return bytes(out)

    def write(self, data):
        self.writes.append(bytes(data))
        self.buffer += self.spoil(self.model.feed(self.spoil(data)))

    def read(self, n, timeout):
        if not self.buffer:
            self.model.idle()
        out = bytes(self.buffer[:n])
        del self.buffer[:n]
        return out

    def flush(self):
        self.buffer.clear()


def exercise(device, rng, data_bytes=1500):
    """Load every memory, read back, run; the caller compares the memories."""
    config = device.config()
    written = {}
    for region in (Region.ACT, Region.WEIGHT, Region.PARAM, Region.PROGRAM):
        size = isa.word_bytes(region, config)
        n = min(data_bytes, size * isa.depth(region, config))
        index = rng.randrange(isa.depth(region, config) - -(-n // size) + 1)
        written[region] = index * size, rng.randbytes(n)
        device.write(region, index, written[region][1])
    at, data = written[Region.ACT]
    assert device.read(Region.ACT, at, len(data)) == data
    return written


def test_driver_clean_line():
    model = DeviceModel()
    line = Line(model)
    device = Device(line)
    device.ping()
    assert device.config() == replace(CONFIG, name="custom")
    for region, (at, data) in exercise(device, random.Random(1)).items():
        assert model.memory[region][at : at + len(data)] == data
    run_id = device.start(7)
    assert model.starts == [7] and model.registers[Reg.RUN_ID] == run_id
    with pytest.raises(LinkError, match="the run did not end in 0 s"):
        device.wait(timeout=0)
    model.registers[Reg.STATUS] = Status.DONE
    model.registers[Reg.CYCLES] = 1234
    assert device.wait()[Reg.CYCLES] == 1234
    assert device.registers() == dict.fromkeys(Reg, 0) | model.registers
    lines = set()
    for status in set(Status) - {Status.IDLE, Status.RUNNING, Status.DONE}:
        model.registers[Reg.STATUS] = status
        with pytest.raises(LinkError, match="the run stopped: ") as error:
            device.wait()
        lines.add(str(error.value))
    assert len(lines) == len(Status) - 3 and not any("\n" in line for line in lines)
    model.registers[Reg.RUN_ID] ^= 1
    with pytest.raises(LinkError, match="reset during the run"):
        device.wait()
    device.reset()
    with pytest.raises(LinkError, match="no run was started"):
        device.wait()
    assert device.retried == 0 and device.bytes_out == sum(map(len, line.writes))


@pytest.mark.parametrize("seed", range(6))
def test_driver_faulty_line(seed):
    model = DeviceModel()
    device = Device(Line(model, rate=0.0008, seed=seed), retries=20)
    rng = random.Random(seed)
    for _ in range(4):
        for region, (at, data) in exercise(device, rng).items():
            assert model.memory[region][at : at + len(data)] == data
        before = len(model.starts)
        device.start(3)
        assert len(model.starts) == before + 1
    assert device.retried > 0


def test_driver_notices_a_reset_while_it_loads():
    for when in (None, 7):
        model = DeviceModel()
        execute, count = model.execute, []

        def reset_in_between(command, sequence, payload):
            count.append(command)
            if len(count) == when:
                model.registers[Reg.RUN_ID] = 0
                model.memory[Region.WEIGHT][:] = bytes(len(model.memory[Region.WEIGHT]))
            answer = execute(command, sequence, payload)
            if command == Command.START:
                model.registers[Reg.STATUS] = Status.DONE
            return answer

        model.execute = reset_in_between
        device = Device(Line(model))
        device.config()
        images = [(Region.WEIGHT, b"weights"), (Region.PARAM, b"params"), (Region.PROGRAM, b"programs")]
        if when is None:
            device.load(images)
            for region, data in images:
                assert model.memory[region][: len(data)] == data
        else:
            with pytest.raises(LinkError, match="was reset while it was loaded"):
                device.load(images)
        assert len(count) > 7


def test_driver_lost_reply_does_not_start_twice():
    model = DeviceModel()
    line = Line(model)
    device = Device(line)
    device.config()
    feed, lost = model.feed, []

    def lossy(data):
        reply = feed(data)
        if data[1:2] == bytes([Command.START]) and len(lost) < 3:
            lost.append(reply)
            return b""
        return reply

    model.feed = lossy
    device.start(1)
    assert model.starts == [1] and len(lost) == 3 and device.retried == 3


def test_driver_ignores_stale_replies():
    model = DeviceModel()
    line = Line(model)
    device = Device(line)
    feed = model.feed

    def doubled(data):
        stale = frame(isa.SYNC_DEVICE, Result.OK, data[2] - 1 & 0xFF, b"\0" * 8) if data[0] else b""
        return stale + feed(data)

    model.feed = doubled
    assert device.config() == CONFIG
    assert device.retried == 0


def test_driver_gives_up_with_one_line():
    class Dead:
        def __init__(self):
            self.sent = []

        def write(self, data):
            self.sent.append(data)

        def read(self, n, timeout):
            return b""

        def flush(self):
            pass

    dead = Dead()
    device = Device(dead, retries=2)
    with pytest.raises(LinkError, match=r"^PING failed after 3 attempts: no answer in 1 s; check the cable") as error:
        device.ping()
    assert "\n" not in str(error.value) and error.value.result is None
    assert sum(data[0] == isa.SYNC_HOST for data in dead.sent) == 3

    class Noisy(Dead):
        def read(self, n, timeout):
            return b"\x5a\x00" * (n // 2 + 1)

    with pytest.raises(LinkError, match="failed after 1 attempts"):
        Device(Noisy(), retries=0, timeout=0.05).ping()

    class Unplugged(Dead):
        def write(self, data):
            raise OSError("device not there")

    with pytest.raises(LinkError, match="link lost during PING: device not there; reconnect"):
        Device(Unplugged()).ping()


def test_driver_refuses_before_sending():
    line = Line(DeviceModel())
    device = Device(line)
    device.config()
    sent = len(line.writes)
    for call, text in (
        (lambda: device.write(Region.ACT, 1020, b"12345"), "ACT 1020 \\+ 5 words: the memory has 1024"),
        (lambda: device.write(Region.WEIGHT, 31, bytes(23)), "WEIGHT 31 \\+ 2 words: the memory has 32"),
        (lambda: device.write(Region.PARAM, -1, b"1"), "PARAM -1"),
        (lambda: device.write(Region.REG, 0, b"1"), "registers cannot be written"),
        (lambda: device.read(Region.ACT, 1000, 25), "ACT 1000 \\+ 25 words"),
        (lambda: device.read(Region.REG, 17, 2), "REG 17 \\+ 2 words"),
        (lambda: device.read(Region.WEIGHT, 0, 1), "WEIGHT cannot be read"),
        (lambda: device.start(64), "START at word 64: the program memory has 64"),
    ):
        with pytest.raises(LinkError, match=text) as error:
            call()
        assert error.value.result == Result.BAD_RANGE
    assert len(line.writes) == sent


def test_driver_reports_refusals():
    model = DeviceModel()
    device = Device(Line(model))
    device.config()
    model.busy = True
    with pytest.raises(LinkError, match=r"device refused WRITE ACT 0: a run is in progress") as error:
        device.write(Region.ACT, 0, b"1")
    assert error.value.result == Result.BUSY and device.retried == 0


def test_identity_round_trip_and_mismatch():
    for config in (*PRESETS.values(), CONFIG, replace(CONFIG, ring_tiles=4, rows=6, pe="paired")):
        assert identity.unpack(registers_of(config)) == config
    model = DeviceModel()
    for reg, value, text in (
        (Reg.MAGIC, 0, "not a Lepton device: magic register is 0x00000000"),
        (Reg.VERSION, 99, "device has interface version 99, this software speaks 1"),
        (Reg.SHAPE, 0x01010101, "impossible configuration"),
    ):
        model.registers = registers_of(CONFIG, **{reg.name: value})
        with pytest.raises(LinkError, match=text):
            Device(Line(model)).config()


@pytest.mark.parametrize("rate", [0.0, 0.001])
def test_driver_on_the_rtl(rate):
    bench = Bench(seed=5, stalls=True)
    spoiler = Line(None, rate, seed=3)
    clean_write = bench.write
    bench.write = lambda data: clean_write(spoiler.spoil(data))
    device = Device(bench, retries=8, timeout=30.0)
    assert device.config() == CONFIG
    for region, (at, data) in exercise(device, random.Random(2), 600).items():
        size = isa.word_bytes(region, CONFIG)
        assert bytes(bench.memory[region, a // size, a % size] for a in range(at, at + len(data))) == data
    run_id = device.start(9)
    assert bench.started == [(run_id, 9)]
    assert device.wait(poll=0)[Reg.STATUS] == Status.DONE
    device.reset()
    assert bench.resets >= 1
    assert (device.retried > 0) == (rate > 0)

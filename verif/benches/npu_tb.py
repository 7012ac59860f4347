"""The whole accelerator behind its byte link: random programs and a compiled network against the ISS."""

import zlib
from importlib.resources import files

import cocotb
import numpy as np

from lepton.rtl import isa
from lepton.rtl.isa import Command, Reg, Region, Result, Status
from lepton.sw.compiler import HostStep, compile_model
from lepton.sw.link import WRITE_HEADER, frame
from lepton.sw.model import load_model
from lepton.verif.benches.common import INT32, Bench, Part, Stall, StreamDriver, StreamMonitor, bench_config, corner8
from lepton.verif.iss import DESCRIPTOR_DTYPE, PARAM_DTYPE, Iss, encode_descriptors

HALF = 2048  # a stage reads one half of the activation memory and writes the other
QUICK = (0.0, 0.0, 0.0, 0.3)


class Host(Part):
    """Sends one request after the other, each when the last is answered; `script` yields requests, receives replies.

    A request is (command, payload, damage): `damage` flips a bit of the frame. A reply is (result, payload).
    """

    def __init__(self, bench, script):
        self._driver = StreamDriver(bench, "i", [], 8, Stall(bench.rng, QUICK))
        self._monitor = StreamMonitor(bench, "o", self._byte, Stall(bench.rng, QUICK))
        self._script, self._rng = script, bench.rng
        self._received = bytearray()
        self._sequence = 0
        self.requests, self.done = 0, False
        self._next(None)

    def _next(self, reply):
        try:
            command, payload, damage = self._script.send(reply)
        except StopIteration:
            self.done = True
            return
        self.requests += 1
        self._sequence = int(self._rng.integers(256))
        data = bytearray(frame(isa.SYNC_HOST, command, self._sequence, payload))
        if damage:  # not in the length, which would make the device wait for more
            at = int(self._rng.choice([n for n in range(1, len(data)) if n not in (3, 4)]))
            data[at] ^= 1 << int(self._rng.integers(8))
            self._sequence = data[2]
        noise = bytes(b for b in self._rng.bytes(int(self._rng.integers(3))) if b != isa.SYNC_HOST)
        self._driver.items += noise + data

    def _byte(self, byte):
        received = self._received
        received.append(byte)
        assert received[0] == isa.SYNC_DEVICE and not self.done
        if len(received) < 5 or len(received) < 9 + int.from_bytes(received[3:5], "little"):
            return
        body, check = bytes(received[1:-4]), int.from_bytes(received[-4:], "little")
        assert zlib.crc32(body) == check, "CRC of a reply"
        assert body[1] == self._sequence, "sequence of a reply"
        received.clear()
        self._next((body[0], body[4:]))

    def drive(self, cycle):
        self._driver.drive(cycle)
        self._monitor.drive(cycle)

    def sample(self, cycle):
        self._driver.sample(cycle)
        self._monitor.sample(cycle)


# --- Scripts: parts of a conversation ---------------------------------------------------------------------------------


def request(command, payload=b"", result=Result.OK):
    """One request and its answer's payload; the result must be this one."""
    got, data = yield command, payload, False
    assert got == result, f"{command.name}: {got}, expected {result.name}"
    return data


def address(region, index, last):
    return bytes([region]) + index.to_bytes(3, "little") + last.to_bytes(2, "little")


def write(rng, config, region, index, data):
    """Write in pieces of random sizes; some frames arrive damaged first and must change nothing."""
    size, at = isa.word_bytes(region, config), 0
    while at < len(data):
        n = int(rng.choice([isa.MAX_PAYLOAD - WRITE_HEADER, rng.integers(1, isa.MAX_PAYLOAD - WRITE_HEADER)]))
        word, byte = divmod(at, size)
        payload = address(region, index + word, byte) + data[at : at + n]
        if rng.random() < 0.1:
            result, _ = yield Command.WRITE, payload, True
            assert result == Result.BAD_CRC
        yield from request(Command.WRITE, payload)
        at += n


def read(config, region, index, words):
    size, out = isa.word_bytes(region, config), b""
    while words:
        n = min(words, isa.MAX_PAYLOAD // size)
        out += yield from request(Command.READ, address(region, index, n))
        index, words = index + n, words - n
    return out


def registers(config):
    data = yield from read(config, Region.REG, 0, len(Reg))
    return {r: int.from_bytes(data[4 * r : 4 * r + 4], "little") for r in Reg}


def start(rng, config, pc):
    """Start, sometimes twice with the same id, and wait until the run has ended; returns the registers."""
    run_id = int(rng.integers(1, 1 << 32))
    payload = run_id.to_bytes(4, "little") + pc.to_bytes(2, "little")
    for _ in range(int(rng.integers(1, 3))):
        yield from request(Command.START, payload)
    while True:
        found = yield from registers(config)
        assert found[Reg.RUN_ID] == run_id
        if found[Reg.STATUS] != Status.RUNNING:
            return found


def check_counters(found):
    assert found[Reg.STATUS] == Status.DONE
    assert found[Reg.CYCLES] == sum(found[Reg[c.name]] for c in isa.Cause), "a cycle without a cause"


# --- Random programs --------------------------------------------------------------------------------------------------


class Program:
    """A chain of stages: each reads one half of the activation memory and writes the other, then they change places."""

    def __init__(self, rng, config, stages):
        self.rng, self.config = rng, config
        self.tiles, self.descriptors, self.words = [], [], []
        self.params = np.zeros(config.params, PARAM_DTYPE)
        self.params["bias"] = rng.integers(-4000, 4000, config.params)
        self.params["multiplier"] = rng.integers(1 << 30, 1 << 31, config.params)
        self.params["shift"] = rng.integers(-11, -4, config.params)
        some = rng.random(config.params) < 0.05
        self.params["bias"][some] = rng.choice(INT32, int(some.sum()))
        self.params["shift"][some] = rng.choice([-31, 30, 0], int(some.sum()))
        self._put(isa.TABLE, param=3)
        for stage in range(stages):
            self._stage(stage, stage == stages - 1)
        self._put(isa.END)

    def r(self, low, high):
        return int(self.rng.integers(low, high))

    def _put(self, op, **fields):
        self.words += isa.encode(op, **fields)

    def _tile(self, depthwise, last, skip):
        config, used = self.config, self.config.taps * self.config.segments
        weights = corner8(self.rng, (config.rows, config.cols))
        if depthwise:
            step = 2 if config.pe == "paired" else 1
            keep = np.zeros((config.rows, 1), bool)
            keep[0 : step * used : step] = True
            weights = weights * keep
        self.tiles.append(weights)
        self.descriptors.append((self.r(0, 200), self.r(-8, 8), self.r(-1, 2), skip, int(last)))

    def _stage(self, stage, final):
        r, rng, config = self.r, self.rng, self.config
        depthwise, stack = int(rng.random() < 0.3), r(0, 2)
        source, target = (0, HALF) if stage % 2 == 0 else (HALF, 0)
        width, height = int(rng.choice([1, 2, 3, 5])), int(rng.choice([1, 1, 2, 3]))
        groups = int(rng.choice([1, 1, 2, 3]))
        subsample = int(rng.choice([1, 1, 2])) if depthwise else 1
        if depthwise:
            width = max(width, 2)
        out_width = r(1, (width - 1) // subsample + 2) if depthwise else 1
        still = 0 if depthwise else int(rng.random() < 0.2)
        at = len(self.tiles)
        for _ in range(groups):
            count, skip = int(rng.choice([1, 2, 4])), r(0, 3)
            for k in range(count):
                self._tile(depthwise, k == count - 1, skip)
        self._put(isa.LOAD, count=len(self.tiles) - at, tile=at)
        columns, rows = (out_width, height) if depthwise else (1, 1) if still else (width, height)
        base = r(0, 4)
        self._put(
            isa.MUL, wait=int(stage > 0), depthwise=depthwise, stack=stack, init=1, release=1, still=still,
            acc_base=base, groups=groups, width=width, height=height, address=source + r(20, 600), x=r(-4, 4),
            x_limit=r(4, 60), x_step=r(1, 6), y=r(-1, 1), y_limit=r(1, 6), y_step=r(0, 3), row_step=r(0, 40),
            group_step=r(0, 8), zero_point=int(rng.choice([-128, 127, r(-128, 128)])), out_width=out_width,
            subsample=subsample, line_delay=width + config.taps,
        )  # fmt: skip
        pool = not stack and columns >= 2 and rows >= 2 and rng.random() < 0.5
        wx, wy = (2, 2) if pool else (1, 1)
        shared = r(0, 2)
        out_x = groups * config.cols + r(0, 3)
        # The last group may be narrower than the array; every group before it is full.
        channels = (groups - 1) * config.cols + r(1, config.cols + 1)
        self._put(
            isa.TAIL, take=1, release=1, post=int(not final), stack=stack, clamp=1, table=r(0, 2), shared=shared,
            pre_shift=int(rng.choice([0, 0, 2])), acc_base=base, acc_x=1, acc_y=columns, width=columns - wx + 1,
            height=rows - wy + 1, window_x=wx, window_y=wy, window_row=columns, address=target + r(0, 200), out_x=out_x,
            out_y=out_x * columns + r(0, 5), group_step=config.cols, channels=channels, param=r(0, config.params - 64),
            zero_point=r(-128, 128), low=int(rng.choice([-128, r(-128, 0)])), high=int(rng.choice([127, r(0, 128)])),
        )  # fmt: skip

    def images(self):
        descriptors = encode_descriptors(np.array(self.descriptors, DESCRIPTOR_DTYPE))
        bodies = np.array(self.tiles, np.int8).reshape(len(self.tiles), -1).view(np.uint8)
        return [
            (Region.WEIGHT, np.concatenate([descriptors, bodies], axis=1).tobytes()),
            (Region.PARAM, self.params.tobytes()),
            (Region.PROGRAM, np.array(self.words, "<u8").tobytes()),
        ]


def random_script(rng, config, dut):
    found = yield from registers(config)
    assert found[Reg.MAGIC] == isa.MAGIC and found[Reg.STATUS] == Status.IDLE
    for stages in (1, 30):
        program = Program(rng, config, stages)
        iss = Iss(config, hazards=True)
        images = [*program.images(), (Region.ACT, corner8(rng, config.act_bytes).astype(np.int8).tobytes())]
        for region, data in images:
            iss.write(region, 0, data)
            yield from write(rng, config, region, 0, data)
        for _ in range(2):  # the second run starts from what the first left
            iss.run()
            found = yield from start(rng, config, 0)
            check_counters(found)
            got = yield from read(config, Region.ACT, 0, config.act_bytes)
            want = iss.read(Region.ACT, 0, config.act_bytes)
            wrong = [n for n, (a, b) in enumerate(zip(got, want)) if a != b]
            assert not wrong, f"{len(wrong)} bytes differ, the first at {wrong[0]}, {stages} stages"
            dut._log.info("%d stages, %d tiles: %d cycles", stages, len(program.tiles), found[Reg.CYCLES])


def protocol_script(rng, config):
    """Echo, refusals, an unknown opcode, a run that never ends and its reset."""
    for size in (0, 1, isa.MAX_PAYLOAD):
        payload = bytes(rng.bytes(size))
        assert (yield from request(Command.PING, payload)) == payload
    yield from request(Command.READ, address(Region.ACT, config.act_bytes - 1, 2), Result.BAD_RANGE)
    yield from request(Command.WRITE, address(Region.PROGRAM, config.program_words, 0) + b"\1", Result.BAD_RANGE)
    bad = np.array([0], "<u8").tobytes()
    yield from write(rng, config, Region.PROGRAM, 0, bad)
    assert (yield from start(rng, config, 0))[Reg.STATUS] == Status.BAD_OPCODE
    hang = [
        w
        for op, f in ((isa.MUL, dict(wait=1, groups=1, width=1, height=1)), (isa.END, {}))
        for w in isa.encode(op, **f)
    ]
    yield from write(rng, config, Region.PROGRAM, 7, np.array(hang, "<u8").tobytes())
    yield from request(Command.START, (5).to_bytes(4, "little") + (7).to_bytes(2, "little"))
    yield from request(Command.WRITE, address(Region.ACT, 0, 0) + b"\1", Result.BUSY)
    yield from request(Command.READ, address(Region.ACT, 0, 1), Result.BUSY)
    assert (yield from registers(config))[Reg.STATUS] == Status.RUNNING
    yield from request(Command.RESET)
    assert (yield from registers(config))[Reg.STATUS] == Status.IDLE
    yield from request(Command.READ, address(Region.ACT, 0, 1))


def network_script(rng, config, dut):
    """The network that ships with Lepton on one of its images: the whole activation memory after each step."""
    folder = files("lepton.sw") / "models"
    model = load_model(str(folder / "digits.tflite"))
    program = compile_model(model, config)
    with np.load(str(folder / "digits.npz")) as data:
        images = next(data[k] for k in data.files if data[k].dtype == np.int8 and data[k].ndim > 2)
    iss = Iss(config)
    for region, data in program.images():
        iss.write(region, 0, data)
        yield from write(rng, config, region, 0, data)
    place = program.places[model.inputs[0]]
    image = images[int(rng.integers(len(images)))].reshape(model.tensors[model.inputs[0]].shape)
    data = program.pack_input(model.inputs[0], image)
    # Every byte of the memory is known before the run.
    rest = bytearray(config.act_bytes)
    rest[place.address : place.address + len(data)] = data
    iss.write(Region.ACT, 0, bytes(rest))
    yield from write(rng, config, Region.ACT, 0, bytes(rest))
    step = next(s for s in program.steps if not isinstance(s, HostStep))
    iss.run(step.pc)
    found = yield from start(rng, config, step.pc)
    check_counters(found)
    got = yield from read(config, Region.ACT, 0, config.act_bytes)
    assert got == iss.read(Region.ACT, 0, config.act_bytes), "activation memory after the network"
    busy = program.macs / config.macs_per_cycle / found[Reg.CYCLES]
    dut._log.info("digits: %d cycles, %.0f %% of the multipliers busy", found[Reg.CYCLES], 100 * busy)


async def converse(dut, name, script_of, timeout):
    bench = Bench(dut, "npu", name)
    host = Host(bench, script_of(bench.rng))
    await bench.run(host, until=lambda: host.done, timeout=timeout)
    dut._log.info("%d requests, %d cycles", host.requests, bench.cycle)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def protocol(dut):
    await converse(dut, "protocol", lambda rng: protocol_script(rng, bench_config()), 30_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_programs(dut):
    await converse(dut, "random_programs", lambda rng: random_script(rng, bench_config(), dut), 400_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def network(dut):
    await converse(dut, "network", lambda rng: network_script(rng, bench_config(), dut), 400_000)

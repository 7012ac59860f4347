"""The whole accelerator behind its byte link: random and directed programs and a compiled network against the ISS."""

import zlib
from dataclasses import dataclass
from importlib.resources import files

import cocotb
import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.frames import WRITE_HEADER, frame
from lepton.rtl.spec.isa import Command, Reg, Region, Result, Status
from lepton.sw.compiler import HostStep, compile_model
from lepton.sw.graph.reader import load_model
from lepton.sw.reference.iss import DESCRIPTOR_DTYPE, PARAM_DTYPE, Iss
from lepton.verif.benches.common import (
    INT32,
    Bench,
    Part,
    Queues,
    Stall,
    StreamDriver,
    StreamMonitor,
    bench_config,
    corner8,
)
from lepton.verif.benches.differ import same
from lepton.verif.benches.top import LINK_TIMEOUT
from lepton.verif.coverage import functional as cover

HALF = 2048  # a stage reads one half of the activation memory and writes the other
QUICK = (0.0, 0.0, 0.0, 0.3)


@dataclass(frozen=True)
class Cut:
    """After how many bytes a frame ends."""

    at: int


class Host(Part):
    """Sends one request after the other, each when the last is answered; `script` yields requests, receives replies.

    A request is (command, payload, damage): `damage` True flips a bit of the frame, a `Cut` ends it early, is followed
    by silence until the link must have dropped it, and has no reply. A reply is (result, payload), or None.
    """

    def __init__(self, bench, script):
        self._driver = StreamDriver(bench, "i", [], 8, Stall(bench.rng, QUICK))
        self._monitor = StreamMonitor(bench, "o", self._byte, Stall(bench.rng, QUICK))
        self._script, self._rng = script, bench.rng
        self._received = bytearray()
        self._sequence = 0
        self.requests, self.done = 0, False
        self._silence = 0  # cycles of it that are still to come
        self._next(None)

    def _next(self, reply):
        try:
            command, payload, damage = self._script.send(reply)
        except StopIteration:
            self.done = True
            return
        self.requests += 1
        self._command = command
        sizes = {0: "0", 1: "1", isa.MAX_PAYLOAD: "largest"}
        cover.hit("link.length", "too many" if len(payload) > isa.MAX_PAYLOAD else sizes.get(len(payload)))
        self._sequence = int(self._rng.integers(256))
        data = bytearray(frame(isa.SYNC_HOST, command, self._sequence, payload))
        if isinstance(damage, Cut):
            self._driver.items += data[: damage.at]
            self._silence = LINK_TIMEOUT + 2
            return
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
        if body[0] == Result.BAD_COMMAND:
            cover.hit("link.unknown", "BAD_COMMAND")
        else:
            cover.hit("link.answers", f"{Command(self._command).name} {Result(body[0]).name}")
        self._next((body[0], body[4:]))

    def drive(self, cycle):
        if self._silence and self._driver.done:
            self._silence -= 1
            if not self._silence:
                self._next(None)
        self._driver.drive(cycle)
        self._monitor.drive(cycle)

    def sample(self, cycle):
        self._driver.sample(cycle)
        self._monitor.sample(cycle)


class External(Part):
    """Memory behind the burst port: bytes with gaps, several requests ahead."""

    def __init__(self, bench):
        self._pins, self._rng = bench.pins, bench.rng
        self._accept, self._stall = Stall(bench.rng), Stall(bench.rng)
        self._addresses: list[int] = []  # of bytes still to send
        self._ready = self._valid = False
        self.bytes: dict[int, int] = {}
        """What is stored, by address; other bytes are noise."""

    def drive(self, cycle):
        self._ready = len(self._addresses) < 500 and not self._accept()
        self._pins.set("x_req__ready", self._ready)
        self._valid = bool(self._addresses) and not self._stall()
        noise = int(self._rng.integers(256))
        self._pins.set("x_data__valid", self._valid)
        self._pins.set("x_data__payload", self.bytes.get(self._addresses[0], noise) if self._valid else noise)

    def sample(self, cycle):
        if self._addresses and not self._valid:
            cover.hit("stall.external", "no byte")
        if self._valid:
            assert self._pins.get("x_data__ready"), "the accelerator takes every byte at once"
            self._addresses.pop(0)
        if self._pins.get("x_req__valid"):
            if self._ready:
                burst = self._pins.get("x_req__payload")
                address, length = burst & (1 << 32) - 1, burst >> 32
                self._addresses += [(address + n) % (1 << 32) for n in range(length)]
            else:
                cover.hit("stall.external", "request not taken")


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
    data = yield from read(config, Region.REG, 0, len(isa.registers(config)))
    found = {r: int.from_bytes(data[4 * r : 4 * r + 4], "little") for r in isa.registers(config)}
    return dict.fromkeys(Reg, 0) | found


def start(rng, config, pc):
    """Start, sometimes twice with the same id, and wait until the run has ended; returns the registers."""
    run_id = int(rng.integers(1, 1 << 32))
    payload = run_id.to_bytes(4, "little") + pc.to_bytes(2, "little")
    times = int(rng.integers(1, 3))
    for _ in range(times):
        yield from request(Command.START, payload)
    places = {0: "first word", config.program_words - 1: "last word"}
    cover.hit("link.restart", places.get(pc), "same id again" if times > 1 else None)
    while True:
        found = yield from registers(config)
        assert found[Reg.RUN_ID] == run_id
        if found[Reg.STATUS] != Status.RUNNING:
            cover.hit("link.status", Status(found[Reg.STATUS]).name)
            return found


def check_counters(found):
    assert found[Reg.STATUS] == Status.DONE
    assert found[Reg.CYCLES] == sum(found[Reg[c.name]] for c in isa.Cause), "a cycle without a cause"
    cover.hit("causes", *(c.name for c in isa.Cause if found[Reg[c.name]]))


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
        descriptors = isa.DESCRIPTOR.pack_array(np.array(self.descriptors, DESCRIPTOR_DTYPE))
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
            same(got, want, f"activation memory after {stages} stages")
            dut._log.info("%d stages, %d tiles: %d cycles", stages, len(program.tiles), found[Reg.CYCLES])


# --- Directed programs ------------------------------------------------------------------------------------------------


class Job:
    """A layer as LOAD, MUL and TAIL: reads one half of the activation memory, writes the other.

    `tile`: the first of its tiles in the store; `external`: their address in external memory, from where the RTL gets
    them (the ISS always has them in the store).
    """

    def __init__(self, rng, config, tile, *, width=2, height=2, channels=1, tiles=1, external=None, to=HALF + 70):
        self.groups, self.tile, self.external, self.to = -(-channels // config.cols), tile, external, to
        self.shape, self.size = (width, height, channels, tiles), width * height * channels
        self.count = self.groups * tiles
        places = [(7 * n, int(rng.integers(-2, 3)), 0, 0, int(n % tiles == tiles - 1)) for n in range(self.count)]
        body = corner8(rng, (self.count, config.rows * config.cols)).astype(np.int8).view(np.uint8)
        descriptors = isa.DESCRIPTOR.pack_array(np.array(places, DESCRIPTOR_DTYPE))
        self.image = np.concatenate([descriptors, body], axis=1).tobytes()
        self.resident = isa.encode(isa.LOAD, count=self.count, tile=tile)
        self.load = self.resident
        if external is not None:
            self.load = isa.encode(isa.LOAD, count=self.count, external=1, address=external)
        self.mul = isa.encode(
            isa.MUL, init=1, release=1, groups=self.groups, width=width, height=height, address=int(rng.integers(600)),
            x_limit=30, x_step=3, y_limit=height, y_step=1, row_step=17, zero_point=int(rng.integers(-128, 128)),
        )  # fmt: skip
        self.tail = isa.encode(
            isa.TAIL, take=1, release=1, clamp=1, acc_x=1, acc_y=width, width=width, height=height, window_x=1,
            window_y=1, address=to, out_x=channels, out_y=channels * width, group_step=config.cols, channels=channels,
            param=int(rng.integers(100)), low=-128, high=127, table=int(rng.integers(2)),
        )  # fmt: skip

    def note(self, config):
        width, height, channels, tiles = self.shape
        found = {
            "one pixel": width * height == 1, "one row": height == 1 < width, "one column": width == 1 < height,
            "one channel": channels == 1, "one pixel of one channel": width * height * channels == 1,
            "one group": self.groups == 1, "two groups": self.groups == 2, "more groups": self.groups > 2,
            "one tile": self.count == 1, "first tile of the store": self.tile == 0,
            "last tile of the store": self.tile + self.count == config.resident_tiles,
            "first byte of memory": self.to == 0,
            "last byte of memory": self.to + self.size == config.act_bytes,
        }  # fmt: skip
        cover.hit("layers", *(name for name, yes in found.items() if yes))
        if self.external in (0, 1, (1 << 32) - 1):
            cover.hit("load.fields", "external=1", f"address={self.external}")


ORDERS = (
    "END",
    "TABLE LOAD LOAD MUL MUL TAIL TAIL END",
    "LOAD MUL TAIL TABLE END",
    "MUL LOAD TAIL END",
    "TAIL LOAD MUL END",
    "TAIL MUL LOAD END",
    "LOAD TABLE TABLE MUL TABLE TAIL END",
)
"""Every pair of instructions; a TABLE before the first TAIL, which may use the table."""


def directed_jobs(rng, config):
    """Layers at the edges of their shapes and of the memories; with a ring, weights from external memory."""

    def job(tile=0, **fields):
        return Job(rng, config, tile, **fields)

    last, cols = config.resident_tiles - 1, config.cols
    out = [
        job(width=1, height=1),
        job(last, width=1, height=1, channels=2),
        job(width=5, height=1, channels=cols, tiles=3),
        job(width=1, height=5, channels=cols - 1),
        job(3, channels=cols + 1, tiles=2),
        job(1, channels=4 * cols, tiles=2),
        job(2, to=0),
        job(1, channels=2, to=config.act_bytes - 8),
    ]
    if config.ring_tiles:
        # The last one is longer than the ring: it goes round.
        for address in (0, 1, (1 << 32) - 1, 12345):
            out.append(job(channels=3 * cols, tiles=1 if address != 12345 else config.ring_tiles, external=address))
    return out


def directed_script(rng, config, memory):
    params = np.zeros(config.params, PARAM_DTYPE)
    params["bias"] = rng.integers(-99, 99, config.params)
    params["multiplier"] = rng.integers(1 << 30, 1 << 31, config.params)
    params["shift"] = rng.integers(-9, -4, config.params)
    iss = Iss(config)
    act = corner8(rng, config.act_bytes).astype(np.int8).tobytes()
    for region, data in ((Region.PARAM, params.tobytes()), (Region.ACT, act)):
        iss.write(region, 0, data)
        yield from write(rng, config, region, 0, data)

    def run(order, jobs, pc=0):
        """Run jobs with their instructions in this order; the ISS wants LOADs and MULs in front."""
        for job in jobs:
            iss.write(Region.WEIGHT, job.tile, job.image)
            if job.external is None:
                yield from write(rng, config, Region.WEIGHT, job.tile, job.image)
            else:
                memory.bytes |= {(job.external + n) % (1 << 32): byte for n, byte in enumerate(job.image)}
        last = config.params - 32
        tables = [isa.encode(isa.TABLE, param=int(rng.integers(last))) for _ in range(order.count("TABLE"))]
        end = isa.encode(isa.END)

        def words(names, loads):
            queues = {"LOAD": loads, "MUL": [j.mul for j in jobs], "TAIL": [j.tail for j in jobs]}
            queues |= {"TABLE": list(tables), "END": [end]}
            return np.array([w for name in names for w in queues[name].pop(0)], "<u8").tobytes()

        rank = {"LOAD": 0, "MUL": 1, "TAIL": 2, "TABLE": 2, "END": 3}
        iss.write(Region.PROGRAM, 0, words(sorted(order, key=rank.__getitem__), [j.resident for j in jobs]))
        iss.run(0)
        yield from write(rng, config, Region.PROGRAM, pc, words(order, [j.load for j in jobs]))
        found = yield from start(rng, config, pc)
        check_counters(found)
        for job in jobs:
            got = yield from read(config, Region.ACT, job.to, job.size)
            same(got, iss.read(Region.ACT, job.to, job.size), f"outputs after {' '.join(order)}")
        cover.hit("pairs", *(" ".join(pair) for pair in zip(["start", *order], order)))
        for job in jobs:
            job.note(config)
            if job.external is not None and found[Reg.WEIGHTS]:
                cover.hit("stall.external", "tile not there")

    for order in ORDERS:
        names = order.split()
        jobs = [Job(rng, config, 30 * k, channels=config.cols + 1, tiles=2) for k in range(names.count("MUL"))]
        yield from run(names, jobs)
    yield from run(["END"], [], config.program_words - 1)
    for job in directed_jobs(rng, config):
        yield from run(["LOAD", "MUL", "TAIL", "END"], [job])
    if config.ring_tiles:
        # Two external LOADs wait for each other; then a run that is stopped while bytes are on their way, and another.
        waits = "LOAD LOAD MUL MUL TAIL TAIL END".split()
        jobs = [Job(rng, config, 30 * k, channels=3 * config.cols, tiles=5, external=5000 * k) for k in range(2)]
        yield from run(waits, jobs)
        yield from request(Command.START, bytes(6))
        yield from request(Command.RESET)
        yield from run(waits, jobs)
    got = yield from read(config, Region.ACT, 0, config.act_bytes)
    same(got, iss.read(Region.ACT, 0, config.act_bytes), "a byte beside the outputs")


def broken_programs(config):
    """Programs that end with an error: what is wrong, status, words."""
    load = dict(count=1)
    mul = dict(groups=1, width=1, height=1, init=1, release=1, x_limit=99, y_limit=1, out_width=1, subsample=1)
    tail = dict(take=1, release=1, clamp=1, width=1, height=1, window_x=1, window_y=1, channels=1)
    good = {isa.LOAD: load, isa.MUL: mul, isa.TAIL: tail, isa.TABLE: {}}
    for op, fields in good.items():
        for rule in isa.rules(op, config):
            flags = {rule.when: rule.equals} if rule.when else {}
            wrong = {rule.field: rule.low - 1 if rule.high is None or rule.low == 1 else rule.high + 1}
            yield cover.rule_name(op, rule), Status.BAD_INSTRUCTION, [(op, fields | flags | wrong)]
    bad, low = Status.BAD_INSTRUCTION, Status.BAD_ADDRESS
    front = [(isa.LOAD, load), (isa.MUL, mul)]
    yield "unknown opcode", Status.BAD_OPCODE, []
    yield "tile", low, [(isa.LOAD, load | dict(tile=config.weight_tiles))]
    yield "entry added to", low, [front[0], (isa.MUL, mul | dict(acc_base=config.acc_depth))]
    yield "byte read", low, [front[0], (isa.MUL, mul | dict(address=config.act_bytes))]
    yield "outputs", bad, [front[0], (isa.MUL, mul | dict(depthwise=1, width=2, out_width=3, line_delay=5))]
    yield "entry read", low, [*front, (isa.TAIL, tail | dict(acc_base=config.acc_depth))]
    yield "parameter", low, [*front, (isa.TAIL, tail | dict(param=config.params))]
    yield "byte written", low, [*front, (isa.TAIL, tail | dict(address=config.act_bytes))]
    yield "no bank", bad, [(isa.TAIL, tail | dict(take=0))]
    yield "second bank", bad, [*front, *front, (isa.TAIL, tail | dict(release=0, to_acc=1)), (isa.TAIL, tail)]
    yield "never", Status.STALLED, [front[0], (isa.MUL, mul | dict(wait=1))]


def broken_script(rng, config):
    """Each program that the machine refuses ends with its status, touches nothing, and leaves it able to run."""
    image = np.zeros(isa.word_bytes(Region.WEIGHT, config), np.uint8)
    image[: isa.DESCRIPTOR_BYTES] = isa.DESCRIPTOR.pack_array(np.array([(0, 0, 0, 0, 1)], DESCRIPTOR_DTYPE))[0]
    yield from write(rng, config, Region.WEIGHT, 0, image.tobytes())
    act = bytes(rng.bytes(config.act_bytes))
    yield from write(rng, config, Region.ACT, 0, act)
    for name, status, program in broken_programs(config):
        words = [w for op, fields in program for w in isa.encode(op, **fields)]
        words += [0] if status == Status.BAD_OPCODE else isa.encode(isa.END)
        yield from write(rng, config, Region.PROGRAM, 0, np.array(words, "<u8").tobytes())
        found = yield from start(rng, config, 0)
        assert found[Reg.STATUS] == status, f"{name}: {Status(found[Reg.STATUS]).name}"
        cover.hit("errors", name)
    yield from write(
        rng, config, Region.PROGRAM, config.program_words - 1, np.array(isa.encode(isa.TABLE), "<u8").tobytes()
    )
    assert (yield from start(rng, config, config.program_words - 1))[Reg.STATUS] == Status.BAD_OPCODE
    cover.hit("errors", "end of memory")
    assert (yield from read(config, Region.ACT, 0, config.act_bytes)) == act
    yield from write(rng, config, Region.PROGRAM, 5, np.array(isa.encode(isa.END), "<u8").tobytes())
    assert (yield from start(rng, config, 5))[Reg.STATUS] == Status.DONE
    cover.hit("link.restart", "after error")


def protocol_script(rng, config):
    """Echo, refusals, damage to every command, an unknown opcode, a run that never ends and its reset."""
    for size in (0, 1, isa.MAX_PAYLOAD):
        payload = bytes(rng.bytes(size))
        assert (yield from request(Command.PING, payload)) == payload
    for command in Command:
        assert (yield command, bytes(rng.bytes(6)), True)[0] == Result.BAD_CRC
    yield from request(Command.PING, bytes(isa.MAX_PAYLOAD + 1), Result.BAD_RANGE)
    yield from request(Command.RESET, b"1", Result.BAD_RANGE)
    yield from request(Command.START, b"1234567", Result.BAD_RANGE)
    assert (yield 77, b"", False)[0] == Result.BAD_COMMAND
    yield from request(Command.WRITE, address(Region.ACT, 0, 0))  # no bytes
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
    yield from request(Command.START, bytes(6), Result.BUSY)
    assert (yield from registers(config))[Reg.STATUS] == Status.RUNNING
    yield from request(Command.RESET)
    assert (yield from registers(config))[Reg.STATUS] == Status.IDLE
    cover.hit("link.status", "IDLE")
    yield from request(Command.READ, address(Region.ACT, 0, 1))
    yield from write(rng, config, Region.PROGRAM, 9, np.array(isa.encode(isa.END), "<u8").tobytes())
    assert (yield from start(rng, config, 9))[Reg.STATUS] == Status.DONE
    cover.hit("link.restart", "after reset")


def partial_script(rng):
    """Frames that stop after each of their bytes are forgotten; the next one is answered."""
    payload = bytes(rng.bytes(6))
    for at in range(1, len(frame(isa.SYNC_HOST, Command.PING, 0, payload))):
        assert (yield Command.PING, payload, Cut(at)) is None
        assert (yield from request(Command.PING, payload)) == payload


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
    same(got, iss.read(Region.ACT, 0, config.act_bytes), "activation memory after the network")
    busy = program.macs / config.macs_per_cycle / found[Reg.CYCLES]
    dut._log.info("digits: %d cycles, %.0f %% of the multipliers busy", found[Reg.CYCLES], 100 * busy)


async def converse(dut, name, script_of, timeout):
    """Run the script that `script_of(rng, external memory)` gives."""
    bench = Bench(dut, "npu", name)
    memory = External(bench) if bench_config().ring_tiles else None
    host = Host(bench, script_of(bench.rng, memory))
    parts = (host, memory, Queues(bench, {"runs": "tile_supply.prefetch.queue"})) if memory else (host,)
    await bench.run(*parts, until=lambda: host.done, timeout=timeout)
    cover.save()
    dut._log.info("%d requests, %d cycles", host.requests, bench.cycle)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def protocol(dut):
    await converse(dut, "protocol", lambda rng, _: protocol_script(rng, bench_config()), 60_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def partial_frames(dut):
    await converse(dut, "partial_frames", lambda rng, _: partial_script(rng), 30_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def broken_programs_end(dut):
    await converse(dut, "broken_programs_end", lambda rng, _: broken_script(rng, bench_config()), 300_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_programs(dut):
    await converse(dut, "random_programs", lambda rng, _: random_script(rng, bench_config(), dut), 400_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def directed_programs(dut):
    await converse(dut, "directed_programs", lambda rng, memory: directed_script(rng, bench_config(), memory), 900_000)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def network(dut):
    await converse(dut, "network", lambda rng, _: network_script(rng, bench_config(), dut), 400_000)

"""Faults on the host link, RTL against a model of it: `python -m lepton.verif.random.faults --count 100000 --seed 1`.

Two campaigns on one simulated accelerator. *Frames*: requests of all kinds go in with flipped bits, lost, doubled and
foreign bytes, cut off or whole; a shadow of the device (a parser in Python, the instruction-set simulator for memories
and runs) says for every byte sequence what must come back, byte for byte, and what the memories hold. *Driver*: the
host driver works over a line that spoils requests and replies; what it reports as right must be right.
Frames that start the network are real inferences: their outputs are read back and compared like everything else.
"""

import argparse
import random
import sys
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from lepton.rtl.npu import Npu
from lepton.rtl.spec import identity, isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.frames import WRITE_HEADER, frame
from lepton.rtl.spec.isa import Command, Reg, Region, Result, Status
from lepton.rtl.verilog import to_verilog
from lepton.sw.compiler import compile_model
from lepton.sw.device.link import Device, LinkError
from lepton.sw.device.verilated import SimTransport, build_library
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import golden
from lepton.sw.reference.iss import Iss
from lepton.sw.session import DeviceEngine, Session
from lepton.verif.random.tflite_builder import build

CONFIG = NpuConfig("faults", rows=4, cols=4, lanes=2, act_bytes=1024, weight_tiles=64, params=32, program_words=64,
                   acc_depth=32, line_depth=16)  # fmt: skip
LINK_TIMEOUT = 2048
"""Cycles until the device drops a partial frame: few, so that it happens often."""
BOUND = 40_000
"""Cycles in which any chunk must be taken and answered, or the link hangs."""
KINDS = ("none", "flip", "drop", "double", "cut", "insert", "replace", "garbage")


class FaultError(AssertionError):
    """The device or the driver did what it must not; the message says after how many frames of which seed."""


def network():
    """A convolution that runs in some hundred cycles."""
    rng = np.random.default_rng(7)
    weights = rng.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    tensors = [
        ((1, 6, 6, 3), 0.1, 3, None, 0),
        ((6, 3, 3, 3), np.full(6, 0.01), 0, weights, 0),
        ((6,), np.full(6, 0.001), 0, np.arange(6, dtype=np.int32), 0),
        ((1, 6, 6, 6), 0.05, -4, None, 0),
    ]
    options = ("Conv2DOptions", {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1})
    return load_model(build(tensors, [("CONV_2D", [0, 1, 2], [3], options)], [0], [3]), name="faults")


def mangle(rng: random.Random, data: bytes, kind: str) -> bytes:
    """The bytes with one fault of a kind."""
    at, n = rng.randrange(len(data)), rng.choice((1, 1, 2, 5, 20))
    if kind == "flip":
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
        return bytes(out)
    if kind == "drop":
        return data[:at] + data[at + n :]
    if kind == "double":
        return data + data if rng.random() < 0.3 else data[: at + n] + data[at:]
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + rng.randbytes(n) + data[at:]
    if kind == "replace":
        return data[:at] + rng.randbytes(n) + data[at + n :]
    if kind == "garbage":
        return bytes(rng.choice((0, 255, isa.SYNC_HOST, rng.randrange(256))) for _ in range(rng.randint(1, 60)))
    return data


@dataclass
class Shadow:
    """What a device does with bytes: `feed` gives the reply; memories and runs are those of an `Iss`."""

    iss: Iss
    stall_pc: int
    partial: bytearray = field(default_factory=bytearray)
    run_id: int = 0
    known: bool = False
    status: int = Status.IDLE
    counts: Counter = field(default_factory=Counter)

    @property
    def missing(self) -> int:
        """Bytes until the frame under way is complete, 0 for none."""
        have = len(self.partial)
        if have < 5:
            return 5 - have if have else 0
        return 9 + int.from_bytes(self.partial[3:5], "little") - have

    def feed(self, data: bytes) -> bytes:
        out, at = b"", 0
        while at < len(data):
            if not self.partial:
                at = data.find(isa.SYNC_HOST, at)
                if at < 0:
                    return out
                self.partial.append(isa.SYNC_HOST)
                at += 1
                continue
            n = self.missing
            self.partial += data[at : at + n]
            at += n
            if len(self.partial) >= 9 and not self.missing:
                raw = bytes(self.partial)
                self.partial.clear()
                result, reply = Result.BAD_CRC, b""
                if zlib.crc32(raw[1:-4]) == int.from_bytes(raw[-4:], "little"):
                    result, reply = self.execute(raw[1], raw[5:-4])
                self.counts[result.name] += 1
                out += frame(isa.SYNC_DEVICE, result, raw[2], reply)
        return out

    def execute(self, command: int, payload: bytes) -> tuple[Result, bytes]:
        config, n = self.iss.config, len(payload)
        if n > isa.MAX_PAYLOAD:
            return Result.BAD_RANGE, b""
        busy = self.status == Status.RUNNING
        first, index, third = (
            payload[:1],
            int.from_bytes(payload[1:4], "little"),
            int.from_bytes(payload[4:6], "little"),
        )
        region = Region(first[0]) if first and first[0] in set(Region) else None
        if command == Command.PING:
            return Result.OK, payload
        if command == Command.WRITE:
            if n < WRITE_HEADER or region in (None, Region.REG):
                return Result.BAD_RANGE, b""
            size, depth = isa.word_bytes(region, config), isa.depth(region, config)
            if index >= depth or third >= size or index * size + third + n - WRITE_HEADER > depth * size:
                return Result.BAD_RANGE, b""
            if busy:
                return Result.BUSY, b""
            self.iss.write(region, index, payload[WRITE_HEADER:], third)
            return Result.OK, b""
        if command == Command.READ:
            if n != 6 or region not in (Region.REG, Region.ACT) or third > isa.MAX_PAYLOAD:
                return Result.BAD_RANGE, b""
            if index + third > isa.depth(region, config):
                return Result.BAD_RANGE, b""
            if region == Region.REG:
                values = {**dict.fromkeys(Reg, 0), **identity.pack(config)}
                values |= {Reg.STATUS: self.status, Reg.RUN_ID: self.run_id}
                return Result.OK, b"".join(values[Reg(r)].to_bytes(4, "little") for r in range(index, index + third))
            return (Result.BUSY, b"") if busy else (Result.OK, third and self.iss.read(region, index, third) or b"")
        if command == Command.START:
            if n != 6 or third >= config.program_words:
                return Result.BAD_RANGE, b""
            run_id = int.from_bytes(payload[:4], "little")
            if not (self.known and run_id == self.run_id):
                if busy:
                    return Result.BUSY, b""
                self.known, self.run_id, self.status = True, run_id, Status.RUNNING
                if third == 0:
                    self.iss.run(0)
                    self.counts["inferences"] += 1
            return Result.OK, b""
        if command == Command.RESET:
            if n:
                return Result.BAD_RANGE, b""
            self.known, self.run_id, self.status = False, 0, Status.IDLE
            return Result.OK, b""
        return Result.BAD_COMMAND, b""


class FrameCampaign:
    """Spoiled requests, one after the other, and what the device answers."""

    def __init__(self, transport: SimTransport, program, seed: int):
        self.rng = random.Random(f"frames {seed}")
        self.model, self.seed = transport.model, seed
        self.sent = 0
        self.faults: Counter = Counter()
        self.longest = 0
        iss = Iss(CONFIG)
        self.shadow = Shadow(iss, stall_pc=len(program.words))
        # Behind the program: its LOAD and MUL, but the MUL waits for a token that never comes.
        words = []
        for _, op, fields in isa.instructions(program.words):
            if op in (isa.LOAD, isa.MUL):
                words += isa.encode(op, **(fields | ({"wait": 1} if op is isa.MUL else {})))
            if op is isa.MUL:
                break
        words += isa.encode(isa.END)
        self.images = dict(program.images())
        self.images[Region.PROGRAM] += b"".join(w.to_bytes(8, "little") for w in words)
        for region, data in self.images.items():
            for k in range(0, len(data), 240):
                word, byte = divmod(k, isa.word_bytes(region, CONFIG))
                header = bytes([region]) + word.to_bytes(3, "little") + byte.to_bytes(2, "little")
                self.exchange(frame(isa.SYNC_HOST, Command.WRITE, 0, header + data[k : k + 240]))

    def fail(self, what):
        raise FaultError(f"seed {self.seed}, frame {self.sent}: {what}")

    def exchange(self, data: bytes) -> bytes:
        """Send bytes, compare the answer; returns it."""
        expected = self.shadow.feed(data)
        taken, got, cycles = self.model.step(data, cap=len(expected) + 64, want=len(expected), max_cycles=BOUND)
        self.longest = max(self.longest, cycles)
        if taken != len(data) or len(got) < len(expected):
            self.fail(f"took {taken} of {len(data)} bytes and gave {len(got)} of {len(expected)} in {cycles} cycles")
        if got != expected:
            self.fail(f"answered {got.hex()} instead of {expected.hex()}")
        return expected

    def idle(self, cycles: int) -> None:
        """Let the clock run; nothing may come."""
        _, got, _ = self.model.step(cap=64, want=1, max_cycles=cycles)
        if got:
            self.fail(f"sent {got.hex()} unasked")

    def request(self) -> bytes:
        """A good request of any kind; what it writes does not change the network."""
        rng, shadow = self.rng, self.shadow
        kind = rng.choices(
            ("act", "same", "write", "read", "registers", "ping", "start", "stall", "reset", "other"),
            (25, 12, 8, 25, 6, 8, 8, 4, 3, 8),
        )[0]
        sequence = rng.randrange(256)

        def make(command, payload=b""):
            return frame(isa.SYNC_HOST, command, sequence, payload)

        def header(region, word, third):
            return bytes([region]) + word.to_bytes(3, "little") + third.to_bytes(2, "little")

        if kind == "act":
            at = rng.randrange(CONFIG.act_bytes)
            n = min(rng.choice((1, 2, 9, 60, 250)), CONFIG.act_bytes - at + (rng.random() < 0.02))
            return make(Command.WRITE, header(Region.ACT, at, 0) + rng.randbytes(n))
        if kind == "same":
            region = rng.choice(list(self.images))
            image, size = self.images[region], isa.word_bytes(region, CONFIG)
            at = rng.randrange(len(image))
            return make(Command.WRITE, header(region, at // size, at % size) + image[at : at + rng.randint(1, 240)])
        if kind == "write":  # out of range, often by one
            region = rng.choice([*Region, 6, 255])
            depth = isa.depth(region, CONFIG) if region in set(Region) else 0
            size = isa.word_bytes(region, CONFIG) if region in set(Region) else 1
            word, byte = rng.choice(((depth, 0), (depth - 1, size), (rng.randrange(depth, 1 << 24), 0)))
            return make(Command.WRITE, header(region, max(word, 0), byte) + rng.randbytes(rng.randint(0, 20)))
        if kind == "read":
            at = rng.randrange(CONFIG.act_bytes + 1)
            return make(Command.READ, header(Region.ACT, at, rng.choice((0, 1, 10, 256, 257))))
        if kind == "registers":
            at = rng.randrange(Reg.CYCLES)
            return make(Command.READ, header(Region.REG, at, rng.randint(0, Reg.CYCLES - at)))
        if kind == "ping":
            return make(Command.PING, rng.randbytes(rng.choice((0, 1, 8, 256))))
        if kind in ("start", "stall"):
            pc = rng.choice((0, 0, 0, CONFIG.program_words)) if kind == "start" else shadow.stall_pc
            run_id = shadow.run_id if rng.random() < 0.2 else rng.randrange(2**32)
            return make(Command.START, run_id.to_bytes(4, "little") + pc.to_bytes(2, "little"))
        if kind == "reset":
            return make(Command.RESET)
        return make(rng.choice((5, 127, 255, *Command)), rng.randbytes(rng.choice((0, 3, 5, 7, 256))))

    def settle(self) -> None:
        """Wait for a run of the network; let a run that waits for ever see some more frames, then stop it."""
        shadow = self.shadow
        if shadow.status != Status.RUNNING:
            return
        if self.pc == 0:
            self.idle(self.network_cycles)
            shadow.status = Status.DONE
        elif self.rng.random() < 0.2:
            self.recover()
            self.exchange(frame(isa.SYNC_HOST, Command.RESET, 0))

    def recover(self) -> None:
        """Finish a partial frame, in one of the ways a host has; then the device must answer."""
        shadow, missing = self.shadow, self.shadow.missing
        if missing:
            if missing > 3000 or self.rng.random() < 0.3:  # wait until the device gives up
                self.idle(LINK_TIMEOUT + 8)
                shadow.partial.clear()
            else:
                while shadow.missing:
                    self.exchange(bytes(shadow.missing))
        self.exchange(frame(isa.SYNC_HOST, Command.PING, self.rng.randrange(256), b"there"))

    def run(self, count: int, tick=lambda n: None) -> None:
        rng, shadow = self.rng, self.shadow
        device_cycles = self.measure()
        self.network_cycles = device_cycles + 50
        for k in range(count):
            request = self.request()
            kind = rng.choices(KINDS, (30, 20, 10, 10, 8, 8, 8, 6))[0]
            self.faults[kind] += 1
            before = shadow.status
            self.exchange(mangle(rng, request, kind))
            self.sent += 1
            if before != Status.RUNNING and shadow.status == Status.RUNNING:
                self.pc = int.from_bytes(request[9:11], "little")
            self.settle()
            if shadow.missing > 700 or (shadow.missing and rng.random() < 0.25):
                self.recover()
            tick(k + 1)
        self.recover()
        if shadow.status == Status.RUNNING:
            self.exchange(frame(isa.SYNC_HOST, Command.RESET, 0))
        for at in range(0, CONFIG.act_bytes, 256):
            header = bytes([Region.ACT]) + at.to_bytes(3, "little") + (256).to_bytes(2, "little")
            self.exchange(frame(isa.SYNC_HOST, Command.READ, 1, header))

    def measure(self) -> int:
        """Cycles of the network, from a clean run."""
        self.exchange(frame(isa.SYNC_HOST, Command.START, 0, (77).to_bytes(4, "little") + bytes(2)))
        self.idle(BOUND)
        self.shadow.status = Status.DONE
        payload = bytes([Region.REG]) + int(Reg.CYCLES).to_bytes(3, "little") + (1).to_bytes(2, "little")
        _, got, _ = self.model.step(frame(isa.SYNC_HOST, Command.READ, 0, payload), cap=99, want=13, max_cycles=BOUND)
        return int.from_bytes(got[5:9], "little")


class SpoiledTransport(SimTransport):
    """A line to the simulated accelerator that spoils a share of what goes over it, both ways."""

    def __init__(self, library, rng):
        super().__init__(library=library)
        self.rng, self.rate = rng, 0.0
        self.frames = 0
        self.faults: Counter[str] = Counter()

    def _spoil(self, data):
        self.frames += 1
        if self.rng.random() >= self.rate:
            return data
        kind = self.rng.choice(KINDS[1:])
        self.faults[kind] += 1
        return mangle(self.rng, data, kind)

    def write(self, data: bytes) -> None:
        super().write(self._spoil(data))

    def read(self, n: int, timeout: float = 1.0) -> bytes:
        data = super().read(n, timeout)
        return self._spoil(data) if data and self.rate else data


def driver_campaign(library, model, program, count: int, seed: int, tick=lambda n: None):
    """The driver on a spoiled line until about `count` frames went over it; returns the transport and counts."""
    rng = random.Random(f"driver {seed}")
    transport = SpoiledTransport(library, rng)
    done: Counter = Counter()
    x = np.random.default_rng(seed).integers(-128, 128, (8, 6, 6, 3), np.int8)
    expected = [golden.run(model, v[None])[0] for v in x]

    def infer(device, which):
        session = Session(model, CONFIG, "rtl")
        session._program = program
        session._engine = DeviceEngine(device, program)
        done["retried"] -= device.retried
        try:
            return session.run(x[which : which + 1])[0]
        finally:
            done["retried"] += device.retried

    while transport.frames < count:
        which = rng.randrange(len(x))
        transport.rate = rng.choice((0.02, 0.1, 0.4))
        try:
            device = DriverDevice(transport, timeout=0.03, retries=8, quiet=0.005)
            if not np.array_equal(infer(device, which), expected[which]):
                raise FaultError(f"seed {seed}: after {transport.frames} frames a wrong output was reported as right")
            done["right"] += 1
        except LinkError:
            done["refused"] += 1
        transport.rate = 0.0
        device = DriverDevice(transport, timeout=0.03, retries=8, quiet=0.005)
        try:
            if not np.array_equal(infer(device, which), expected[which]):
                raise FaultError(f"seed {seed}: after {transport.frames} frames the next, clean run was wrong")
        except LinkError as error:
            raise FaultError(f"seed {seed}: after {transport.frames} frames not recovered: {error}") from None
        done["recovered"] += 1
        tick(transport.frames)
    return transport, done


def machine():
    """The simulated accelerator's library, the network and its program."""
    library = build_library(to_verilog(Npu(CONFIG, link_timeout=LINK_TIMEOUT)), "faults")
    return library, network(), compile_model(network(), CONFIG)


class DriverDevice(Device):
    """The driver as it is, but the time between polls passes in the simulation."""

    def wait(self, timeout: float = 2.0, poll: float = 0.0):
        return super().wait(timeout, poll)


def run(count: int, seed: int, progress=lambda done, total: None) -> list[tuple[str, object]]:
    """`count` requests to the device, then a fifth as many transfers of the driver. Returns rows of the report.

    Raises FaultError.
    """
    library, model, program = machine()
    total = count + count // 5
    campaign = FrameCampaign(SimTransport(library=library), program, seed)
    campaign.run(count, lambda n: progress(n, total))
    transport, done = driver_campaign(library, model, program, count // 5, seed, lambda n: progress(count + n, total))
    counts = campaign.shadow.counts
    return [
        ("requests to the device", campaign.sent),
        *((f"  {kind}", n) for kind, n in sorted(campaign.faults.items())),
        ("answers, each as the model's", sum(counts[r.name] for r in Result)),
        *((f"  {r.name}", counts[r.name]) for r in Result),
        ("inferences among them", counts["inferences"]),
        ("longest time to take and answer, cycles", campaign.longest),
        ("transfers of the driver", transport.frames),
        *((f"  {kind}", n) for kind, n in sorted(transport.faults.items())),
        ("requests repeated", done["retried"]),
        ("runs reported as right, all right", done["right"]),
        ("runs given up with an error", done["refused"]),
        ("clean runs after them, all right", done["recovered"]),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.verif.random.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="frames (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the faults (default: %(default)s)")
    args = parser.parse_args()
    begin = shown = time.monotonic()

    def progress(done, total):
        nonlocal shown
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(f"{done:,} of {total:,} frames, {shown - begin:.0f} s", file=sys.stderr)

    try:
        rows = run(args.count, args.seed, progress)
    except FaultError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 1
    for name, value in rows:
        print(f"{name:42} {value:>9,}")
    print(f"no hang, no wrong result, always recovered ({time.monotonic() - begin:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

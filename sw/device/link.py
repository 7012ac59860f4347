"""Driver of a device behind the host link: frames, retries, and what the requests mean."""

import secrets
import time
from typing import Protocol

from lepton.rtl.spec import frames, identity, isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.frames import OVERHEAD, WRITE_HEADER, frame
from lepton.rtl.spec.isa import Command, Reg, Region, Result, Status

LONGEST_SWALLOW = 0xFFFF + OVERHEAD
"""Bytes a device may still expect after a length field was corrupted."""
READABLE = (Region.REG, Region.ACT, Region.MEMORY)

REFUSALS = {
    Result.BAD_COMMAND: "it does not know this command; does its bitstream match this software?",
    Result.BAD_RANGE: "the range is outside the memory",
    Result.BUSY: "a run is in progress; wait() for it or reset() first",
}


FAILURES = {
    Status.BAD_OPCODE: "an unknown instruction, or END is missing; load the program again",
    Status.BAD_INSTRUCTION: "an instruction that this machine does not have; is the program for this configuration?",
    Status.BAD_ADDRESS: "an access outside a memory; is the program for this configuration?",
    Status.BUS_ERROR: "the memory refused an access; is all of memory_bytes there?",
    Status.STALLED: "the program waits for something that never comes; load program and weights again",
}
"""What a run that ended with an error means, by its status."""


class LinkError(LeptonError, RuntimeError):
    """A request that could not be carried out, in one line.

    `result`: the device's refusal, None if there was none; `silence`: why no answer was accepted, if none was.
    """

    def __init__(self, message: str, result: Result | None = None, silence: str = ""):
        super().__init__(message)
        self.result = result
        self.silence = silence


class Transport(Protocol):
    """A byte stream to a device, both ways. Raises OSError when it is gone."""

    def write(self, data: bytes) -> None:
        """Send all bytes."""

    def read(self, n: int, timeout: float) -> bytes:
        """Return 1 to n bytes that arrived, or b"" when none came for `timeout` seconds."""

    def flush(self) -> None:
        """Discard what was received and not read yet."""

    def close(self) -> None:
        """Let go of the device; raises nothing."""


class Device:
    """A device behind a transport.

    A request that gets no valid answer within `timeout` seconds, or is answered BAD_CRC, is repeated up to `retries`
    times, each time after resynchronisation: zeros that complete whatever frame the device thinks it is in, then
    discarding input until none came for `quiet` seconds. All requests may be repeated without harm.

    Counters: `bytes_out`, `bytes_in` (of the transport), `retried` (requests repeated).
    """

    def __init__(self, transport: Transport, *, timeout: float = 1.0, retries: int = 5, quiet: float = 0.05):
        self._transport = transport
        self._timeout = timeout
        self._retries = retries
        self._quiet = quiet
        self._sequence = secrets.randbits(8)
        self._received = bytearray()
        self._config: NpuConfig | None = None
        self._run_id: int | None = None
        self.bytes_out = 0
        self.bytes_in = 0
        self.retried = 0

    # --- Requests

    def ping(self, payload: bytes = b"lepton") -> None:
        """Check that the device answers."""
        if self._request(Command.PING, payload, "PING", len(payload)) != payload:
            raise LinkError("device answered PING with other bytes than were sent; reset it")

    def config(self) -> NpuConfig:
        """The device's configuration, read once. Raises LinkError if it is not a device this software can drive."""
        if self._config is None:
            registers = self._read_registers(Reg.MAGIC, 2)
            if registers[Reg.MAGIC] == isa.MAGIC and registers[Reg.VERSION] == isa.VERSION:
                registers = self._read_registers(Reg.MAGIC, Reg.MEMORY)
                if identity.SHAPE.unpack(registers[Reg.SHAPE])["memory"]:
                    registers |= self._read_registers(Reg.MEMORY, len(Reg) - Reg.MEMORY)
            try:
                self._config = identity.unpack(registers)
            except identity.IdentityError as error:
                raise LinkError(str(error)) from None
        return self._config

    def registers(self) -> dict[Reg, int]:
        """All registers; those that the device does not have are 0."""
        return dict.fromkeys(Reg, 0) | self._read_registers(Reg.MAGIC, len(isa.registers(self.config())))

    def write(self, region: Region, index: int, data: bytes) -> None:
        """Write bytes to words of a region from word `index` on. Nothing is sent if they do not fit."""
        region = Region(region)
        size = isa.word_bytes(region, self.config())
        words = -(-len(data) // size)
        if region == Region.REG and not (self.config().memory_width and Reg.IMAGE <= index <= Reg.ARENA + 1 - words):
            raise LinkError("registers cannot be written", Result.BAD_RANGE)
        self._check_range(region, index, words)
        self._write(region, index * size, data)

    def _write(self, region: Region, first: int, data: bytes) -> None:
        """Bytes to a region, from its byte `first` on."""
        size, step = isa.word_bytes(region, self.config()), isa.MAX_PAYLOAD - WRITE_HEADER
        for at in range(0, len(data), step):
            index, byte = divmod(first + at, size)
            header = frames.WRITE.to_bytes(region=region, index=index, byte=byte)
            self._request(Command.WRITE, header + bytes(data[at : at + step]), f"WRITE {region.name} {index}", 0)

    def read(self, region: Region, index: int, words: int) -> bytes:
        """Read words of ACT, REG or MEMORY."""
        region = Region(region)
        if region not in READABLE:
            raise LinkError(f"{region.name} cannot be read; ACT, REG and MEMORY can", Result.BAD_RANGE)
        if region == Region.REG:
            size, limit = 4, len(Reg) if self._config is None else len(isa.registers(self._config))
            if index < 0 or words < 0 or index + words > limit:
                raise LinkError(f"REG {index} + {words} words: there are {limit}", Result.BAD_RANGE)
        else:
            size = isa.word_bytes(region, self.config())
            self._check_range(region, index, words)
        out = b""
        while words:
            n = min(words, isa.MAX_PAYLOAD // size)
            payload = frames.READ.to_bytes(region=region, index=index, words=n)
            out += self._request(Command.READ, payload, f"READ {region.name} {index}", n * size)
            index, words = index + n, words - n
        return out

    def write_memory(self, address: int, data: bytes) -> None:
        """Write bytes behind the memory port, from byte `address` on; during a run, too."""
        self._check_memory(address, len(data))
        self._check_reach(address + len(data))
        self._write(Region.MEMORY, address, data)

    def read_memory(self, address: int, count: int) -> bytes:
        """Read bytes behind the memory port, from byte `address` on; during a run, too."""
        self._check_memory(address, count)
        self._check_reach(address + count)
        width = self.config().memory_width
        first, end = address // width, -(-(address + count) // width)
        return self.read(Region.MEMORY, first, end - first)[address % width :][:count]

    def set_bases(self, image: int, arena: int) -> None:
        """Tell the machine where in memory image and arena begin."""
        for name, value in (("image", image), ("arena", arena)):
            if value % isa.BASE_ALIGN or not 0 <= value < self.config().memory_bytes:
                raise LinkError(f"{name} at byte {value}: must be a multiple of {isa.BASE_ALIGN} in the memory")
        data = image.to_bytes(4, "little") + arena.to_bytes(4, "little")
        self.write(Region.REG, Reg.IMAGE, data)

    def load(self, images: list[tuple[Region, bytes]]) -> None:
        """Stop a run and write memories, each from its first word on, the program last.

        Raises LinkError also if the device was reset or configured anew meanwhile, when what was written first is lost.
        (If it happens later, the program is lost too, and a run ends with an error.)
        """
        self.reset()
        end = isa.encode(isa.END)[0].to_bytes(8, "little")
        if self.config().memory_width:
            self.set_bases(0, 0)
            self.write_memory(0, end)
        else:
            self.write(Region.PROGRAM, 0, end)
        self.start(0)
        self.wait()
        for region, data in images:
            if region == Region.MEMORY:
                self.write_memory(0, data)
            else:
                self.write(region, 0, data)
        self.check_run("while it was loaded")

    def start(self, pc: int = 0) -> int:
        """Start the program at word `pc`; returns the run's id."""
        config = self.config()
        words = config.memory_bytes // 8 if config.memory_width else config.program_words
        if not 0 <= pc < words:
            raise LinkError(f"START at word {pc}: the program memory has {words}", Result.BAD_RANGE)
        run_id = secrets.randbelow(2**32 - 1) + 1
        self._request(Command.START, frames.start(config).to_bytes(run_id=run_id, pc=pc), f"START {pc}", 0)
        self._run_id = run_id
        return run_id

    def wait(self, timeout: float = 10.0, poll: float = 0.001) -> dict[Reg, int]:
        """Wait until the run started last is done and return all registers.

        Raises LinkError if it does not end within `timeout` seconds, stopped with an error, or is not the device's last
        run (it was reset).
        """
        if self._run_id is None:
            raise LinkError("nothing to wait for: no run was started")
        deadline = time.monotonic() + timeout
        while True:
            registers = self.registers()
            status = registers[Reg.STATUS]
            if registers[Reg.RUN_ID] != self._run_id or status == Status.IDLE:
                raise LinkError("the device was reset during the run; load everything again")
            if status == Status.DONE:
                return registers
            if status in FAILURES:
                raise LinkError(f"the run stopped: {FAILURES[Status(status)]}")
            if time.monotonic() >= deadline:
                cycles = registers[Reg.CYCLES]
                raise LinkError(f"the run did not end in {timeout:g} s ({cycles} cycles so far); reset() stops it")
            if poll:
                time.sleep(poll)

    def check_run(self, when: str = "after the run") -> None:
        """Raise LinkError if the run started last is not the device's last: it was reset or lost its memories."""
        if self._read_registers(Reg.RUN_ID, 1)[Reg.RUN_ID] != self._run_id:
            raise LinkError(f"the device was reset {when}; load everything again")

    def reset(self) -> None:
        """Stop a run; memories keep their contents."""
        self._request(Command.RESET, b"", "RESET", 0)
        self._run_id = None

    def close(self) -> None:
        """Let go of the transport."""
        self._transport.close()

    # --- Frames

    def _read_registers(self, first: Reg, count: int) -> dict[Reg, int]:
        raw = self.read(Region.REG, first, count)
        return {Reg(first + i): int.from_bytes(raw[4 * i : 4 * i + 4], "little") for i in range(count)}

    def _check_range(self, region: Region, index: int, words: int) -> None:
        depth = isa.depth(region, self.config())
        if index < 0 or words < 0 or index + words > depth:
            raise LinkError(f"{region.name} {index} + {words} words: the memory has {depth}", Result.BAD_RANGE)

    def _check_memory(self, address: int, count: int) -> None:
        size = self.config().memory_bytes
        if not size:
            raise LinkError("the device has no memory port", Result.BAD_RANGE)
        if address < 0 or count < 0 or address + count > size:
            raise LinkError(f"memory {address} + {count} bytes: there are {size}", Result.BAD_RANGE)

    def _check_reach(self, end: int) -> None:
        """Of the frames' indexes."""
        reach = self.config().memory_width << 24
        if end > reach:
            raise LinkError(f"memory up to byte {end}: the link reaches {reach}", Result.BAD_RANGE)

    def _request(self, command: Command, payload: bytes, what: str, reply_bytes: int) -> bytes:
        """Carry out one request; returns the reply's payload."""
        reason = ""
        try:
            for attempt in range(self._retries + 1):
                if attempt:
                    self.retried += 1
                    self._resynchronise(thorough=attempt >= max(2, self._retries - 1))
                self._sequence = self._sequence + 1 & 0xFF
                self._received.clear()
                self._transport.flush()
                self._send(frame(isa.SYNC_HOST, command, self._sequence, payload))
                reply, reason = self._reply()
                if reply is None:
                    continue
                result, data = reply
                if result != Result.OK:
                    why = REFUSALS.get(result, f"unknown result {result}")
                    raise LinkError(f"device refused {what}: {why}", result)
                if len(data) == reply_bytes:
                    return data
                reason = f"the answer had {len(data)} bytes instead of {reply_bytes}"
        except OSError as error:
            raise LinkError(f"link lost during {what}: {error}; reconnect and load again") from error
        raise LinkError(
            f"{what} failed after {self._retries + 1} attempts: {reason}; "
            "check the cable, the port and that the device is programmed",
            silence=reason,
        )

    def _reply(self):
        """Wait for the answer to the present sequence: ((result, payload), "") or (None, reason to try again)."""
        deadline = time.monotonic() + self._timeout
        reason = f"no answer in {self._timeout:g} s"
        received = self._received
        while True:
            start = received.find(isa.SYNC_DEVICE)
            del received[: len(received) if start < 0 else start]
            need = OVERHEAD
            if len(received) > frames.HEADER.size:
                need = frames.frame_size(received)
                if need > OVERHEAD + isa.MAX_PAYLOAD:
                    del received[:1]
                    continue
            if len(received) < need:
                left = deadline - time.monotonic()
                chunk = self._transport.read(need - len(received), left) if left > 0 else b""
                if not chunk:
                    return None, reason
                self.bytes_in += len(chunk)
                received += chunk
                continue
            reply = frames.parse_frame(received[:need])
            if reply is None:
                del received[:1]
                reason = "the answer was corrupted"
                if isa.SYNC_DEVICE not in received:
                    return None, reason
                continue
            result, sequence, data = reply
            del received[:need]
            if result == Result.BAD_CRC:
                return None, "the device received corrupted frames"
            if sequence == self._sequence:
                return (Result(result) if result in set(Result) else result, data), ""

    def _resynchronise(self, thorough: bool) -> None:
        self._send(bytes(LONGEST_SWALLOW if thorough else isa.MAX_PAYLOAD + OVERHEAD))
        for _ in range(64):  # a line that never falls silent must not hold the driver
            chunk = self._transport.read(4096, self._quiet)
            if not chunk:
                break
            self.bytes_in += len(chunk)

    def _send(self, data: bytes) -> None:
        self.bytes_out += len(data)
        self._transport.write(data)

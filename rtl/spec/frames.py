"""Frames of the host link.

Request: isa.SYNC_HOST, command, sequence, length (2 bytes), payload, CRC-32 (zlib) of command..payload.
Reply:   isa.SYNC_DEVICE, result, sequence, length (2 bytes), payload, CRC-32 of result..payload.
Numbers are little-endian. The payloads of PING and of replies are plain bytes, that of RESET is empty.
"""

import zlib

from lepton.rtl.spec.codec import Field, Record
from lepton.rtl.spec.config import NpuConfig

HEADER = Record("frame", (Field("code", 8, doc="command or result"), Field("sequence", 8), Field("length", 16)), 4)
"""What follows the sync byte."""
CRC_BYTES = 4
OVERHEAD = 1 + HEADER.size + CRC_BYTES
"""Bytes of a frame besides its payload."""

WRITE = Record("WRITE", (Field("region", 8), Field("index", 24), Field("byte", 16, doc="in the first word")), 6)
"""In front of the data of a WRITE, which runs on over following words."""
READ = Record("READ", (Field("region", 8, doc="REG, ACT or MEMORY"), Field("index", 24), Field("words", 16)), 6)
START = Record("START", (Field("run_id", 32), Field("pc", 16, doc="first program word")), 6)
MEMORY_START = Record("MEMORY_START", (Field("run_id", 32), Field("pc", 32, doc="first program word")), 8)


def start(config: NpuConfig) -> Record:
    """START's payload: the program of a machine with a memory port lies behind it, and may be longer."""
    return MEMORY_START if config.memory_width else START


WRITE_HEADER = WRITE.size


def frame(sync: int, code: int, sequence: int, payload: bytes = b"") -> bytes:
    """One request (isa.SYNC_HOST, isa.Command) or reply (isa.SYNC_DEVICE, isa.Result). Raises CodecError."""
    body = HEADER.to_bytes(code=code, sequence=sequence, length=len(payload)) + payload
    return bytes([sync]) + body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")


def frame_size(start: bytes | bytearray) -> int:
    """Bytes of the frame that begins with `start`, its sync byte and header. Raises CodecError if that is cut off."""
    return OVERHEAD + HEADER.from_bytes(start[1 : 1 + HEADER.size])["length"]


def parse_frame(data: bytes | bytearray) -> tuple[int, int, bytes] | None:
    """Code, sequence and payload of one whole frame; None when its check is wrong."""
    body, check = data[1:-CRC_BYTES], data[-CRC_BYTES:]
    if zlib.crc32(body) != int.from_bytes(check, "little"):
        return None
    header = HEADER.from_bytes(body)
    return header["code"], header["sequence"], bytes(body[HEADER.size :])

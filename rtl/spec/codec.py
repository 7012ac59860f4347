"""Records of bit fields, packed and unpacked with range checks: instructions, descriptors, parameters, registers,
frames.

The fields of a record are packed from bit 0 in the order listed; its bytes are little-endian.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lepton.rtl.spec.errors import LeptonError


class CodecError(LeptonError, ValueError):
    """A value that a record cannot hold; the message names record, field, value and range."""


@dataclass(frozen=True)
class Field:
    name: str
    bits: int
    signed: bool = False
    doc: str = ""

    @property
    def low(self) -> int:
        """The least value that fits."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def high(self) -> int:
        """The greatest value that fits."""
        return (1 << self.bits - self.signed) - 1


@dataclass(frozen=True)
class Record:
    """Fields of `size` bytes; what they do not fill at the end is zero."""

    name: str
    fields: tuple[Field, ...]
    size: int

    def __post_init__(self) -> None:
        if self.bits > 8 * self.size:
            raise CodecError(f"{self.name}: {self.bits} bits do not fit {self.size} bytes")

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    @cached_property
    def bits(self) -> int:
        return sum(f.bits for f in self.fields)

    @cached_property
    def offsets(self) -> dict[str, int]:
        """The first bit of each field."""
        out, at = {}, 0
        for f in self.fields:
            out[f.name] = at
            at += f.bits
        return out

    def _refuse(self, f: Field, value: int) -> CodecError:
        return CodecError(f"{self.name}.{f.name}={value}: must be {f.low} to {f.high} ({f.bits} bits)")

    # --- one record ---

    def pack(self, values: Mapping[str, int]) -> int:
        """The record as a number; a field that `values` leaves out is 0. Raises CodecError."""
        raw = 0
        for f in self.fields:
            v = int(values.get(f.name, 0))
            if not f.low <= v <= f.high:
                raise self._refuse(f, v)
            raw |= (v & (1 << f.bits) - 1) << self.offsets[f.name]
        unknown = values.keys() - self.offsets.keys()
        if unknown:
            raise CodecError(f"{self.name} has no field {min(unknown)!r}")
        return raw

    def unpack(self, raw: int) -> dict[str, int]:
        """The fields of a number; bits beyond them are not looked at."""
        out = {}
        for f in self.fields:
            v = raw >> self.offsets[f.name] & (1 << f.bits) - 1
            out[f.name] = v - (1 << f.bits) if v > f.high else v
        return out

    def to_bytes(self, **values: int) -> bytes:
        """The record's `size` bytes. Raises CodecError."""
        return self.pack(values).to_bytes(self.size, "little")

    def from_bytes(self, data: bytes | bytearray) -> dict[str, int]:
        """The inverse of `to_bytes`, from the first `size` bytes. Raises CodecError when there are fewer."""
        if len(data) < self.size:
            raise CodecError(f"{self.name}: {len(data)} bytes, it has {self.size}")
        return self.unpack(int.from_bytes(data[: self.size], "little"))

    # --- arrays of records ---

    @cached_property
    def dtype(self) -> np.dtype:
        """Structured type of arrays: where all fields are signed 1, 2 or 4 bytes a view of their bytes in memory, else
        int32 each."""
        whole = all(f.signed and f.bits in (8, 16, 32) for f in self.fields) and self.bits == 8 * self.size
        return np.dtype([(f.name, f"<i{f.bits // 8}" if whole else "<i4") for f in self.fields])

    def pack_array(self, records: np.ndarray) -> np.ndarray:
        """uint8[n, size] of n records of `dtype`. Raises CodecError if a field does not fit."""
        out = np.zeros((len(records), self.size), np.uint8)
        for f, at in zip(self.fields, self.offsets.values()):
            v = records[f.name].astype(np.int64)
            for bad in v[(v < f.low) | (v > f.high)][:1]:
                raise self._refuse(f, int(bad))
            part = (v & (1 << f.bits) - 1) << at % 8
            for k in range(at // 8, -(-(at + f.bits) // 8)):
                out[:, k] |= (part >> 8 * (k - at // 8) & 255).astype(np.uint8)
        return out

    def unpack_array(self, raw: np.ndarray) -> np.ndarray:
        """The inverse of `pack_array`."""
        out = np.zeros(len(raw), self.dtype)
        for f, at in zip(self.fields, self.offsets.values()):
            part = np.zeros(len(raw), np.int64)
            for k in range(at // 8, -(-(at + f.bits) // 8)):
                part |= raw[:, k].astype(np.int64) << 8 * (k - at // 8)
            v = part >> at % 8 & (1 << f.bits) - 1
            out[f.name] = np.where(v > f.high, v - (1 << f.bits), v)
        return out

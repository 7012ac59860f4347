"""The one specification: bit fields, identity registers, frames; it needs no Amaranth."""

import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.rtl.spec import frames, identity, isa
from lepton.rtl.spec.codec import CodecError, Field, Record
from lepton.rtl.spec.config import PRESETS, UP5K, NpuConfig
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.isa import Reg
from lepton.sw.compiler import CompileError
from lepton.sw.compiler.emitter import Emitter, Tile
from lepton.sw.reference.iss import Iss

RECORDS = (isa.DESCRIPTOR, isa.PARAM, frames.HEADER, frames.WRITE, frames.READ, frames.START, identity.SHAPE,
           identity.SIZES, *(op.record for op in isa.OPS.values()))  # fmt: skip


def test_spec_imports_no_amaranth():
    code = (
        "import sys, pkgutil, importlib\n"
        "sys.modules['amaranth'] = None\n"
        "import lepton.rtl.spec as spec\n"
        "names = [m.name for m in pkgutil.iter_modules(spec.__path__)]\n"
        "[importlib.import_module(f'lepton.rtl.spec.{n}') for n in names]\n"
        "print(*sorted(names))"
    )
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"codec", "config", "errors", "frames", "identity", "isa"} <= set(names)


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: r.name)
def test_a_record_keeps_its_values_and_refuses_others(record):
    rng = np.random.default_rng(1)
    for _ in range(20):
        values = {f.name: int(rng.integers(f.low, f.high, endpoint=True)) for f in record}
        assert record.from_bytes(record.to_bytes(**values)) == values
    for f in record:
        for good in (f.low, f.high):
            assert record.unpack(record.pack({f.name: good}))[f.name] == good
        for bad in (f.low - 1, f.high + 1):
            with pytest.raises(CodecError, match=rf"{record.name}\.{f.name}={bad}: must be {f.low} to {f.high}"):
                record.pack({f.name: bad})
    with pytest.raises(CodecError, match=f"{record.name} has no field 'absent'"):
        record.pack({"absent": 0})
    with pytest.raises(CodecError, match=f"{record.size - 1} bytes, it has {record.size}"):
        record.from_bytes(bytes(record.size - 1))


def test_fields_lie_from_bit_0_on_in_their_order():
    assert isa.DESCRIPTOR.to_bytes(offset=0xABCDE, x=-2, y=-3, skip=5, last=1) == bytes.fromhex("debceaffdfdf")
    assert isa.PARAM.to_bytes(bias=-1, multiplier=1 << 30, shift=-31) == bytes.fromhex("ffffffff00000040e1")
    assert frames.WRITE.to_bytes(region=2, index=0x010203, byte=0x0405) == bytes.fromhex("020302010504")
    assert isa.encode(isa.LOAD, external=1, count=3, address=9) == [2 | 1 << 4 | 3 << 5, 9]
    with pytest.raises(CodecError, match="9 bits do not fit 1 bytes"):
        Record("long", (Field("a", 9),), 1)


@given(st.lists(st.tuples(*(st.integers(f.low, f.high) for f in isa.DESCRIPTOR)), max_size=9), st.integers(0, 4))
def test_arrays_are_packed_like_single_records(rows, field):
    names = [f.name for f in isa.DESCRIPTOR]
    records = np.array(rows, isa.DESCRIPTOR.dtype)
    raw = isa.DESCRIPTOR.pack_array(records)
    assert raw.tobytes() == b"".join(isa.DESCRIPTOR.to_bytes(**dict(zip(names, r))) for r in rows)
    assert np.array_equal(isa.DESCRIPTOR.unpack_array(raw), records)
    if rows:
        f = isa.DESCRIPTOR.fields[field]
        records[f.name][-1] = f.high + 1
        with pytest.raises(CodecError, match=f"descriptor.{f.name}={f.high + 1}: must be"):
            isa.DESCRIPTOR.pack_array(records)


def test_an_array_of_params_is_a_view_of_its_bytes():
    raw = np.random.default_rng(2).integers(0, 256, (30, isa.PARAM_BYTES), np.uint8)
    params = isa.PARAM.unpack_array(raw)
    assert params.tobytes() == raw.tobytes() == isa.PARAM.pack_array(params).tobytes()


CONFIGS = (*PRESETS.values(), UP5K, NpuConfig(), NpuConfig(ring_tiles=64, external_bytes=2**20, act_bytes=256))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_identity(config):
    """The registers tell the configuration, but for what only synthesis sees; ISS and hardware tell the same."""
    registers = identity.pack(config)
    told = replace(config, name="custom", multiplier="generic", cell_rows=32, lutram="")
    assert replace(identity.unpack(registers), name="custom") == told
    read = Iss(config).read(isa.Region.REG, 0, len(isa.registers(config)))
    assert {r: int.from_bytes(read[4 * r : 4 * r + 4], "little") for r in registers} == registers


def test_identity_of_the_compact_machine():
    assert identity.pack(UP5K)[Reg.SHAPE] == 4 | 4 << 8 | 1 << 16 | 1 << 25
    assert identity.pack(PRESETS["flagship"])[Reg.SHAPE] == 18 | 16 << 8 | 16 << 16 | 1 << 24 | 1 << 26
    assert identity.pack(PRESETS["flagship"])[Reg.SIZES] == 16 | 128 << 8 | 128 << 20
    with pytest.raises(identity.IdentityError, match="not a Lepton device: magic register is 0x00000000"):
        identity.unpack({**identity.pack(UP5K), Reg.MAGIC: 0})


def test_frames():
    data = frames.frame(isa.SYNC_HOST, isa.Command.PING, 7, b"board")
    assert data == b"\xa5\x00\x07\x05\x00board" + zlib.crc32(b"\x00\x07\x05\x00board").to_bytes(4, "little")
    assert frames.frame_size(data[:5]) == len(data) == frames.OVERHEAD + 5
    assert frames.parse_frame(data) == (0, 7, b"board")
    for at in range(1, len(data)):
        assert frames.parse_frame(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
    with pytest.raises(LeptonError, match="frame.sequence=256: must be 0 to 255"):
        frames.frame(isa.SYNC_HOST, 0, 256)


def test_the_compiler_refuses_what_a_descriptor_cannot_hold():
    model = type("M", (), {"name": "net"})
    emitter = Emitter(model, PRESETS["tiny"])
    weights = np.zeros((4, 4), np.int8)
    with pytest.raises(CompileError, match=r"exceeds the instruction set \(descriptor.x=32768: must be"):
        emitter.add_tiles([[Tile(weights, 0, 32768, 0)]])
    with pytest.raises(CompileError, match=r"param.shift=128: must be -128 to 127"):
        emitter.add_param([(0, 0, 128)])
    emitter.add_param([(2**31, 5, 0)])
    assert emitter.param_words[-1][:4] == (2**31).to_bytes(4, "little")

"""The machine with MOVE: weights, parameters and inputs from memory, results back, tokens between all engines."""

import numpy as np
import pytest
from test_npu import Program

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Base, Cause, Reg, Region, Space, Status
from lepton.sw.device.link import LinkError
from lepton.sw.device.verilated import open_device
from lepton.sw.reference.iss import IssError

SIZES = dict(act_bytes=4096, weight_tiles=640, params=512, acc_depth=64, line_depth=32, memory_bytes=1 << 16)
CONFIGS = {
    c.name: c
    for c in (
        NpuConfig("4x4, 2", rows=4, cols=4, lanes=2, memory_width=2, **SIZES),
        NpuConfig("8x8, 8", rows=8, cols=8, lanes=8, memory_width=8, **SIZES),
        NpuConfig("18x8, 16", rows=18, cols=8, lanes=4, pe="paired", memory_width=16, **SIZES),
    )
}
IMAGE, ARENA = 0x1000, 0x8010
PROGRAM = 4096
"""Bytes for the program, at the image's beginning."""


class Mover(Program):
    """Its tiles, parameters and activations lie in memory: `load` and `entries` emit the MOVEs that fetch them, into
    one of two halves of each memory in turn, when the layer before the last is done with it."""

    def __init__(self, config, seed, layers):
        super().__init__(config, seed)
        self.bases[Base.IMAGE], self.bases[Base.ARENA] = IMAGE, ARENA
        self.free = PROGRAM  # of the image
        self.out = 0  # of the arena
        self.layers, self.layer = layers, -1
        self.with_mul, self.with_tail = {}, {}

    def put(self, data, base=Base.IMAGE):
        """Bytes into memory; returns their address from the base."""
        align = self.config.memory_width
        at = -(-(self.free if base is Base.IMAGE else self.out) // align) * align
        start = self.bases[base] + at
        self.memory[start : start + len(data)] = np.frombuffer(bytes(data), np.uint8)
        if base is Base.IMAGE:
            self.free = at + len(data)
        else:
            self.out = at + len(data)
        return at

    def emit(self, op, **fields):
        last = self.layer >= self.layers - 2
        if op is isa.LOAD:
            fields |= {"wait_move": 1}
        if op is isa.MUL:
            fields |= {"post_move": int(not last)} | self.with_mul
        if op in (isa.TAIL, isa.TABLE):
            fields |= {"wait_move": 1}
        if op is isa.TAIL:
            fields |= self.with_tail
        words = np.array(isa.encode(op, **fields), "<u8")
        start = IMAGE + 8 * self.pc
        self.memory[start : start + 8 * len(words)] = words.view(np.uint8)
        self.pc += len(words)

    def move(self, **fields):
        self.emit(isa.MOVE, **{"rows": 1, "planes": 1} | fields)

    def begin(self, mul=None, tail=None):
        """A layer follows, whose MUL and TAIL have these fields, too."""
        self.layer += 1
        self.with_mul, self.with_tail = mul or {}, tail or {}

    def load(self, first, external=False):
        count, half = self.tile_count - first, self.config.weight_tiles // 2
        raw = self._words(Region.WEIGHT, first, self.tile_count)
        width = self.config.memory_width
        parts = [raw[:, : isa.DESCRIPTOR_BYTES], raw[:, isa.DESCRIPTOR_BYTES :]]
        parts = [np.pad(p, ((0, 0), (0, -p.shape[1] % width))) for p in parts]
        at = self.put(np.concatenate(parts, axis=1).tobytes())
        self.tiles[first : self.tile_count] = 0
        self.descriptors[first : self.tile_count] = 0
        self.tile_count = first
        assert count <= half
        slot = half * (self.layer % 2)
        wait = int(self.layer >= 2)
        self.move(space=Space.WEIGHT, external=at, chip=slot, length=count, wait_mul=wait, post_load=1)
        self.emit(isa.LOAD, count=count, tile=slot)

    def entries(self, n):
        first = super().entries(n)
        raw = self._words(Region.PARAM, first, first + n)
        raw = np.pad(raw, ((0, 0), (0, -raw.shape[1] % self.config.memory_width)))
        at = self.put(raw.tobytes())
        self.params["bias"][first : first + n] = 0
        self.params["multiplier"][first : first + n] = 0
        self.params["shift"][first : first + n] = 0
        self.move(space=Space.PARAM, external=at, chip=first, length=n, post_tail=1)
        return first


def network(config, seed):
    """Four layers: input as uint8 from the arena; the second's result goes to the arena and comes back; so does the
    last one's, as uint8, in rows with gaps."""
    p = Mover(config, seed, layers=4)
    r = p.rng
    p.out = 3
    source = p.put(r.integers(0, 256, 5 * 20, np.uint8).tobytes(), Base.ARENA) + 1
    p.new_table()
    p.move(fill=1, value=-3, chip=7, length=50, rows=2, chip_step=300)
    p.move(
        external=source, base=Base.ARENA, chip=0, length=18, rows=5, external_step=19, chip_step=18, flip=1, post_mul=1
    )
    p.begin({"wait_move": 1}, {"post": 1})
    p.conv(0, 1001, 5, 6, 3, 7, wait=0, post=1)
    p.begin({}, {"post": 0, "post_move": 1})
    p.depthwise(1001, 1300, 5, 6, 7, wait=1, post=0)
    spill = 1 << 12
    p.move(store=1, external=spill + 5, base=Base.ARENA, chip=1300, length=42, rows=5, external_step=50, chip_step=42,
           wait_tail=1)  # fmt: skip
    p.move(external=spill + 5, base=Base.ARENA, chip=2003, length=42, rows=5, external_step=50, chip_step=42,
           post_mul=1)  # fmt: skip
    p.begin({"wait_move": 1}, {})
    p.conv(2003, 1600, 5, 6, 7, 4, wait=0, post=1, table=1)
    p.begin({}, {"post_move": 1})
    p.dense(1600, 2300, 60, 11, wait=1, post=0)
    p.move(store=1, external=0x2003, base=Base.ARENA, chip=2300, length=3, rows=3, external_step=-7, chip_step=4,
           flip=1, wait_tail=1, planes=2, external_plane=100, chip_plane=1)  # fmt: skip
    p.emit(isa.END)
    assert 8 * p.pc <= PROGRAM and p.free <= ARENA - IMAGE
    return p


def noise(p, count):
    """MOVEs of any shape between the upper activations and the upper arena, which no layer uses."""
    r = p.rng
    low, high, memory = 2600, p.config.act_bytes, 0x4000

    def number(first, last):
        return int(r.integers(first, last))

    for _ in range(count):
        kind = ("load", "load", "store", "fill")[number(0, 4)]
        length, rows, planes = number(1, 60), number(1, 6), number(1, 3)
        step, plane = length + number(0, 9), 5 * (length + 9) + number(0, 20)
        chip = number(low, high - 2 * plane)
        external = number(memory, memory + 0x2000)
        p.move(
            base=Base.ARENA, external=external, chip=chip, length=length, rows=rows, planes=planes, external_step=step,
            chip_step=length + number(0, 9), external_plane=plane, chip_plane=plane, store=int(kind == "store"),
            fill=int(kind == "fill"), value=number(-128, 128), flip=number(0, 2),
        )  # fmt: skip


def chain(config, seed, layers=6):
    """Layers of random kinds, one behind the other, each from where the one before wrote, or from the arena where that
    was moved to; and MOVEs besides."""
    p = Mover(config, seed, layers)
    r = p.rng
    h, w, c = (int(v) for v in r.integers(2, 6, 3))
    at, other, spill = 0, 1300, 0x1000
    source = p.put(r.integers(0, 256, h * w * c, np.uint8).tobytes(), Base.ARENA)
    p.new_table()
    p.move(external=source, base=Base.ARENA, length=h * w * c, flip=1, post_mul=1)
    by_move, flat = 1, False
    for layer in range(layers):
        last = layer == layers - 1
        spilled = int(last or r.random() < 0.4)
        by_tail = int(not spilled)
        p.begin({"wait_move": by_move}, {"post": by_tail, "post_move": spilled})
        noise(p, int(r.integers(0, 3)))
        wait = 1 - by_move
        kind = "dense" if flat or r.random() < 0.2 else ("conv", "depthwise")[int(r.integers(0, 2))]
        if kind == "conv":
            n = int(r.integers(1, 12))
            p.conv(at, other, h, w, c, n, wait=wait, post=0)
            c = n
        elif kind == "depthwise":
            p.depthwise(at, other, h, w, c, wait=wait, post=0)
        else:
            n = int(r.integers(1, 30))
            p.dense(at, other, h * w * c, n, wait=wait, post=0)
            h, w, c, flat = 1, 1, n, True
        at, other = other, at
        by_move = spilled
        if spilled:
            size = w * c
            gap = size + int(r.integers(0, 7))
            both = dict(base=Base.ARENA, external=spill + int(r.integers(0, 9)), length=size, rows=h, external_step=gap)
            p.move(**both, store=1, chip=at, chip_step=size, wait_tail=1)
            noise(p, 1)
            if not last:
                p.move(**both, chip=at, chip_step=size, post_mul=1)
            spill += 512
    p.emit(isa.END)
    assert 8 * p.pc <= PROGRAM and p.free <= ARENA - IMAGE
    return p


@pytest.fixture(scope="module", params=CONFIGS)
def device(request):
    return open_device(CONFIGS[request.param])


def load(device, p):
    """All of it lies in memory; the chip's memories hold anything."""
    device.write_memory(0, p.memory.tobytes())
    device.write(Region.ACT, 0, p.act.tobytes())
    device.set_bases(IMAGE, ARENA)


def check(device, p):
    load(device, p)
    device.start()
    registers = device.wait(timeout=1_000_000)
    p.run()
    assert device.read(Region.ACT, 0, p.config.act_bytes) == p.act.tobytes()
    assert device.read_memory(0, len(p.memory)) == p.memory.tobytes()
    assert registers[Reg.STATUS] == Status.DONE
    assert registers[Reg.CYCLES] == sum(registers[Reg[cause.name]] for cause in Cause)
    return registers


@pytest.mark.parametrize("seed", range(2))
def test_a_network_from_memory(device, seed):
    p = network(device.config(), seed)
    device._transport.model.set_pace(latency=30 if seed else 3)
    before = p.memory.copy()
    registers = check(device, p)
    assert registers[Reg.MEMORY] > 0 and not np.array_equal(before, p.memory)


@pytest.mark.parametrize("seed", range(2))
def test_with_stalls(device, seed):
    p = network(device.config(), 10 + seed)
    model = device._transport.model
    model.set_pace(latency=11, interval=1 + seed, refresh=(300, 40))
    model.set_stalls(seed + 1, request=120, data=120, written=120)
    try:
        check(device, p)
    finally:
        model.set_stalls(1)
        model.set_pace()


@pytest.mark.parametrize("seed", range(12))
def test_random_chains(device, seed):
    p = chain(device.config(), 100 + seed)
    model = device._transport.model
    model.set_pace(latency=1 + 13 * (seed % 4), interval=1 + seed % 3)
    if seed % 2:
        model.set_stalls(seed, request=60, data=60, written=60)
    try:
        check(device, p)
    finally:
        model.set_stalls(1)
        model.set_pace()


ERRORS = {
    "activations": (Status.BAD_ADDRESS, dict(chip=4090, length=10)),
    "tiles": (Status.BAD_ADDRESS, dict(space=Space.WEIGHT, chip=632, length=9)),
    "entries": (Status.BAD_ADDRESS, dict(space=Space.PARAM, chip=512, length=1)),
    "memory": (Status.BAD_ADDRESS, dict(external=(1 << 16) - IMAGE - 30, length=10, rows=3, external_step=12)),
    "memory, store": (Status.BAD_ADDRESS, dict(external=1 << 31, store=1, length=10)),
    "space": (Status.BAD_INSTRUCTION, dict(space=3, length=1)),
    "fill of tiles": (Status.BAD_INSTRUCTION, dict(space=1, fill=1, length=1)),
    "no length": (Status.BAD_INSTRUCTION, dict()),
    "a token that never comes": (Status.STALLED, dict(length=4, wait_tail=1)),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors(device, what):
    status, fields = ERRORS[what]
    p = Mover(device.config(), 5, 0)
    p.move(length=64, external=PROGRAM, chip=3)
    p.move(**fields)
    p.move(length=64, external=PROGRAM + 64, chip=100)
    p.emit(isa.END)
    load(device, p)
    device.start()
    with pytest.raises(LinkError, match="the run stopped"):
        device.wait(timeout=1_000_000)
    assert device.registers()[Reg.STATUS] == status
    with pytest.raises(IssError):
        p.run()
    assert p.status == status
    check(device, network(device.config(), 3))


def test_more_tokens_than_are_counted(device):
    p = Mover(device.config(), 5, 0)
    for _ in range(256):
        p.move(fill=1, length=1, post_tail=1)
    p.emit(isa.END)
    load(device, p)
    device.start()
    with pytest.raises(LinkError, match="the run stopped"):
        device.wait(timeout=1_000_000)
    assert device.registers()[Reg.STATUS] == Status.BAD_INSTRUCTION
    with pytest.raises(IssError):
        p.run()
    assert p.status == Status.BAD_INSTRUCTION


def test_reset_during_a_run(device):
    """Beats that are still to come, and writes half done, do not disturb the next run."""
    model = device._transport.model
    for cycles in (200, 350, 600, 900, 1500):
        p = network(device.config(), 20)
        model.set_pace(latency=100)
        load(device, p)
        device.start()
        device._transport.run(cycles)
        device.reset()
        model.set_pace(latency=5)
        check(device, network(device.config(), 21))
    model.set_pace()

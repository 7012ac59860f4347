"""The whole accelerator: programs through the host link on a Verilator model, memories as the ISS leaves them."""

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Reg, Region, Status
from lepton.sw.device import verilated as rtl_backend
from lepton.sw.device.link import LinkError
from lepton.sw.device.verilated import BackendError, open_device
from lepton.sw.reference.iss import Iss, IssError

SIZES = dict(act_bytes=4096, weight_tiles=128, params=256, program_words=128, acc_depth=64, line_depth=32)
SINGLE = NpuConfig("test4x4", rows=4, cols=4, lanes=2, ring_tiles=6, **SIZES)
PAIRED = NpuConfig("test18x3", rows=18, cols=3, lanes=3, pe="paired", **SIZES)


class Program(Iss):
    """A machine with an assembler: words, tiles and parameters are appended; then both it and a device can run."""

    def __init__(self, config, seed):
        super().__init__(config, hazards=True)
        self.rng = np.random.default_rng(seed)
        self.pc = self.tile_count = self.param_count = 0
        self.act[:] = self.rng.integers(-128, 128, config.act_bytes)

    def emit(self, op, **fields):
        words = isa.encode(op, **fields)
        self.program[self.pc : self.pc + len(words)] = words
        self.pc += len(words)

    def tile(self, weights, **descriptor):
        self.tiles[self.tile_count, : weights.shape[0], : weights.shape[1]] = weights
        for name, value in descriptor.items():
            self.descriptors[name][self.tile_count] = value
        self.tile_count += 1

    def entries(self, n):
        first, r = self.param_count, self.rng
        where = slice(first, first + n)
        self.params["bias"][where] = r.integers(-5000, 5000, n)
        self.params["multiplier"][where] = r.integers(1 << 30, 1 << 31, n)
        self.params["shift"][where] = r.integers(-9, -4, n)
        self.param_count += n
        return first

    def load(self, first, external=False):
        """LOAD of the tiles from `first` on; external ones are moved to external memory."""
        if external:
            where = slice(first, self.tile_count)
            data = self._words(Region.WEIGHT, where.start, where.stop).tobytes()
            self.emit(isa.LOAD, external=1, count=self.tile_count - first, address=len(self.external))
            self.external += data
            self.tiles[where] = 0
            self.descriptors[where] = 0
            self.tile_count = first
        else:
            self.emit(isa.LOAD, count=self.tile_count - first, tile=first)

    def conv(self, source, target, h, w, c, n, wait, post, external=False, **tail):
        """3x3, padded, n channels: groups of cols, each its own bank."""
        r, rows, cols = self.rng, self.config.rows, self.config.cols
        groups, first = -(-n // cols), self.tile_count
        for g in range(groups):
            for i in range(3):
                for k in range(0, 3 * c, rows):
                    weights = r.integers(-128, 128, (min(rows, 3 * c - k), min(cols, n - g * cols)))
                    at = ((i - 1) * w - 1) * c + k
                    self.tile(weights, offset=at % (1 << 20), x=k - c, y=i - 1, last=i == 2 and k + rows >= 3 * c)
        self.load(first, external)
        self.emit(
            isa.MUL, wait=wait, init=1, release=1, groups=groups, width=w, height=h, address=source, x_limit=w * c,
            x_step=c, y_limit=h, y_step=1, row_step=w * c, zero_point=-3,
        )  # fmt: skip
        self.emit(
            isa.TAIL, take=1, release=1, post=post, clamp=1, param=self.entries(n), acc_x=1, acc_y=w, width=w, height=h,
            window_x=1, window_y=1, address=target, out_x=n, out_y=w * n, group_step=cols, channels=n, zero_point=4,
            low=-128, high=127, **tail,
        )  # fmt: skip

    def dense(self, source, target, k, n, wait, post, external=False):
        """Fully connected: one vector a tile, all groups in one bank."""
        r, rows, cols = self.rng, self.config.rows, self.config.cols
        groups, first = -(-n // cols), self.tile_count
        for g in range(groups):
            for i in range(0, k, rows):
                self.tile(
                    r.integers(-128, 128, (min(rows, k - i), min(cols, n - g * cols))), offset=i, last=i + rows >= k
                )
        self.load(first, external)
        self.emit(
            isa.MUL, wait=wait, stack=1, init=1, release=1, groups=groups, width=1, height=1, address=source,
            x_limit=0xFFFF, y_limit=1,
        )  # fmt: skip
        self.emit(
            isa.TAIL, take=1, release=1, stack=1, post=post, clamp=1, param=self.entries(n), width=1, height=1,
            window_x=1, window_y=1, address=target, group_step=cols, channels=n, low=-100, high=100,
        )  # fmt: skip

    def depthwise(self, source, target, h, w, c, wait, post):
        """3x3, padded by one column and one row, in as many passes as the array needs."""
        r, cfg = self.rng, self.config
        cols, taps, groups, first = cfg.cols, cfg.taps, -(-c // cfg.cols), self.tile_count
        for g in range(groups):
            for i in range(0, 3, cfg.segments):
                weights = np.zeros((cfg.rows, min(cols, c - g * cols)), np.int64)
                for s in range(min(cfg.segments, 3 - i)):
                    step = 2 if cfg.pe == "paired" else 1
                    at = step * taps * s
                    weights[at : at + step * 3 : step] = r.integers(-128, 128, (3, weights.shape[1]))
                skip = min(cfg.segments, 3 - i) - 1
                at = ((i - 1) * w - 1) * c
                self.tile(weights, offset=at % (1 << 20), x=-c, y=i - 1, skip=skip, last=i + cfg.segments >= 3)
        self.load(first)
        self.emit(
            isa.MUL, wait=wait, depthwise=1, init=1, release=1, groups=groups, width=w + 1, height=h, address=source,
            x_limit=w * c, x_step=c, y_limit=h, y_step=1, row_step=w * c, group_step=cols, zero_point=9, out_width=w,
            subsample=1, line_delay=w + 1 + taps,
        )  # fmt: skip
        self.emit(
            isa.TAIL, take=1, release=1, post=post, clamp=1, table=1, param=self.entries(c), acc_x=1, acc_y=w, width=w,
            height=h, window_x=1, window_y=1, address=target, out_x=c, out_y=w * c, group_step=cols, channels=c,
            low=-128, high=127,
        )  # fmt: skip

    def new_table(self):
        self.emit(isa.TABLE, param=self.entries(32))

    def check(self, device, pc=0, interval=2, before=lambda: None):
        """Load the device, call `before`, run both from `pc`, compare all activations; returns the registers."""
        self.emit(isa.END)
        counts = {Region.ACT: self.config.act_bytes, Region.PROGRAM: self.pc}
        counts |= {Region.WEIGHT: self.tile_count, Region.PARAM: self.param_count}
        for region, count in counts.items():
            if count:
                device.write(region, 0, self.read(region, 0, count))
        device._transport.set_memory(self.external, latency=11, interval=interval)
        before()
        device.start(pc)
        registers = device.wait(timeout=200_000)
        self.run(pc)
        assert device.read(Region.ACT, 0, self.config.act_bytes) == self.act.tobytes()
        assert registers[Reg.STATUS] == Status.DONE
        assert registers[Reg.CYCLES] == sum(registers[Reg[cause.name]] for cause in Cause)
        return registers


@pytest.fixture(scope="module", params=[SINGLE, PAIRED], ids=lambda c: c.name)
def device(request):
    return open_device(request.param)


@pytest.fixture(scope="module")
def single():
    return open_device(SINGLE)


def test_identity(device):
    found = device.config()
    assert found.to_dict() == {**device._transport.config.to_dict(), "name": "custom"}


@pytest.mark.parametrize("seed", range(3))
def test_layers_in_sequence(device, seed):
    p = Program(device.config(), seed)
    p.new_table()
    p.conv(0, 1000, 5, 6, 3, 7, wait=0, post=1)
    p.depthwise(1000, 1300, 5, 6, 7, wait=1, post=1)
    p.conv(1300, 1600, 5, 6, 7, 4, wait=1, post=1, table=1)
    p.dense(1600, 1900, 60, 11, wait=1, post=0)
    p.dense(100, 2000, 33, 9, wait=0, post=0)
    registers = p.check(device)
    device.start()
    assert device.wait()[Reg.CYCLES] == registers[Reg.CYCLES]


@pytest.mark.parametrize("seed", range(2))
def test_external_weights(single, seed):
    p = Program(SINGLE, 10 + seed)
    p.conv(0, 1000, 4, 4, 3, 7, wait=0, post=1, external=True)
    p.dense(1000, 1500, 50, 9, wait=1, post=1, external=True)
    p.dense(1500, 1600, 9, 6, wait=1, post=1)
    p.dense(1600, 1700, 6, 10, wait=1, post=0, external=True)
    assert p.check(single)[Reg.WEIGHTS] > 0


def change(p, op, **fields):
    """Change fields of the first instruction of that kind; values are taken modulo the field's size."""
    at = 0
    while True:
        found, values = isa.decode(p.program, at)
        if found is op:
            break
        at += found.words
    p.program[at : at + op.words] = isa.encode(op, **values | fields)


ERRORS = {
    "unknown opcode": lambda p: p.program.__setitem__(0, 15),
    "no END": lambda p: p.program.fill(isa.Opcode.TABLE),
    "zero width": lambda p: change(p, isa.MUL, width=0),
    "window without clamp": lambda p: change(p, isa.TAIL, window_x=2, clamp=0),
    "works without a bank": lambda p: change(p, isa.TAIL, take=0),
    "takes two banks": lambda p: change(p, isa.TAIL, release=0, channels=p.config.cols + 1),
    "outputs beyond the row": lambda p: change(
        p, isa.MUL, depthwise=1, out_width=3, subsample=2, width=4, line_delay=4 + p.config.taps, groups=1
    ),
    "sum outside": lambda p: change(p, isa.MUL, acc_base=p.config.acc_depth - 1),
    "sum read outside": lambda p: change(p, isa.TAIL, acc_base=p.config.acc_depth - 1),
    "second operand outside": lambda p: change(p, isa.TAIL, dual=1, acc_other=p.config.acc_depth),
    "written over the end": lambda p: change(p, isa.TAIL, address=p.config.act_bytes - 10),
    "written outside": lambda p: change(p, isa.TAIL, address=p.config.act_bytes + 1000),
    "read over the end": lambda p: change(p, isa.MUL, address=p.config.act_bytes - 10),
    "read outside": lambda p: change(p, isa.MUL, address=p.config.act_bytes + 1000),
    "read below": lambda p: change(p, isa.MUL, address=(1 << 20) - 10),
    "parameter outside": lambda p: change(p, isa.TAIL, param=p.config.params - 2),
    "tile outside": lambda p: change(p, isa.LOAD, tile=p.config.weight_tiles - 2),
    "no token": lambda p: change(p, isa.MUL, wait=1),
    "too few tiles": lambda p: change(p, isa.LOAD, count=2),
    "bank kept by the array": lambda p: change(p, isa.MUL, release=0),
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_end_the_run(device, what):
    """Each ends with the status that the ISS gives, writes nothing else, and a good program runs afterwards."""
    p = Program(device.config(), 20)
    p.conv(0, 1000, 3, 3, 3, 3, wait=0, post=0)
    p.emit(isa.END)
    ERRORS[what](p)
    for region in (Region.ACT, Region.WEIGHT, Region.PARAM, Region.PROGRAM):
        device.write(region, 0, p.read(region, 0, isa.depth(region, p.config)))
    before = p.act.copy()
    with pytest.raises(IssError):
        p.run()
    assert p.status > Status.DONE
    device.start()
    with pytest.raises(LinkError, match="the run stopped"):
        device.wait()
    assert device.registers()[Reg.STATUS] == p.status
    after = np.frombuffer(device.read(Region.ACT, 0, p.config.act_bytes), np.int8)
    assert np.array_equal(np.delete(after, range(1000, 1027)), np.delete(before, range(1000, 1027)))
    p = Program(device.config(), 20)
    p.conv(0, 1000, 3, 3, 3, 3, wait=0, post=0)
    p.check(device)


def test_reset_during_a_run(single):
    """A program that waits for ever is stopped; bytes of bursts that are still to come do not disturb the next run."""
    p = Program(SINGLE, 30)
    p.dense(0, 1000, 40, 9, wait=1, post=0, external=True)
    p.emit(isa.END)
    second = p.pc
    p.dense(7, 1000, 40, 9, wait=0, post=0, external=True)

    def stop():
        single.start()
        assert single.registers()[Reg.STATUS] == Status.RUNNING
        with pytest.raises(LinkError, match="in progress"):
            single.read(Region.ACT, 0, 1)
        with pytest.raises(LinkError, match="did not end"):
            single.wait(timeout=500)
        single.reset()
        assert single.registers()[Reg.STATUS] == Status.IDLE

    p.check(single, pc=second, interval=60, before=stop)


def test_missing_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("LEPTON_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="'no-such-compiler' not found"):
        rtl_backend.library_for(SINGLE)

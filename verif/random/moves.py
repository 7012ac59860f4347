"""MOVEs in random programs: what layers read comes from memory, what they write goes there, and copies of any shape.

Each function changes the instructions of a legal program in one place, and gives tokens to those that must wait. Not
all that comes out is legal; the simulator says what is.
"""

from dataclasses import dataclass, field

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Base, Space

Order = list[tuple[isa.Op, dict]]
STORES = 0x6000
"""From here on up to the program is what MOVEs write in memory; below is what they read, tiles and parameters in it."""


def image_at(config: NpuConfig) -> int:
    """The byte of memory where the image begins: its program ends with the memory."""
    return config.memory_bytes - 8 * config.program_words


@dataclass
class Behind:
    """What is behind the memory port."""

    config: NpuConfig
    rng: np.random.Generator
    memory: np.ndarray = field(init=False)
    bases: list[int] = field(init=False)
    used: int = 0

    def __post_init__(self):
        c = self.config
        self.memory = self.rng.integers(0, 256, c.memory_bytes, np.uint8)
        self.bases = [0] * len(Base)
        self.bases[Base.IMAGE], self.bases[Base.ARENA] = image_at(c), 16 * int(self.rng.integers(STORES // 16))

    def put(self, words: np.ndarray, parts: tuple[int, ...]) -> int | None:
        """Words uint8[n, bytes] of parts of so many bytes, each filled up to whole beats; the byte where they lie."""
        width = self.config.memory_width
        split = np.split(words, np.cumsum(parts)[:-1], axis=1)
        raw = np.concatenate([np.pad(p, ((0, 0), (0, -p.shape[1] % width))) for p in split], axis=1).ravel()
        at = -(-self.used // width) * width + width * int(self.rng.integers(0, 40))
        if at + len(raw) > STORES:
            return None
        self.memory[at : at + len(raw)] = raw
        self.used = at + len(raw)
        return at


class Weaver:
    """Puts MOVEs among the instructions of a program. `maker`: the program's tiles, parameters, random choices."""

    def __init__(self, maker, behind: Behind):
        self.maker, self.behind, self.config = maker, behind, maker.config
        self.kinds = [self.tiles, self.tiles, self.entries, self.entries, self.source, self.source, self.result,
                      self.result, self.any_copy]  # fmt: skip

    def change(self, order: Order) -> Order | None:
        """The program with one more MOVE, or None; instructions that change are copied."""
        made = [(op, dict(f)) for op, f in order]
        kind = self.kinds[self.maker.r(0, len(self.kinds))]
        return made if kind(made) else None

    # --- parts -------------------------------------------------------------------------------------------------------

    def _pick(self, order: Order, op: isa.Op, flag: str, also=lambda f: True) -> int | None:
        places = [k for k, (o, f) in enumerate(order) if o is op and not f.get(flag) and also(f)]
        return self.maker.pick(*places) if places else None

    def _external(self, byte: int) -> dict:
        """Fields that name a byte of memory."""
        base = self.maker.pick(*Base)
        return {"base": base, "external": byte - self.behind.bases[base] & 2**32 - 1}

    def _after(self, order: Order, k: int, op: isa.Op, move: dict):
        """The MOVE before instruction k waits for the last of that kind before it, if that gives no token yet."""
        for _, f in (item for item in reversed(order[:k]) if item[0] is op):
            if not f.get("post_move"):
                f["post_move"] = 1
                move["wait_mul" if op is isa.MUL else "wait_tail"] = 1
            return

    def _insert(self, order: Order, k: int, **fields):
        move = {"rows": 1, "planes": 1, **fields}
        order.insert(k, (isa.MOVE, move))

    # --- kinds -------------------------------------------------------------------------------------------------------

    def tiles(self, order: Order) -> bool:
        """A LOAD's tiles come from memory, to where they were meant to be or over others."""
        m, c = self.maker, self.config
        k = self._pick(order, isa.LOAD, "wait_move", lambda f: f["tile"] + f["count"] < c.weight_tiles)
        if k is None:
            return False
        load = order[k][1]
        first, count = load["tile"], load["count"]
        body = m.tiles[first : first + count].reshape(count, -1).view(np.uint8)
        words = np.concatenate([isa.DESCRIPTOR.pack_array(m.descriptors[first : first + count]), body], axis=1)
        at = self.behind.put(words, (isa.DESCRIPTOR_BYTES, c.tile_bytes))
        if at is None:
            return False
        move = dict(space=Space.WEIGHT, length=count, post_load=1, **self._external(at))
        if m.flag():
            load["tile"] = m.r(0, c.weight_tiles - count)
        if m.flag(0.7):
            self._after(order, k, isa.MUL, move)
        load["wait_move"] = 1
        self._insert(order, k, chip=load["tile"], **move)
        return True

    def entries(self, order: Order) -> bool:
        """A TAIL's, or a TABLE's, parameters come from memory."""
        m, c = self.maker, self.config
        k = self._pick(order, m.pick(0, 0, 0, 1) and isa.TABLE or isa.TAIL, "wait_move")
        if k is None:
            return False
        op, f = order[k]
        count = isa.TABLE_ENTRIES if op is isa.TABLE else 1 if f.get("shared") else f["channels"]
        if f["param"] + count >= c.params:
            return False
        values = m.params[m.rng.integers(0, c.params, count)]
        at = self.behind.put(values.view(np.uint8).reshape(count, -1), (isa.PARAM_BYTES,))
        if at is None:
            return False
        move = dict(space=Space.PARAM, length=count, post_tail=1, **self._external(at))
        if m.flag(0.7):
            self._after(order, k, isa.TAIL, move)
        f["wait_move"] = 1
        self._insert(order, k, chip=f["param"], **move)
        return True

    def _copy(self, near: int, store: bool) -> dict:
        """A copy of activations near a byte, of any shape."""
        m, size = self.maker, self.config.act_bytes
        length, rows, planes = m.pick(1, 2, m.r(1, 20), m.r(1, 90)), m.pick(1, 1, m.r(1, 7)), m.pick(1, 1, 2, 3)
        step, plane = m.pick(length, length + m.r(0, 9), m.r(0, 30)), m.r(0, 200)
        reach = length + (rows - 1) * step + (planes - 1) * plane
        if reach > size:
            return self._copy(near, store)
        low, high = (STORES, image_at(self.config) - 1500) if store else (0, self.config.memory_bytes - 1500)
        return dict(
            store=int(store), flip=m.flag(0.3), length=length, rows=rows, planes=planes, chip_step=step,
            chip_plane=plane, chip=max(0, min(size - reach, near - m.r(0, 20))), external_step=m.r(-40, 100),
            external_plane=m.r(-100, 300), **self._external(m.r(low + 500, high)),
        )  # fmt: skip

    def source(self, order: Order) -> bool:
        """Some of what a MUL reads is copied, or filled, before."""
        m = self.maker
        k = self._pick(order, isa.MUL, "wait_move")
        if k is None:
            return False
        move = self._copy(order[k][1]["address"], False)
        if m.flag(0.25):
            move |= {"fill": 1, "value": m.r(-128, 128)}
        for op in (isa.MUL, isa.TAIL):
            if m.flag(0.7):
                self._after(order, k, op, move)
        order[k][1]["wait_move"] = move["post_mul"] = 1
        self._insert(order, k, **move)
        return True

    def result(self, order: Order) -> bool:
        """What a TAIL writes, or is near that, is copied to memory; the next TAIL may wait for it."""
        m = self.maker
        k = self._pick(order, isa.TAIL, "post_move")
        if k is None:
            return False
        move = self._copy(order[k][1]["address"], True) | {"wait_tail": 1}
        order[k][1]["post_move"] = 1
        following = [f for op, f in order[k + 1 :] if op is isa.TAIL]
        if following and m.flag() and not following[0].get("wait_move"):
            following[0]["wait_move"] = move["post_tail"] = 1
        self._insert(order, k + 1, **move)
        return True

    def any_copy(self, order: Order) -> bool:
        """A copy that nobody waits for."""
        m = self.maker
        move = self._copy(m.r(0, self.config.act_bytes), bool(m.flag()))
        self._insert(order, m.r(0, len(order) + 1), **move)
        return True

"""The other side of Wishbone: a master of classic cycles, and a memory that answers registered feedback bursts.

Both check what the rules of B4 say of the signals that they see.
"""

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly
from cocotbext.axi.sparse_memory import SparseMemory

from lepton.verif.benches.common import Stall

QUICK = (0.0, 0.0, 0.1, 0.5)


class WishboneMaster:
    """Classic cycles at `wbs_*`, one access each, with waits before and between."""

    def __init__(self, dut, rng):
        self._dut, self._stall = dut, Stall(rng, QUICK)
        for name in "cyc stb we adr sel dat".split():
            getattr(dut, f"wbs_{name}_i").value = 0

    async def _access(self, offset, we, sel, data):
        dut = self._dut
        while self._stall():
            await FallingEdge(dut.wb_clk_i)
        await FallingEdge(dut.wb_clk_i)
        for name, value in dict(cyc=1, stb=1, we=we, adr=offset, sel=sel, dat=data).items():
            getattr(dut, f"wbs_{name}_i").value = value
        for _ in range(100):
            await ReadOnly()
            ack, err = int(dut.wbs_ack_o.value), int(dut.wbs_err_o.value)
            assert not (ack and err), "ACK and ERR together"
            value = int(dut.wbs_dat_o.value)
            await FallingEdge(dut.wb_clk_i)
            if ack or err:
                dut.wbs_stb_i.value = dut.wbs_cyc_i.value = 0
                return bool(err), value
        raise AssertionError("no answer")

    async def read(self, offset):
        return await self._access(offset, 0, 0xF, 0)

    async def write(self, offset, value, size=4):
        refused, _ = await self._access(offset, 1, (1 << size) - 1, value)
        return refused


class WishboneMemoryModel:
    """Memory at `wbm_*`: its answer is registered, and in a burst the next comes right behind it, with random waits.

    It is written and read by slices; from byte `bad` on it answers ERR.
    """

    def __init__(self, dut, rng, width):
        self._dut, self._width, self._stall = dut, width, Stall(rng, QUICK)
        self._bytes = SparseMemory(2**32)
        self.bad: int | None = None
        self.longest = 0
        """Beats of the longest burst."""
        cocotb.start_soon(self._run())

    def __setitem__(self, key, data):
        self._bytes[key] = data

    def __getitem__(self, key):
        return self._bytes[key]

    def _look(self):
        signals = "cyc stb we adr sel cti bte dat"
        return {name: int(getattr(self._dut, f"wbm_{name}_o").value) for name in signals.split()}

    async def _run(self):
        dut, width = self._dut, self._width
        before: dict[str, int] = {}  # what was seen a cycle ago,
        term = False  # and whether that beat was answered
        beats, adr = 0, None  # of the burst under way, and the address of its next
        while True:
            await FallingEdge(dut.wb_clk_i)
            asked = bool(before and before["stb"] and (not term or before["cti"] == 0b010))
            answers = asked and not self._stall()
            at = before["adr"] + width * term if asked else 0
            bad = answers and self.bad is not None and at >= self.bad
            dut.wbm_ack_i.value, dut.wbm_err_i.value = int(answers and not bad), int(bad)
            data = bytes(self._bytes[at : at + width]) if answers else b"\xa5" * width
            dut.wbm_dat_i.value = int.from_bytes(data, "little")
            await ReadOnly()
            if int(dut.wb_rst_i.value):
                before, term, adr, beats = {}, False, None, 0
                continue
            now = self._look()
            assert now["cyc"] or not now["stb"], "STB without CYC"
            if before and before["stb"] and not term:
                same = {k: v for k, v in now.items() if k != "dat" or now["we"]}
                assert same == {k: before[k] for k in same}, "a beat that was not answered has changed"
            if now["stb"]:
                assert now["adr"] % width == 0 and now["bte"] == 0 and now["cti"] in (0b010, 0b111), now
                assert adr in (None, now["adr"]), f"{now['adr']:#x} in a burst, expected {adr:#x}"
                assert now["we"] or now["sel"] == (1 << width) - 1
            if adr is not None:
                assert now["cyc"], "CYC fell within a burst"
            term = bool(now["stb"] and answers)
            if term:
                assert at == now["adr"], "the answer is another beat's"
                if now["we"] and not bad:
                    for k in range(width):
                        if now["sel"] >> k & 1:
                            self._bytes[at + k] = now["dat"] >> 8 * k & 255
                beats += 1
                self.longest = max(self.longest, beats)
                more = now["cti"] == 0b010
                assert not more or (now["adr"] + width) % 4096, "a burst crosses 4 KB"
                adr, beats = (now["adr"] + width, beats) if more else (None, 0)
            before = now

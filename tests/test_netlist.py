"""Netlists of vendor cells under Verilator: products of all kinds of multipliers, and SPRAM behind a board's pins."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lepton.fpga import flow, shell
from lepton.fpga.board_sim import PinModel
from lepton.fpga.boards import get_board
from lepton.fpga.uart import UartReceiver, UartTransmitter
from lepton.rtl.compact.spram import SpramActMemory
from lepton.rtl.multiplier import RowMultiplier
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.device.verilated import Model, build_library
from lepton.verif.netlist.cells_ice40 import PULSES, board_verilog
from lepton.verif.netlist.simulate import synthesize

STYLES = {"ecp5": [("single", True), ("single", False), ("paired", True), ("paired", False)],
          "gowin": [("single", True), ("paired", True)],
          "ice40": [("single", True)]}  # fmt: skip
"""Of each family: processing elements, and whether their products come from multiplier cells."""


class Products(wiring.Component):
    """Multipliers behind byte streams: left, right (2 bytes each) give a product of each style (3 bytes, signed)."""

    i: In(stream.Signature(8))
    o: Out(stream.Signature(8))

    def __init__(self, family):
        self._family = family
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        styles = STYLES[self._family]
        end = 10 + 3 * len(styles)
        count, operands = Signal(range(end)), Signal(32)
        results = []
        for pe, cells in styles:
            unit = RowMultiplier(NpuConfig(pe=pe, multiplier=self._family), 1, cells)
            m.submodules[f"multiplier_{pe}_{cells}"] = unit
            width = len(unit.i_left[0])
            swap = count == 4
            gone = ~swap if self._family == "ice40" else 0  # it holds the operand itself
            m.d.comb += [
                unit.i_left[0].eq(operands[:width]),
                unit.i_right[0].eq(Mux(gone, ~operands[16 : 16 + width], operands[16 : 16 + width])),
                unit.i_swap.eq(swap),
            ]
            product = Signal(range(-(1 << 23), 1 << 23), name=f"product_{pe}_{cells}")
            m.d.comb += product.eq(unit.o_product[0])
            results.append(product)
        m.d.comb += self.o.payload.eq(Cat(results).word_select((count - 10)[:4], 8))
        with m.If(count < 4):
            m.d.comb += self.i.ready.eq(1)
            with m.If(self.i.valid):
                m.d.sync += [operands.eq(Cat(operands[8:], self.i.payload)), count.eq(count + 1)]
        with m.Elif(count < 10):
            m.d.sync += count.eq(count + 1)
        with m.Else():
            m.d.comb += self.o.valid.eq(1)
            with m.If(self.o.ready):
                m.d.sync += count.eq(count + 1)
                with m.If(count == end - 1):
                    m.d.sync += count.eq(0)
        return m


@pytest.mark.parametrize("family", STYLES)
def test_products(family):
    rng = np.random.default_rng(5)
    styles = STYLES[family]
    model = Model(build_library(synthesize(Products(family), family), f"products_{family}"))
    for pe, low, high in ("single", -128, 127), ("paired", -256, 254):
        corners = [low, low + 1, low // 2, -2, -1, 0, 1, 2, high // 2, high - 1, high]
        pairs = np.array([(a, b) for a in corners for b in corners] + list(rng.integers(low, high + 1, (20_000, 2))))
        size = 3 * len(styles) * len(pairs)
        taken, out, _ = model.step(pairs.astype("<i2").tobytes(), size, size, 60 * len(pairs))
        assert taken == 4 * len(pairs) and len(out) == size
        raw = np.frombuffer(out, np.uint8).reshape(-1, len(styles), 3).astype(int)
        got = raw[..., 0] | raw[..., 1] << 8 | raw[..., 2] << 16
        got -= (got >> 23) << 24
        for k, style in enumerate(styles):
            if style[0] == pe:
                assert np.array_equal(got[:, k], pairs[:, 0] * pairs[:, 1]), style


class Sums(wiring.Component):
    """In the place of `BoardTop`: each byte is written to activation memory while those before it are read, four of
    them from an even address on; their sum is sent."""

    def __init__(self, config, clock_hz, baud):
        self._config, self._divisor = config, round(clock_hz / baud)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(4)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        m.submodules.memory = memory = SpramActMemory(self._config)
        at, read = Signal(20), Signal()
        m.d.comb += [
            receiver.rx.eq(self.rx),
            self.tx.eq(transmitter.tx),
            receiver.o.ready.eq(1),
            memory.read.addr.eq(at - 4),
            memory.write.en.eq(receiver.o.valid),
            memory.write.addr.eq(at),
            memory.write.count.eq(1),
            memory.write.data[0].eq(receiver.o.payload),
            transmitter.i.payload.eq(sum(memory.read.data)),
            transmitter.i.valid.eq(read),
        ]
        m.d.sync += [at.eq(at + receiver.o.valid), read.eq(receiver.o.valid)]
        return m


def test_spram_behind_pins(monkeypatch, tmp_path):
    """Both clocks of the PLL, reset and pads, in the netlist that synthesis gives a board."""
    board = get_board("icebreaker")
    monkeypatch.setattr(shell, "BoardTop", Sums)
    plan = flow.make_plan(board)
    with TemporaryDirectory(dir=".", prefix="netlist-") as name:  # yosys does not see the system's folder
        folder = Path(name)
        (folder / "top.il").write_bytes(plan.files["top.il"])
        (folder / "top.ys").write_text(plan.script)
        flow.synthesize("top.ys", folder)
        text = board_verilog(folder / "top.json", board)
    model = PinModel(text, "sums", 18, PULSES)
    data = np.random.default_rng(3).integers(0, 256, 300).astype(np.uint8)
    _, noise = model.run(cycles=1000)
    reply = b""
    for byte in data:
        reply += model.run(bytes([byte]), 600)[1]
    assert not noise and len(reply) == len(data)
    want = [int(data[(n - 4) & ~1 :][:4].sum()) & 255 for n in range(4, len(data))]
    assert list(reply[4:]) == want

"""ULX3S with the LFE5U-85F: 84 k LUT, 156 multipliers, 208 block RAMs."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from lepton.fpga.board import Board
from lepton.fpga.pll import Ecp5Pll
from lepton.rtl.config import NpuConfig

# Of the multipliers the requantizers take 64 and five of the array's nine rows 85. Block RAM holds the weights of each
# of the reference models (AD: 1008 tiles), so accumulators and line buffers are made of look-up tables.
CONFIG = NpuConfig(
    "ulx3s-85f",
    rows=18,
    cols=16,
    lanes=16,
    pe="paired",
    weight_tiles=1024,
    params=3072,
    program_words=3072,
    acc_depth=64,
    multiplier="ecp5",
    cell_rows=5,
    lutram="acc line",
)

BOARD = Board(
    name="ulx3s-85f",
    title="Radiona ULX3S, LFE5U-85F",
    family="ecp5",
    config=CONFIG,
    mhz=70,
    platform=ULX3S_85F_Platform,
    pll=Ecp5Pll,
    bounds={"lut": (59_000, 68_000), "ff": (38_500, 44_500), "multiplier": (149, 149), "bram": (200, 207)},
    leds=8,
    loader="ulx3s",
    reset=("button_fire", 0),
)

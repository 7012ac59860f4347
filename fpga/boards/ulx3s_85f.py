"""ULX3S with the LFE5U-85F: 84 k LUT, 156 multipliers, 208 block RAMs."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from lepton.fpga.board import Board
from lepton.fpga.pll import Ecp5Pll
from lepton.rtl.config import NpuConfig

# Of the multipliers the requantizers take 32 and seven of the array's nine rows 119; sixteen lanes would leave five
# rows and take 63 k look-up tables. Block RAM holds the weights of each of the reference models (AD: 1008 tiles), so
# accumulators and line buffers are made of look-up tables.
CONFIG = NpuConfig(
    "ulx3s-85f",
    rows=18,
    cols=16,
    lanes=8,
    pe="paired",
    weight_tiles=1024,
    params=3072,
    program_words=3072,
    acc_depth=64,
    multiplier="ecp5",
    cell_rows=7,
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
    bounds={"lut": (45_000, 52_000), "ff": (29_500, 34_500), "multiplier": (151, 151), "bram": (200, 208)},
    leds=8,
    loader="ulx3s",
    reset=("button_fire", 0),
)

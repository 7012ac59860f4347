"""ULX3S with the LFE5U-25F: 24 k LUT, 28 multipliers, 56 block RAMs."""

from amaranth_boards.ulx3s import ULX3S_25F_Platform

from lepton.fpga.board import Board
from lepton.fpga.pll import Ecp5Pll
from lepton.rtl.spec.config import NpuConfig

# The requantizers take 8 of the 28 multipliers, two of the array's four rows of paired PEs 16; the other two are made
# of look-up tables. Four lanes fit too, but do not reach the clock.
CONFIG = NpuConfig(
    "ulx3s-25f",
    rows=8,
    cols=8,
    lanes=2,
    pe="paired",
    act_bytes=16384,
    weight_tiles=512,
    params=1024,
    program_words=512,
    acc_depth=256,
    line_depth=64,
    multiplier="ecp5",
    cell_rows=2,
    lutram="line",
)

BOARD = Board(
    name="ulx3s-25f",
    title="Radiona ULX3S, LFE5U-25F",
    family="ecp5",
    config=CONFIG,
    mhz=50,
    platform=ULX3S_25F_Platform,
    pll=Ecp5Pll,
    bounds={"lut": (12_600, 14_600), "ff": (11_000, 13_000), "multiplier": (26, 26), "bram": (50, 50)},
    leds=8,
    loader="ulx3s",
    reset=("button_fire", 0),
)

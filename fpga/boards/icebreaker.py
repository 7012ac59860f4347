"""iCEBreaker with the iCE40UP5K: 5,280 cells, 8 multipliers, 30 block RAMs, 4 SPRAMs."""

from dataclasses import replace

from amaranth_boards.icebreaker import ICEBreakerPlatform

from lepton.fpga.board import Board
from lepton.fpga.pll import Ice40Pll
from lepton.rtl.spec.config import UP5K

BOARD = Board(
    name="icebreaker",
    title="1BitSquared iCEBreaker, iCE40UP5K",
    family="ice40",
    config=replace(UP5K, name="icebreaker"),
    mhz=18,
    platform=ICEBreakerPlatform,
    pll=Ice40Pll,
    bounds={"lut": (3400, 3850), "ff": (2000, 2350), "multiplier": (8, 8), "bram": (24, 30), "spram": (4, 4)},
    loader="ice40_generic",
    # Nine of ten cells are taken and the slowest path has time to spare: short wires matter more than fast ones.
    place=("--placer-heap-timingweight", "1"),
)

"""Tang Nano 20K with the GW2AR-18: 20.7 k LUT, 15.5 k flip-flops, 96 multipliers of 9 bits, 46 block RAMs."""

from lepton.fpga.board import Board
from lepton.fpga.gowin import TangNano20kPlatform
from lepton.fpga.pll import GowinPll
from lepton.rtl.config import NpuConfig

# A table that holds 64 bits of memory takes the place of eight others and six flip-flops, so few memories can be made
# of them: the accumulators. Block RAM: 18 for the weights, 16 activations, 5 parameters, 4 program.
CONFIG = NpuConfig(
    "tang-nano-20k",
    rows=16,
    cols=4,
    lanes=2,
    pe="paired",
    act_bytes=32768,
    weight_tiles=512,
    params=1024,
    program_words=1024,
    acc_depth=32,
    line_depth=64,
    multiplier="gowin",
    lutram="acc",
)

BOARD = Board(
    name="tang-nano-20k",
    title="Sipeed Tang Nano 20K, GW2AR-18",
    family="gowin",
    config=CONFIG,
    mhz=54,
    platform=TangNano20kPlatform,
    pll=GowinPll,
    bounds={"lut": (12_800, 15_000), "ff": (10_300, 12_200), "multiplier": (56, 56), "bram": (44, 46)},
    leds=6,
    loader="tangnano20k",
    reset=("button", 0),
    place=("--freq", "54"),
    caveat="nextpnr's timing model of Gowin is thin: the frequency is optimistic",
)

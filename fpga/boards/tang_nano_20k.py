"""Tang Nano 20K with the GW2AR-18: 20.7 k LUT, 15.5 k flip-flops, 96 multipliers of 9 bits, 46 block RAMs."""

from lepton.fpga.board import Board
from lepton.fpga.gowin import TangNano20kPlatform
from lepton.fpga.pll import GowinPll
from lepton.rtl.spec.config import NpuConfig

# A table that holds 64 bits of memory takes the place of eight others and six flip-flops, so few memories can be made
# of them: the accumulators. A flip-flop that takes no table's output still takes the table beside it, so wide registers
# cost twice. Block RAM: 18 for the weights, 8 activations, 5 parameters, 8 program.
CONFIG = NpuConfig(
    "tang-nano-20k",
    rows=8,
    cols=8,
    lanes=1,
    pe="paired",
    act_bytes=16384,
    weight_tiles=512,
    params=1024,
    program_words=2048,
    acc_depth=16,
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
    bounds={"lut": (11_000, 12_800), "ff": (9_200, 10_600), "multiplier": (44, 44), "bram": (40, 40)},
    leds=6,
    loader="tangnano20k",
    reset=("button", 0),
    place=("--freq", "54"),
    logic_share=1.6,  # speed is not what lacks: with less, ABC9 makes the queues three times as large
    caveat="nextpnr's timing model of Gowin is thin: the frequency is optimistic",
)

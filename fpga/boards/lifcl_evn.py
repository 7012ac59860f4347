"""CrossLink-NX Evaluation Board with the LIFCL-40: 32 k LUT, 56 multipliers of 18 bits, 84 block RAMs."""

from lepton.fpga.board import Board
from lepton.fpga.nexus import LifclEvnPlatform
from lepton.fpga.pll import NexusOscillator
from lepton.rtl.spec.config import NpuConfig

CONFIG = NpuConfig(
    "lifcl-evn",
    rows=8,
    cols=8,
    lanes=4,
    act_bytes=16384,
    weight_tiles=512,
    params=1024,
    program_words=512,
    acc_depth=256,
    line_depth=64,
    lutram="line",
)

BOARD = Board(
    name="lifcl-evn",
    title="Lattice CrossLink-NX Evaluation Board, LIFCL-40",
    family="nexus",
    config=CONFIG,
    mhz=50,
    platform=LifclEvnPlatform,
    pll=NexusOscillator,
    bounds={"lut": (14_400, 16_800), "ff": (13_000, 15_400), "multiplier": (96, 96), "bram": (50, 50)},
    leds=8,
    reset=("button", 0),
    bitstream=False,
    caveat="place and route only: the clock is the chip's oscillator, which is not exact enough for a UART",
    seeds=(2, 1, 3, 4),
    place=("--router", "router1"),  # the other one does not route the clock
)

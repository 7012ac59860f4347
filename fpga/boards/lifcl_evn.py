"""CrossLink-NX Evaluation Board with the LIFCL-40: 32 k LUT, 56 multipliers of 18 bits, 84 block RAMs."""

from lepton.fpga.board import Board
from lepton.fpga.nexus import LifclEvnPlatform
from lepton.fpga.pll import NexusOscillator
from lepton.rtl.config import NpuConfig

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
    bounds={"lut": (0, 22_000), "ff": (0, 22_000), "multiplier": (0, 112), "bram": (0, 84)},
    leds=8,
    reset=("button", 0),
    bitstream=False,
    caveat="place and route only: the clock is the chip's oscillator, which is not exact enough for a UART",
)

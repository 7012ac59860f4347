"""ULX3S with the LFE5U-85F: 84 k LUT, 156 multipliers, 208 block RAMs."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from lepton.fpga.board import Board
from lepton.fpga.pll import Ecp5Pll
from lepton.rtl.spec.config import NpuConfig

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
    params=2816,
    program_words=2560,
    acc_depth=64,
    line_depth=64,
    multiplier="ecp5",
    cell_rows=7,
    lutram="acc line",
)


PRODUCTS = (32, 33, 34, 35)
"""Numbers that Amaranth gives the four products of a requantizer."""


def _floorplan(config: NpuConfig) -> dict[str, str]:
    """Sites of the array's multipliers and of the block RAMs: the array as it is drawn.

    Columns from left to right (the correction column in the middle, from where it reaches all), three rows of paired
    PEs to each row of multipliers on the chip, with their weights in the block RAMs below; activations at the bottom.
    Left to itself, the placer makes a heap in the middle, spreads it, and ends with twice the wire, which does not
    route.
    """
    blocks = (*range(4, 59, 9), *range(69, 115, 9))  # each four multipliers or four block RAMs wide
    sites: dict[str, str] = {}

    def memories(y):
        return [f"X{x + 2 * k}/Y{y}/EBR{k}" for x in blocks for k in range(4)]

    def spread(cells, places):
        sites.update((cell, places[k * len(places) // len(cells)]) for k, cell in enumerate(cells))

    def ram(unit, count=1, first=0):
        return [f"top.npu.npu.{unit}.0.{k}" for k in range(first, first + count)]

    # Parameters lie in the middle, below the tail's multipliers, where some weights should be; those are at both ends
    # of the last row.
    middle, last = memories(70), memories(82)
    below = [*last[:5], *middle[:19], *middle[33:], *last[47:]]
    below.sort(key=lambda site: int(site[1:].split("/")[0]))
    half = config.cols // 2
    columns = (*range(half), config.cols, *range(half, config.cols))
    for first, multiplier_y, places in ((0, 10, memories(22)), (3, 34, memories(46)), (6, 58, below)):
        rows = range(first, first + 3)
        pairs = [(2 * r + odd, k) for k in range(half) for r in rows for odd in (0, 1)]
        spread([cell for r, k in pairs for cell in ram(f"tile_supply.weight_store.row_{r}", 1, k)], places)
        cells = []
        for c in columns:
            cells += [f"top.npu.npu.array.multiplier_{r}.multiplier_{c}" for r in rows if r < config.cell_rows]
            if config.cell_rows in rows and c % 2 == 0 and c // 2 < config.lanes:  # room for the requantizers'
                cells += [rf"$flatten\top.\npu.\npu.\tail.\tail_lane_{c // 2}.\requantizer.${n}" for n in PRODUCTS]
        spread(cells, [f"X{x + k}/Y{multiplier_y}/MULT18_{k}" for x in blocks for k in (0, 1, 4, 5)])
    spread(ram("params.memory", 14), middle[19:33])
    spread([cell for k in range(config.banks) for cell in ram(f"activations.act_memory.bank_{k}")], last[5:37])
    spread(ram("program.memory", 10), last[37:47])
    free = [site for site in memories(46) if site not in sites.values()]
    spread([*ram("link.buffer"), *ram("tile_supply.weight_store.descriptors", 3)], free)
    return sites


BOARD = Board(
    name="ulx3s-85f",
    title="Radiona ULX3S, LFE5U-85F",
    family="ecp5",
    config=CONFIG,
    mhz=70,
    platform=ULX3S_85F_Platform,
    pll=Ecp5Pll,
    bounds={"lut": (45_000, 50_000), "ff": (33_000, 34_500), "multiplier": (151, 151), "bram": (200, 208)},
    sites=_floorplan(CONFIG),
    logic_share=0.21,
    place=("--tmg-ripup",),
    seeds=(2, 1, 3, 4),
    leds=8,
    loader="ulx3s",
    reset=("button_fire", 0),
)

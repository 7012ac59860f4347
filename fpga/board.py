# amaranth: UnusedElaboratable=no
"""What the flow needs to know of a board."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.errors import LeptonError


class BoardError(LeptonError, ValueError):
    """A board that is not known or not described right; the message is one line."""


@dataclass(frozen=True)
class Board:
    """One board: its part, the accelerator in it, clock and pins."""

    name: str
    """As on the command line."""
    title: str
    """For people: board and part."""
    family: str
    """Key of `flow.FAMILIES`."""
    config: NpuConfig
    mhz: float
    """Clock of the accelerator that place and route must reach."""
    platform: Callable
    """Makes the Amaranth platform: part, package, speed and pins."""
    pll: Callable
    """`pll(reference_hz, hz)`: a component of `fpga.pll`."""
    bounds: dict[str, tuple[int, int]]
    """Least and most of each resource (`flow.Family.cells`) after synthesis; a build outside fails."""
    uart: tuple[str, int] | None = ("uart", 0)
    """Resource with `rx` and `tx`."""
    baud: int = 1_000_000
    leds: int = 0
    """Resources `led` 0 and on that show the state."""
    reset: tuple[str, int] | None = None
    """Resource of the reset button."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8)
    """Tried in this order until the clock is met."""
    place: tuple[str, ...] = ()
    """More options for place and route."""
    sites: dict[str, str] = field(default_factory=dict)
    """Cell of the netlist: the site (nextpnr's BEL) where it goes, for those that the placer does not choose."""
    logic_share: float = 0.5
    """Of the clock's period, what ABC9 may spend in logic before it trades area for speed; wires take the rest."""
    loader: str = ""
    """The board's name for openFPGALoader, if it knows the board."""
    bitstream: bool = True
    """False: place and route only, no pins of a real board."""
    caveat: str = ""
    """What a reader of the figures must know."""

    @property
    def clock_hz(self) -> float:
        """What the PLL makes of `mhz`."""
        frequency: float = self.pll(self.platform().default_clk_frequency, self.mhz * 1e6).frequency
        return frequency

"""One file a board; each has a `BOARD`. Adding a board is adding a file (docs/boards.md)."""

import importlib
import pkgutil

from lepton.fpga.board import Board, BoardError
from lepton.rtl.spec.timing import link_timeout
from lepton.sw.errors import need
from lepton.sw.targets import Target


def board_names() -> list[str]:
    """Boards there are, from the files in `fpga/boards`."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def get_board(name: str) -> Board:
    """The board of that name. Raises BoardError naming the known ones, MissingExtraError."""
    if name not in board_names():
        raise BoardError(f"unknown board {name!r}; known: {', '.join(board_names())}")
    need("fpga", "amaranth", "amaranth_boards")
    module = importlib.import_module(f"lepton.fpga.boards.{name.replace('-', '_')}")
    board: Board = module.BOARD
    return board


def targets() -> list[Target]:
    """All boards as machines with a name, the entry point of `lepton.configs`. Raises as `get_board` does."""
    boards = [get_board(name) for name in board_names()]
    return [Target(b.name, b.config, b.mhz, b.title, link_timeout(b.clock_hz)) for b in boards]

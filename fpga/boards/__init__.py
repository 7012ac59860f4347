"""One file a board; each has a `BOARD`. Adding a board is adding a file (docs/boards.md)."""

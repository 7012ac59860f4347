"""Paths that nextpnr does not check: from the clock to the activation memories, whose clock is twice as fast.

`python -m lepton.verif.netlist.half_cycle BOARD` reads netlist and delays of an iCE40 build. It prints the slowest path
to the memories' addresses in the half of a cycle that reads, and to all their inputs in the half that writes: the
former has half a cycle, the latter a whole one. A path counts if, in that half, a change at its start can change its
end: the tables of its cells say so. From a register of `STILL` no read follows within a cycle of its change.
"""

import argparse
import itertools
import re
import sys
from functools import lru_cache
from pathlib import Path

from lepton.fpga import flow
from lepton.fpga.board import BoardError
from lepton.fpga.boards import get_board

MEMORY = "act_memory."
STILL = "status["
SETUP = 0.27
CLOCKS = {"ICESTORM_RAM": "RCLK", "ICESTORM_DSP": "CLK", "ICESTORM_SPRAM": "CLOCK"}


def _plain(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name)


def read_delays(path: Path) -> tuple[dict, dict]:
    """Nanoseconds of an SDF file: from cell, port to cell, port, and through cell from port to port."""
    wires, through, cell = {}, {}, ""
    for line in path.read_text().splitlines():
        if found := re.match(r"\s*\(INTERCONNECT (\S+)/(\S+) (\S+)/(\S+) \(\d+:\d+:(\d+)\)", line):
            wires[_plain(found[1]), found[2], _plain(found[3]), found[4]] = int(found[5]) / 1000
        elif found := re.match(r"\s*\(INSTANCE (\S+)\)", line):
            cell = _plain(found[1])
        elif found := re.match(r"\s*\(IOPATH \(?(?:posedge )?(\w+)\)? (\w+) \(\d+:\d+:(\d+)\) \(\d+:\d+:(\d+)\)", line):
            through[cell, found[1], found[2]] = max(int(found[3]), int(found[4])) / 1000
    return wires, through


class HalfCycle:
    """Slowest paths in one half of the cycle. `reading`: the first, in which `seen` and `toggle` of `SpramActMemory`
    differ. `still`: leave out paths from registers of `STILL`."""

    def __init__(self, top: dict, wires: dict, through: dict, reading: bool, still: bool):
        self._cells, self._wires, self._through, self._still = top["cells"], wires, through, still
        self._names = {bit: name for name, net in top["netnames"].items() for bit in net["bits"]}
        self._drivers = {}
        for name, cell in self._cells.items():
            for port, bits in cell["connections"].items():
                if bits and cell["port_directions"][port] == "output":
                    self._drivers[bits[0]] = (name, port)
        (seen,) = (net["bits"][0] for name, net in top["netnames"].items() if name.endswith(f"{MEMORY}seen"))
        self._known = {seen: 0}
        (toggle,) = (
            bit for _, bit in self._inputs(self._drivers[seen][0]) if bit is not None
        )  # its register copies it
        self._known[toggle] = int(reading)
        changed = True
        while changed:  # what the half makes constant
            changed = False
            for name, cell in self._cells.items():
                out = cell["connections"].get("O")
                if cell["type"] == "ICESTORM_LC" and out and out[0] not in self._known and not self._register(name):
                    values = {self._table(name, v) for v in itertools.product(*self._values(name))}
                    if len(values) == 1:
                        self._known[out[0]] = values.pop()
                        changed = True
        self.arrival = lru_cache(None)(self._arrival)

    def _inputs(self, name):
        return [(f"I{k}", (self._cells[name]["connections"][f"I{k}"] or [None])[0]) for k in range(4)]

    def _register(self, name) -> bool:
        return "1" in self._cells[name]["parameters"]["DFF_ENABLE"]

    def _table(self, name, values) -> int:
        return int(self._cells[name]["parameters"]["LUT_INIT"], 2) >> sum(v << k for k, v in enumerate(values)) & 1

    def _values(self, name):
        return [(0,) if b is None else (self._known[b],) if b in self._known else (0, 1) for _, b in self._inputs(name)]

    def _matter(self, name):
        """Inputs of a table that can change its output."""
        values = self._values(name)
        for k, choice in enumerate(values):
            others = itertools.product(*values[:k], (0, 1), *values[k + 1 :])
            if len(choice) == 2 and any(
                self._table(name, v) != self._table(name, (*v[:k], 1 - v[k], *v[k + 1 :])) for v in others
            ):
                yield f"I{k}"

    def _arrival(self, name, port) -> tuple[float, str] | None:
        """Latest change of an output behind the clock's edge, and the register it comes from."""
        cell = self._cells[name]
        net = self._names.get(cell["connections"][port][0], name)
        if cell["type"] in CLOCKS:
            return self._through[name, CLOCKS[cell["type"]], port], net
        if cell["type"] != "ICESTORM_LC":
            return None
        if port == "O" and self._register(name):
            return None if self._still and STILL in net else (self._through[name, "CLK", "O"], net)
        ports = self._matter(name) if port == "O" else [p for p in ("I1", "I2", "CIN") if cell["connections"][p]]
        return max((a for p in ports if (a := self.at(name, p, self._through[name, p, port]))), default=None)

    def at(self, name, port, more: float) -> tuple[float, str] | None:
        """The same for an input, and `more`."""
        bits = self._cells[name]["connections"][port]
        if not bits or bits[0] in self._known or bits[0] not in self._drivers:
            return None
        source = self._drivers[bits[0]]
        found = self.arrival(*source)
        return found and (found[0] + self._wires[(*source, name, port)] + more, found[1])

    def slowest(self, ports: str) -> tuple[float, str]:
        """Nanoseconds to inputs of the memories that match `ports`, and the register they come from."""
        found = []
        for name, cell in self._cells.items():
            if cell["type"] == "ICESTORM_SPRAM" and MEMORY in name:
                for port, direction in cell["port_directions"].items():
                    if direction == "input" and re.fullmatch(ports, port):
                        found.append(self.at(name, port, SETUP))
        return max(f for f in found if f)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lepton.verif.netlist.half_cycle", description=__doc__.splitlines()[0]
    )
    parser.add_argument("board", metavar="BOARD")
    args = parser.parse_args()
    try:
        board = get_board(args.board)
        folder = Path("build/fpga") / board.name
        top = flow.load_json(folder / "routed.json")["modules"]["top"]
        if not (folder / "routed.sdf").exists():
            raise flow.FlowError(f"{folder / 'routed.sdf'}: no delays; build it with `lepton fpga build {board.name}`")
        delays = read_delays(folder / "routed.sdf")
        sys.setrecursionlimit(100_000)  # carry chains
        cycle, fails = 1000 / board.mhz, False
        for what, reading, still, ports, limit in (
            ("read, registers that stand still", True, False, r"ADDRESS_\d+|WREN", None),
            ("read", True, True, r"ADDRESS_\d+|WREN", cycle / 2),
            ("write", False, False, r"(ADDRESS|DATAIN|MASKWREN)_\d+|WREN", cycle),
        ):
            time, start = HalfCycle(top, *delays, reading, still).slowest(ports)
            fails |= bool(limit and time > limit)
            print(f"{what}: {time:.2f} ns{f' of {limit:.2f}' if limit else ''}, from {start}")
    except (BoardError, flow.FlowError) as error:
        print(f"half_cycle: error: {error}", file=sys.stderr)
        return 2
    return int(fails)


if __name__ == "__main__":
    sys.exit(main())

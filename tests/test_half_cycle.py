"""Slowest paths to a memory, netlist made by hand: a register for each half of the cycle, one that stands still."""

import pytest

from lepton.verif.netlist.half_cycle import HalfCycle, read_delays

SELECT = sum((k & 1 if (k >> 2 & 1) != (k >> 3) else k >> 1 & 1) << k for k in range(16))
"""I2 != I3 ? I0 : I1"""


def cell(kind, outputs, **links):
    directions = {port: "output" if port in outputs else "input" for port in links}
    connections = {port: [] if bit is None else [bit] for port, bit in links.items()}
    return {"type": kind, "connections": connections, "port_directions": directions, "parameters": {}}


def logic(table, register, out, *inputs):
    made = cell("ICESTORM_LC", "O", O=out, **{f"I{k}": bit for k, bit in enumerate((*inputs, *[None] * 4)[:4])})
    made["parameters"] = {"LUT_INIT": f"{table:016b}", "DFF_ENABLE": str(int(register))}
    return made


def make(folder):
    names = {"x.act_memory.seen": 1, "x.act_memory.toggle": 2, "reads": 3, "writes": 4, "x.status[0]": 5}
    cells = {"seen": logic(0b10, True, 1, 2), "toggle": logic(0b01, True, 2, 2)}
    cells |= {"reads": logic(0, True, 3), "writes": logic(0, True, 4), "still": logic(0, True, 5)}
    cells["gate"] = logic(0b1000, False, 6, 3, 5)
    cells["mux"] = logic(SELECT, False, 7, 6, 4, 2, 1)
    cells["x.act_memory.cell_0"] = cell("ICESTORM_SPRAM", "", ADDRESS_0=7)
    wires = [("reads", "gate/I0", 1), ("still", "gate/I1", 9), ("gate", "mux/I0", 2), ("writes", "mux/I1", 20)]
    wires += [("mux", r"x.act_memory.cell_0/ADDRESS_0", 3), ("toggle", "mux/I2", 1), ("seen", "mux/I3", 1)]
    lines = [f" (INTERCONNECT {a}/O {b} ({n}000:{n}000:{n}000) ({n}000:{n}000:{n}000))" for a, b, n in wires]
    for name in cells:
        lines.append(f" (INSTANCE {name})")
        ports = ["I0", "I1", "I2", "I3"] if name in ("gate", "mux") else ["CLK"]
        lines += [f"  (IOPATH {p} O (1000:1000:1000) (900:900:900))" for p in ports]
    (folder / "x.sdf").write_text("\n".join(lines))
    return {"cells": cells, "netnames": {name: {"bits": [bit]} for name, bit in names.items()}}, folder / "x.sdf"


@pytest.mark.parametrize(
    "reading,still,time,start",
    [(True, True, 1 + 1 + 1 + 2 + 1 + 3, "reads"), (True, False, 16 + 1, "x.status[0]"), (False, True, 25, "writes")],
)
def test_slowest(tmp_path, reading, still, time, start):
    top, sdf = make(tmp_path)
    found = HalfCycle(top, *read_delays(sdf), reading, still).slowest("ADDRESS_0")
    assert found == (pytest.approx(time + 0.27), start)

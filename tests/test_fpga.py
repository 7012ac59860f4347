"""Boards and the flow, short of place and route."""

import json
import re
from dataclasses import replace

import pytest

from lepton.fpga import flow, report
from lepton.fpga.board import BoardError
from lepton.fpga.boards import board_names, get_board
from lepton.fpga.build import build
from lepton.fpga.pll import Ecp5Pll, GowinPll, NexusOscillator, PllError
from lepton.rtl.spec.config import UP5K
from lepton.sw.cli import main
from lepton.sw.compiler import compile_model
from lepton.sw.graph.reader import load_model

SMALL = dict(rows=4, cols=2, lanes=1, act_bytes=256, weight_tiles=16, params=16, program_words=64, acc_depth=16)
ON_CHIP = {
    "icebreaker": ["kws_ref_model"],
    "lifcl-evn": ["kws_ref_model"],
    "tang-nano-20k": ["kws_ref_model"],
    "ulx3s-25f": ["kws_ref_model"],
    "ulx3s-85f": ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"],
}


def small(board, **changes):
    """The board with an accelerator of its style that is quick to build."""
    if board.config.compact:
        return board
    config = replace(board.config, name="small", line_depth=16, cell_rows=1, **SMALL | changes)
    return replace(board, config=config, sites={})


@pytest.mark.parametrize("name", board_names())
def test_board(name):
    """The file says all there is to say, and the tools get clock, UART and LEDs at pins."""
    board = get_board(name)
    assert board.name == board.config.name == name
    assert board.family in flow.FAMILIES
    cells = flow.FAMILIES[board.family].cells
    assert set(board.bounds) == set(cells)
    assert all(0 <= low <= high for low, high in board.bounds.values())
    plan = flow.make_plan(small(board))
    constraints = b"".join(data for file, data in plan.files.items() if not file.endswith(".il")).decode()
    for pin in ("rx", "tx", *(f"led_{k}_" for k in range(board.leds))):
        assert pin in constraints


@pytest.mark.parametrize("name,models", ON_CHIP.items())
def test_models_fit(shared, name, models):
    """What the board's page says: these models' weights are on the chip, each alone."""
    for model in models:
        program = compile_model(load_model(shared / "models" / f"{model}.tflite"), get_board(name).config)
        assert program.tiles and not program.external


def test_unknown_board(capsys):
    with pytest.raises(BoardError, match="unknown board 'nexys'; known: .*ulx3s-85f"):
        get_board("nexys")
    assert main(["fpga", "build", "nexys"]) == 2
    assert capsys.readouterr().err.startswith("lepton: error: unknown board 'nexys'")


@pytest.mark.parametrize("mhz", [50, 70, 100, 62.5])
def test_ecp5_pll(mhz):
    assert abs(Ecp5Pll(25e6, mhz * 1e6).frequency - mhz * 1e6) < 1


def test_gowin_pll():
    assert GowinPll(27e6, 54e6).frequency == 54e6
    assert abs(GowinPll(27e6, 50e6).frequency - 50e6) < 0.5e6
    with pytest.raises(PllError, match="no PLL setting makes 2 MHz of 27 MHz"):
        GowinPll(27e6, 2e6)


def test_nexus_oscillator():
    assert NexusOscillator(450e6, 50e6).frequency == 50e6
    with pytest.raises(PllError, match="no divisor makes 130 MHz of 450 MHz"):
        NexusOscillator(450e6, 130e6)


def test_ecp5_pll_out_of_range():
    with pytest.raises(PllError, match="no PLL setting makes 1 MHz of 25 MHz"):
        Ecp5Pll(25e6, 1e6)


def test_synthesis(tmp_path):
    """A small accelerator through yosys: the style's cells, counted; bounds hold or fail."""
    board = small(get_board("ulx3s-85f"))
    plan = flow.make_plan(board)
    for name, data in plan.files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "top.ys").write_text(plan.script_nameless)
    flow.synthesize("top.ys", tmp_path)
    area = flow.area(board, flow.load_json(tmp_path / "synthesis.json"))
    # One row of two paired PEs and the correction in cells, four for the lane; the other row in carry chains.
    assert area["multiplier"] == 3 + 4
    assert 1000 < area["lut"] < 10000 and area["ff"] > 1000 and area["bram"] > 0
    flow.check_area(replace(board, bounds={"multiplier": (7, 7)}), area)
    with pytest.raises(flow.FlowError, match="ulx3s-85f: area outside its recorded bounds: multiplier 7 is not 0 to 6"):
        flow.check_area(replace(board, bounds={"multiplier": (0, 6)}), area)


def test_build(tmp_path, monkeypatch):
    """Seeds in their order until one meets the clock, the netlist kept, what was tried written down; tools stand in."""
    board = replace(small(get_board("ulx3s-85f")), seeds=(7, 5, 9), bounds={}, mhz=70)
    speeds = {7: 69.0, 5: 71.5, 9: 80.0}
    plan = flow.make_plan(board)
    monkeypatch.setattr(flow, "make_plan", lambda board: plan)
    ran = []

    def synthesize(script, folder, tick):
        ran.append("synthesize")
        (folder / "synthesis.json").write_text('{"design": {"num_cells_by_type": {"LUT4": 9}}}')

    def run(command, folder, log, tick):
        ran.append((command[0], *(a for a in command if a in "579")))
        if speeds.get(int(ran[-1][-1]) if len(ran[-1]) > 1 else 0) is None and command[0] == "nextpnr-ecp5":
            raise flow.FlowError("nextpnr-ecp5: ERROR: giving up (log: place.log)")
        cell = {"used": 3, "available": 7}
        fmax = {"clk": {"achieved": speeds.get(int(ran[-1][-1]) if len(ran[-1]) > 1 else 0, 0), "constraint": 70}}
        utilization = {name: cell for name in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD")}
        (folder / "report.json").write_text(json.dumps({"fmax": fmax, "utilization": utilization}))
        return 10.0

    monkeypatch.setattr(flow, "synthesize", synthesize)
    monkeypatch.setattr(flow, "run", run)
    result = build(board, tmp_path)
    assert ran == ["synthesize", ("nextpnr-ecp5", "7"), ("nextpnr-ecp5", "5"), ("ecppack",)]
    assert (result["seed"], result["mhz"], result["used"]["lut"]) == (5, 71.5, [3, 7])
    assert result["bitstream"] == str(tmp_path / "top.bit")
    assert re.fullmatch(r"[0-9a-f]{7,}(-dirty)?|-", result["tree"])
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert json.loads((tmp_path / "tried.json").read_text()) == result["tried"]

    (tmp_path / "top.json.of").write_text((tmp_path / "top.json.of").read_text().partition(" ")[0] + " 4000")
    assert build(replace(board, bitstream=False), tmp_path)["seconds"] >= 4000
    assert ran[4:] == [("nextpnr-ecp5", "7"), ("nextpnr-ecp5", "5")]
    speeds[7] = None  # the router does not end
    assert build(board, tmp_path)["tried"][0] == {"seed": 7, "mhz": 0.0, "seconds": 0}
    speeds.update({5: 69.5, 9: 60.0})
    with pytest.raises(flow.FlowError, match="no seed of 7, 5, 9 reaches 70 MHz; the best, 5, 69.5 MHz"):
        build(board, tmp_path)
    assert not (tmp_path / "result.json").exists() and len(json.loads((tmp_path / "tried.json").read_text())) == 3
    assert build(board, tmp_path, synth_only=True)["area"]["lut"] == 9
    assert "synthesize" not in ran[1:]


def test_sites(tmp_path):
    """Sites get into the netlist; a cell that is not there is an error; a board's sites are one to a cell."""
    netlist = tmp_path / "top.json"
    cells = {"a.0": {"attributes": {}}, "b": {"attributes": {"keep": 1}}}
    netlist.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    board = replace(get_board("icebreaker"), sites={"b": "X4/Y22/EBR0"})
    flow.fix_sites(board, netlist)
    cells["b"]["attributes"]["BEL"] = "X4/Y22/EBR0"
    assert json.loads(netlist.read_text())["modules"]["top"]["cells"] == cells
    with pytest.raises(flow.FlowError, match="icebreaker: `sites` names a cell that the netlist does not have: c"):
        flow.fix_sites(replace(board, sites={"c": "X4/Y22/EBR0"}), netlist)
    for name in board_names():
        sites = get_board(name).sites
        assert len(set(sites.values())) == len(sites)


def test_reports():
    board = get_board("ulx3s-85f")
    cell = {"used": 3, "available": 7}
    report = {
        "fmax": {"pll": {"achieved": 81.5, "constraint": 70.0}, "clk": {"achieved": 300.0, "constraint": 25.0}},
        "utilization": {name: cell for name in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD")},
    }
    assert flow.clock(report, 70) == 81.5
    assert flow.utilization(board, report) == {k: [3, 7] for k in ("lut", "ff", "multiplier", "bram")}
    assert flow.clock(report, 65.5) == 81.5
    with pytest.raises(flow.FlowError, match="no clock of 60 MHz"):
        flow.clock(report, 60)


def test_tool_fails(tmp_path):
    (tmp_path / "bad.ys").write_text("no_such_command\n")
    with pytest.raises(flow.FlowError, match="yosys: ERROR: No such command: no_such_command"):
        flow.synthesize("bad.ys", tmp_path)


def test_report(tmp_path, shared):
    """A board that is built, one that is synthesized, one that is neither: each has its row. A result is kept while
    configuration and clock are the same, what was measured till the next build."""
    boards = [get_board(name) for name in ("icebreaker", "ulx3s-25f", "ulx3s-85f")]
    measured = []

    def measure(config, path):
        measured.append((config.name, path.stem))
        return "it is too big" if path.stem == "ad01_int8" else 1_000_000

    def collect():
        rows = report.collect(boards, tmp_path / "build", tmp_path / "fpga.json", measure)
        (tmp_path / "fpga.json").write_text(json.dumps(rows))
        return rows

    for board, name, data in (
        (boards[1], "area.json", {"lut": 20_123, "ff": 1, "multiplier": 2, "bram": 3}),
        (
            boards[2],
            "result.json",
            {
                "board": "ulx3s-85f",
                "title": "its title",
                "config": boards[2].config.to_dict(),
                "asked": get_board("ulx3s-85f").mhz,
                "mhz": 81.25,
            }
            | {
                "used": {"lut": [60_456, 83_640]},
                "seed": 4,
                "tree": "0123abc",
                "seconds": 125,
                "bitstream": "x",
                "caveat": "be careful",
            },
        ),
    ):
        (tmp_path / "build" / board.name).mkdir(parents=True)
        (tmp_path / "build" / board.name / name).write_text(json.dumps(data))
    page = report.page(collect())
    assert "| 16 | - | - | - | - | not built (18) | - | - | - |" in page
    assert "| 64 | 20,123 | 1 | 2 | 3 | synthesized only (50) | - | - | - |" in page
    (tmp_path / "build" / "ulx3s-25f" / "tried.json").write_text('[{"mhz": 47.31}, {"mhz": 49.04}]')
    assert "| 3 | 49.0 in 2 tries: missed (50) | - | - | - |" in report.page(collect())
    (tmp_path / "build" / "ulx3s-25f" / "tried.json").unlink()
    built = "60,456 / 83,640 | - | - | - | 81.2 (70) | 4 | 2:05 min | 0123abc |"
    assert f"| ulx3s-85f | its title | 18x16 paired | 288 | {built}" in page
    assert "- ulx3s-85f: be careful" in page and "- AD on icebreaker: it is too big." in page
    assert page.count(" 70 (1,000,000 cycles) |") == 3 and page.count(" [50 (1,000,000 cycles)] |") == 3
    assert "| GAP9 (NE16), chip | 240 | 1,054 | 1,370 | 578 | 3,704 |" in page
    assert "| Syntiant NDP120, chip | 98.7 | 195 | 676 | 244 | - |" in page and "fpgaConvNet, ZC706" in page
    assert len(measured) == 12

    result = tmp_path / "build" / "ulx3s-85f" / "result.json"
    collect()
    assert len(measured) == 12
    result.write_text(result.read_text().replace("125", "126"))
    collect()
    assert len(measured) == 16
    result.unlink()
    assert report.page(collect()) == page.replace("2:05", "2:06") and len(measured) == 16
    boards[2] = replace(boards[2], mhz=100)  # the build that was kept is not of this board
    rows = collect()
    assert rows["ulx3s-85f"]["area"] is None and len(measured) == 16
    boards[0] = replace(boards[0], config=replace(boards[0].config, acc_depth=64))
    collect()
    assert len(measured) == 20


def test_cycles_are_measured(shared):
    """On the RTL; a model that does not run has its reason."""
    assert report.cycles_of(UP5K, shared / "models" / "ad01_int8.tflite").startswith(
        "configuration 'up5k' is too small: weights need"
    )
    assert report.cycles_of(UP5K, shared / "zoo" / "fc_100_37.tflite") > 300

"""Boards and the flow, short of place and route."""

from dataclasses import replace

import pytest

from lepton.fpga import flow
from lepton.fpga.board import BoardError, board_names, get_board
from lepton.fpga.pll import Ecp5Pll, GowinPll, PllError
from lepton.sw.cli import main
from lepton.sw.compiler import compile_model
from lepton.sw.model import load_model

SMALL = dict(rows=4, cols=2, lanes=1, act_bytes=256, weight_tiles=16, params=16, program_words=64, acc_depth=16)
ON_CHIP = {
    "tang-nano-20k": ["kws_ref_model"],
    "ulx3s-25f": ["kws_ref_model"],
    "ulx3s-85f": ["ad01_int8", "kws_ref_model", "pretrainedResnet_quant", "vww_96_int8"],
}


def small(board, **changes):
    """The board with an accelerator of its style that is quick to build."""
    if board.config.compact:
        return board
    config = replace(board.config, name="small", line_depth=16, cell_rows=1, **SMALL | changes)
    return replace(board, config=config)


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


def test_reports():
    board = get_board("ulx3s-85f")
    cell = {"used": 3, "available": 7}
    report = {
        "fmax": {"pll": {"achieved": 81.5, "constraint": 70.0}, "clk": {"achieved": 300.0, "constraint": 25.0}},
        "utilization": {name: cell for name in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD")},
    }
    assert flow.clock(report, 70) == 81.5
    assert flow.utilization(board, report) == {k: [3, 7] for k in ("lut", "ff", "multiplier", "bram")}
    with pytest.raises(flow.FlowError, match="no clock of 60 MHz"):
        flow.clock(report, 60)


def test_tool_fails(tmp_path):
    (tmp_path / "bad.ys").write_text("no_such_command\n")
    with pytest.raises(flow.FlowError, match="yosys: ERROR: No such command: no_such_command"):
        flow.synthesize("bad.ys", tmp_path)

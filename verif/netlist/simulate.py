"""Netlists simulated: what the tools made of the accelerator gives the bytes that TFLM gives.

`python -m lepton.verif.netlist.simulate BOARD` runs a network on the netlist of a board that is built (iCE40: the whole
board, after place and route, by its UART), or layers on that of a small accelerator of the board's multipliers and
memories (ECP5, Gowin: after synthesis).
"""

import argparse
import importlib.resources
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from amaranth.back import rtlil
from amaranth.lib import wiring

from lepton.fpga import flow
from lepton.fpga.board import Board, BoardError
from lepton.fpga.board_sim import PinModel, PtyBoard
from lepton.fpga.boards import get_board
from lepton.rtl.burst_memory import NpuWithMemory
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.device import serial_port
from lepton.sw.device.link import Device, LinkError, Transport
from lepton.sw.device.verilated import BackendError, SimDevice, SimTransport, build_library
from lepton.sw.graph.model import ModelError
from lepton.sw.report.bench import shared_models
from lepton.sw.session import DeviceEngine, Session
from lepton.verif.netlist import cells_ecp5, cells_gowin, cells_ice40
from lepton.verif.netlist.cells import LINT, Netlist

CELLS = {"ecp5": cells_ecp5.cells, "gowin": cells_gowin.cells, "ice40": cells_ice40.cells}
DIGITS = Path(str(importlib.resources.files("lepton.sw"))) / "models" / "digits.tflite"
LAYERS = ("conv3x3_s2_c3", "dw3x3_c16", "add_c12", "sigmoid_tanh", "fc_100_37")


def synthesize(component: wiring.Component, family: str) -> str:
    """Verilog of `component` (top module `npu`) made of the models of the cells that the flow's synthesis for `family`
    gave it. Raises FlowError when something in it has no model."""
    platform = object()  # there is one: vendor cells, not their twins
    tools = flow.FAMILIES[family]
    Path("build").mkdir(exist_ok=True)
    with TemporaryDirectory(dir="build", prefix="netlist-") as name:  # the tools do not see the system's folder
        folder = Path(name)
        (folder / "top.il").write_text(rtlil.convert(component, name="npu", platform=platform, emit_src=False))
        (folder / "synth.ys").write_text(
            f"read_rtlil top.il\n{tools.before}proc\nflatten -noscopeinfo\nrename -hide w:*\n"
            f"{tools.synth} -top npu {'-noiopads ' if family == 'gowin' else ''}-run begin:{tools.until}\n{tools.rest}"
            "hierarchy -check\nblackbox =A:whitebox\nwrite_json net.json\n"
        )
        flow.synthesize("synth.ys", folder)
        top = flow.load_json(folder / "net.json")["modules"]["npu"]
    netlist = Netlist("npu")
    for port, about in top["ports"].items():
        netlist.port(port, about["direction"], about["bits"])
    for name, cell in top["cells"].items():
        memory = {p: v for p, v in cell["parameters"].items() if p.startswith(("INITVAL_", "INIT_RAM_"))}
        if any("1" in str(v) for v in memory.values()):
            raise flow.FlowError(f"{name}: memories that do not wake up with zeros have no model")
        parameters = {p: v for p, v in cell["parameters"].items() if p not in memory}
        netlist.cell(cell["type"], name, parameters, cell["connections"])
    return f"{LINT}{netlist.verilog()}{CELLS[family]()}"


class SlowDevice(Device):
    """`Device` for a board that is simulated: it waits longer."""

    TIMES = 1000

    def __init__(self, transport: Transport, *, timeout: float = 1.0, **options):
        super().__init__(transport, timeout=self.TIMES * timeout, **options)

    def wait(self, timeout: float = 10.0, poll: float = 0.001):
        return super().wait(self.TIMES * timeout, poll)


def _case(model: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first inputs of a model, and what TFLM gives for them."""
    data = np.load(model.with_suffix(".npz"))
    x, y = ("x", "tflm") if "tflm" in data else ("input", "output")
    return data[x][:count], data[y][:count]


def compare_board(board: Board, path: Path, model: Path, count: int) -> None:
    """Run the first `count` inputs of `model` on a netlist of the whole board, from its pins, by the driver a user has.

    Raises FlowError when an output is not what TFLM gave.
    """
    bits = round(board.mhz * 1e6 / board.baud)
    pty = PtyBoard(PinModel(cells_ice40.board_verilog(path, board), f"{board.name}-netlist", bits, cells_ice40.PULSES))
    x, want = _case(model, count)
    begin = time.monotonic()
    with patch.object(serial_port, "Device", SlowDevice):
        session = Session(model, backend=f"serial:{pty.port}")
        print(f"{path} answers at {pty.port}: {session.config.rows}x{session.config.cols}", flush=True)
        found = session.run(x)
        session.close()
    pty.close()
    report = session.report
    assert report
    print(
        f"{model.stem} on {path}: {report['cycles']:,} cycles an inference, {pty.model.cycles:,} cycles of "
        f"{board.mhz:g} MHz with loading over the UART, {time.monotonic() - begin:.0f} s"
    )
    _check(f"{model.stem} on {path}", found, want)


def small(config: NpuConfig) -> NpuConfig:
    """`config` with an array of eight rows (four, with single PEs) and four columns: multipliers, memories and their
    styles stay."""
    rows = 8 if config.pe == "paired" else 4
    return replace(config, name=f"{config.name}-small", rows=rows, cols=4, lanes=2, cell_rows=min(config.cell_rows, 2))


def compare_layers(board: Board) -> None:
    """Run the digits and layers on the netlist of a small accelerator.

    Raises FlowError when an output is not what TFLM gave.
    """
    config = small(board.config)
    begin = time.monotonic()
    text = synthesize(NpuWithMemory(config), board.family)
    print(
        f"{config.name}: {config.rows}x{config.cols} {config.pe}, synthesized in {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    library = build_library(text, config.name)
    zoo = shared_models()[0].parents[1] / "zoo"
    for model in (DIGITS, *(zoo / f"{name}.tflite" for name in LAYERS)):
        x, want = _case(model, 2)
        session = Session(model, config, "rtl")
        session._engine = DeviceEngine(SimDevice(SimTransport(config, library)), session.program)
        found = session.run(x)
        assert session.report
        _check(f"{model.stem}, {session.report['cycles']:,} cycles", found, want)


def _check(what: str, found: np.ndarray, want: np.ndarray) -> None:
    differ = int(np.count_nonzero(found != want))
    if differ:
        raise flow.FlowError(f"{what}: {differ} of {want.size} bytes are not TFLM's")
    print(f"{what}: {want.size} bytes of {len(want)} inference{'s' * (len(want) > 1)} are TFLM's", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lepton.verif.netlist.simulate", description=__doc__.splitlines()[0]
    )
    parser.add_argument("board", metavar="BOARD")
    parser.add_argument("--netlist", type=Path, help="of the whole board (default: routed.json in its build/fpga)")
    parser.add_argument("--model", type=Path, help="with its inputs beside it (default: the keyword spotting one)")
    parser.add_argument("--count", type=int, default=1, help="inputs to run on a whole board (default: %(default)s)")
    args = parser.parse_args()
    try:
        board = get_board(args.board)
        if board.family == "ice40":
            path = args.netlist or Path("build/fpga") / board.name / "routed.json"
            if not path.exists():
                raise flow.FlowError(f"{path}: no such netlist; build it with `lepton fpga build {board.name}`")
            kws = next(path for path in shared_models() if "kws" in path.name)
            compare_board(board, path, args.model or kws, args.count)
        elif board.family in CELLS:
            compare_layers(board)
        else:
            raise flow.FlowError(f"{board.name}: no models of the cells of {board.family}")
    except (BackendError, BoardError, LinkError, ModelError, flow.FlowError) as error:
        print(f"netlist: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

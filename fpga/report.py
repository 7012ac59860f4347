"""docs/fpga.md: what each board reaches, from the builds' results and the cycles of the reference models."""

import json
from pathlib import Path

from lepton.fpga.board import Board
from lepton.fpga.boards import board_names, get_board
from lepton.fpga.flow import FlowError
from lepton.rtl.spec.config import NpuConfig

RESULTS = Path("docs/fpga.json")  # rows of all boards, kept in the repository
PAGE = Path("docs/fpga.md")
BUILDS = Path("build/fpga")
ORDER = ("IC", "KWS", "VWW", "AD")
PEERS = (  # system, MHz, milliseconds an inference: IC, KWS, VWW, AD
    ("GAP9 (NE16), chip", "240", (0.949, 0.73, 1.73, 0.27)),
    ("Syntiant NDP120, chip", "98.7", (5.12, 1.48, 4.10, None)),
    ("fpgaConvNet, ZC706", "187 to 200", (0.147, None, 0.72, None)),
    ("fpgaConvNet, ZedBoard", "111 to 143", (0.411, 0.324, 9.49, None)),
)

HEAD = """\
# Boards

Written by `make fpga-report` from the builds in `build/fpga` and the rows of earlier builds in `docs/fpga.json`.
How to build and add a board: [boards.md](boards.md).

MHz is what place and route reports after routing for the slowest path of the accelerator's clock, at the seed named;
asked is the clock the board gets. The open tools' timing models are not the vendors': a caveat stands where that
matters. Nobody has measured these on a board yet. Time is from sources to bitstream, on one core. A multiplier is the
family's: 18x18 bits (ECP5), 16x16 (iCE40), 9x9 (Gowin, Nexus). Where place and route has not met the clock yet, the
row has what synthesis counted. A row is of the tree (commit) named; what changed since is not in it.
"""
SPEED = """
## Inferences per second

The clock asked over the cycles of an inference, without the transfer of input and output. `make fpga-report` measures
the cycles on the RTL of the board's configuration (Verilator, counter CYCLES, one inference, output compared with the
golden model) for each new build. In brackets: a board whose clock is not proven. The others are
MLPerf Tiny's official results (closed division), 1 / time; fpgaConvNet quotes throughput of a stream of inputs.
"""


def cycles_of(config: NpuConfig, path: Path) -> int | str:
    """Cycles of one inference on the accelerator, measured on the RTL, or why the model does not run.

    Raises FlowError when the RTL's output is not the golden model's.
    """
    import numpy as np

    from lepton.sw.compiler import CompileError
    from lepton.sw.reference import golden
    from lepton.sw.report.bench import example_inputs
    from lepton.sw.session import Session

    session = Session(path, config, "rtl")
    try:
        external = len(session.program.external)
    except CompileError as error:
        return str(error).partition(": ")[2]
    if external > config.external_bytes:
        return f"{external:,} bytes of weights do not fit"
    (x,) = example_inputs(session, path)  # the reference models have one input
    if not np.array_equal(session.run(x)[0], golden.run(session.model, x)[0]):
        raise FlowError(f"{path.stem} on {config.name}: the RTL's output differs from the golden model's")
    assert session.report is not None
    return session.report["cycles"]


def synthesized(board: Board, builds: Path) -> dict:
    """The row of a board without a result. `area`: None if it was not even synthesized; `tried`: what missed the
    clock."""

    def read(name):
        path = builds / board.name / name
        return json.loads(path.read_text()) if path.exists() else None

    return {
        "board": board.name,
        "title": board.title,
        "config": board.config.to_dict(),
        "asked": board.mhz,
        "caveat": board.caveat,
        "area": read("area.json"),
        "tried": read("tried.json") or [],
    }


def collect(boards: list[Board], builds: Path = BUILDS, results: Path = RESULTS, measure=cycles_of) -> dict:
    """Rows by board. In this order: the build that is here; the kept row, if it is of the board's configuration and
    clock; what synthesis counted. A new build's cycles are measured."""
    from lepton.sw.report.bench import MODELS, shared_models

    kept = json.loads(results.read_text()) if results.exists() else {}
    rows = {}
    for board in boards:
        old = kept.get(board.name, {})
        if (old.get("config"), old.get("asked")) != (board.config.to_dict(), board.mhz):
            old = {}
        path = builds / board.name / "result.json"
        if path.exists():
            row = json.loads(path.read_text())
            row.pop("bitstream", None)
        elif "used" in old:
            row = old
        else:
            row = synthesized(board, builds)
            row["area"] = row["area"] or old.get("area")
        before = kept.get(board.name, {})
        row["cycles"] = before.get("cycles")
        same = row == before if "used" in row else row["config"] == before.get("config")
        if not same or row["cycles"] is None:
            config = NpuConfig.from_dict(row["config"])
            row["cycles"] = {MODELS[p.stem]: measure(config, p) for p in shared_models()}
        rows[board.name] = row
    return rows


def page(rows: dict) -> str:
    """The page of these rows."""
    lines = [
        HEAD,
        "| board | part | array | MAC/cycle | LUT | FF | multipliers | block RAM | MHz (asked) | seed | time | tree |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]

    def of(row, kind):
        if "used" not in row:
            return f"{row['area'][kind]:,}" if row["area"] and kind in row["area"] else "-"
        if kind not in row["used"]:
            return "-"
        used, there = row["used"][kind]
        return f"{used:,} / {there:,}"

    for name, row in rows.items():
        config = NpuConfig.from_dict(row["config"])
        array = f"{config.rows}x{config.cols}{' paired' if config.pe == 'paired' else ''}"
        cells = [name, row["title"], array, str(config.macs_per_cycle)]
        cells += [of(row, kind) for kind in ("lut", "ff", "multiplier", "bram")]
        if "used" in row:
            minutes = f"{row['seconds'] // 60}:{row['seconds'] % 60:02} min"
            cells += [f"{row['mhz']:.1f} ({row['asked']:g})", str(row["seed"]), minutes, row["tree"]]
        else:
            what = "synthesized only" if row["area"] else "not built"
            if row["tried"]:
                what = f"{max(t['mhz'] for t in row['tried']):.1f} in {len(row['tried'])} tries: missed"
            cells += [f"{what} ({row['asked']:g})", "-", "-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *(f"- {name}: {row['caveat']}" for name, row in rows.items() if row["caveat"])]
    lines += [
        SPEED,
        "| system | MHz | IC | KWS | VWW | AD |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for name, row in rows.items():
        cells = []
        for model in ORDER:
            cycles = row["cycles"][model]
            if isinstance(cycles, int):
                rate = f"{row['asked'] * 1e6 / cycles:,.0f} ({cycles:,} cycles)"
                cells.append(rate if "used" in row else f"[{rate}]")
            else:
                cells.append("-")
                notes.append(f"- {model} on {name}: {cycles}.")
        lines.append(f"| **{name}** | {row['asked']:g} | {' | '.join(cells)} |")
    for system, mhz, times in PEERS:
        cells = ["-" if ms is None else f"{1000 / ms:,.0f}" for ms in times]
        lines.append(f"| {system} | {mhz} | {' | '.join(cells)} |")
    if notes:
        lines += ["", "What does not run:", "", *notes]
    return "\n".join(lines) + "\n"


def write_page() -> str:
    """Write the page and the rows; returns a line that says which."""
    rows = collect([get_board(name) for name in board_names()])
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))
    return f"{PAGE}: {', '.join(rows)}"

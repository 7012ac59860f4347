"""docs/fpga.md: what each board reaches, from the builds' results and the cycles of the reference models."""

import json
from pathlib import Path

from lepton.rtl.config import NpuConfig

from .flow import FlowError

RESULTS = Path("docs/fpga.json")  # rows of all boards, kept in the repository
PAGE = Path("docs/fpga.md")
BUILDS = Path("build/fpga")
ORDER = ("IC", "KWS", "VWW", "AD")
PEERS = (  # system, MHz, milliseconds an inference: IC, KWS, VWW, AD
    ("GAP9 (NE16), chip", 240, (0.949, 0.73, 1.73, 0.27)),
    ("Syntiant NDP120, chip", 98.7, (5.12, 1.48, 4.10, None)),
    ("fpgaConvNet, ZC706", 187, (0.147, None, 0.72, None)),
    ("fpgaConvNet, ZedBoard", 143, (0.411, 0.324, 9.49, None)),
)

HEAD = """\
# Boards

Written by `make fpga-report` from the builds in `build/fpga` and the rows of earlier builds in `docs/fpga.json`.
How to build and add a board: [boards.md](boards.md).

MHz reached is what place and route reports after routing for the slowest path of the accelerator's clock, at the
seed named; asked is the clock the PLL makes. The open tools' timing models are not the vendors': a caveat stands
where that matters. Nobody has measured these on a board yet. Time is from sources to bitstream.
"""
SPEED = """
## Inferences per second

The clock asked over the cycles of an inference, without the transfer of input and output. The cycles are the cycle
model's, which the tests assert equal to the RTL's counters. The others are MLPerf Tiny's results: 1 / time.
"""


def cycles_of(config: NpuConfig, path: Path) -> int | str:
    """Cycles of one inference on the accelerator by the cycle model, or why the model does not run.

    The model is exact with weights on the chip; with external weights it is a bound.
    """
    from lepton.sw.compiler import CompileError, NpuStep, compile_model
    from lepton.sw.model import load_model
    from lepton.verif.cycles import predict

    try:
        program = compile_model(load_model(path), config)
    except CompileError as error:
        return str(error).partition(": ")[2]
    if len(program.external) > config.external_bytes:
        return f"{len(program.external):,} bytes of weights do not fit"
    return sum(
        predict(config, program.words, program.tiles, step.pc, program.external).cycles
        for step in program.steps
        if isinstance(step, NpuStep)
    )


def collect(builds: Path = BUILDS, results: Path = RESULTS) -> dict:
    """Rows by board: the kept ones, and in their place those of builds that are here, with the models' cycles."""
    from lepton.sw.bench import MODELS, shared_models

    rows = json.loads(results.read_text()) if results.exists() else {}
    for path in sorted(builds.glob("*/result.json")):
        row = json.loads(path.read_text())
        config = NpuConfig.from_dict(row["config"])
        row["cycles"] = {MODELS[p.stem]: cycles_of(config, p) for p in shared_models()}
        row.pop("bitstream", None)
        rows[row["board"]] = row
    return dict(sorted(rows.items()))


def page(rows: dict) -> str:
    """The page of these rows."""
    lines = [
        HEAD,
        "| board | part | array | MAC/cycle | LUT | FF | multipliers | block RAM | MHz (asked) | seed | time |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def of(row, kind):
        if kind not in row["used"]:
            return "-"
        used, there = row["used"][kind]
        return f"{used:,} / {there:,}"

    for name, row in rows.items():
        config = NpuConfig.from_dict(row["config"])
        array = f"{config.rows}x{config.cols}{' paired' if config.pe == 'paired' else ''}"
        cells = [name, row["title"], array, str(config.macs_per_cycle)]
        cells += [of(row, kind) for kind in ("lut", "ff", "multiplier", "bram")]
        minutes = f"{row['seconds'] // 60}:{row['seconds'] % 60:02} min"
        cells += [f"{row['mhz']:.1f} ({row['asked']:g})", str(row["seed"]), minutes]
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
                cells.append(f"{row['asked'] * 1e6 / cycles:,.0f} ({cycles:,} cycles)")
            else:
                cells.append("-")
                notes.append(f"- {model} on {name}: {cycles}.")
        lines.append(f"| **{name}** | {row['asked']:g} | {' | '.join(cells)} |")
    for system, mhz, times in PEERS:
        cells = ["-" if ms is None else f"{1000 / ms:,.0f}" for ms in times]
        lines.append(f"| {system} | {mhz:g} | {' | '.join(cells)} |")
    if notes:
        lines += ["", "What does not run:", "", *notes]
    return "\n".join(lines) + "\n"


def command_report(args) -> int:
    rows = collect()
    if not rows:
        raise FlowError("no results: build a board first (make fpga BOARD=...)")
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))
    print(f"{PAGE}: {', '.join(rows)}")
    return 0

"""`python -m lepton.verif.real`: models that people deploy, on a preset by the cycle model, beside Arm's compiler.

The models are those of `real` in LEPTON_SHARED that can be read; `design/vela.tsv` there has what Vela expects of an
Ethos-U55 with 256 multipliers: its cycles, and the activation memory when it is asked to save that. The table replaces
the one in `docs/performance.md`. Exit code 1 when a model does not compile.
"""

import argparse
import csv
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lepton.rtl.spec.config import get_config
from lepton.rtl.spec.errors import LeptonError
from lepton.sw.compiler import CompileError, HostStep, NpuStep, compile_model
from lepton.sw.compiler.streaming import min_memory
from lepton.sw.files import atomic
from lepton.sw.graph.model import ModelError
from lepton.sw.graph.reader import load_model

BEGIN, END = "<!-- real models: begin -->", "<!-- real models: end -->"


@dataclass(frozen=True)
class Row:
    """One model: what it takes here, and what Vela expects (cycles, bytes; 0: not known)."""

    name: str
    mmac: float
    cycles: int
    on_host: int
    memory: int
    vela_cycles: int
    vela_memory: int
    seconds: float
    error: str = ""


def measure(path: Path, config: str, vela: tuple[int, int]) -> Row | None:
    """None for a model that cannot be read."""
    start = time.monotonic()
    try:
        model = load_model(path)
    except ModelError:
        return None
    try:
        program = compile_model(model, get_config(config))
        cycles = sum(program.predict(step.pc).cycles for step in program.steps if isinstance(step, NpuStep))
        least = min_memory(model, get_config(config))
    except CompileError as error:
        return Row(path.stem, 0, 0, 0, 0, *vela, time.monotonic() - start, str(error))
    on_host = sum(isinstance(step, HostStep) for step in program.steps)
    return Row(path.stem, program.macs / 1e6, cycles, on_host, least, *vela, time.monotonic() - start)


def page(rows: list[Row], config: str) -> list[str]:
    """The table as Markdown, and what it comes to."""
    known = [r for r in rows if r.vela_cycles and r.cycles]
    out = [
        "## Models that people deploy",
        "",
        f"Cycles of the cycle model at `{config}` (memory of 16 bytes a cycle, latency 30; what the chip holds as a",
        "whole is there at the start) and the least activation memory with which a model compiles, beside Vela 5.2's",
        "estimate for an Ethos-U55 with 256 multipliers (`cycles_npu`; SRAM when it optimizes size). Operators on the",
        "host are on neither side. Printed by `python -m lepton.verif.real`; models: `real` in LEPTON_SHARED.",
        "",
        "| model | MMAC | cycles | Vela | ratio | least bytes | Vela | on the host |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        ratio = f"{r.cycles / r.vela_cycles:.2f}" if r.vela_cycles and r.cycles else ""
        cells = [r.name, f"{r.mmac:.1f}", f"{r.cycles:,}", f"{r.vela_cycles:,}", ratio, f"{r.memory:,}"]
        out.append(
            f"| {' | '.join(cells)} | {r.vela_memory:,} | {r.on_host} |" if not r.error else f"| {r.name} | {r.error} |"
        )
    if known:
        fewer = sum(r.cycles < r.vela_cycles for r in known)
        less = sum(r.memory <= r.vela_memory for r in known)
        median = statistics.median(r.cycles / r.vela_cycles for r in known)
        out += [
            "",
            f"Fewer cycles than Vela expects on {fewer} of {len(known)} models, at the median {median:.2f} of them;",
            f"at most as much activation memory on {less}.",
        ]
    return out


def write(text: list[str], path: Path) -> None:
    """Put the table in place of the one that is there, or behind the page."""
    old = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n"
    before, _, rest = old.partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic(path) as temporary:
        block = "\n".join([BEGIN, "", *text, "", END])
        temporary.write_text(before.rstrip("\n") + "\n\n" + block + (after or "\n"), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.verif.real", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", default="large", metavar="NAME", help="preset (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="part of a model's name")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", default="docs/performance.md", help="(default: %(default)s)")
    args = parser.parse_args()
    shared = Path(os.environ.get("LEPTON_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    try:
        with open(shared / "design" / "vela.tsv", encoding="utf-8", newline="") as file:
            vela = {
                row["model"]: (int(row["cycles_npu"]), round(float(row["sram_kb_size"]) * 1024))
                for row in csv.DictReader(file, delimiter="\t")
            }
        get_config(args.config)
    except (OSError, LeptonError) as error:
        print(f"lepton.verif.real: {error}", file=sys.stderr)
        return 2
    paths = [p for p in sorted((shared / "real").glob("*.tflite")) if args.only in p.name]
    rows: list[Row] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(measure, path, args.config, vela.get(path.stem, (0, 0))) for path in paths]
        for n, job in enumerate(jobs):
            row = job.result()
            if row is None:
                continue
            rows.append(row)
            told = (
                row.error
                or f"{row.cycles:,} cycles (Vela {row.vela_cycles:,}), {row.memory:,} bytes ({row.vela_memory:,})"
            )
            print(f"{n + 1}/{len(jobs)} {row.name}: {told}, {row.seconds:.0f} s", file=sys.stderr, flush=True)
    text = page(rows, args.config)
    print("\n".join(text))
    if not args.only:
        write(text, Path(args.output))
    return int(any(r.error for r in rows))


if __name__ == "__main__":
    sys.exit(main())

"""From a board's name to its bitstream, with logs, reports and a row for the table of results."""

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

from lepton.fpga import flow
from lepton.fpga.board import Board

__all__ = ["build"]


class Stages:
    """One line a stage on stderr: what runs, for how long."""

    def __init__(self):
        from rich.console import Console

        self._console = Console(stderr=True)

    def __call__(self, title: str, work):
        """The result of `work(tick)`."""
        begin = time.monotonic()

        def text(done):
            seconds = int(time.monotonic() - begin)
            return f"{title} {'took' if done else '…'} {seconds // 60}:{seconds % 60:02}"

        with self._console.status(text(False)) as status:
            result = work(lambda: status.update(text(False)))
        self._console.print(text(True), highlight=False)
        return result


def tree() -> str:
    """The commit of the sources, with `-dirty` behind it if they were changed; "-" where they are no checkout."""
    here = Path(__file__).resolve()
    said = ""
    for asked in (["ls-files", "--error-unmatch", here.name], ["describe", "--always", "--dirty", "--exclude=*"]):
        try:
            done = subprocess.run(["git", "-C", str(here.parent), *asked], capture_output=True, text=True)
        except FileNotFoundError:
            return "-"
        if done.returncode:
            return "-"
        said = done.stdout.strip()
    return said


def build(board: Board, folder: Path, synth_only: bool = False, slack: float = 0.0) -> dict:
    """Build in `folder`; returns the row, which is in `result.json` there too.

    Seeds are tried in the board's order until the clock is met, or missed by at most `slack` percent, so the same
    sources give the same bitstream. Raises FlowError when a tool fails, the area is outside the bounds, or no seed
    meets the clock.
    """
    begin = time.monotonic()
    stages = Stages()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "tried.json"):
        (folder / name).unlink(missing_ok=True)
    plan = stages("elaborate", lambda tick: flow.make_plan(board))
    for name, data in plan.files.items():
        (folder / name).write_bytes(data)
    (folder / "top.ys").write_text(plan.script)

    # The netlist is kept when nothing it depends on has changed; what it took counts again.
    key = hashlib.sha256(plan.files["top.il"] + repr((plan.script, board.sites)).encode()).hexdigest()
    stamp = folder / "top.json.of"
    of, _, kept = stamp.read_text().partition(" ") if stamp.exists() else ("", "", "")
    if of != key:
        stamp.unlink(missing_ok=True)
        kept, synthesis = "", time.monotonic()
        try:
            stages("synthesize", lambda tick: flow.synthesize("top.ys", folder, tick))
        except flow.FlowError as error:
            if "count_id(wire->name)" not in str(error):
                raise
            (folder / "top.ys").write_text(plan.script_nameless)  # ABC9 took a name that a wire had
            stages("synthesize without names", lambda tick: flow.synthesize("top.ys", folder, tick))
        flow.fix_sites(board, folder / "top.json")
        stamp.write_text(f"{key} {time.monotonic() - synthesis:.0f}")
    area = flow.area(board, flow.load_json(folder / "synthesis.json"))
    (folder / "area.json").write_text(json.dumps(area, indent=1) + "\n")
    flow.check_area(board, area)
    if synth_only:
        return {"board": board.name, "area": area}

    tried: list[dict] = []
    for seed in board.seeds:
        command = [*plan.place, "--report", "report.json", "--timing-allow-fail", "--seed", str(seed)]
        log = folder / f"place-{seed}.log"
        begun, mhz = time.monotonic(), 0.0
        try:
            stages(f"place and route, seed {seed}", lambda tick: flow.run(command, folder, log, tick))
        except flow.FlowError as error:
            if "giving up" not in str(error):  # what `--tmg-ripup` says of a clock that this seed does not meet
                raise
        else:
            report = flow.load_json(folder / "report.json")
            mhz = flow.clock(report, board.mhz)
            shutil.copy(folder / "report.json", folder / f"report-{seed}.json")
        tried.append({"seed": seed, "mhz": round(mhz, 2), "seconds": round(time.monotonic() - begun)})
        (folder / "tried.json").write_text(json.dumps(tried, indent=1) + "\n")
        if mhz >= board.mhz * (1 - slack / 100):
            break
    else:
        best = max(tried, key=lambda t: t["mhz"])
        raise flow.FlowError(
            f"{board.name}: no seed of {', '.join(map(str, board.seeds))} reaches {board.mhz:g} MHz; "
            f"the best, {best['seed']}, {best['mhz']:.1f} MHz (reports in {folder})"
        )
    if board.bitstream:
        for command in plan.pack:
            stages("pack", lambda tick: flow.run(command, folder, folder / "pack.log", tick))
    result = {
        "board": board.name,
        "title": board.title,
        "config": board.config.to_dict(),
        "used": flow.utilization(board, report),
        "mhz": round(mhz, 2),
        "asked": board.mhz,
        "seed": seed,
        "tree": tree(),
        "tried": tried,
        "seconds": round(time.monotonic() - begin + float(kept or 0)),
        "bitstream": str(folder / flow.FAMILIES[board.family].bitstream) if board.bitstream else None,
        "caveat": board.caveat,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result

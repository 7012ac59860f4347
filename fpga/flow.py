"""The tools of each FPGA family: what is run, and how its reports are read."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lepton.fpga.board import Board
from lepton.rtl.spec.errors import LeptonError


class FlowError(LeptonError, RuntimeError):
    """A tool is missing or failed, or a result is not what the board asks for; the message is one line."""


@dataclass(frozen=True)
class Family:
    """Tools of one family. The commands come from Amaranth's platform; here is what it leaves open."""

    synth: str
    """Yosys command."""
    place: str
    """Place and route."""
    options: tuple[str, ...]
    """Its options for all boards."""
    pack: tuple[str, ...]
    """Bitstream packers."""
    cells: dict[str, dict[str, int]]
    """Resource: cells of the synthesized netlist that use it, and how much each takes."""
    used: dict[str, tuple[str, ...]]
    """Resource: names in place and route's utilization; the first tells how many there are."""
    bitstream: str
    """Name of the file for the board."""
    until: str = "check"
    """Step of the Yosys command that is left out, with those behind it."""
    rest: str = ""
    """Yosys commands in its place."""
    before: str = ""
    """Yosys commands on the design as it is read."""


_NO_COLLISIONS = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i"
"""What the attribute `no_rw_check` says of all memories, and memory_libmap does not read."""
_ICE40_RESETS = ("SR", "R", "SS", "S", "ESR", "ER", "ESS", "ES")
FAMILIES = {
    "ecp5": Family(
        synth="synth_ecp5",
        place="nextpnr-ecp5",
        options=("--router", "router2"),  # the other one takes hours where it is full
        pack=("ecppack",),
        cells={
            "lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
            "ff": {"TRELLIS_FF": 1},
            "multiplier": {"MULT18X18D": 1},
            "bram": {"DP16KD": 1},
        },
        used={
            "lut": ("TRELLIS_COMB",),
            "ff": ("TRELLIS_FF",),
            "multiplier": ("MULT18X18D",),
            "bram": ("DP16KD",),
        },
        bitstream="top.bit",
        before=_NO_COLLISIONS + "\n",
    ),
    "gowin": Family(
        synth="synth_gowin -family gw2a",
        place="nextpnr-himbaechel-gowin",
        options=(),
        pack=("gowin-pack",),
        cells={
            "lut": {**{f"LUT{n}": 1 for n in range(1, 5)}, "ALU": 1, "RAM16SDP4": 8},
            "ff": {**{f"DFF{k}": 1 for k in ("", "E", "S", "SE", "R", "RE", "P", "PE", "C", "CE")}, "RAM16SDP4": 6},
            "multiplier": {"MULT9X9": 1, "MULT18X18": 2},
            "bram": {"SDPB": 1, "SDPX9B": 1, "DPB": 1, "DPX9B": 1},
        },
        used={
            "lut": ("LUT4",),
            "ff": ("DFF",),
            "multiplier": ("MULT9X9", "MULT18X18", "MULT18X18"),
            "bram": ("BSRAM",),
        },
        bitstream="top.fs",
        # The step in full but for `autoname`, which takes longer than all others together.
        until="map_cells",
        rest="techmap -map +/gowin/cells_map.v\nopt_lut_ins -tech gowin\n"
        "hilomap -singleton -hicell VCC V -locell GND G\nclean\n",
        before=_NO_COLLISIONS + "\n",
    ),
    "ice40": Family(
        synth="synth_ice40 -device u -noabc9",  # ABC9 takes more cells here
        place="nextpnr-ice40",
        options=("--write", "routed.json", "--sdf", "routed.sdf"),  # for verif/netlist/simulate.py and half_cycle.py
        pack=("icepack",),
        cells={
            "lut": {"SB_LUT4": 1},
            "ff": {f"SB_DFF{edge}{kind}": 1 for edge in ("", "N") for kind in ("", "E", *_ICE40_RESETS)},
            "multiplier": {"SB_MAC16": 1},
            "bram": {f"SB_RAM40_4K{edges}": 1 for edges in ("", "NR", "NW", "NRNW")},
            "spram": {"SB_SPRAM256KA": 1},
        },
        used={
            "lut": ("ICESTORM_LC",),
            "multiplier": ("ICESTORM_DSP",),
            "bram": ("ICESTORM_RAM",),
            "spram": ("ICESTORM_SPRAM",),
        },
        bitstream="top.bin",
        # A memory read at the falling edge has no collisions, and yosys dies on the parameter.
        before=_NO_COLLISIONS + " r:CLK_POLARITY=1 %i\n",
    ),
    "nexus": Family(
        synth="synth_nexus",
        place="nextpnr-nexus",
        options=(),
        pack=("prjoxide",),
        cells={
            "lut": {"LUT4": 1, "WIDEFN9": 2, "CCU2": 2, "DPR16X4": 6},
            "ff": {f"FD1P3{kind}": 1 for kind in ("BX", "DX", "IX", "JX")},
            "multiplier": {"MULT9X9": 1, "MULT18X18": 2, "MULT18X36": 4, "MULT36X36": 8},
            "bram": {"DP16K": 1, "PDP16K": 1, "PDPSC16K": 1},
        },
        used={
            "lut": ("OXIDE_COMB",),
            "ff": ("OXIDE_FF",),
            "multiplier": ("MULT9_CORE",),
            "bram": ("OXIDE_EBR",),
        },
        bitstream="top.bit",
        before=_NO_COLLISIONS + "\n",
    ),
}


@dataclass(frozen=True)
class Plan:
    """Files and commands of one board's build."""

    files: dict[str, bytes]
    script: str
    """For yosys, from `top.il` to `top.json`."""
    script_nameless: str
    """The same for designs on whose names ABC9 dies; the timing report says less then."""
    place: list[str]
    pack: list[list[str]]


def tool(name: str) -> str:
    """Path of the program `yowasp-NAME`, or NAME with underscores. Raises FlowError."""
    for program in (f"yowasp-{name}", name.replace("-", "_")):
        beside = Path(sys.executable).parent / program
        found = str(beside) if beside.exists() else shutil.which(program)
        if found is not None:
            return found
    raise FlowError(f"yowasp-{name} is missing: pip install 'lepton-npu[fpga]'")


def make_plan(board: Board) -> Plan:
    """Elaborate the board's top and take the files and commands from Amaranth's build plan."""
    from lepton.fpga.shell import Shell

    os.environ.setdefault("OPENFPGALOADER", "openFPGALoader")  # a platform asks for it though nothing is loaded
    family = FAMILIES[board.family]
    plan = board.platform().prepare(Shell(board), "top", nextpnr_opts=" ".join((*family.options, *board.place)))
    files = {n: d.encode() if isinstance(d, str) else d for n, d in plan.files.items()}
    # One name a wire: ABC9 dies more often on more. The pass that gives cells names, a third of the time, is left out.
    # A register marked `keep` is not merged with those that hold the same: each is near what it leads to.
    script = (
        f"read_rtlil top.il\n{family.before}proc\nflatten\nopt_clean -purge\n"
        "setattr -set keep 1 a:keep=1 %ci1 t:$dff* %i\nsetattr -unset keep w:*\n"
        f"scratchpad -set abc9.D {round(board.logic_share * 1e6 / board.mhz)}\n"
        f"{family.synth} -top top -run begin:{family.until}\n{family.rest}"
        "hierarchy -check\ntee -q -o synthesis.json stat -json\nblackbox =A:whitebox\nwrite_json top.json\n"
    )
    steps = {}
    for line in files["build_top.sh"].decode().splitlines():
        if line.startswith('"$'):
            words = shlex.split(line)
            steps[words[0][1:].lower().replace("_", "-")] = words[1:]
    keep = [n for n in files if n == "top.il" or n.endswith((".lpf", ".pcf", ".pdc", ".cst", ".sdc", ".py"))]
    return Plan(
        files={n: files[n] for n in keep},
        script=script,
        script_nameless=script.replace("flatten", "flatten\nrename -hide w:*"),
        place=[family.place, *(a for a in steps[family.place] if a != "--quiet")],
        pack=[[name, *steps[name]] for name in family.pack],
    )


def run(command: list[str], folder: Path, log: Path, tick=lambda: None) -> float:
    """Run a tool in `folder` with its output in `log`; `tick` is called now and then. Returns the seconds.

    Raises FlowError with the first error line.
    """
    begin = time.monotonic()
    with open(log, "w") as out:
        process = subprocess.Popen([tool(command[0]), *command[1:]], cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        try:
            while True:
                try:
                    code = process.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        lines = log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "ERROR" in line] or lines[-1:] or ["no message"]
        raise FlowError(f"{command[0]}: {errors[0].strip()} (log: {log})")
    return time.monotonic() - begin


def synthesize(script: str, folder: Path, tick=lambda: None) -> None:
    """Run yosys in `folder`, with `yosys.log` there. Raises FlowError."""
    try:
        run(["yosys", "-q", "-L", "yosys.log", script], folder, folder / "yosys.out", tick)
    except FlowError as error:  # what it writes elsewhere is lost when it fails
        log = folder / "yosys.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        errors = [line for line in lines if line.startswith("ERROR")]
        raise FlowError(f"yosys: {errors[-1]} (log: {log})" if errors else str(error)) from None


def fix_sites(board: Board, netlist: Path) -> None:
    """Write the board's sites into the netlist. Raises FlowError when a cell is not there."""
    if not board.sites:
        return
    design = load_json(netlist)
    cells = design["modules"]["top"]["cells"]
    for name, site in board.sites.items():
        if name not in cells:
            raise FlowError(f"{board.name}: `sites` names a cell that the netlist does not have: {name}")
        cells[name]["attributes"]["BEL"] = site
    netlist.write_text(json.dumps(design))


def area(board: Board, synthesis: dict) -> dict[str, int]:
    """Resources of the netlist, from yosys' `stat -json`."""
    counts = synthesis["design"]["num_cells_by_type"]
    cells = FAMILIES[board.family].cells
    return {kind: sum(counts.get(cell, 0) * n for cell, n in of.items()) for kind, of in cells.items()}


def check_area(board: Board, found: dict[str, int]) -> None:
    """Raises FlowError naming every resource outside the board's bounds."""
    wrong = [
        f"{kind} {found[kind]} is not {low} to {high}"
        for kind, (low, high) in board.bounds.items()
        if not low <= found[kind] <= high
    ]
    if wrong:
        raise FlowError(
            f"{board.name}: area outside its recorded bounds: {', '.join(wrong)}; "
            f"if that is meant, change `bounds` in the board's file"
        )


def utilization(board: Board, report: dict) -> dict[str, list[int]]:
    """Resource: [used, available], from place and route's report."""
    table = report["utilization"]
    return {
        kind: [
            sum(table[n]["used"] for n in names if n in table),
            next((table[n]["available"] for n in names if n in table), 0),
        ]
        for kind, names in FAMILIES[board.family].used.items()
    }


def clock(report: dict, mhz: float) -> float:
    """MHz reached by the accelerator's clock: of those constrained to `mhz`, the slowest. nextpnr asks 7 % more of an
    oscillator."""
    found = [c["achieved"] for c in report["fmax"].values() if abs(c["constraint"] - mhz) < 0.08 * mhz]
    if not found:
        raise FlowError(f"place and route reports no clock of {mhz:g} MHz: {report['fmax']}")
    return min(found)


def load_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise FlowError(f"{path}: no report ({error})") from None

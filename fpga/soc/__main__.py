"""The system in simulation: its firmware runs networks on the accelerator and tells of them over the UART.

`python -m lepton.fpga.soc` runs the shipped digits; `--model` and `--input` add a network. What the firmware prints is
compared with the golden model, byte by byte.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from lepton.fpga.board_sim import PinModel
from lepton.fpga.soc.firmware import Job, SocError, build
from lepton.fpga.soc.soc import SOC, Soc
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.verilog import to_verilog
from lepton.sw.errors import need
from lepton.sw.files import DIGITS, load_inputs
from lepton.sw.session import Session

DIVISOR = 4
LINE = re.compile(r"(\d+) class (\d+) cycles (\d+) array (\d+) output ([0-9a-f]*)$")
LONGEST = 50_000_000
"""Cycles after which a simulation that has not ended is given up."""


@dataclass(frozen=True)
class Inference:
    """What the firmware printed of one: cycles of the processor from before the input's copy to behind the output's,
    and of these the accelerator's own."""

    network: str
    cycles: int
    array: int
    output: bytes


def simulate(contents: bytes, show=lambda text: None) -> list[Inference]:
    """Run the system until the firmware has ended. Raises SocError with what it said if it failed."""
    model = PinModel(to_verilog(Soc(contents, DIVISOR)) + processor(), "soc", DIVISOR)
    text, network = "", ""
    found: list[Inference] = []
    while model.cycles < LONGEST:
        text += model.run(cycles=100_000)[1].decode("ascii", "replace")
        *lines, text = text.split("\n")
        for line in lines:
            show(line)
            if line == "end":
                return found
            if line.startswith("error: "):
                raise SocError(f"the firmware says: {line.removeprefix('error: ')}")
            if match := LINE.match(line):
                found.append(Inference(network, int(match[3]), int(match[4]), bytes.fromhex(match[5])))
            else:
                network = line
    raise SocError(f"the firmware did not end in {LONGEST:,} cycles; the last it said: {text or network!r}")


def processor() -> str:
    """Verilog of the RISC-V."""
    need("soc", "pythondata_cpu_vexriscv")
    return (files("pythondata_cpu_vexriscv") / "verilog" / "VexRiscv.v").read_text()


def digits(count: int) -> tuple[Job, list[bytes]]:
    """The shipped network, held-out images, and TFLM's answers."""
    with np.load(DIGITS.with_suffix(".npz")) as data:
        return Job(DIGITS, data["x"][:count]), [y.tobytes() for y in data["tflm"][:count]]


def other(path: Path, source: Path | None) -> tuple[Job, list[bytes]]:
    """A model with one input, and the golden model's answer."""
    session = Session(str(path), SOC, "golden")
    shape = session.inputs[0].shape
    if source is None:
        x = np.random.default_rng(1).integers(-128, 128, shape, np.int8)
    else:
        x = load_inputs(source)[0][:1]
    return Job(path, x.reshape(1, -1)), [np.asarray(session.run(x)[0]).tobytes()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton.fpga.soc", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, metavar="FILE", help="another int8 .tflite to run behind the digits")
    parser.add_argument("--input", type=Path, metavar="FILE", help="its input: an .npz (default: noise)")
    parser.add_argument("--count", type=int, default=100, help="digits to classify (default: %(default)s)")
    parser.add_argument("--build", type=Path, default=Path("build/soc"), metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(arguments)
    try:
        work = [digits(args.count), *([other(args.model, args.input)] if args.model else [])]
        contents = build([job for job, _ in work], SOC, args.build)
        print(f"firmware: {len(contents):,} bytes with networks and inputs, in {args.build}")
        found = simulate(contents, lambda line: print(line, flush=True))
    except (LeptonError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wrong = 0
    for job, expected in work:
        mine = [one for one in found if one.network == job.name]
        right = sum(one.output == want for one, want in zip(mine, expected))
        cycles, array = (sum(getattr(one, name) for one in mine) for name in ("cycles", "array"))
        print(
            f"{job.name}: {right} of {len(expected)} exact, {cycles / len(expected):,.0f} cycles each, "
            f"{array / len(expected):,.0f} of them the accelerator's: {100 * (cycles / array - 1):.1f} % more"
        )
        wrong += len(expected) - right
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

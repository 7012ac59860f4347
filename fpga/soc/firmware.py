"""The firmware of the system: networks, their inputs and the driver in C, compiled for rv32im by Zig's clang."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.errors import LeptonError
from lepton.sw.compiler import compile_model
from lepton.sw.csource import c_files, identifier
from lepton.sw.deploy import deploy
from lepton.sw.errors import need
from lepton.sw.graph.reader import load_model

__all__ = ["Job", "SocError", "build"]

COMPILE = (
    "cc -target riscv32-freestanding-none -mcpu=generic_rv32+m -std=c99 -O2 -ffreestanding -fno-sanitize=all "
    "-ffunction-sections -fdata-sections -Wl,--gc-sections -Wall -Wextra -Werror"
).split()


class SocError(LeptonError):
    """A system that cannot be built; one line says why and what would help."""


@dataclass(frozen=True)
class Job:
    """A network and inputs for it: int8 (N, size of the input)."""

    model: Path
    inputs: np.ndarray

    @property
    def name(self) -> str:
        return identifier(self.model.stem)


def build(jobs: Sequence[Job], config: NpuConfig, folder: Path) -> bytes:
    """The contents of the memory; sources and objects stay in `folder`. Raises SocError, DeployError,
    CompileError, MissingExtraError."""
    need("soc", "ziglang")
    folder.mkdir(parents=True, exist_ok=True)
    sources, arenas, outputs, entries = ["start.c", "main.c", "lepton.c"], [16], [1], []
    header = ['#include "lepton.h"', '#include "lepton_model.h"', ""]
    for job in jobs:
        model = load_model(str(job.model))
        ready = deploy(compile_model(model, config))
        for file, contents in c_files(ready).items():
            if file != "main.c":
                (folder / file).write_text(contents)
        sources.append(f"{job.name}.c")
        arenas.append(ready.arena_bytes)
        outputs.append(model.tensors[model.outputs[0]].nbytes)
        numbers = ",".join(map(str, np.asarray(job.inputs, np.int8).reshape(-1).tolist()))
        header += [f'#include "{job.name}.h"', f"static const int8_t {job.name}_inputs[] = {{", numbers, "};"]
        size = job.inputs[0].size
        entries.append(
            f'{{"{job.name}", &{job.name}_model, {job.name}_inputs, {len(job.inputs)}u, {size}u, {outputs[-1]}u}},'
        )
    header += [
        f"#define ARENA_BYTES {max(arenas)}u",
        f"#define OUTPUT_BYTES {max(outputs)}u",
        f"#define NETWORKS {len(entries)}u",
        "typedef struct {\n    const char *name;\n    const lepton_model *model;\n    const int8_t *inputs;",
        "    uint32_t count, input_bytes, output_bytes;\n} network;",
        "static const network networks[] = {",
        *entries,
        "};",
        "",
    ]
    (folder / "networks.h").write_text("\n".join(header))
    for name in ("start.c", "main.c", "link.ld"):
        text = (files("lepton.fpga.soc") / "firmware" / name).read_text()
        (folder / name).write_text(text.replace("RAM_BYTES", str(config.memory_bytes)))
    _zig([*COMPILE, "-Wl,-T,link.ld", "-o", "soc.elf", *sources], folder)
    _zig(["objcopy", "-O", "binary", "soc.elf", "soc.bin"], folder)
    return (folder / "soc.bin").read_bytes()


def _zig(arguments: list[str], folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ziglang", *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise SocError(f"the firmware does not compile: {lines[0] if lines else done.returncode}; see {folder}")

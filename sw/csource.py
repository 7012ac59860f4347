"""A compiled network as C: its image and what the driver of `sw/c` has to know, a typed function, an example."""

import re
from importlib.resources import files

import numpy as np

from lepton.rtl.bus.exports import c_header
from lepton.rtl.spec import identity
from lepton.rtl.spec.isa import Reg
from lepton.sw.deploy import Compute, DeployError, Deployment, Run
from lepton.sw.graph.model import Tensor
from lepton.sw.reference import arith

DRIVER = ("lepton.c", "lepton.h", "lepton_model.h")
IDENTITY = (
    Reg.SHAPE,
    Reg.SIZES,
    Reg.WEIGHT_TILES,
    Reg.PARAMS,
    Reg.PROGRAM_WORDS,
    Reg.RING_TILES,
    Reg.MEMORY_WIDTH,
    Reg.MEMORY_BYTES,
)
"""What must be the device's (`lepton_model.identity`)."""
TYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "float32": "float"}
LONGEST_SOFTMAX = 4095
"""Beyond, the sum of its exponentials may not fit 31 bits."""


def c_files(ready: Deployment) -> dict[str, str]:
    """Contents by file name: the model's .c and .h, `main.c`, and the driver. Raises DeployError."""
    program = ready.program
    name = identifier(program.model.name)
    model, config = _printable(program.model.name), _printable(program.config.name)
    note = f"/* {model} for configuration {config}, by `lepton compile`. */\n"
    driver = files("lepton.sw") / "c"
    return {
        f"{name}.h": note + _header(ready, name),
        f"{name}.c": note + _source(ready, name),
        "main.c": note + _main(ready, name),
        "lepton_regs.h": c_header(),
        **{file: (driver / file).read_text() for file in DRIVER},
    }


def identifier(name: str) -> str:
    """A name for C, of a model's."""
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower() or "model"
    return plain if plain[0].isalpha() and plain != "main" and not plain.startswith("lepton") else f"net_{plain}"


def _ends(ready: Deployment) -> list[tuple[str, int, Tensor]]:
    """Inputs and outputs: their names in C, their tensors."""
    model, out = ready.program.model, []
    for what, tensors in (("input", model.inputs), ("output", model.outputs)):
        for k, t in enumerate(tensors):
            tensor = model.tensors[t]
            if tensor.dtype not in TYPES:
                raise DeployError(
                    f"{model.name}: {what} {tensor.name!r} is {tensor.dtype}, which C has no type for here"
                )
            out.append((what if len(tensors) == 1 else f"{what}{k}", t, tensor))
    return out


def _header(ready: Deployment, name: str) -> str:
    upper, model = name.upper(), ready.program.model
    lines = [f"#ifndef {upper}_H", f"#define {upper}_H", "", '#include "lepton.h"', ""]
    lines += [
        f"#define {upper}_IMAGE_BYTES {len(ready.image)}u",
        f"#define {upper}_ARENA_BYTES {ready.arena_bytes}u",
        "",
    ]
    parameters = []
    for what, t, tensor in _ends(ready):
        kind, prefix = TYPES[tensor.dtype], f"{upper}_{what.upper()}"
        lines += [
            f"/* {what}: {tensor.dtype} {'x'.join(map(str, tensor.shape))}, {_printable(tensor.name)} */",
            f"#define {prefix}_SIZE {tensor.size}u",
        ]
        if len(tensor.scales) == 1:
            lines.append(f"#define {prefix}_SCALE {float(np.float32(tensor.scale))!r}f")
            lines.append(f"#define {prefix}_ZERO_POINT {tensor.zero_point}")
        parameters.append(f"{'const ' if t in model.inputs else ''}{kind} {what}[{prefix}_SIZE]")
    lines += ["", f"extern const lepton_model {name}_model;", ""]
    lines += ["/* One inference on a device that this model is loaded on. */"]
    lines += [f"lepton_result {name}_run(lepton *device, {', '.join(parameters)});", "", "#endif", ""]
    return "\n".join(lines)


def _printable(text: str) -> str:
    return re.sub(r"[^\w ./:;-]", "?", text, flags=re.ASCII).replace("*/", "")[:80]


def _source(ready: Deployment, name: str) -> str:
    program, model = ready.program, ready.program.model
    out = [f'#include "{name}.h"', '#include "lepton_model.h"', ""]
    rows = [ready.image[k : k + 24] for k in range(0, len(ready.image), 24)]
    data = "\n".join("    " + ", ".join(f"0x{b:02x}" for b in row) + "," for row in rows)
    out += [f"static const uint8_t image[{len(ready.image)}] LEPTON_ALIGNED = {{", data, "};", ""]
    operations = []
    for step in ready.steps:
        if isinstance(step, Run):
            operations.append(f"    {{LEPTON_RUN, {step.pc}u, 0u, 0u, 0u, 0u, NULL}},")
        else:
            table, numbers = _softmax(ready, step)
            symbol = f"exponentials{len(operations)}"
            words = [", ".join(map(str, table[k : k + 8])) for k in range(0, len(table), 8)]
            out += [f"static const int32_t {symbol}[256] = {{", *(f"    {row}," for row in words), "};", ""]
            operations.append(f"    {{LEPTON_SOFTMAX, 0u, {', '.join(f'{n}u' for n in numbers)}, {symbol}}},")
    out += ["static const lepton_operation operations[] = {", *operations, "};", ""]
    ends: dict[str, list[str]] = {"inputs": [], "outputs": []}
    for what, t, tensor in _ends(ready):
        ends["inputs" if what.startswith("input") else "outputs"].append(
            f"    {{{ready.place(t).address}u, {tensor.nbytes}u}},"
        )
    for what, entries in ends.items():
        out += [f"static const lepton_end {what}[] = {{", *entries, "};", ""]
    told = identity.pack(program.config)
    setup = f"{ready.setup.pc}u" if ready.setup else "LEPTON_NONE"
    out += [
        f"const lepton_model {name}_model = {{",
        f'    "{_printable(model.name)}",',
        "    image,",
        f"    {len(ready.image)}u,",
        f"    {ready.arena_bytes}u,",
        f"    {{{', '.join(f'0x{told[reg]:x}u' for reg in IDENTITY)}}},",
        f"    {setup},",
        "    operations,",
        "    inputs,",
        "    outputs,",
        f"    {len(operations)}u,",
        f"    {len(model.inputs)}u,",
        f"    {len(model.outputs)}u,",
        "};",
        "",
    ]
    return "\n".join(out + _run(ready, name))


def _softmax(ready: Deployment, step: Compute) -> tuple[list[int], list[int]]:
    """The exponentials of 0, -1, ... below the largest, and where its values lie."""
    op, model = step.operator, ready.program.model
    x, y = model.tensors[op.inputs[0]], model.tensors[op.outputs[0]]
    if op.op != "SOFTMAX" or (x.dtype, y.dtype) != ("int8", "int8") or x.shape[-1] > LONGEST_SOFTMAX:
        raise DeployError(
            f"{model.name}: {op} of {x.dtype} is computed on the host, which the driver in C does not: "
            "run this model from Python"
        )
    table = arith.softmax_exponentials(x.scale, op.options["beta"])
    places = [ready.place(t).address for t in (op.inputs[0], op.outputs[0])]
    return table, [*places, x.size // x.shape[-1], x.shape[-1]]


def _run(ready: Deployment, name: str) -> list[str]:
    model, upper = ready.program.model, name.upper()
    ends = _ends(ready)
    parameters = ", ".join(
        f"{'const ' if t in model.inputs else ''}{TYPES[x.dtype]} {what}[{upper}_{what.upper()}_SIZE]"
        for what, t, x in ends
    )
    calls, ins = [], len(model.inputs)
    for k, (what, _, tensor) in enumerate(ends):
        size = f"{tensor.nbytes}u"
        if k < ins:
            calls.append(f"lepton_set_input(device, {k}u, {what}, {size})")
        if k == ins - 1:
            calls.append("lepton_invoke(device)")
        if k >= ins:
            calls.append(f"lepton_get_output(device, {k - ins}u, {what}, {size})")
    body = [f"    if (result == LEPTON_OK) {{\n        result = {call};\n    }}" for call in calls[1:]]
    return [
        f"lepton_result {name}_run(lepton *device, {parameters}) {{",
        f"    lepton_result result = {calls[0]};",
        *body,
        "    return result;",
        "}",
        "",
    ]


def _main(ready: Deployment, name: str) -> str:
    upper = name.upper()
    arrays = [f"    static {TYPES[x.dtype]} {what}[{upper}_{what.upper()}_SIZE];" for what, _, x in _ends(ready)]
    names = ", ".join(what for what, _, _ in _ends(ready))
    return f"""\
/* An example: one inference with a device at LEPTON_BASE. Where it reads and writes memory by other addresses than the
   processor, or there are caches, `system` has more to say (lepton.h). */
#include "{name}.h"
#include "lepton_model.h"

#ifndef LEPTON_BASE
#define LEPTON_BASE 0x40000000u
#endif

static uint8_t arena[{upper}_ARENA_BYTES] LEPTON_ALIGNED;

int main(void) {{
    static lepton device;
    static lepton_system system = {{lepton_mmio_read, lepton_mmio_write, NULL, NULL, NULL, NULL, NULL}};
{chr(10).join(arrays)}
    system.context = (void *)(uintptr_t)LEPTON_BASE;
    lepton_result result = lepton_open(&device, &system);
    if (result == LEPTON_OK) {{
        result = lepton_load(&device, &{name}_model, arena, sizeof arena);
    }}
    if (result == LEPTON_OK) {{
        result = {name}_run(&device, {names});
    }}
    return (int)result;
}}
"""

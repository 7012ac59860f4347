"""`lepton check`: does a model run, where does each operator run, and how long does it take; nothing is built.

Cycles are the cycle model's (`lepton.sw.reference.cycles`). A layer is a group of fused operators; its cycles stand at
its first operator, the others are marked as fused into it. A layer's cycles are the difference of two runs of the
program, cut (by an END) behind the layer and behind the one before it, each without its `drain`, in which the
pipeline empties: so to say from the last vector that the layer before sent into the array to its own last one.
Waiting for the results of the layer before belongs to the layer that waits. The last layer of a stretch also has the
drain. Thus the cycles of the layers, and their causes, sum to the total.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import ConfigError, NpuConfig
from lepton.rtl.spec.timing import Memory
from lepton.sw.compiler import CompileError, Compiler, FitError, HostStep, Layer, Limit, NpuStep, Program, compile_model
from lepton.sw.files import read_file
from lepton.sw.graph import operators, reader
from lepton.sw.graph.control import Variables
from lepton.sw.graph.fold import Budget, fold
from lepton.sw.graph.model import (
    MAX_FILE_BYTES,
    MAX_OBJECTS,
    MAX_OPERATORS,
    MAX_RANK,
    Model,
    ModelError,
    Operator,
    Tensor,
)
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import arith
from lepton.sw.reference.cycles import Timing
from lepton.sw.targets import PRESET_MHZ, Target

CAUSES = tuple(cause.name.lower() for cause in isa.Cause)
HINTS = {
    "SOFTMAX": "argmax needs no softmax: drop it if only the class counts",
    "LSTM": "use convolutions over time",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "use convolutions over time",
    "SVDF": "use depthwise convolutions over time",
    "BATCH_MATMUL": "use FULLY_CONNECTED with constant weights",
    "DEQUANTIZE": "convert with inference_output_type=tf.int8",
    "QUANTIZE": "convert with inference_input_type=tf.int8",
}

QUANTIZE = (
    "quantize it to int8 when it is converted: converter.optimizations = [tf.lite.Optimize.DEFAULT], "
    "converter.representative_dataset = a generator of some real inputs, "
    "converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]"
)
"""Way out for a model that computes in float."""


@dataclass
class Stretch:
    """One run of the accelerator: where it starts and its layers (indexes into `Program.layers`)."""

    pc: int
    layers: list[int]


def stretches(program: Program) -> list[Stretch]:
    """The accelerator's runs of one inference, in order."""
    starts = [step.pc for step in program.steps if isinstance(step, NpuStep)]
    out = []
    for pc, end in zip(starts, [*starts[1:], len(program.words)]):
        out.append(Stretch(pc, [i for i, layer in enumerate(program.layers) if pc <= layer.first_word < end]))
    return out


@dataclass
class Count:
    """Cycles of a run and the cause of each."""

    cycles: int
    causes: dict[str, int]

    def until_drain(self) -> "Count":
        """The run up to the last vector that entered the array."""
        return Count(self.cycles - self.causes["drain"], self.causes | {"drain": 0})

    def since(self, other: "Count") -> "Count":
        return Count(self.cycles - other.cycles, {k: v - other.causes[k] for k, v in self.causes.items()})

    def __add__(self, other: "Count") -> "Count":
        return Count(self.cycles + other.cycles, {k: v + other.causes[k] for k, v in self.causes.items()})

    @classmethod
    def zero(cls) -> "Count":
        return cls(0, dict.fromkeys(CAUSES, 0))


def per_layer(program: Program, run) -> list[Count]:
    """Count of each layer; `run(pc, end)` gives that of the program from `pc`, cut at word `end` (None: not cut)."""
    out = []
    for stretch in stretches(program):
        before = Count.zero()
        for n, i in enumerate(stretch.layers):
            last = n == len(stretch.layers) - 1
            now = run(stretch.pc, None) if last else run(stretch.pc, program.layers[i].end_word).until_drain()
            out.append(now.since(before))
            before = now
    return out


def predicted_layers(program: Program) -> list[Count]:
    """Predicted Count of each layer; they sum to the prediction of the whole program."""

    timings: dict[int, Timing] = {}

    def run(pc, end):
        if pc not in timings:
            timings[pc] = program.predict(pc)
        if end is None:
            return Count(timings[pc].cycles, timings[pc].causes)
        causes = timings[pc].cuts[end]
        return Count(sum(causes.values()), causes)

    return per_layer(program, run)


def layer_cycles(program: Program) -> list[int]:
    """Predicted cycles of each layer; their sum is the predicted total."""
    return [count.cycles for count in predicted_layers(program)]


def _row(index: int, op: str, inputs: list, output: list) -> dict:
    """A row of a report, in which only what is given is known."""
    return {
        "index": index,
        "op": op,
        "inputs": inputs,
        "output": output,
        "where": "npu or host",
        "reason": None,
        "fused_into": None,
        "macs": None,
        "cycles": None,
        "utilization": None,
        "weight_bytes": 0,
        "activation_bytes": 0,
    }


def _rows_of_model(model: Model, config: NpuConfig) -> list[dict]:
    """A row for each operator, without cycles."""
    rows, compiler = [], Compiler(model, config)
    for op in model.operators:
        ins = [model.tensors[t] for t in op.inputs if t >= 0]
        outs = [model.tensors[t] for t in op.outputs]
        row = _row(op.index, op.op, [list(t.shape) for t in ins if not t.constant], [*outs[0].shape] if outs else [])
        why_host = compiler.why_host[op.index]
        row |= {
            "where": "npu" if why_host is None else "host",
            "reason": None if why_host is None else _on_host(op, why_host, outs),
            "macs": compiler.macs(op),
            "weight_bytes": sum(t.nbytes for t in ins if t.constant),
            "activation_bytes": sum(t.nbytes for t in (*ins, *outs) if not t.constant),
        }
        rows.append(row)
    return rows


def _on_host(op: Operator, why: str, outs: list[Tensor]) -> str:
    """What a user wants to know of an operator that the host computes."""
    reason = why if why == "computed on the host" else f"computed on the host: {why}"
    if op.op in HINTS and op.op != "QUANTIZE":
        reason += f" ({HINTS[op.op]})"
    if op.op == "SOFTMAX" and outs[0].shape[-1] >= arith.SOFTMAX_SUM:
        reason += f"; TFLM aborts where the exponentials sum to {arith.SOFTMAX_SUM}, here its formula goes on"
    return reason


def larger(config: NpuConfig, limits: Sequence[Limit]) -> NpuConfig:
    """The configuration with every memory that is exceeded as large as it must be. Raises ConfigError if none can."""
    fields: dict[str, Any] = {limit.field: limit.need for limit in limits if limit.exceeded}
    if "act_bytes" in fields:
        fields["act_bytes"] = 1 << (fields["act_bytes"] - 1).bit_length()
    if "weight_tiles" in fields:
        fields["weight_tiles"] += config.ring_tiles
    return replace(config, **fields)


def _way_out(config: NpuConfig, limits: Sequence[Limit]) -> str:
    """What would help a model that does not fit."""
    try:
        enough = larger(config, limits)
    except ConfigError as error:
        return f"no configuration is large enough ({str(error).partition(': ')[2]}): use a smaller input or model"
    fields = ", ".join(f"{x.field}={getattr(enough, x.field):,}" for x in limits if x.exceeded)
    return f"a configuration of your own (--config FILE.json) with {fields}"


def _report(name: str, config: NpuConfig, clock_mhz: float, rows: list[dict]) -> dict:
    """A report in which only what the rows tell is known."""
    return _nothing(name, config.name) | {
        "operators": rows,
        "clock_mhz": clock_mhz,
        "memory_bytes": config.act_bytes,
        "weight_tiles_limit": config.resident_tiles,
        "weight_bytes": sum(row["weight_bytes"] for row in rows),
    }


def _nothing(name: str, config: str) -> dict:
    """All keys of a report, with nothing known."""
    return {
        "supported": False,
        "model": name,
        "config": config,
        "reason": None,
        "way_out": None,
        "operators": [],
        "macs": None,
        "cycles": None,
        "utilization": None,
        "clock_mhz": None,
        "seconds": None,
        "host": None,
        "limits": [],
        "groups": [],
        "min_memory": None,
        "memory_peak": None,
        "memory_bytes": None,
        "weight_tiles": None,
        "weight_tiles_limit": None,
        "external_bytes": None,
        "shared_tiles": None,
        "shared_params": None,
        "weight_bytes": None,
    }


def refusal(path: str | Path, config: str, reason: str) -> dict:
    """The report on what cannot even be read."""
    return _nothing(Path(path).stem, config) | {"reason": reason, "way_out": _way_out_of(reason)}


def _way_out_of(reason: str) -> str | None:
    """What helps a model that the reader refuses."""
    return QUANTIZE if re.search(r"\b(is|are) float(16|32)\b", reason) else None


def _host(program: Program, rows: list[dict]) -> dict:
    """What the host computes: operators, how many between the first and the last layer of the array, and MACs."""
    on_array = [n for n, step in enumerate(program.steps) if isinstance(step, NpuStep)]
    inner = program.steps[on_array[0] : on_array[-1]] if on_array else program.steps
    here = [row for row in rows if row["where"] == "host"]
    return {
        "operators": len(here),
        "between": sum(isinstance(step, HostStep) for step in inner),
        "names": dict(Counter(row["op"] for row in here)),
        "macs": sum(row["macs"] for row in here),
    }


def _shared(program: Program) -> dict:
    return {"shared_tiles": program.shared[isa.Region.WEIGHT], "shared_params": program.shared[isa.Region.PARAM]}


def _limits(limits: Sequence[Limit]) -> list[dict]:
    return [{"field": x.field, "what": x.what, "need": x.need, "have": x.have, "fits": not x.exceeded} for x in limits]


BOUNDS = {
    "multiply": "array",
    "weights": "weights",
    "activations": "layer before",
    "tail": "tail",
    "fetch": "program",
    "drain": "drain",
    "memory": "memory",
}
"""What a cause of cycles says of what bounds a group."""


def traffic(program: Program, layer: Layer) -> int:
    """With a memory port: bytes that the copies among a layer's instructions take."""
    total = 0
    unit = {isa.Space.ACT: 1, isa.Space.WEIGHT: isa.memory_tile_bytes(program.config)}
    unit[isa.Space.PARAM] = isa.memory_param_bytes(program.config)
    for _, op, v in isa.instructions(program.words, layer.first_word, layer.end_word):
        if op is isa.MOVE and not v["fill"]:
            total += unit[isa.Space(v["space"])] * v["length"] * v["rows"] * v["planes"]
    return total


def _groups(program: Program, counts: list[Count]) -> list[dict]:
    """Where networks pass through the chip: what runs together, with what, and what bounds it besides the array."""
    if not program.arena_bytes:
        return []
    out = []
    for layer, count in zip(program.layers, counts):
        others = {k: v for k, v in count.causes.items() if k != "multiply"}
        most = max(others, key=lambda k: others[k])
        bound = "multiply" if others[most] <= count.causes["multiply"] // 10 else most
        out.append(
            {
                "operators": list(layer.operators),
                "cycles": count.cycles,
                "multiply": count.causes["multiply"],
                "peak_bytes": layer.peak_bytes,
                "traffic_bytes": traffic(program, layer),
                "bound": BOUNDS[bound],
            }
        )
    return out


def check_model(model: Model, config: NpuConfig, clock_mhz: float = PRESET_MHZ, memory: Memory = Memory()) -> dict:
    """The report on a model that can be read: JSON-able, see the README for its keys.

    `supported` is False when it does not fit; `reason` then says why: all that does not fit, and `way_out` what helps.
    """
    rows = _rows_of_model(model, config)
    report = _report(model.name, config, clock_mhz, rows)
    report["macs"] = sum(row["macs"] for row in rows)
    try:
        program = compile_model(model, config, memory)
    except FitError as error:
        report.update(reason=str(error), limits=_limits(error.limits), memory_peak=error.program.peak_bytes)
        report["host"] = _host(error.program, rows)
        report.update(_shared(error.program))
        report["way_out"] = _way_out(config, error.limits)
        return report
    except CompileError as error:
        report["reason"] = str(error)
        return report
    counts = predicted_layers(program)
    cycles = [count.cycles for count in counts]
    by_index = {row["index"]: row for row in rows}
    for row in rows:
        row["cycles"] = 0
    for step in program.steps:  # the compiler may have found only on its way that the host must do it
        if isinstance(step, HostStep) and by_index[step.operator]["where"] != "host":
            why = program.why_host.get(step.operator, "computed on the host")
            by_index[step.operator] |= {"where": "host", "reason": f"computed on the host: {why}"}
    worked = {step.operator for step in program.steps if isinstance(step, HostStep)}
    for layer, n in zip(program.layers, cycles):
        main, *others = (by_index[i] for i in layer.operators)
        worked |= {*layer.operators}
        main["cycles"] = n
        main["utilization"] = layer.macs / (config.macs_per_cycle * n) if n else None
        for row in others:
            row["fused_into"] = main["index"]
            row["reason"] = f"fused into {main['index']}"
    for row in rows:
        if row["index"] not in worked:
            row["reason"] = "no work: the bytes stay as they are"
    total = sum(cycles)
    limits = {limit.field: limit for limit in program.limits()}
    report.update(
        supported=True,
        cycles=total,
        utilization=sum(x.macs for x in program.layers) / (config.macs_per_cycle * total) if total else None,
        seconds=total / (clock_mhz * 1e6),
        host=_host(program, rows),
        limits=_limits([*limits.values()]),
        memory_peak=program.peak_bytes,
        groups=_groups(program, counts),
        weight_tiles=len(program.tiles) // isa.word_bytes(isa.Region.WEIGHT, config),
        external_bytes=len(program.external),
        **_shared(program),
    )
    return report


# Models that the reader refuses


def explain_refusal(data: bytes, error: ModelError, name: str, config: NpuConfig, clock_mhz: float) -> dict:
    """The report on a model that cannot be read: every operator of its first graph, and why those are refused that are.

    Raises `error` again when the file is too damaged for that.
    """
    try:
        root = tflite.Model.GetRootAsModel(data, 0)
        graph = root.Subgraphs(0)
        count, n = graph.OperatorsLength(), graph.TensorsLength()
        if not 0 < count <= MAX_OPERATORS or not 0 < n <= MAX_OBJECTS:
            raise error
        tensors, broken = [], {}
        for i in range(n):
            try:
                tensors.append(reader._read_tensor(root, graph.Tensors(i), i, root.BuffersLength()))
            except ModelError as why:
                t = graph.Tensors(i)
                shape = tuple(int(t.Shape(j)) for j in range(min(t.ShapeLength(), MAX_RANK)))
                tensors.append(
                    Tensor(i, "", shape, reader.DTYPES.get(t.Type(), "?"), np.zeros(0), np.zeros(0), 0, None)
                )
                broken[i] = str(why)
        known = Variables(), Budget()
        rows = [_refused_row(root, graph.Operators(k), k, tensors, broken, known) for k in range(count)]
    except ModelError:
        raise error from None
    except Exception:  # whatever the flatbuffer accessors stumble over
        raise error from None
    if not any(row["where"] == "unsupported" for row in rows):
        raise error
    return _report(name, config, clock_mhz, rows) | {"reason": str(error), "way_out": _way_out_of(str(error))}


def _refused_row(root, o, index, tensors, broken, known) -> dict:
    """`known`: Variables and Budget of the file; what is constant becomes so in `tensors`."""
    code = root.OperatorCodes(o.OpcodeIndex())
    op = BUILTIN_OPCODE2NAME.get(operators.operator_code(code), "unknown")
    if op == "CUSTOM" and code.CustomCode():
        op = f"CUSTOM {code.CustomCode().decode('utf-8', 'replace')[:40]}"
    ins = [i for i in (o.Inputs(j) for j in range(min(o.InputsLength(), 1024))) if 0 <= i < len(tensors)]
    outs = [i for i in (o.Outputs(j) for j in range(min(o.OutputsLength(), 1024))) if 0 <= i < len(tensors)]
    where, reason = "npu or host", None
    bad = next((broken[i] for i in (*ins, *outs) if i in broken), None)
    if op not in operators.SPECS:
        where, reason = "unsupported", "the operator is not known" + (f": {HINTS[op]}" if op in HINTS else "")
    elif bad is not None:
        where, reason = "unsupported", bad
    else:
        try:
            operator = operators.read_operator(root, o, index, tensors)
            reader.check_settled(operator, tensors)
            for t in fold(operator, tensors, *known):
                tensors[t.index] = t
        except ModelError as why:
            where, reason = "unsupported", str(why).removeprefix(f"operator {index} ({op}): ")
    constants = [tensors[i] for i in ins if tensors[i].constant]
    moving = [tensors[i] for i in (*ins, *outs) if not tensors[i].constant]
    shapes = [list(t.shape) for t in moving if t.index in ins]
    likely = "npu" if op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") else "host"
    return _row(index, op, shapes, list(tensors[outs[0]].shape) if outs else []) | {
        "where": where if reason else likely,
        "reason": reason,
        "weight_bytes": sum(t.nbytes for t in constants),
        "activation_bytes": sum(math.prod(t.shape) for t in moving if min(t.shape, default=1) >= 0),
    }


# Output


def _shape(shape) -> str:
    return "x".join(map(str, shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)) or "1"


def _number(value) -> str:
    return "" if value is None else f"{value:,}"


def show(report: dict, file=None) -> None:
    """Print the report as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = file or sys.stdout
    if hasattr(file, "reconfigure"):
        file.reconfigure(errors="replace")
    console = Console(file=file, highlight=False, width=None if file.isatty() else 150)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("#", "right"),
        ("operator", "left"),
        ("shapes", "left"),
        ("where", "left"),
        ("cycles", "right"),
        ("util", "right"),
        ("weights B", "right"),
        ("activ. B", "right"),
        ("MACs", "right"),
        ("note", "left"),
    ):
        table.add_column(
            name, justify="right" if justify == "right" else "left", no_wrap=name not in ("note", "shapes")
        )
    styles = {"npu": "green", "host": "yellow", "unsupported": "red"}
    for row in report["operators"]:
        fused = row["fused_into"] is not None
        shown = row["cycles"] if row["where"] == "npu" and not fused and row["op"] != "RESHAPE" else None
        table.add_row(
            str(row["index"]),
            row["op"],
            " ".join(map(_shape, row["inputs"])) + " → " + _shape(row["output"]),
            Text(row["where"], style=styles[row["where"]]),
            _number(shown),
            f"{row['utilization']:.1%}" if row["utilization"] else "",
            _number(row["weight_bytes"]),
            _number(row["activation_bytes"]),
            _number(row["macs"] or None),
            Text(row["reason"] or "", style="red" if row["where"] == "unsupported" else ""),
        )
    console.print(table)
    console.print()
    if report["groups"]:
        console.print(_group_table(report["groups"]))
        console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name, value in _facts(report):
        facts.add_row(name, Text(value))
    console.print(facts)


def _group_table(groups: list[dict]):
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("group", "operators", "cycles", "multiply", "activ. B at once", "memory B", "bound by"):
        table.add_column(name, justify="left" if name in ("operators", "bound by") else "right")
    for n, group in enumerate(groups):
        ops = sorted(group["operators"])
        table.add_row(
            str(n),
            f"{ops[0]} to {ops[-1]}" if len(ops) > 1 else str(ops[0]),
            *(f"{group[key]:,}" for key in ("cycles", "multiply", "peak_bytes", "traffic_bytes")),
            group["bound"],
        )
    return table


def _facts(report: dict) -> list[tuple[str, str]]:
    out: list[tuple[str, str]] = []
    if not report["supported"]:
        out.append(("runs", f"no: {report['reason']}"))
        if report["way_out"]:
            out.append(("way out", report["way_out"]))
    else:
        out.append(("runs", f"yes, it fits configuration {report['config']!r}"))
    if report["limits"]:
        out.append(("memories", "; ".join(map(_limit, report["limits"]))))
    if report["shared_tiles"] or report["shared_params"]:
        tiles, params = report["shared_tiles"], report["shared_params"]
        out.append(("", f"stored once though several layers use them: {tiles:,} tiles, {params:,} parameters saved"))
    if not report["supported"]:
        return out
    out.append(("", f"at most {report['memory_peak']:,} bytes of activations are alive at one time"))
    if report["min_memory"]:
        out.append(("", f"{report['min_memory']:,} bytes of activation memory are enough to compile it"))
    if report["external_bytes"]:
        out.append(("", f"{report['external_bytes']:,} bytes of weights are streamed from external memory"))
    bound = " (at one streamed byte a cycle)" if report["external_bytes"] else ""
    use = f", utilisation {report['utilization']:.1%}" if report["utilization"] else ""
    out.append(("cycles", f"{report['cycles']:,} for {report['macs']:,} MACs{use}{bound}"))
    if (report["utilization"] or 0) > 1 or any((r["utilization"] or 0) > 1 for r in report["operators"]):
        out.append(("", "above 100 %: tiles whose weights are all zero are skipped, their MACs counted"))
    out.append(
        ("time", f"{report['seconds'] * 1e3:,.3f} ms at {report['clock_mhz']:g} MHz, without the transfer of data")
    )
    out.append(("host", _host_text(report)))
    return out


def _limit(limit: dict) -> str:
    return f"{limit['field']} {limit['need']:,} of {limit['have']:,}" + ("" if limit["fits"] else " (!)")


def _host_text(report: dict) -> str:
    """What the host does, in words."""
    host = report["host"]
    if not host["operators"]:
        return "nothing: all operators run on the array"
    names = ", ".join(name if n == 1 else f"{n} {name}" for name, n in host["names"].items())
    inner = f"{host['between']} of them between" if host["between"] else "none between"
    return (
        f"{host['operators']} of {len(report['operators'])} operators ({names}), exactly, beside that time; "
        f"{inner} the first and the last layer of the array"
    )


def check_all(
    model: Model, targets: Sequence[Target], clock_mhz: float | None = None, memory: Memory = Memory()
) -> list[dict]:
    """Reports on a model for each target, at its own clock unless one is given."""
    return [check_model(model, t.config, clock_mhz or t.mhz, memory) for t in targets]


def show_all(reports: list[dict], targets: Sequence[Target], file=None) -> None:
    """Print one line a target."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    file = file or sys.stdout
    console = Console(file=file, highlight=False, width=None if file.isatty() else 150)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("configuration", "left"),
        ("array", "right"),
        ("fits", "left"),
        ("cycles", "right"),
        ("util", "right"),
        ("MHz", "right"),
        ("ms", "right"),
        ("host", "right"),
        ("needs", "left"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=name != "needs")
    for target, report in zip(targets, reports):
        fits = report["supported"]
        missing = [f"{x['field']}={x['need']:,} (has {x['have']:,})" for x in report["limits"] if not x["fits"]]
        table.add_row(
            target.name,
            f"{target.config.rows}x{target.config.cols}",
            Text("yes" if fits else "no", style="green" if fits else "red"),
            _number(report["cycles"]),
            f"{report['utilization']:.1%}" if report["utilization"] else "",
            f"{report['clock_mhz']:g}",
            f"{report['seconds'] * 1e3:,.3f}" if fits else "",
            f"{report['host']['operators']} op" if report["host"] else "",
            ", ".join(missing) or (report["reason"] or ""),
        )
    console.print(table)
    console.print("ms: start to done at that clock; the host's operators and the transfer of data come on top")


def check_file(path: str | Path, config: NpuConfig, clock_mhz: float = PRESET_MHZ, memory: Memory = Memory()) -> dict:
    """The report on a file. Raises ModelError when the file is no model or too damaged to list its operators."""
    try:
        model = load_model(path)
    except ModelError as error:
        file = Path(path)
        try:
            data = read_file(file, MAX_FILE_BYTES, ModelError)
        except ModelError:
            raise error from None
        if data[4:8] != b"TFL3":
            raise
        return explain_refusal(data, error, file.stem, config, clock_mhz)
    return check_model(model, config, clock_mhz, memory)

"""`lepton check`: does a model run, where does each operator run, and how long does it take; nothing is built.

Cycles are the cycle model's (`lepton.sw.reference.cycles`). A layer is a group of fused operators; its cycles stand at
its first operator, the others are marked as fused into it. A layer's cycles are the difference of two runs of the
program, cut (by an END) behind the layer and behind the one before it, each without its `drain`, in which the
pipeline empties: so to say from the last vector that the layer before sent into the array to its own last one.
Waiting for the results of the layer before belongs to the layer that waits. The last layer of a stretch also has the
drain. Thus the cycles of the layers, and their causes, sum to the total.
"""

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tflite
from tflite.utils import BUILTIN_OPCODE2NAME

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import PRESETS, NpuConfig
from lepton.sw.compiler import CompileError, Compiler, NpuStep, Program, compile_model
from lepton.sw.graph import operators, reader
from lepton.sw.graph.model import MAX_FILE_BYTES, MAX_OBJECTS, MAX_RANK, Model, ModelError, Tensor
from lepton.sw.graph.reader import load_model
from lepton.sw.reference import arith
from lepton.sw.reference.cycles import predict

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

    def run(pc, end):
        words = program.words if end is None else [*program.words[:end], *isa.encode(isa.END)]
        timing = predict(program.config, words, program.tiles, pc, program.external, params=program.params)
        return Count(timing.cycles, timing.causes)

    return per_layer(program, run)


def layer_cycles(program: Program) -> list[int]:
    """Predicted cycles of each layer; their sum is the predicted total."""
    return [count.cycles for count in predicted_layers(program)]


def _rows_of_model(model: Model, compiler: Compiler) -> list[dict]:
    """A row for each operator, without cycles."""
    rows = []
    for op in model.operators:
        constants = [model.tensors[t] for t in op.inputs if t >= 0 and model.tensors[t].constant]
        moving = [model.tensors[t] for t in (*op.inputs, *op.outputs) if t >= 0 and not model.tensors[t].constant]
        why_host = compiler.supports(op)
        reason = None
        if why_host is not None:
            reason = why_host if why_host == "computed on the host" else f"computed on the host: {why_host}"
            if op.op in HINTS and op.op != "QUANTIZE":
                reason += f" ({HINTS[op.op]})"
            if op.op == "SOFTMAX" and model.tensors[op.outputs[0]].shape[-1] >= arith.SOFTMAX_SUM:
                reason += f"; TFLM aborts where the exponentials sum to {arith.SOFTMAX_SUM}, here its formula goes on"
        rows.append(
            {
                "index": op.index,
                "op": op.op,
                "inputs": [list(model.tensors[t].shape) for t in op.inputs if t >= 0 and not model.tensors[t].constant],
                "output": list(model.tensors[op.outputs[0]].shape),
                "where": "npu" if why_host is None else "host",
                "reason": reason,
                "fused_into": None,
                "macs": compiler.macs(op),
                "cycles": None,
                "utilization": None,
                "weight_bytes": sum(t.nbytes for t in constants),
                "activation_bytes": sum(t.size for t in moving),
            }
        )
    return rows


def _fit_elsewhere(model: Model, config: NpuConfig) -> str:
    """What would help a model that does not fit."""
    fitting = []
    for preset in PRESETS.values():
        if preset != config:
            try:
                compile_model(model, preset)
                fitting.append(preset.name)
            except CompileError:
                pass
    if fitting:
        return f"fits {', '.join(fitting)}"
    for size in (2**17, 2**18, 2**19, 2**20):
        if size > config.act_bytes:
            try:
                compile_model(model, replace(config, act_bytes=size))
                return f"fits with act_bytes={size:,}"
            except CompileError:
                pass
    return "no preset fits"


def _report(name: str, config: NpuConfig, clock_mhz: float, rows: list[dict]) -> dict:
    """A report in which only what the rows tell is known."""
    return {
        "supported": False,
        "model": name,
        "config": config.name,
        "reason": None,
        "operators": rows,
        "macs": None,
        "cycles": None,
        "utilization": None,
        "clock_mhz": clock_mhz,
        "seconds": None,
        "memory_peak": None,
        "memory_bytes": config.act_bytes,
        "weight_tiles": None,
        "weight_tiles_limit": config.resident_tiles,
        "external_bytes": None,
        "weight_bytes": sum(row["weight_bytes"] for row in rows),
    }


def check_model(model: Model, config: NpuConfig, clock_mhz: float = 50.0) -> dict:
    """The report on a model that can be read: JSON-able, see the README for its keys.

    `supported` is False when it does not fit; `reason` then says why and what would help.
    """
    rows = _rows_of_model(model, Compiler(model, config))
    report = _report(model.name, config, clock_mhz, rows)
    report["macs"] = sum(row["macs"] for row in rows)
    try:
        program = compile_model(model, config)
    except CompileError as error:
        report["reason"] = f"{error} ({_fit_elsewhere(model, config)})"
        return report
    cycles = layer_cycles(program)
    for row in rows:
        row["cycles"] = 0
    by_index = {row["index"]: row for row in rows}
    for layer, n in zip(program.layers, cycles):
        main, *others = (by_index[i] for i in layer.operators)
        main["cycles"] = n
        main["utilization"] = layer.macs / (config.macs_per_cycle * n) if n else None
        for row in others:
            row["fused_into"] = main["index"]
            row["reason"] = f"fused into {main['index']}"
    for row in rows:
        if row["op"] == "RESHAPE":
            row["reason"] = "no work: the bytes stay as they are"
    total = sum(cycles)
    word = 6 + config.tile_bytes
    report.update(
        supported=True,
        cycles=total,
        utilization=sum(x.macs for x in program.layers) / (config.macs_per_cycle * total) if total else None,
        seconds=total / (clock_mhz * 1e6),
        memory_peak=program.peak_bytes,
        weight_tiles=len(program.tiles) // word,
        external_bytes=len(program.external),
    )
    return report


# Models that the reader refuses


def explain_refusal(data: bytes, error: ModelError, name: str, config: NpuConfig, clock_mhz: float) -> dict:
    """The report on a model that cannot be read: every operator, and for each one that is refused, why.

    Raises `error` again when the file is too damaged for that.
    """
    try:
        root = tflite.Model.GetRootAsModel(data, 0)
        graph = root.Subgraphs(0)
        count, n = graph.OperatorsLength(), graph.TensorsLength()
        if not 0 < count <= MAX_OBJECTS or not 0 < n <= MAX_OBJECTS or root.SubgraphsLength() != 1:
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
        rows = [_refused_row(root, graph.Operators(k), k, tensors, broken) for k in range(count)]
    except ModelError:
        raise error from None
    except Exception:  # whatever the flatbuffer accessors stumble over
        raise error from None
    if not any(row["where"] == "unsupported" for row in rows):
        raise error
    return _report(name, config, clock_mhz, rows) | {"reason": str(error)}


def _refused_row(root, o, index, tensors, broken) -> dict:
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
            operators.check_operator(operators.read_operator(root, o, index, tensors), tensors)
        except ModelError as why:
            where, reason = "unsupported", str(why).removeprefix(f"operator {index} ({op}): ")
    constants = [tensors[i] for i in ins if tensors[i].constant]
    moving = [tensors[i] for i in (*ins, *outs) if not tensors[i].constant]
    return {
        "index": index,
        "op": op,
        "inputs": [list(t.shape) for t in moving if t.index in ins],
        "output": list(tensors[outs[0]].shape) if outs else [],
        "where": where if reason else "npu" if op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") else "host",
        "reason": reason,
        "fused_into": None,
        "macs": None,
        "cycles": None,
        "utilization": None,
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
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(no_wrap=True)
    facts.add_column()
    for name, value in _facts(report):
        facts.add_row(name, Text(value))
    console.print(facts)


def _facts(report: dict) -> list[tuple[str, str]]:
    if not report["supported"]:
        return [("runs", f"no: {report['reason']}")]
    out = [("runs", f"yes, it fits configuration {report['config']!r}")]
    on_host = [r for r in report["operators"] if r["where"] == "host"]
    if on_host:
        out.append(("host", f"{len(on_host)} of {len(report['operators'])} operators, exactly, outside the cycles"))
    out.append(("memory", f"peak {report['memory_peak']:,} of {report['memory_bytes']:,} bytes of activation memory"))
    streamed = f", {report['external_bytes']:,} bytes streamed from external memory" if report["external_bytes"] else ""
    out.append(
        ("weights", f"{report['weight_tiles']:,} of {report['weight_tiles_limit']:,} tiles on the chip{streamed}")
    )
    bound = " (at one streamed byte a cycle)" if report["external_bytes"] else ""
    use = f", utilisation {report['utilization']:.1%}" if report["utilization"] else ""
    out.append(("cycles", f"{report['cycles']:,} for {report['macs']:,} MACs{use}{bound}"))
    if (report["utilization"] or 0) > 1 or any((r["utilization"] or 0) > 1 for r in report["operators"]):
        out.append(("", "above 100 %: tiles whose weights are all zero are skipped, their MACs counted"))
    out.append(
        ("time", f"{report['seconds'] * 1e3:,.3f} ms at {report['clock_mhz']:g} MHz, without the transfer of data")
    )
    return out


def check_file(path: str | Path, config: NpuConfig, clock_mhz: float = 50.0) -> dict:
    """The report on a file. Raises ModelError when the file is no model or too damaged to list its operators."""
    try:
        model = load_model(path)
    except ModelError as error:
        try:
            file = Path(path)
            if file.stat().st_size > MAX_FILE_BYTES:
                raise error
            data = file.read_bytes()
        except OSError:
            raise error from None
        if data[4:8] != b"TFL3":
            raise
        return explain_refusal(data, error, file.stem, config, clock_mhz)
    return check_model(model, config, clock_mhz)


def command(args) -> int:
    """Print the report; returns 0, or raises ModelError or CompileError after it when the model does not run."""
    from lepton.sw.cli import UserError, load_config

    if not args.clock > 0 or not math.isfinite(args.clock):
        raise UserError(f"--clock {args.clock}: must be a positive number of MHz")
    report = check_file(args.model, load_config(args.config), args.clock)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    if not report["supported"]:
        sys.stdout.flush()
        raise (CompileError if report["macs"] is not None else ModelError)(report["reason"])
    return 0


def add_parser(subparsers) -> None:
    """Register `check`."""
    text = "say whether a model runs, where each operator runs, and how long it takes"
    parser = subparsers.add_parser("check", help=text, description=text)
    parser.add_argument("model", metavar="MODEL", help="int8 .tflite")
    parser.add_argument("--config", default="small", metavar="NAME", help="configuration (default: %(default)s)")
    parser.add_argument(
        "--clock", type=float, default=50.0, metavar="MHZ", help="clock for the time (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.set_defaults(func=command, handler=command)

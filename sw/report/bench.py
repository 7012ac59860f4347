"""`lepton bench`: what a model costs on the RTL, per layer, beside what the cycle model predicts.

Cycles of a layer. The hardware counts cycles and their causes from start to done, not per layer. So the program is
also run cut behind each layer (an END in place of the next instruction): up to there everything happens as in the
whole run. All cycles of a cut run but its `drain` (the pipeline empties) are the time until the layer's last vector
entered the array, so the difference of two neighbouring cuts is what the layer took, cause by cause; the last layer
of a stretch also has the drain. Cycles and causes of the layers sum exactly to those of the whole run. The prediction
is cut in the same way.

Utilisation is MACs / (rows * cols * cycles). Tiles whose weights are all zero are skipped but their MACs count, so it
may exceed 1. `host_bytes_in` and `host_bytes_out` are the tensor bytes of one inference that cross the link, without
the frames around them.
"""

import os
import sys
from pathlib import Path

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.timing import Memory
from lepton.sw.arrays import read_arrays
from lepton.sw.compiler import Program
from lepton.sw.graph.model import Model, ModelError, Operator
from lepton.sw.reference import golden
from lepton.sw.report.check import CAUSES, Count, per_layer, predicted_layers
from lepton.sw.session import DeviceEngine, Engine, Session

MODELS = {
    "pretrainedResnet_quant": "IC",
    "kws_ref_model": "KWS",
    "vww_96_int8": "VWW",
    "ad01_int8": "AD",
}
TARGETS = {  # percent of the multipliers busy; flagship: cycles
    "tiny": {"IC": 92, "KWS": 82, "VWW": 78, "AD": 90},
    "small": {"IC": 90, "KWS": 75, "VWW": 70, "AD": 80},
    "large": {"IC": 82, "KWS": 66, "VWW": 56, "AD": 25},
    "flagship": {"IC": 54_000, "KWS": 16_500, "VWW": 53_000, "AD": 4_600},
}
PEERS = (  # model, system, multiplications a cycle at most, cycles, percent of the multipliers busy
    ("IC", "fpgaConvNet, ZC706", "525", "27.5 k", "86"),
    ("IC", "fpgaConvNet, ZedBoard", "211", "58.8 k", "100"),
    ("IC", "fpgaConvNet, Zybo", "78", "394 k", "41"),
    ("IC", "GAP9 (NE16)", "162", "228 k", "34"),
    ("IC", "Syntiant NDP120", "?", "506 k", "?"),
    ("IC", "Cortex-M4, best software", "-", "20.1 M", "-"),
    ("KWS", "fpgaConvNet, ZedBoard", "188", "46 k", "31"),
    ("KWS", "fpgaConvNet, Cora-Z7", "55", "602 k", "8"),
    ("KWS", "GAP9 (NE16)", "162", "176 k", "9.3"),
    ("KWS", "Syntiant NDP120", "?", "146 k", "?"),
    ("KWS", "CFU-Playground, iCE40UP5K", "4", "25.2 M", "2.6"),
    ("VWW", "ANPU, VCU128", "994", "69 k", "10.9"),
    ("VWW", "fpgaConvNet, ZC706", "564", "144 k", "9.2"),
    ("VWW", "fpgaConvNet, ZedBoard", "189", "1.05 M", "3.8"),
    ("VWW", "GAP9 (NE16)", "162", "416 k", "11.1"),
    ("VWW", "Syntiant NDP120", "?", "405 k", "?"),
    ("AD", "GAP9 (NE16)", "162", "65 k", "2.5"),
    ("AD", "best soft CPU on an FPGA", "-", "1.0 M", "-"),
)


def measured_layers(program: Program, engine: DeviceEngine) -> list[Count]:
    """Count of each layer on a device that holds the program; it holds the whole program again afterwards."""

    def run(pc, end):
        if end is not None:
            engine.patch(end, isa.encode(isa.END)[0])
        try:
            engine.device.reset()  # every run begins like the first one
            counted = engine.start(pc)
        finally:
            if end is not None:
                engine.patch(end, program.words[end])
        return Count(counted["cycles"], counted["causes"])

    return per_layer(program, run)


def bound(model: Model, op: Operator, rows: int, cols: int) -> int:
    """Cycles that tiling alone forces on an operator: whole chunks of rows, whole groups of cols, a vector a cycle.

    Depthwise: tap k in row k, channel c in column c, every input pixel of the padded map read once a pass.
    """
    if op.op not in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return 0
    weights = model.tensors[op.inputs[1]].shape
    x, y = model.tensors[op.inputs[0]].shape, model.tensors[op.outputs[0]].shape
    if op.op == "FULLY_CONNECTED":
        return -(-weights[1] // rows) * -(-weights[0] // cols)
    pixels = y[1] * y[2]
    kh, kw = weights[1:3]
    if op.op == "CONV_2D":
        return pixels * -(-kh * kw * weights[3] // rows) * -(-weights[0] // cols)
    passes = -(-kh * kw // rows) * -(-weights[3] // cols)
    return passes * (pixels if x[3] == 1 and weights[3] > 1 else max(pixels, (x[1] + kh - 1) * (x[2] + kw - 1)))


class _Counting:
    """An engine that counts the tensor bytes through it."""

    def __init__(self, engine: Engine):
        self.engine, self.bytes_in, self.bytes_out = engine, 0, 0

    def write(self, address, data):
        self.bytes_in += len(data)
        self.engine.write(address, data)

    def read(self, address, count):
        self.bytes_out += count
        return self.engine.read(address, count)

    def patch(self, word, value):
        self.engine.patch(word, value)

    def start(self, pc):
        return self.engine.start(pc)


def example_inputs(session: Session, path: Path) -> list[np.ndarray]:
    """The first row of the .npz beside the model, else random values; one array for each input."""
    beside = path.with_suffix(".npz")
    known = read_arrays(beside) if beside.is_file() else {}
    rng = np.random.default_rng(1)
    arrays = []
    for k, end in enumerate(session.inputs):
        keys = ("input", "x") if len(session.inputs) == 1 else (f"input{k}",)
        found = next((known[key] for key in keys if key in known), None)
        if found is not None and found.dtype == end.dtype and found.shape[1:] == end.row and len(found):
            arrays.append(found[:1])
        elif end.dtype.kind in "iu":
            limits = np.iinfo(end.dtype)
            arrays.append(rng.integers(limits.min, limits.max, (1, *end.row), end.dtype, endpoint=True))
        else:
            arrays.append(rng.normal(size=(1, *end.row)).astype(end.dtype))
    return arrays


def bench(path: str | Path, config: str | NpuConfig = "small", backend: str = "rtl", memory: Memory = Memory()) -> dict:
    """Run one inference and report it.

    `backend` `rtl` measures the hardware; `iss` runs the instruction-set simulator, whose cycles are the cycle model's.
    Raises ModelError also when the output is not the golden model's.
    """
    session = Session(path, config, backend, memory=memory)
    program, model, config = session.program, session.model, session.config
    device = None
    if backend == "rtl":
        from lepton.sw.device.verilated import open_device

        device = DeviceEngine(open_device(config, program.external, memory=memory), program)
        engine = _Counting(device)
    else:
        engine = _Counting(session._open())
    session._engine = engine
    x = example_inputs(session, Path(path))
    made, wanted = session.run(x), golden.run(model, *x)
    pairs = zip(made.values(), wanted) if isinstance(made, dict) else [(made, wanted)]
    if not all(y.tobytes() == w.tobytes() for y, w in pairs):
        raise ModelError(f"{path}: the output of {backend} on {config.name!r} differs from the golden model's")
    predicted = predicted_layers(program)
    counts = measured_layers(program, device) if device is not None else predicted
    total = sum(counts, Count.zero())
    assert session.report is not None
    if device is not None and session.report["cycles"] != total.cycles:
        raise ModelError(f"{path}: {session.report['cycles']} cycles in one run, {total.cycles} in another")
    operators = {op.index: op for op in model.operators}

    def use(macs, cycles):
        return macs / (config.macs_per_cycle * cycles) if cycles else 0.0

    return {
        "model": model.name,
        "config": config.name,
        "backend": backend,
        "rows": config.rows,
        "cols": config.cols,
        "macs": program.macs,
        "cycles": total.cycles,
        "predicted_cycles": sum(p.cycles for p in predicted),
        "utilization": use(program.macs, total.cycles),
        "causes": total.causes,
        "host_bytes_in": engine.bytes_in,
        "host_bytes_out": engine.bytes_out,
        "layers": [
            {
                "index": layer.operators[0],
                "op": layer.name,
                "macs": layer.macs,
                "cycles": count.cycles,
                "predicted_cycles": guess.cycles,
                "utilization": use(layer.macs, count.cycles),
                "causes": count.causes,
                "predicted_causes": guess.causes,
                "bound": sum(bound(model, operators[i], config.rows, config.cols) for i in layer.operators),
            }
            for layer, count, guess in zip(program.layers, counts, predicted)
        ],
    }


def show(report: dict, file=None) -> None:
    """Print a report as a table."""
    from rich.console import Console
    from rich.table import Table

    file = file or sys.stdout
    console = Console(file=file, highlight=False, width=None if file.isatty() else 150)
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)

    def column(name, footer="", justify="right"):
        table.add_column(name, footer=footer, justify=justify, no_wrap=True)

    column("#")
    column("layer", "total", "left")
    column("MACs", f"{report['macs']:,}")
    column("cycles", f"{report['cycles']:,}")
    column("predicted", f"{report['predicted_cycles']:,}")
    column("util", f"{report['utilization']:.1%}")
    for name in CAUSES:
        column(name, f"{report['causes'][name]:,}")
    for row in report["layers"]:
        differs = row["cycles"] != row["predicted_cycles"]
        table.add_row(
            str(row["index"]),
            row["op"],
            f"{row['macs']:,}",
            f"{row['cycles']:,}",
            f"[red]{row['predicted_cycles']:,}[/]" if differs else f"{row['predicted_cycles']:,}",
            f"{row['utilization']:.1%}",
            *(f"{row['causes'][name]:,}" for name in CAUSES),
        )
    console.print(f"{report['model']} on {report['config']} ({report['rows']} x {report['cols']}), {report['backend']}")
    console.print(table)
    console.print(f"over the link: {report['host_bytes_in']:,} bytes in, {report['host_bytes_out']:,} bytes out")


# The page of all models


def performance_page(reports: list[dict], command: str) -> str:
    """Markdown: each model at each configuration, the targets, and the peers."""
    configs = list(dict.fromkeys(r["config"] for r in reports))
    at = {(MODELS[r["model"]], r["config"]): r for r in reports}
    kinds = [k for k in MODELS.values() if any((k, c) in at for c in configs)]
    shapes = {r["config"]: f"{r['rows']}x{r['cols']}" for r in reports}
    out = [
        "# Performance",
        "",
        f"Measured on the RTL (Verilator) by `{command}`, which writes this page. Cycles are from start to",
        "done; the transfer of data and operators on the host (softmax) are apart. Every output was byte-identical to",
        "the golden model's. Models: MLPerf Tiny's "
        + ", ".join(f"{kind} `{name}`" for name, kind in MODELS.items() if kind in kinds)
        + ". Utilisation is MACs / (rows · cols · cycles).",
        "All-zero weight tiles are skipped, though their MACs count.",
        "",
        "## Beside other systems",
        "",
        "The others are from MLPerf Tiny's official result files (cycles = clock / throughput; streaming",
        "designs quote throughput, a lower bound on latency) and CFU-Playground's.",
        "",
        "| model | system | MAC/cycle | cycles | utilisation % | target |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for kind in kinds:
        for config in configs:
            r = at.get((kind, config))
            if r is None:
                continue
            target = TARGETS.get(config, {}).get(kind)
            goal = ""
            if target is not None and config == "flagship":
                goal = f"{target:,} cycles: {'met' if r['cycles'] <= target else 'missed'}"
            elif target is not None:
                goal = f"{target} %: {'met' if r['utilization'] * 100 >= target else 'missed'}"
            peak = r["rows"] * r["cols"]
            use = f"{r['utilization'] * 100:.1f}"
            out.append(f"| {kind} | **Lepton {config}** {shapes[config]} | {peak} | {r['cycles']:,} | {use} | {goal} |")
        out += [
            f"| {k} | {system} | {peak} | {cycles} | {use} | |" for k, system, peak, cycles, use in PEERS if k == kind
        ]
    out += [
        "",
        "## Where the cycles go",
        "",
        f"| model | configuration | cycles | predicted | {' | '.join(CAUSES)} | in, out bytes |",
    ]
    out.append("| --- | --- |" + " ---: |" * (len(CAUSES) + 3))
    for kind in kinds:
        for config in configs:
            r = at.get((kind, config))
            if r is not None:
                causes = " | ".join(f"{r['causes'][c]:,}" for c in CAUSES)
                moved = f"{r['host_bytes_in']:,}, {r['host_bytes_out']:,}"
                out.append(f"| {kind} | {config} | {r['cycles']:,} | {r['predicted_cycles']:,} | {causes} | {moved} |")
    out += [
        "",
        "`multiply`: a vector entered the array. `weights`: a tile was not there yet. `activations`: the layer",
        "before was not written yet. `tail`: both accumulator banks were taken. `fetch`: no instruction was there",
        "yet. `drain`: the last results are on their way.",
        "",
        "## Layers above twice their bound",
        "",
        "The bound counts what tiling alone forces: whole chunks of rows, whole groups of columns, one vector a",
        "cycle. Listed is every layer with multiplications that takes more than twice that plus 200 cycles, with the",
        "causes of its cycles.",
        "",
    ]
    slow = [
        f"| {MODELS[r['model']]} | {r['config']} | {x['index']} {x['op']} | {x['cycles']:,} | {x['bound']:,} | "
        + ", ".join(f"{c} {v:,}" for c, v in x["causes"].items() if v)
        + " |"
        for r in reports
        for x in r["layers"]
        if x["macs"] and x["cycles"] > 2 * x["bound"] + 200
    ]
    head = ["| model | configuration | layer | cycles | bound | causes |", "| --- | --- | --- | ---: | ---: | --- |"]
    return "\n".join([*out, *(head + slow if slow else ["None."]), ""])


def shared_models() -> list[Path]:
    """The four models in LEPTON_SHARED (default: `../shared` beside the checkout). Raises ModelError."""
    folder = Path(os.environ.get("LEPTON_SHARED", Path(__file__).resolve().parents[3] / "shared")) / "models"
    paths = [folder / f"{name}.tflite" for name in MODELS]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path}: no such file; set LEPTON_SHARED to the folder of the reference models")
    return paths

"""`lepton profile`: where the time goes, as a trace, pictures and one page.

All times are the cycle model's, which the hardware equals cycle for cycle when all weights are on the chip. Written
are `trace.json` (Chrome trace events: Perfetto or chrome://tracing, a microsecond in the viewer is a cycle),
`causes.png`, `roofline.png` and `index.html`, which holds both pictures and needs nothing else.
"""

import base64
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.sw.compiler import HostStep, NpuStep, Program
from lepton.sw.reference.cycles import predict
from lepton.sw.report.bench import bound
from lepton.sw.report.check import CAUSES, Count, predicted_layers, stretches
from lepton.sw.session import Session

COLORS = {
    "multiply": "#2a9d5c",
    "weights": "#7b5ea7",
    "activations": "#e0a526",
    "tail": "#d1603d",
    "fetch": "#4c8bb5",
    "drain": "#9a9a9a",
}
TRACKS = ("layers", "weight engine", "multiply engine", "array", "tail engine", "host")


@dataclass
class Row:
    """One layer of the report."""

    index: int
    name: str
    macs: int
    count: Count
    ideal: int
    bound: int
    bytes_moved: int


def weight_words(program: Program, layer) -> int:
    """Bytes of the weights that a layer loads into the array, every time it does."""
    at, tiles = layer.first_word, 0
    while at < layer.end_word:
        op, values = isa.decode(program.words, at)
        if op is isa.LOAD:
            tiles += values["count"]
        at += op.words
    return tiles * program.config.tile_bytes


def layer_rows(program: Program, counts: list[Count]) -> list[Row]:
    """What the pictures show of each layer. Bytes moved: weights into the array, activations read and written once."""
    model, config = program.model, program.config
    operators = {op.index: op for op in model.operators}
    rows = []
    for layer, count in zip(program.layers, counts):
        ops = [operators[i] for i in layer.operators]
        made = {t for op in ops for t in op.outputs}
        read = {t for op in ops for t in op.inputs if t >= 0 and not model.tensors[t].constant} - made
        moved = sum(model.tensors[t].size for t in (*read, ops[-1].outputs[0])) + weight_words(program, layer)
        rows.append(
            Row(
                layer.operators[0],
                layer.name,
                layer.macs,
                count,
                -(-layer.macs // config.macs_per_cycle),
                sum(bound(model, op, config.rows, config.cols) for op in ops),
                moved,
            )
        )
    return rows


def trace(program: Program, counts: list[Count]) -> dict:
    """Chrome trace events of one inference, a track a unit.

    Weight engine: a tile waits at the array's input from when the pass before starts until its own starts. Multiply
    and tail engine: one slice an instruction. Array: one slice a tile pass. Steps on the host are marks of no length.
    """
    model = program.model
    operators = {op.index: op for op in model.operators}
    events = [{"ph": "M", "name": "process_name", "pid": 1, "args": {"name": f"{model.name} on {program.config.name}"}}]
    for tid, name in enumerate(TRACKS):
        events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": tid, "args": {"name": name}})
        events.append({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": tid, "args": {"sort_index": tid}})

    def piece(track, name, start, length, **args):
        event = {"ph": "X", "pid": 1, "tid": TRACKS.index(track), "name": name, "ts": start, "dur": length}
        events.append(event | ({"args": args} if args else {}))

    def owner(pc, stretch):
        return next(
            (i for i in stretch.layers if program.layers[i].first_word <= pc < program.layers[i].end_word), None
        )

    at = 0
    runs = {stretch.pc: stretch for stretch in stretches(program)}
    for step in program.steps:
        if isinstance(step, HostStep):
            op = operators[step.operator]
            events.append(
                {"ph": "i", "s": "t", "pid": 1, "tid": TRACKS.index("host"), "name": f"{op.index} {op.op}", "ts": at}
            )
            continue
        assert isinstance(step, NpuStep)
        stretch = runs[step.pc]
        timing = predict(program.config, program.words, program.tiles, step.pc, program.external, params=program.params)
        start = 0
        for i in stretch.layers:
            end = start + counts[i].cycles
            layer = program.layers[i]
            causes = {k: v for k, v in counts[i].causes.items() if v}
            piece("layers", f"{layer.operators[0]} {layer.name}", at + start, end - start, macs=layer.macs, **causes)
            start = end
        for pc, (first, last) in timing.spans.items():
            instruction, values = isa.decode(program.words, pc)
            i = owner(pc, stretch)
            what = program.layers[i].operators[0] if i is not None else "?"
            args = {"word": pc, "layer": what, "width": values["width"], "height": values["height"]}
            track = "multiply engine" if instruction is isa.MUL else "tail engine"
            piece(track, f"{instruction.opcode.name} layer {what}", at + first, last - first + 1, **args)
        previous = 0
        for pc, first, vectors in timing.issues:
            piece("weight engine", "tile", at + previous, max(0, first - previous))
            piece("array", f"{vectors} vectors", at + first, vectors, word=pc)
            previous = first
        at += timing.cycles
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"unit": "1 us in the viewer is 1 cycle"}}


# Pictures


def _png(figure) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _label(row: Row) -> str:
    name = row.name
    for long, short in (
        ("DEPTHWISE_CONV_2D", "DEPTHWISE"),
        ("CONV_2D", "CONV"),
        ("FULLY_CONNECTED", "DENSE"),
        ("_POOL_2D", "_POOL"),
    ):
        name = name.replace(long, short)
    return f"{row.index} {name}"


def draw_causes(rows: list[Row], title: str) -> bytes:
    """PNG: for each layer the causes stacked, beside it the ideal (every multiplier busy)."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(10, max(3.2, 1.6 + 0.32 * len(rows))), layout="constrained")
    places = range(len(rows))
    left = [0] * len(rows)
    for name in CAUSES:
        widths = [row.count.causes[name] for row in rows]
        if any(widths):
            axis.barh([p - 0.14 for p in places], widths, 0.5, left, color=COLORS[name], label=name)
        left = [a + b for a, b in zip(left, widths)]
    axis.barh(
        [p + 0.26 for p in places], [row.ideal for row in rows], 0.22, color="black", label="ideal: MACs / multipliers"
    )
    most = max([*left, *(row.ideal for row in rows), 1])
    for p, row in zip(places, rows):
        share = f"  {row.ideal / row.count.cycles:.0%}" if row.macs and row.count.cycles else ""
        axis.text(row.count.cycles, p - 0.14, share, va="center", fontsize=8)
    axis.set_yticks(list(places), [_label(row) for row in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, most * 1.08)
    axis.set_xlabel("cycles (percent: multipliers busy)")
    axis.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(f"{title}: where the cycles of each layer go")
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.9 / figure.get_figheight()), ncols=7, frameon=False, fontsize=8
    )
    return _png(figure)


def _label_points(axis, points: list[tuple[float, float, int]]) -> None:
    """Write the index of each (x, y, index) beside it: one label for points that coincide, labels apart if they can."""
    from matplotlib.transforms import Bbox

    figure = axis.figure
    figure.draw_without_rendering()  # so that the places on the page are known
    groups: list[tuple[float, float, list[int]]] = []
    for x, y, index in points:
        px, py = axis.transData.transform((x, y))
        near = next((g for g in groups if abs(g[0] - px) < 7 and abs(g[1] - py) < 7), None)
        if near is None:
            groups.append((px, py, [index]))
        else:
            near[2].append(index)
    taken = [Bbox.from_extents(px - 4, py - 4, px + 4, py + 4) for px, py, _ in groups]
    spots = [(1, -1), (1, 1), (-1, -1), (-1, 1), *((0, sign * far) for far in (2, 3.2, 4.4) for sign in (-1, 1))]
    for px, py, indexes in groups:
        for spot in spots:
            across, down = spot
            label = axis.annotate(
                ", ".join(map(str, indexes)),
                axis.transData.inverted().transform((px, py)),
                (5 * across, 7 * down),
                textcoords="offset points",
                ha={1: "left", -1: "right", 0: "center"}[across],
                va="center",
                fontsize=7,
                arrowprops={"arrowstyle": "-", "lw": 0.4, "color": "#888", "shrinkB": 3} if across == 0 else None,
            )
            box = label.get_window_extent()
            if spot == spots[-1] or not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            label.remove()


def draw_roofline(rows: list[Row], config: NpuConfig, title: str) -> bytes:
    """PNG: MACs a cycle over MACs a byte moved inside the chip, under the roof of multipliers and memories."""
    plt = _pyplot()
    points = [row for row in rows if row.macs and row.count.cycles]
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    peak, bandwidth = config.macs_per_cycle, config.tile_bytes
    x = [row.macs / row.bytes_moved for row in points] or [1]
    low, high = min([*x, peak / bandwidth]) / 2, max([*x, peak / bandwidth]) * 2
    ridge = peak / bandwidth
    axis.plot([low, ridge, high], [bandwidth * low, peak, peak], color="black", lw=1.5, label="roof")
    axis.text(ridge * 1.1, peak * 1.1, f"{peak} MAC/cycle", va="bottom", fontsize=8)
    axis.text(low * 1.05, bandwidth * low * 0.8, f"a tile of {bandwidth} bytes a cycle", fontsize=8, va="top")
    kinds = {"DEPTHWISE_CONV_2D": "#d1603d", "CONV_2D": "#2a9d5c", "FULLY_CONNECTED": "#4c8bb5"}
    for kind, color in kinds.items():
        mine = [row for row in points if row.name.startswith(kind)]
        if mine:
            axis.scatter(
                [row.macs / row.bytes_moved for row in mine],
                [row.macs / row.count.cycles for row in mine],
                [30 + 250 * row.count.cycles / sum(r.count.cycles for r in rows) for row in mine],
                color=color,
                alpha=0.75,
                edgecolors="white",
                label=kind.lower(),
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlim(low, high)
    lowest = min([bandwidth * low, *(row.macs / row.count.cycles for row in points)])
    axis.set_ylim(lowest / 1.6, max([peak, *(row.macs / row.count.cycles for row in points)]) * 1.6)
    axis.set_xlabel("MACs per byte (weights into the array, activations read and written once)")
    axis.set_ylabel("MACs per cycle")
    axis.set_title(f"{title}: roofline (size: share of the time)")
    axis.grid(True, which="major", color="#e5e5e5")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="lower right", fontsize=8)
    _label_points(axis, [(row.macs / row.bytes_moved, row.macs / row.count.cycles, row.index) for row in points])
    return _png(figure)


# The page

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1000px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;margin-bottom:0}h2{font-size:1.15em;margin-top:2em}img{max-width:100%;height:auto}
table{border-collapse:collapse;font-size:13px}
td,th{padding:2px 9px;text-align:right;border-bottom:1px solid #e5e5e5;white-space:nowrap}
td:nth-child(2),th:nth-child(2){text-align:left}
tfoot td{font-weight:bold;border-top:2px solid #888}.box{overflow-x:auto}p.sub{color:#666;margin-top:.2em}
"""


def page(program: Program, rows: list[Row], pictures: dict[str, bytes]) -> str:
    """The HTML page, complete in itself. `pictures`: heading to PNG."""
    config = program.config
    total = sum((row.count for row in rows), Count.zero())
    title = html.escape(f"{program.model.name} on {config.name}")

    def cells(values, tag="td"):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(v))}</{tag}>" for v in values) + "</tr>"

    def use(macs, cycles):
        return f"{macs / (config.macs_per_cycle * cycles):.1%}" if macs and cycles else ""

    body = "".join(
        cells(
            [row.index, row.name, f"{row.macs:,}", f"{row.count.cycles:,}", f"{row.ideal:,}", f"{row.bound:,}"]
            + [use(row.macs, row.count.cycles), *(f"{row.count.causes[c]:,}" for c in CAUSES)]
        )
        for row in rows
    )
    macs = sum(row.macs for row in rows)
    sums = [
        "",
        "total",
        f"{macs:,}",
        f"{total.cycles:,}",
        f"{sum(r.ideal for r in rows):,}",
        f"{sum(r.bound for r in rows):,}",
    ]
    foot = cells([*sums, use(macs, total.cycles), *(f"{total.causes[c]:,}" for c in CAUSES)])
    head = cells(["#", "layer", "MACs", "cycles", "ideal", "bound", "busy", *CAUSES], "th")
    images = "".join(
        f"<h2>{html.escape(name)}</h2><img alt='{html.escape(name)}' "
        f"src='data:image/png;base64,{base64.b64encode(png).decode()}'>"
        for name, png in pictures.items()
    )
    shape = f"{config.rows} x {config.cols}{' paired' if config.pe == 'paired' else ''}"
    on_host = [step for step in program.steps if isinstance(step, HostStep)]
    host = f", {len(on_host)} on the host" if on_host else ""
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<p class='sub'>{shape} MACs a cycle, {total.cycles:,} cycles, "
        f"{use(macs, total.cycles) or '0 %'} of the multipliers busy, "
        f"{len(rows)} layers on the array{host}. Predicted by the cycle model.</p>{images}"
        f"<h2>Layers</h2><div class='box'><table><thead>{head}</thead><tbody>{body}</tbody>"
        f"<tfoot>{foot}</tfoot></table></div>"
        "<p class='sub'>Ideal: MACs / multipliers. Bound: whole tiles, a vector a cycle, nothing else. "
        "Waiting for the layer before belongs to the layer that waits. Tiles whose weights are all zero are "
        "skipped while their MACs count, "
        "so a layer can be faster than its ideal. The file trace.json beside this page opens in Perfetto or "
        "chrome://tracing; a microsecond there is a cycle.</p></html>\n"
    )


def profile(path: str | Path, folder: str | Path, config: str | NpuConfig = "small") -> list[Path]:
    """Write the trace, the pictures and the page into `folder` (made if it is not there); the paths."""
    session = Session(path, config, "iss")
    program = session.program
    counts = predicted_layers(program)
    rows = layer_rows(program, counts)
    title = f"{program.model.name} on {program.config.name}"
    causes = draw_causes(rows, title)
    roofline = draw_roofline(rows, program.config, title)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "trace.json": json.dumps(trace(program, counts)).encode(),
        "causes.png": causes,
        "roofline.png": roofline,
        "index.html": page(program, rows, {"Where the cycles go": causes, "Roofline": roofline}).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]

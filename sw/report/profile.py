"""`lepton profile`: where the time goes, as a trace, pictures and one page.

All times are the cycle model's, which the hardware equals cycle for cycle when all weights are on the chip. Written
are `trace.json` (Chrome trace events: Perfetto or chrome://tracing, a microsecond in the viewer is a cycle),
`causes.svg`, `roofline.svg` and `index.html`, which holds both pictures, answers the mouse and needs nothing else.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.timing import Memory
from lepton.sw.compiler import HostStep, NpuStep, Program
from lepton.sw.report import charts
from lepton.sw.report.check import CAUSES, Count, predicted_layers, stretches
from lepton.sw.report.layers import Row, layer_rows
from lepton.sw.session import Session
from lepton.sw.targets import PRESET_MHZ

TRACKS = ("layers", "weight engine", "multiply engine", "array", "tail engine", "copies", "host")
HERE = Path(__file__).parent


def trace(program: Program, counts: list[Count]) -> dict:
    """Chrome trace events of one inference, a track a unit.

    Weight engine: a tile waits at the array's input from when the pass before starts until its own starts. Multiply
    and tail engine, copies: one slice an instruction. Array: one slice a tile pass. Steps on the host are marks of no
    length.
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
        timing = program.predict(step.pc)
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
            if instruction is isa.MOVE:
                whither = "memory" if values["store"] else isa.Space(values["space"]).name
                count = values["length"] * values["rows"] * values["planes"]
                piece("copies", f"to {whither}, layer {what}", at + first, last - first + 1, word=pc, count=count)
                continue
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


# The page


def _ms(cycles: int, mhz: float) -> str:
    return f"{cycles / mhz / 1e3:,.3f}"


def describe(row: Row, total: int, mhz: float) -> str:
    """What the page tells of a layer, some lines."""
    out = [f"{row.index} {row.name} → {row.shape}"]
    if row.count is None:
        return "\n".join([*out, "on the host, beside the accelerator's time" + (f": {row.why}" if row.why else "")])
    cycles = row.count.cycles
    share = f", {cycles / total:.1%} of all" if total else ""
    out.append(f"{cycles:,} cycles, {_ms(cycles, mhz)} ms{share}")
    if row.busy is not None:
        out.append(f"{row.macs:,} MACs: {row.busy:.1%} of the multipliers busy")
        out.append(f"ideal {row.ideal:,} cycles, tiling alone {row.bound:,}")
    out.append(f"{row.bytes_moved:,} bytes moved inside the chip")
    out += [f"{cause}: {n:,}" for cause, n in row.count.causes.items() if n]
    return "\n".join(out)


def _cell(value: object, order: float | None = None, tag: str = "td") -> str:
    """A cell of the table; `order` is what the column is sorted by, where that is not the words."""
    data = "" if order is None else f' data-value="{order:g}"'
    return f"<{tag}{data}>{html.escape(str(value))}</{tag}>"


def _row(row: Row, total: int, mhz: float) -> str:
    """A row of the table: host layers too, which have no cycles and come last when sorted by them."""
    head = [_cell(row.index, row.index), _cell(row.name), _cell("array" if row.count else "host")]
    if row.count is None:
        cells = [_cell("", -1)] * (7 + len(CAUSES))
    else:
        n, busy = row.count.cycles, row.busy
        cells = [
            *(_cell(f"{v:,}", v) for v in (row.macs, n)),
            _cell(_ms(n, mhz), n),
            _cell(f"{n / total:.1%}" if total else "", n),
            *(_cell(f"{v:,}", v) for v in (row.ideal, row.bound)),
            _cell("" if busy is None else f"{busy:.1%}", -1 if busy is None else busy),
            *(_cell(f"{row.count.causes[c]:,}", row.count.causes[c]) for c in CAUSES),
        ]
    kind = "" if row.count else ' class="host"'
    return f'<tr data-layer="{row.index}" tabindex="0"{kind}>{"".join([*head, *cells])}</tr>'


def page(program: Program, rows: Sequence[Row], pictures: dict[str, str], mhz: float) -> str:
    """The HTML page, complete in itself. `pictures`: heading to SVG."""
    config = program.config
    total = sum((row.count for row in rows if row.count), Count.zero())
    macs, cycles = sum(row.macs for row in rows), total.cycles
    busy = f"{macs / (config.macs_per_cycle * cycles):.1%}" if macs and cycles else ""
    title = html.escape(f"{program.model.name} on {config.name}")
    names = ["#", "layer", "where", "MACs", "cycles", "ms", "share", "ideal", "bound", "busy", *CAUSES]
    head = "".join(f'<th tabindex="0">{name}</th>' for name in names)
    ideal, least = sum(row.ideal for row in rows), sum(row.bound for row in rows)
    sums = ["", "total", "", f"{macs:,}", f"{cycles:,}", _ms(cycles, mhz), "", f"{ideal:,}", f"{least:,}", busy]
    foot = "".join(map(_cell, [*sums, *(f"{total.causes[c]:,}" for c in CAUSES)]))
    images = "".join(f"<div><h2>{html.escape(name)}</h2>{svg}</div>" for name, svg in pictures.items())
    told = {row.index: describe(row, cycles, mhz) for row in rows}
    data = json.dumps(told).replace("<", "\\u003c")
    on_host = sum(row.count is None for row in rows)
    host = f", {on_host} on the host" if on_host else ""
    paired = " paired" if config.pe == "paired" else ""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{style}</style><h1>{title}</h1>"
        f"<p class='sub'>{cycles:,} cycles, {_ms(cycles, mhz)} ms at {mhz:g} MHz; {config.rows} x {config.cols}"
        f"{paired} MACs a cycle, {busy or '0 %'} of the multipliers busy; {len(rows) - on_host} layers on the array"
        f"{host}. Predicted by the cycle model.</p>"
        f"<div class='pictures'>{images}</div><div id='choice' hidden></div>"
        f"<h2>Layers</h2><div class='box'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(_row(row, cycles, mhz) for row in rows)}</tbody><tfoot><tr>{foot}</tr></tfoot></table></div>"
        "<p class='sub'>Click a head to sort, a layer to choose it. Ideal: MACs / multipliers. Bound: whole tiles, a "
        "vector a cycle, nothing else. Waiting for the layer before belongs to the layer that waits. Tiles whose "
        "weights are all zero are skipped while their MACs count, so a layer can be faster than its ideal. The host's "
        "layers and the transfer of data come on top. The file trace.json beside this page opens in Perfetto or "
        "chrome://tracing; a microsecond there is a cycle.</p><div id='tip' hidden></div>"
        f"<script type='application/json' id='data'>{data}</script><script>{script}</script></html>\n"
    )


def profile(
    path: str | Path,
    folder: str | Path,
    config: str | NpuConfig = "small",
    mhz: float = PRESET_MHZ,
    memory: Memory = Memory(),
) -> list[Path]:
    """Write the trace, the pictures and the page into `folder` (made if it is not there); the paths."""
    session = Session(path, config, "iss", memory=memory)
    program = session.program
    counts = predicted_layers(program)
    rows = layer_rows(program, counts)
    title = f"{program.model.name} on {program.config.name}"
    causes = charts.causes(rows, mhz, f"{title}: where the cycles of each layer go")
    roof = charts.roofline(
        rows, program.config.macs_per_cycle, program.config.tile_bytes, f"{title}: roofline (size: share of the time)"
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "trace.json": json.dumps(trace(program, counts)),
        "causes.svg": causes,
        "roofline.svg": roof,
        "index.html": page(program, rows, {"Where the cycles go": causes, "Roofline": roof}, mhz),
    }
    for name, data in files.items():
        (folder / name).write_text(data, encoding="utf-8")
    return [folder / name for name in files]

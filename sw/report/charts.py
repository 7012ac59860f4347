"""The pictures of `lepton profile` as SVG: sharp at any size, and legible when they are 420 pixels wide.

Their unit is a pixel of a picture `WIDTH` wide, and no text is smaller than `FONT`. What belongs to a layer is a group
with `data-layer`, its index, so that a page that holds the picture can answer the mouse.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape

from lepton.sw.report import palette
from lepton.sw.report.layers import Row

Box = tuple[float, float, float, float]  # left, top, right, bottom
WIDTH, FONT = 480, 12
CHAR = 0.56 * FONT
"""Width of a character, roughly: to keep texts apart."""
SHORT = {
    "DEPTHWISE_CONV_2D": "DEPTHWISE",
    "TRANSPOSE_CONV": "TCONV",
    "CONV_2D": "CONV",
    "FULLY_CONNECTED": "DENSE",
    "AVERAGE_POOL_2D": "AVG_POOL",
    "MAX_POOL_2D": "MAX_POOL",
    "CONCATENATION": "CONCAT",
    "RESIZE_NEAREST_NEIGHBOR": "RESIZE",
}


def text(x: float, y: float, words: str, anchor: str = "start", color: str = palette.INK, extra: str = "") -> str:
    """A line of text, its baseline at y."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{extra}>{escape(words)}</text>'


def rect(x: float, y: float, width: float, height: float, color: str, extra: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.2f}" height="{height:.1f}" fill="{color}"{extra}/>'


def line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{color}" stroke-width="{width}" fill="none"/>'


def picture(height: float, parts: Iterable[str], title: str) -> str:
    """An SVG document of the parts."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="{FONT}"><title>{escape(title)}</title>{"".join(parts)}</svg>\n'
    )


def short(row: Row, room: float) -> str:
    """Index and name of a layer, cut to fit."""
    name = "+".join(SHORT.get(op, op) for op in row.name.split("+"))
    words, most = f"{row.index} {name}", int(room / CHAR)
    return words if len(words) <= most else words[: most - 1] + "…"


def count(n: float) -> str:
    """A number of cycles, short."""
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if n >= factor:
            return f"{n / factor:g} {unit}"
    return f"{n:g}"


def ticks(most: float, wanted: int = 5) -> list[float]:
    """Round values from 0 up to at most `most`: about `wanted` steps."""
    raw = max(most, 1) / wanted
    base = 10 ** math.floor(math.log10(raw))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw * 0.999)
    return [step * n for n in range(int(most / step) + 1)]


def group(row: Row, parts: Iterable[str]) -> str:
    """What belongs to a layer; the page makes it answer."""
    return f'<g class="layer" data-layer="{row.index}" tabindex="0">{"".join(parts)}</g>'


def legend(names: Sequence[tuple[str, str]], y: float, columns: int = 4) -> tuple[list[str], float]:
    """Swatches with their names in columns; the parts, and where the next thing may begin."""
    parts = []
    for n, (name, color) in enumerate(names):
        x, at = 8 + (n % columns) * (WIDTH - 16) / columns, y + n // columns * 18
        parts += [rect(x, at - 9, 10, 10, color), text(x + 15, at, name)]
    return parts, y + -(-len(names) // columns) * 18


def causes(rows: Sequence[Row], mhz: float, title: str) -> str:
    """For each layer the causes of its cycles, stacked; a thin bar below is the ideal, every multiplier busy."""
    left, right, step = 168, WIDTH - 48, 24
    shown = [name for name in palette.CAUSES if any(row.count and row.count.causes.get(name) for row in rows)]
    names = [(name, palette.of_cause(name)) for name in shown] + [("ideal (all busy)", palette.INK)]
    parts, y = legend(names, 16)
    parts.append(text(WIDTH - 6, y + 2, "busy", "end", palette.MUTED))
    y += 8
    most = max([1, *(max(row.cycles or 0, row.ideal) for row in rows)])
    scale = (right - left) / most
    bottom = y + step * len(rows)
    for tick in ticks(most):
        x: float = left + tick * scale
        parts.append(line(x, y, x, bottom + 3, palette.GRID))
        parts.append(text(x, bottom + 17, count(tick), "middle", palette.MUTED))
        parts.append(text(x, bottom + 32, f"{tick / mhz / 1e3:.3g}", "middle", palette.MUTED))
    parts.append(text(left - 12, bottom + 17, "cycles", "end", palette.MUTED))
    parts.append(text(left - 12, bottom + 32, f"ms at {mhz:g} MHz", "end", palette.MUTED))
    for n, row in enumerate(rows):
        top = y + n * step
        mine = [rect(0, top, WIDTH, step, "transparent"), text(6, top + 16, short(row, left - 14))]
        if row.count is None:
            mine.append(text(left + 4, top + 16, "on the host", color=palette.HOST))
        else:
            x = left
            for name in shown:
                width = row.count.causes.get(name, 0) * scale
                if width:
                    mine.append(rect(x, top + 4, width, 11, palette.of_cause(name)))
                x += width
            mine.append(rect(left, top + 17, row.ideal * scale, 3, palette.INK))
            if row.busy is not None:
                mine.append(text(WIDTH - 6, top + 16, f"{row.busy:.0%}", "end"))
        parts.append(group(row, mine))
    parts.append(line(left, y, left, bottom, palette.INK))
    return picture(bottom + 40, parts, title)


def roofline(rows: Sequence[Row], peak: int, bandwidth: int, title: str) -> str:
    """MACs a cycle over MACs a byte moved inside the chip, under the roof of multipliers and memories."""
    points = [row for row in rows if row.macs and row.cycles and row.bytes_moved]
    left, right, top, bottom = 52, WIDTH - 14, 42, 318
    ridge = peak / bandwidth
    xs = [row.macs / row.bytes_moved for row in points]
    ys = [row.macs / (row.cycles or 1) for row in points]
    x_low, x_high = min([*xs, ridge]) / 2, max([*xs, ridge]) * 2
    y_low, y_high = min([bandwidth * x_low, *ys]) / 1.6, max([peak, *ys]) * 2

    def at_x(v: float) -> float:
        return left + (right - left) * math.log(v / x_low) / math.log(x_high / x_low)

    def at_y(v: float) -> float:
        return bottom - (bottom - top) * math.log(v / y_low) / math.log(y_high / y_low)

    kinds = {palette.of_layer(row.name): next(k for k in palette.KINDS if row.name.startswith(k)) for row in points}
    names = [(SHORT.get(kind, kind).lower() or "other", color) for color, kind in kinds.items()]
    parts, _ = legend(names, 16)
    for low, high, place, across in ((x_low, x_high, at_x, True), (y_low, y_high, at_y, False)):
        for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
            at, words = place(10.0**power), count(10.0**power)
            if across:
                parts += [
                    line(at, top, at, bottom, palette.GRID),
                    text(at, bottom + 16, words, "middle", palette.MUTED),
                ]
            else:
                parts += [line(left, at, right, at, palette.GRID), text(left - 6, at + 4, words, "end", palette.MUTED)]
    roof = [(x_low, bandwidth * x_low), (ridge, peak), (x_high, peak)]
    path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in roof)
    parts.append(f'<path d="M{path}" stroke="{palette.INK}" stroke-width="1.5" fill="none"/>')
    roof_words, roof_x, roof_y = f"{peak} MAC a cycle", at_x(ridge) - 4, at_y(peak) - 6
    parts.append(text(roof_x, roof_y, roof_words))
    parts.append(text((left + right) / 2, bottom + 34, "MACs a byte (weights in, activations once)", "middle"))
    parts.append(text(left - 44, top - 8, "MACs a cycle"))
    total = sum(row.cycles or 0 for row in points) or 1
    spots = []
    for row, x, y in zip(points, xs, ys):
        radius = 4 + 9 * math.sqrt((row.cycles or 0) / total)
        spots.append((row, at_x(x), at_y(y), radius))
    name = roof_x, roof_y - FONT, roof_x + len(roof_words) * CHAR, roof_y + 4
    labels = place_labels([(x, y, r, str(row.index)) for row, x, y, r in spots], (left, top, right, bottom), [name])
    for (row, x, y, radius), label in zip(spots, labels):
        color = palette.of_layer(row.name)
        mine = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{color}" fill-opacity="0.7" stroke="#fff"/>']
        if label is not None:
            mine.append(text(label[0], label[1], label[2]))
        parts.append(group(row, mine))
    return picture(bottom + 44, parts, title)


def place_labels(
    points: Sequence[tuple[float, float, float, str]], area: Box, taken: Iterable[Box] = ()
) -> list[tuple[float, float, str] | None]:
    """Where each point's label goes: left end, baseline and words, or None where another point's label names it too.

    `points`: x, y, radius, words; `area`, `taken`: left, top, right, bottom. Points that coincide share a label; no
    label covers another, a point or what is `taken`, nor leaves the area: those for which there is no room are left out
    (the page tells them on hover).
    """
    groups: list[list[int]] = []
    for n, (x, y, _, _) in enumerate(points):
        near = next((g for g in groups if math.hypot(points[g[0]][0] - x, points[g[0]][1] - y) < 9), None)
        if near is None:
            groups.append([n])
        else:
            near.append(n)
    out: list[tuple[float, float, str] | None] = [None] * len(points)
    occupied = [*taken, *((x - r, y - r, x + r, y + r) for x, y, r, _ in points)]
    for members in groups:
        x, y, _, _ = points[members[0]]
        radius = max(points[n][2] for n in members)
        names = [points[n][3] for n in members]
        words = ", ".join(names if len(names) <= 4 else [*names[:3], f"… {names[-1]}"])
        width = len(words) * CHAR
        for far in (1.0, 2.2, 3.6):
            for dx, dy in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1)):
                cx = x + dx * (radius + 3) * (1 if far == 1 else far * 0.7)
                cy = y + dy * (radius + FONT * 0.6) * far
                x0 = cx if dx > 0 else cx - width if dx < 0 else cx - width / 2
                box = (x0, cy - FONT * 0.6, x0 + width, cy + FONT * 0.6)
                inside = area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]
                if inside and not any(_overlap(box, other) for other in occupied):
                    occupied.append(box)
                    out[members[0]] = x0, cy + FONT * 0.35, words
                    break
            if out[members[0]] is not None:
                break
    return out


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

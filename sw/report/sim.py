"""What `lepton sim` shows, in the terminal and as a picture: outputs, equal to TFLM or not, where the cycles went."""

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

SHADES = " ░▒▓█"
SHOWN = 5
"""Images drawn in the terminal."""


@dataclass
class SimResult:
    """Inputs, outputs and the session's report of one simulation. `labels`, `expected` and `cycles` may be None."""

    config: str
    backend: str
    multipliers: int
    x: np.ndarray
    y: np.ndarray
    labels: np.ndarray | None
    expected: np.ndarray | None
    cycles: int | None
    """Cycles of one inference."""
    macs: int | None
    utilization: float | None
    causes: dict

    @property
    def scores(self) -> np.ndarray:
        return self.y.reshape(len(self.y), -1)

    @property
    def predictions(self) -> np.ndarray:
        return self.scores.argmax(1)

    @property
    def accuracy(self) -> float | None:
        return None if self.labels is None else float(np.mean(self.predictions == self.labels))

    @property
    def equal(self) -> bool | None:
        """Whether every output byte is the reference's; None without a reference."""
        return None if self.expected is None else bool(np.array_equal(self.y, self.expected))

    @property
    def differing(self) -> int:
        assert self.expected is not None
        return int((self.scores != self.expected.reshape(self.scores.shape)).any(1).sum())

    def lines(self) -> list[tuple[str, str]]:
        """Name and value of each fact, for terminal and picture."""
        n = len(self.x)
        out = [("machine", f"{self.config}, {self.multipliers} MAC/cycle, backend {self.backend}")]
        if self.accuracy is not None:
            out.append(("accuracy", f"{self.accuracy:.1%}, {round(self.accuracy * n)} of {n} right"))
        if self.equal is None:
            out.append(("TFLM", "no stored outputs to compare with"))
        elif self.equal:
            out.append(("TFLM", f"equal: all {self.y.size} output bytes of {n} inputs"))
        else:
            out.append(("TFLM", f"NOT EQUAL: {self.differing} of {n} inputs differ"))
        if self.cycles:
            out.append(("cycles", f"{self.cycles:,} each inference, {self.cycles * n:,} for {n}"))
        if self.macs:
            out.append(("MACs", f"{self.macs:,} each inference"))
        if self.utilization is not None:
            out.append(("utilisation", f"{self.utilization:.1%} of the multipliers busy"))
        if not self.cycles:
            out.append(("cycles", f"not counted by the {self.backend} backend"))
        return out

    def examples(self, count: int) -> list[int]:
        """Indices to show: the first ones, the last replaced by a wrong answer when there is one."""
        shown = list(range(min(count, len(self.x))))
        if self.labels is not None:
            wrong = [int(i) for i in np.flatnonzero(self.predictions != self.labels) if i not in shown]
            if wrong and len(shown) > 1:
                shown[-1] = wrong[0]
        return shown


def run(session, x, labels, expected) -> SimResult:
    """Run `x` through an open session with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    first = session.run(x[:1])  # builds what must be built, which shows progress of its own
    columns = (TextColumn("inferences"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    y = first
    if len(x) > 1:
        with Progress(*columns, console=console, transient=console.is_terminal) as bar:
            task = bar.add_task("", total=len(x), completed=1)
            rest = session.run(x[1:], progress=lambda done, total: bar.update(task, completed=1 + done))
        y = np.concatenate([first, rest])
    report = session.report or {}
    return SimResult(
        config=session.config.name,
        backend=session.backend,
        multipliers=session.config.macs_per_cycle,
        x=x,
        y=y,
        labels=labels,
        expected=expected,
        cycles=report.get("cycles"),
        macs=report.get("macs"),
        utilization=report.get("utilization"),
        causes=report.get("causes") or {},
    )


def drawable(image) -> np.ndarray | None:
    """A small image as grey values 0..1 (H, W), or None when it is not one."""
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        return None
    return (image.astype(np.float64).mean(2) + 128) / 255


def blocks(grey) -> list[str]:
    """Terminal lines, two characters a pixel."""
    levels = np.minimum((grey * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[v] * 2 for v in row) for row in levels]


def caption(result: SimResult, i: int) -> str:
    text = f"says {result.predictions[i]}"
    if result.labels is not None:
        right = result.predictions[i] == result.labels[i]
        text = f"{result.labels[i]}: {text} {'✓' if right else '✗'}"
    return text


def summary(result: SimResult, i: int) -> str:
    """The strongest outputs of one inference, or its range when it is no vector of classes."""
    scores = result.scores[i]
    if result.y.ndim == 2 and len(scores) <= 1001 and result.y.shape[1:] != result.x.shape[1:]:
        top = np.argsort(-scores.astype(int), kind="stable")[:3]
        return "top " + ", ".join(f"{c} ({scores[c]})" for c in top)
    return f"{' x '.join(map(str, result.y.shape[1:]))}, {scores.min()} to {scores.max()}, mean {scores.mean():.1f}"


def show(result: SimResult, title: str) -> None:
    """Print the report on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if encoding.lower().replace("-", "") != "utf8" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    console = Console(highlight=False)
    console.rule(title)
    first = drawable(result.x[0])
    if first is not None and max(first.shape) <= 12:
        width = first.shape[1] * 2
        shown = result.examples(min(SHOWN, max(1, (console.width + 2) // (width + 2))))
        for row in zip(*(blocks(drawable(result.x[i])) for i in shown)):
            console.print(Text("  ".join(row)), no_wrap=True)
        line = Text()
        for i in shown:
            wrong = result.labels is not None and result.predictions[i] != result.labels[i]
            line.append(caption(result, i).ljust(width + 2), style="red" if wrong else "green")
        console.print(line)
        console.print()
    else:
        for i in result.examples(SHOWN):
            label = "" if result.labels is None else f", label {result.labels[i]}"
            console.print(Text(f"input {i}{label}: {summary(result, i)}"))
        console.print()
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in result.lines():
        style = ("bold green" if result.equal else "bold red") if name == "TFLM" and result.equal is not None else ""
        facts.add_row(name, Text(value, style=style))
    console.print(facts)
    if result.cycles and result.causes:
        console.print("\nwhere the cycles went")
        bars = Table(box=None, show_header=False, pad_edge=False)
        for justify in ("left", "right", "right", "left"):
            bars.add_column(justify=justify)
        room = max(10, min(40, console.width - 40))
        for name, cycles in sorted(result.causes.items(), key=lambda item: -item[1]):
            share = cycles / result.cycles
            bars.add_row(
                name.replace("_", " "), f"{cycles:,}", f"{share:6.1%}", Text("█" * round(share * room), style="cyan")
            )
        console.print(bars)


def draw(result: SimResult, path, title: str) -> None:
    """Write the same as a PNG to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = result.examples(10)
    has_images = drawable(result.x[0]) is not None
    figure = plt.figure(figsize=(10, 6.5 if has_images else 4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.2, 1]) if has_images else [None, figure.subfigures(1, 1)]
    if has_images:
        grid = parts[0].subplots(2, 5, squeeze=False).ravel()
        for axis in grid:
            axis.axis("off")
        for axis, i in zip(grid, shown):
            axis.imshow(drawable(result.x[i]), cmap="gray", vmin=0, vmax=1)
            wrong = result.labels is not None and result.predictions[i] != result.labels[i]
            text = caption(result, i).rstrip("✓✗ ") if result.y.ndim == 2 else f"input {i}"
            axis.set_title(text, fontsize=10, color="tab:red" if wrong else "black")
    left, right = parts[1].subplots(1, 2)
    left.axis("off")
    facts = "\n".join(f"{name}: {value}" for name, value in result.lines())
    left.text(0, 1, facts, va="top", fontsize=9, wrap=True)
    if result.cycles and result.causes:
        causes = sorted(result.causes.items(), key=lambda item: item[1])
        bars = right.barh([name.replace("_", " ") for name, _ in causes], [c for _, c in causes], color="tab:blue")
        right.bar_label(bars, [f" {c / result.cycles:.1%}" for _, c in causes], fontsize=8)
        right.set_xlim(0, max(1, *result.causes.values()) * 1.2)
        right.set_title("where the cycles of one inference went", fontsize=10)
        right.spines[["top", "right"]].set_visible(False)
    else:
        right.axis("off")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    path.write_bytes(buffer.getvalue())

"""What `lepton sim` shows, in the terminal and as a picture: outputs, equal to TFLM or not, where the cycles went."""

import io
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass

import numpy as np

from lepton.sw.compiler import HostStep

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
    mhz: float | None = None
    """Clock of the machine."""
    host: tuple[str, ...] = ()
    """Operators that the host computes, beside those cycles."""

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
        if self.cycles and self.mhz:
            out.append(("time", f"{self.cycles / self.mhz / 1e3:,.3f} ms each at {self.mhz:g} MHz"))
        if self.host:
            out.append(("host", f"{', '.join(self.host)} beside that, exactly"))
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


def run(session, x, labels, expected, mhz: float | None = None) -> SimResult:
    """Run `x` through an open session with a progress bar on stderr; `mhz`: the machine's clock."""
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
        mhz=mhz,
        host=() if session.backend == "golden" else hosts(session.program),
    )


def hosts(program) -> tuple[str, ...]:
    """Names of the operators that the host computes, with how many there are."""
    names = {op.index: op.op for op in program.model.operators}
    found = Counter(names[step.operator] for step in program.steps if isinstance(step, HostStep))
    return tuple(name if n == 1 else f"{n} {name}" for name, n in found.items())


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


WIDTH = 5.0
"""Inches of the picture: its text, of 9 points, is 10 pixels high when the picture is 420 wide."""
FONT = 9


def draw(result: SimResult, path, title: str) -> None:
    """Write the same as a picture to `path`: SVG when its name ends so, else PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lepton.sw.report import palette

    shown = result.examples(10) if drawable(result.x[0]) is not None else []
    facts = [line for name, value in result.lines() for line in _wrapped(name, value)]
    causes = sorted((c for c in result.causes.items() if c[1]), key=lambda item: item[1]) if result.cycles else []
    images = 1.12 * -(-len(shown) // 5)
    bars = 0.55 + 0.21 * len(causes) if causes else 0
    height = 0.45 + images + 0.17 * len(facts) + 0.15 + bars
    figure = plt.figure(figsize=(WIDTH, height))

    def axes(left, top, width, high):
        """Axes by inches from the picture's left and top."""
        return figure.add_axes((left / WIDTH, 1 - (top + high) / height, width / WIDTH, high / height))

    figure.text(0.15 / WIDTH, 1 - 0.27 / height, title, fontsize=FONT + 3, fontweight="bold", color=palette.INK)
    for n, i in enumerate(shown):
        axis = axes(0.15 + n % 5 * 0.96, 0.62 + n // 5 * 1.12, 0.86, 0.86)
        axis.axis("off")
        axis.imshow(drawable(result.x[i]), cmap="gray", vmin=0, vmax=1)
        wrong = result.labels is not None and result.predictions[i] != result.labels[i]
        text = caption(result, i).rstrip("✓✗ ") if result.y.ndim == 2 else f"input {i}"
        axis.set_title(text, fontsize=FONT, color=palette.WRONG if wrong else palette.INK, pad=3)
    for n, (name, value) in enumerate(facts):
        y = 1 - (0.45 + images + 0.17 * n + 0.12) / height
        good = (
            {True: palette.CAUSES["multiply"], False: palette.WRONG, None: None}[result.equal]
            if name == "TFLM"
            else None
        )
        figure.text(0.15 / WIDTH, y, name, fontsize=FONT, color=palette.MUTED)
        figure.text(1.0 / WIDTH, y, value, fontsize=FONT, color=good or palette.INK)
    if causes:
        axis = axes(1.0, height - bars + 0.3, WIDTH - 2.35, bars - 0.35)
        colors = [palette.of_cause(name) for name, _ in causes]
        drawn = axis.barh([name.replace("_", " ") for name, _ in causes], [c for _, c in causes], 0.7, color=colors)
        axis.bar_label(drawn, [f" {c:,}  {c / result.cycles:.1%}" for _, c in causes], fontsize=FONT)
        axis.set_xlim(0, max(c for _, c in causes) * 1.02)
        axis.set_title("where the cycles of one inference went", fontsize=FONT, loc="left", color=palette.INK, pad=4)
        axis.tick_params(labelsize=FONT, length=0)
        axis.xaxis.set_visible(False)
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg" if str(path).lower().endswith(".svg") else "png", dpi=220)
    plt.close(figure)
    path.write_bytes(buffer.getvalue())


def _wrapped(name: str, value: str, most: int = 48) -> list[tuple[str, str]]:
    """A fact in lines that fit the picture; the name stands in the first."""
    lines = textwrap.wrap(value, most) or [""]
    return [(name if n == 0 else "", line) for n, line in enumerate(lines)]

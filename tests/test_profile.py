"""`lepton profile`: files that are whole, pictures without overlapping labels, a page that answers the mouse."""

import html
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import numpy as np
import pytest

from lepton.rtl.spec.config import get_config
from lepton.sw.commands import profile as profile_command
from lepton.sw.compiler import compile_model
from lepton.sw.errors import UserError
from lepton.sw.files import DIGITS
from lepton.sw.graph.reader import load_model
from lepton.sw.report import charts, check, palette, profile
from lepton.sw.report.layers import layer_rows

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Args:
    """What argparse would give."""

    def __init__(self, model, output, config="small"):
        self.model, self.output, self.config, self.memory = str(model), str(output), config, None


@pytest.mark.parametrize("name", ["kws_ref_model", "ad01_int8"])
def test_files(shared, tmp_path, name):
    path = shared / "models" / f"{name}.tflite"
    files = profile.profile(path, tmp_path / "out", "large", mhz=40)
    assert [f.name for f in files] == ["trace.json", "causes.svg", "roofline.svg", "index.html"]
    text = files[3].read_text(encoding="utf-8")
    assert text.count("<svg") == 2 and not re.search(
        r"(src|href)\s*=|url\(|@import|https?://(?!www.w3.org/2000/svg)", text
    )
    program = compile_model(load_model(path), get_config("large"))
    total = sum(check.layer_cycles(program))
    assert f"{total:,} cycles, {total / 40e3:,.3f} ms at 40 MHz" in text
    events = json.loads(files[0].read_text())["traceEvents"]
    pieces = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["dur"] >= 0 and e["ts"] + e["dur"] <= total + 1 for e in pieces)
    layers = [e for e in pieces if e["tid"] == profile.TRACKS.index("layers")]
    assert len(layers) == len(program.layers) and sum(e["dur"] for e in layers) == total
    for track in ("array", "weight engine", "layers"):
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in pieces if e["tid"] == profile.TRACKS.index(track))
        assert all(a[1] <= b[0] for a, b in zip(mine, mine[1:]))


def test_every_layer_has_a_row_the_hosts_too():
    program = compile_model(load_model(DIGITS), get_config("small"))
    rows = layer_rows(program)
    assert [(row.index, row.count is None) for row in rows] == [(0, False), (1, False), (4, False), (5, True)]
    assert [row.cycles for row in rows[:3]] == check.layer_cycles(program)
    assert rows[1].name == "CONV_2D+MAX_POOL_2D" and rows[1].shape == "4x4x24" and rows[3].shape == "10"
    assert rows[0].ideal == 6912 // 64 and 0 < rows[0].busy < 1
    text = profile.page(program, rows, {}, 50)
    assert re.search(
        r'<tr data-layer="5" tabindex="0" class="host"><td data-value="5">5</td><td>SOFTMAX</td><td>host', text
    )


@pytest.mark.parametrize("name", ["digits", "vww_96_int8"])
def test_pictures_are_legible_when_420_pixels_wide(shared, name):
    """Of every text: at least 10 pixels high there, inside the picture, and on no other text."""
    path = DIGITS if name == "digits" else shared / "models" / f"{name}.tflite"
    program = compile_model(load_model(path), get_config("small"))
    rows = layer_rows(program)
    for svg in (charts.causes(rows, 50, "t"), charts.roofline(rows, 64, 64, "t")):
        root = ElementTree.fromstring(svg)
        _, _, width, height = map(float, root.get("viewBox").split())
        assert float(root.get("font-size")) * 420 / width >= 10
        boxes = []
        for text in root.iter("{http://www.w3.org/2000/svg}text"):
            assert text.get("font-size") is None
            long = len(text.text) * charts.CHAR
            x, y = float(text.get("x")), float(text.get("y"))
            left = x - {"start": 0, "middle": long / 2, "end": long}[text.get("text-anchor")]
            box = left, y - charts.FONT * 0.8, left + long, y + charts.FONT * 0.2
            assert box[0] >= -1 and box[1] >= -1 and box[2] <= width + 1 and box[3] <= height + 1, text.text
            over = [t for t, b in boxes if box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3]]
            assert not over, (text.text, over)
            boxes.append((text.text, box))


def test_labels_of_points_that_coincide():
    rng = np.random.default_rng(3)
    points = [(100.0, 200.0, 5.0, str(i)) for i in range(3)]
    points += [(*rng.uniform(60, 400, 2), 4.0, str(i)) for i in range(3, 14)]
    labels = charts.place_labels(points, (50, 50, 450, 450), [(0, 0, 60, 60)])
    told = sorted(int(i) for label in labels if label for i in label[2].split(", "))
    assert told == list(range(14)) and labels[0][2] == "0, 1, 2" and labels[1] is labels[2] is None
    assert charts.place_labels(points[:1], (99, 199, 101, 201)) == [None]  # no room


def test_ticks():
    assert charts.ticks(9300) == [0, 2000, 4000, 6000, 8000] and charts.ticks(1) == [
        0,
        0.2,
        0.4,
        0.6000000000000001,
        0.8,
        1,
    ]
    assert (charts.count(12_000), charts.count(2_500_000), charts.count(900)) == ("12 k", "2.5 M", "900")


def test_one_palette():
    assert set(palette.CAUSES) == set(check.CAUSES)
    assert palette.of_layer("CONV_2D+ADD") != palette.of_layer("DEPTHWISE_CONV_2D")
    assert palette.of_layer("SUM") == palette.KINDS[""]


ACTIONS = """
const said = [];
const at = (selector) => document.querySelector(selector);
const fire = (selector, kind, more) => {
  const options = { bubbles: true, cancelable: true, clientX: 9, clientY: 9, ...more };
  at(selector).dispatchEvent(new (kind === "keydown" ? KeyboardEvent : MouseEvent)(kind, options));
};
const order = () => [...document.querySelectorAll("tbody tr")].map((row) => row.dataset.layer).join(" ");
said.push(order(), at("#tip").hidden, at("#choice").hidden);
fire('svg [data-layer="1"] text', "mousemove");
said.push(at("#tip").hidden, at("#tip").textContent.split("\\n")[0], at('tr[data-layer="1"]').className);
fire("h1", "mousemove");
said.push(at("#tip").hidden, at('tr[data-layer="1"]').className);
fire("th:nth-child(5)", "click");
said.push(order(), at("th:nth-child(5)").getAttribute("aria-sort"));
fire("th:nth-child(5)", "click");
said.push(order(), at("th:nth-child(5)").getAttribute("aria-sort"));
fire("th:nth-child(2)", "keydown", { key: "Enter" });
said.push(order(), at("th:nth-child(5)").getAttribute("aria-sort"));
fire('tr[data-layer="4"] td', "click");
said.push(at("#choice").hidden, at("#choice").textContent.split("\\n")[0], location.hash);
said.push(document.querySelectorAll("svg .chosen").length);
fire('tr[data-layer="4"] td', "click");
said.push(at("#choice").hidden, document.querySelectorAll(".chosen").length);
document.body.textContent = "SAID" + JSON.stringify(said) + "DONE";
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt install chromium)")
def test_the_page_answers_in_a_browser(tmp_path):
    profile.profile(DIGITS, tmp_path, "small")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    told = tmp_path / "told.html"
    told.write_text(page.replace("</html>", f"<script>{ACTIONS}</script></html>"), encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    found = subprocess.run([*command, "--dump-dom", told.as_uri()], capture_output=True, text=True, timeout=180)
    match = re.search(r"SAID(.*)DONE", html.unescape(found.stdout), re.S)
    assert match, found.stdout[-500:] + found.stderr[-500:]
    rows = {str(row.index): row for row in layer_rows(compile_model(load_model(DIGITS), get_config("small")))}
    by_cycles = sorted(rows, key=lambda i: -(rows[i].cycles or -1))
    assert json.loads(match[1]) == [
        "0 1 4 5", True, True,
        False, "1 CONV_2D+MAX_POOL_2D → 4x4x24", "near",
        True, "",
        " ".join(by_cycles), "descending",
        " ".join(reversed(by_cycles)), "ascending",
        "0 1 4 5", None,
        False, "4 FULLY_CONNECTED → 10", "#layer-4",
        2,
        True, 0,
    ]  # fmt: skip


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        profile_command.command(Args(DIGITS, tmp_path / "x"))


def test_the_boards_clock(tmp_path, capsys):
    assert profile_command.command(Args(DIGITS, tmp_path / "out", "ulx3s-85f")) == 0
    assert "index.html" in capsys.readouterr().out
    assert "ms at 70 MHz" in (tmp_path / "out" / "causes.svg").read_text()


def test_sims_picture_is_legible_when_420_pixels_wide(tmp_path):
    """No text leaves the picture or lies on another, at 10 pixels' height; the fonts are matplotlib's own measure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from lepton.sw.report import sim

    assert sim.FONT / 72 * 420 / sim.WIDTH >= 10
    with np.load(DIGITS.with_suffix(".npz")) as data:
        x, y, labels = data["x"][:100], data["tflm"][:100], data["y"][:100]
    causes = {"multiply": 31_000_000, "weights": 0, "activations": 3_320_000, "tail": 12, "fetch": 11, "drain": 39}
    host = ("12 STRIDED_SLICE", "SOFTMAX", "3 RESIZE_NEAREST_NEIGHBOR", "TRANSPOSE")
    known = (labels, y, 34_320_062, 176_640, 0.793, causes, 50.0, host)
    for pixels, answers in ((x, known), (x.reshape(len(x), -1), (None, None, *known[2:]))):
        result = sim.SimResult("small", "rtl", 64, pixels, y, *answers)
        kept = []
        plt_close, plt.close = plt.close, kept.append
        try:
            sim.draw(result, tmp_path / "sim.svg", "digits.tflite")
        finally:
            plt.close = plt_close
        (figure,) = kept
        figure.draw_without_rendering()
        axes = figure.axes
        texts = [*figure.texts, *(t for a in axes for t in (*a.texts, a.title, a._left_title))]
        texts += [t for a in axes if a.axison for t in a.get_yticklabels()]
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]
        assert len(boxes) > 20
        for n, (words, box) in enumerate(boxes):
            assert 0 <= box.x0 and box.x1 <= figure.bbox.x1 and 0 <= box.y0 and box.y1 <= figure.bbox.y1, words
            assert not [other for other, b in boxes[:n] if box.overlaps(b)], words
        plt.close(figure)
        assert (tmp_path / "sim.svg").read_text().lstrip().startswith("<?xml")


def test_sim_tells_the_time_and_the_host():
    from lepton.sw.report import sim

    program = compile_model(load_model(DIGITS), get_config("small"))
    assert sim.hosts(program) == ("SOFTMAX",)
    x = np.zeros((1, 8, 8, 1), np.int8)
    result = sim.SimResult("b", "iss", 64, x, x, None, None, 70_000, 1, 0.5, {}, 70.0, sim.hosts(program))
    facts = dict(result.lines())
    assert facts["time"] == "1.000 ms each at 70 MHz" and facts["host"].startswith("SOFTMAX")

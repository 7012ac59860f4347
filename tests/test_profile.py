"""`lepton profile`: the trace is well-formed and consistent with the counts, the page needs no other file."""

import json
import re

import pytest

from lepton.sw import check, profile
from lepton.sw.compiler import compile_model
from lepton.sw.model import load_model


@pytest.mark.parametrize("name", ["kws_ref_model", "ad01_int8"])
def test_files(shared, tmp_path, name):
    path = shared / "models" / f"{name}.tflite"
    files = profile.profile(path, tmp_path / "out", "large")
    assert [f.name for f in files] == ["trace.json", "causes.png", "roofline.png", "index.html"]
    for picture in files[1:3]:
        assert picture.read_bytes().startswith(b"\x89PNG")
    text = files[3].read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 2 and not re.search(r"(src|href)='?(http|//|[a-z]+\.)", text)
    from lepton.rtl.config import get_config

    program = compile_model(load_model(path), get_config("large"))
    total = sum(check.layer_cycles(program))
    assert f"{total:,} cycles" in text
    events = json.loads(files[0].read_text())["traceEvents"]
    pieces = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["dur"] >= 0 and e["ts"] + e["dur"] <= total + 1 for e in pieces)
    layers = [e for e in pieces if e["tid"] == profile.TRACKS.index("layers")]
    assert len(layers) == len(program.layers) and sum(e["dur"] for e in layers) == total
    for track in ("array", "weight engine", "layers"):
        mine = sorted((e["ts"], e["ts"] + e["dur"]) for e in pieces if e["tid"] == profile.TRACKS.index(track))
        assert all(a[1] <= b[0] for a, b in zip(mine, mine[1:]))


def test_a_file_in_place_of_the_folder(tmp_path, shared):
    from lepton.sw.cli import UserError

    (tmp_path / "x").write_text("")

    class Args:
        model, output, config = str(shared / "zoo" / "fc_mlp.tflite"), str(tmp_path / "x"), "small"

    with pytest.raises(UserError, match="is a file"):
        profile.command(Args())

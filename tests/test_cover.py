"""The registry of functional coverage: bins are known, hits add up, what is unreachable is an error."""

import pytest

from lepton.rtl.spec import isa
from lepton.verif.coverage import functional as cover


@pytest.fixture(autouse=True)
def no_hits(monkeypatch):
    monkeypatch.setattr(cover, "_hits", {})


def test_hits_add_up_over_files(tmp_path, monkeypatch):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in paths:
        monkeypatch.setenv("LEPTON_COVER", str(path))
        cover.hit("causes", "TAIL", None, "FETCH")
        cover.hit("causes", "TAIL")
        cover.save()
        cover._hits.clear()
        cover.hit("requantizer.shift", -31)
    hits = cover.merge(paths)
    assert hits["causes"] == {"TAIL": 4, "FETCH": 2}
    assert hits["requantizer.shift"] == {"-31": 1}  # of the first file's process, saved in the second
    assert "TAIL" not in cover.missing(hits)["causes"] and "DRAIN" in cover.missing(hits)["causes"]


def test_what_is_not_declared_is_refused():
    with pytest.raises(ValueError, match="no bin 'NONE'"):
        cover.hit("causes", "NONE")
    with pytest.raises(ValueError, match="was reached"):
        cover.hit("mul.fields", "width=0")
    with pytest.raises(KeyError):
        cover.hit("nothing", "")


def test_field_corners():
    assert cover.field_corners(isa.Field("a", 4)) == [0, 1, 15]
    assert cover.field_corners(isa.Field("a", 4, signed=True)) == [-8, 0, 1, 7]
    assert cover.field_corners(isa.Field("a", 1)) == [0, 1]


@pytest.mark.parametrize("name", cover.POINTS)
def test_points_are_whole(name):
    point = cover.POINTS[name]
    assert point.what and len(set(point.bins)) == len(point.bins)
    assert set(point.unreachable) < set(point.bins) and all(point.unreachable.values())

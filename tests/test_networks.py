"""The table of six networks by four ways, where what a way needs is there; the RTL is `make networks`'s."""

import pytest

from lepton.verif.networks import __main__ as networks

EXTRAS = {"torch": "'.[torch]'", "onnxscript": "'.[torch]'", "onnxruntime": "onnxruntime", "tensorflow": "'.[keras]'"}


@pytest.mark.parametrize(
    "name, way", [(n, w) for w in networks.WAYS for n in networks.NAMES if w != "onnx16" or n == "transformer"]
)
def test_network(name, way, capsys):
    for module in networks.WAYS[way]:
        pytest.importorskip(module, reason=f"pip install -e {EXTRAS[module]}")
    pytest.importorskip("tflite_micro")
    assert networks.main(["--ways", way, "--networks", name, "--references", "iss", "tflm"]) == 0, (
        capsys.readouterr().out
    )


def test_what_is_missing_is_told(monkeypatch, capsys):
    """And a table without a line is no success."""
    monkeypatch.setattr(networks, "WAYS", {"torch": ("no_such_module",)})
    assert networks.main(["--ways", "torch"]) == 1
    assert capsys.readouterr().err == "torch: left out, it needs no_such_module: pip install 'lepton-npu[networks]'\n"


def test_a_row_holds_only_where_everything_says_so():
    row = networks.Row("cnn", "torch", 0.9995, {"iss": "yes", "tflm": "yes"})
    assert row.holds
    assert not networks.Row("cnn", "torch", 0.998, row.bytes).holds
    assert networks.Row("transformer", "torch", 0.99, row.bytes).holds
    assert not networks.Row("transformer", "onnx16", 0.99, row.bytes).holds
    assert networks.Row("transformer", "onnx16", 0.9981, row.bytes | {"rtl": "host"}).holds
    assert not networks.Row("transformer", "torch", 1.0, row.bytes | {"rtl": "host"}).holds
    for other in ("NO", "(RuntimeError: no)"):
        assert not networks.Row("cnn", "torch", 1.0, row.bytes | {"rtl": other}).holds

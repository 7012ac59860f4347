"""The list of operators: all of the schema's are computed or have a reason, and the page says so."""

from pathlib import Path

from lepton.sw.graph.operators import SPECS
from lepton.sw.reference.kernels import KERNELS
from lepton.sw.reference.state import CONTROL
from lepton.verif import operators

PAGE = Path(__file__).resolve().parents[1] / operators.PAGE


def test_every_operator_is_computed_or_has_a_reason():
    for name in operators.schema():
        assert (name in SPECS) != (operators.absent(name) is not None), name
    for names in operators.ABSENT.values():
        assert all(n in operators.schema() for n in names.split() if not n.endswith("*"))


def test_every_operator_that_is_read_can_be_computed():
    assert set(SPECS) - {"VAR_HANDLE"} == set(KERNELS) | set(CONTROL)
    assert set(operators.LITERT) <= set(SPECS)


def test_the_page_is_current():
    assert PAGE.read_text() == operators.page(), "run python -m lepton.verif.operators --write"

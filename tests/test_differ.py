"""Messages of failed checks in the benches: lanes and fields, not one long integer; pytest's own output has them."""

import numpy as np
import pytest

from lepton.rtl.spec import isa
from lepton.verif.benches import build, differ


def test_lanes_are_named():
    got = differ.unpack(0x80_01_FF_00, 8, 4)
    assert got == [0, -1, 1, -128]
    assert differ.differences(got, got) == ""
    assert differ.differences(got, [0, 5, 1, -128]) == "lane 1 is -1, expected 5"
    assert differ.differences([[1, 2], [3, 4]], [[1, 2], [3, 5]], "row") == "row 1 lane 1 is 4, expected 5"
    assert differ.differences(list(range(9)), [-1] * 9).endswith("lane 3 is 3, expected -1 and 5 more")


def test_bytes_mappings_and_lengths():
    assert differ.differences(b"abc", b"abd") == "byte 2 is 99, expected 100"
    assert differ.differences(b"abc", b"ab") == "it has 3 elements, expected 2"
    assert differ.differences({5: 1}, {5: 1, 7: 2}) == "7 is missing, expected 2"
    assert differ.differences((3, np.array([1, 2])), (3, [1, 4])) == "part 1 lane 1 is 2, expected 4"


def packed(words):
    return sum(int(w) << isa.WORD_BITS * n for n, w in enumerate(words))


def test_an_instruction_differs_in_its_fields():
    a, b = (packed(isa.encode(isa.TAIL, channels=n, width=2, height=1, param=7)) for n in (3, 4))
    assert differ.differences(differ.fields(a), differ.fields(b)) == "channels is 3, expected 4"
    assert differ.fields(15) == {"opcode": 15}


def test_same_raises_with_what_it_is_about():
    differ.same([1], [1], "sums")
    with pytest.raises(AssertionError, match=r"^sums 4: lane 0 is 1, expected 2$"):
        differ.same([1], [2], "sums 4")


def test_failures_of_a_report(tmp_path):
    assert "without a report" in build.failures(tmp_path, "tail")[0]
    (tmp_path / "tail.xml").write_text(
        "<testsuites><testsuite tests='2' failures='1'><testcase name='good'/>"
        "<testcase name='bad'><failure message='sum 3: lane 1 is -1, expected 5' type='AssertionError'>x</failure>"
        "</testcase></testsuite></testsuites>"
    )
    assert build.failures(tmp_path, "tail") == ["bad: sum 3: lane 1 is -1, expected 5"]

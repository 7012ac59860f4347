"""Faults on the link: a short campaign, and campaigns that find a planted bug in the device and in the driver."""

import zlib

import pytest

from lepton.rtl.spec import frames
from lepton.rtl.spec.isa import Command, Result
from lepton.verif.random import faults


def test_campaign():
    rows = dict(faults.run(2000, 3))
    assert rows["requests to the device"] == 2000 and rows["transfers of the driver"] >= 400
    assert all(rows[f"  {result.name}"] > 5 for result in Result)
    assert rows["inferences among them"] > 10 and rows["requests repeated"] > 0
    assert rows["runs reported as right, all right"] > 0


def test_a_device_that_is_wrong_is_found(monkeypatch):
    """The shadow forgets a rule, so the device differs from it."""
    execute = faults.Shadow.execute

    def careless(shadow, command, payload):
        result, reply = execute(shadow, command, payload)
        return (Result.OK, b"") if command == Command.WRITE and result == Result.BAD_RANGE else (result, reply)

    monkeypatch.setattr(faults.Shadow, "execute", careless)
    with pytest.raises(faults.FaultError, match=r"seed 4, frame \d+: answered 5a03"):
        faults.run(300, 4)


def test_a_driver_that_is_wrong_is_found(monkeypatch):
    """The driver believes every reply."""

    class Credulous:
        def crc32(self, data):
            return Equal(zlib.crc32(data))

    class Equal(int):
        def __ne__(self, other):
            return False

    monkeypatch.setattr(frames, "zlib", Credulous())
    with pytest.raises(faults.FaultError, match="a wrong output was reported as right"):
        faults.driver_campaign(*faults.machine(), 4000, 5)

"""Registers on the way of a value."""

from amaranth.hdl import Signal


def delays(m, value, cycles: int, name: str, *, reset_less: bool = True, attrs: dict | None = None) -> list:
    """The value and its delayed copies: element k is k cycles late, in the register `name_k`."""
    out = [value]
    for k in range(1, cycles + 1):
        stage = Signal(value.shape(), name=f"{name}_{k}", reset_less=reset_less, attrs=attrs)
        m.d.sync += stage.eq(out[-1])
        out.append(stage)
    return out


def late(m, value, cycles: int, name: str, **options):
    """The value `cycles` cycles ago."""
    return delays(m, value, cycles, name, **options)[-1]


def output(m, port, name: str):
    """A register without reset behind an output of a component (a port's own register has one)."""
    register = Signal.like(port, name=name, reset_less=True)
    m.d.comb += port.eq(register)
    return register

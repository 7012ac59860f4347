"""How two values differ, lane by lane and field by field, for the message of a failed check."""

from collections.abc import Iterator, Mapping

from lepton.rtl.spec import isa

SHOWN = 4
"""Differences named; the others are counted."""


def differences(got, want, element: str = "lane") -> str:
    """One line, as `lane 3 is -7, expected 5`; empty when the values are equal.

    Lists and arrays are compared element by element (the outermost are called `element`, inner ones `lane`), bytes as
    `byte 12`, tuples as `part 1`, mappings key by key, anything else as it is.
    """
    found = list(_walk(got, want, "", element))
    rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + rest


def same(got, want, what: str, element: str = "lane") -> None:
    """Raises AssertionError with `what` and the differences unless both are equal."""
    text = differences(got, want, element)
    assert not text, f"{what}: {text}"


def unpack(value: int, bits: int, count: int) -> list[int]:
    """`count` signed elements of `bits` bits, the first in the lowest bits."""
    half, mask = 1 << bits - 1, (1 << bits) - 1
    return [((value >> bits * n & mask) ^ half) - half for n in range(count)]


def fields(raw: int) -> dict[str, int | str]:
    """The fields of an instruction packed in one integer; a code that is none is the field `opcode`."""
    words = [raw >> isa.WORD_BITS * n & 2**isa.WORD_BITS - 1 for n in range(max(op.words for op in isa.OPS.values()))]
    try:
        op, found = isa.decode(words)
    except ValueError:
        return {"opcode": raw & 15}
    return found | {"opcode": op.opcode.name}


def _walk(got, want, where: str, element: str) -> Iterator[str]:
    if isinstance(got, Mapping) and isinstance(want, Mapping):
        for key in dict.fromkeys([*want, *got]):
            yield from _walk(got.get(key, "missing"), want.get(key, "missing"), f"{where} {key}".strip(), "lane")
    elif _is_sequence(got) and _is_sequence(want):
        if len(got) != len(want):
            yield f"{where or 'it'} has {len(got)} elements, expected {len(want)}"
            return
        kinds: dict[type, str] = {bytes: "byte", bytearray: "byte", tuple: "part"}
        element = kinds.get(type(got), element)
        for n, (a, b) in enumerate(zip(got, want)):
            yield from _walk(a, b, f"{where} {element} {n}".strip(), "lane")
    elif got != want:
        yield f"{where or 'it'} is {got}, expected {want}"


def _is_sequence(value) -> bool:
    return hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, (str, Mapping))

"""A compiled program as a file: what is damaged is refused."""

import importlib.resources
import random

import pytest

from lepton.rtl.spec.config import get_config
from lepton.sw.compiler import CompileError, compile_model
from lepton.sw.graph.reader import load_model
from lepton.sw.program_file import dump_program, parse_program

DIGITS = importlib.resources.files("lepton.sw") / "models" / "digits.tflite"


def parts(program):
    return program.config, program.images(), program.external, program.steps, program.places, program.peak_bytes


def test_damaged_files_are_refused():
    """Bits flipped anywhere: an error in one line or, where nothing is stored, the same program."""
    program = compile_model(load_model(DIGITS), get_config("small"))
    data = dump_program(program, DIGITS.read_bytes())
    assert parts(parse_program(data)) == parts(program)
    rng = random.Random(1)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 20))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            assert parts(parse_program(bytes(damaged))) == parts(program)
        except CompileError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 350
    for n in (0, 1, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(CompileError, match="compile the model again"):
            parse_program(data[:n])

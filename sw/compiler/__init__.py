"""Compile an int8 model into a program for one configuration.

A network becomes a list of steps: `NpuStep` (a stretch of the program) and `HostStep` (an operator computed on the host
by the golden model). How each operator is mapped is told in `docs/architecture.md`, "How a network becomes a program".
"""

from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.timing import Memory
from lepton.sw.compiler.network import Compiler
from lepton.sw.compiler.program import (
    CompileError,
    FitError,
    HostStep,
    Layer,
    Limit,
    NpuStep,
    Place,
    Program,
    until_settled,
)
from lepton.sw.compiler.streaming import compile_streaming, setup_words
from lepton.sw.graph.model import Model

__all__ = [
    "CompileError",
    "Compiler",
    "FitError",
    "HostStep",
    "Layer",
    "Limit",
    "NpuStep",
    "Place",
    "Program",
    "compile_model",
]


MOST_WORDS = 2**16
"""The largest program memory that can be configured."""


def compile_model(model: Model, config: NpuConfig, memory: Memory = Memory()) -> Program:
    """Compile for a configuration. With a memory port a model that the chip does not hold passes through it; else
    weights beyond the weight store go to external memory, those used least often first.

    `memory`: what is taken to be behind the memory port. Raises CompileError when the model does not fit.
    """
    if not config.memory_width:
        return compile_resident(model, config, {})
    host: dict[int, str] = {}
    program = _kept(model, config) or compile_streaming(model, config, host)
    program.memory = memory
    if any(limit.exceeded for limit in program.limits()):
        raise FitError(program)
    return program


def _kept(model: Model, config: NpuConfig) -> Program | None:
    """With a memory port: all on the chip from the first inference on; None when that is not all there."""
    weights = sum(t.size for t in model.tensors if t.constant and t.dtype == "int8" and len(t.shape) > 1)
    maps = [t.size for t in model.tensors if not t.constant and t.dtype == "int8"]
    if weights > config.weight_tiles * config.tile_bytes or max(maps, default=0) > config.act_bytes:
        return None
    host: dict[int, str] = {}
    try:
        program = compile_resident(model, config, host)
    except CompileError:
        return None
    if host:
        return None  # rows that pass through the chip may do what whole maps cannot
    program.setup = len(program.words)
    program.words += setup_words(program, (True, True))
    return program


def compile_resident(model: Model, config: NpuConfig, host: dict[int, str]) -> Program:
    """All activations on the chip; `host` gathers what the array turns out not to compute. Raises CompileError."""

    def attempt(external=frozenset(), odd=frozenset()) -> tuple[Compiler, Program]:
        def once():
            compiler = Compiler(model, config, external, odd, host)
            program = compiler.compile()
            if config.act_align > 1:
                compiler.odd_sources()
            return compiler, program

        return until_settled(host, once)

    compiler, program = attempt()
    # A program that no configuration holds is made shorter.
    while (excess := len(program.words) - config.program_words) > 0 and config.program_words == MOST_WORDS:
        longest = longest_layers(compiler, program)
        if not longest or program.peak_bytes > config.act_bytes:
            break
        for index, words in longest:
            if excess > 0:
                host[index] = f"too many instructions for program_words={config.program_words:,}"
                excess -= words
        compiler, program = attempt()
    outputs = {op.index: op.outputs[0] for op in model.operators if op.outputs}
    chosen: set[int] = set()

    def rank(index):
        h, w, _ = compiler.hwc(outputs[index])
        return h * w > config.acc_depth, -compiler.layer_tiles[index]

    # Again where tiles that went are still there for another layer that shares them.
    while (excess := len(compiler.tile_words) - config.resident_tiles) > 0 and config.ring_tiles:
        left = [index for index in sorted(compiler.layer_tiles, key=rank) if index not in chosen]
        if not left:
            break
        for index in left:
            if excess > 0:
                chosen.add(index)
                excess -= compiler.layer_tiles[index]
        compiler, program = attempt(frozenset(chosen))
    compiler.check_fit()
    if config.act_align > 1:
        odd = compiler.odd_sources()
        if odd:
            compiler, program = attempt(odd=odd)
            if compiler.odd_sources():
                raise CompileError(
                    f"{model.name}: a tensor is read from even and odd addresses, configuration {config.name!r} reads "
                    f"only even ones (act_align=2): use a configuration without compact"
                )
    return program


def longest_layers(compiler: Compiler, program: Program) -> list[tuple[int, int]]:
    """Operators without weights that the host may compute instead, and the words of their layers, the most first."""
    light = {op.index for op in program.model.operators if not compiler.macs(op)}
    out = {}
    for layer in program.layers:
        for index in layer.operators:
            if index in light:
                out[index] = layer.end_word - layer.first_word
    return sorted(out.items(), key=lambda item: -item[1])

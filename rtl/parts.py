"""The parts of a machine: which unit does each job. The small machine's are in `lepton.rtl.compact.parts`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from amaranth.lib.wiring import Component

from lepton.rtl.accumulators import Accumulators
from lepton.rtl.activations import Activations
from lepton.rtl.fetch import Fetch
from lepton.rtl.host_memory import HostMemory
from lepton.rtl.layouts import PARAM, PC
from lepton.rtl.link import Link
from lepton.rtl.memory_activations import MemoryActivations
from lepton.rtl.memory_fetch import MemoryFetch
from lepton.rtl.memory_link import MemoryLink
from lepton.rtl.memory_multiply import MemoryMultiply
from lepton.rtl.memory_params import MemoryParameters
from lepton.rtl.memory_tail import MemoryTail
from lepton.rtl.memory_tiles import MemoryTiles
from lepton.rtl.multiply import MultiplyEngine
from lepton.rtl.program_stream import ProgramStream
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause, Region
from lepton.rtl.tail import TailEngine
from lepton.rtl.tile_supply import TileSupply

Unit = Callable[[NpuConfig], Component]


@dataclass(frozen=True)
class Parts:
    """What `Npu` connects. Units of the same job have members of the same names; what travels between two units of one
    machine (instructions, tiles, accumulators, parameters) is that machine's own."""

    link: Callable[..., Component]
    """Of a configuration, the latency of its reads and its timeout."""
    fetch: Unit
    multiply: Unit
    tail: Unit
    program: Unit
    params: Unit
    activations: Unit
    tiles: Unit
    accumulators: Unit
    counted: tuple[Cause, ...]
    """Causes that have a cycle counter."""


LARGE = Parts(
    link=Link,
    fetch=Fetch,
    multiply=MultiplyEngine,
    tail=TailEngine,
    program=lambda config: HostMemory(config, Region.PROGRAM, PC, way=1),
    params=lambda config: HostMemory(config, Region.PARAM, PARAM, way=1),
    activations=Activations,
    tiles=TileSupply,
    accumulators=Accumulators,
    counted=tuple(cause for cause in Cause if cause is not Cause.MEMORY),
)

MEMORY = replace(
    LARGE,
    link=MemoryLink,
    fetch=MemoryFetch,
    multiply=MemoryMultiply,
    tail=MemoryTail,
    program=ProgramStream,
    params=MemoryParameters,
    activations=MemoryActivations,
    tiles=MemoryTiles,
    counted=tuple(Cause),
)
"""With a memory port."""

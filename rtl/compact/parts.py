"""The parts of the small machine."""

from lepton.rtl.compact.fetch import CompactFetch
from lepton.rtl.compact.link import CompactLink
from lepton.rtl.compact.memories import SerialTileSupply, SpramActivations, SpramParameters
from lepton.rtl.compact.multiply import SerialMultiply
from lepton.rtl.compact.serial_accumulators import SerialAccumulators
from lepton.rtl.compact.serial_tail import SerialTail
from lepton.rtl.host_memory import HostMemory
from lepton.rtl.layouts import PC
from lepton.rtl.parts import Parts
from lepton.rtl.spec.isa import Region

COMPACT = Parts(
    link=CompactLink,
    fetch=CompactFetch,
    multiply=SerialMultiply,
    tail=SerialTail,
    program=lambda config: HostMemory(config, Region.PROGRAM, PC, way=0),
    params=SpramParameters,
    activations=SpramActivations,
    tiles=SerialTileSupply,
    accumulators=SerialAccumulators,
    counted=(),
)

"""The cycle model: when everything happens, without computing anything.

`predict` replays a program (`replay`; `memory_cycles` where it lies behind a memory port). With on-chip weights the
result equals the RTL's counters, cycle for cycle. External weights are taken to arrive at a given rate, which gives a
bound.
"""

import numpy as np

from lepton.rtl.spec import isa
from lepton.rtl.spec.config import NpuConfig
from lepton.rtl.spec.isa import Cause
from lepton.rtl.spec.timing import Memory
from lepton.sw.reference.memory_cycles import MemoryRun
from lepton.sw.reference.replay import Run, Timing

__all__ = ["Timing", "predict"]


def predict(
    config: NpuConfig,
    words: list[int],
    tiles: bytes,
    pc: int = 0,
    external: bytes = b"",
    latency: int = 8,
    interval: int = 1,
    params: bytes = b"",
    memory: Memory = Memory(),
) -> Timing:
    """Cycles of the program from word `pc` on.

    `tiles` and `external` are the images of the weight store and the external memory; only the descriptors
    are looked at.
    `params` is the image of the parameter memory; only compact configurations look at it, for the shifts.
    `memory`: what is behind the memory port; the result is a bound then.
    External memory answers a burst after `latency` cycles with a byte each `interval`; the result is then a bound.
    """
    size = isa.word_bytes(isa.Region.WEIGHT, config)

    def table(raw):
        return isa.DESCRIPTOR.unpack_array(np.frombuffer(raw, np.uint8).reshape(-1, size)[:, : isa.DESCRIPTOR_BYTES])

    shifts = np.frombuffer(params, np.int8)[isa.PARAM_BYTES - 1 :: isa.PARAM_BYTES].tolist()
    arguments = config, words, table(tiles), pc, table(external), latency + 2 + size * interval, shifts
    if config.memory_width:
        run: Run = MemoryRun(memory, *arguments)
    else:
        run = Run(*arguments)
    timing = run.run()
    end = run.finished + 1  # the counter runs in cycle 0 too
    timing.cycles = end
    causes = run.gaps
    # Until END is read, the array may be waiting for another MUL.
    causes[Cause.FETCH] += 1 + max(0, run.done_fetching - run.multiply_end)
    causes[Cause.DRAIN] = 0
    busy = sum(causes.values())
    causes[Cause.DRAIN] = end - busy
    timing.causes = {cause.name.lower(): causes[cause] for cause in Cause}
    timing.cuts = run.cuts()
    return timing

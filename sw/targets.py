"""The machines that have a name: presets, and what other packages add through the entry points `lepton.configs`.

Such an entry point is a function without arguments that returns a list of `Target`s (boards: `lepton.fpga.board`). It
is called for names that are no preset's, and for the list of all. Where it cannot be (its own packages are not
installed) its names are unknown, and the refusal says how to install them.
"""

from dataclasses import dataclass
from importlib.metadata import entry_points

from lepton.rtl.spec.config import PRESETS, ConfigError, NpuConfig, get_config
from lepton.rtl.spec.errors import LeptonError
from lepton.rtl.spec.timing import LINK_TIMEOUT

GROUP = "lepton.configs"
PRESET_MHZ = 50.0
"""Clock that the times of presets assume; a preset is no board."""


@dataclass(frozen=True)
class Target:
    """A machine: its configuration, its clock, what it is for people, and the cycles of its link's timeout."""

    name: str
    config: NpuConfig
    mhz: float = PRESET_MHZ
    title: str = "preset"
    link_timeout: int = LINK_TIMEOUT


def added() -> tuple[list[Target], list[str]]:
    """Targets of the entry points, and for each that cannot be called, why."""
    found: list[Target] = []
    missing = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            found += point.load()()
        except (ImportError, LeptonError) as error:
            missing.append(str(error))
    return found, missing


def all_targets() -> list[Target]:
    """Every preset and every board."""
    return [*(Target(name, config) for name, config in PRESETS.items()), *added()[0]]


def get_target(name: str) -> Target:
    """The preset or board of that name. Raises ConfigError naming the known ones."""
    try:
        return Target(name, get_config(name))
    except ConfigError:
        boards, missing = added()
    target = next((target for target in boards if target.name == name), None)
    if target is None:
        known = [*PRESETS, "up5k", *(target.name for target in boards)]
        hint = f" (boards: {missing[0]})" if missing else ""
        raise ConfigError(f"unknown configuration {name!r}; known: {', '.join(known)}{hint}")
    return target

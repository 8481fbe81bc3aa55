"""Clocks of the processors, the GPU and the memory: what they are now, within which limits, and who chooses them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.board.files import matching, number, text

_GPU = re.compile(r"\.(gpu|g[amvp]\d\w+)$|^gpu-gpc-0$")
"""Orin `17000000.gpu` or `17000000.ga10b`, Xavier `17000000.gv11b`, Thor `gpu-gpc-0` (its `gpu-nvd-0` is for video)."""
_MEMORY = re.compile(r"^bwmgr$|emc")
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
"""Root alone may read it."""
_EMC_CAP = "sys/kernel/nvpmodel_clk_cap/emc"


@dataclass(frozen=True)
class ClockReadings:
    """Everything about clocks at one moment, in megahertz, by `cpu0`, `gpu` and `memory`.

    Attributes:
        governors: Who chooses: `policy0` (processors) or `gpu` -> name.
        present: The clock now.
        limits: The highest that is allowed now.
        lowest: The lowest that is allowed now.
    """

    governors: dict[str, str]
    present: dict[str, float]
    limits: dict[str, float]
    lowest: dict[str, float]


@dataclass(frozen=True)
class _Source:
    """Where one clock is read.

    Attributes:
        name: Of the clock.
        governor_name: Under which its governor is told.
        present: Files, of which the first that can be read counts.
        limit: The same.
        lowest: The same.
        governor: File; empty where there is none.
        per_mhz: The unit of the files.
    """

    name: str
    governor_name: str
    present: tuple[str, ...]
    limit: tuple[str, ...]
    lowest: tuple[str, ...]
    governor: str
    per_mhz: float


class Clocks:
    """The clocks of a computer; which there are is found out once."""

    def __init__(self, root: Path) -> None:
        self._sources = [*_processors(root), *_devices(root)]
        if not any(source.name == "memory" for source in self._sources):
            self._sources.append(_memory_of_debugfs(root))

    def read(self) -> ClockReadings:
        """All of them, now; what cannot be read is left out."""
        found = ClockReadings({}, {}, {}, {})
        for source in self._sources:
            if source.governor and (governor := text(source.governor)):
                found.governors[source.governor_name] = governor
            for paths, values in (
                (source.present, found.present),
                (source.limit, found.limits),
                (source.lowest, found.lowest),
            ):
                value = next((value for path in paths if (value := number(path)) is not None), None)
                if value is not None:
                    values[source.name] = value / source.per_mhz
        return found


def _processors(root: Path) -> list[_Source]:
    """Processors that share a clock have one policy, which is named after the first of them."""
    sources = []
    for folder in matching(root, "sys/devices/system/cpu/cpufreq/policy*"):
        policy = folder.rpartition("/")[2]
        present, limit, lowest = (f"{folder}/scaling_{which}_freq" for which in ("cur", "max", "min"))
        name = policy.replace("policy", "cpu")
        sources.append(_Source(name, policy, (present,), (limit,), (lowest,), f"{folder}/scaling_governor", 1e3))
    return sources


def _devices(root: Path) -> list[_Source]:
    sources: dict[str, _Source] = {}
    for folder in matching(root, "sys/class/devfreq/*"):
        device = folder.rpartition("/")[2]
        name = "gpu" if _GPU.search(device) else "memory" if _MEMORY.search(device) else ""
        if name and name not in sources:
            present, limit, lowest = (f"{folder}/{which}_freq" for which in ("cur", "max", "min"))
            sources[name] = _Source(name, name, (present,), (limit,), (lowest,), f"{folder}/governor", 1e6)
    return list(sources.values())


def _memory_of_debugfs(root: Path) -> _Source:
    folder = root / _EMC
    return _Source(
        name="memory",
        governor_name="memory",
        present=(f"{folder}/rate",),
        limit=(str(root / _EMC_CAP), f"{folder}/max_rate"),
        lowest=(f"{folder}/min_rate",),
        governor="",
        per_mhz=1e6,
    )

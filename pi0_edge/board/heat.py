"""Heat: temperatures, what slows a computer down because of it, and the fans against it."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from pi0_edge.board.files import hwmon_chips, matching, number, text

_ALERT = re.compile(r"-throttle-alert$|^hot-surface-alert$")
_PROCESSOR_CHIPS = ("coretemp", "k10temp")
"""Sensor chips of x86 processors; AMD's has no thermal zone."""
_WHOLE_PROCESSOR = re.compile(r"^(Tctl|Package id \d+)$")


class Heat:
    """Where a computer tells its temperatures; which sensors there are is found out once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius by thermal zone, such as `tj-thermal`; the hottest where several have one name.

        A zone that cannot be read now is left out: a part without power has no temperature.
        """
        found: dict[str, float] = {}
        for name, path in self._sensors:
            millidegrees = number(path)
            if millidegrees is not None:
                found[name] = max(found.get(name, float("-inf")), millidegrees / 1000)
        return found

    def throttling(self) -> tuple[str, ...]:
        """The alerts that slow this computer down at this moment, such as `cpu-throttle-alert`."""
        return tuple(sorted({name for name, path in self._alerts if number(path)}))

    def throttle_counts(self) -> dict[str, int]:
        """How often each package of an x86 processor slowed down for heat since the start."""
        found = {name: number(path) for name, path in self._packages.items()}
        return {name: count for name, count in found.items() if count is not None}

    def fan_rpm(self) -> dict[str, float]:
        """Revolutions per minute by fan, named after its chip."""
        found = {name: number(path) for name, path in self._fans.items()}
        return {name: float(speed) for name, speed in found.items() if speed is not None}

    @cached_property
    def _sensors(self) -> list[tuple[str, str]]:
        sensors = [
            (name, f"{zone}/temp")
            for zone in matching(self._root, "sys/class/thermal/thermal_zone*")
            if (name := text(f"{zone}/type"))
        ]
        for chip, folder in hwmon_chips(self._root):
            if chip in _PROCESSOR_CHIPS:
                for path in matching(Path(folder), "temp*_label"):
                    if _WHOLE_PROCESSOR.match(label := text(path)):
                        sensors.append((f"{chip} {label}", path.replace("_label", "_input")))
        return sorted(sensors)

    @cached_property
    def _alerts(self) -> list[tuple[str, str]]:
        devices = matching(self._root, "sys/class/thermal/cooling_device*")
        return [(name, f"{device}/cur_state") for device in devices if _ALERT.search(name := text(f"{device}/type"))]

    @cached_property
    def _packages(self) -> dict[str, str]:
        """One counter of each package: all of its processors show the same."""
        packages: dict[str, str] = {}
        for path in matching(self._root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/package_throttle_count"):
            package = text(f"{path.partition('/thermal_throttle')[0]}/topology/physical_package_id")
            packages.setdefault(f"package-{package or 0}", path)
        return packages

    @cached_property
    def _fans(self) -> dict[str, str]:
        """NVIDIA's tachometer has one file `rpm`, other chips `fan1_input` and so on."""
        fans: dict[str, str] = {}
        for chip, folder in hwmon_chips(self._root):
            inputs = [*matching(Path(folder), "rpm"), *matching(Path(folder), "fan*_input")]
            for path in inputs:
                name = chip if len(inputs) == 1 else f"{chip} {path.rpartition('/')[2].partition('_')[0]}"
                fans[name if name not in fans else f"{name} of {folder.rpartition('/')[2]}"] = path
        return fans

"""Power: the mode that a person chose, the rails that are measured, energy counters, and events of the supply."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path

from pi0_edge.board.files import hwmon_chips, matching, number, text

_MODE = re.compile(r"pmode:\s*(\d+)")
_MODE_NAME = re.compile(r"^\s*<\s*POWER_MODEL\s+ID\s*=\s*(\d+)\s+NAME\s*=\s*([^\s>]+)", re.MULTILINE)
_SENSORS = ("ina3221", "ina238")
_UNNAMED = {"ina238": "VIN"}
"""What NVIDIA's tegrastats calls the one channel of a sensor whose driver gives it no label."""
_NO_RAILS = re.compile(r"^(NC|sum of shunt voltages)$", re.IGNORECASE)
"""Labels of a channel that is not connected, and of the sum that the INA3221 makes of its three channels."""
_OVER_CURRENT = ("sys/class/hwmon/hwmon*/oc*_event_cnt", "sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc*_cnt")


class Power:
    """Where a computer tells its power; which sensors there are is found out once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def mode(self) -> str:
        """Number and name, such as `2 MAXN_SUPER`; on a PC the platform profile; empty where it says nothing."""
        found = _MODE.search(text(self._root / "var/lib/nvpmodel/status"))
        if found is None:
            return text(self._root / "sys/firmware/acpi/platform_profile")
        number_of_mode = int(found[1])
        return f"{number_of_mode} {self._mode_names.get(number_of_mode, '')}".strip()

    def rails_mw(self) -> dict[str, float]:
        """Milliwatts by rail: millivolts times milliamperes, as the sensors give no power of a rail."""
        found: dict[str, float] = {}
        for name, millivolts, milliamperes in self._rails:
            voltage, current = number(millivolts), number(milliamperes)
            if voltage is not None and current is not None:
                found[name] = voltage * current / 1000
        return found

    def energy_uj(self) -> dict[str, int]:
        """Microjoules by RAPL counter, such as `package-0` and `package-0/core`; only root may read them."""
        found = {name: number(f"{folder}/energy_uj") for name, folder in self._counters.items()}
        return {name: value for name, value in found.items() if value is not None}

    @cached_property
    def energy_range_uj(self) -> dict[str, int]:
        """What each RAPL counter shows at most, before it begins again at zero."""
        found = {name: number(f"{folder}/max_energy_range_uj") for name, folder in self._counters.items()}
        return {name: value for name, value in found.items() if value is not None}

    def over_current_events(self) -> dict[str, int]:
        """Events since the computer started, by counter (`oc1`, `oc2`, `oc3`)."""
        found = {name: number(path) for name, path in self._event_counters.items()}
        return {name: count for name, count in found.items() if count is not None}

    @cached_property
    def _mode_names(self) -> dict[int, str]:
        """Numbers mean other modes on other modules."""
        try:
            conf = (self._root / "etc/nvpmodel.conf").read_text(errors="replace")
        except OSError:
            return {}
        return {int(number_of_mode): name for number_of_mode, name in _MODE_NAME.findall(conf)}

    @cached_property
    def _rails(self) -> list[tuple[str, str, str]]:
        """Name, file of the voltage, file of the current."""
        rails: dict[str, tuple[str, str, str]] = {}
        for chip, folder in hwmon_chips(self._root):
            if chip not in _SENSORS:
                continue
            for current in matching(Path(folder), "curr[1-9]_input"):
                channel = current.rpartition("/curr")[2].partition("_")[0]
                voltage = f"{folder}/in{channel}_input"
                label = text(f"{folder}/in{channel}_label") or text(f"{folder}/label") or _UNNAMED.get(chip, "")
                if label and not _NO_RAILS.match(label) and Path(voltage).exists():
                    name = label if label not in rails else f"{label} of {folder.rpartition('/')[2]}"
                    rails[name] = (name, voltage, current)
        return list(rails.values())

    @cached_property
    def _counters(self) -> dict[str, str]:
        """Name -> folder of each RAPL counter. A second interface to the same (`intel-rapl-mmio`) is left out."""
        counters: dict[str, str] = {}
        for folder in matching(self._root, "sys/class/powercap/intel-rapl:*"):
            name = text(f"{folder}/name")
            zone = folder.rpartition("/")[2]
            if zone.count(":") > 1:
                parent = text(f"{folder.rpartition(':')[0]}/name")
                name = f"{parent}/{name}"
            if name and name not in counters:
                counters[name] = folder
        return counters

    @cached_property
    def _event_counters(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for pattern in _OVER_CURRENT:
            for path in matching(self._root, pattern):
                found.setdefault(path.rpartition("/")[2].partition("_")[0], path)
        return dict(sorted(found.items()))

"""Model, operating system, temperatures, throttling and memory of a computer; what it does not have is left out."""

from __future__ import annotations

import re
from pathlib import Path

_L4T = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
_THROTTLES = re.compile(r"-throttle-alert$|^hot-surface-alert$")
_OVER_CURRENT = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon*/oc*_event_cnt"


class Board:
    """One computer.

    Attributes:
        root: Of its file system.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root

    @property
    def model(self) -> str:
        """As its device tree calls it; empty where it has none, such as a PC."""
        return _text(self.root / "proc/device-tree/model")

    @property
    def l4t_release(self) -> str:
        """Release of NVIDIA's Jetson Linux, such as `36.4.3`; empty where it runs something else."""
        found = _L4T.search(self.l4t_text)
        return "" if found is None else f"{found[1]}.{found[2]}"

    @property
    def l4t_text(self) -> str:
        """First line of the file that names the release; empty without one."""
        return _text(self.root / "etc/nv_tegra_release").partition("\n")[0]

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius by thermal zone, such as `tj-thermal`; the hottest where several have one name.

        A zone that cannot be read now is left out: a part without power has no temperature.
        """
        found: dict[str, float] = {}
        for zone in self.root.glob("sys/class/thermal/thermal_zone*"):
            name, millidegrees = _text(zone / "type"), _number(zone / "temp")
            if name and millidegrees is not None:
                found[name] = max(found.get(name, float("-inf")), millidegrees / 1000)
        return dict(sorted(found.items()))

    def throttling(self) -> tuple[str, ...]:
        """The alerts that slow this computer down at this moment, such as `cpu-throttle-alert`."""
        devices = self.root.glob("sys/class/thermal/cooling_device*")
        active = {_text(device / "type") for device in devices if _number(device / "cur_state")}
        return tuple(sorted(name for name in active if _THROTTLES.search(name)))

    def over_current_events(self) -> dict[str, int]:
        """Events since the computer started, by counter.

        `oc1` counts under-voltage, `oc2` average over-current; `oc3`, instantaneous over-current, rises all the time in
        the fastest power modes, without any effect on latency.
        """
        found = {path.name.partition("_")[0]: _number(path) for path in self.root.glob(_OVER_CURRENT)}
        return {name: count for name, count in sorted(found.items()) if count is not None}

    @property
    def available_memory(self) -> int | None:
        """Bytes that a program may still take without swapping; None where the kernel does not say."""
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(self.root / "proc/meminfo"), re.MULTILINE)
        return None if found is None else int(found[1]) * 1024


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None

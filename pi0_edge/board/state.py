"""The state of a computer at one moment, in values that can be kept and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class BoardState:
    """What decides how fast a computer is now. What it does not have is empty or None.

    Attributes:
        model: As its device tree calls it, such as `NVIDIA Jetson AGX Orin Developer Kit`; on a PC, its processor.
        release: Of the operating system: Jetson Linux such as `36.4.3`, else what /etc/os-release says.
        kernel: Of Linux, with `PREEMPT_RT` where it is one.
        power_mode: Number and name, such as `0 MAXN`.
        governors: Who chooses a clock, such as `policy0` -> `schedutil` (processors), `gpu` -> `nvhost_podgov`.
        clocks_mhz: Present clock by name: `cpu0`, `gpu`, `memory`.
        clock_limits_mhz: Highest clock that is allowed now, by the same names.
        lowest_clocks_mhz: Lowest clock that is allowed now, by the same names; the highest one where it is pinned.
        temperatures_c: Degrees Celsius by thermal zone.
        throttling: Alerts that slow it down at this moment.
        over_current_events: Since it was started, by counter (`oc1`, `oc2`, `oc3`).
        throttle_counts: How often a processor package slowed down for heat since the start, such as `package-0` (x86).
        rails_mw: Power by rail, such as `VDD_GPU_SOC`, in milliwatts.
        energy_uj: Energy by counter since it was last zero, such as `package-0`, in microjoules (RAPL).
        energy_range_uj: What such a counter shows at most, before it begins again at zero.
        memory_available_bytes: That a program may still take without swapping.
        swap_used_bytes: What lies in swap.
        cpu_busy_s: Seconds that all processors together worked since the start.
        cpu_own_s: Those of them that this process and what it started took.
        cpu_stolen_s: Seconds in which a hypervisor gave the processors to others since the start.
        forks: Processes and threads that were started since the start of the computer.
        busiest: Other processes by CPU time since this program first looked at them: name and process id -> seconds;
            the ten largest. Threads of the kernel stand in brackets, as in `ps`.
        fan_rpm: Revolutions per minute by fan.
        boot_id: Of this start of the computer.
    """

    model: str = ""
    release: str = ""
    kernel: str = ""
    power_mode: str = ""
    governors: Mapping[str, str] = field(default_factory=dict[str, str])
    clocks_mhz: Mapping[str, float] = field(default_factory=dict[str, float])
    clock_limits_mhz: Mapping[str, float] = field(default_factory=dict[str, float])
    lowest_clocks_mhz: Mapping[str, float] = field(default_factory=dict[str, float])
    temperatures_c: Mapping[str, float] = field(default_factory=dict[str, float])
    throttling: tuple[str, ...] = ()
    over_current_events: Mapping[str, int] = field(default_factory=dict[str, int])
    throttle_counts: Mapping[str, int] = field(default_factory=dict[str, int])
    rails_mw: Mapping[str, float] = field(default_factory=dict[str, float])
    energy_uj: Mapping[str, int] = field(default_factory=dict[str, int])
    energy_range_uj: Mapping[str, int] = field(default_factory=dict[str, int])
    memory_available_bytes: int | None = None
    swap_used_bytes: int | None = None
    cpu_busy_s: float | None = None
    cpu_own_s: float | None = None
    cpu_stolen_s: float | None = None
    forks: int | None = None
    busiest: Mapping[str, float] = field(default_factory=dict[str, float])
    fan_rpm: Mapping[str, float] = field(default_factory=dict[str, float])
    boot_id: str = ""

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> BoardState:
        """What JSON made of one; a name that is not known here is left out, so that newer results can be read.

        Raises:
            TypeError: If it is no object.
        """
        known = {item.name for item in fields(cls)}
        values: dict[str, Any] = {name: value for name, value in dict(read).items() if name in known}
        return cls(**{**values, "throttling": tuple(values.get("throttling", ()))})

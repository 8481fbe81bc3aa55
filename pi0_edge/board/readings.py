"""Everything that a computer says about itself; what it does not have is left out."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from pi0_edge.board import identity
from pi0_edge.board.clocks import Clocks
from pi0_edge.board.heat import Heat
from pi0_edge.board.load import Processes, Shares, read_memory, read_processor_time
from pi0_edge.board.power import Power
from pi0_edge.board.state import BoardState


class Board:
    """One computer. Which sensors it has is found out at the first question about them, and not again.

    Attributes:
        root: Of its file system.
    """

    def __init__(self, root: Path = Path("/"), own: Collection[int] = ()) -> None:
        """Reads nothing yet.

        Args:
            root: Of its file system.
            own: Ids of the processes that belong to what is measured, besides this process; what they start belongs
                to it too.
        """
        self.root = root
        self._power = Power(root)
        self._heat = Heat(root)
        self._processes = Processes(root, {os.getpid(), *own})

    @property
    def model(self) -> str:
        """As its device tree calls it; empty where it has none, such as a PC."""
        return identity.device_tree_model(self.root)

    @property
    def l4t_release(self) -> str:
        """Release of NVIDIA's Jetson Linux, such as `36.4.3`; empty where it runs something else."""
        return identity.l4t_release(self.root)

    @property
    def l4t_text(self) -> str:
        """First line of the file that names the release; empty without one."""
        return identity.l4t_text(self.root)

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius by thermal zone, such as `tj-thermal`; the hottest where several have one name.

        A zone that cannot be read now is left out: a part without power has no temperature.
        """
        return self._heat.temperatures()

    def throttling(self) -> tuple[str, ...]:
        """The alerts that slow this computer down at this moment, such as `cpu-throttle-alert`."""
        return self._heat.throttling()

    def over_current_events(self) -> dict[str, int]:
        """Events since the computer started, by counter.

        `oc1` counts under-voltage, `oc2` average over-current; `oc3`, instantaneous over-current, rises all the time in
        the fastest power modes, without any effect on latency.
        """
        return self._power.over_current_events()

    @property
    def available_memory(self) -> int | None:
        """Bytes that a program may still take without swapping; None where the kernel does not say."""
        return read_memory(self.root).available

    @property
    def has_rails(self) -> bool:
        """Whether it measures its power."""
        return bool(self._power.rails_mw())

    def state(self, processes: bool = True) -> BoardState:
        """Everything.

        Args:
            processes: Also `cpu_own_s` and `busiest`, for which every process of the computer is looked at.
        """
        clocks = self._clocks.read()
        memory = read_memory(self.root)
        time = read_processor_time(self.root)
        shares = self._processes.read() if processes else Shares(None, {})
        return BoardState(
            model=self._model,
            release=self._release,
            kernel=self._kernel,
            power_mode=self._power.mode(),
            governors=clocks.governors,
            clocks_mhz=clocks.present,
            clock_limits_mhz=clocks.limits,
            lowest_clocks_mhz=clocks.lowest,
            temperatures_c=self._heat.temperatures(),
            throttling=self._heat.throttling(),
            over_current_events=self._power.over_current_events(),
            throttle_counts=self._heat.throttle_counts(),
            rails_mw=self._power.rails_mw(),
            energy_uj=self._power.energy_uj(),
            energy_range_uj=self._power.energy_range_uj,
            memory_available_bytes=memory.available,
            swap_used_bytes=memory.swap_used,
            cpu_busy_s=time.busy,
            cpu_own_s=shares.own_s,
            cpu_stolen_s=time.stolen,
            forks=time.forks,
            busiest=shares.others_s,
            fan_rpm=self._heat.fan_rpm(),
            boot_id=identity.boot_id(self.root),
        )

    def quick_state(self) -> BoardState:
        """What changes within a tenth of a second, and nothing else: rails, energy counters, alerts."""
        return BoardState(
            throttling=self._heat.throttling(), rails_mw=self._power.rails_mw(), energy_uj=self._power.energy_uj()
        )

    @cached_property
    def _clocks(self) -> Clocks:
        return Clocks(self.root)

    @cached_property
    def _model(self) -> str:
        return identity.model(self.root)

    @cached_property
    def _release(self) -> str:
        return identity.release(self.root)

    @cached_property
    def _kernel(self) -> str:
        return identity.kernel(self.root)

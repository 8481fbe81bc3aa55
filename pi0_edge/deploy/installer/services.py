"""The services of a robot's computer, as the installer needs them."""

from __future__ import annotations

from typing import Protocol


class Services(Protocol):
    """Starts and stops units; systemd does it on a robot."""

    def start(self, unit: str) -> None:
        """Starts a unit, and returns when it runs or has failed."""
        ...

    def stop(self, unit: str) -> None:
        """Stops a unit, and returns when it has ended."""
        ...

    def restart(self, unit: str) -> None:
        """Stops a unit where it runs, then starts it."""
        ...

    def state(self, unit: str) -> str:
        """What `systemctl is-active` says: active, activating, inactive, failed."""
        ...

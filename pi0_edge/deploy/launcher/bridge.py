"""The bridge belongs to a release, too: it is started again where another one has another SDK or another firmware."""

from __future__ import annotations

import json
from typing import Any

from pi0_edge.deploy.launcher.journal import write_entry
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import BRIDGE, Services
from pi0_edge.deploy.launcher.settings import read_settings
from pi0_edge.deploy.launcher.slots import Slot
from pi0_edge.errors import DeployError


def restart_bridge(layout: Layout, services: Services, left: Slot | None, now: Slot | None) -> bool:
    """Restarts the bridge where it would start otherwise than it did; what runs before it writes the firmware.

    Args:
        layout: Of the robot.
        services: Its units.
        left: The release that ran.
        now: The release that runs from now on.

    Returns:
        Whether the bridge was restarted.

    Raises:
        DeployError: If the settings of the robot cannot be read, or systemd refuses.
    """
    if read_settings(layout).bridge is None:
        return False
    if services.state(BRIDGE).active == "active" and _needs(layout, left) == _needs(layout, now):
        return False
    services.stop(BRIDGE)  # and wait: from here on, whoever asks the bridge asks the new one
    services.start(BRIDGE)
    return True


def bridge_follows(layout: Layout, services: Services, left: Slot | None, now: Slot | None) -> None:
    """As `restart_bridge` where a release is taken back, which must not fail because of the bridge.

    The journal says why the bridge was left as it is.
    """
    try:
        restart_bridge(layout, services, left, now)
    except DeployError as error:
        write_entry(layout, "bridge left as it is", str(error), release="" if now is None else now.release)


def _needs(layout: Layout, slot: Slot | None) -> Any:
    """What the bridge depends on: its SDK environment, and the firmware that it expects."""
    if slot is None:
        return None
    try:
        statement = json.loads((layout.release(slot.release) / "release.json").read_bytes())
        return slot.environment, statement.get("firmware")
    except (OSError, ValueError, AttributeError):
        return slot.environment, "unknown"

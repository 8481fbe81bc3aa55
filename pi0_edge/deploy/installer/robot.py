"""The robot that an installer works on, and whom it tells its reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pi0_edge.deploy.launcher.journal import write_entry
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import Services
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.release import Release
from pi0_edge.progress import ProgressCallback


@dataclass(frozen=True)
class Robot:
    """What an installer needs to know.

    Attributes:
        layout: Where everything lies.
        settings: What belongs to this robot.
        services: Its units.
        tell: Is called with one line for each decision.
        on_progress: Is called with each step of a stage.
    """

    layout: Layout
    settings: RobotSettings
    services: Services
    tell: Callable[[str], object] = field(default=lambda reason: None)
    on_progress: ProgressCallback = field(default=lambda progress: None)

    def record(self, event: str, reason: str, release: Release | None = None) -> None:
        """Tells a decision, and keeps it in the journal."""
        self.tell(f"{event}: {reason}")
        where = {} if release is None else {"release": release.id, "sequence": release.sequence}
        write_entry(self.layout, event, reason, **where)

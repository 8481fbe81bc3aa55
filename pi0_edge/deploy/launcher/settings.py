"""What belongs to this robot and not to a release, in /etc/pi0-edge/robot.json."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.errors import DeployError


@dataclass(frozen=True)
class RobotSettings:
    """What belongs to this robot and not to a release.

    Attributes:
        name: Of this robot, in logs and metrics.
        robot: Name of the robot layout that its policies must be made for.
        hardware: Kind of its computer, that a release may ask for.
        environment: SDK environment that runs where no release is committed yet.
        engine: Of the policy server.
        budget_ms: Longest time that a chunk may take; None judges no time.
        policy_listen: host:port of the policy server.
        bridge: host:port of the bridge; None on a computer without a microcontroller.
        metrics_port: Of the policy server's figures for Prometheus; None offers none.
        self_test_chunks: How many chunks the self-test times where there is a budget.
        trial_s: Seconds that a release must run well on trial before it is committed.
        serve: More arguments for `pi0-edge serve`.
        bridge_arguments: Arguments for `pi0-edge bridge`, such as its serial port.
        run_arguments: Arguments for `pi0-edge run`.
        firmware_command: Writes a firmware image to the microcontroller; {image} stands for the file.
    """

    name: str
    robot: str
    hardware: str
    environment: str
    engine: str = "cpu"
    budget_ms: float | None = None
    policy_listen: str = "127.0.0.1:50051"
    bridge: str | None = None
    metrics_port: int | None = None
    self_test_chunks: int = 64
    trial_s: float = 10.0
    serve: tuple[str, ...] = ()
    bridge_arguments: tuple[str, ...] = ()
    run_arguments: tuple[str, ...] = ()
    firmware_command: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The file."""
        return (json.dumps(dataclasses.asdict(self), indent=2) + "\n").encode()


def read_settings(layout: Layout) -> RobotSettings:
    """What belongs to this robot.

    Raises:
        DeployError: If the file is missing or says something else.
    """
    try:
        plain: dict[str, Any] = json.loads(layout.settings.read_bytes())
        values: Any = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        return RobotSettings(**values)
    except (OSError, ValueError, TypeError) as error:
        raise DeployError(
            f"{layout.settings} cannot be used ({error}); `pi0-edge robot provision` writes it"
        ) from error

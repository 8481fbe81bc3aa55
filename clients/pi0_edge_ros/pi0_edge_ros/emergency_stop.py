"""The emergency stop of the bridge, for the service of the node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from firmware_bridge.client import BridgeClient
from pi0_edge.errors import ConfigError, Pi0EdgeError
from pi0_edge.protos.serial_link import State

NO_BRIDGE = (
    "the node sends nothing any more, but parameter bridge names no bridge, so that nothing was stopped: the robot's "
    "controller executes the trajectory that it has. Stop it by the robot's own emergency stop"
)


class Answer(NamedTuple):
    """What became of an emergency stop.

    Attributes:
        stopped: Whether the bridge latched it.
        message: For people.
    """

    stopped: bool
    message: str


class EmergencyStop:
    """Latches ESTOP at a bridge. Its connection is its own, so that nothing is ever before it."""

    def __init__(self, address: str, tls: Path | None = None) -> None:
        """Connects at the first call.

        Args:
            address: host:port of the bridge; empty where there is none.
            tls: Folder with authority, certificate and key, where the bridge asks for a certificate.

        Raises:
            EndpointError: Something is wrong with that folder.
        """
        self._bridge = BridgeClient(address, "ROS 2 node", tls) if address else None

    def latch(self, reason: str) -> Answer:
        """Stops the arm; never raises.

        Args:
            reason: For the bridge's log.
        """
        if self._bridge is None:
            return Answer(False, NO_BRIDGE)
        try:
            state = self._bridge.estop(reason)
        except Pi0EdgeError as error:
            return Answer(False, f"the bridge did not confirm the emergency stop: {error}")
        stopped = state == State.ESTOP
        return Answer(stopped, f"the bridge at {self._bridge.address} is in {state.name}")

    def check(self, action_names: Sequence[str]) -> None:
        """Whether the bridge answers and drives the robot of the policy; passes where there is no bridge.

        Args:
            action_names: Of the policy; empty where it names none, and nothing is compared.

        Raises:
            ConfigError: If the bridge drives other joints.
            LinkError: If it does not answer.
        """
        if self._bridge is None:
            return
        found = list(self._bridge.status().joint_names)
        if action_names and found != list(action_names):
            raise ConfigError(
                f"the bridge at {self._bridge.address} drives {', '.join(found)}, but the policy commands "
                f"{', '.join(action_names)}; set parameter bridge to that of this robot"
            )

    def latched(self) -> str:
        """The state of the bridge where a person must clear it first; empty otherwise, or without a bridge.

        Raises:
            LinkError: If the bridge does not answer.
        """
        if self._bridge is None:
            return ""
        state = State(self._bridge.status().state)
        return state.name if state in (State.ESTOP, State.SAFE) else ""

    def close(self) -> None:
        """Ends the connection."""
        if self._bridge is not None:
            self._bridge.close()

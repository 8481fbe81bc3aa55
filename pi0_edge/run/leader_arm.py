"""A leader arm: a second arm without torque that a person moves by hand, and that the robot's arm follows.

It has a robot file of its own, whose servos say what its counts mean. Joints are matched by name, so that leader and
follower may have other servos, zeros and directions. The host reads it; no microcontroller is needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.errors import BridgeError
from firmware_bridge.robot import RobotJoints
from firmware_bridge.servo_reading.hand_moved_bus import HandMovedBus
from pi0_edge.errors import ConfigError
from pi0_edge.robots import Robot, Servo, load_robot
from pi0_edge.run.interventions import SILENCE_S, StreamedSetpoints

NEAR = 0.05
"""Share of a joint's range: the arm may be taken over where leader and follower are no farther apart than this."""

_READ_EVERY_S = 0.02


class LeaderArm(StreamedSetpoints):
    """Targets that are read from a leader arm; a context manager."""

    def __init__(self, leader: Robot | str | Path, ports: Sequence[str], robot: Robot, joints: RobotJoints) -> None:
        """Takes the torque off the leader, and begins to read it.

        Args:
            leader: The robot file of the leader, with its servos.
            ports: The serial port of each of its buses, in their order.
            robot: The follower.
            joints: Of the follower.

        Raises:
            ConfigError: The file lists no servos, lacks a joint of the follower or has it in another unit, or has
                another number of buses.
            PortError: A port cannot be opened.
            LinkError: A servo of the leader does not answer.
        """
        described = leader if isinstance(leader, Robot) else load_robot(leader)
        super().__init__(f"leader arm {described.name}", joints)
        self._scales = _scales(described, robot, ports)
        self._range = joints.upper - joints.lower
        self._lost = ""
        self._ended = threading.Event()
        with ExitStack() as stack:
            self._buses = [_open(described, bus, port, self._scales, stack) for bus, port in enumerate(ports)]
            self._open = stack.pop_all()
        self._thread = threading.Thread(target=self._read, name="leader-arm", daemon=True)
        self._thread.start()

    def __enter__(self) -> LeaderArm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends reading and closes the ports; the leader stays without torque."""
        self._ended.set()
        self._thread.join()
        self._open.close()

    def why_not(self, position: NDArray[np.floating]) -> str:
        """Why the arm cannot be taken over at `position`: the leader is lost or silent, or is too far away."""
        if self._lost:
            return f"{self.name}: {self._lost}"
        target = self.target()
        if target is None:
            return f"{self.name} was not read for {SILENCE_S:g} s; check its power and its cable"
        distance = target - position.astype(np.float64)
        far = np.flatnonzero(np.abs(distance) > NEAR * self._range)
        if not len(far):
            return ""
        joints = ", ".join(
            f"{self._joints.names[joint]} by {distance[joint]:+.3f} (at most {NEAR * self._range[joint]:.3f})"
            for joint in far
        )
        return f"{self.name} stands elsewhere than the arm: {joints}; move it to where the arm is"

    def _read(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._read_once()
            except BridgeError as error:
                self._lost = str(error)
                return
            self._ended.wait(max(0.0, began + _READ_EVERY_S - time.monotonic()))

    def _read_once(self) -> None:
        """A target counts only where every servo has answered."""
        counts = [bus.positions() for bus in self._buses]
        if all(servo.id in counts[servo.bus] for servo, _, _ in self._scales):
            self.put([(counts[servo.bus][servo.id] - zero) / per_unit for servo, zero, per_unit in self._scales])


_Scale = tuple[Servo, float, float]
"""The servo that a joint is read from, counts at 0, and counts per unit."""


def _scales(leader: Robot, robot: Robot, ports: Sequence[str]) -> list[_Scale]:
    """For each joint of the follower, in its order."""
    if leader.servo_bus is None:
        raise ConfigError(f"leader {leader.name}: its file lists no servos; give servo_bus and servos")
    buses = max(servo.bus for servo in leader.servos) + 1
    if len(ports) != buses:
        raise ConfigError(f"leader {leader.name} has {buses} buses, but {len(ports)} ports are given; give one each")
    theirs = {joint.name: joint for joint in leader.joints}
    servos = {servo.joint: servo for servo in leader.servos if servo.shadow_of is None}
    found: list[_Scale] = []
    for joint in robot.joints:
        other = theirs.get(joint.name)
        if other is None or other.unit != joint.unit:
            has = f"has it in {other.unit}" if other is not None else f"has {', '.join(theirs)}"
            raise ConfigError(f"leader {leader.name} {has}; expected the joint {joint.name} in {joint.unit}")
        servo = servos[joint.name]
        found.append((servo, *servo.scale(other.unit, other.position or (0.0, 1.0))))
    return found


def _open(leader: Robot, bus: int, port: str, scales: Sequence[_Scale], stack: ExitStack) -> HandMovedBus:
    """Opens one bus with all of its servos, the shadows included: their torque would hold the joint."""
    assert leader.servo_bus is not None  # noqa: S101 - _scales has refused it
    servos = {servo.id: f"the servo of {servo.joint}" for servo in leader.servos if servo.bus == bus}
    opened = HandMovedBus(port, leader.servo_bus.protocol, leader.servo_bus.baud, servos)
    stack.callback(opened.close)
    return opened

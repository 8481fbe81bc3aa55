"""The calibration of an arm, step by step: a person moves it by hand, and the firmware says where its joints are.

The arm is released, stands in its zero pose, has every joint moved in its positive direction, and every joint moved
through its range. What the person is asked for and how, is the business of a `Person`: a terminal, or a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import BridgeClient
from firmware_bridge.errors import CalibrationError, ProtocolError, StateError
from firmware_bridge.firmware.joint_table import joint_table
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.errors import ConfigError
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import Joint, Robot
from pi0_edge.robots.calibration.joint_calibration import JointCalibration
from pi0_edge.robots.servos import COUNTS_PER_TURN
from pi0_edge.run.calibration.recorder import CountsRecorder
from pi0_edge.run.calibration.servo_counts import ServoCounts
from pi0_edge.run.calibration.sweep_checks import mistakes_in_sweep

LEAST_DIRECTION_COUNTS = 60
"""A joint that is to show its direction has to move by so much, five degrees."""

Found = TypeVar("Found")


class StepKind(Enum):
    """What a person is asked to do."""

    RELEASE = "release"
    ZERO_POSE = "zero pose"
    OTHER_END = "other end"
    DIRECTION = "direction"
    RANGE = "range"


@dataclass(frozen=True)
class Step:
    """One thing that a person does before the next is measured.

    Attributes:
        kind: Which.
        text: What to do, in words.
        joints: Those that it is about.
    """

    kind: StepKind
    text: str
    joints: tuple[str, ...]


class JointRange(NamedTuple):
    """What a joint has reached in a sweep so far, in counts."""

    joint: str
    lowest: float
    now: float
    highest: float


class Person(Protocol):
    """Who moves the arm."""

    def do(self, step: Step, ranges: Callable[[], Sequence[JointRange]] | None = None) -> None:
        """Returns when the step is done; `ranges` tells what a sweep has reached meanwhile."""
        ...

    def try_again(self, problem: str) -> bool:
        """Whether to repeat the step that failed."""
        ...


def calibrate_arm(
    client: BridgeClient,
    robot: Robot,
    person: Person,
    check: Callable[[list[JointCalibration]], object] = lambda _: None,
) -> list[JointCalibration]:
    """Calibrates every joint of the arm behind a bridge. The arm stays without torque.

    Args:
        client: Of the bridge.
        robot: As the file says with which bridge and firmware run.
        person: Moves the arm.
        check: Raises `ConfigError` where what was found does not fit the robot; then the range can be moved through
            again.

    Raises:
        CalibrationError: What was measured cannot be right, and the person does not try again.
        StateError: The arm is not DISARMED, or another client armed it meanwhile.
        ProtocolError: The bridge runs with another robot file.
        ConfigError: The robot has no servos, or what `check` says.
        LinkError: The bridge or the firmware does not answer.
    """
    counts = ServoCounts(robot)
    _check_bridge(client, robot)
    _check_disarmed(client)
    text = "The arm loses its torque and goes limp until it is armed again: hold it, or put it where it cannot fall."
    person.do(Step(StepKind.RELEASE, text, counts.joints))
    client.release("calibration")
    with client.telemetry() as ticks:
        recorder = CountsRecorder(ticks, counts)
        recorder.await_no_torque()
        return _Calibration(robot, recorder, person, check).run()


def _check_bridge(client: BridgeClient, robot: Robot) -> None:
    if client.status().limits_hash != joint_table(robot).limits_hash:
        raise ProtocolError(
            f"the bridge at {client.address} runs with another robot file than {robot.name}: its positions would be "
            "taken for wrong counts; give the file that the bridge was started with"
        )


def _check_disarmed(client: BridgeClient) -> None:
    status = client.status()
    state = State(status.state)
    if state in ACTIVE_STATES:
        raise StateError(f"the arm is {state.name}, held by {status.owner or 'nobody'}; it must be disarmed first")
    if state != State.DISARMED:
        raise StateError(f"the arm is {state.name}; clear it first")


class _Calibration:
    """One run of the steps after RELEASE."""

    def __init__(
        self,
        robot: Robot,
        recorder: CountsRecorder,
        person: Person,
        check: Callable[[list[JointCalibration]], object],
    ) -> None:
        self._robot = robot
        self._recorder = recorder
        self._person = person
        self._check = check
        self._names = [joint.name for joint in robot.joints]
        servos = {servo.joint: servo for servo in robot.servos if servo.shadow_of is None}
        self._buses = [servos[name].bus for name in self._names]

    def run(self) -> list[JointCalibration]:
        zero, other = np.zeros(len(self._names)), np.zeros(len(self._names))
        for bus in sorted(set(self._buses)):
            self._measure_poses(self._places(bus=bus), zero, other)
        directions = {place: self._direction(place, zero[place]) for place in self._places(turning=True)}
        text = f"Move every joint through its whole range, one after the other: {', '.join(self._names)}."
        step = Step(StepKind.RANGE, text, tuple(self._names))
        return self._step(step, lambda: self._found(zero, other, directions), self._recorder.restart)

    def _places(self, bus: int | None = None, turning: bool | None = None) -> list[int]:
        """Places of the joints on a bus, of those in rad or of the others."""
        return [
            place
            for place, joint in enumerate(self._robot.joints)
            if bus in (None, self._buses[place]) and turning in (None, joint.unit == "rad")
        ]

    def _measure_poses(self, arm: list[int], zero: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        """Of the joints on one bus: an arm, which one person can hold."""
        names = tuple(self._names[place] for place in arm)
        ends = [place for place in arm if self._robot.joints[place].unit != "rad"]
        text = self._zero_text(names, ends)
        zero[arm] = self._step(Step(StepKind.ZERO_POSE, text, names), lambda: self._recorder.pose(arm))[arm]
        if ends:
            text = f"Leave the rest; move {self._ends(ends, 1)}."
            step = Step(StepKind.OTHER_END, text, tuple(self._names[place] for place in ends))
            other[ends] = self._step(step, lambda: self._other_end(ends, zero))[ends]

    def _step(self, step: Step, measure: Callable[[], Found], begin: Callable[[], None] | None = None) -> Found:
        while True:
            if begin is not None:
                begin()
            self._person.do(step, self._ranges if step.kind is StepKind.RANGE else None)
            try:
                return measure()
            except (CalibrationError, ConfigError) as error:
                if not self._person.try_again(str(error)):
                    raise

    def _zero_text(self, names: tuple[str, ...], ends: list[int]) -> str:
        which = "the arm" if len(names) == len(self._names) else f"the arm with {names[0]} to {names[-1]}"
        pose = self._robot.zero_pose.strip() or "Every joint at 0, as the description of the robot shows it."
        also = f" Also move {self._ends(ends, 0)}." if ends else ""
        return f"Put {which} into its zero pose. {pose}{also} Hold it there."

    def _ends(self, places: list[int], end: int) -> str:
        return ", ".join(_end_in_words(self._robot.joints[place], end) for place in places)

    def _other_end(self, places: list[int], zero: NDArray[np.float64]) -> NDArray[np.float64]:
        pose = self._recorder.pose(places)
        for place in places:
            if abs(_turned(zero[place], pose[place])) < LEAST_DIRECTION_COUNTS:
                raise CalibrationError(f"{self._names[place]} did not move from one end to the other")
        return pose

    def _direction(self, place: int, zero: float) -> int:
        joint = self._robot.joints[place]
        way = f": {joint.positive}" if joint.positive else ""
        text = f"Move {joint.name} 20 degrees or more from its zero pose in its positive direction{way}. Hold it there."
        step = Step(StepKind.DIRECTION, text, (joint.name,))
        return self._step(step, lambda: self._sign(place, zero))

    def _sign(self, place: int, zero: float) -> int:
        turned = _turned(zero, self._recorder.pose([place])[place])
        if abs(turned) < LEAST_DIRECTION_COUNTS:
            degrees = abs(turned) * 360 / COUNTS_PER_TURN
            raise CalibrationError(f"{self._names[place]} is {degrees:.1f} degrees from its zero pose; move it farther")
        return 1 if turned > 0 else -1

    def _found(
        self, zero: NDArray[np.float64], other: NDArray[np.float64], directions: dict[int, int]
    ) -> list[JointCalibration]:
        swept = self._recorder.recorded()
        if mistakes := list(mistakes_in_sweep(self._names, swept)):
            raise CalibrationError("; ".join(mistakes))
        found = [
            self._calibration(place, directions.get(place), zero[place], other[place], swept[:, place])
            for place in range(len(self._names))
        ]
        self._check(found)
        return found

    def _ranges(self) -> list[JointRange]:
        counts = self._recorder.recorded()
        if not len(counts):
            return []
        columns = zip(self._names, counts.min(axis=0), counts[-1], counts.max(axis=0), strict=True)
        return [JointRange(name, low, now, high) for name, low, now, high in columns]

    def _calibration(
        self, place: int, direction: int | None, zero: float, other: float, swept: NDArray[np.float64]
    ) -> JointCalibration:
        reached = (float(swept.min()), float(swept.max()))
        if direction is None:
            return JointCalibration(self._names[place], reached, counts=(float(zero), float(other)))
        return JointCalibration(self._names[place], reached, zero=float(zero), direction=direction)


def _end_in_words(joint: Joint, end: int) -> str:
    position = (joint.position or (0.0, 1.0))[end]
    for name, at in (("closed", joint.closed), ("open", joint.open)):
        if at == position:
            return f"{joint.name} until it is {name}"
    return f"{joint.name} to its {('lower', 'upper')[end]} limit, {position:g} {joint.unit}"


def _turned(before: float, after: float) -> float:
    """By how many counts a joint turned the shorter way, also across the end of its encoder."""
    half = COUNTS_PER_TURN / 2
    return (after - before + half) % COUNTS_PER_TURN - half

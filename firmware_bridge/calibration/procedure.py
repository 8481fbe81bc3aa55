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

from firmware_bridge.calibration.recorder import CountsRecorder
from firmware_bridge.calibration.servo_counts import ServoCounts
from firmware_bridge.calibration.sweep_checks import mistakes_in_sweep
from firmware_bridge.client import BridgeClient
from firmware_bridge.errors import CalibrationError, ProtocolError, StateError
from firmware_bridge.firmware.joint_table import joint_table
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.errors import ConfigError
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import Joint, Robot
from pi0_edge.robots.calibration.joint_calibration import JointCalibration
from pi0_edge.robots.servos import COUNTS_PER_TURN

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
        joint: The joint that it is about; empty where it is about all.
    """

    kind: StepKind
    text: str
    joint: str = ""


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
    person.do(Step(StepKind.RELEASE, "The arm loses its torque and goes limp until it is armed again: hold it."))
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
        self._turning = [place for place, joint in enumerate(robot.joints) if joint.unit == "rad"]
        self._others = [place for place, joint in enumerate(robot.joints) if joint.unit != "rad"]

    def run(self) -> list[JointCalibration]:
        zero = self._step(Step(StepKind.ZERO_POSE, self._zero_text()), self._recorder.pose)
        other = zero
        if self._others:
            text = f"Leave the rest; move {self._ends(1)}."
            other = self._step(Step(StepKind.OTHER_END, text), lambda: self._other_end(zero))
        directions = {place: self._direction(place) for place in self._turning}
        text = f"Move every joint through its whole range, one after the other: {', '.join(self._names)}."
        step = Step(StepKind.RANGE, text)
        return self._step(step, lambda: self._found(zero, other, directions), self._recorder.restart)

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

    def _zero_text(self) -> str:
        pose = self._robot.zero_pose.strip() or "Every joint at 0, as the description of the robot shows it."
        ends = f" Also move {self._ends(0)}." if self._others else ""
        return f"Put the arm into its zero pose. {pose}{ends} Hold it there."

    def _ends(self, end: int) -> str:
        return ", ".join(_end_in_words(self._robot.joints[place], end) for place in self._others)

    def _other_end(self, zero: NDArray[np.float64]) -> NDArray[np.float64]:
        pose = self._recorder.pose()
        for place in self._others:
            if abs(_turned(zero[place], pose[place])) < LEAST_DIRECTION_COUNTS:
                raise CalibrationError(f"{self._names[place]} did not move from one end to the other")
        return pose

    def _direction(self, place: int) -> int:
        joint = self._robot.joints[place]
        before = self._recorder.pose()
        way = f": {joint.positive}" if joint.positive else ""
        text = f"Move {joint.name} by 20 degrees or so in its positive direction{way}. Hold it there."
        return self._step(
            Step(StepKind.DIRECTION, text, joint.name), lambda: self._sign(joint.name, before[place], place)
        )

    def _sign(self, name: str, before: float, place: int) -> int:
        turned = _turned(before, self._recorder.pose()[place])
        if abs(turned) < LEAST_DIRECTION_COUNTS:
            raise CalibrationError(
                f"{name} moved by {abs(turned) * 360 / COUNTS_PER_TURN:.1f} degrees; move it farther"
            )
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

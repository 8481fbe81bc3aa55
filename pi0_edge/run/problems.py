"""What can be wrong before the arm is armed: a function for each part of a robot, which yields every problem it finds.

Each problem has the name of a rule, what was found, what was expected, and what to do. Some rules can be accepted by
name; the name is then among the overrides of the run, which dashboard, start event and recording show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.errors import BridgeError
from firmware_bridge.robot import RobotJoints
from pi0_edge.board.state import BoardState
from pi0_edge.errors import Pi0EdgeError
from pi0_edge.latency.certificate import Certificate, longest_delay
from pi0_edge.latency.stages import Boundary
from pi0_edge.protos import bridge_pb2, policy_pb2
from pi0_edge.protos.serial_link import JointFlag, State
from pi0_edge.robots import Robot
from pi0_edge.run.mismatch import RULES

ACCEPTABLE = (
    "certificate",
    "control-rate",
    "gate",
    "missing-camera",
    "not-measured",
    "policy-overrides",
    "slow-policy",
)
"""Rules of this file that a user may take the responsibility for."""

MEASUREMENT_AGE_S = 0.1
"""Joints that were measured longer ago are not known."""

_RATE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Problem:
    """One reason not to arm.

    Attributes:
        rule: Its name.
        found: What was found, and what was expected.
        advice: What to do; empty where `found` says it.
    """

    rule: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        accepting = f"to go on nevertheless, give --accept-mismatch {self.rule}" if is_acceptable(self.rule) else ""
        return f"{self.rule}: " + "; ".join(part for part in (self.found, self.advice, accepting) if part)


def is_acceptable(rule: str) -> bool:
    """Whether a user may take the responsibility for what breaks a rule."""
    return rule in ACCEPTABLE or rule in RULES


class PreflightError(Pi0EdgeError):
    """The arm is not armed.

    Attributes:
        problems: All reasons.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        super().__init__(f"the arm is not armed, {count}:" + "".join(f"\n  {problem}" for problem in problems))


def policy_problems(metadata: policy_pb2.PolicyMetadata, robot: Robot) -> Iterator[Problem]:
    """Where the policy was made for another robot, or is not to be trusted."""
    wrong_robot = "serve the policy with the robot file of this run, or give this run the file of that robot"
    names, expected = tuple(metadata.action_names), robot.action_names
    if names != expected:
        yield Problem(
            "action-names", f"the policy commands {_list(names)}, but {robot.name} has {_list(expected)}", wrong_robot
        )
    joints = len(robot.joints) or robot.action_dim
    if metadata.state_dim != joints:
        yield Problem("state-dim", f"the policy expects {metadata.state_dim} joints, the arm has {joints}", wrong_robot)
    if robot.control_hz is not None:
        rate = metadata.control_hz if metadata.HasField("control_hz") else None
        if rate is None or abs(rate / robot.control_hz - 1) > _RATE_TOLERANCE:
            said = "does not say its rate" if rate is None else f"acts {rate:g} times per second"
            yield Problem(
                "control-rate",
                f"the policy {said}, {robot.name} {robot.control_hz:g} times",
                "its motion would be faster or slower than in training: use a policy of this rate",
            )
    if metadata.gate in (policy_pb2.GATE_FAILED, policy_pb2.GATE_MISSING):
        reasons = "; ".join(metadata.gate_reasons) or "it was never judged"
        yield Problem("gate", f"the bundle's accuracy gate did not pass ({reasons})", "quantize it again")
    if others := [name for name in metadata.overrides if "gate" not in name]:
        yield Problem("policy-overrides", f"the policy's user overrode {_list(others)}", "serve it without")


def camera_problems(
    metadata: policy_pb2.PolicyMetadata, robot: Robot, given: Sequence[str], profiled: bool = False
) -> Iterator[Problem]:
    """Where the cameras of this run are not those of the policy, by name.

    Args:
        metadata: Of the policy.
        robot: Of the run.
        given: The cameras of the run.
        profiled: Whether a training profile says which cameras the policy was trained with, so that one may be missing.
    """
    for name in given:
        if name not in metadata.cameras:
            known = _list(tuple(metadata.cameras))
            yield Problem(
                "unknown-camera",
                f"the policy knows no camera {name}, it knows {known}",
                "give the camera the name that the policy knows, or leave it out",
            )
    absent = [name for name in metadata.cameras if name not in given]
    if absent and not profiled:
        yield Problem(
            "missing-camera",
            f"no camera is {_list(absent)} of {robot.name}",
            "add it to the cameras, unless the policy was trained without it",
        )


def bridge_problems(bridge: BridgeClient, robot: Robot) -> Iterator[Problem]:
    """Where the bridge does not answer, drives another robot, or the arm cannot be armed now."""
    try:
        status = bridge.status()
    except BridgeError as error:
        yield Problem("bridge", str(error), "start it, or name its address")
        return
    if not status.link_up:
        yield Problem("bridge-link", "the bridge's link to the firmware is down", "check cable and power of the board")
        return
    names = tuple(status.joint_names)
    if names != robot.action_names:
        yield Problem(
            "bridge-robot",
            f"the bridge drives {_list(names)}, but {robot.name} has {_list(robot.action_names)}",
            "start the bridge with the robot file of this run",
        )
    if robot.control_hz and abs(status.tick_period_s * robot.control_hz - 1) > _RATE_TOLERANCE:
        yield Problem(
            "bridge-rate",
            f"the firmware has {1 / status.tick_period_s:g} ticks per second, {robot.name} {robot.control_hz:g}",
            "build the firmware from the robot file of this run",
        )
    yield from _state_problems(status)


def _state_problems(status: bridge_pb2.Status) -> Iterator[Problem]:
    state = State(status.state)
    if status.owner:
        yield Problem("arm-owner", f"client {status.owner!r} holds the arm", "let it disarm first")
    elif state in (State.SAFE, State.ESTOP):
        yield Problem("arm-state", f"the arm is {state.name}", "look at the arm, remove the cause, then give --clear")
    elif state != State.DISARMED:
        yield Problem("arm-state", f"the arm is {state.name} although nobody holds it", "wait until it is DISARMED")


def joint_problems(tick: Tick, joints: RobotJoints, robot: Robot) -> Iterator[Problem]:
    """Where the joints of the arm at rest are not known, or stand where they cannot."""
    unknown = [
        name for name, flags in zip(joints.names, tick.joint_flags, strict=True) if not flags & JointFlag.MEASURED
    ]
    if unknown == list(joints.names) and not robot.servos:
        return  # a robot without servos that answer: the firmware's own position is all there is
    if unknown:
        yield Problem(
            "not-measured",
            f"{_list(unknown)} are not measured",
            "check power and cables of the servo bus, and their ids",
        )
    for place, name in enumerate(joints.names):
        age_s, position = float(tick.measurement_age_s[place]), float(tick.measured[place])
        if name in unknown:
            continue
        if age_s > MEASUREMENT_AGE_S:
            found = f"{name} was measured {age_s:.2f} s ago, expected at most {MEASUREMENT_AGE_S:g} s"
            yield Problem("old-measurement", found, "check the servo bus; the log of the bridge counts its errors")
        lower, upper = joints.lower[place], joints.upper[place]
        if not lower <= position <= upper:
            found = f"{name} stands at {position:.3f}, expected {lower:g} to {upper:g}"
            yield Problem("outside-limits", found, "move it back by hand, or calibrate it: `pi0-edge robot calibrate`")


def speed_problems(to_chunk_s: float, chunk_s: float) -> Iterator[Problem]:
    """Where a chunk would be past due before the next one can be there.

    Args:
        to_chunk_s: From an observation to its chunk, measured.
        chunk_s: How long a chunk lasts.
    """
    if 2 * to_chunk_s > chunk_s:
        yield Problem(
            "slow-policy",
            f"a chunk of {chunk_s:.2f} s takes {to_chunk_s:.2f} s to make, expected at most half of it",
            "use a faster engine or scheme; the arm would stop between chunks",
        )


def certificate_problems(
    certificate: Certificate,
    metadata: policy_pb2.PolicyMetadata,
    robot: Robot,
    *,
    replan_ticks: int,
    is_served: bool,
    computer: BoardState | None,
) -> Iterator[Problem]:
    """Where a serving certificate is of something else than what is to run.

    Args:
        certificate: Given by the user, or found beside the bundle.
        metadata: Of the policy.
        robot: Of the run.
        replan_ticks: Ticks between two observations of this run.
        is_served: Whether the policy is behind a server.
        computer: That runs the policy; None where that is another one than this.
    """
    found = certificate.differences(
        bundle_sha256=metadata.bundle_sha256,
        engine=metadata.engine,
        scheme=metadata.scheme,
        horizon=metadata.horizon,
        control_hz=robot.control_hz,
        board="" if computer is None else computer.model,
        power_mode="" if computer is None else computer.power_mode,
    )
    advice = "give the certificate of what runs here, or certify it: `pi0-edge bench certify`"
    for difference in found:
        yield Problem("certificate", difference, advice)
    if is_served and certificate.boundary == Boundary.POLICY:
        text = "it is of a policy in the robot's own process, and here a policy server answers"
        yield Problem("certificate", text, "measure with --boundary served")
    most = longest_delay(certificate.horizon, replan_ticks)
    if certificate.longest_delay_ticks > most:
        yield Problem(
            "certificate",
            f"with an observation every {replan_ticks} ticks the arm starves from a delay of {most + 1} ticks on, and "
            f"{certificate.longest_delay_ticks} were measured",
            f"observe every {certificate.replan_ticks} ticks",
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing by name"

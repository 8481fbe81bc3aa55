"""The pre-flight: looks at robot, bridge, cameras, policy and joints, and says everything that is wrong at once.

The arm is disarmed all the while. It ends with one chunk that is not played, so that the first chunk that is played
comes as fast as all later ones, and so that the mismatch guard can see where it would begin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.errors import BridgeError
from firmware_bridge.robot import RobotJoints
from firmware_bridge.splice import HoldSwap, RealTimeChunking, Splice, TrainedRealTimeChunking, client_splice
from pi0_edge.board.readings import Board
from pi0_edge.board.state import BoardState
from pi0_edge.cameras import CameraSet
from pi0_edge.errors import CameraError, ConfigError, MissingDependencyError, Pi0EdgeError, ServingError
from pi0_edge.latency.certificate import Certificate
from pi0_edge.protos import policy_pb2
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import CameraSettings, Robot, load_camera_file
from pi0_edge.robots.camera_sources import mistakes_among_cameras
from pi0_edge.run.events import Observed
from pi0_edge.run.inbox import Inbox
from pi0_edge.run.mismatch import RULES, MismatchGuard
from pi0_edge.run.mismatch.setup_rules import no_profile
from pi0_edge.run.observing import Observer
from pi0_edge.run.policy_source import PolicySource, ServedPolicy, is_here
from pi0_edge.run.problems import (
    PreflightError,
    Problem,
    bridge_problems,
    camera_problems,
    certificate_problems,
    joint_problems,
    policy_problems,
    speed_problems,
)
from pi0_edge.training_profile import TrainingProfile

OBSERVATIONS = 30
"""Of the arm at rest, one every tick: what the mismatch guard needs."""

_TICK_S = 1.0


@dataclass(frozen=True)
class Ready:
    """What the pre-flight found out, where nothing is wrong.

    Attributes:
        metadata: Of the policy.
        observer: Of the cameras, which are open.
        splice: How chunks continue the plan.
        bridge_splice: Name of the policy by which the bridge enters them.
        tick_period_s: Of the firmware, seconds.
        prompt: What the policy is asked to do.
        tick: The newest one.
        guard: Watches while the run goes on.
        warnings: What it says although the arm may be armed.
    """

    metadata: policy_pb2.PolicyMetadata
    observer: Observer
    splice: Splice
    bridge_splice: str
    tick_period_s: float
    prompt: str
    tick: int
    guard: MismatchGuard
    warnings: tuple[str, ...]


class Preflight:
    """Checks one run before it begins.

    Attributes:
        problems: What was found so far, without the rules that the user accepted.
        warnings: What the mismatch guard says although the arm may be armed.
    """

    def __init__(
        self,
        robot: Robot,
        joints: RobotJoints,
        policy: PolicySource,
        bridge: BridgeClient,
        inbox: Inbox,
        cameras: Mapping[str, CameraSettings] | str | Path | None,
        profile: TrainingProfile | None,
        accepted: Sequence[str],
        certificate: Certificate | None,
        replan_ticks: int,
    ) -> None:
        """Takes what is to be checked; the arguments are those of `RobotRun`, `replan_ticks` those of this run."""
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self._robot = robot
        self._joints = joints
        self._profile = profile
        self._policy = policy
        self._bridge = bridge
        self._inbox = inbox
        self._cameras = cameras
        self._accepted = accepted
        self._certificate = certificate
        self._replan_ticks = replan_ticks

    def run(self, prompt: str, splice: str | None, stack: ExitStack) -> Ready:
        """Checks everything.

        Args:
            prompt: What the policy will be asked to do; its robot's default where empty.
            splice: How chunks enter; where None as the certificate says, else the best that the policy was trained for.
            stack: Closes the cameras and the telemetry.

        Raises:
            PreflightError: Something is wrong; the error lists all of it.
        """
        self._add(bridge_problems(self._bridge, self._robot))
        tick = self._first_tick(stack)
        metadata = self._metadata()
        cameras = self._open_cameras(stack)
        if metadata is not None:
            self._add(policy_problems(metadata, self._robot))
            given = () if cameras is None else cameras.names
            self._add(camera_problems(metadata, self._robot, given, self._profile is not None))
            self._add(self._certificate_problems(metadata))
        if tick is not None:
            self._add(joint_problems(tick, self._joints, self._robot))
        if self._profile is None:
            self._add(iter([Problem("training-profile", no_profile().text)]))
        if metadata is None or cameras is None or tick is None or self._found("action-names", "state-dim"):
            raise PreflightError(self.problems)
        chosen = self._choose_splice(splice, metadata)
        observer = Observer(cameras)
        asked = prompt or metadata.default_prompt
        at_rest = tuple(self._observe(observer, asked))
        guard = MismatchGuard(
            self._profile,
            self._robot,
            cameras=cameras.names,
            prompt=asked,
            accepted=[name for name in self._accepted if name in RULES],
        )
        if at_rest:
            self._compare(guard, at_rest, metadata)
        if self.problems or chosen is None:
            raise PreflightError(self.problems)
        status = self._bridge.status()
        return Ready(
            metadata=metadata,
            observer=observer,
            splice=chosen,
            bridge_splice=status.splice,
            tick_period_s=status.tick_period_s,
            prompt=asked,
            tick=at_rest[-1].tick,
            guard=guard,
            warnings=tuple(self.warnings),
        )

    def _add(self, problems: Iterator[Problem]) -> None:
        self.problems += [problem for problem in problems if problem.rule not in self._accepted]

    def _found(self, *rules: str) -> bool:
        """Whether there is a problem of one of these rules already."""
        return any(problem.rule in rules for problem in self.problems)

    def _first_tick(self, stack: ExitStack) -> Tick | None:
        """The first tick of telemetry, which runs from then on."""
        if self.problems:
            return None
        self._inbox.follow(stack.enter_context(self._bridge.telemetry()))
        tick = self._inbox.next_tick(_TICK_S)
        if tick is None:
            advice = "look at the log of the bridge"
            self.problems.append(Problem("telemetry", f"no tick came within {_TICK_S:g} s", advice))
        return tick

    def _metadata(self) -> policy_pb2.PolicyMetadata | None:
        try:
            return self._policy.metadata()
        except Pi0EdgeError as error:
            self.problems.append(Problem("policy", str(error), "start it, or name its address"))
            return None

    def _open_cameras(self, stack: ExitStack) -> CameraSet | None:
        """The open cameras, or the problems with them."""
        advice = "`pi0-edge cameras` lists what is there"
        try:
            settings = camera_settings(self._cameras, self._robot)
            mistakes = list(mistakes_among_cameras(settings, self._robot.cameras, self._robot.camera_aliases))
            self.problems += [Problem("camera", mistake, "correct the cameras file") for mistake in mistakes]
            return None if mistakes else stack.enter_context(CameraSet(settings))
        except (CameraError, ConfigError, MissingDependencyError) as error:
            self.problems += [Problem("camera", line, advice) for line in str(error).splitlines()]
            return None

    def _certificate_problems(self, metadata: policy_pb2.PolicyMetadata) -> Iterator[Problem]:
        if self._certificate is None:
            return
        yield from certificate_problems(
            self._certificate,
            metadata,
            self._robot,
            replan_ticks=self._replan_ticks,
            is_served=isinstance(self._policy, ServedPolicy),
            computer=this_computer() if is_here(self._policy) else None,
        )

    def _choose_splice(self, name: str | None, metadata: policy_pb2.PolicyMetadata) -> Splice | None:
        best = TrainedRealTimeChunking.name if metadata.trained_delay else RealTimeChunking.name
        if metadata.refuses_continuation:
            best = HoldSwap.name
        if self._certificate is not None:
            best = self._certificate.splice
        try:
            return client_splice(name or best, metadata.trained_delay, metadata.refuses_continuation)
        except ConfigError as error:
            self.problems.append(Problem("splice", str(error), "name another splice policy, or none"))
            return None

    def _observe(self, observer: Observer, prompt: str) -> Iterator[Observed]:
        """Observations of the arm at rest, one every tick."""
        deadline, missing = time.monotonic() + 3 * _TICK_S, ""
        for _ in range(OBSERVATIONS):
            tick = self._inbox.next_tick(_TICK_S)
            if tick is None or time.monotonic() > deadline:
                missing = missing or "no tick came"
                break
            try:
                yield observer.observe(tick, prompt)
            except CameraError as error:
                missing = str(error)
        if missing:
            self.problems.append(Problem("observation", missing, "all cameras must deliver together"))

    def _compare(self, guard: MismatchGuard, at_rest: Sequence[Observed], metadata: policy_pb2.PolicyMetadata) -> None:
        """Compares robot and chunk with the training data."""
        found = guard.before_arming([(observed.state, observed.images) for observed in at_rest])
        chunk = self._first_chunk(at_rest[-1], metadata)
        if chunk is not None:
            found += guard.first_chunk(at_rest[-1].state, chunk)
        refusals = [mismatch for mismatch in found if mismatch.refuses and not self._found(mismatch.rule)]
        self.problems += [Problem(mismatch.rule, mismatch.text) for mismatch in refusals]
        self.warnings += [str(mismatch) for mismatch in found if not mismatch.refuses]

    def _first_chunk(self, observed: Observed, metadata: policy_pb2.PolicyMetadata) -> NDArray[np.float32] | None:
        """A chunk that is not played."""
        try:
            self._policy.infer(observed)  # the first one is slow: kernels are compiled, memory is taken
            began = time.monotonic()
            chunk = self._policy.infer(observed)
        except ServingError as error:
            self.problems.append(Problem("policy", str(error), "start it again"))
            return None
        except Pi0EdgeError as error:
            self.problems.append(Problem("observation", f"the policy refuses it: {error}", "correct robot or cameras"))
            return None
        if self._robot.control_hz:
            self._add(speed_problems(time.monotonic() - began, metadata.horizon / self._robot.control_hz))
        return np.array(chunk.actions, np.float32).reshape(chunk.horizon, chunk.action_dim)


def this_computer() -> BoardState:
    """What the computer that this runs on says about its kind."""
    return Board().state(processes=False)


def camera_settings(
    cameras: Mapping[str, CameraSettings] | str | Path | None, robot: Robot
) -> Mapping[str, CameraSettings]:
    """Settings by camera.

    Args:
        cameras: Settings, a cameras file, or None for those of the robot file.
        robot: Of the run.

    Raises:
        ConfigError: The file cannot be read or is wrong.
    """
    if cameras is None:
        return robot.camera_sources
    return cameras if isinstance(cameras, Mapping) else load_camera_file(cameras)


def clear_latched(bridge: BridgeClient) -> None:
    """Clears a fault or stop that was latched earlier; where that fails, the check of the bridge says why."""
    try:
        if bridge.status().state in (State.SAFE, State.ESTOP):
            bridge.clear("a new run")
    except BridgeError:
        return

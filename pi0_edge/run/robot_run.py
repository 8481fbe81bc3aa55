"""A robot's run in a few lines of a user's program.

with RobotRun(robot="my_arm.yaml", policy="127.0.0.1:50051", cameras=cameras, bridge="127.0.0.1:50061") as run:
    result = run.play("pick up the cube", seconds=60)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_bridge.client import BridgeClient
from firmware_bridge.errors import BridgeError
from firmware_bridge.splice import RealTimeChunking, TrainedRealTimeChunking, client_splice
from pi0_edge.errors import ConfigError, Pi0EdgeError
from pi0_edge.protos import policy_pb2
from pi0_edge.protos.rpc.listen import BRIDGE_LISTEN
from pi0_edge.protos.serial_link import State
from pi0_edge.robots import Robot, load_robot
from pi0_edge.run.events import RunListener
from pi0_edge.run.inbox import Inbox, PolicyThread, Wish
from pi0_edge.run.life_cycle import LifeCycle, Outcome
from pi0_edge.run.listeners import Listeners
from pi0_edge.run.loop import RunLimits, RunLoop
from pi0_edge.run.observing import Cameras, Observer
from pi0_edge.run.policy_source import PolicySource, policy_source
from pi0_edge.run.preflight import (
    OVERRIDABLE,
    PreflightError,
    Problem,
    bridge_problems,
    camera_problems,
    check_overrides,
    policy_problems,
    robot_problems,
)

if TYPE_CHECKING:
    from pi0_edge.policy import Policy

_FIRST_IMAGES_S = 3.0
_FIRST_TICK_S = 1.0
_POLL_S = 0.02


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        outcome: Its kind; the value is an exit code.
        reason: Why it ended, in words.
        played_s: How long the arm was armed.
    """

    outcome: Outcome
    reason: str
    played_s: float


class RobotRun:
    """Robot, policy, cameras and bridge of one run; a context manager.

    Attributes:
        life: The phase of the run; it may be read at any time.
        overrides: Rules that this user or the policy's overrode.
    """

    def __init__(
        self,
        robot: Robot | str | Path,
        policy: PolicySource | Policy | str,
        cameras: Cameras,
        bridge: str = BRIDGE_LISTEN,
        *,
        listeners: Sequence[RunListener] = (),
        splice: str | None = None,
        overrides: Sequence[str] = (),
        clear: bool = False,
        limits: RunLimits | None = None,
        tls: Path | None = None,
    ) -> None:
        """Prepares a run; nothing is connected yet.

        Args:
            robot: What policy and bridge must agree on: a robot, its name, or its file.
            policy: A loaded policy, the address of a policy server, or anything else that answers observations.
            cameras: Open cameras, named as the cameras of the robot.
            bridge: host:port.
            listeners: See everything that happens.
            splice: How a chunk enters: `hold-swap`, `rtc` or `trained-rtc`. None: `trained-rtc` where the policy was
                trained for it, else `rtc`.
            overrides: Names of rules of the pre-flight that are not to stop this run.
            clear: Clears a fault or an emergency stop that was latched before this run.
            limits: How long to wait for what.
            tls: Folder with authority, certificate and key, where bridge and policy server ask for a certificate.

        Raises:
            ConfigError: Robot or overrides are not known, or the robot file is wrong.
            EndpointError: Something is wrong with the folder for TLS.
        """
        self.robot = robot if isinstance(robot, Robot) else load_robot(robot)
        check_overrides(overrides, OVERRIDABLE)
        self.life = LifeCycle()
        self.overrides = tuple(overrides)
        self._policy = policy_source(policy, tls)
        self._cameras = cameras
        self._bridge = BridgeClient(bridge, "pi0-edge run", tls)
        self._listeners = Listeners(listeners)
        self._splice = splice
        self._clear = clear
        self._limits = limits or RunLimits()
        self._inbox = Inbox()
        self._stack = ExitStack()

    def __enter__(self) -> RobotRun:
        self._stack.callback(self._bridge.close)
        self._stack.callback(self._policy.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, prompt: str = "", seconds: float | None = None) -> RunResult:
        """Checks everything, arms, plays, and disarms. Blocks until the run has ended; call it once.

        Args:
            prompt: What to do; the default of the policy's robot where empty.
            seconds: How long the arm is armed in all; without limit where None.

        Raises:
            PreflightError: The arm was not armed; the error lists every reason.
        """
        self.life = LifeCycle()
        metadata = self._check()
        observer = self._observer(metadata)
        self._listeners.say("started", self._describe(metadata))
        policy = PolicyThread(self._policy, self._inbox)
        try:
            with self._bridge.telemetry() as ticks:
                self._inbox.follow(ticks)
                loop = RunLoop(
                    bridge=self._bridge,
                    policy=policy,
                    metadata=metadata,
                    observer=observer,
                    inbox=self._inbox,
                    listeners=self._listeners,
                    life=self.life,
                    splice=client_splice(self._splice_name(metadata), metadata.trained_delay),
                    limits=self._limits,
                )
                loop.run(prompt or metadata.default_prompt, seconds)
        finally:
            policy.close()
        return RunResult(self.life.outcome or Outcome.FAULT, self.life.reason, loop.played_s)

    # From any thread, while `play` runs.

    def pause(self, reason: str = "asked to pause") -> None:
        """Disarms and holds until `resume`."""
        self._inbox.put(Wish("pause", reason))

    def resume(self, reason: str = "asked to resume") -> None:
        """Arms again after `pause`, and plays on from a new observation."""
        self._inbox.put(Wish("resume", reason))

    def change_prompt(self, prompt: str) -> None:
        """The next observation is taken at once, with this prompt."""
        self._inbox.put(Wish("prompt", prompt))

    def label(self, text: str) -> None:
        """Puts a label of a person at this moment of the run."""
        self._inbox.put(Wish("label", text))

    def stop(self, reason: str = "asked to stop") -> None:
        """Disarms and ends the run. A signal handler may call it."""
        self._inbox.put(Wish("stop", reason))

    def estop(self, reason: str = "asked to stop at once") -> None:
        """Latches the emergency stop at the firmware, without waiting for anything else; the run ends.

        Raises:
            LinkError: The bridge does not answer; use the contact at the arm.
        """
        self._bridge.estop(reason)

    # Before the arm is armed.

    def _check(self) -> policy_pb2.PolicyMetadata:
        problems = [*robot_problems(self.robot)]
        if self._clear:
            self._clear_latched()
        problems += bridge_problems(self._bridge, self.robot)
        try:
            metadata = self._policy.metadata()
        except Pi0EdgeError as error:
            metadata = None
            problems.append(Problem("policy", str(error), "start it, or name its address"))
        if metadata is not None:
            problems += policy_problems(metadata, self.robot)
            problems += self._camera_problems(metadata)
            problems += self._splice_problems(metadata)
        problems = [problem for problem in problems if problem.rule not in self.overrides]
        if problems or metadata is None:
            error = PreflightError(problems)
            self.life.end(Outcome.REFUSED, str(error))
            raise error
        return metadata

    def _clear_latched(self) -> None:
        try:
            if self._bridge.status().state in (State.SAFE, State.ESTOP):
                self._bridge.clear("a new run")
        except BridgeError:
            return  # the check of the bridge says the same in the list of all problems

    def _camera_problems(self, metadata: policy_pb2.PolicyMetadata) -> Iterator[Problem]:
        yield from camera_problems(metadata, self.robot, tuple(self._names()))
        observer, deadline = self._observer(metadata), time.monotonic() + _FIRST_IMAGES_S
        while (missing := observer.missing()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if missing:
            yield Problem("camera", missing, "check its cable; `pi0-edge cameras` shows what each camera sees")

    def _splice_problems(self, metadata: policy_pb2.PolicyMetadata) -> Iterator[Problem]:
        try:
            client_splice(self._splice_name(metadata), metadata.trained_delay)
        except ConfigError as error:
            yield Problem("splice", str(error), "name another splice policy, or none")

    def _observer(self, metadata: policy_pb2.PolicyMetadata) -> Observer:
        names = tuple(name for name in metadata.cameras if name in self._names())
        return Observer(self._cameras, names, self._limits.image_age_s)

    def _names(self) -> Sequence[str]:
        return list(self._cameras.newest())

    def _splice_name(self, metadata: policy_pb2.PolicyMetadata) -> str:
        return self._splice or (TrainedRealTimeChunking.name if metadata.trained_delay else RealTimeChunking.name)

    def _describe(self, metadata: policy_pb2.PolicyMetadata) -> str:
        overrides = ", ".join((*self.overrides, *metadata.overrides)) or "none"
        return f"{self.robot.name}; {self._policy.name}; {metadata.model} {metadata.scheme}; overrides: {overrides}"

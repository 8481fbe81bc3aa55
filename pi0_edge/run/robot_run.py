"""A robot's run in a few lines of a user's program.

with RobotRun(robot="my_arm.yaml", policy="127.0.0.1:50051", cameras=cameras, bridge="127.0.0.1:50061") as run:
    result = run.play("pick up the cube", seconds=60)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from firmware_bridge.client import BridgeClient
from firmware_bridge.firmware.joint_table import joint_table
from firmware_bridge.robot import joints_of
from pi0_edge.cameras import CameraSet
from pi0_edge.errors import ConfigError, RecordingError
from pi0_edge.latency.certificate import REPLAN_TICKS, Certificate, find_certificate
from pi0_edge.protos.rpc.listen import BRIDGE_LISTEN
from pi0_edge.robots import CameraSettings, Robot, load_robot
from pi0_edge.run.events import RunListener
from pi0_edge.run.inbox import Inbox, PolicyThread, Wish
from pi0_edge.run.interventions import SetpointSource
from pi0_edge.run.life_cycle import LifeCycle, Outcome
from pi0_edge.run.listeners import Listeners
from pi0_edge.run.loop import RunLimits, RunLoop
from pi0_edge.run.mismatch import RULES, Mismatch
from pi0_edge.run.mismatch.rules import OVERRIDE_PREFIX
from pi0_edge.run.policy_source import PolicySource, policy_source
from pi0_edge.run.preflight import Preflight, Ready, clear_latched
from pi0_edge.run.problems import ACCEPTABLE, PreflightError, Problem, is_acceptable
from pi0_edge.run.recording import RunDescription, RunRecorder
from pi0_edge.training_profile import TrainingProfile

if TYPE_CHECKING:
    from pi0_edge.policy import Policy


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
        robot: What policy and bridge agree on.
        joints: Its joints with their limits.
        life: The phase of the run; it may be read at any time.
        accepted: Rules that the user accepted by name.
        seconds: How long the arm is armed in all; None without limit.
    """

    def __init__(
        self,
        robot: Robot | str | Path,
        policy: PolicySource | Policy | str,
        cameras: Mapping[str, CameraSettings] | str | Path | None = None,
        bridge: str = BRIDGE_LISTEN,
        *,
        profile: TrainingProfile | None = None,
        certificate: Certificate | None = None,
        accepted: Sequence[str] = (),
        record: Path | None = None,
        listeners: Sequence[RunListener] = (),
        splice: str | None = None,
        clear: bool = False,
        limits: RunLimits | None = None,
        tls: Path | None = None,
    ) -> None:
        """Prepares a run; nothing is connected yet.

        Args:
            robot: What policy and bridge must agree on: a robot, its name, or its file.
            policy: A loaded policy, the address of a policy server, or anything else that answers observations.
            cameras: Settings by camera of the robot, or a cameras file; those of the robot file where None.
            bridge: host:port.
            profile: Of the training data, with which the mismatch guard compares the robot. None: that of the bundle;
                without any, the guard refuses, unless `training-profile` is among `accepted`.
            certificate: How often to observe and how chunks enter, where neither `limits` nor `splice` says so; of this
                policy, computer and rate. None: the one that lies beside the bundle of a loaded policy.
            accepted: Names of rules whose problems do not keep the arm from being armed.
            record: A new .mcap file that keeps the run.
            listeners: See everything that happens; those with a method `on_image(camera, image)` also every image.
            splice: How a chunk enters: `hold-swap`, `rtc` or `trained-rtc`. None: that of the certificate; without one
                `trained-rtc` where the policy was trained for it, else `rtc`.
            clear: Clears a fault or an emergency stop that was latched before this run.
            limits: How often to observe, and how long to wait for what.
            tls: Folder with authority, certificate and key, where bridge and policy server ask for a certificate.

        Raises:
            ConfigError: The robot or an accepted rule is not known, or a bridge cannot drive the robot.
            BenchError: The certificate beside the bundle cannot be used.
            EndpointError: Something is wrong with the folder for TLS.
        """
        self.robot = robot if isinstance(robot, Robot) else load_robot(robot)
        self.joints = joints_of(joint_table(self.robot))
        self.life = LifeCycle()
        self.accepted = tuple(accepted)
        self._policy = policy_source(policy, tls)
        self._profile = profile if profile is not None else profile_of(policy)
        self._certificate = certificate if certificate is not None else certificate_of(policy)
        self._record = record
        self._cameras = cameras
        self._bridge = BridgeClient(bridge, "pi0-edge run", tls)
        self._listeners = Listeners(listeners)
        self._splice = splice
        self._clear = clear
        self._limits = limits or RunLimits()
        self._inbox = Inbox()
        self._ready: Ready | None = None
        self._loop: RunLoop | None = None
        self._prompt = ""
        self.seconds: float | None = None
        check_accepted(accepted)

    def __enter__(self) -> RobotRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._policy.close()
        self._bridge.close()

    def play(self, prompt: str = "", seconds: float | None = None) -> RunResult:
        """Checks everything, arms, plays, and disarms. Blocks until the run has ended; call it once.

        Args:
            prompt: What to do; the default of the policy's robot where empty.
            seconds: How long the arm is armed in all; without limit where None.

        Raises:
            PreflightError: The arm was not armed; the error lists every reason.
        """
        self._prompt, self.seconds = prompt, seconds
        with ExitStack() as stack:
            stack.callback(self._inbox.close)
            self._ready = ready = self._check(prompt, stack)
            self._watch(ready, stack)
            policy = PolicyThread(self._policy, self._inbox)
            stack.callback(policy.close)
            self._loop = RunLoop(
                bridge=self._bridge,
                policy=policy,
                metadata=ready.metadata,
                joints=self.joints,
                tick_period_s=ready.tick_period_s,
                observer=ready.observer,
                inbox=self._inbox,
                listeners=self._listeners,
                life=self.life,
                splice=ready.splice,
                limits=self._limits,
                replan_ticks=self.replan_ticks,
            )
            self._loop.run(ready.prompt, seconds)
        return RunResult(self.life.outcome or Outcome.FAULT, self.life.reason, self.played_s)

    def _check(self, prompt: str, stack: ExitStack) -> Ready:
        if self._clear:
            clear_latched(self._bridge)
        preflight = Preflight(
            robot=self.robot,
            joints=self.joints,
            policy=self._policy,
            bridge=self._bridge,
            inbox=self._inbox,
            cameras=self._cameras,
            profile=self._profile,
            accepted=self.accepted,
            certificate=self._certificate,
            replan_ticks=self.replan_ticks,
        )
        try:
            return preflight.run(prompt, self._splice, stack)
        except PreflightError as error:
            self.life.end(Outcome.REFUSED, str(error))
            raise

    def _watch(self, ready: Ready, stack: ExitStack) -> None:
        """Begins the recording, and lets the mismatch guard watch."""
        if self._record is not None:
            try:
                recorder = stack.enter_context(self._recorder(self._record, ready))
            except RecordingError as error:
                problem = Problem("recording", str(error))
                self.life.end(Outcome.REFUSED, str(problem))
                raise PreflightError([problem]) from error
            self._listeners.add(recorder)
        self._listeners.feed(ready.observer.cameras)
        self._listeners.add(ready.guard)
        ready.guard.on_mismatch = self._on_mismatch
        overrides = ", ".join(self.overrides) or "none"
        started = f"{self.robot.name}; {self.policy_name}; overrides: {overrides}"
        self._listeners.say("started", started, ready.tick)
        self._listeners.say("certificate", self._certified(ready))
        for warning in ready.warnings:
            self._listeners.say("mismatch", warning)

    def _certified(self, ready: Ready) -> str:
        """How often is observed and how chunks enter, and what that rests on."""
        chosen = f"an observation every {self.replan_ticks} ticks, splice {ready.splice.name}"
        if (found := self._certificate) is None:
            return f"{chosen}; without a serving certificate nobody knows that the arm does not starve so"
        return (
            f"{chosen}; certified by {found.result} for {found.replan_ticks} ticks: the arm starves above "
            f"{found.starves_above_ms:.4g} ms, {found.margin_ms:.4g} ms more than measured, and acts on what is "
            f"{found.worst_age_ms:.4g} ms old at most"
        )

    def _recorder(self, path: Path, ready: Ready) -> RunRecorder:
        description = RunDescription(
            robot=self.robot,
            policy=ready.metadata,
            policy_source=self._policy.place,
            threads=self._policy.threads,
            splice=ready.splice.name,
            bridge_splice=ready.bridge_splice,
            image_encoding=self._policy.image_encoding,
            cameras={name: asdict(settings) for name, settings in ready.observer.cameras.settings.items()},
            overrides=self.overrides,
        )
        return RunRecorder(path, description, on_ended=lambda reason: self._listeners.say("recording-ended", reason))

    def _on_mismatch(self, mismatch: Mismatch) -> None:
        """What the guard notices while the run goes on."""
        self._listeners.say("mismatch", str(mismatch))
        if mismatch.refuses:
            self._inbox.put(Wish("refuse", str(mismatch)))

    # What there is to see, at any time and from any thread.

    @property
    def prompt(self) -> str:
        """What the policy is asked to do now."""
        return self._prompt if self._loop is None else self._loop.prompt

    @property
    def played_s(self) -> float:
        """How long the arm was armed so far, seconds."""
        return 0.0 if self._loop is None else self._loop.played_s

    @property
    def tick_period_s(self) -> float:
        """Seconds between two ticks; as the robot file says before the bridge was asked."""
        return 1 / (self.robot.control_hz or 1) if self._ready is None else self._ready.tick_period_s

    @property
    def replan_ticks(self) -> int:
        """Ticks between two observations, if the policy is fast enough."""
        if self._limits.replan_ticks is not None:
            return self._limits.replan_ticks
        if self._certificate is not None:
            return self._certificate.replan_ticks
        latency = self.robot.latency
        return REPLAN_TICKS if latency is None or latency.replan_ticks is None else latency.replan_ticks

    @property
    def policy_name(self) -> str:
        """Which policy it is, in words."""
        if self._ready is None:
            return self._policy.name
        metadata = self._ready.metadata
        return f"{metadata.model} {metadata.scheme}, {self._policy.name}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """What this user and that of the policy overrode, by name."""
        of_policy = () if self._ready is None else self._ready.metadata.overrides
        return (*(f"{OVERRIDE_PREFIX}{name}" for name in self.accepted), *of_policy)

    @property
    def cameras(self) -> CameraSet | None:
        """The open cameras; None before they were opened."""
        return None if self._ready is None else self._ready.observer.cameras

    def listen(self, listener: RunListener) -> None:
        """Adds a listener; before `play`."""
        self._listeners.add(listener)

    def note(self, name: str, text: str) -> None:
        """Puts an event among those of the run."""
        self._listeners.say(name, text)

    # From any thread, while `play` runs.

    def pause(self, reason: str = "asked to pause") -> None:
        """Disarms and holds until `resume`."""
        self._inbox.put(Wish("pause", reason))

    def resume(self, reason: str = "asked to resume") -> None:
        """Arms again after `pause`, and plays on from a new observation."""
        self._inbox.put(Wish("resume", reason))

    def change_prompt(self, prompt: str) -> None:
        """The next observation is taken at once, with this prompt."""
        self._inbox.put(Wish("change_prompt", prompt))

    def take_over(self, source: SetpointSource) -> None:
        """A person moves the arm from now on, by what `source` says; the arm is armed if it was not."""
        self._inbox.put(Wish("take_over", source.name, source))

    def hand_back(self, reason: str = "handed back") -> None:
        """The policy moves the arm again, from a new observation."""
        self._inbox.put(Wish("hand_back", reason))

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


def check_accepted(names: Sequence[str]) -> None:
    """Refuses the name of a rule that does not exist or cannot be accepted.

    Raises:
        ConfigError: There is such a name.
    """
    for name in names:
        if not is_acceptable(name):
            known = ", ".join(sorted({*ACCEPTABLE, *RULES}))
            raise ConfigError(f"no rule {name!r} can be accepted; expected one of {known}")


def certificate_of(policy: object) -> Certificate | None:
    """The serving certificate beside the bundle of a loaded policy; None where there is none.

    Raises:
        BenchError: It cannot be used.
    """
    bundle = getattr(policy, "bundle", None)
    return None if bundle is None else find_certificate(bundle.folder)


def profile_of(policy: object) -> TrainingProfile | None:
    """The training profile in the bundle of a loaded policy; None where there is none."""
    bundle = getattr(policy, "bundle", None)
    return None if bundle is None else bundle.training_profile()

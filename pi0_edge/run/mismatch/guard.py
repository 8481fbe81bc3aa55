"""The guard: it refuses to arm where the robot is not the one that the policy was trained on, and keeps watching.

    guard = MismatchGuard(load_training_profile(path), robot, prompt="Transfer cube", accepted=("start-pose",))
    found = guard.before_arming([(state, images), …])        # about 30 observations of the robot at rest
    found += guard.first_chunk(state, chunk)
    if any(mismatch.refuses for mismatch in found): …        # do not arm; print them

As a `RunListener` it collects further mismatches in `mismatches`, each once, without blocking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.errors import ObservationError
from pi0_edge.robots import Robot
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.mismatch import setup_rules
from pi0_edge.run.mismatch.action_rules import Chunk, disagreement, first_action
from pi0_edge.run.mismatch.camera_rules import CameraRules, Seen
from pi0_edge.run.mismatch.joint_rules import Compared, JointRules
from pi0_edge.run.mismatch.rules import OVERRIDE_PREFIX, Mismatch, accept, checked_rules
from pi0_edge.training_profile import TrainingProfile
from pi0_edge.training_profile.limits import WATCH_EVERY_S, WATCHED, persistent
from pi0_edge.training_profile.postures import least_widths

SeenAtRest = tuple[ArrayLike, Mapping[str, CameraImage]]
"""Measured joints [joints] in the robot's units, and the image of every camera, of one moment."""

CHUNKS = 3
"""Successive chunks of which two thirds must break a rule while running."""

MEASURED_S = 5.0
"""How long the rate of ticks is measured."""

BREAKS = ("armed", "paused", "holding", "taken-over", "fault", "stopped")
"""Events after which what was seen before says nothing about what comes."""


class MismatchGuard:
    """Compares one robot with the training data of one policy.

    Attributes:
        profile: Of the training data; None where the policy has none.
        robot: The robot here.
        accepted: Rules that the user accepted by name.
        mismatches: What was found while running, each rule and subject once.
        on_mismatch: Is called, at once, with everything found while running.
    """

    def __init__(
        self,
        profile: TrainingProfile | None,
        robot: Robot,
        *,
        cameras: Iterable[str] | None = None,
        prompt: str | None = None,
        accepted: Iterable[str] = (),
        on_mismatch: Callable[[Mismatch], object] | None = None,
    ) -> None:
        """Joins a robot with the profile of a policy.

        Args:
            profile: From the bundle, or beside the checkpoint; None refuses, unless `training-profile` is accepted.
            robot: As the run drives it, with the control rate in use.
            cameras: Those that are connected, as the robot calls them; None for those that observations show.
            prompt: What the policy shall do first.
            accepted: Names of rules whose mismatch does not refuse.
            on_mismatch: Is called, at once, with everything found while running.

        Raises:
            ConfigError: If there is no rule of such a name.
        """
        self.profile = profile
        self.robot = robot
        self.accepted = checked_rules(accepted)
        self.mismatches: list[Mismatch] = []
        self._cameras = None if cameras is None else tuple(cameras)
        self._prompt = prompt
        self.on_mismatch = on_mismatch
        fits = profile is not None and len(profile.joints.names) == robot.state_dim
        self._joint_rules = JointRules(profile.joints, robot) if profile is not None and fits else None
        self._camera_rules = CameraRules({} if profile is None else profile.cameras)
        self._actions = profile.actions if profile is not None and fits else None
        self._widths = least_widths(robot)
        if profile is not None and fits:
            self._widths = np.maximum(self._widths, profile.joints.widths)
        self._forget()

    @property
    def overrides(self) -> tuple[str, ...]:
        """Names of the overrides in force, for logs, answers and recordings, as `Policy.overrides`."""
        return tuple(f"{OVERRIDE_PREFIX}{rule}" for rule in self.accepted)

    def before_arming(self, observations: Sequence[SeenAtRest]) -> list[Mismatch]:
        """What differs while the robot stands still where an episode shall begin; 30 observations are enough.

        Args:
            observations: State and images of successive moments. Rules about images ask for two thirds of them.

        Raises:
            ObservationError: If there is none, a state is not of this robot, or a camera is not in all of them.
        """
        states, seen = self._checked(observations)
        found: list[Mismatch] = []
        if self.profile is None:
            found.append(setup_rules.no_profile())
        else:
            found += setup_rules.unchecked(self.profile)
            found += setup_rules.setup(self.profile, self.robot, seen if self._cameras is None else self._cameras)
            found += setup_rules.image_sizes(self.profile, _sizes(observations[-1][1]))
            if self._prompt is not None and (other := setup_rules.prompt(self.profile, self._prompt)) is not None:
                found.append(other)
        if self._joint_rules is not None:
            found += self._joint_rules.at_rest(states)
        found += self._camera_rules.at_rest(seen)
        return accept(found, self.accepted)

    def first_chunk(self, state: ArrayLike, chunk: Chunk) -> list[Mismatch]:
        """What is wrong with a chunk, [horizon, joints], that continues nothing and answers a state of the robot.

        Raises:
            ObservationError: If the state is not of this robot.
        """
        if self.profile is None or self._actions is None:
            return []
        here = self._state(state)
        found = first_action(self._actions, self.profile.joints.names, self._widths, here, chunk)
        return accept([] if found is None else [found], self.accepted)

    def on_observed(self, observed: Observed) -> None:
        """Looks at the prompt, and about twice a second at joints and images."""
        if self.profile is not None:
            other = setup_rules.prompt(self.profile, observed.prompt)
            self._note([] if other is None else [other])
            self._measure_rate(observed)
        if (observed.time_ns - self._looked_ns) < 1e9 * WATCH_EVERY_S * _ON_TIME:
            return
        self._looked_ns = observed.time_ns
        self._look_at_joints(self._state(observed.state))
        states = np.stack([state for state, _ in self._states])
        moved = float((np.ptp(states, axis=0) / self._widths).max())
        for camera, image in observed.images.items():
            self._look_at(camera, Seen.of(image), moved)

    def on_answered(self, answered: Answered) -> None:
        """Looks at where the chunk begins, and at what the chunk before it had planned for the same time."""
        if self.profile is None or self._actions is None:
            return
        state, chunk = self._state(answered.observed.state), answered.chunk
        off = first_action(self._actions, self.profile.joints.names, self._widths, state, chunk)
        self._starts.append(off)
        if off is not None and len(self._starts) == CHUNKS and _persists([o is not None for o in self._starts]):
            self._note([off])
        self._compare_plans(answered)

    def on_tick(self, tick: Tick) -> None:
        """Nothing: the firmware guards every tick itself."""

    def on_event(self, event: Event) -> None:
        """Begins anew where somebody may have moved the robot."""
        if event.name in BREAKS:
            self._forget()

    def _forget(self) -> None:
        self._looked_ns = -(10**18)
        self._states: deque[tuple[NDArray[np.float64], Compared | None]] = deque(maxlen=WATCHED)
        self._images: dict[str, deque[tuple[Seen, Compared | None]]] = {}
        self._starts: deque[Mismatch | None] = deque(maxlen=CHUNKS)
        self._apart: deque[NDArray[np.float64]] = deque(maxlen=CHUNKS)
        self._last: Answered | None = None
        self._rate_since: Observed | None = None

    def _note(self, found: Iterable[Mismatch]) -> None:
        """Keeps what is new, and tells of it."""
        known = {(mismatch.rule, mismatch.subject) for mismatch in self.mismatches}
        for mismatch in accept(found, self.accepted):
            if (mismatch.rule, mismatch.subject) not in known:
                self.mismatches.append(mismatch)
                if self.on_mismatch is not None:
                    self.on_mismatch(mismatch)

    def _look_at_joints(self, state: NDArray[np.float64]) -> None:
        rules = self._joint_rules
        self._states.append((state, None if rules is None else rules.compared(state)))
        if rules is not None and len(self._states) == WATCHED:
            states = np.stack([of for of, _ in self._states])
            self._note(rules.while_running(states, [of for _, of in self._states if of is not None]))

    def _look_at(self, camera: str, seen: Seen, moved: float) -> None:
        images = self._images.setdefault(camera, deque(maxlen=WATCHED))
        images.append((seen, self._camera_rules.compared(camera, seen)))
        if len(images) == WATCHED:
            compared = [of for _, of in images if of is not None]
            self._note(self._camera_rules.while_running(camera, [of for of, _ in images], compared, moved))

    def _measure_rate(self, observed: Observed) -> None:
        since = self._rate_since
        if since is None or self.profile is None:
            self._rate_since = observed
            return
        seconds = 1e-9 * (observed.time_ns - since.time_ns)
        if seconds >= MEASURED_S:
            self._rate_since = observed
            hz = (observed.tick - since.tick) / seconds
            tolerance = setup_rules.RATE_TOLERANCE
            other = setup_rules.control_rate(self.profile, hz, "is measured as", tolerance)
            self._note([] if other is None else [other])

    def _compare_plans(self, answered: Answered) -> None:
        last, self._last = self._last, answered
        profile = self.profile
        if last is None or profile is None or self._actions is None or self._actions.half_second is None:
            return
        ticks = answered.observed.tick - last.observed.tick
        if profile.control_hz is None or not 0 <= ticks < len(last.chunk):
            return
        apart = disagreement(self._actions, self._widths, last.chunk, answered.chunk, ticks, profile.control_hz)
        self._apart.append(apart)
        if len(self._apart) < CHUNKS:
            return
        far = [place for place, of in enumerate(np.stack(self._apart).T > 1) if _persists(of)]
        if far:
            names = ", ".join(profile.joints.names[place] for place in far)
            text = (
                f"successive chunks plan different motions of {names} for the same half second, by more than the "
                "training data move in that time; check that state and images are of the same moment"
            )
            self._note([Mismatch("chunk-overlap", names, text, refuses=False)])

    def _state(self, state: ArrayLike) -> NDArray[np.float64]:
        found = np.asarray(state, np.float64)
        if found.shape != (self.robot.state_dim,) or not np.isfinite(found).all():
            raise ObservationError(
                f"a state of {self.robot.name} is {self.robot.state_dim} finite numbers, found shape {found.shape}"
            )
        return found

    def _checked(self, observations: Sequence[SeenAtRest]) -> tuple[NDArray[np.float64], dict[str, list[Seen]]]:
        if not observations:
            raise ObservationError("no observation was given; expected about 30 of the robot at rest")
        cameras = observations[0][1].keys()
        if any(images.keys() != cameras for _, images in observations):
            raise ObservationError("a camera is not in all observations before arming; expected the same in each")
        states = np.stack([self._state(state) for state, _ in observations])
        return states, {camera: [Seen.of(images[camera]) for _, images in observations] for camera in cameras}


_ON_TIME = 0.9
"""An observation may be earlier than `WATCH_EVERY_S` by a tenth, so that chunks every half second are all looked at."""


def _sizes(images: Mapping[str, CameraImage]) -> dict[str, tuple[int, int]]:
    return {camera: image.pixels.shape[:2] for camera, image in images.items()}


def _persists(broken: Sequence[bool] | NDArray[np.bool_]) -> bool:
    return persistent(np.asarray(broken, np.float64)) > 0

"""The guard: it refuses to arm where the robot is not the one that the policy was trained on, and keeps watching.

    guard = MismatchGuard(load_training_profile(path), robot, prompt="Transfer cube", accepted=("start-pose",))
    found = guard.before_arming([(state, images), …])        # about 30 observations of the robot at rest
    found += guard.first_chunk(state, chunk)
    if any(mismatch.refuses for mismatch in found): …        # do not arm; print them

As a `RunListener` it collects further mismatches in `mismatches`, each once, without blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.robots import Robot
from pi0_edge.run.events import Answered, Event, Observed
from pi0_edge.run.mismatch.rules import OVERRIDE_PREFIX, Mismatch, checked_rules
from pi0_edge.training_profile import TrainingProfile

SeenAtRest = tuple[ArrayLike, Mapping[str, CameraImage]]
"""Measured joints [joints] in the robot's units, and the image of every camera, of one moment."""


class MismatchGuard:
    """Compares one robot with the training data of one policy.

    Attributes:
        profile: Of the training data; None where the policy has none.
        robot: The robot here.
        accepted: Rules that the user accepted by name.
        mismatches: What was found while running, each rule and subject once.
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
            cameras: Those that are connected, as the robot calls them; None for all of the robot.
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
        self._cameras = tuple(robot.cameras if cameras is None else cameras)
        self._prompt = prompt
        self._on_mismatch = on_mismatch

    @property
    def overrides(self) -> tuple[str, ...]:
        """Names of the overrides in force, for logs, answers and recordings, as `Policy.overrides`."""
        return tuple(f"{OVERRIDE_PREFIX}{rule}" for rule in self.accepted)

    def before_arming(self, observations: Sequence[SeenAtRest]) -> list[Mismatch]:
        """What differs while the robot stands still where an episode shall begin; 30 observations are enough.

        Raises:
            ObservationError: If there is none, or a state is not of this robot.
        """
        raise NotImplementedError

    def first_chunk(self, state: ArrayLike, chunk: NDArray[np.floating]) -> list[Mismatch]:
        """What is wrong with a free chunk, [horizon, joints], that answers an observation with this state."""
        raise NotImplementedError

    def on_observed(self, observed: Observed) -> None:
        """Looks at joints and images about twice a second."""

    def on_answered(self, answered: Answered) -> None:
        """Looks at where the chunk begins, and at what the chunk before it had planned for the same time."""

    def on_tick(self, tick: Tick) -> None:
        """Nothing: the firmware guards every tick itself."""

    def on_event(self, event: Event) -> None:
        """Begins anew where the robot was paused or stopped, since somebody may have moved it."""

"""Whether a state is one that the policy can know: how far it is from all that it was trained on.

A state in degrees where radians are meant, joints in another order, or the statistics of another robot normalize to
numbers that the network has never seen, and an arm that follows its answer thrashes. What is refused where a policy is
calibrated and judged is therefore looked at again before every chunk (`Policy.infer`).

    z-score statistics     at most 10 standard deviations from the mean
    ranges                 at most the width of the range outside [q01, q99], [q10, q90] or [min, max]

A joint that did not move in training has a width of (almost) zero, so that normalization amplifies its slightest drift;
`still_joints` of `pi0_edge.processing.settings` says what to do about it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.processing.joint_conventions import CONVENTIONS
from pi0_edge.processing.normalization import Normalizer
from pi0_edge.robots import Robot

STANDARD_DEVIATIONS = 10.0
"""How far from the mean a state may be, for z-score statistics."""

RANGE_WIDTHS = 1.0
"""How far outside its range a state may be, in widths of that range."""

CUT_OFF = 1.0
"""How far beyond what a gripper can open, in widths of its range, a state may be that a joint convention cuts off."""

_UNITS = {
    "rad": ((np.pi / 180, "in radians", "degrees"),),
    "m": ((1e-3, "in metres", "millimetres"), (1e-2, "in metres", "centimetres")),
    "ratio": ((1e-2, "as a ratio", "percent"),),
}
"""By the unit that is meant: factor from the unit that is often given instead, the meant unit, the given one."""

_OF_UNNAMED_JOINTS = (*_UNITS["rad"], *_UNITS["ratio"], *_UNITS["m"])


@dataclass(frozen=True)
class UnfitJoint:
    """One joint whose state is outside of what the policy was trained on; values in the robot's own units.

    Attributes:
        name: Its name, or its number where the robot names none.
        value: As it was measured.
        low: Least value that fits.
        high: Largest value that fits.
        trained: Where it stood in training, if it did not move then; else None.
        normalized: What the network would be given.
        rule: How `low` and `high` follow from the statistics.
        likely: The likely cause, if another unit would do; else None.
    """

    name: str
    value: float
    low: float
    high: float
    trained: float | None
    normalized: float
    rule: str
    likely: str | None

    def __str__(self) -> str:
        if self.trained is not None:
            return (
                f"the state of joint {self.name} is {self.value:.6g}, but it stood still at {self.trained:.6g} in "
                f"training: the difference of {self.value - self.trained:.2g} becomes {self.normalized:.2g} in the "
                "network's units; check joint order and whose statistics these are, or, where this joint may drift, "
                f"give still_joints: as_trained in a SIZES file, which shows the policy {self.trained:.6g} instead"
            )
        advice = self.likely or "check units, joint order and whose statistics these are"
        return (
            f"the state of joint {self.name} is {self.value:.4g}, expected {self.low:.4g} to {self.high:.4g} "
            f"({self.rule} in the policy's statistics); {advice}"
        )


@dataclass(frozen=True)
class UnfitState:
    """A state that the policy cannot know.

    Attributes:
        joints: Those that do not fit, the most telling one first.
    """

    joints: tuple[UnfitJoint, ...]

    def __str__(self) -> str:
        others = ", ".join(joint.name for joint in self.joints[1:])
        return f"{self.joints[0]} (also out of range: {others})" if others else str(self.joints[0])


class TrainedRange:
    """The states of one robot that one policy can know.

    Attributes:
        still: Joints that did not move in training, bool [state_dim].
    """

    def __init__(self, robot: Robot, normalizer: Normalizer, still_as_trained: bool = False) -> None:
        """Joins a robot with the statistics of its policy.

        Args:
            robot: Names the joints.
            normalizer: Of the state.
            still_as_trained: Whether joints that did not move in training fit wherever they are.
        """
        self._robot = robot
        self._normalizer = normalizer
        self._convention = CONVENTIONS[robot.joint_convention]
        self._still_as_trained = still_as_trained
        self._limit = STANDARD_DEVIATIONS if normalizer.is_z_score else 1.0 + 2.0 * RANGE_WIDTHS
        known = normalizer.still[: robot.state_dim]
        self.still = np.concatenate((known, np.zeros(robot.state_dim - len(known), np.bool_)))

    @property
    def middle(self) -> NDArray[np.float64]:
        """The middle of the range, float64 [state_dim], in the robot's own units and joint convention."""
        return self._recorded(0.0)

    def misfit(self, state: NDArray[np.float64]) -> UnfitState | None:
        """What of a state the policy cannot know, or None where it can.

        Args:
            state: [state_dim], finite, in the robot's own units and joint convention.
        """
        if self._normalizer.dims is None:  # no statistics, no range
            return None
        of_network = self._convention.state_to_pi(state)
        normalized = self._normalizer.forward(of_network)
        unfit = np.abs(normalized) > self._limit
        unfit |= np.abs(state - self._convention.state_to_robot(of_network)) > CUT_OFF
        if self._still_as_trained:
            unfit &= ~self.still
        if not unfit.any():
            return None
        bounds = np.sort([self._recorded(sign * self._limit) for sign in (-1.0, 1.0)], axis=0)
        centre = self._recorded(self._normalizer.normalized_centre)
        joints = [self._joint(int(place), state, normalized, bounds, centre) for place in np.flatnonzero(unfit)]
        joints.sort(key=lambda joint: (joint.trained is not None, joint.likely is None, -abs(joint.normalized)))
        return UnfitState(tuple(joints))

    def _joint(
        self,
        place: int,
        state: NDArray[np.float64],
        normalized: NDArray[np.float64],
        bounds: NDArray[np.float64],
        centre: NDArray[np.float64],
    ) -> UnfitJoint:
        wide = "the range and its width on either side"
        return UnfitJoint(
            name=self._name(place),
            value=float(state[place]),
            low=float(bounds[0, place]),
            high=float(bounds[1, place]),
            trained=float(centre[place]) if self.still[place] else None,
            normalized=float(normalized[place]),
            rule=f"{self._limit:g} standard deviations around the mean" if self._normalizer.is_z_score else wide,
            likely=self._likely(place, state[place], bounds[:, place]),
        )

    def _likely(self, place: int, value: float, bounds: NDArray[np.float64]) -> str | None:
        joints = self._robot.joints
        units = _UNITS[joints[place].unit] if len(joints) == self._robot.state_dim else _OF_UNNAMED_JOINTS
        for factor, meant, given in units:
            if bounds[0] <= factor * value <= bounds[1]:
                return f"{meant} it would be {factor * value:.4g}, which fits: are these {given}?"
        if units is _UNITS["rad"] and 2 * np.pi < abs(value) <= 720:
            return "that is more than a full turn: are these degrees?"
        return None

    def _name(self, place: int) -> str:
        robot = self._robot
        names = robot.action_names if robot.state_dim == robot.action_dim else ()
        return names[place] if names else f"{place}"

    def _recorded(self, normalized: float) -> NDArray[np.float64]:
        """A normalized value of every joint, in the robot's own units and joint convention."""
        physical = self._normalizer.preimage(np.full(self._robot.state_dim, normalized))
        return self._convention.state_to_robot(physical)

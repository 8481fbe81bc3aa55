"""Rules about the measured joints: at rest before arming, and over the last seconds while running."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pi0_edge.robots import Robot
from pi0_edge.run.mismatch.rules import RULES, Mismatch, Rule
from pi0_edge.training_profile import postures
from pi0_edge.training_profile.limits import Limits, persistent
from pi0_edge.training_profile.postures import JointChange, States
from pi0_edge.training_profile.profile import HIGH, LOW, JointProfile, Quantiles

WIDENED = 0.1
"""By how much of the range of a joint its accepted range is widened at either end, at least."""

CLEARLY = 0.05
"""By how much more than in any training episode an alternative must be nearer, in ranges of a joint."""

UNLIKE = 1.5
"""How many times as far from all examples as in any training episode is unlike the training data."""

NEARER = 0.75
"""How far from the training data, in what is claimed to be true, an alternative that explains it may be at most."""

FEW_JOINTS = 2
"""Up to as many joints that are elsewhere have another zero; more of them are another pose."""

_TURNS = {np.pi / 2: "a quarter turn", np.pi: "half a turn", 2 * np.pi: "a full turn"}
_SHOWN = 4


class Bounds(NamedTuple):
    """Accepted positions, float64 [joints] each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def outside(self, states: States) -> NDArray[np.bool_]:
        """Which joints are outside, bool [n, joints]."""
        return (states < self.low) | (states > self.high)


def bounds(quantiles: Quantiles, beyond: NDArray[np.float64], widths: NDArray[np.float64]) -> Bounds:
    """From the 0.1 % to the 99.9 % quantile, widened by `WIDENED` or by as much as held-out episodes need."""
    margin = np.maximum(beyond, WIDENED * widths)
    return Bounds(quantiles[LOW] - margin, quantiles[HIGH] + margin)


class Compared(NamedTuple):
    """How far one moment is from the nearest example of the training data.

    Attributes:
        own: As it is.
        others: By alternative, if it were undone.
    """

    own: float
    others: dict[str, float]


class JointRules:
    """The rules about measured joints, for one profile and one robot that has as many joints.

    A convention holds from the first moment to the last. So where the robot stands at a start pose of the training
    data, only those alternatives stay possible that also put it at one. Without this, a gripper that closes on nothing,
    more than it ever did on the object of the training data, would look like one with open and closed exchanged.
    """

    def __init__(self, profile: JointProfile, robot: Robot) -> None:
        self._profile = profile
        self._names = profile.names
        self._units = postures.joint_units(robot)
        self._changes = self._possible = postures.joint_changes(robot)
        self._widths = np.maximum(profile.widths, postures.least_widths(robot))
        self._range = bounds(profile.state, profile.beyond, self._widths)
        self._start = bounds(profile.start, profile.start_beyond, self._widths)

    def at_rest(self, states: States) -> list[Mismatch]:
        """What is wrong with a robot that stands still, from states [n, joints]; the median counts."""
        here = np.median(states, axis=0, keepdims=True)
        outside = self._start.outside(here)[0]
        undone = {name: change.undo(here) for name, change in self._changes.items()}
        fitting = {name: then for name, then in undone.items() if not self._start.outside(then).any()}
        if not outside.any():
            self._possible = {name: self._changes[name] for name in fitting}
            return []
        self._possible = self._changes
        if fitting:
            starts = self._profile.start_examples
            apart = {name: postures.distances(then, starts, self._widths)[0] for name, then in fitting.items()}
            return [self._changed(self._changes[min(apart, key=apart.__getitem__)], here[0], self._start)]
        return list(self._elsewhere(here[0], outside))

    def compared(self, state: NDArray[np.float64]) -> Compared:
        """How far one state, [joints], is from the training data, as it is and by alternative."""
        here, examples = state[None], self._profile.examples
        own = postures.distances(here, examples, self._widths)
        others = postures.alternatives(here, examples, self._widths, self._possible)
        return Compared(float(own[0]), {name: float(apart[0]) for name, apart in others.items()})

    def while_running(self, states: States, compared: Sequence[Compared]) -> list[Mismatch]:
        """What is wrong over the last moments: states [n, joints], and what `compared` says of each."""
        limits = self._profile.running
        if (name := clear_winner(compared, limits, CLEARLY, UNLIKE * limits.distance)) is not None:
            return [self._changed(self._changes[name], np.median(states, axis=0), self._range)]
        outside = self._range.outside(states)
        places = [place for place in range(len(self._names)) if persistent(outside[:, place].astype(float)) > 0]
        return [self._out_of_range(places, states[-1], refuses=False)] if places else []

    def _changed(self, change: JointChange, here: NDArray[np.float64], expected: Bounds) -> Mismatch:
        place = self._names.index(change.subject) if change.subject in self._names else None
        found = "" if place is None else f": {self._where(place, here, expected)}"
        text = f"{change.words}{found}; {_ADVICE[change.rule]}"
        return Mismatch(_rule(change.rule), change.subject, text, refuses=True)

    def _elsewhere(self, here: NDArray[np.float64], outside: NDArray[np.bool_]) -> Iterator[Mismatch]:
        places = [int(place) for place in np.flatnonzero(outside)]
        if len(places) <= FEW_JOINTS:
            yield from (self._other_zero(place, here) for place in places)
            return
        far = [place for place in places if self._range.outside(here[None])[0, place]]
        if far:
            yield self._out_of_range(far, here, refuses=True)
        near = [place for place in places if place not in far]
        if near:
            listed = "; ".join(self._where(place, here, self._start) for place in near[:_SHOWN])
            text = f"no episode of the training data began in this pose: {listed}; bring the robot to its start pose"
            yield Mismatch("start-pose", self._subject(near), text, refuses=True)

    def _other_zero(self, place: int, here: NDArray[np.float64]) -> Mismatch:
        middle = (self._start.low[place] + self._start.high[place]) / 2
        offset, width = here[place] - middle, self._start.high[place] - middle
        turn = next((words for angle, words in _TURNS.items() if abs(abs(offset) - angle) <= width), None)
        size = f"{offset:+.3g} {self._unit(place)}"
        off = f"{turn} ({size})" if turn is not None and self._units[place] == "rad" else size
        text = (
            f"{self._where(place, here, self._start)}: its zero differs by about {off}, or it is not in its start "
            "pose; calibrate it, or bring the robot to its start pose"
        )
        return Mismatch("joint-zero", self._names[place], text, refuses=True)

    def _out_of_range(self, places: Sequence[int], here: NDArray[np.float64], refuses: bool) -> Mismatch:
        ranges = [self._where(place, here, self._range) for place in places[:_SHOWN]]
        text = f"{'; '.join(ranges)} in all of the training data; check units, calibration and order of the joints"
        return Mismatch("joint-range", self._subject(places), text, refuses)

    def _where(self, place: int, here: NDArray[np.float64], expected: Bounds) -> str:
        low, high = expected
        unit = self._unit(place)
        return (
            f"{self._names[place]} is {here[place]:.4g} {unit}, expected {low[place]:.4g} to {high[place]:.4g} {unit}"
        )

    def _unit(self, place: int) -> str:
        return {"ratio": "of 1"}.get(self._units[place], self._units[place])

    def _subject(self, places: Sequence[int]) -> str:
        return ", ".join(self._names[place] for place in places)


def clear_winner(compared: Sequence[Compared], limits: Limits, clearly: float, fits: float) -> str | None:
    """The alternative that explains moments clearly better than what is claimed, or None.

    The best alternative must persistently be nearer to the training data, by more than in any ordinary episode, and at
    most `NEARER` times as far away as what is claimed; and it must itself be as near as ordinary moments are.

    Args:
        compared: Of each moment; alternatives that `limits` does not name are not considered.
        limits: From held-out training episodes.
        clearly: Distance that is added to the limit of an alternative.
        fits: How far away the alternative may be.
    """
    own = np.array([moment.own for moment in compared])
    names = [name for name in compared[0].others if name in limits.margins]
    if not names:
        return None
    others = np.array([[moment.others[name] for name in names] for moment in compared])
    middle = np.median(others, axis=0)
    best = int(middle.argmin())
    wins = persistent(own - others[:, best]) > max(limits.margins[names[best]], 0.0) + clearly
    return names[best] if wins and middle[best] <= min(fits, NEARER * float(np.median(own))) else None


_ADVICE = {
    "joint-units": "give the units of the robot's layout",
    "gripper-convention": "correct closed and open, or the unit, of the gripper",
    "joint-sign": "calibrate it again, or correct its direction",
    "joint-order": "correct the order of the joints, or the ports of the arms",
}


def _rule(name: str) -> Rule:
    return next(rule for rule in RULES if rule == name)

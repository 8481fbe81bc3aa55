"""Compares the chunks of a policy with those of its teacher as distributions: for another map of noise to actions.

A distilled policy turns the same noise into another chunk than its teacher, and both may be right. So neither is held
against the other draw by draw. For each observation there are two sets of the teacher's chunks, from different seeds,
and one of the candidate's; whatever is said of the candidate is said of the second set too (`itself`), which shows how
much of it is chance. Only executed actions count, in normalized units; |a − b| is the Euclidean distance of two chunks.

    energy     (2·E|X−Y| − E|X−X'| − E|Y−Y'|) / (2·E|X−Y|), from 0, equal, to 1: the coefficient of Székely and Rizzo,
               Energy statistics (J. Stat. Plan. Inference 143, 2013), over all pairs with those of a chunk with itself
    shift      |mean X − mean Y| over the teacher's spread, the root mean square distance of two of its chunks
    spread     the candidate's spread over the teacher's
    stray      mean distance of a candidate's chunk to the nearest one of the teacher, less the same of the second set,
               over the spread: a chunk between two good ways is far from all that the teacher would do
    mode share of each of two modes, the candidate's minus the teacher's, where the teacher has two
    between    share of the candidate's chunks in the middle half of the way from one mode to the other, less
               that of the teacher: the figures above are means, in which a few chunks that take neither way are lost
    flips      how often a gripper changes between open and closed in a chunk

There are two modes where two means (Lloyd, from the farthest pair of the first set) part the second set into shares
of at least `LEAST_SHARE` that lie apart, along the line through both, by at least `SEPARATED` in Ashman's measure
D = √2·|m₁ − m₂| / √(s₁² + s₂²) (Ashman, Bird, Zepf, Detecting bimodality, AJ 108, 1994). They ask for more than 2, but
the halves of one normal distribution have 2.65, and those of a uniform one 3.46. The second set judges because in many
dimensions any 64 draws part well along a line that was chosen for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.robots import Robot

SEPARATED = 5.0
LEAST_SHARE = 0.1
LLOYD_STEPS = 20
LEAST_DRAWS = 64
"""Fewest draws per observation; the share of one mode of two is then known to ±0.12 (95 %)."""

Chunks = NDArray[np.float64]
"""[observations, draws, actions, joints]."""


@dataclass(frozen=True)
class Likeness:
    """How one set of chunks compares with the first set of the teacher; means over the observations.

    Attributes:
        energy: See above.
        shift: See above.
        spread: See above.
        stray: See above; 0 for the second set of the teacher.
        mode_share: Mean absolute difference, over the observations with two modes; None where there is none.
        between: Mean difference, over the observations with two modes; None where there is none.
        flips: Gripper flips per chunk; None where no joint is a gripper.
    """

    energy: float
    shift: float
    spread: float
    stray: float
    mode_share: float | None
    between: float | None
    flips: float | None


@dataclass(frozen=True)
class DistributionReport:
    """The comparison.

    Attributes:
        observations: How many.
        draws: Of each set, per observation.
        two_modes: In how many observations the teacher has two modes.
        candidate: Against the teacher's first set.
        itself: The teacher's second set against its first.
        teacher_flips: Gripper flips per chunk of the teacher, both sets; None where no joint is a gripper.
        flips_error: Standard error of the difference of the candidate's flips from the teacher's.
    """

    observations: int
    draws: int
    two_modes: int
    candidate: Likeness
    itself: Likeness
    teacher_flips: float | None
    flips_error: float | None = None


@dataclass(frozen=True)
class Gripper:
    """A joint that is open or closed.

    Attributes:
        joint: Which action dimension.
        low: Below it the gripper is at one end, in the joint's unit.
        high: Above it at the other.
    """

    joint: int
    low: float
    high: float


def grippers_of(robot: Robot) -> tuple[Gripper, ...]:
    """The joints whose range is that of a gripper: with a unit of ratio, or with a closed end.

    A flip is a way over the middle half of the range, so that a gripper that trembles there does not flip.
    """
    found = []
    for place, joint in enumerate(robot.joints):
        if joint.position is not None and (joint.unit == "ratio" or joint.closed is not None):
            low, high = joint.position
            quarter = (high - low) / 4
            found.append(Gripper(place, low + quarter, high - quarter))
    return tuple(found)


def compare_distributions(
    teacher: Chunks,
    candidate: Chunks,
    teacher_physical: Chunks,
    candidate_physical: Chunks,
    grippers: Sequence[Gripper] = (),
) -> DistributionReport:
    """Compares chunks over the same observations.

    Args:
        teacher: Executed actions, normalized, [observations, 2 * draws, actions, joints]: both sets.
        candidate: The same, [observations, draws, actions, joints], from other noise. Where one is not a number, no
            figure is one.
        teacher_physical: The same chunks in the robot's own units, with all their actions.
        candidate_physical: The same chunks in the robot's own units.
        grippers: Joints whose flips are counted.

    Raises:
        ConfigError: If the shapes do not belong together, or a value of the teacher is not a number.
    """
    observations, draws = candidate.shape[:2]
    if teacher.shape != (observations, 2 * draws, *candidate.shape[2:]) or not draws:
        raise ConfigError(
            f"chunks of shapes {list(teacher.shape)} (teacher) and {list(candidate.shape)} cannot be compared; "
            "expected twice as many draws of the teacher, else the same"
        )
    if not np.isfinite(teacher).all():
        raise ConfigError("a chunk of the teacher has values that are not numbers; nothing can be compared with it")
    rows = [
        _compare_one(*(chunks.reshape(len(chunks), -1) for chunks in (both[:draws], both[draws:], own)))
        for both, own in zip(teacher, candidate, strict=True)
    ]
    flips, flips_error = [None, None, None], None
    if grippers:
        both = _flips_of(teacher_physical, grippers)
        counts = (_flips_of(candidate_physical, grippers), both[:, draws:], both)
        flips = [float(count.mean()) for count in counts]
        flips_error = float(np.sqrt(_squared_error(counts[0]) + _squared_error(both)))
    with_modes = [row.modes for row in rows if row.modes is not None]
    likenesses = []
    for which in (0, 1):
        figures = np.mean([row.figures[which] for row in rows], axis=0)
        share, between = None, None
        if with_modes:
            differences = np.array([modes[which] for modes in with_modes])
            share, between = float(np.abs(differences[:, 0]).mean()), float(differences[:, 1].mean())
        likenesses.append(Likeness(*map(float, figures), mode_share=share, between=between, flips=flips[which]))
    return DistributionReport(observations, draws, len(with_modes), likenesses[0], likenesses[1], flips[2], flips_error)


@dataclass(frozen=True)
class _Row:
    """One observation; first of the candidate, then of the teacher's second set.

    Attributes:
        figures: Energy, shift, spread and stray.
        modes: Differences of the share of a mode and of the share between both; None where there are not two.
    """

    figures: tuple[tuple[float, ...], tuple[float, ...]]
    modes: tuple[tuple[float, float], tuple[float, float]] | None


def _compare_one(first: NDArray[np.float64], second: NDArray[np.float64], candidate: NDArray[np.float64]) -> _Row:
    """All sets [draws, numbers]."""
    within = _distances(first, first)
    spread = max(_spread(first), 1e-12)
    nearest = float(_distances(second, first).min(1).mean())

    def figures(other: NDArray[np.float64]) -> tuple[float, ...]:
        across = _distances(other, first)
        twice = max(2 * float(across.mean()), 1e-12)
        energy = (twice - float(within.mean()) - float(_distances(other, other).mean())) / twice
        shift = float(np.linalg.norm(other.mean(0) - first.mean(0))) / spread
        return energy, shift, _spread(other) / spread, (float(across.min(1).mean()) - nearest) / spread

    found = (figures(candidate), figures(second))
    modes = two_modes(first, second)
    if modes is None:
        return _Row(found, None)
    shares = np.array([modes.shares(chunks) for chunks in (first, second, candidate)])
    of_candidate, of_second = shares[2] - (shares[0] + shares[1]) / 2, shares[1] - shares[0]
    return _Row(found, ((of_candidate[0], of_candidate[1]), (of_second[0], of_second[1])))


@dataclass(frozen=True)
class Modes:
    """Two modes of a distribution of chunks.

    Attributes:
        direction: Of length 1, from the one mode to the other.
        middle: Where on it they part.
        apart: Their distance.
    """

    direction: NDArray[np.float64]
    middle: float
    apart: float

    def shares(self, chunks: NDArray[np.float64]) -> tuple[float, float]:
        """Shares of chunks [draws, numbers] beyond the middle, and in the middle half between the modes."""
        beyond = chunks @ self.direction - self.middle
        return float((beyond > 0).mean()), float((np.abs(beyond) < self.apart / 4).mean())


def two_modes(first: NDArray[np.float64], second: NDArray[np.float64]) -> Modes | None:
    """The modes of a distribution, of which there are two sets of draws [draws, numbers]; None where it has not two."""
    distances = _distances(first, first)
    ends = np.unravel_index(int(distances.argmax()), distances.shape)
    means = first[list(ends)]
    for _ in range(LLOYD_STEPS):
        upper = _distances(first, means).argmin(1) == 1
        if upper.all() or not upper.any():
            return None
        means = np.stack([first[~upper].mean(0), first[upper].mean(0)])
    apart = float(np.linalg.norm(means[1] - means[0]))
    if not apart:
        return None
    direction = (means[1] - means[0]) / apart
    middle = float(means.mean(0) @ direction)
    along = second @ direction
    above, below = along[along > middle], along[along <= middle]
    if min(len(above), len(below)) < LEAST_SHARE * len(along):
        return None
    if np.sqrt(2) * (above.mean() - below.mean()) < SEPARATED * np.hypot(above.std(), below.std()):
        return None
    return Modes(direction, middle, apart)


def _distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every row of a to every row of b."""
    return np.linalg.norm(a[:, None] - b, axis=-1)


def _spread(chunks: NDArray[np.float64]) -> float:
    """Root mean square distance of two different chunks."""
    count = len(chunks)
    return float(np.sqrt(np.square(_distances(chunks, chunks)).sum() / max(1, count * (count - 1))))


def _flips_of(chunks: Chunks, grippers: Sequence[Gripper]) -> NDArray[np.int64]:
    """Of every chunk, [observations, draws]."""
    return np.array([[_flips(chunk, grippers) for chunk in draws] for draws in chunks])


def _squared_error(counts: NDArray[np.int64]) -> float:
    """Of their mean over fixed observations and random draws, [observations, draws]."""
    observations, draws = counts.shape
    return float(counts.var(1, ddof=1 if draws > 1 else 0).sum()) / (draws * observations**2)


def _flips(chunk: NDArray[np.float64], grippers: Sequence[Gripper]) -> int:
    """Of all grippers in one chunk [actions, joints], in the robot's own units."""
    flips = 0
    for gripper in grippers:
        values = chunk[:, gripper.joint]
        ends = np.where(values > gripper.high, 1, np.where(values < gripper.low, -1, 0))
        reached = ends[ends != 0]
        flips += int((np.diff(reached) != 0).sum())
    return flips

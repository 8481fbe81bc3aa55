"""The accuracy gate: measures how far a quantized policy's chunks are from those of fp32, and reports the verdict.

Cosines are taken on normalized actions, where every joint counts alike and no mean pose makes chunks look similar;
errors of joints are in the robot's own units. Keys, values and velocities do not enter the verdict: they
show where the error arises. Thresholds and verdict are in `pi0_edge.ptq.verdict`, the page for people in `report`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.statistics import Pairing
from pi0_edge.json_values import to_json_values
from pi0_edge.ptq.distribution import DistributionReport
from pi0_edge.ptq.trace import Trace
from pi0_edge.ptq.verdict import (
    DEFAULT_TEACHER_THRESHOLDS,
    GateVerdict,
    TeacherThresholds,
    Thresholds,
    judge,
    judge_distribution,
)
from pi0_edge.quant.compare import compare_actions


@dataclass(frozen=True)
class JointError:
    """Absolute error of one action dimension over all actions of all chunks, in the robot's own unit.

    Attributes:
        name: Of the joint.
        p50: Median.
        p99: 99th percentile.
        max: The largest.
    """

    name: str
    p50: float
    p99: float
    max: float


@dataclass(frozen=True)
class Drift:
    """Error along the chunk, over all chunks and joints, in normalized units.

    Attributes:
        rms: Root of the mean squared error of each action, [horizon].
        p99: 99th percentile, [horizon].
        max: The largest, [horizon].
    """

    rms: tuple[float, ...]
    p99: tuple[float, ...]
    max: tuple[float, ...]


@dataclass(frozen=True)
class InnerError:
    """Relative errors inside the network: norm of the difference over norm of the reference, over the probed chunks.

    Attributes:
        keys: Of the prefix's cached keys, per layer.
        values: Of its cached values, per layer.
        velocities: Of the velocity, per Euler step, each policy on its own path from the same noise.
    """

    keys: tuple[float, ...]
    values: tuple[float, ...]
    velocities: tuple[float, ...]


@dataclass(frozen=True)
class GateReport:
    """All measurements, and the verdict.

    Attributes:
        verdict: Whether the candidate may be served, and why not.
        observations: How many held-out observations were compared.
        draws: Noise draws per observation.
        cosine_whole: Of each whole chunk, [observations * draws]; NaN where the candidate gave no chunk.
        cosine_executed: Of each chunk's executed part, [observations * draws].
        joints: Error per joint.
        drift: Error along the chunk.
        inner: Error inside the network; None where the engine does not run a torch model.
        success: Closed-loop success on the same seeds, the reference first; None where no episode was run.
        distribution: The chunks beside those of the teacher; None where the policy was judged without one.
        instructions: On which the candidate ran, see `CpuEngine.instructions`; None where another engine ran it.
    """

    verdict: GateVerdict
    observations: int
    draws: int
    cosine_whole: tuple[float, ...]
    cosine_executed: tuple[float, ...]
    joints: tuple[JointError, ...]
    drift: Drift
    inner: InnerError | None
    success: Pairing | None = None
    distribution: DistributionReport | None = None
    instructions: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has, `verdict` first; what is not a number becomes None."""
        success = None if self.success is None else self.success.to_dict()
        distribution = None if self.distribution is None else asdict(self.distribution)
        plain = {"verdict": self.verdict.to_dict(), "success": success, "distribution": distribution}
        return to_json_values({**vars(self), **plain})


def compare(
    reference: Trace,
    candidate: Trace,
    joints: Sequence[str],
    thresholds: Thresholds,
    names: Sequence[str] = (),
    success: Pairing | None = None,
    distribution: DistributionReport | None = None,
    teacher_thresholds: TeacherThresholds = DEFAULT_TEACHER_THRESHOLDS,
) -> GateReport:
    """Compares two traces over the same observations and noise, and judges.

    Args:
        reference: Of fp32.
        candidate: Of the quantized policy.
        joints: A name per action dimension.
        thresholds: To judge by.
        names: Name of each observation; numbers where empty.
        success: Closed-loop success on the same seeds, the reference first.
        distribution: The candidate's chunks beside those of its teacher, where it has one.
        teacher_thresholds: To judge that by.

    Raises:
        ConfigError: If the traces are of different observations, or the reference itself gave no chunk.
    """
    if reference.normalized.shape != candidate.normalized.shape:
        found = f"{list(candidate.normalized.shape)} against {list(reference.normalized.shape)}"
        raise ConfigError(f"the traces have different shapes, {found}; trace both policies over the same observations")
    if reference.refusals:
        (place, draw), reason = next(iter(reference.refusals.items()))
        raise ConfigError(f"the fp32 reference gives no chunk for observation {place}, draw {draw}: {reason}")
    observations, draws = reference.normalized.shape[:2]
    whole = _cosines(reference.normalized, candidate.normalized)
    executed = _cosines(*(t.normalized[:, :, : thresholds.executed] for t in (reference, candidate)))
    labels = list(names) or [f"observation {place}" for place in range(observations)]
    places = [f"{label}, noise draw {draw}" for label in labels for draw in range(draws)]
    refusals = {place * draws + draw: why for (place, draw), why in candidate.refusals.items()}
    interval = None if success is None else success.interval
    taught = () if distribution is None else judge_distribution(distribution, teacher_thresholds)
    return GateReport(
        verdict=judge(whole, executed, thresholds, places, interval, refusals, taught),
        observations=observations,
        draws=draws,
        cosine_whole=tuple(whole),
        cosine_executed=tuple(executed),
        joints=_joint_errors(candidate.physical - reference.physical, joints),
        drift=_drift(candidate.normalized - reference.normalized),
        inner=_inner_error(reference, candidate),
        success=success,
        distribution=distribution,
    )


def _cosines(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> list[float]:
    """One per chunk of [observations, draws, actions, joints]; NaN where the candidate's is not a number."""
    pairs = zip(reference.reshape(-1, *reference.shape[2:]), candidate.reshape(-1, *candidate.shape[2:]), strict=True)
    return [compare_actions(a, b).cosine if np.isfinite(b).all() else float("nan") for a, b in pairs]


def _joint_errors(error: NDArray[np.float64], joints: Sequence[str]) -> tuple[JointError, ...]:
    given = np.abs(error[np.isfinite(error).all((2, 3))]).reshape(-1, error.shape[-1])  # [actions, joints]
    if not len(given):
        return ()
    p50, p99 = np.percentile(given, (50, 99), axis=0)
    rows = zip(joints, p50, p99, given.max(0), strict=True)
    return tuple(JointError(name, *map(float, figures)) for name, *figures in rows)


def _drift(error: NDArray[np.float64]) -> Drift:
    given = error[np.isfinite(error).all((2, 3))]  # [chunks, horizon, joints]
    if not len(given):
        return Drift((), (), ())
    along = np.abs(given).transpose(1, 0, 2).reshape(given.shape[1], -1)
    figures = np.sqrt((along**2).mean(1)), np.percentile(along, 99, axis=1), along.max(1)
    return Drift(*(tuple(values.tolist()) for values in figures))


def _inner_error(reference: Trace, candidate: Trace) -> InnerError | None:
    both = sorted(reference.inside.keys() & candidate.inside.keys())
    if not both:
        return None
    pairs = [(reference.inside[place], candidate.inside[place]) for place in both]
    return InnerError(
        keys=_relative([(a.keys, b.keys) for a, b in pairs]),
        values=_relative([(a.values, b.values) for a, b in pairs]),
        velocities=_relative([(tuple(a.velocities), tuple(b.velocities)) for a, b in pairs]),
    )


def _relative(
    pairs: Sequence[tuple[Sequence[NDArray[np.float32]], Sequence[NDArray[np.float32]]]],
) -> tuple[float, ...]:
    """Per layer or step: norm of all differences over norm of all references."""
    errors = []
    for step in range(len(pairs[0][0])):
        difference = sum(float(np.square(b[step] - a[step], dtype=np.float64).sum()) for a, b in pairs)
        length = sum(float(np.square(a[step], dtype=np.float64).sum()) for a, _ in pairs)
        errors.append(float(np.sqrt(difference / length)) if length else 0.0)
    return tuple(errors)

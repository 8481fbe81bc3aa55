"""Thresholds that a quantized policy must meet, and the verdict over measured cosines, distributions and success.

Pure numbers: nothing here runs a network. A value that is not a number misses every threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import QuantizationError
from pi0_edge.ptq.distribution import LEAST_DRAWS, DistributionReport


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the accuracy gate; the cosine limits hold for the whole chunk and for its executed part.

    Attributes:
        cosine_mean: Least mean of the cosines between chunks of candidate and reference.
        cosine_worst: Least cosine of any chunk.
        executed: How many actions of a chunk are executed before the next one takes over.
        chunks: Fewest chunks that a verdict may rest on.
        success_loss: Largest loss of closed-loop success, as a share of episodes, that the interval of the paired
            difference may contain. Judged only where the closed loop was measured.

    Raises:
        QuantizationError: If a limit is outside its range.
    """

    cosine_mean: float = 0.999
    cosine_worst: float = 0.995
    executed: int = 25
    chunks: int = 20
    success_loss: float = 0.10

    def __post_init__(self) -> None:
        for name, low, high in (("cosine_mean", -1, 1), ("cosine_worst", -1, 1), ("success_loss", 0, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise QuantizationError(f"threshold {name} is {value}, expected {low} to {high}")
        for name in ("executed", "chunks"):
            if getattr(self, name) < 1:
                raise QuantizationError(f"threshold {name} is {getattr(self, name)}, expected at least 1")


DEFAULT_THRESHOLDS = Thresholds()


@dataclass(frozen=True)
class TeacherThresholds:
    """Thresholds against a teacher, of the figures of `pi0_edge.ptq.distribution`.

    They are not tuned to pass: docs/distillation.md has the figures of the teacher against itself, of distilled
    policies and of those that must fail.

    Attributes:
        energy: Largest coefficient of the energy distance; 64 draws of one distribution have about 0.016 by chance.
        shift: Largest shift of the mean chunk, as a share of the teacher's spread.
        spread_least: Least spread, as a share of the teacher's.
        spread_most: Largest spread, as a share of the teacher's.
        stray: Largest distance from the teacher's chunks beyond that of its own other draws, as a share of its spread.
        mode_share: Largest mean difference of the share of a mode.
        between: Largest share of chunks between two modes, beyond that of the teacher.
        flips: Largest difference of the gripper flips per chunk, beyond two standard errors.
        draws: Fewest draws per observation that a verdict may rest on.
    """

    energy: float = 0.05
    shift: float = 0.30
    spread_least: float = 0.80
    spread_most: float = 1.25
    stray: float = 0.10
    mode_share: float = 0.15
    between: float = 0.05
    flips: float = 0.10
    draws: int = LEAST_DRAWS


DEFAULT_TEACHER_THRESHOLDS = TeacherThresholds()


@dataclass(frozen=True)
class Finding:
    """One threshold and the measured value.

    Attributes:
        name: Of the measured quantity.
        found: Measured value.
        limit: Least value that passes, or the largest one.
        where: Chunk with this value; empty where it is of all chunks.
        at_most: Whether the limit is the largest value that passes.
    """

    name: str
    found: float
    limit: float
    where: str = ""
    at_most: bool = False

    @property
    def passed(self) -> bool:
        """Whether the value keeps to the limit; NaN does not."""
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    @property
    def asked(self) -> str:
        """The limit in words."""
        return f"at {'most' if self.at_most else 'least'} {self.limit:g}"

    def __str__(self) -> str:
        if self.at_most:
            relation = "keeps to" if self.passed else "is above"
        else:
            relation = "reaches" if self.passed else "is below"
        place = f" ({self.where})" if self.where else ""
        return f"{self.name} {self.found:.6g}{place} {relation} {self.limit:g}"


@dataclass(frozen=True)
class GateVerdict:
    """Whether a quantized policy may move a robot.

    Attributes:
        findings: Every threshold with the measured value.
        thresholds: To judge by.
        refusals: A sentence for each chunk that the candidate did not give.
    """

    findings: tuple[Finding, ...]
    thresholds: Thresholds
    refusals: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every threshold is met and every chunk was given."""
        return not self.refusals and all(finding.passed for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate failed, one sentence each; empty where it passed."""
        return (*self.refusals, *(str(finding) for finding in self.findings if not finding.passed))

    def to_dict(self) -> dict[str, Any]:
        """In types that JSON has."""
        findings = [{**asdict(finding), "passed": finding.passed} for finding in self.findings]
        return {
            "passed": self.passed,
            "reasons": list(self.reasons),
            "thresholds": asdict(self.thresholds),
            "findings": findings,
        }


def judge(
    whole: ArrayLike,
    executed: ArrayLike,
    thresholds: Thresholds,
    places: Sequence[str] = (),
    success_difference: tuple[float, float] | None = None,
    refusals: Mapping[int, str] | None = None,
    against_teacher: Sequence[Finding] = (),
) -> GateVerdict:
    """Judges measured chunks.

    Args:
        whole: Cosine of each whole chunk with the reference's, [chunks]; NaN where the candidate gave none.
        executed: Cosine of each chunk's executed part, [chunks].
        thresholds: To judge by.
        places: Name of each chunk, such as "frame 12, noise draw 1"; numbers where empty.
        success_difference: 95 % interval of the candidate's minus the reference's closed-loop success.
        refusals: Reason why the candidate gave no chunk, by chunk.
        against_teacher: From `judge_distribution`, where the policy has a teacher.

    Raises:
        QuantizationError: If there is no chunk, or the lengths differ.
    """
    cosines = {"whole chunk": _row(whole), "executed part": _row(executed)}
    count = len(cosines["whole chunk"])
    names = list(places) or [f"chunk {place}" for place in range(count)]
    if not count or {len(names), len(cosines["executed part"])} != {count}:
        lengths = f"{count} whole chunks, {len(cosines['executed part'])} executed parts and {len(names)} names"
        raise QuantizationError(f"cannot judge {lengths}; expected the same number of each, at least one")
    findings = [Finding("number of chunks", count, thresholds.chunks)]
    for part, values in cosines.items():
        worst = int(np.argmin(np.where(np.isnan(values), -np.inf, values)))
        findings += [
            Finding(f"mean cosine of the {part}", float(values.mean()), thresholds.cosine_mean),
            Finding(f"worst cosine of the {part}", float(values[worst]), thresholds.cosine_worst, names[worst]),
        ]
    if success_difference is not None:
        lower = success_difference[0]
        findings.append(
            Finding("lower end of the difference in success", lower, -thresholds.success_loss, "95 % interval")
        )
    findings += against_teacher
    refused = tuple(f"no chunk for {names[place]}: {why}" for place, why in sorted((refusals or {}).items()))
    return GateVerdict(tuple(findings), thresholds, refused)


def judge_distribution(report: DistributionReport, thresholds: TeacherThresholds) -> tuple[Finding, ...]:
    """Judges a policy by the distribution of its chunks beside that of its teacher.

    Args:
        report: From `pi0_edge.ptq.distribution.compare_distributions`.
        thresholds: To judge by.
    """
    found = report.candidate
    findings = [
        Finding("draws per observation", report.draws, thresholds.draws),
        Finding("energy distance to the teacher", found.energy, thresholds.energy, at_most=True),
        Finding("shift of the mean chunk, in spreads", found.shift, thresholds.shift, at_most=True),
        Finding("spread beside the teacher's", found.spread, thresholds.spread_least),
        Finding("spread beside the teacher's", found.spread, thresholds.spread_most, at_most=True),
        Finding("stray from the teacher's chunks, in spreads", found.stray, thresholds.stray, at_most=True),
    ]
    if found.mode_share is not None and found.between is not None:
        where = f"{report.two_modes} observations with two modes"
        findings += [
            Finding("share of a mode, difference", found.mode_share, thresholds.mode_share, where, True),
            Finding("chunks between two modes, difference", found.between, thresholds.between, where, True),
        ]
    if found.flips is not None and report.teacher_flips is not None:
        where = f"{found.flips:.3g} against {report.teacher_flips:.3g}"
        difference = max(0.0, abs(found.flips - report.teacher_flips) - 2 * (report.flips_error or 0.0))
        findings.append(Finding("gripper flips per chunk, difference", difference, thresholds.flips, where, True))
    return tuple(findings)


def _row(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, np.float64).reshape(-1)

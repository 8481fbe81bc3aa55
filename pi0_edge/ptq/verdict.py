"""Thresholds that a quantized policy must meet, and the verdict over measured cosines and success.

Pure numbers: nothing here runs a network. Every threshold is a lower limit, and a value that is not a number misses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pi0_edge.errors import QuantizationError


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
class Finding:
    """One threshold and the measured value.

    Attributes:
        name: Of the measured quantity.
        found: Measured value.
        limit: Least value that passes.
        where: Chunk with this value; empty where it is of all chunks.
    """

    name: str
    found: float
    limit: float
    where: str = ""

    @property
    def passed(self) -> bool:
        """Whether the value reaches the limit; NaN does not."""
        return self.found >= self.limit

    def __str__(self) -> str:
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
) -> GateVerdict:
    """Judges measured chunks.

    Args:
        whole: Cosine of each whole chunk with the reference's, [chunks]; NaN where the candidate gave none.
        executed: Cosine of each chunk's executed part, [chunks].
        thresholds: To judge by.
        places: Name of each chunk, such as "frame 12, noise draw 1"; numbers where empty.
        success_difference: 95 % interval of the candidate's minus the reference's closed-loop success.
        refusals: Reason why the candidate gave no chunk, by chunk.

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
    refused = tuple(f"no chunk for {names[place]}: {why}" for place, why in sorted((refusals or {}).items()))
    return GateVerdict(tuple(findings), thresholds, refused)


def _row(values: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(values, np.float64).reshape(-1)

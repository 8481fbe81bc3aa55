"""A policy that was distilled is judged beside its teacher: which one that is, and the chunks of both.

teacher = Teacher("teacher-checkpoint", observations=16, draws=64)
quantize("student-checkpoint", "int8-w8a8", teacher=teacher)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi0_edge.distillation.origin import Origin
from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy
from pi0_edge.processing import Observation
from pi0_edge.progress import ProgressCallback, Stage
from pi0_edge.ptq.distribution import LEAST_DRAWS, DistributionReport, compare_distributions, grippers_of
from pi0_edge.ptq.trace import Trace, trace
from pi0_edge.ptq.verdict import DEFAULT_TEACHER_THRESHOLDS, TeacherThresholds

TEACHER_SEEDS = 10_000_000
CANDIDATE_SEEDS = 20_000_000
"""First noise seeds; apart from each other, and from those of the comparison with fp32."""


@dataclass(frozen=True)
class Teacher:
    """The policy that a student learned from, and how the two are compared.

    Attributes:
        checkpoint: Of the teacher.
        observations: How many of the held-out ones, evenly spread.
        draws: Of the student per observation; the teacher has twice as many.
        thresholds: To judge by.
    """

    checkpoint: str | Path
    observations: int = 16
    draws: int = LEAST_DRAWS
    thresholds: TeacherThresholds = DEFAULT_TEACHER_THRESHOLDS

    def __post_init__(self) -> None:
        for name in ("observations", "draws"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of the teacher is {getattr(self, name)}, expected at least 1")

    def load(self, student: Path) -> Policy:
        """The teacher in fp32.

        Raises:
            CheckpointError: If it does not load.
            ConfigError: If it is not the one that the student learned from.
        """
        policy = Policy.load(self.checkpoint, "reference")
        origin = Origin.find(student)
        if origin is not None and origin.teacher_sha256 != policy.checkpoint_sha256:
            raise ConfigError(
                f"{student} learned from the checkpoint {origin.teacher_sha256[:12]}, but {self.checkpoint} is "
                f"{policy.checkpoint_sha256[:12]}; give the one that it learned from"
            )
        return policy

    def chosen(self, observations: Sequence[Observation]) -> list[Observation]:
        """Those that both are compared on."""
        count = min(self.observations, len(observations))
        return [observations[place] for place in np.linspace(0, len(observations) - 1, count).astype(int)]

    def chunks(
        self, policy: Policy, observations: Sequence[Observation], on_progress: ProgressCallback | None = None
    ) -> Trace:
        """Both sets of chunks of the teacher."""
        stage = Stage("teacher", len(observations) * 2 * self.draws, on_progress)
        found = trace(policy, observations, 2 * self.draws, 0, stage.advance, TEACHER_SEEDS)
        if found.refusals:
            raise ConfigError(f"the teacher gives no chunk: {next(iter(found.refusals.values()))}")
        return found

    def compare(
        self,
        taught: Trace,
        candidate: Policy,
        observations: Sequence[Observation],
        executed: int,
        on_progress: ProgressCallback | None = None,
    ) -> DistributionReport:
        """The candidate's chunks beside the teacher's.

        Args:
            taught: From `chunks`.
            candidate: On any engine.
            observations: Those of `taught`.
            executed: How many actions of a chunk are compared.
            on_progress: Is called after every chunk.

        Raises:
            ConfigError: If its chunks are not those of the teacher's robot.
        """
        stage = Stage(f"{candidate.engine.scheme} beside the teacher", len(observations) * self.draws, on_progress)
        found = trace(candidate, observations, self.draws, 0, stage.advance, CANDIDATE_SEEDS)
        return compare_distributions(
            taught.normalized[:, :, :executed],
            found.normalized[:, :, :executed],
            taught.physical,
            found.physical,
            grippers_of(candidate.processor.robot),
        )


def check_taught(student: str | Path, teacher: Teacher | None) -> None:
    """Raises `ConfigError` where a checkpoint was distilled and its teacher is not given."""
    origin = Origin.find(Path(student))
    if origin is not None and teacher is None:
        raise ConfigError(
            f"{student} was distilled to {origin.steps} Euler steps: whether it does what its teacher "
            f"({origin.teacher_sha256[:12]}) does shows only beside it; name the teacher's checkpoint (teacher)"
        )

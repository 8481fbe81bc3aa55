"""A policy that was distilled is judged beside its teacher: which one that is, and the chunks of both.

teacher = Teacher("teacher-checkpoint", observations=16, draws=64)
quantize("student-checkpoint", "int8-w8a8", teacher=teacher)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi0_edge.checkpoints import open_checkpoint
from pi0_edge.distillation.origin import Origin
from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy, combined_hash
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

    def load(self) -> Policy:
        """The teacher in fp32.

        Raises:
            CheckpointError: If it does not load.
        """
        return Policy.load(self.checkpoint, "reference")

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
    """Passes where a checkpoint was not distilled, or its teacher is given; to be called before the work of the gate.

    Raises:
        CheckpointError: If its `distillation.json` is damaged, or the teacher cannot be opened.
        ConfigError: If the teacher is missing or another one.
    """
    origin = Origin.find(Path(student))
    if origin is None:
        return
    if teacher is None:
        raise ConfigError(
            f"{student} was distilled to {origin.steps} Euler steps: whether it does what its teacher "
            f"({origin.teacher_sha256[:12]}) does shows only beside it; name the teacher's checkpoint (teacher)"
        )
    found = combined_hash(open_checkpoint(Path(teacher.checkpoint)).source_hashes())
    if found != origin.teacher_sha256:
        raise ConfigError(
            f"{student} learned from the checkpoint {origin.teacher_sha256[:12]}, but {teacher.checkpoint} is "
            f"{found[:12]}; give the one that it learned from"
        )

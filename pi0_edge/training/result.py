"""What a training run hands back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        checkpoint: Folder of the policy; of the first robot where there are several.
        plot: The loss over the steps.
        steps: Optimizer steps, those of resumed runs included.
        seconds: Time spent in them.
        loss: Of the head, mean of the last hundred steps; losses of two heads say nothing of each other.
        head: Its name.
        parameters: Learned ones, see `pi0_edge.heads.parameter_counts`.
    """

    checkpoint: Path
    plot: Path
    steps: int
    seconds: float
    loss: float
    head: str
    parameters: dict[str, int]

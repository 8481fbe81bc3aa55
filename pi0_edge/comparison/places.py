"""Where everything lies in the folder of a comparison.

OUTPUT/
    plan.json                       what is computed; another plan needs another folder
    TASK/demonstrations/            LeRobotDataset; complete where TASK/demonstrations.json is
    TASK/backbone/                  vision tower and prefix, with keys and values of every observation
    TASK/rates/VARIANT-RATE.json    held-out loss of a learning rate
    TASK/VARIANT-SEED/              a cell: checkpoint/ and cell.json, and a played-DECODING.json for each decoding
    latency.json                    chunks of every head, timed with nothing of this command beside
    clock/VARIANT/clock.json        through bridge and emulated firmware, in real time
    report.html, report.md          for people; report.json for programs
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pi0_edge.comparison.plan import Decoding, TaskBudget, Variant


@dataclass(frozen=True)
class Places:
    """Where things lie in the folder of a comparison.

    Attributes:
        root: The folder.
    """

    root: Path

    def demonstrations(self, task: TaskBudget) -> Path:
        """Of a task."""
        return self.root / task.name / "demonstrations"

    def recorded(self, task: TaskBudget) -> Path:
        """File that is there once all demonstrations are."""
        return self.root / task.name / "demonstrations.json"

    def backbone(self, task: TaskBudget) -> Path:
        """Of a task."""
        return self.root / task.name / "backbone"

    def rate(self, task: TaskBudget, variant: Variant, rate: float) -> Path:
        """Result of a learning rate."""
        return self.root / task.name / "rates" / f"{variant.name}-{rate:g}.json"

    def cell(self, task: TaskBudget, variant: Variant, seed: int) -> Path:
        """Folder of a cell."""
        return self.root / task.name / f"{variant.name}-{seed}"

    def played(self, task: TaskBudget, variant: Variant, seed: int, decoding: Decoding) -> Path:
        """Result of a way of decoding."""
        return self.cell(task, variant, seed) / f"played-{decoding.name.replace(' ', '-')}.json"

    @property
    def latency(self) -> Path:
        """Of every head and decoding."""
        return self.root / "latency.json"

    def clock(self, variant: Variant) -> Path:
        """Folder of a run through the firmware."""
        return self.root / "clock" / variant.name

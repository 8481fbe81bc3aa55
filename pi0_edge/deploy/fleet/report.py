"""What became of each robot in a roll-out."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pi0_edge.deploy.fleet.states import shown_release


class Outcome(str, enum.Enum):
    """What a roll-out did with a robot; the value is the word for people and programs.

    A robot has `failed` that committed the release and whose policy server does not run any more.
    """

    COMMITTED = "committed"
    ALREADY_THERE = "already there"
    REFUSED = "refused"
    TAKEN_BACK = "taken back"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    NOT_TRIED = "not tried"

    @property
    def has_release(self) -> bool:
        """Whether the robot runs the release now."""
        return self in (Outcome.COMMITTED, Outcome.ALREADY_THERE)

    @property
    def stops(self) -> bool:
        """Whether no further robot gets the release: one that is off says nothing against it."""
        return self in (Outcome.REFUSED, Outcome.TAKEN_BACK, Outcome.FAILED)


@dataclass(frozen=True)
class RobotOutcome:
    """One robot in a roll-out.

    Attributes:
        robot: Its name in the inventory.
        outcome: What was done.
        reason: Why, in the words of the robot or of ssh.
        runs: ID of what it runs now; None where nothing does, or nobody knows.
        known: Whether somebody knows what it runs.
        stage: Number of its stage, from 1; None for a robot that came into none.
        seconds: How long it took.
    """

    robot: str
    outcome: Outcome
    reason: str
    runs: str | None = None
    known: bool = True
    stage: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class FleetReport:
    """A roll-out.

    Attributes:
        release: ID of what was rolled out.
        robots: All of the inventory, in its order.
        stopped: Why it ended before its last stage; empty where it did not.
        interrupted: Whether a person ended it.
        seconds: How long it took.
    """

    release: str
    robots: tuple[RobotOutcome, ...]
    stopped: str = ""
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every robot runs the release."""
        return all(robot.outcome.has_release for robot in self.robots)

    @property
    def counts(self) -> dict[str, int]:
        """Robots by outcome, those that there are."""
        found = Counter(robot.outcome for robot in self.robots)
        return {outcome.value: found[outcome] for outcome in Outcome if found[outcome]}

    @property
    def summary(self) -> str:
        """One sentence."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        return f"{self.release}: {counts}" + (f"; stopped: {self.stopped}" if self.stopped else "")

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The columns `COLUMNS` of a table."""
        return [
            (
                robot.robot,
                "-" if robot.stage is None else str(robot.stage),
                robot.outcome.value,
                shown_release(robot.runs, robot.known),
                robot.reason,
            )
            for robot in self.robots
        ]

    def to_markdown(self) -> str:
        """A page: the sentence and the table."""
        lines = ["# Roll-out", "", f"{self.summary}; {self.seconds:.0f} s.", ""]
        return "\n".join([*lines, *_markdown_table(COLUMNS, self.rows())]) + "\n"


COLUMNS = ("robot", "stage", "outcome", "runs", "reason")


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"

    return [line(columns), "|" + "---|" * len(columns), *map(line, rows)]

"""One step of the playbook: brings the release to one robot, and says what became of it.

python -m pi0_edge.deploy.fleet.one_robot FOLDER ROBOT        FOLDER has the files of `plan`

Exit code 1 where the robot refused the release or took it back: then ansible begins no further stage.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pi0_edge.deploy.fleet.plan import Plan, read_plan
from pi0_edge.deploy.fleet.report import Outcome, RobotOutcome
from pi0_edge.deploy.fleet.states import RobotState, read_state, shown_release
from pi0_edge.deploy.session import RobotBusyError
from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.deploy.transfer.ssh import LinkLostError
from pi0_edge.errors import DeployError, Pi0EdgeError

_SAYS_NOTHING = (LinkLostError, RobotBusyError)
"""Ends of a flash that are no word against the release."""


class Flashable(Protocol):
    """What this needs of a robot; `RobotHost` is one."""

    def status(self) -> dict[str, Any]:
        """What it says about itself."""
        ...

    def flash(self, bundle: Path, *, budget_ms: float | None, deadline_s: float, bwlimit_kbps: int | None) -> object:
        """Brings a release to it."""
        ...


def flash_one(host: Flashable, robot: str, plan: Plan) -> RobotOutcome:
    """Brings the release to one robot.

    What is not known after a lost link is asked for: in an installation a robot goes on alone. What cannot be told from
    a refusal counts as one, so that in doubt the roll-out stops.

    Args:
        host: The robot.
        robot: Its name in the inventory.
        plan: What is rolled out.
    """
    begin = time.monotonic()

    def ended(outcome: Outcome, reason: str, state: RobotState | None = None) -> RobotOutcome:
        runs, seconds = state and state.current, round(time.monotonic() - begin, 1)
        return RobotOutcome(robot, outcome, reason, runs, known=state is not None, seconds=seconds)

    if plan.stop.exists():
        return ended(Outcome.NOT_TRIED, "another robot of the stage had stopped the roll-out")
    try:
        before = read_state(robot, host.status())
    except LinkLostError as error:
        return ended(Outcome.UNREACHABLE, str(error))
    except DeployError as error:
        return ended(Outcome.REFUSED, str(error))
    if before.current == plan.release:
        return ended(Outcome.ALREADY_THERE, "it runs this release already", before)
    try:
        host.flash(plan.bundle, budget_ms=plan.budget_ms, deadline_s=plan.deadline_s, bwlimit_kbps=plan.bwlimit_kbps)
        failure = None
    except Pi0EdgeError as error:
        failure = error
    try:
        after = read_state(robot, host.status())
    except DeployError as error:
        lost = isinstance(error, LinkLostError) and (failure is None or isinstance(failure, _SAYS_NOTHING))
        return ended(Outcome.UNREACHABLE if lost else Outcome.REFUSED, str(failure or error))
    return ended(*_judged(before, after, plan.release, failure), after)


def _judged(before: RobotState, after: RobotState, release: str, failure: Pi0EdgeError | None) -> tuple[Outcome, str]:
    """What it means that a flash ended so, and that the robot runs this now."""
    if after.current == release:
        return Outcome.COMMITTED, "committed" if failure is None else f"committed, in spite of: {failure}"
    if (why := after.why_bad(release)) is not None:
        listed_before = before.why_bad(release) is not None
        return (Outcome.REFUSED, str(failure or why)) if listed_before else (Outcome.TAKEN_BACK, why)
    if isinstance(failure, _SAYS_NOTHING):
        return Outcome.UNREACHABLE, f"the release is not on it yet: {failure}"
    return Outcome.REFUSED, str(
        failure or f"it said that the release is committed, and runs {shown_release(after.current, True)}"
    )


def _reasons(plan: Plan, robot: str) -> Callable[[str], None]:
    return lambda reason: plan.tell("reason", robot=robot, reason=reason)


def main(arguments: list[str]) -> int:
    """Runs the step; returns the exit code."""
    plan, robot = read_plan(Path(arguments[0])), arguments[1]
    plan.tell("begun", robot=robot)
    host = RobotHost(robot, ssh_config=plan.ssh_config, key=plan.key, on_reason=_reasons(plan, robot))
    found = flash_one(host, robot, plan)
    plan.tell_outcome(found)
    return 1 if found.outcome.stops else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

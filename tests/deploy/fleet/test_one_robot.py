"""What is said of one robot, for everything that can happen to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pi0_edge.deploy.fleet.one_robot import flash_one
from pi0_edge.deploy.fleet.plan import Plan, read_outcome, read_plan
from pi0_edge.deploy.fleet.report import Outcome
from pi0_edge.deploy.session import RobotBusyError
from pi0_edge.deploy.transfer.ssh import LinkLostError
from pi0_edge.errors import DeployError, Pi0EdgeError

OLD, NEW = "6-aaaaaaaaaaaa", "7-bbbbbbbbbbbb"
LOST, REFUSED = LinkLostError("the link was lost"), DeployError("no room")


class ScriptedRobot:
    """Answers to `status` and `flash` what a test says, an error or a state."""

    def __init__(self, before: str | Pi0EdgeError, flash: Pi0EdgeError | None, after: str | Pi0EdgeError) -> None:
        self._answers, self._flash = [before, after], flash
        self.flashed = False

    def status(self) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, Pi0EdgeError):
            raise answer
        current, _, bad = answer.partition(" bad ")
        return {
            "current": {"release": current},
            "previous": None,
            "trial": None,
            "bad": [{"release": bad, "reason": "it crashed"}] if bad else [],
            "service": "active",
            "temperatures": {},
        }

    def flash(self, bundle: Path, *, budget_ms: float | None, deadline_s: float, bwlimit_kbps: int | None) -> object:
        self.flashed = True
        if self._flash is not None:
            raise self._flash
        return None


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, tmp_path / "cups", NEW, None, 60.0, 0.0)


@pytest.mark.parametrize(
    ("before", "flash", "after", "expected"),
    [
        (OLD, None, NEW, Outcome.COMMITTED),
        (NEW, None, NEW, Outcome.ALREADY_THERE),
        (LOST, None, NEW, Outcome.UNREACHABLE),
        (DeployError("no installer"), None, NEW, Outcome.REFUSED),
        (OLD, REFUSED, OLD, Outcome.REFUSED),
        (OLD, DeployError("it was taken back"), f"{OLD} bad {NEW}", Outcome.TAKEN_BACK),
        (f"{OLD} bad {NEW}", REFUSED, f"{OLD} bad {NEW}", Outcome.REFUSED),
        (OLD, LOST, NEW, Outcome.COMMITTED),  # it went on alone, and well
        (OLD, LOST, f"{OLD} bad {NEW}", Outcome.TAKEN_BACK),  # it went on alone
        (OLD, LOST, OLD, Outcome.UNREACHABLE),
        (OLD, LOST, LOST, Outcome.UNREACHABLE),
        (OLD, RobotBusyError("somebody else flashes it"), OLD, Outcome.UNREACHABLE),
        (OLD, REFUSED, LOST, Outcome.REFUSED),
        (OLD, None, LOST, Outcome.UNREACHABLE),
        (OLD, None, OLD, Outcome.REFUSED),  # it says that it has it, and has it not
    ],
)
def test_each_case(
    plan: Plan, before: str | Pi0EdgeError, flash: Pi0EdgeError | None, after: str | Pi0EdgeError, expected: Outcome
) -> None:
    robot = ScriptedRobot(before, flash, after)
    found = flash_one(robot, "robot-1", plan)
    assert found.outcome is expected
    assert found.reason
    assert robot.flashed == (expected is not Outcome.ALREADY_THERE and isinstance(before, str))


ANSWERS = st.sampled_from([OLD, NEW, f"{OLD} bad {NEW}", LOST, REFUSED])


@given(before=ANSWERS, flash=st.sampled_from([None, LOST, REFUSED]), after=ANSWERS)
def test_no_robot_has_the_release_unless_it_says_so(
    before: str | Pi0EdgeError, flash: Pi0EdgeError | None, after: str | Pi0EdgeError
) -> None:
    plan = Plan(Path("nowhere"), Path("cups"), NEW, None, 60.0, 0.0)
    found = flash_one(ScriptedRobot(before, flash, after), "robot-1", plan)
    last = after if isinstance(before, str) and before != NEW else before
    assert found.outcome.has_release == (last == NEW) == (found.runs == NEW)
    if found.outcome is Outcome.UNREACHABLE:  # a link alone says nothing against the release
        assert before is LOST or (LOST in (flash, after) and flash is not REFUSED)
    assert found.known == isinstance(last, str)


def test_nothing_begins_once_the_roll_out_has_stopped(plan: Plan) -> None:
    plan.stop.touch()
    robot = ScriptedRobot(OLD, None, NEW)
    assert flash_one(robot, "robot-1", plan).outcome is Outcome.NOT_TRIED
    assert not robot.flashed


def test_plan_and_outcome_are_read_as_they_were_written(plan: Plan) -> None:
    plan.write(["robot-1", "robot-2"])
    read = read_plan(plan.folder)
    assert read.release == NEW and read.bundle.name == "cups" and read.deadline_s == plan.deadline_s
    found = flash_one(ScriptedRobot(OLD, DeployError("taken back"), f"{OLD} bad {NEW}"), "robot-1", read)
    read.tell_outcome(found)
    assert plan.stop.exists()
    assert read_outcome(json.loads(plan.events.read_text())) == found

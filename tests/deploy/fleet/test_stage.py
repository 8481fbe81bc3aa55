"""The look at the robots at the end of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pi0_edge.deploy.fleet.plan import Plan, read_events
from pi0_edge.deploy.fleet.report import Outcome, RobotOutcome
from pi0_edge.deploy.fleet.stage import LOOK_EVERY_S, end_stage
from pi0_edge.deploy.fleet.states import RobotState
from pi0_edge.deploy.launcher.slots import BadRelease

OLD, NEW = "6-aaaaaaaaaaaa", "7-bbbbbbbbbbbb"


class Watched:
    """Robots whose states change from look to look, and a clock that only waiting moves."""

    def __init__(self, *looks: dict[str, RobotState]) -> None:
        self.looks, self.asked, self.waited_s = list(looks), [], 0.0

    def ask(self, robots: Sequence[str]) -> list[RobotState]:
        self.asked.append(tuple(robots))
        now = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [now.get(robot, RobotState(robot, True, current=NEW)) for robot in robots]

    def sleep(self, seconds: float) -> None:
        self.waited_s += seconds


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = Plan(tmp_path, tmp_path / "cups", NEW, None, 60.0, soak_minutes=2.0)
    plan.write([])
    for name, outcome in (("a", Outcome.COMMITTED), ("b", Outcome.ALREADY_THERE), ("off", Outcome.UNREACHABLE)):
        plan.tell_outcome(RobotOutcome(name, outcome, "", NEW))
    return plan


def end(plan: Plan, robots: Sequence[str], watched: Watched, *, last: bool = False) -> str:
    return end_stage(plan, robots, last=last, ask=watched.ask, sleep=watched.sleep)


def test_all_robots_that_have_the_release_are_watched_to_the_end(plan: Plan) -> None:
    watched = Watched({})
    assert end(plan, ["a"], watched) == ""
    assert watched.waited_s == 120.0
    assert watched.asked == [("a", "b")] * (1 + round(120.0 / LOOK_EVERY_S))


def test_after_the_last_stage_they_are_looked_at_once(plan: Plan) -> None:
    watched = Watched({})
    assert end(plan, ["a"], watched, last=True) == ""
    assert (watched.waited_s, len(watched.asked)) == (0.0, 1)


@pytest.mark.parametrize(
    ("state", "outcome", "reason"),
    [
        (RobotState("b", True, current=OLD, bad=(BadRelease(NEW, "late"),)), Outcome.TAKEN_BACK, "late"),
        (RobotState("b", True, current=OLD), Outcome.TAKEN_BACK, f"it runs {OLD} now, and nobody said why"),
        (RobotState("b", True, problem="no installer"), Outcome.TAKEN_BACK, "no installer"),
        (
            RobotState("b", True, current=NEW, service="failed", service_reason="it crashed"),
            Outcome.FAILED,
            "its policy server does not run: it crashed",
        ),
    ],
)
def test_a_robot_that_does_not_keep_it_ends_the_watch(
    plan: Plan, state: RobotState, outcome: Outcome, reason: str
) -> None:
    """Also one of an earlier stage."""
    watched = Watched({}, {"b": state})
    assert end(plan, ["a"], watched) == "b had the release and did not keep it"
    assert watched.waited_s == LOOK_EVERY_S
    told = read_events(plan)[-1]
    assert (told["robot"], told["outcome"], told["reason"], told["runs"]) == ("b", outcome, reason, state.current)
    assert plan.stop.exists()


def test_a_stage_without_any_robot_that_has_it_proves_nothing(plan: Plan) -> None:
    assert "nothing was proved" in end(plan, ["off"], Watched({}))


def test_robots_that_are_switched_off_are_no_failure_unless_all_are(plan: Plan) -> None:
    off = {name: RobotState(name, False, "no route") for name in ("a", "b")}
    assert end(plan, ["a", "b"], Watched({"a": off["a"]})) == ""
    assert "can be reached any more" in end(plan, ["a", "b"], Watched(off))

"""The other step of the playbook: begins a stage, and looks at its robots again before the next one.

python -m pi0_edge.deploy.fleet.stage FOLDER begin|end       robots of the stage as a JSON list on standard input

Exit code 1 where the next stage must not begin.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pi0_edge.deploy.fleet.plan import Plan, read_events, read_outcome, read_plan
from pi0_edge.deploy.fleet.report import Outcome, RobotOutcome
from pi0_edge.deploy.fleet.states import RobotState, ask_states, shown_release

_ENDED = "failed"
LOOK_EVERY_S = 30.0
"""Between two looks at the robots of a stage while they are watched."""


def ailing(plan: Plan, outcomes: Iterable[RobotOutcome], states: Sequence[RobotState]) -> list[RobotOutcome]:
    """The robots that had the release and do not run it any more, or not well.

    Args:
        plan: What is rolled out.
        outcomes: What was last said of each robot.
        states: What they say now.
    """
    now = {state.robot: state for state in states}
    found = []
    for outcome in outcomes:
        state = now.get(outcome.robot)
        if state is None or not state.reached:
            continue
        if state.current != plan.release or state.problem:
            shown = shown_release(state.current, state.known)
            reason = state.why_bad(plan.release) or state.problem or f"it runs {shown} now, and nobody said why"
            outcome = dataclasses.replace(outcome, outcome=Outcome.TAKEN_BACK, reason=reason)
        elif state.service == _ENDED:
            reason = f"its policy server does not run: {state.service_reason}"
            outcome = dataclasses.replace(outcome, outcome=Outcome.FAILED, reason=reason)
        else:
            continue
        found.append(dataclasses.replace(outcome, runs=state.current, known=state.known))
    return found


def end_stage(
    plan: Plan,
    robots: Sequence[str],
    *,
    last: bool,
    ask: Callable[[Sequence[str]], Sequence[RobotState]],
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Watches the robots that have the release, those of earlier stages too.

    Args:
        plan: What is rolled out.
        robots: Of the stage.
        last: Whether no other stage follows: then they are looked at once.
        ask: Says what robots run.
        sleep: Waits for seconds.

    Returns:
        Why the next stage must not begin; empty where it may.
    """
    outcomes = {
        found.robot: found
        for event in read_events(plan)
        if event["event"] == "outcome"
        for found in [read_outcome(event)]
    }
    flashed = {name: found for name, found in outcomes.items() if found.outcome.has_release}
    of_stage = [name for name in robots if name in flashed]
    if not of_stage:
        return "no robot of the stage runs the release: nothing was proved by it"
    left_s = 0.0 if last else 60.0 * plan.soak_minutes
    while True:
        states = ask(list(flashed))
        for found in (ill := ailing(plan, flashed.values(), states)):
            plan.tell_outcome(found)
        if ill:
            return f"{', '.join(found.robot for found in ill)} had the release and did not keep it"
        if left_s <= 0:
            break
        sleep(min(LOOK_EVERY_S, left_s))
        left_s -= LOOK_EVERY_S
    if not any(state.reached and state.robot in of_stage for state in states):
        return "no robot of the stage can be reached any more: nobody knows what they run"
    return ""


def main(arguments: list[str]) -> int:
    """Runs the step; returns the exit code."""
    plan, step = read_plan(Path(arguments[0])), arguments[1]
    given = json.load(sys.stdin)
    if step == "begin":
        plan.tell("stage", robots=given["robots"])
        return 0
    plan.tell("watch", minutes=0.0 if given["last"] else plan.soak_minutes)
    ask = lambda robots: ask_states(robots, plan.ssh_config, key=plan.key)  # noqa: E731
    if why := end_stage(plan, given["robots"], last=given["last"], ask=ask):
        plan.stop.touch()
        plan.tell("stopped", reason=why)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

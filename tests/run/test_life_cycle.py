"""The phases of a run: what leads where, and that an end is the end."""

from __future__ import annotations

import pytest

from firmware_bridge.errors import StateError
from pi0_edge.run.life_cycle import ARMED_PHASES, TRANSITIONS, LifeCycle, Outcome, Phase, Step


def in_phase(phase: Phase) -> LifeCycle:
    """A life cycle that has come there by steps of the table."""
    ways: dict[Phase, list[Step]] = {Phase.CHECKING: []}
    while phase not in ways:
        ways |= {
            to: [*ways[start], step] for (start, step), to in TRANSITIONS.items() if start in ways and to not in ways
        }
    life = LifeCycle()
    for step in ways[phase]:
        life.take(step)
    return life


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
@pytest.mark.parametrize("step", Step)
def test_each_step_leads_where_the_table_says_and_nowhere_else(phase: Phase, step: Step):
    life = in_phase(phase)
    assert life.phase is phase
    if (phase, step) in TRANSITIONS:
        assert life.take(step, "because") is TRANSITIONS[phase, step]
        assert life.reason == "because"
    else:
        with pytest.raises(StateError, match=f"a run that is {phase.value} cannot {step.value}; possible are"):
            life.take(step)
        assert life.phase is phase


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.ENDED])
def test_every_phase_may_end_and_the_first_end_counts(phase: Phase):
    life = in_phase(phase)
    life.end(Outcome.FAULT, "a fault")
    life.end(Outcome.DONE, "later")
    assert (life.phase, life.outcome, life.reason) == (Phase.ENDED, Outcome.FAULT, "a fault")
    assert not life.armed and life.ended
    with pytest.raises(StateError, match="a run that is ended cannot start; possible are: nothing"):
        life.take(Step.START)


def test_only_the_policy_and_a_person_who_took_over_have_an_armed_arm():
    assert set(ARMED_PHASES) == {Phase.PLAYING, Phase.TAKEN_OVER}
    assert all(in_phase(phase).armed == (phase in ARMED_PHASES) for phase in Phase if phase is not Phase.ENDED)


def test_exit_codes_are_distinct_and_none_of_other_commands():
    codes = [outcome.value for outcome in Outcome]
    assert len(set(codes)) == len(codes) and not {1, 2, 130} & set(codes)

"""Any order of trials, commits, faults, rollbacks and power cuts leaves a good release, or none that ever was."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from unit_record import UnitRecord

from pi0_edge.deploy.launcher.fallback import fall_back, trial_ran_out
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import POLICY
from pi0_edge.deploy.launcher.slots import (
    Slot,
    begin_trial,
    end_trial,
    read_slots,
    read_trial,
    slots_locked,
    write_slots,
)
from pi0_edge.errors import DeployError


class RobotSlots(RuleBasedStateMachine):
    """The files of one robot; `sequence` counts the releases that were signed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.layout = Layout(self.folder)
        for place in (self.layout.state, self.layout.runtime):
            place.mkdir(parents=True)
        self.units = UnitRecord()
        self.sequence, self.highest_floor = 0, 0

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @precondition(lambda self: read_trial(self.layout) is None)
    @rule()
    def try_next(self) -> None:
        self.sequence += 1
        begin_trial(self.layout, Slot(f"{self.sequence}-abc", self.sequence, "/opt/env"))

    @precondition(lambda self: read_trial(self.layout) is not None)
    @rule()
    def commit(self) -> None:
        trial = read_trial(self.layout)
        assert trial is not None
        with slots_locked(self.layout):
            write_slots(self.layout, read_slots(self.layout).committed(trial))
            end_trial(self.layout)
        assert read_slots(self.layout).current == trial

    @rule()
    def policy_fails(self) -> None:
        before, trial = read_slots(self.layout), read_trial(self.layout)
        slot = fall_back(self.layout, self.units)
        after = read_slots(self.layout)
        if trial is not None:
            assert after.current == before.current
            assert after.is_bad(trial.release)
        elif before.current is not None and before.previous is not None:
            assert after.current == before.previous
            assert after.previous is None
            assert after.is_bad(before.current.release)
        else:
            assert after == before
            assert slot is None, "a release that failed is never started again in place of itself"

    @rule()
    def timer_ends_the_trial(self) -> None:
        before = read_slots(self.layout)
        trial_ran_out(self.layout, self.units)
        assert read_slots(self.layout) == before

    @rule()
    def power_is_cut(self) -> None:
        """What stands in /run is gone."""
        before = read_slots(self.layout)
        shutil.rmtree(self.layout.runtime)
        self.layout.runtime.mkdir()
        assert read_trial(self.layout) is None
        assert read_slots(self.layout) == before

    @rule()
    def person_rolls_back(self) -> None:
        before = read_slots(self.layout)
        try:
            after = before.taken_back("a person")
        except DeployError:
            assert before.previous is None
            return
        with slots_locked(self.layout):
            write_slots(self.layout, after)
        assert after.current == before.previous

    @invariant()
    def what_runs_is_not_bad(self) -> None:
        slots = read_slots(self.layout)
        for slot in (slots.current, slots.previous, read_trial(self.layout)):
            assert slot is None or slots.is_bad(slot.release) is None

    @invariant()
    def the_floor_never_sinks(self) -> None:
        slots = read_slots(self.layout)
        assert slots.sequence_floor >= self.highest_floor
        self.highest_floor = slots.sequence_floor
        assert slots.current is None or slots.current.sequence <= slots.sequence_floor

    @invariant()
    def only_the_policy_server_is_started(self) -> None:
        assert set(self.units.started) <= {POLICY}


RobotSlots.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestRobotSlots = RobotSlots.TestCase

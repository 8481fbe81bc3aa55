"""Only what came to the end of its trial is committed, whoever asks and however often."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit_record import UnitRecord

from pi0_edge.deploy.installer.robot import Robot
from pi0_edge.deploy.installer.trial import commit_trial, take_back_trial
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.launcher.slots import (
    Slot,
    Slots,
    begin_trial,
    end_trial,
    prove_trial,
    read_proof,
    read_slots,
    read_trial,
    write_slots,
)
from pi0_edge.deploy.release import Release
from pi0_edge.errors import DeployError

OLD = Slot("1-aaaaaaaaaaaa", 1, "/opt/env")
RELEASE = Release("b" * 64, 2, "aloha", ("any",), ">=0.1", None, 0.0)
NEW = Slot(RELEASE.id, 2, "/opt/env")


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    layout = Layout(tmp_path)
    layout.state.mkdir(parents=True)
    write_slots(layout, Slots(current=OLD, sequence_floor=1))
    begin_trial(layout, NEW)
    return Robot(layout, RobotSettings("arm", "aloha", "x86", "/opt/env"), UnitRecord())


def test_a_trial_whose_installer_is_gone_is_not_committed(robot: Robot) -> None:
    with pytest.raises(DeployError, match="has not come to the end of its trial"):
        commit_trial(robot)
    assert read_slots(robot.layout).current == OLD
    prove_trial(robot.layout, NEW, "64 chunks")
    assert commit_trial(robot) == NEW
    assert read_slots(robot.layout).current == NEW
    assert read_trial(robot.layout) is None


@pytest.mark.parametrize("left", ["torn", "of another release"])
def test_another_proof_is_none(robot: Robot, left: str) -> None:
    if left == "torn":
        robot.layout.trial_proof.write_text('{"release": "2')
    else:
        prove_trial(robot.layout, OLD, "64 chunks")
    assert read_proof(robot.layout) is None


def test_a_proof_ends_with_its_trial(robot: Robot) -> None:
    prove_trial(robot.layout, NEW, "64 chunks")
    assert read_proof(robot.layout) == "64 chunks"
    end_trial(robot.layout)
    assert read_proof(robot.layout) is None
    begin_trial(robot.layout, NEW)
    assert read_proof(robot.layout) is None


@pytest.mark.parametrize("is_bad", [True, False])
def test_a_release_is_listed_as_bad_where_it_is_to_blame(robot: Robot, is_bad: bool) -> None:
    """An arm that somebody armed in the trial ends it, and says nothing about the release."""
    take_back_trial(robot, RELEASE, "because", is_bad=is_bad)
    assert read_trial(robot.layout) is None
    assert read_slots(robot.layout).current == OLD
    assert (read_slots(robot.layout).is_bad(RELEASE.id) is not None) is is_bad

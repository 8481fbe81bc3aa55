"""A roll-out with real ansible, sessions and rsync, to robots that are folders."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_of_folders import REFUSAL, TAKEN_BACK, FolderFleet

from pi0_edge.deploy.fleet.report import FleetReport
from pi0_edge.deploy.fleet.roll_out import roll_out
from pi0_edge.deploy.release import release_folder
from pi0_edge.errors import DeployError, TrustError

pytestmark = pytest.mark.system

Fleets = Callable[..., FolderFleet]
Releases = Callable[..., Path]


def outcomes(report: FleetReport) -> list[str]:
    return [robot.outcome.value for robot in report.robots]


def test_three_robots_one_after_the_other(make_fleet: Fleets, make_release: Releases) -> None:
    fleet, lines = make_fleet(3), []
    report = roll_out(fleet.inventory, make_release(7), on_reason=lines.append)
    assert report.complete and not report.stopped
    assert outcomes(report) == ["committed"] * 3
    assert [robot.stage for robot in report.robots] == [1, 2, 3]
    assert fleet.runs() == {"robot-1": 7, "robot-2": 7, "robot-3": 7}
    assert any("robot-1: send: 2 files" in line for line in lines)
    assert [line for line in lines if line.startswith("stage")] == [
        "stage 1: 1 robot (robot-1)",
        "stage 2: 1 robot (robot-2)",
        "stage 3: 1 robot (robot-3)",
    ]


def test_a_bad_robot_stops_it_and_a_second_time_goes_on(make_fleet: Fleets, make_release: Releases) -> None:
    """Stages of 1, 2 and the rest: one of the second refuses, one of the third is off."""
    fleet, bundle = make_fleet(6), make_release(7)
    fleet.plays("robot-3", "refuse")
    fleet.plays("robot-5", "off")
    report = roll_out(fleet.inventory, bundle, stages=(1, 2, "100%"))
    assert outcomes(report) == ["committed", "committed", "refused", "not tried", "unreachable", "not tried"]
    assert report.robots[2].reason == REFUSAL
    assert "robot-3" in report.stopped
    assert [fleet.installations(name) for name in fleet.names] == [1, 1, 1, 0, 0, 0]

    fleet.plays("robot-3", "good")
    report = roll_out(fleet.inventory, bundle, stages=("100%",))
    there, off = "already there", "unreachable"
    assert outcomes(report) == [there, there, "committed", "committed", off, "committed"]
    assert not report.stopped and not report.complete

    fleet.plays("robot-5", "good")
    assert roll_out(fleet.inventory, bundle, stages=("100%",)).complete
    assert [fleet.installations(name) for name in fleet.names] == [1, 1, 2, 1, 1, 1]


def test_what_the_canary_takes_back_reaches_no_other_robot(make_fleet: Fleets, make_release: Releases) -> None:
    fleet, bundle = make_fleet(3), make_release(7)
    fleet.plays("robot-1", "take back")
    report = roll_out(fleet.inventory, bundle)
    assert outcomes(report) == ["taken back", "not tried", "not tried"]
    assert report.robots[0].reason == TAKEN_BACK
    assert report.robots[0].known and report.robots[0].runs is None

    # A robot that took it back is known to refuse it: the second time ends before anything is sent.
    again = roll_out(fleet.inventory, bundle)
    assert outcomes(again) == ["refused", "not tried", "not tried"]
    assert "nothing was sent" in again.stopped
    assert fleet.installations("robot-1") == 1


def test_no_other_robot_of_a_stage_begins_after_the_first_failure(make_fleet: Fleets, make_release: Releases) -> None:
    fleet = make_fleet(4)
    fleet.plays("robot-1", "refuse")
    report = roll_out(fleet.inventory, make_release(7), stages=("100%",), at_once=1)
    assert outcomes(report) == ["refused", "not tried", "not tried", "not tried"]
    assert [robot.stage for robot in report.robots] == [1, 1, 1, 1]


@pytest.mark.slow
def test_a_robot_that_falls_back_while_it_is_watched(make_fleet: Fleets, make_release: Releases) -> None:
    fleet = make_fleet(3)
    fleet.plays("robot-1", "fall back")
    report = roll_out(fleet.inventory, make_release(7), stages=(1, "100%"), soak_minutes=0.01)
    assert outcomes(report) == ["taken back", "not tried", "not tried"]
    assert report.stopped == "robot-1 had the release and did not keep it"


@pytest.mark.slow
def test_a_link_that_is_lost_after_the_commit_is_no_failure(make_fleet: Fleets, make_release: Releases) -> None:
    fleet = make_fleet(1)
    fleet.plays("robot-1", "vanish")
    report = roll_out(fleet.inventory, make_release(7), deadline_s=0.5)
    assert outcomes(report) == ["committed"]
    assert fleet.installations("robot-1") == 1


def test_ctrl_c_says_what_each_robot_runs_and_a_second_time_goes_on(make_fleet: Fleets, make_release: Releases) -> None:
    fleet, bundle = make_fleet(3), make_release(7)
    fleet.plays("robot-2", "slow")

    def ctrl_c(line: str) -> None:
        if line.startswith("robot-2: send"):
            raise KeyboardInterrupt

    report = roll_out(fleet.inventory, bundle, stages=(1, "100%"), at_once=1, on_reason=ctrl_c)
    assert report.interrupted
    assert outcomes(report) == ["committed", "not tried", "not tried"]
    assert report.robots[1].reason == "begun and not finished"
    assert [robot.known for robot in report.robots] == [True, True, True]
    assert roll_out(fleet.inventory, bundle).complete


def test_all_robots_are_off(make_fleet: Fleets, make_release: Releases) -> None:
    fleet = make_fleet(2)
    for name in fleet.names:
        fleet.plays(name, "off")
    report = roll_out(fleet.inventory, make_release(7))
    assert outcomes(report) == ["unreachable", "unreachable"]
    assert not report.robots[0].known


@pytest.mark.slow
def test_a_newer_release_follows_an_older_one(make_fleet: Fleets, make_release: Releases) -> None:
    fleet = make_fleet(1)
    assert roll_out(fleet.inventory, make_release(7)).complete
    assert roll_out(fleet.inventory, make_release(8)).complete
    state = fleet.state("robot-1")
    assert (state["current"]["sequence"], state["previous"]["sequence"]) == (8, 7)


@pytest.mark.parametrize("stage", [0, "0%", "ten", "-1", "10 %"])
def test_a_stage_that_is_none_is_named(make_fleet: Fleets, make_release: Releases, stage: int | str) -> None:
    with pytest.raises(DeployError, match="neither a number of robots nor a share"):
        roll_out(make_fleet(1).inventory, make_release(7), stages=(1, stage))


def test_a_bundle_with_the_statement_of_another_is_refused(make_fleet: Fleets, make_release: Releases) -> None:
    bundle, other = make_release(7), make_release(8)
    shutil.rmtree(release_folder(bundle))
    shutil.copytree(release_folder(other), release_folder(bundle))
    with pytest.raises(TrustError):
        roll_out(make_fleet(1).inventory, bundle)


def test_a_bundle_that_nobody_signed_is_refused(make_fleet: Fleets, make_release: Releases) -> None:
    bundle = make_release(7)
    shutil.rmtree(release_folder(bundle))
    with pytest.raises(DeployError, match="release sign"):
        roll_out(make_fleet(1).inventory, bundle)


def test_the_settings_of_the_user_for_ansible_do_not_count(
    make_fleet: Fleets, make_release: Releases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such as a strategy that does not wait for the end of a stage, or another callback."""
    settings = tmp_path / "ansible.cfg"
    settings.write_text("[defaults]\nstrategy = free\nforks = 1\nstdout_callback = nonsense\n")
    monkeypatch.setenv("ANSIBLE_CONFIG", str(settings))
    monkeypatch.setenv("ANSIBLE_MAX_FAIL_PERCENTAGE", "100")
    fleet = make_fleet(3)
    fleet.plays("robot-1", "refuse")
    report = roll_out(fleet.inventory, make_release(7))
    assert outcomes(report) == ["refused", "not tried", "not tried"]

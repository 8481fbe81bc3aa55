"""A roll-out to real robots' computers: systemd, sshd, installer and policy server in each of ten containers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flashed_robot import BUDGET_MS, FlashedRobot, Workstation
from robot_container import RobotContainer, bound_environment

from pi0_edge.deploy.fleet.report import FleetReport
from pi0_edge.deploy.fleet.roll_out import roll_out
from pi0_edge.deploy.fleet.states import ask_states

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

COUNT = 10
STAGES = (1, 3, "100%")
BAD, OFF = 2, 7
"""Robots that make trouble: the third of ten, which is in the second stage, and the eighth, which is in the last."""
IMPOSSIBLE_MS = 0.001


class ContainerFleet:
    """Provisioned containers, an inventory of them, and a file for ssh that reaches them."""

    def __init__(self, folder: Path, workstation: Workstation, make_robot: Callable[..., RobotContainer]) -> None:
        self.workstation = workstation

        def provisioned(number: int) -> FlashedRobot:
            return FlashedRobot(make_robot(f"fleet{number}", *bound_environment()), workstation, self_test_chunks=64)

        with ThreadPoolExecutor(2) as pool:
            self.robots = list(pool.map(provisioned, range(COUNT)))
        self.names = [robot.container.name for robot in self.robots]
        self.inventory = folder / "robots.ini"
        self.inventory.write_text("[robots]\n" + "\n".join(self.names) + "\n")
        self.ssh_config = folder / "ssh_config"
        configs = [robot.container.ssh_config_for("pi0-flash", workstation.key) for robot in self.robots]
        self.ssh_config.write_text("\n".join(config.read_text() for config in configs))

    def set_budget(self, number: int, budget_ms: float) -> None:
        """Edits a robot's own settings, as a person on it would."""
        file = self.robots[number].container.path("/etc/pi0-edge/robot.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), "budget_ms": budget_ms}))

    def roll_out(self, bundle: Path, lines: list[str]) -> FleetReport:
        return roll_out(
            self.inventory, bundle, stages=STAGES, at_once=2, ssh_config=self.ssh_config, on_reason=lines.append
        )


@pytest.fixture
def fleet(tmp_path: Path, make_robot: Callable[..., RobotContainer]) -> Iterator[ContainerFleet]:
    (folder := tmp_path / "workstation").mkdir()
    made = ContainerFleet(tmp_path, Workstation(folder), make_robot)
    yield made
    for robot in made.robots:
        robot.container.drop()


def test_a_bad_board_stops_its_stage_and_everything_is_caught_up(fleet: ContainerFleet) -> None:
    bundle, lines = fleet.workstation.release(), []
    fleet.set_budget(BAD, IMPOSSIBLE_MS)
    fleet.robots[OFF].container.cut()

    report = fleet.roll_out(bundle, lines)
    outcomes = [robot.outcome.value for robot in report.robots]
    assert outcomes[0] == "committed", "\n".join(lines)
    assert outcomes[BAD] == "refused" and "budget" in report.robots[BAD].reason, report.to_markdown()
    assert outcomes[OFF] == "unreachable"
    later = [number for number in range(4, COUNT) if number != OFF]
    assert [outcomes[number] for number in later] == ["not tried"] * len(later)
    assert report.stopped and fleet.names[BAD] in report.stopped
    assert [robot.current for robot in fleet.robots] == [int(outcome == "committed") for outcome in outcomes]

    fleet.set_budget(BAD, BUDGET_MS)
    report = fleet.roll_out(bundle, lines)
    assert not report.stopped, report.to_markdown()
    assert report.counts["unreachable"] == 1
    assert [robot.current for robot in fleet.robots] == [int(number != OFF) for number in range(COUNT)]

    fleet.robots[OFF].container.start()
    report = fleet.roll_out(bundle, lines)
    assert report.complete, report.to_markdown()
    assert report.counts == {"committed": 1, "already there": COUNT - 1}
    states = ask_states(fleet.names, fleet.ssh_config)
    assert {(state.current, state.gate, state.service) for state in states} == {
        (report.release, "passed", "active"),
    }

"""`flash --inventory` and `flash fleet-status`, as they are typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import run
from fleet_of_folders import FolderFleet

pytestmark = pytest.mark.system

Fleets = Callable[..., FolderFleet]
Releases = Callable[..., Path]


def test_a_roll_out_and_what_all_run(make_fleet: Fleets, make_release: Releases, tmp_path: Path) -> None:
    fleet, bundle, page = make_fleet(3), make_release(7), tmp_path / "report.md"
    fleet.plays("robot-3", "off")
    common = ("--inventory", fleet.inventory, "--json")
    ran = run("flash", bundle, *common, "--stages", "1,100%", "--report", page)
    assert ran.code == 0, ran.err
    assert ran.result["counts"] == {"committed": 2, "unreachable": 1}
    assert not ran.result["complete"]
    assert [robot["outcome"] for robot in ran.result["report"]["robots"]] == ["committed", "committed", "unreachable"]
    assert "robot-1: committed" in ran.err
    assert "| robot-3 | - | unreachable | unknown |" in page.read_text()

    ran = run("flash", "fleet-status", *common)
    assert (ran.code, ran.result["well"]) == (1, 2)
    release = ran.result["robots"][0]["current"]
    assert release.startswith("7-")
    assert ran.err.count(release) == 2 and "unknown" in ran.err


def test_a_stopped_roll_out_is_exit_code_1(make_fleet: Fleets, make_release: Releases) -> None:
    fleet = make_fleet(2)
    fleet.plays("robot-1", "refuse")
    ran = run("flash", "--inventory", fleet.inventory, make_release(7), "--json")
    assert ran.code == 1
    assert ran.result["counts"] == {"refused": 1, "not tried": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("robot-1", "BUNDLE"), "not with HOST"),
        (("BUNDLE", "--no-commit"), "not with HOST, --no-commit"),
        (("BUNDLE", "--stages", "1,half"), "'half' is neither a number of robots nor a share"),
        ((), "--inventory"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "robots.ini").write_text("robot-1\n")
    given = [tmp_path / "cups" if word == "BUNDLE" else word for word in arguments]
    ran = run("flash", *given, "--inventory", tmp_path / "robots.ini")
    assert ran.code == 2
    assert said in ran.err

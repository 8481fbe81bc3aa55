"""On the robot itself, from a USB stick: the same session with the real installer, and no ssh."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from flashed_robot import FlashedRobot, Workstation
from robot_container import RobotContainer, bound_environment

from pi0_edge.deploy.release import release_folder

pytestmark = [pytest.mark.real_time, pytest.mark.system]


def test_a_release_comes_from_a_stick(make_robot: Callable[..., RobotContainer], tmp_path: Path) -> None:
    workstation = Workstation(tmp_path)
    stick = tmp_path / "stick"
    stick.mkdir()
    container = make_robot("stick", *bound_environment(), f"{stick}:/media/stick")
    robot = FlashedRobot(container, workstation)
    command = "/opt/checkout/bin/python -m pi0_edge.cli flash --from /media/stick --json"
    empty = container.run(command, check=False)
    assert empty.returncode == 2 and "should hold one bundle" in empty.stderr
    bundle = workstation.release()
    shutil.copytree(bundle, stick / bundle.name)
    shutil.copytree(release_folder(bundle), release_folder(stick / bundle.name))
    flashed = json.loads(container.run(command).stdout.splitlines()[-1])
    assert flashed["state"] == "committed" and robot.current == workstation.sequence
    again = json.loads(container.run(command).stdout.splitlines()[-1])
    assert again["release"] == flashed["release"] and again["bytes_needed"] == 0
    container.drop()

"""The stand-in for a robot's computer boots, loses its power, boots again, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_link import Link, next_link, write_plan
from robot_container import FOLDER, ROBOT_NAME, RobotContainer, drop_left_over, why_no_container

pytestmark = [pytest.mark.real_time, pytest.mark.system]


@pytest.fixture(scope="module", autouse=True)
def container() -> None:
    if (reason := why_no_container()) is not None:
        pytest.skip(reason)


def ssh(robot: RobotContainer, command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = ["ssh", "-F", robot.ssh_config, ROBOT_NAME, command]
    return subprocess.run(argv, input=stdin, capture_output=True, check=False)


def test_it_boots_and_keeps_its_disk_through_a_power_cut() -> None:
    robot = RobotContainer("cut")
    try:
        robot.start()
        assert ssh(robot, "echo hello > /var/lib/kept; echo gone > /run/gone; hostname").stdout == b"robot\n"
        assert robot.path("/run/gone").read_text() == "gone\n"
        robot.cut()
        assert robot.path("/var/lib/kept").read_text() == "hello\n"
        robot.start()
        assert ssh(robot, "cat /var/lib/kept; ls /run/gone").stdout == b"hello\n"
        robot.stop()
    finally:
        robot.drop()
    assert not (FOLDER / "machines" / robot.name).exists()
    assert robot.name not in subprocess.run(["ps", "ax"], capture_output=True, text=True, check=True).stdout


def test_a_link_ends_at_its_byte_and_the_next_one_works() -> None:
    robot = RobotContainer("link")
    try:
        robot.start()
        robot.set_links(Link(cut_after=100_000), Link())
        cut = ssh(robot, "cat > /dev/null; echo all", bytes(1_000_000))
        assert (cut.returncode, cut.stdout) == (255, b"")
        assert ssh(robot, "wc -c", bytes(1_000_000)).stdout == b"1000000\n"
        first, second = robot.carried()
        assert first == 100_000 and second > 1_000_000
        robot.set_links(Link(rate=200_000))
        begin = time.monotonic()
        assert ssh(robot, "wc -c", bytes(200_000)).stdout == b"200000\n"
        assert time.monotonic() - begin > 0.9
    finally:
        robot.drop()


def test_a_container_whose_process_was_killed_is_ended_by_the_next() -> None:
    code = "import os, robot_container as r; m = r.RobotContainer('left').start(); print(m.name, flush=True); os.kill("
    argv = [sys.executable, "-c", f"{code}os.getpid(), 9)"]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "apparatus")}
    name = subprocess.run(argv, capture_output=True, text=True, env=paths, check=False).stdout.strip()
    assert (FOLDER / "machines" / name).exists()
    drop_left_over()
    assert not (FOLDER / "machines" / name).exists()
    assert name not in subprocess.run(["ps", "ax"], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_ten_at_once() -> None:
    robots = [RobotContainer(f"fleet{number}") for number in range(10)]
    try:
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda robot: robot.start(), robots))
            for number, robot in enumerate(robots):
                robot.run(f"echo {number} > /etc/number")
            assert [ssh(robot, "cat /etc/number").stdout.split() for robot in robots] == [
                [str(number).encode()] for number in range(10)
            ]
    finally:
        for robot in robots:
            robot.drop()


def test_a_plan_is_taken_link_by_link(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    write_plan(plan, [Link(cut_after=1), Link(cut_after=2, stall=True), Link()])
    assert [next_link(plan) for _ in range(4)] == [Link(cut_after=1), Link(cut_after=2, stall=True), Link(), Link()]

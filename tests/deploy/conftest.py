"""Robots of the tests: containers that end with the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from robot_container import RobotContainer, why_no_container


@pytest.fixture(scope="session")
def make_robot() -> Iterator[Callable[..., RobotContainer]]:
    """Starts robots: `make_robot(name, binds)`; all of them end with the session."""
    if (reason := why_no_container()) is not None:
        pytest.skip(reason)
    robots: list[RobotContainer] = []

    def make(name: str, *binds: Path | str) -> RobotContainer:
        robots.append(RobotContainer(f"{name}{len(robots)}", binds))
        return robots[-1].start()

    yield make
    for robot in robots:
        robot.drop()


@pytest.fixture
def robot(make_robot: Callable[..., RobotContainer]) -> Iterator[RobotContainer]:
    """A robot's computer as it comes from the shop."""
    made = make_robot("robot")
    yield made
    made.drop()

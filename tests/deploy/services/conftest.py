"""One robot with services for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from robot_container import RobotContainer, bound_environment
from robot_services import RobotServices, make_bundle


@pytest.fixture(scope="module")
def services(make_robot: Callable[..., RobotContainer]) -> Iterator[RobotServices]:
    """A robot with units and launcher."""
    robot = make_robot("services", *bound_environment())
    yield RobotServices(robot)
    robot.drop()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three bundles that differ."""
    folder = tmp_path_factory.mktemp("bundles")
    return [make_bundle(folder, number) for number in range(3)]

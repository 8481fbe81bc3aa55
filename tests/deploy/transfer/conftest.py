"""One robot that can receive, for all tests here: each begins with an empty staging folder."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from receiving_robot import Receiver, prepare
from robot_container import RobotContainer


@pytest.fixture(scope="session")
def receiving_robot(make_robot: Callable[..., RobotContainer], tmp_path_factory: pytest.TempPathFactory) -> Receiver:
    key = tmp_path_factory.mktemp("key") / "flash_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    return prepare(make_robot("receiver"), key)


@pytest.fixture
def receiver(receiving_robot: Receiver) -> Receiver:
    receiving_robot.forget()
    return receiving_robot

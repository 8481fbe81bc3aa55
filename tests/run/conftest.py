"""The processes that the tests of runs share: they take longer to start than a test takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from run_system import RunSystem, run_system


@pytest.fixture(scope="package")
def processes(firmware_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunSystem]:
    """Board, bridge, policy server and camera."""
    with run_system(tmp_path_factory.mktemp("run")) as system:
        yield system


@pytest.fixture
def system(processes: RunSystem) -> RunSystem:
    """The same, with the arm disarmed and at home."""
    processes.begin()
    return processes

"""What Rerun is given: a file that its own tools read, or a message where it is not installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.errors import ConfigError, MissingDependencyError
from pi0_edge.protos.serial_link import Fault, State, TickFlag
from pi0_edge.run.events import Event
from pi0_edge.run.rerun_viewer import RerunViewer

NAMES = ("waist", "gripper")
with_rerun = pytest.mark.skipif(importlib.util.find_spec("rerun") is None, reason="rerun-sdk is not installed")


def a_tick(number: int) -> Tick:
    joints = np.array([0.1 * number, 0.5], np.float32)
    nothing = np.zeros(2, np.float32)
    flags = np.zeros(2, np.uint8)
    return Tick(
        number, 0, 1, State.RUNNING, Fault(0), 20, 1, TickFlag.EXECUTED, joints, number - 5, 0.0, joints, nothing,
        nothing, flags, "",
    )  # fmt: skip


@with_rerun
def test_ticks_pictures_and_events_are_in_the_file(tmp_path: Path):
    file = tmp_path / "run.rrd"
    with RerunViewer(str(file), NAMES) as viewer:
        for number in range(10, 30):
            viewer.on_tick(a_tick(number))
        viewer.on_image("front", CameraImage(np.full((48, 64, 3), 90, np.uint8), 10**9, 1))
        viewer.on_event(Event(12, 10**9, "paused", "space was pressed"))
    assert viewer.left_out == 0 and viewer.address == ""
    argv = [sys.executable, "-m", "rerun", "rrd", "print", "-vv", str(file)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    for path in ("joints/waist/commanded", "currents/gripper", "age_of_information_ticks", "cameras/front", "events"):
        assert path in said


def test_a_target_that_is_no_rrd_file_is_refused():
    with pytest.raises(ConfigError, match=r"rerun is 'run.txt'; expected `live`"):
        RerunViewer("run.txt", NAMES)


def test_where_rerun_is_missing_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pi0-edge\[rerun\]'"):
        RerunViewer("live", NAMES)

"""The bridge is started again exactly where another release has another SDK or another firmware."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from unit_record import UnitRecord

from pi0_edge.deploy.launcher.bridge import bridge_follows, restart_bridge
from pi0_edge.deploy.launcher.fallback import fall_back
from pi0_edge.deploy.launcher.journal import read_entries
from pi0_edge.deploy.launcher.launch import command_line
from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.launcher.services import BRIDGE, POLICY
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.launcher.slots import Slot, Slots, begin_trial, write_slots
from pi0_edge.errors import DeployError

OLD, NEW, OTHER_SDK = Slot("1-aaa", 1, "/opt/one"), Slot("2-bbb", 2, "/opt/one"), Slot("2-bbb", 2, "/opt/two")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for place in (layout.state, layout.runtime, layout.settings.parent):
        place.mkdir(parents=True)
    has(layout, "127.0.0.1:50061")
    state(layout, OLD, 1)
    state(layout, NEW, 1)
    return layout


def has(layout: Layout, bridge: str | None) -> None:
    layout.settings.write_bytes(RobotSettings("arm-1", "aloha", "x86", "/opt/first", bridge=bridge).to_bytes())


def state(layout: Layout, slot: Slot, limits_hash: int) -> None:
    layout.release(slot.release).mkdir(parents=True, exist_ok=True)
    (layout.release(slot.release) / "release.json").write_text(json.dumps({"firmware": {"limits_hash": limits_hash}}))


@pytest.mark.parametrize(
    ("left", "now", "limits_hash", "bridge", "active", "restarted"),
    [
        (OLD, NEW, 1, "127.0.0.1:1", "active", False),
        (OLD, NEW, 2, "127.0.0.1:1", "active", True),
        (OLD, OTHER_SDK, 1, "127.0.0.1:1", "active", True),
        (OLD, NEW, 1, "127.0.0.1:1", "failed", True),
        (None, NEW, 1, "127.0.0.1:1", "active", True),
        (OLD, OTHER_SDK, 2, None, "active", False),
    ],
)
def test_it_is_restarted_where_it_would_start_otherwise(
    layout: Layout,
    left: Slot | None,
    now: Slot,
    limits_hash: int,
    bridge: str | None,
    active: str,
    restarted: bool,
) -> None:
    state(layout, NEW, limits_hash)
    has(layout, bridge)
    units = UnitRecord(active=active)
    assert restart_bridge(layout, units, left, now) is restarted
    assert (units.stopped, units.started) == (([BRIDGE], [BRIDGE]) if restarted else ([], []))


def test_a_fall_back_starts_the_policy_whatever_becomes_of_the_bridge(layout: Layout) -> None:
    class Stubborn(UnitRecord):
        def stop(self, unit: str) -> None:
            if unit == BRIDGE:
                raise DeployError("systemctl stop did not run")
            super().stop(unit)

    state(layout, NEW, 2)
    write_slots(layout, Slots(current=OLD))
    begin_trial(layout, NEW)
    units = Stubborn()
    assert fall_back(layout, units) == OLD
    assert units.started == [POLICY]
    assert [entry["event"] for entry in read_entries(layout)] == ["trial ended", "bridge left as it is"]
    layout.settings.unlink()
    bridge_follows(layout, UnitRecord(), OLD, NEW)
    assert "robot.json cannot be used" in read_entries(layout)[-1]["reason"]


def test_what_runs_before_the_bridge_is_of_the_same_release(layout: Layout) -> None:
    write_slots(layout, Slots(current=OLD))
    begin_trial(layout, OTHER_SDK)
    assert command_line("firmware", layout) == [
        "/opt/two/bin/python", "-m", "pi0_edge.deploy.installer.firmware_slot",
    ]  # fmt: skip
    assert command_line("bridge", layout)[0] == "/opt/two/bin/python"

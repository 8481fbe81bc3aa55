"""Single readings of the boards in `tests/data/boards`, and the boot slots of a Jetson."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_boards import lay_out

from pi0_edge.board import boot_slots
from pi0_edge.board.boot_slots import BootSlot, read_boot_slots, repair_commands, variable
from pi0_edge.board.readings import Board
from pi0_edge.doctor import board as checks


@pytest.fixture
def agx(tmp_path: Path) -> Path:
    return lay_out("agx-orin", tmp_path / "agx")


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    return lay_out("orin-nano", tmp_path / "nano")


def test_model_and_release(agx: Path, nano: Path):
    assert (Board(agx).model, Board(agx).l4t_release) == ("NVIDIA Jetson AGX Orin Developer Kit", "36.4.3")
    assert Board(nano).l4t_release == "39.2.0"
    assert Board(nano).available_memory == 5242880 * 1024


def test_temperatures_are_by_name_and_zones_without_power_are_left_out(agx: Path):
    assert Board(agx).temperatures() == {
        "cpu-thermal": 52.906,
        "gpu-thermal": 48.5,
        "soc0-thermal": 49.218,
        "soc1-thermal": 48.875,
        "soc2-thermal": 47.906,
        "tj-thermal": 52.906,
    }


def test_a_zone_that_fails_to_read_is_left_out(agx: Path):
    (agx / "sys/class/thermal/thermal_zone4/temp").write_text("")
    (agx / "sys/class/thermal/thermal_zone5/temp").unlink()
    (agx / "sys/class/thermal/thermal_zone6/temp").write_text("-\n")
    assert list(Board(agx).temperatures()) == ["cpu-thermal", "gpu-thermal", "tj-thermal"]


def test_a_zone_that_works_again_is_read_again(agx: Path):
    board, file = Board(agx), agx / "sys/class/thermal/thermal_zone2/temp"
    assert "cv0-thermal" not in board.temperatures()
    file.rmdir()
    file.write_text("48000\n")
    assert board.temperatures()["cv0-thermal"] == 48.0


def test_of_two_zones_with_one_name_the_hottest_counts(agx: Path):
    (agx / "sys/class/thermal/thermal_zone2/type").write_text("tj-thermal\n")
    (agx / "sys/class/thermal/thermal_zone2/temp").rmdir()
    (agx / "sys/class/thermal/thermal_zone2/temp").write_text("70000\n")
    assert Board(agx).temperatures()["tj-thermal"] == 70.0


def test_throttling_is_told_from_a_fan_that_turns(agx: Path, nano: Path):
    assert Board(agx).throttling() == ()
    assert Board(nano).throttling() == ("cpu-throttle-alert", "gpu-throttle-alert")


def test_over_current_events_are_found_whatever_the_index_of_hwmon(agx: Path, nano: Path):
    folder, of_device = agx / "sys/class/hwmon", agx / "sys/devices/platform/soctherm-oc-event/hwmon"
    assert Board(agx).over_current_events() == {"oc1": 0, "oc2": 0, "oc3": 412}
    (folder / "hwmon3").rename(folder / "hwmon11")
    assert Board(agx).over_current_events() == {"oc1": 0, "oc2": 0, "oc3": 412}
    of_device.mkdir(parents=True)
    (folder / "hwmon11").rename(of_device / "hwmon11")
    assert Board(agx).over_current_events() == {"oc1": 0, "oc2": 0, "oc3": 412}
    assert Board(nano).over_current_events() == {"oc1": 0, "oc2": 7, "oc3": 27390}


def test_a_computer_that_has_nothing_of_it(tmp_path: Path):
    board = Board(tmp_path)
    assert (board.model, board.l4t_release, board.l4t_text, board.available_memory) == ("", "", "", None)
    assert (board.temperatures(), board.throttling(), board.over_current_events()) == ({}, (), {})
    assert read_boot_slots(tmp_path) is None


def test_this_machine_can_be_read():
    available = Board().available_memory
    assert available is not None and available > 2**20
    assert all(-50 < degrees < 150 for degrees in Board().temperatures().values())


def test_boot_slots_and_which_one_runs(agx: Path, nano: Path):
    slots = read_boot_slots(agx)
    assert slots is not None
    assert slots.current == "A"
    assert slots.slots == (BootSlot("A", 0, 3), BootSlot("B", 0xFF, 0))
    assert [slot.starts for slot in slots.slots] == [True, False]
    assert read_boot_slots(nano) is None


@pytest.mark.parametrize(("status", "tries"), [(0xFF, 0), (0xFF, 2), (0, 0)])
def test_the_commands_repair_what_they_are_for(agx: Path, tmp_path: Path, status: int, tries: int):
    """As a shell runs them, on files without the immutable flag and without sudo."""
    for name, value in (("RootfsStatusSlotB", status), ("RootfsRetryCountB", tries)):
        file = variable(agx, name)
        size = len(file.read_bytes()) - 4
        file.write_bytes(b"\x07\0\0\0" + value.to_bytes(size, "little"))
    before = {file: file.read_bytes() for file in agx.rglob("*-" + boot_slots.GUID)}
    slots = read_boot_slots(agx)
    assert slots is not None
    for command in repair_commands(slots, agx):
        assert "sudo chattr -i /sys/firmware" in command
        here = command.replace("sudo chattr -i", "true").replace("sudo ", "").replace("/sys/", f"{agx}/sys/")
        subprocess.run(["sh", "-c", here], check=True)
    repaired = read_boot_slots(agx)
    assert repaired is not None
    assert repaired.slots[1] == BootSlot("B", 0, tries or 3)
    for file, content in before.items():
        assert file.read_bytes()[:4] == content[:4]
        assert len(file.read_bytes()) == len(content)
    assert list(repair_commands(repaired, agx)) == []


@given(st.dictionaries(st.sampled_from(["RootfsStatusSlotA", "RootfsStatusSlotB", "BootChainFwCurrent"]), st.binary()))
def test_whatever_stands_in_the_variables_is_read_without_an_error(tmp_path_factory, contents: dict[str, bytes]):
    root = tmp_path_factory.mktemp("efi")
    for name, content in contents.items():
        variable(root, name).parent.mkdir(parents=True, exist_ok=True)
        variable(root, name).write_bytes(content)
    slots = read_boot_slots(root)
    assert slots is None or list(repair_commands(slots, root)) is not None


def test_doctor_warns_of_a_slot_that_an_update_would_be_lost_to(monkeypatch: pytest.MonkeyPatch, agx: Path):
    monkeypatch.setattr(checks, "_ROOT", agx)
    found = checks.boot_slots()
    assert found.status == "warn"
    assert "an operating-system update to slot B would silently fall back" in found.found
    assert "A can be started, 3 tries left" in found.found
    assert found.fix.count("tee /sys/firmware/efi/efivars/") == 2
    assert checks.jetson().status == "pass"
    assert "REVISION: 4.3" in checks.jetson().found


def test_doctor_has_nothing_to_say_of_slots_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, nano: Path, tmp_path: Path
):
    monkeypatch.setattr(checks, "_ROOT", nano)
    assert checks.boot_slots().status == "pass"
    monkeypatch.setattr(checks, "_ROOT", tmp_path)
    assert checks.jetson().found == "not a Jetson; nothing of it is needed here"


POLICY_FAILED = """Id=pi0-edge-policy.service
LoadState=loaded
ActiveState=failed
Result=exit-code

Id=pi0-edge-bridge.service
LoadState=loaded
ActiveState=active
Result=success

Id=pi0-edge-run.service
LoadState=not-found
ActiveState=inactive
Result=success
"""


@pytest.mark.parametrize(
    ("shown", "status"), [(POLICY_FAILED, "warn"), ("", "pass"), (POLICY_FAILED.replace("failed", "active"), "pass")]
)
def test_doctor_tells_which_services_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: str, status: str):
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}END\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = checks.services()
    assert found.status == status
    if status == "warn":
        assert found.found == "pi0-edge-policy is failed (exit-code), pi0-edge-bridge is active"
        assert found.fix == "journalctl -b -n 50 -u pi0-edge-policy.service"

"""Which program writes a firmware image, and what its failures say; what a robot needs, compared in words."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from firmware_needs import firmware_need
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.firmware.joint_table import load_joint_table
from pi0_edge.deploy.installer.arm import ArmState, check_held
from pi0_edge.deploy.installer.firmware import firmware_is_needed
from pi0_edge.deploy.installer.firmware_command import firmware_command, run_firmware_command
from pi0_edge.deploy.launcher.settings import RobotSettings
from pi0_edge.deploy.release import FirmwareNeed
from pi0_edge.errors import DeployError
from pi0_edge.protos.serial_link import VERSION, State

SETTINGS = RobotSettings(name="bench", robot="aloha", hardware="any", environment="")
ARM = ArmState("DISARMED", True, 7, VERSION, True, "bridge")
NUMBERS = st.integers(0, 2**32 - 1)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("picotool", "st-flash"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def image(folder: Path, content: bytes = b"\0\0\0\x20") -> Path:
    path = folder / "firmware.bin"
    path.write_bytes(content)
    return path


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(("content", "form"), [(b"UF2\nWQ]\x9e", "uf2"), (b"\x7fELF\x01", "elf"), (b"\0\0", "bin")])
def test_the_form_of_an_image_for_a_pico_is_told_to_picotool(tmp_path: Path, content: bytes, form: str) -> None:
    path = image(tmp_path, content)
    assert firmware_command(SETTINGS, "rp2040", path) == ["picotool", "load", "-v", "-x", str(path), "-t", form]


@pytest.mark.usefixtures("programs")
def test_a_nucleo_takes_a_plain_image(tmp_path: Path) -> None:
    path = image(tmp_path)
    assert firmware_command(SETTINGS, "stm32f4", path) == ["st-flash", "--reset", "write", str(path), "0x08000000"]
    with pytest.raises(DeployError, match=r"of the form elf.*build/stm32f4/firmware\.bin"):
        firmware_command(SETTINGS, "stm32f4", image(tmp_path, b"\x7fELF"))


@pytest.mark.parametrize("board", ["lm3s6965evb", ""])
def test_a_board_without_a_usual_program_needs_a_command(tmp_path: Path, board: str) -> None:
    with pytest.raises(DeployError, match=r"name one as firmware_command in robot\.json"):
        firmware_command(SETTINGS, board, image(tmp_path))


def test_the_command_of_the_robot_goes_first(tmp_path: Path) -> None:
    path = image(tmp_path)
    given = replace(SETTINGS, firmware_command=(sys.executable, "flash.py", "--file={image}"))
    assert firmware_command(given, "rp2040", path) == [sys.executable, "flash.py", f"--file={path}"]
    with pytest.raises(DeployError, match=re.escape("without {image}")):
        firmware_command(replace(SETTINGS, firmware_command=(sys.executable,)), "rp2040", path)
    with pytest.raises(DeployError, match="no-such-program, which writes the firmware of this robot, is not installed"):
        firmware_command(replace(SETTINGS, firmware_command=("no-such-program", "{image}")), "", path)
    with pytest.raises(DeployError, match="cannot be read"):
        firmware_command(SETTINGS, "rp2040", tmp_path / "missing.bin")


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(DeployError, match="failed with 3: no board was found"):
        run_firmware_command(["sh", "-c", "echo no board was found >&2; exit 3"])
    with pytest.raises(DeployError, match="it said nothing"):
        run_firmware_command(["false"])
    run_firmware_command(["true"])


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    begun = time.monotonic()
    with pytest.raises(DeployError, match="did not end within 0 s and was ended"):
        run_firmware_command(["sh", "-c", f"(sleep 1.5; touch {alive}) & wait"], limit_s=0.3)
    assert time.monotonic() - begun < 1.2
    time.sleep(1.8)
    assert not alive.exists()


def test_the_need_of_a_robot_is_that_of_its_firmware(tmp_path: Path) -> None:
    for robot in ("aloha", "so101", "ur5e"):
        assert firmware_need(robot) == FirmwareNeed(VERSION, load_joint_table(robot).limits_hash)
    assert firmware_need("so101", "rp2040").board == "rp2040"
    with pytest.raises(DeployError, match="no-such-robot"):
        firmware_need("no-such-robot")


@given(NUMBERS, NUMBERS, st.integers(1, 3), st.one_of(st.none(), st.integers(1, 3)))
def test_a_board_is_written_exactly_where_it_differs(
    needs: int, holds: int, needs_version: int, speaks: int | None
) -> None:
    need = FirmwareNeed(needs_version, needs)
    found = replace(ARM, limits_hash=holds, protocol_version=speaks)
    reason = firmware_is_needed(need, found)
    assert (reason is None) == (needs == holds and needs_version == speaks)
    assert firmware_is_needed(None, found) is None and firmware_is_needed(need, None) is None
    assert firmware_is_needed(need, replace(found, limits_hash=needs, protocol_version=needs_version)) is None


def test_the_reasons_name_both_sides() -> None:
    assert firmware_is_needed(FirmwareNeed(2, 7), replace(ARM, protocol_version=1)) == (
        "the board speaks protocol 1, the release needs protocol 2"
    )
    assert firmware_is_needed(FirmwareNeed(VERSION, 0x2E0041F9), ARM) == (
        "the board holds joint table 0x00000007, the release needs 0x2e0041f9"
    )
    other = firmware_is_needed(FirmwareNeed(VERSION, 7), replace(ARM, protocol_version=None))
    assert other is not None and other.startswith(f"the board speaks other messages than this SDK (protocol {VERSION}")
    down = replace(ARM, link_up=False, problem="the port is silent")
    assert firmware_is_needed(FirmwareNeed(VERSION, 7), down) == (
        "nobody can tell what the board runs: the port is silent"
    )


@given(st.sampled_from(State), st.booleans(), st.sampled_from(["", "policy"]))
def test_an_arm_is_held_only_where_nothing_can_move_it(state: State, link_up: bool, owner: str) -> None:
    held = state in (State.DISARMED, State.SAFE, State.ESTOP)
    arm = replace(ARM, state=state.name, held=held, link_up=link_up, owner=owner)
    if held and link_up and not owner:
        assert check_held(arm) == f"the arm is held: {state.name}, says the bridge"
    else:
        with pytest.raises(DeployError, match="run the command again"):
            check_held(arm)

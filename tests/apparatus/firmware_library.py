"""The firmware's core in this process, with the joints of the bench."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from firmware_bridge.firmware.joint_table import JointTable, load_joint_table
from firmware_bridge.lockstep import host_firmware
from firmware_bridge.lockstep.host_library import FIRMWARE, load_host_library
from pi0_edge.protos.serial_link import ResetCause

ROOT = Path(__file__).resolve().parents[2]


def require(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(FIRMWARE), *arguments], capture_output=True, text=True, check=False)


def load_library() -> ctypes.CDLL:
    require("make", "gcc")
    return load_host_library(bench())


@cache
def bench() -> JointTable:
    """The joints of the bench: their limits do not change when those of a real robot are tuned."""
    return load_joint_table(ROOT / "tests" / "firmware" / "bench_robot.yaml")


class HostFirmware(host_firmware.HostFirmware):
    """One boot of the firmware of the bench."""

    def __init__(self, cause: ResetCause = ResetCause.POWER_ON) -> None:
        require("make", "gcc")
        super().__init__(bench(), cause)


def home() -> list[int]:
    return [round(joint.home / joint.resolution) for joint in bench().joints]


def moved(offset: int) -> list[int]:
    """Home with the waists moved by `offset` counts and the other arm joints by an eighth of it."""
    shares = {"waist": 1, "gripper": 0}
    joints = zip(home(), bench().joints, strict=True)
    return [value + int(offset * shares.get(joint.name.split("_")[1], 0.125)) for value, joint in joints]

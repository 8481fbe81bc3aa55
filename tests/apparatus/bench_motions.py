"""Random setpoints for the joints of the bench, and what the compiled core executes, servo step by servo step."""

from __future__ import annotations

import numpy as np
from firmware_library import bench

from firmware_bridge.lockstep.host_firmware import HostFirmware

JOINTS = len(bench().joints)


def random_walk(seed: int, rows: int, largest_step: float, start: np.ndarray) -> np.ndarray:
    """Setpoints in counts: smooth for some joints, with steps for others, [rows, joints]."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(rng.normal(0, 1, (rows, JOINTS)), axis=0).cumsum(axis=0)
    rough = rng.normal(0, 1, (rows, JOINTS))
    share = rng.integers(0, 2, JOINTS)
    moved = start + largest_step * np.where(share, smooth / max(1.0, np.abs(smooth).max()), rough) / [
        joint.resolution for joint in bench().joints
    ]
    return np.clip(moved, *(np.array(limits) for limits in count_limits())).round().astype(np.int16)


def count_limits() -> tuple[list[int], list[int]]:
    lowest = [int(np.ceil(joint.minimum / joint.resolution)) for joint in bench().joints]
    highest = [int(np.floor(joint.maximum / joint.resolution)) for joint in bench().joints]
    return lowest, highest


def positions(firmware: HostFirmware) -> np.ndarray:
    return firmware.motion_array()[:, 0]


def steps_of_tick(firmware: HostFirmware) -> list[np.ndarray]:
    """Runs a whole tick; the positions after each of its steps."""
    firmware.tick()
    return [positions(firmware), *rest_of_tick(firmware)]


def rest_of_tick(firmware: HostFirmware) -> list[np.ndarray]:
    """Runs the steps of a tick behind its first; the positions after each."""
    path = []
    for step in range(1, firmware.servo_steps):
        firmware.servo(step)
        path.append(positions(firmware))
    return path

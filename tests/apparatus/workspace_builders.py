"""Workspaces for the tests: a planar arm from a URDF, and the two arms of gym-aloha from their MJCF."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from firmware_bridge.robot import RobotJoints, load_joints
from firmware_bridge.splice import Plan
from pi0_edge.protos.serial_link import State, Telemetry

FOLDER = Path(__file__).resolve().parents[1] / "data" / "workspace"
PLANAR = load_joints(FOLDER / "planar_arm.yaml")
PLANAR_FILE = FOLDER / "planar_workspace.yaml"
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")


def planar_content() -> dict[str, Any]:
    content = yaml.safe_load(PLANAR_FILE.read_text())
    content["model"] = str(FOLDER / content["model"])
    return content


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one field, such as "frames/tip/body", set; None removes it."""
    copied = copy.deepcopy(content)
    *parents, last = path.split("/")
    place = copied
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copied


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "workspace.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def aloha_content() -> dict[str, Any]:
    """Both hands of gym-aloha's arms over their table; needs the extra `sim`."""
    constants = pytest.importorskip("gym_aloha.constants", reason="gym-aloha is not installed")
    joints: dict[str, Any] = {}
    for side in ("left", "right"):
        joints |= {f"{side}_{name}": {"joint": f"vx300s_{side}/{name}"} for name in ARM_JOINTS}
        joints[f"{side}_gripper"] = [
            {"joint": f"vx300s_{side}/left_finger", "scale": 0.036, "offset": 0.021},
            {"joint": f"vx300s_{side}/right_finger", "scale": -0.036, "offset": -0.021},
        ]
    hands = {
        f"{side}_hand": {"body": f"vx300s_{side}/gripper_link", "offset": [0.1, 0, 0], "radius": 0.03}
        for side in ("left", "right")
    }
    bench = {"min": [-0.6, 0.0, 0.02], "max": [0.6, 1.0, 0.8], "frames": list(hands)}
    model = str(Path(constants.ASSETS_DIR) / "bimanual_viperx_transfer_cube.xml")
    return {"robot": "aloha", "model": model, "joints": joints, "frames": hands, "allowed": {"bench": bench}}


def telemetry(tick: int, executed: np.ndarray, state: State = State.RUNNING) -> Telemetry:
    return Telemetry(
        tick=tick,
        counter=0,
        chunk_id=0,
        observed_tick=0,
        faults=0,
        ring_level=0,
        state=state,
        flags=0,
        fault_joint=255,
        joints=len(executed),
        executed=tuple(map(float, executed)),
    )


def as_sent(robot: RobotJoints, first_tick: int, setpoints: np.ndarray) -> Plan:
    return Plan(first_tick, robot.of_counts(robot.to_counts(setpoints)))

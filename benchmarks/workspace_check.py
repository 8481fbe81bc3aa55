"""How long the bridge takes to check the path of a chunk against a workspace.

    python -m benchmarks.workspace_check [--chunks 100]

Two ALOHA arms of gym-aloha's model (extra `sim`), both hands in one allowed box and outside of a forbidden one; chunks
of 50 actions, 14 joints, from an arm at rest. In milliseconds of this process's processor time, so that what else runs
on the machine counts little: best, median and worst of the chunks.

* `at rest`: every action is the position of the arm;
* `smooth`: sines of 0.15 rad, every joint within its limits but at the begin, where it is not yet moving;
* `noisy`: the same with a noise of 2 mrad, so that a joint now and then meets its acceleration limit;
* `beyond every limit`: a noise of 0.1 rad on every joint, so that the limiter is followed joint by joint;
* `leaves`: both arms bend into the table, so that ticks are refined into servo steps, and the chunk is refused.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from gym_aloha.constants import ASSETS_DIR
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from firmware_bridge.bridge.workspace.workspace import Workspace
from firmware_bridge.errors import ChunkError
from firmware_bridge.robot import load_joints
from firmware_bridge.splice import Plan
from pi0_edge.protos.serial_link import State, Telemetry

STEPS = 50
TICK_S = 0.02
ROBOT = load_joints("aloha")
ARM_JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
Chunk = Callable[[np.random.Generator], NDArray[np.float64]]


def workspace(folder: Path) -> Workspace:
    joints: dict[str, object] = {}
    for side in ("left", "right"):
        joints |= {f"{side}_{name}": {"joint": f"vx300s_{side}/{name}"} for name in ARM_JOINTS}
        joints[f"{side}_gripper"] = [
            {"joint": f"vx300s_{side}/left_finger", "scale": 0.036, "offset": 0.021},
            {"joint": f"vx300s_{side}/right_finger", "scale": -0.036, "offset": -0.021},
        ]
    hands = {
        f"{side}_hand": {"body": f"vx300s_{side}/gripper_link", "offset": [0.1, 0, 0]} for side in ("left", "right")
    }
    content = {
        "robot": "aloha",
        "model": str(Path(ASSETS_DIR) / "bimanual_viperx_transfer_cube.xml"),
        "joints": joints,
        "frames": hands,
        "allowed": {"bench": {"min": [-0.7, 0.0, 0.05], "max": [0.7, 1.0, 0.9], "frames": list(hands)}},
        "forbidden": {"screen": {"min": [-0.1, 0.8, 0.4], "max": [0.1, 0.9, 0.6], "frames": list(hands)}},
    }
    path = folder / "workspace.yaml"
    path.write_text(yaml.safe_dump(content))
    found = Workspace(path, ROBOT)
    for tick in range(3):
        found.on_telemetry(at_home(tick))
    return found


def at_home(tick: int) -> Telemetry:
    return Telemetry(
        tick=tick,
        counter=0,
        chunk_id=0,
        observed_tick=0,
        faults=0,
        ring_level=0,
        state=State.RUNNING,
        flags=0,
        fault_joint=255,
        joints=ROBOT.count,
        executed=tuple(map(float, ROBOT.home)),
    )


def sines(random: np.random.Generator, size: float) -> NDArray[np.float64]:
    times = np.arange(1, STEPS + 1)[:, None] * TICK_S
    phases = random.uniform(0.3, 0.7, ROBOT.count)
    return ROBOT.home + size * np.sin(2.0 * np.pi * phases * times)


def bent(random: np.random.Generator) -> NDArray[np.float64]:
    positions = sines(random, 0.02)
    positions[:, [1, 8]] += np.linspace(0.0, 0.9, STEPS)[:, None]
    return positions


CHUNKS: dict[str, Chunk] = {
    "at rest": lambda random: np.tile(ROBOT.home, (STEPS, 1)),
    "smooth": lambda random: sines(random, 0.15),
    "noisy": lambda random: sines(random, 0.15) + random.normal(0.0, 2e-3, (STEPS, ROBOT.count)),
    "beyond every limit": lambda random: sines(random, 0.15) + random.normal(0.0, 0.1, (STEPS, ROBOT.count)),
    "leaves": bent,
}


def measure(checked: Workspace, chunk: Chunk, chunks: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    times_ms, refused = [], 0
    for _ in range(chunks):
        counts = ROBOT.to_counts(np.clip(chunk(random), ROBOT.lower, ROBOT.upper))
        plan = Plan(5, ROBOT.of_counts(counts))
        began = time.process_time()
        try:
            checked.check(plan, 2, 3.0)
        except ChunkError:
            refused += 1
        times_ms.append(1e3 * (time.process_time() - began))
    return {
        "best_ms": min(times_ms),
        "median_ms": float(np.median(times_ms)),
        "worst_ms": max(times_ms),
        "refused": refused / chunks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100)
    options = parser.parse_args()
    print(json.dumps(describe_machine()))
    with tempfile.TemporaryDirectory() as folder:
        checked = workspace(Path(folder))
    print(f"{options.chunks} chunks of {STEPS} actions, {ROBOT.count} joints\n")
    print(f"{'chunk':20} {'best ms':>8} {'median':>8} {'worst':>8} {'refused':>8}")
    for name, chunk in CHUNKS.items():
        found = measure(checked, chunk, options.chunks)
        numbers = f"{found['best_ms']:8.1f} {found['median_ms']:8.1f} {found['worst_ms']:8.1f}"
        print(f"{name:20} {numbers} {found['refused']:8.0%}")


if __name__ == "__main__":
    main()

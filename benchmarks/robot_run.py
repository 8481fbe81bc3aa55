"""Episodes of `pi0-edge run` on the simulated robot, from the commands that docs/run.md gives.

    python -m benchmarks.robot_run [--episodes 10] [--folder build/robot_run]

Servos, firmware, bridge and the camera over RTSP are `pi0-edge robot simulate`; every episode is a process
`pi0-edge run` of its own with the next cube (seeds from 0 on, which training never saw), recorded; the
last one is computed again. Figures come from the recordings; `--output` gets them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_machine
from firmware_bridge.client import BridgeClient
from pi0_edge.robots import load_robot
from pi0_edge.run.recording import RunRecording

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results" / "robot_run.txt"
PI0_EDGE = [sys.executable, "-m", "pi0_edge.cli"]
RUN = ["run", "aloha_sim", "--prompt", "Transfer cube", "--threads", "1", "--seconds", "20", "--no-dashboard"]
NEXT_CUBE_LIMIT_S = 20.0


class SimulatedRobot:
    """`pi0-edge robot simulate`, with what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._said = (folder / "simulate.log").open("w")
        self._process = subprocess.Popen(
            [*PI0_EDGE, "robot", "simulate", "--output", str(folder), "--json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self.wait_for("cube 0 lies on the table", 60.0)

    def wait_for(self, words: str, limit_s: float) -> None:
        """Waits until it has said something."""
        deadline = time.monotonic() + limit_s
        while words not in (self.folder / "simulate.log").read_text():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(f"it did not say {words!r}: {(self.folder / 'simulate.log').read_text()}")
            time.sleep(0.1)

    def next_cube(self, seed: int) -> None:
        """Types Enter."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.wait_for(f"cube {seed} lies on the table", NEXT_CUBE_LIMIT_S)

    def end(self) -> list[float | None]:
        """Ends it; seconds until each cube was transferred, None where it was not."""
        self._process.send_signal(signal.SIGTERM)
        result = json.loads(self._process.communicate(timeout=30)[0].splitlines()[-1])
        return [cube["transferred_s"] for cube in result["cubes"]]


def play(robot: SimulatedRobot, recording: Path) -> str:
    """One episode, and how it ended: its last line and exit code."""
    recording.unlink(missing_ok=True)
    cameras = ["--cameras", str(robot.folder / "cameras.yaml"), "--record", str(recording)]
    ended = subprocess.run([*PI0_EDGE, *RUN, *cameras], capture_output=True, text=True, check=False)
    said = (ended.stdout.strip().splitlines() or [ended.stderr.strip()])[-1]
    return f"{said}; exit code {ended.returncode}"


def replay(recording: Path) -> str:
    """Whether a recording is the same when it is computed again."""
    again = subprocess.run([*PI0_EDGE, "replay", str(recording)], capture_output=True, text=True, check=False)
    return again.stdout.strip().splitlines()[-1]


def bus_errors() -> int:
    """Replies of servos that were missing or damaged since the board started."""
    with BridgeClient(name="benchmark") as bridge:
        return bridge.status().counters.bus_errors


def figures(recordings: list[RunRecording]) -> dict[str, NDArray[np.float64] | float]:
    """What the recordings say about times and errors."""
    arm = [place for place, joint in enumerate(load_robot("aloha").joints) if joint.unit == "rad"]
    to_chunk, enter, ages, measured_age, error, refused, rates = [], [], [], [], [], 0, []
    for recording in recordings:
        accepted = [one.message for one in recording.answers if one.message.report.first_tick]
        refused += len(recording.answers) - len(accepted)
        to_chunk += [one.to_chunk_ms for one in accepted]
        enter += [one.report.first_tick - one.chunk.clock.tick for one in accepted]
        ticks = [one.message for one in recording.ticks if one.message.chunk_id]
        ages += [20 * (tick.tick - tick.observed_tick) for tick in ticks]
        measured_age += [1e3 * max(tick.measurement_age_s) for tick in ticks]
        error += [max(abs(tick.executed[place] - tick.measured[place]) for place in arm) for tick in ticks]
        taken = sorted({image.taken_ns for image in recording.images("top")})  # those observed are stored twice
        rates.append((len(taken) - 1) / (1e-9 * (taken[-1] - taken[0])))
    return {
        "observation to chunk, ms": np.array(to_chunk),
        "observation to first tick of its chunk, ticks": np.array(enter, np.float64),
        "age of information of executed ticks, ms": np.array(ages, np.float64),
        "age of the oldest joint's measurement, ms": np.array(measured_age),
        "following error of the worst arm joint, rad": np.array(error),
        "images a second of the camera, by episode": np.array(rates),
        "chunks accepted": float(len(to_chunk)),
        "chunks refused": float(refused),
    }


def main() -> None:
    """Plays the episodes and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "robot_run")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    robot = SimulatedRobot(options.folder)
    lines, recordings = [], []
    for seed in range(options.episodes):
        if seed:
            robot.next_cube(seed)
        recordings.append(options.folder / f"{seed}.mcap")
        ended = play(robot, recordings[-1])
        load = f"load average {os.getloadavg()[0]:.1f}"
        lines.append(f"cube {seed}: {ended}; {load}")
        print(lines[-1], flush=True)
    errors = bus_errors()
    transferred = robot.end()
    done = [seconds for seconds in transferred if seconds is not None]
    table = [f"{len(done)} of {options.episodes} cubes transferred, after {', '.join(f'{s:.1f}' for s in done)} s"]
    for name, values in figures([RunRecording(path) for path in recordings]).items():
        if isinstance(values, float):
            table.append(f"{name}: {values:g}")
        else:
            shown = " / ".join(f"{value:.4g}" for value in np.percentile(values, (50, 95, 99, 100)))
            table.append(f"{name}: {shown}  (p50 / p95 / p99 / max)")
    table.append(f"errors of the servo buses: {errors}")
    table.append(f"the last recording, computed again: {replay(recordings[-1])}")
    text = "\n".join(["$ python -m benchmarks.robot_run", json.dumps(describe_machine()), *lines, *table])
    print("\n".join(table))
    options.output.write_text(text + "\n")


if __name__ == "__main__":
    main()

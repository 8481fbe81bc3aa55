"""A process that records without end, as a run does, until it is killed or told to stop.

    python recording_process.py RUN.mcap [--ticks N] [--file-limit BYTES]

Each line of its standard output is the tick and the time of one that was told to the recorder.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from firmware_bridge.client import Tick
from pi0_edge.cameras import CameraImage
from pi0_edge.protos.policy_pb2 import PolicyMetadata
from pi0_edge.protos.serial_link import Fault, State, TickFlag
from pi0_edge.robots import load_robot
from pi0_edge.run.recording import RunDescription, RunRecorder


def tick_of(number: int) -> Tick:
    """A tick whose content follows from its number."""
    executed = np.full(14, number, np.float32)
    return Tick(
        tick=number,
        counter=number,
        counter_hz=1,
        state=State.RUNNING,
        faults=Fault(0),
        ring_level=1,
        chunk_id=1,
        flags=TickFlag.EXECUTED,
        executed=executed,
        observed_tick=number - 1,
        host_time_s=0.0,
        measured=executed,
        measurement_age_s=np.zeros(14, np.float32),
        current=np.zeros(14, np.float32),
        joint_flags=np.zeros(14, np.uint8),
        fault_joint="",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--ticks", type=int, default=1_000_000)
    parser.add_argument("--file-limit", type=int)
    options = parser.parse_args()
    if options.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    ended: list[str] = []
    description = RunDescription(load_robot("aloha_sim"), PolicyMetadata(model="pi0"))
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    with RunRecorder(options.run, description, on_ended=ended.append) as recorder:
        for number in range(1, options.ticks + 1):
            recorder.on_tick(tick_of(number))
            if number % 5 == 0:
                recorder.on_image("top", CameraImage(pixels, time.monotonic_ns(), number))
            sys.stdout.write(f"{number} {time.monotonic_ns()}\n")
            sys.stdout.flush()
            time.sleep(0.002)
    sys.stdout.write(f"ended {ended}\n")


if __name__ == "__main__":
    main()

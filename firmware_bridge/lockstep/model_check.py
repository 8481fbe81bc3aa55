"""Checks every sequence of events up to a length on the compiled core.

    python -m firmware_bridge.lockstep.model_check [--length 7] [--replay SEQUENCE]

An event is what acts on the core within one tick: a heartbeat or none, a command, the e-stop contact, a chunk, a late
interrupt, a reset. One character names each of the 22 events (`model_check/model.c`), so that a string is a
sequence. A C program (`firmware/model_check/`) starts from each state of the arm, applies every sequence, and checks
the invariants of `docs/safety.md` after each servo step; it continues only one of the sequences that lead to the same
state of the whole core. It prints a sequence that violates an invariant, and `--replay SEQUENCE` shows it tick by tick.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

from firmware_bridge.errors import EmulatorError
from firmware_bridge.firmware.joint_table import Joint, JointTable, Servo, ServoBus, float32
from firmware_bridge.lockstep.host_library import build_core

ROBOT = JointTable(
    robot="model_check",
    joints=(
        Joint("slow", "rad", float32(-1.9), float32(1.9), 3.0, 40.0, 0.0, float32(1e-4), float32(0.3), 2.0, 70.0),
        Joint("quick", "ratio", 0.0, 1.0, 8.0, 150.0, float32(0.1), float32(1e-4)),
    ),
    servos=(Servo(0, 1, 0, False, 2048.0, float32(4096 / math.tau), float32(2.69e-3)),),
    bus=ServoBus("simulated", 1_000_000, 1, 1, 10.0, 14.0),
)
"""A joint like those of an arm, which brakes for several ticks, and one like a gripper, with its home near a limit. The
first has a servo with guards; `model_check/model_servo.c` knows their limits."""


def build_program() -> Path:
    """Compiles the program that checks the sequences, and returns its path.

    Raises:
        EmulatorError: The core does not compile here.
    """
    return build_core(ROBOT, "model-check") / "check_sequences"


def main() -> int:
    """Checks or replays, as the command line says; returns 1 where an invariant is violated."""
    parser = argparse.ArgumentParser(prog="model_check", description="Check every sequence of events on the core.")
    parser.add_argument("--length", type=int, default=7, help="of the longest sequences (default 7, a minute)")
    parser.add_argument("--replay", metavar="SEQUENCE", help="apply one sequence and show each tick")
    options = parser.parse_args()
    arguments = ["replay", options.replay] if options.replay else [str(options.length)]
    try:
        program = build_program()
    except EmulatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return subprocess.run([program, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

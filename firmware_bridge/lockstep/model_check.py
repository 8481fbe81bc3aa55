"""Tries out every sequence of events on the compiled core.

    python -m firmware_bridge.lockstep.model_check [--length 8] [--replay WORD]

A sequence is a word of fourteen letters, each of which is what happens within one tick: silence of the host, a command,
the e-stop pin, a chunk, a late interrupt, a reset. From each state of the arm every word up to a length is played, and
after each servo step the promises of `docs/safety.md` are checked. The work is done by a C program
(`firmware/exploration/`), which joins words that lead to the same state of the whole core. A word that breaks a promise
is printed, and `--replay WORD` shows it tick by tick.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from firmware_bridge.errors import EmulatorError
from firmware_bridge.firmware.joint_table import Joint, JointTable, float32
from firmware_bridge.lockstep.host_library import build_core

ROBOT = JointTable(
    robot="exploration",
    joints=(
        Joint("slow", "rad", float32(-1.9), float32(1.9), 3.0, 40.0, 0.0, float32(1e-4)),
        Joint("quick", "ratio", 0.0, 1.0, 8.0, 150.0, float32(0.1), float32(1e-4)),
    ),
)
"""One joint as of an arm, which brakes for several ticks, and one as of its gripper, which stands near a limit."""


def explore(*arguments: str) -> int:
    """Builds and runs the explorer; returns its exit status: 0 where no promise was broken.

    Raises:
        EmulatorError: The core does not compile here.
    """
    program = build_core(ROBOT, "explore") / "explore"
    return subprocess.run([program, *arguments], check=False).returncode


def main() -> int:
    """Explores or replays, as the command line says."""
    parser = argparse.ArgumentParser(prog="exploration", description="Try out every sequence of events on the core.")
    parser.add_argument("--length", type=int, default=8, help="of the longest sequences (default 8, a minute)")
    parser.add_argument("--replay", metavar="WORD", help="play one sequence and show each tick")
    options = parser.parse_args()
    try:
        return explore("replay", options.replay) if options.replay else explore(str(options.length))
    except EmulatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())

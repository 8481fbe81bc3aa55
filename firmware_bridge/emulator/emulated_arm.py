"""A whole arm on this machine: the emulated board with the servos of a robot, its bridge, and the log of its buses.

With it, the way of a chunk can be followed to its end: to the last byte of the command on the servo bus.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.emulator.board import EmulatedBoard, image_with_servos
from firmware_bridge.emulator.processes import start
from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.emulator.servo_bus.goal_log import read_goal_log
from firmware_bridge.errors import EmulatorError
from pi0_edge.robots import load_robot

EMULATED_ROBOTS = ("aloha", "so101")
"""Robots for which `make firmware` makes an image with servos for the emulated board."""


@dataclass(frozen=True)
class EmulatedArm:
    """A running arm.

    Attributes:
        robot: Name of the robot whose firmware the board runs.
        bridge: Address of its bridge, host:port.
        board: Takes faults of the line and of the servos.
        buses: How many servo buses it has.
        goals: Where they write down when commands have left.
    """

    robot: str
    bridge: str
    board: EmulatedBoard
    buses: int
    goals: Path

    def commands_left_s(self) -> list[NDArray[np.float64]]:
        """For each bus float64 [n]: when commands had left, seconds on the clock of `time.monotonic`."""
        return read_goal_log(self.goals, self.buses)


def emulated_robot(joint_names: Sequence[str]) -> str:
    """The robot among `EMULATED_ROBOTS` with these joints.

    Raises:
        EmulatorError: There is none.
    """
    for name in EMULATED_ROBOTS:
        if load_robot(name).action_names == tuple(joint_names):
            return name
    raise EmulatorError(
        f"no emulated board has the joints {', '.join(joint_names) or '(none)'}; there is one for "
        f"{' and one for '.join(EMULATED_ROBOTS)}: name the bridge of a real board"
    )


@contextlib.contextmanager
def emulated_arm(robot: str, folder: Path, baud: int = 921600, *, exact_line: bool = False) -> Iterator[EmulatedArm]:
    """Starts board, servos and bridge, and ends them with the context.

    Args:
        robot: One of `EMULATED_ROBOTS`.
        folder: For logs; made where it is missing.
        baud: Bits per second of the serial line.
        exact_line: As for `EmulatedBoard`.

    Raises:
        EmulatorError: QEMU or the firmware image is missing, or the board does not start.
        EngineError: The bridge does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    goals = folder / "goals"
    servos = servos_at_home(load_robot(robot))
    with contextlib.ExitStack() as stack:
        image = image_with_servos(robot)
        board = EmulatedBoard(image, baud=baud, servos=servos, goals=goals, exact_line=exact_line)
        stack.enter_context(board)
        arguments = ("--port", board.port, "--robot", robot, "--baud", str(baud), "--listen", "127.0.0.1:0")
        bridge = start(stack, folder / "bridge.log", "firmware_bridge", *arguments)
        address = bridge.wait_for(r"bridge ready: listening on ([^,\s]+)")
        yield EmulatedArm(robot, address, board, len(servos), goals)

"""An arm on emulated servo buses behind an emulated board and a bridge, and the hand that moves it."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.emulator.servo_bus.control import ServoBusControl
from firmware_bridge.emulator.servo_bus.settings import BusSettings, ServoSettings
from firmware_bridge.firmware.generate_joints import write_table
from firmware_bridge.firmware.joint_table import joint_table
from pi0_edge.robots import Robot, Servo
from pi0_edge.run.calibration.procedure import JointRange, Step, StepKind

FIRMWARE = Path(__file__).parents[2] / "firmware_bridge" / "firmware"
_HAND_STEP_S = 0.06
_HAND_STEP = 700  # counts


def build_image(robot: Robot, folder: Path) -> Path:
    """The image of the emulated board for a robot with servos, in a folder of its own."""
    for tool in ("qemu-system-arm", "arm-none-eabi-gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    assert robot.servo_bus is not None
    (folder / f"{robot.name}.c").write_text(write_table(joint_table(robot)))
    settings = [f"ROBOT={robot.name}", f"ROBOTS={folder}", f"BUILD={folder / 'build'}"]
    argv = ["make", "-s", "-C", str(FIRMWARE), "lm3s6965evb", f"ACTUATORS={robot.servo_bus.protocol}", *settings]
    built = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "lm3s6965evb" / "firmware.elf"


def counts_at(robot: Robot, servo: Servo, position: float) -> float:
    """The counts of a servo where its joint is at a position."""
    joint = next(joint for joint in robot.joints if joint.name == servo.joint)
    zero, per_unit = servo.scale(joint.unit, joint.position or (0.0, 1.0))
    return zero + per_unit * position


def commanded(robot: Robot) -> list[Servo]:
    """The commanded servo of each joint."""
    return [
        next(servo for servo in robot.servos if servo.joint == joint.name and servo.shadow_of is None)
        for joint in robot.joints
    ]


def buses_at(
    robot: Robot,
    positions: Sequence[float],
    change: Callable[[Servo, ServoSettings], ServoSettings] = lambda _, settings: settings,
) -> list[BusSettings]:
    """The emulated servos of a robot whose joints stand somewhere, each changed by `change`."""
    at = dict(zip((joint.name for joint in robot.joints), positions, strict=True))
    servos = {(str(servo.bus), servo.id): servo for servo in robot.servos}
    return [
        dataclasses.replace(
            bus,
            servos=tuple(
                change(
                    servo := servos[bus.name, settings.id],
                    dataclasses.replace(settings, position=round(counts_at(robot, servo, at[servo.joint]))),
                )
                for settings in bus.servos
            ),
        )
        for bus in servos_at_home(robot)
    ]


@dataclasses.dataclass
class ServoArm:
    """A running arm.

    Attributes:
        board: With its servos.
        bridge: Its address.
        client: Of the bridge.
    """

    board: EmulatedBoard
    bridge: str
    client: BridgeClient

    def ticks(self, count: int) -> list[Tick]:
        """The next ticks."""
        with self.client.telemetry() as ticks:
            return [next(ticks) for _ in range(count)]

    def until(self, condition: Callable[[Tick], bool], meaning: str, limit_s: float = 3.0) -> Tick:
        """The first tick of which a condition holds."""
        deadline = time.monotonic() + limit_s
        with self.client.telemetry() as ticks:
            for tick in ticks:
                if condition(tick):
                    return tick
                assert time.monotonic() < deadline, f"not within {limit_s:g} s: {meaning}; {tick}"
        raise AssertionError("the telemetry ended")

    def settled(self) -> Tick:
        """The first tick in which every joint is measured."""
        return self.until(lambda tick: bool(np.isfinite(tick.measurement_age_s).all()), "every joint is measured")


@contextmanager
def running_arm(image: Path, robot: Path | str, buses: Sequence[BusSettings]) -> Iterator[ServoArm]:
    """A board with servos, a bridge and a client."""
    with EmulatedBoard(image, servos=buses) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", str(robot))
        server.start()
        try:
            with BridgeClient(server.address, name="test") as client:
                client.wait_ready(20.0)
                yield ServoArm(board, server.address, client)
        finally:
            server.stop()


class Hand:
    """Moves the arm as calibration asks: a `Person` that knows the arm's true zeros, directions and reach."""

    def __init__(self, servos: ServoBusControl, truth: Robot, reach: dict[str, tuple[float, float]]) -> None:
        """Takes hold.

        Args:
            servos: Of the arm.
            truth: What is true of the arm, as a robot.
            reach: Positions between the mechanical stops, by joint.
        """
        self._servos = servos
        self._truth = truth
        self._reach = reach
        self.asked: list[Step] = []

    def do(self, step: Step, ranges: Callable[[], Sequence[JointRange]] | None = None) -> None:
        self.asked.append(step)
        for joint, servo in zip(self._truth.joints, commanded(self._truth), strict=True):
            lowest, highest = joint.position or (0.0, 1.0)
            if joint.name not in step.joints:
                continue
            if step.kind is StepKind.ZERO_POSE:
                self._go(servo, 0.0 if joint.unit == "rad" else lowest)
            elif step.kind is StepKind.OTHER_END:
                self._go(servo, highest)
            elif step.kind is StepKind.DIRECTION:
                self._go(servo, 0.35)
            elif step.kind is StepKind.RANGE:
                self.sweep(servo)

    def try_again(self, problem: str) -> bool:
        return False

    def sweep(self, servo: Servo) -> None:
        """Through its reach, and back to the middle."""
        low, high = self._reach[servo.joint]
        for position in (low, high, (low + high) / 2):
            self._go(servo, position)
            time.sleep(2 * _HAND_STEP_S)

    def _go(self, servo: Servo, position: float) -> None:
        """In steps that a hand could do between two ticks."""
        goal = counts_at(self._truth, servo, position)
        bus = str(servo.bus)
        now = self._servos.state()[bus]["servos"][str(servo.id)]["position"]
        for counts in np.linspace(now, goal, 1 + int(np.ceil(abs(goal - now) / _HAND_STEP)))[1:]:
            self._servos.move_by_hand(bus, servo.id, round(counts))
            time.sleep(_HAND_STEP_S)

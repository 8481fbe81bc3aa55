"""How soon the arm stops after a fault of its servos: real faults of the emulated servo bus, the real firmware in QEMU.

    python -m benchmarks.guard_reaction [--times 5]

For each fault: the arm swings its waist, the fault is injected, and the time runs until the begin of the tick in which
the firmware left RUNNING, and until the arm is at rest. Both are told by the firmware's clock, mapped to the host's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient, Tick
from firmware_bridge.emulator.board import EmulatedBoard, image_with_servos
from firmware_bridge.emulator.robot_servos import servos_at_home
from firmware_bridge.emulator.servo_bus.control import ServoBusControl
from firmware_bridge.robot import ACTIVE_STATES
from pi0_edge.protos.serial_link import Fault
from pi0_edge.robots import load_robot

ROBOT = "aloha"
WAIST = 1  # its ID
LEAD_TICKS = 60
LIMIT_S = 10.0
SWING, RATE = 0.4, 2.0  # rad, rad/s


@dataclass(frozen=True)
class Case:
    """A fault that is injected into the left waist, and the guard that must answer."""

    name: str
    fault: Fault
    inject: Callable[[ServoBusControl], None]


CASES = (
    Case(
        "the joint meets an obstacle", Fault.FOLLOWING_ERROR | Fault.CONTACT, lambda bus: bus.obstacle("0", WAIST, 2200)
    ),
    Case("the plug of the servo is pulled", Fault.BUS_SILENT, lambda bus: bus.connect("0", WAIST, connected=False)),
    Case("the supply drops to 9.8 V", Fault.VOLTAGE, lambda bus: bus.supply("0", 9.8)),
    Case(
        "the supply drops to 3 V and returns",
        Fault.SERVO_ERROR | Fault.BUS_SILENT,
        lambda bus: bus.supply("0", 3.0, 0.3),
    ),
    Case("the servo is 75 °C hot", Fault.TEMPERATURE, lambda bus: bus.temperature("0", WAIST, 75.0)),
    Case("the servo loses its torque", Fault.SERVO_ERROR, lambda bus: bus.lose_torque("0", WAIST)),
    Case("the servo shuts down by overload", Fault.SERVO_ERROR, lambda bus: bus.overload("0", WAIST)),
    Case("one answer of five is lost", Fault(0), lambda bus: bus.drop_replies("0", 0.2)),
)


def swing(home: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Setpoints of the waist's swing, float32 [ticks, joints], from home at tick 0."""
    rows = np.tile(home, (len(ticks), 1)).astype(np.float32)
    rows[:, 0] += SWING * np.sin(RATE * 0.02 * ticks) ** 2
    return rows


def run_case(case: Case) -> tuple[Fault, float, float]:
    """The faults that were latched, and milliseconds to the stop and to rest; infinite where the arm went on."""
    robot = load_robot(ROBOT)
    with EmulatedBoard(image_with_servos(ROBOT), servos=servos_at_home(robot)) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", ROBOT)
        server.start()
        try:
            with BridgeClient(server.address, "guard reaction") as client:
                client.wait_ready()
                time.sleep(0.5)
                client.arm(robot.action_names)
                return follow(case, client, board.servos)
        finally:
            server.stop()


def follow(case: Case, client: BridgeClient, bus: ServoBusControl) -> tuple[Fault, float, float]:
    """Swings, injects, and watches until rest."""
    injected = 0.0
    stopped: Tick | None = None
    before: Tick | None = None
    with client.telemetry() as ticks, client.play() as stream:
        start = next(ticks)
        for tick in ticks:
            since = tick.tick - start.tick
            if since % 10 == 0 and stopped is None:
                stream.send(swing(start.executed, since + np.arange(1, 51)), tick.tick)
            if since >= LEAD_TICKS and not injected:
                case.inject(bus)
                injected = time.monotonic()
            if injected and stopped is None and tick.state not in ACTIVE_STATES:
                stopped = tick
            if stopped is not None and before is not None and np.array_equal(before.executed, tick.executed):
                return stopped.faults, 1e3 * (stopped.host_time_s - injected), 1e3 * (tick.host_time_s - injected)
            if injected and stopped is None and time.monotonic() - injected > LIMIT_S:
                return Fault(0), np.inf, np.inf
            before = tick
    raise AssertionError("telemetry ended")


def main() -> int:
    """Prints one line for each fault; returns 1 where another guard answered."""
    parser = argparse.ArgumentParser(prog="guard_reaction", description="Time from a fault of a servo to the stop.")
    parser.add_argument("--times", type=int, default=5, help="how often each fault is injected (default 5)")
    options = parser.parse_args()
    wrong = 0
    sys.stdout.write(f"{ROBOT}, each fault {options.times} times; milliseconds from the fault\n")
    sys.stdout.write(f"{'fault':38} {'guard':32} {'to SAFE: median, max':>22} {'to rest: max':>14}\n")
    for case in CASES:
        results = [run_case(case) for _ in range(options.times)]
        faults = sorted({(fault.name or "") for fault in Fault for found, _, _ in results if found & fault})
        stops = np.array([stop for _, stop, _ in results])
        rests = np.array([rest for _, _, rest in results])
        wrong += any((found & case.fault) == 0 if case.fault else found != 0 for found, _, _ in results)
        times = f"{np.median(stops):10.0f}, {stops.max():8.0f}" if np.isfinite(stops).all() else "goes on"
        rest = f"{rests.max():14.0f}" if np.isfinite(rests).all() else f"{'':>14}"
        sys.stdout.write(f"{case.name:38} {', '.join(faults) or 'none':32} {times:>22} {rest}\n")
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

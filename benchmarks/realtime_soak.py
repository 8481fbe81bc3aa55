"""The emulated board in real time under CPU load, and how evenly its ticks came by its own clock.

    python -m benchmarks.realtime_soak [--minutes 10] [--load 2]

A client plays a chunk of swings every fifth of a second through the bridge, while `--load` processes do nothing but
compute. The wire records every telemetry message. Figures, in ms by the board's 25 MHz counter:

* `late`: how long after its due time a tick was executed, against the earliest of the run;
* `period`: the time between consecutive ticks, which should be 20.

A stop of the arm (the machine held up host or board for too long) is counted, and the arm is armed again.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine
from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.errors import BridgeError
from firmware_bridge.link.framing import FrameDecoder
from firmware_bridge.robot import RobotJoints, load_joints
from pi0_edge.protos.serial_link import Fault, State, Telemetry, TickFlag

ROBOT = "aloha"
CHUNK_EVERY_S, HORIZON, TICK_MS = 0.2, 50, 20.0
COUNTER_HZ = 25e6
SHARES = (50, 90, 99, 99.9, 100)


@contextlib.contextmanager
def computing(processes: int) -> Iterator[None]:
    """Processes that only compute, while the context lasts."""
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in load:
            process.kill()
            process.wait()


def swing(robot: RobotJoints, ticks: np.ndarray) -> np.ndarray:
    """All joints around home at these ticks; at rest at tick 0, at most 0.5 rad/s."""
    room = np.minimum(robot.upper - robot.home, robot.home - robot.lower)
    return robot.home + np.minimum(0.25, 0.4 * room) * (1.0 - np.cos(0.02 * ticks))[:, None]


def play(client: BridgeClient, robot: RobotJoints, until: float) -> None:
    """Arms, and plays until then or until the arm is stopped."""
    client.wait_ready(20.0)
    client.clear()
    client.arm(robot.names)
    start = client.status().tick
    with client.play() as stream:
        while time.monotonic() < until:
            tick = client.status().tick
            stream.send(swing(robot, tick - start + np.arange(1, HORIZON + 1)), tick)
            stream.next_report(2.0)
            time.sleep(CHUNK_EVERY_S)
    client.disarm("the time is over")


def soak(record: Path, minutes: float) -> Counter[str]:
    """Runs board, bridge and client; returns what stopped the arm, and how often."""
    robot, stops = load_joints(ROBOT), Counter[str]()
    until = time.monotonic() + 60 * minutes
    with EmulatedBoard(record=record) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", ROBOT)
        server.start()
        try:
            with BridgeClient(server.address, "soak") as client:
                while time.monotonic() < until:
                    try:
                        play(client, robot, until)
                    except BridgeError as error:
                        stops[str(error).split(";")[0][:60]] += 1
                        time.sleep(0.5)
        finally:
            server.stop()
    return stops


def shares(values: np.ndarray) -> str:
    """The percentiles of `SHARES`."""
    return "  ".join(
        f"p{share:g} {value:.2f}" for share, value in zip(SHARES, np.percentile(values, SHARES), strict=True)
    )


def beyond_limits(ticks: list[Telemetry], robot: RobotJoints) -> int:
    """How many ticks moved farther than velocity, or left the positions, that the joint table allows."""
    position, numbers = np.array([tick.executed for tick in ticks]), np.array([tick.tick for tick in ticks])
    elapsed = np.diff(numbers)[:, None]
    step = np.abs(np.diff(position, axis=0))
    fast = (step > robot.velocity * elapsed * TICK_MS * 1e-3 + 1e-5) & (elapsed > 0)
    outside = (position < robot.lower - 1e-5) | (position > robot.upper + 1e-5)
    return int(fast.any(axis=1).sum() + outside.any(axis=1).sum())


def report(ticks: list[Telemetry], stops: Counter[str]) -> None:
    """Prints the figures of a run."""
    numbers = np.array([tick.tick for tick in ticks])
    counted = np.array([tick.counter for tick in ticks]) / COUNTER_HZ * 1e3
    resets = int((np.diff(numbers) < 0).sum())
    last_boot = int(np.flatnonzero(np.diff(numbers) < 0)[-1] + 1) if resets else 0
    numbers, counted = numbers[last_boot:], counted[last_boot:]
    late = counted - TICK_MS * numbers
    consecutive = np.diff(numbers) == 1
    states = Counter(State(tick.state).name for tick in ticks)
    faults = sorted({fault.name for tick in ticks for fault in Fault if tick.faults & fault and fault.name})
    print(f"ticks reported: {len(ticks)}, {(counted[-1] - counted[0]) / 6e4:.1f} min since the last reset")
    print(f"late, ms:    {shares(late - late.min())}")
    print(f"period, ms:  {shares(np.diff(counted)[consecutive])}  mean {np.polyfit(numbers, counted, 1)[0]:.4f}")
    missing = sum(bool(tick.flags & TickFlag.TICKS_MISSED) for tick in ticks)
    print(f"ticks missed: {int((np.diff(numbers) - 1).sum())}, in {missing} interrupts")
    print(f"states: {', '.join(f'{name} {count / len(ticks):.1%}' for name, count in states.items())}")
    print(f"stops: {dict(stops) or 'none'}; faults: {', '.join(faults) or 'none'}; resets: {resets}")
    print(f"ticks beyond a limit: {beyond_limits(ticks, load_joints(ROBOT))}")


def main() -> None:
    """Runs the soak and prints its figures."""
    parser = argparse.ArgumentParser(description="Tick jitter of the emulated board under CPU load.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--load", type=int, default=2, help="processes that only compute")
    options = parser.parse_args()
    print(*(f"{name}: {value}" for name, value in describe_machine().items()), sep="\n")
    print(f"\n{options.minutes:g} min, {options.load} computing processes", flush=True)
    with tempfile.TemporaryDirectory() as folder, computing(options.load):
        record = Path(folder) / "record"
        stops = soak(record, options.minutes)
        frames = FrameDecoder().feed(record.read_bytes())
    report([Telemetry.unpack(frame.payload) for frame in frames if frame.type == Telemetry.ID], stops)


if __name__ == "__main__":
    main()

"""What the emulated servo buses of an ALOHA cost: the share of one core that their process takes.

    python -m benchmarks.servo_bus [--seconds 5]

A host as our firmware is one writes the goals of nine servos per bus at 250 Hz, as a swing of all joints at the largest
speed of the demonstrations (1.9 rad/s), and reads 10 bytes (current, velocity, position) of all nine by sync read, at
50 or 250 Hz. The buses are connected by UNIX sockets, as they are with the emulated board.

* `share`: processor time of the process by wall-clock time;
* `cost`: the same by instruction packet;
* `in time`: reads whose answer came within a step of 4 ms;
* `answer`: time from the request to the last byte: median and 99th percentile, beside the time that the bytes take on
  the wire at 1 Mbaud;
* `lag`: how far the joints are behind their goals, as a time: the time shift that fits best.
"""

from __future__ import annotations

import argparse
import math
import os
import select
import socket
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine import describe_machine
from firmware_bridge.emulator.servo_bus.arms import aloha_bus
from firmware_bridge.emulator.servo_bus.child import ServoBusProcess
from firmware_bridge.emulator.servo_bus.dynamixel_packets import BROADCAST, Decoder, Instruction, packet

STEP_HZ = 250
SERVOS = range(1, 10)
BYTES_BACK = len(SERVOS) * (11 + 10)
BYTES_THERE = 14 + len(SERVOS)
BAUD = 1_000_000
SPEED, AMPLITUDE = 1.9, 0.4  # rad/s, rad
COUNTS_PER_RAD = 4096 / (2 * math.pi)
READ = packet(BROADCAST, Instruction.SYNC_READ, struct.pack("<HH", 126, 10) + bytes(SERVOS))
TORQUE_ON = packet(BROADCAST, Instruction.WRITE, struct.pack("<HB", 64, 1))
POSITION_IN_STATUS = 1 + 6


def goals(counts: int) -> bytes:
    """One packet with the same goal for all servos."""
    return packet(
        BROADCAST,
        Instruction.SYNC_WRITE,
        struct.pack("<HH", 116, 4) + b"".join(struct.pack("<Bi", number, counts) for number in SERVOS),
    )


def swing(seconds: float) -> float:
    """Counts of the swing at a time."""
    return 2048 + COUNTS_PER_RAD * AMPLITUDE * math.sin(SPEED / AMPLITUDE * seconds)


class Host:
    """Both buses of the robot, driven step by step."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.links = []
        for path in paths:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            link.connect(path)
            link.sendall(TORQUE_ON)
            self.links.append(link)
        self.times: list[float] = []
        self.positions: list[tuple[float, int]] = []

    def run(self, seconds: float, read_hz: int) -> None:
        """Steps for so long."""
        every = STEP_HZ // read_hz
        start = time.monotonic()
        for step in range(round(seconds * STEP_HZ)):
            due = start + step / STEP_HZ
            time.sleep(max(0.0, due - time.monotonic()))
            reads = step % every == 0
            command = goals(round(swing(time.monotonic() - start))) + (READ if reads else b"")
            asked_at = time.monotonic()
            for link in self.links:
                link.sendall(command)
            if reads:
                self._take(asked_at, start)

    def _take(self, asked_at: float, start: float) -> None:
        """Waits for the answers of both buses; a step that this makes late follows at once."""
        missing = {link: len(SERVOS) for link in self.links}
        decoders = {link: Decoder() for link in self.links}  # the size of an answer is not known: it may be stuffed
        while missing:
            for link in select.select(list(missing), [], [])[0]:
                for status in decoders[link].feed(link.recv(4096)):
                    missing[link] -= 1
                    if status.id == SERVOS[0]:
                        (counts,) = struct.unpack_from("<i", status.parameters, POSITION_IN_STATUS)
                        self.positions.append((asked_at - start, counts))
                if missing[link] == 0:
                    del missing[link]
                    self.times.append(time.monotonic() - asked_at)


def lag_s(positions: Sequence[tuple[float, int]]) -> float:
    """The time shift of the swing that fits the positions best."""
    times, counts = np.array(positions).T
    omega = SPEED / AMPLITUDE
    basis = np.stack([np.sin(omega * times), np.cos(omega * times)], axis=1)
    (sine, cosine), *_ = np.linalg.lstsq(basis, counts - 2048, rcond=None)
    return math.atan2(-cosine, sine) / omega


def measure(read_hz: int, seconds: float) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / name) for name in ("left", "right")]
        buses = [aloha_bus(Path(path).name, connection="server", socket=path) for path in paths]
        with ServoBusProcess(buses) as process:
            host = Host([process.paths[bus.name] for bus in buses])
            host.run(0.5, read_hz)  # the swing begins
            host.times.clear()
            host.positions.clear()
            child = psutil.Process(process.pid)
            before, packets = child.cpu_times(), count(process)
            started = time.monotonic()
            host.run(seconds, read_hz)
            wall = time.monotonic() - started
            after, packets = child.cpu_times(), count(process) - packets
    used = after.user + after.system - before.user - before.system
    times = 1e3 * np.array(host.times)
    wire = 1e3 * (BYTES_THERE + BYTES_BACK + len(goals(0))) * 10 / BAUD
    return (
        f"{read_hz:>8} {used / wall:>7.1%} {1e6 * used / packets:>8.0f} {np.mean(times <= 1e3 / STEP_HZ):>9.1%} "
        f"{np.median(times):>8.2f} {np.percentile(times, 99):>8.2f} {wire:>8.2f} {1e3 * lag_s(host.positions):>8.1f}"
    )


def count(process: ServoBusProcess) -> int:
    """Instruction packets so far."""
    return sum(bus["counters"]["packets"] for bus in process.control.state().values())


HEADER = (
    f"{'read':>8} {'share':>7} {'cost':>8} {'in time':>9} {'answer':>8} {'':>8} {'wire':>8} {'lag':>8}\n"
    f"{'Hz':>8} {'':>7} {'us':>8} {'':>9} {'p50 ms':>8} {'p99 ms':>8} {'ms':>8} {'ms':>8}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args(arguments)
    print(*(f"{name}: {value}" for name, value in describe_machine().items()), sep="\n")
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"\n2 buses of {len(SERVOS)} servos, goals at {STEP_HZ} Hz\n{HEADER}")
    for read_hz in (50, 250):
        print(measure(read_hz, options.seconds), flush=True)


if __name__ == "__main__":
    main()

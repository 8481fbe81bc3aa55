"""Throughput and latency of chunks over the serial link, against the rate of the UART.

    python -m benchmarks.serial_link [--board qemu] [--joints 32] [--baud 921600] [--seconds 4] [--runs 3]

Chunks of 50 steps go through the bridge's own player, a pseudo-terminal and the paced wire to the firmware: its image
in QEMU (`qemu`), or its core as a library (`library`), since QEMU takes bytes more slowly than a fast line brings them.
Nor does it hold the board back: a line on which the board has to wait is measured with the library alone. Of several
runs the one is printed that other work on the machine disturbed least: fewest chunks not taken, then fewest telemetry
lost, then the fastest.

* `alone`: time from the call to the firmware's ACCEPTED, one chunk every 0.5 s: p50 and max, beside the time that its
  bytes spend on the wire;
* `in a row`: each chunk as soon as the last was accepted; the share of the line that its bytes take, and how many
  times faster than the arm plays them (50 steps a second) setpoints arrive;
* `ping`: median round trip of the heartbeat meanwhile, which waits behind what is in flight;
* `to the host`, while chunks come in a row: how many messages `Telemetry` and `Measured` arrive in a second (the board
  makes 50 of each), the share of the line that all the board sends takes, and how old the newest measurement is in the
  host's hands when telemetry comes: median and the worst of a hundred (p99);
* `not taken`, `again`, `overruns`, `lost`: chunks that the firmware did not accept, fragments sent more than once,
  bytes the board had to drop, telemetry that did not come.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.machine import describe_machine
from firmware_bridge.bridge.player import ChunkPlayer
from firmware_bridge.bridge.schedule import wire_ticks
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.emulator.child_process import start_child, stop_child
from firmware_bridge.firmware.generate_joints import write_table
from firmware_bridge.firmware.joint_table import JointTable, load_joint_table
from firmware_bridge.link.framing import ENCODED_OVERHEAD
from firmware_bridge.link.link import HEARTBEAT_S, FirmwareLink
from firmware_bridge.robot import RobotJoints, joints_of
from firmware_bridge.splice import GUARD_TICKS
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import (
    ChunkReply,
    Command,
    CommandResult,
    Counters,
    Health,
    HealthRow,
    Measured,
    MeasuredRow,
    Pong,
    Telemetry,
)

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware_bridge" / "firmware"
RATES = (115_200, 230_400, 460_800, 921_600, 1_000_000, 2_000_000)
STEPS = 50
PAUSE_S = 0.5
TICK_S = 0.02
URGENT = -10
BITS_PER_BYTE = 10


def table_of(joints: int) -> JointTable:
    """A robot with so many joints, all like the first of ALOHA."""
    (first, *_) = load_joint_table("aloha").joints
    return JointTable("bench", tuple(replace(first, name=f"joint_{number}") for number in range(joints)))


def build(table: JointTable, target: str, directory: Path) -> Path:
    """The firmware for this table: image or library."""
    (directory / "bench.c").write_text(write_table(table))
    places = ["ROBOT=bench", f"ROBOTS={directory}", f"BUILD={directory}/build"]
    subprocess.run(["make", "-s", "-C", str(FIRMWARE), target, *places], check=True, stdout=subprocess.DEVNULL)
    name = {"host": "host/libfirmware.so", "lm3s6965evb": "lm3s6965evb/firmware.elf"}[target]
    return directory / "build" / name


@contextlib.contextmanager
def library_port(library: Path, directory: Path, baud: int) -> Iterator[str]:
    """The core as a library behind the paced wire."""
    serial, control = directory / f"serial-{baud}", directory / f"control-{baud}"
    board = start_child(
        [sys.executable, "-m", "benchmarks.library_board", str(library), str(serial), str(baud)],
        log=directory / "board.log",
        urgent=True,
    )
    while not serial.exists():
        time.sleep(0.01)
    argv = [sys.executable, "-m", "firmware_bridge.emulator.line", "--board", str(serial), "--control", str(control)]
    log = directory / "wire.log"
    wire = start_child([*argv, "--baud", str(baud)], log=log, urgent=True, stdout=subprocess.PIPE)
    try:
        yield json.loads(wire.stdout.readline() if wire.stdout else b"")["port"]
    finally:
        stop_child(wire)
        stop_child(board)
        for path in (serial, control):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def qemu_port(image: Path, _: Path, baud: int) -> Iterator[str]:
    """The image in QEMU behind the paced wire."""
    with EmulatedBoard(image, baud=baud) as board:
        yield board.port


class ToHost(NamedTuple):
    """What came from the board: messages a second, share of the line, age of the newest measurement at telemetry."""

    telemetry_hz: float
    measured_hz: float
    line_share: float
    age_p50_ms: float
    age_p99_ms: float


def size_of(layout: str, tail: int = 0) -> int:
    """Bytes of a message on the wire."""
    return struct.calcsize(layout) + tail + ENCODED_OVERHEAD


class Measurement:
    """One armed board at one rate."""

    def __init__(self, port: str, robot: RobotJoints, baud: int) -> None:
        self.robot = robot
        self.baud = baud
        self.ticks: list[int] = []
        self.measured: list[int] = []  # the tick of the newest measurement, for each telemetry
        self.ages_ms: list[float] = []
        self.link = FirmwareLink(port, robot, baud=baud, on_telemetry=self._take)
        self.link.start()
        self.player = ChunkPlayer(self.link)
        self.reports: list[ChunkReport] = []
        self.on_wire_s = wire_ticks(STEPS, robot.count, baud, TICK_S) * TICK_S
        self.actions = np.tile(robot.home, (STEPS, 1))
        while self.link.command(Command.ARM).result == CommandResult.NO_HEARTBEAT:
            time.sleep(0.01)

    def _take(self, telemetry: Telemetry) -> None:
        if not self.link.clock.ready:
            return
        late_s = float(self.link.measurements(telemetry).age_s[0])  # without servos the commanded position, at once
        if math.isfinite(late_s):
            self.ticks.append(telemetry.tick)
            self.measured.append(telemetry.tick - round(late_s / TICK_S))
            now = self.link.clock.tick_at(time.monotonic_ns())
            self.ages_ms.append(1e3 * TICK_S * (now - self.measured[-1]))

    def play(self) -> float:
        """One chunk; seconds until it was decided."""
        started = time.monotonic_ns()
        arrival = math.ceil(self.link.clock.tick_at(started) + self.on_wire_s / TICK_S)
        self.reports.append(self.player.play(self.actions, arrival + GUARD_TICKS))  # no action is past due
        return (time.monotonic_ns() - started) * 1e-9

    def alone(self, seconds: float) -> list[float]:
        """Chunks with a pause after each."""
        times = []
        for _ in range(round(seconds / PAUSE_S)):
            times.append(self.play())
            time.sleep(max(0.0, PAUSE_S - times[-1]))
        return times

    def in_a_row(self, seconds: float) -> tuple[float, ToHost]:
        """Chunks per second without a pause, and what comes from the board meanwhile."""
        chunks, started, first, frames = 0, time.monotonic(), len(self.ticks), self.link.line.frames
        while time.monotonic() - started < seconds:
            self.play()
            chunks += 1
        lasted = time.monotonic() - started
        return chunks / lasted, self._to_host(first, self.link.line.frames - frames, lasted)

    def _to_host(self, first: int, frames: int, seconds: float) -> ToHost:
        telemetry, measured = len(self.ticks) - first, len(set(self.measured[first:]))
        each_second, joints = 1.0 / HEARTBEAT_S * size_of(Pong.LAYOUT), self.robot.count
        each_second += size_of(Counters.LAYOUT) + size_of(Health.LAYOUT, joints * len(HealthRow))
        replies = frames - telemetry - measured - seconds * (1.0 / HEARTBEAT_S + 2.0)  # to fragments
        size = telemetry * size_of(Telemetry.LAYOUT, 4 * joints)
        size += measured * size_of(Measured.LAYOUT, 2 * joints * len(MeasuredRow))
        size += seconds * each_second + max(0.0, replies) * size_of(ChunkReply.LAYOUT)
        p50, p99 = np.percentile(self.ages_ms[first:], (50, 99))
        share = size * BITS_PER_BYTE / self.baud / seconds
        return ToHost(telemetry / seconds, measured / seconds, share, float(p50), float(p99))


class Row(NamedTuple):
    """One row of the table; rows compare by how much the machine disturbed them, the least first."""

    refused: int
    lost: int
    slowness: float
    text: str


def measure(port: str, robot: RobotJoints, baud: int, seconds: float) -> Row:
    """One board at one rate."""
    run = Measurement(port, robot, baud)
    try:
        alone = 1e3 * np.array(run.alone(seconds))
        rate, to_host = run.in_a_row(seconds)
        ping_s = run.link.clock.round_trip_s
        time.sleep(1.1)  # the board's counters come every second
        counters = run.link.counters
    finally:
        run.link.close()
    refused = sum(report.outcome != ChunkReport.ACCEPTED for report in run.reports)
    again = sum(report.retransmissions for report in run.reports)
    lost = run.ticks[-1] - run.ticks[0] + 1 - len(run.ticks)
    text = (
        f"{baud:>8} {1e3 * run.on_wire_s:>8.1f} {np.median(alone):>8.1f} {alone.max():>8.1f} {rate:>9.1f} "
        f"{rate * run.on_wire_s:>7.0%} {rate * STEPS * TICK_S:>6.1f} {1e3 * ping_s:>8.1f} "
        f"{to_host.telemetry_hz:>7.1f} {to_host.measured_hz:>7.1f} {to_host.line_share:>7.0%} "
        f"{to_host.age_p50_ms:>7.0f} {to_host.age_p99_ms:>7.0f} "
        f"{len(run.reports):>7} {refused:>7} {again:>6} {counters.receive_overruns if counters else 0:>8} {lost:>5}"
    )
    return Row(refused, lost, 1.0 / rate, text)


def made_share(joints: int, baud: int) -> float:
    """The share of the line that telemetry and measurements would take if all of them were sent."""
    each_tick = size_of(Telemetry.LAYOUT, 4 * joints) + size_of(Measured.LAYOUT, 2 * joints * len(MeasuredRow))
    return each_tick * BITS_PER_BYTE / baud / TICK_S


HEADER = (
    f"{'':>8} {'wire':>8} {'alone':>8} {'':>8} {'in a row':>9} {'share':>7} {'':>6} {'ping':>8} "
    f"{'to the host':>39} "
    f"{'chunks':>7} {'not':>7}\n"
    f"{'baud':>8} {'ms':>8} {'p50 ms':>8} {'max ms':>8} {'chunks/s':>9} {'of line':>7} {'×50 Hz':>6} {'p50 ms':>8} "
    f"{'tele/s':>7} {'meas/s':>7} {'of line':>7} {'age p50':>7} {'p99 ms':>7} "
    f"{'played':>7} {'taken':>7} {'again':>6} {'overruns':>8} {'lost':>5}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", choices=("qemu", "library"), action="append")
    parser.add_argument("--joints", type=int, action="append")
    parser.add_argument("--baud", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args(arguments)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, URGENT)  # as the bridge does
    print(*(f"{name}: {value}" for name, value in describe_machine().items()), sep="\n")
    print(f"load: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    kinds = {"qemu": ("lm3s6965evb", qemu_port), "library": ("host", library_port)}
    for kind in options.board or kinds:
        target, port_of = kinds[kind]
        for joints in options.joints or (14, 32):
            table = table_of(joints)
            print(f"\n{kind}, {joints} joints, chunks of {STEPS} steps\n{HEADER}")
            with tempfile.TemporaryDirectory() as folder:
                program = build(table, target, Path(folder))
                for baud in options.baud or RATES:
                    if kind == "qemu" and made_share(joints, baud) > 1.0:
                        print(f"{baud:>8} the board makes more than this line carries: see library")
                        continue
                    rows = []
                    for _ in range(options.runs):
                        with port_of(program, Path(folder), baud) as port:
                            rows.append(measure(port, joints_of(table), baud, options.seconds))
                    print(min(rows).text, flush=True)


if __name__ == "__main__":
    main()

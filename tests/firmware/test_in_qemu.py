"""The image on the emulated board: watchdog, e-stop pin and coalesced ticks, which the host library does not have."""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial
from motion_audit import freeze_until_watchdog_resets

from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.firmware.joint_table import load_joint_table
from firmware_bridge.link.framing import FrameDecoder, encode_frame
from firmware_bridge.lockstep.host_firmware import HostFirmware
from pi0_edge.protos.serial_link import (
    MESSAGES,
    SCHEMA_HASH,
    Command,
    CommandReply,
    CommandRequest,
    Fault,
    Fragment,
    Hello,
    Ping,
    ResetCause,
    State,
    Telemetry,
    TickFlag,
    Welcome,
)

pytestmark = pytest.mark.real_time

PERIOD = 500_000  # counts of the 25 MHz counter


class Line:
    """The host's end of the serial line of an emulated board."""

    def __init__(self, board: EmulatedBoard) -> None:
        self.board = board
        self._port = serial.Serial(board.port, timeout=0.02)
        self._decoder = FrameDecoder()
        self._unread: deque[Any] = deque()
        self._seq = 0

    def close(self) -> None:
        self._port.close()

    def until(self, wanted: Callable[[Any], bool], limit_s: float = 8.0) -> list[Any]:
        """Reads until a message satisfies the condition; that message is the last of the list."""
        seen: list[Any] = []
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            while self._unread:
                seen.append(self._unread.popleft())
                if wanted(seen[-1]):
                    return seen
            frames = self._decoder.feed(self._port.read(4096))
            self._unread.extend(MESSAGES[frame.type].unpack(frame.payload) for frame in frames)
        raise AssertionError(f"nothing as wanted in {limit_s} s; the last message: {seen[-1:]}")

    def ticks(self, count: int) -> list[Telemetry]:
        seen: list[Telemetry] = []
        while len(seen) < count:
            seen += [m for m in self.until(lambda m: isinstance(m, Telemetry)) if isinstance(m, Telemetry)]
        return seen

    def send(self, *messages: Any) -> None:
        for message in messages:
            self._port.write(encode_frame(message.ID, self._seq, message.pack()))
            self._seq += 1

    def hello(self) -> Welcome:
        self._seq = 0
        self.send(Hello(SCHEMA_HASH))
        return self.until(lambda m: isinstance(m, Welcome))[-1]


@pytest.fixture
def line(firmware_image: Path) -> Iterator[Line]:
    with EmulatedBoard(firmware_image) as board:
        line = Line(board)
        line.ticks(3)
        yield line
        line.close()


def test_coalesced_ticks_are_counted_and_the_tick_number_follows_the_counter(line: Line) -> None:
    before = line.ticks(5)[-1]
    with line.board.frozen():
        time.sleep(0.3)
    late = line.until(lambda m: isinstance(m, Telemetry) and bool(m.flags & TickFlag.TICKS_MISSED))[-1]
    after = line.ticks(10)[-1]
    assert late.tick - before.tick >= 10
    for report in (late, after):
        counts = report.counter - before.counter - (report.tick - before.tick) * PERIOD
        assert abs(counts) < PERIOD
    assert not after.flags and after.state == State.DISARMED


def test_a_processor_that_hangs_is_reset_and_reports_it(line: Line) -> None:
    reports = line.ticks(1)

    def has_reset() -> bool:
        reports.extend(line.ticks(1))
        return reports[-1].tick < reports[-2].tick

    freeze_until_watchdog_resets(line.board, has_reset)
    assert (reports[-1].state, reports[-1].faults) == (State.DISARMED, Fault.WATCHDOG_RESET)
    assert line.hello().reset_cause == ResetCause.WATCHDOG


def tap_key(qmp: Path, key: str) -> None:
    press = {"execute": "send-key", "arguments": {"keys": [{"type": "qcode", "data": key}]}}
    with socket.socket(socket.AF_UNIX) as control, control.makefile("r") as answers:
        control.connect(str(qmp))
        for request in ({"execute": "qmp_capabilities"}, press):
            answers.readline()  # the greeting, then the answer to the first request
            control.sendall(json.dumps(request).encode() + b"\n")
        assert "return" in answers.readline()


def test_the_estop_contact_latches(line: Line) -> None:
    assert line.ticks(1)[0].state == State.DISARMED
    # Letting go of the key that QEMU wires to pin F1 raises the pin, as opening the contact does.
    tap_key(line.board._directory / "qmp", "ctrl")
    report = line.until(lambda m: isinstance(m, Telemetry) and m.state == State.ESTOP)[-1]
    assert report.faults == Fault.ESTOP_PIN


def played(line: Line, rows: list[list[int]], fragments: list[Fragment], first: int) -> list[Telemetry]:
    """What the board reports from the tick before `first` to the end of the plan; with a heartbeat every tick."""
    line.send(*fragments)
    reports: list[Telemetry] = []
    while not reports or reports[-1].tick < first + len(rows) - 1:
        reports += line.ticks(1)
        line.send(Ping(reports[-1].tick, 0))
    return [report for report in reports if report.tick >= first]


def test_every_setpoint_and_every_limit_is_the_hosts_bit_for_bit(line: Line) -> None:
    table = load_joint_table("aloha")
    swing = [0.2 * (1 - math.cos(0.1 * step)) + (0.5 if step > 25 else 0.0) for step in range(45)]
    rows = [
        [round((j.home + share * 0.4 * (j.maximum - j.home)) / j.resolution) for j in table.joints] for share in swing
    ]
    host = HostFirmware(table).armed()  # it may be compiled now, and an armed board waits 200 ms for its heartbeat
    line.hello()
    for ping in range(5):  # ARM needs a heartbeat that a tick has seen
        line.send(Ping(ping, 0))
        line.ticks(2)
    line.send(CommandRequest(1, Command.ARM))
    assert line.until(lambda m: isinstance(m, CommandReply))[-1].result == 0
    first = line.ticks(1)[-1].tick + 12
    board = played(line, rows, host.fragments(first, rows), first)
    host.reset()
    host.armed()
    assert host.play(host.tick_number + 5, rows).result == 0
    expected = [host.tick() for _ in range(4 + len(rows))][4:]
    by_step = {report.tick - first: report for report in board}
    for step, theirs in enumerate(expected):
        ours = by_step[step]
        assert struct.pack("<14f", *ours.executed) == struct.pack("<14f", *theirs.executed), step
        assert ours.state == theirs.state == State.RUNNING
    assert any(report.flags & TickFlag.ACCELERATION_LIMITED for report in board)

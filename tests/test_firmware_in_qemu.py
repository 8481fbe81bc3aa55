"""The image on the emulated board: what only hardware can show, which is watchdog, e-stop pin and coalesced ticks."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serial

from firmware_bridge.emulator import EmulatedBoard
from firmware_bridge.framing import FrameDecoder, encode_frame
from protos.serial_link import (
    MESSAGES,
    SCHEMA_HASH,
    Fault,
    Hello,
    ResetCause,
    State,
    Telemetry,
    TickFlag,
    Welcome,
)

PERIOD = 500_000  # counts of the 25 MHz counter


class Line:
    """The host's end of the serial line of an emulated board."""

    def __init__(self, board: EmulatedBoard) -> None:
        self.board = board
        self._port = serial.Serial(board.port, timeout=0.02)
        self._decoder = FrameDecoder()

    def close(self) -> None:
        self._port.close()

    def until(self, wanted: Callable[[Any], bool], limit_s: float = 8.0) -> list[Any]:
        """Read until a message is as wanted; that one is the last of the list."""
        seen: list[Any] = []
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for frame in self._decoder.feed(self._port.read(4096)):
                seen.append(MESSAGES[frame.type].unpack(frame.payload))
                if wanted(seen[-1]):
                    return seen
        raise AssertionError(f"nothing as wanted in {limit_s} s; the last message: {seen[-1:]}")

    def ticks(self, count: int) -> list[Telemetry]:
        seen: list[Telemetry] = []
        while len(seen) < count:
            seen += [m for m in self.until(lambda m: isinstance(m, Telemetry)) if isinstance(m, Telemetry)]
        return seen

    def hello(self) -> Welcome:
        self._port.write(encode_frame(Hello.ID, 0, Hello(SCHEMA_HASH).pack()))
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


def test_a_processor_that_hangs_is_reset_and_says_so(line: Line) -> None:
    with line.board.frozen():
        time.sleep(0.8)
    report = line.until(lambda m: isinstance(m, Telemetry) and m.tick < 5)[-1]
    assert (report.state, report.faults) == (State.DISARMED, Fault.WATCHDOG_RESET)
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

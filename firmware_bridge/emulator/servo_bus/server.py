"""Serves several buses in real time: waits for bytes, lets the servos answer, and sends at the time they would."""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from firmware_bridge.emulator.control_socket import answer_next
from firmware_bridge.emulator.servo_bus.bus import ServoBus
from firmware_bridge.emulator.servo_bus.control import handle_command
from firmware_bridge.emulator.servo_bus.goal_log import goal_record
from firmware_bridge.emulator.servo_bus.ports import Port, open_port
from firmware_bridge.emulator.servo_bus.replies import Answer
from firmware_bridge.emulator.servo_bus.settings import BusSettings

_IDLE_S = 0.1  # joints move at least so often, so that nobody has to wait for the steps of a long time


class _ServedBus:
    """One bus with its port and the answers that are on their way."""

    def __init__(self, settings: BusSettings) -> None:
        self.port: Port = open_port(settings)
        self.bus = ServoBus(settings, time.monotonic())
        self._answers: deque[Answer] = deque()

    def fileno(self) -> int:
        return self.port.fileno()

    @property
    def next_due(self) -> float | None:
        return self._answers[0].due if self._answers else None

    def read(self, now: float) -> None:
        if data := self.port.read():
            self._answers += self.bus.receive(now, data, self.port.baud)

    def send_due(self, now: float) -> None:
        while self._answers and self._answers[0].due <= now:
            self.port.write(self._answers.popleft().data)


class BusServer:
    """Several buses and the control of their faults."""

    def __init__(self, buses: Sequence[BusSettings], control: socket.socket, goals: BinaryIO | None = None) -> None:
        """Opens the ports; `goals`, unbuffered, takes when packets with goals have left, see `goal_log`."""
        self._served = {settings.name: _ServedBus(settings) for settings in buses}
        self._buses: Mapping[str, ServoBus] = {name: served.bus for name, served in self._served.items()}
        self._control = control
        self._goals = goals

    @property
    def paths(self) -> dict[str, str]:
        """What the other ends open, by the name of the bus."""
        return {name: served.port.path for name, served in self._served.items()}

    def run(self) -> None:
        """Serves until the server of a socket has closed it."""
        everything = list(self._served.values())
        with contextlib.suppress(ConnectionError):
            while True:
                # `select`, as `epoll` waits for whole milliseconds: an answer takes a fraction of one.
                ready, _, _ = select.select([*everything, self._control], [], [], self._wait_s(everything))
                now = time.monotonic()
                for served in everything:
                    served.send_due(now)
                for source in ready:
                    if isinstance(source, _ServedBus):
                        source.read(now)
                    else:
                        answer_next(self._control, lambda line: handle_command(line, self._buses, time.monotonic()))
                self._log_goals()
                if not ready:
                    for served in everything:
                        served.bus.advance(now)

    def _log_goals(self) -> None:
        for number, bus in enumerate(self._buses.values()):
            while bus.goals_left:
                left_s = bus.goals_left.popleft()
                if self._goals is not None:
                    self._goals.write(goal_record(number, left_s))

    def _wait_s(self, everything: Sequence[_ServedBus]) -> float:
        due = [served.next_due for served in everything if served.next_due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else _IDLE_S

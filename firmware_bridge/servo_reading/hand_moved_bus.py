"""One bus of servos without torque, whose positions the host reads through a serial port of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping

from firmware_bridge.errors import LinkError
from firmware_bridge.link.port import open_stream
from firmware_bridge.servo_reading.packets import PACKETS, Answer, ServoPackets

_ANSWER_S = 0.05
"""For all answers to one question; adapters of USB keep bytes back for up to 16 ms."""

_ATTEMPTS = 4


class HandMovedBus:
    """Servos that are read and never given a goal. One thread uses it."""

    def __init__(self, port: str, protocol: str, baud: int, servos: Mapping[int, str]) -> None:
        """Opens the port and takes the torque off every servo.

        Args:
            port: Device path or pseudo-terminal.
            protocol: `dynamixel` or `feetech`.
            baud: Bits per second.
            servos: ID -> what it is, in words, for messages.

        Raises:
            PortError: The port cannot be opened.
            LinkError: A servo does not answer, or the port was lost.
        """
        self._packets: ServoPackets = PACKETS[protocol]()
        self._servos = dict(servos)
        self._stream = open_stream(port, baud)
        try:
            for number in self._servos:
                self._take_torque_off(number)
        except BaseException:
            self._stream.close()
            raise

    def close(self) -> None:
        """Closes the port; the servos stay without torque."""
        self._stream.close()

    def positions(self) -> dict[int, int]:
        """ID -> counts, of the servos that have answered in time.

        Raises:
            LinkError: The port was lost.
        """
        answers = self._ask(self._packets.ask_positions(list(self._servos)), len(self._servos))
        read = {answer.id: self._packets.position(answer) for answer in answers}
        return {number: counts for number, counts in read.items() if number in self._servos and counts is not None}

    def _take_torque_off(self, number: int) -> None:
        for _ in range(_ATTEMPTS):
            if any(answer.id == number for answer in self._ask(self._packets.torque_off(number), 1)):
                return
        raise LinkError(
            f"{self._servos[number]} (ID {number}) does not answer at {self._stream.url}; check its power, cable, ID "
            "and baud rate"
        )

    def _ask(self, question: bytes, count: int) -> list[Answer]:
        while self._stream.read(0.0):  # late answers to an earlier question
            pass
        self._stream.write(question, _ANSWER_S)
        deadline = time.monotonic() + _ANSWER_S
        waiting, found = bytearray(), []
        may_echo = True  # an adapter of a single wire may return what was sent, which is no answer
        while len(found) < count and (left := deadline - time.monotonic()) > 0:
            waiting += self._stream.read(left)
            if may_echo and waiting.startswith(question):
                del waiting[: len(question)]
                may_echo = False
            if not (may_echo and question.startswith(waiting)):
                found += self._packets.answers(waiting)
        return found

"""The serial line between the emulated board and the host: `python -m firmware_bridge.emulator.line`.

QEMU models no baud rate, and it stops the board, its counter included, while no process reads its serial socket.
This process therefore always reads QEMU's socket, forwards both directions at the baud rate, and
gives the host a pseudo-terminal that behaves like a device: bytes for a port that nobody has open are lost.
Faults are injected at run time (see `line_control`). On start it prints one JSON line with the path of the
pseudo-terminal. It can record what the board sends, undamaged and whether or not a host listens. It does not
interpret the bytes.
"""

import argparse
import contextlib
import json
import os
import select
import selectors
import socket
import sys
import time
import tty
from pathlib import Path
from typing import BinaryIO

from firmware_bridge.emulator.control_socket import answer_next, listen
from firmware_bridge.emulator.line_control import handle_command
from firmware_bridge.emulator.line_direction import FaultInjector, LineDirection

_READ_SIZE = 4096
_HOST_BACKLOG = 4096  # size of a device's transmit buffer: if it is full, the host has to wait
_STEP_S = 0.001  # at most, while bytes wait for the baud rate
_CLOSED_POLL_S = 0.02  # how soon an opened port is noticed


class SerialLine:
    """Forwards between QEMU's socket and a pseudo-terminal."""

    def __init__(
        self, board: socket.socket, control: socket.socket, record: BinaryIO | None, baud: int, seed: int, exact: bool
    ) -> None:
        self._board = board
        self._record = record
        self._control = control
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        os.close(slave)  # from now on the kernel reports whether the host has it open
        self._hangup = select.poll()
        self._hangup.register(self._master, 0)
        self._host_listens = False
        self._to_firmware = LineDirection(baud, FaultInjector(seed), exact)
        self._to_host = LineDirection(baud, FaultInjector(seed + 1), exact)
        self._selector = selectors.SelectSelector()  # epoll waits whole milliseconds, in which 92 bytes pass
        for descriptor in (board.fileno(), self._master):
            os.set_blocking(descriptor, False)
        self._selector.register(board, selectors.EVENT_READ, self._read_board)
        self._selector.register(control, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Forwards until the board closes its socket."""
        with contextlib.suppress(ConnectionError):
            while True:
                self._watch_host()
                for key, _ in self._selector.select(self._wait_s()):
                    key.data(key.fileobj)
                self._forward()

    def _wait_s(self) -> float:
        """Until all that waits may leave; where it might have left and was not taken, until the next attempt."""
        if self._to_firmware.waiting or self._to_host.waiting:
            now = time.monotonic()
            left_s = [direction.wait_s(now) for direction in (self._to_firmware, self._to_host)]
            return min([_STEP_S, *(left for left in left_s if left > 0.0)])
        return 1.0 if self._host_listens else _CLOSED_POLL_S

    def _watch_host(self) -> None:
        listens = not self._hangup.poll(0)
        full = self._to_firmware.waiting >= _HOST_BACKLOG
        registered = self._master in self._selector.get_map()
        if listens and not full and not registered:
            self._selector.register(self._master, selectors.EVENT_READ, self._read_host)
        elif registered and (full or not listens):
            self._selector.unregister(self._master)
        self._host_listens = listens

    def _read_host(self, _: object) -> None:
        with contextlib.suppress(OSError):  # closed by the host: the next look at the port says so
            self._to_firmware.enter(time.monotonic(), os.read(self._master, _READ_SIZE))

    def _read_board(self, _: object) -> None:
        data = self._board.recv(_READ_SIZE)
        if not data:
            raise ConnectionError("the board closed its serial port")
        if self._record is not None:
            self._record.write(data)
        self._to_host.enter(time.monotonic(), data)

    def _forward(self) -> None:
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            if due := self._to_firmware.due(now):
                self._to_firmware.sent(self._board.send(due))
        if due := self._to_host.due(now):
            self._to_host.sent(len(due))
            if self._host_listens:
                with contextlib.suppress(OSError):  # the host reads too slowly or has just closed: bytes are lost
                    os.write(self._master, due)

    def _accept(self, _: object) -> None:
        directions = {"to_firmware": self._to_firmware, "to_host": self._to_host}
        answer_next(self._control, lambda line: handle_command(line, directions, time.monotonic()))


def main() -> None:
    """Runs one line until the board ends."""
    parser = argparse.ArgumentParser(prog="python -m firmware_bridge.emulator.line", description=__doc__)
    parser.add_argument("--board", required=True, help="unix socket of QEMU's serial port")
    parser.add_argument("--control", required=True, type=Path, help="unix socket to listen on for faults")
    parser.add_argument("--record", type=Path, help="file that receives everything the board sends")
    parser.add_argument("--baud", type=int, default=921600)
    parser.add_argument("--seed", type=int, default=0, help="of the injected faults")
    parser.add_argument("--exact", action="store_true", help="send nothing faster after a pause, for measurements")
    options = parser.parse_args()
    board = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    board.connect(options.board)
    control = listen(options.control)
    record = options.record.open("wb", buffering=0) if options.record else None
    line = SerialLine(board, control, record, options.baud, options.seed, options.exact)
    sys.stdout.write(json.dumps({"port": line.port}) + "\n")
    sys.stdout.flush()
    line.run()


if __name__ == "__main__":
    main()

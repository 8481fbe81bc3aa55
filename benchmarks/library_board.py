"""A board without a processor to emulate: the firmware's core as a library, in real time, behind a unix socket.

    python -m benchmarks.library_board LIBRARY SOCKET BAUD

Takes the place of QEMU where QEMU would be the slower part, or where the board would have to wait for the line: QEMU's
UART takes every byte at once. Here bytes leave at the baud rate, and the core finds its UART full as it would on a
board. Ends when the other end of the socket closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import sys
import time

TICK_S = 0.02
COUNTER_HZ = 25_000_000
BITS_PER_BYTE = 10
UART_BYTES = 16  # of the queue that a board's UART has
UART_S = 0.001  # or the bytes of so long, as this process cannot look more often


class LibraryBoard:
    """The core with the counter and the tick of this machine's clock."""

    def __init__(self, path: str, baud: int) -> None:
        self.core = ctypes.CDLL(path)
        self.core.host_take_sent.restype = ctypes.c_size_t
        self.core.host_reset(0)
        self._byte_s = BITS_PER_BYTE / baud
        self._line_free_at = 0.0
        self._sending = False
        self.core.host_limit_sending(ctypes.c_size_t(max(UART_BYTES, int(UART_S / self._byte_s))))
        self._sent = ctypes.create_string_buffer(1 << 16)
        self._started = time.monotonic()
        self._tick = 0

    def advance(self, received: bytes) -> bytes:
        """Lets the interrupts and the main loop run; returns what the board sends."""
        elapsed = time.monotonic() - self._started
        if (tick := int(elapsed / TICK_S)) > self._tick:
            self._tick = tick
            self.core.host_tick(ctypes.c_uint32(tick))
        self.core.host_set_counter(ctypes.c_uint64(int(elapsed * COUNTER_HZ)))
        self.core.host_receive(received, ctypes.c_size_t(len(received)))
        self.core.host_poll()
        if time.monotonic() < self._line_free_at:
            return b""
        size = self.core.host_take_sent(self._sent, ctypes.c_size_t(len(self._sent)))
        self._sending = size > 0
        self._line_free_at = max(self._line_free_at, time.monotonic() - UART_S) + size * self._byte_s
        return ctypes.string_at(self._sent, size)

    def wait_s(self) -> float:
        """Time until the next tick, or until the line is free."""
        now = time.monotonic()
        due = self._started + (self._tick + 1) * TICK_S
        return max(0.0, (min(due, self._line_free_at) if self._sending else due) - now)


def main() -> None:
    """Serves one connection."""
    board = LibraryBoard(sys.argv[1], int(sys.argv[3]))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(sys.argv[2])
        server.listen()
        line, _ = server.accept()
    with line, contextlib.suppress(ConnectionError):
        received = b""
        while True:
            if sent := board.advance(received):
                line.sendall(sent)
            received = b""
            if select.select([line], [], [], board.wait_s())[0]:
                received = line.recv(4096)
                if not received:
                    return


if __name__ == "__main__":
    main()

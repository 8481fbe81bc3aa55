"""The socket that systemd gives a service, without systemd."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path


class NotifySocket:
    """Takes what a service says.

    Attributes:
        name: As it stands in NOTIFY_SOCKET.
    """

    def __init__(self, name: Path | str) -> None:
        """Binds a path, or with a leading @ a name of the abstract namespace."""
        self.name = str(name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + self.name[1:] if self.name.startswith("@") else self.name)
        self._socket.setblocking(False)

    def environment(self, watchdog_s: float) -> dict[str, str]:
        """For a process of its own."""
        return {**os.environ, "NOTIFY_SOCKET": self.name, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def messages(self) -> list[list[str]]:
        """What came since the last call, each message by its lines."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return found

    def count(self, line: str, seconds: float) -> int:
        """How many messages with this line come in so many seconds."""
        self.messages()
        time.sleep(seconds)
        return sum(line in message for message in self.messages())

    def wait_for(self, line: str, seconds: float, alive: Callable[[], bool] = lambda: True) -> list[str]:
        """All lines until one comes."""
        lines: list[str] = []
        deadline = time.monotonic() + seconds
        while line not in lines:
            assert time.monotonic() < deadline and alive(), lines
            time.sleep(0.02)
            lines += [line for message in self.messages() for line in message]
        return lines

    def close(self) -> None:
        """Takes nothing more."""
        self._socket.close()

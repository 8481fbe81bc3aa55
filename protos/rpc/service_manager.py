"""What a service tells systemd about itself: ready, stopping, its status, and that its work goes on.

A service of `Type=notify` is ready when it says so, and with `WatchdogSec=` it must say again and again that it works,
else systemd ends it. Say that from the work itself: a thread that does nothing else goes on while the work hangs.

The messages are those of sd_notify(3), one datagram each. Outside of systemd there is nobody to tell, and every method
here does nothing.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

LONGEST_START_S = "PI0_EDGE_LONGEST_START_S"
"""Environment variable with the longest time that a start may take, in seconds."""

_LONGEST_START_S = 180.0
_EXTEND_EVERY_S = 5.0
_EXTENDED_S = 30.0
_SHORTEST_GAP = 1 / 6
"""Of the watchdog's time: what comes sooner after the last message is not sent."""

logger = logging.getLogger(__name__)


class ServiceManager:
    """systemd, as the process that it started sees it.

    Attributes:
        watchdog_s: The service must say at least so often, in seconds, that its work goes on; None where nobody asks.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Reads what systemd asks for.

        Args:
            environment: Of this process.
        """
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = None if self._address is None else _watchdog_s(environment)
        self._longest_start_s = float(environment.get(LONGEST_START_S) or _LONGEST_START_S)
        self._fed_at = float("-inf")
        self._start_began: float | None = None

    @property
    def feed_every_s(self) -> float | None:
        """A third of the watchdog's time: how often to feed it; None where nobody asks."""
        return None if self.watchdog_s is None else self.watchdog_s / 3

    @contextmanager
    def starting(self, status: str) -> Iterator[None]:
        """Asks for more time as long as what is inside takes, such as reading weights.

        A helper thread asks; it ends with the context. It stops asking `PI0_EDGE_LONGEST_START_S` seconds after the
        first of these contexts began, 180 where that is not set: a start that hangs is ended then.

        Args:
            status: What is being done, for `systemctl status`.
        """
        if self._address is None:
            yield
            return
        if self._start_began is None:
            self._start_began = time.monotonic()
        done, last = threading.Event(), self._start_began + self._longest_start_s
        helper = threading.Thread(target=self._extend, args=(status, done, last), name="service-start", daemon=True)
        helper.start()
        try:
            yield
        finally:
            done.set()
            helper.join()

    def ready(self, status: str) -> None:
        """The service answers from now on.

        Args:
            status: Where and with what, for `systemctl status`.
        """
        self._fed_at = time.monotonic()
        self._send("READY=1", f"STATUS={_one_line(status)}", "WATCHDOG=1")

    def status(self, text: str) -> None:
        """Says in a line what the service does, for `systemctl status`."""
        self._send(f"STATUS={_one_line(text)}")

    def stopping(self, reason: str) -> None:
        """The service ends by itself.

        Args:
            reason: Why, for `systemctl status`.
        """
        self._send("STOPPING=1", f"STATUS={_one_line(reason)}")

    def feed_watchdog(self) -> None:
        """The work goes on. Call it from the work, as often as you like: six messages at most go out in its time."""
        now = time.monotonic()
        if self.watchdog_s is not None and now - self._fed_at >= self.watchdog_s * _SHORTEST_GAP:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def _extend(self, status: str, done: threading.Event, last: float) -> None:
        while (left_s := last - time.monotonic()) > 0:
            extended_us = int(min(_EXTENDED_S, left_s) * 1e6)
            self._send(f"EXTEND_TIMEOUT_USEC={extended_us}", f"STATUS={_one_line(status)}")
            if done.wait(_EXTEND_EVERY_S):
                return
        logger.warning("%s takes longer than %s = %g s", status, LONGEST_START_S, self._longest_start_s)

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as own:
                own.settimeout(1.0)  # a full queue of process 1 must not stop the work
                own.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            logger.warning("systemd was not told %s: %s", lines[0], error)


def _address(notify_socket: str) -> str | None:
    """Address of a socket in the file system, or, with a leading @, of one in the abstract namespace."""
    if notify_socket.startswith("@") and len(notify_socket) > 1:
        return "\0" + notify_socket[1:]
    return notify_socket if notify_socket.startswith("/") else None


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """The watchdog's time, where it is this process that is watched."""
    if environment.get("WATCHDOG_PID") not in (None, "", str(os.getpid())):
        return None
    microseconds = environment.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() and int(microseconds) else None


def _one_line(text: str) -> str:
    return " ".join(text.split())

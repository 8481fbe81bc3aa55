"""How the other end of a bus is connected: a pseudo-terminal for programs of this machine, a UNIX socket for QEMU."""

import abc
import contextlib
import fcntl
import os
import socket
import struct
import tty
from pathlib import Path

from firmware_bridge.emulator.servo_bus.settings import CLIENT, PTY, BusSettings
from firmware_bridge.errors import EmulatorError

_READ_SIZE = 4096
_TCGETS2 = 0x802C542A  # of Linux on x86 and Arm; Python's termios knows no speed that has no constant
_TERMIOS2 = struct.Struct("4I20s2I")


class Port(abc.ABC):
    """One end of a bus.

    Attributes:
        path: What the other end opens or connects to.
    """

    path: str

    @abc.abstractmethod
    def fileno(self) -> int:
        """What to wait on."""

    @abc.abstractmethod
    def read(self) -> bytes:
        """The bytes that wait; empty where there are none.

        Raises:
            ConnectionError: The other end has left for ever.
        """

    @abc.abstractmethod
    def write(self, data: bytes) -> None:
        """Sends bytes; what nobody takes is lost, as on a wire."""

    @property
    @abc.abstractmethod
    def baud(self) -> int:
        """Bits per second at which the other end sends and listens."""


class PtyPort(Port):
    """A pseudo-terminal, with the speed that the program on the other side has set."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()  # the slave stays open: a closed one would report a hang-up for ever
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)

    def fileno(self) -> int:
        """What to wait on."""
        return self._master

    def read(self) -> bytes:
        """The bytes that wait."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._master, _READ_SIZE)
        return b""

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    @property
    def baud(self) -> int:
        """Bits per second."""
        *_, speed = _TERMIOS2.unpack(fcntl.ioctl(self._slave, _TCGETS2, bytes(_TERMIOS2.size)))
        return speed


class SocketPort(Port):
    """A UNIX socket with one peer at a time. A server waits for the next peer; a client ends with its peer."""

    def __init__(self, path: str, baud: int, serves: bool) -> None:
        self.path = path
        self._baud = baud
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if serves:
                link.bind(path)
                link.listen(1)
                self._listener = link
            else:
                link.connect(path)
                link.setblocking(False)
                self._peer = link
        except OSError as error:
            link.close()
            doing = "be served" if serves else "be reached"
            raise EmulatorError(f"the servo bus at {Path(path)} cannot {doing}: {error}") from error

    def fileno(self) -> int:
        """What to wait on: the peer, or where there is none its arrival."""
        link = self._peer or self._listener
        return -1 if link is None else link.fileno()

    def read(self) -> bytes:
        """The bytes that wait."""
        if self._peer is None:
            if self._listener is not None:
                self._peer, _ = self._listener.accept()
                self._peer.setblocking(False)
            return b""
        try:
            data = self._peer.recv(_READ_SIZE)
        except BlockingIOError:
            return b""
        except ConnectionError:
            data = b""
        if not data:
            self._peer.close()
            self._peer = None
            if self._listener is None:
                raise ConnectionError(f"{self.path} was closed by its server")
        return data

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        if self._peer is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._peer.send(data)

    @property
    def baud(self) -> int:
        """Bits per second."""
        return self._baud


def open_port(settings: BusSettings) -> Port:
    """The port of a bus.

    Raises:
        EmulatorError: Its socket cannot be made or reached.
    """
    if settings.connection == PTY or settings.socket is None:
        return PtyPort()
    return SocketPort(settings.socket, settings.baud, serves=settings.connection != CLIENT)

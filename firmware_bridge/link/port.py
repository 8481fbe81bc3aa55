"""A serial port as a stream of bytes: device path, pseudo-terminal or `socket://host:port`.

pyserial opens and configures the port; reading and writing go to its file descriptor, because one `select`
with a deadline serves devices and sockets alike and never waits for more bytes than have arrived.
"""

import errno
import os
import select
import stat
import time

from firmware_bridge.errors import LinkError, PortError
from pi0_edge.errors import MissingDependencyError
from pi0_edge.installed_packages import pyserial_advice

try:
    import serial
    from serial.tools import list_ports
except ImportError as error:  # also where another package of that name is installed
    raise MissingDependencyError(pyserial_advice()) from error

_READ_SIZE = 4096


def open_stream(url: str, baud: int) -> "SerialStream":
    """Opens a port for this process alone.

    Args:
        url: Device path, pseudo-terminal or `socket://host:port`.
        baud: Bits per second; without effect on sockets and pseudo-terminals.

    Raises:
        PortError: It does not exist, may not be opened, is busy or is no serial port.
    """
    if "://" in url:
        return SerialStream(url, _open_socket(url))
    _check_device(url)
    try:
        return SerialStream(url, serial.Serial(url, baud, exclusive=True))
    except serial.SerialException as error:
        raise _refusal(url, error) from error
    except (OSError, ValueError) as error:
        raise PortError(f"serial port {url} cannot be set to {baud} baud: {error}") from error


def _open_socket(url: str) -> serial.SerialBase:
    if not url.startswith("socket://"):
        raise PortError(f"port {url!r}: give a device path, a pseudo-terminal or socket://host:port")
    try:
        return serial.serial_for_url(url)
    except serial.SerialException as error:
        raise PortError(f"nothing answers at {url} ({error}); is the board or the emulator running?") from error


def _check_device(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise PortError(f"serial port {path} does not exist; {_existing_ports()}") from error
    if not stat.S_ISCHR(mode):
        raise PortError(f"{path} is not a serial port; {_existing_ports()}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise PortError(
            f"no permission to open {path}; run `sudo usermod -aG dialout $USER`, then log out and in again"
        )


def _existing_ports() -> str:
    ports = sorted(port.device for port in list_ports.comports())
    if not ports:
        return "this machine has no serial port now; is the board plugged in and powered?"
    return "ports of this machine: " + ", ".join(ports)


def _refusal(path: str, error: serial.SerialException) -> PortError:
    if error.errno in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in str(error):
        return PortError(f"serial port {path} is in use by another program; `fuser -v {path}` names it")
    return PortError(f"serial port {path} cannot be opened: {error}")


class SerialStream:
    """An open port. One thread reads; callers must not write at the same time."""

    def __init__(self, url: str, port: serial.SerialBase) -> None:
        self.url = url
        self._port = port
        self._fd: int = port.fileno()

    def read(self, timeout_s: float) -> bytes:
        """The bytes that have arrived, at least one; empty after `timeout_s` seconds of silence.

        Raises:
            LinkError: The port has disappeared.
        """
        try:
            if not select.select([self._fd], [], [], timeout_s)[0]:
                return b""
            data = os.read(self._fd, _READ_SIZE)
        except (OSError, ValueError) as error:
            raise LinkError(f"serial port {self.url} was lost: {error}") from error
        if not data:
            raise LinkError(f"serial port {self.url} was closed at the far end")
        return data

    def write(self, data: bytes, timeout_s: float) -> None:
        """Hands all bytes to the port.

        Raises:
            LinkError: The port has disappeared, or did not accept the bytes within `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        rest = memoryview(data)
        while rest:
            rest = rest[self._write_some(rest, deadline) :]

    def _write_some(self, data: memoryview, deadline: float) -> int:
        try:
            if select.select([], [self._fd], [], max(0.0, deadline - time.monotonic()))[1]:
                return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except (OSError, ValueError) as error:
            raise LinkError(f"serial port {self.url} was lost: {error}") from error
        raise LinkError(f"serial port {self.url} took no byte in time: the line stands still")

    def close(self) -> None:
        """Closes the port; a reader in another thread gets `LinkError`."""
        self._fd = -1
        self._port.close()

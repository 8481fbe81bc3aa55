"""One JSON object per line over a UNIX socket, each answered by one line: how running emulators take commands."""

import contextlib
import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.errors import EmulatorError

_CLIENT_S = 5.0
_SERVER_S = 1.0


def listen(path: Path) -> socket.socket:
    """A socket that clients connect to."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(str(path))
    control.listen()
    return control


def answer_next(control: socket.socket, handle: Callable[[bytes], bytes]) -> None:
    """Takes the client that is waiting, answers its line and lets it go."""
    connection, _ = control.accept()
    connection.settimeout(_SERVER_S)
    with connection, contextlib.suppress(OSError):
        connection.sendall(handle(connection.makefile("rb").readline()))


def request(path: Path, command: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Sends one command and returns the answer.

    Args:
        path: Of the socket.
        command: In types that JSON has.
        name: Of what listens there, for errors.

    Raises:
        EmulatorError: It refuses the command or is gone.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_CLIENT_S)
            connection.connect(str(path))
            connection.sendall(json.dumps(command).encode() + b"\n")
            answer = json.loads(connection.makefile("rb").readline() or b'{"error": "no answer"}')
    except (OSError, ValueError) as error:
        raise EmulatorError(f"{name} at {path} does not answer: {error}") from error
    if "error" in answer:
        raise EmulatorError(f"{name} refused {command}: {answer['error']}")
    return answer

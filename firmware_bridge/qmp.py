"""A minimal client of QEMU's machine protocol (QMP): one command, one answer, events dropped."""

import json
import socket
from pathlib import Path
from typing import Any

from firmware_bridge.errors import EmulatorError


class QmpClient:
    """Commands a running QEMU."""

    def __init__(self, path: Path, timeout_s: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise EmulatorError(f"QEMU does not answer at {path}: {error}") from error
        self._lines = self._socket.makefile("rb")
        self._receive()  # greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str) -> dict[str, Any]:
        """Runs one command without arguments.

        Raises:
            EmulatorError: QEMU refuses it or is gone.
        """
        try:
            self._socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
            answer = self._receive()
            while "event" in answer:
                answer = self._receive()
        except OSError as error:
            raise EmulatorError(f"QEMU did not answer {command!r}: {error}") from error
        if "error" in answer:
            raise EmulatorError(f"QEMU refused {command!r}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the connection."""
        self._lines.close()
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise EmulatorError("QEMU closed its control socket")
        return json.loads(line)

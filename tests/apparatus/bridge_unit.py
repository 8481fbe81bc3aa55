"""The bridge's unit without systemd: a process that is started and stopped as the installer asks."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from firmware_bridge.client import BridgeClient
from firmware_bridge.errors import BridgeError
from pi0_edge.deploy.installer.firmware import BRIDGE_UNIT


class BridgeUnit:
    """`Services` with one unit.

    Attributes:
        robot: Whose joints the bridge expects; of the release that the unit would start.
        calls: What the installer asked for.
    """

    def __init__(self, port: Path, address: str, robot: str, log: Path) -> None:
        self.robot = robot
        self.calls: list[str] = []
        self.before_start: Callable[[], object] = lambda: None
        self._port = port
        self._address = address
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, unit: str) -> None:
        """As systemd with Type=notify: returns when it serves or has ended."""
        self._call("start", unit)
        if self._running:
            return
        self.before_start()
        argv = [sys.executable, "-m", "firmware_bridge", "--port", str(self._port), "--listen", self._address]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*argv, "--robot", self.robot], stdout=log, stderr=log)
        with BridgeClient(self._address, "unit") as client:
            for _ in range(100):
                try:
                    client.wait_ready(0.2)
                    return
                except BridgeError:
                    if not self._running:
                        return

    def stop(self, unit: str) -> None:
        self._call("stop", unit)
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10.0)
            self._process = None

    def restart(self, unit: str) -> None:
        self.stop(unit)
        self.start(unit)

    def state(self, unit: str) -> str:
        assert unit == BRIDGE_UNIT
        if self._process is None:
            return "inactive"
        return "active" if self._running else "failed"

    @property
    def log(self) -> str:
        """What the bridge printed."""
        return self._log.read_text()

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _call(self, verb: str, unit: str) -> None:
        assert unit == BRIDGE_UNIT
        self.calls.append(verb)

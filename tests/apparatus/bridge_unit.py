"""The bridge's unit without systemd: a process that is started and stopped as the installer asks; other units are a
record."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from firmware_bridge.client import BridgeClient
from firmware_bridge.errors import BridgeError
from pi0_edge.deploy.launcher.services import BRIDGE, ServiceState
from pi0_edge.errors import DeployError


class BridgeUnit:
    """`Services` with one unit that is real. The others have always failed.

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
        self._failed = False

    def start(self, unit: str) -> None:
        """What the unit runs before it starts fails the start."""
        self._call("start", unit)
        if self._running or unit != BRIDGE:
            return
        self._failed = True
        with contextlib.suppress(DeployError):
            self.before_start()
            argv = [sys.executable, "-m", "firmware_bridge", "--port", str(self._port), "--listen", self._address]
            with self._log.open("ab") as log:
                self._process = subprocess.Popen([*argv, "--robot", self.robot], stdout=log, stderr=log)
            self._failed = False

    def stop(self, unit: str) -> None:
        self._call("stop", unit)
        if unit != BRIDGE:
            return
        self._failed = False
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10.0)
            self._process = None

    def restart(self, unit: str) -> None:
        self.stop(unit)
        self.start(unit)

    def state(self, unit: str) -> ServiceState:
        if unit != BRIDGE:
            return ServiceState("failed", "watchdog", 0, 0)
        if self._running:
            return ServiceState("active", "success", 0, 0)
        if self._process is None and not self._failed:
            return ServiceState("inactive", "success", 0, 0)
        return ServiceState("failed", "exit-code", 1, 0)

    def await_ready(self) -> None:
        """Waits until the bridge serves; or has ended."""
        with BridgeClient(self._address, "unit") as client:
            while self._running:
                with contextlib.suppress(BridgeError):
                    client.wait_ready(0.2)
                    return

    @property
    def log(self) -> str:
        """What the bridge printed."""
        return self._log.read_text()

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _call(self, verb: str, unit: str) -> None:
        self.calls.append(verb if unit == BRIDGE else f"{verb} {unit}")

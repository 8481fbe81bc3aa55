"""Servo buses in a process of their own, which ends with the caller."""

import contextlib
import dataclasses
import json
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from firmware_bridge.emulator.child_process import start_child, stop_child
from firmware_bridge.emulator.servo_bus.control import ServoBusControl
from firmware_bridge.emulator.servo_bus.settings import BusSettings
from firmware_bridge.errors import EmulatorError

_START_LIMIT_S = 15.0


class ServoBusProcess:
    """Serves buses from `start` to `stop`.

    Attributes:
        paths: What to open (pseudo-terminals) or connect to (sockets), by the name of the bus; empty while stopped.
    """

    def __init__(
        self, buses: Sequence[BusSettings], *, cpus: frozenset[int] = frozenset(), goals: Path | None = None
    ) -> None:
        """Prepares buses; `start` serves them.

        Args:
            buses: With different names. A bus with connection `client` needs its server to listen before the start.
            cpus: Processors that the process may run on; all where empty.
            goals: File that receives when packets with goals have left, see `goal_log`.
        """
        self.paths: dict[str, str] = {}
        self._buses = buses
        self._cpus = cpus
        self._goals = goals
        self._directory = Path()
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ServoBusProcess":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    @property
    def control(self) -> ServoBusControl:
        """Injects faults and tells the state."""
        return ServoBusControl(self._directory / "control")

    @property
    def pid(self) -> int:
        """Of the process.

        Raises:
            EmulatorError: It was not started.
        """
        if self._child is None:
            raise EmulatorError("the servo buses are not started; call start")
        return self._child.pid

    def start(self) -> None:
        """Powers the servos on, and returns when all paths can be opened.

        Raises:
            EmulatorError: A socket cannot be made or reached, or the process ends at once.
        """
        self._directory = Path(tempfile.mkdtemp(prefix="servo-buses-"))
        try:
            document = self._directory / "buses.json"
            document.write_text(json.dumps({"buses": [dataclasses.asdict(bus) for bus in self._buses]}))
            argv = [sys.executable, "-m", "firmware_bridge.emulator.servo_bus", "--buses", str(document)]
            argv += ["--control", str(self._directory / "control")]
            argv += ["--goals", str(self._goals.resolve())] if self._goals else []
            log = self._directory / "log"
            self._child = start_child(argv, log=log, cpus=self._cpus, urgent=True, stdout=subprocess.PIPE)
            self.paths = self._first_line(self._child)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the process and removes its sockets."""
        if self._child is not None:
            stop_child(self._child)
            self._child = None
        if self._directory != Path():
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = Path()
        self.paths = {}

    def check_alive(self) -> None:
        """Raises `EmulatorError` where the process has ended."""
        if self._child is not None and self._child.poll() is not None:
            raise EmulatorError(f"the servo buses died with {self._child.returncode}{self._log()}")

    def _first_line(self, child: subprocess.Popen[bytes]) -> dict[str, str]:
        output = child.stdout
        if output is None or not select.select([output], [], [], _START_LIMIT_S)[0]:
            raise EmulatorError(f"the servo buses did not start within {_START_LIMIT_S:.0f} s{self._log()}")
        line = output.readline()
        if not line:
            child.wait(_START_LIMIT_S)
            self.check_alive()
        return json.loads(line)["paths"]

    def _log(self) -> str:
        with contextlib.suppress(OSError):
            if text := (self._directory / "log").read_text(errors="replace").strip():
                return f"; it said: {text[-400:]}"
        return ""

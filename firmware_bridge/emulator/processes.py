"""Processes of a whole path on one machine: each writes a log, in which it says when it is ready and where it listens.

They end with the process that started them (see `firmware_bridge.emulator.child_process`): Ctrl-C leaves none behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.emulator.child_process import start_child, stop_child
from pi0_edge.errors import EngineError

READY_LIMIT_S = 90.0


@dataclass(frozen=True)
class Child:
    """A process of ours.

    Attributes:
        name: For messages.
        process: To wait for.
        log: What it says.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, pattern: str) -> str:
        """Waits for a line in the log, and returns the first group of the pattern.

        Raises:
            EngineError: The process ends or does not say it in time; the message ends with what it said.
        """
        deadline = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < deadline:
            said = self.log.read_text(errors="replace")
            if found := re.search(pattern, said, re.MULTILINE):
                return found[1]
            self.check_alive()
            time.sleep(0.05)
        raise EngineError(f"the {self.name} process was not ready within {READY_LIMIT_S:.0f} s; see {self.log}")

    def check_alive(self) -> None:
        """Raises `EngineError` where it has ended."""
        if self.process.poll() is not None:
            said = self.log.read_text(errors="replace").strip()[-600:]
            raise EngineError(f"the {self.name} process ended with {self.process.returncode}: {said}")


def start(stack: contextlib.ExitStack, log: Path, module: str, *arguments: str) -> Child:
    """Starts a module of ours, which is stopped with the stack."""
    log.unlink(missing_ok=True)
    environment = os.environ
    environment.setdefault("OMP_NUM_THREADS", "1")  # the processes share few cores; threads would only spin
    process = start_child([sys.executable, "-u", "-m", module, *arguments], log=log)
    stack.callback(stop_child, process)
    return Child(log.stem, process, log)


def start_firmware(stack: contextlib.ExitStack, logs: Path, listen: str) -> tuple[Child, Child, str]:
    """Starts the emulated board with the servos of the ALOHA, and its bridge.

    Args:
        stack: Stops them.
        logs: Folder of the logs.
        listen: host:port of the bridge; port 0 takes a free one.

    Returns:
        Board, bridge, and the address of the bridge.

    Raises:
        EngineError: One of them does not start.
    """
    firmware = start(stack, logs / "firmware.log", "firmware_bridge.emulator.board", "--servos", "aloha")
    port = firmware.wait_for(r"^(/dev/\S+)$")
    bridge = start(stack, logs / "bridge.log", "firmware_bridge", "--port", port, "--listen", listen)
    return firmware, bridge, bridge.wait_for(r"bridge ready: listening on ([^,\s]+)")

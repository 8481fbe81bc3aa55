"""What a run needs, as processes that a test can end: emulated board, bridge, policy server; and cameras without one."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from firmware_bridge.emulator.child_process import start_child, stop_child
from pi0_edge.cameras import CameraImage

READY_S = 90.0


@dataclass
class Part:
    """A process and where it listens."""

    process: subprocess.Popen[bytes]
    address: str


@dataclass
class RunSystem:
    """Board, bridge and policy server, running."""

    folder: Path
    stack: contextlib.ExitStack
    board: Part = field(init=False)
    bridge: Part = field(init=False)
    policy: Part = field(init=False)

    def start_board(self) -> None:
        self.board = self._start("board", r"^(/dev/\S+)$", "firmware_bridge.emulator.board")

    def start_bridge(self) -> None:
        arguments = ("--port", self.board.address, "--listen", "127.0.0.1:0")
        self.bridge = self._start("bridge", r"bridge ready: listening on ([^,\s]+)", "firmware_bridge", *arguments)

    def start_policy(self, listen: str = "127.0.0.1:0") -> None:
        arguments = ("serve", "--threads", "1", "--listen", listen)
        self.policy = self._start("policy", r"policy ready on (\S+)", "pi0_edge.cli", *arguments)

    def _start(self, name: str, ready: str, module: str, *arguments: str) -> Part:
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        process = start_child([sys.executable, "-u", "-m", module, *arguments], log=log)
        self.stack.callback(stop_child, process)
        deadline = time.monotonic() + READY_S
        while not (found := re.search(ready, log.read_text(errors="replace"), re.MULTILINE)):
            assert process.poll() is None, f"{name} ended: {log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"{name} is not ready: {log.read_text(errors='replace')}"
            time.sleep(0.05)
        return Part(process, found[1])


@contextmanager
def run_system(folder: Path) -> Iterator[RunSystem]:
    """All three, until the context ends."""
    with contextlib.ExitStack() as stack:
        system = RunSystem(folder, stack)
        system.start_board()
        system.start_bridge()
        system.start_policy()
        yield system


class StillCameras:
    """Cameras that show the same picture again and again, until they are unplugged."""

    def __init__(self, *names: str) -> None:
        self.plugged = dict.fromkeys(names, True)
        self._pixels = np.random.default_rng(0).integers(0, 255, (112, 112, 3), np.uint8)
        self._unplugged_ns = 0

    def unplug(self, name: str) -> None:
        self.plugged[name], self._unplugged_ns = False, time.monotonic_ns()

    def plug(self, name: str) -> None:
        self.plugged[name] = True

    def newest(self) -> Mapping[str, CameraImage]:
        now = time.monotonic_ns()
        taken = {name: now if plugged else self._unplugged_ns for name, plugged in self.plugged.items()}
        return {name: CameraImage(self._pixels, at, at // 33_000_000) for name, at in taken.items()}

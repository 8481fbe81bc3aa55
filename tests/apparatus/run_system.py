"""What a run needs, as processes that a test can end: emulated board, bridge, policy server, a camera above a table."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from firmware_bridge.client import BridgeClient
from firmware_bridge.emulator.board import DEFAULT_IMAGE, EmulatedBoard, image_with_servos
from firmware_bridge.emulator.child_process import start_child, stop_child
from firmware_bridge.emulator.robot_servos import servos_at_home
from pi0_edge.robots import load_robot

READY_S = 90.0


@dataclass
class Part:
    """A process and where it listens."""

    process: subprocess.Popen[bytes]
    address: str


@dataclass
class RunSystem:
    """Board, bridge, policy server and camera, running; logs are in its folder."""

    folder: Path
    stack: contextlib.ExitStack
    board: EmulatedBoard = field(init=False)
    bridge: Part = field(init=False)
    policy: Part = field(init=False)
    camera: Part = field(init=False)

    def start_board(self, servos: bool = False) -> None:
        settings = servos_at_home(load_robot("aloha")) if servos else ()
        image = image_with_servos("aloha") if servos else DEFAULT_IMAGE
        self.board = self.stack.enter_context(EmulatedBoard(image, servos=settings))

    def begin(self) -> None:
        """Resets board and table: the arm is disarmed and at home, the cube is where the policy knows it."""
        with BridgeClient(self.bridge.address, "test") as bridge, bridge.telemetry() as ticks:
            before = next(ticks).tick
            self.board.reset()
            while next(ticks).tick >= before:
                pass
            bridge.wait_ready()

    def start_bridge(self) -> None:
        arguments = ("--port", self.board.port, "--listen", "127.0.0.1:0")
        self.bridge = self._start("bridge", r"bridge ready: listening on ([^,\s]+)", "firmware_bridge", *arguments)

    def start_policy(self, listen: str = "127.0.0.1:0") -> None:
        arguments = ("serve", "--threads", "1", "--listen", listen)
        self.policy = self._start("policy", r"policy ready on (\S+)", "pi0_edge.cli", *arguments)

    def start_camera(self) -> None:
        self.images.mkdir()
        script = Path(__file__).with_name("table_camera.py")
        self.camera = self._start("camera", "^(ready)$", script, self.bridge.address, str(self.images))
        source = f"{{source: 'folder:{self.images}', fps: 25, may_repeat: true, max_age_s: 0.5}}"
        self.cameras.write_text(f"top: {source}\n")

    @property
    def images(self) -> Path:
        """Where the camera's images are."""
        return self.folder / "images"

    @property
    def cameras(self) -> Path:
        """The cameras file."""
        return self.folder / "cameras.yaml"

    def _start(self, name: str, ready: str, program: str | Path, *arguments: str) -> Part:
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        what = ["-m", program] if isinstance(program, str) else [str(program)]
        process = start_child([sys.executable, "-u", *what, *arguments], log=log)
        self.stack.callback(stop_child, process)
        deadline = time.monotonic() + READY_S
        while not (found := re.search(ready, log.read_text(errors="replace"), re.MULTILINE)):
            assert process.poll() is None, f"{name} ended: {log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"{name} is not ready: {log.read_text(errors='replace')}"
            time.sleep(0.05)
        return Part(process, found[1])


@contextmanager
def run_system(folder: Path, servos: bool = False) -> Iterator[RunSystem]:
    """All of them, until the context ends; with `servos` the arm is measured over a servo bus."""
    with contextlib.ExitStack() as stack:
        system = RunSystem(folder, stack)
        system.start_board(servos)
        system.start_bridge()
        system.start_policy()
        system.start_camera()
        yield system

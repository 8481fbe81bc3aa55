"""Starts firmware, bridge and policy server as separate processes, and stops them whatever happens.

Each process says in its log when it is ready and where it listens; that line is what `running_system` waits for. The
children die with this process (see `firmware_bridge.emulator.child_process`), so Ctrl-C leaves none behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.emulator.child_process import start_child, stop_child
from pi0_edge.demo.policy_choice import PolicyChoice
from pi0_edge.errors import EngineError

READY_LIMIT_S = 90.0


@dataclass(frozen=True)
class System:
    """A running system.

    Attributes:
        bridge: Address of the bridge.
        policy: Address of the policy server.
        log: Folder with one log per process.
    """

    bridge: str
    policy: str
    log: Path


@contextmanager
def running_system(log: Path, choice: PolicyChoice) -> Iterator[System]:
    """Runs the system while the context lasts.

    Args:
        log: Folder for the logs.
        choice: What the policy server loads.

    Raises:
        EngineError: If a process ends or is not ready in time; the message ends with what it said.
    """
    log.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        policy = _start(stack, log / "policy.log", "pi0_edge.cli", "serve", *choice.serve_options(),
                        "--listen", "127.0.0.1:0")  # fmt: skip
        firmware = _start(stack, log / "firmware.log", "firmware_bridge.emulator.board", "--servos", "aloha")
        port = _wait(firmware, r"^(/dev/\S+)$")
        bridge = _start(stack, log / "bridge.log", "firmware_bridge", "--port", port, "--listen", "127.0.0.1:0")
        yield System(
            bridge=_wait(bridge, r"bridge ready: listening on ([^,\s]+)"),
            policy=_wait(policy, r"policy ready on (\S+)"),
            log=log,
        )


def start_robot(system: System, first_seed: int, episodes: int, splice: str, record: Path) -> subprocess.Popen[bytes]:
    """Starts the simulated robot; its standard output has one line of JSON per episode."""
    argv = [sys.executable, "-m", "pi0_edge.demo.simulated_robot", "--bridge", system.bridge]
    argv += ["--policy", system.policy, "--first-seed", str(first_seed), "--episodes", str(episodes)]
    argv += ["--splice", splice, "--output", str(record)]
    return start_child(argv, log=system.log / "robot.log", stdout=subprocess.PIPE)


@dataclass(frozen=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


def _start(stack: contextlib.ExitStack, log: Path, module: str, *arguments: str) -> _Child:
    log.unlink(missing_ok=True)
    environment = os.environ
    environment.setdefault("OMP_NUM_THREADS", "1")  # the processes share few cores; threads would only spin
    process = start_child([sys.executable, "-u", "-m", module, *arguments], log=log)
    stack.callback(stop_child, process)
    return _Child(log.stem, process, log)


def _wait(child: _Child, pattern: str) -> str:
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline:
        said = child.log.read_text(errors="replace")
        if found := re.search(pattern, said, re.MULTILINE):
            return found[1]
        if child.process.poll() is not None:
            raise EngineError(f"the {child.name} process ended with {child.process.returncode}: {said.strip()[-600:]}")
        time.sleep(0.05)
    raise EngineError(f"the {child.name} process was not ready within {READY_LIMIT_S:.0f} s; see {child.log}")

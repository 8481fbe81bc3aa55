"""Starts firmware, bridge and policy server as separate processes, and stops them whatever happens.

See `firmware_bridge.emulator.processes` for how they start and end.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from firmware_bridge.emulator.child_process import start_child
from firmware_bridge.emulator.processes import start, start_firmware
from pi0_edge.demo.policy_choice import PolicyChoice

REPLAN_TICKS = 25
"""Ticks between two observations."""


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
        policy = start(stack, log / "policy.log", "pi0_edge.cli", "serve", *choice.serve_options(),
                       "--listen", "127.0.0.1:0")  # fmt: skip
        _, _, bridge = start_firmware(stack, log, "127.0.0.1:0")
        yield System(bridge, policy.wait_for(r"policy ready on (\S+)"), log)


def start_robot(
    system: System, first_seed: int, episodes: int, splice: str, record: Path, replan_ticks: int = REPLAN_TICKS
) -> subprocess.Popen[bytes]:
    """Starts the simulated robot; its standard output has one line of JSON per episode."""
    argv = [sys.executable, "-m", "pi0_edge.demo.simulated_robot", "--bridge", system.bridge]
    argv += ["--policy", system.policy, "--first-seed", str(first_seed), "--episodes", str(episodes)]
    argv += ["--splice", splice, "--execute", str(replan_ticks), "--output", str(record)]
    return start_child(argv, log=system.log / "robot.log", stdout=subprocess.PIPE)

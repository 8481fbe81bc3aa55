"""The robot's computer: a Jetson's release and boot slots, and the services of a robot."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from pi0_edge.board.boot_slots import read_boot_slots, repair_commands
from pi0_edge.board.readings import Board
from pi0_edge.doctor.check import Check

UNITS = ("pi0-edge-policy.service", "pi0-edge-bridge.service", "pi0-edge-run.service", "pi0-edge-fallback.service")
"""The services of a robot, as far as it has them."""

_ROOT = Path("/")
_SYSTEMCTL_S = 10


def jetson() -> Check:
    """Model and release of a Jetson."""
    board = Board(_ROOT)
    if "jetson" not in board.model.lower() and not board.l4t_text:
        return Check("Jetson", "pass", "not a Jetson; nothing of it is needed here")
    if not board.l4t_text:
        found = f"{board.model}, but /etc/nv_tegra_release is missing"
        return Check("Jetson", "warn", found, "sudo apt-get install nvidia-jetpack")
    return Check("Jetson", "pass", f"{board.model}: {board.l4t_text}")


def boot_slots() -> Check:
    """Whether both root file systems of a Jetson would be started."""
    slots = read_boot_slots(_ROOT)
    if slots is None:
        return Check("boot slots", "pass", "one root file system; nothing to choose from")
    found = "; ".join(map(str, slots.slots)) + f"; {slots.current or 'an unknown one'} runs"
    if all(slot.starts for slot in slots.slots):
        return Check("boot slots", "pass", found)
    dead = " and ".join(slot.name for slot in slots.slots if not slot.starts)
    found += f": an operating-system update to slot {dead} would silently fall back to the other one"
    return Check("boot slots", "warn", found, "; ".join(repair_commands(slots, _ROOT)))


def services() -> Check:
    """Whether the services of a robot run, where it has them."""
    states = _unit_states()
    if not states:
        return Check("services", "pass", "none of a robot is installed here; `pi0-edge robot provision` does that")
    found = ", ".join(f"{name.removesuffix('.service')} is {state}" for name, state in states.items())
    failed = [name for name, state in states.items() if state.startswith("failed")]
    if failed:
        return Check("services", "warn", found, f"journalctl -b -n 50 {' '.join(f'-u {name}' for name in failed)}")
    return Check("services", "pass", found)


def _unit_states() -> dict[str, str]:
    """State of each unit that is installed, with the reason where systemd has one."""
    if shutil.which("systemctl") is None:
        return {}
    argv = ["systemctl", "show", "--property=Id,LoadState,ActiveState,Result", *UNITS]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=_SYSTEMCTL_S, check=False)
    states = {}
    for block in ran.stdout.strip().split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("LoadState") == "loaded":
            reason = unit.get("Result", "success")
            states[unit["Id"]] = unit["ActiveState"] + ("" if reason == "success" else f" ({reason})")
    return states

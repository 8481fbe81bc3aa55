"""The robots of an ansible inventory, and how ssh reaches them.

ansible itself reads the inventory, so that every form of it works: INI, YAML, folders, plugins. A robot keeps the name
that it has there; `ansible_host` and `ansible_port` become lines of a file for ssh.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pi0_edge.errors import DeployError, MissingDependencyError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_ADDRESS = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9._:%-]*")


@dataclass(frozen=True)
class FleetRobot:
    """A robot of an inventory.

    Attributes:
        name: In the inventory, and for ssh.
        address: Host name or address; empty where the name is all that ssh needs.
        port: Of its ssh server; None for what ssh would take.
    """

    name: str
    address: str = ""
    port: int | None = None


def read_inventory(inventory: Path, limit: str = "") -> tuple[FleetRobot, ...]:
    """The robots of an inventory, in its order.

    Args:
        inventory: A file or folder of ansible.
        limit: Only hosts of this pattern of ansible, such as `site-a:!robot-7`; empty is all.

    Raises:
        DeployError: If ansible cannot read it, no robot is in it, or a name or address is none that ssh takes.
        MissingDependencyError: If ansible-core is not installed.
    """
    if not inventory.exists():
        raise DeployError(f"there is no inventory {inventory}; docs/flash/fleet.md shows one")
    ran = _listed(inventory, *(("--limit", limit) if limit else ()))
    variables = ran["_meta"]["hostvars"]
    names = list(dict.fromkeys(name for name in _hosts(ran, "all")))
    if not names:
        among = f" that fits {limit!r}" if limit else ""
        raise DeployError(f"{inventory} has no robot{among}; `ansible-inventory -i {inventory} --graph` shows what is")
    return tuple(_robot(name, variables.get(name, {})) for name in names)


def write_ssh_config(file: Path, robots: Sequence[FleetRobot], ssh_config: Path | None) -> None:
    """Writes a file for `ssh -F` that knows the robots by name.

    Args:
        file: To write.
        robots: Whose address and port go first, before what other files say.
        ssh_config: The file that ssh would be given otherwise; None for the files that it reads by itself.
    """
    lines = []
    for robot in robots:
        lines.append(f"Host {robot.name}")
        lines += [f"    HostName {robot.address.replace('%', '%%')}"] if robot.address else []
        lines += [f"    Port {robot.port}"] if robot.port is not None else []
    others = ("~/.ssh/config", "/etc/ssh/ssh_config") if ssh_config is None else (f'"{ssh_config.absolute()}"',)
    lines += ["Host *", *(f"    Include {other}" for other in others)]
    file.write_text("\n".join(lines) + "\n")


def ansible(program: str) -> list[str]:
    """How a program of ansible-core is started.

    Args:
        program: Such as `playbook`.

    Raises:
        MissingDependencyError: If ansible-core is not installed here.
    """
    if importlib.util.find_spec("ansible") is None:
        raise MissingDependencyError("an inventory needs ansible-core: pip install 'pi0-edge[fleet]'")
    return [sys.executable, "-m", "ansible", program]


def _listed(inventory: Path, *options: str) -> dict[str, Any]:
    argv = [*ansible("inventory"), "--inventory", str(inventory), "--list", *options]
    ran = subprocess.run(argv, capture_output=True, text=True, check=False)
    # What ansible cannot parse it leaves out with a warning, and then lists the rest.
    if ran.returncode != 0 or "Unable to parse" in ran.stderr:
        raise DeployError(f"ansible cannot read {inventory}: {_shortened(ran.stderr)}")
    return json.loads(ran.stdout)


def _hosts(groups: dict[str, Any], group: str) -> list[str]:
    """Of a group and the groups in it, in the order of the inventory."""
    found = groups.get(group, {})
    return [*found.get("hosts", ()), *(name for child in found.get("children", ()) for name in _hosts(groups, child))]


def _robot(name: str, variables: dict[str, Any]) -> FleetRobot:
    address, port = str(variables.get("ansible_host", "")), variables.get("ansible_port")
    if not _NAME.fullmatch(name) or (address and not _ADDRESS.fullmatch(address)):
        raise DeployError(
            f"the inventory has the robot {name!r} at {address or name!r}; expected names of letters, digits, dots, "
            "dashes and underscores"
        )
    try:
        return FleetRobot(name, address, None if port is None else int(port))
    except (TypeError, ValueError):
        raise DeployError(f"ansible_port of {name} is {port!r}, expected a number; mend the inventory") from None


def _shortened(text: str) -> str:
    """A message of ansible in one line."""
    return " ".join(text.split())[:500]

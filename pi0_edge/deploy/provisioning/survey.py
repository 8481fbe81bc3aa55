"""What a robot's computer is and has before it is provisioned, and what it lacks, with the command that mends it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.deploy.transfer.rsync import OLDEST, rsync_version
from pi0_edge.deploy.transfer.ssh import Connection, last_line
from pi0_edge.deploy.trust.verification import PROVISIONED
from pi0_edge.errors import DeployError

OLDEST_PYTHON = (3, 10)
ROBOT_JSON = str(Layout().settings)
TRUSTED_ROOT = str(Layout().trusted_metadata / PROVISIONED)

_SURVEY = f"""
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ]; then sudo=; else sudo="sudo -n"; fi
if $sudo true 2>/dev/null; then echo root=yes; fi
for program in python3 rsync rrsync systemctl sshd tar useradd ssh-keygen; do
    if command -v $program >/dev/null 2>&1; then echo has=$program; fi
done
echo python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
echo rsync=$(rsync --version 2>/dev/null | head -n 1)
echo processor=$(uname -m)
echo name=$(uname -n)
echo computer=$(tr '\\0' '\\n' 2>/dev/null </proc/device-tree/compatible | head -n 1)
echo init=$(cat /proc/1/comm)
echo settings=$($sudo base64 -w 0 {ROBOT_JSON} 2>/dev/null)
echo trusted=$($sudo base64 -w 0 {TRUSTED_ROOT} 2>/dev/null)
"""
_PACKAGES = {
    "python3": "python3",
    "rsync": "rsync",
    "rrsync": "rsync",
    "sshd": "openssh-server",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
    "useradd": "passwd",
}


@dataclass(frozen=True)
class Survey:
    """What the computer is.

    Attributes:
        name: Its host name.
        computer: Its kind: the first name in its device tree, such as nvidia,p3768-0000+p3767-0005, else its processor.
        processor: As uname -m says it.
        settings: What its robot.json says; empty where it has none.
        trusted_root: Where its trust begins; empty on a new robot.
    """

    name: str
    computer: str
    processor: str
    settings: Mapping[str, Any]
    trusted_root: bytes


def survey(connection: Connection) -> Survey:
    """Looks at the computer.

    Raises:
        LinkLostError: If the connection is lost.
        DeployError: If the account is not root's and cannot be, or something is missing.
    """
    ran = connection.run("sh", _SURVEY.encode(), timeout_s=60)
    found: dict[str, str] = {}
    programs = set()
    for line in ran.stdout.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        programs |= {value} if name == "has" else set()
        found[name] = value.strip()
    if "processor" not in found:
        raise DeployError(f"{connection.host} runs no shell for this account: {last_line(ran.stderr.decode())}")
    if found.get("root") != "yes":
        raise DeployError(
            f"the account is not root on {connection.host} and `sudo -n true` fails there; log in as root, or let the "
            "account use sudo without a password while the robot is provisioned"
        )
    _require(connection.host, found, programs)
    return Survey(
        name=found["name"],
        computer=found.get("computer") or found["processor"],
        processor=found["processor"],
        settings=_settings(found.get("settings", "")),
        trusted_root=_decoded(found.get("trusted", "")),
    )


def _require(host: str, found: Mapping[str, str], programs: set[str]) -> None:
    if found.get("init") != "systemd" or "systemctl" not in programs:
        raise DeployError(
            f"{host} is not run by systemd (process 1 is {found.get('init')}); a robot's services need it"
        )
    packages = sorted({package for program, package in _PACKAGES.items() if program not in programs})
    if packages:
        raise DeployError(f"{host} lacks {', '.join(packages)}; on the robot: apt-get install {' '.join(packages)}")
    python = tuple(int(number) for number in found["python"].split("."))
    if python < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise DeployError(f"{host} has Python {found['python']}, expected {wanted} or newer: update its system")
    if rsync_version(found["rsync"]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise DeployError(
            f"{host} has {found['rsync']!r}, expected {wanted} or newer; on the robot: apt-get update && "
            "apt-get install rsync"
        )


def _settings(encoded: str) -> Mapping[str, Any]:
    try:
        plain = json.loads(_decoded(encoded) or b"{}")
    except ValueError:
        return {}  # it is written anew
    return plain if isinstance(plain, dict) else {}


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return b""

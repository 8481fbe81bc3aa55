"""A container that can receive releases: the account pi0-flash, its staging folder, a stand-in for the installer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import installer_stand_in
from bad_link import Link
from robot_container import ROBOT_NAME, RobotContainer

from pi0_edge.deploy.transfer.robot_host import RobotHost
from pi0_edge.progress import Progress

STAGING = "/var/lib/pi0-edge/staging"
PREPARE = f"""
set -e
useradd --create-home --shell /bin/sh pi0-flash
install -d -o root -g root -m 755 /var/lib/pi0-edge /usr/lib/pi0-edge
install -d -o root -g pi0-flash -m 1770 {STAGING}
install -d -o pi0-flash -m 700 /home/pi0-flash/.ssh
cat > /usr/lib/pi0-edge/main.py
"""


@dataclass
class Receiver:
    """A container that receives, and what it said."""

    container: RobotContainer
    key: Path
    reasons: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    @property
    def ssh_config(self) -> Path:
        return self.container.ssh_config_for("pi0-flash", self.key)

    def host(self, **options: Any) -> RobotHost:
        options = {"ssh_config": self.ssh_config, "key": self.key, **options}
        return RobotHost(ROBOT_NAME, on_reason=self.reasons.append, on_progress=self.progress.append, **options)

    def staged(self, manifest_sha256: str) -> dict[str, bytes]:
        folder = self.container.path(f"{STAGING}/{manifest_sha256}")
        return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def forget(self) -> None:
        """Removes what was received, installed and said."""
        self.container.run(f"rm -rf {STAGING}/* {STAGING}/.basis /home/pi0-flash/installed.json")
        self.container.set_links(Link())
        self.reasons.clear()
        self.progress.clear()


def prepare(container: RobotContainer, key: Path) -> Receiver:
    """Makes a robot that runs a receiver.

    Args:
        container: It runs.
        key: Private key that may flash; the public one lies beside it.
    """
    container.run(PREPARE, stdin=Path(installer_stand_in.__file__).read_text())
    forced = f'command="/usr/bin/python3 /usr/lib/pi0-edge/main.py ssh",restrict {key.with_suffix(".pub").read_text()}'
    container.run("cat > /home/pi0-flash/.ssh/authorized_keys", stdin=forced)
    return Receiver(container, key)

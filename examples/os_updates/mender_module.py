#!/usr/bin/env python3
"""Update module of Mender (protocol v3) for releases: Mender brings them, the installer of pi0-edge decides.

On the robot: /usr/share/mender/modules/v3/pi0-edge-release. The payload is one tar of a bundle and its .release folder:

    tar -C bundles -cf release.tar cups cups.release
    mender-artifact write module-image -T pi0-edge-release -n cups-7 -t jetson-orin -f release.tar -o cups-7.mender

| Mender asks for     | what happens                                                                     |
|---------------------|----------------------------------------------------------------------------------|
| Download            | nothing: Mender keeps the payload until its checksum is verified                 |
| ArtifactInstall     | `pi0-edge flash --from DIR --no-commit`: checks, self-test, trial                |
| NeedsArtifactReboot | No: a restart would end the trial                                                |
| ArtifactCommit      | commits the trial                                                                |
| SupportsRollback    | Yes                                                                              |
| ArtifactRollback    | takes this release back, if it is still on trial or was committed; nothing else  |

It needs the Python of the system alone. A restart before ArtifactCommit ends the trial; Mender then asks for a
rollback, and there is nothing to roll back.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(os.environ.get("PI0_EDGE_ROOT", "/"))
STATE = ROOT / "var/lib/pi0-edge"


def main() -> int:
    """Does what Mender asks for; what a later Mender asks for besides is none of our business."""
    state = sys.argv[1] if len(sys.argv) > 1 else ""
    tree = Path(sys.argv[2]) if len(sys.argv) > 2 else Path.cwd()
    if state == "NeedsArtifactReboot":
        print("No")
    elif state == "SupportsRollback":
        print("Yes")
    elif state == "ArtifactInstall":
        return install(tree)
    elif state == "ArtifactCommit":
        return commit(tree)
    elif state == "ArtifactRollback":
        return roll_back(tree)
    return 0


def install(tree: Path) -> int:
    """Unpacks the release and flashes it on trial; which one it is stays in Mender's folder for the later states."""
    folder = tree / "tmp" / "release"
    folder.mkdir(exist_ok=True)
    (payload,) = (tree / "files").iterdir()
    subprocess.run(["tar", "-x", "--no-same-owner", "-f", payload, "-C", folder], check=True)
    program = [str(environment() / "bin/python"), "-m", "pi0_edge.cli"]
    ran = subprocess.run(
        [*program, "flash", "--from", str(folder), "--no-commit", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ran.returncode:
        return ran.returncode
    with (tree / "tmp" / "id").open("w") as file:
        file.write(json.loads(ran.stdout.splitlines()[-1])["release"])
        file.flush()
        os.fsync(file.fileno())
    return 0


def commit(tree: Path) -> int:
    """Commits the trial; asked again after a power cut, it finds the release committed."""
    release = installed_release(tree)
    with Installer() as installer:
        status = installer.ask({"verb": "status"})
        if release_in(status["current"]) == release:
            return 0
        if release_in(status["trial"]) != release:
            sys.stderr.write(f"{release} is not on trial any more: the robot restarted, or took it back\n")
            return 1
        installer.ask({"verb": "commit"})
    return 0


def roll_back(tree: Path) -> int:
    """Takes this release back, and never the one before it."""
    release = installed_release(tree)
    with Installer() as installer:
        status = installer.ask({"verb": "status"})
        if release is not None and release in (release_in(status["trial"]), release_in(status["current"])):
            installer.ask({"verb": "rollback", "reason": "Mender rolled the artifact back"})
    return 0


def installed_release(tree: Path) -> str | None:
    """The release that ArtifactInstall put on trial; None where it did not come so far."""
    file = tree / "tmp" / "id"
    return file.read_text() if file.exists() else None


def release_in(slot: dict[str, Any] | None) -> str | None:
    """The release of a slot of the status."""
    return None if slot is None else slot["release"]


def environment() -> Path:
    """The SDK environment that runs now, or that the robot was provisioned with."""
    slots = STATE / "slots.json"
    current = json.loads(slots.read_bytes())["current"] if slots.exists() else None
    settings = json.loads((ROOT / "etc/pi0-edge/robot.json").read_bytes())
    return Path(settings["environment"] if current is None else current["environment"])


class Installer:
    """A session with the installer, JSON lines in both directions (pi0_edge/deploy/session.py)."""

    def __enter__(self) -> Installer:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(ROOT / "run/pi0-edge/installer.sock"))
        self._lines = self._socket.makefile("r")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result of a request; reasons go to Mender's log, and a refusal ends the module with 1."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "reason" in answer:
                sys.stderr.write(f"{answer['reason']}\n")
            if "error" in answer:
                sys.exit(str(answer["error"]))
            if "result" in answer:
                return answer["result"]
        sys.exit(f"the installer ended the session before it answered to {request['verb']!r}")


if __name__ == "__main__":
    sys.exit(main())

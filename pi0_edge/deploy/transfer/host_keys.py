"""A robot that is met for the first time: its fingerprint is shown, and accepted by name, never silently.

The key is asked for with ssh itself, which then reads the user's configuration: addresses, jump hosts and aliases are
those of every later connection. Nothing is logged in with.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pi0_edge.deploy.transfer.ssh import CONNECT_S, LinkLostError, last_line, login_arguments
from pi0_edge.errors import DeployError

_ASK_ONLY = {
    "StrictHostKeyChecking": "no",  # into a file of its own, which is thrown away
    "GlobalKnownHostsFile": "none",
    "HashKnownHosts": "no",
    "PreferredAuthentications": "none",
    "ControlPath": "none",
}
CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED"


@dataclass(frozen=True)
class HostKey:
    """What a robot shows.

    Attributes:
        fingerprint: SHA256:… as `ssh-keygen -l` prints it.
        kind: Such as ED25519.
        line: For a file of known hosts.
    """

    fingerprint: str
    kind: str
    line: str


def shown_key(host: str, *, ssh_config: Path | None = None) -> HostKey:
    """The key that a robot shows now.

    Raises:
        LinkLostError: If it cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="pi0-ssh-") as folder:
        file = Path(folder) / "known_hosts"
        options = {**_ASK_ONLY, "UserKnownHostsFile": str(file)}
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        ran = _ssh([*words, *login_arguments(host, "nobody", ssh_config=ssh_config, key=None), "true"])
        if not file.exists() or not file.read_text().strip():
            raise LinkLostError(f"{host} showed no host key: {last_line(ran.stderr)}; check its power and its network")
        line = file.read_text().splitlines()[0]
        listed = subprocess.run(["ssh-keygen", "-l", "-f", str(file)], capture_output=True, text=True, check=True)
    words = listed.stdout.splitlines()[0].split()
    return HostKey(words[1], words[-1].strip("()"), line)


def require_known_host(host: str, *, ssh_config: Path | None = None, accepted: str | None = None) -> str | None:
    """Makes sure that ssh knows the key of a robot; does nothing where it does already.

    Args:
        host: As ssh knows it.
        ssh_config: Instead of the user's own configuration of ssh.
        accepted: Fingerprint that a person compared with the robot's.

    Returns:
        A reason where a key was added; None where it was known.

    Raises:
        DeployError: If the robot is not known and `accepted` is not its fingerprint, or its key has changed.
        LinkLostError: If it cannot be reached.
    """
    arguments = ["-o", "PreferredAuthentications=none", "-o", "ControlPath=none"]
    asked = _ssh([*arguments, *login_arguments(host, "nobody", ssh_config=ssh_config, key=None), "true"])
    if CHANGED in asked.stderr:
        raise DeployError(
            f"{host} shows another host key than before ({shown_key(host, ssh_config=ssh_config).fingerprint}): it was "
            f"installed anew, or it is another machine; where that is right, `ssh-keygen -R {host}` forgets the old key"
        )
    if "Host key verification failed" not in asked.stderr:
        return None
    shown = shown_key(host, ssh_config=ssh_config)
    if accepted is None:
        raise DeployError(
            f"{host} is not known here; it shows the {shown.kind} key {shown.fingerprint}. Compare it on the robot "
            f"itself (ssh-keygen -l -f /etc/ssh/ssh_host_{shown.kind.lower()}_key.pub), then say "
            f"--accept-new-host {shown.fingerprint}"
        )
    if accepted != shown.fingerprint:
        raise DeployError(
            f"{host} shows the {shown.kind} key {shown.fingerprint}, and {accepted} was accepted: it may be another "
            "machine; nothing was sent"
        )
    file = _known_hosts(host, ssh_config)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with file.open("a") as known:
        known.write(shown.line + "\n")
    return f"the {shown.kind} key {shown.fingerprint} of {host} was added to {file}"


def _known_hosts(host: str, ssh_config: Path | None) -> Path:
    """The file that ssh adds new keys to."""
    config = ["-F", str(ssh_config)] if ssh_config is not None else []
    listed = subprocess.run(["ssh", *config, "-G", "--", host], capture_output=True, text=True, check=True).stdout
    named = next((line.split()[1:] for line in listed.splitlines() if line.startswith("userknownhostsfile ")), [])
    if not named or named[0].lower() == "none":
        raise DeployError(f"the configuration of ssh keeps no known hosts for {host}; add UserKnownHostsFile to it")
    return Path(named[0]).expanduser()


def _ssh(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["ssh", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * CONNECT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LinkLostError(
            f"{arguments[-2]} did not answer in {3 * CONNECT_S} s; check its power and network"
        ) from error

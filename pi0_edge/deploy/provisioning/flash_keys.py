"""The key of this workstation's user for flashing, and the line that lets it in on a robot."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from pi0_edge.deploy.transfer.ssh import default_key
from pi0_edge.errors import DeployError

FORCED = 'command="/usr/bin/python3 /usr/lib/pi0-edge/main.py ssh",restrict'
_PUBLIC = re.compile(r"((?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*)(?: .*)?")


def own_public_key() -> Path:
    """The public key of this user; makes the pair where there is none.

    Raises:
        DeployError: If it cannot be made.
    """
    private = default_key()
    public = private.with_name(f"{private.name}.pub")
    if not private.exists():
        private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "pi0-edge flash", "-f", str(private)]
        ran = subprocess.run(argv, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise DeployError(f"{private} cannot be made: {ran.stderr.strip()}")
    return public


def authorized_line(public: Path) -> str:
    """What lets a key in for nothing but flashing.

    Raises:
        DeployError: If the file is no public key.
    """
    try:
        text = public.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(f"{public} cannot be read as a public key of ssh ({error})") from error
    found = _PUBLIC.fullmatch(text)
    if found is None:
        raise DeployError(f"{public} is no public key of ssh; expected one line such as `ssh-ed25519 AAAA… name`")
    return f"{FORCED} {found[1]}"

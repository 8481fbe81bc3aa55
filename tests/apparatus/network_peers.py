"""Certificates of every kind that a server can meet, made once by the project's own authority."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from pi0_edge.certificates import issue_client, issue_server, make_authority
from pi0_edge.protos.rpc.roles import Role

LONG_AGO = datetime.now(timezone.utc) - timedelta(days=30)
SOON = datetime.now(timezone.utc) + timedelta(days=30)


def make_peers(root: Path) -> dict[str, Path]:
    """Name to folder: `server`, a client of each role, and those that must be refused."""
    home, foreign = root / "authority", root / "foreign-authority"
    make_authority(home)
    make_authority(foreign)  # of the same name, which must not help it
    folders = {name: root / name for name in (*(role.name.lower() for role in Role), *REFUSED)}
    issue_server(home, folders["server"], "robot", ["localhost", "127.0.0.1"])
    for role in Role:
        issue_client(home, folders[role.name.lower()], role.name.lower(), role)
    issue_client(home, folders["expired"], "expired", Role.COMMAND, days=1, begins=LONG_AGO)
    issue_client(home, folders["not yet valid"], "early", Role.COMMAND, days=1, begins=SOON)
    issue_client(foreign, folders["foreign authority"], "command", Role.COMMAND)
    # It trusts the right server, yet shows a certificate that its own authority signed.
    (folders["foreign authority"] / "authority.pem").write_bytes((home / "authority.pem").read_bytes())
    return folders


# As clients; a server's certificate serves no client, whoever copies it.
REFUSED = ("server", "expired", "not yet valid", "foreign authority")

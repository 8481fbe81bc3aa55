"""Which processes listen on a TCP port of this computer: a server that is measured is no other program."""

from __future__ import annotations

import os
import re
from pathlib import Path

from pi0_edge.board.files import matching

_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)."""
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def listening_processes(port: int, root: Path = Path("/")) -> tuple[int, ...]:
    """Ids of the processes that listen on a port; empty where none does, or the user may not see whose it is.

    Args:
        port: Of TCP, on any address.
        root: Of the file system.
    """
    sockets = {inode for table in ("tcp", "tcp6") for inode in _listening_sockets(root / "proc/net" / table, port)}
    if not sockets:
        return ()
    return tuple(int(Path(folder).name) for folder in matching(root, "proc/[0-9]*") if _holds(folder, sockets))


def _listening_sockets(table: Path, port: int) -> set[str]:
    """Inodes of listening sockets; local address and state are columns 1 and 3, the inode is column 9."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return set()
    rows = [line.split() for line in lines]
    return {row[9] for row in rows if len(row) > 9 and row[3] == _LISTENING and row[1].endswith(f":{port:04X}")}


def _holds(folder: str, sockets: set[str]) -> bool:
    """Whether a process has one of the sockets open."""
    try:
        handles = os.listdir(f"{folder}/fd")
    except OSError:
        return False
    for handle in handles:
        try:
            found = _SOCKET.fullmatch(os.readlink(f"{folder}/fd/{handle}"))
        except OSError:
            continue
        if found is not None and found[1] in sockets:
            return True
    return False

"""Every decision about a release, with its reason: one JSON line each, on the disk when the call returns.

{"at": 1790000000.0, "event": "committed", "release": "3f…", "sequence": 7, "reason": "24 chunks …", "by": "…"}
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from pi0_edge.deploy.launcher.layout import Layout
from pi0_edge.synced_files import sync_folder


def write_entry(layout: Layout, event: str, reason: str, *, release: str = "", sequence: int | None = None) -> None:
    """Adds a decision.

    Args:
        layout: Of the robot.
        event: What happened, in one or two words.
        reason: Why, in one sentence.
        release: ID of the release that it is about.
        sequence: Of that release.
    """
    entry = {"at": round(time.time(), 3), "event": event, "release": release, "sequence": sequence, "reason": reason}
    is_first = not layout.journal.exists()
    with layout.journal.open("ab") as file:
        file.write(_line_end(layout) + json.dumps(entry).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if is_first:
        sync_folder(layout.journal.parent)


def read_entries(layout: Layout, count: int | None = None) -> list[dict[str, Any]]:
    """The decisions, the oldest first; a line that a power cut tore is left out.

    Args:
        layout: Of the robot.
        count: Only so many of the latest.
    """
    if not layout.journal.exists():
        return []
    entries = []
    for line in layout.journal.read_bytes().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries if count is None else entries[-count:]


def _line_end(layout: Layout) -> bytes:
    """Ends a torn last line, so that the next one is whole."""
    with layout.journal.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return b""
        file.seek(size - 1)
        return b"" if file.read(1) == b"\n" else b"\n"

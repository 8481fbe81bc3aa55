"""A robot's side of a session, for tests of the workstation's side: it receives and checks, and installs nothing.

It is copied to a container and started by sshd as the forced command of the account pi0-flash, where only the standard
library is. What the real one promises is kept: one session at a time asks for more than `status`, the answer to `offer`
is what the staging folder lacks by SHA-256, and `install` refuses what is not whole.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/pi0-edge")
STAGING = STATE / "staging"
INSTALLED = Path.home() / "installed.json"
LOCK = Path.home() / "lock"


def main() -> None:
    command = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    words = shlex.split(command) or [""]
    if words[0] == "rsync":
        os.execvp("rrsync", ["rrsync", "-wo", str(STAGING)])
    if command != "pi0-edge":
        sys.exit("this account flashes releases and can do nothing else")
    lock = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["verb"] not in ("status", "history") and lock is None:
            lock = LOCK.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock = None
                answer({"error": "another session flashes this robot; wait for its end", "busy": True})
                continue
        answer(respond(request))


def respond(request: dict[str, Any]) -> dict[str, Any]:
    verb = request["verb"]
    if verb == "status":
        return {"result": {"current": json.loads(INSTALLED.read_bytes()) if INSTALLED.exists() else None}}
    if verb == "history":
        return {"result": {"entries": [{"event": "booted"}][: request["count"]]}}
    if verb in ("commit", "rollback", "gc"):
        about = {"removed": ["1-abc"], "bytes": 7} if verb == "gc" else {"release": "1-abc"}
        return {"result": {**about, "verb": verb, "reason": request.get("reason")}}
    staged = STAGING / request["manifest_sha256"]
    if not (staged / "metadata" / "timestamp.json").exists():
        return {"error": "it is not signed"}
    lacking = whats_lacking(staged, request["manifest_sha256"])
    answer({"reason": f"space: {sum(lacking.values())} bytes needed"})
    if verb == "offer":
        return {"result": {"state": "receive", "lacking": lacking}}
    if lacking:
        return {"error": f"not whole: {sorted(lacking)}"}
    answer({"stage": "verifying", "done": 1, "total": 1})
    INSTALLED.write_text(json.dumps({"release": staged.name[:16]}))
    state = "committed" if request["commit"] else "trial"
    return {"result": {"state": state, "release": staged.name[:16], "budget_ms": request["budget_ms"]}}


def whats_lacking(staged: Path, manifest_sha256: str) -> dict[str, int]:
    manifest = (staged / "bundle" / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == manifest_sha256
    lacking = {}
    for name, record in json.loads(manifest)["files"].items():
        file = staged / "bundle" / name
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != record["sha256"]:
            lacking[f"bundle/{name}"] = record["size"]
    return lacking


def answer(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The language between workstation and installer: JSON lines, in both directions of one connection.

The workstation sends requests, one at a time; to each the installer answers with any number of events and one end:

    → {"verb": "install", "manifest_sha256": "3f…", "budget_ms": 100.0, "commit": true}
    ← {"reason": "space: 812 MB needed, 40 GB free"}
    ← {"stage": "verifying", "done": 3, "total": 12}
    ← {"result": {…}}                         or {"error": "what was found, what was expected, what to do"}

An error because another session holds the lock has "busy": true besides; the request may be sent again.

| verb     | fields                             | result                                                              |
|----------|------------------------------------|---------------------------------------------------------------------|
| status   |                                    | see `installer.status`                                              |
| history  | count                              | {"entries": […]}, see `launcher.journal`                            |
| offer    | manifest_sha256, sdk: {name: size} | {"state": "committed", "trial" or "receive", "lacking": {…: size}} |
| install  | manifest_sha256, budget_ms, commit, certificate | {"state": "committed" or "trial", "release": ID, …}    |
| commit   |                                    | {"release": ID}: what is on trial runs from now on                  |
| rollback | reason                             | {"release": ID}: what runs now                                      |
| gc       |                                    | {"removed": [ID, …], "bytes": N}                                    |

Before `offer`, the workstation sends metadata/, bundle/manifest.json with its checksums, and sdk/requirements.txt where
there is one, with rsync to the staging folder of that SHA-256; after it what is lacking, named relative to that folder.
A connection that asks for more than `status` and `history` holds the installer's lock until it closes. Where the
connection is lost in `install`, the robot goes on alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from pi0_edge.errors import DeployError
from pi0_edge.progress import Progress, ProgressCallback

LONGEST_LINE = 2**20


class RefusedError(DeployError):
    """The installer of a robot refused a request, or took a release back."""


class RobotBusyError(RefusedError):
    """Another session holds the lock of this robot, perhaps one whose link was lost a moment ago."""


def send(stream: BinaryIO, message: Mapping[str, Any]) -> None:
    """Writes one line."""
    stream.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Reads one line; None at the end of the stream.

    Raises:
        DeployError: If it is no JSON object, or longer than 1 MiB.
    """
    line = stream.readline(LONGEST_LINE + 1)
    if not line:
        return None
    try:
        message = json.loads(line) if line.endswith(b"\n") and len(line) <= LONGEST_LINE else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise DeployError(f"the other side said {line[:80]!r}, expected one JSON object a line")
    return message


def ask(
    requests: BinaryIO,
    answers: BinaryIO,
    request: Mapping[str, Any],
    on_reason: Callable[[str], object] = lambda reason: None,
    on_progress: ProgressCallback = lambda progress: None,
) -> dict[str, Any]:
    """Sends a request and waits for its end.

    Args:
        requests: Towards the installer.
        answers: From it.
        request: With its verb.
        on_reason: Is called with each decision.
        on_progress: Is called with each step of a stage.

    Raises:
        RobotBusyError: If another session holds the lock.
        RefusedError: If the installer refuses.
        DeployError: If the connection ends before it has answered.
    """
    send(requests, request)
    while (answer := receive(answers)) is not None:
        if "reason" in answer:
            on_reason(str(answer["reason"]))
        elif "stage" in answer:
            on_progress(Progress(answer["stage"], answer["done"], answer["total"], answer.get("note", "")))
        elif "error" in answer:
            raise (RobotBusyError if answer.get("busy") else RefusedError)(str(answer["error"]))
        elif "result" in answer:
            return answer["result"]
    raise DeployError(f"the connection ended before the robot answered to {request['verb']!r}; run the command again")

"""Reads JSON files whose content must be an object, with an error that says what was found instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

AGAIN = "copy or export it again"


def read_json_object(path: Path, error: type[Exception], advice: str = AGAIN) -> dict[str, Any]:
    """The content of a JSON file.

    Args:
        path: The file.
        error: What to raise.
        advice: What its user can do, the end of the message.

    Raises:
        error: If the file cannot be read, is not JSON, or holds something else than an object.
    """
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror}); {advice}") from cause
    return parse_json_object(content, str(path), error, advice)


def parse_json_object(content: bytes, name: str, error: type[Exception], advice: str = AGAIN) -> dict[str, Any]:
    """The object that `content` holds.

    Args:
        content: JSON in UTF-8.
        name: Of the file, for error messages.
        error: What to raise.
        advice: What its user can do, the end of the message.

    Raises:
        error: If `content` is not JSON, or holds something else than an object.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as cause:
        raise error(f"{name} is not valid JSON ({cause}); {advice}") from cause
    if not isinstance(found, dict):
        raise error(f"{name} holds a {type(found).__name__}, expected a JSON object")
    return found

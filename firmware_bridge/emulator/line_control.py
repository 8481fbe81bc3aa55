"""Commands to a running serial line: one JSON object per line over a unix socket, each answered by one line.

`{"faults": {"bit_error_rate": 1e-4}, "direction": "both"}`, `{"cut_s": 1.2}`, `{"stall_s": 0.5}` and `{}`, which
changes nothing. The answer holds the byte counts of both directions, or `error`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.emulator.control_socket import request
from firmware_bridge.emulator.line_direction import LineDirection
from pi0_edge.errors import ConfigError

DIRECTIONS = ("to_firmware", "to_host")


def handle_command(line: bytes, directions: Mapping[str, LineDirection], now: float) -> bytes:
    """Carries out one command; returns the line that answers it."""
    try:
        _apply(json.loads(line), directions, now)
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        return json.dumps({"error": str(error)}).encode() + b"\n"
    return json.dumps({name: _counts(direction) for name, direction in directions.items()}).encode() + b"\n"


def _apply(command: dict[str, Any], directions: Mapping[str, LineDirection], now: float) -> None:
    chosen = command.get("direction", "both")
    if chosen not in (*DIRECTIONS, "both"):
        raise ConfigError(f"line direction {chosen!r}; expected to_firmware, to_host or both")
    for name in DIRECTIONS if chosen == "both" else (chosen,):
        direction = directions[name]
        if "faults" in command:
            direction.injector.faults = direction.injector.faults.updated(command["faults"])
        if "cut_s" in command:
            direction.cut(now, float(command["cut_s"]))
        if "stall_s" in command:
            direction.stall(now, float(command["stall_s"]))


def _counts(direction: LineDirection) -> dict[str, int]:
    return {
        "entered": direction.entered,
        "delivered": direction.delivered,
        "lost": direction.lost,
        "damaged": direction.injector.damaged,
    }


class LineControl:
    """Injects faults into a running line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set_faults(self, direction: str = "both", **rates: float) -> None:
        """Sets fault rates (see `LineFaults`); the others keep their value.

        Raises:
            EmulatorError: The serial line refuses the command or is gone.
        """
        self._command({"faults": rates, "direction": direction})

    def cut(self, seconds: float, direction: str = "both") -> None:
        """Loses all bytes for so many seconds; 0 restores the line at once."""
        self._command({"cut_s": seconds, "direction": direction})

    def stall(self, seconds: float, direction: str = "both") -> None:
        """Holds all bytes for so many seconds."""
        self._command({"stall_s": seconds, "direction": direction})

    def counts(self) -> dict[str, dict[str, int]]:
        """Bytes entered, delivered, lost and damages done, for each direction."""
        return self._command({})

    def _command(self, command: dict[str, Any]) -> dict[str, dict[str, int]]:
        return request(self._path, command, "the line")

"""Orders to a running wire, one JSON object a line over a unix socket, each answered by one line.

`{"faults": {"bit_error_rate": 1e-4}, "direction": "both"}`, `{"cut_s": 1.2}`, `{"stall_s": 0.5}` and `{}`, which
changes nothing. The answer holds the byte counts of both directions, or `error`.
"""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from firmware_bridge.emulator.line_direction import WireDirection
from firmware_bridge.errors import EmulatorError
from pi0_edge.errors import ConfigError

DIRECTIONS = ("to_firmware", "to_host")


def obey(line: bytes, directions: Mapping[str, WireDirection], now: float) -> bytes:
    """Carries out one order; the answer is the line to send back."""
    try:
        _apply(json.loads(line), directions, now)
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        return json.dumps({"error": str(error)}).encode() + b"\n"
    return json.dumps({name: _counts(direction) for name, direction in directions.items()}).encode() + b"\n"


def _apply(order: dict[str, Any], directions: Mapping[str, WireDirection], now: float) -> None:
    chosen = order.get("direction", "both")
    if chosen not in (*DIRECTIONS, "both"):
        raise ConfigError(f"wire direction {chosen!r}; expected to_firmware, to_host or both")
    for name in DIRECTIONS if chosen == "both" else (chosen,):
        direction = directions[name]
        if "faults" in order:
            direction.injector.faults = direction.injector.faults.updated(order["faults"])
        if "cut_s" in order:
            direction.cut(now, float(order["cut_s"]))
        if "stall_s" in order:
            direction.stall(now, float(order["stall_s"]))


def _counts(direction: WireDirection) -> dict[str, int]:
    return {
        "entered": direction.entered,
        "delivered": direction.delivered,
        "lost": direction.lost,
        "damaged": direction.injector.damaged,
    }


class WireControl:
    """Injects faults into a running wire."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def set_faults(self, direction: str = "both", **rates: float) -> None:
        """Sets fault rates (see `LineFaults`); the others keep their value.

        Raises:
            EmulatorError: the wire refuses the order or is gone.
        """
        self._order({"faults": rates, "direction": direction})

    def cut(self, seconds: float, direction: str = "both") -> None:
        """Loses all bytes for so many seconds; 0 restores the line at once."""
        self._order({"cut_s": seconds, "direction": direction})

    def stall(self, seconds: float, direction: str = "both") -> None:
        """Holds all bytes for so many seconds."""
        self._order({"stall_s": seconds, "direction": direction})

    def counts(self) -> dict[str, dict[str, int]]:
        """Bytes entered, delivered, lost and damages done, for each direction."""
        return self._order({})

    def _order(self, order: dict[str, Any]) -> dict[str, dict[str, int]]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5.0)
                connection.connect(str(self._path))
                connection.sendall(json.dumps(order).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline() or b'{"error": "no answer"}')
        except (OSError, ValueError) as error:
            raise EmulatorError(f"the wire at {self._path} does not answer: {error}") from error
        if "error" in answer:
            raise EmulatorError(f"the wire refused {order}: {answer['error']}")
        return answer

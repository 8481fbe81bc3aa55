"""The flashable image of the Raspberry Pi Pico in rp2040js, with a script of what the host and the pin do."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from firmware_library import FIRMWARE, make, require

from firmware_bridge.link.framing import FrameDecoder, encode_frame
from pi0_edge.protos.serial_link import MESSAGES, Telemetry

EMULATOR = FIRMWARE / "boards" / "rp2040" / "emulator"
TICK_US = 20_000


def require_emulator() -> None:
    require("make", "arm-none-eabi-gcc", "python3", "node")
    if not (EMULATOR / "node_modules" / "rp2040js").is_dir():
        pytest.skip("rp2040js is not installed (make -C firmware_bridge/firmware rp2040js)")


def build_image() -> Path:
    require_emulator()
    built = make("-s", "rp2040", "ROBOT=aloha")
    assert built.returncode == 0, built.stderr
    return FIRMWARE / "build" / "rp2040" / "firmware.uf2"


@dataclass(frozen=True)
class Run:
    """What a run left: the bytes that the board sent, and the figures of the emulator."""

    sent: bytes
    figures: dict[str, Any]

    @property
    def messages(self) -> list[Any]:
        return [MESSAGES[frame.type].unpack(frame.payload) for frame in FrameDecoder().feed(self.sent)]

    @property
    def ticks(self) -> list[Telemetry]:
        return [message for message in self.messages if isinstance(message, Telemetry)]


class Script:
    """What happens, by the board's own time."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._seq = 0

    def send(self, at_tick: float, *messages: Any) -> Script:
        frames = [encode_frame(message.ID, self._seq + index, message.pack()) for index, message in enumerate(messages)]
        self._seq += len(frames)
        return self.event(at_tick, bytes=b"".join(frames).hex())

    def event(self, at_tick: float, **event: Any) -> Script:
        self._events.append({"at_us": round(at_tick * TICK_US), **event})
        return self

    def run(self, image: Path, ticks: float) -> Run:
        lines = "".join(json.dumps(event) + "\n" for event in self._events)
        argv = ["node", str(EMULATOR / "run.mjs"), str(image), str(ticks * TICK_US * 1e-6)]
        ran = subprocess.run(argv, input=lines.encode(), capture_output=True, check=False, timeout=120)
        assert ran.returncode == 0, ran.stderr.decode()
        return Run(ran.stdout, json.loads(ran.stderr))

"""The firmware's core as a library of this process: one controller with a counter, a UART and an e-stop to play on."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

from firmware_bridge.firmware.generate_joints import write_table
from firmware_bridge.firmware.joint_table import JointTable, load_joint_table
from firmware_bridge.framing import FrameDecoder, encode_frame
from protos.serial_link import (
    MESSAGES,
    SCHEMA_HASH,
    Command,
    CommandReply,
    CommandRequest,
    Fragment,
    Hello,
    Ping,
    ResetCause,
    Telemetry,
)

ROOT = Path(__file__).resolve().parents[1]
FIRMWARE = ROOT / "firmware_bridge" / "firmware"
Kind = TypeVar("Kind")


class MotionLimits(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("minimum", "maximum", "max_step", "max_change")]


class JointMotion(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("position", "velocity")]


def require(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "-C", str(FIRMWARE), *arguments], capture_output=True, text=True, check=False)


@cache
def load_library() -> ctypes.CDLL:
    require("make", "gcc")
    build = FIRMWARE / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    (build / "bench.c").write_text(write_table(bench()))
    result = make("host", "ROBOT=bench", "ROBOTS=build/bench", "BUILD=build/bench")
    assert result.returncode == 0, result.stderr
    library = ctypes.CDLL(str(build / "host" / "libfirmware.so"))
    library.crc32_update.restype = ctypes.c_uint32
    library.joint_table_hash.restype = ctypes.c_uint32
    library.host_take_sent.restype = ctypes.c_size_t
    library.cobs_encode.restype = ctypes.c_size_t
    library.motion_track.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_float]
    library.motion_track.restype = ctypes.c_uint8
    library.motion_stop.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library


@cache
def bench() -> JointTable:
    """The joints of the bench: their limits do not change when those of a real robot are tuned."""
    return load_joint_table(ROOT / "tests" / "firmware" / "bench_robot.yaml")


class HostFirmware:
    """One boot of the firmware, played tick by tick."""

    def __init__(self, cause: ResetCause = ResetCause.POWER_ON) -> None:
        self.library = load_library()
        self.library.host_reset(int(cause))
        self.tick_number = 0
        self.chunk_id = 0
        self._seq = 0
        self._nonce = 0
        self._decoder = FrameDecoder()
        self._out = ctypes.create_string_buffer(1 << 18)

    def receive(self, data: bytes) -> None:
        self.library.host_receive(data, ctypes.c_size_t(len(data)))

    def frame(self, message: Any) -> bytes:
        self._seq += 1
        return encode_frame(message.ID, self._seq - 1, message.pack())

    def send(self, *messages: Any) -> list[Any]:
        for message in messages:
            self.receive(self.frame(message))
        return self.poll()

    def poll(self) -> list[Any]:
        self.library.host_poll()
        size = self.library.host_take_sent(self._out, ctypes.c_size_t(len(self._out)))
        sent = ctypes.string_at(self._out, size)
        return [MESSAGES[frame.type].unpack(frame.payload) for frame in self._decoder.feed(sent)]

    def tick(self, elapsed: int = 1, heartbeat: bool = True) -> Telemetry:
        """Run one tick interrupt, `elapsed` ticks after the last, and return what it reports."""
        if heartbeat:
            self.receive(self.frame(Ping(self.tick_number, 0)))
            self.library.host_poll()
        self.tick_number += elapsed
        self.library.host_tick(self.tick_number)
        reports = only(Telemetry, self.poll())
        assert len(reports) == 1
        return reports[0]

    def command(self, command: int) -> CommandReply:
        self._nonce += 1
        (reply,) = only(CommandReply, self.send(CommandRequest(self._nonce, command)))
        return reply

    def armed(self) -> HostFirmware:
        self.send(Hello(SCHEMA_HASH))
        self.tick()
        assert self.command(Command.ARM).result == 0
        return self

    def fragments(self, first_tick: int, rows: Sequence[Sequence[int]], per_fragment: int = 7) -> list[Fragment]:
        """Fragments of a new chunk; `rows` are its steps in counts."""
        self.chunk_id += 1
        starts = range(0, len(rows), per_fragment)
        parts = [rows[start : start + per_fragment] for start in starts]
        return [
            Fragment(
                chunk_id=self.chunk_id,
                first_tick=first_tick,
                observed_tick=(first_tick - 1) & 0xFFFFFFFF,
                step_count=len(rows),
                fragment_index=index,
                fragment_count=len(parts),
                first_step=start,
                steps=len(part),
                joints=len(part[0]),
                values=tuple(value for row in part for value in row),
            )
            for index, (start, part) in enumerate(zip(starts, parts, strict=True))
        ]

    def play(self, first_tick: int, rows: Sequence[Sequence[int]]) -> Any:
        """Send a whole chunk and return the reply."""
        return self.send(*self.fragments(first_tick, rows))[-1]


def only(kind: type[Kind], messages: list[Any]) -> list[Kind]:
    return [message for message in messages if isinstance(message, kind)]


def home() -> list[int]:
    return [round(joint.home / joint.resolution) for joint in bench().joints]


def moved(offset: int) -> list[int]:
    """Home with the waists moved by `offset` counts and the other arm joints by an eighth of it."""
    shares = {"waist": 1, "gripper": 0}
    joints = zip(home(), bench().joints, strict=True)
    return [value + int(offset * shares.get(joint.name.split("_")[1], 0.125)) for value, joint in joints]

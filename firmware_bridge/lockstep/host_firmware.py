"""One boot of the firmware's core, run tick by tick and servo step by servo step."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from firmware_bridge.firmware.joint_table import JointTable
from firmware_bridge.link.framing import FrameDecoder, encode_frame
from firmware_bridge.lockstep.host_library import JointMeasurement, JointMotion, Motions, load_host_library
from pi0_edge.protos.serial_link import (
    MESSAGES,
    SCHEMA_HASH,
    Command,
    CommandReply,
    CommandRequest,
    Fragment,
    Hello,
    JointFlag,
    Ping,
    ResetCause,
    Telemetry,
)

_SENT_CAPACITY = 1 << 18
Kind = TypeVar("Kind")
Boot = TypeVar("Boot", bound="HostFirmware")


def only(kind: type[Kind], messages: list[Any]) -> list[Kind]:
    """The messages of one kind."""
    return [message for message in messages if isinstance(message, kind)]


class SavedFirmware(NamedTuple):
    """A moment of the controller, to come back to."""

    control: bytes
    tick_number: int
    seq: int
    nonce: int


class HostFirmware:
    """The controller with a simulated counter, UART and e-stop.

    There is one per joint table and process: a new object is a reset of the board.

    Attributes:
        table: Joints compiled in.
        library: The compiled core.
        tick_number: The last executed tick.
        servo_steps: Servo steps of one tick.
        chunk_id: Number of the last chunk that `fragments` made.
    """

    def __init__(self, table: JointTable, cause: ResetCause = ResetCause.POWER_ON) -> None:
        self.table = table
        self.library = load_host_library(table)
        self.servo_steps = table.servo_hz // table.control_hz
        self.chunk_id = 0
        self._motions = Motions()
        self._sent = ctypes.create_string_buffer(_SENT_CAPACITY)
        self.reset(cause)

    def reset(self, cause: ResetCause = ResetCause.POWER_ON) -> None:
        """Restarts the controller, as a reset of the board does."""
        self.library.host_reset(int(cause))
        self.tick_number = 0
        self._seq = 0
        self._nonce = 0
        self._decoder = FrameDecoder()

    def save(self) -> SavedFirmware:
        """This moment, between two calls of `poll`; what the servos measure does not belong to it."""
        control = ctypes.string_at(self.library.host_control(), self.library.host_control_size())
        return SavedFirmware(control, self.tick_number, self._seq, self._nonce)

    def restore(self, saved: SavedFirmware) -> None:
        """Goes back to a moment of this boot."""
        ctypes.memmove(self.library.host_control(), saved.control, len(saved.control))
        _, self.tick_number, self._seq, self._nonce = saved

    def receive(self, data: bytes) -> None:
        """Lets the UART interrupt take bytes; the main loop has not seen them yet."""
        self.library.host_receive(data, len(data))

    def frame(self, message: Any) -> bytes:
        """The next frame of the host, with this message."""
        self._seq += 1
        return encode_frame(message.ID, (self._seq - 1) & 0xFFFF, message.pack())

    def send(self, *messages: Any) -> list[Any]:
        """Sends messages, lets the main loop run, and returns what the firmware sent."""
        for message in messages:
            self.receive(self.frame(message))
        return self.poll()

    def poll(self) -> list[Any]:
        """Lets the main loop run once, and returns what the firmware sent."""
        self.library.host_poll()
        size = self.library.host_take_sent(self._sent, _SENT_CAPACITY)
        sent = ctypes.string_at(self._sent, size)
        return [MESSAGES[frame.type].unpack(frame.payload) for frame in self._decoder.feed(sent)]

    def tick(self, elapsed: int = 1, heartbeat: bool = True) -> Telemetry:
        """Runs the servo interrupt at the beginning of a tick, `elapsed` ticks after the last; returns its report."""
        if heartbeat:
            self.receive(self.frame(Ping(self.tick_number, 0)))
            self.library.host_poll()
        self.tick_number += elapsed
        self.library.host_servo(self.tick_number, 0)
        (report,) = only(Telemetry, self.poll())
        return report

    def servo(self, step: int) -> None:
        """Runs the servo interrupt at a step of the last executed tick."""
        self.library.host_servo(self.tick_number, step)

    def motion(self) -> list[JointMotion]:
        """Position and velocity of each joint after the last servo step; a view, valid until the next call."""
        self.library.host_copy_motion(ctypes.byref(self._motions))
        return list(self._motions[: len(self.table.joints)])

    def motion_array(self) -> NDArray[np.float32]:
        """Position and velocity of each joint after the last servo step; float32 [joints, 2]."""
        self.library.host_copy_motion(ctypes.byref(self._motions))
        return np.frombuffer(bytes(self._motions), dtype=np.float32).reshape(-1, 2)[: len(self.table.joints)]

    def measure(
        self,
        joint: int,
        position: float,
        *,
        near: bool = False,
        current: float = 0.0,
        volts: float = 0.0,
        temperature: int = 0,
        flags: JointFlag = JointFlag.MEASURED | JointFlag.TORQUE,
        age: int = 0,
    ) -> None:
        """Sets what the servos of a joint measure from now on; see `JointMeasurement`.

        Joints that were never set are where they are commanded, as with servos without encoders. `near`: `position` is
        the distance from the commanded one.
        """
        measurement = JointMeasurement(position, current, volts, temperature, flags, age)
        take = self.library.host_measure_near if near else self.library.host_measure
        take(joint, ctypes.byref(measurement))

    def command(self, command: int) -> CommandReply:
        """Gives a command and returns the reply."""
        self._nonce += 1
        (reply,) = only(CommandReply, self.send(CommandRequest(self._nonce, command)))
        return reply

    def armed(self: Boot) -> Boot:
        """Shakes hands and arms; returns itself."""
        self.send(Hello(SCHEMA_HASH))
        self.tick()
        reply = self.command(Command.ARM)
        if reply.result != 0:
            raise AssertionError(f"not armed: {reply}")
        return self

    def fragments(self, first_tick: int, rows: Sequence[Sequence[int]], per_fragment: int = 7) -> list[Fragment]:
        """Fragments of a new chunk; `rows` are its steps in counts, `[steps][joints]`."""
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
        """Sends a whole chunk and returns the last answer."""
        return self.send(*self.fragments(first_tick, rows))[-1]

"""A serial line between `TransferWindow` and the firmware's core, in simulated time: pace, delay and faults."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from firmware_library import HostFirmware

from firmware_bridge.link.framing import FrameDecoder, encode_frame
from firmware_bridge.link.transfer import Transfer, TransferWindow
from pi0_edge.protos.serial_link import ChunkReply, Fragment, Ping

TICK_S = 0.02
PROCESSING_S = 0.5e-3  # the firmware's main loop


@dataclass(frozen=True)
class Faults:
    """Probabilities for each frame, in both directions."""

    lost: float = 0.0
    doubled: float = 0.0
    damaged: float = 0.0
    overtaken: float = 0.0


class SimulatedLine:
    """Host on the left with a window, firmware on the right; `run` lets time pass."""

    def __init__(self, firmware: HostFirmware, baud: int = 921600, seed: int = 0, faults: Faults | None = None) -> None:
        self.firmware = firmware
        self.window = TransferWindow(baud)
        self.window.restart(3584)
        self.faults = faults or Faults()
        self.now_s = firmware.tick_number * TICK_S
        self.most_in_flight = 0
        self.sent: list[Fragment] = []
        self._byte_s = 10 / baud
        self._chooser = random.Random(seed)
        self._free_s = [0.0, 0.0]  # when each direction can take the next frame
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._seq = itertools.count(1000)
        self._decoder = FrameDecoder()

    def play(self, transfer: Transfer, limit_s: float = 2.0) -> None:
        """Brings one chunk over, or gives up."""
        self.run(limit_s, lambda: transfer.ended)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Lets so much time pass, or less where `until` comes true."""
        end_s = self.now_s + seconds
        while self.now_s < end_s and not until():
            self._send_what_fits()
            self.now_s = min(self._next_event_s(), end_s)
            self._let_happen()

    def _next_event_s(self) -> float:
        deadline_s = self.window.deadline_s()
        next_tick_s = (self.firmware.tick_number + 1) * TICK_S
        times = [next_tick_s, *([deadline_s] if deadline_s is not None else [])]
        return max(self.now_s, min([*times, *(self._events[0][:1] if self._events else ())]))

    def _let_happen(self) -> None:
        deadline_s = self.window.deadline_s()
        if deadline_s is not None and deadline_s <= self.now_s:
            self.window.give_up_waiting(self.now_s)
        while self._events and self._events[0][0] <= self.now_s:
            heapq.heappop(self._events)[2]()
        if (self.firmware.tick_number + 1) * TICK_S <= self.now_s + 1e-9:
            self.firmware.tick_number += 1
            self.firmware.receive(self.firmware.frame(Ping(self.firmware.tick_number, 0)))
            self.firmware.library.host_tick(self.firmware.tick_number)
            self._poll_firmware()

    def _send_what_fits(self) -> None:
        newest = self.window._newest
        while newest is not None and (fragment := self.window.next_fragment(newest, self.now_s)) is not None:
            self.sent.append(fragment)
            self.most_in_flight = max(self.most_in_flight, self.window.in_flight)
            self._carry(0, encode_frame(fragment.ID, next(self._seq), fragment.pack()), self._reach_firmware)

    def _reach_firmware(self, data: bytes) -> None:
        self.firmware.receive(data)
        self._poll_firmware()

    def _poll_firmware(self) -> None:
        for message in self.firmware.poll():
            if isinstance(message, ChunkReply):
                self._carry(1, encode_frame(message.ID, next(self._seq), message.pack()), self._reach_host)

    def _reach_host(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self.window.on_reply(ChunkReply.unpack(frame.payload), self.now_s)

    def _carry(self, direction: int, data: bytes, arrive: Callable[[bytes], None]) -> None:
        """Takes a frame at the pace of the line; what arrives may be damaged, doubled, late or nothing."""
        start_s = max(self.now_s + PROCESSING_S, self._free_s[direction])
        self._free_s[direction] = end_s = start_s + len(data) * self._byte_s
        fate, faults = self._chooser.random, self.faults
        if fate() < faults.lost:
            return
        if fate() < faults.damaged:
            bit = self._chooser.randrange(8 * len(data))
            data = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :] + b"\0"
        if fate() < faults.overtaken:
            end_s += 3e-3
        for _ in range(2 if fate() < faults.doubled else 1):
            heapq.heappush(self._events, (end_s, next(self._count), lambda: arrive(data)))

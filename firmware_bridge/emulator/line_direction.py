"""One direction of the emulated serial line: bytes leave at the baud rate, and faults are injected.

Faults are flipped bits, lost and doubled bytes, doubled and swapped frames. The same seed and the same bytes in the
same portions give the same faults; of frames it is only known that a zero byte ends them. A cut loses the bytes that
enter while it lasts; a stall keeps everything and delivers it late. Times are arguments, in seconds of any monotonic
clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from pi0_edge.errors import ConfigError


@dataclass(frozen=True)
class LineFaults:
    """Probabilities of each fault, per bit, per byte or per frame; all zero is a perfect line."""

    bit_error_rate: float = 0.0
    byte_drop_rate: float = 0.0
    byte_duplicate_rate: float = 0.0
    frame_duplicate_rate: float = 0.0
    frame_swap_rate: float = 0.0

    def updated(self, changes: Mapping[str, object]) -> "LineFaults":
        """A copy with some rates replaced.

        Raises:
            ConfigError: An unknown rate, or a value outside 0 to 1.
        """
        known = {field.name for field in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(f"unknown line fault {name!r}; known are {', '.join(sorted(known))}")
            if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
                raise ConfigError(f"line fault {name} is {value!r}; expected a probability from 0 to 1")
        return replace(self, **{name: float(value) for name, value in changes.items()})  # pyright: ignore[reportArgumentType]

    @property
    def touches_frames(self) -> bool:
        """Whether whole frames have to be buffered."""
        return self.frame_duplicate_rate > 0.0 or self.frame_swap_rate > 0.0


class FaultInjector:
    """Applies faults to the bytes of one direction."""

    def __init__(self, seed: int, faults: LineFaults | None = None) -> None:
        self.faults = faults or LineFaults()
        self.damaged = 0
        self._random = np.random.default_rng(seed)
        self._partial = b""
        self._held: bytes | None = None

    def apply(self, data: bytes) -> bytes:
        """The bytes that come out at the far end, in the order of arrival."""
        data = self._damage_frames(data)
        values = np.frombuffer(data, dtype=np.uint8)
        if values.size and self.faults.bit_error_rate > 0.0:
            values = self._flip_bits(values)
        if values.size and self.faults.byte_drop_rate > 0.0:
            values = values[self._keep(values.size, self.faults.byte_drop_rate)]
        if values.size and self.faults.byte_duplicate_rate > 0.0:
            values = np.repeat(values, 2 - self._keep(values.size, self.faults.byte_duplicate_rate).astype(int))
        return values.tobytes()

    def _flip_bits(self, values: np.ndarray) -> np.ndarray:
        flips = self._random.random((values.size, 8)) < self.faults.bit_error_rate
        self.damaged += int(flips.sum())
        return values ^ np.packbits(flips, axis=1)[:, 0]

    def _keep(self, count: int, rate: float) -> np.ndarray:
        keep = self._random.random(count) >= rate
        self.damaged += int(count - keep.sum())
        return keep

    def _damage_frames(self, data: bytes) -> bytes:
        if not self.faults.touches_frames:
            flushed = self._partial + (self._held or b"") + data
            self._partial, self._held = b"", None
            return flushed
        *frames, self._partial = (self._partial + data).split(b"\0")
        return b"".join(self._damage_frame(frame + b"\0") for frame in frames)

    def _damage_frame(self, frame: bytes) -> bytes:
        if self._held is not None:
            swapped, self._held = frame + self._held, None
            return swapped
        if self._random.random() < self.faults.frame_swap_rate:
            self.damaged += 1
            self._held = frame
            return b""
        if self._random.random() < self.faults.frame_duplicate_rate:
            self.damaged += 1
            return frame * 2
        return frame


_BITS_PER_BYTE = 10  # one start bit, eight data bits, one stop bit
_BURST_S = 0.01  # bytes of so long may be sent at once after the scheduler delayed the line
_CAPACITY = 65536


class LineDirection:
    """The bytes of one direction that were not delivered yet."""

    def __init__(self, baud: int, injector: FaultInjector, exact: bool = False) -> None:
        """Prepares a direction.

        Args:
            baud: Bits per second.
            injector: Of its faults.
            exact: No byte after a pause leaves earlier than the baud rate allows. Else up to 10 ms of bytes do, as if
                they had been sent during the pause: on a busy machine this process learns of them late.
        """
        self.injector = injector
        self.entered = 0
        self.delivered = 0
        self.lost = 0
        self._rate = baud / _BITS_PER_BYTE
        self._burst = max(16.0, self._rate * _BURST_S)
        self._exact = exact
        self._credit = 0.0 if exact else self._burst
        self._updated_at = 0.0
        self._cut_until = 0.0
        self._stalled_until = 0.0
        self._waiting = bytearray()

    def cut(self, now: float, seconds: float) -> None:
        """Loses everything that waits or enters during the next seconds; 0 restores the line at once."""
        self._cut_until = now + seconds
        self._lose_waiting()

    def stall(self, now: float, seconds: float) -> None:
        """Delivers nothing during the next seconds, and everything afterwards."""
        self._stalled_until = now + seconds

    def enter(self, now: float, data: bytes) -> None:
        """Takes bytes from the sending end."""
        self.entered += len(data)
        if now < self._cut_until:
            self.lost += len(data)
            return
        if self._exact and not self._waiting:
            self._credit, self._updated_at = 0.0, now
        self._waiting += self.injector.apply(data)
        if len(self._waiting) > _CAPACITY:
            self._lose_waiting()

    def due(self, now: float) -> bytes:
        """The bytes that may leave now; `sent` says how many of them did."""
        self._credit = min(self._burst, self._credit + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if now < self._stalled_until:
            return b""
        return bytes(self._waiting[: int(self._credit)])

    def sent(self, count: int) -> None:
        """Removes bytes that have left."""
        self._credit -= count
        self.delivered += count
        del self._waiting[:count]

    @property
    def waiting(self) -> int:
        """Number of bytes that were not delivered yet."""
        return len(self._waiting)

    def wait_s(self, now: float) -> float:
        """How long the bytes that wait take until the last one may leave, in seconds; 0 where none waits."""
        return max(0.0, (len(self._waiting) - self._credit) / self._rate - (now - self._updated_at))

    def _lose_waiting(self) -> None:
        self.lost += len(self._waiting)
        self._waiting.clear()

"""One direction of the wire: bytes wait here for their turn at the baud rate, with faults applied on entry.

Time is handed in, in seconds of any monotonic clock. A cut loses the bytes that enter while it lasts; a stall
keeps everything, and delivers it late.
"""

from firmware_bridge.line_faults import FaultInjector

_BITS_PER_BYTE = 10  # one start bit, eight data bits, one stop bit
_BURST_S = 0.01  # how far delivery may catch up after the scheduler let the wire wait
_CAPACITY = 65536


class WireDirection:
    """Bytes on their way to one end."""

    def __init__(self, baud: int, injector: FaultInjector) -> None:
        self.injector = injector
        self.entered = 0
        self.delivered = 0
        self.lost = 0
        self._rate = baud / _BITS_PER_BYTE
        self._burst = max(16.0, self._rate * _BURST_S)
        self._credit = self._burst
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
        """How many bytes wait for their turn."""
        return len(self._waiting)

    def _lose_waiting(self) -> None:
        self.lost += len(self._waiting)
        self._waiting.clear()

"""How much one peer may ask for, so that none can crowd out the others."""

import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass

MOST_PEERS = 256  # remembered at a time; the one that was quiet for longest is forgotten


@dataclass(frozen=True)
class Limits:
    """What one peer may do.

    Attributes:
        calls_per_s: Calls begun per second, in the long run.
        messages_per_s: Messages sent per second within streams, in the long run.
        burst_s: How many seconds' worth may come at once.
        streams: Streams open at a time.
    """

    calls_per_s: float = 200.0
    messages_per_s: float = 100.0  # chunks; a policy makes 2 to 50
    burst_s: float = 2.0
    streams: int = 4


class _TokenBucket:
    def __init__(self, rate: float, burst_s: float) -> None:
        self._rate = rate
        self._most = rate * burst_s
        self._tokens = self._most
        self._filled_at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(self._most, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class PeerLimits:
    """Keeps count of every peer by name. Safe to use from several threads."""

    def __init__(self, limits: Limits, observing_streams: int) -> None:
        """Begins counting.

        Args:
            limits: Of each peer.
            observing_streams: Streams that only observe, of all peers together; each holds a thread of the server.
        """
        self._limits = limits
        self._most_observing = observing_streams
        self._observing = 0
        self._buckets: OrderedDict[tuple[str, str], _TokenBucket] = OrderedDict()
        self._streams: Counter[str] = Counter()
        self._lock = threading.RLock()  # a stream may be finalized, and so closed, wherever garbage is collected

    def take_call(self, peer: str) -> bool:
        """Whether the peer may begin one more call now."""
        return self._take("call", peer, self._limits.calls_per_s)

    def take_message(self, peer: str) -> bool:
        """Whether the peer may send one more message in a stream now."""
        return self._take("message", peer, self._limits.messages_per_s)

    def open_stream(self, peer: str, *, observing: bool) -> bool:
        """Whether the peer may open one more stream, one that only observes or another; close each that was opened."""
        with self._lock:
            if self._streams[peer] >= self._limits.streams or (observing and self._observing >= self._most_observing):
                return False
            self._streams[peer] += 1
            self._observing += observing
            return True

    def close_stream(self, peer: str, *, observing: bool) -> None:
        """One stream less."""
        with self._lock:
            self._observing -= observing
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    def _take(self, kind: str, peer: str, rate: float) -> bool:
        with self._lock:
            bucket = self._buckets.setdefault((kind, peer), _TokenBucket(rate, self._limits.burst_s))
            self._buckets.move_to_end((kind, peer))
            if len(self._buckets) > 2 * MOST_PEERS:
                self._buckets.popitem(last=False)
            return bucket.take()

"""Transfers chunks to the firmware: which fragment is sent next, which are lost, and how long to wait for an answer.

Selective repeat over a line that keeps the order of bytes. Every transmission gets a number; the firmware's
answers name the fragments of a chunk that it holds, and so the newest transmission that arrived. What was sent
before that one and did not arrive is lost and is sent again at once; what is not acknowledged is sent again after
`RoundTripTimer.wait_s`.

At most `limit` bytes are unacknowledged at any time, over all chunks. It never exceeds the receive queue of the
firmware, which therefore cannot overflow. Within that it begins small, grows with every acknowledgement, and is halved
by one that took long. Every heartbeat waits behind the bytes in flight: on a line or a board that is slower than its
baud rate, this wait must not become so long that the firmware stops the arm.

A newer chunk supersedes older ones: no fragment of those is sent any more. One that was not yet sent to its end has
failed; one that was sent to its end waits for its answer, so that chunks follow each other without a pause. Where a
newer one waits behind an older one (`yield_to_newer`), the older is sent to its end, but no fragment twice, unless its
head is in the ring already (`finishes`): without its rest the arm would brake.

The retransmission timeout is srtt + 4 · rttvar, as in RFC 6298 and Klipper:

    rttvar ← 3/4 · rttvar + 1/4 · |srtt − sample|,   srtt ← 7/8 · srtt + 1/8 · sample

Only answers to what was sent once are samples (Karn's rule); every timeout doubles the next one.

`RoundTripTimer` and `TransferWindow` are pure logic: times are arguments, in seconds of any clock, and neither is safe
for several threads. `ChunkSender` is safe: the caller's thread sends the chunk, so that sending ends with the call;
the reader thread passes the firmware's answers to it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from firmware_bridge.errors import LinkError
from firmware_bridge.link.framing import ENCODED_OVERHEAD
from pi0_edge.protos.serial_link import CRC_SIZE, HEADER_SIZE, MAX_FRAME, ChunkReply, ChunkResult, Fragment

SHORTEST_S = 0.025  # as in Klipper; covers the firmware's loop and the host's scheduler
LONGEST_S = 0.25  # after so long the arm has stopped; still often enough to find a restored line
_LARGEST_FRAME = MAX_FRAME - HEADER_SIZE - CRC_SIZE + ENCODED_OVERHEAD
_MIN_WINDOW = 4 * _LARGEST_FRAME  # the firmware acknowledges two at a time, so two more keep the line busy
_FIRST_ANSWER_S = 0.1  # before any was measured
_QUEUED_S = 0.04  # of bytes on the line
_LONG_S = 0.08  # an acknowledgement that takes longer halves the window; a heartbeat has 200 ms, and comes every 50
_BITS_PER_BYTE = 10
_POLL_S = 0.02  # how often to see whether the chunk is past due
_LINK_DOWN_WAIT_S = 0.02

logger = logging.getLogger(__name__)


class RoundTripTimer:
    """The retransmission timeout, estimated from round trips."""

    def __init__(self, first_s: float) -> None:
        """Starts from an estimate.

        Args:
            first_s: Waiting time before anything was measured, in seconds.
        """
        self._first_s = first_s
        self._smoothed_s: float | None = None
        self._variation_s = 0.0
        self._backoff = 1

    @property
    def smoothed_s(self) -> float:
        """The usual time until an acknowledgement; the first guess before any sample."""
        return self._first_s if self._smoothed_s is None else self._smoothed_s

    @property
    def wait_s(self) -> float:
        """How long to wait now, after the timeouts so far."""
        return min(LONGEST_S, self.usual_s * self._backoff)

    @property
    def usual_s(self) -> float:
        """How long to wait where no timeout came before."""
        return max(SHORTEST_S, self.smoothed_s + 4.0 * self._variation_s)

    def sample(self, seconds: float) -> None:
        """Adds the time between sending something once and its acknowledgement."""
        self._backoff = 1
        if self._smoothed_s is None:
            self._smoothed_s, self._variation_s = seconds, seconds / 2.0
            return
        self._variation_s += (abs(self._smoothed_s - seconds) - self._variation_s) / 4.0
        self._smoothed_s += (seconds - self._smoothed_s) / 8.0

    def on_timeout(self) -> None:
        """Doubles the next waiting time."""
        self._backoff = min(2 * self._backoff, 64)


class Transmission(NamedTuple):
    """One fragment sent once: its place in the order of everything sent, its bytes on the wire, and when."""

    number: int
    size: int
    sent_s: float


class Transfer:
    """The transfer of one chunk.

    Attributes:
        chunk_id: Of the chunk.
        fragments: Of the chunk, by index.
        reply: The firmware's decision, None before it.
        superseded: A newer chunk came, and this one will not be sent again.
        blocks_newer: A newer chunk waits for it.
        finishes: It is the rest of a chunk whose head was accepted, and is not abandoned for a newer one.
        retransmissions: Fragments that were sent more than once.
        began_s: When its first byte was given to the line; None before.
        decided_s: When the firmware's decision came; None before.
    """

    def __init__(self, chunk_id: int, fragments: Sequence[Fragment]) -> None:
        self.chunk_id = chunk_id
        self.fragments = fragments
        self.reply: ChunkReply | None = None
        self.superseded = False
        self.blocks_newer = False
        self.finishes = False
        self.retransmissions = 0
        self.began_s: float | None = None
        self.decided_s: float | None = None
        self.due = deque(range(len(fragments)))  # indices to send, in this order
        self.sent: dict[int, Transmission] = {}  # the last transmission of each index
        self.repeated: set[int] = set()  # indices that were sent more than once
        self.held = 0  # bit k: the firmware holds fragment k

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.reply is not None or self.superseded

    @property
    def last_number(self) -> int:
        """Of its transmissions; -1 before the first."""
        return max((sent.number for sent in self.sent.values()), default=-1)

    def is_missing(self, index: int) -> bool:
        """Whether a fragment was sent, is not held by the firmware and is not about to be sent again."""
        return index in self.sent and not self.held >> index & 1 and index not in self.due

    def newest_of(self, bits: int) -> int | None:
        """The one of these fragments that was sent last."""
        indices = [index for index in self.sent if bits >> index & 1]
        return max(indices, key=lambda index: self.sent[index].number, default=None)


class TransferWindow:
    """All chunks that are being sent to one firmware."""

    def __init__(self, baud: int) -> None:
        self._baud = baud
        self._transfers: dict[int, Transfer] = {}
        self._newest: Transfer | None = None
        self._flight: deque[Transmission] = deque()
        self._next_number = 0
        self._halved_at = 0
        self._waiting_since_s = 0.0
        self.restart(0)

    def restart(self, receive_window: int) -> None:
        """Begins anew after a handshake: what was in flight is lost, and the firmware may have forgotten the rest.

        Args:
            receive_window: Bytes of fragments that the firmware can hold, as it said in its `Welcome`.
        """
        self._max_window = min(receive_window, max(_MIN_WINDOW, int(self._baud / _BITS_PER_BYTE * _QUEUED_S)))
        self.limit = min(_MIN_WINDOW, self._max_window)
        self.timer = RoundTripTimer(_FIRST_ANSWER_S + self.limit * _BITS_PER_BYTE / self._baud)
        self._flight.clear()
        for transfer in self._transfers.values():
            transfer.held = 0
            self._send_again(transfer, list(transfer.sent))

    @property
    def in_flight(self) -> int:
        """Bytes that were sent and not acknowledged."""
        return sum(transmission.size for transmission in self._flight)

    def begin(
        self, chunk_id: int, fragments: Sequence[Fragment], now_s: float, head: Transfer | None = None
    ) -> Transfer:
        """Adds a chunk, which supersedes all older ones, or is superseded itself.

        It does not wait for what older ones sent longer ago than an answer usually takes. With `head`, it is the rest
        of the chunk whose head was accepted.
        """
        transfer = self._transfers[chunk_id] = Transfer(chunk_id, fragments)
        if head is not None:
            transfer.finishes, transfer.blocks_newer = True, head.blocks_newer
        if self._newest is not None and _is_older(chunk_id, self._newest.chunk_id):
            transfer.superseded = True
            return transfer
        if self._newest is not None and self._newest.due:
            self._newest.superseded = True
        while self._flight and self._flight[0].sent_s < now_s - self.timer.usual_s:
            self._flight.popleft()
        self._newest = transfer
        return transfer

    def yield_to_newer(self) -> None:
        """Marks the chunk being sent as blocking a newer one: no fragment of it is sent again, unless it finishes."""
        if self._newest is not None:
            self._newest.blocks_newer = True
            is_again = any(index in self._newest.sent for index in self._newest.due)
            self._newest.superseded |= is_again and not self._newest.finishes

    def end(self, transfer: Transfer) -> None:
        """Removes a chunk."""
        del self._transfers[transfer.chunk_id]
        if self._newest is transfer:
            self._newest = None

    def next_fragment(self, transfer: Transfer, now_s: float) -> Fragment | None:
        """The fragment to send now, counted as sent; None if none is due, the window is full or a newer chunk came."""
        if transfer is not self._newest or transfer.ended or not transfer.due:
            return None
        fragment = transfer.fragments[transfer.due[0]]
        size = wire_size(fragment)
        if self._flight and self.in_flight + size > self.limit:
            return None
        if not self._flight:
            self._waiting_since_s = now_s
        self._count_as_sent(transfer, Transmission(self._next_number, size, now_s))
        return fragment

    def on_reply(self, reply: ChunkReply, now_s: float) -> None:
        """Processes an answer of the firmware."""
        transfer = self._transfers.get(reply.chunk_id)
        if transfer is None or transfer.ended:
            return
        newest = transfer.newest_of(reply.received & ~transfer.held)
        transfer.held = reply.received
        if newest is not None and newest not in transfer.repeated:
            self._add_sample(transfer.sent[newest], now_s)
        if reply.result != ChunkResult.INCOMPLETE:
            transfer.reply, transfer.decided_s = reply, now_s
            self._acknowledge(transfer.last_number, now_s)
        elif newest is not None:
            number = transfer.sent[newest].number
            missing = [index for index in transfer.sent if transfer.is_missing(index)]
            self._send_again(transfer, [index for index in missing if transfer.sent[index].number < number])
            self._acknowledge(number, now_s)
        else:  # a reminder: what could have arrived by now has not
            before_s = now_s - self.timer.smoothed_s
            missing = [index for index in transfer.sent if transfer.is_missing(index)]
            self._send_again(transfer, [index for index in missing if transfer.sent[index].sent_s < before_s])

    def deadline_s(self) -> float | None:
        """When to call `give_up_waiting`; None where nothing is in flight."""
        return self._waiting_since_s + self.timer.wait_s if self._flight else None

    def give_up_waiting(self, now_s: float) -> None:
        """Counts all in flight as lost: no answer came until the deadline."""
        self.timer.on_timeout()
        self._flight.clear()
        self._waiting_since_s = now_s
        for transfer in self._transfers.values():
            self._send_again(transfer, [index for index in transfer.sent if transfer.is_missing(index)])

    def _count_as_sent(self, transfer: Transfer, transmission: Transmission) -> None:
        index = transfer.due.popleft()
        if index in transfer.sent:
            transfer.retransmissions += 1
            transfer.repeated.add(index)
        if transfer.began_s is None:
            transfer.began_s = transmission.sent_s
        transfer.sent[index] = transmission
        self._flight.append(transmission)
        self._next_number += 1

    def _add_sample(self, transmission: Transmission, now_s: float) -> None:
        """Updates timeout and window from the acknowledgement of what was sent once."""
        taken_s = now_s - transmission.sent_s
        self.timer.sample(taken_s)
        if taken_s <= _LONG_S:
            self.limit = min(self._max_window, self.limit + _LARGEST_FRAME)
        elif transmission.number >= self._halved_at:  # earlier ones do not show the last halving
            self.limit = min(self._max_window, max(_MIN_WINDOW, self.limit // 2))
            self._halved_at = self._next_number

    def _acknowledge(self, number: int, now_s: float) -> None:
        """The line has delivered or lost everything up to this transmission, and answered all that was to answer."""
        while self._flight and self._flight[0].number <= number:
            self._flight.popleft()
        self._waiting_since_s = now_s
        for transfer in self._transfers.values():
            if transfer is not self._newest and transfer.reply is None and transfer.last_number < number:
                transfer.superseded = True

    def _send_again(self, transfer: Transfer, indices: list[int]) -> None:
        """Puts lost fragments before those that were never sent; a chunk that a newer one replaces has failed."""
        is_given_up = transfer is not self._newest or (transfer.blocks_newer and not transfer.finishes)
        if indices and is_given_up:
            transfer.superseded = True
        transfer.due.extendleft(sorted(set(indices) - set(transfer.due), reverse=True))


def _is_older(chunk_id: int, other: int) -> bool:
    """Numbers of chunks wrap around at 2^32."""
    return (chunk_id - other) & 0xFFFFFFFF >= 1 << 31


def wire_size(fragment: Fragment) -> int:
    """Bytes of a fragment on the wire."""
    return len(fragment.pack()) + ENCODED_OVERHEAD


class ChunkSender:
    """The chunks of one link."""

    def __init__(self, send: Callable[[Fragment], None], baud: int) -> None:
        """Prepares sending.

        Args:
            send: Sends one fragment; raises `LinkError` while the link is down.
            baud: Bits per second of the line.
        """
        self._send = send
        self._window = TransferWindow(baud)
        self._changed = threading.Condition()

    def restart(self, receive_window: int) -> None:
        """Begins anew after a handshake, see `TransferWindow.restart`."""
        with self._changed:
            self._window.restart(receive_window)
            self._changed.notify_all()

    def on_reply(self, reply: ChunkReply) -> None:
        """Processes an answer of the firmware. Called in the link's reader thread."""
        with self._changed:
            self._window.on_reply(reply, time.monotonic())
            self._changed.notify_all()

    def yield_to_newer(self) -> None:
        """Gives a newer chunk priority over the one being sent, see `TransferWindow.yield_to_newer`."""
        with self._changed:
            self._window.yield_to_newer()
            self._changed.notify_all()

    def send_chunk(
        self,
        chunk_id: int,
        fragments: Sequence[Fragment],
        is_past_due: Callable[[Transfer], bool],
        head: Transfer | None = None,
    ) -> Transfer:
        """Sends a chunk until the firmware decides on it, a newer one supersedes it, or it is past due.

        While the link is down, this waits. Several threads may call it, each with a newer chunk. With `head`, it is the
        rest of the chunk whose head was accepted.
        """
        with self._changed:
            transfer = self._window.begin(chunk_id, fragments, time.monotonic(), head)
            self._changed.notify_all()
        try:
            while not transfer.ended and not is_past_due(transfer):
                self._advance(transfer)
        finally:
            with self._changed:
                self._window.end(transfer)
        return transfer

    def _advance(self, transfer: Transfer) -> None:
        """Sends one fragment, or waits for an answer."""
        with self._changed:
            now_s = time.monotonic()
            deadline_s = self._window.deadline_s()
            if deadline_s is not None and deadline_s <= now_s:
                self._window.give_up_waiting(now_s)
            fragment = self._window.next_fragment(transfer, now_s)
            if fragment is None and not transfer.ended:
                wait_s = _POLL_S if deadline_s is None else min(_POLL_S, max(0.0, deadline_s - now_s))
                self._changed.wait(wait_s)
        if fragment is None:
            return
        try:
            self._send(fragment)
        except LinkError as error:
            logger.debug("chunk waits for the link: %s", error)
            time.sleep(_LINK_DOWN_WAIT_S)

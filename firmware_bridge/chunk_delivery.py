"""Brings one chunk to the firmware: fragments, selective retransmission, and an end when it is past due.

The firmware answers with a bit for each fragment that it holds. Missing ones are sent again as soon as an answer
shows that the end of the last transmission arrived without them, or when no answer comes at all. Nothing of a
chunk takes effect before all of it has arrived and was checked.
"""

import logging
import time
from dataclasses import dataclass

from firmware_bridge.chunk_schedule import ScheduledChunk, steps_per_fragment, wire_ticks
from firmware_bridge.errors import LinkError
from firmware_bridge.link import FirmwareLink
from firmware_bridge.reply_box import Expected
from protos.serial_link import ChunkReply, ChunkResult, Fragment

_ANSWER_MARGIN_S = 0.1  # the firmware asks for what is missing by itself; this is for when its answer was lost
_LINK_DOWN_WAIT_S = 0.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """How the delivery of one chunk ended.

    Attributes:
        reply: the firmware's last word; None where the chunk was past due before it came.
        retransmissions: fragments that were sent more than once.
    """

    reply: ChunkReply | None
    retransmissions: int


def split(chunk_id: int, chunk: ScheduledChunk) -> list[Fragment]:
    """The fragments of a chunk, each of whole steps."""
    steps, joints = chunk.counts.shape
    per_fragment = steps_per_fragment(joints)
    starts = range(0, steps, per_fragment)
    return [
        _fragment(chunk_id, chunk, index, len(starts), slice(start, start + per_fragment))
        for index, start in enumerate(starts)
    ]


def _fragment(chunk_id: int, chunk: ScheduledChunk, index: int, count: int, rows: slice) -> Fragment:
    values = chunk.counts[rows]
    return Fragment(
        chunk_id=chunk_id,
        first_tick=chunk.first_tick,
        observed_tick=chunk.observed_tick & 0xFFFFFFFF,
        step_count=len(chunk.counts),
        fragment_index=index,
        fragment_count=count,
        first_step=rows.start,
        steps=len(values),
        joints=values.shape[1],
        values=tuple(values.ravel().tolist()),
    )


def deliver(link: FirmwareLink, chunk_id: int, chunk: ScheduledChunk) -> Delivery:
    """Sends a chunk until the firmware decides on it or its last action is past due.

    A link that goes down meanwhile is waited for.
    """
    fragments = split(chunk_id, chunk)
    received, sent = 0, 0
    with link.chunk_replies.expect(chunk_id) as replies:
        while link.clock.tick_at(time.monotonic_ns()) < chunk.last_tick:
            missing = [fragment for fragment in fragments if not received >> fragment.fragment_index & 1]
            if not _send(link, missing):
                continue
            sent += len(missing)
            reply, received = _await_reply(link, replies, missing, received)
            if reply is not None:
                return Delivery(reply, max(0, sent - len(fragments)))
    return Delivery(None, max(0, sent - len(fragments)))


def _send(link: FirmwareLink, fragments: list[Fragment]) -> bool:
    try:
        for fragment in fragments:
            link.send(fragment)
    except LinkError as error:
        logger.debug("chunk waits for the link: %s", error)
        time.sleep(_LINK_DOWN_WAIT_S)
        return False
    return True


def _await_reply(
    link: FirmwareLink, replies: Expected[ChunkReply], sent: list[Fragment], received: int
) -> tuple[ChunkReply | None, int]:
    """The firmware's decision, or None and the fragments that it holds once more have to be sent."""
    newest = 1 << sent[-1].fragment_index
    steps = sum(fragment.steps for fragment in sent)
    on_wire = wire_ticks(steps, sent[0].joints, link.baud, link.clock.tick_period_s) * link.clock.tick_period_s
    through = time.monotonic() + on_wire
    deadline = through + link.clock.round_trip_s + _ANSWER_MARGIN_S
    while (reply := replies.wait(deadline - time.monotonic())) is not None:
        if reply.result != ChunkResult.INCOMPLETE:
            return reply, received
        received |= reply.received
        if reply.received & newest or time.monotonic() > through:
            break
    return None, received

"""Brings one chunk to the firmware, as fragments through the link's window, and says how that ended.

Nothing of a chunk takes effect before all of it has arrived and was checked.
"""

import time
from dataclasses import dataclass

from firmware_bridge.chunk_schedule import ScheduledChunk, steps_per_fragment
from firmware_bridge.link import FirmwareLink
from protos.serial_link import ChunkReply, Fragment


@dataclass(frozen=True)
class Delivery:
    """How the delivery of one chunk ended.

    Attributes:
        reply: the firmware's last word; None where the chunk was past due or superseded before it came.
        retransmissions: fragments that were sent more than once.
        superseded: a newer chunk came before this one was through.
    """

    reply: ChunkReply | None
    retransmissions: int
    superseded: bool


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
    """Sends a chunk until the firmware decides on it, a newer one supersedes it, or its last action is past due.

    A link that goes down meanwhile is waited for. May be called by several threads, each with a newer chunk.
    """

    def is_past_due() -> bool:
        return link.clock.tick_at(time.monotonic_ns()) >= chunk.last_tick

    transfer = link.chunks.deliver(chunk_id, split(chunk_id, chunk), is_past_due)
    return Delivery(transfer.reply, transfer.retransmissions, transfer.superseded and transfer.reply is None)

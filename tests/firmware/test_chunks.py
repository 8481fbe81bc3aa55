"""A chunk enters the ring completely or not at all, for any loss, repetition and order of its fragments."""

from __future__ import annotations

import random
from typing import Any

import pytest
from firmware_library import HostFirmware, moved
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware_bridge.lockstep.host_firmware import only
from pi0_edge.protos.serial_link import ChunkReply, ChunkResult, Fragment, State, Telemetry, TickFlag

ROWS = [moved(20 * k) for k in range(50)]


def ready() -> HostFirmware:
    return HostFirmware().armed()


def test_an_incomplete_chunk_is_never_executed_and_what_is_missing_is_named() -> None:
    firmware = ready()
    fragments = firmware.fragments(firmware.tick_number + 5, ROWS)
    del fragments[3]
    replies = only(ChunkReply, firmware.send(*fragments))
    assert {reply.result for reply in replies} == {ChunkResult.INCOMPLETE}
    assert [reply.received for reply in replies] == [0b11, 0b10111, 0b1110111, 0b11110111]
    assert [firmware.tick().state for _ in range(20)] == [State.ARMED] * 20


def test_when_the_last_fragment_is_lost_the_firmware_reports_it_unasked() -> None:
    firmware = ready()
    messages: list[Any] = firmware.send(*firmware.fragments(firmware.tick_number + 30, ROWS)[:-1])
    for _ in range(6):
        firmware.tick_number += 1
        firmware.library.host_tick(firmware.tick_number)
        messages += firmware.poll()
    replies = only(ChunkReply, messages)
    assert {reply.result for reply in replies} == {ChunkResult.INCOMPLETE}
    assert [reply.received for reply in replies] == [0b11, 0b1111, 0b111111, 0b1111111]


def deliver(firmware: HostFirmware, fragments: list[Fragment], chooser: random.Random) -> list[ChunkReply]:
    """Sends with losses, repetitions and in any order; then sends those that the firmware reports missing."""
    replies: list[ChunkReply] = []
    missing = set(range(len(fragments)))
    while missing:
        batch = [fragments[index] for index in missing if chooser.random() < 0.7]
        batch += chooser.choices(fragments, k=chooser.randrange(3))
        chooser.shuffle(batch)
        replies += only(ChunkReply, firmware.send(*batch))
        if replies and replies[-1].result != ChunkResult.INCOMPLETE:
            return replies
        received = replies[-1].received if replies else 0
        missing = {index for index in range(len(fragments)) if not received >> index & 1}
    return replies


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), per_fragment=st.integers(2, 7))
def test_lost_repeated_and_reordered_fragments_make_the_same_chunk(seed: int, per_fragment: int) -> None:
    firmware = ready()
    first = firmware.tick_number + 5
    replies = deliver(firmware, firmware.fragments(first, ROWS, per_fragment), random.Random(seed))
    assert replies[-1].result == ChunkResult.ACCEPTED
    assert ChunkResult.ACCEPTED not in [reply.result for reply in replies if not is_whole(reply, per_fragment)]
    reports = [firmware.tick() for _ in range(54)][4:]
    assert [[round(value * 1e4) for value in report.executed] for report in reports] == ROWS


def is_whole(reply: ChunkReply, per_fragment: int) -> bool:
    return reply.received == (1 << -(-len(ROWS) // per_fragment)) - 1


def executed(firmware: HostFirmware, ticks: int) -> list[tuple[int, int]]:
    reports: list[Telemetry] = [firmware.tick() for _ in range(ticks)]
    return [(report.tick, report.chunk_id) for report in reports]


def test_a_newer_chunk_takes_over_at_the_guard() -> None:
    firmware = ready()
    for _ in range(10):
        firmware.tick()
    now = firmware.tick_number
    firmware.play(now + 2, ROWS)
    firmware.tick()
    assert firmware.play(now - 3, ROWS[:20]).result == ChunkResult.ACCEPTED
    owners = dict(executed(firmware, 25))
    assert owners[now + 2] == 1
    assert {owners[tick] for tick in range(now + 3, now + 17)} == {2}
    assert {owners[tick] for tick in range(now + 17, now + 22)} == {0}  # nothing of chunk 1 is left after its end


@pytest.mark.parametrize(
    ("first", "rows", "result"),
    [
        (-60, ROWS, ChunkResult.LATE),
        (-48, ROWS, ChunkResult.LATE),
        (-47, ROWS, ChunkResult.ACCEPTED),
        (78, ROWS, ChunkResult.ACCEPTED),
        (79, ROWS, ChunkResult.TOO_FAR_AHEAD),
        (5, [[*ROWS[0][:6], 20000, *ROWS[0][7:]]], ChunkResult.OUT_OF_RANGE),
        (5, [[0] * 13], ChunkResult.WRONG_SHAPE),
    ],
)
def test_every_chunk_gets_a_reply_with_its_result(first: int, rows: list[list[int]], result: ChunkResult) -> None:
    firmware = ready()
    for _ in range(60):
        firmware.tick()
    assert firmware.play(firmware.tick_number + first, rows).result == result


def test_an_older_chunk_is_reported_stale() -> None:
    firmware = ready()
    old = firmware.fragments(firmware.tick_number + 5, ROWS)
    assert firmware.play(firmware.tick_number + 5, ROWS).result == ChunkResult.ACCEPTED
    assert {reply.result for reply in only(ChunkReply, firmware.send(*old))} == {ChunkResult.STALE}


def test_a_value_slightly_outside_is_clamped_and_flagged() -> None:
    firmware = ready()
    gripper = [*ROWS[0][:6], -300, *ROWS[0][7:]]
    firmware.play(firmware.tick_number + 2, [gripper] * 30)
    reports = [firmware.tick() for _ in range(20)]
    assert reports[-1].executed[6] == 0.0
    assert reports[-1].flags & TickFlag.POSITION_LIMITED

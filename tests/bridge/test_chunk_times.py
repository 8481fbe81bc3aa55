"""What the bridge and the line took for a chunk, as its transfer knows it and as its report says it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.bridge.player import SentChunk, may_follow, report_of, tell_times
from firmware_bridge.bridge.schedule import ScheduledChunk, fragments
from firmware_bridge.link.transfer import Transfer, TransferWindow
from firmware_bridge.robot import load_joints
from pi0_edge.protos import bridge_pb2
from pi0_edge.protos.serial_link import ChunkReply, ChunkResult

JOINTS = 14


def begun(window: TransferWindow, now_s: float) -> Transfer:
    chunk = ScheduledChunk(first_tick=11, skipped=0, counts=np.zeros((50, JOINTS), np.int16))
    return window.begin(1, fragments(1, chunk), now_s)


def reply_to(transfer: Transfer, result: ChunkResult) -> ChunkReply:
    received = sum(1 << index for index in transfer.sent)
    return ChunkReply(chunk_id=transfer.chunk_id, result=result, received=received, tick=12, joint=0xFF)


def told(transfer: Transfer, arrived_s: float) -> bridge_pb2.ChunkReport:
    report = bridge_pb2.ChunkReport()
    tell_times(report, SentChunk(transfer), arrived_s)
    return report


def test_a_chunk_that_waits_for_the_line_has_no_times_yet() -> None:
    window = TransferWindow(921600)
    window.restart(4096)
    transfer = begun(window, 5.0)
    assert (transfer.began_s, transfer.decided_s) == (None, None)
    assert told(transfer, 4.0) == bridge_pb2.ChunkReport()


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.lists(st.floats(0.0, 0.01), min_size=1, max_size=30))
def test_the_times_of_a_chunk_are_those_of_its_first_byte_and_of_its_decision(
    planned_s: float, decision_s: float, pauses_s: list[float]
) -> None:
    window = TransferWindow(921600)
    window.restart(4096)
    arrived_s = 100.0
    transfer = begun(window, arrived_s)
    now_s = began_s = arrived_s + planned_s
    for pause_s in pauses_s:
        if window.next_fragment(transfer, now_s) is not None:
            window.on_reply(reply_to(transfer, ChunkResult.INCOMPLETE), now_s)
        now_s += pause_s
    window.on_reply(reply_to(transfer, ChunkResult.ACCEPTED), now_s + decision_s)
    window.on_reply(reply_to(transfer, ChunkResult.ACCEPTED), now_s + decision_s + 7.0)  # the same once more
    report = told(transfer, arrived_s)
    np.testing.assert_allclose(report.splice_ms, 1e3 * planned_s, atol=1e-6)
    np.testing.assert_allclose(report.serial_ms, 1e3 * (now_s + decision_s - began_s), atol=1e-6)
    np.testing.assert_allclose(
        report.decided_time_s, arrived_s + 1e-3 * (report.splice_ms + report.serial_ms), atol=1e-9
    )


def test_what_is_sent_again_changes_neither_its_begin_nor_what_came_before() -> None:
    window = TransferWindow(921600)
    window.restart(4096)
    transfer = begun(window, 1.0)
    assert window.next_fragment(transfer, 1.0) is not None
    window.give_up_waiting(1.2)
    assert window.next_fragment(transfer, 1.3) is not None
    assert transfer.retransmissions == 1 and transfer.began_s == 1.0


def test_a_chunk_that_was_lost_on_the_line_has_a_splice_time_alone() -> None:
    window = TransferWindow(921600)
    window.restart(4096)
    transfer = begun(window, 1.0)
    assert window.next_fragment(transfer, 1.0) is not None
    report = told(transfer, 0.5)
    assert (report.splice_ms, report.serial_ms, report.decided_time_s) == (500.0, 0.0, 0.0)


def pieces(head: ChunkResult | None, rest: ChunkResult | None) -> tuple[ScheduledChunk, SentChunk]:
    """A chunk of 50 setpoints whose head of five was answered at tick 12, and whose rest at tick 14."""
    chunk = ScheduledChunk(first_tick=14, skipped=3, counts=np.zeros((50, JOINTS), np.int16))
    transfers = []
    for number, result, tick in ((8, head, 12), (9, rest, 14)):
        transfer = Transfer(number, [])
        if result is not None:
            transfer.reply = ChunkReply(chunk_id=number, received=1, tick=tick, result=result, joint=0xFF)
            transfer.decided_s = 1.0 + 0.01 * tick
        transfer.began_s = 1.0
        transfers.append(transfer)
    return chunk, SentChunk(transfers[1], transfers[0], 5)


@pytest.mark.parametrize(
    ("head", "rest", "outcome", "first_tick", "head_tick", "decided_tick"),
    [
        (ChunkResult.ACCEPTED, ChunkResult.ACCEPTED, "ACCEPTED", 14, 12, 14),
        (ChunkResult.ACCEPTED, ChunkResult.OUT_OF_RANGE, "REJECTED", 14, 12, 14),
        (ChunkResult.ACCEPTED, ChunkResult.LATE, "LATE", 14, 12, 14),
        (ChunkResult.ACCEPTED, None, "LOST", 14, 12, 0),
        (ChunkResult.LATE, ChunkResult.ACCEPTED, "ACCEPTED", 19, 0, 14),
        (None, ChunkResult.ACCEPTED, "ACCEPTED", 19, 0, 14),
        (ChunkResult.LATE, ChunkResult.OUT_OF_RANGE, "REJECTED", 14, 0, 14),
        (None, None, "LOST", 14, 0, 0),
    ],
)
def test_a_report_says_what_the_arm_has_of_a_chunk(
    head: ChunkResult | None, rest: ChunkResult | None, outcome: str, first_tick: int, head_tick: int, decided_tick: int
) -> None:
    chunk, sent = pieces(head, rest)
    report = report_of(chunk, sent, load_joints("aloha"))
    assert bridge_pb2.ChunkReport.Outcome.Name(report.outcome) == outcome
    assert (report.chunk_id, report.sent_tick, report.head_steps) == (4, 14, 5)
    assert (report.first_tick, report.head_tick, report.decided_tick) == (first_tick, head_tick, decided_tick)
    assert report.skipped == 3 + first_tick - 14
    is_head_alone = head == ChunkResult.ACCEPTED and rest != ChunkResult.ACCEPTED
    assert ("its first 5 setpoints alone" in report.reason) == is_head_alone
    tell_times(report, sent, 0.9)
    assert report.splice_ms == pytest.approx(100.0)
    first = 0.12 if head_tick else 0.14
    if report.head_tick or decided_tick:
        assert report.serial_ms == pytest.approx(1e3 * first) and report.decided_time_s == pytest.approx(1.0 + first)
    if head_tick and decided_tick:
        assert report.rest_ms == pytest.approx(20.0)


def test_a_head_that_was_entered_late_by_a_tick_skips_one_action() -> None:
    chunk, sent = pieces(ChunkResult.ACCEPTED, ChunkResult.ACCEPTED)
    assert sent.head is not None and sent.head.reply is not None
    sent.head.reply = dataclasses.replace(sent.head.reply, tick=13)
    report = report_of(chunk, sent, load_joints("aloha"))
    assert (report.first_tick, report.skipped, report.head_tick) == (15, 4, 13)


def test_a_rest_is_sent_where_the_head_was_accepted_or_came_too_late() -> None:
    for result in ChunkResult:
        _, sent = pieces(result, None)
        assert sent.head is not None
        assert may_follow(sent.head) == (result in (ChunkResult.ACCEPTED, ChunkResult.LATE))
    unheard = Transfer(8, [])
    assert may_follow(unheard)
    unheard.superseded = True  # a newer chunk comes in its place
    assert not may_follow(unheard)


def test_a_report_of_an_older_bridge_reads_as_one_without_times() -> None:
    older = bridge_pb2.ChunkReport(chunk_id=3, first_tick=9, follows=2).SerializeToString()
    report = bridge_pb2.ChunkReport.FromString(older)
    assert (report.chunk_id, report.splice_ms, report.serial_ms, report.decided_time_s) == (3, 0.0, 0.0, 0.0)

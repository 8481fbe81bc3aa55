"""What the bridge and the line took for a chunk, as its transfer knows it and as its report says it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge.bridge.player import tell_times
from firmware_bridge.bridge.schedule import ScheduledChunk, fragments
from firmware_bridge.link.transfer import Transfer, TransferWindow
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
    tell_times(report, transfer, arrived_s)
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


def test_a_report_of_an_older_bridge_reads_as_one_without_times() -> None:
    older = bridge_pb2.ChunkReport(chunk_id=3, first_tick=9, follows=2).SerializeToString()
    report = bridge_pb2.ChunkReport.FromString(older)
    assert (report.chunk_id, report.splice_ms, report.serial_ms, report.decided_time_s) == (3, 0.0, 0.0, 0.0)

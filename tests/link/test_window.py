"""On any line, chunks arrive complete and once, and the send window never exceeds the firmware's receive window."""

from __future__ import annotations

import pytest
from firmware_library import HostFirmware, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_line import Faults, SimulatedLine

from firmware_bridge.link.transfer import LONGEST_S, SHORTEST_S, RoundTripTimer, Transfer, TransferWindow, wire_size
from pi0_edge.protos.serial_link import NO_JOINT, ChunkReply, ChunkResult, Fragment

ROWS = [moved(20 * k) for k in range(50)]
AHEAD = 60  # ticks: time enough for many retransmissions


def connected(baud: int = 921600, seed: int = 0, faults: Faults | None = None) -> SimulatedLine:
    return SimulatedLine(HostFirmware().armed(), baud, seed, faults)


def begin(line: SimulatedLine, ahead: int = AHEAD) -> Transfer:
    fragments = line.firmware.fragments(line.firmware.tick_number + ahead, ROWS)
    return line.window.begin(line.firmware.chunk_id, fragments, line.now_s)


def result(transfer: Transfer) -> ChunkResult:
    assert transfer.reply is not None
    return ChunkResult(transfer.reply.result)


@pytest.mark.parametrize("baud", [115200, 230400, 460800, 921600, 2_000_000])
def test_clean_line_carries_each_fragment_once_at_the_pace_of_the_line(baud: int):
    line = connected(baud)
    for _ in range(3):
        started = line.now_s
        transfer = begin(line)
        line.play(transfer)
        assert result(transfer) == ChunkResult.ACCEPTED and transfer.retransmissions == 0
        on_wire = sum(map(wire_size, transfer.fragments)) * 10 / baud
        assert line.now_s - started < 1.1 * on_wire + 5e-3  # the window keeps the line busy
        assert line.most_in_flight <= line.window.limit
        line.run(0.1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    baud=st.sampled_from([115200, 921600]),
    lost=st.floats(0, 0.1),
    doubled=st.floats(0, 0.2),
    damaged=st.floats(0, 0.1),
    overtaken=st.floats(0, 0.2),
)
def test_chunk_arrives_whole_over_any_line(
    seed: int, baud: int, lost: float, doubled: float, damaged: float, overtaken: float
):
    line = connected(baud, seed, Faults(lost, doubled, damaged, overtaken))
    transfer = begin(line, 70)
    line.play(transfer, 10.0)
    assert line.most_in_flight <= line.window.limit
    first_tick = transfer.fragments[0].first_tick
    if line.firmware.tick_number + 2 > first_tick:  # a very bad line took more than a second
        assert transfer.reply is not None
        return
    assert result(transfer) == ChunkResult.ACCEPTED
    reports = [line.firmware.tick() for _ in range(first_tick + len(ROWS) - line.firmware.tick_number - 1)]
    executed = [report.executed for report in reports if report.chunk_id]
    assert [[round(value * 1e4) for value in row] for row in executed] == ROWS


def test_one_lost_fragment_is_sent_again_alone_and_without_waiting_for_the_timer():
    line = connected()
    line.play(begin(line))
    transfer = begin(line)
    dropped = transfer.fragments[2]
    started, timer_s = line.now_s, line.window.timer.wait_s
    line._carry = lose_once(line, dropped)  # type: ignore[method-assign]
    line.play(transfer)
    assert result(transfer) == ChunkResult.ACCEPTED
    assert [fragment.fragment_index for fragment in line.sent[8:]].count(2) == 2
    assert transfer.retransmissions == 1
    assert line.now_s - started < sum(map(wire_size, transfer.fragments)) * 10 / 921600 + timer_s


def lose_once(line: SimulatedLine, dropped: Fragment):
    carry, lost = line._carry, []

    def lossy(direction: int, data: bytes, arrive) -> None:
        if direction == 0 and line.sent[-1] is dropped and not lost:
            lost.append(dropped)
            return
        carry(direction, data, arrive)

    return lossy


def test_timeout_grows_while_no_reply_arrives():
    line = connected(faults=Faults(lost=1.0))
    begin(line)
    line.run(3.0)
    rounds = len(line.sent) / 4  # half a chunk fits in the first window
    assert 3.0 / LONGEST_S / 2 <= rounds <= 3.0 / LONGEST_S + 2


def test_newer_chunk_does_not_wait_for_an_older_one():
    line = connected()
    line.play(begin(line))
    line.faults = Faults(lost=1.0)
    older = begin(line)
    line.run(0.2)
    line.faults = Faults()
    line.now_s += 0.05
    started = line.now_s
    newer = begin(line)
    line.play(newer)
    assert result(newer) == ChunkResult.ACCEPTED
    assert line.now_s - started < sum(map(wire_size, newer.fragments)) * 10 / 921600 + 5e-3
    assert older.ended


def test_older_chunk_that_was_not_sent_to_its_end_is_abandoned_at_once():
    line = connected(115200)
    older = begin(line)
    line._send_what_fits()
    assert older.due  # the window is full
    newer = begin(line)
    assert older.superseded and older.reply is None
    line.play(newer)
    assert result(newer) == ChunkResult.ACCEPTED
    assert {fragment.chunk_id for fragment in line.sent[4:]} == {newer.chunk_id}


def test_chunks_follow_each_other_without_a_pause():
    line = connected(2_000_000)
    older = begin(line)
    line.run(0.008)
    assert not older.due and older.reply is None
    newer = begin(line)
    line.run(0.1)
    assert result(older) == result(newer) == ChunkResult.ACCEPTED


def test_chunk_that_a_newer_one_waits_for_is_finished_on_a_good_line():
    line = connected(115200)
    older = begin(line)
    line.run(0.05)
    line.window.yield_to_newer()
    line.play(older)
    assert result(older) == ChunkResult.ACCEPTED


def test_chunk_that_a_newer_one_waits_for_is_abandoned_after_its_first_loss():
    line = connected()
    line.play(begin(line))
    older = begin(line)
    line.run(0.004)
    line.window.yield_to_newer()
    line.faults = Faults(lost=1.0)
    started = line.now_s
    line.play(older)
    assert older.superseded and older.retransmissions == 0
    assert line.now_s - started < 0.05


def test_rest_of_a_chunk_is_finished_although_a_newer_one_waits():
    """Its head is in the ring, and without the rest the arm would brake."""
    line = connected()
    line.play(begin(line))
    head = begin(line)
    line.play(head)
    assert result(head) == ChunkResult.ACCEPTED
    head.blocks_newer = True  # the newer one came while the head was sent
    fragments = line.firmware.fragments(line.firmware.tick_number + AHEAD, ROWS[:20])
    rest = line.window.begin(line.firmware.chunk_id, fragments, line.now_s, head)
    assert rest.blocks_newer
    line.faults = Faults(lost=1.0)
    line.run(0.001)
    line.window.yield_to_newer()
    line.run(0.1)
    assert not rest.ended
    line.faults = Faults()
    line.play(rest)
    assert result(rest) == ChunkResult.ACCEPTED and rest.retransmissions


def test_chunk_with_an_older_number_is_superseded_from_the_start():
    window = TransferWindow(921600)
    window.begin(1, [], 0.0)
    assert window.begin(0xFFFFFFFF, [], 0.0).superseded
    assert not window.begin(2, [], 0.0).superseded


def test_restarted_firmware_is_sent_everything_again():
    line = connected()
    transfer = begin(line)
    line.run(0.008)
    assert transfer.held
    line.firmware = HostFirmware().armed()
    line.now_s = line.firmware.tick_number * 0.02
    line._free_s, line._events = [0.0, 0.0], []
    line.window.restart(3584)
    line.play(transfer)
    assert result(transfer) == ChunkResult.ACCEPTED


def test_small_receive_window_is_respected():
    window = TransferWindow(921600)
    window.restart(600)
    fragments = HostFirmware().armed().fragments(50, ROWS)
    transfer = window.begin(1, fragments, 0.0)
    sent = [fragment for _ in fragments if (fragment := window.next_fragment(transfer, 0.0))]
    assert len(sent) == 2 and window.in_flight <= 600
    window.on_reply(ChunkReply(1, 0b11, 0, ChunkResult.INCOMPLETE, NO_JOINT), 0.01)
    assert window.next_fragment(transfer, 0.01) is fragments[2]


@given(st.lists(st.floats(1e-4, 2.0), min_size=1, max_size=50))
def test_timeout_exceeds_the_usual_round_trip_and_stays_in_its_bounds(samples: list[float]):
    timer = RoundTripTimer(0.1)
    for sample in samples:
        timer.sample(sample)
        assert max(SHORTEST_S, min(timer.smoothed_s, LONGEST_S)) <= timer.wait_s <= LONGEST_S
    before = timer.wait_s
    timer.on_timeout()
    assert timer.wait_s == pytest.approx(min(LONGEST_S, 2 * before))


def test_timeout_follows_rfc_6298():
    timer = RoundTripTimer(0.1)
    timer.sample(0.04)
    assert timer.wait_s == pytest.approx(0.04 + 4 * 0.02)
    timer.sample(0.08)
    assert timer.smoothed_s == pytest.approx(0.045)
    assert timer.wait_s == pytest.approx(0.045 + 4 * 0.025)

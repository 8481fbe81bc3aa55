"""A chunk whose head goes ahead of its rest, with the real firmware: what the arm executes, and where the rest fails.

The faults act between head and rest, on this machine's side of the pseudo-terminal; what the arm then does is read from
the bytes that the board sends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from motion_audit import ALOHA, assert_no_watchdog_reset, assert_within_limits, executed_ticks, fast_swing, wait_until

from firmware_bridge.bridge import player
from firmware_bridge.bridge.schedule import chunk_of
from firmware_bridge.bridge.server import BridgeServer
from firmware_bridge.client import BridgeClient, ChunkStream
from firmware_bridge.emulator.board import EmulatedBoard
from firmware_bridge.link import session as link_session
from firmware_bridge.link.framing import encode_frame
from firmware_bridge.link.session import LinkSession
from pi0_edge.protos.bridge_pb2 import ChunkReport
from pi0_edge.protos.serial_link import ChunkResult, Fault, Fragment, Message, State, Telemetry, TickFlag

pytestmark = [pytest.mark.real_time, pytest.mark.system]

EVERY_TICKS = 10
HORIZON = 50
GRIPPER = 6


@dataclass
class Playing:
    """An arm that swings, one chunk every ten ticks, and what is done to the next one."""

    board: EmulatedBoard
    client: BridgeClient
    stream: ChunkStream
    record: Path
    start: int

    def play(self) -> ChunkReport:
        """One chunk that continues the swing, and its report."""
        tick = self.client.status().tick
        self.stream.send(fast_swing(tick - self.start + np.arange(1, HORIZON + 1)), tick)
        report = self.stream.next_report(5.0)
        assert report is not None
        return report

    def swing(self, chunks: int) -> list[ChunkReport]:
        """So many chunks."""
        reports = []
        for _ in range(chunks):
            reports.append(self.play())
            time.sleep(EVERY_TICKS * 0.02)
        return reports

    def ticks(self) -> list[Telemetry]:
        return executed_ticks(self.record)

    def owners(self, since: int) -> list[int]:
        """The chunk behind every executed tick from one on."""
        return [chunk_of(tick.chunk_id) for tick in self.ticks() if tick.tick >= since and tick.chunk_id]

    def stops(self) -> Telemetry:
        """The first tick that is SAFE."""
        assert wait_until(lambda: any(tick.state == State.SAFE for tick in self.ticks()), 5.0)
        return next(tick for tick in self.ticks() if tick.state == State.SAFE)


@pytest.fixture
def playing(firmware_image: Path, tmp_path: Path) -> Iterator[Playing]:
    record = tmp_path / "record"
    with EmulatedBoard(firmware_image, record=record) as board:
        server = BridgeServer(board.port, "127.0.0.1:0", "aloha")
        server.start()
        try:
            with BridgeClient(server.address, "pytest") as client:
                client.wait_ready()
                client.arm(ALOHA.names)
                with client.play() as stream:
                    yield Playing(board, client, stream, record, client.status().tick)
        finally:
            server.stop()
        assert_within_limits(executed_ticks(record))
        assert_no_watchdog_reset(executed_ticks(record))


def of_rest(message: Message) -> bool:
    return isinstance(message, Fragment) and message.chunk_id % 2 == 1


def put_between(
    patch: pytest.MonkeyPatch, act: Callable[[LinkSession, Message, Callable[[LinkSession, Message], None]], None]
) -> None:
    """`act` is called in place of sending, for every message, until the patch is undone."""
    send = LinkSession.send
    patch.setattr(LinkSession, "send", lambda session, message: act(session, message, send))


def begun(playing: Playing) -> ChunkReport:
    """Plays until a chunk went in two pieces; that chunk's report."""
    for report in playing.swing(8):
        if report.outcome == ChunkReport.ACCEPTED and report.head_tick:
            return report
    pytest.fail("no chunk of eight was sent in two pieces and accepted")


def assert_only_head_was_executed(playing: Playing, report: ChunkReport) -> None:
    """Nothing of the plan before comes back, and nothing of the rest is executed; the arm comes to rest."""
    stop = playing.stops()
    owners = playing.owners(report.first_tick)
    assert owners == [report.chunk_id] * len(owners)
    assert len(owners) == report.sent_tick + report.head_steps - report.first_tick
    assert wait_until(lambda: playing.ticks()[-1].tick > stop.tick + 20)
    last = np.array([tick.executed for tick in playing.ticks()[-3:]])
    assert np.ptp(last, axis=0).max() == 0.0


def test_every_setpoint_is_executed_under_the_number_of_its_chunk(playing: Playing) -> None:
    reports = playing.swing(12)
    told = [report for report in reports if report.head_tick]
    assert not reports[0].head_steps  # an arm that stands gets all together
    assert len(told) >= 4, reports
    for report in told:
        assert report.outcome == ChunkReport.ACCEPTED and 2 <= report.head_steps < HORIZON
        assert report.serial_ms > 0 and report.rest_ms > 0 and report.decided_tick >= report.head_tick
    executed = {tick.tick: tick for tick in playing.ticks() if tick.flags & TickFlag.EXECUTED}
    assert not any(tick.state == State.STARVED for tick in executed.values())
    for report, after in pairwise(reports):
        span = range(report.first_tick, after.first_tick)
        assert {chunk_of(executed[tick].chunk_id) for tick in span if tick in executed} <= {report.chunk_id}
    settled = [tick for tick in sorted(executed) if tick > reports[3].first_tick]
    wanted = fast_swing(np.array(settled) - playing.start)
    np.testing.assert_allclose([executed[tick].executed for tick in settled], wanted, atol=0.51e-4)


def test_a_rest_that_is_lost_leaves_the_head_and_then_the_arm_brakes(playing: Playing) -> None:
    begun(playing)
    with pytest.MonkeyPatch.context() as patch:
        put_between(patch, lambda session, message, send: None if of_rest(message) else send(session, message))
        report = playing.play()
        assert_only_head_was_executed(playing, report)
    assert report.outcome == ChunkReport.LOST and report.head_tick
    assert "setpoints alone, and brakes after them: the firmware did not confirm it" in report.reason
    assert playing.stops().faults == Fault.STARVATION


def test_a_damaged_fragment_of_the_rest_is_sent_again(playing: Playing) -> None:
    begun(playing)
    damaged: list[int] = []

    def damage(session: LinkSession, message: Message, send: Callable[[LinkSession, Message], None]) -> None:
        if isinstance(message, Fragment) and of_rest(message) and message.fragment_index == 1 and not damaged:
            damaged.append(message.chunk_id)
            frame = bytearray(encode_frame(message.ID, session._next_seq, message.pack()))
            frame[30] ^= 0x10 if frame[30] != 0x10 else 0x20  # never a zero, which would end the frame
            session._stream.write(bytes(frame), 1.0)
            return
        send(session, message)

    with pytest.MonkeyPatch.context() as patch:
        put_between(patch, damage)
        reports = playing.swing(4)
    assert damaged
    (hit,) = [report for report in reports if report.chunk_id == chunk_of(damaged[0])]
    assert hit.outcome == ChunkReport.ACCEPTED and hit.retransmissions >= 1
    assert wait_until(lambda: playing.client.status().counters.crc_errors >= 1)
    assert set(playing.owners(hit.first_tick)[: hit.head_steps + 3]) == {hit.chunk_id}


def test_a_rest_beyond_the_limits_is_refused_and_the_head_is_executed_to_its_end(playing: Playing) -> None:
    begun(playing)
    make = player.fragments

    def beyond(number: int, chunk: player.ScheduledChunk) -> list[Fragment]:
        """The third fragment of a rest holds what the bridge never sends: it has checked the whole chunk."""
        made = make(number, chunk)
        if number % 2 and len(made) > 2:
            values = list(made[2].values)
            values[GRIPPER] = 30000
            made[2] = replace(made[2], values=tuple(values))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(player, "fragments", beyond)
        report = playing.play()
        while not report.head_tick:  # a rest that came alone is refused too, and leaves the plan before
            report = playing.play()
        assert_only_head_was_executed(playing, report)
    assert report.outcome == ChunkReport.REJECTED
    assert "left_gripper: a setpoint is beyond the position limits" in report.reason
    playing.client.clear()
    assert playing.client.status().state == State.DISARMED


def test_a_line_that_dies_between_head_and_rest_stops_the_arm(playing: Playing) -> None:
    begun(playing)
    cut: list[float] = []

    def cut_line(session: LinkSession, message: Message, send: Callable[[LinkSession, Message], None]) -> None:
        if of_rest(message) and not cut:
            cut.append(time.monotonic())
            playing.board.line.cut(3.0)
        send(session, message)

    with pytest.MonkeyPatch.context() as patch:
        put_between(patch, cut_line)
        tick = playing.client.status().tick
        playing.stream.send(fast_swing(tick - playing.start + np.arange(1, HORIZON + 1)), tick)
        assert wait_until(lambda: bool(cut))
        stop = playing.stops()
    assert stop.faults & (Fault.STARVATION | Fault.HEARTBEAT)
    last = chunk_of(max(tick.chunk_id for tick in playing.ticks()))
    owners = playing.owners(next(tick.tick for tick in playing.ticks() if chunk_of(tick.chunk_id) == last))
    assert set(owners) == {last} and len(owners) < 20  # its head alone


def test_a_lost_reply_about_the_head_loses_nothing(playing: Playing) -> None:
    """The firmware answers the repeated head again, and does not execute it twice."""
    begun(playing)
    receive = link_session.LinkSession.receive
    lost: list[int] = []

    def deaf(session: LinkSession, timeout_s: float) -> list[Message]:
        kept = []
        for message in receive(session, timeout_s):
            number = getattr(message, "chunk_id", 1)
            is_reply = getattr(message, "result", None) == ChunkResult.ACCEPTED and hasattr(message, "received")
            if is_reply and number % 2 == 0 and not lost:
                lost.append(number)
            else:
                kept.append(message)
        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinkSession, "receive", deaf)
        reports = playing.swing(3)
    assert lost
    (hit,) = [report for report in reports if report.chunk_id == chunk_of(lost[0])]
    assert hit.outcome == ChunkReport.ACCEPTED
    numbers = [tick.chunk_id for tick in playing.ticks() if tick.chunk_id]
    assert numbers == sorted(numbers)

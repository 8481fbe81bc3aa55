"""A chunk whose head goes ahead of its rest: the same motion as of the whole chunk, and never a mixture of old and new.

Both are whole chunks for the core: the head replaces all that follows its first setpoint, and without the rest it ends
as every chunk does.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from firmware_library import HostFirmware, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from firmware_bridge.lockstep.host_firmware import only
from pi0_edge.protos.serial_link import ChunkReply, ChunkResult, Fault, Fragment, State, Telemetry

OLD = [moved(40 * k) for k in range(60)]
STEPS, HEAD = 40, 5
OLD_ID, HEAD_ID, REST_ID = 1, 2, 3
GUARD = 2


def rows_of(seed: int) -> list[list[int]]:
    """A chunk that goes on from where the old one leads after its first ten ticks, rough as a policy's."""
    chooser = random.Random(seed)
    return [moved(40 * (10 + k) + chooser.randint(-15, 15)) for k in range(STEPS)]


class Arm:
    """An arm that has executed eight ticks of the old chunk, and everything that it does from then on."""

    def __init__(self) -> None:
        self.firmware = HostFirmware().armed()
        assert self.firmware.play(self.firmware.tick_number + GUARD, OLD).result == ChunkResult.ACCEPTED
        self.reports: list[Telemetry] = []
        self.motion: list[NDArray[np.float32]] = []
        self.heartbeat = True
        self.run(9)
        self.reports.clear()
        self.motion.clear()

    def run(self, ticks: int) -> None:
        """Runs so many ticks, step by step."""
        for _ in range(ticks):
            for step in range(1, self.firmware.servo_steps):
                self.firmware.servo(step)
                self.motion.append(self.firmware.motion_array())
            self.reports.append(self.firmware.tick(heartbeat=self.heartbeat))
            self.motion.append(self.firmware.motion_array())

    def pieces(self, rows: list[list[int]], head: int = HEAD) -> tuple[list[Fragment], list[Fragment]]:
        """Head and rest of a chunk that enters as early as it can."""
        first = self.firmware.tick_number + GUARD
        return self.firmware.fragments(first, rows[:head]), self.firmware.fragments(first + head, rows[head:])

    def send(self, fragments: list[Fragment]) -> ChunkResult:
        """Sends fragments; the last result."""
        return ChunkResult(only(ChunkReply, self.firmware.send(*fragments))[-1].result)

    def owners(self) -> list[int]:
        """The chunk behind each tick; 0 where there was none."""
        return [report.chunk_id for report in self.reports]

    def counts(self, owner: int) -> list[list[int]]:
        """The setpoints of a chunk that were reached, in counts."""
        return [
            [round(value * 1e4) for value in report.executed] for report in self.reports if report.chunk_id == owner
        ]


def with_head() -> tuple[Arm, list[Fragment]]:
    """An arm that has executed the head but for two setpoints, and the rest."""
    arm = Arm()
    head, rest = arm.pieces(rows_of(0))
    assert arm.send(head) == ChunkResult.ACCEPTED
    arm.run(HEAD - 2)
    return arm, rest


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), head=st.integers(2, 20), data=st.data())
def test_the_motion_is_that_of_the_whole_chunk_bit_for_bit(seed: int, head: int, data: st.DataObject) -> None:
    """Wherever the chunk is split, and whenever the rest comes before the interrupt of the head's last tick but one."""
    rows, after = rows_of(seed), data.draw(st.integers(0, head - 1))
    whole, split = Arm(), None
    assert whole.firmware.play(whole.firmware.tick_number + GUARD, rows).result == ChunkResult.ACCEPTED
    whole.run(STEPS + 10)
    whole_motion = np.array(whole.motion)
    split = Arm()
    first, rest = split.pieces(rows, head)
    assert split.send(first) == ChunkResult.ACCEPTED
    split.run(after)
    assert split.send(rest) == ChunkResult.ACCEPTED
    split.run(STEPS + 10 - after)
    np.testing.assert_array_equal(np.array(split.motion), whole_motion)
    assert [report.state for report in split.reports] == [report.state for report in whole.reports]


def test_a_rest_that_is_a_tick_later_than_that_changes_the_motion() -> None:
    """So the bound of the test above is the right one."""
    motions = []
    for after in (HEAD - 1, HEAD):
        arm = Arm()
        head, rest = arm.pieces([moved(40 * (10 + k) + 30 * (k % 2)) for k in range(STEPS)])
        arm.send(head)
        arm.run(after)
        arm.send(rest)
        arm.run(STEPS - after)
        motions.append(np.array(arm.motion))
    assert not np.array_equal(*motions)


def test_a_head_whose_rest_never_comes_ends_as_every_chunk() -> None:
    arm = Arm()
    head, _ = arm.pieces(rows_of(0))
    assert arm.send(head) == ChunkResult.ACCEPTED
    arm.run(40)
    assert arm.owners() == [OLD_ID, *[HEAD_ID] * HEAD, *[0] * (39 - HEAD)]  # nothing of the old plan comes back
    states = [report.state for report in arm.reports]
    assert states[: HEAD + 1] == [State.RUNNING] * (HEAD + 1)
    assert states[HEAD + 1] == State.STARVED and states[-1] == State.SAFE
    assert arm.reports[-1].faults == Fault.STARVATION
    assert not arm.firmware.motion_array()[:, 1].any()


def test_a_damaged_fragment_of_the_rest_leaves_the_head_alone_until_it_is_sent_again() -> None:
    arm = Arm()
    rows = rows_of(1)
    head, rest = arm.pieces(rows)
    arm.send(head)
    for index, fragment in enumerate(rest):
        frame = bytearray(arm.firmware.frame(fragment))
        frame[10] ^= 0x40 if index == 1 else 0
        arm.firmware.receive(bytes(frame))
    replies = only(ChunkReply, arm.firmware.poll())
    assert replies[-1].result == ChunkResult.INCOMPLETE and not replies[-1].received & 0b10
    arm.run(2)
    assert arm.reports[-1].ring_level == HEAD - 1  # of the rest nothing
    assert arm.send([rest[1]]) == ChunkResult.ACCEPTED
    arm.run(STEPS)
    assert arm.owners()[: STEPS + 1] == [OLD_ID, *[HEAD_ID] * HEAD, *[REST_ID] * (STEPS - HEAD)]


def test_a_rest_beyond_the_limits_is_refused_and_the_head_ends_as_every_chunk() -> None:
    arm = Arm()
    rows = rows_of(2)
    rows[HEAD + 17] = [*rows[0][:6], 20000, *rows[0][7:]]  # in the third fragment of the rest
    head, rest = arm.pieces(rows)
    assert rest[2].first_step <= 17 < rest[2].first_step + rest[2].steps
    assert arm.send(head) == ChunkResult.ACCEPTED
    (*_, reply) = only(ChunkReply, arm.firmware.send(*rest))
    assert (reply.result, reply.joint) == (ChunkResult.OUT_OF_RANGE, 6)
    arm.run(HEAD + 3)
    assert arm.owners() == [OLD_ID, *[HEAD_ID] * HEAD, 0, 0]
    first = arm.firmware.tick_number + GUARD
    here = [round(value * 1e4) for value in arm.reports[-1].executed]
    assert arm.firmware.play(first, [here] * 20).result == ChunkResult.ACCEPTED  # the next chunk is taken as ever
    arm.run(4)
    assert arm.reports[-1].state == State.RUNNING


def test_a_head_that_is_refused_leaves_the_old_plan_as_it_was() -> None:
    arm = Arm()
    rows = rows_of(3)
    rows[2] = [*rows[0][:6], 20000, *rows[0][7:]]
    head, _ = arm.pieces(rows)
    assert arm.send(head) == ChunkResult.OUT_OF_RANGE
    arm.run(30)
    assert arm.owners() == [OLD_ID] * 30


def test_a_rest_without_its_head_enters_where_it_begins() -> None:
    arm = Arm()
    rows = rows_of(4)
    _, rest = arm.pieces(rows)
    assert arm.send(rest) == ChunkResult.ACCEPTED
    arm.run(STEPS + 1)
    assert arm.owners() == [OLD_ID] * (HEAD + 1) + [REST_ID] * (STEPS - HEAD)
    assert arm.counts(REST_ID)[-1] == rows[-1]


def test_a_rest_that_comes_after_the_end_of_the_head_starts_the_arm_again() -> None:
    arm, rest = with_head()
    arm.run(5)
    assert arm.reports[-1].state == State.STARVED
    assert arm.send(rest) == ChunkResult.ACCEPTED
    arm.run(STEPS)
    owners = arm.owners()
    assert owners[: HEAD + 1] == [OLD_ID] + [HEAD_ID] * HEAD
    gap = owners[HEAD + 1 :].index(REST_ID)
    assert set(owners[HEAD + 1 : HEAD + 1 + gap]) == {0} and 2 <= gap <= 5
    assert arm.counts(REST_ID)[-1] == rows_of(0)[-1]


def test_an_old_head_cannot_come_after_its_rest() -> None:
    arm = Arm()
    head, rest = arm.pieces(rows_of(5))
    assert arm.send(rest) == ChunkResult.ACCEPTED
    assert arm.send(head) == ChunkResult.STALE
    arm.run(STEPS)
    assert HEAD_ID not in arm.owners()


def test_a_link_that_dies_between_head_and_rest_ends_as_starvation_or_for_want_of_a_heartbeat() -> None:
    arm, _ = with_head()
    arm.heartbeat = False
    arm.run(60)
    assert arm.reports[-1].state == State.SAFE
    assert arm.reports[-1].faults in (Fault.STARVATION, Fault.HEARTBEAT, Fault.STARVATION | Fault.HEARTBEAT)
    assert set(arm.owners()[-50:]) == {0}
    assert not arm.firmware.motion_array()[:, 1].any()


@pytest.mark.parametrize("stop", ["disarm", "estop"])
def test_a_rest_is_refused_where_the_arm_was_stopped_after_the_head(stop: str) -> None:
    arm = Arm()
    head, rest = arm.pieces(rows_of(6))
    arm.send(head)
    arm.run(2)
    arm.firmware.command({"disarm": 2, "estop": 4}[stop])
    assert arm.send(rest) == ChunkResult.NOT_ARMED
    arm.run(30)
    assert set(arm.owners()[2:]) == {0}


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_no_loss_order_or_delay_of_fragments_mixes_chunks(seed: int) -> None:
    """Heads and rests over a line that loses, repeats and reorders: once a chunk has a tick, no older one has."""
    chooser, arm = random.Random(seed), Arm()
    spans = {OLD_ID: range(arm.firmware.tick_number + len(OLD))}
    waiting: list[Any] = []
    for number in range(5):
        rows, head = rows_of(seed + number), chooser.randint(1, 12)
        pieces = arm.pieces(rows, head)
        for piece in pieces:
            spans |= {piece[0].chunk_id: range(piece[0].first_tick, piece[0].first_tick + piece[0].step_count)}
        waiting += [fragment for piece in pieces for fragment in piece]
        for _ in range(chooser.randint(1, 6)):
            chooser.shuffle(waiting)
            batch = [fragment for fragment in waiting if chooser.random() < 0.6]
            waiting = [fragment for fragment in waiting if fragment not in batch or chooser.random() < 0.1]
            arm.firmware.send(*batch)
            arm.run(1)
    arm.run(STEPS + 40)
    executed = [report for report in arm.reports if report.chunk_id]
    numbers = [report.chunk_id for report in executed]
    assert numbers == sorted(numbers)
    assert all(report.tick in spans[report.chunk_id] for report in executed)
    assert arm.reports[-1].ring_level == 0 and arm.reports[-1].state == State.SAFE

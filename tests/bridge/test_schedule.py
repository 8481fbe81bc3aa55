"""Chunks are spliced by time, checked against the joints and quantised within their limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from firmware_bridge.bridge.schedule import (
    RESERVE_S,
    ScheduledChunk,
    check_actions,
    chunk_of,
    fragment_count,
    fragments,
    head_steps,
    link_number,
    schedule,
    wire_ticks,
)
from firmware_bridge.errors import ChunkError
from firmware_bridge.robot import load_joints
from pi0_edge.errors import ConfigError
from pi0_edge.protos.serial_link import MAX_FRAME, MAX_HORIZON, RING_DEPTH, Fragment

ALOHA = load_joints("aloha")
unit_actions = st.integers(1, MAX_HORIZON).flatmap(
    lambda horizon: hnp.arrays(np.float64, (horizon, ALOHA.count), elements=st.floats(0, 1))
)


def within_limits(unit: np.ndarray) -> np.ndarray:
    return ALOHA.lower + unit * (ALOHA.upper - ALOHA.lower)


@given(unit_actions, st.integers(0, 2**31), st.integers(-RING_DEPTH, RING_DEPTH))
def test_every_action_keeps_its_due_tick(unit: np.ndarray, observed: int, lead: int):
    actions, earliest = within_limits(unit), max(0, observed + lead)
    chunk = schedule(actions, observed, earliest, ALOHA)
    due = observed + 1 + np.arange(len(actions))
    left = due[due >= earliest]
    if chunk is None:
        assert len(left) == 0
        return
    assert chunk.first_tick == left[0]
    assert chunk.last_tick == left[-1]
    assert chunk.skipped == len(actions) - len(left)
    np.testing.assert_allclose(chunk.counts * ALOHA.resolution, actions[chunk.skipped :], atol=1.001e-4)


@given(unit_actions)
def test_counts_never_leave_the_limits(unit: np.ndarray):
    overshoot = within_limits(unit * 1.1 - 0.05)
    positions = ALOHA.to_counts(check_actions(overshoot, ALOHA)) * ALOHA.resolution
    assert np.all(positions >= ALOHA.lower)
    assert np.all(positions <= ALOHA.upper)


@given(unit_actions)
def test_fragments_hold_every_step_once_and_fit_a_frame(unit: np.ndarray):
    chunk = schedule(within_limits(unit), 10, 0, ALOHA)
    assert chunk is not None
    parts = fragments(3, chunk)
    values = [value for fragment in parts for value in fragment.values]
    assert values == chunk.counts.ravel().tolist()
    assert all(len(fragment.pack()) + 7 <= MAX_FRAME for fragment in parts)
    assert [fragment.fragment_index for fragment in parts] == list(range(parts[0].fragment_count))
    assert Fragment.unpack(parts[-1].pack()) == parts[-1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 4.0])
def test_an_invalid_value_is_named(value: float):
    actions = np.tile(ALOHA.home, (50, 1))
    actions[7, 2] = value
    with pytest.raises(ChunkError, match=r"actions\[7, 2\] \(left_elbow\)") as refusal:
        check_actions(actions, ALOHA)
    assert not refusal.value.malformed


@pytest.mark.parametrize("shape", [(50, 13), (0, 14), (MAX_HORIZON + 1, 14), (700,)])
def test_a_wrong_shape_is_malformed(shape: tuple[int, ...]):
    with pytest.raises(ChunkError) as refusal:
        check_actions(np.zeros(shape), ALOHA)
    assert refusal.value.malformed


def test_an_observation_from_the_future_is_refused():
    with pytest.raises(ChunkError, match="only at tick 100"):
        schedule(np.tile(ALOHA.home, (50, 1)), 2**32 - 1, 100, ALOHA)


@given(
    steps=st.integers(1, MAX_HORIZON),
    joints=st.integers(1, 32),
    rest_s=st.floats(0.0, 1.0),
    tick_s=st.sampled_from([0.005, 0.02, 0.1]),
)
def test_a_head_lasts_until_its_rest_is_there(steps: int, joints: int, rest_s: float, tick_s: float):
    head = head_steps(steps, joints, rest_s, tick_s)
    assert 0 <= head < steps
    if head:
        assert (head - 1) * tick_s >= rest_s + RESERVE_S - 1e-9
        assert fragment_count(head, joints) < fragment_count(steps, joints)  # it saves something


def test_the_head_of_an_aloha_is_one_fragment_and_that_of_a_slow_line_is_longer():
    def head(joints: int, baud: int) -> int:
        return head_steps(50, joints, wire_ticks(50, joints, baud, 0.02) * 0.02, 0.02)

    assert head(14, 921600) == 5 and fragment_count(5, 14) == 1
    assert head(14, 115200) == 12 and head(32, 921600) == 6
    assert head(32, 115200) == 20 and head(7, 2_000_000) == 5


@given(unit_actions, st.data())
def test_head_and_rest_are_the_chunk(unit: np.ndarray, data: st.DataObject):
    chunk = ScheduledChunk(100, 3, ALOHA.to_counts(within_limits(unit)))
    if len(chunk.counts) < 2:
        return
    head, rest = chunk.split(data.draw(st.integers(1, len(chunk.counts) - 1)))
    assert (head.first_tick, rest.last_tick) == (chunk.first_tick, chunk.last_tick)
    assert rest.first_tick == head.last_tick + 1
    assert head.observed_tick == rest.observed_tick == chunk.observed_tick
    np.testing.assert_array_equal(np.concatenate([head.counts, rest.counts]), chunk.counts)


@given(st.integers(1, 2**31 - 1))
def test_numbers_on_the_link_grow_and_name_their_chunk(chunk_id: int):
    head, rest = link_number(chunk_id, is_head=True), link_number(chunk_id)
    assert 0 < head < rest and rest - head == 1
    assert chunk_of(head) == chunk_of(rest) == chunk_id
    assert (link_number(chunk_id + 1, is_head=True) - rest) % 2**32 == 1
    assert chunk_of(0) == 0


def test_time_on_the_wire_is_that_of_the_frames():
    # 50 x 14 int16 in 8 fragments of 25 + 2 bytes more, ten bits a byte
    assert wire_ticks(50, 14, 921600, 0.02) == pytest.approx((1400 + 8 * 27) * 10 / 921600 / 0.02)


def test_chunks_of_thirty_two_joints_use_a_small_part_of_the_line():
    assert wire_ticks(50, 32, 921600, 0.02) * 0.02 < 0.04  # for one second of motion


def test_unknown_robot_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'kuka'.*aloha"):
        load_joints("kuka")

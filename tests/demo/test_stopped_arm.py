"""An arm that the firmware stops in an episode, while a chunk is on its way: the episode ends, and the run goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from firmware_bridge.client import ChunkStream
from firmware_bridge.errors import StateError
from firmware_bridge.replanning import ChunkScheduler
from pi0_edge.demo.policy_worker import PolicyWorker
from pi0_edge.demo.simulated_robot import STOP_TICKS, RecordedTicks, SimulatedRobot


class Follower:
    """Hears of the stop after so many more ticks."""

    record = None

    def __init__(self, stop_after: int) -> None:
        self.left = stop_after

    @property
    def moving(self) -> bool:
        return self.left > 0

    def advance(self) -> None:
        self.left -= 1


def ended_stream() -> None:
    raise StateError("no client holds the arm: at tick 407 the arm became SAFE (STARVATION)")


def robot(stop_after: int) -> SimulatedRobot:
    follower = cast(RecordedTicks, Follower(stop_after))
    nothing = SimpleNamespace()
    return SimulatedRobot(
        cast(ChunkStream, nothing), cast(PolicyWorker, nothing), follower, cast(ChunkScheduler, nothing)
    )


@pytest.mark.parametrize("stop_after", [0, 1, STOP_TICKS - 1])
def test_the_end_of_the_stream_is_no_error_where_the_arm_stopped(stop_after: int):
    assert robot(stop_after)._finished(ended_stream) is None


def test_the_end_of_the_stream_is_one_where_the_arm_moves_on():
    with pytest.raises(StateError, match="no client holds the arm"):
        robot(10 * STOP_TICKS)._finished(ended_stream)

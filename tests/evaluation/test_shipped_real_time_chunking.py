"""What docs/real-time-chunking.md says of the shipped policy, on a few episodes of its table."""

from __future__ import annotations

import pytest
import torch

from pi0_edge.errors import MissingDependencyError

try:
    from benchmarks.chunk_splicing import FIRST_SEED, Cell, Episode, Player
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)
from pi0_edge.policy import Policy
from pi0_edge.shipped import shipped_checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def player() -> Player:
    return Player(Policy.load(shipped_checkpoint(), "reference"))


def play(player: Player, splice: str, delay_ms: int, episodes: int) -> Cell:
    seeds = range(FIRST_SEED, FIRST_SEED + episodes)
    return Cell.of([Episode.of(player, splice, delay_ms, player.play(splice, delay_ms, seed)) for seed in seeds])


def test_chunks_that_continue_the_plan_do_not_jerk_at_their_borders(player):
    swapped = play(player, "hold-swap", 200, episodes=1)
    for splice, most in (("rtc", 1.3), ("trained-rtc", 2.5)):
        continued = play(player, splice, 200, episodes=1)
        assert continued.success_rate == 1 and continued.starved == 0
        assert continued.border_jerk_rms < most * continued.inner_jerk_rms
        assert continued.border_jerk_rms < 0.5 * swapped.border_jerk_rms


@pytest.mark.slow
def test_200_ms_of_delay_cost_real_time_chunking_no_success(player):
    late, prompt = (play(player, "rtc", delay_ms, episodes=30) for delay_ms in (200, 0))
    assert late.success_rate >= prompt.success_rate - 0.05
    assert play(player, "first-action", 300, episodes=10).success_rate < 0.5

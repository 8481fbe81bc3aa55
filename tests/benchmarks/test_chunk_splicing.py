"""The comparison of splice policies: an episode belongs to the checkpoint that played it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pi0_edge.errors import ConfigError, MissingDependencyError

try:
    from benchmarks.chunk_splicing import FIRST_SEED, measure
    from pi0_edge.evaluation.delayed_rollout import DelayedRollout
    from pi0_edge.sim.tasks import TRANSFER_CUBE
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)


class StillPlayer:
    """Plays episodes in which nothing moves, and counts them."""

    def __init__(self, sha256: str) -> None:
        self.policy = SimpleNamespace(checkpoint_sha256=sha256)
        self.task = TRANSFER_CUBE
        self.played: list[int] = []

    def play(self, _splice: str, delay_ms: int, seed: int) -> DelayedRollout:
        """One episode of 60 ticks."""
        self.played.append(seed)
        still = np.zeros((61, 14))
        return DelayedRollout(seed, [*range(14)], (), self.policy.checkpoint_sha256 == "aa", still, [1], 0, [delay_ms])


def test_another_checkpoint_plays_its_own_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DelayedRollout, "path_error", lambda _: 0.0)
    output, rates = tmp_path / "episodes.jsonl", []
    players: list[Any] = [StillPlayer("aa"), StillPlayer("bb"), StillPlayer("aa")]
    for player in players:
        rates += [cell.success_rate for cell in measure(player, ["rtc"], [200], 2, output)]
    assert rates == [1, 0, 1]
    assert [player.played for player in players] == [[FIRST_SEED, FIRST_SEED + 1]] * 2 + [[]]
    old = [json.loads(line) for line in output.read_text().splitlines()]
    without = [{name: value for name, value in line.items() if name not in ("task", "checkpoint")} for line in old]
    output.write_text("".join(json.dumps(line) + "\n" for line in without))
    with pytest.raises(ConfigError, match="written by another version of this benchmark"):
        measure(players[0], ["rtc"], [200], 2, output)

"""The policy and the ordinary run that most tests of recordings read."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import ordinary, recorded_run, write_calm_policy

from pi0_edge.policy import Policy


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calm_policy(tmp_path_factory.mktemp("policy") / "calm")


@pytest.fixture(scope="session")
def policy(checkpoint: Path) -> Policy:
    return Policy.load(checkpoint, engine="reference")


@pytest.fixture(scope="session")
def run_file(policy: Policy, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary run: read it only."""
    path = tmp_path_factory.mktemp("run") / "run.mcap"
    return recorded_run(path, policy, ordinary, policy_source=str(checkpoint))

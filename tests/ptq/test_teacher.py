"""A policy beside its teacher, on networks with random weights: other noise for each side, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy_builders import observation, write_checkpoint

from pi0_edge.errors import ConfigError
from pi0_edge.policy import Policy
from pi0_edge.ptq.teacher import Teacher
from pi0_edge.ptq.verdict import TeacherThresholds, judge_distribution

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("teacher") / "checkpoint")


def test_a_policy_beside_itself_passes_though_no_two_chunks_are_of_the_same_noise(checkpoint):
    teacher, seen = Teacher(checkpoint, observations=1), [observation(1)]
    policy = teacher.load()
    taught = teacher.chunks(policy, seen)
    chunks = taught.normalized.reshape(len(taught.normalized[0]), -1)
    assert len(np.unique(chunks.round(9), axis=0)) == 2 * teacher.draws == 128
    report = teacher.compare(taught, policy, seen, executed=5)
    assert [f.name for f in judge_distribution(report, TeacherThresholds()) if not f.passed] == []
    assert report.candidate.energy > 0 and report.candidate != report.itself


def test_the_observations_are_spread_over_all_that_were_held_out(checkpoint):
    held_out = [observation(seed) for seed in range(9)]
    assert Teacher(checkpoint, observations=3).chosen(held_out) == [held_out[0], held_out[4], held_out[8]]
    assert Teacher(checkpoint, observations=50).chosen(held_out) == held_out


def test_a_network_that_gives_nan_misses_every_figure(checkpoint):
    teacher, seen = Teacher(checkpoint, observations=1, draws=2), [observation(1)]
    taught = teacher.chunks(teacher.load(), seen)
    broken = Policy.load(checkpoint, "reference")
    with torch.no_grad():
        getattr(broken.engine, "model").action_out_proj.weight.fill_(float("nan"))  # noqa: B009
    report = teacher.compare(taught, broken, seen, executed=5)
    missed = {f.name for f in judge_distribution(report, TeacherThresholds(draws=1)) if not f.passed}
    assert {"energy distance to the teacher", "stray from the teacher's chunks, in spreads"} < missed
    with pytest.raises(ConfigError, match="the teacher gives no chunk"):
        teacher.chunks(broken, seen)


@pytest.mark.parametrize(("observations", "draws", "named"), [(0, 64, "observations"), (16, 0, "draws")])
def test_a_comparison_of_nothing_is_refused(checkpoint, observations, draws, named):
    with pytest.raises(ConfigError, match=f"{named} of the teacher is 0"):
        Teacher(checkpoint, observations, draws)

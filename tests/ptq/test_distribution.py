"""Chunks of a policy beside those of its teacher: figures of distributions that are known, and what must fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pi0_edge.errors import ConfigError
from pi0_edge.processing import load_robot
from pi0_edge.ptq.distribution import (
    DistributionReport,
    Gripper,
    compare_distributions,
    grippers_of,
    two_modes,
)
from pi0_edge.ptq.verdict import TeacherThresholds, judge_distribution

OBSERVATIONS, DRAWS, ACTIONS, JOINTS = 4, 64, 5, 3
LIMITS = TeacherThresholds()


def two_ways(rng: np.random.Generator, draws: int, upper: float = 0.5, width: float = 0.1) -> NDArray[np.float64]:
    """Chunks on either side of 0, each with a small difference of its own: [observations, draws, actions, joints]."""
    side = np.where(rng.random((OBSERVATIONS, draws, 1, 1)) < upper, 1.0, -1.0)
    return side + width * rng.standard_normal((OBSERVATIONS, draws, 1, JOINTS)) + np.zeros((1, 1, ACTIONS, 1))


def one_way(rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    return rng.standard_normal((OBSERVATIONS, draws, 1, JOINTS)) + np.zeros((1, 1, ACTIONS, 1))


def beside(teacher: NDArray[np.float64], candidate: NDArray[np.float64]) -> DistributionReport:
    return compare_distributions(teacher, candidate, teacher, candidate)


def missed(report: DistributionReport) -> set[str]:
    return {finding.name for finding in judge_distribution(report, LIMITS) if not finding.passed}


@pytest.mark.parametrize("draw", [one_way, two_ways])
@pytest.mark.parametrize("seed", range(5))
def test_other_draws_of_the_same_distribution_pass(draw, seed):
    rng = np.random.default_rng(seed)
    report = beside(draw(rng, 2 * DRAWS), draw(rng, DRAWS))
    assert missed(report) == set()
    assert report.two_modes == (OBSERVATIONS if draw is two_ways else 0)
    assert report.candidate.energy == pytest.approx(report.itself.energy, abs=0.03)


def test_the_same_draws_are_no_distance_apart():
    teacher = one_way(np.random.default_rng(0), 2 * DRAWS)
    found = beside(teacher, teacher[:, :DRAWS]).candidate
    assert (found.energy, found.shift) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))
    assert found.spread == pytest.approx(1)
    assert found.stray < 0  # nearer than other draws would be


def test_the_mean_of_two_ways_fails_where_an_error_of_the_mean_would_pass():
    """What a single Euler step does that was not distilled: every chunk between the ways."""
    rng = np.random.default_rng(1)
    report = beside(two_ways(rng, 2 * DRAWS), 0.1 * one_way(rng, DRAWS))
    assert report.candidate.shift < LIMITS.shift
    assert {"energy distance to the teacher", "stray from the teacher's chunks, in spreads"} < missed(report)
    assert report.candidate.spread < 0.2


def test_one_way_of_two_fails_by_its_share():
    rng = np.random.default_rng(2)
    report = beside(two_ways(rng, 2 * DRAWS), two_ways(rng, DRAWS, upper=1.0))
    assert report.candidate.mode_share == pytest.approx(0.5, abs=0.1)
    assert report.candidate.stray < LIMITS.stray  # each single chunk is one that the teacher would give
    assert "share of a mode, difference" in missed(report)


def test_one_chunk_in_ten_between_the_ways_fails_where_the_means_of_all_chunks_pass():
    """As a student that has not learned where its teacher's two ways part."""
    rng = np.random.default_rng(6)
    candidate = two_ways(rng, DRAWS)
    candidate[:, : DRAWS // 10] -= np.sign(candidate[:, : DRAWS // 10].mean((2, 3), keepdims=True))
    report = beside(two_ways(rng, 2 * DRAWS), candidate)
    assert report.candidate.between == pytest.approx((DRAWS // 10) / DRAWS, abs=0.02)
    assert missed(report) == {"chunks between two modes, difference"}


def test_the_energy_coefficient_is_that_of_the_definition():
    """By hand: one teacher's chunk at 0 and one at 2, the candidate's both at 1."""
    teacher = np.array([0.0, 2.0, 0.0, 2.0]).reshape(1, 4, 1, 1)
    found = beside(teacher, np.ones((1, 2, 1, 1))).candidate
    assert found.energy == pytest.approx((2 * 1 - 1 - 0) / 2)  # E|X-Y| = 1, E|X-X'| = 1 over all four pairs
    assert (found.shift, found.spread) == (0, 0)


def test_figures_do_not_change_with_the_unit_of_the_actions():
    rng = np.random.default_rng(3)
    teacher, candidate = two_ways(rng, 2 * DRAWS), two_ways(rng, DRAWS, upper=0.7)
    small, large = beside(teacher, candidate).candidate, beside(1e3 * teacher + 5, 1e3 * candidate + 5).candidate
    for name in ("energy", "shift", "spread", "stray", "mode_share", "between"):
        assert getattr(small, name) == pytest.approx(getattr(large, name), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dims", [1, 3, 350])
def test_draws_of_one_mode_are_not_parted_into_two(dims):
    rng = np.random.default_rng(4)
    for _ in range(20):
        assert two_modes(rng.standard_normal((DRAWS, dims)), rng.standard_normal((DRAWS, dims))) is None
        assert two_modes(rng.random((DRAWS, dims)), rng.random((DRAWS, dims))) is None
    assert two_modes(np.zeros((DRAWS, dims)), np.zeros((DRAWS, dims))) is None


def test_too_few_draws_and_numbers_that_are_none_fail():
    rng = np.random.default_rng(5)
    few = beside(one_way(rng, 16), one_way(rng, 8))
    assert "draws per observation" in missed(few)
    broken = one_way(rng, DRAWS)
    broken[0, 0] = np.nan
    assert "energy distance to the teacher" in missed(beside(one_way(rng, 2 * DRAWS), broken))
    with pytest.raises(ConfigError, match="teacher"):
        beside(np.full((1, 4, 1, 1), np.nan), np.ones((1, 2, 1, 1)))
    with pytest.raises(ConfigError, match="twice as many"):
        beside(np.ones((1, 2, 1, 1)), np.ones((1, 2, 1, 1)))


def test_flips_are_counted_over_the_middle_half_and_trembling_is_none():
    gripper = Gripper(joint=0, low=0.25, high=0.75)
    ways = {
        0: [0.0, 0.3, 0.6, 0.4, 0.7, 0.2],
        1: [0.0, 0.5, 1.0, 0.6, 0.8, 0.3],
        2: [1.0, 0.1, 0.5, 0.9, 0.5, 0.5],
    }
    for flips, values in ways.items():
        candidate = np.array(values).reshape(1, 1, -1, 1)
        teacher = np.zeros((1, 2, candidate.shape[2], 1))
        report = compare_distributions(teacher, candidate, teacher, candidate, [gripper])
        assert (report.candidate.flips, report.teacher_flips) == (flips, 0)


def test_more_flips_than_the_teacher_fail():
    rng = np.random.default_rng(6)
    report = beside(one_way(rng, 2 * DRAWS), one_way(rng, DRAWS))
    flipping = replace(report, teacher_flips=1.0, candidate=replace(report.candidate, flips=1.3), flips_error=0.05)
    assert missed(flipping) == {"gripper flips per chunk, difference"}
    assert missed(replace(flipping, flips_error=0.11)) == set()  # so much may be chance


def test_the_error_of_the_flips_is_that_of_many_repetitions():
    rng = np.random.default_rng(7)
    gripper = [Gripper(joint=0, low=0.25, high=0.75)]

    def drawn(draws: int) -> NDArray[np.float64]:
        return rng.integers(0, 2, (2, draws, 4, 1)).astype(float)

    reports = [
        compare_distributions(teacher, candidate, teacher, candidate, gripper)
        for teacher, candidate in ((drawn(16), drawn(8)) for _ in range(200))
    ]
    differences = [report.candidate.flips - report.teacher_flips for report in reports]  # pyright: ignore
    expected = np.mean([report.flips_error for report in reports])  # pyright: ignore
    assert np.std(differences) == pytest.approx(expected, rel=0.2)


def test_the_grippers_of_the_simulated_robot_are_found():
    robot = load_robot("aloha_sim")
    assert [robot.joints[gripper.joint].name for gripper in grippers_of(robot)] == ["left_gripper", "right_gripper"]

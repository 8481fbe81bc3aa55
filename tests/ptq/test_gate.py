"""The gate on networks with random weights: what it measures, where an error enters, and what it never passes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_builders import CONFIG, DIMS, observation, write_checkpoint

from pi0_edge.engine import Engine
from pi0_edge.errors import ConfigError
from pi0_edge.evaluation.statistics import Pairing
from pi0_edge.model import Pi0
from pi0_edge.policy import Policy
from pi0_edge.ptq.gate import compare
from pi0_edge.ptq.trace import Trace, trace
from pi0_edge.ptq.verdict import Thresholds

torch.set_num_threads(1)
SEEN = [observation(seed) for seed in range(4)]
DRAWS = 2
JOINTS = [f"joint {place}" for place in range(DIMS)]
THRESHOLDS = Thresholds(chunks=8, executed=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("gate") / "checkpoint")


@pytest.fixture(scope="module")
def reference_trace(checkpoint) -> Trace:
    return trace(Policy.load(checkpoint, "reference"), SEEN, DRAWS, probed=2)


def changed(checkpoint, path: str, factor: float) -> Policy:
    """The reference with one weight multiplied."""
    policy = Policy.load(checkpoint, "reference")
    model = getattr(policy.engine, "model")  # noqa: B009
    with torch.no_grad():
        model.get_parameter(path).mul_(factor)
    return policy


def test_the_reference_passes_against_itself(checkpoint, reference_trace):
    report = compare(
        reference_trace, trace(Policy.load(checkpoint, "reference"), SEEN, DRAWS, probed=2), JOINTS, THRESHOLDS
    )
    assert report.verdict.passed
    assert report.cosine_whole == pytest.approx([1.0] * 8, abs=1e-12)
    assert all((joint.p50, joint.p99, joint.max) == (0, 0, 0) for joint in report.joints)
    assert report.drift.max == (0.0,) * CONFIG.horizon
    assert report.inner is not None
    assert report.inner.keys == report.inner.values == (0.0,) * CONFIG.prefix.depth
    assert report.inner.velocities == (0.0,) * 10


@pytest.mark.parametrize(
    ("path", "keys", "values"),
    [
        ("prefix.layers.0.attention.k.weight", True, False),
        ("prefix.layers.0.attention.v.weight", False, True),
        ("expert.layers.0.mlp.down.weight", False, False),
    ],
)
def test_the_report_shows_in_which_keys_and_values_an_error_arises(checkpoint, reference_trace, path, keys, values):
    report = compare(reference_trace, trace(changed(checkpoint, path, 1.01), SEEN, DRAWS, probed=2), JOINTS, THRESHOLDS)
    assert report.inner is not None
    assert (report.inner.keys[0] > 1e-3, report.inner.values[0] > 1e-3) == (keys, values)
    assert (report.inner.keys[0] > 0, report.inner.values[0] > 0) == (keys, values)
    assert all(error > 0 for error in report.inner.velocities)


def test_a_wrong_network_fails_and_the_reasons_name_the_chunk(checkpoint, reference_trace):
    wrong = trace(changed(checkpoint, "action_out_proj.weight", 3.0), SEEN, DRAWS)
    names = [f"episode 7, tick {25 * place}" for place in range(len(SEEN))]
    report = compare(reference_trace, wrong, JOINTS, THRESHOLDS, names)
    assert not report.verdict.passed
    worst = int(np.argmin(report.cosine_whole))
    assert f"({names[worst // DRAWS]}, noise draw {worst % DRAWS})" in " ".join(report.verdict.reasons)


def test_a_network_that_gives_nan_fails_instead_of_raising(checkpoint, reference_trace):
    broken = trace(changed(checkpoint, "action_out_proj.weight", float("nan")), SEEN, DRAWS)
    report = compare(reference_trace, broken, JOINTS, THRESHOLDS)
    assert not report.verdict.passed
    assert sum(reason.startswith("no chunk for observation") for reason in report.verdict.reasons) == 8
    assert report.joints == () and report.inner is None
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_reference_without_a_chunk_is_refused(checkpoint, reference_trace):
    broken = trace(changed(checkpoint, "action_out_proj.weight", float("nan")), SEEN, DRAWS)
    with pytest.raises(ConfigError, match="fp32 reference gives no chunk for observation 0, draw 0"):
        compare(broken, reference_trace, JOINTS, THRESHOLDS)


def test_traces_of_other_observations_are_refused(checkpoint, reference_trace):
    fewer = trace(Policy.load(checkpoint, "reference"), SEEN[:2], DRAWS)
    with pytest.raises(ConfigError, match="different shapes"):
        compare(reference_trace, fewer, JOINTS, THRESHOLDS)


def test_noise_is_matched_and_differs_between_draws(checkpoint, reference_trace):
    calls = []
    again = trace(Policy.load(checkpoint, "reference"), SEEN, DRAWS, probed=2, advance=lambda: calls.append(None))
    assert len(calls) == len(SEEN) * DRAWS
    np.testing.assert_array_equal(again.normalized, reference_trace.normalized)
    assert np.abs(reference_trace.normalized[:, 0] - reference_trace.normalized[:, 1]).max() > 0.1
    assert sorted(reference_trace.inside) == [0, 3]  # the probed ones, evenly spread


def test_an_engine_without_a_torch_model_is_judged_by_its_actions_alone(checkpoint, reference_trace):
    policy = Policy.load(checkpoint, "reference")
    run = policy.engine

    class Opaque(Engine):
        name, scheme, config, times = "opaque", "fp32", run.config, run.times

        def __init__(self):
            """Owns no model."""

        def infer(self, inputs, noise, continuation=None):
            return run.infer(inputs, noise, continuation)

    opaque = Policy(Opaque(), policy.processor)
    report = compare(reference_trace, trace(opaque, SEEN, DRAWS), JOINTS, THRESHOLDS)
    assert report.verdict.passed
    assert report.inner is None


def made(actions: np.ndarray) -> Trace:
    return Trace(actions, actions, {}, {})


def test_figures_of_known_errors():
    """Joint 1 is off by 0.01 per action, so the error grows along the chunk and stays in one joint."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(3, 2, 50, 4))
    off = reference.copy()
    off[..., 1] += 0.01 * np.arange(50)
    report = compare(made(reference), made(off), list("abcd"), Thresholds(chunks=1))
    (a, b, c, d) = report.joints
    assert (a.max, c.max, d.max) == (0, 0, 0)
    assert (b.name, b.max) == ("b", pytest.approx(0.49))
    assert b.p50 == pytest.approx(0.245)
    assert b.p99 == pytest.approx(0.49)
    assert report.drift.rms == pytest.approx([0.01 * k / 2 for k in range(50)])  # one joint of four: 1 / sqrt(4)
    assert report.drift.max == pytest.approx([0.01 * k for k in range(50)])
    assert min(report.cosine_executed) > min(report.cosine_whole)
    assert not report.verdict.passed


def test_only_the_executed_part_counts_twice():
    """An error behind the executed actions leaves their cosine alone."""
    reference = np.random.default_rng(0).normal(size=(1, 1, 50, 4))
    off = reference.copy()
    off[:, :, 25:] *= -1
    report = compare(made(reference), made(off), list("abcd"), Thresholds(chunks=1))
    assert report.cosine_executed == (pytest.approx(1.0),)
    assert report.cosine_whole[0] < 0.5
    assert all("whole chunk" in reason for reason in report.verdict.reasons)


def test_a_report_is_plain_data_and_carries_the_closed_loop(reference_trace):
    report = compare(reference_trace, reference_trace, JOINTS, THRESHOLDS, success=Pairing(90, 8, 0, 2))
    assert not report.verdict.passed  # the interval reaches beyond 10 points
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert next(iter(plain)) == "verdict"
    assert plain["verdict"]["passed"] is False
    assert plain["success"]["difference"] == -0.08
    assert len(plain["cosine_whole"]) == 8
    assert replace(report, success=None).to_dict()["success"] is None


def test_a_trace_removes_its_hooks(checkpoint):
    policy = Policy.load(checkpoint, "reference")
    trace(policy, SEEN[:1])
    model = getattr(policy.engine, "model")  # noqa: B009
    assert isinstance(model, Pi0)
    assert not model.prefix._forward_hooks and not model.action_out_proj._forward_hooks
